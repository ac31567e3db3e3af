"""What stands beside the values of a batch: how much each row weighs, and when it happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow.binding import numeric_type
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import Times
from streambn.kernels.bitmaps import filter_rows, unpack_validity
from streambn.kernels.flatten import decode_array
from streambn.kernels.interface import Floats
from streambn.kernels.rows import MAX_WEIGHT, MIN_WEIGHT
from streambn.policies import EventTime, Policy, takes_weights
from streambn.policies.timed import instant

__all__ = [
    "Counted",
    "Weighed",
    "beside",
    "count",
    "moment",
    "refuse_weights",
    "stamp_of",
    "times_of",
    "weigh",
    "weights_beside",
    "weights_of",
]

_DAY: Final = 86_400_000_000_000
_TICKS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Counted(NamedTuple):
    """Which rows of a batch count for something, and what for.

    Attributes
    ----------
    keep : ndarray of bool, or None
        Which do; None: all.
    weights : ndarray of float64, or None
        Of those, none of which is 0.
    times : Times or None
        Of those.
    """

    keep: NDArray[np.bool_] | None
    weights: Floats | None
    times: Times | None


class Weighed(NamedTuple):
    """The rows of a batch that count for something, and what for.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
    weights : ndarray of float64, shape (rows,), or None
        None of them is 0.
    times : Times or None
    """

    batch: pa.RecordBatch
    weights: Floats | None
    times: Times | None


def refuse_weights(policy: Policy, name: str, given: object) -> None:
    """Raise if a policy heeds no sample weights, which are given under some name.

    Raises
    ------
    InvalidValueError
        It does not.
    """
    if not takes_weights(policy):
        raise InvalidValueError(
            f"{name}={given!r:.60} has no meaning for {policy!r}. Take Welford() or EMA(...) with "
            f"adjust=True, or leave {name} out."
        )


def beside(weights: str | None, time: EventTime | None) -> list[str]:
    """Name the columns that are read, and not for their own statistics."""
    names = [weights, None if time is None else time.column]
    return [name for name in dict.fromkeys(names) if name is not None]


def weigh(
    batch: pa.RecordBatch, columns: Sequence[str], weights: str | None, time: EventTime | None
) -> Weighed:
    """Find weights and times in a batch, and leave out the rows that are to leave no trace.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    columns : sequence of str
        Which columns are wanted of it; of rows that are left out, others may be too.
    weights : str or None
        Name of the column of weights.
    time : EventTime or None

    Raises
    ------
    SchemaError
        A column is missing, or not of a type for that.
    InvalidValueError
        A weight or a time is missing or no such thing.
    """
    found = None
    if weights is not None:
        found = weights_of(_column(batch, weights), f"column {weights!r}")
    stamps = None if time is None else decode_array(_column(batch, time.column))
    keep, found, times = count(found, stamps, time)
    if keep is not None and not keep.any():
        return Weighed(batch.slice(0, 0), None, None)
    if keep is not None:
        wanted = [name for name in batch.schema.names if name in {*columns}]
        arrays = [filter_rows(batch.column(name), keep) for name in wanted]
        fields = [batch.schema.field(name) for name in wanted]
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    return Weighed(batch, found, times)


def count(weights: Floats | None, stamps: pa.Array | None, time: EventTime | None) -> Counted:
    """Find the rows that are to leave a trace: with a weight, and where it matters with a time.

    Parameters
    ----------
    weights : ndarray of float64, or None
    stamps : pyarrow.Array or None
        Event times, as they are.
    time : EventTime or None

    Raises
    ------
    SchemaError, InvalidValueError
        As for `weigh`.
    """
    keep: NDArray[np.bool_] | None = None
    if weights is not None and not weights.all():
        keep = weights > 0
    if stamps is not None and time is not None:
        missing = _missing(stamps)
        if missing is not None and missing.any():
            _check_kind(stamps.type, time)
            bad = missing if keep is None else missing & keep
            if time.null == "raise" and bad.any():
                raise InvalidValueError(
                    f"column {time.column!r} has no time in row {int(bad.argmax())} of the batch "
                    f"({int(bad.sum())} in all). The batch was refused whole. Fill them in, or "
                    "choose null_time='skip'."
                )
            keep = ~missing if keep is None else keep & ~missing
    if keep is not None and not keep.any():
        return Counted(keep, None, None)
    if keep is not None:
        weights = None if weights is None else weights[keep]
        stamps = None if stamps is None else filter_rows(stamps, keep)
    times = None if stamps is None or time is None else times_of(stamps, time)
    return Counted(keep, weights, times)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    at = batch.schema.get_all_field_indices(name)
    if not at:
        raise SchemaError.missing(name, batch.schema.names)
    if len(at) > 1:
        raise SchemaError(f"column {name!r} is there {len(at)} times. Rename all but one.")
    return batch.column(at[0])


# ---------------------------------------------------------------------------- weights


def weights_beside(values: Any, rows: int) -> Floats:
    """Return sample weights that are given beside a batch, one a row.

    Parameters
    ----------
    values : array-like or Arrow array
    rows : int
        Of the batch.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `weights_of`; or there are more of them or less.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        try:
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                f"weights must be an array of numbers >= 0, one a row, got {values!r:.60}."
            ) from error
        if values.ndim != 1:
            raise InvalidValueError(
                f"weights must be an array of one dimension, a number a row; got one of shape "
                f"{values.shape}."
            )
    if len(values) != rows:
        raise InvalidValueError(
            f"weights has {len(values)} entries, and the batch {rows} rows. Give one a row."
        )
    return weights_of(values, "the array")


