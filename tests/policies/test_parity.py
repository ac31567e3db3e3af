"""EMA agrees with pandas, Polars and exact arithmetic, under any cut and merge.

Where a peer's own rounding is larger than ours, the bound is what its formula loses, and exact
arithmetic is the judge.
"""

from __future__ import annotations

import datetime
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from parity import (
    EPSILON,
    SEEDS,
    UNITS,
    assert_close,
    batch_of,
    both_ways,
    exact_ewm,
    few_examples,
    fitted,
    gappy_series,
    maker,
    merged,
    row_of,
    stamps,
    time_weights,
)

import streambn as sbn
from streambn.testing import cuts

RATES = ["com", "span", "halflife", "alpha"]
RATE_VALUES = {
    "com": st.floats(0.1, 60) | st.sampled_from([0, 1e4]),
    "span": st.floats(1.2, 120) | st.sampled_from([1, 1e4]),
    "halflife": st.floats(0.3, 60) | st.just(1e4),
    "alpha": st.floats(0.01, 0.95) | st.sampled_from([1.0, 1e-4]),
}


def exact_alpha(name, value):
    """Return α by the definitions of pandas, to forty digits if it is irrational."""
    if name == "halflife":
        with localcontext(prec=40):
            return 1 - Fraction(Decimal(2) ** (-1 / Decimal(value)))
    value = Fraction(value)
    return {"alpha": value, "com": 1 / (1 + value), "span": 2 / (value + 1)}[name]


def ewm_weights(x, alpha, adjust, ignore_na):
    """Return the exact weights of the values that are not missing, as pandas defines them."""
    decay = 1 - alpha
    at = np.flatnonzero(~np.isnan(x)).tolist()
    if ignore_na:
        at = list(range(len(at)))
    if adjust:
        # As of the last value, because a gap after it fades all weights alike.
        return [decay ** (at[-1] - i) for i in at]
    weights, total = [Fraction(1)], Fraction(1)
    for gap in np.diff(at).tolist():
        old = decay**gap
        weights = [w * old for w in weights] + [alpha * total]
        total *= old + alpha
    return weights


def assert_variance_of_peer(got, ddof, var, rtol, rate):
    if ddof == 0:
        # A small variance of values near 1 is as accurate as their differences.
        assert_close(got["var"], var, rtol, unit=0.1)
    elif got["var"] is not None:
        # The peer divides by W² − Σw², which cancels if the newest weight dominates.
        lost = got["effective_count"] / (got["effective_count"] - 1 or EPSILON)
        if lost < 1e12:
            assert_close(got["var"], var, rtol + 16 * EPSILON * lost, unit=0.1)
    else:
        assert got["count"] < 2 or rate in (0, 1)


@pytest.mark.parametrize("ignore_na", [False, True], ids=["absolute", "ignore_na"])
@pytest.mark.parametrize("adjust", [True, False], ids=["adjust", "recursive"])
@pytest.mark.parametrize("rate", RATES)
@few_examples
def test_ema_agrees_with_pandas_under_any_cut(data, rate, adjust, ignore_na):
    x = data.draw(gappy_series())
    how = {rate: data.draw(RATE_VALUES[rate]), "adjust": adjust, "ignore_na": ignore_na}
    # A test below shows what pandas does with this α after a gap.
    assume(adjust or ignore_na or exact_alpha(rate, how[rate]) != Fraction(1, 2))
    peer = pd.Series(x).ewm(**how)
    # pandas computes α from 1/α − 1, which costs a small α its last digits.
    rtol = 5e-14 + 4 * EPSILON / float(exact_alpha(rate, how[rate]))
    batch = batch_of(x, as_null=data.draw(st.booleans()))
    for ddof in (0, 1):
        var = peer.var(bias=ddof == 0).iloc[-1]
        for norm in both_ways(data, maker(sbn.EMA(**how), ddof=ddof), batch):
            got = row_of(norm)
            assert got["count"] == np.count_nonzero(~np.isnan(x))
            assert_close(got["mean"], peer.mean().iloc[-1], rtol, unit=1)
            assert_variance_of_peer(got, ddof, var, rtol, how[rate])


