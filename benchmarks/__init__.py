"""Measurements of streambn and its peers: run ``python -m benchmarks``."""

# Environment variables that limit the threads of libraries. They are read when a library loads.
THREADS = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
