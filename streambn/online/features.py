"""Columns of a batch, and the features of rows that they belong to."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa

from streambn.arrow import is_encoded, numeric_type
from streambn.errors import SchemaError
from streambn.kernels import BoundColumn, Layout
from streambn.kernels.interface import ABSENT

__all__ = ["Kinds", "Lanes", "Match", "twice"]


class Lanes(Protocol):
    """What is known of the features so far."""

    def __len__(self) -> int: ...

    def index(self, key: Any, /) -> int:
        """Return the place of a feature; -1: there is none."""

    def exact(self) -> list[bool]:
        """Say of each feature whether nothing but integers and decimals was seen."""


class Kinds(NamedTuple):
    """Which columns hold numbers.

    Attributes
    ----------
    numeric : tuple of int
        Indices of the columns that do.
    exact : tuple of bool
        Which of those are integers or decimals.
    other : tuple of int
        Indices of those that do not.
    encoded : bool
        Whether there is a dictionary- or run-end-encoded one.
    """

    numeric: tuple[int, ...]
    exact: tuple[bool, ...]
    other: tuple[int, ...]
    encoded: bool

    @classmethod
    def of(cls, schema: pa.Schema) -> Self:
        """Look at a schema."""
        found = [numeric_type(field.type) for field in schema]
        numeric = [i for i, kind in enumerate(found) if kind is not None and kind[1] is None]
        return cls(
            tuple(numeric),
            tuple(not pa.types.is_floating(kind[0]) for kind in found if kind and kind[1] is None),
            tuple(sorted(set(range(len(found))) - set(numeric))),
            any(is_encoded(schema.field(i).type) for i in numeric),
        )

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of_matrix(cls, columns: int, exact: bool) -> Self:
        """Say so of the columns of a matrix of numbers."""
        return cls(tuple(range(columns)), (exact,) * columns, (), False)


class Match(NamedTuple):
    """Columns, and the lanes that they belong to.

    Attributes
    ----------
    names : list
        Of the columns.
    kinds : Kinds
    lanes : int
        How many there were before.
    fresh : list
        Features that have no lane yet; theirs come behind the others.
    layout : Layout
        Where each lane's values are.
    exact : list of bool
        Whether a lane has seen nothing but integers and decimals, with these columns.
    """

    names: list[Any]
    kinds: Kinds
    lanes: int
    fresh: list[Any]
    layout: Layout
    exact: list[bool]

    def for_more(self) -> Self | None:
        """Return the match of more such batches, once this one is learned; None: it may differ.

        It may where there was a column of nothing but nulls.
        """
        there = sum(place.path[0] != ABSENT for place in self.layout.places)
        if there < len(self.kinds.numeric):
            return None
        return self._replace(lanes=self.lanes + len(self.fresh), fresh=[])

    @classmethod
    def of(cls, batch: Any, names: list[Any], kinds: Kinds, lanes: Lanes, spare: bool) -> Self:
        """Match the columns of a batch or matrix by their names.

        A column of nothing but nulls is no new feature: it might yet be anything. `spare`:
        behind all lanes there is one more, of which the batch has nothing.

        Raises
        ------
        SchemaError
            A feature is there twice.
        """
        schema = None if isinstance(batch, np.ndarray) else batch.schema
        places = [_place(ABSENT)] * len(lanes)
        exact, fresh = lanes.exact(), []
        for column, whole in zip(kinds.numeric, kinds.exact, strict=True):
            name = names[column]
            lane = lanes.index(name)
            if lane < 0:
                if schema is not None and batch.column(column).null_count == len(batch):
                    continue
                fresh.append(name)
                places.append(_place(column))
                exact.append(whole)
            elif places[lane].path[0] != ABSENT:
                raise twice(name)
            else:
                places[lane] = _place(column)
                exact[lane] = exact[lane] and whole
        if len(set(fresh)) < len(fresh):
            raise twice(next(name for name in fresh if fresh.count(name) > 1))
        if spare:
            places.append(_place(ABSENT))
        return cls(names, kinds, len(lanes), fresh, Layout(places, schema, kinds.encoded), exact)


@functools.lru_cache(maxsize=4096)
def _place(column: int) -> BoundColumn:
    return BoundColumn((column,), None)


def twice(name: Any) -> SchemaError:
    """Return the error for a feature that is there twice."""
    return SchemaError(f"feature {name!r} is there twice. Rename or drop one of the two.")
