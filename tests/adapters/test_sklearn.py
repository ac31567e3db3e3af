"""SklearnNormalizer agrees with StandardScaler, and exchanges statistics with Normalizer."""

from __future__ import annotations

import copy
import datetime
import math
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import datasets
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn.adapters.sklearn import SklearnNormalizer
from streambn.errors import InvalidValueError, SchemaError
from streambn.testing import exact_moments

POLICIES = [sbn.Welford(), sbn.EMA(halflife=50), sbn.BatchEMA(momentum=0.1), sbn.Exact()]
FITTED = ("mean_", "var_", "scale_", "n_samples_seen_")
BUNDLED = ["iris", "wine", "breast_cancer", "diabetes", "digits"]


def bundled(name):
    return getattr(datasets, f"load_{name}")(return_X_y=True)[0]


def split(X, seed, parts=9):
    edges = np.sort(np.random.default_rng(seed).integers(0, len(X) + 1, parts - 1))
    return [part for part in np.split(X, edges) if len(part)]


def fit_parts(estimator, parts):
    for part in parts:
        estimator.partial_fit(part)
    return estimator


def assert_fitted_alike(ours, theirs, **tolerance):
    for attribute in FITTED:
        got, expected = getattr(ours, attribute), getattr(theirs, attribute)
        if expected is None:
            assert got is None
        else:
            assert_allclose(got, expected, **tolerance)


def assert_same_state(one, other):
    """Compare the statistics bit for bit, and the attributes that scikit-learn sets."""
    assert vars(one).keys() == vars(other).keys()
    assert one.n_features_in_ == other.n_features_in_
    mine, theirs = one.to_normalizer(), other.to_normalizer()
    assert mine.freeze().fingerprint == theirs.freeze().fingerprint


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", BUNDLED)
def test_equals_standard_scaler_on_real_data(name, seed):
    X = bundled(name)
    parts = split(X, seed)
    assert len(parts) > 1
    theirs = fit_parts(StandardScaler(), parts)
    ours = fit_parts(SklearnNormalizer(), parts)
    assert_fitted_alike(ours, theirs, rtol=1e-9, atol=1e-12)
    out = ours.transform(X)
    assert_allclose(out, theirs.transform(X), rtol=1e-9, atol=1e-9)
    assert_allclose(ours.inverse_transform(out), X, rtol=1e-12, atol=1e-12)
    assert_allclose(SklearnNormalizer().fit(X).mean_, ours.mean_, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_attributes_are_none_where_standard_scaler_has_none(with_mean, with_std):
    X = np.array([[1.0, np.nan, 5.0], [2.0, 3.0, 5.0], [4.0, 9.0, 5.0]])
    how = {"with_mean": with_mean, "with_std": with_std}
    ours, theirs = (kind(**how).fit(X) for kind in (SklearnNormalizer, StandardScaler))
    assert_fitted_alike(ours, theirs, rtol=1e-14)
    assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-14, atol=1e-14)


def test_offset_costs_no_digits():
    X = 1e9 + np.random.default_rng(0).normal(size=(3000, 2))
    parts = split(X, 1, parts=30)
    ours = fit_parts(SklearnNormalizer(), parts)
    theirs = fit_parts(StandardScaler(), parts)
    mean, square = exact_moments(X[:, 0])
    var = square / len(X)
    assert abs(Fraction(ours.var_[0]) - var) <= Fraction(1e-14) * var
    assert abs(Fraction(theirs.var_[0]) - var) > Fraction(1e-9) * var
    z = ours.transform(X)[:, 0]
    exact = [float((Fraction(x) - mean) / Fraction(float(var) ** 0.5)) for x in X[:, 0]]
    assert_allclose(z, exact, rtol=1e-12, atol=1e-12)
    assert np.abs(theirs.transform(X)[:, 0] - exact).max() > 1e-9


