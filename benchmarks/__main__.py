"""Measure the speed of streambn, of its peers and of the machine's memory.

    python -m benchmarks [--only NAME ...] [--rounds N] [--quick]

Everything runs on one thread unless its title says otherwise.
"""

from __future__ import annotations

import os
import sys

from benchmarks import THREADS

if __name__ == "__main__":
    os.environ.update(dict.fromkeys(THREADS, "1"))
    # The installed streambn has compiled kernels; the source folder in the path does not.
    sys.path.append(sys.path.pop(0))

    from benchmarks.command import main

    sys.exit(main(sys.argv[1:]))
