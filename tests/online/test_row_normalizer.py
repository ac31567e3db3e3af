"""RowNormalizer learns rows and batches alike, and agrees with Normalizer."""

from __future__ import annotations

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
from numpy.testing import assert_allclose

import streambn as sbn
from streambn import RowNormalizer
from streambn.errors import InvalidValueError, SchemaError
from streambn.policies import Policy


def learned(*rows, **options):
    norm = RowNormalizer(**options)
    for row in rows:
        norm.learn_one(row)
    return norm


@pytest.mark.parametrize(
    "wrong", [{"unseen": "null"}, {"policy": "welford"}, {"eps": -1.0}], ids=str
)
def test_arguments_are_checked(wrong):
    [name] = wrong
    with pytest.raises(InvalidValueError, match=f"{name} must be"):
        RowNormalizer(**wrong)


@pytest.mark.parametrize(
    ("row", "column"),
    [({"a": "text"}, "a"), ({"b": 1.0, "a": math.inf}, "a"), ({"b": 10**400}, "b")],
    ids=str,
)
@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.Exact()], ids=str)
def test_errors_name_the_feature(policy, row, column):
    norm = learned({"a": 1.0}, policy=policy)
    for method in (norm.learn_one, norm.transform_one):
        with pytest.raises((InvalidValueError, SchemaError)) as caught:
            method(row)
        assert caught.value.column == column


@pytest.mark.parametrize(
    "policy", [sbn.Welford(), sbn.BatchEMA(momentum=0.1), sbn.Exact()], ids=str
)
def test_duplicate_feature_is_refused(policy):
    norm = RowNormalizer(policy)
    for _ in range(2):  # first as a new feature, then as a known one
        with pytest.raises(SchemaError, match="'a' occurs twice"):
            norm.learn_many(pa.record_batch([[1.0], [2.0]], names=["x", "y"]), ["a", "a"])
        norm.learn_many(pa.record_batch({"a": [1.0]}))
    assert norm.rows == 2


def test_features_of_the_same_text_do_not_convert():
    norm = learned({1: 2.0, "1": 3.0})
    assert norm.features == [1, "1"]
    with pytest.raises(SchemaError, match="'1' occurs twice"):
        norm.to_normalizer()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("emb", pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))),
        ("s.a", pa.array([{"a": 1.0}])),
    ],
    ids=["list", "struct"],
)
def test_lists_and_structs_do_not_convert(name, column):
    norm = sbn.Normalizer().update(pa.table({name.partition(".")[0]: column}))
    with pytest.raises(SchemaError, match=f"{name!r} is a list or part of a struct") as caught:
        RowNormalizer.from_normalizer(norm)
    assert caught.value.column == name


def test_unlearned_normalizer_converts_to_an_unfitted_one():
    norm = RowNormalizer(sbn.EMA(alpha=0.5)).to_normalizer()
    assert norm.features == ()
    assert norm.update(pa.table({"a": [1.0]})).features == ("a",)
    assert RowNormalizer.from_normalizer(norm).features == ["a"]


@pytest.mark.parametrize(
    "policy",
    [
        *(sbn.Welford(), sbn.EMA(alpha=1.0, adjust=False), sbn.EMA(halflife=3, adjust=False)),
        *(sbn.BatchEMA(decay=0.9), sbn.BatchEMA(momentum=None, batch_rows=3)),
    ],
    ids=str,
)
def test_round_trip_through_normalizer(policy):
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


def statistics(norm):
    """Return the statistics of each feature by name."""
    rows = norm.stats().to_pylist()
    return {row.pop("column"): row for row in rows}


def assert_close(one, other):
    one, other = statistics(one), statistics(other)
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert found == pytest.approx(other[name], rel=1e-12), name


WEIGHTED = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(alpha=0.2),
    "EMAIgnoreNA": sbn.EMA(alpha=0.2, ignore_na=True),
}
UNWEIGHTED = [sbn.EMA(alpha=0.2, adjust=False), sbn.BatchEMA(momentum=0.1), sbn.Exact()]