def weights_of(values: pa.Array | NDArray[Any], what: str) -> Floats:
    """Return sample weights as float64.

    Parameters
    ----------
    values : pyarrow.Array or ndarray
    what : str
        What they are, for messages: "column 'w'".

    Raises
    ------
    SchemaError
        They are no numbers.
    InvalidValueError
        One is null, NaN, negative or too large; or all are too small.
    """
    if isinstance(values, pa.Array):
        numeric = numeric_type(values.type)
        if numeric is None or numeric[1] is not None:
            raise SchemaError(
                f"weights: {what} is {values.type}, which is no number a row. It must hold numbers "
                ">= 0."
            )
        values = decode_array(values)
        if values.null_count:
            raise InvalidValueError(
                f"weights: {what} holds {values.null_count} nulls. The batch was refused "
                "whole. Fill them with what such rows weigh, 0 for nothing."
            )
        if pa.types.is_decimal(values.type):
            values = values.cast(pa.float64())
        values = values.to_numpy(zero_copy_only=False)
    weights: Floats = np.ascontiguousarray(values, np.float64)
    # A NaN makes both comparisons false.
    if len(weights) and not (weights.min() >= 0 and weights.max() <= MAX_WEIGHT):
        bad = int(np.flatnonzero(~((weights >= 0) & (weights <= MAX_WEIGHT)))[0])
        raise InvalidValueError(
            f"weights: {what} holds {weights[bad]:g} in row {bad} of the batch. The batch "
            f"was refused whole. A weight is a number from 0, for a row without effect, to "
            f"{MAX_WEIGHT:g}."
        )
    if len(weights) and 0 < weights.max() < MIN_WEIGHT:
        raise InvalidValueError(
            f"weights: {what} holds nothing above {weights.max():g}, and below {MIN_WEIGHT:g} the "
            "product of two would leave float64. The batch was refused whole. Multiply all weights "
            "of the stream by the same number."
        )
    return weights


# ------------------------------------------------------------------------------ times


def _missing(stamps: pa.Array) -> NDArray[np.bool_] | None:
    """Say which times are missing: null, or NaN; None: none is."""
    if pa.types.is_null(stamps.type):
        return np.ones(len(stamps), np.bool_)
    valid = unpack_validity(stamps, 0, len(stamps))
    missing = None if valid is None else ~valid
    if pa.types.is_floating(stamps.type):
        nan = np.isnan(stamps.to_numpy(zero_copy_only=False))
        missing = nan if missing is None else missing | nan
    return missing


