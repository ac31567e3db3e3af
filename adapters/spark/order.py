"""The order of rows in a DataFrame: columns that define it, and the checks that they do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import types as spark

from streambn.errors import InvalidValueError, SchemaError

from .._parts import order_names
from .fold import PART_TYPE
from .schemas import arrow_type

__all__ = ["Order", "OrderedRows", "arranged"]

# Spark may cut batches as small as one row. Learning one takes as long as learning 1000 rows.
_FEW_ROWS: Final = 4096
_TEMPORAL: Final = (spark.DateType, spark.TimestampType, spark.TimestampNTZType)


class Order(NamedTuple):
    """The columns that put rows in order.

    Attributes
    ----------
    names : tuple of str
    indices : tuple of int
        Their positions in the DataFrame.
    fields : tuple of StructField
        Their types.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    fields: tuple[spark.StructField, ...]

    @classmethod
    def of(cls, df: DataFrame, order_by: Any) -> Order | None:
        """Return the order that a user asked for; None: none.

        Raises
        ------
        InvalidValueError
            `order_by` is not a name or names.
        SchemaError
            There is no such column, or its type has no order.
        """
        if order_by is None:
            return None
        names = order_names(order_by)
        found = df.columns
        for name in names:
            if name not in found:
                raise SchemaError(
                    f"order_by: {SchemaError.missing(name, found)}",
                    argument="order_by",
                    column=name,
                )
            if found.count(name) > 1:
                raise SchemaError(
                    f"order_by: column {name!r} exists {found.count(name)} times. Rename all but "
                    "one of them.",
                    argument="order_by",
                    column=name,
                )
        indices = tuple(found.index(name) for name in names)
        fields = tuple(df.schema.fields[i] for i in indices)
        for field in fields:
            if not _has_order(field.dataType):
                raise SchemaError(
                    f"order_by: column {field.name!r} is {field.dataType.simpleString()}. Choose "
                    "a column of numbers, dates, timestamps or text.",
                    argument="order_by",
                    column=field.name,
                )
        return cls(names, indices, fields)

    @property
    def numbered(self) -> list[str]:
        """The columns' names in a numbered DataFrame."""
        return [f"c{i}" for i in self.indices]

    @property
    def type(self) -> spark.StructType:
        """The type of a task's row: first and last key of its rows, besides its part."""
        kinds = [
            spark.LongType() if isinstance(kind, _TEMPORAL) else kind
            for kind in (field.dataType for field in self.fields)
        ]
        keys = [
            spark.StructField(f"{end}{i}", kind)
            for end in ("first", "last")
            for i, kind in enumerate(kinds)
        ]
        return spark.StructType([*PART_TYPE.fields, *keys])

    def key(self, row: dict[str, Any], end: Literal["first", "last"]) -> tuple[Any, ...]:
        """Return the first or the last key in a task's row."""
        return tuple(row[f"{end}{i}"] for i in range(len(self.names)))

    def shown(self, key: tuple[Any, ...]) -> str:
        """Return a key for people."""
        kinds = [arrow_type(field.dataType) for field in self.fields]
        values = [
            str(pa.scalar(value, pa.int32() if pa.types.is_date(kind) else pa.int64()).cast(kind))
            if pa.types.is_temporal(kind)
            else repr(value)
            for value, kind in zip(key, kinds, strict=True)
        ]
        return values[0] if len(values) == 1 else f"({', '.join(values)})"

    def __str__(self) -> str:
        return repr(self.names[0] if len(self.names) == 1 else list(self.names))


def _has_order(kind: spark.DataType) -> bool:
    """Return whether Python sorts the values of a type as Spark does."""
    if isinstance(kind, spark.StringType):
        return kind.isUTF8BinaryCollation()
    return isinstance(
        kind, spark.NumericType | spark.DateType | spark.TimestampType | spark.TimestampNTZType
    )


class OrderedRows:
    """The sorted batches of a partition, counted and checked as they pass, and none too small.

    Parameters
    ----------
    order : Order, optional
        None: the batches are only counted.
    batches : iterable of pyarrow.RecordBatch

    Attributes
    ----------
    count : int
        Rows so far.
    """

    def __init__(self, order: Order | None, batches: Iterable[pa.RecordBatch]) -> None:
        self._order = order
        self._batches = batches
        self._first: list[pa.Array] = []
        self._last: list[pa.Array] = []
        self.count = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in _regroup(self._batches):
            self.count += batch.num_rows
            if self._order is not None:
                self._check(self._order, [batch.column(name) for name in self._order.numbered])
            yield batch

    def _check(self, order: Order, keys: list[pa.Array]) -> None:
        """Raise an InvalidValueError if a key is missing, or two rows have the same."""
        for name, key in zip(order.names, keys, strict=True):
            missing = "null" if key.null_count else ""
            if pa.types.is_floating(key.type) and pc.any(pc.is_nan(key)).as_py():
                missing = missing or "NaN"
            if missing:
                raise InvalidValueError(
                    f"order_by: column {name!r} holds {missing}, so its rows have no place in the "
                    "order. Leave them out, or fill the column.",
                    argument="order_by",
                    column=name,
                )
        if self._last:
            joined = [pa.concat_arrays(pair) for pair in zip(self._last, keys, strict=True)]
        else:
            self._first = [key.slice(0, 1) for key in keys]
            joined = keys
        same = None
        for key in joined:
            equal = pc.equal(key.slice(1), key.slice(0, len(key) - 1))
            same = equal if same is None else pc.and_(same, equal)
        if same is not None and pc.any(same).as_py():
            where = pc.index(same, True).as_py()
            raise _tie(order, [key[where].as_py() for key in joined])
        self._last = [key.slice(len(key) - 1) for key in keys]

    def add_range(self, part: pa.RecordBatch) -> pa.RecordBatch:
        """Return a task's row with the first and the last key."""
        for end, keys in (("first", self._first), ("last", self._last)):
            for i, key in enumerate(keys):
                part = part.append_column(f"{end}{i}", _comparable(key))
        return part


def _regroup(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows, with small batches joined."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= _FEW_ROWS:
            yield waiting[0] if len(waiting) == 1 else pa.concat_batches(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.concat_batches(waiting)


def arranged(rows: list[dict[str, Any]], order: Order) -> list[dict[str, Any]]:
    """Return the rows of tasks by ascending keys.

    Raises
    ------
    InvalidValueError
        The ranges of two partitions overlap.
    """
    rows = sorted(rows, key=lambda row: order.key(row, "first"))
    for before, after in itertools.pairwise(rows):
        last, first = order.key(before, "last"), order.key(after, "first")
        if first <= last:
            raise InvalidValueError(
                f"order_by={order}: partitions overlap, because one ends with {order.shown(last)} "
                f"and another begins with {order.shown(first)}. Partition the DataFrame by ranges "
                f"first: df.repartitionByRange({', '.join(map(repr, order.names))}).",
                argument="order_by",
            )
    return rows


def _comparable(key: pa.Array) -> pa.Array:
    """Return a key as an array whose values sort in Python as in Spark: times become integers."""
    if not pa.types.is_temporal(key.type):
        return key
    if pa.types.is_date(key.type):
        key = key.cast(pa.int32())
    return key.cast(pa.int64())


def _tie(order: Order, key: list[Any]) -> InvalidValueError:
    return InvalidValueError(
        f"order_by={order} has the value {key[0] if len(key) == 1 else key!r} twice, and these "
        "rows could come in either order. Add a column that tells them apart, as "
        f"order_by={[*order.names, '...']!r}.",
        argument="order_by",
    )