def weighted_stream():
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


@pytest.mark.parametrize("policy", WEIGHTED.values(), ids=WEIGHTED)
def test_weights_of_rows_batches_and_columns_agree(policy):
    rows, weights = weighted_stream()
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
def test_weights_of_a_matrix(weights):
    matrix = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3)))
    norm, expected = RowNormalizer(), RowNormalizer()
    norm.learn_many(matrix, ["a", "b", "c"], weights)
    for values, weight in zip(matrix.tolist(), weights, strict=True):
        expected.learn_one(dict(zip("abc", values, strict=True)), weight)
    assert_close(norm, expected)
    assert norm.rows == 3


def test_weights_equal_repeated_rows():
    rows, _ = weighted_stream()
    times = [i % 4 for i in range(len(rows))]
    weighted, repeated = RowNormalizer(), RowNormalizer()
    for row, n in zip(rows, times, strict=True):
        weighted.learn_one(row, n)
        for _ in range(n):
            repeated.learn_one(row)
    expected = statistics(repeated)
    for name, of in statistics(weighted).items():
        for column in ("mean", "var", "std", "min", "max"):
            assert of[column] == pytest.approx(expected[name][column], rel=1e-12)


def test_rows_of_weight_zero_leave_no_trace():
    norm = learned({"a": 1.0}, policy=sbn.EMA(alpha=0.5))
    before = pickle.dumps(norm)
    norm.learn_one({"a": 2.0, "b": 1.0}, 0)
    norm.learn_many(as_batch([{"a": 2.0, "b": 1.0}] * 3), weights=np.zeros(3))
    norm.learn_many(np.ones((2, 1)), ["new"], [0, 0])
    assert pickle.dumps(norm) == before
    assert norm.features == ["a"]


