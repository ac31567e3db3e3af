"""Rows, frames, streambn.Normalizer and exact arithmetic agree on one stream."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river_rows import column, learned

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import NotFittedError
from streambn.testing import exact_moments

# The mean of each feature's values.
OFFSETS = {"a": 0.0, "b": 1e9, "c": 1e15, "d": -1e3}
POLICIES = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(alpha=0.3),
    "EMARecursive": sbn.EMA(halflife=5, adjust=False),
    "EMAIgnoreNA": sbn.EMA(span=4, ignore_na=True),
    "EMARecursiveIgnoreNA": sbn.EMA(com=3, adjust=False, ignore_na=True),
    "Exact": sbn.Exact(),
}
for_every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@st.composite
def streams(draw, max_rows=24):
    """Draw rows whose features appear and vanish, and are sometimes null or NaN."""
    names = draw(st.lists(st.sampled_from(list(OFFSETS)), min_size=1, unique=True))
    absent = draw(st.sampled_from([0.0, 0.2, 0.8]))
    null, nan = draw(st.sampled_from([(0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.2, 0.2)]))
    kinds = {name: draw(st.sampled_from(["float", "int", "both", "constant"])) for name in names}
    # Each feature is present in one part of the stream.
    rows = draw(st.integers(1, max_rows))
    spans = {name: sorted(draw(st.tuples(*[st.integers(0, rows)] * 2))) for name in names}
    # Drawing a seed is much faster than drawing the values.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 1e3]))

    def value(name):
        chance = rng.random()
        if chance < null:
            return None
        if chance < null + nan:
            return math.nan
        kind = kinds[name]
        if kind == "constant":
            return OFFSETS[name] + 0.5
        x = OFFSETS[name] + scale * rng.normal()
        return round(x) if kind == "int" or (kind == "both" and rng.random() < 0.5) else x

    def row(i):
        there = [n for n in names if spans[n][0] <= i < spans[n][1] and rng.random() >= absent]
        return {name: value(name) for name in rng.permutation(there).tolist()}

    return [row(i) for i in range(rows)]


KINDS = ["rows", "pandas", "Polars", "table", "record batch"]


@st.composite
def cut(draw, rows):
    """Draw a cut of the stream into pieces, some empty, and the kind of each piece."""
    edges = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    pieces = [rows[a:b] for a, b in itertools.pairwise([0, *edges, len(rows)])]
    return [(draw(st.sampled_from(KINDS)), piece) for piece in pieces]


def columns_of(rows):
    """Return the values of each feature; None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def floats(values):
    return [None if v is None else float(v) for v in values]


def series(values):
    """Return a pandas column; NumPy floats cannot tell null from NaN, so nulls need a dtype."""
    if None not in values:
        whole = all(isinstance(v, int) for v in values)
        return np.array(values, np.int64 if whole and values else np.float64)
    if any(v is not None and math.isnan(v) for v in values):
        array = pa.array(floats(values), pa.float64(), from_pandas=False)
        return pd.arrays.ArrowExtensionArray(array)
    return pd.array(floats(values), "Float64")


def as_table(rows):
    columns = columns_of(rows).items()
    return pa.table({name: pa.array(floats(values), pa.float64()) for name, values in columns})


def frame_of(kind, rows):
    columns = columns_of(rows)
    if kind == "pandas":
        return pd.DataFrame({n: series(v) for n, v in columns.items()}, index=range(len(rows)))
    table = as_table(rows)
    if kind == "Polars":
        return pl.from_arrow(table)
    return table if kind == "table" else table.combine_chunks().to_batches()[0]


def learn(model, kind, rows):
    # Most frames without columns have no rows.
    if kind == "rows" or (rows and not columns_of(rows)):
        for row in rows:
            model.learn_one(row)
    elif rows or kind != "record batch":
        model.learn_many(frame_of(kind, rows))


def mixture(data, rows, policy=None):
    """Return a normalizer that learned the rows by a random cut into rows and frames."""
    model = RiverNormalizer(policy)
    for kind, piece in data.draw(cut(rows)):
        learn(model, kind, piece)
    return model


def statistics(model):
    """Return the statistics of the features that had values other than null."""
    try:
        rows = model.stats().to_pylist()
    except NotFittedError:
        return {}
    return {r["column"]: r for r in rows if r["count"] + r["nans"] + r["infs"]}


def assert_alike(one, other, rtol=1e-12):
    one, other = statistics(one), statistics(other)
    assert one.keys() == other.keys()
    for name in one:
        a, b = one[name], other[name]
        for exact in ("count", "nulls", "nans", "infs", "min", "max"):
            assert a[exact] == b[exact], (name, exact)
        if a["mean"] is None or b["mean"] is None:
            assert a["mean"] is b["mean"] is a["var"] is b["var"] is None
            continue
        # At a large offset the last digit of a float mean exceeds rtol·σ.
        unit = b["std"] + 1e-3 * (b["max"] - b["min"])
        assert abs(a["mean"] - b["mean"]) <= rtol * unit + 2 * math.ulp(b["mean"]), name
        for spread in ("var", "std"):
            assert a[spread] == pytest.approx(b[spread], rel=rtol, abs=0), (name, spread)


