"""What the README claims, measured.

``python -m benchmarks`` measures speed, ``python -m benchmarks.memory`` memory.
"""
