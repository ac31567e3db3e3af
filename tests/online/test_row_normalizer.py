"""Rows of features: both kernels value by value, and matrices in the place of batches."""

from __future__ import annotations

import contextlib
import datetime
import math
import pickle
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import streambn as sbn
from streambn import RowNormalizer
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import BoundColumn, Columns, Layout, reference
from streambn.kernels.interface import ABSENT
from streambn.kernels.moments import MomentArrays
from streambn.kernels.rows import CONSTANT, MISSING, UNSEEN, RowRules, number, refuse
from streambn.policies import Policy

try:
    from streambn.kernels import native
except ImportError:
    native = None

needs_native = pytest.mark.skipif(
    native is None,
    reason="the compiled kernels are not there: install streambn where there is a C++ compiler",
)
KERNELS = [
    pytest.param(reference, id="reference"),
    pytest.param(native, id="native", marks=needs_native),
]
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
    "unseen passed through, no scale": PLAIN._replace(
        unseen=UNSEEN.index("passthrough"), scale=False
    ),
}


def value(rng, infinities):
    """Draw a value of any kind that a row may hold."""
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


FIELDS = len(MomentArrays.FIELDS)


def room(lanes):
    """Make arrays for what lanes store: moments, first values, gaps."""
    n = len(lanes)
    return *np.zeros((2, FIELDS, n), np.int64), np.zeros((2, n), np.int64)


def stored(lanes):
    moments, first, gaps = room(lanes)
    lanes.store(moments, first, gaps, None)
    return MomentArrays(moments), MomentArrays(first), gaps


@needs_native
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_kernels_learn_and_map_alike(rules):
    rng = random.Random(repr(rules))
    for _ in range(15):
        affine = {"c": (2.0, 1.0)}
        lanes = [k.RowStatistics(*rules, affine, number, refuse) for k in (reference, native)]
        counted = 0
        for _ in range(60):
            names = rng.sample("abcdefgh", rng.randint(0, 8))
            row = {name: value(rng, rules.inf != MISSING.index("raise")) for name in names}
            said, also = (lane.transform(row) for lane in lanes)
            assert list(said) == list(also) == names
            for name in names:
                x, y = said[name], also[name]
                same = x is y or x == y or (math.isnan(x) and math.isnan(y))
                assert same or math.isclose(x, y, rel_tol=1e-13, abs_tol=1e-13), (name, row)
            weight = (
                1.0 if rules.prior else rng.choice([1.0, 1, 0, 0.25, 3.5, Decimal("1e-9"), 1e30])
            )
            for lane in lanes:
                lane.learn(row, weight)
            counted += weight != 0
        mine, other = lanes
        assert mine.keys() == other.keys()
        assert mine.exact() == other.exact()
        assert (mine.rows, len(mine)) == (other.rows, len(other)) == (counted, len(mine.keys()))
        assert np.array_equal(stored(mine)[2], stored(other)[2])
        for found, expected in zip(stored(mine)[:2], stored(other)[:2], strict=True):
            for field in MomentArrays.FIELDS:
                a, b = getattr(found, field), getattr(expected, field)
                if field in ("mean_lo", "m2_lo"):  # the digits beyond the thirtieth
                    continue
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=0, err_msg=field)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forgetting_lane_does_not_slow_down_at_the_end_of_the_range(kernel):
    """0.7 times the smallest float64 is itself: what fades must come to be nothing."""
    lanes = kernel.RowStatistics(*PLAIN._replace(decay=0.7, prior=1 / 0.3), {}, number, refuse)
    for i in range(3000):
        lanes.learn({"a": float(i % 7)})
        lanes.learn({"b": 0.0})
    moments, _, _ = stored(lanes)
    assert moments.decay.tolist() == [0.0, 0.0]
    assert moments.weight == pytest.approx(1 / 0.3, rel=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_loaded_goes_on_bit_for_bit(kernel):
    rules = PLAIN._replace(decay=0.9, prior=10.0)
    rng = random.Random(1)
    rows = [{n: rng.gauss(0, 1) for n in rng.sample("abcd", rng.randint(0, 4))} for _ in range(50)]
    whole = kernel.RowStatistics(*rules, {}, number, refuse)
    for row in rows[:25]:
        whole.learn(row)
    kept = *room(whole), np.zeros(len(whole), np.int64)
    whole.store(*kept)
    copy = kernel.RowStatistics(*rules, {}, number, refuse)
    assert copy.update(whole.keys(), whole.exact(), 0, whole.rows, *kept)
    for row in rows[25:]:
        assert copy.transform(row) == whole.transform(row)
        copy.learn(row)
        whole.learn(row)
    for a, b in zip(stored(copy)[:2], stored(whole)[:2], strict=True):
        assert a.memory.tobytes() == b.memory.tobytes()
    assert stored(copy)[2].tobytes() == stored(whole)[2].tobytes()


# ------------------------------------------------------- the recursion of adjust=False


def recursion(values, alpha, ignore_na):
    """Mean, deviation and unbiased deviation as pandas defines them, in fractions."""
    alpha = Fraction(alpha)
    weighed, old = [], Fraction(1)  # (weight, value), whose weights are 1 together
    for x in values:
        missing = x is None or not math.isfinite(x)
        if weighed and not (missing and ignore_na):
            old *= 1 - alpha
        if missing:
            continue
        if weighed:
            whole = old + alpha
            weighed = [(w * old / whole, y) for w, y in weighed]
            weighed.append((alpha / whole, Fraction(x)))
        else:
            weighed = [(Fraction(1), Fraction(x))]
        old = Fraction(1)
    mean = sum(w * x for w, x in weighed)
    var = sum(w * (x - mean) ** 2 for w, x in weighed)
    squares = sum(w * w for w, _ in weighed)
    unbiased = var / (1 - squares) if squares < 1 else 0
    return float(mean), math.sqrt(var), math.sqrt(unbiased)


def read_by_maps(kernel, rules, rows):
    """Mean, deviation and unbiased deviation, as the maps of lanes have them: 0 where undefined."""
    zero = CONSTANT.index("zero")
    plain = rules._replace(eps=0.0, inf=MISSING.index("ignore"), constant=zero)
    means, biased, unbiased = (
        kernel.RowStatistics(*changed, {}, number, refuse)
        for changed in (
            plain._replace(scale=False),
            plain._replace(center=False),
            plain._replace(center=False, ddof=1),
        )
    )
    for row in rows:
        for lanes in (means, biased, unbiased):
            lanes.transform({"a": 1.0})  # looking changes nothing
            lanes.learn(row)
    inverse = [lanes.transform({"a": 1.0})["a"] for lanes in (biased, unbiased)]
    return -means.transform({"a": 0.0})["a"], *(z and 1 / z for z in inverse)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.999, 1.0])
