"""Arrow arrays of text from Python values.

Arrow's own conversion of Python objects imports pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["bytes_array", "text_array"]


def text_array(values: Sequence[str], kind: Any) -> Any:
    """Return an array of text."""
    return bytes_array([value.encode() for value in values], kind)


def bytes_array(values: Sequence[bytes], kind: Any, valid: NDArray[np.bool_] | None = None) -> Any:
    """Return an array of the type string or binary, null where a value is not valid."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)
