"""The statistics of blocks of rows, which may begin in one partition and end in the next.

The first pass tells how many rows each partition has, and so where it stands in the stream. In the
second each task learns the rest of the block that an earlier partition began apart from its own
blocks, and the states merge as `BatchEMA` asks: each ends a block, or fits into the rest of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

import streambn as sbn
from streambn.errors import InvalidValueError

from .._parts import read_state, without_data
from .fold import Part, collect_rows, part_batch
from .order import Order, OrderedRows, arranged
from .schemas import with_names
from .workers import partition_id, task

__all__ = ["learn_blocks"]


def learn_blocks(
    rows: DataFrame, start: sbn.Normalizer, names: tuple[str, ...], order: Order
) -> list[Part]:
    """Learn a sorted DataFrame under a `BatchEMA` with `batch_rows`.

    Parameters
    ----------
    rows : DataFrame
        With numbered columns, its partitions sorted.
    start : Normalizer
        The statistics so far, whose last block may be open.
    names : tuple of str
        The true names of the first columns.
    order : Order

    Raises
    ------
    InvalidValueError
        Partitions overlap, or the DataFrame differed between the two passes.
    """
    # With the same columns in both passes, adaptive execution makes the same partitions.
    sizes = arranged(collect_rows(rows.mapInArrow(partial(_measure, order), order.type)), order)
    heads: dict[int, int] = {}
    policy: Any = start.policy
    end = start.statistics.state.open_rows
    for row in sizes:
        heads[row["place"]] = -end % policy.batch_rows
        end += row["rows"]
    learn = partial(_learn, without_data(start).to_bytes(), names, order, heads)
    found = {row["place"]: row for row in collect_rows(rows.mapInArrow(learn, order.type))}
    parts: list[Part] = []
    for row in sizes:
        places = [_place(row["place"], i) for i in (0, 1)]
        halves = [found.pop(place) for place in places if place in found]
        ends = {(order.key(half, "first"), order.key(half, "last")) for half in halves}
        same = ends == {(order.key(row, "first"), order.key(row, "last"))}
        if not same or sum(half["rows"] for half in halves) != row["rows"]:
            raise _changed()
        parts += [
            Part(len(parts) + i, each["rows"], each["state"]) for i, each in enumerate(halves)
        ]
    if found:
        raise _changed()
    return parts


def _measure(order: Order, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the range and the number of rows of a partition, in a task."""
    with task():
        rows = OrderedRows(order, batches)
        for _ in rows:
            pass
        if rows.count:
            yield rows.add_range(part_batch(partition_id(), rows.count, b""))


def _learn(
    state: bytes,
    names: tuple[str, ...],
    order: Order,
    heads: Mapping[int, int],
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Learn the head of a partition and the rest of it apart, in a task.

    Parameters
    ----------
    state : bytes
        Of a normalizer without data.
    names : tuple of str
        The true names of the first columns.
    order : Order
    heads : mapping
        For each partition, the number of rows that may belong to the block before it.
    batches : iterable of pyarrow.RecordBatch
    """
    with task():
        empty = read_state(state, "Spark").statistics
        head, rest = (sbn.Normalizer.from_statistics(empty) for _ in range(2))
        rows = OrderedRows(order, batches)
        partition, length = partition_id(), 0
        for batch in rows:
            named = with_names(batch, names)
            first = named.slice(0, heads.get(partition, 0) - length)
            length += first.num_rows
            head.update(first)
            rest.update(named.slice(first.num_rows))
        for i, (count, learned) in enumerate([(length, head), (rows.count - length, rest)]):
            if count:
                part = part_batch(_place(partition, i), count, learned.to_bytes())
                yield rows.add_range(part)


def _place(partition: int, half: int) -> int:
    return 2 * partition + half


def _changed() -> InvalidValueError:
    return InvalidValueError(
        "the DataFrame gave other partitions when it was read again. Call df.cache() first.",
        argument="df",
    )
