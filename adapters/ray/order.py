"""The order of rows in a Dataset: columns that define it, and the checks that they do."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streambn.errors import InvalidValueError, SchemaError

from .._parts import order_names

__all__ = ["Key", "Order"]

Key = tuple[Any, ...]


class Order(NamedTuple):
    """The columns that put rows in order."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, order_by: Any) -> Order | None:
        """Return the order that a user asked for; None: none.

        Raises
        ------
        InvalidValueError
            `order_by` is not a name or names.
        """
        return None if order_by is None else cls(order_names(order_by))

    def check_schema(self, schema: pa.Schema) -> None:
        """Raise a SchemaError if a column is missing, or its values have no order."""
        for name in self.names:
            if name not in schema.names:
                raise SchemaError(
                    f"order_by: {SchemaError.missing(name, schema.names)}",
                    argument="order_by",
                    column=name,
                )
            kind = schema.field(name).type
            if not _has_order(kind):
                raise SchemaError(
                    f"order_by: column {name!r} is {kind}. Choose a column of numbers, dates, "
                    "timestamps or text.",
                    argument="order_by",
                    column=name,
                )

    def sorted(self, table: pa.Table) -> pa.Table:
        """Return the rows of a block in order.

        Raises
        ------
        InvalidValueError
            A key is missing, or two rows have the same.
        """
        table = table.sort_by([(name, "ascending") for name in self.names])
        keys = [table.column(name).combine_chunks() for name in self.names]
        for name, key in zip(self.names, keys, strict=True):
            is_nan = pa.types.is_floating(key.type) and pc.any(pc.is_nan(key)).as_py()
            if key.null_count or is_nan:
                raise InvalidValueError(
                    f"order_by: column {name!r} holds {'null' if key.null_count else 'NaN'}, so "
                    "its rows have no place in the order. Leave them out, or fill the column.",
                    argument="order_by",
                    column=name,
                )
        same = [pc.equal(key.slice(1), key.slice(0, len(key) - 1)) for key in keys]
        ties = same[0]
        for each in same[1:]:
            ties = pc.and_(ties, each)
        if (where := pc.index(ties, True).as_py()) >= 0:
            raise self._tie(tuple(key[where].as_py() for key in keys))
        return table

    def range(self, table: pa.Table) -> dict[str, list[Any]]:
        """Return the first and the last key of sorted rows as columns, a column for each part."""
        return {
            f"{end}{i}": [table.column(name)[where]]
            for end, where in (("first", 0), ("last", table.num_rows - 1))
            for i, name in enumerate(self.names)
        }

    def first_key(self, table: pa.Table) -> Key:
        """Return the key of the first row."""
        return tuple(table.column(name)[0].as_py() for name in self.names)

    def key(self, row: dict[str, Any], end: str) -> Key:
        """Return a key from a row that has the columns of `range`."""
        return tuple(row[f"{end}{i}"] for i in range(len(self.names)))

    def arranged(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return rows that have the columns of `range` in order.

        Raises
        ------
        InvalidValueError
            Two ranges overlap.
        """
        rows = sorted(rows, key=lambda row: self.key(row, "first"))
        for one, other in itertools.pairwise(rows):
            last, first = self.key(one, "last"), self.key(other, "first")
            if first == last:
                raise self._tie(last)
            if first < last:
                by = repr(self.names[0] if len(self.names) == 1 else list(self.names))
                raise InvalidValueError(
                    f"order_by={self}: blocks overlap, because one ends with {_shown(last)} and "
                    f"another begins with {_shown(first)}. Sort the Dataset first: ds.sort({by}).",
                    argument="order_by",
                )
        return rows

    def _tie(self, key: Key) -> InvalidValueError:
        return InvalidValueError(
            f"order_by={self} has the value {_shown(key)} twice, and these rows could come in "
            "either order. Add a column that tells them apart, as "
            f"order_by={[*self.names, '...']!r}.",
            argument="order_by",
        )

    def __str__(self) -> str:
        return repr(self.names[0] if len(self.names) == 1 else list(self.names))


def _has_order(kind: pa.DataType) -> bool:
    """Return whether Python sorts the values of a type as Arrow does."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_date(kind)
        or types.is_timestamp(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    )


def _shown(key: Key) -> str:
    """Return a key for people."""
    values = [repr(value) if isinstance(value, str) else str(value) for value in key]
    return values[0] if len(values) == 1 else f"({', '.join(values)})"
