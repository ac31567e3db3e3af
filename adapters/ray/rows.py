"""What tasks learn of blocks of rows, and what they tell of their order.

A block of a `BatchEMA` may begin in one block of Ray and end in the next. The first pass over a
Dataset then tells how many rows each block has, and so where it stands in the stream. In the
second each task learns the rest of what an earlier block began apart from its own rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError

from .._parts import error_to_json, read_state
from .blocks import as_arrow
from .order import Key, Order
from .workers import start_task

__all__ = ["Sizes", "changed", "learn", "measure", "sizes_of"]

# For the first key of each block, its rows and how many of them may end an earlier block.
Sizes = Mapping[Key, tuple[int, int]]
_Task = Callable[..., pa.Table]


def _task(function: Callable[..., Iterator[pa.Table]]) -> _Task:
    """Return a task that gives the rows which a function yields for a block.

    An error of streambn is a value too. Ray would log it, and drop the block if it may
    (`max_errored_blocks`).
    """

    @functools.wraps(function)
    def run(*arguments: Any) -> pa.Table:
        start_task()
        if not arguments[-1].num_rows:
            return pa.table({})
        try:
            return pa.concat_tables(function(*arguments))
        except StreamBNError as error:
            return pa.table({"error": [error_to_json(error)]})

    return run


@_task
def measure(order: Order, table: pa.Table) -> Iterator[pa.Table]:
    """Return the number of rows of a block, and their range."""
    yield pa.table({"rows": [table.num_rows], **order.range(order.sorted(table))})


@_task
def learn(
    state: bytes, order: Order | None, sizes: Sizes | None, table: pa.Table
) -> Iterator[pa.Table]:
    """Return what a block teaches: one state, or two with `sizes`.

    Parameters
    ----------
    state : bytes
        Of a normalizer without data.
    order : Order, optional
    sizes : Sizes, optional
        Of all blocks.
    table : pyarrow.Table
    """
    rows = as_arrow(table)
    if order is not None:
        rows = order.sorted(rows)
    halves = [rows]
    if order is not None and sizes is not None:
        count, head = sizes.get(order.first_key(rows), (0, 0))
        if count != rows.num_rows:
            raise changed()
        halves = [rows.slice(0, head), rows.slice(head)]
    for half in halves:
        if half.num_rows:
            norm = sbn.Normalizer.from_statistics(read_state(state, "Ray").statistics).update(half)
            content = pa.array([norm.to_bytes()], pa.large_binary())
            yield pa.table({"state": content, **({} if order is None else order.range(half))})


def sizes_of(
    measured: list[dict[str, Any]], order: Order, batch_rows: int, open_rows: int
) -> Sizes:
    """Return the sizes of blocks, from the rows of `measure` in their order.

    Parameters
    ----------
    measured : list of dict
    order : Order
    batch_rows : int
        Rows of a block of the policy.
    open_rows : int
        Rows of the block that is open before the first row.
    """
    sizes: dict[Key, tuple[int, int]] = {}
    end = open_rows
    for row in measured:
        sizes[order.key(row, "first")] = row["rows"], -end % batch_rows
        end += row["rows"]
    return sizes


def changed() -> InvalidValueError:
    """Return the error for a Dataset whose second pass differs from the first."""
    return InvalidValueError(
        "the Dataset gave other blocks when it was read again. Call ds.materialize() first.",
        argument="ds",
    )