@pytest.mark.parametrize("offset", [0.0, 1e9])
@pytest.mark.parametrize("ignore_na", [False, True], ids=["absolute", "ignore_na"])
@pytest.mark.parametrize("adjust", [True, False], ids=["adjust", "recursive"])
@pytest.mark.parametrize("rate", RATES)
@few_examples
def test_ema_agrees_with_exact_arithmetic(data, rate, adjust, ignore_na, offset):
    x = data.draw(gappy_series(max_rows=36, offset=offset))
    how = {rate: data.draw(RATE_VALUES[rate]), "adjust": adjust, "ignore_na": ignore_na}
    batch = batch_of(x, as_null=data.draw(st.booleans()))
    seen = np.count_nonzero(~np.isnan(x))
    weights = ewm_weights(x, exact_alpha(rate, how[rate]), adjust, ignore_na) if seen else []
    expected = exact_ewm(x, weights)
    for ddof in (0, 1):
        for norm in both_ways(data, maker(sbn.EMA(**how), ddof=ddof), batch):
            got = row_of(norm)
            assert_close(got["mean"], expected[0], 4 * EPSILON, unit=1)
            assert_close(got["var"], expected[1 + ddof], 5e-14)
            assert got["var"] is None or got["var"] >= 0
            if seen:
                assert_close(got["effective_count"], expected[3], 2e-14)
            if seen and adjust and how[rate] not in (0, 1):
                # As of the last row, which may be a gap.
                behind = 0 if ignore_na else np.argmin(np.isnan(x[::-1]))
                fade = (1 - exact_alpha(rate, how[rate])) ** int(behind)
                assert_close(got["weight"], sum(weights) * fade, 2e-14)


@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("adjust", [True, False])
def test_variance_of_pandas_loses_digits_at_an_offset(adjust, ignore_na):
    rng = np.random.default_rng(0)
    how = {"alpha": 0.25, "adjust": adjust, "ignore_na": ignore_na}
    for part in range(20):
        x = 1e9 + rng.normal(size=40) * 2.0**-part
        mean, var, *_ = exact_ewm(x, ewm_weights(x, Fraction(1, 4), adjust, ignore_na))
        got = row_of(fitted(maker(sbn.EMA(**how)), map(batch_of, np.split(x, 4))))
        assert_close(got["var"], var, 1e-14)
        assert_close(got["mean"], mean, EPSILON)
    peer = pd.Series(x).ewm(**how).var(bias=True).iloc[-1]
    assert abs(peer - float(var)) > 1e-3 * float(var)


def test_unbiased_variance_of_pandas_is_noise_after_a_long_gap():
    # The unbiased variance of two values is half the squared difference, for any weights.
    assert exact_ewm(np.array([1.0, 3.0]), [Fraction(1, 2**60), Fraction(1)])[2] == 2

    def peer(gap):
        x = pd.Series([1.0, *[np.nan] * gap, 3.0])
        return x.ewm(alpha=0.7).var(bias=False).iloc[-1]

    assert abs(peer(20) - 2) > 1e-6
    assert np.isnan(peer(59))
    make = maker(sbn.EMA(alpha=0.7), ddof=1)
    for gap in (20, 59, 200):
        whole = [1.0, *[np.nan] * gap, 3.0]
        for pieces in ([whole], [whole[:1], whole[1:-1], whole[-1:]]):
            var = row_of(fitted(make, map(batch_of, pieces)))["var"]
            assert var == pytest.approx(2, rel=1e-14, abs=0)


@pytest.mark.parametrize(
    "rate", [{"alpha": 0.5}, {"com": 1}, {"span": 3}, {"halflife": 1}], ids=str
)
def test_pandas_differs_after_a_gap_if_alpha_is_a_half(rate):
    def mean(**how):
        return pd.Series([1.0, np.nan, 3.0]).ewm(**how, adjust=False).mean().iloc[-1]

    # (λ²·1 + α·3)/(λ² + α). pandas differs for α = 1/2 only, not for any α near it.
    expected = 7 / 3
    assert mean(**rate) == 2.5
    assert mean(alpha=0.5 + 1e-9) == pytest.approx(mean(alpha=0.5 - 1e-9), rel=1e-8)
    assert mean(alpha=0.5 + 1e-9) == pytest.approx(expected, rel=1e-8)
    polars = pl.Series([1.0, None, 3.0]).ewm_mean(alpha=0.5, adjust=False)[-1]
    assert polars == pytest.approx(expected, rel=1e-15)
    norm = sbn.Normalizer(sbn.EMA(**rate, adjust=False)).update(batch_of([1.0, np.nan, 3.0]))
    assert row_of(norm)["mean"] == pytest.approx(expected, rel=1e-15, abs=0)