def test_the_recursion_is_that_of_pandas_after_gaps_too(kernel, alpha, ignore_na):
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
        found = read_by_maps(kernel, rules, rows)
        assert found == pytest.approx(recursion(values, alpha, ignore_na), rel=1e-13)

        there = [math.nan if x is None or math.isinf(x) else x for x in values]
        ewm = pd.Series(there).ewm(alpha=alpha, adjust=False, ignore_na=ignore_na)
        mean, std, unbiased = found
        # Where com is 1, as by event time, pandas' mean after a gap is λ**g·y + (1 − λ**g)·x.
        if alpha != 0.5 or ignore_na:
            assert mean == pytest.approx(ewm.mean().iloc[-1], rel=1e-12)
        # Its variances have fewer digits the closer the largest weight is to 1.
        if alpha < 0.9 and std > 0:
            assert std == pytest.approx(ewm.std(bias=True).iloc[-1], rel=1e-9)
            assert unbiased == pytest.approx(ewm.std(bias=False).iloc[-1], rel=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_recursion_survives_gaps_without_end_and_the_ends_of_the_range(kernel):
    rules = PLAIN._replace(decay=0.5, prior=2.0)
    gap = [{}] * 3000
    values = [3.0, None, 1e150, 5.0]
    rows = [{"a": 3.0}, {}, {"a": 1e150}, {"a": 5.0}, *gap, {"a": 1.0}]
    # Of what came before the long gap nothing is left.
    assert read_by_maps(kernel, rules, rows) == (1.0, 0.0, 0.0)
    mean, _, _ = read_by_maps(kernel, rules, [*gap, *rows[:4]])
    assert mean == pytest.approx(recursion(values, 0.5, False)[0], rel=1e-15)
    lanes = kernel.RowStatistics(*rules, {}, number, refuse)
    for row in [*gap, *rows]:
        lanes.learn(row)
    assert stored(lanes)[2].tolist() == [[3000], [0]]
    lanes.learn({"a": None})
    lanes.learn({})
    moments, first, gaps = stored(lanes)
    assert gaps.tolist() == [[3000], [2]]
    assert (moments.count[0], moments.nulls[0]) == (4, 3000 + 1 + 3000 + 2)
    assert (moments.min[0], moments.max[0]) == (1.0, 1e150)
    assert (first.count[0], first.weight[0], first.mean_hi[0]) == (1, 1.0, 3.0)


# ------------------------------------------------------------------------ zero variance


@pytest.mark.parametrize("eps", [0.0, 4.0])
@pytest.mark.parametrize("values", [[20.0, 20.0], [20, 20], [0.1] * 7, [3.0]], ids=str)
@pytest.mark.parametrize(
    "policy",
    [sbn.Welford(), sbn.Exact(), sbn.EMA(alpha=0.5), sbn.BatchEMA(momentum=None)],
    ids=repr,
)
def test_constant_features_follow_normalizer(policy, values, eps):
    columns = sbn.Normalizer(policy, eps=eps).update(pa.table({"x": values}))
    expected = columns.transform(pa.table({"x": [30.0]}))["x"][0].as_py()
    assert expected == (30.0 - values[0]) / (math.sqrt(eps) or 1.0)
    rows = RowNormalizer(policy, eps=eps)
    for value in values:
        rows.learn_one({"x": value})
    for norm in (rows, RowNormalizer.from_normalizer(columns)):
        assert norm.transform_one({"x": 30.0}) == {"x": expected}
        assert norm.transform_many(pa.record_batch({"x": [30.0]}))["x"][0].as_py() == expected


@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.Exact()], ids=repr)
def test_constant_features_can_come_out_as_zero(policy):
    norm = RowNormalizer(policy, constant="zero", affine={"x": (2.0, 5.0)})
    for row in ({"x": 20.0, "y": 1.0}, {"x": 20.0, "y": 3.0}):
        norm.learn_one(row)
    for copy in (norm, pickle.loads(pickle.dumps(norm))):
        assert copy.transform_one({"x": 30.0, "y": 3.0}) == {"x": 5.0, "y": 1.0}
        batch = copy.transform_many(pa.record_batch({"x": [30.0], "y": [3.0]}))
        assert batch.to_pydict() == {"x": [5.0], "y": [1.0]}
    with pytest.raises(InvalidValueError, match=r"constant must be 'unit' or 'zero', got 'one'\."):
        RowNormalizer(policy, constant="one")


