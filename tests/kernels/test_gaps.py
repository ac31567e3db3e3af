"""An average that counts gaps agrees with its definition, and leaves long gaps to the caller."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_kernels import native

from streambn.kernels import Columns, MomentArrays, empty_moments, reference
from streambn.testing import exact_moments

FEATURES = 3
KERNELS = pytest.mark.parametrize("kernels", [reference, native], ids=["reference", "native"])


def series(rng, rows):
    """Return values, shape (rows, features), some of them missing, with no gap of 40 rows."""
    x = rng.normal(size=(rows, FEATURES)).round(3)
    x[rng.random((rows, FEATURES)) < rng.choice([0.0, 0.2, 0.9], FEATURES)] = np.nan
    kept = rng.permutation(40)[:FEATURES]
    x[np.arange(rows)[:, np.newaxis] % 40 == kept] = 1.0
    return x


def columns_of(x, weights=None):
    """Bind the features, missing values as null, NaN and infinity."""
    batch = [
        pa.array(x[:, 0], from_pandas=True),
        pa.array(x[:, 1]),
        pa.array(np.where(np.isnan(x[:, 2]), -np.inf, x[:, 2])),
    ]
    return Columns.of(*batch).with_weights(weights)


def by_definition(x, decay, given):
    """Return W, μ, S and P of one feature as of its last value, and its gaps."""
    at = np.flatnonzero(np.isfinite(x))
    if len(at) == 0:
        return 0.0, 0.0, 0.0, 1.0, len(x), 0
    weights = decay ** (at[-1] - at) * given[at]
    mean, m2 = exact_moments(x[at], weights.tolist())
    span = at[-1] - at[0] + 1
    return weights.sum(), float(mean), float(m2), decay**span, at[0], len(x) - 1 - at[-1]


@KERNELS
@settings.get_profile("few")
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.sampled_from([1, 1, 2, 4, 51, 52, 53, 90]), min_size=1, max_size=5),
    decay=st.sampled_from([0.5, 0.97, 0.9999]),
    weighted=st.booleans(),
)
def test_extension_follows_the_definition(kernels, seed, sizes, decay, weighted):
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    x, given = series(rng, rows), np.ones(rows)
    if weighted:
        given = rng.choice([0.25, 1.0, 3.0], rows)
    moments, gaps = empty_moments(FEATURES), np.zeros((2, FEATURES), np.int64)
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        some = slice(stop - size, stop)
        columns = columns_of(x[some], given[some] if weighted else None)
        moments, gaps, left = kernels.extend_over_gaps(moments, gaps, columns, decay)
        assert left == []
    for k in range(FEATURES):
        weight, mean, m2, total, before, since = by_definition(x[:, k], decay, given)
        assert gaps[:, k].tolist() == [before, since]
        assert moments.count[k] == np.isfinite(x[:, k]).sum()
        assert moments.weight[k] == pytest.approx(weight, rel=1e-13)
        assert moments.mean_hi[k] == pytest.approx(mean, rel=1e-12, abs=1e-14)
        assert moments.m2_hi[k] == pytest.approx(m2, rel=1e-12, abs=1e-28)
        assert moments.decay[k] == pytest.approx(total, rel=1e-12)


@KERNELS
@pytest.mark.parametrize(
    ("before", "within", "after"),
    [(60, 0, 0), (0, 0, 60), (0, 601, 0), (60, 700, 60)],
    ids=["at the start", "at the end", "within", "everywhere"],
)
def test_long_gap_is_left_to_the_caller(kernels, before, within, after):
    x = np.concatenate([np.full(before, np.nan), [1.0], np.full(within, np.nan), [2.0]])
    x = np.concatenate([x, np.full(after, np.nan)])
    table = np.column_stack([np.arange(float(len(x))), x, x])
    older = kernels.block_moments(columns_of(table[:1]), 0.5)
    gaps = np.zeros((2, FEATURES), np.int64)
    moments, after_gaps, left = kernels.extend_over_gaps(older, gaps, columns_of(table), 0.5)
    assert left == [1, 2]
    assert after_gaps[:, 0].tolist() == [0, 0]
    assert moments.count.tolist() == [len(x) + 1, 2, 2]  # alone, features 1 and 2 have two values
    assert moments.max[1:].tolist() == [2.0, 2.0]


def test_gap_before_the_batch_that_is_longer_than_the_table_is_left():
    one = columns_of(np.ones((1, FEATURES)))
    older, gaps = native.block_moments(one, 0.9999), np.array([[0, 0, 0], [0, 1023, 1024]])
    moments, after, left = native.extend_over_gaps(older, gaps, one, 0.9999)
    assert left == [2]
    assert moments.count.tolist() == [2, 2, 1]
    assert after.tolist() == [[0, 0, 0], [0, 0, 0]]
    expected = reference.extend_over_gaps(MomentArrays(older.memory), gaps, one, 0.9999)[0]
    assert np.array_equal(moments.memory[:, :2], expected.memory[:, :2])
