"""The row kernels, RowStatistics, and moments of matrices."""

from __future__ import annotations

import contextlib
import math
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from streambn.accumulators import Moments
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import BoundColumn, Columns, Layout, reference
from streambn.kernels.interface import ABSENT
from streambn.kernels.moments import MomentArrays
from streambn.kernels.rows import CONSTANT, MISSING, UNSEEN, RowRules, number, refuse
from streambn.testing import exact_moments

FIELDS = len(MomentArrays.FIELDS)
PLAIN = RowRules(1.0, False, 0.0, 0, 0.0, math.inf, True, True, 0, 1, 0, 0)
RULES = {
    "Welford": PLAIN,
    "Welford, ddof=1": PLAIN._replace(ddof=1),
    "EMA": PLAIN._replace(decay=0.9),
    "EMA, ddof=1, eps": PLAIN._replace(decay=0.9, ddof=1, eps=1e-5),
    "EMA, missing ignored": PLAIN._replace(decay=0.9, ignore_missing=True),
    "EMA, recursive": PLAIN._replace(decay=0.9, prior=1 / (1 - 0.9)),
    "EMA, recursive, missing ignored": PLAIN._replace(decay=0.5, prior=2.0, ignore_missing=True),
    "EMA, recursive, only the last value": PLAIN._replace(decay=0.0, prior=1.0),
    "the last value alone": PLAIN._replace(decay=0.0),
    "NaN propagated, clipped": PLAIN._replace(nan=MISSING.index("propagate"), clip=2.0),
    "infinities propagated": PLAIN._replace(inf=MISSING.index("propagate"), decay=0.7),
    "infinities ignored": PLAIN._replace(inf=MISSING.index("ignore"), center=False),
    "few values": PLAIN._replace(min_count=6, nan=MISSING.index("propagate")),
    "few values, recursive": PLAIN._replace(min_count=3, decay=0.9, prior=1 / (1 - 0.9)),
    "unseen passed through, no scale": PLAIN._replace(
        unseen=UNSEEN.index("passthrough"), scale=False
    ),
}


def value(rng, infinities):
    """Draw a value of a random type for a row."""
    kind = rng.random()
    if kind < 0.05:
        return None
    if kind < 0.1:
        return math.nan
    if kind < 0.12 and infinities:
        return rng.choice([math.inf, -math.inf])
    if kind < 0.2:
        return rng.randint(-5, 5)
    if kind < 0.22:
        return 2**60 + rng.randint(0, 9)
    if kind < 0.25:
        return Decimal("1.1") * rng.randint(1, 9)
    if kind < 0.27:
        return rng.choice([0.0, -0.0, np.float32(1.5), np.int8(3), Fraction(1, 3)])
    if kind < 0.3:
        return 10.0 ** rng.randint(-300, 300)
    return rng.gauss(100, 1)


def row_statistics(kernels, rules=PLAIN, affine=()):
    return kernels.RowStatistics(*rules, dict(affine), number, refuse)


def empty_arrays(statistics):
    """Return arrays for moments, first values and gaps."""
    n = len(statistics)
    return *np.zeros((2, FIELDS, n), np.int64), np.zeros((2, n), np.int64)


def stored(statistics):
    moments, first, gaps = empty_arrays(statistics)
    statistics.store(moments, first, gaps, None)
    return MomentArrays(moments), MomentArrays(first), gaps


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_kernels_learn_and_transform_alike(native, rules):
    rng = random.Random(repr(rules))
    for _ in range(15):
        both = [row_statistics(k, rules, {"c": (2.0, 1.0)}) for k in (reference, native)]
        counted = 0
        for _ in range(60):
            names = rng.sample("abcdefgh", rng.randint(0, 8))
            row = {name: value(rng, rules.inf != MISSING.index("raise")) for name in names}
            mine, other = (each.transform(row) for each in both)
            assert list(mine) == list(other) == names
            for name in names:
                x, y = mine[name], other[name]
                same = x is y or x == y or (math.isnan(x) and math.isnan(y))
                assert same or math.isclose(x, y, rel_tol=1e-13, abs_tol=1e-13), (name, row)
            weights = [1.0, 1, 0, 0.25, 3.5, Decimal("1e-9"), 1e30]
            weight = 1.0 if rules.prior else rng.choice(weights)
            for each in both:
                each.learn(row, weight)
            counted += weight != 0
        mine, other = both
        assert mine.keys() == other.keys()
        assert mine.exact() == other.exact()
        assert (mine.rows, len(mine)) == (other.rows, len(other)) == (counted, len(mine.keys()))
        assert np.array_equal(stored(mine)[2], stored(other)[2])
        for found, expected in zip(stored(mine)[:2], stored(other)[:2], strict=True):
            for field in MomentArrays.FIELDS:
                a, b = getattr(found, field), getattr(expected, field)
                if field not in ("mean_lo", "m2_lo"):  # digits that the kernels round differently
                    np.testing.assert_allclose(a, b, rtol=1e-13, atol=0, err_msg=field)


