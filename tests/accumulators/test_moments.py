"""The monoid of moments: NIST's certified values, and defects that peers have."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pytest
from parity import NIST

from streambn.accumulators import Moments
from streambn.kernels import Columns


def moments(values, kind=None, **how):
    return Moments.of(Columns.of(pa.array(values, kind, from_pandas=True)), **how)


def merged(states):
    return functools.reduce(Moments.merge, states, Moments.empty(1))


def deviation(m, ddof):
    return m.read(ddof).std[0]


@pytest.mark.parametrize("name", NIST)
@pytest.mark.parametrize("pieces", [1, 2, 7, 1001])
def test_nist_certified_values(name, pieces):
    values, mean, sd = NIST[name]
    parts = [p for p in np.array_split(np.array(values, float), pieces) if len(p)]
    m = merged(map(moments, parts))
    if np.finfo(np.longdouble).nmant > 60:
        assert (m.mean[0], deviation(m, 1)) == (mean, sd)
    assert m.mean[0] == pytest.approx(mean, rel=2.3e-16, abs=0)
    assert deviation(m, 1) == pytest.approx(sd, rel=1e-15, abs=0)


def test_means_and_deviations_where_numpy_overflows():
    assert moments([1.7e308, 1.7e308]).mean[0] == 1.7e308
    with np.errstate(over="ignore"):
        assert np.isinf(np.mean([1.7e308, 1.7e308]))
    for scale in (1e200, 1e-200):
        x = scale * np.array([1.0, 2.0, 4.0])
        std = scale * np.std([1, 2, 4])
        assert deviation(moments(x), 0) == pytest.approx(std, rel=1e-15, abs=0)


def test_merge_of_empty_states_is_empty():
    # Other engines return NaN for an empty side, or divide by zero.
    empty = Moments.empty(3)
    both = empty.merge(empty)
    assert both == empty
    m = moments([1e300, 1.5e300])
    assert m.merge(Moments.empty(1)) == m == Moments.empty(1).merge(m)


def test_shards_of_one_row_give_the_variance_of_the_whole():
    x = np.array([1.0, 5.0, 30.0, 2.0])
    m = merged(moments([value]) for value in x)
    assert m.count[0] == 4
    assert m.m2[0] / 4 == pytest.approx(x.var(), rel=1e-15, abs=0)


def test_equal_means_merge_without_spurious_variance():
    m = merged([moments([1 / 3] * 3)] * 1001)
    assert m.m2[0] == 0
    assert m.mean[0] == 1 / 3
    assert m.mean_lo[0] == 0


def test_large_counts_do_not_overflow():
    m = Moments.empty(1)
    half = moments([1.0, 2.0])
    big = half.replace(count=half.count * 2**40, weight=half.weight * 2.0**40)
    m = big.merge(big)
    assert m.count[0] == 2**42
    assert m.count.dtype == np.int64
    assert m.pairs[0] > 0


def test_state_is_read_only_and_has_no_subtraction():
    m = moments([1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        m.mean_hi[0] = 3
    with pytest.raises(TypeError):
        m - m
    with pytest.raises(TypeError):
        m + 1
    assert m + moments([3.0]) == m.merge(moments([3.0]))


def test_equality_is_bit_for_bit():
    assert moments([0.0]) == moments([0.0])
    assert moments([0.0, 1.0]) != moments([0.0, 1.0 + 2**-52])
    assert moments([1.0]) != "moments"


def test_segment_of_one_row_follows_the_definition():
    m = moments([5.0], decay=0.75)
    assert (m.weight[0], m.mean[0], m.m2[0], m.pairs[0], m.decay[0]) == (1, 5, 0, 0, 0.75)
    plain = moments([1.0, 2.0, 4.0])
    assert (plain.weight[0], plain.pairs[0], plain.decay[0]) == (3, 3, 1)


def test_pairs_do_not_cancel_beside_one_large_weight():
    m = merged(moments([value], decay=1e-12) for value in (1.0, 2.0, 3.0))
    w = [1e-24, 1e-12, 1.0]
    assert m.pairs[0] == pytest.approx(w[0] * w[1] + w[0] * w[2] + w[1] * w[2], rel=1e-14, abs=0)
