"""Exact statistics convert to Welford statistics, rounded once, and merge with them."""

from __future__ import annotations

import math
import pickle
import struct
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn.accumulators import ExactMoments, Moments
from streambn.kernels import Columns

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.lists(FINITE.filter(lambda x: abs(x) < 1e150), max_size=6)
EXTREMES = st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 1e300, -1.7e308, 1.0, 1 + 2**-52, 1e15])


def nearest(value: Fraction) -> float:
    """Return the float64 nearest to a rational number."""
    return value.numerator / value.denominator


def scaled(value: Fraction, exponent: int) -> Fraction:
    """Return a rational number in units of 2**exponent."""
    return value * Fraction(2) ** -exponent


def assert_nearest_pair(hi: float, lo: float, value: Fraction) -> None:
    assert hi == nearest(value)
    rest = nearest(value - Fraction(hi))
    # A rest that rounds up to half a unit would move the sum to the next float64.
    if hi + rest != hi:
        rest = math.nextafter(rest, 0.0)
    assert lo == rest


def converted(values: list[object], kind: pa.DataType) -> Moments:
    """Convert the moments of values, and compare mean and m2 with exact arithmetic."""
    moments = ExactMoments.of(Columns.of(pa.array(values, kind))).to_moments()
    fractions = [Fraction(value) for value in values]
    mean = sum(fractions, Fraction(0)) / len(values)
    m2 = sum(((x - mean) ** 2 for x in fractions), Fraction(0))
    exponent = int(moments.exponent[0])
    assert_nearest_pair(moments.mean_hi[0], moments.mean_lo[0], scaled(mean, exponent))
    assert_nearest_pair(moments.m2_hi[0], moments.m2_lo[0], scaled(m2, 2 * exponent))
    return moments


@given(st.lists(FINITE | EXTREMES, min_size=1, max_size=12))
def test_converted_moments_are_right_to_the_last_bit(values: list[float]) -> None:
    moments, n = converted(values, pa.float64()), len(values)
    assert (moments.weight[0], moments.squares[0], moments.decay[0]) == (n, n, 1)
    assert moments.pairs[0] == n * (n - 1) / 2
    assert (moments.count[0], moments.min[0], moments.max[0]) == (n, min(values), max(values))


@given(st.lists(st.decimals(-(10**9), 10**9, places=6), min_size=1, max_size=8))
def test_converted_decimals_are_right_to_the_last_bit(values: list[object]) -> None:
    converted(values, pa.decimal128(38, 6))


def test_moments_of_no_values_are_the_identity_except_for_counts() -> None:
    exact = ExactMoments.of(Columns.of(pa.array([None, math.nan, math.inf], pa.float64())))
    moments = exact.to_moments()
    assert (moments.nulls[0], moments.nans[0], moments.pos_infs[0]) == (1, 1, 1)
    welford = sbn.Welford().init(1)
    counts = {"nulls": welford.nulls, "nans": welford.nans, "pos_infs": welford.pos_infs}
    assert moments.replace(**counts) == welford


def test_values_beyond_any_float_keep_their_moments() -> None:
    values = [1e300, 1e300, -1e-300]
    state = ExactMoments.of(Columns.of(pa.array(values))).to_moments()
    assert state.read(0).std[0] == pytest.approx(1e300 * math.sqrt(2) / 3, rel=1e-15)


def fitted(policy: object, *values: float | None, **options: object) -> sbn.Normalizer:
    return sbn.Normalizer(policy, **options).update(pa.table({"x": pa.array(values, pa.float64())}))


@given(MODERATE, MODERATE)
def test_merge_is_that_of_the_converted_side(ours: list[float], theirs: list[float]) -> None:
    exact, welford = fitted(sbn.Exact(), *ours), fitted(sbn.Welford(), *theirs)
    converted = exact.as_welford()
    for merged, expected in (
        (exact.merge(welford), converted.merge(welford)),
        (welford.merge(exact), welford.merge(converted)),
    ):
        assert merged.policy == sbn.Welford()
        assert merged.statistics.state == expected.statistics.state
    assert exact.policy == sbn.Exact()


def test_merge_is_exact_where_the_result_is() -> None:
    merged = fitted(sbn.Exact(), 1.0, 2.0).merge(fitted(sbn.Welford(), 6.0))
    assert merged.stats().select(["count", "mean", "var"]).to_pylist() == [
        {"count": 3, "mean": 3.0, "var": 14 / 3}
    ]


