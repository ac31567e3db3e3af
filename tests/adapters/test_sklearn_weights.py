"""SklearnNormalizer takes sample weights as StandardScaler does."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn.adapters.sklearn import SklearnNormalizer
from streambn.errors import InvalidValueError


def weighted_samples(seed, holes=0.2):
    rng = np.random.default_rng(seed)
    X = rng.normal([0, 1e6, -5], [1, 1, 1e-3], (60, 3))
    X[rng.random(X.shape) < holes] = np.nan
    w = rng.integers(0, 4, len(X)) * 0.5
    w[0] += w.sum() % 1
    return X, w


def assert_as_standard_scaler(mine, peer):
    assert_allclose(mine.mean_, peer.mean_, rtol=1e-12)
    assert_allclose(mine.var_, peer.var_, rtol=1e-9)
    assert_allclose(mine.scale_, peer.scale_, rtol=1e-9)
    assert type(mine.n_samples_seen_) is (np.ndarray if np.ndim(peer.n_samples_seen_) else float)
    assert_allclose(mine.n_samples_seen_, peer.n_samples_seen_, rtol=1e-15)


@pytest.mark.parametrize("holes", [0.0, 0.2])
@pytest.mark.parametrize("calls", ["ww", "w.", ".w", ".w.w", "2"])
def test_sample_weights_equal_those_of_standard_scaler(calls, holes):
    mine, peer = SklearnNormalizer(), StandardScaler()
    for i, how in enumerate(calls):
        X, w = weighted_samples(i, holes)
        for scaler in (mine, peer):
            scaler.partial_fit(X, sample_weight={"w": w, "2": 2}.get(how))
    assert_as_standard_scaler(mine, peer)
    assert_allclose(mine.transform(X), peer.transform(X), rtol=1e-6)
    copied = pickle.loads(pickle.dumps(mine))
    for scaler in (copied, peer):
        scaler.partial_fit(X, sample_weight=w)
    assert_as_standard_scaler(copied, peer)
    refitted = mine.fit(X)
    assert refitted.n_samples_seen_.dtype == np.int64 if holes else refitted.n_samples_seen_ == 60


@pytest.mark.parametrize(
    "kind", [list, tuple, pd.Series, pl.Series, np.float32, pa.array, lambda w: w.reshape(-1)]
)
@pytest.mark.parametrize("frame", [np.asarray, pd.DataFrame, pl.DataFrame, np.asfortranarray])
def test_sample_weights_and_data_in_any_container(frame, kind):
    X, w = weighted_samples(0)
    data = frame(X)
    if frame is pd.DataFrame:
        data.columns = ["a", "sample_weight", "sample_weight_"]
    peer = StandardScaler().fit(X, sample_weight=w)
    for mine in (
        SklearnNormalizer().fit(data, None, kind(w)),
        SklearnNormalizer().partial_fit(data, sample_weight=kind(w)),
    ):
        assert_as_standard_scaler(mine, peer)


def test_fractional_weights_survive_a_call_without_weights():
    mine, peer = SklearnNormalizer(), StandardScaler()
    for scaler in (mine, peer):
        scaler.partial_fit([[0.0], [2.0]], sample_weight=[0.25, 0.25]).partial_fit([[3.0]])
    assert (mine.mean_, mine.n_samples_seen_) == (pytest.approx(7 / 3), 1.5)
    # StandardScaler truncates its count to integers in a call without weights.
    assert (peer.mean_, peer.n_samples_seen_) == (3.0, 1)


def test_sample_of_weight_zero_changes_nothing():
    X, w = weighted_samples(1)
    X[w == 0] = np.nan
    X[np.flatnonzero(w == 0)[0]] = 1e300
    mine = SklearnNormalizer().fit(X, sample_weight=w)
    without = SklearnNormalizer().fit(X[w > 0], None, w[w > 0])
    assert_array_equal(mine.mean_, without.mean_)
    assert mine.n_samples_seen_.tolist() == (w[:, None] * ~np.isnan(X)).sum(0).tolist()
    never = SklearnNormalizer().fit([[1.0, np.nan], [2.0, np.nan]], sample_weight=[3, 1])
    assert never.n_samples_seen_.tolist() == [4.0, 0.0]
    assert_array_equal(never.mean_, [1.25, np.nan])


@pytest.mark.parametrize(
    ("sample_weight", "message"),
    [
        ([1.0, -1.0], r"column 'sample_weight' holds -1 in row 1"),
        ([1.0, np.nan], r"column 'sample_weight' holds nan in row 1"),
        ([np.inf, 1.0], r"column 'sample_weight' holds inf in row 0"),
        (["x", "y"], r"sample_weight must hold numbers >= 0, got \['x', 'y'\]"),
        ([1.0], r"sample_weight must have the shape \(2,\), .*, got \(1,\)"),
        ([[1.0], [1.0]], r"sample_weight must have the shape \(2,\), .*, got \(2, 1\)"),
        ([0.0, 0.0], "sample_weight holds only zeros"),
        (0, "sample_weight holds only zeros"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_invalid_sample_weight_is_refused(method, sample_weight, message):
    X = np.array([[1.0], [2.0]])
    scaler = SklearnNormalizer().fit(X)
    before = pickle.dumps(scaler)
    with pytest.raises(InvalidValueError, match=message):
        getattr(scaler, method)(X, sample_weight=sample_weight)
    assert pickle.dumps(scaler) == before
    with pytest.raises(InvalidValueError, match=message):
        getattr(SklearnNormalizer(), method)(X, sample_weight=sample_weight)
    with pytest.raises(TypeError, match="wait"):
        getattr(scaler, method)(X, wait=[1.0, 2.0])


@pytest.mark.parametrize(
    "policy", [sbn.BatchEMA(momentum=0.1), sbn.EMA(alpha=0.2, adjust=False)], ids=repr
)
def test_policies_that_set_the_weights_refuse_sample_weights(policy):
    X, w = weighted_samples(3)
    scaler = SklearnNormalizer(policy).fit(X)
    before = pickle.dumps(scaler)
    with pytest.raises(InvalidValueError, match=r"'sample_weight' has no meaning .* adjust=True"):
        scaler.partial_fit(X, sample_weight=w)
    assert pickle.dumps(scaler) == before


def test_ema_uses_sample_weights_and_counts_values():
    X, w = weighted_samples(4, holes=0.0)
    policy = sbn.EMA(halflife=10)
    scaler = SklearnNormalizer(policy).fit(X, sample_weight=w)
    core = sbn.Normalizer(policy, weights="w")
    core.update(pd.DataFrame(X, columns=[*"abc"]).assign(w=w))
    assert_array_equal(scaler.mean_, core.stats()["mean"])
    assert scaler.n_samples_seen_ == (w > 0).sum()


def test_sample_weights_continue_those_of_a_normalizer():
    X, w = weighted_samples(5)
    frame = pd.DataFrame(X, columns=["a", "b", "w"])
    peer = StandardScaler().fit(frame, sample_weight=w)
    core = sbn.Normalizer(weights="weight").update(frame.assign(weight=w))
    mine = SklearnNormalizer.from_normalizer(core.freeze())
    assert_as_standard_scaler(mine, peer)
    for scaler in (mine, peer):
        scaler.partial_fit(frame, sample_weight=w[::-1])
        scaler.partial_fit(frame)
    assert_as_standard_scaler(mine, peer)
    live = mine.to_normalizer()
    assert live.options.weights == "weight"
    live.with_weights(None).update(frame)
    live.update(frame.assign(weight=w))
    # A column can be a feature and hold the weights.
    both = sbn.Normalizer(columns=["a", "b", "w"], weights="w").update(frame.abs().fillna(1.0))
    mine = SklearnNormalizer.from_normalizer(both.freeze())
    mine.partial_fit(frame.abs(), sample_weight=w)
    assert mine.to_normalizer().options.weights == "w_"


def test_sample_weights_are_routed_on_request():
    X, w = weighted_samples(6)
    y = np.arange(len(X)) % 2
    X = np.nan_to_num(X)
    pipeline = make_pipeline(SklearnNormalizer(), LogisticRegression())
    pipeline.fit(X, y, sklearnnormalizer__sample_weight=w)
    expected = SklearnNormalizer().fit(X, sample_weight=w).mean_
    assert_array_equal(pipeline[0].mean_, expected)
    with config_context(enable_metadata_routing=True):
        asking = SklearnNormalizer().set_fit_request(sample_weight=True)
        model = make_pipeline(asking, LogisticRegression().set_fit_request(sample_weight=False))
        model.fit(X, y, sample_weight=w)
        assert_array_equal(model[0].mean_, expected)
        assert asking.get_metadata_routing().fit.requests == {"sample_weight": True}
        silent = SklearnNormalizer().get_metadata_routing().partial_fit.requests
        assert silent == {"sample_weight": None}
