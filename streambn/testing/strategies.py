"""Hypothesis strategies for streams and cuts, and exact moments to compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from streambn.policies import EventTime

__all__ = [
    "NAMES",
    "WEIGHTS",
    "batches",
    "cuts",
    "event_times",
    "exact_moments",
    "merged_in_a_tree",
]

NAMES = ("a", "b")
# The column of sample weights, in streams that have one.
WEIGHTS = "weights"

_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_START = 1_700_000_000  # seconds; the middle of drawn timestamps. That of numbers is 0


def exact_moments(
    values: Sequence[Any], weights: Sequence[Fraction] | None = None
) -> tuple[Fraction, Fraction]:
    """Return the exact weighted mean and Σw(x − mean)² of finite values, as rationals."""
    # Integers over one denominator: sums of fractions would reduce every term.
    xs, unit = _over_one_denominator(values)
    ws, share = ([1] * len(xs), 1) if weights is None else _over_one_denominator(weights)
    total = sum(ws)
    first = sum(w * x for w, x in zip(ws, xs, strict=True))
    second = sum(w * x * x for w, x in zip(ws, xs, strict=True))
    return (
        Fraction(first, total * unit),
        Fraction(second * total - first * first, total * unit**2 * share),
    )


def _over_one_denominator(values: Sequence[Any]) -> tuple[list[int], int]:
    fractions = [Fraction(value) for value in values]
    unit = math.lcm(*{f.denominator for f in fractions})
    return [f.numerator * (unit // f.denominator) for f in fractions], unit


@st.composite
def _column(draw: st.DrawFn, rows: int) -> pa.Array:
    """Draw a column around an offset, with or without missing values."""
    offset = draw(st.sampled_from([0.0, 1.0, -1e3, 1e9, 1e15]))
    scale = draw(st.sampled_from([1.0, 1e-3, 1e6]))
    kinds = draw(st.sampled_from(["values", "nulls", "nulls and NaN", "few values"]))
    # Drawing the seed of the noise is much faster than drawing the values.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kinds == "few values":
        return pa.array(offset + scale * rng.integers(0, 2, rows))
    values = offset + scale * rng.normal(size=rows)
    if kinds == "nulls and NaN":
        values[rng.random(rows) < 0.2] = np.nan
    mask = None if kinds == "values" else rng.random(rows) < 0.3
    return pa.array(values, pa.float64(), mask=mask, from_pandas=False)


def _kinds_of(time: EventTime) -> list[pa.DataType]:
    return [pa.int64(), pa.float64()] if time.numeric else list(map(pa.timestamp, _TICKS))


@st.composite
def event_times(draw: st.DrawFn, rows: int, kind: pa.DataType, extent: float) -> pa.Array:
    """Draw event times in random order, some of them equal, none missing.

    Parameters
    ----------
    rows : int
    kind : pyarrow.DataType
        int64, float64 or a timestamp.
    extent : float
        Largest distance between two of them, in seconds or in the unit of the numbers.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = extent * (rng.random(rows) - 0.5)
    if draw(st.booleans()):
        times[:] = rng.choice(times[:3], rows) if rows else []
    if not pa.types.is_timestamp(kind):
        return pa.array(times if pa.types.is_floating(kind) else times.astype(np.int64))
    tick = _TICKS[kind.unit]
    return pa.array(_START * tick + (times * tick).astype(np.int64)).cast(kind)


@st.composite
def batches(
    draw: st.DrawFn,
    max_batches: int = 5,
    max_rows: int = 12,
    *,
    time: EventTime | None = None,
    extent: float = 100.0,
    weighted: bool = False,
) -> list[pa.RecordBatch]:
    """Draw a stream of record batches with two float64 columns, ``a`` and ``b``.

    Some of them are empty, have one row, are all null or are slices.

    Parameters
    ----------
    max_batches, max_rows : int
    time : EventTime, optional
        Adds the column of event times that a policy needs; see `event_times`.
    extent : float
        Largest distance between event times.
    weighted : bool
        Adds a column ``weights`` of positive float64 to some streams.
    """
    stream = []
    kind = None if time is None else draw(st.sampled_from(_kinds_of(time)))
    weighted = weighted and draw(st.booleans())
    for _ in range(draw(st.integers(1, max_batches))):
        rows = draw(st.integers(0, max_rows))
        before, after = draw(st.integers(0, 9)), draw(st.integers(0, 3))
        all_null = draw(st.booleans()) and draw(st.booleans())
        arrays = [
            pa.nulls(rows, pa.float64()) if all_null else draw(_column(before + rows + after))
            for _ in NAMES
        ]
        # An offset that is not a multiple of 8 shifts the validity bits.
        arrays = [a if all_null else a.slice(before, rows) for a in arrays]
        names = list(NAMES)
        if time is not None:
            arrays.append(draw(event_times(rows, kind, extent)))
            names.append(time.column)
        if weighted:
            rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
            arrays.append(pa.array(rng.choice([1e-3, 1.0, 1e3], rows) * (1 - rng.random(rows))))
            names.append(WEIGHTS)
        stream.append(pa.record_batch(arrays, names=names))
    return stream


@st.composite
def cuts(draw: st.DrawFn, stream: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Draw another division of the rows of a stream into batches."""
    table = pa.Table.from_batches(stream).combine_chunks()
    edges = sorted(draw(st.lists(st.integers(0, table.num_rows), max_size=6)))
    bounds = [0, *edges, table.num_rows]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    return [
        pa.record_batch([column.combine_chunks() for column in piece.columns], schema=table.schema)
        for piece in pieces
    ]


def merged_in_a_tree(
    draw: Callable[[Any], Any], merge: Callable[[Any, Any], Any], states: Sequence[Any]
) -> Any:
    """Merge states by a random tree that keeps their order."""
    states = list(states)
    while len(states) > 1:
        i = draw(st.integers(0, len(states) - 2))
        states[i : i + 2] = [merge(states[i], states[i + 1])]
    return states[0]
