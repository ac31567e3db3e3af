"""Event times: Arrow columns, and single points in time, as a policy's ticks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._messages import spell
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import Times
from streambn.kernels.bitmaps import unpack_validity
from streambn.kernels.interface import Floats
from streambn.policies import EventTime, instant

__all__ = [
    "check_time_order",
    "check_time_type",
    "format_instant",
    "missing_times",
    "parse_instant",
    "parse_times",
    "time_array",
]

_DAY: Final = 86_400_000_000_000
_TICKS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def parse_times(array: pa.Array, event_time: EventTime) -> Times:
    """Return the event times of a column without missing values.

    Raises
    ------
    SchemaError
        The column holds neither times nor numbers.
    InvalidValueError
        The half-life is a duration and the times are numbers, or the other way round; or a time
        is infinite or beyond int64.
    """
    tick = check_time_type(array.type, event_time)
    if tick is not None:
        plain = array.view(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
        zoned = pa.types.is_timestamp(array.type) and array.type.tz is not None
        return Times(_contiguous(plain, np.int64), tick, zoned)
    if not pa.types.is_floating(array.type):
        if pa.types.is_uint64(array.type):
            array = _as_int64(array, event_time)
        return Times(_contiguous(array, np.int64), None)
    ticks = _contiguous(array, np.float64)
    if not np.isfinite(ticks).all():
        raise InvalidValueError(
            f"column {event_time.column!r} holds an infinite time. The batch was rejected. "
            "Remove or replace such rows.",
            column=event_time.column,
        )
    return Times(ticks, None)


def _as_int64(array: pa.Array, event_time: EventTime) -> pa.Array:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidValueError(
            f"column {event_time.column!r} holds a time beyond 2**63 - 1. The batch was rejected. "
            "Count from a later start, or cast the column to float64.",
            column=event_time.column,
        ) from error


def _contiguous(values: pa.Array, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype)


def missing_times(array: pa.Array) -> NDArray[np.bool_] | None:
    """Return where times are null or NaN, shape (rows,); None: nowhere."""
    if pa.types.is_null(array.type):
        return np.ones(len(array), np.bool_)
    valid = unpack_validity(array, 0, len(array))
    missing = None if valid is None else ~valid
    if pa.types.is_floating(array.type):
        nan = np.isnan(array.to_numpy(zero_copy_only=False))
        missing = nan if missing is None else missing | nan
    return missing


def check_time_type(kind: pa.DataType, event_time: EventTime) -> int | None:
    """Return the nanoseconds in one tick of a time type, or None for plain numbers.

    Raises
    ------
    SchemaError
        The type is neither a time nor a number.
    InvalidValueError
        The half-life is a duration and the times are numbers, or the other way round.
    """
    if pa.types.is_null(kind):
        return None if event_time.numeric else 1
    if pa.types.is_timestamp(kind):
        tick = _TICKS[kind.unit]
    elif pa.types.is_date(kind):
        tick = _DAY if pa.types.is_date32(kind) else 10**6
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if event_time.numeric:
            return None
        raise InvalidValueError(
            f"column {event_time.column!r} holds plain numbers ({kind}), but "
            f"{event_time.length} is a duration. Give the half-life in the unit of the numbers, "
            "such as halflife=604_800 for a week of seconds, or cast the column to a timestamp.",
            argument="halflife",
            column=event_time.column,
        )
    else:
        raise SchemaError(
            f"column {event_time.column!r} is {kind}, which is not an event time. Name a column "
            "of timestamps, dates or numbers, or cast it to one.",
            column=event_time.column,
        )
    if event_time.numeric:
        raise InvalidValueError(
            f"column {event_time.column!r} is {kind}, but {event_time.length} has no unit. Give a "
            "duration, such as halflife='7d' or halflife='30s'.",
            argument="halflife",
            column=event_time.column,
        )
    return tick


def time_array(value: Any) -> pa.Array:
    """Return an Arrow array of one event time.

    Raises
    ------
    pyarrow.ArrowException, TypeError, ValueError, OverflowError
        Arrow cannot represent the value.
    """
    if hasattr(value, "to_datetime64"):  # Arrow would drop the nanoseconds of a pandas Timestamp
        plain = pa.array(np.array([value.to_datetime64()]))
        return plain if value.tzinfo is None else plain.cast(pa.timestamp(plain.type.unit, "UTC"))
    if not isinstance(value, np.datetime64):
        return pa.array([None if type(value).__name__ == "NAType" else value])
    unit = np.datetime_data(value.dtype)[0]
    return pa.array(np.array([value], None if unit in {"D", *_TICKS} else "datetime64[s]"))


def parse_instant(at: Any, event_time: EventTime) -> Floats:
    """Return a point in time as a policy keeps it: hi + lo, shape (2,).

    Parameters
    ----------
    at : datetime, date, numpy.datetime64, pandas.Timestamp or number
        Of the same kind as the event times.
    event_time : EventTime

    Raises
    ------
    InvalidValueError
        `at` is not such a time.
    """
    try:
        array = time_array(at)
        missing = missing_times(array)
        times = None if missing is not None and missing[0] else parse_times(array, event_time)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        times = None
    if times is None:
        raise InvalidValueError(
            f"at must be a time like those in column {event_time.column!r}, got {at!r}.",
            argument="at",
        )
    return instant(times.ticks[0], times.tick)


def check_time_order(
    times: Times, rows: NDArray[np.int64] | None, newest: Floats | None, event_time: EventTime
) -> None:
    """Check that the times of a batch ascend, from the newest time before it on.

    Parameters
    ----------
    times : Times
    rows : ndarray of int64 or None
        The rows of the batch that have the times; None: all of them.
    newest : ndarray of float64, shape (2,), or None
        As hi + lo; None: there is no time before the batch.
    event_time : EventTime

    Raises
    ------
    InvalidValueError
        A time is before that of an earlier row.
    """
    ticks = times.ticks
    if len(ticks) == 0:
        return
    at = 0
    if newest is None or tuple(instant(ticks[0], times.tick)) >= tuple(newest):
        back = ticks[1:] < ticks[:-1]
        if not back.any():
            return
        at = int(back.argmax()) + 1
        newest = instant(ticks[at - 1], times.tick)
    name, row = event_time.column, at if rows is None else int(rows[at])
    now, then = (format_instant(t, event_time) for t in (instant(ticks[at], times.tick), newest))
    raise InvalidValueError(
        f"column {name!r} is out of order: row {row} of the batch has the time {now}, after a row "
        f"with {then}. The batch was rejected. With {spell('by_row', True)} each row is normalized "
        f"by those before it: sort the data by {name!r}, or omit {spell('by_row')}.",
        argument="by_row",
        column=name,
    )


def format_instant(pair: Floats, event_time: EventTime) -> float | str:
    """Return a point in time as the data writes it: a number, or ISO 8601 without trailing zeros.

    It is the inverse of `parse_instant`.
    """
    high, low = float(pair[0]), float(pair[1])
    if event_time.numeric:
        return int(high) + int(low) if high.is_integer() and abs(high) < 2**64 else high
    seconds, fraction = divmod(int(high) + int(low), 10**9)
    text = str(np.datetime64(seconds, "s"))
    return f"{text}.{fraction:09d}".rstrip("0") if fraction else text.removesuffix("T00:00:00")