# ----------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_row_may_have_a_weight(kernel, decay):
    rng = random.Random(decay)
    rules = PLAIN._replace(decay=decay)
    lanes = kernel.RowStatistics(*rules, {}, number, refuse)
    weighed = []
    for _ in range(60):
        x, w = rng.gauss(1e6, 1), rng.choice([0, 0.5, 1, 2.0, Decimal("0.1"), np.float32(7)])
        lanes.learn({"a": x}, w)
        if w == 1:
            lanes.learn({"a": x}, weight=1)
            weighed.append((1, x))
        if w:
            weighed.append((w, x))
    faded = [
        (Fraction(float(w)) * Fraction(decay) ** age, Fraction(x))
        for age, (w, x) in enumerate(reversed(weighed))
    ]
    w = [w for w, _ in faded]
    total, mean = sum(w), sum(w * x for w, x in faded) / sum(w)
    squares = sum(w * (x - mean) ** 2 for w, x in faded)
    moments, _, _ = stored(lanes)
    assert moments.count[0] == len(weighed) == lanes.rows
    assert moments.weight[0] == pytest.approx(float(total), rel=1e-14)
    assert moments.squares[0] == pytest.approx(float(sum(a * a for a in w)), rel=1e-13)
    pairs = (total**2 - sum(a * a for a in w)) / 2
    assert moments.pairs[0] == pytest.approx(float(pairs), rel=1e-13)
    assert float(Fraction(moments.mean_hi[0]) - mean) == pytest.approx(0, abs=1e-9)
    assert moments.m2_hi[0] == pytest.approx(float(squares), rel=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_that_weighs_nothing_is_checked_and_leaves_no_trace(kernel):
    lanes = kernel.RowStatistics(*PLAIN._replace(decay=0.5), {}, number, refuse)
    lanes.learn({"a": 1.0})
    before = [values.tobytes() for values in stored(lanes)[0]]
    for row in ({"a": 7.0, "b": 1.0}, {}, {"b": None}, {"a": math.nan}):
        lanes.learn(row, 0)
        lanes.learn(row, weight=-0.0)
    with pytest.raises(SchemaError, match="no longer numeric"):
        lanes.learn({"a": "x"}, 0)
    with pytest.raises(InvalidValueError, match="infinity"):
        lanes.learn({"a": math.inf}, 0)
    assert (lanes.rows, lanes.keys()) == (1, ["a"])
    assert [values.tobytes() for values in stored(lanes)[0]] == before


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "weight",
    [-1, -5e-324, math.nan, math.inf, 1.1e30, 10**400, Decimal("1e400"), "1", None, True, [1.0]],
    ids=str,
)
def test_what_is_no_weight_is_refused(kernel, weight):
    lanes = kernel.RowStatistics(*PLAIN, {}, number, refuse)
    with pytest.raises(
        InvalidValueError, match=r"^weight must be a number from 0.* to 1e\+30, got"
    ):
        lanes.learn({"a": 1.0}, weight)
    assert (lanes.rows, lanes.keys()) == (0, [])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_recursion_takes_no_weights(kernel):
    lanes = kernel.RowStatistics(*PLAIN._replace(decay=0.5, prior=2.0), {}, number, refuse)
    lanes.learn({"a": 1.0}, 1)
    for weight in (0, 2.0):
        with pytest.raises(InvalidValueError, match=r"weight must be 1, .* adjust=True"):
            lanes.learn({"a": 2.0}, weight)
    with pytest.raises(InvalidValueError, match="a number from 0"):
        lanes.learn({"a": 2.0}, -1)
    assert lanes.rows == 1


@needs_native
def test_what_does_not_fit_is_refused_by_the_extension():
    lanes = native.RowStatistics(*PLAIN, {}, number, refuse)
    lanes.learn({"a": 1.0})
    moments, seen = np.zeros((FIELDS, 1), np.int64), np.ones(1, np.int64)
    gaps = np.zeros((2, 1), np.int64)
    for arguments in (
        ([], [True, True], 1, 1, moments, None, None, None),
        (["b"], [True], 1, 1, moments, None, None, None),
        ([], [True], 1, 1, moments[:14], None, None, None),
        ([], [True], 1, -1, moments, None, None, None),
        ([], [True], 1, 1, moments, moments[:3], None, None),
        ([], [True], 1, 1, moments, moments, gaps[:1], None),
        ([], [True], 1, 1, moments, moments, gaps - 1, None),
        ([], [True], 1, 1, moments, None, None, seen + 1),
        ([], [True], 1, 1, moments, None, None, -seen),
        ([], [True], 1, 1, moments.astype(float), None, None, None),
    ):
        with pytest.raises(ValueError, match=r"instead of|negative|there are not"):
            lanes.update(*arguments)
    for arguments in ((moments[:1], None, None), (moments, moments, gaps[:1])):
        with pytest.raises(ValueError, match="instead of"):
            lanes.store(*arguments, None)
    two = np.zeros((FIELDS, 2), np.int64)
    with pytest.raises(ValueError, match="twice"):
        lanes.update(["a"], [True] * 2, 1, 1, two, None, None, None)
    assert lanes.update([], [True], 7, 8, moments, None, None, None) is False
    assert (lanes.rows, lanes.keys()) == (1, ["a"])
    with pytest.raises(ValueError, match="domain"):
        native.RowStatistics(*PLAIN._replace(decay=1.5), {}, number, refuse)
    with pytest.raises(ValueError, match="instead of"):
        lanes.set_maps(*[np.zeros(5)] * 5, np.ones(5, bool))


class Awkward:
    """A name that runs code when it is looked for."""

    def __init__(self, row):
        self.row = row

    def __hash__(self):
        self.row.clear()
        return 1

    def __eq__(self, other):
        return self is other


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_that_changes_while_it_is_read_does_no_harm(kernel):
    lanes = kernel.RowStatistics(*PLAIN, {}, number, refuse)
    row = {f"x{i}": float(i) for i in range(20)}
    key = Awkward({})
    row[key] = 1.0
    key.row = row
    with contextlib.suppress(RuntimeError):  # Python's own: the dict changed meanwhile
        lanes.learn(row)
    lanes.learn({"x1": 3.0})
    assert lanes.transform({"x1": 5.0})["x1"] >= 0


