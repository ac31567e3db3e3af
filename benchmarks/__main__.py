"""Speed of streambn and its peers against what the machine's memory allows.

    python -m benchmarks [--only NAME ...] [--rounds N] [--no-readme]

Everything runs on one thread unless its name says otherwise.
"""

from __future__ import annotations

import os
import sys

from benchmarks import THREADS

if __name__ == "__main__":
    # The libraries read these when they are loaded, which is why that comes after.
    os.environ.update(dict.fromkeys(THREADS, "1"))
    # An installed streambn, which has its compiled kernels, goes before the source folder.
    sys.path.append(sys.path.pop(0))

    from benchmarks.command import main

    sys.exit(main(sys.argv[1:]))