def test_faded_weights_become_zero(kernels):
    """0.7 times the smallest float64 rounds to itself, and arithmetic on it is slow."""
    stats = row_statistics(kernels, PLAIN._replace(decay=0.7, prior=1 / 0.3))
    for i in range(3000):
        stats.learn({"a": float(i % 7)})
        stats.learn({"b": 0.0})
    moments, _, _ = stored(stats)
    assert moments.decay.tolist() == [0.0, 0.0]
    assert moments.weight == pytest.approx(1 / 0.3, rel=1e-14)


def test_restored_statistics_go_on_with_the_same_bits(kernels):
    rules = PLAIN._replace(decay=0.9, prior=10.0)
    rng = random.Random(1)
    rows = [{n: rng.gauss(0, 1) for n in rng.sample("abcd", rng.randint(0, 4))} for _ in range(50)]
    whole = row_statistics(kernels, rules)
    for row in rows[:25]:
        whole.learn(row)
    kept = *empty_arrays(whole), np.zeros(len(whole), np.int64)
    whole.store(*kept)
    copy = row_statistics(kernels, rules)
    assert copy.update(whole.keys(), whole.exact(), 0, whole.rows, *kept)
    for row in rows[25:]:
        assert copy.transform(row) == whole.transform(row)
        copy.learn(row)
        whole.learn(row)
    for a, b in zip(stored(copy)[:2], stored(whole)[:2], strict=True):
        assert a.memory.tobytes() == b.memory.tobytes()
    assert stored(copy)[2].tobytes() == stored(whole)[2].tobytes()


def recursion(values, alpha, ignore_na):
    """Return mean, deviation and unbiased deviation by pandas' definition, in fractions."""
    alpha = Fraction(alpha)
    weighted, old = [], Fraction(1)
    for x in values:
        missing = x is None or not math.isfinite(x)
        if weighted and not (missing and ignore_na):
            old *= 1 - alpha
        if not missing:
            whole = old + alpha if weighted else alpha
            weighted = [(w * old / whole, y) for w, y in weighted]
            weighted.append((alpha / whole, Fraction(x)))
            old = Fraction(1)
    weights, values = zip(*weighted, strict=True)  # the weights are 1 together
    mean, var = exact_moments(values, weights)
    squares = sum(w * w for w in weights)
    unbiased = var / (1 - squares) if squares < 1 else 0
    return float(mean), math.sqrt(var), math.sqrt(unbiased)


def read_by_transforming(kernels, rules, rows):
    """Return mean, deviation and unbiased deviation from transformed values; undefined is 0."""
    zero = CONSTANT.index("zero")
    plain = rules._replace(eps=0.0, inf=MISSING.index("ignore"), constant=zero)
    means = row_statistics(kernels, plain._replace(scale=False))
    biased, unbiased = (
        row_statistics(kernels, plain._replace(center=False, ddof=ddof)) for ddof in (0, 1)
    )
    for row in rows:
        for stats in (means, biased, unbiased):
            stats.transform({"a": 1.0})  # transforming changes nothing
            stats.learn(row)
    inverse = [stats.transform({"a": 1.0})["a"] for stats in (biased, unbiased)]
    return -means.transform({"a": 0.0})["a"], *(z and 1 / z for z in inverse)