def test_representation_says_that_sums_were_rounded() -> None:
    exact, welford = fitted(sbn.Exact(), 1.0), fitted(sbn.Welford(), 2.0)
    for norm in (exact.merge(welford), welford.merge(exact), exact.as_welford()):
        assert repr(norm).startswith("Normalizer(Welford()) of 1 feature, rounded from Exact()\n")
        assert "rounded from Exact()" in norm._repr_html_()
        for later in (norm.update(pa.table({"x": [3.0]})), pickle.loads(pickle.dumps(norm))):
            assert "rounded from Exact()" in repr(later)
        assert "rounded from Exact()" in repr(norm.merge(welford))
    for norm in (exact, welford, welford.merge(welford), welford.as_welford()):
        assert "rounded" not in repr(norm)


def test_rounding_is_neither_saved_nor_compared() -> None:
    converted, plain = fitted(sbn.Exact(), 1.0, 2.0).as_welford(), fitted(sbn.Welford(), 1.0, 2.0)
    assert converted.freeze() == plain.freeze()
    assert converted.freeze().fingerprint == plain.freeze().fingerprint


def test_statistics_without_data_convert_and_merge() -> None:
    empty = sbn.Normalizer(sbn.Exact())
    assert empty.as_welford().policy == sbn.Welford()
    assert "rounded" not in repr(empty.as_welford())
    welford = fitted(sbn.Welford(), 1.0, 3.0)
    for merged in (empty.merge(welford), welford.merge(empty)):
        assert merged.policy == sbn.Welford()
        assert merged.stats().equals(welford.stats())
    merged = sbn.Normalizer().merge(fitted(sbn.Exact(), 1.0, 3.0))
    assert merged.stats()["mean"].to_pylist() == [2.0]


def test_features_are_matched_by_name() -> None:
    exact = sbn.Normalizer(sbn.Exact()).update(pa.table({"x": [1.0], "y": [10.0]}))
    welford = sbn.Normalizer().update(pa.table({"y": [20.0], "x": [3.0]}))
    assert exact.merge(welford).stats()["mean"].to_pylist() == [2.0, 15.0]


def test_decimals_and_floats_merge_once_one_side_is_rounded() -> None:
    decimals = pa.table({"x": pa.array([1], pa.decimal128(5, 1))})
    exact = sbn.Normalizer(sbn.Exact()).update(decimals)
    assert exact.merge(fitted(sbn.Welford(), 0.5)).stats()["mean"].to_pylist() == [0.75]


class Mine(sbn.Welford):
    """A policy of a user, which only looks like Welford."""


@pytest.mark.parametrize(
    "other", [sbn.EMA(alpha=0.5), sbn.BatchEMA(momentum=0.1), Mine()], ids=repr
)
def test_other_policies_do_not_merge(other: object) -> None:
    norm = fitted(other, 1.0)
    for one, two in ((norm, fitted(sbn.Exact(), 1.0)), (fitted(sbn.Exact(), 1.0), norm)):
        message = "the policy of the two statistics differ"
        with pytest.raises(sbn.MergeError, match=message) as error:
            one.merge(two)
        assert error.value.argument == "policy"
    with pytest.raises(sbn.MergeError, match=r"do not convert to those of Welford\(\)"):
        norm.as_welford()


def test_other_options_do_not_merge() -> None:
    with pytest.raises(sbn.MergeError, match="options") as error:
        fitted(sbn.Exact(), 1.0).merge(fitted(sbn.Welford(), 1.0, ddof=1))
    assert error.value.argument == "options"


def test_conversion_returns_a_copy_and_keeps_the_original() -> None:
    exact = fitted(sbn.Exact(), 1.0, 2.0)
    converted = exact.as_welford().update(pa.table({"x": [100.0]}))
    assert converted.stats()["count"].to_pylist() == [3]
    assert exact.stats()["count"].to_pylist() == [2]
    welford = fitted(sbn.Welford(), 1.0)
    copy = welford.as_welford().update(pa.table({"x": [2.0]}))
    assert (copy.stats()["count"][0].as_py(), welford.stats()["count"][0].as_py()) == (2, 1)


def test_mean_keeps_its_low_digits() -> None:
    values = [1.0, 1e-20, 0.0]
    pair = fitted(sbn.Exact(), *values).as_welford().statistics.estimates
    assert struct.pack("d", pair.mean_hi[0]) == struct.pack("d", 1 / 3)
    exact = (Fraction(1) + Fraction(1e-20)) / 3
    assert float(exact - Fraction(pair.mean_hi[0])) == pytest.approx(pair.mean_lo[0], rel=1e-15)