# ----------------------------------------------------------------------------- matrices


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
)
@pytest.mark.parametrize("rows", [0, 1, 3, 700])
def test_a_matrix_is_reduced_as_its_columns_are(kernel, dtype, rows):
    rng = np.random.default_rng(rows)
    matrix = np.asfortranarray((rng.random((rows, 5)) * 100).astype(dtype))
    columns = Columns.of(*(pa.array(column) for column in matrix.T))
    expected = kernel.block_moments(columns, 0.99)
    plain = Columns(matrix, Layout([BoundColumn((i,), None) for i in range(5)]))
    as_list = Columns(np.ascontiguousarray(matrix), Layout([BoundColumn((0,), 5)]))
    for found in (kernel.block_moments(c, 0.99) for c in (plain, as_list)):
        for field in MomentArrays.FIELDS:
            a, b = getattr(found, field), getattr(expected, field)
            if kernel is reference:  # which groups lists and columns differently
                if not field.endswith("_lo"):
                    np.testing.assert_allclose(a, b, rtol=1e-14, atol=0, err_msg=field)
            else:
                assert a.tobytes() == b.tobytes()
    some = Columns(matrix, Layout([BoundColumn((3,), None), BoundColumn((ABSENT,), None)]))
    found = kernel.block_moments(some, 0.99)
    assert found.count.tolist() == [rows, 0]
    assert found.nulls.tolist() == [0, rows]


@needs_native
@pytest.mark.parametrize(
    ("matrix", "place", "says"),
    [
        (np.zeros((4, 3), order="F"), BoundColumn((3,), None), "3 columns"),
        (np.zeros((4, 3), order="F"), BoundColumn((-2,), None), "3 columns"),
        (np.zeros((4, 3)), BoundColumn((0,), None), "several pieces"),
        (np.zeros((4, 3), order="F"), BoundColumn((0,), 3), "several pieces"),
        (np.zeros((8, 3), order="F")[::2], BoundColumn((0,), None), "several pieces"),
        (np.zeros((4, 3)), BoundColumn((1,), 3), "3 columns"),
        (np.zeros((4, 3), bool, order="F"), BoundColumn((0,), None), "no numbers"),
        (np.zeros((4, 3), complex, order="F"), BoundColumn((0,), None), "no numbers"),
        (np.zeros((4, 3), ">f8", order="F"), BoundColumn((0,), None), "no numbers"),
        (np.zeros(4), BoundColumn((0,), None), "two dimensions"),
        (np.zeros((4, 3, 2)), BoundColumn((0,), None), "two dimensions"),
    ],
)
def test_a_matrix_that_cannot_be_read_is_refused(matrix, place, says):
    with pytest.raises(InvalidValueError, match=says):
        native.block_moments(Columns(matrix, Layout([place])))


# ------------------------------------------------------------------------ the normalizer


def test_arguments_are_checked():
    with pytest.raises(InvalidValueError, match="unseen must be"):
        RowNormalizer(unseen="null")
    with pytest.raises(InvalidValueError, match="policy must be"):
        RowNormalizer("welford")
    with pytest.raises(InvalidValueError, match="eps must be"):
        RowNormalizer(eps=-1.0)


@pytest.mark.parametrize(
    "policy", [sbn.Welford(), sbn.BatchEMA(momentum=0.1), sbn.Exact()], ids=str
)
def test_a_feature_that_is_there_twice_is_refused(policy):
    norm = RowNormalizer(policy)
    for _ in range(2):  # as new features, then as known ones
        with pytest.raises(SchemaError, match="'a' is there twice"):
            norm.learn_many(pa.record_batch([[1.0], [2.0]], names=["x", "y"]), ["a", "a"])
        norm.learn_many(pa.record_batch({"a": [1.0]}))
    assert norm.rows == 2


def test_names_that_are_one_text_do_not_make_a_normalizer():
    norm = RowNormalizer()
    norm.learn_one({1: 2.0, "1": 3.0})
    assert norm.features == [1, "1"]
    with pytest.raises(SchemaError, match="'1' is there twice"):
        norm.to_normalizer()


def test_lists_are_no_features():
    lists = pa.table({"emb": pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))})
    with pytest.raises(SchemaError, match="'emb' is a list"):
        RowNormalizer.from_normalizer(sbn.Normalizer().update(lists))


def test_nothing_learned_makes_a_normalizer_that_binds_what_comes():
    norm = RowNormalizer(sbn.EMA(alpha=0.5)).to_normalizer()
    assert norm.features == ()
    assert norm.update(pa.table({"a": [1.0]})).features == ("a",)
    assert RowNormalizer.from_normalizer(norm).features == ["a"]


@pytest.mark.parametrize(
    "policy",
    [
        sbn.Welford(),
        sbn.EMA(alpha=1.0, adjust=False),
        sbn.EMA(halflife=3, adjust=False),
        sbn.BatchEMA(decay=0.9),
        sbn.BatchEMA(momentum=None, batch_rows=3),
    ],
    ids=str,
)
def test_statistics_go_over_to_columns_and_back(policy):
    rng = np.random.default_rng(0)
    parts = [
        pa.record_batch({"a": rng.normal(size=n), "b": rng.integers(0, 9, n)}) for n in (4, 1, 7)
    ]
    late = pa.record_batch({"c": [1.0, None, 4.0]})
    core, norm = sbn.Normalizer(policy), RowNormalizer(policy)
    for part in parts:
        core.update(part)
        norm.learn_many(part)
    assert norm.to_normalizer().stats().equals(core.stats())
    back = RowNormalizer.from_normalizer(core.freeze())
    assert pickle.dumps(back) == pickle.dumps(norm)
    for one in (back, norm):
        one.learn_many(late)
    assert back.stats().equals(norm.stats())
    assert norm.stats()["nulls"].to_pylist() == [3, 3, 13]


