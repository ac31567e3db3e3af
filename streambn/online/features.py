"""Columns of a batch of rows, and the features that they belong to.

A batch is an Arrow record batch, or a NumPy matrix whose columns are named apart from it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.arrow import SchemaCache, is_encoded, numeric_type
from streambn.errors import SchemaError
from streambn.kernels import BoundColumn, Layout
from streambn.kernels.bitmaps import filter_rows
from streambn.kernels.interface import ABSENT
from streambn.kernels.rows import refuse

__all__ = [
    "BatchColumns",
    "ColumnTypes",
    "FeatureMatch",
    "KnownFeatures",
    "column_of",
    "duplicate_feature",
    "select_columns",
    "select_rows_of",
]


class KnownFeatures(Protocol):
    """The features that have statistics."""

    def __len__(self) -> int: ...

    def index(self, key: Any, /) -> int:
        """Return the index of a feature, or -1 if it has no statistics."""

    def exact(self) -> list[bool]:
        """Return for each feature whether all its values were integers or decimals."""


class ColumnTypes(NamedTuple):
    """The numeric columns of a batch."""

    numeric: tuple[int, ...]  # indices of the columns of plain numbers
    exact: tuple[bool, ...]  # whether each of those holds integers or decimals
    other: tuple[int, ...]  # indices of all other columns
    encoded: bool  # whether a numeric column is dictionary- or run-end-encoded

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> Self:
        """Return the column types of record batches."""
        found = [numeric_type(field.type) for field in schema]
        plain = {i: kind[0] for i, kind in enumerate(found) if kind and kind[1] is None}
        return cls(
            tuple(plain),
            tuple(not pa.types.is_floating(kind) for kind in plain.values()),
            tuple(i for i in range(len(found)) if i not in plain),
            any(is_encoded(schema.field(i).type) for i in plain),
        )

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of_matrix(cls, columns: int, exact: bool) -> Self:
        """Return the column types of matrices."""
        return cls(tuple(range(columns)), (exact,) * columns, (), False)


class BatchColumns:
    """The column types of batches, checked against the known features."""

    def __init__(self, known: KnownFeatures) -> None:
        self._known = known
        self._schemas = SchemaCache()

    def types(self, batch: Any, names: Sequence[Any]) -> ColumnTypes:
        """Return the types of the columns of a batch or matrix.

        Raises
        ------
        SchemaError
            A known feature is not a number in the batch.
        """
        if isinstance(batch, np.ndarray):
            return ColumnTypes.of_matrix(batch.shape[1], batch.dtype.kind in "iu")
        types: ColumnTypes = self._schemas.get(
            batch.schema, None, lambda: ColumnTypes.of_schema(batch.schema)
        )
        for i in types.other:
            array = batch.column(i)
            if self._known.index(names[i]) >= 0 and array.null_count < len(array):
                refuse("other", names[i], array.drop_null()[0].as_py())
        return types


class FeatureMatch(NamedTuple):
    """The features of a batch's columns."""

    names: list[Any]  # of the columns
    types: ColumnTypes  # of the columns
    known: int  # features that had statistics before this batch
    new: list[Any]  # features that have none yet, in the order in which they follow the known ones
    layout: Layout  # the columns of the known and the new features
    exact: list[bool]  # whether all values of each, with this batch, are integers or decimals

    @classmethod
    def of(
        cls, batch: Any, names: list[Any], types: ColumnTypes, known: KnownFeatures, spare: bool
    ) -> Self:
        """Match columns to features by name.

        A column that holds only nulls is not a new feature, because it might be of any type. A
        spare feature, which the batch does not have, ends the layout.

        Raises
        ------
        SchemaError
            Two columns belong to one feature.
        """
        schema = None if isinstance(batch, np.ndarray) else batch.schema
        exact, new = known.exact(), []
        there = len(exact)
        columns = [_bound_column(ABSENT)] * there
        for i, is_exact in zip(types.numeric, types.exact, strict=True):
            name = names[i]
            feature = known.index(name)
            # Another thread may add features meanwhile. The caller then matches once more.
            if not 0 <= feature < there:
                if schema is not None and batch.column(i).null_count == len(batch):
                    continue
                new.append(name)
                columns.append(_bound_column(i))
                exact.append(is_exact)
            elif columns[feature].path[0] != ABSENT:
                raise duplicate_feature(name)
            else:
                columns[feature] = _bound_column(i)
                exact[feature] = exact[feature] and is_exact
        if len(set(new)) < len(new):
            raise duplicate_feature(next(name for name in new if new.count(name) > 1))
        if spare:
            columns.append(_bound_column(ABSENT))
        return cls(names, types, there, new, Layout(columns, schema, types.encoded), exact)

    def for_next_batch(self) -> Self | None:
        """Return the match of a further batch with the same columns, or None if it may differ.

        It may differ if a column of this batch held only nulls.
        """
        present = sum(column.path[0] != ABSENT for column in self.layout.places)
        if present < len(self.types.numeric):
            return None
        return self._replace(known=self.known + len(self.new), new=[])


@functools.lru_cache(maxsize=4096)
def _bound_column(index: int) -> BoundColumn:
    return BoundColumn((index,), None)


def duplicate_feature(name: Any) -> SchemaError:
    """Return the error for a feature that occurs twice."""
    return SchemaError(
        f"feature {name!r} occurs twice. Rename or drop one of the two.", column=str(name)
    )


# ---------------------------------------------------------------- batches and matrices


def column_of(batch: Any, names: list[Any], name: str) -> pa.Array:
    """Return the column of that name.

    Raises
    ------
    SchemaError
        No column has that name, or several have.
    """
    if name not in names:
        raise SchemaError.missing(name, map(str, names))
    if names.count(name) > 1:
        raise duplicate_feature(name)
    i = names.index(name)
    return pa.array(batch[:, i]) if isinstance(batch, np.ndarray) else batch.column(i)


def select_columns(batch: Any, columns: list[int]) -> Any:
    """Return some columns of a batch or matrix."""
    if isinstance(batch, np.ndarray):
        return batch[:, columns]
    return batch.select(columns)


def select_rows_of(batch: Any, keep: NDArray[np.bool_]) -> Any:
    """Return the rows of a batch or matrix where `keep` is true."""
    if isinstance(batch, np.ndarray):
        return batch[keep]
    arrays = [filter_rows(column, keep) for column in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