@pytest.mark.parametrize(
    ("weights", "message"),
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
def test_invalid_weights_of_a_batch_are_refused(weights, message):
    norm = learned({"a": 1.0})
    before = pickle.dumps(norm)
    for batch, names in ((as_batch([{"a": 1.0}] * 2), None), (np.ones((2, 1)), ["a"])):
        with pytest.raises((InvalidValueError, SchemaError), match=message):
            norm.learn_many(batch, names, weights)
    assert pickle.dumps(norm) == before


class WithoutWeights(sbn.Welford):
    """A custom policy that learns row by row and takes no weights."""

    takes_weights = False


class ByBlocks(Policy):
    """A custom policy that learns by blocks and takes weights."""

    takes_weights = True
    init, update, merge, read, tally, take, describe, commutative = (
        getattr(sbn.Welford(), name)
        for name in ("init", "update", "merge", "read", "tally", "take", "describe", "commutative")
    )


@pytest.mark.parametrize("policy", [*UNWEIGHTED, WithoutWeights()], ids=repr)
def test_policies_without_weights_refuse_them(policy):
    norm = learned({"a": 1.0}, policy=policy)
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
    norm.learn_many(as_batch([{"a": 1.0}]), weights=[1.0])  # the same as no weights
    assert norm.rows == 3


def test_policy_by_blocks_may_take_weights():
    norm, expected = RowNormalizer(ByBlocks()), RowNormalizer()
    rows, weights = weighted_stream()
    for row, weight in zip(rows, weights, strict=True):
        norm.learn_one(row, weight)
        expected.learn_one(row, weight)
    for refused in ({"a": "x"}, {"a": math.inf}):
        with pytest.raises((InvalidValueError, SchemaError), match="'a'"):
            norm.learn_one(refused, 0)
    with pytest.raises(InvalidValueError, match="weight must be a number"):
        norm.learn_one({"a": 1.0}, -1)
    assert_close(norm, expected)


@pytest.mark.parametrize("policy", [sbn.Welford(), ByBlocks()], ids=["by value", "by block"])
def test_weights_under_a_key(policy):
    norm = RowNormalizer(policy, weights="w")
    row = {"w": 3, "a": 1.0, "s": "x"}
    for x in (row, {"a": 5.0, "w": 1}, {"a": 70.0, "w": 0}):
        norm.learn_one(x)
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
    conflict = "conflicts with weights='w'"
    for call, message in (
        (lambda: norm.learn_one({"a": 1.0}), "weight under 'w' must be a number from 0"),
        (lambda: norm.learn_one({"a": 1.0, "w": 1}, 2), f"weight=2 {conflict}"),
        (lambda: norm.learn_many(batch, weights=[2]), rf"weights=\[2\] {conflict}"),
        (
            lambda: norm.learn_many(pa.record_batch({"a": [2.0], "w": [-1]})),
            "weights: column 'w' holds -1 in row 0",
        ),
        (lambda: norm.learn_one(None), "a row must be a dict"),
        (lambda: norm.transform_one(None), "a row must be a dict"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            call()
    with pytest.raises(SchemaError, match="column 'w' is not in the data"):
        norm.learn_many(pa.record_batch({"a": [2.0]}))
    with pytest.raises(SchemaError, match="'w' occurs twice"):
        norm.learn_many(np.ones((1, 3)), ["w", "a", "w"])
    assert pickle.dumps(norm) == before
    copied = pickle.loads(before)
    assert copied.transform_one({"w": 7, "a": 2.0}) == norm.transform_one({"w": 7, "a": 2.0})


def test_weights_in_a_column_continue_under_a_key():
    core = sbn.Normalizer(weights="w").update(pa.table({"a": [1.0, 5.0], "w": [3, 1]}))
    norm = RowNormalizer.from_normalizer(core)
    norm.learn_one({"a": 2.0, "w": 4})
    core.update(pa.table({"a": [2.0], "w": [4]}))
    assert norm.to_normalizer().stats().equals(core.stats())
    both = sbn.Normalizer(columns=["a", "w"], weights="w").update(pa.table({"a": [1.0], "w": [3]}))
    with pytest.raises(SchemaError, match="column 'w' is a feature and also holds the weights"):
        RowNormalizer.from_normalizer(both)


DAY = np.datetime64("2026-03-01")
TIMED = sbn.EMA(halflife="1d", time="t")


def timed_rows():
    rng = random.Random(3)

    def row():
        present = [name for name in "abc" if rng.random() < 0.8]
        return {name: rng.choice([None, math.nan, rng.gauss(5, 1)]) for name in present}

    rows = [row() for _ in range(30)]
    at = [DAY + np.timedelta64(rng.randint(-9 * 86400, 9 * 86400), "s") for _ in rows]
    return [{"t": t.item(), **row} for t, row in zip(at, rows, strict=True)], np.array(at)


def test_event_times_under_a_key():
    rows, at = timed_rows()
    norm, many, core = learned(*rows, policy=TIMED), RowNormalizer(TIMED), sbn.Normalizer(TIMED)
    batch = as_batch(rows).append_column("t", pa.array(at))
    many.learn_many(batch[:20])
    many.learn_many(batch[20:])
    core.update(batch)
    assert norm.rows == many.rows == 30
    assert_close(norm, core)
    assert_close(many, core)
    later = at.max() + np.timedelta64(1, "D")
    now, then = (norm.stats(**how)["weight"][0].as_py() for how in ({}, {"at": later}))
    assert then == pytest.approx(now / 2, rel=1e-12)
    row = {"t": None, "a": 5.0, "s": "x"}
    z = core.transform(pa.table({"a": [5.0], "b": [1.0], "c": [1.0]}))["a"][0].as_py()
    assert norm.transform_one(row) == {"t": None, "a": pytest.approx(z, rel=1e-12), "s": "x"}
    out = many.transform_many(batch)
    assert out.column("t").equals(batch.column("t"))
    assert out.column("a").null_count == batch.column("a").null_count > 0
    z, expected = (
        made.column("a").to_numpy(zero_copy_only=False) for made in (out, core.transform(batch))
    )
    assert_allclose(z, expected, rtol=1e-12)
    copied = pickle.loads(pickle.dumps(norm))
    copied.learn_one(rows[0])
    norm.learn_one(rows[0])
    assert copied.stats().equals(norm.stats())


def test_round_trip_with_event_times():
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
    "t",
    [
        datetime.datetime(2026, 3, 2),
        datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC),
        datetime.date(2026, 3, 2),
        *(np.datetime64(f"2026-03-02{rest}") for rest in ("", "T00", "T00:00:00.000000000")),
        *(pd.Timestamp("2026-03-02"), pd.Timestamp("2026-03-02T02:00", tz="Europe/Helsinki")),
        *(1, 1.0, np.int8(1), np.float32(1.0)),
    ],
    ids=repr,
)
def test_event_times_of_every_type(t):
    policy, start = TIMED, datetime.datetime(2026, 3, 1)
    if getattr(t, "tzinfo", None) is not None:
        start = start.replace(tzinfo=datetime.UTC)
    if isinstance(t, int | float | np.number):
        policy, start = sbn.EMA(halflife=1, time="t"), 0
    norm = learned({"a": 1.0, "t": start}, {"a": 4.0, "t": t}, policy=policy)
    assert norm.stats()["mean"].to_pylist() == [pytest.approx(3.0, rel=1e-15)]


def test_event_times_keep_nanoseconds():
    first, second, third = (pd.Timestamp(f"2026-03-02T00:00:00.00000000{i}") for i in (1, 2, 3))
    rows = {"a": 1.0, "t": first}, {"a": 4.0, "t": second}
    norm = learned(*rows, policy=sbn.EMA(halflife="1ns", time="t"))
    assert norm.stats()["mean"].to_pylist() == [pytest.approx(3.0, rel=1e-15)]
    assert norm.stats(at=third)["weight"].to_pylist() == [0.75]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "column 't' has no time"),
        ({"t": None}, "column 't' has no time"),
        ({"t": pd.NaT}, "column 't' has no time"),
        ({"t": pd.NA}, "column 't' has no time"),
        ({"t": np.datetime64("NaT")}, "column 't' has no time"),
        ({"t": 3}, "column 't' holds plain numbers"),
        ({"t": "2026-03-01"}, "column 't' is string, which is not an event time"),
        ({"t": True}, "column 't' is bool, which is not an event time"),
        pytest.param({"t": object()}, ".t. must be the time of the row.* got <object", id="object"),
        ({"t": 10**40}, "'t' must be the time of the row.* got 1000"),
        (None, "a row must be a dict"),
    ],
    ids=repr,
)
def test_row_without_an_event_time_is_refused(row, message):
    norm = learned({"t": datetime.date(2026, 3, 1), "a": 1.0}, policy=TIMED)
    before = pickle.dumps(norm)
    with pytest.raises((InvalidValueError, SchemaError), match=message):
        norm.learn_one(row and {"a": 1.0, **row})
    assert pickle.dumps(norm) == before
    numbers = RowNormalizer(sbn.EMA(halflife=1, time="t"))
    with pytest.raises(InvalidValueError, match="column 't' is date32"):
        numbers.learn_one({"t": datetime.date(2026, 3, 1), "a": 1.0})
    with pytest.raises(SchemaError, match="column 't' is not in the data"):
        norm.learn_many(pa.record_batch({"a": [1.0]}))
    # A row of weight 0 needs no time.
    batch = pa.record_batch({"a": [1.0] * 4, "t": [None, 1, None, None]})
    numbers.learn_many(batch, weights=[0, 1, 0, 0])
    assert numbers.rows == 1
    with pytest.raises(InvalidValueError, match=r"no time in row 2 of the batch \(1 in all\)"):
        numbers.learn_many(batch, weights=[0, 1, 1, 0])


