"""Sample weights, and the rows of a batch that count.

A row counts if its weight is positive and, for a policy by event time, if it has a time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow.event_times import check_time_order, check_time_type, missing_times, parse_times
from streambn.arrow.schemas import numeric_type
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import Times
from streambn.kernels.bitmaps import filter_rows
from streambn.kernels.flatten import decode_column
from streambn.kernels.interface import Floats
from streambn.kernels.rows import MAX_WEIGHT, MIN_WEIGHT
from streambn.policies import EventTime

__all__ = [
    "RowSelection",
    "parse_weights",
    "read_all_rows",
    "row_columns",
    "select_counted_rows",
    "select_rows",
    "weight_array",
]


class RowSelection(NamedTuple):
    """The rows of a batch that count, with their weights and times."""

    keep: NDArray[np.bool_] | None  # which rows count; None: all of them
    weights: Floats | None  # positive, of the rows kept; None: every row weighs 1
    times: Times | None  # of the rows kept


def row_columns(weights: str | None, event_time: EventTime | None) -> list[str]:
    """Return the names of the columns that describe rows: their weights and event times."""
    names = [weights, None if event_time is None else event_time.column]
    return [name for name in dict.fromkeys(names) if name is not None]


def select_counted_rows(
    batch: pa.RecordBatch,
    columns: Collection[str],
    weights: str | None,
    event_time: EventTime | None,
) -> tuple[pa.RecordBatch, RowSelection]:
    """Read the weights and event times of a batch, and drop the rows that do not count.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    columns : collection of str
        The columns to keep. If no row is dropped, the batch is returned as it is.
    weights : str or None
        Name of the column of sample weights.
    event_time : EventTime or None

    Raises
    ------
    SchemaError
        A column is missing or has the wrong type.
    InvalidValueError
        A weight or a time is missing or out of range.
    """
    selection = _select_of(batch, weights, event_time)
    keep = selection.keep
    if keep is None:
        return batch, selection
    if not keep.any():
        return batch.slice(0, 0), selection
    names = [name for name in batch.schema.names if name in columns]
    arrays = [filter_rows(batch.column(name), keep) for name in names]
    schema = pa.schema([batch.schema.field(name) for name in names])
    return pa.RecordBatch.from_arrays(arrays, schema=schema), selection


def _select_of(
    batch: pa.RecordBatch, weights: str | None, event_time: EventTime | None
) -> RowSelection:
    found = None
    if weights is not None:
        found = parse_weights(_column(batch, weights), weights)
    times = None
    if event_time is not None:
        times = decode_column(_column(batch, event_time.column), event_time.column)
    return select_rows(found, times, event_time)


def read_all_rows(
    batch: pa.RecordBatch,
    weights: str | None,
    event_time: EventTime | None,
    newest: Floats | None,
) -> RowSelection:
    """Return the weights and times of all rows of a batch whose times ascend.

    Rows that do not count have weight 0, and times that do not matter. `newest` is the time of
    the newest row before the batch; see `check_time_order`.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `select_counted_rows`, or the times do not ascend.
    """
    selection = _select_of(batch, weights, event_time)
    keep, of_kept, times = selection
    if times is not None and event_time is not None:
        rows = None if keep is None else np.flatnonzero(keep)
        check_time_order(times, rows, newest, event_time)
    if keep is None:
        return selection
    every: Floats = np.zeros(len(keep))
    every[keep] = 1.0 if of_kept is None else of_kept
    if event_time is not None:
        given = Times(np.zeros(0, np.int64), None) if times is None else times
        ticks: Any = np.zeros(len(keep), given.ticks.dtype)
        ticks[keep] = given.ticks
        times = given._replace(ticks=ticks)
    return RowSelection(None, every, times)


def select_rows(
    weights: Floats | None, times: pa.Array | None, event_time: EventTime | None
) -> RowSelection:
    """Return the rows that count. The weights are those that `parse_weights` returned.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `select_counted_rows`.
    """
    keep: NDArray[np.bool_] | None = None
    if weights is not None and not weights.all():
        keep = weights > 0
    if times is not None and event_time is not None:
        missing = missing_times(times)
        if missing is not None and missing.any():
            check_time_type(times.type, event_time)
            _check_missing(missing if keep is None else missing & keep, event_time)
            keep = ~missing if keep is None else keep & ~missing
    if keep is not None and not keep.any():
        return RowSelection(keep, None, None)
    if keep is not None:
        weights = None if weights is None else weights[keep]
        times = None if times is None else filter_rows(times, keep)
    parsed = None if times is None or event_time is None else parse_times(times, event_time)
    return RowSelection(keep, weights, parsed)


def _check_missing(missing: NDArray[np.bool_], event_time: EventTime) -> None:
    if event_time.null == "raise" and missing.any():
        raise InvalidValueError(
            f"column {event_time.column!r} has no time in row {int(missing.argmax())} of the batch "
            f"({int(missing.sum())} in all). The batch was rejected. Fill in the times, or skip "
            "such rows with null_time='skip'.",
            column=event_time.column,
        )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    indices = batch.schema.get_all_field_indices(name)
    if not indices:
        raise SchemaError.missing(name, batch.schema.names)
    if len(indices) > 1:
        raise SchemaError(
            f"column {name!r} exists {len(indices)} times. Rename all but one of them.",
            column=name,
        )
    return batch.column(indices[0])


def weight_array(values: Any, rows: int) -> Floats:
    """Return sample weights that are passed along with a batch, shape (rows,).

    Parameters
    ----------
    values : array-like or Arrow array
    rows : int
        Number of rows in the batch.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `parse_weights`, or the number of weights is not the number of rows.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        try:
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                f"weights must be an array of one number >= 0 per row, got {values!r:.60}.",
                argument="weights",
            ) from error
        if values.ndim != 1:
            raise InvalidValueError(
                "weights must be a one-dimensional array with one number per row, got an array of "
                f"shape {values.shape}.",
                argument="weights",
            )
    if len(values) != rows:
        raise InvalidValueError(
            f"weights must have one entry per row, got {len(values)} entries for {rows} rows.",
            argument="weights",
        )
    return parse_weights(values)


