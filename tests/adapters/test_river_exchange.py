"""RiverNormalizer is copied, and exchanges statistics with streambn.Normalizer."""

from __future__ import annotations

import copy
import pickle

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from river import linear_model
from river_rows import INF, NAN, ROWS, learn, learned

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import InvalidValueError

POLICIES = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(halflife=10),
    "EMARecursive": sbn.EMA(alpha=0.2, adjust=False),
    "BatchEMA": sbn.BatchEMA(momentum=0.1),
    "Exact": sbn.Exact(),
}
# One block of a BatchEMA differs from its rows, so it is left out where rows follow a table.
BY_ROW = {name: policy for name, policy in POLICIES.items() if name != "BatchEMA"}
for_every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
for_policies_by_row = pytest.mark.parametrize("policy", BY_ROW.values(), ids=BY_ROW)


def assert_alike(one, other, rtol=1e-12):
    one, other = (m.stats().to_pandas().set_index("column").sort_index() for m in (one, other))
    exact = ["count", "nulls", "nans", "infs", "min", "max"]
    pd.testing.assert_frame_equal(one[exact], other[exact])
    for name in ("mean", "var", "std"):
        assert_allclose(one[name], other[name], rtol=rtol, atol=0)


@for_every_policy
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "copied",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
        copy.deepcopy,
        lambda model: model.clone(include_attributes=True),
    ],
    ids=["pickle", "pickle 2", "deepcopy", "clone with attributes"],
)
def test_copy_goes_on_independently(copied, frozen, policy):
    rows = [*ROWS[:20], {"a": None, "late": 1}]
    model = learned(*rows, policy=policy, eps=1e-3, unseen="passthrough")
    if frozen:
        model.freeze()
    before = model.stats()
    twin = copied(model)
    assert type(twin) is RiverNormalizer
    assert twin.frozen is frozen
    assert (twin.policy, twin.eps, twin.unseen) == (policy, 1e-3, "passthrough")
    assert twin.stats().equals(before)
    assert twin.transform_one(ROWS[30] | {"x": 7}) == model.transform_one(ROWS[30] | {"x": 7})
    twin.unfreeze()
    learn(twin, *ROWS[20:40])
    assert model.stats().equals(before)
    assert model.frozen is frozen
    model.unfreeze()
    learn(model, *ROWS[20:40])
    assert twin.stats().equals(model.stats())


def test_clone_of_a_pipeline_is_unlearned():
    model = RiverNormalizer() | linear_model.LinearRegression()
    for row in ROWS:
        model.learn_one(row, row["c"])
    clone = model.clone()
    assert clone["RiverNormalizer"].transform_one({"a": 3.0}) == {"a": 0.0}
    for row in ROWS:
        clone.learn_one(row, row["c"])
    assert clone["RiverNormalizer"].stats().equals(model["RiverNormalizer"].stats())
    assert clone["LinearRegression"].weights == model["LinearRegression"].weights


@for_every_policy
def test_round_trip_through_normalizer(policy):
    options = {"eps": 1e-6, "ddof": 1, "clip": 2.5, "affine": {"a": (2.0, 1.0)}, "inf": "ignore"}
    model = learned(*ROWS[:30], {"a": INF}, {"b": NAN}, policy=policy, **options)
    norm = model.to_normalizer()
    assert type(norm) is sbn.Normalizer
    assert norm.policy == policy
    assert norm.options == sbn.Normalizer(**options).options
    assert norm.stats().equals(model.stats())
    for source in (norm, norm.freeze()):
        assert pickle.dumps(RiverNormalizer.from_normalizer(source)) == pickle.dumps(
            RiverNormalizer.from_normalizer(norm)
        )
    back = RiverNormalizer.from_normalizer(norm.freeze())
    assert back.policy == policy
    assert back.frozen is False
    assert {name: getattr(back, name) for name in options} == options
    assert back.stats().equals(model.stats())
    table = pa.Table.from_pylist(ROWS[30:])
    for rows in (norm.transform(table), back.transform_many(table), model.transform_many(table)):
        expected = [model.transform_one(row) for row in ROWS[30:]]
        for got, row in zip(rows.to_pylist(), expected, strict=True):
            assert got == pytest.approx(row, rel=1e-12, abs=1e-12)


@for_every_policy
def test_both_sides_go_on_independently(policy):
    model = learned(*ROWS[:30], policy=policy)
    norm = model.to_normalizer()
    frozen = norm.freeze()
    back = RiverNormalizer.from_normalizer(frozen)
    for row in ROWS[30:]:
        for one in (model, back):
            one.learn_one(row)
        norm.update(pa.Table.from_pylist([row]))
    assert_alike(back, model)
    assert_alike(norm, model)
    assert frozen.stats()["count"].to_pylist() == [30] * 3


def test_unlearned_normalizer_converts_to_an_unfitted_one():
    norm = RiverNormalizer(sbn.EMA(alpha=0.5), eps=1.0).to_normalizer()
    assert norm.policy == sbn.EMA(alpha=0.5)
    with pytest.raises(sbn.NotFittedError):
        norm.stats()
    assert norm.update(pa.table({"a": [1.0]})).stats()["mean"].to_pylist() == [1.0]


@for_policies_by_row
def test_fit_on_a_file_and_go_on_row_by_row(policy, tmp_path):
    offline, online = ROWS[:40], [*ROWS[40:], {"a": 1.0, "late": 2.0}, {"late": None, "b": 1e9}]
    pq.write_table(pa.Table.from_pylist(offline), tmp_path / "a.parquet", row_group_size=7)
    stream = pq.ParquetFile(tmp_path / "a.parquet").iter_batches(batch_size=11)
    sbn.Normalizer(policy).update(stream).freeze().save(tmp_path / "stats.json")

    model = RiverNormalizer.from_normalizer(sbn.load(tmp_path / "stats.json"))
    learn(model, *online[:10])
    # On the way it is saved once as statistics and once as a pickle.
    model.to_normalizer().freeze().save(tmp_path / "later.json")
    model = RiverNormalizer.from_normalizer(sbn.load(tmp_path / "later.json"))
    learn(model, *online[10:15])
    model = pickle.loads(pickle.dumps(model))
    learn(model, *online[15:])

    whole = learned(*offline, *online, policy=policy)
    assert_alike(model, whole)
    assert model.stats()["column"].to_pylist() == whole.stats()["column"].to_pylist()
    out = model.transform_one(ROWS[5] | {"late": 1.0, "never": 1.0})
    expected = whole.transform_one(ROWS[5] | {"late": 1.0, "never": 1.0})
    assert out == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("wrong", [None, "stats.json", pa.table({"a": [1.0]})], ids=str)
def test_from_normalizer_takes_normalizers_only(wrong):
    with pytest.raises(InvalidValueError, match="normalizer must be") as caught:
        RiverNormalizer.from_normalizer(wrong)
    assert caught.value.argument == "normalizer"


def test_from_frozen_is_a_deprecated_alias():
    frozen = learned(*ROWS).to_normalizer().freeze()
    with pytest.warns(DeprecationWarning, match="from_normalizer"):
        old = RiverNormalizer.from_frozen(frozen, unseen="raise")
    assert pickle.dumps(old) == pickle.dumps(RiverNormalizer.from_normalizer(frozen, "raise"))