def test_pandas_has_a_variance_of_one_value_after_gaps():
    x = np.array([-1.0066227140636475, np.nan, np.nan, np.nan])
    how = {"alpha": 0.8473525202932191, "adjust": False}
    assert pd.Series(x).ewm(**how).var(bias=False).iloc[-1] == 0
    assert np.isnan(pd.Series(x[:1]).ewm(**how).var(bias=False).iloc[-1])
    for rows in (1, 2, 4):
        norm = sbn.Normalizer(sbn.EMA(**how), ddof=1).update(batch_of(x[:rows]))
        assert row_of(norm)["var"] is None


@pytest.mark.parametrize("ignore_nulls", [False, True], ids=["absolute", "ignore_nulls"])
@pytest.mark.parametrize("adjust", [True, False], ids=["adjust", "recursive"])
@pytest.mark.parametrize("rate", RATES)
@few_examples
def test_ema_agrees_with_polars(data, rate, adjust, ignore_nulls):
    # Polars keeps nulls where pandas repeats the previous mean, so the last mean that is not null
    # counts. NaN is a number to Polars and makes all later means NaN, so no row has one here.
    # Everything else agrees with pandas. A test below is about `ewm_mean_by`.
    x = data.draw(gappy_series())
    value = data.draw(RATE_VALUES[rate])
    rtol = 5e-14 + 16 * EPSILON / float(exact_alpha(rate, value))
    series = pl.Series(x).fill_nan(None)
    name = {"halflife": "half_life"}.get(rate, rate)
    how = {name: value, "adjust": adjust, "ignore_nulls": ignore_nulls}
    policy = sbn.EMA(**{rate: value}, adjust=adjust, ignore_na=ignore_nulls)
    batch = pa.record_batch({"x": series.to_arrow()})

    def last(column):
        return next(iter(column.drop_nulls().reverse()), None)

    for ddof in (0, 1):
        var = last(series.ewm_var(**how, bias=ddof == 0))
        for norm in both_ways(data, maker(policy, ddof=ddof), batch):
            got = row_of(norm)
            assert_close(got["mean"], last(series.ewm_mean(**how)), rtol, unit=1)
            assert_variance_of_peer(got, ddof, var, rtol, value)


HALFLIFE = datetime.timedelta(hours=7)
KINDS = {
    **{unit: pa.timestamp(unit) for unit in UNITS},
    "s in UTC": pa.timestamp("s", "UTC"),
    "us in Auckland": pa.timestamp("us", "Pacific/Auckland"),
    "ns in New York": pa.timestamp("ns", "America/New_York"),
    "date32": pa.date32(),
    "date64": pa.date64(),
}


@st.composite
def shuffled_pieces(draw, batch):
    """Draw the rows of a batch in any order, cut into pieces."""
    order = np.random.default_rng(draw(SEEDS)).permutation(batch.num_rows)
    return draw(st.permutations(draw(cuts([batch.take(pa.array(order))]))))


@pytest.mark.parametrize("kind", KINDS)
@few_examples
def test_ema_by_time_agrees_with_pandas(data, kind):
    x = data.draw(gappy_series(max_rows=60))
    rng = np.random.default_rng(data.draw(SEEDS))
    halflife = HALFLIFE * (30 if kind.startswith("date") else 1)
    span = data.draw(st.sampled_from([0.0, 0.1, 3.0, 40.0])) * halflife.total_seconds()
    seconds = 1_700_000_000 + np.sort((span * rng.random(len(x))).astype(np.int64))
    times = stamps(seconds, KINDS[kind])
    peer_times = times.cast(pa.timestamp("s") if kind.startswith("date") else times.type)
    peer = pd.Series(x).ewm(halflife=halflife, times=pd.Series(peer_times.to_pandas())).mean()
    nulls = data.draw(st.booleans())
    batch = pa.record_batch({"x": pa.array(x, pa.float64(), from_pandas=nulls), "t": times})
    make = maker(sbn.EMA(halflife=halflife, time="t"))
    pieces = data.draw(shuffled_pieces(batch))
    for norm in (*both_ways(data, make, batch), fitted(make, pieces), merged(data, make, pieces)):
        got = row_of(norm)
        assert got["count"] == np.count_nonzero(~np.isnan(x))
        assert_close(got["mean"], peer.iloc[-1], 2e-14, unit=1)


