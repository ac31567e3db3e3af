"""RiverNormalizer by itself: what it learns, from what, and how it is copied."""

from __future__ import annotations

import datetime
import inspect
import json
import math
import pickle
import re
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import NotFittedError, SchemaError

NAN, INF = math.nan, math.inf
DAY = datetime.datetime(2024, 1, 1)


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


# ----------------------------------------------------------------------------- learning


def test_the_statistics_are_those_of_a_normalizer():
    model = learned({"a": 1.0, "b": 10}, {"a": 2.0}, {"a": 6.0, "b": 20})
    table = pa.table({"a": [1.0, 2.0, 6.0], "b": pa.array([10, None, 20], pa.int64())})
    assert model.stats().equals(sbn.Normalizer().update(table).stats())


def test_learning_returns_nothing_as_river_has_it():
    model = RiverNormalizer()
    assert model.learn_one({"a": 1.0}) is None
    assert model.learn_many(pd.DataFrame({"a": [1.0]})) is None


def test_features_stand_in_the_order_in_which_they_first_appeared():
    model = learned({"b": 1.0}, {"c": 1.0, "a": 1.0})
    model.learn_many(pa.table({"e": [1.0], "b": [1.0], "d": [1.0]}))
    assert model.stats()["column"].to_pylist() == ["b", "c", "a", "e", "d"]


def test_a_feature_that_a_row_lacks_is_a_null_of_it_even_before_it_appeared():
    model = learned({"a": 1.0}, {}, {"a": None, "b": 1.0}, {"b": NAN}, {"c": 2.0})
    assert books(model, "a") == (1, 4, 0, 0)
    assert books(model, "b") == (1, 3, 1, 0)
    assert books(model, "c") == (1, 4, 0, 0)
    model.learn_many(pd.DataFrame({"d": [1.0, 2.0]}))
    assert books(model, "d") == (2, 5, 0, 0)
    assert books(model, "a") == (1, 6, 0, 0)


def test_rows_without_features_are_rows_and_a_frame_without_rows_is_nothing():
    model = learned({"a": 1.0})
    model.learn_many(pd.DataFrame(index=range(3)))
    assert books(model, "a") == (1, 3, 0, 0)
    state = pickle.dumps(model)
    for empty in frames({"a": np.array([], float), "new": np.array([], float)}):
        model.learn_many(empty)
    assert pickle.dumps(model) == state


@pytest.mark.parametrize("missing", [None, pd.NA], ids=str)
def test_missing_in_a_row(missing):
    model = learned({"a": 1.0}, {"a": missing}, {"a": 3.0})
    assert books(model, "a") == (2, 1, 0, 0)
    assert model.transform_one({"a": missing})["a"] is missing


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1.0, NAN, 3.0]), (2, 0, 1, 0)),
        (np.array([1.0, NAN, 3.0], np.float32), (2, 0, 1, 0)),
        (pd.array([1.0, None, 3.0], "Float64"), (2, 1, 0, 0)),
        (pd.array([1, None, 3], "Int64"), (2, 1, 0, 0)),
        (pd.Series([1.0, None, 3.0], dtype=object), (2, 1, 0, 0)),
        (pd.arrays.ArrowExtensionArray(pa.array([1.0, None, NAN, 3.0])), (2, 1, 1, 0)),
    ],
    ids=["float64", "float32", "Float64", "Int64", "object", "Arrow"],
)
def test_missing_in_a_pandas_column_by_its_type(values, expected):
    model = RiverNormalizer()
    model.learn_many(pd.DataFrame({"a": values}))
    assert books(model, "a") == expected
    assert (of(model, "a")["mean"], of(model, "a")["var"]) == (2.0, 1.0)


def test_missing_in_arrow_and_polars():
    for frame in (
        pa.table({"a": [1.0, None, NAN, 3.0]}),
        pl.DataFrame({"a": [1.0, None, NAN, 3.0]}),
    ):
        model = RiverNormalizer()
        model.learn_many(frame)
        assert books(model, "a") == (2, 1, 1, 0)


def test_columns_that_are_no_numbers_are_never_learned():
    model = learned({"a": 1.0, "s": "x", "flag": True, "t": DAY, "l": [1.0]})
    for frame in frames({"a": [2.0], "s": ["x"], "flag": [True], "t": [DAY], "l": [[1.0]]}):
        model.learn_many(frame)
    assert model.stats()["column"].to_pylist() == ["a"]
    assert books(model, "a") == (5, 0, 0, 0)


