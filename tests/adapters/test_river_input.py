"""RiverNormalizer: what it refuses, whole and without a trace, and what it only skips."""

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

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import InvalidValueError, NotFittedError, SchemaError, StreamBNError

NAN, INF = math.nan, math.inf
DAY = datetime.datetime(2024, 1, 1)
NO_NUMBERS = [
    "two",
    b"two",
    True,
    np.True_,
    DAY,
    DAY.date(),
    datetime.timedelta(1),
    np.datetime64("2024-01-01"),
    [1.0],
    (1.0,),
    {"v": 1.0},
    np.array([1.0, 2.0]),
    1j,
    object(),
]


def learned(*rows, policy=None, **options):
    model = RiverNormalizer(policy, **options)
    for row in rows:
        model.learn_one(row)
    return model


def of(model, feature):
    [row] = [row for row in model.stats().to_pylist() if row["column"] == feature]
    return row


def books(model, feature):
    return tuple(of(model, feature)[name] for name in ("count", "nulls", "nans", "infs"))


def frames(columns):
    """The same columns as every kind of frame that there is."""
    return [
        pd.DataFrame(columns),
        pl.DataFrame(columns),
        pa.table(columns),
        pa.record_batch(columns),
    ]


def column(frame, name):
    """One column of any kind of frame, as Python values."""
    values = frame[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else values.to_list()


def assert_refuses(model, call, error, says=None):
    """A call raises, and of what it was given nothing has been learned."""
    before, state = model.stats(), pickle.dumps(model)
    with pytest.raises(error, match=says):
        call()
    assert model.stats().equals(before)
    assert pickle.dumps(model) == state


# ------------------------------------------------------------ the unseen, NaN, infinity


def test_a_feature_never_seen_can_be_refused():
    model = learned({"a": 1.0, "null": None}, {"a": 3.0}, unseen="raise")
    for name in ("b", "null"):
        assert_refuses(
            model, lambda name=name: model.transform_one({name: 7.0}), NotFittedError, f"'{name}'"
        )
        for frame in frames({"a": [1.0], name: [7.0]}):
            assert_refuses(
                model, lambda f=frame: model.transform_many(f), NotFittedError, f"'{name}'"
            )
    # What is no number has no statistics to be asked for.
    assert model.transform_one({"s": "x"}) == {"s": "x"}


def test_nan_refused():
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0}, nan="raise")
    bad = {"a": 2.0, "b": NAN}
    assert_refuses(model, lambda: model.learn_one(bad), InvalidValueError, "'b'")
    assert_refuses(model, lambda: model.transform_one(bad), InvalidValueError, "'b'")
    for frame in frames({"a": [2.0, 2.0], "b": [1.0, NAN]}):
        assert_refuses(model, lambda f=frame: model.learn_many(f), InvalidValueError, "'b'")
        assert_refuses(model, lambda f=frame: model.transform_many(f), InvalidValueError, "'b'")


def test_nan_propagated():
    rows = [{"a": 1.0, "b": 1.0}, {"a": NAN, "b": 3.0}, {"a": 3.0, "b": 5.0}]
    one, many = learned(*rows, nan="propagate"), RiverNormalizer(nan="propagate")
    many.learn_many(pd.DataFrame(rows))
    for model in (one, many):
        assert math.isnan(of(model, "a")["mean"])
        assert of(model, "b")["mean"] == 3.0
        out = model.transform_one({"a": 1.0, "b": 3.0})
        assert math.isnan(out["a"])
        assert out["b"] == 0.0
        assert math.isnan(column(model.transform_many(pa.table({"a": [1.0]})), "a")[0])


