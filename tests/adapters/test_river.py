"""RiverNormalizer alone: learning, number types, parameters, resetting and saving."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river_rows import DAY, NAN, column, counts, frames, learned, mean_and_var, stats_of

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import InvalidValueError, NotFittedError, SchemaError


def test_statistics_equal_those_of_normalizer():
    model = learned({"a": 1.0, "b": 10}, {"a": 2.0}, {"a": 6.0, "b": 20})
    table = pa.table({"a": [1.0, 2.0, 6.0], "b": pa.array([10, None, 20], pa.int64())})
    assert model.stats().equals(sbn.Normalizer().update(table).stats())


def test_learning_returns_none():
    model = RiverNormalizer()
    assert model.learn_one({"a": 1.0}) is None
    assert model.learn_many(pd.DataFrame({"a": [1.0]})) is None


def test_features_are_in_order_of_appearance():
    table = pa.table({"e": [1.0], "b": [1.0], "d": [1.0]})
    model = learned({"b": 1.0}, {"c": 1.0, "a": 1.0}, table)
    assert model.stats()["column"].to_pylist() == ["b", "c", "a", "e", "d"]


def test_absent_feature_is_null_even_before_it_appeared():
    model = learned({"a": 1.0}, {}, {"a": None, "b": 1.0}, {"b": NAN}, {"c": 2.0})
    assert counts(model, "a") == (1, 4, 0, 0)
    assert counts(model, "b") == (1, 3, 1, 0)
    assert counts(model, "c") == (1, 4, 0, 0)
    model.learn_many(pd.DataFrame({"d": [1.0, 2.0]}))
    assert counts(model, "d") == (2, 5, 0, 0)
    assert counts(model, "a") == (1, 6, 0, 0)


def test_rows_without_features_count_and_frames_without_rows_do_not():
    model = learned({"a": 1.0}, pd.DataFrame(index=range(3)))
    assert counts(model, "a") == (1, 3, 0, 0)
    state = pickle.dumps(model)
    for empty in frames({"a": np.array([], float), "new": np.array([], float)}):
        model.learn_many(empty)
    assert pickle.dumps(model) == state


@pytest.mark.parametrize("missing", [None, pd.NA], ids=str)
def test_missing_value_in_a_row(missing):
    model = learned({"a": 1.0}, {"a": missing}, {"a": 3.0})
    assert counts(model, "a") == (2, 1, 0, 0)
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
        (pa.array([1.0, None, NAN, 3.0]), (2, 1, 1, 0)),
        (pl.Series([1.0, None, NAN, 3.0]), (2, 1, 1, 0)),
    ],
    ids=["float64", "float32", "Float64", "Int64", "object", "Arrow", "pyarrow", "Polars"],
)
def test_missing_values_in_frames_depend_on_the_type(values, expected):
    make = {pa.DoubleArray: pa.table, pl.Series: pl.DataFrame}.get(type(values), pd.DataFrame)
    model = learned(make({"a": values}))
    assert counts(model, "a") == expected
    assert mean_and_var(model, "a") == (2.0, 1.0)


def test_columns_without_numbers_are_not_learned():
    row = {"a": 1.0, "s": "x", "flag": True, "t": DAY, "l": [1.0]}
    model = learned(row, *frames({name: [value] for name, value in row.items()}))
    assert model.stats()["column"].to_pylist() == ["a"]
    assert counts(model, "a") == (5, 0, 0, 0)


def test_slice_of_a_chunked_table():
    table = pa.table({"a": pa.chunked_array([[1.0, 2.0], [], [3.0, 100.0]])})
    model = learned(table.slice(0, 3))
    assert (stats_of(model, "a")["mean"], stats_of(model, "a")["count"]) == (2.0, 3)


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
def test_large_numbers_in_rows_keep_their_digits(values):
    model = learned(*({"a": v} for v in values))
    step = float(values[1] - values[0])
    assert stats_of(model, "a")["var"] == pytest.approx(step**2 * 2 / 3, rel=1e-12, abs=0)
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
def test_large_numbers_in_frames_keep_their_digits(values):
    for frame in frames({"a": values}):
        model = learned(frame)
        out = column(model.transform_many(frame), "a")
        assert out == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], rel=1e-12, abs=1e-12)
        rows = [model.transform_one({"a": v})["a"] for v in values]
        assert rows == pytest.approx(out, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "kind",
    [int, np.int8, np.uint64, np.float16, np.float32, np.float64, Decimal, Fraction],
)
def test_transform_one_returns_python_floats(kind):
    two = kind(2)
    model = learned({"a": 1}, {"a": two * 2 - 1})
    for row in ({"a": two}, {"a": two, "unseen": two}):
        out = model.transform_one(row)
        assert [type(v) for v in out.values()] == [float] * len(row)
        assert out["a"] == 0.0
    assert stats_of(model, "a")["var"] == 1.0


def test_parameters_are_stored_unchanged():
    affine = {"a": (2.0, 1.0)}
    policy = sbn.EMA(alpha=0.3)
    model = RiverNormalizer(policy, eps=1, ddof=1, affine=affine, clip=3, unseen="raise")
    assert model.policy is policy
    assert model.affine is affine
    assert (model.eps, model.ddof, model.clip, model.unseen) == (1, 1, 3, "raise")
    assert RiverNormalizer().policy is None
    defaults = {p.name: p.default for p in inspect.signature(RiverNormalizer).parameters.values()}
    assert defaults == {
        **{"policy": None, "columns": None, "exclude": None, "affine": None},
        **{"clip": None, "weights": None},
        **{"eps": 0.0, "ddof": 0, "center": True, "scale": True},
        **{"nan": "ignore", "inf": "raise", "min_count": 0, "unseen": "zero"},
    }


def test_feature_names_may_be_any_hashable():
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


def test_names_of_pandas_columns_may_be_integers():
    model = learned(pd.DataFrame({0: [1.0, 3.0], 1: [5.0, 5.0]}), {0: 2.0})
    assert model.transform_one({0: 2.0, 1: 9.0, "0": 9.0}) == {0: 0.0, 1: 0.0, "0": 0.0}
    out = model.transform_many(pd.DataFrame({1: [5.0], 0: [2.0]}))
    assert out.columns.tolist() == [1, 0]
    assert out[0].tolist() == [0.0]


def test_clone_and_reset_forget_statistics_and_keep_parameters():
    policy = sbn.EMA(alpha=0.3)
    model = learned({"a": 1.0}, {"a": 3.0}, policy=policy, eps=1.0, unseen="raise")
    model.freeze()
    clone = model.clone()
    assert (clone.policy, clone.eps, clone.unseen, clone.frozen) == (policy, 1.0, "raise", False)
    with pytest.raises(NotFittedError):
        clone.transform_one({"a": 1.0})
    unlearned = pickle.dumps(clone)
    clone.learn_one({"a": 100.0})
    assert stats_of(model, "a")["count"] == 2
    model.reset()
    assert not model.frozen
    assert pickle.dumps(model) == unlearned
    with pytest.raises(NotFittedError):
        model.transform_one({"a": 1.0})
    model.learn_one({"a": 100.0})
    assert stats_of(model, "a")["count"] == 1


def test_equal_statistics_have_equal_pickles():
    # The names are equal but different objects, as in two processes.
    lines = [{"alpha": 1.0, "beta": 2}, {"alpha": 5.0, "beta": None}, {"gamma": 3.5}]
    one, other = (learned(*(json.loads(json.dumps(line)) for line in lines)) for _ in range(2))
    assert pickle.dumps(one) == pickle.dumps(other)
    other.learn_one({"alpha": 1.0})
    assert pickle.dumps(one) != pickle.dumps(other)


def run_in_threads(*calls):
    """Run each call in a thread of its own, and raise the first error."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result(60)


