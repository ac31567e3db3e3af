"""RiverNormalizer in River's compositions, frozen, with weights and with event times."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose
from river import compose, datasets, ensemble, evaluate, linear_model, metrics, preprocessing
from river_rows import ROWS, learn, learned

import streambn as sbn
from streambn.adapters.river import RiverNormalizer, freeze, unfreeze
from streambn.errors import InvalidValueError


def test_frozen_normalizer_does_not_learn_until_unfrozen():
    model, frame = learned(*ROWS[:10]), pd.DataFrame(ROWS[30:40])
    assert model.frozen is False
    before, one, many = model.stats(), model.transform_one(ROWS[30]), model.transform_many(frame)
    model.freeze()
    assert model.frozen is True
    learn(model, *ROWS[10:], {"new": 1.0}, pd.DataFrame(ROWS[10:20]))
    assert model.stats().equals(before)
    assert model.transform_one(ROWS[30]) == one
    pd.testing.assert_frame_equal(model.transform_many(frame), many)
    model.freeze()  # a second time changes nothing
    model.unfreeze()
    assert model.frozen is False
    learn(model, *ROWS[10:20])
    assert model.stats().equals(learned(*ROWS[:20]).stats())


def test_frozen_in_a_pipeline_while_the_model_learns():
    scaler = RiverNormalizer()
    model = scaler | linear_model.LinearRegression()
    for row in ROWS[:20]:
        model.learn_one(row, row["c"])
    assert model["RiverNormalizer"] is scaler
    scaler.freeze()
    before, weights = scaler.stats(), dict(model["LinearRegression"].weights)
    for row in ROWS[20:]:
        model.learn_one(row, row["c"])
    model.learn_many(pd.DataFrame(ROWS), pd.Series([0.0] * len(ROWS)))
    assert scaler.stats().equals(before)
    assert dict(model["LinearRegression"].weights) != weights
    scaler.unfreeze()
    model.learn_one(ROWS[0], 0.0)
    assert not scaler.stats().equals(before)


def test_frozen_under_learn_during_predict():
    model = RiverNormalizer() | linear_model.LinearRegression()
    with compose.learn_during_predict():
        model.predict_one(ROWS[0])
        model["RiverNormalizer"].freeze()
        before = model["RiverNormalizer"].stats()
        model.predict_one(ROWS[1])
        model.predict_many(pd.DataFrame(ROWS[1:3]))
    assert before["count"].to_pylist() == [1, 1, 1]
    assert model["RiverNormalizer"].stats().equals(before)


@pytest.mark.parametrize("frozen", [False, True])
def test_union_copies_statistics_and_frozenness(frozen):
    scaler = learned(*ROWS[:20])
    if frozen:
        scaler.freeze()
    union = scaler + preprocessing.MinMaxScaler()
    inside = union["RiverNormalizer"]
    assert inside is not scaler
    assert inside.frozen is frozen
    assert inside.stats().equals(scaler.stats())
    union.learn_one(ROWS[20])
    assert scaler.stats().equals(learned(*ROWS[:20]).stats())
    expected = learned(*(ROWS[:20] if frozen else ROWS[:21]))
    assert inside.stats().equals(expected.stats())
    assert union.transform_one(ROWS[30]) == expected.transform_one(ROWS[30])
    inside.unfreeze()
    union.learn_one(ROWS[21])
    assert not inside.stats().equals(expected.stats())


def test_grouper_copies_the_normalizer_for_each_group():
    scaler = learned(*ROWS[:10])
    grouper = scaler * "group"
    assert grouper.transformer is scaler
    for i, row in enumerate(ROWS[10:20]):
        grouper.learn_one(row | {"group": "odd" if i % 2 else "even"})
    assert scaler.stats().equals(learned(*ROWS[:10]).stats())
    for group, start in (("even", 10), ("odd", 11)):
        expected = learned(*ROWS[:10], *ROWS[start:20:2])
        assert grouper.transformers[group].stats().equals(expected.stats())
        out = grouper.transform_one(ROWS[30] | {"group": group})
        assert out == expected.transform_one(ROWS[30]) | {"group": group}
    scaler.freeze()  # affects only groups that appear from now on
    grouper.learn_one(ROWS[20] | {"group": "odd"})
    grouper.learn_one(ROWS[21] | {"group": "new"})
    assert grouper.transformers["new"].frozen
    assert grouper.transformers["new"].stats().equals(learned(*ROWS[:10]).stats())
    assert grouper.transformers["odd"].stats()["count"].to_pylist() == [16, 16, 16]


def test_freeze_and_unfreeze_reach_every_group_of_a_grouper():
    grouper = compose.Grouper(RiverNormalizer(), by=["shop", "unit"])
    model = grouper | compose.Select("a", "b", "c") | linear_model.LinearRegression()
    groups = [{"shop": shop, "unit": unit} for shop in "ab" for unit in (1, 2)]
    for i, row in enumerate(ROWS[:40]):
        model.learn_one(row | groups[i % 4], 1.0)
    scalers = [grouper.transformer, *grouper.transformers.values()]
    assert len(scalers) == 5
    before = [pickle.dumps(scaler) for scaler in scalers]
    freeze(model)
    assert all(scaler.frozen for scaler in scalers)
    for i, row in enumerate(ROWS[40:]):
        model.learn_one(row | groups[i % 4], 1.0)
    model.learn_one(ROWS[0] | {"shop": "new", "unit": 1}, 1.0)
    new = grouper.transformers["new_1"]
    assert new.frozen
    assert new.stats().num_rows == 0
    unfreeze(model)
    assert not new.frozen
    assert [pickle.dumps(scaler) for scaler in scalers] == before
    model.learn_one(ROWS[0] | groups[0], 1.0)
    assert pickle.dumps(scalers[1]) != before[1]


def regressor():
    return RiverNormalizer() | linear_model.LinearRegression()


MODELS = {
    "alone": (RiverNormalizer(), 1),
    "pipeline": (regressor(), 1),
    "union": ((compose.Select("a") | RiverNormalizer()) + RiverNormalizer(), 2),
    "ensemble": (ensemble.BaggingRegressor(regressor(), n_models=3), 4),  # with the prototype
    "wrapper": (compose.TargetTransformRegressor(regressor(), float, float), 1),
    "none": (preprocessing.StandardScaler(), 0),
}


@pytest.mark.parametrize(("model", "count"), MODELS.values(), ids=MODELS)
def test_freeze_finds_the_normalizers_of_any_model(model, count, monkeypatch):
    found = []
    monkeypatch.setattr(RiverNormalizer, "freeze", lambda self: found.append(id(self)))
    freeze(model)
    assert len(set(found)) == len(found) == count


def test_normalizers_of_a_union_of_selections():
    features = compose.Select("a", "b") | RiverNormalizer()
    model = features + (compose.Select("c") | RiverNormalizer())
    learn(model, *ROWS)
    expected = learned(*ROWS)
    assert model.transform_one(ROWS[7]) == pytest.approx(expected.transform_one(ROWS[7]), rel=1e-12)


# Rounding differs between the two scalers, and gradient descent amplifies it to this much.
ROUNDING = 1e-6


@pytest.mark.parametrize(
    ("dataset", "model", "metric"),
    [
        (datasets.Phishing, linear_model.LogisticRegression, metrics.Accuracy),
        (datasets.Phishing, linear_model.LogisticRegression, metrics.LogLoss),
        (datasets.Phishing, linear_model.LogisticRegression, metrics.ROCAUC),
        (datasets.TrumpApproval, linear_model.LinearRegression, metrics.MAE),
        (datasets.ChickWeights, linear_model.LinearRegression, metrics.MAE),
        (datasets.Bananas, linear_model.LogisticRegression, metrics.LogLoss),
    ],
    ids=lambda v: v.__name__,
)
def test_scores_are_as_good_as_with_rivers_scaler(dataset, model, metric):
    scores = [
        evaluate.progressive_val_score(dataset().take(2500), scaler | model(), metric()).get()
        for scaler in (RiverNormalizer(), preprocessing.StandardScaler())
    ]
    ours, theirs = scores if metric().bigger_is_better else [-score for score in scores]
    assert ours >= theirs - ROUNDING


def test_offset_of_the_data_does_not_affect_a_model():
    """It affects one that learns frames behind River's scaler."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    y = pd.Series(x @ [2.0, -1.0])

    def error(scaler, offset):
        model = scaler | linear_model.LinearRegression()
        frame = pd.DataFrame(x + offset, columns=["a", "b"])
        with np.errstate(all="ignore"):
            for start in range(0, len(frame), 10):
                model.learn_many(frame[start : start + 10], y[start : start + 10])
            predicted = model.predict_many(frame)
        return float(abs(predicted - y).mean())

    def error_of_river(offset):
        try:
            return error(preprocessing.StandardScaler(), offset)
        except TypeError:  # the square root of a negative variance is complex
            return math.inf

    near, far = error(RiverNormalizer(), 0.0), error(RiverNormalizer(), 1e9)
    assert far == pytest.approx(near, rel=1e-6)
    assert not error_of_river(1e9) <= 2 * near  # NaN counts as worse