def test_mean_is_finite_where_the_sum_is_not():
    parts = [np.array([[1.7e308], [1.5e308]]), np.array([[1.6e308], [1.6e308]])]
    with np.errstate(all="ignore"):
        theirs = fit_parts(StandardScaler(), parts)
    assert not np.isfinite(theirs.mean_[0])
    ours = fit_parts(SklearnNormalizer(), parts)
    assert ours.mean_[0] == pytest.approx(1.6e308, rel=1e-15)
    assert ours.scale_[0] == pytest.approx(math.sqrt(0.5) * 1e307, rel=1e-14)
    assert_allclose(ours.transform(parts[0])[:, 0], [2**0.5, -(2**0.5)], rtol=1e-12)


@given(st.data())
def test_transform_divides_by_scale(data):
    offset = data.draw(st.sampled_from([0.0, 1.0, -1e9, 1e15]))
    spread = data.draw(st.sampled_from([0.0, 1e-200, 1e-3, 1.0, 1e200]))
    eps, ddof = data.draw(st.sampled_from([0.0, 1e-5])), data.draw(st.sampled_from([0, 1]))
    rows = data.draw(st.integers(1, 30))
    X = offset + spread * np.random.default_rng(rows).normal(size=(rows, 1))
    scaler = SklearnNormalizer(sbn.EMA(span=9), with_mean=False, eps=eps, ddof=ddof).fit(X)
    # Without centering, the scale itself maps to 1.
    assert_allclose(scaler.transform(scaler.scale_[None]), 1.0, rtol=1e-14)


@pytest.mark.parametrize("eps", [0.0, 3.0])
def test_scale_of_large_integers_is_not_rounded_to_constant(eps):
    # Near 1e17 a float64 is rounded by more than σ = 4.1, but an integer is not rounded at all.
    values = [10**17, 10**17 + 10, 10**17 + 4]
    table = pa.table({"x": values})
    norm = sbn.Normalizer(eps=eps).update(table)
    std = norm.stats()["std"][0].as_py()
    assert std == pytest.approx(4.1, abs=0.1)
    for source in (norm, norm.freeze()):
        scaler = SklearnNormalizer.from_normalizer(source)
        assert scaler.scale_ == pytest.approx([math.sqrt(std**2 + eps)], rel=1e-15)
        z = source.transform(table)["x"].to_numpy()
        steps = np.diff(np.array(values)) / scaler.scale_
        assert_allclose(np.diff(z), steps, rtol=1e-12)


def frames_of(X, names):
    """Return the data as every kind of frame."""
    frame = pd.DataFrame(X, columns=names)
    table, record = pa.Table.from_pandas(frame), pa.RecordBatch.from_pandas(frame)
    chunked = pa.concat_tables([table[:7], table[7:]])
    return [frame, table, chunked, record, pl.DataFrame(dict(zip(names, X.T, strict=True)))]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_all_containers_give_the_same_result(kind):
    X = np.random.default_rng(4).normal(5, 2, size=(20, 3)).astype(kind)
    X[3, 1] = np.nan
    expected = SklearnNormalizer().fit(X)
    out = expected.transform(X)
    assert out.dtype == kind
    assert out.flags.writeable
    readonly, wide = X.copy(), np.repeat(X, 2, axis=1)
    readonly.flags.writeable = False
    arrays = [np.asfortranarray(X), wide[:, ::2], X[::-1][::-1], readonly]
    for data in [*arrays, X.tolist(), *frames_of(X, list("abc"))]:
        scaler = SklearnNormalizer().fit(data)
        tolerance = 1e-14 if np.asarray(data).dtype != kind else 1e-15
        assert_allclose(scaler.mean_, expected.mean_, rtol=tolerance)
        assert_allclose(scaler.var_, expected.var_, rtol=tolerance)
        assert_array_equal(scaler.transform(data).astype(kind), out)
        back = scaler.inverse_transform(out)
        assert back.dtype == kind
        assert_allclose(back, X, rtol=4 * np.finfo(kind).eps, atol=0)


def test_float32_is_accumulated_in_float64():
    X = (1e4 + np.random.default_rng(0).normal(size=(5000, 1))).astype(np.float32)
    scaler = fit_parts(SklearnNormalizer(), np.array_split(X, 7))
    mean, square = exact_moments(X[:, 0].tolist())
    assert scaler.var_[0] == pytest.approx(float(square / len(X)), rel=1e-14, abs=0)
    assert scaler.mean_[0] == pytest.approx(float(mean), rel=1e-15, abs=0)
    out = scaler.transform(X)
    assert out.dtype == np.float32
    exact = (X.astype(np.float64) - scaler.mean_) / scaler.scale_
    assert_allclose(out, exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint32, bool])
