"""Row weights in the kernels: exactness, extreme weights, agreement, and weights by time."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from streambn.kernels import BoundColumn, Columns, Layout, MomentArrays, Times, reference

# The tolerance of sums of 20 terms in a row, as native_kernels.py derives it.
CLOSE = Fraction(1, 10**14)


# ------------------------------------------------------------------------- exact moments


class Exact(NamedTuple):
    """The exact moments of a feature; mean and m2 mean nothing if the weight is zero."""

    count: int
    weight: Fraction
    pairs: Fraction
    squares: Fraction
    mean: Fraction
    m2: Fraction
    decay: Fraction
    low: Fraction | float
    high: Fraction | float
    spread: Fraction  # of the values with a positive weight


def exact(values, weights, decay=1.0, ignore_na=False):
    """Return the exact moments of values, where None is missing.

    The sums run over integers, which is much faster than over fractions.
    """
    ages = np.array([not ignore_na or value is not None for value in values], int)
    behind = (ages.sum() - np.cumsum(ages)).tolist()
    there = [i for i, value in enumerate(values) if value is not None]
    x = [Fraction(values[i]) for i in there]
    w = [Fraction(weights[i]) * Fraction(decay) ** behind[i] for i in there]
    unit, share = (math.lcm(*(v.denominator for v in some)) for some in (x, w))
    x_whole, w_whole = [int(v * unit) for v in x], [int(v * share) for v in w]
    total, squares = sum(w_whole), sum(a * a for a in w_whole)
    first = sum(a * b for a, b in zip(w_whole, x_whole, strict=True))
    second = sum(a * b * b for a, b in zip(w_whole, x_whole, strict=True))
    mean = Fraction(first, total) if total else Fraction(0)
    weighted = [v for v, a in zip(x, w, strict=True) if a]
    return Exact(
        len(x),
        Fraction(total, share),
        Fraction(total**2 - squares, 2 * share**2),
        Fraction(squares, share**2),
        mean / unit,
        (second - mean * first) / (unit**2 * share),
        Fraction(decay) ** int(ages.sum()),
        min(x, default=math.inf),
        max(x, default=-math.inf),
        max(weighted) - min(weighted) if weighted else Fraction(0),
    )


def mean_and_m2(m, feature):
    """Return mean and m2 of a feature as fractions."""
    unit = Fraction(2) ** int(m.exponent[feature])
    mean = (Fraction(m.mean_hi[feature]) + Fraction(m.mean_lo[feature])) * unit
    return mean, (Fraction(m.m2_hi[feature]) + Fraction(m.m2_lo[feature])) * unit**2


def assert_close(got, expected, close=CLOSE):
    assert abs(Fraction(got) - expected) <= close * expected


def assert_exact(m, expected, feature=0, close=CLOSE):
    assert m.count[feature] == expected.count
    assert m.min[feature] == float(expected.low)
    assert m.max[feature] == float(expected.high)
    assert_close(m.weight[feature], expected.weight, close)
    assert_close(m.pairs[feature], expected.pairs, close)
    assert_close(m.squares[feature], expected.squares, close)
    assert_close(m.decay[feature], expected.decay, close)
    mean, m2 = mean_and_m2(m, feature)
    # A mean that moved far keeps a rounding error of its size, whatever weight is left.
    assert_close(m2, expected.m2, close)
    apart = max(abs(mean - expected.mean) - abs(expected.mean) / 2**95, 0)
    assert apart**2 * expected.weight <= close**2 * expected.m2


# -------------------------------------------------------------- random columns and slices


def floats(rng, n):
    return rng.choice([0.0, 1e3, -1e9]) + rng.normal(size=n)


def whole(rng, n):
    return (rng.integers(0, 2**20, n) + 2**60).tolist()


def primitive(kind, draw):
    def column(rng, rows):
        values = draw(rng, rows)
        if pa.types.is_floating(kind):
            values = np.asarray(values).astype(kind.to_pandas_dtype())
            if rng.random() < 0.4:
                values[rng.random(rows) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
        null = rng.random(rows) < rng.choice([0.0, 0.3, 0.9])
        return pa.array(values, kind, mask=null if rng.random() < 0.7 else None, from_pandas=False)

    return column


def decimals(kind):
    def draw(rng, rows):
        near = rng.choice([0, 10**12])
        return [Decimal(int(v)) / 1000 for v in near + rng.integers(-(10**5), 10**5, rows)]

    return primitive(kind, draw)


def lists(rng, rows):
    inner = primitive(pa.float64(), floats)(rng, 3 * rows)
    null = pa.array(rng.random(rows) < rng.choice([0.0, 0.2]))
    return pa.FixedSizeListArray.from_arrays(inner, 3, mask=null)


def encoded(rng, rows):
    values = primitive(pa.float64(), floats)(rng, 5)
    return pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 5, rows), pa.int32()), values)


KINDS = {
    "float64": primitive(pa.float64(), floats),
    "float32": primitive(pa.float32(), floats),
    "float16": primitive(pa.float16(), lambda rng, n: rng.normal(size=n)),
    "int8": primitive(pa.int8(), lambda rng, n: rng.integers(-100, 100, n)),
    "int64": primitive(pa.int64(), whole),
    "uint64": primitive(pa.uint64(), lambda rng, n: [v + 2**63 for v in whole(rng, n)]),
    "decimal64": decimals(pa.decimal64(18, 3)),
    "decimal128": decimals(pa.decimal128(38, 3)),
    "list": lists,
    "dictionary": encoded,
}


def uniform(rng, rows):
    return rng.random(rows)


def wide(rng, rows):
    return 10.0 ** rng.uniform(-20, 20, rows)


def zero_or_one(rng, rows):
    return (rng.random(rows) < 0.4).astype(np.float64)


def sparse(rng, rows):
    return np.where(rng.random(rows) < 0.7, 0.0, rng.random(rows))


def zero(rng, rows):
    return np.zeros(rows)


WEIGHTS = (uniform, wide, zero_or_one, sparse, zero)


def feature_values(array):
    """Return the values of each feature, None where they are missing."""
    rows = array.to_pylist()
    size = getattr(array.type, "list_size", 1)
    rows = [[None] * size if row is None else row if size > 1 else [row] for row in rows]
    usable = [
        [None if v is None or (isinstance(v, float) and not math.isfinite(v)) else v for v in row]
        for row in rows
    ]
    return list(zip(*usable, strict=True))


def merged_at_random(rng, kernels, parts):
    parts = list(parts)
    while len(parts) > 1:
        i = int(rng.integers(len(parts) - 1))
        parts[i : i + 2] = [kernels.merge_moments(*parts[i : i + 2])]
    return parts[0]


def moments_by_partition(rng, kernels, columns, decay, ignore_na):
    """Yield the moments of all rows at once, of one slice after another, and merged."""
    yield kernels.block_moments(columns, decay, ignore_na)
    cuts = np.sort(rng.integers(0, columns.rows + 1, 3)).tolist()
    bounds = zip([0, *cuts], [*cuts, columns.rows], strict=True)
    batches = [columns.slice(start, stop - start) for start, stop in bounds]
    grown = kernels.empty_moments(columns.layout.features)
    for batch in batches:
        grown = kernels.extend_moments(grown, batch, decay, ignore_na)
    yield grown
    blocks = (kernels.block_moments(batch, decay, ignore_na) for batch in batches)
    yield merged_at_random(rng, kernels, blocks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("decay", "ignore_na"), [(1.0, False), (0.9, False), (0.9, True)])
def test_weighted_moments_are_exact_for_any_partition(kernels, kind, decay, ignore_na):
    rng = np.random.default_rng([len(kind), int(10 * decay), ignore_na])
    for i in range(40):
        array = KINDS[kind](rng, int(rng.choice([1, 2, 5, 8, 9, 30])))
        weights = WEIGHTS[i % len(WEIGHTS)](rng, len(array))
        columns = Columns.of(array).with_weights(weights)
        truth = [exact(values, weights, decay, ignore_na) for values in feature_values(array)]
        for m in moments_by_partition(rng, kernels, columns, decay, ignore_na):
            for feature, expected in enumerate(truth):
                assert_exact(m, expected, feature, 4 * CLOSE)


LENGTHS = [7, 511, 512, 513, 1025, 2500]


@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("weights", [uniform, wide, sparse])
@pytest.mark.parametrize(("decay", "ignore_na"), [(1.0, False), (0.875, False), (0.875, True)])
def test_lengths_around_the_limits_of_the_loops(kernels, rows, weights, decay, ignore_na):
    rng = np.random.default_rng(rows)
    w = weights(rng, rows)
    x = 1e6 + rng.normal(size=rows)
    runs = np.repeat(rng.random(rows // 100 + 1) < 0.5, 100)[:rows]
    masks = [None, rng.random(rows) < 0.3, runs, np.arange(rows) // 512 == 1]
    arrays = [pa.array(x, mask=mask) for mask in masks]
    m = kernels.block_moments(Columns.of(*arrays).with_weights(w), decay, ignore_na)
    for feature, array in enumerate(arrays):
        assert_exact(m, exact(array.to_pylist(), w, decay, ignore_na), feature)


def test_some_chunks_have_missing_rows(kernels):
    rng = np.random.default_rng(0)
    rows = 70_000
    w = rng.random(rows)
    x = np.cumsum(rng.normal(size=rows))
    null = np.zeros(rows, bool)
    null[[40_000, 40_001, 60_000]] = True
    null[66_000:69_000] = True
    nan = np.where(null, np.nan, x)
    arrays = pa.array(x), pa.array(x, mask=null), pa.array(nan, from_pandas=False)
    m = kernels.block_moments(Columns.of(*arrays).with_weights(w))
    some = [None if missing else value for missing, value in zip(null, x.tolist(), strict=True)]
    for feature, values in enumerate((x.tolist(), some, some)):
        assert_exact(m, exact(values, w), feature)


def test_equal_weights_give_exact_sums_of_weights(kernels):
    rows = 5000
    array = pa.array(np.random.default_rng(0).normal(size=rows))
    for one in (1.0, 0.5, 2.0**40):
        m = kernels.block_moments(Columns.of(array).with_weights(np.full(rows, one)))
        assert m.weight[0] == rows * one
        assert m.pairs[0] == rows * (rows - 1) / 2 * one**2
        assert m.squares[0] == rows * one**2


def test_weights_times_a_power_of_two_keep_the_mean(kernels):
    rng = np.random.default_rng(0)
    w = rng.random(3000)
    columns = Columns.of(pa.array(rng.normal(size=3000)), pa.array(rng.integers(0, 9, 3000)))
    a = kernels.block_moments(columns.with_weights(w))
    b = kernels.block_moments(columns.with_weights(np.ldexp(w, 30)))
    for name, power in (
        ("mean_hi", 0), ("mean_lo", 0), ("weight", 30), ("m2_hi", 30), ("m2_lo", 30),
        ("pairs", 60), ("squares", 60),
    ):  # fmt: skip
        np.testing.assert_array_equal(np.ldexp(getattr(a, name), power), getattr(b, name), name)


# ------------------------------------------------------------------------ extreme weights


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("rows", [2, 9, 700])
def test_pairs_do_not_cancel_next_to_a_dominant_weight(kernels, order, rows):
    weights = np.full(rows, 1e-30)
    weights[-1] = 1.0
    weights = weights[::order].copy()
    x = np.arange(rows) % 5 + 0.1
    m = kernels.block_moments(Columns.of(pa.array(x)).with_weights(weights))
    assert_exact(m, exact(x.tolist(), weights))
    assert m.pairs[0] > 0


@pytest.mark.parametrize("decay", [1.0, 0.875])
def test_mean_is_exact_next_to_a_dominant_far_value(kernels, decay):
    rng = np.random.default_rng(0)
    for at in (0, 350, 699):
        x = rng.normal(1e5, 1, 700)
        weights = np.full(700, 1e-10)
        x[at], weights[at] = 0.1, 1e20
        m = kernels.block_moments(Columns.of(pa.array(x)).with_weights(weights), decay)
        assert_exact(m, exact(x.tolist(), weights, decay))


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("ignore_na", [False, True])
def test_rows_of_weight_zero_are_only_counted(kernels, decay, ignore_na):
    x = [1.0, 9.0, None, 3.0, -7.0, math.inf, math.nan, 5.0]
    weights = np.array([1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0])
    columns = Columns.of(pa.array(x, from_pandas=False)).with_weights(weights)
    m = kernels.block_moments(columns, decay, ignore_na)
    assert (m.count[0], m.nulls[0], m.nans[0], m.pos_infs[0]) == (5, 1, 1, 1)
    assert (m.min[0], m.max[0]) == (-7.0, 9.0)
    values = [v if v is not None and math.isfinite(v) else None for v in x]
    assert_exact(m, exact(values, weights, decay, ignore_na))


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("far", [1e308, -1e300, 5e-324])
def test_extreme_value_of_weight_zero_costs_no_digits(kernels, decay, far):
    small = abs(far) < 1
    x = np.array([1.0, 2.0, 4.0, far, 3.0]) * (1e-300 if small else 1.0)
    x[3] = far
    weights = np.array([1.0, 2.0, 3.0, 0.0, 4.0])
    m = kernels.block_moments(Columns.of(pa.array(x)).with_weights(weights), decay)
    assert_exact(m, exact(x.tolist(), weights, decay))


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("null", [False, True])
def test_far_integer_of_weight_zero_costs_no_digits(kernels, decay, null):
    x = [2**60 + 1, 2**60 + 3, *([None] if null else []), 2**60 + 4, 2**60 + 7, -(2**60)]
    array = pa.array(x)
    weights = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 0.0][-len(x) :])
    m = kernels.block_moments(Columns.of(array).with_weights(weights), decay)
    assert_exact(m, exact(x, weights, decay))


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("kind", ["float64", "int64", "decimal128", "list"])
def test_moments_of_weight_zero_do_not_change_others(kernels, decay, kind):
    rng = np.random.default_rng(1)
    array = KINDS[kind](rng, 30)
    m = kernels.block_moments(Columns.of(array).with_weights(np.zeros(30)), decay)
    assert m.count.any()
    for name in ("weight", "pairs", "squares", "mean_hi", "mean_lo", "m2_hi", "m2_lo"):
        assert not getattr(m, name).any(), name
    empty = kernels.empty_moments(len(m.count))
    for merged in (kernels.merge_moments(empty, m), kernels.merge_moments(m, empty)):
        np.testing.assert_array_equal(merged.memory, m.memory)
    some = kernels.block_moments(Columns.of(array))
    for merged in (kernels.merge_moments(some, m), kernels.merge_moments(m, some)):
        np.testing.assert_array_equal(merged.mean_hi, some.mean_hi)
        np.testing.assert_array_equal(merged.count, some.count + m.count)


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("value", [0.1, -1e200, 1e-320, 0.0])
@pytest.mark.parametrize("rows", [3, 20, 5000])
def test_weighted_constant_has_no_deviation(kernels, decay, value, rows):
    rng = np.random.default_rng(rows)
    null = rng.random(rows) < 0.3
    null[-1] = False
    constant = np.full(rows, value)
    # Rows of weight zero may have other values.
    other = np.where(np.arange(rows) % 3 == 0, 7.0, constant)
    for weights in (rng.random(rows), wide(rng, rows)):
        filtered = np.where(np.arange(rows) % 3 == 0, 0.0, weights)
        for x, w in ((constant, weights), (other, filtered)):
            columns = Columns.of(pa.array(x), pa.array(x, mask=null)).with_weights(w)
            m = kernels.block_moments(columns, decay)
            np.testing.assert_array_equal(m.m2_hi, 0.0)
            np.testing.assert_array_equal(m.m2_lo, 0.0)
            np.testing.assert_array_equal(np.ldexp(m.mean_hi, m.exponent), value)


@pytest.mark.parametrize("rows", [3000, 100_000])
@pytest.mark.parametrize("nulls", [False, True])
def test_trailing_rows_of_weight_zero_leave_a_minimum_weight(kernels, rows, nulls):
    # Missing rows do the same; see merge.py.
    x = np.arange(float(rows))
    weights = np.zeros(rows)
    weights[:9] = 1.0
    mask = np.zeros(rows, bool)
    mask[5] = nulls
    m = kernels.block_moments(Columns.of(pa.array(x, mask=mask)).with_weights(weights), 0.5)
    assert m.count[0] == rows - nulls
    assert 2.0**-401 < m.weight[0] < 2.0**-399
    expected = exact([None if mask[i] else x[i] for i in range(9)], weights[:9], 0.5)
    mean, m2 = mean_and_m2(m, 0)
    assert_close(mean, expected.mean)
    assert_close(m2 / Fraction(m.weight[0]), expected.m2 / expected.weight)
    before = kernels.block_moments(Columns.of(pa.array([1.0, 3.0])), 0.5)
    after = kernels.extend_moments(
        before, Columns.of(pa.array(x[:5])).with_weights(weights[9:14]), 0.5
    )
    assert after.weight[0] == before.weight[0] / 2**5


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint64", "decimal128", "list"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_invalid_weights_do_not_crash(native, kind, decay):
    rng = np.random.default_rng(0)
    odd = np.array([np.nan, np.inf, -np.inf, -1.0, -5e-324, 5e-324, 1e308, -1e308, 1.0, 0.0])
    for rows in (1, 9, 3000):
        array = KINDS[kind](rng, rows)
        for _ in range(20):
            weights = rng.choice(odd, rows)
            for ignore_na in (False, True):
                m = native.block_moments(Columns.of(array).with_weights(weights), decay, ignore_na)
                plain = native.block_moments(Columns.of(array), decay, ignore_na)
                for name in ("count", "nulls", "nans", "pos_infs", "neg_infs", "min", "max"):
                    np.testing.assert_array_equal(getattr(m, name), getattr(plain, name), name)


# ------------------------------------------------------------------------ kinds of columns


def test_slices_keep_the_weights_of_their_rows(kernels):
    rng = np.random.default_rng(0)
    rows = 2000
    weights = rng.random(rows)
    x = rng.normal(size=rows)
    null = rng.random(rows) < 0.2
    arrays = pa.array(x), pa.array(x, mask=null)
    columns = Columns.of(*arrays).with_weights(weights)
    for decay in (1.0, 0.875):
        for start, length in ((1, 7), (3, 600), (513, 1024), (1999, 1)):
            m = kernels.block_moments(columns.slice(start, length), decay)
            some = slice(start, start + length)
            for feature, array in enumerate(arrays):
                values = array.to_pylist()[some]
                assert_exact(m, exact(values, weights[some], decay), feature)


def test_nested_and_encoded_columns_have_weights(kernels):
    x = [1.0, 2.0, None, 7.0]
    weights = np.array([3.0, 1.0, 5.0, 2.0])
    inner = pa.array(x)
    struct = pa.StructArray.from_arrays(
        [inner, inner.dictionary_encode()], ["x", "y"], mask=pa.array([False, True, False, False])
    )
    batch = pa.record_batch({"s": struct})
    for field in (0, 1):
        layout = Layout([BoundColumn((0, field), None)], batch.schema, encoded=field == 1)
        m = kernels.block_moments(Columns(batch, layout, weights))
        assert_exact(m, exact([1.0, None, None, 7.0], weights))
    runs = pa.RunEndEncodedArray.from_arrays([2, 4], [1.0, 5.0])
    m = kernels.block_moments(Columns.of(runs).with_weights(weights))
    assert_exact(m, exact([1.0, 1.0, 5.0, 5.0], weights))


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_rows_of_a_matrix_have_weights(kernels, size, dtype):
    rng = np.random.default_rng(0)
    weights = rng.random(50)
    places = [BoundColumn((i,), None) for i in range(3)] if size is None else [BoundColumn((0,), 3)]
    matrix = (10 * rng.normal(size=(50, 3))).astype(dtype, order="F" if size is None else "C")
    m = kernels.block_moments(Columns(matrix, Layout(places), weights), 0.9)
    for feature in range(3):
        assert_exact(m, exact(matrix[:, feature].tolist(), weights, 0.9), feature)


def test_weights_without_columns_or_rows(kernels):
    assert kernels.block_moments(Columns.of().with_weights(np.zeros(0))).memory.shape[1] == 0
    empty = Columns.of(pa.array([], pa.float64()), pa.array([], pa.int64())).with_weights(
        np.zeros(0)
    )
    for decay in (1.0, 0.5):
        m = kernels.block_moments(empty, decay)
        np.testing.assert_array_equal(m.memory, kernels.empty_moments(2).memory)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_columns_of_nulls_have_decay_and_no_weight(kernels, decay):
    columns = Columns.of(pa.nulls(5), pa.nulls(5, pa.float64())).with_weights(np.ones(5))
    m = kernels.block_moments(columns, decay)
    np.testing.assert_array_equal(m.nulls, 5)
    np.testing.assert_array_equal(m.weight, 0)
    np.testing.assert_allclose(m.decay, decay**5, rtol=1e-15)


# ------------------------------------------------- compiled kernels: agreement, threads, SIMD


def assert_moments_agree(got, expected):
    for name in ("count", "nulls", "nans", "pos_infs", "neg_infs", "min", "max"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    np.testing.assert_allclose(got.weight, expected.weight, rtol=1e-14, atol=0)
    # The reference adds pairs row by row.
    np.testing.assert_allclose(got.pairs, expected.pairs, rtol=1e-12, atol=0)
    np.testing.assert_allclose(got.squares, expected.squares, rtol=1e-13, atol=0)
    np.testing.assert_allclose(got.decay, expected.decay, rtol=1e-13, atol=0)
    np.testing.assert_allclose(got.m2_hi, expected.m2_hi, rtol=1e-14, atol=0)
    deviation = np.sqrt(expected.m2_hi / np.where(expected.weight > 0, expected.weight, 1.0))
    apart = (got.mean_hi - expected.mean_hi) + (got.mean_lo - expected.mean_lo)
    assert (np.abs(apart) <= 1e-14 * deviation + 2.0**-95 * np.abs(expected.mean_hi)).all()


def large(rows):
    rng = np.random.default_rng(rows)
    x = rng.normal(1e3, 1, rows)
    null = rng.random(rows) < 0.1
    few = rng.random(rows) < 2.0 / rows
    columns = Columns.of(
        pa.array(x),
        pa.array(x, mask=null),
        pa.array(x, mask=few),
        pa.array(np.where(null, np.nan, x), from_pandas=False),
        pa.array(x.astype(np.float32)),
        pa.array((x * 1e9).astype(np.int64)),
        pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=3 * rows)), 3),
    )
    return columns, rng


@pytest.mark.parametrize("rows", [32_768, 32_769, 140_001])
@pytest.mark.parametrize(("decay", "ignore_na"), [(1.0, False), (0.999, False), (0.9, True)])
def test_large_weighted_batches_agree_with_the_reference(native, rows, decay, ignore_na):
    columns, rng = large(rows)
    for weights in (uniform(rng, rows), wide(rng, rows), sparse(rng, rows)):
        weighted = columns.with_weights(weights)
        got = native.block_moments(weighted, decay, ignore_na)
        assert_moments_agree(got, reference.block_moments(weighted, decay, ignore_na))


def test_weighted_results_do_not_depend_on_threads(native):
    columns, rng = large(1_000_001)
    columns = columns.with_weights(rng.random(columns.rows))
    times = Times(rng.integers(0, 2**40, columns.rows), 1)
    before = native._threads
    try:
        found = []
        for threads in (1, 2, 5):
            native.set_threads(threads)
            found.append(
                [
                    native.block_moments(columns, decay, ignore_na).memory.tobytes()
                    for decay, ignore_na in ((1.0, False), (0.999, False), (0.999, True))
                ]
                + [native.time_weights(times, 2**40, 1e-11, columns.weights).tobytes()]
            )
    finally:
        native.set_threads(before)
    assert found[0] == found[1] == found[2]


SIMD_SCRIPT = """
import sys
import numpy as np, pyarrow as pa
from streambn.kernels import Columns, Times, native