def test_rows_without_an_event_time_can_be_skipped():
    norm = learned({"a": 1.0, "t": 0}, policy=sbn.EMA(halflife=1, time="t", null_time="skip"))
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
def test_none_can_be_a_feature_but_not_a_row(policy):
    norm = RowNormalizer(policy)
    when = {"t": datetime.date(2026, 3, 1)} if policy is TIMED else {}
    for row in ({None: None}, {"a": None}, {None: 1.0}):
        norm.learn_one(row | when)
    assert norm.features == [None]
    assert norm.rows == 3
    for method in (norm.learn_one, norm.transform_one):
        with pytest.raises(InvalidValueError, match="a row must be a dict of features, got None"):
            method(None)


def test_exact_sums_of_rows_equal_those_of_a_batch():
    rng = random.Random(5)
    big, kinds = 2**63, (pa.float64(), pa.int64(), pa.decimal128(9, 3), pa.int64())
    rows = [
        {"a": rng.gauss(1e15, 1), "i": rng.randrange(-big, big), "d": Decimal(i) / 8, "late": i}
        for i in range(60)
    ]
    names = list(rows[0])
    for row in rows[:20]:
        del row["late"]
    rows[3]["a"], rows[4]["a"] = None, math.nan
    columns = [
        pa.array([row.get(name) for row in rows], kind, from_pandas=False)
        for name, kind in zip(names, kinds, strict=True)
    ]
    batch = pa.record_batch(columns, names)
    columns = sbn.Normalizer(sbn.Exact()).update(batch).freeze()
    by_row = learned(*rng.sample(rows, len(rows)), policy=sbn.Exact())
    by_batch = RowNormalizer(sbn.Exact())
    by_batch.learn_many(batch)
    assert by_batch.to_normalizer().freeze() == columns
    for name, of in statistics(by_row).items():
        assert of == statistics(by_batch)[name]
    copied = pickle.loads(pickle.dumps(by_row))
    assert copied.transform_one(rows[7]) == by_row.transform_one(rows[7])
    again = RowNormalizer.from_normalizer(columns)
    again.learn_one(rows[0])
    assert statistics(again)["a"]["count"] == statistics(by_batch)["a"]["count"] + 1