WEIGHTS = [2.0, 1.0] * (len(ROWS) // 2)
REPEATED = [row for row, w in zip(ROWS, WEIGHTS, strict=True) for _ in range(int(w))]


def assert_same_statistics(one, other):
    one, other = (m.stats().to_pandas().set_index("column")[["mean", "std"]] for m in (one, other))
    pd.testing.assert_frame_equal(one, other, rtol=1e-12, atol=0)


def test_weights_equal_repeated_rows():
    expected = learned(*REPEATED)
    one = RiverNormalizer()
    for x, w in zip(ROWS, WEIGHTS, strict=True):
        one.learn_one(x, w=w)
    assert_same_statistics(one, expected)
    frame = pd.DataFrame(ROWS)
    for X in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame), frame.astype(object)):
        for w in (WEIGHTS, np.array(WEIGHTS), pd.Series(WEIGHTS), pl.Series(WEIGHTS)):
            many = RiverNormalizer()
            many.learn_many(X[:11], w[:11])
            many.learn_many(X[11:], w=w[11:])
            assert_same_statistics(many, expected)
    halves = RiverNormalizer()
    halves.learn_many(frame, 0.5)
    halves.learn_many(frame, w=np.float32(1))
    assert_same_statistics(halves, learned(*ROWS))