# ------------------------------------------------------- weights and event time, in rows


def statistics(norm):
    """All that there is of each feature, by name."""
    rows = norm.stats().to_pylist()
    return {row.pop("column"): row for row in rows}


def assert_close(one, other):
    one, other = statistics(one), statistics(other)
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert found == pytest.approx(other[name], rel=1e-12), name


WEIGHED = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(alpha=0.2),
    "EMAIgnoreNA": sbn.EMA(alpha=0.2, ignore_na=True),
}
UNWEIGHED = {
    "EMARecursive": sbn.EMA(alpha=0.2, adjust=False),
    "BatchEMA": sbn.BatchEMA(momentum=0.1),
    "Exact": sbn.Exact(),
}


def weighed_stream():
    rng = random.Random(7)
    rows = [
        {name: rng.choice([None, 1, rng.gauss(1e6, 1)]) for name in "abc" if rng.random() < 0.8}
        for _ in range(40)
    ]
    return rows, [rng.choice([0.0, 0.5, 1.0, 3.0]) for _ in rows]


def as_batch(rows, names="abc"):
    return pa.record_batch(
        [pa.array([row.get(name) for row in rows], pa.float64()) for name in names], names=[*names]
    )


@pytest.mark.parametrize("policy", WEIGHED.values(), ids=WEIGHED)
def test_weights_by_row_are_weights_by_batch_and_weights_in_columns(policy):
    rows, weights = weighed_stream()
    by_row, by_batch, mixed = (RowNormalizer(policy) for _ in range(3))
    of_key, core = RowNormalizer(policy, weights="w"), sbn.Normalizer(policy, weights="w")
    for row, weight in zip(rows, weights, strict=True):
        by_row.learn_one(row, weight)
        of_key.learn_one(row | {"w": weight})
    batch = as_batch(rows)
    by_batch.learn_many(batch, weights=weights)
    mixed.learn_many(batch[:13], weights=np.float32(weights[:13]))
    for row, weight in zip(rows[13:20], weights[13:20], strict=True):
        mixed.learn_one(row, weight=weight)
    mixed.learn_many(batch[20:], ["a", "b", "c"], pa.chunked_array([weights[20:30], weights[30:]]))
    core.update(batch.append_column("w", pa.array(weights)))
    assert by_row.rows == by_batch.rows == mixed.rows == sum(w > 0 for w in weights)
    assert_close(by_row, by_batch)
    assert_close(by_row, mixed)
    assert_close(of_key, core)
    assert_close(by_row, core.with_weights(None))


@pytest.mark.parametrize("weights", [[2.0, 0.0, 1.0, 0.5], np.array([0.0, 1.0, 1.0, 1.0])])
def test_a_matrix_may_have_weights(weights):
    matrix = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3)))
    norm, expected = RowNormalizer(), RowNormalizer()
    norm.learn_many(matrix, ["a", "b", "c"], weights)
    for values, weight in zip(matrix.tolist(), weights, strict=True):
        expected.learn_one(dict(zip("abc", values, strict=True)), weight)
    assert_close(norm, expected)
    assert norm.rows == 3


def test_weights_are_as_good_as_rows_that_come_again():
    rows, _ = weighed_stream()
    times = [i % 4 for i in range(len(rows))]
    weighed, repeated = RowNormalizer(), RowNormalizer()
    for row, n in zip(rows, times, strict=True):
        weighed.learn_one(row, n)
        for _ in range(n):
            repeated.learn_one(row)
    expected = statistics(repeated)
    for name, of in statistics(weighed).items():
        for column in ("mean", "var", "std", "min", "max"):
            assert of[column] == pytest.approx(expected[name][column], rel=1e-12)


def test_rows_that_weigh_nothing_leave_no_trace():
    norm = RowNormalizer(sbn.EMA(alpha=0.5))
    norm.learn_one({"a": 1.0})
    before = pickle.dumps(norm)
    norm.learn_one({"a": 2.0, "b": 1.0}, 0)
    norm.learn_many(as_batch([{"a": 2.0, "b": 1.0}] * 3), weights=np.zeros(3))
    norm.learn_many(np.ones((2, 1)), ["new"], [0, 0])
    assert pickle.dumps(norm) == before
    assert norm.features == ["a"]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0, -1.0], "weights: the array holds -1 in row 1"),
        ([1.0, math.nan], "weights: the array holds nan in row 1"),
        ([math.inf, 1.0], "weights: the array holds inf in row 0"),
        ([1.0, 2e30], r"weights: the array holds 2e\+30 in row 1"),
        (pa.array([1.0, None]), "weights: the array holds 1 nulls"),
        ([1.0, None], "weights: the array holds nan in row 1"),
        (pa.array(["x", "y"]), "weights: the array is string"),
        (["x", "y"], r"weights must be an array of one number >= 0 per row, got \['x', 'y'\]"),
        ([1.0], "got 1 entries for 2 rows"),
        ([[1.0], [1.0]], "an array of shape"),
        (1.0, "an array of shape"),
    ],
    ids=str,
)
def test_weights_of_a_batch_that_are_none_are_refused(weights, says):
    norm = RowNormalizer()
    norm.learn_one({"a": 1.0})
    before = pickle.dumps(norm)
    for batch, names in ((as_batch([{"a": 1.0}] * 2), None), (np.ones((2, 1)), ["a"])):
        with pytest.raises((InvalidValueError, SchemaError), match=says):
            norm.learn_many(batch, names, weights)
    assert pickle.dumps(norm) == before


