"""Rows of features: both kernels value by value, and matrices in the place of batches."""

from __future__ import annotations

import contextlib
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
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import Columns, Layout, Place, reference
from streambn.kernels.interface import ABSENT, LaneArrays
from streambn.kernels.rows import MISSING, UNSEEN, RowRules, number, refuse
from streambn.rows import RowNormalizer

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
PLAIN = RowRules(1.0, False, 0.0, 0, 0.0, math.inf, True, True, 0, 1, 0)
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


FIELDS = len(LaneArrays.FIELDS)


def room(lanes):
    """Make arrays for what lanes store: moments, first values, gaps."""
    n = len(lanes)
    return *np.zeros((2, FIELDS, n), np.int64), np.zeros((2, n), np.int64)


def stored(lanes):
    moments, first, gaps = room(lanes)
    lanes.store(moments, first, gaps, None)
    return LaneArrays(moments), LaneArrays(first), gaps


@needs_native
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_kernels_learn_and_map_alike(rules):
    rng = random.Random(repr(rules))
    for _ in range(15):
        affine = {"c": (2.0, 1.0)}
        lanes = [k.RowLanes(*rules, affine, number, refuse) for k in (reference, native)]
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
            for field in LaneArrays.FIELDS:
                a, b = getattr(found, field), getattr(expected, field)
                if field in ("mean_lo", "m2_lo"):  # the digits beyond the thirtieth
                    continue
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=0, err_msg=field)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forgetting_lane_does_not_slow_down_at_the_end_of_the_range(kernel):
    """0.7 times the smallest float64 is itself: what fades must come to be nothing."""
    lanes = kernel.RowLanes(*PLAIN._replace(decay=0.7, prior=1 / 0.3), {}, number, refuse)
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
    whole = kernel.RowLanes(*rules, {}, number, refuse)
    for row in rows[:25]:
        whole.learn(row)
    kept = *room(whole), np.zeros(len(whole), np.int64)
    whole.store(*kept)
    copy = kernel.RowLanes(*rules, {}, number, refuse)
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
    plain = rules._replace(eps=0.0, inf=MISSING.index("ignore"))
    means, biased, unbiased = (
        kernel.RowLanes(*changed, {}, number, refuse)
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
    lanes = kernel.RowLanes(*rules, {}, number, refuse)
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


# ----------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_row_may_have_a_weight(kernel, decay):
    rng = random.Random(decay)
    rules = PLAIN._replace(decay=decay)
    lanes = kernel.RowLanes(*rules, {}, number, refuse)
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
    lanes = kernel.RowLanes(*PLAIN._replace(decay=0.5), {}, number, refuse)
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
    lanes = kernel.RowLanes(*PLAIN, {}, number, refuse)
    with pytest.raises(
        InvalidValueError, match=r"^weight must be a number from 0.* to 1e\+30, got"
    ):
        lanes.learn({"a": 1.0}, weight)
    assert (lanes.rows, lanes.keys()) == (0, [])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_recursion_takes_no_weights(kernel):
    lanes = kernel.RowLanes(*PLAIN._replace(decay=0.5, prior=2.0), {}, number, refuse)
    lanes.learn({"a": 1.0}, 1)
    for weight in (0, 2.0):
        with pytest.raises(InvalidValueError, match=r"weight must be 1, .* adjust=True"):
            lanes.learn({"a": 2.0}, weight)
    with pytest.raises(InvalidValueError, match="a number from 0"):
        lanes.learn({"a": 2.0}, -1)
    assert lanes.rows == 1


@needs_native
def test_what_does_not_fit_is_refused_by_the_extension():
    lanes = native.RowLanes(*PLAIN, {}, number, refuse)
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
        native.RowLanes(*PLAIN._replace(decay=1.5), {}, number, refuse)
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
    lanes = kernel.RowLanes(*PLAIN, {}, number, refuse)
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
    plain = Columns(matrix, Layout([Place((i,), None) for i in range(5)]))
    as_list = Columns(np.ascontiguousarray(matrix), Layout([Place((0,), 5)]))
    for found in (kernel.block_moments(c, 0.99) for c in (plain, as_list)):
        for field in LaneArrays.FIELDS:
            a, b = getattr(found, field), getattr(expected, field)
            if kernel is reference:  # which groups lists and columns differently
                if not field.endswith("_lo"):
                    np.testing.assert_allclose(a, b, rtol=1e-14, atol=0, err_msg=field)
            else:
                assert a.tobytes() == b.tobytes()
    some = Columns(matrix, Layout([Place((3,), None), Place((ABSENT,), None)]))
    found = kernel.block_moments(some, 0.99)
    assert found.count.tolist() == [rows, 0]
    assert found.nulls.tolist() == [0, rows]


@needs_native
@pytest.mark.parametrize(
    ("matrix", "place", "says"),
    [
        (np.zeros((4, 3), order="F"), Place((3,), None), "3 columns"),
        (np.zeros((4, 3), order="F"), Place((-2,), None), "3 columns"),
        (np.zeros((4, 3)), Place((0,), None), "several pieces"),
        (np.zeros((4, 3), order="F"), Place((0,), 3), "several pieces"),
        (np.zeros((8, 3), order="F")[::2], Place((0,), None), "several pieces"),
        (np.zeros((4, 3)), Place((1,), 3), "3 columns"),
        (np.zeros((4, 3), bool, order="F"), Place((0,), None), "no numbers"),
        (np.zeros((4, 3), complex, order="F"), Place((0,), None), "no numbers"),
        (np.zeros((4, 3), ">f8", order="F"), Place((0,), None), "no numbers"),
        (np.zeros(4), Place((0,), None), "two dimensions"),
        (np.zeros((4, 3, 2)), Place((0,), None), "two dimensions"),
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


@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.BatchEMA(momentum=0.1)], ids=str)
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
        RowNormalizer.of(sbn.Normalizer().update(lists))


def test_nothing_learned_makes_a_normalizer_that_binds_what_comes():
    norm = RowNormalizer(sbn.EMA(alpha=0.5)).to_normalizer()
    assert norm.lanes == ()
    assert norm.update(pa.table({"a": [1.0]})).lanes == ("a",)
    assert RowNormalizer.of(norm).features == ["a"]


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
    back = RowNormalizer.of(core.freeze())
    assert pickle.dumps(back) == pickle.dumps(norm)
    for one in (back, norm):
        one.learn_many(late)
    assert back.stats().equals(norm.stats())
    assert norm.stats()["nulls"].to_pylist() == [3, 3, 13]
