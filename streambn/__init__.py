"""Batch normalization's running statistics as a tool for any Arrow stream.

>>> import pyarrow as pa
>>> import streambn as sbn
>>> norm = sbn.Normalizer(sbn.Welford()).update(pa.table({"x": [1.0, 2.0, 3.0]}))
>>> frozen = norm.freeze()
>>> frozen.transform(pa.table({"x": [2.0]}))["x"].to_pylist()
[0.0]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streambn import errors
    from streambn.errors import (
        InvalidValueError,
        MergeError,
        NotFittedError,
        SchemaError,
        SnapshotError,
        StreamBNError,
    )
    from streambn.normalizer import FrozenNormalizer, Normalizer, merge
    from streambn.online import Checkpointer, RowNormalizer, Watcher
    from streambn.policies import EMA, BatchEMA, Exact, Welford
    from streambn.stored import from_bytes, load

__all__ = [
    "EMA",
    "BatchEMA",
    "Checkpointer",
    "Exact",
    "FrozenNormalizer",
    "InvalidValueError",
    "MergeError",
    "Normalizer",
    "NotFittedError",
    "RowNormalizer",
    "SchemaError",
    "SnapshotError",
    "StreamBNError",
    "Watcher",
    "Welford",
    "__version__",
    "errors",
    "from_bytes",
    "load",
    "merge",
]

__version__ = "0.1.0"

# Each name is imported on first use. `streambn --help` needs neither NumPy nor Arrow, whose import
# takes longer than the rest of the command.
_HOMES = {
    "EMA": "policies",
    "BatchEMA": "policies",
    "Checkpointer": "online",
    "Exact": "policies",
    "FrozenNormalizer": "normalizer",
    "InvalidValueError": "errors",
    "MergeError": "errors",
    "Normalizer": "normalizer",
    "NotFittedError": "errors",
    "RowNormalizer": "online",
    "SchemaError": "errors",
    "SnapshotError": "errors",
    "StreamBNError": "errors",
    "Watcher": "online",
    "Welford": "policies",
    "from_bytes": "stored",
    "load": "stored",
    "merge": "normalizer",
}
_MODULES = frozenset({"errors", "kernels"})

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(import_module(f"streambn.{_HOMES[name]}"), name)
        elif name in _MODULES:
            value = import_module(f"streambn.{name}")
        else:
            raise AttributeError(f"module 'streambn' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
