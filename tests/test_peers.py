"""Data on which other tools fail, and the results of streambn on the same data.

Each test asserts the wrong result of the peer too. It fails, and can go, once the peer is fixed.
"""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river import preprocessing, stats
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn.testing import exact_moments


def fit(values, policy=None, kind=None, **options):
    table = pa.table({"x": pa.array(values, kind, from_pandas=False)})
    return sbn.Normalizer(policy, **options).update(table)


def statistic(norm, name):
    return norm.stats()[name][0].as_py()


def exact_variance(values):
    return float(exact_moments(values)[1] / len(values))


@pytest.mark.parametrize("offset", [1e8, 1e9])
def test_one_pass_variance_is_noise_at_an_offset(offset):
    x = offset + np.random.default_rng(42).normal(size=1000)
    scaler = preprocessing.StandardScaler()
    for part in np.array_split(x, 10):
        scaler.learn_many(pd.DataFrame({"x": part}))
    exact = exact_variance(x)
    assert abs(scaler.vars["x"] - exact) > 0.3 * exact
    assert statistic(fit(x), "var") == pytest.approx(exact, rel=1e-14, abs=0)


def test_missing_values_do_not_spoil_statistics():
    scaler = preprocessing.StandardScaler()
    scaler.learn_many(pd.DataFrame({"x": [1.0, np.nan, 3.0]}))
    scaler.learn_many(pd.DataFrame({"x": [5.0, 7.0]}))
    assert np.isnan(scaler.vars["x"])
    norm = fit([1.0, np.nan, None, 3.0]).update(pa.table({"x": [5.0, 7.0]}))
    norm.update(pa.table({"x": pa.nulls(3, pa.float64())})).update(pa.table({"x": [1.0]}).slice(1))
    assert (statistic(norm, "mean"), statistic(norm, "var"), statistic(norm, "count")) == (
        4.0,
        5.0,
        4,
    )


def test_the_type_of_a_column_does_not_affect_others():
    frame = pd.DataFrame({"small": np.array([1, 2], np.int8), "price": [70_000.0, 70_001.0]})
    scaler = preprocessing.StandardScaler()
    with np.errstate(all="ignore"):
        scaler.learn_many(frame)
    with np.errstate(all="ignore"):
        assert not np.isfinite(scaler.transform_many(frame).to_numpy()).all()
    norm = sbn.Normalizer().update(pa.table(frame))
    out = norm.transform(pa.table(frame))
    assert out["price"].to_pylist() == [-1.0, 1.0]
    assert out.schema.types == [pa.float64(), pa.float64()]


def test_constants_follow_one_rule_for_one_row_and_many():
    scaler = preprocessing.StandardScaler()
    frame = pd.DataFrame({"x": [5.0, 5.0]})
    scaler.learn_many(frame)
    assert (
        scaler.transform_one({"x": 8.0})["x"]
        != scaler.transform_many(pd.DataFrame({"x": [8.0]}))["x"].item()
    )
    frozen = fit([5.0, 5.0]).freeze()
    one = frozen.transform(pa.record_batch({"x": [8.0]}))["x"].to_pylist()
    many = frozen.transform(pa.table({"x": [8.0, 5.0]}))["x"].to_pylist()
    assert [*one, 0.0] == many == [3.0, 0.0]


def test_exponentially_weighted_variance_is_never_negative():
    x = 1e9 + np.random.default_rng(0).normal(size=1000)
    peer = stats.EWVar(fading_factor=0.1)
    lowest = 0.0
    for value in x:
        peer.update(value)
        lowest = min(lowest, peer.get())
    assert lowest < 0
    ours = fit(x, sbn.EMA(alpha=0.1))
    expected = pd.Series(x - 1e9).ewm(alpha=0.1).var(bias=True).iloc[-1]
    assert statistic(ours, "var") == pytest.approx(expected, rel=1e-6, abs=0)


