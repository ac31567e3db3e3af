"""Row weights in the kernels: exactness, extreme weights, agreement, and weights by time."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from moment_checks import COUNTS, assert_moments_agree, mean_and_m2

from streambn.kernels import BoundColumn, Columns, Layout, MomentArrays, Times, reference

# The tolerance of sums of 20 terms in a row, as moment_checks.py derives it.
CLOSE = Fraction(1, 10**14)


def exact(values, weights, decay=1.0, ignore_na=False):
    """Return the exact moments of values, where None is missing; sums of integers are fast."""
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
    return SimpleNamespace(
        count=len(x),
        weight=Fraction(total, share),
        pairs=Fraction(total**2 - squares, 2 * share**2),
        squares=Fraction(squares, share**2),
        mean=mean / unit,
        m2=(second - mean * first) / (unit**2 * share),
        decay=Fraction(decay) ** int(ages.sum()),
        low=min(x, default=math.inf),
        high=max(x, default=-math.inf),
    )


def assert_close(got, expected, close=CLOSE):
    assert abs(Fraction(got) - expected) <= close * expected


def assert_exact(m, expected, feature=0, close=CLOSE):
    extremes = float(expected.low), float(expected.high)
    assert (m.count[feature], m.min[feature], m.max[feature]) == (expected.count, *extremes)
    for name in ("weight", "pairs", "squares", "decay"):
        assert_close(getattr(m, name)[feature], getattr(expected, name), close)
    mean, m2 = mean_and_m2(m, feature)
    # A mean that moved far keeps a rounding error of its size, whatever weight is left.
    assert_close(m2, expected.m2, close)
    apart = max(abs(mean - expected.mean) - abs(expected.mean) / 2**95, 0)
    assert apart**2 * expected.weight <= close**2 * expected.m2


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


def assert_exact_moments(kernels, *arrays, weights, decay=1.0, ignore_na=False, close=CLOSE):
    """Compare the moments of weighted columns with exact ones, and return them."""
    weights = np.array(weights, np.float64)
    m = kernels.block_moments(Columns.of(*arrays).with_weights(weights), decay, ignore_na)
    series = [values for array in arrays for values in feature_values(array)]
    for feature, values in enumerate(series):
        assert_exact(m, exact(values, weights, decay, ignore_na), feature, close)
    return m


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


def sparse(rng, rows):
    return np.where(rng.random(rows) < 0.7, 0.0, rng.random(rows))


WEIGHTS = (
    uniform,
    wide,
    lambda rng, rows: (rng.random(rows) < 0.4).astype(np.float64),
    sparse,
    lambda rng, rows: np.zeros(rows),
)


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
    assert_exact_moments(kernels, *arrays, weights=w, decay=decay, ignore_na=ignore_na)


def test_some_chunks_have_missing_rows(kernels):
    rng = np.random.default_rng(0)
    rows = 70_000
    w, x = rng.random(rows), np.cumsum(rng.normal(size=rows))
    null = np.zeros(rows, bool)
    null[[40_000, 40_001, 60_000]] = True
    null[66_000:69_000] = True
    nan = np.where(null, np.nan, x)
    arrays = pa.array(x), pa.array(x, mask=null), pa.array(nan, from_pandas=False)
    assert_exact_moments(kernels, *arrays, weights=w)


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
    powers = {0: "mean_hi mean_lo", 30: "weight m2_hi m2_lo", 60: "pairs squares"}
    for power, names in powers.items():
        for name in names.split():
            scaled = np.ldexp(getattr(a, name), power)
            np.testing.assert_array_equal(scaled, getattr(b, name), name)


def far_and_heavy(at):
    """Return values. One of them is far from the others and outweighs them."""
    x, weights = np.random.default_rng(0).normal(1e5, 1, 700), np.full(700, 1e-10)
    x[at], weights[at] = 0.1, 1e20
    return x, weights


NEAR, FAR = [2**60 + 1, 2**60 + 3], [2**60 + 4, 2**60 + 7, -(2**60)]
HARD = {
    "a far integer of weight zero": ([*NEAR, *FAR], [2, 3, 4, 1, 0]),
    "a far integer of weight zero, and a null": ([*NEAR, None, *FAR], [1, 2, 3, 4, 1, 0]),
}
for at in (0, 350, 699):
    HARD[f"row {at} is far and outweighs the others"] = far_and_heavy(at)
for far, unit in ((1e308, 1.0), (-1e300, 1.0), (5e-324, 1e-300)):
    HARD[f"{far} of weight zero"] = [unit, 2 * unit, 4 * unit, far, 3 * unit], [1, 2, 3, 0, 4]
for rows in (2, 9, 700):
    x, weights = np.arange(rows) % 5 + 0.1, [1e-30] * (rows - 1)
    HARD[f"the last of {rows} rows outweighs the others"] = x, [*weights, 1.0]
    HARD[f"the first of {rows} rows outweighs the others"] = x, [1.0, *weights]


@pytest.mark.parametrize("decay", [1.0, 0.875, 0.5])
@pytest.mark.parametrize("name", HARD)
def test_extreme_values_and_weights_cost_no_digits(kernels, name, decay):
    values, weights = HARD[name]
    assert_exact_moments(kernels, pa.array(values), weights=weights, decay=decay)


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("ignore_na", [False, True])
def test_rows_of_weight_zero_are_only_counted(kernels, decay, ignore_na):
    x = pa.array([1.0, 9.0, None, 3.0, -7.0, math.inf, math.nan, 5.0], from_pandas=False)
    weights = [1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0]
    m = assert_exact_moments(kernels, x, weights=weights, decay=decay, ignore_na=ignore_na)
    assert (m.count[0], m.nulls[0], m.nans[0], m.pos_infs[0]) == (5, 1, 1, 1)
    assert (m.min[0], m.max[0]) == (-7.0, 9.0)


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
            np.testing.assert_array_equal([m.m2_hi, m.m2_lo], 0.0)
            np.testing.assert_array_equal(np.ldexp(m.mean_hi, m.exponent), value)


@pytest.mark.parametrize("rows", [3000, 100_000])
@pytest.mark.parametrize("nulls", [False, True])
def test_trailing_rows_of_weight_zero_leave_a_minimum_weight(kernels, rows, nulls):
    # Missing rows do the same; see merge.py.
    x = np.arange(float(rows))
    weights = np.where(x < 9, 1.0, 0.0)
    mask = nulls & (x == 5)
    m = kernels.block_moments(Columns.of(pa.array(x, mask=mask)).with_weights(weights), 0.5)
    assert m.count[0] == rows - nulls
    assert 2.0**-401 < m.weight[0] < 2.0**-399
    expected = exact([None if mask[i] else x[i] for i in range(9)], weights[:9], 0.5)
    mean, m2 = mean_and_m2(m, 0)
    assert_close(mean, expected.mean)
    assert_close(m2 / Fraction(m.weight[0]), expected.m2 / expected.weight)
    before = kernels.block_moments(Columns.of(pa.array([1.0, 3.0])), 0.5)
    nothing = Columns.of(pa.array(x[:5])).with_weights(weights[9:14])
    after = kernels.extend_moments(before, nothing, 0.5)
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
                for name in (*COUNTS, "min", "max"):
                    np.testing.assert_array_equal(getattr(m, name), getattr(plain, name), name)


def test_slices_keep_the_weights_of_their_rows(kernels):
    rng = np.random.default_rng(0)
    weights, x = rng.random(2000), rng.normal(size=2000)
    arrays = pa.array(x), pa.array(x, mask=rng.random(2000) < 0.2)
    columns = Columns.of(*arrays).with_weights(weights)
    for decay in (1.0, 0.875):
        for start, length in ((1, 7), (3, 600), (513, 1024), (1999, 1)):
            m = kernels.block_moments(columns.slice(start, length), decay)
            some = slice(start, start + length)
            for feature, array in enumerate(arrays):
                assert_exact(m, exact(array.to_pylist()[some], weights[some], decay), feature)


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
    assert_exact_moments(kernels, runs, weights=weights)


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
    empty = Columns.of(pa.array([], pa.float64()), pa.array([], pa.int64()))
    for decay in (1.0, 0.5):
        m = kernels.block_moments(empty.with_weights(np.zeros(0)), decay)
        np.testing.assert_array_equal(m.memory, kernels.empty_moments(2).memory)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_columns_of_nulls_have_decay_and_no_weight(kernels, decay):
    columns = Columns.of(pa.nulls(5), pa.nulls(5, pa.float64())).with_weights(np.ones(5))
    m = kernels.block_moments(columns, decay)
    np.testing.assert_array_equal(m.nulls, 5)
    np.testing.assert_array_equal(m.weight, 0)
    np.testing.assert_allclose(m.decay, decay**5, rtol=1e-15)


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
        got, expected = (k.block_moments(weighted, decay, ignore_na) for k in (native, reference))
        assert_moments_agree(got, expected)
        np.testing.assert_allclose(got.pairs, expected.pairs, rtol=1e-12, atol=0)
        np.testing.assert_allclose(got.squares, expected.squares, rtol=1e-13, atol=0)


def test_weighted_results_do_not_depend_on_threads(native, threads):
    columns, rng = large(1_000_001)
    columns = columns.with_weights(rng.random(columns.rows))
    times = Times(rng.integers(0, 2**40, columns.rows), 1)
    found = []
    for count in (1, 2, 5):
        threads(count)
        results = [native.time_weights(times, 2**40, 1e-11, columns.weights)]
        for decay, ignore_na in ((1.0, False), (0.999, False), (0.999, True)):
            results.append(native.block_moments(columns, decay, ignore_na).memory)
        found.append([result.tobytes() for result in results])
    assert found[0] == found[1] == found[2]


SIMD_SCRIPT = """
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
                found.append(m.memory.ravel())
        for ticks in (rng.integers(-(2**63), 2**63 - 1, rows), rng.normal(0, 1e3, rows)):
            latest = ticks.max().item()
            for halflives in (1e-17, 1e-3, 0.3):
                for given in (None, weights):
                    w = native.time_weights(Times(ticks, 1), latest, halflives, given)
                    found.append(w.view(np.int64))
"""


def test_instruction_sets_give_the_same_weighted_moments(by_instruction_set):
    found = by_instruction_set(SIMD_SCRIPT)
    for other in found.values():
        np.testing.assert_array_equal(other, found["baseline"])


def test_moments_have_a_field_for_squares():
    assert MomentArrays.FIELDS[9] == "squares"
    assert len(MomentArrays.FIELDS) == 16