class Unheeding(sbn.Welford):
    """A policy of one's own, which goes value by value and knows of no weights."""

    takes_weights = False


class Blocks(Policy):
    """One that goes by blocks and heeds weights."""

    takes_weights = True
    init, update, merge, read, tally, take, describe, commutative = (
        getattr(sbn.Welford(), name)
        for name in ("init", "update", "merge", "read", "tally", "take", "describe", "commutative")
    )


@pytest.mark.parametrize("policy", [*UNWEIGHED.values(), Unheeding()], ids=repr)
def test_policies_that_heed_no_weights_refuse_them(policy):
    norm = RowNormalizer(policy)
    norm.learn_one({"a": 1.0})
    norm.learn_one({"a": 2.0}, 1.0)
    before = pickle.dumps(norm)
    for weight in (2.0, 0):
        with pytest.raises(InvalidValueError, match=r"weight.* adjust=True"):
            norm.learn_one({"a": 1.0}, weight)
    with pytest.raises(InvalidValueError, match=r"weights=.* has no meaning for .* adjust=True"):
        norm.learn_many(as_batch([{"a": 1.0}]), weights=[2.0])
    with pytest.raises(InvalidValueError, match=r"weights='w' has no meaning"):
        RowNormalizer(policy, weights="w")
    assert pickle.dumps(norm) == before
    norm.learn_many(as_batch([{"a": 1.0}]), weights=[1.0])  # which is as without
    assert norm.rows == 3


def test_a_policy_by_blocks_may_heed_weights():
    norm, expected = RowNormalizer(Blocks()), RowNormalizer()
    rows, weights = weighed_stream()
    for row, weight in zip(rows, weights, strict=True):
        norm.learn_one(row, weight)
        expected.learn_one(row, weight)
    for refused in ({"a": "x"}, {"a": math.inf}):
        with pytest.raises((InvalidValueError, SchemaError), match="'a'"):
            norm.learn_one(refused, 0)
    with pytest.raises(InvalidValueError, match="weight must be a number"):
        norm.learn_one({"a": 1.0}, -1)
    assert_close(norm, expected)


@pytest.mark.parametrize("policy", [sbn.Welford(), Blocks()], ids=["by value", "by block"])
def test_a_key_may_say_what_rows_weigh(policy):
    norm = RowNormalizer(policy, weights="w")
    row = {"w": 3, "a": 1.0, "s": "x"}
    norm.learn_one(row)
    norm.learn_one({"a": 5.0, "w": 1})
    norm.learn_one({"a": 70.0, "w": 0})
    assert row == {"w": 3, "a": 1.0, "s": "x"}
    of = statistics(norm)
    assert list(of) == ["a"]
    assert (of["a"]["count"], of["a"]["mean"], of["a"]["weight"]) == (2, 2.0, 4.0)
    out = norm.transform_one({"s": "x", "w": 7, "a": 2.0})
    assert list(out.items()) == [("s", "x"), ("w", 7), ("a", 0.0)]
    batch = pa.record_batch({"a": [2.0], "w": [7]})
    assert norm.transform_many(batch).to_pydict() == {"a": [0.0], "w": [7]}
    norm.learn_many(batch)
    norm.learn_many(np.array([[1.0, 2.0], [0.0, 2.0]]), ["w", "a"])
    norm.learn_many(pa.record_batch({"x": [2.0], "y": [7]}), ["a", "w"])
    assert statistics(norm)["a"]["weight"] == 19.0
    before = pickle.dumps(norm)
    with pytest.raises(InvalidValueError, match="weight under 'w' must be a number from 0"):
        norm.learn_one({"a": 1.0})
    with pytest.raises(InvalidValueError, match="weights: column 'w' holds -1 in row 0"):
        norm.learn_many(pa.record_batch({"a": [2.0], "w": [-1]}))
    with pytest.raises(SchemaError, match="column 'w' is not in the data"):
        norm.learn_many(pa.record_batch({"a": [2.0]}))
    with pytest.raises(SchemaError, match="'w' is there twice"):
        norm.learn_many(np.ones((1, 3)), ["w", "a", "w"])
    with pytest.raises(InvalidValueError, match="weight=2 was given, and weights='w' says"):
        norm.learn_one({"a": 1.0, "w": 1}, 2)
    with pytest.raises(InvalidValueError, match=r"weights=\[2\] was given, and weights='w' says"):
        norm.learn_many(batch, weights=[2])
    with pytest.raises(InvalidValueError, match="a row must be a dict"):
        norm.learn_one(None)
    with pytest.raises(InvalidValueError, match="a row must be a dict"):
        norm.transform_one(None)
    assert pickle.dumps(norm) == before
    copied = pickle.loads(before)
    assert copied.transform_one({"w": 7, "a": 2.0}) == norm.transform_one({"w": 7, "a": 2.0})


def test_weights_in_columns_go_on_under_a_key():
    core = sbn.Normalizer(weights="w").update(pa.table({"a": [1.0, 5.0], "w": [3, 1]}))
    norm = RowNormalizer.from_normalizer(core)
    norm.learn_one({"a": 2.0, "w": 4})
    core.update(pa.table({"a": [2.0], "w": [4]}))
    assert norm.to_normalizer().stats().equals(core.stats())
    both = sbn.Normalizer(columns=["a", "w"], weights="w").update(pa.table({"a": [1.0], "w": [3]}))
    with pytest.raises(SchemaError, match="column 'w' is normalized, and says"):
        RowNormalizer.from_normalizer(both)


DAY = np.datetime64("2026-03-01")
TIMED = sbn.EMA(halflife="1d", time="t")