def test_decimals_keep_their_digits_and_refuse_fractional_floats():
    norm = RowNormalizer(sbn.Exact(), ddof=1)
    for i in range(1001):
        norm.learn_one({"d": Decimal("1.2") if not i else Decimal("1.1" if i % 2 else "1.3")})
    assert statistics(norm)["d"]["std"] == 0.1
    norm.learn_one({"d": 10**30})
    norm.learn_one({"d": 7.0})  # an integral float
    before = pickle.dumps(norm)
    with pytest.raises(SchemaError, match=r"feature 'd' holds 0\.5 on one side and decimals"):
        norm.learn_one({"d": 0.5, "new": 1})
    assert pickle.dumps(norm) == before
    assert norm.features == ["d"]


@pytest.mark.parametrize("policy", [sbn.BatchEMA(momentum=None), sbn.Exact()], ids=str)
def test_fractions_and_long_doubles_are_floats(policy):
    norm = learned({"a": Fraction(1, 3)}, {"a": np.longdouble(1) / 3}, policy=policy)
    assert statistics(norm)["a"]["mean"] == 1 / 3


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
    rows = learned(*({"x": value} for value in values), policy=policy, eps=eps)
    for norm in (rows, RowNormalizer.from_normalizer(columns)):
        assert norm.transform_one({"x": 30.0}) == {"x": expected}
        assert norm.transform_many(pa.record_batch({"x": [30.0]}))["x"][0].as_py() == expected


@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.Exact()], ids=repr)
def test_constant_features_can_come_out_as_zero(policy):
    rows = {"x": 20.0, "y": 1.0}, {"x": 20.0, "y": 3.0}
    norm = learned(*rows, policy=policy, constant="zero", affine={"x": (2.0, 5.0)})
    for copy in (norm, pickle.loads(pickle.dumps(norm))):
        assert copy.transform_one({"x": 30.0, "y": 3.0}) == {"x": 5.0, "y": 1.0}
        batch = copy.transform_many(pa.record_batch({"x": [30.0], "y": [3.0]}))
        assert batch.to_pydict() == {"x": [5.0], "y": [1.0]}
    with pytest.raises(InvalidValueError, match=r"constant must be 'unit' or 'zero', got 'one'\."):
        RowNormalizer(policy, constant="one")