@pytest.mark.parametrize("inf", [INF, -INF, np.float32(INF), Decimal("Infinity")], ids=str)
def test_infinity_refused(inf):
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    for bad in ({"a": 2.0, "b": inf}, {"b": inf, "a": 2.0}, {"a": 2.0, "new": inf}):
        named = f"'{'new' if 'new' in bad else 'b'}'"
        assert_refuses(model, lambda bad=bad: model.learn_one(bad), InvalidValueError, named)
        assert_refuses(model, lambda bad=bad: model.transform_one(bad), InvalidValueError, named)
    for name in ("b", "new"):
        for frame in frames({"a": [2.0, 2.0], name: [1.0, float(inf)]}):
            assert_refuses(
                model, lambda f=frame: model.learn_many(f), InvalidValueError, f"'{name}'"
            )
            assert_refuses(
                model, lambda f=frame: model.transform_many(f), InvalidValueError, f"'{name}'"
            )


def test_infinity_skipped_and_counted():
    rows = [{"a": 1.0}, {"a": INF}, {"a": -INF}, {"a": 3.0}]
    one, many = learned(*rows, inf="ignore"), RiverNormalizer(inf="ignore")
    many.learn_many(pd.DataFrame(rows))
    assert books(one, "a") == books(many, "a") == (2, 0, 0, 2)
    assert one.stats().equals(many.stats())
    assert of(one, "a")["mean"] == 2.0
    [by_frame] = column(one.transform_many(pa.table({"a": [INF]})), "a")
    assert one.transform_one({"a": INF})["a"] == by_frame == INF


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: type(v).__name__)
def test_what_is_no_number_in_a_feature_of_numbers_is_refused_whole(value):
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    for bad in ({"a": 2.0, "b": value}, {"b": value, "a": 2.0}, {"new": 1.0, "b": value}):
        assert_refuses(model, lambda bad=bad: model.learn_one(bad), SchemaError, "'b'")
        assert_refuses(model, lambda bad=bad: model.transform_one(bad), SchemaError, "'b'")


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: type(v).__name__)
def test_what_was_never_a_number_passes_through_a_row(value):
    model = learned({"a": 1.0, "b": value}, {"a": 3.0, "b": value})
    assert model.stats()["column"].to_pylist() == ["a"]
    assert model.transform_one({"b": value})["b"] is value


@pytest.mark.parametrize("values", [["x", "y"], [True, False], [DAY, DAY], [[1.0], [2.0]]], ids=str)
def test_a_column_of_numbers_that_is_none_any_more_is_refused_whole(values):
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    for frame in frames({"a": [2.0, 2.0], "b": values, "new": [1.0, 2.0]}):
        assert_refuses(model, lambda f=frame: model.learn_many(f), SchemaError, "'b'")
        assert_refuses(model, lambda f=frame: model.transform_many(f), SchemaError, "'b'")


def test_a_column_of_numbers_and_others_is_refused_whole():
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    frame = pd.DataFrame({"a": [2.0, 2.0], "b": pd.Series([1.0, "x"], dtype=object)})
    assert_refuses(model, lambda: model.learn_many(frame), SchemaError, "'b'")
    assert_refuses(model, lambda: model.transform_many(frame), SchemaError, "'b'")


@pytest.mark.parametrize(
    "values", [[True, 1.5], [1.5, True], [1, True], [True, Decimal(2)]], ids=str
)
def test_a_bool_among_the_numbers_of_a_column_is_not_averaged(values):
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    frame = pd.DataFrame({"a": [2.0, 2.0], "b": pd.Series(values, dtype=object)})
    assert_refuses(model, lambda: model.learn_many(frame), SchemaError, "'b'")
    assert_refuses(model, lambda: model.transform_many(frame), SchemaError, "'b'")


def test_a_column_of_nulls_alone_is_no_change_of_type():
    model = learned({"a": 1.0}, {"a": 3.0})
    for frame in (pa.table({"a": pa.nulls(2)}), pl.DataFrame({"a": [None, None]})):
        model.learn_many(frame)
        assert column(model.transform_many(frame), "a") == [None, None]
    assert books(model, "a") == (2, 4, 0, 0)
    assert (of(model, "a")["mean"], of(model, "a")["var"]) == (2.0, 1.0)


