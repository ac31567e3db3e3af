"""What is taken out of rows and of batches of rows, be those Arrow's or matrices."""

from __future__ import annotations

import contextlib
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow import time_array
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels.bitmaps import filter_rows
from streambn.online.features import twice
from streambn.policies import EventTime

__all__ = ["array_of", "column_of", "filtered", "selected", "stamp_in"]


def column_of(batch: Any, names: list[Any], name: str) -> pa.Array:
    """Find the column of a batch or matrix that says something about the rows.

    Raises
    ------
    SchemaError
        There is none by that name, or there are several.
    """
    if name not in names:
        raise SchemaError.missing(name, map(str, names))
    if names.count(name) > 1:
        raise twice(name)
    at = names.index(name)
    return pa.array(batch[:, at]) if isinstance(batch, np.ndarray) else batch.column(at)


def selected(batch: Any, columns: list[int]) -> Any:
    """Return some columns of a batch or matrix."""
    if isinstance(batch, np.ndarray):
        return np.asfortranarray(batch[:, columns])
    return batch.select(columns)


def filtered(batch: Any, rows: NDArray[np.bool_]) -> Any:
    """Return some rows of a batch or matrix."""
    if isinstance(batch, np.ndarray):
        return np.asfortranarray(batch[rows])
    arrays = [filter_rows(column, rows) for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def stamp_in(row: dict[Any, Any], time: EventTime) -> pa.Array:
    """Return when a row happened.

    Raises
    ------
    InvalidValueError
        What it says is no time.
    """
    value = row.get(time.column)
    try:
        return time_array(value)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"{time.column!r} must say when a row happened: a datetime, date, numpy.datetime64 or "
            f"number; got {value!r:.60}. The row was refused whole."
        ) from error


def array_of(value: Any, found: tuple[float, float, bool]) -> pa.Array:
    """Make an array of one number: of an integer or a decimal it keeps the digits."""
    high, _, exact = found
    if exact and math.isfinite(high):
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):
            if isinstance(value, Decimal):
                return pa.array([value])
            if value == (whole := int(value)):
                return pa.array([whole if -(2**63) <= whole < 2**63 else Decimal(whole)])
    return pa.array([high], pa.float64(), from_pandas=False)