def assert_same_values(got, expected):
    for a, b in zip(got, expected, strict=True):
        if b is None:
            assert a is None or a is pd.NA
        else:
            assert a == pytest.approx(b, rel=1e-12, abs=1e-12, nan_ok=True)


@for_every_policy
@given(data=st.data())
def test_any_mixture_of_rows_and_frames_learns_the_same(data, policy):
    rows = data.draw(streams())
    assert_alike(mixture(data, rows, policy), learned(*rows, policy=policy))


@for_every_policy
@settings.get_profile("few")
@given(rows=streams())
def test_normalizer_learns_the_same_from_a_table(rows, policy):
    table = as_table(rows)
    for ddof in (0, 1):
        model = learned(*rows, policy=policy, ddof=ddof)
        core = sbn.Normalizer(policy, ddof=ddof)
        if table.num_columns:
            core.update(table)
        found, expected = statistics(model), statistics(core)
        for row in (*found.values(), *expected.values()):
            row["var"], row["std"] = (0.0 if row[n] is None else row[n] for n in ("var", "std"))
        assert found.keys() == expected.keys()
        if ddof == 0:
            assert_alike(model, core)
        for name in found:
            assert found[name]["var"] == pytest.approx(expected[name]["var"], rel=1e-12, abs=0)


@for_every_policy
@settings.get_profile("few")
@given(rows=streams(), unseen=streams(max_rows=4))
def test_frames_are_transformed_like_their_rows(rows, unseen, policy):
    model = learned(*rows, policy=policy)
    known = statistics(model)
    for asked in (rows, unseen):
        expected = columns_of([model.transform_one(row) for row in asked])
        for kind in KINDS[1:]:
            frame = frame_of(kind, asked) if expected else None
            out = None if frame is None else model.transform_many(frame)
            for name in expected:
                assert_same_values(column(out, name), expected[name])
    for row in rows:
        for name, z in model.transform_one(row).items():
            x, of = row[name], known.get(name)
            if x is None or math.isnan(x):
                continue
            if of is None or of["count"] == 0 or of["std"] == 0:
                assert z == 0.0
                continue
            exact = (Fraction(x) - Fraction(of["mean"])) / Fraction(of["std"])
            # Below this bound the variance is rounding error, and the feature is constant.
            bound = 4 * of["count"] * abs(of["mean"]) * sys.float_info.epsilon
            if z != 0.0 or of["std"] > bound:
                slack = 1e-12 + math.ulp(of["mean"]) / of["std"]
                assert z == pytest.approx(float(exact), rel=1e-12, abs=slack)


@given(data=st.data())
def test_welford_agrees_with_exact_arithmetic(data):
    rows = data.draw(streams())
    for model in (mixture(data, rows), learned(*rows)):
        found = statistics(model)
        for name, values in columns_of(rows).items():
            there = [v for v in values if v is not None]
            finite = [Fraction(v) for v in there if not math.isnan(v)]
            if not there:
                assert name not in found
                continue
            of = found[name]
            books = (of["count"], of["nans"], of["nulls"], of["infs"])
            assert books == (len(finite), len(there) - len(finite), len(rows) - len(there), 0)
            if not finite:
                assert of["mean"] is None
                continue
            mean, square = exact_moments(finite)
            var = float(square / len(finite))
            assert of["var"] == pytest.approx(var, rel=1e-12, abs=0)
            slack = 1e-12 * math.sqrt(var) + math.ulp(of["mean"])
            assert abs(Fraction(of["mean"]) - mean) <= slack


@settings.get_profile("few")
@given(data=st.data())
def test_each_frame_and_each_row_is_a_block_of_batch_ema(data):
    policy = data.draw(
        st.sampled_from([sbn.BatchEMA(momentum=0.1), sbn.BatchEMA(decay=0.7, ddof=0, initial=None)])
    )
    rows = [row | dict.fromkeys("ab", 1.5) | row for row in data.draw(streams())]
    names = columns_of(rows)
    model, core = RiverNormalizer(policy), sbn.Normalizer(policy)
    for kind, piece in data.draw(cut(rows)):
        learn(model, kind, piece)
        for block in [[row] for row in piece] if kind == "rows" else [piece]:
            filled = [{name: row.get(name) for name in names} for row in block]
            core.update(as_table(filled))
    found, expected = statistics(model), statistics(core)
    assert found.keys() == expected.keys()
    for name, of in found.items():
        for field in ("count", "nulls", "nans"):
            assert of[field] == expected[name][field]
        for field in ("mean", "var"):
            value = expected[name][field]
            assert of[field] == (None if value is None else pytest.approx(value, rel=1e-12))


@functools.cache
def long_stream():
    rng = np.random.default_rng(5)
    return [
        {name: offset + rng.normal() for name, offset in OFFSETS.items() if rng.random() < 0.9}
        for _ in range(3000)
    ]


@for_every_policy
def test_long_stream_of_rows_equals_a_table(policy):
    rows = long_stream()
    core = sbn.Normalizer(policy).update(as_table(rows))
    model = learned(*rows, policy=policy)
    assert_alike(model, core)
    # Around 1e15 the variance of c is close to rounding error.
    z, table = model.transform_one(rows[-1]), core.transform(as_table(rows[-1:]))
    for name in rows[-1].keys() - {"c"}:
        assert z[name] == pytest.approx(table[name][0].as_py(), rel=1e-12)