def timed_rows():
    rng = random.Random(3)
    rows = [
        {
            name: rng.choice([None, math.nan, rng.gauss(5, 1)])
            for name in "abc"
            if rng.random() < 0.8
        }
        for _ in range(30)
    ]
    at = [DAY + np.timedelta64(rng.randint(-9 * 86400, 9 * 86400), "s") for _ in rows]
    return [{"t": t.item(), **row} for t, row in zip(at, rows, strict=True)], np.array(at)


def test_rows_may_fade_by_when_they_happened():
    rows, at = timed_rows()
    norm, many, core = RowNormalizer(TIMED), RowNormalizer(TIMED), sbn.Normalizer(TIMED)
    for row in rows:
        norm.learn_one(row)
    batch = as_batch(rows).append_column("t", pa.array(at))
    many.learn_many(batch[:20])
    many.learn_many(batch[20:])
    core.update(batch)
    assert norm.rows == many.rows == 30
    assert_close(norm, core)
    assert_close(many, core)
    later = at.max() + np.timedelta64(1, "D")
    assert norm.stats(at=later)["weight"][0].as_py() == pytest.approx(
        norm.stats()["weight"][0].as_py() / 2, rel=1e-12
    )
    row = {"t": None, "a": 5.0, "s": "x"}
    z = core.transform(pa.table({"a": [5.0], "b": [1.0], "c": [1.0]}))["a"][0].as_py()
    assert norm.transform_one(row) == {"t": None, "a": pytest.approx(z, rel=1e-12), "s": "x"}
    out = many.transform_many(batch)
    assert out.column("t").equals(batch.column("t"))
    assert out.column("a").null_count == batch.column("a").null_count > 0
    z, expected = (
        made.column("a").to_numpy(zero_copy_only=False) for made in (out, core.transform(batch))
    )
    np.testing.assert_allclose(z, expected, rtol=1e-12)
    copied = pickle.loads(pickle.dumps(norm))
    copied.learn_one(rows[0])
    norm.learn_one(rows[0])
    assert copied.stats().equals(norm.stats())


def test_event_time_goes_over_to_columns_and_back():
    rows, at = timed_rows()
    batch = as_batch(rows).append_column("t", pa.array(at))
    core = sbn.Normalizer(TIMED).update(batch)
    norm = RowNormalizer.from_normalizer(core.freeze())
    assert norm.to_normalizer().stats().equals(core.stats())
    assert RowNormalizer.from_normalizer(norm.to_normalizer()).rows == norm.rows == 30
    norm.learn_one({"t": at[0].item(), "new": 1.0})
    of = statistics(norm)["new"]
    assert (of["count"], of["nulls"], of["mean"]) == (1, 30, 1.0)
    core.update(pa.table({"a": [None], "b": [None], "c": [None], "t": at[:1]}))
    assert norm.stats()[:3].equals(core.stats())


@pytest.mark.parametrize(
    ("t", "numeric"),
    [
        (datetime.datetime(2026, 3, 2), False),
        (datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC), False),
        (datetime.date(2026, 3, 2), False),
        (np.datetime64("2026-03-02"), False),
        (np.datetime64("2026-03-02T00"), False),
        (np.datetime64("2026-03-02T00:00:00.000000000"), False),
        (pd.Timestamp("2026-03-02"), False),
        (pd.Timestamp("2026-03-02T02:00", tz="Europe/Helsinki"), False),
        (1, True),
        (1.0, True),
        (np.int8(1), True),
        (np.float32(1.0), True),
    ],
    ids=repr,
)
def test_times_of_all_kinds(t, numeric):
    norm = RowNormalizer(sbn.EMA(halflife=1, time="t") if numeric else TIMED)
    norm.learn_one({"a": 1.0, "t": 0 if numeric else datetime.datetime(2026, 3, 1)})
    norm.learn_one({"a": 4.0, "t": t})
    assert norm.stats()["mean"].to_pylist() == [pytest.approx(3.0, rel=1e-15)]


def test_a_nanosecond_is_not_lost():
    norm = RowNormalizer(sbn.EMA(halflife="1ns", time="t"))
    norm.learn_one({"a": 1.0, "t": pd.Timestamp("2026-03-02T00:00:00.000000001")})
    norm.learn_one({"a": 4.0, "t": pd.Timestamp("2026-03-02T00:00:00.000000002")})
    assert norm.stats()["mean"].to_pylist() == [pytest.approx(3.0, rel=1e-15)]
    weight = norm.stats(at=pd.Timestamp("2026-03-02T00:00:00.000000003"))["weight"]
    assert weight.to_pylist() == [0.75]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "column 't' has no time"),
        ({"t": None}, "column 't' has no time"),
        ({"t": pd.NaT}, "column 't' has no time"),
        ({"t": pd.NA}, "column 't' has no time"),
        ({"t": np.datetime64("NaT")}, "column 't' has no time"),
        ({"t": 3}, "column 't' holds plain numbers"),
        ({"t": "2026-03-01"}, "column 't' is string, which is not an event time"),
        ({"t": True}, "column 't' is bool, which is not an event time"),
        pytest.param(
            {"t": object()}, ".t. must say when a row happened: .* got <object", id="object"
        ),
        ({"t": 10**40}, "'t' must say when a row happened: .* got 1000"),
        (None, "a row must be a dict"),
    ],
    ids=repr,
)
def test_a_row_without_a_time_is_refused(row, says):
    norm = RowNormalizer(TIMED)
    norm.learn_one({"t": datetime.date(2026, 3, 1), "a": 1.0})
    before = pickle.dumps(norm)
    with pytest.raises((InvalidValueError, SchemaError), match=says):
        norm.learn_one(row and {"a": 1.0, **row})
    assert pickle.dumps(norm) == before
    numbers = RowNormalizer(sbn.EMA(halflife=1, time="t"))
    with pytest.raises(InvalidValueError, match="column 't' is date32"):
        numbers.learn_one({"t": datetime.date(2026, 3, 1), "a": 1.0})
    with pytest.raises(SchemaError, match="column 't' is not in the data"):
        norm.learn_many(pa.record_batch({"a": [1.0]}))
    # A row that weighs nothing needs no time.
    batch = pa.record_batch({"a": [1.0] * 4, "t": [None, 1, None, None]})
    numbers.learn_many(batch, weights=[0, 1, 0, 0])
    assert numbers.rows == 1
    with pytest.raises(InvalidValueError, match=r"no time in row 2 of the batch \(1 in all\)"):
        numbers.learn_many(batch, weights=[0, 1, 1, 0])