def test_integers_become_float64(kind):
    X = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=kind)
    scaler = SklearnNormalizer().fit(X)
    assert scaler.transform(X).dtype == np.float64
    assert_array_equal(scaler.mean_, [0.5, 0.5])
    assert_array_equal(scaler.transform(X), X * 2.0 - 1.0)


def test_large_arrays_are_transformed_in_pieces(monkeypatch):
    X = np.random.default_rng(2).normal(size=(1000, 4))
    whole = SklearnNormalizer().fit(X)
    out = whole.transform(X)
    frame = pd.DataFrame(X, columns=list("abcd"))
    named = SklearnNormalizer().fit(frame)
    monkeypatch.setattr("streambn.adapters.sklearn._VALUES_AT_ONCE", 4 * 77)
    assert_array_equal(whole.transform(X), out)
    assert_array_equal(named.transform(frame), out)
    assert_array_equal(whole.inverse_transform(out), named.inverse_transform(out))
    monkeypatch.setattr("streambn.adapters.sklearn._VALUES_AT_ONCE", 1)
    assert_array_equal(whole.transform(X[:5]), out[:5])


def test_array_in_c_order_is_not_copied(monkeypatch):
    X = np.arange(12.0).reshape(4, 3)
    seen = []
    update = sbn.Normalizer.update

    def spy(self, batch):
        seen.append(batch.column(0).values.buffers()[1].address)
        return update(self, batch)

    monkeypatch.setattr(sbn.Normalizer, "update", spy)
    SklearnNormalizer().fit(X)
    assert seen == [X.ctypes.data]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output_gives_frames_with_names(kind):
    values = np.arange(24.0).reshape(12, 2) % 7
    frame = pd.DataFrame(values, range(100, 112), ["up", "down"])
    scaler = SklearnNormalizer().set_output(transform=kind)
    out = scaler.fit_transform(frame)
    assert type(out).__module__.partition(".")[0] == kind
    assert list(out.columns) == ["up", "down"] == list(scaler.get_feature_names_out())
    assert_array_equal(out, SklearnNormalizer().fit_transform(frame.to_numpy()))
    if kind == "pandas":
        assert list(out.index) == list(frame.index)
    unnamed = SklearnNormalizer().set_output(transform=kind).fit_transform(frame.to_numpy())
    assert list(unnamed.columns) == ["x0", "x1"]