def test_rows_of_weight_zero_and_rows_after_freezing_change_nothing():
    model = learned(*ROWS)
    before = pickle.dumps(model)
    model.learn_one({"a": 9.0, "new": 1.0}, 0)
    model.learn_many(pd.DataFrame(ROWS), 0)
    model.learn_many(pd.DataFrame(ROWS), [0] * len(ROWS))
    assert pickle.dumps(model) == before
    model.freeze()
    model.learn_one({"a": 9.0}, 2.0)
    model.learn_many(pd.DataFrame(ROWS), 2.0)
    model.unfreeze()
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("w", [-1.0, math.nan, "x", None], ids=str)
def test_invalid_weights_are_refused(w):
    model = learned(*ROWS)
    before = pickle.dumps(model)
    with pytest.raises(InvalidValueError, match="weight must be a number from 0"):
        model.learn_one({"a": 1.0}, w)
    if w is not None:
        with pytest.raises(InvalidValueError, match="weights"):
            model.learn_many(pd.DataFrame(ROWS), w)
    with pytest.raises(InvalidValueError, match="2 entries"):
        model.learn_many(pd.DataFrame(ROWS), [1.0, 2.0])
    assert pickle.dumps(model) == before


@pytest.mark.parametrize(
    "policy",
    [sbn.EMA(alpha=0.2, adjust=False), sbn.BatchEMA(momentum=0.1), sbn.Exact()],
    ids=repr,
)
def test_policies_that_set_the_weights_refuse_others(policy):
    model = learned(*ROWS, policy=policy)
    model.learn_one({"a": 1.0}, w=1.0)
    with pytest.raises(InvalidValueError, match="adjust=True"):
        model.learn_one({"a": 1.0}, w=2.0)
    with pytest.raises(InvalidValueError, match="adjust=True"):
        model.learn_many(pd.DataFrame(ROWS), w=2.0)


