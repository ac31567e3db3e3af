"""Statistics as bytes: versioned, checksummed, typed JSON, never pickle and never code.

The package converts between `Statistics` and bytes. It reads and writes no files.
"""

from streambn.snapshot.file import Snapshot, check_metadata, decode, encode, fingerprint
from streambn.snapshot.policies import can_hold, hyperparameters

__all__ = [
    "Snapshot",
    "can_hold",
    "check_metadata",
    "decode",
    "encode",
    "fingerprint",
    "hyperparameters",
]