out = []
for rows in (1, 7, 65, 511, 513, 1025, 40001):
    rng = np.random.default_rng(rows)
    x = rng.normal(1e3, 1, rows)
    null = rng.random(rows) < 0.2
    arrays = [pa.array(x), pa.array(x, mask=null), pa.array(x.astype("f4"), mask=null)]
    arrays += [pa.array(x.astype("f2")), pa.array((x * 1e9).astype("i8"), mask=null)]
    arrays += [pa.array(np.where(null, np.nan, x), from_pandas=False), pa.array(x * 1e-310)]
    columns = Columns.of(*arrays)
    for weights in (rng.random(rows), 10.0 ** rng.uniform(-20, 20, rows), null * 1.0):
        for decay in (1.0, 0.99):
            for ignore_na in (False, True):
                m = native.block_moments(columns.with_weights(weights), decay, ignore_na)
                out.append(m.memory.ravel())
        for ticks in (rng.integers(-(2**63), 2**63 - 1, rows), rng.normal(0, 1e3, rows)):
            latest = ticks.max().item()
            for halflives in (1e-17, 1e-3, 0.3):
                for given in (None, weights):
                    w = native.time_weights(Times(ticks, 1), latest, halflives, given)
                    out.append(w.view(np.int64))
np.save(sys.argv[1], np.concatenate(out))
print(native.simd)
"""


def test_instruction_sets_give_the_same_weighted_moments(native, tmp_path):
    found = {}
    for simd in ("baseline", "avx2", "avx512"):
        path = tmp_path / f"{simd}.npy"
        ran = subprocess.run(
            [sys.executable, "-c", SIMD_SCRIPT, path],
            env={**os.environ, "STREAMBN_SIMD": simd}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[ran.stdout.strip()] = np.load(path)
    assert native.simd in found
    for other in found.values():
        np.testing.assert_array_equal(other, found["baseline"])


# ------------------------------------------------------------------------- weights by time


def two_to(x):
    """Return 2**x of a fraction to fifty digits."""
    whole = math.floor(x)
    power, rest = Fraction(1), Fraction(2) ** whole
    # 2**f is a product of powers 2**(1/2), 2**(1/4), ...: each is the root of the one before.
    digits, f = Fraction(2), x - whole
    for _ in range(90):
        digits = Fraction(math.isqrt(int(digits * 2**400)), 2**200)
        f *= 2
        if f >= 1:
            power, f = power * digits, f - 1
            power = Fraction(int(power * 2**200), 2**200)
    return power * rest


def assert_near_weights(got, ages, halflives, weights=None):
    """Compare with the exact power of the float64 product, in ulp."""
    for i, (w, age) in enumerate(zip(got.tolist(), ages, strict=True)):
        x = float(age) * -halflives
        if x < -1000:
            assert w == 0
            continue
        expected = two_to(Fraction(x)) * (1 if weights is None else Fraction(weights[i]))
        # The product with a weight has one more rounding.
        units = 2 if weights is None else 3.5
        assert abs(Fraction(w) - expected) <= Fraction(units) * Fraction(math.ulp(float(expected)))


NANOSECONDS = 365 * 86_400 * 10**9  # in a year
TICKS = {
    "both extremes": (np.array([-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 2, 2**63 - 1]), 2**-54),
    "just above zero": (np.array([-(2**63), 2**63 - 1]), 1 / (2.0**64 / 999)),
    "zero at the far end": (np.array([-(2**63), 2**63 - 1]), 1 / (2.0**64 / 1001)),
    "centuries": (np.arange(-280, 281) * (NANOSECONDS // 2), 1 / (7 * NANOSECONDS)),
    "seconds": (1_700_000_000 + np.arange(0, 900, 7), 1 / 60),
    "floats": (np.array([-1e3, -0.1, 0.0, 1e-9, 0.1, 3.5]), 1 / 1.7),
    "far floats": (np.array([-1e300, -1e18, 1e18 - 512, 1e18]), 1 / 1000.0),
    "equal": (np.array([5, 5, 5]), 3.0),
}


@pytest.mark.parametrize("name", TICKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_by_time_are_powers_of_two(kernels, name, weighted):
    ticks, halflives = TICKS[name]
    weights = np.random.default_rng(0).random(len(ticks)) if weighted else None
    for latest in (ticks.max().item(), ticks[len(ticks) // 2 :].max().item()):
        got = kernels.time_weights(Times(ticks, 1), latest, halflives, weights)
        assert got.dtype == np.float64
        if ticks.dtype == np.int64:
            ages = [latest - tick for tick in ticks.tolist()]
        else:
            ages = (latest - ticks).tolist()
        assert_near_weights(got, ages, halflives, weights)


def test_weight_is_zero_past_a_thousand_halflives(kernels):
    ages = np.array([999.999, 1000.0, np.nextafter(1000.0, 2000.0), 1e9, np.inf])
    got = kernels.time_weights(Times(-ages, None), 0.0, 1.0)
    assert got[1] == 2.0**-1000
    assert got[0] > got[1]
    np.testing.assert_array_equal(got[2:], 0.0)


def test_random_powers_are_accurate_to_two_ulp(kernels):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 1, 300), rng.uniform(0, 1000, 300), np.arange(0, 10, 0.5)])
    got = kernels.time_weights(Times(-x, None), 0.0, 1.0)
    assert_near_weights(got, x.tolist(), 1.0)
    np.testing.assert_array_equal(got[np.rint(x) == x], np.exp2(-x[np.rint(x) == x]))


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000, 70_000])
def test_weights_by_time_agree_with_the_reference(native, rows):
    rng = np.random.default_rng(rows)
    weights = rng.random(rows)
    for ticks, halflives in (
        (rng.integers(-(2**63), 2**63 - 1, rows), 1e-17),
        (rng.integers(0, 2**50, rows), 1e-13),
        (rng.normal(0, 100, rows), 0.7),
    ):
        latest = ticks.max(initial=0).item()
        for given in (None, weights):
            arguments = Times(ticks, 1), latest, halflives, given
            got, expected = (k.time_weights(*arguments) for k in (native, reference))
            assert (np.abs(got - expected) <= 4 * np.spacing(expected)).all()
            assert got.shape == (rows,)
    if rows == 1000:
        assert ((got > 0) & (got < 1)).all()


def test_unfit_times_raise(native):
    core, out = native._core.time_weights, np.full(3, 7.0)
    good = np.arange(3)
    for ticks in (
        good.astype(np.int32),
        good[::-1],
        good.astype(np.uint64),
        good[:2],
        "text",
        None,
    ):
        with pytest.raises((ValueError, BufferError, TypeError)):
            core(ticks, 2, 1.0, None, 1, out)
    for weights in (good, np.ones(2), np.ones(6)[::2], np.ones(3, np.float32)):
        with pytest.raises((ValueError, BufferError)):
            core(good, 2, 1.0, weights, 1, out)
    for latest in (1.5, "now", 2**63, None):
        with pytest.raises((RuntimeError, TypeError, ValueError, OverflowError)):
            core(good, latest, 1.0, None, 1, out)
    np.testing.assert_array_equal(out, 7.0)


def test_moments_have_a_field_for_squares():
    assert MomentArrays.FIELDS[9] == "squares"
    assert len(MomentArrays.FIELDS) == 16
