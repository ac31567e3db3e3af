"""Rows of features: both kernels value by value, and matrices in the place of batches."""

from __future__ import annotations

import contextlib
import math
import pickle
import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
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
    "EMA, recursive": PLAIN._replace(decay=0.9, prior=9.0),
    "EMA, recursive, missing ignored": PLAIN._replace(decay=0.5, prior=1.0, ignore_missing=True),
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


def stored(lanes):
    moments, first = np.zeros((2, 15, len(lanes)), np.int64)
    lanes.store(moments, first, None)
    return LaneArrays(moments), LaneArrays(first)


@needs_native
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_kernels_learn_and_map_alike(rules):
    rng = random.Random(repr(rules))
    for _ in range(15):
        affine = {"c": (2.0, 1.0)}
        lanes = [k.RowLanes(*rules, affine, number, refuse) for k in (reference, native)]
        for _ in range(60):
            names = rng.sample("abcdefgh", rng.randint(0, 8))
            row = {name: value(rng, rules.inf != MISSING.index("raise")) for name in names}
            said, also = (lane.transform(row) for lane in lanes)
            assert list(said) == list(also) == names
            for name in names:
                x, y = said[name], also[name]
                same = x is y or x == y or (math.isnan(x) and math.isnan(y))
                assert same or math.isclose(x, y, rel_tol=1e-13, abs_tol=1e-13), (name, row)
            for lane in lanes:
                lane.learn(row)
        mine, other = lanes
        assert mine.keys() == other.keys()
        assert mine.exact() == other.exact()
        assert (mine.rows, len(mine)) == (other.rows, len(other)) == (60, len(mine.keys()))
        for found, expected in zip(stored(mine), stored(other), strict=True):
            for field in LaneArrays.FIELDS:
                a, b = getattr(found, field), getattr(expected, field)
                if field in ("mean_lo", "m2_lo"):  # the digits beyond the thirtieth
                    continue
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=0, err_msg=field)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forgetting_lane_does_not_slow_down_at_the_end_of_the_range(kernel):
    """0.7 times the smallest float64 is itself: what fades must come to be nothing."""
    lanes = kernel.RowLanes(*PLAIN._replace(decay=0.7, prior=7 / 3), {}, number, refuse)
    for i in range(3000):
        lanes.learn({"a": float(i % 7)})
    moments, first = stored(lanes)
    assert (moments.decay[0], first.weight[0], first.decay[0]) == (0.0, 0.0, 0.0)
    assert moments.weight[0] == pytest.approx(1 / 0.3, rel=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_loaded_goes_on_bit_for_bit(kernel):
    rules = PLAIN._replace(decay=0.9, prior=9.0)
    rng = random.Random(1)
    rows = [{n: rng.gauss(0, 1) for n in rng.sample("abcd", rng.randint(0, 4))} for _ in range(50)]
    whole = kernel.RowLanes(*rules, {}, number, refuse)
    for row in rows[:25]:
        whole.learn(row)
    moments, first = np.zeros((2, 15, len(whole)), np.int64)
    seen = np.zeros(len(whole), np.int64)
    whole.store(moments, first, seen)
    copy = kernel.RowLanes(*rules, {}, number, refuse)
    assert copy.update(whole.keys(), whole.exact(), 0, whole.rows, moments, first, seen)
    for row in rows[25:]:
        assert copy.transform(row) == whole.transform(row)
        copy.learn(row)
        whole.learn(row)
    for a, b in zip(stored(copy), stored(whole), strict=True):
        assert a.memory.tobytes() == b.memory.tobytes()


@needs_native
def test_what_does_not_fit_is_refused_by_the_extension():
    lanes = native.RowLanes(*PLAIN, {}, number, refuse)
    lanes.learn({"a": 1.0})
    moments, seen = np.zeros((15, 1), np.int64), np.ones(1, np.int64)
    for arguments in (
        ([], [True, True], 1, 1, moments, None, None),
        (["b"], [True], 1, 1, moments, None, None),
        ([], [True], 1, 1, moments[:14], None, None),
        ([], [True], 1, -1, moments, None, None),
        ([], [True], 1, 1, moments, moments[:3], None),
        ([], [True], 1, 1, moments, None, seen + 1),
        ([], [True], 1, 1, moments, None, -seen),
        ([], [True], 1, 1, moments.astype(float), None, None),
    ):
        with pytest.raises(ValueError, match=r"instead of|negative|there are not"):
            lanes.update(*arguments)
    with pytest.raises(ValueError, match="twice"):
        lanes.update(["a"], [True] * 2, 1, 1, np.zeros((15, 2), np.int64), None, None)
    assert lanes.update([], [True], 7, 8, moments, None, None) is False
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
