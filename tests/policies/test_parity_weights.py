"""Sample weights agree with NumPy, scikit-learn and exact arithmetic, under any cut and merge."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from parity import (
    EPSILON,
    SEEDS,
    WIDTH,
    assert_close,
    both_ways,
    exact_ewm,
    few_examples,
    fitted,
    gappy_series,
    maker,
    matrix,
    row_of,
    stamps,
    time_weights,
    vectors,
)
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn.testing import cuts


@st.composite
def weights_for(draw, n, zeros=False):
    """Draw weights of n rows: small, large and whole ones, and zeros."""
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(["about 1", "whole", "wide"]))
    if kind == "whole":
        w = rng.integers(1, 9, n).astype(float)
    elif kind == "wide":
        w = 10.0 ** rng.uniform(-6, 6, n)
    else:
        w = rng.uniform(0.1, 2, n)
    if zeros:
        w[rng.random(n) < draw(st.sampled_from([0.2, 0.9]))] = 0
    return w


@few_examples
def test_weights_agree_with_numpy_and_scikit_learn(data):
    n = data.draw(st.integers(2, 80))
    x = np.random.default_rng(data.draw(SEEDS)).normal(3, 2, (n, WIDTH))
    w = data.draw(weights_for(n))
    batch = vectors(x).append_column("w", pa.array(w))
    for ddof in (0, 1):
        make = maker(sbn.Welford(), ddof=ddof, weights="w")
        for norm in both_ways(data, make, batch):
            stats = norm.stats()
            mean = np.average(x, axis=0, weights=w)
            var = np.diag(np.cov(x.T, aweights=w, ddof=ddof))
            effective = w.sum() ** 2 / (w * w).sum()
            # NumPy divides by W − Σw²/W, which cancels if one weight dominates.
            rtol = 1e-13 + (8 * EPSILON * effective / (effective - 1) if ddof else 0)
            assert_allclose(stats["mean"].to_numpy(), mean, rtol=1e-13)
            assert_allclose(stats["var"].to_numpy(), var, rtol=rtol)
            assert_allclose(stats["weight"].to_numpy(), w.sum(), rtol=1e-14)
            assert_allclose(stats["effective_count"].to_numpy(), effective, rtol=1e-14)
            assert stats["count"].to_pylist() == [n] * WIDTH
    scaler = StandardScaler()
    pieces = [piece for piece in data.draw(cuts([batch])) if piece.num_rows]
    for piece in pieces:
        scaler.partial_fit(matrix(piece), sample_weight=piece["w"].to_numpy())
    stats = fitted(maker(sbn.Welford(), weights="w"), pieces).stats()
    assert_allclose(stats["mean"].to_numpy(), scaler.mean_, rtol=1e-12)
    assert_allclose(stats["var"].to_numpy(), scaler.var_, rtol=1e-12)
    assert_allclose(stats["weight"].to_numpy(), scaler.n_samples_seen_, rtol=1e-13)


WEIGHING = {
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(alpha=0.25),
    "EMAIgnoreNA": sbn.EMA(com=3, ignore_na=True),
    "EMAByTime": sbn.EMA(halflife="3h", time="t"),
    "EMAByNumbers": sbn.EMA(halflife=3.0, time="n"),
}
for_policies_with_weights = pytest.mark.parametrize("policy", WEIGHING.values(), ids=WEIGHING)


@st.composite
def weighted_batch(draw, max_rows, zeros=False):
    """Draw a batch of values, weights and two kinds of event times in any order."""
    x = draw(gappy_series(max_rows=max_rows, offset=draw(st.sampled_from([0.0, 1e9]))))
    hours = np.random.default_rng(draw(SEEDS)).integers(0, 60, len(x))
    return pa.record_batch(
        {
            "x": pa.array(x, from_pandas=draw(st.booleans())),
            "w": draw(weights_for(len(x), zeros)),
            "t": stamps(1_770_000_000 + 3600 * hours, pa.timestamp("ms")),
            "n": pa.array(hours - 30),
        }
    )


def exact_factors(policy, batch):
    """Return the weights of the values by position or age, without sample weights."""
    x = batch["x"].to_numpy(zero_copy_only=False)
    there, n = ~np.isnan(x), len(x)
    if isinstance(policy, sbn.Welford):
        return [Fraction(1)] * int(there.sum())
    if policy.time is not None:
        hours = batch["n"].to_numpy()
        return time_weights((hours.max() - hours)[there].tolist(), 3)
    at = np.flatnonzero(there).tolist()
    if policy.ignore_na:
        at, n = list(range(len(at))), len(at)
    return [Fraction(3, 4) ** (n - 1 - i) for i in at]


@for_policies_with_weights
@few_examples
def test_weights_agree_with_exact_arithmetic(data, policy):
    batch = data.draw(weighted_batch(max_rows=40))
    x = batch["x"].to_numpy(zero_copy_only=False)
    there = ~np.isnan(x)
    factors = exact_factors(policy, batch)
    weights = [f * Fraction(w) for f, w in zip(factors, batch["w"].to_numpy()[there], strict=True)]
    expected = exact_ewm(x, weights)
    for ddof in (0, 1):
        make = maker(policy, columns=["x"], ddof=ddof, weights="w")
        for norm in both_ways(data, make, batch):
            got = row_of(norm)
            assert_close(got["mean"], expected[0], 8 * EPSILON, unit=1)
            assert_close(got["var"], expected[1 + ddof], 1e-13)
            if weights:
                assert_close(got["weight"], sum(weights), 1e-13)
                assert_close(got["effective_count"], expected[3], 1e-13)


@for_policies_with_weights
@few_examples
def test_row_of_zero_weight_is_skipped(data, policy):
    batch = data.draw(weighted_batch(max_rows=60, zeros=True))
    # Such a row may hold values that would be rejected otherwise.
    w = batch["w"].to_numpy()
    x = np.where(w == 0, data.draw(st.sampled_from([np.inf, np.nan, 1e300])), batch["x"])
    batch = batch.set_column(0, "x", pa.array(x.astype(float), from_pandas=False))
    make = maker(policy, columns=["x"], ddof=1, weights="w", nan="ignore")
    pieces = data.draw(cuts([batch]))
    dropped = [piece.filter(pa.array(piece["w"].to_numpy() > 0)) for piece in pieces]
    with_them, without = fitted(make, pieces), fitted(make, dropped)
    assert with_them.features == without.features
    if not with_them.features:
        return
    assert with_them.stats().equals(without.stats())
    assert with_them.freeze().fingerprint == without.freeze().fingerprint
    before = with_them.freeze().fingerprint
    nothing = batch.set_column(1, "w", pa.array(np.zeros(batch.num_rows)))
    assert with_them.update(nothing).freeze().fingerprint == before


@for_policies_with_weights
@pytest.mark.parametrize(
    "kind",
    [
        *(pa.int8(), pa.uint8(), pa.int32(), pa.uint64(), pa.float32()),
        *(pa.decimal128(9, 3), pa.decimal256(40, 3), pa.dictionary(pa.int8(), pa.float64())),
    ],
    ids=str,
)
def test_weights_can_have_any_numeric_type(policy, kind):
    rng = np.random.default_rng(0)
    batch = pa.record_batch(
        {
            "x": rng.normal(size=30),
            "w": rng.integers(0, 100, 30).astype(float),
            "t": stamps(3600 * np.arange(30), pa.timestamp("s")),
            "n": pa.array(np.arange(30)),
        }
    )
    expected = sbn.Normalizer(policy, ["x"], weights="w").update(batch)
    other = batch.column(1)
    other = other.dictionary_encode() if pa.types.is_dictionary(kind) else other.cast(kind)
    norm = sbn.Normalizer(policy, ["x"], weights="w").update(batch.set_column(1, "w", other))
    assert norm.stats().equals(expected.stats())


@for_policies_with_weights
@pytest.mark.parametrize("power", [-60, -1, 1, 60])
@few_examples
def test_common_factor_of_weights_does_not_matter(data, policy, power):
    batch = data.draw(weighted_batch(max_rows=60, zeros=True))
    scaled = pa.array(np.ldexp(batch["w"].to_numpy(), power))
    make = maker(policy, columns=["x"], ddof=1, weights="w")
    edges = data.draw(st.lists(st.integers(0, batch.num_rows), max_size=5).map(sorted))
    bounds = list(zip([0, *edges], [*edges, batch.num_rows], strict=True))
    one, other = (
        fitted(make, [some.slice(a, b - a) for a, b in bounds])
        for some in (batch, batch.set_column(1, "w", scaled))
    )
    if not one.features:
        return
    a, b = one.stats(), other.stats()
    assert a.drop_columns(["weight"]).equals(b.drop_columns(["weight"]))
    for light, heavy in zip(a["weight"].to_pylist(), b["weight"].to_pylist(), strict=True):
        assert heavy == (None if light is None else math.ldexp(light, power))


def test_weight_column_is_normalized_only_if_named():
    table = pa.table({"x": [1.0, 3.0], "w": [3.0, 1.0]})
    assert sbn.Normalizer(weights="w").update(table).features == ("x",)
    both = sbn.Normalizer(columns=["x", "w"], weights="w").update(table)
    assert both.features == ("x", "w")
    assert both.stats()["mean"].to_pylist() == [1.5, 2.5]