@pytest.mark.parametrize("kind", ["ns", "us", "int64", "uint32", "float64"])
@few_examples
def test_ema_by_time_agrees_with_exact_arithmetic(data, kind):
    x = data.draw(gappy_series(max_rows=24, offset=data.draw(st.sampled_from([0.0, 1e9]))))
    rng = np.random.default_rng(data.draw(SEEDS))
    # Times of 2026 in nanoseconds exceed float64. A short half-life shows lost digits.
    halflife = data.draw(st.sampled_from([1, 97, 10**5, 10**9, 86_400 * 10**9]))
    ages = (halflife * rng.random(len(x)) * data.draw(st.sampled_from([1, 30]))).astype(np.int64)
    start = {"uint32": 4 * 10**9}.get(kind, 1_770_000_000_123_456_789)
    ticks = start - ages
    if kind == "uint32":
        ticks, ages = np.maximum(ticks, 0).astype(np.uint32), np.minimum(ages, start)
    if kind == "float64":
        ages, halflife = ages / 64, halflife / 64
        ticks = -ages
    times = pa.array(ticks)
    length = halflife
    if kind in UNITS:
        times = times.cast(pa.timestamp(kind))
        length = np.timedelta64(halflife, kind)
    batch = pa.record_batch({"x": pa.array(x), "t": times})
    ages = ages[~np.isnan(x)].tolist(), ages.min().item()
    weights = time_weights(ages[0], halflife)
    expected = exact_ewm(x, weights)
    for ddof in (0, 1):
        make = maker(sbn.EMA(halflife=length, time="t"), columns=["x"], ddof=ddof)
        pieces = data.draw(shuffled_pieces(batch))
        for norm in (fitted(make, [batch]), fitted(make, pieces), merged(data, make, pieces)):
            got = row_of(norm)
            assert_close(got["mean"], expected[0], 8 * EPSILON, unit=1)
            assert_close(got["var"], expected[1 + ddof], 1e-13)
            if weights:
                # Weights are as of the newest row, which need not have a value.
                exact = sum(time_weights([age - ages[1] for age in ages[0]], halflife))
                assert_close(got["weight"], exact, 1e-13)
                assert_close(got["effective_count"], expected[3], 1e-13)


def test_pandas_loses_nanoseconds():
    times = pd.to_datetime([1_770_000_000_000_000_000, 1_770_000_000_000_000_100], unit="ns")
    peer = pd.Series([0.0, 3.0]).ewm(halflife="100ns", times=times).mean().iloc[-1]
    assert abs(peer - 2) > 0.1
    table = pa.table({"x": [0.0, 3.0], "t": pa.array(times)})
    norm = sbn.Normalizer(sbn.EMA(halflife="100ns", time="t")).update(table)
    assert row_of(norm)["mean"] == 2


def test_mean_by_time_of_polars_is_a_recursion():
    # `ewm_mean_by` gives the first value all the weight that later ones do not take, however old
    # it is. streambn, like pandas with times, weights each value by its age.
    days = [datetime.date(2026, 3, 1), datetime.date(2026, 3, 2), datetime.date(2026, 3, 3)]
    frame = pl.DataFrame({"x": [4.0, 0.0, 0.0], "day": days})
    recursion = frame["x"].ewm_mean_by(frame["day"], half_life="1d")[-1]
    assert recursion == pytest.approx(4 * 0.25, rel=1e-15)
    norm = sbn.Normalizer(sbn.EMA(halflife="1d", time="day")).update(frame)
    assert row_of(norm)["mean"] == pytest.approx(4 * 0.25 / 1.75, rel=1e-15)
    peer = frame["x"].to_pandas().ewm(halflife="24h", times=pd.to_datetime(days)).mean()
    assert row_of(norm)["mean"] == pytest.approx(peer.iloc[-1], rel=1e-15)
