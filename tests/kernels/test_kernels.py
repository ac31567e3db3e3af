"""Both kernels: exactness by type, missing values, extreme values, and transforms."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moment_checks import DIGITS, mean_and_m2

from streambn.kernels import Columns, FeatureTransform
from streambn.kernels import doubledouble as dd
from streambn.kernels.bitmaps import unpack_validity
from streambn.testing import exact_moments


def column(values, kind=None):
    return Columns.of(pa.array(values, kind, from_pandas=False))


def combined(*columns):
    """Return the first columns of several `Columns` together."""
    return Columns.of(*(c.batch.column(0) for c in columns))


def assert_exact(m, values, rtol=1e-14):
    """Compare count, mean and m2 with exact arithmetic."""
    mean, m2 = exact_moments(values)
    got_mean, got_m2 = mean_and_m2(m)
    assert m.count[0] == len(values)
    assert abs(got_m2 - m2) <= Fraction(rtol) * m2
    bound = Fraction(rtol) ** 2 * max(m2, mean**2 / 10**17)
    assert abs(got_mean - mean) ** 2 * len(values) <= bound


moderate = st.floats(-1e100, 1e100).filter(lambda v: v == 0 or abs(v) > 1e-100)


@given(moderate, moderate)
def test_two_sum_and_two_product_are_exact(a, b):
    s, e = dd.two_sum(np.array([a]), np.array([b]))
    assert Fraction(s[0]) + Fraction(e[0]) == Fraction(a) + Fraction(b)
    p, e = dd.two_product(np.array([a]), np.array([b]))
    assert Fraction(p[0]) + Fraction(e[0]) == Fraction(a) * Fraction(b)


@given(moderate, moderate.filter(bool))
def test_division_is_accurate_to_a_hundred_bits(a, b):
    zero = np.zeros(1)
    hi, lo = dd.divide((np.array([a]), zero), (np.array([b]), zero))
    exact = Fraction(a) / Fraction(b)
    assert abs(Fraction(hi[0]) + Fraction(lo[0]) - exact) <= abs(exact) / 2**100


INTEGERS = [pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64]


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda k: k.__name__)
@given(data=st.data())
def test_integers_keep_their_low_digits(kernels, kind, data):
    bits = kind().bit_width
    signed = pa.types.is_signed_integer(kind())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    near = data.draw(st.sampled_from([low, 0, high // 2, high]))
    value = st.integers(max(low, near - 9), min(high, near + 9))
    if data.draw(st.booleans()):
        value |= st.integers(low, high)
    values = data.draw(st.lists(value, min_size=1, max_size=20))
    assert_exact(kernels.block_moments(column(values, kind())), values)


def test_variance_of_int64_beyond_53_bits_is_exact(kernels):
    values = [2**53 + 1, 2**53 + 3, 2**53 + 5]
    m = kernels.block_moments(column(values, pa.int64()))
    assert m.m2_hi[0] / 3 == 8 / 3
    assert np.var(np.array(values)) != 8 / 3


@pytest.mark.parametrize(("kind", "digits"), DIGITS.items(), ids=[kind.__name__ for kind in DIGITS])
@given(data=st.data())
def test_decimals_keep_their_low_digits(kernels, kind, digits, data):
    scale = data.draw(st.integers(0, digits))
    # The kernels keep the mean in more than 100 bits, about 30 digits.
    top = 10 ** min(digits, 30) - 10
    near = data.draw(st.integers(-top, top))
    integers = [near + d for d in data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=9))]
    # 0.1 has no exact float64; the test compares with the exact value of the decimal.
    values = [Decimal(f"{i}E-{scale}") for i in integers]
    m = kernels.block_moments(column(values, kind(digits, scale)))
    exact = [Fraction(i, 10**scale) for i in integers]
    mean, m2 = exact_moments(exact)
    got_mean, got_m2 = mean_and_m2(m)
    assert abs(got_m2 - m2) <= Fraction(1e-14) * m2
    near = Fraction(1e-15) ** 2 * m2 / len(values) + (mean / 2**100) ** 2
    assert (got_mean - mean) ** 2 <= near
    assert m.min[0] == float(min(exact))
    assert m.max[0] == float(max(exact))


@pytest.mark.parametrize(
    "integers", [[-3801303461978787, 7925568533992650], [10**18 + 1, None, 1, -(10**18) - 129]]
)
@pytest.mark.parametrize(
    ("kind", "scale"),
    [(pa.decimal128(38, 34), 34), (pa.decimal256(40, 9), 9), (pa.decimal64(18, 2), 2), (None, 0)],
    ids=str,
)
def test_extremes_of_wide_ranges_are_correctly_rounded(kernels, integers, kind, scale):
    if kind == pa.decimal64(18, 2):
        integers = [None if i is None else i // 100 for i in integers]
    exact = [Fraction(i, 10**scale) for i in integers if i is not None]
    values = integers if kind is None else [i and Decimal(f"{i}E-{scale}") for i in integers]
    m = kernels.block_moments(column(values, kind or pa.int64()))
    assert (m.min[0], m.max[0]) == (float(min(exact)), float(max(exact)))


@pytest.mark.parametrize("start", [1, 1_000_000, 10_000_000])
def test_numacc_decimals_have_a_deviation_of_exactly_a_tenth(kernels, start):
    middle = Decimal(start) + Decimal("0.2")
    values = [middle] + [middle - Decimal("0.1"), middle + Decimal("0.1")] * 500
    m = kernels.block_moments(column(values, pa.decimal128(20, 1)))
    assert np.sqrt(m.m2_hi[0] / 1000) == 0.1
    assert m.mean_hi[0] == float(middle)


def test_decimals_at_both_ends_of_their_range(kernels):
    values = [Decimal(v) for v in (1 - 10**38, 10**38 - 1, 1)]
    assert_exact(kernels.block_moments(column(values, pa.decimal128(38, 0))), values)


@pytest.mark.parametrize("rows", [1, 2, 511, 512, 513, 1024, 1025, 262143, 262144, 262145])
def test_lengths_around_the_limits_of_the_loops(kernels, rows):
    x = 1e6 + np.random.default_rng(rows).normal(size=rows)
    assert_exact(kernels.block_moments(column(x)), x)


def test_sorted_data_moves_the_centre_of_every_block(kernels):
    x = np.linspace(-1e9, 1e9, 600_000)
    assert_exact(kernels.block_moments(column(x)), x)


def test_leading_outlier_does_not_cost_later_integers_digits(kernels):
    values = [0] + [2**60 + d for d in (1, 2, 4)] * 30
    m = kernels.block_moments(column(values[1:], pa.int64()))
    with_outlier = kernels.block_moments(column(values, pa.int64()), decay=0.25)
    assert_exact(m, values[1:])
    end = [Fraction(1, 4) ** i for i in range(len(values) - 1, -1, -1)]
    mean, m2 = exact_moments(values, end)
    got_mean, got_m2 = mean_and_m2(with_outlier)
    assert abs(got_mean - mean) < Fraction(1, 10**12)
    assert abs(got_m2 - m2) <= Fraction(1e-12) * m2


def merged_one_by_one(kernels, values):
    blocks = (kernels.block_moments(column([value])) for value in values)
    return functools.reduce(kernels.merge_moments, blocks, kernels.empty_moments(1))


@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, 1.7e308],
        [1.7e308, 1.7e308, -1.7e308],
        [1.5e200, -2.5e200, 3e200],
        [1.5e-200, -2.5e-200, 3e-200],
        [5e-324, 1e-323, 0.0, 4e-320],
        [1e-308, 3e-308],
        [0.0, 0.0, 1e-200],
        [1e300, -1e300, 1.0],
        [2.0**400, 2.0**401],
        [2.0**-401, 2.0**-399],
        [0.0, -0.0],
    ],
    ids=str,
)
def test_extreme_values_neither_overflow_nor_vanish(kernels, values):
    assert_exact(kernels.block_moments(column(values)), values)
    merged = merged_one_by_one(kernels, values)
    assert_exact(merged, values)
    assert (merged.min[0], merged.max[0]) == (min(values), max(values))


@settings.get_profile("many")
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12))
def test_any_finite_floats_stay_accurate(kernels, values):
    mean, m2 = exact_moments(values)
    for m in (kernels.block_moments(column(values)), merged_one_by_one(kernels, values)):
        got_mean, got_m2 = mean_and_m2(m)
        assert abs(got_m2 - m2) <= Fraction(1e-14) * m2
        largest = max(map(abs, map(Fraction, values)))
        assert abs(got_mean - mean) <= largest / 10**15


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e308, 7.0])
@pytest.mark.parametrize("decay", [1.0, 0.5])
@settings.get_profile("few")
@given(data=st.data())
def test_value_under_a_null_is_never_used(kernels, poison, decay, data):
    rows = data.draw(st.integers(1, 40))
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    x = np.random.default_rng(rows).normal(size=rows)
    offset = data.draw(st.integers(0, rows - 1))
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    hidden = [pa.py_buffer(np.where(valid, x, under_nulls)) for under_nulls in (poison, 0.0)]
    arrays = [pa.Array.from_buffers(pa.float64(), rows, [bitmap, values]) for values in hidden]
    a, b = (kernels.block_moments(Columns.of(array[offset:]), decay) for array in arrays)
    for got, expected in zip(a, b, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert a.nulls[0] == (~valid[offset:]).sum()
    assert a.nans[0] == a.pos_infs[0] == a.neg_infs[0] == 0


def test_each_kind_of_missing_value_has_its_own_count(kernels):
    values = [1.0, None, np.nan, np.inf, -np.inf, -np.inf, 3.0, None]
    m = kernels.block_moments(column(values))
    assert (m.count[0], m.nulls[0], m.nans[0], m.pos_infs[0], m.neg_infs[0]) == (2, 2, 1, 1, 2)
    assert (m.mean_hi[0], m.m2_hi[0], m.min[0], m.max[0]) == (2, 2, 1, 3)


def test_missing_values_do_not_affect_other_features(kernels):
    rng = np.random.default_rng(0)
    clean, dirty = rng.normal(size=(2, 500))
    dirty[7] = np.nan
    together = kernels.block_moments(combined(column(clean), column(dirty)))
    alone = kernels.block_moments(column(clean))
    for a, b in zip(together, alone, strict=True):
        assert a[0].tobytes() == b[0].tobytes()


@pytest.mark.parametrize("kinds", [(pa.float64(), pa.int64(), pa.float32()), (pa.int8(),) * 3])
def test_columns_of_mixed_types_keep_their_order(kernels, kinds):
    columns = [column([i, i + 2], kind) for i, kind in enumerate(kinds * 4)]
    m = kernels.block_moments(combined(*columns))
    np.testing.assert_array_equal(m.mean_hi, np.arange(12) + 1.0)


def test_no_columns_and_no_rows_give_empty_moments(kernels):
    assert kernels.block_moments(combined()).count.shape == (0,)
    empty = kernels.block_moments(combined(column([], pa.float64()), column([], pa.int64())))
    for got, expected in zip(empty, kernels.empty_moments(2), strict=True):
        np.testing.assert_array_equal(got, expected)


@given(st.integers(0, 40), st.integers(0, 20), st.integers(0, 20))
def test_validity_is_unpacked_at_every_offset(rows, start, stop):
    rng = np.random.default_rng(rows)
    valid = rng.random(rows) < 0.5
    array = pa.array(np.zeros(rows), mask=~valid).slice(min(start, rows))
    start, stop = sorted((min(start, len(array)), min(stop, len(array))))
    got = unpack_validity(array, start, stop)
    expected = [x.is_valid for x in array][start:stop]
    assert (got is None and all(expected)) or got.tolist() == expected


def feature_transform(mean_hi, spread, mean_lo=0.0, gamma=None, beta=None, clip=None):
    hi, lo, spread, gamma, beta = (
        None if v is None else np.array([v]) for v in (mean_hi, mean_lo, spread, gamma, beta)
    )
    return FeatureTransform.of(hi, lo, spread, gamma, beta, clip, np.array([True]))


F8 = pa.schema([("0", pa.float64())])


def normalized(kernels, values, transform, kind=None, schema=F8):
    return kernels.normalize(column(values, kind), transform, schema).batch.column(0)


def test_normalize_uses_both_halves_of_the_mean(kernels):
    got = normalized(kernels, [1e16 + 2, 1e16 + 4], feature_transform(1e16 + 2, 0.5, mean_lo=0.75))
    assert got.to_pylist() == [-1.5, 2.5]


def test_normalize_subtracts_integers_before_rounding(kernels):
    transform = feature_transform(2.0**60, 1.0, mean_lo=2.0)
    got = normalized(kernels, [2**60 + 1, 2**60 + 3], transform, pa.int64())
    assert got.to_pylist() == [-1.0, 1.0]
    big = [Decimal(10**30 + d) for d in (1, 3)]
    transform = feature_transform(1e30, 1.0, mean_lo=float(10**30 - int(1e30)) + 2)
    got = normalized(kernels, big, transform, pa.decimal128(38, 0))
    assert got.to_pylist() == pytest.approx([-1.0, 1.0], abs=1e-9)


def test_integers_far_from_the_mean_do_not_cost_those_near_it_digits(kernels):
    mean, far = 1739367877130134016, -495910728442151872 + 1
    got = normalized(kernels, [mean, *[far] * 30], feature_transform(float(mean), 1.0), pa.int64())
    assert got.to_pylist() == [0.0, *[float(far - mean)] * 30]


def test_normalize_extreme_values(kernels):
    got = normalized(kernels, [1.7e308, -1.7e308, 0.0], feature_transform(-1.7e308, 1.7e308))
    assert got.to_pylist() == [2.0, 0.0, 1.0]
    tiny = normalized(kernels, [3e-310, 1e-310], feature_transform(2e-310, 1e-310))
    assert tiny.to_pylist() == pytest.approx([1.0, -1.0], rel=1e-12, abs=0)


@pytest.mark.parametrize("missing", [[], [None]], ids=["whole", "with a null"])
def test_normalize_keeps_the_sign_of_zero(kernels, missing):
    values = [0.0, -0.0] * 20 + missing
    got = normalized(kernels, values, feature_transform(0.0, 3.0))
    assert repr(got.to_pylist()) == repr(values)


def test_clip_comes_before_gamma_and_beta(kernels):
    transform = feature_transform(0.0, 1.0, gamma=2.0, beta=1.0, clip=3.0)
    got = normalized(kernels, [0.0, 10.0, -10.0, None], transform)
    assert got.to_pylist() == [1.0, 7.0, -5.0, None]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_output_is_rounded_once_from_float64(kernels, dtype):
    x = np.random.default_rng(0).normal(size=100_000)
    schema = pa.schema([("0", pa.from_numpy_dtype(dtype))])
    got = normalized(kernels, x, feature_transform(0.1, 1.7), schema=schema).to_numpy()
    np.testing.assert_array_equal(got, ((x - 0.1) / 1.7).astype(dtype))


def test_denormalize_undoes_normalize(kernels):
    x = 1e15 + np.random.default_rng(0).normal(size=1000)
    transform = feature_transform(1e15, 0.7, mean_lo=0.3, gamma=2.0, beta=-1.0)
    z = normalized(kernels, x, transform)
    back = kernels.denormalize(Columns.of(z), transform, F8).batch.column(0).to_numpy()
    np.testing.assert_array_equal(back, x)


def test_transforms_count_nans_and_infinities(kernels):
    columns = column([1.0, np.nan, np.inf, None, -np.inf])
    got = kernels.normalize(columns, feature_transform(0.0, 1.0), F8)
    assert (got.nans[0], got.infs[0]) == (1, 2)


def test_environment_variable_chooses_the_implementation():
    command = [sys.executable, "-c", "import streambn.kernels as k; print(k.active)"]
    environment = {**os.environ, "STREAMBN_KERNELS": "reference"}
    assert subprocess.check_output(command, env=environment, text=True).strip() == "reference"
    environment["STREAMBN_KERNELS"] = "quantum"
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "STREAMBN_KERNELS must be 'native' or 'reference', got 'quantum'" in ran.stderr


def test_equal_rounding_errors_do_not_accumulate(kernels):
    values = [0.1, 0.3, 0.1, 0.1]
    m = kernels.block_moments(column(np.tile(values, 50_000)))
    m2 = exact_moments(values)[1] * 50_000
    assert abs(mean_and_m2(m)[1] - m2) <= Fraction(1e-15) * m2