def test_transforming_threads_see_whole_states():
    rows, done = 3000, threading.Event()
    model = learned({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 3.0})
    frame = pa.table({"a": [0.5], "b": [2.0]})

    def learn():
        try:
            for i in range(rows):
                model.learn_one({"a": float(i % 2), "b": 1.0 + 2 * (i % 2), f"x{i % 50}": i})
        finally:
            done.set()

    def transform():
        while not done.is_set():
            out = model.transform_one({"a": 0.5, "b": 2.0, "x7": 1.0})
            many = model.transform_many(frame)
            # Between the two rows of a pair the mean is off by at most 1/6.
            assert all(abs(v) < 0.5 for v in (out["a"], out["b"], *column(many, "b")))

    run_in_threads(learn, transform, transform)
    assert (stats_of(model, "a")["count"], stats_of(model, "a")["mean"]) == (rows + 2, 0.5)


def test_two_learning_threads_never_leave_half_a_row():
    model = RiverNormalizer()

    def learn(offset):
        for i in range(1000):
            model.learn_one({"a": float(offset + i), f"b{i % 20}": 1.0})
            if i % 100 == 0:
                model.learn_many(pa.table({"a": [float(offset), float(offset + 1)]}))

    run_in_threads(lambda: learn(0), lambda: learn(1000))
    # One writer is supported. Two may lose rows, but never learn half of one.
    row = stats_of(model, "a")
    assert 1000 <= row["count"] <= 2040
    assert 0.0 <= row["min"] < row["mean"] < row["max"] <= 1999.0


@pytest.mark.parametrize("frozen", [False, True])
def test_save_and_load_keep_statistics_parameters_and_frozenness(tmp_path, frozen):
    path = tmp_path / "scaler.json"
    policy, affine = sbn.EMA(halflife=5), {"a": (2.0, 1.0)}
    model = learned({"a": 1.0}, {"a": 4.0, "b": 5}, policy=policy, eps=0.5, clip=3.0, affine=affine)
    if frozen:
        model.freeze()
    model.save(path)
    loaded = RiverNormalizer.load(path, unseen="passthrough")
    assert loaded.frozen is frozen
    assert loaded.unseen == "passthrough"
    assert (loaded.policy, loaded.eps, loaded.clip, loaded.affine) == (policy, 0.5, 3.0, affine)
    assert loaded.stats().equals(model.stats())
    assert loaded.transform_one({"a": 2.0}) == model.transform_one({"a": 2.0})
    assert isinstance(sbn.load(path), sbn.FrozenNormalizer if frozen else sbn.Normalizer)
    for one in (model, loaded):
        one.unfreeze()
        one.learn_one({"a": 9.0})
    assert loaded.stats().equals(model.stats())


def test_unlearned_normalizer_can_be_saved_unless_frozen(tmp_path):
    path = tmp_path / "scaler.json"
    model = RiverNormalizer(eps=2.0)
    model.save(path)
    loaded = RiverNormalizer.load(path)
    assert loaded.eps == 2.0
    assert loaded.transform_one({"a": 7.0}) == {"a": 0.0}
    model.freeze()
    with pytest.raises(NotFittedError):
        model.save(path)


def test_save_refuses_names_that_are_not_strings(tmp_path):
    model = learned({"a": 1.0, 7: 2.0})
    with pytest.raises(InvalidValueError, match=r"feature 7 cannot be saved: .* names are strings"):
        model.save(tmp_path / "scaler.json")
    assert list(tmp_path.iterdir()) == []


def test_import_without_river_names_the_extra():
    code = "import sys; sys.modules['river'] = None; import streambn.adapters.river"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ImportError" in ran.stderr
    assert "pip install 'streambn[river]'" in ran.stderr
