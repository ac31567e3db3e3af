"""Accuracy: exact values, large offsets, the ends of float64, and peers."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import INF, NAN, NUMBER, batches, column, exact, fit, policies, record, row_of, xs
from sklearn.preprocessing import StandardScaler

import streambn as sbn


@given(data=batches(NUMBER))
def test_welford_agrees_with_rational_arithmetic(data: list[pa.RecordBatch]) -> None:
    values = [v for batch in data for v in batch["y"].to_pylist()]
    if not values:
        return
    row = row_of(fit(*data), "y")
    mean, var = exact(values)
    assert row["count"] == len(values)
    assert abs(Fraction(row["mean"]) - mean) <= 3e-16 * (abs(mean) + math.sqrt(var))
    assert row["var"] == pytest.approx(float(var), rel=1e-14, abs=0)
    assert row["std"] == pytest.approx(math.sqrt(var), rel=1e-14, abs=0)


@pytest.mark.parametrize("ratio", [1e8, 1e12, 1e15])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_large_offset_loses_no_digits(ratio: float, rows: int) -> None:
    values = ratio + np.random.default_rng(2).normal(0, 1, 3000)
    norm = sbn.Normalizer()
    for start in range(0, 3000, rows):
        norm.update(record(x=values[start : start + rows]))
    mean, var = exact(values.tolist())
    assert row_of(norm)["mean"] == float(mean)
    assert row_of(norm)["var"] == pytest.approx(float(var), rel=1e-14, abs=0)
    one_pass = float(np.mean(values**2) - np.mean(values) ** 2)  # the rejected formula
    assert abs(one_pass - float(var)) > 0.1 * float(var) or ratio == 1e8
    assert abs(one_pass - float(var)) > 1e-3 * float(var)


def test_integers_and_decimals_keep_their_low_digits() -> None:
    beyond = [2**53 + 1, 2**53 + 3, 2**53 + 5]
    assert np.var(np.array(beyond, float)) != pytest.approx(8 / 3)  # as float64 they lose them
    for array in (
        *(pa.array(beyond, kind) for kind in (pa.int64(), pa.uint64(), pa.decimal128(20, 0))),
        pa.array([2**64 - 5, 2**64 - 3, 2**64 - 1], pa.uint64()),
        pa.array([Decimal(10**20 + k) for k in (1, 3, 5)], pa.decimal128(25, 0)),
    ):
        norm = sbn.Normalizer()
        for i in range(3):
            norm.update(record(x=array.slice(i, 1)))
        for learned in (norm, fit(record(x=array))):
            assert row_of(learned)["var"] == pytest.approx(8 / 3, rel=1e-15)
            z = column(learned.transform(record(x=array)))
            assert z == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-15)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1.7e308 / 3, 1e-300])
def test_squares_neither_overflow_nor_underflow(scale: float) -> None:
    values = [1.0 * scale, 2.0 * scale, 3.0 * scale]
    one, batchwise = fit(xs(*values)), fit(*[xs(v) for v in values])
    for norm in (one, batchwise):
        row = row_of(norm)
        assert row["mean"] == pytest.approx(2.0 * scale, rel=1e-15)
        assert row["std"] == pytest.approx(math.sqrt(2 / 3) * scale, rel=1e-15)
        z = column(norm.transform(xs(*values)))
        assert z == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-15)
    with np.errstate(all="ignore"):
        assert np.std(values) in (0.0, INF)  # NumPy's formula


@policies
@pytest.mark.parametrize("power", [-1000, -500, 500, 1010, 1020])
@settings.get_profile("few")
@given(
    parts=st.lists(
        st.lists(st.none() | st.floats(-8, 8, width=16).map(lambda v: v + 0.5), max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_scaling_the_data_scales_the_statistics(
    policy: Any, power: int, parts: list[list[float | None]]
) -> None:
    unit = 2.0**power
    norm, scaled = sbn.Normalizer(policy), sbn.Normalizer(policy)
    for part in parts:
        norm.update(xs(*part))
        scaled.update(xs(*(None if v is None else v * unit for v in part)))
    if not norm.features:
        return
    row, other = row_of(norm), row_of(scaled)
    has_prior = isinstance(policy, sbn.BatchEMA) and None not in (policy.initial, policy.momentum)
    for name in ("mean", "min", "max") if has_prior else ("mean", "std", "min", "max"):
        assert (other[name] is None) == (row[name] is None)
        if row[name] is not None:
            assert other[name] / unit == pytest.approx(row[name], rel=1e-14, abs=1e-14)


def test_largest_numbers_have_a_mean() -> None:
    top = sys.float_info.max
    assert row_of(fit(xs(top, top)))["mean"] == top
    assert row_of(fit(xs(top), xs(top), xs(top)))["mean"] == top
    row = row_of(fit(xs(top, -top)))
    assert (row["mean"], row["std"]) == (0.0, top)
    assert row["var"] == INF  # beyond float64, unlike its root
    assert column(fit(xs(top, -top)).transform(xs(top, -top))) == [1.0, -1.0]


def test_large_counts_do_not_overflow() -> None:
    norm = fit(xs(1.0, 3.0))
    for _ in range(33):
        norm = norm.merge(norm)
    row = row_of(norm)
    assert (row["count"], row["mean"], row["var"]) == (2**34, 2.0, 1.0)


@settings.get_profile("few")
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), cuts=st.integers(1, 5))
def test_statistics_agree_with_scikit_learn(seed: int, n: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal([0, 100, 5], [1, 20, 0], (n, 3))
    X[rng.random((n, 3)) < 0.1] = NAN
    names = ["a", "b", "c"]
    peer, norm = StandardScaler(), sbn.Normalizer()
    for part in np.array_split(X, cuts):
        part[:1] = [0.0, 100.0, 5.0]  # scikit-learn warns of an empty column
        if len(part):
            peer.partial_fit(part)
            norm.update(record(**dict(zip(names, map(pa.array, part.T), strict=True))))
    stats = norm.stats()
    assert stats["count"].to_pylist() == np.broadcast_to(peer.n_samples_seen_, 3).tolist()
    assert stats["mean"].to_pylist() == pytest.approx(peer.mean_.tolist(), rel=1e-12, abs=1e-12)
    assert stats["var"].to_pylist() == pytest.approx(peer.var_.tolist(), rel=1e-10, abs=1e-12)
    out = norm.transform(record(**dict(zip(names, map(pa.array, X.T), strict=True))))
    got = np.column_stack([out[name].to_numpy() for name in names])
    assert got == pytest.approx(peer.transform(X), rel=1e-9, abs=1e-9, nan_ok=True)


@settings.get_profile("few")
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 300), ddof=st.sampled_from([0, 1]))
def test_statistics_agree_with_numpy(seed: int, n: int, ddof: int) -> None:
    x = np.random.default_rng(seed).normal(3, 7, n)
    row = row_of(fit(record(x=x), ddof=ddof))
    assert row["mean"] == pytest.approx(x.mean(), rel=1e-13, abs=1e-13)
    assert row["var"] == pytest.approx(x.var(ddof=ddof), rel=1e-13)
    assert (row["min"], row["max"]) == (x.min(), x.max())