@pytest.mark.parametrize("x", [None, 1.0, "a", [("a", 1.0)], {"a"}], ids=str)
def test_a_row_that_is_no_dict_is_refused(x):
    model = learned({"a": 1.0})
    for call in (model.learn_one, model.transform_one):
        assert_refuses(model, lambda call=call: call(x), (TypeError, InvalidValueError))


@pytest.mark.parametrize("X", [None, 1.0, "a", {"a": [1.0]}, np.ones((2, 2))], ids=str)
def test_what_is_no_frame_is_refused(X):
    model = learned({"a": 1.0})
    for call in (model.learn_many, model.transform_many):
        assert_refuses(model, lambda call=call: call(X), (TypeError, InvalidValueError))


def test_a_dict_of_another_class_is_a_row():
    model = learned(OrderedDict(a=1.0), OrderedDict(a=3.0))
    assert model.transform_one(OrderedDict(a=3.0)) == {"a": 1.0}


def test_a_number_beyond_any_float_is_refused_whole():
    model = learned({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 3.0})
    bad = {"a": 2.0, "b": 10**400}
    assert_refuses(model, lambda: model.learn_one(bad), StreamBNError, "'b'")
    assert_refuses(model, lambda: model.transform_one(bad), StreamBNError, "'b'")


def test_the_ends_of_the_range():
    large = learned({"a": 1e308}, {"a": -1e308})
    assert (of(large, "a")["mean"], of(large, "a")["std"]) == (0.0, 1e308)
    assert large.transform_one({"a": 1e308}) == {"a": 1.0}
    same = learned({"a": 1.7e308}, {"a": 1.7e308}, {"a": 1.7e308})
    assert of(same, "a")["mean"] == 1.7e308
    small = learned({"a": 1e-310}, {"a": 3e-310})
    assert of(small, "a")["mean"] == pytest.approx(2e-310, rel=1e-12, abs=0)
    assert of(small, "a")["std"] == pytest.approx(1e-310, rel=1e-12, abs=0)
    out = small.transform_one({"a": 3e-310})["a"]
    assert out == column(small.transform_many(pa.table({"a": [3e-310]})), "a")[0]
    assert out == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unseen": "zeros"}, "unseen"),
        ({"unseen": None}, "unseen"),
        ({"policy": "welford"}, "policy"),
        ({"policy": sbn.Welford}, "policy"),
        ({"policy": 0.3}, "policy"),
        ({"nan": "skip"}, "nan"),
        ({"inf": "skip"}, "inf"),
        ({"eps": -1.0}, "eps"),
        ({"ddof": 2}, "ddof"),
        ({"clip": 0.0}, "clip"),
        ({"affine": {"a": 3.0}}, "affine"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["learn_one", "transform_one", "learn_many", "transform_many"])
def test_a_bad_argument_is_named_before_anything_is_done_with_it(options, says, method):
    data = pd.DataFrame({"a": [1.0]}) if method.endswith("many") else {"a": 1.0}
    with pytest.raises(InvalidValueError, match=says):
        getattr(RiverNormalizer(**options), method)(data)


@pytest.mark.parametrize(
    "wrong",
    [pl.DataFrame({"a": [1.0]}).lazy(), np.zeros((2, 2)), {"a": [1.0]}, pd.Series([1.0]), None, 3],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_frame_is_refused_with_what_one_is(wrong):
    model = learned({"a": 1.0}, {"a": 3.0})
    for method in (model.learn_many, model.transform_many):
        assert_refuses(model, lambda m=method: m(wrong), StreamBNError, "eager frame")


def test_columns_of_two_levels_are_features_under_their_tuples():
    columns = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 6.0]], columns=columns)
    model = RiverNormalizer()
    model.learn_many(frame)
    assert model.transform_one({("a", 1): 3.0, ("a", 2): 2.0}) == {("a", 1): 1.0, ("a", 2): -1.0}
    assert model.transform_many(frame).columns.equals(columns)
