"""Batches, policies and strategies for the tests of normalizers."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

import streambn as sbn
from streambn import snapshot
from streambn.testing import exact_moments

INF, NAN = math.inf, math.nan

POLICIES: dict[str, Any] = {
    "welford": sbn.Welford(),
    "ema": sbn.EMA(alpha=0.3),
    "ema halflife": sbn.EMA(halflife=4, ignore_na=True),
    "ema recursive": sbn.EMA(span=5, adjust=False),
    "batch-ema": sbn.BatchEMA(momentum=0.1),
    "batch-ema keras": sbn.BatchEMA(decay=0.75, ddof=0, initial=None),
    "batch-ema average": sbn.BatchEMA(momentum=None),
    "batch-ema rows": sbn.BatchEMA(momentum=0.5, batch_rows=3),
    "exact": sbn.Exact(),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
each_value = pytest.mark.parametrize("value", [NAN, INF, -INF])
each_using = pytest.mark.parametrize("using", ["running", "before", "batch"])

# Modest numbers, often integers, so that ties and constants occur.
NUMBER = st.one_of(st.integers(-9, 9).map(float), st.floats(-1e6, 1e6, width=32))
VALUE = st.one_of(st.none(), st.just(NAN), NUMBER, NUMBER)
COLUMN = st.lists(VALUE, max_size=24)


def bits(norm: sbn.Normalizer) -> bytes:
    """Return the bytes of a state, which tell apart states that differ in one bit."""
    return snapshot.encode(snapshot.Snapshot(norm._statistics, frozen=False))


def record(*, schema: pa.Schema | None = None, **columns: Any) -> pa.RecordBatch:
    if schema is not None:
        return pa.RecordBatch.from_arrays([pa.array(c) for c in columns.values()], schema=schema)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c) for c in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def xs(*values: float | None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    return record(x=pa.array(values, kind or pa.float64()))


def fit(*data: Any, **options: Any) -> sbn.Normalizer:
    norm = sbn.Normalizer(**options)
    for batch in data:
        norm.update(batch)
    return norm


def assert_refused(
    norm: sbn.Normalizer,
    data: Any,
    error: Any,
    match: str | None = None,
    acts: Sequence[str] = ("update", "transform", "update_transform"),
) -> None:
    """Check that a normalizer refuses data and keeps every bit of its state."""
    before = bits(norm)
    for act in acts:
        with pytest.raises(error, match=match):
            getattr(norm, act)(data)
        assert bits(norm) == before


def row_of(norm: Any, name: str = "x") -> dict[str, Any]:
    [row] = [row for row in norm.stats().to_pylist() if row["column"] == name]
    return row


def column(data: Any, name: str = "x") -> list[Any]:
    whole = data.read_all() if hasattr(data, "read_all") else data
    return whole[name].to_pylist()


def floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([NAN if v is None else v for v in values], float)


def exact(values: Sequence[Any]) -> tuple[Fraction, Fraction]:
    """Return mean and population variance as rational numbers."""
    mean, m2 = exact_moments(values)
    return mean, m2 / len(values)


def same_bits(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return pickle.dumps([*map(repr, a)]) == pickle.dumps([*map(repr, b)])


@st.composite
def batches(draw: Any, value: Any = VALUE) -> list[pa.RecordBatch]:
    """Draw batches of two columns, some of them empty or all null."""
    made = []
    for _ in range(draw(st.integers(0, 5))):
        n = draw(st.sampled_from([0, 1, 2, 3, 7]))
        kind = draw(st.sampled_from(["any", "any", "null"]))
        x = draw(st.lists(st.none() if kind == "null" else value, min_size=n, max_size=n))
        y = draw(st.lists(value, min_size=n, max_size=n))
        made.append(record(x=pa.array(x, pa.float64()), y=pa.array(y, pa.float64())))
    return made