def test_pipelines_and_searches():
    X, y = datasets.load_wine(return_X_y=True)
    ours, theirs = (
        cross_validate(make_pipeline(scaler, LogisticRegression(max_iter=500)), X, y, cv=3)
        for scaler in (SklearnNormalizer(), StandardScaler())
    )
    assert_allclose(ours["test_score"], theirs["test_score"])
    assert ours["test_score"].mean() > 0.9
    grid = {"sklearnnormalizer__policy": [None, sbn.EMA(halflife=30)]}
    pipeline = make_pipeline(SklearnNormalizer(), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 2


def test_column_transformer():
    frame = datasets.load_iris(as_frame=True).data
    names = list(frame.columns)
    parts = [
        ("slow", SklearnNormalizer(), names[:2]),
        ("fast", SklearnNormalizer(sbn.EMA(span=20)), names[2:]),
    ]
    columns = ColumnTransformer(parts, verbose_feature_names_out=False)
    out = columns.set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == names
    slow = StandardScaler().fit_transform(frame[names[:2]])
    assert_allclose(out[names[:2]], slow, rtol=1e-9, atol=1e-12)
    peer = frame[names[2:]].ewm(span=20)
    last = (frame[names[2:]] - peer.mean().iloc[-1]) / peer.std(bias=True).iloc[-1]
    assert_allclose(out[names[2:]], last, rtol=1e-9, atol=1e-12)


def test_frozen_estimator_does_not_learn():
    X = bundled("iris")
    frozen = FrozenEstimator(SklearnNormalizer().fit(X[:50]))
    before = frozen.transform(X)
    frozen.fit(X, None)
    assert clone(frozen).n_features_in_ == 4
    assert_array_equal(clone(frozen).transform(X), before)
    assert frozen.n_samples_seen_ == 50


def test_clone_is_unfitted_and_copies_are_fitted():
    X = bundled("iris")
    scaler = SklearnNormalizer(sbn.EMA(halflife=9), eps=1e-6).fit(X[:100])
    blank = clone(scaler)
    assert repr(blank) == repr(scaler) == "SklearnNormalizer(eps=1e-06, policy=EMA(halflife=9))"
    with pytest.raises(NotFittedError):
        blank.transform(X)
    for again in (pickle.loads(pickle.dumps(scaler)), copy.deepcopy(scaler), copy.copy(scaler)):
        assert_same_state(again, scaler)
        again.partial_fit(X[100:])
        assert (again.n_samples_seen_, scaler.n_samples_seen_) == (150, 100)
        anew = clone(scaler).fit(X[:100]).partial_fit(X[100:])
        assert_array_equal(again.transform(X), anew.transform(X))


def test_nothing_is_available_before_fit():
    for attribute in FITTED:
        assert not hasattr(SklearnNormalizer(), attribute)
    unfitted, data = SklearnNormalizer(), [[1.0]]
    for method, args in (
        *(("transform", [data]), ("inverse_transform", [data])),
        *(("to_normalizer", []), ("get_feature_names_out", [])),
    ):
        with pytest.raises(NotFittedError):
            getattr(unfitted, method)(*args)


def test_state_does_not_grow():
    rng = np.random.default_rng(0)
    scaler = SklearnNormalizer(sbn.EMA(halflife=10)).partial_fit(rng.normal(size=(5, 3)))
    size = len(pickle.dumps(scaler))
    for _ in range(300):
        scaler.partial_fit(rng.normal(size=(5, 3)))
    assert len(pickle.dumps(scaler)) <= size + 16


def test_fit_forgets_and_partial_fit_does_not():
    X = bundled("wine")
    scaler = SklearnNormalizer().fit(X[:30])
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"])
    assert_same_state(scaler.fit(frame), SklearnNormalizer().fit(frame))
    assert scaler.n_features_in_ == 2
    scaler.set_params(policy=sbn.EMA(halflife=3), with_std=False)
    assert scaler.scale_ is not None  # parameters take effect at the next fit
    assert scaler.fit(X).scale_ is None


def test_missing_values_are_skipped_and_become_nan():
    table = pa.table(
        {
            "whole": pa.array([1, None, 3, 5]),
            "real": pa.array([2.0, None, float("nan"), 4.0]),
            "none": pa.nulls(4, pa.float64()),
            "tenth": pa.array([Decimal("0.5"), None, Decimal("1.5"), None]),
        }
    )
    for data in (table, pl.DataFrame(table), table.to_pandas(), table.to_batches()[0]):
        scaler = SklearnNormalizer().fit(data)
        assert_array_equal(scaler.n_samples_seen_, [3, 2, 0, 2])
        assert_array_equal(scaler.mean_, [3.0, 3.0, np.nan, 1.0])
        assert_array_equal(scaler.scale_[1:], [1.0, np.nan, 0.5])
        out = scaler.transform(data)
        assert_array_equal(out[:, 1], [-1.0, np.nan, np.nan, 1.0])
        assert_array_equal(out[:, 3], [-1.0, np.nan, 1.0, np.nan])
        assert np.isnan(out[:, 2]).all()
        assert np.isnan(out[1]).all()
        seen = scaler.partial_fit(data).n_samples_seen_
        assert_array_equal(seen, [6, 4, 0, 4])


def test_nan_can_be_refused_or_propagated():
    X = np.array([[1.0, 2.0], [np.nan, 4.0]])
    strict = SklearnNormalizer(nan="raise").fit(X[:1])
    with pytest.raises(InvalidValueError, match="NaN"):
        strict.partial_fit(X)
    with pytest.raises(InvalidValueError, match="NaN"):
        strict.transform(pa.table({"a": [1.0, None], "b": [1.0, 2.0]}).to_pandas().to_numpy())
    poisoned = SklearnNormalizer(nan="propagate").fit(X)
    assert_array_equal(poisoned.mean_, [np.nan, 3.0])
    assert_array_equal(poisoned.scale_, [np.nan, 1.0])
    assert_array_equal(poisoned.transform(X), [[np.nan, -1.0], [np.nan, 1.0]])


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_refused_unless_ignored(infinity):
    X = np.array([[1.0, 2.0], [3.0, infinity], [5.0, 4.0]])
    scaler = SklearnNormalizer().fit(X[::2])
    for call in (SklearnNormalizer().fit, scaler.partial_fit, scaler.transform):
        with pytest.raises(InvalidValueError, match="infinity"):
            call(X)
    with pytest.raises(ValueError, match="infinity"):
        scaler.inverse_transform(X)
    skipping = SklearnNormalizer(inf="ignore").fit(X)
    assert_array_equal(skipping.n_samples_seen_, [3, 2])
    assert_array_equal(skipping.mean_, [3.0, 3.0])
    assert skipping.transform(X)[1, 1] == infinity == skipping.inverse_transform(X)[1, 1]


REFUSED = {
    "infinity": (np.array([[1.0, np.inf]]), "infinity"),
    "no rows": (np.ones((0, 2)), "0 sample"),
    "one dimension": (np.ones(2), "Expected 2D"),
    "words": (np.array([["a", "b"]]), "could not convert"),
    "dates": (np.array([["2020-01-01", "2020-01-02"]], dtype="M8[D]"), "not numeric"),
    "complex": (np.ones((2, 2)) * 1j, "Complex data"),
    "a frame with infinity": (pd.DataFrame({"a": [np.inf], "b": [1.0], "c": [1.0]}), "'a' holds"),
}


@pytest.mark.parametrize(("X", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_batch_leaves_no_trace(X, message):
    seen = np.array([[1.0, 2.0], [3.0, 5.0]])
    scaler, untouched = (SklearnNormalizer().fit(seen) for _ in range(2))
    with pytest.raises(ValueError, match=message):
        scaler.fit(X)
    assert_same_state(scaler, untouched)
    fresh = SklearnNormalizer()
    for method in (fresh.fit, fresh.partial_fit):
        with pytest.raises(ValueError, match=message):
            method(X)
        assert vars(fresh) == vars(SklearnNormalizer())
    if not isinstance(X, pd.DataFrame):
        with pytest.raises(ValueError, match=message):
            scaler.partial_fit(X)
        assert_same_state(scaler, untouched)


@pytest.mark.parametrize("width", [1, 3])
def test_other_number_of_columns_is_refused(width):
    scaler, untouched = (SklearnNormalizer().fit([[1.0, 2.0], [3.0, 5.0]]) for _ in range(2))
    for call in (scaler.partial_fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(ValueError, match=f"X has {width} features, but SklearnNormalizer"):
            call(np.ones((4, width)))
    assert_same_state(scaler, untouched)


def test_feature_names_follow_scikit_learns_rules():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 7.0]})
    for data in frames_of(frame.to_numpy(), ["a", "b"]):
        scaler, untouched = (SklearnNormalizer().fit(data) for _ in range(2))
        assert list(scaler.feature_names_in_) == ["a", "b"]
        wrong = [frame[["b", "a"]], frame.rename(columns={"a": "c"})]
        for other in [*wrong, *map(pa.Table.from_pandas, wrong), *map(pl.from_pandas, wrong)]:
            for call in (scaler.partial_fit, scaler.transform):
                with pytest.raises(ValueError, match="feature names should match"):
                    call(other)
        with pytest.raises(ValueError, match="3 features"):
            scaler.inverse_transform(np.ones((1, 3)))
        assert_same_state(scaler, untouched)
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            scaler.transform(frame.to_numpy())


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"x": [1.0], "t": pd.to_datetime(["2020-01-01"])}),
        pd.DataFrame({"x": [1.0], "t": pd.to_timedelta([3], unit="s")}),
        pl.DataFrame({"x": [1.0], "t": [datetime.date(2020, 1, 1)]}),
        pa.table({"x": [1.0], "t": [datetime.date(2020, 1, 1)]}),
        pa.record_batch({"x": [1.0], "t": [datetime.datetime(2020, 1, 1)]}),
    ],
    ids=lambda data: type(data).__name__,
)
def test_dates_are_refused(data):
    with pytest.raises(SchemaError, match=r"column 1 of X is .* not numeric"):
        SklearnNormalizer().fit(data)
    only = data[["t"]] if isinstance(data, pd.DataFrame) else data.select(["t"])
    assert StandardScaler().fit(only).mean_[0] > 0  # StandardScaler averages them as integers
    with pytest.raises(SchemaError, match="column 0"):
        SklearnNormalizer().fit(only)