def test_rejected_row_leaves_no_trace():
    scaler = preprocessing.StandardScaler()
    scaler.learn_one({"a": 1.0, "b": 1.0})
    with pytest.raises(TypeError):
        scaler.learn_one({"a": 2.0, "b": "two"})
    assert scaler.counts["a"] == 2  # it learned half of the row
    norm = sbn.Normalizer().update(pa.table({"a": [1.0], "b": [1.0]}))
    before = norm.stats()
    with pytest.raises(sbn.SchemaError, match="'b'"):
        norm.update(pa.table({"a": [2.0], "b": ["two"]}))
    with pytest.raises(sbn.InvalidValueError, match="'b' holds infinity"):
        norm.update(pa.table({"a": [2.0], "b": [np.inf]}))
    assert norm.stats().equals(before)


def test_timestamps_are_not_numbers():
    day = datetime.datetime(2024, 1, 1)
    table = pa.table({"t": [day, None], "x": [1.0, 2.0]})
    assert sbn.Normalizer().update(table).features == ("x",)
    with pytest.raises(sbn.SchemaError, match="'t' is timestamp"):
        sbn.Normalizer(columns=["t"]).update(table)


def test_variance_keeps_more_digits_than_chunked_variance():
    rng = np.random.default_rng(0)
    x = 1e15 + np.round(rng.normal(scale=8, size=10_000)) / 8
    chunks = np.array_split(x, 7)
    exact = exact_variance(x)
    polars = pl.concat([pl.Series(c) for c in chunks], rechunk=False).var(ddof=0)
    assert abs(polars / exact - 1) > 1e-6
    ours = sbn.Normalizer().update(pa.table({"x": pa.chunked_array(chunks)}))
    assert statistic(ours, "var") == pytest.approx(exact, rel=1e-14, abs=0)


def test_moments_at_the_ends_of_the_range():
    with np.errstate(all="ignore"):
        assert np.mean([1.7e308, 1.7e308]) == np.inf
        assert np.std([1e200, 3e200]) == np.inf
        assert np.std([1e-200, 3e-200]) == 0
    assert statistic(fit([1.7e308, 1.7e308]), "mean") == 1.7e308
    assert statistic(fit([1e200, 3e200]), "std") == pytest.approx(1e200, rel=1e-15, abs=0)
    assert statistic(fit([1e-200, 3e-200]), "std") == pytest.approx(1e-200, rel=1e-15, abs=0)
    integers = [2**53 + 1, 2**53 + 3, 2**53 + 5]
    assert abs(np.var(np.array(integers)) - 8 / 3) > 1
    assert statistic(fit(integers), "var") == 8 / 3


def test_updates_near_the_end_of_the_range():
    x = np.array([[1.0e308], [1.2e308]])
    scaler = StandardScaler()
    with np.errstate(all="ignore"):
        scaler.partial_fit(x).partial_fit(x)
    assert not np.isfinite(scaler.mean_).all()
    assert statistic(fit(x[:, 0]).update(pa.table({"x": x[:, 0]})), "mean") == 1.1e308


def test_merge_of_large_means_with_an_empty_side():
    full = fit([1e300, 1.5e300])
    empty = fit([None, None], kind=pa.float64())
    for merged in (full.merge(empty), empty.merge(full)):
        assert statistic(merged, "mean") == 1.25e300
        assert statistic(merged, "nulls") == 2


def test_column_without_values_has_null_statistics():
    norm = fit([None, np.nan], kind=pa.float64())
    assert norm.stats().select(["count", "mean", "var", "std", "min", "max"]).to_pylist() == [
        {"count": 0, "mean": None, "var": None, "std": None, "min": None, "max": None}
    ]
    assert norm.transform(pa.table({"x": [1.0]}))["x"].to_pylist() == [None]


def test_merge_includes_the_variance_between_shards():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([101.0, 102.0, 103.0])
    within = np.sqrt((a.var() + b.var()) / 2)
    merged = fit(a).merge(fit(b))
    assert within < 1
    assert statistic(merged, "std") == pytest.approx(np.concatenate([a, b]).std(), rel=1e-15, abs=0)


def test_updates_do_not_reach_a_frozen_normalizer(tmp_path):
    norm = fit([1.0, 3.0])
    frozen = norm.freeze()
    frozen.save(tmp_path / "stats.json")
    norm.update(pa.table({"x": [100.0]}))
    loaded = sbn.load(tmp_path / "stats.json")
    assert loaded == frozen
    assert loaded.transform(pa.table({"x": [2.0]}))["x"].to_pylist() == [0.0]
    assert not hasattr(loaded, "update")
