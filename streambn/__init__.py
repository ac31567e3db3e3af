"""Batch normalization's running statistics as a tool for any Arrow stream.

>>> import pyarrow as pa
>>> import streambn as sbn
>>> norm = sbn.Normalizer(sbn.Welford()).update(pa.table({"x": [1.0, 2.0, 3.0]}))
>>> frozen = norm.freeze()
>>> frozen.transform(pa.table({"x": [2.0]}))["x"].to_pylist()
[0.0]
"""

from streambn import errors
from streambn.errors import (
    InvalidValueError,
    MergeError,
    NotFittedError,
    SchemaError,
    SnapshotError,
    StreamBNError,
)
from streambn.normalizer import FrozenNormalizer, Normalizer, load
from streambn.policies import EMA, BatchEMA, Welford

__all__ = [
    "EMA",
    "BatchEMA",
    "FrozenNormalizer",
    "InvalidValueError",
    "MergeError",
    "Normalizer",
    "NotFittedError",
    "SchemaError",
    "SnapshotError",
    "StreamBNError",
    "Welford",
    "__version__",
    "errors",
    "load",
]

__version__ = "0.1.0"