def test_policy_by_event_time_is_refused():
    by_time = sbn.EMA(halflife=3, time="t")
    with pytest.raises(InvalidValueError, match=r"event time, which a matrix .* does not have"):
        SklearnNormalizer(by_time).fit([[1.0]])
    frozen = sbn.Normalizer(by_time).update(pa.table({"a": [1.0], "t": [0]})).freeze()
    with pytest.raises(InvalidValueError, match="event time"):
        SklearnNormalizer.from_normalizer(frozen)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"policy": "ema"}, "policy must be a policy"),
        ({"with_mean": 1}, "with_mean must be True or False, got 1"),
        ({"with_std": None}, "with_std must be True or False, got None"),
        ({"eps": -1.0}, "eps must be a finite number >= 0, got -1.0"),
        ({"ddof": 2}, "ddof must be 0"),
        ({"clip": 0}, "clip must be a finite number > 0"),
        ({"nan": "skip"}, "nan must be 'ignore'"),
        ({"inf": True}, "inf must be 'ignore'"),
    ],
)
def test_parameters_are_stored_unchanged_and_checked_by_fit(params, message):
    scaler = SklearnNormalizer(**params)
    [(name, value)] = params.items()
    assert scaler.get_params()[name] is value
    for method in ("fit", "partial_fit"):
        with pytest.raises(InvalidValueError, match=message):
            getattr(scaler, method)([[1.0]])
    assert not hasattr(scaler, "n_features_in_")


