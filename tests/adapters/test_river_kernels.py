"""The compiled row kernels and the reference give the same results behind RiverNormalizer."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn

OFFSETS = {"a": 0.0, "b": 1e9, "c": 1e15, "d": -1e3}

PROGRAM = """
import json, math, sys
import streambn as sbn
from streambn import kernels
from streambn.adapters.river import RiverNormalizer

policies = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(halflife=20),
    "EMARecursive": sbn.EMA(alpha=0.1, adjust=False),
    "EMAIgnoreNA": sbn.EMA(span=9, ignore_na=True),
    "BatchEMA": sbn.BatchEMA(momentum=0.1),
    "Exact": sbn.Exact(),
}
rows = json.load(sys.stdin)
found = {"kernels": kernels.active}
for name, policy in policies.items():
    model = RiverNormalizer(policy, nan="ignore", inf="ignore", eps=1e-9)
    out = []
    for row in rows:
        model.learn_one(row)
        out.append(model.transform_one(row))
    stats = {row.pop("column"): row for row in model.stats().to_pylist()}
    found[name] = {"stats": stats, "out": out}
print(json.dumps(found))
"""


def stream():
    rng = np.random.default_rng(11)
    rows = []
    for i in range(400):
        row = {n: offset + rng.normal() for n, offset in OFFSETS.items() if rng.random() < 0.8}
        row["count"] = int(rng.integers(0, 100)) + 2**53
        if i > 100:
            row["late"] = 1e-3 * rng.normal()
        if i % 7 == 0:
            row["a"] = None
        if i % 11 == 0:
            row["b"] = math.nan
        if i % 13 == 0:
            row["d"] = math.inf
        rows.append(row)
    return rows


@functools.cache
def results_of(kernels):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(stream()),
        env={**os.environ, "STREAMBN_KERNELS": kernels},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found.pop("kernels") == kernels
    return found


@pytest.mark.parametrize(
    "name", ["Welford", "EMA", "EMARecursive", "EMAIgnoreNA", "BatchEMA", "Exact"]
)
def test_both_kernels_learn_and_transform_rows_alike(name):
    pytest.importorskip(
        "streambn.kernels.native",
        reason="the compiled kernels are missing: install streambn where there is a C++ compiler",
        exc_type=ImportError,
    )
    native, reference = (results_of(kernels)[name] for kernels in ("native", "reference"))
    assert list(native["stats"]) == list(reference["stats"])
    for feature, row in reference["stats"].items():
        assert native["stats"][feature] == pytest.approx(row, rel=1e-14, abs=0), feature
    for a, b in zip(native["out"], reference["out"], strict=True):
        assert a.keys() == b.keys()
        for feature, x in a.items():
            if x is None or b[feature] is None:
                assert x is b[feature]
            else:
                assert x == pytest.approx(b[feature], rel=1e-12, abs=1e-12, nan_ok=True), feature


def test_reference_learns_rows_as_it_learns_a_table():
    rows = stream()
    columns = {name: [row.get(name) for row in rows] for name in [*OFFSETS, "late"]}
    table = pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})
    core = sbn.Normalizer(inf="ignore", eps=1e-9).update(table)
    found = results_of("reference")["Welford"]["stats"]
    expected = {row.pop("column"): row for row in core.stats().to_pylist()}
    assert found.keys() == {*expected, "count"}
    for feature, row in found.items():
        if feature == "count":
            assert row["min"] >= 2**53
            continue
        assert row == pytest.approx(expected[feature], rel=1e-12, abs=0)
