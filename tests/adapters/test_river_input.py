"""RiverNormalizer refuses bad rows and frames as a whole, and skips missing values."""

from __future__ import annotations

import datetime
import math
import pickle
from collections import OrderedDict
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river_rows import DAY, INF, NAN, column, counts, frames, learned, mean_and_var, stats_of

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import InvalidValueError, NotFittedError, SchemaError

NOT_NUMBERS = [
    *("two", b"two", True, np.True_, [1.0], (1.0,), {"v": 1.0}, np.array([1.0, 2.0]), 1j, object()),
    *(DAY, DAY.date(), datetime.timedelta(1), np.datetime64("2024-01-01")),
]
ROW, FRAME = ("learn_one", "transform_one"), ("learn_many", "transform_many")


def fitted_model(**options):
    """Return a normalizer of the features a and b, both with mean 2 and deviation 1."""
    return learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0}, **options)


def assert_refuses(model, methods, data, error, message):
    """Each method raises for the data, and changes nothing."""
    before, state = model.stats(), pickle.dumps(model)
    for method in methods:
        with pytest.raises(error, match=message):
            getattr(model, method)(data)
    assert model.stats().equals(before)
    assert pickle.dumps(model) == state


@pytest.mark.parametrize("name", ["b", "null"])
def test_unseen_feature_is_refused(name):
    model = learned({"a": 1.0, "null": None}, {"a": 3.0}, unseen="raise")
    message = f"'{name}'"
    assert_refuses(model, ROW[1:], {name: 7.0}, NotFittedError, message)
    for frame in frames({"a": [1.0], name: [7.0]}):
        assert_refuses(model, FRAME[1:], frame, NotFittedError, message)
    # Values that are not numbers need no statistics.
    assert model.transform_one({"s": "x"}) == {"s": "x"}


def test_nan_is_refused():
    model = fitted_model(nan="raise")
    assert_refuses(model, ROW, {"a": 2.0, "b": NAN}, InvalidValueError, "'b'")
    for frame in frames({"a": [2.0, 2.0], "b": [1.0, NAN]}):
        assert_refuses(model, FRAME, frame, InvalidValueError, "'b'")


def test_nan_is_propagated():
    rows = [{"a": 1.0, "b": 1.0}, {"a": NAN, "b": 3.0}, {"a": 3.0, "b": 5.0}]
    for data in (rows, [pd.DataFrame(rows)]):
        model = learned(*data, nan="propagate")
        assert math.isnan(stats_of(model, "a")["mean"])
        assert stats_of(model, "b")["mean"] == 3.0
        out = model.transform_one({"a": 1.0, "b": 3.0})
        assert math.isnan(out["a"])
        assert out["b"] == 0.0
        assert math.isnan(column(model.transform_many(pa.table({"a": [1.0]})), "a")[0])


@pytest.mark.parametrize("inf", [INF, -INF, np.float32(INF), Decimal("Infinity")], ids=str)
def test_infinity_is_refused(inf):
    model = fitted_model()
    for name in ("b", "new"):
        for row in ({"a": 2.0, name: inf}, {name: inf, "a": 2.0}):
            assert_refuses(model, ROW, row, InvalidValueError, f"'{name}'")
        for frame in frames({"a": [2.0, 2.0], name: [1.0, float(inf)]}):
            assert_refuses(model, FRAME, frame, InvalidValueError, f"'{name}'")


def test_infinity_is_skipped_and_counted():
    rows = [{"a": 1.0}, {"a": INF}, {"a": -INF}, {"a": 3.0}]
    one, many = learned(*rows, inf="ignore"), learned(pd.DataFrame(rows), inf="ignore")
    assert counts(one, "a") == counts(many, "a") == (2, 0, 0, 2)
    assert one.stats().equals(many.stats())
    assert stats_of(one, "a")["mean"] == 2.0
    [by_frame] = column(one.transform_many(pa.table({"a": [INF]})), "a")
    assert one.transform_one({"a": INF})["a"] == by_frame == INF


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: type(v).__name__)
def test_value_that_is_not_a_number_is_refused_in_a_numeric_feature(value):
    model = fitted_model()
    for row in ({"a": 2.0, "b": value}, {"b": value, "a": 2.0}, {"new": 1.0, "b": value}):
        assert_refuses(model, ROW, row, SchemaError, "'b'")


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: type(v).__name__)
def test_value_that_is_not_a_number_passes_through_elsewhere(value):
    model = learned({"a": 1.0, "b": value}, {"a": 3.0, "b": value})
    assert model.stats()["column"].to_pylist() == ["a"]
    assert model.transform_one({"b": value})["b"] is value