def test_eps_ddof_and_clip_work_as_in_normalizer():
    X = np.array([[1.0, 7.0], [2.0, 7.0], [9.0, 7.0]])
    scaler = SklearnNormalizer(eps=0.25, ddof=1, clip=1.0).fit(X)
    assert_allclose(scaler.var_, [19.0, 0.0], rtol=1e-15)
    assert_allclose(scaler.scale_, [19.25**0.5, 0.5], rtol=1e-15)
    expected = np.clip((X - scaler.mean_) / scaler.scale_, -1.0, 1.0)
    assert_allclose(scaler.transform(X), expected, rtol=1e-15)
    assert scaler.transform(X).max() == 1.0


def test_feature_with_fewer_values_becomes_nan():
    X = np.array([[1.0, np.nan], [3.0, 5.0]])
    scaler = SklearnNormalizer(min_count=2).fit(X)
    assert_array_equal(scaler.transform(X), [[-1.0, np.nan], [1.0, np.nan]])
    assert_array_equal(scaler.inverse_transform([[1.0, 1.0]]), [[3.0, np.nan]])
    assert scaler.mean_.tolist() == [2.0, 5.0]
    assert SklearnNormalizer.from_normalizer(scaler.to_normalizer()).min_count == 2


def test_constant_feature_has_scale_one():
    X = np.full((5, 2), [0.1, 1e15])
    scaler = fit_parts(SklearnNormalizer(), split(X, 0, 3))
    assert_array_equal(scaler.var_, 0.0)
    assert_array_equal(scaler.scale_, 1.0)
    assert_array_equal(scaler.transform(X), 0.0)
    assert_array_equal(scaler.transform(X + 8.0)[:, 1], 8.0)