def test_rows_without_a_time_may_be_skipped():
    norm = RowNormalizer(sbn.EMA(halflife=1, time="t", null_time="skip"))
    norm.learn_one({"a": 1.0, "t": 0})
    before = pickle.dumps(norm)
    norm.learn_one({"a": 7.0, "b": 1.0})
    norm.learn_one({"a": 7.0, "t": math.nan})
    norm.learn_many(pa.record_batch({"a": [7.0], "t": pa.nulls(1)}))
    assert pickle.dumps(norm) == before
    norm.learn_many(np.array([[math.nan, 7.0], [1.0, 4.0]]), ["t", "a"])
    norm.learn_one({"t": 1})
    assert norm.rows == 3
    assert statistics(norm)["a"]["mean"] == pytest.approx(3.0, rel=1e-15)


def test_weights_and_times_together():
    policy = sbn.EMA(halflife=1, time="t")
    one, many = RowNormalizer(policy), RowNormalizer(policy)
    keyed = RowNormalizer(policy, weights="w")
    rows = [({"a": 1.0, "t": 0}, 2.0), ({"a": 9.0, "t": 5}, 0.0), ({"a": 4.0, "t": 1}, 0.5)]
    for row, weight in rows:
        one.learn_one(row, weight)
        keyed.learn_one({**row, "w": weight})
    matrix = np.array([[row["t"], row["a"]] for row, _ in rows])
    many.learn_many(matrix, ["t", "a"], [weight for _, weight in rows])
    for norm in (one, many, keyed):
        of = statistics(norm)["a"]
        assert (of["count"], of["mean"], of["weight"]) == (2, 2.0, 1.5)


@pytest.mark.parametrize(
    "policy", [sbn.Welford(), sbn.BatchEMA(momentum=0.1), sbn.Exact(), TIMED], ids=str
)
def test_none_may_be_the_name_of_a_feature_or_no_row_at_all(policy):
    norm = RowNormalizer(policy)
    when = {"t": datetime.date(2026, 3, 1)} if policy is TIMED else {}
    norm.learn_one({None: None} | when)
    norm.learn_one({"a": None} | when)
    norm.learn_one({None: 1.0} | when)
    assert norm.features == [None]
    assert norm.rows == 3
    for method in (norm.learn_one, norm.transform_one):
        with pytest.raises(InvalidValueError, match="a row must be a dict of features, got None"):
            method(None)


# --------------------------------------------------------------------------- exact sums


def test_exact_sums_of_rows_are_those_of_a_batch():
    rng = random.Random(5)
    rows = [
        {
            "a": rng.gauss(1e15, 1),
            "i": rng.randrange(-(2**63), 2**63),
            "d": Decimal(i) / 8,
            "late": i,
        }
        for i in range(60)
    ]
    for row in rows[:20]:
        del row["late"]
    rows[3]["a"], rows[4]["a"] = None, math.nan
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([row.get(name) for row in rows], kind, from_pandas=False)
            for name, kind in (
                ("a", pa.float64()),
                ("i", pa.int64()),
                ("d", pa.decimal128(9, 3)),
                ("late", pa.int64()),
            )
        ],
        ["a", "i", "d", "late"],
    )
    columns = sbn.Normalizer(sbn.Exact()).update(batch).freeze()
    by_batch, by_row = RowNormalizer(sbn.Exact()), RowNormalizer(sbn.Exact())
    by_batch.learn_many(batch)
    for row in rng.sample(rows, len(rows)):
        by_row.learn_one(row)
    assert by_batch.to_normalizer().freeze() == columns
    for name, of in statistics(by_row).items():
        assert of == statistics(by_batch)[name]
    copied = pickle.loads(pickle.dumps(by_row))
    assert copied.transform_one(rows[7]) == by_row.transform_one(rows[7])
    again = RowNormalizer.from_normalizer(columns)
    again.learn_one(rows[0])
    assert statistics(again)["a"]["count"] == statistics(by_batch)["a"]["count"] + 1


def test_decimals_keep_their_digits_and_meet_no_other_floats():
    norm = RowNormalizer(sbn.Exact(), ddof=1)
    for i in range(1001):
        norm.learn_one({"d": Decimal("1.2") if not i else Decimal("1.1" if i % 2 else "1.3")})
    assert statistics(norm)["d"]["std"] == 0.1
    norm.learn_one({"d": 10**30})
    norm.learn_one({"d": 7.0})  # whole
    before = pickle.dumps(norm)
    with pytest.raises(SchemaError, match=r"feature 'd' holds 0\.5 on one side and decimals"):
        norm.learn_one({"d": 0.5, "new": 1})
    assert pickle.dumps(norm) == before
    assert norm.features == ["d"]


@pytest.mark.parametrize("policy", [sbn.BatchEMA(momentum=None), sbn.Exact()], ids=str)
def test_what_is_neither_whole_nor_a_decimal_is_a_float(policy):
    norm = RowNormalizer(policy)
    for value in (Fraction(1, 3), np.longdouble(1) / 3):
        norm.learn_one({"a": value})
    assert statistics(norm)["a"]["mean"] == 1 / 3
