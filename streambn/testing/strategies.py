"""Streams to test with, other cuts of them, and what their moments are exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

__all__ = ["NAMES", "batches", "cuts", "exact_moments", "merged_in_a_tree"]

NAMES = ("a", "b")


def exact_moments(
    values: Sequence[Any], weights: Sequence[Fraction] | None = None
) -> tuple[Fraction, Fraction]:
    """Return the exact weighted mean and Σw(x − mean)² of finite values, as rationals."""
    exact = [Fraction(value) for value in values]
    w = [Fraction(1)] * len(exact) if weights is None else list(weights)
    total = sum(w, Fraction(0))
    mean = sum((wi * x for wi, x in zip(w, exact, strict=True)), Fraction(0)) / total
    square = sum((wi * (x - mean) ** 2 for wi, x in zip(w, exact, strict=True)), Fraction(0))
    return mean, square


@st.composite
def _column(draw: st.DrawFn, rows: int) -> pa.Array:
    """Draw a column around some offset, with missing values of every kind or without."""
    offset = draw(st.sampled_from([0.0, 1.0, -1e3, 1e9, 1e15]))
    scale = draw(st.sampled_from([1.0, 1e-3, 1e6]))
    kinds = draw(st.sampled_from(["values", "nulls", "nulls and NaN", "few values"]))
    # The values are noise: their seed is drawn, which is much faster than they are.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kinds == "few values":
        return pa.array(offset + scale * rng.integers(0, 2, rows))
    values = offset + scale * rng.normal(size=rows)
    if kinds == "nulls and NaN":
        values[rng.random(rows) < 0.2] = np.nan
    mask = None if kinds == "values" else rng.random(rows) < 0.3
    return pa.array(values, pa.float64(), mask=mask, from_pandas=False)


@st.composite
def batches(draw: st.DrawFn, max_batches: int = 5, max_rows: int = 12) -> list[pa.RecordBatch]:
    """Draw a stream of record batches with two float64 columns, ``a`` and ``b``.

    Empty, one-row, all-null and sliced batches are among them.
    """
    stream = []
    for _ in range(draw(st.integers(1, max_batches))):
        rows = draw(st.integers(0, max_rows))
        before, after = draw(st.integers(0, 9)), draw(st.integers(0, 3))
        all_null = draw(st.booleans()) and draw(st.booleans())
        arrays = [
            pa.nulls(rows, pa.float64()) if all_null else draw(_column(before + rows + after))
            for _ in NAMES
        ]
        # A slice with an offset that is no multiple of 8 moves the validity bits.
        arrays = [a if all_null else a.slice(before, rows) for a in arrays]
        stream.append(pa.record_batch(arrays, names=list(NAMES)))
    return stream


@st.composite
def cuts(draw: st.DrawFn, stream: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Draw another way to cut the rows of a stream into batches."""
    table = pa.Table.from_batches(stream).combine_chunks()
    edges = sorted(draw(st.lists(st.integers(0, table.num_rows), max_size=6)))
    bounds = [0, *edges, table.num_rows]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    return [
        pa.record_batch([column.combine_chunks() for column in piece.columns], names=list(NAMES))
        for piece in pieces
    ]


def merged_in_a_tree(
    draw: Callable[[Any], Any], merge: Callable[[Any, Any], Any], states: Sequence[Any]
) -> Any:
    """Merge states in their order, two neighbours at a time, in a drawn order of merges."""
    states = list(states)
    while len(states) > 1:
        i = draw(st.integers(0, len(states) - 2))
        states[i : i + 2] = [merge(states[i], states[i + 1])]
    return states[0]