@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.999, 1.0])
def test_recursion_equals_pandas_with_gaps(kernels, alpha, ignore_na):
    rng = random.Random(alpha)
    rules = PLAIN._replace(decay=1 - alpha, prior=1 / alpha, ignore_missing=ignore_na)
    for _ in range(40):
        values = [
            rng.choice([None, math.nan, math.inf]) if rng.random() < 0.4 else rng.gauss(5, 3)
            for _ in range(rng.randint(1, 25))
        ]
        if not any(x is not None and math.isfinite(x) for x in values):
            continue
        rows = [{} if x is None and rng.random() < 0.5 else {"a": x} for x in values]
        found = read_by_transforming(kernels, rules, rows)
        assert found == pytest.approx(recursion(values, alpha, ignore_na), rel=1e-13)

        there = [math.nan if x is None or math.isinf(x) else x for x in values]
        ewm = pd.Series(there).ewm(alpha=alpha, adjust=False, ignore_na=ignore_na)
        mean, std, unbiased = found
        # For com=1, α = 0.5, pandas computes the mean after a gap as λ**g·y + (1 − λ**g)·x.
        if alpha != 0.5 or ignore_na:
            assert mean == pytest.approx(ewm.mean().iloc[-1], rel=1e-12)
        # pandas' variance loses digits as the largest weight comes close to 1.
        if alpha < 0.9 and std > 0:
            assert std == pytest.approx(ewm.std(bias=True).iloc[-1], rel=1e-9)
            assert unbiased == pytest.approx(ewm.std(bias=False).iloc[-1], rel=1e-9)


def test_recursion_with_long_gaps_and_extreme_values(kernels):
    rules = PLAIN._replace(decay=0.5, prior=2.0)
    gap = [{}] * 3000
    values = [3.0, None, 1e150, 5.0]
    rows = [{"a": 3.0}, {}, {"a": 1e150}, {"a": 5.0}, *gap, {"a": 1.0}]
    # The values before the long gap weigh next to nothing. The unbiased variance does not depend on
    # how little, if only one value follows: it is half of their mean square about that value.
    mean, std, unbiased = read_by_transforming(kernels, rules, rows)
    centre, spread, _ = recursion(values, 0.5, False)
    assert mean == 1.0
    assert std == pytest.approx(0.0, abs=1e-89 * spread)
    assert unbiased == pytest.approx(math.hypot(spread, centre - 1.0) / math.sqrt(2), rel=1e-14)
    mean, _, _ = read_by_transforming(kernels, rules, [*gap, *rows[:4]])
    assert mean == pytest.approx(recursion(values, 0.5, False)[0], rel=1e-15)
    stats = row_statistics(kernels, rules)
    for row in [*gap, *rows]:
        stats.learn(row)
    assert stored(stats)[2].tolist() == [[3000], [0]]
    for row in ({"a": None}, {}):
        stats.learn(row)
    moments, first, gaps = stored(stats)
    assert gaps.tolist() == [[3000], [2]]
    assert (moments.count[0], moments.nulls[0]) == (4, 3000 + 1 + 3000 + 2)
    assert (moments.min[0], moments.max[0]) == (1.0, 1e150)
    assert (first.count[0], first.weight[0], first.mean_hi[0]) == (1, 1.0, 3.0)


@pytest.mark.parametrize("prior", [0.0, 3.0])
def test_gaps_are_counted_alike_and_keep_the_unbiased_variance(kernels, prior):
    rules = PLAIN._replace(decay=1 / 3, prior=prior and 1.5)
    for gap in (0, 5, 700, 5000):
        rows = [*[{}] * gap, {"a": 10.0}, *[{}] * gap, {"a": 12.0}, *[{"b": 1.0}] * gap]
        stats = row_statistics(kernels, rules)
        for row in rows:
            stats.learn(row)
        moments, _, gaps = stored(stats)
        # The kernel learns of the rows before a feature's first value only by its first value.
        assert gaps[:, 0].tolist() == [gap, gap]
        if not prior:
            reading = Moments(moments.memory).read(1)
            assert reading.var[0] == 2.0
        _, _, unbiased = read_by_transforming(kernels, rules, rows)
        assert unbiased == pytest.approx(math.sqrt(2), rel=1e-15)