def test_a_frame_in_chunks_and_a_slice_of_one():
    table = pa.table({"a": pa.chunked_array([[1.0, 2.0], [], [3.0, 100.0]])})
    model = RiverNormalizer()
    model.learn_many(table.slice(0, 3))
    assert (of(model, "a")["mean"], of(model, "a")["count"]) == (2.0, 3)


def test_each_column_by_itself_whatever_the_others_types():
    columns = {"small": np.array([1, 2], np.int8), "price": [70_000.0, 70_001.0]}
    for frame in frames(columns):
        model = RiverNormalizer()
        model.learn_many(frame)
        out = model.transform_many(frame)
        assert column(out, "small") == [-1.0, 1.0]
        assert column(out, "price") == [-1.0, 1.0]


# ------------------------------------------------------------------ numbers of any type


@pytest.mark.parametrize(
    "values",
    [
        [2**53 + 1, 2**53 + 3, 2**53 + 5],
        [2**63 + 1, 2**63 + 3, 2**63 + 5],
        [10**25 + 1, 10**25 + 3, 10**25 + 5],
        [Decimal(10**20) + Decimal(i) / 10 for i in (1, 3, 5)],
        [10**20 + Fraction(i, 8) for i in (1, 3, 5)],
        [np.int64(2**60 + i) for i in (1, 3, 5)],
        [np.uint64(2**63 + i) for i in (1, 3, 5)],
    ],
    ids=["int", "uint64", "big int", "Decimal", "Fraction", "np.int64", "np.uint64"],
)
def test_no_digit_is_lost_before_the_mean_is_subtracted(values):
    model = learned(*({"a": v} for v in values))
    step = (
        float(Fraction(values[1]) - Fraction(values[0]))
        if not isinstance(values[0], np.generic)
        else float(int(values[1]) - int(values[0]))
    )
    assert of(model, "a")["var"] == pytest.approx(step**2 * 2 / 3, rel=1e-12, abs=0)
    out = [model.transform_one({"a": v})["a"] for v in values]
    assert out == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        [2**53 + 1, 2**53 + 3, 2**53 + 5],
        [Decimal("100000000000000000000.1") + Decimal(i) / 10 for i in (0, 2, 4)],
    ],
    ids=["int64", "decimal"],
)
def test_no_digit_is_lost_in_a_frame(values):
    for frame in frames({"a": values}):
        model = RiverNormalizer()
        model.learn_many(frame)
        out = column(model.transform_many(frame), "a")
        assert out == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], rel=1e-12, abs=1e-12)
        # A frame and a row are the same data.
        rows = [model.transform_one({"a": v})["a"] for v in values]
        assert rows == pytest.approx(out, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "two",
    [
        2,
        np.int8(2),
        np.uint64(2),
        np.float16(2),
        np.float32(2),
        np.float64(2),
        Decimal(2),
        Fraction(2),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_row_comes_out_as_python_floats(two):
    model = learned({"a": 1}, {"a": two * 2 - 1})
    for row in ({"a": two}, {"a": two, "unseen": two}):
        out = model.transform_one(row)
        assert [type(v) for v in out.values()] == [float] * len(row)
        assert out["a"] == 0.0
    assert of(model, "a")["var"] == 1.0


# --------------------------------------------------------------- names, copies, threads


def test_parameters_are_kept_as_they_were_given():
    affine = {"a": (2.0, 1.0)}
    policy = sbn.EMA(alpha=0.3)
    model = RiverNormalizer(policy, eps=1, ddof=1, affine=affine, clip=3, unseen="raise")
    assert model.policy is policy
    assert model.affine is affine
    assert (model.eps, model.ddof, model.clip, model.unseen) == (1, 1, 3, "raise")
    assert RiverNormalizer().policy is None
    defaults = {p.name: p.default for p in inspect.signature(RiverNormalizer).parameters.values()}
    assert defaults == {
        "policy": None,
        "eps": 0.0,
        "ddof": 0,
        "center": True,
        "scale": True,
        "affine": None,
        "clip": None,
        "nan": "ignore",
        "inf": "raise",
        "weights": None,
        "unseen": "zero",
    }


def test_names_may_be_anything_hashable():
    rows = [
        {0: 1.0, "0": 10.0, ("t", 1): 5.0, None: 1.0},
        {0: 3.0, "0": 30.0, ("t", 1): 7.0, None: 2.0},
    ]
    model = learned(*rows)
    out = model.transform_one({0: 3.0, "0": 10.0, ("t", 1): 6.0, None: 2.0, 1: 4.0})
    assert out == {0: 1.0, "0": -1.0, ("t", 1): 0.0, None: 1.0, 1: 0.0}
    assert model.stats().num_rows == 4
    with pytest.raises(SchemaError, match=re.escape("('t', 1)")):
        model.transform_one({("t", 1): "x"})


def test_pandas_columns_may_be_numbers():
    model = RiverNormalizer()
    model.learn_many(pd.DataFrame({0: [1.0, 3.0], 1: [5.0, 5.0]}))
    model.learn_one({0: 2.0})
    assert model.transform_one({0: 2.0, 1: 9.0, "0": 9.0}) == {0: 0.0, 1: 0.0, "0": 0.0}
    out = model.transform_many(pd.DataFrame({1: [5.0], 0: [2.0]}))
    assert out.columns.tolist() == [1, 0]
    assert out[0].tolist() == [0.0]


def test_a_clone_has_learned_nothing_and_is_not_frozen():
    model = learned({"a": 1.0}, {"a": 3.0}, policy=sbn.EMA(alpha=0.3), eps=1.0, unseen="raise")
    model.freeze()
    clone = model.clone()
    assert (clone.policy, clone.eps, clone.unseen, clone.frozen) == (
        model.policy,
        1.0,
        "raise",
        False,
    )
    with pytest.raises(NotFittedError):
        clone.transform_one({"a": 1.0})
    clone.learn_one({"a": 100.0})
    assert of(model, "a")["count"] == 2


def test_equal_statistics_make_equal_pickles():
    # Names that are equal but not the same objects, as two processes have them.
    lines = [{"alpha": 1.0, "beta": 2}, {"alpha": 5.0, "beta": None}, {"gamma": 3.5}]
    one, other = (learned(*(json.loads(json.dumps(line)) for line in lines)) for _ in range(2))
    assert pickle.dumps(one) == pickle.dumps(other)
    other.learn_one({"alpha": 1.0})
    assert pickle.dumps(one) != pickle.dumps(other)


def test_one_thread_learns_while_others_transform():
    rows, errors, done = 3000, [], threading.Event()
    model = learned({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 3.0})
    frame = pa.table({"a": [0.5], "b": [2.0]})

    def learns():
        try:
            for i in range(rows):
                model.learn_one({"a": float(i % 2), "b": 1.0 + 2 * (i % 2), f"x{i % 50}": i})
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    def transforms():
        try:
            while not done.is_set():
                out = model.transform_one({"a": 0.5, "b": 2.0, "x7": 1.0})
                many = model.transform_many(frame)
                # Between two rows of a pair the mean is at most 1/6 off: never half a state.
                assert all(abs(v) < 0.5 for v in (out["a"], out["b"], *column(many, "b")))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=f) for f in (learns, transforms, transforms)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert of(model, "a")["count"] == rows + 2
    assert of(model, "a")["mean"] == 0.5


def test_two_threads_that_learn_do_not_break_it():
    model, errors = RiverNormalizer(), []

    def learns(offset):
        try:
            for i in range(1000):
                model.learn_one({"a": float(offset + i), f"b{i % 20}": 1.0})
                if i % 100 == 0:
                    model.learn_many(pa.table({"a": [float(offset), float(offset + 1)]}))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=learns, args=(offset,)) for offset in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    # One writer is what is promised: with two a row may be lost, but none is learned by half.
    row = of(model, "a")
    assert 1000 <= row["count"] <= 2040
    assert 0.0 <= row["min"] < row["mean"] < row["max"] <= 1999.0


def test_without_river_the_import_says_what_to_install():
    code = "import sys; sys.modules['river'] = None; import streambn.adapters.river"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ImportError" in ran.stderr
    assert "pip install 'streambn[river]'" in ran.stderr
