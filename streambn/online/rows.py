"""A row, which is a dict, as a batch of one row."""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from streambn.arrow import is_pattern, time_array
from streambn.errors import InvalidValueError
from streambn.kernels.rows import number, refuse
from streambn.online.features import KnownFeatures
from streambn.options import Options
from streambn.policies import EventTime

__all__ = ["PassingKeys", "row_batch", "row_time"]


class PassingKeys:
    """The keys of a row that are not features, whatever their values: a set without an end.

    Parameters
    ----------
    row_columns : sequence of str
        Keys of sample weights and event times.
    columns : tuple of str or None
        Names and patterns of the features; None: all other keys.
    exclude : tuple of str
        Names and patterns of keys that are no features.
    """

    def __init__(
        self, row_columns: Sequence[str], columns: tuple[str, ...] | None, exclude: tuple[str, ...]
    ) -> None:
        self._row_columns, self._columns, self._exclude = {*row_columns}, columns, exclude
        self._known: dict[Any, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._row_columns or self._exclude) or self._columns is not None

    def __contains__(self, key: Any) -> bool:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._passes(key)
        return found

    def _passes(self, key: Any) -> bool:
        if key in self._row_columns or _matches(key, self._exclude):
            return True
        return self._columns is not None and not _matches(key, self._columns)


def _matches(key: Any, names: Sequence[str]) -> bool:
    text = key if isinstance(key, str) else str(key)
    return any(text == n or (is_pattern(n) and fnmatch.fnmatchcase(text, n)) for n in names)


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