def parse_weights(values: pa.Array | NDArray[Any], column: str | None = None) -> Floats:
    """Return sample weights as float64, shape (rows,).

    Parameters
    ----------
    values : pyarrow.Array or ndarray
    column : str, optional
        Name of the column that they are from.

    Raises
    ------
    SchemaError
        The values are not one number per row.
    InvalidValueError
        A weight is null, NaN, negative or above 1e30, or all of them are below 1e-30.
    """
    argument = "weights" if column is None else None
    source = "the array" if column is None else f"column {column!r}"
    if isinstance(values, pa.Array):
        numeric = numeric_type(values.type)
        if numeric is None or numeric[1] is not None:
            raise SchemaError(
                f"weights: {source} is {values.type}, which is not one number per row. Name a "
                "column of numbers >= 0.",
                argument="weights",
                column=column,
            )
        values = decode_column(values, column or "weights")
        if values.null_count:
            raise InvalidValueError(
                f"weights: {source} holds {values.null_count} nulls. The batch was rejected. "
                "Fill in the weights, with 0 for rows that do not count.",
                argument=argument,
                column=column,
            )
        if pa.types.is_decimal(values.type):
            values = values.cast(pa.float64())
        values = values.to_numpy(zero_copy_only=False)
    weights: Floats = np.ascontiguousarray(values, np.float64)
    # A NaN makes both comparisons false.
    if len(weights) and not (weights.min() >= 0 and weights.max() <= MAX_WEIGHT):
        bad = int(np.flatnonzero(~((weights >= 0) & (weights <= MAX_WEIGHT)))[0])
        raise InvalidValueError(
            f"weights: {source} holds {weights[bad]:g} in row {bad} of the batch. The batch was "
            f"rejected. A weight must be a number from 0 to {MAX_WEIGHT:g}.",
            argument=argument,
            column=column,
        )
    if len(weights) and 0 < weights.max() < MIN_WEIGHT:
        raise InvalidValueError(
            f"weights: {source} holds no weight above {weights.max():g}. Below {MIN_WEIGHT:g} the "
            "product of two weights leaves float64. The batch was rejected. Multiply all weights "
            "of the stream by one number.",
            argument=argument,
            column=column,
        )
    return weights
