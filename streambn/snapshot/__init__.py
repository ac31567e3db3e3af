"""Statistics as bytes: versioned, checksummed and typed, never pickle and never code.

`encode` and `decode` are for files, which are JSON. `to_bytes` and `from_bytes` are for states
that one process sends to another, as MessagePack. The package reads and writes no files.
"""

from streambn.snapshot.file import Snapshot, decode, encode, fingerprint
from streambn.snapshot.metadata import check_metadata
from streambn.snapshot.policies import can_hold, hyperparameters
from streambn.snapshot.portable import from_bytes, to_bytes

__all__ = [
    "Snapshot",
    "can_hold",
    "check_metadata",
    "decode",
    "encode",
    "fingerprint",
    "from_bytes",
    "hyperparameters",
    "to_bytes",
]
