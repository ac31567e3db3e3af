"""SklearnNormalizer of some columns: names, patterns, positions and callables."""

from __future__ import annotations

import datetime
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import streambn as sbn
from streambn.adapters.sklearn import SklearnNormalizer
from streambn.errors import InvalidValueError, SchemaError

FRAME = pd.DataFrame(
    {
        "id": ["p", "q", "r", "s"],
        "sensor_1": np.array([1.0, 3.0, 5.0, 7.0], np.float32),
        "day": [datetime.datetime(2020, 1, day) for day in (1, 2, 3, 4)],
        "sensor_2": [2, 4, 4, 8],
        "label": pd.array([1, None, 0, 1], dtype="Int64"),
    },
    index=[5, 6, 9, 7],
)
FRAMES = {
    "pandas": FRAME,
    "polars": pl.from_pandas(FRAME),
    "table": pa.Table.from_pandas(FRAME, preserve_index=False),
    "batch": pa.RecordBatch.from_pandas(FRAME, preserve_index=False),
}
SENSORS = ["sensor_1", "sensor_2"]
WAYS = {
    "names": {"columns": SENSORS},
    "a pattern": {"columns": ["sensor_*"]},
    "positions": {"columns": [1, -2]},
    "an index": {"columns": pd.Index(SENSORS)},
    "a callable": {"columns": lambda field: field.name[0] == "s" and field.type != pa.string()},
    "exclude": {"exclude": ["id", "day", "label"]},
    "all ways to exclude": {"exclude": ["i?", 2, -1, "nothing*"]},
    "both": {"columns": ["sensor_*", 0], "exclude": ["id"]},
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_chosen_columns_are_normalized_and_others_pass_through(how, kind):
    data = FRAMES[kind]
    scaler = SklearnNormalizer(**how).fit(data)
    alone = SklearnNormalizer().fit(FRAME[SENSORS])
    assert list(scaler.feature_names_in_) == list(scaler.get_feature_names_out())
    assert scaler.n_features_in_ == 5
    for attribute in ("mean_", "var_", "scale_"):
        assert_array_equal(getattr(scaler, attribute)[[1, 3]], getattr(alone, attribute))
        assert np.isnan(getattr(scaler, attribute)[[0, 2, 4]]).all()
    assert scaler.n_samples_seen_ == 4
    out = scaler.transform(data)
    z = alone.transform(FRAME[SENSORS])
    assert_array_equal(out[:, [1, 3]].astype(float), z)
    assert_array_equal(out[:, 0], FRAME["id"])
    assert out[1, 2] == datetime.datetime(2020, 1, 2)
    assert_array_equal(scaler.inverse_transform(data)[:, 0], FRAME["id"])
    back = scaler.inverse_transform(out)
    assert_array_equal(back[:, [1, 3]].astype(float), FRAME[SENSORS])
    assert_array_equal(back[:, 2], out[:, 2])


@pytest.mark.parametrize("kind", FRAMES)
def test_other_columns_keep_their_types_in_frames(kind):
    data = FRAMES[kind]
    z = SklearnNormalizer().fit_transform(FRAME[SENSORS])
    pandas = SklearnNormalizer(columns=SENSORS).set_output(transform="pandas").fit_transform(data)
    polars = SklearnNormalizer(columns=SENSORS).set_output(transform="polars").fit_transform(data)
    assert_array_equal(pandas[SENSORS], z)
    assert_array_equal(polars[SENSORS], z)
    others = ["id", "day", "label"]
    assert list(pandas.columns) == list(polars.columns) == list(FRAME.columns)
    assert polars[others].equals(FRAMES["polars"][others])
    if kind == "pandas":
        pd.testing.assert_frame_equal(pandas[others], FRAME[others])
        assert FRAME["sensor_2"].tolist() == [2, 4, 4, 8]


def test_positions_choose_columns_of_arrays():
    X = np.array([[1.0, 10.0, np.inf], [3.0, 20.0, np.nan]], np.float32)
    scaler = SklearnNormalizer(columns=[0, 1], nan="raise").fit(X)
    out = scaler.transform(X)
    assert out.dtype == np.float32
    assert_array_equal(out, np.array([[-1, -1, np.inf], [1, 1, np.nan]]))
    assert_array_equal(scaler.inverse_transform(out), X)
    assert_array_equal(X[0], np.array([1, 10, np.inf]))
    whole = np.array([[1, 10], [3, 20]])
    assert_array_equal(SklearnNormalizer(exclude=[0]).fit_transform(whole), [[1, -1], [3, 1]])
    mixed = np.array([["a", 1.0], ["b", 3.0]], object)
    out = SklearnNormalizer(exclude=[0]).fit_transform(mixed)
    assert out.tolist() == [["a", -1.0], ["b", 1.0]]
    unnamed = SklearnNormalizer(columns=[1]).set_output(transform="pandas").fit_transform(mixed)
    assert unnamed["x1"].tolist() == [-1.0, 1.0]


@given(st.data())
def test_equals_a_normalizer_of_these_columns_alone(data):
    width = data.draw(st.integers(1, 5))
    chosen = data.draw(st.sets(st.integers(0, width - 1), min_size=1).map(sorted))
    rest = [i for i in range(width) if i not in chosen]
    X = np.random.default_rng(data.draw(st.integers(0, 9))).normal(3, 2, (12, width))
    X[::5, 0] = np.nan
    how = data.draw(st.sampled_from([{"columns": chosen}, {"exclude": rest}]))
    policy = data.draw(st.sampled_from([sbn.Welford(), sbn.EMA(span=5)]))
    weights = data.draw(st.sampled_from([None, np.arange(1.0, 8.0)]))
    scaler, alone = SklearnNormalizer(policy, **how), SklearnNormalizer(policy)
    scaler.fit(X[:7], sample_weight=weights).partial_fit(X[7:])
    alone.fit(X[:7, chosen], sample_weight=weights).partial_fit(X[7:, chosen])
    assert_array_equal(scaler.mean_[chosen], alone.mean_)
    assert_array_equal(scaler.scale_[chosen], alone.scale_)
    seen = np.broadcast_to(scaler.n_samples_seen_, width)[chosen]
    assert_array_equal(seen, np.broadcast_to(alone.n_samples_seen_, len(chosen)))
    out = scaler.transform(X)
    assert_array_equal(out[:, chosen], alone.transform(X[:, chosen]))
    assert_array_equal(out[:, rest], X[:, rest])


def test_state_and_parameters_travel():
    scaler = SklearnNormalizer(exclude=["id", "day", "label"]).fit(FRAME)
    again = pickle.loads(pickle.dumps(scaler)).partial_fit(FRAME)
    assert (again.n_samples_seen_, scaler.n_samples_seen_) == (8, 4)
    assert clone(scaler).get_params()["exclude"] == ["id", "day", "label"]
    normalizer = again.to_normalizer()
    assert normalizer.features == ("sensor_1", "sensor_2")
    out = normalizer.transform(FRAMES["table"])
    assert out["id"].equals(FRAMES["table"]["id"])
    features = SklearnNormalizer.from_normalizer(normalizer)
    assert list(features.feature_names_in_) == SENSORS
    assert_array_equal(features.mean_, [4.0, 4.5])
    # Parameters take effect at the next fit, as all do.
    scaler.set_params(exclude=None, columns=["sensor_1"])
    assert not np.isnan(scaler.mean_[3])
    assert np.isnan(scaler.fit(FRAME).mean_[3])
    assert not np.isnan(scaler.set_params(columns=None).fit(FRAME[SENSORS]).mean_).any()


def test_pipelines_take_the_result():
    X = np.random.default_rng(0).normal(5, 3, (60, 3))
    model = make_pipeline(SklearnNormalizer(exclude=[2]), LogisticRegression())
    assert model.fit(X, X[:, 0] > 5).score(X, X[:, 0] > 5) > 0.9


ARRAY = np.ones((3, 2))
REFUSED = {
    "an unknown name": (FRAME, {"exclude": ["lable"]}, SchemaError, "Did you mean 'label'"),
    "an unknown pattern": (FRAME, {"columns": ["z*"]}, SchemaError, "matches no column"),
    "a position too far": (ARRAY, {"columns": [2]}, SchemaError, "no column 2"),
    "one string": (FRAME, {"exclude": "id"}, InvalidValueError, "exclude must be a list"),
    "a boolean": (ARRAY, {"columns": [True]}, InvalidValueError, "columns must be a list"),
    "nothing": (FRAME, {"columns": []}, InvalidValueError, "leave none"),
    "everything": (ARRAY, {"exclude": [0, 1]}, InvalidValueError, "leave none"),
    "a name for an array": (ARRAY, {"columns": ["a"]}, InvalidValueError, r"columns=\[0\]"),
    "a callable for an array": (ARRAY, {"columns": bool}, InvalidValueError, "not a frame"),
    "text": (FRAME, {"exclude": ["day"]}, ValueError, "could not convert string"),
    "dates": (FRAME, {"exclude": ["id"]}, SchemaError, "column 2 of X"),
}


@pytest.mark.parametrize(("X", "how", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_choices_are_refused(X, how, error, message):
    scaler = SklearnNormalizer(**how)
    with pytest.raises(error, match=message):
        scaler.fit(X)
    assert vars(scaler) == vars(SklearnNormalizer(**how))


def test_an_error_in_a_callable_leaves_the_statistics():
    scaler = SklearnNormalizer(columns=["sensor_1"]).fit(FRAME)
    scaler.set_params(columns=lambda field: field.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        scaler.fit(FRAME)
    assert scaler.mean_[1] == 4.0
    with pytest.raises(ValueError, match="feature names"):
        scaler.partial_fit(FRAME[SENSORS])
    with pytest.raises(ValueError, match="5 features"):
        scaler.inverse_transform(FRAME[SENSORS])
