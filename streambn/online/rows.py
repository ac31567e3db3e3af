"""A row, which is a dict, as a batch of one row."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from streambn.arrow import time_array
from streambn.errors import InvalidValueError
from streambn.kernels.rows import number, refuse
from streambn.online.features import KnownFeatures
from streambn.options import Options
from streambn.policies import EventTime

__all__ = ["row_batch", "row_time"]


def row_batch(
    row: Mapping[Any, Any], known: KnownFeatures, options: Options
) -> tuple[pa.RecordBatch, list[Any]]:
    """Return the numbers of a row as a batch, and the names of its columns.

    Raises
    ------
    SchemaError
        A known feature is not a number.
    InvalidValueError
        ``nan="raise"`` or ``inf="raise"`` refuses a value.
    """
    names: list[Any] = []
    arrays = []
    for key, value in row.items():
        parsed = number(value, key)
        if parsed is None:
            if known.index(key) >= 0:
                refuse("other", key, value)
        elif parsed:
            if not math.isfinite(parsed[0]):
                option = "nan" if math.isnan(parsed[0]) else "inf"
                if getattr(options, option) == "raise":
                    refuse(option, key, value)
            names.append(key)
            arrays.append(_array(value, parsed))
    if not arrays:  # a batch needs a column to have a row
        names, arrays = [None], [pa.nulls(1)]
    return pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))]), names


def _array(value: Any, parsed: tuple[float, float, bool]) -> pa.Array:
    """Return an array of one number. Integers and decimals keep their digits."""
    high, _, exact = parsed
    if exact and math.isfinite(high):
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):
            if isinstance(value, Decimal):
                return pa.array([value])
            if value == (whole := int(value)):
                return pa.array([whole if -(2**63) <= whole < 2**63 else Decimal(whole)])
    return pa.array([high], pa.float64(), from_pandas=False)


def row_time(row: Mapping[Any, Any], event_time: EventTime) -> pa.Array:
    """Return the event time of a row as an array.

    Raises
    ------
    InvalidValueError
        The value is not a time.
    """
    value = row.get(event_time.column)
    try:
        return time_array(value)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"{event_time.column!r} must be the time of the row, as a datetime, date, "
            f"numpy.datetime64 or number, got {value!r:.60}. The row was rejected.",
            column=event_time.column,
        ) from error