@pytest.mark.parametrize("gap", [1, 64, 65, 700, 5000])
@pytest.mark.parametrize("decay", [0.0, 0.25, 0.999])
def test_both_kernels_weigh_values_around_a_gap_alike(native, gap, decay):
    there = np.repeat([False, True, False, True, False], [3, 4, gap, 2, gap])
    mine, other = (k.recursion_weights(there, decay, 1 - decay) for k in (reference, native))
    assert mine.weights.tobytes() == other.weights.tobytes()
    assert mine[1:] == other[1:]
    assert decay == 0 or mine.decay > 0


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_weighted_rows_equal_exact_arithmetic(kernels, decay):
    rng = random.Random(decay)
    rules = PLAIN._replace(decay=decay)
    stats = row_statistics(kernels, rules)
    weighted = []
    for _ in range(60):
        x, w = rng.gauss(1e6, 1), rng.choice([0, 0.5, 1, 2.0, Decimal("0.1"), np.float32(7)])
        stats.learn({"a": x}, w)
        if w == 1:
            stats.learn({"a": x}, weight=1)
            weighted.append((1, x))
        if w:
            weighted.append((w, x))
    faded = [
        (Fraction(float(w)) * Fraction(decay) ** age, Fraction(x))
        for age, (w, x) in enumerate(reversed(weighted))
    ]
    w = [w for w, _ in faded]
    total, squares = sum(w), sum(a * a for a in w)
    mean, m2 = exact_moments([x for _, x in faded], w)
    moments, _, _ = stored(stats)
    assert moments.count[0] == len(weighted) == stats.rows
    assert moments.weight[0] == pytest.approx(float(total), rel=1e-14)
    assert moments.squares[0] == pytest.approx(float(squares), rel=1e-13)
    assert moments.pairs[0] == pytest.approx(float((total**2 - squares) / 2), rel=1e-13)
    assert abs(Fraction(moments.mean_hi[0]) - mean) <= 1e-9
    assert moments.m2_hi[0] == pytest.approx(float(m2), rel=1e-14)


def test_row_of_weight_zero_is_checked_and_leaves_no_trace(kernels):
    stats = row_statistics(kernels, PLAIN._replace(decay=0.5))
    stats.learn({"a": 1.0})
    before = [values.tobytes() for values in stored(stats)[0]]
    for row in ({"a": 7.0, "b": 1.0}, {}, {"b": None}, {"a": math.nan}):
        stats.learn(row, 0)
        stats.learn(row, weight=-0.0)
    with pytest.raises(SchemaError, match="no longer numeric"):
        stats.learn({"a": "x"}, 0)
    with pytest.raises(InvalidValueError, match="infinity"):
        stats.learn({"a": math.inf}, 0)
    assert (stats.rows, stats.keys()) == (1, ["a"])
    assert [values.tobytes() for values in stored(stats)[0]] == before


@pytest.mark.parametrize(
    "weight",
    [-1, -5e-324, math.nan, math.inf, 1.1e30, 10**400, Decimal("1e400"), "1", None, True, [1.0]],
    ids=str,
)
def test_invalid_weight_is_refused(kernels, weight):
    stats = row_statistics(kernels)
    with pytest.raises(InvalidValueError, match=r"^weight must be a number from 0.* to 1e\+30, "):
        stats.learn({"a": 1.0}, weight)
    assert (stats.rows, stats.keys()) == (0, [])


def test_recursion_takes_no_weights(kernels):
    stats = row_statistics(kernels, PLAIN._replace(decay=0.5, prior=2.0))
    stats.learn({"a": 1.0}, 1)
    for weight in (0, 2.0):
        with pytest.raises(InvalidValueError, match=r"weight must be 1, .* adjust=True"):
            stats.learn({"a": 2.0}, weight)
    with pytest.raises(InvalidValueError, match="a number from 0"):
        stats.learn({"a": 2.0}, -1)
    assert stats.rows == 1


