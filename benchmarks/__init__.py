"""What the README claims, measured.

``python -m benchmarks`` measures speed, ``python -m benchmarks.memory`` memory.
"""

# By which libraries are held to one thread, if they have it when they are loaded.
THREADS = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