@pytest.mark.parametrize("values", [["x", "y"], [True, False], [DAY, DAY], [[1.0], [2.0]]], ids=str)
def test_numeric_feature_that_becomes_another_type_is_refused(values):
    model = fitted_model()
    for frame in frames({"a": [2.0, 2.0], "b": values, "new": [1.0, 2.0]}):
        assert_refuses(model, FRAME, frame, SchemaError, "'b'")


@pytest.mark.parametrize(
    "values", [[1.0, "x"], [True, 1.5], [1.5, True], [1, True], [True, Decimal(2)]], ids=str
)
def test_object_column_with_other_values_among_numbers_is_refused(values):
    frame = pd.DataFrame({"a": [2.0, 2.0], "b": pd.Series(values, dtype=object)})
    assert_refuses(fitted_model(), FRAME, frame, SchemaError, "'b'")


def test_column_of_nulls_does_not_change_the_type():
    model = learned({"a": 1.0}, {"a": 3.0})
    for frame in (pa.table({"a": pa.nulls(2)}), pl.DataFrame({"a": [None, None]})):
        model.learn_many(frame)
        assert column(model.transform_many(frame), "a") == [None, None]
    assert counts(model, "a") == (2, 4, 0, 0)
    assert mean_and_var(model, "a") == (2.0, 1.0)


@pytest.mark.parametrize("x", [None, 1.0, "a", [("a", 1.0)], {"a"}], ids=str)
def test_row_that_is_not_a_dict_is_refused(x):
    assert_refuses(fitted_model(), ROW, x, InvalidValueError, "a row must be a dict")


@pytest.mark.parametrize(
    "X",
    [None, 1.0, "a", {"a": [1.0]}, np.ones((2, 2)), pd.Series([1.0]), pl.LazyFrame({"a": [1.0]})],
    ids=lambda X: type(X).__name__,
)
def test_data_that_is_not_an_eager_frame_is_refused(X):
    assert_refuses(fitted_model(), FRAME, X, InvalidValueError, "eager frame")


def test_subclass_of_dict_is_a_row():
    model = learned(OrderedDict(a=1.0), OrderedDict(a=3.0))
    assert model.transform_one(OrderedDict(a=3.0)) == {"a": 1.0}


def test_number_beyond_float64_is_refused():
    assert_refuses(fitted_model(), ROW, {"a": 2.0, "b": 10**400}, InvalidValueError, "'b'")


def test_extremes_of_float64():
    large = learned({"a": 1e308}, {"a": -1e308})
    assert (stats_of(large, "a")["mean"], stats_of(large, "a")["std"]) == (0.0, 1e308)
    assert large.transform_one({"a": 1e308}) == {"a": 1.0}
    same = learned({"a": 1.7e308}, {"a": 1.7e308}, {"a": 1.7e308})
    assert stats_of(same, "a")["mean"] == 1.7e308
    small = learned({"a": 1e-307}, {"a": 3e-307})
    assert stats_of(small, "a")["mean"] == pytest.approx(2e-307, rel=1e-12, abs=0)
    assert stats_of(small, "a")["std"] == pytest.approx(1e-307, rel=1e-12, abs=0)
    out = small.transform_one({"a": 3e-307})["a"]
    assert out == column(small.transform_many(pa.table({"a": [3e-307]})), "a")[0]
    assert out == pytest.approx(1.0, rel=1e-12)
    # A subnormal deviation has lost digits, and counts as zero.
    tiny = learned({"a": 1e-310}, {"a": 3e-310})
    assert tiny.transform_one({"a": 3e-310}) == {"a": 0.0}


BAD = {
    "unseen": ["zeros", None],
    "policy": ["welford", sbn.Welford, 0.3],
    **{"nan": ["skip"], "inf": ["skip"], "eps": [-1.0], "ddof": [2], "clip": [0.0]},
    "affine": [{"a": 3.0}],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD for value in BAD[name]], ids=str
)
def test_bad_parameter_is_refused_by_the_constructor(name, value):
    with pytest.raises(InvalidValueError, match=name):
        RiverNormalizer(**{name: value})


def test_columns_of_two_levels_are_features_named_by_tuples():
    columns = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 6.0]], columns=columns)
    model = learned(frame)
    assert model.transform_one({("a", 1): 3.0, ("a", 2): 2.0}) == {("a", 1): 1.0, ("a", 2): -1.0}
    assert model.transform_many(frame).columns.equals(columns)