def test_extension_refuses_arrays_that_do_not_fit(native):
    stats = row_statistics(native)
    stats.learn({"a": 1.0})
    moments, gaps = np.zeros((FIELDS, 1), np.int64), np.zeros((2, 1), np.int64)
    seen, none = np.ones(1, np.int64), (None, None, None)
    for arguments in (
        ([], [True, True], 1, 1, moments, *none),
        (["b"], [True], 1, 1, moments, *none),
        ([], [True], 1, 1, moments[:14], *none),
        ([], [True], 1, -1, moments, *none),
        ([], [True], 1, 1, moments, moments[:3], None, None),
        ([], [True], 1, 1, moments, moments, gaps[:1], None),
        ([], [True], 1, 1, moments, moments, gaps - 1, None),
        ([], [True], 1, 1, moments, None, None, seen + 1),
        ([], [True], 1, 1, moments, None, None, -seen),
        ([], [True], 1, 1, moments.astype(float), *none),
    ):
        with pytest.raises(ValueError, match=r"instead of|negative|more rows than"):
            stats.update(*arguments)
    for arguments in ((moments[:1], None, None), (moments, moments, gaps[:1])):
        with pytest.raises(ValueError, match="instead of"):
            stats.store(*arguments, None)
    with pytest.raises(ValueError, match="twice"):
        stats.update(["a"], [True] * 2, 1, 1, np.zeros((FIELDS, 2), np.int64), *none)
    assert stats.update([], [True], 7, 8, moments, *none) is False
    assert (stats.rows, stats.keys()) == (1, ["a"])
    with pytest.raises(ValueError, match="domain"):
        row_statistics(native, PLAIN._replace(decay=1.5))
    with pytest.raises(ValueError, match="instead of"):
        stats.set_maps(*[np.zeros(5)] * 5, np.ones(5, bool))


class RunsCode:
    """A name that runs code when it is looked up."""

    def __init__(self, row):
        self.row = row

    def __hash__(self):
        self.row.clear()
        return 1

    def __eq__(self, other):
        return self is other


def test_row_may_change_while_it_is_read(kernels):
    stats = row_statistics(kernels)
    row = {f"x{i}": float(i) for i in range(20)}
    key = RunsCode({})
    row[key] = 1.0
    key.row = row
    with contextlib.suppress(RuntimeError):  # Python's: dictionary changed size during iteration
        stats.learn(row)
    stats.learn({"x1": 3.0})
    assert stats.transform({"x1": 5.0})["x1"] >= 0


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
)
@pytest.mark.parametrize("rows", [0, 1, 3, 700])
def test_matrix_has_the_moments_of_its_columns(kernels, dtype, rows):
    rng = np.random.default_rng(rows)
    matrix = np.asfortranarray((rng.random((rows, 5)) * 100).astype(dtype))
    columns = Columns.of(*(pa.array(column) for column in matrix.T))
    expected = kernels.block_moments(columns, 0.99)
    plain = Columns(matrix, Layout([BoundColumn((i,), None) for i in range(5)]))
    as_list = Columns(np.ascontiguousarray(matrix), Layout([BoundColumn((0,), 5)]))
    for found in (kernels.block_moments(c, 0.99) for c in (plain, as_list)):
        for field in MomentArrays.FIELDS:
            a, b = getattr(found, field), getattr(expected, field)
            if kernels is reference:  # it sums lists and columns in different groups
                if not field.endswith("_lo"):
                    np.testing.assert_allclose(a, b, rtol=1e-14, atol=0, err_msg=field)
            else:
                assert a.tobytes() == b.tobytes()
    some = Columns(matrix, Layout([BoundColumn((3,), None), BoundColumn((ABSENT,), None)]))
    found = kernels.block_moments(some, 0.99)
    assert found.count.tolist() == [rows, 0]
    assert found.nulls.tolist() == [0, rows]


@pytest.mark.parametrize(
    ("matrix", "child", "size", "message"),
    [
        (np.zeros((4, 3), order="F"), 3, None, "3 columns"),
        (np.zeros((4, 3), order="F"), -2, None, "3 columns"),
        (np.zeros((4, 3)), 1, 3, "3 columns"),
        (np.zeros((4, 3), bool, order="F"), 0, None, "not a native number format"),
        (np.zeros((4, 3), complex, order="F"), 0, None, "not a native number format"),
        (np.zeros((4, 3), ">f8", order="F"), 0, None, "not a native number format"),
        (np.zeros(4), 0, None, "two dimensions"),
        (np.zeros((4, 3, 2)), 0, None, "two dimensions"),
    ],
)
def test_unsupported_matrix_is_refused(native, matrix, child, size, message):
    with pytest.raises(InvalidValueError, match=message):
        native.block_moments(Columns(matrix, Layout([BoundColumn((child,), size)])))