def test_pipelines_and_unions_pass_weights():
    union, scaler = RiverNormalizer() + compose.Renamer({}), RiverNormalizer(sbn.EMA(halflife=10))
    model = union | linear_model.LinearRegression()
    alone = compose.Pipeline(scaler, linear_model.LinearRegression())
    expected = RiverNormalizer(sbn.EMA(halflife=10))
    for x, w in zip(ROWS, WEIGHTS, strict=True):
        model.learn_one(x, 1.0, w=w)
        alone.learn_one(x, 1.0, w=w)
        expected.learn_one(x, w)
    assert_same_statistics(union["RiverNormalizer"], learned(*REPEATED))
    assert scaler.stats().equals(expected.stats())


def test_weights_under_a_key():
    core = sbn.Normalizer(weights="w")
    rows = [{**row, "w": w} for row, w in zip(ROWS, WEIGHTS, strict=True)]
    core.update(pd.DataFrame(rows[:20]))
    model = RiverNormalizer.from_normalizer(core.freeze())
    assert model.clone().weights == "w"
    learn(model, *rows[20:40], pd.DataFrame(rows[40:]))
    core.update(pd.DataFrame(rows[20:]))
    assert_same_statistics(model, core)
    with pytest.raises(InvalidValueError, match="conflicts with weights='w'"):
        model.learn_one(rows[0], 2.0)
    assert model.transform_one(rows[0])["w"] == 2.0


T0 = pd.Timestamp("2026-03-01")


def test_event_times_under_a_key():
    policy = sbn.EMA(halflife="1h", time="t")
    frame = pd.DataFrame(ROWS)
    frame.insert(1, "t", [T0 + pd.Timedelta(minutes=7 * i % 60) for i in range(len(ROWS))])
    core = sbn.Normalizer(policy).update(frame)
    one = learned(*frame.to_dict("records"), policy=policy)
    many = learned(frame[:20], pl.from_pandas(frame[20:]), policy=policy)
    for found in (one, many, RiverNormalizer.from_normalizer(core.freeze())):
        assert_same_statistics(found, core)
        assert found.transform_one({"t": T0, "s": "x"}) == {"t": T0, "s": "x"}
        for X in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
            out = found.transform_many(X)
            assert list(out["t"]) == list(X["t"])
            assert_allclose(out["a"], core.transform(frame)["a"], rtol=1e-10)
    assert one.stats(at=T0 + pd.Timedelta(days=1))["weight"][0].as_py() < 1e-5
    with pytest.raises(InvalidValueError, match="column 't' has no time"):
        one.learn_one({"a": 1.0})


@pytest.mark.parametrize("dtype", ["int64", "int32", "float32", "float64"])
def test_times_in_a_frame_of_one_dtype_do_not_change(dtype):
    # float32 cannot represent 2**24 + 1.
    first = 2**24 if dtype == "float32" else 2**24 + 1
    frame = pd.DataFrame({"t": [first, 2**25], "a": [1, 4], "b": [7, 9]}, dtype=dtype)
    model = learned(frame, policy=sbn.EMA(halflife=2**24 - (dtype != "float32"), time="t"))
    assert model.stats()["mean"][0].as_py() == pytest.approx(3.0, rel=1e-15)
    out = model.transform_many(frame)
    pd.testing.assert_series_equal(out["t"], frame["t"])
    assert out["a"].tolist() == pytest.approx([-math.sqrt(2), math.sqrt(0.5)], rel=1e-6)
    weighed = learned(frame, weights="b")
    pd.testing.assert_series_equal(weighed.transform_many(frame)["b"], frame["b"])
