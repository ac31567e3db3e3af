"""What tasks learned, as rows of a DataFrame, and its merge: on workers first if it is large."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name in Spark's documentation
from pyspark.sql.types import BinaryType, LongType, StructField, StructType

import streambn as sbn

from .._parts import merge_states, read_states
from .workers import task

__all__ = ["PART_TYPE", "Part", "collect_parts", "collect_rows", "merge_parts", "part_batch"]

PART_TYPE: Final = StructType(
    [
        StructField("place", LongType(), nullable=False),
        StructField("rows", LongType(), nullable=False),
        StructField("state", BinaryType(), nullable=False),
    ]
)
_ARROW_TYPE: Final = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("state", pa.binary(), nullable=False),
    ]
)


# The driver merges a feature of a state in 2 µs. 80,000 partitions of 128 MB, which are 10 TB, with
# 200 features would take it half a minute, and their states more memory than Spark lets a driver
# collect. For states of few features the shuffle costs more than it saves.
_MANY_FEATURES: Final = 64
_GROUP: Final = 64


class Part(NamedTuple):
    """What one task learned.

    Attributes
    ----------
    place : comparable
        Where its rows stand among all rows. Parts are merged by ascending place.
    rows : int
    state : bytes
        What `Normalizer.to_bytes` returned.
    """

    place: Any
    rows: int
    state: bytes


def part_batch(place: int, rows: int, state: bytes) -> pa.RecordBatch:
    """Return the one row that a task gives, of the type `PART_TYPE`."""
    values = [[place], [rows], [state]]
    return pa.RecordBatch.from_arrays(
        [pa.array(v, field.type) for v, field in zip(values, _ARROW_TYPE, strict=True)],
        schema=_ARROW_TYPE,
    )


def collect_rows(parts: DataFrame) -> list[dict[str, Any]]:
    """Run the job, and return the rows of its successful tasks.

    A task that failed, or that ran twice, gives one row all the same: Spark returns the rows of
    one attempt.
    """
    rows: list[dict[str, Any]] = parts.toArrow().to_pylist()
    return rows


def collect_parts(parts: DataFrame, features: int) -> list[Part]:
    """Run the job, and return what its tasks learned.

    If a state has many features, workers merge the states of neighbouring partitions first.
    """
    if features >= _MANY_FEATURES:
        group = F.floor(F.col("place") / _GROUP)
        parts = parts.groupBy(group).applyInArrow(_merge_group, PART_TYPE)
    return [Part(**row) for row in collect_rows(parts)]


def _merge_group(group: pa.Table) -> pa.Table:
    """Merge the states of a group by ascending place, in a task."""
    with task():
        rows = sorted((Part(**row) for row in group.to_pylist()), key=lambda part: part.place)
        merged = sbn.merge(read_states((part.state for part in rows), "Spark"))
        total = sum(part.rows for part in rows)
        return pa.Table.from_batches([part_batch(rows[0].place, total, merged.to_bytes())])


def merge_parts(start: sbn.Normalizer, parts: Iterable[Part]) -> sbn.Normalizer:
    """Return the statistics of `start` followed by the parts, by ascending place.

    Without a row in any part, the result is a copy of `start`.
    """
    ordered = sorted((part for part in parts if part.rows), key=lambda part: part.place)
    merged = merge_states(start, (part.state for part in ordered), "Spark")
    return sbn.Normalizer.from_statistics(merged.statistics)
