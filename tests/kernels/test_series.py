"""The kernel that maps rows as it learns them."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from streambn.kernels import Columns, Series, SeriesState, empty_moments, reference
from streambn.kernels.interface import Times
from streambn.kernels.rows import RowRules

RULES = RowRules(
    decay=1.0, ignore_missing=False, prior=0.0, ddof=0, eps=0.0, clip=np.inf, center=True,
    scale=True, nan=0, inf=1, unseen=0, constant=0,
)  # fmt: skip
# By name: the changes of the rules, and whether there are times.
KINDS = {
    "equal weights": ({}, False),
    "unbiased": ({"ddof": 1}, False),
    "forgetting": ({"decay": 0.9}, False),
    "recursion": ({"decay": 0.75, "prior": 4.0, "ddof": 1}, False),
    "eps": ({"decay": 0.9, "eps": 1e-3, "clip": 2.0}, False),
    "no centre": ({"center": False}, False),
    "times": ({}, True),
}


def columns_of(rows, seed=0):
    """Return columns of plain values, which are mapped together, and others."""
    rng = np.random.default_rng(seed)
    plain = [pa.array(rng.normal(10.0**i, 1 + i, rows)) for i in range(9)]
    mask = rng.random(rows) < 0.2
    others = [
        pa.array(rng.normal(size=rows), mask=mask),
        pa.array(2**60 + rng.integers(0, 9, rows)),
        pa.array(rng.integers(0, 2, rows).astype(np.float32)),
        pa.array([Decimal(int(n)) / 4 for n in rng.integers(0, 9, rows)], pa.decimal128(9, 2)),
        pa.array(np.full(rows, 0.1)),
    ]
    times = Times(np.cumsum(rng.integers(0, 3, rows)), 10**9)
    columns = Columns.of(*plain, *others)
    weights = np.where(rng.random(rows) < 0.1, 0.0, rng.random(rows))
    return columns.with_rows(weights, times)


def run(kernels, columns, kind, before, pieces=(0, 3, 40)):
    """Return the mapped values and the moments after all rows."""
    changes, timed = KINDS[kind]
    features = columns.layout.features
    schema = pa.schema([(str(i), pa.float64()) for i in range(features)])
    halflife = 5e9 if timed else None
    series = Series(RULES._replace(**changes), before, None, None, np.zeros(features, np.bool_),
                    schema, halflife)  # fmt: skip
    prior = series.rules.prior > 0
    gaps = np.zeros((2, features), np.int64) if series.rules.counts_gaps else None
    times = np.zeros((2, features)) if timed else None
    state = SeriesState(empty_moments(features), empty_moments(features) if prior else None,
                        gaps, times)  # fmt: skip
    weights = None if prior else columns.weights
    columns = columns.with_rows(weights, columns.times)
    found = []
    for start, stop in zip(pieces, [*pieces[1:], columns.rows], strict=True):
        state, mapped = kernels.map_series(columns.slice(start, stop - start), state, series)
        mapped.batch.validate(full=True)
        found.append(mapped.batch)
    table = pa.Table.from_batches(found)
    return np.array([c.fill_null(-99.0).to_numpy() for c in table.columns]), state


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_both_kernels_give_the_same(native, kind, before):
    columns = columns_of(80)
    ours, expected = (run(kernels, columns, kind, before) for kernels in (native, reference))
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-14, atol=1e-14)
    for field in ("count", "nulls", "weight", "mean_hi", "m2_hi", "min", "max", "exponent"):
        found, wanted = (getattr(state.moments, field) for state in (ours[1], expected[1]))
        np.testing.assert_allclose(found, wanted, rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_mapped_alike_alone_and_together(native, kind):
    columns = columns_of(1200)
    together, _ = run(native, columns, kind, False, pieces=(0, 700))
    arrays = columns.batch.columns
    for i, array in enumerate(arrays):
        one = Columns.of(array).with_rows(columns.weights, columns.times)
        alone, _ = run(native, one, kind, False, pieces=(0, 5, 600))
        np.testing.assert_array_equal(alone[0], together[i])


def test_instruction_sets_agree(by_instruction_set):
    results = by_instruction_set(
        """
from streambn.kernels import Series, SeriesState, empty_moments
from streambn.kernels.rows import RowRules
x = np.random.default_rng(3).normal(1e6, 1, (9, 900))
columns = Columns.of(*map(pa.array, x))
schema = pa.schema([(str(i), pa.float64()) for i in range(9)])
for decay, prior in ((1.0, 0.0), (0.9, 0.0), (0.75, 4.0)):
    rules = RowRules(decay, False, prior, 1, 1e-9, 1e9, True, True, 0, 1, 0, 0)
    series = Series(rules, False, None, None, np.zeros(9, np.bool_), schema)
    first = empty_moments(9) if prior else None
    gaps = None if decay == 1 else np.zeros((2, 9), np.int64)
    _, mapped = native.map_series(columns, SeriesState(empty_moments(9), first, gaps), series)
    found.append([column.to_numpy() for column in mapped.batch.columns])
"""
    )
    for values in results.values():
        np.testing.assert_allclose(values, results["baseline"], rtol=1e-14, atol=1e-14)


def test_arrays_of_the_wrong_size_are_refused(native):
    columns = Columns.of(pa.array([1.0, 2.0]))
    schema = pa.schema([("0", pa.float64())])
    series = Series(RULES, False, None, None, np.zeros(1, np.bool_), schema)
    state = SeriesState(empty_moments(1))
    for broken in (
        (columns, SeriesState(empty_moments(2)), series),
        (columns, state, series._replace(exact=np.zeros(2, np.bool_))),
        (columns, state, series._replace(gamma=np.ones(2), beta=np.ones(1))),
        (columns.with_rows(np.ones(3), None), state, series),
        (columns, state, series._replace(rules=RULES._replace(decay=2.0))),
        (columns, state, series._replace(schema=pa.schema([("0", pa.int64())]))),
        (columns.with_rows(None, Times(np.zeros(2, np.int64), 1)), state,
         series._replace(halflife=1.0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"instead of|domain|float|times of"):
            native.map_series(*broken)