def test_to_normalizer_has_the_columns_of_the_frame(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0, 6.0], "b": [0.0, 5.0, 1.0]})
    scaler = SklearnNormalizer().fit(frame)
    norm = scaler.to_normalizer()
    assert norm.features == ("a", "b")
    norm.save(tmp_path / "stats.json")
    out = sbn.load(tmp_path / "stats.json").transform(
        pa.table({"b": frame.b, "id": list("xyz"), "a": frame.a})
    )
    assert_array_equal(np.column_stack([out["a"], out["b"]]), scaler.transform(frame))
    before = scaler.mean_
    norm.update(pa.table({"a": [100.0], "b": [100.0]}))
    assert_array_equal(scaler.mean_, before)
    assert SklearnNormalizer().fit(frame.to_numpy()).to_normalizer().features == ("x[0]", "x[1]")


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_from_normalizer_goes_on_from_the_statistics(policy):
    X = bundled("iris")
    options = {"eps": 1e-3, "ddof": 1, "clip": 2.5, "nan": "propagate", "inf": "ignore"}
    options["min_count"] = 3
    norm = sbn.Normalizer(policy, center=False, **options)
    norm.update(pa.table({name: X[:100, i] for i, name in enumerate("abcd")}))
    frozen = norm.freeze()
    scaler = SklearnNormalizer.from_normalizer(frozen)
    assert_same_state(scaler, SklearnNormalizer.from_normalizer(norm))
    rest = pd.DataFrame(X[100:], columns=list("abcd"))
    expected = frozen.transform(pa.table({name: X[100:, i] for i, name in enumerate("abcd")}))
    assert_array_equal(scaler.transform(rest), np.column_stack(expected.columns))
    params = {"policy": policy, "with_mean": False, **options}
    others = {"with_std": True, "columns": None, "exclude": None}
    assert scaler.get_params() == {**params, **others}
    same = SklearnNormalizer(**params)
    same.fit(pd.DataFrame(X[:100], columns=list("abcd")))
    assert_same_state(scaler, same)
    assert_same_state(scaler.partial_fit(rest), same.partial_fit(rest))
    assert frozen.stats()["count"].to_pylist() == [100] * 4
    lists = SklearnNormalizer(policy).fit(X)
    assert_same_state(SklearnNormalizer.from_normalizer(lists.to_normalizer().freeze()), lists)


def test_from_frozen_is_a_deprecated_alias():
    frozen = sbn.Normalizer().update(pa.table({"a": [1.0, 2.0]})).freeze()
    with pytest.warns(DeprecationWarning, match="from_normalizer"):
        old = SklearnNormalizer.from_frozen(frozen)
    assert_same_state(old, SklearnNormalizer.from_normalizer(frozen))


def test_from_normalizer_refuses_columns_of_other_kinds():
    def frozen(table, **options):
        return sbn.Normalizer(**options).update(table).freeze()

    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))
    emb = SklearnNormalizer.from_normalizer(frozen(pa.table({"emb": vectors})))
    assert emb.transform([[1.0, 2.0]]).tolist() == [[0.0, 0.0]]
    assert emb.partial_fit([[3.0, 4.0]]).to_normalizer().features == ("emb[0]", "emb[1]")
    for table in (pa.table({"s": [{"a": 1.0}]}), pa.table({"emb": vectors, "x": [1.0]})):
        with pytest.raises(InvalidValueError, match="neither plain columns nor"):
            SklearnNormalizer.from_normalizer(frozen(table))
    with pytest.raises(InvalidValueError, match="affine"):
        SklearnNormalizer.from_normalizer(frozen(pa.table({"a": [1.0]}), affine={"a": (2, 1)}))
    with pytest.raises(InvalidValueError, match=r"normalizer must be .* got Table"):
        SklearnNormalizer.from_normalizer(pa.table({"a": [1.0]}))
    with pytest.raises(sbn.NotFittedError):
        SklearnNormalizer.from_normalizer(sbn.Normalizer())


def test_import_without_scikit_learn_names_the_extra():
    code = "import sys; sys.modules['sklearn.base'] = None; import streambn.adapters.sklearn"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ImportError: streambn.adapters.sklearn needs scikit-learn" in ran.stderr
    assert "pip install 'streambn[sklearn]'" in ran.stderr