def times_of(stamps: pa.Array, time: EventTime) -> Times:
    """Return event times, none of which is missing.

    Raises
    ------
    SchemaError
        They are neither times nor numbers.
    InvalidValueError
        The half-life is not of their kind, or one is infinite.
    """
    tick = _check_kind(stamps.type, time)
    if tick is not None:
        plain = stamps.view(pa.int32() if pa.types.is_date32(stamps.type) else pa.int64())
        return Times(_contiguous(plain, np.int64), tick)
    if not pa.types.is_floating(stamps.type):
        if pa.types.is_uint64(stamps.type):
            stamps = _signed(stamps, time)
        return Times(_contiguous(stamps, np.int64), None)
    ticks = _contiguous(stamps, np.float64)
    if not np.isfinite(ticks).all():
        raise InvalidValueError(
            f"column {time.column!r} holds a time that is infinite. The batch was refused whole. "
            "Clean it."
        )
    return Times(ticks, None)


def _signed(stamps: pa.Array, time: EventTime) -> pa.Array:
    try:
        return stamps.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidValueError(
            f"column {time.column!r} holds a time beyond 2**63 - 1. The batch was refused whole. "
            "Count from a later start, or cast the column to float64."
        ) from error


def _contiguous(values: pa.Array, dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype)


def _check_kind(kind: pa.DataType, time: EventTime) -> int | None:
    """Return nanoseconds in a tick; None: the times are numbers."""
    if pa.types.is_null(kind):
        return None if time.numeric else 1
    if pa.types.is_timestamp(kind):
        tick = _TICKS[kind.unit]
    elif pa.types.is_date(kind):
        tick = _DAY if pa.types.is_date32(kind) else 10**6
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if time.numeric:
            return None
        raise InvalidValueError(
            f"column {time.column!r} holds plain numbers ({kind}), and {time.length} is a "
            "duration. Give the half-life in the unit of those numbers, such as halflife=604_800 "
            "for a week of seconds; or cast the column to a timestamp."
        )
    else:
        raise SchemaError(
            f"column {time.column!r} is {kind}, which is no event time. Name a column of "
            "timestamps, dates or numbers, or cast it to one."
        )
    if time.numeric:
        raise InvalidValueError(
            f"column {time.column!r} is {kind}, and {time.length} has no unit. Give a duration, "
            "such as halflife='7d' or halflife='30s'."
        )
    return tick


def stamp_of(value: Any) -> pa.Array:
    """Return an array of one event time, whatever kind of object it is.

    Raises
    ------
    pyarrow.ArrowException, TypeError, ValueError, OverflowError
        Arrow knows none such.
    """
    if hasattr(value, "to_datetime64"):
        value = value.to_datetime64()  # of pandas' Timestamp Arrow would cut off the nanoseconds
    if not isinstance(value, np.datetime64):
        return pa.array([None if type(value).__name__ == "NAType" else value])
    unit = np.datetime_data(value.dtype)[0]
    return pa.array(np.array([value], None if unit in {"D", *_TICKS} else "datetime64[s]"))


def moment(at: Any, time: EventTime) -> Floats:
    """Return a point in time as a policy keeps it, as hi + lo.

    Parameters
    ----------
    at : datetime, date, numpy.datetime64, pandas.Timestamp or number
        Of the kind of the event times.

    Raises
    ------
    InvalidValueError
        It is no such thing.
    """
    try:
        stamps = stamp_of(at)
        missing = _missing(stamps)
        times = None if missing is not None and missing[0] else times_of(stamps, time)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        times = None
    if times is None:
        raise InvalidValueError(
            f"at must be a time such as those in column {time.column!r}, got {at!r}."
        )
    return instant(times.ticks[0], times.tick)
