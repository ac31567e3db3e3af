"""Parity with pandas, Polars, torch, Keras, NumPy and scikit-learn, under any cut and merge.

Where a peer's own rounding is larger than ours, the bound is what its formula loses, and exact
arithmetic is the judge.
"""

from __future__ import annotations

import datetime
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn.errors import MergeError
from streambn.testing import cuts, exact_moments, merged_in_a_tree

EPSILON = 2.0**-52
SEEDS = st.integers(0, 2**32 - 1)
RATES = ["com", "span", "halflife", "alpha"]
few = settings.get_profile("few")


def row_of(norm, column="x", **how):
    """Return the statistics of one feature as a dict; None where undefined."""
    rows = norm.stats(**how).to_pylist()
    return next(row for row in rows if row["column"] == column)


def maker(policy, **how):
    return lambda: sbn.Normalizer(policy, **how)


def fitted(make, pieces):
    norm = make()
    for piece in pieces:
        norm.update(piece)
    return norm


def merged(data, make, pieces):
    """Fit each piece, and merge them by a random tree that keeps their order."""
    fits = [make().update(piece) for piece in pieces]
    return merged_in_a_tree(data.draw, lambda older, newer: older.merge(newer), fits)


def both_ways(data, make, batch):
    """Cut a batch at random; return one fit of all pieces, and a merge of one fit per piece."""
    pieces = data.draw(cuts([batch]))
    return fitted(make, pieces), merged(data, make, pieces)


def assert_close(got, expected, rtol, unit=0.0):
    """Compare with `rtol` relative to the value or, if larger, to `unit`; None is undefined."""
    if expected is None or math.isnan(expected):
        assert got is None
        return
    assert got is not None
    assert abs(got - expected) <= rtol * max(abs(expected), unit), (got, float(expected))


# ------------------------------------------------------------------- pandas' ewm, by row


@st.composite
def gappy_series(draw, max_rows=120, offset=0.0):
    """Draw a series of float64, maybe with ties, with no, some or mostly NaN, or NaN at one end."""
    n = draw(st.integers(1, max_rows))
    kind = draw(st.sampled_from(["none", "some", "most", "leading", "trailing", "both ends"]))
    rng = np.random.default_rng(draw(SEEDS))
    x = rng.normal(size=n)
    if draw(st.sampled_from([False, False, False, True])):
        x = x.round()
    x += offset
    a, b = sorted(rng.integers(0, n + 1, 2).tolist())
    if kind in ("some", "most"):
        x[rng.random(n) < (0.3 if kind == "some" else 0.85)] = np.nan
    if kind in ("leading", "both ends"):
        x[:a] = np.nan
    if kind in ("trailing", "both ends"):
        x[b:] = np.nan
    return x


RATE_VALUES = {
    "com": st.floats(0.1, 60) | st.sampled_from([0, 1e4]),
    "span": st.floats(1.2, 120) | st.sampled_from([1, 1e4]),
    "halflife": st.floats(0.3, 60) | st.just(1e4),
    "alpha": st.floats(0.01, 0.95) | st.sampled_from([1.0, 1e-4]),
}


def batch_of(x, as_null=False):
    """Return one batch with NaN as NaN or as null, which are equivalent."""
    return pa.record_batch({"x": pa.array(x, pa.float64(), from_pandas=as_null)})


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


def exact_ewm(x, weights):
    """Return the exact mean, biased and unbiased variance; None where undefined."""
    present = x[~np.isnan(x)]
    mean, square = exact_moments(present, weights)
    total, squares = sum(weights), sum(w * w for w in weights)
    pairs = total * total - squares
    return mean, square / total, square * total / pairs if pairs else None


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
@few
@given(data=st.data())
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
@few
@given(data=st.data())
def test_ema_agrees_with_exact_arithmetic(data, rate, adjust, ignore_na, offset):
    x = data.draw(gappy_series(max_rows=36, offset=offset))
    how = {rate: data.draw(RATE_VALUES[rate]), "adjust": adjust, "ignore_na": ignore_na}
    batch = batch_of(x, as_null=data.draw(st.booleans()))
    seen = np.count_nonzero(~np.isnan(x))
    expected = (None, None, None)
    if seen:
        weights = ewm_weights(x, exact_alpha(rate, how[rate]), adjust, ignore_na)
        expected = exact_ewm(x, weights)
    for ddof in (0, 1):
        for norm in both_ways(data, maker(sbn.EMA(**how), ddof=ddof), batch):
            got = row_of(norm)
            assert_close(got["mean"], expected[0], 4 * EPSILON, unit=1)
            assert_close(got["var"], expected[1 + ddof], 5e-14)
            assert got["var"] is None or got["var"] >= 0
            if seen:
                effective = sum(weights) ** 2 / sum(w * w for w in weights)
                assert_close(got["effective_count"], effective, 2e-14)
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
        mean, var, _ = exact_ewm(x, ewm_weights(x, Fraction(1, 4), adjust, ignore_na))
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
    for gap in (20, 59, 200):
        for norm in (
            sbn.Normalizer(sbn.EMA(alpha=0.7), ddof=1).update(batch_of([1.0, *[np.nan] * gap, 3])),
            fitted(
                maker(sbn.EMA(alpha=0.7), ddof=1),
                [batch_of([1.0]), batch_of([np.nan] * gap), batch_of([3.0])],
            ),
        ):
            assert row_of(norm)["var"] == pytest.approx(2, rel=1e-14, abs=0)


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


# ----------------------------------------------------------------- pandas' ewm, by times

HALFLIFE = datetime.timedelta(hours=7)
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
KINDS = {
    **{unit: pa.timestamp(unit) for unit in UNITS},
    "s in UTC": pa.timestamp("s", "UTC"),
    "us in Auckland": pa.timestamp("us", "Pacific/Auckland"),
    "ns in New York": pa.timestamp("ns", "America/New_York"),
    "date32": pa.date32(),
    "date64": pa.date64(),
}


def stamps(seconds, kind):
    """Convert whole seconds since 1970 to times of any type."""
    if pa.types.is_date32(kind):
        return pa.array((seconds // 86_400).astype(np.int32)).cast(kind)
    if pa.types.is_date64(kind):
        return pa.array(seconds // 86_400 * 86_400_000).cast(kind)
    return pa.array(seconds * UNITS[kind.unit]).cast(kind)


@st.composite
def shuffled_pieces(draw, batch):
    """Draw the rows of a batch in any order, cut into pieces."""
    order = np.random.default_rng(draw(SEEDS)).permutation(batch.num_rows)
    return draw(st.permutations(draw(cuts([batch.take(pa.array(order))]))))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
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


def time_weights(ages, halflife):
    """Return the weights 2**(−age/halflife) to forty digits."""
    with localcontext(prec=40, Emin=-(10**9), Emax=10**9):
        exponents = [-Decimal(age) / Decimal(halflife) for age in ages]
        return [Fraction(Decimal(2) ** exponent) for exponent in exponents]


@pytest.mark.parametrize("kind", ["ns", "us", "int64", "uint32", "float64"])
@few
@given(data=st.data())
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
    expected = exact_ewm(x, weights) if weights else (None, None, None)
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
                effective = sum(weights) ** 2 / sum(w * w for w in weights)
                assert_close(got["effective_count"], effective, 1e-13)


def test_pandas_loses_nanoseconds():
    times = pd.to_datetime([1_770_000_000_000_000_000, 1_770_000_000_000_000_100], unit="ns")
    peer = pd.Series([0.0, 3.0]).ewm(halflife="100ns", times=times).mean().iloc[-1]
    assert abs(peer - 2) > 0.1
    table = pa.table({"x": [0.0, 3.0], "t": pa.array(times)})
    norm = sbn.Normalizer(sbn.EMA(halflife="100ns", time="t")).update(table)
    assert row_of(norm)["mean"] == 2


# ---------------------------------------------------------------------------- Polars


@pytest.mark.parametrize("ignore_nulls", [False, True], ids=["absolute", "ignore_nulls"])
@pytest.mark.parametrize("adjust", [True, False], ids=["adjust", "recursive"])
@pytest.mark.parametrize("rate", RATES)
@few
@given(data=st.data())
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


# -------------------------------------------------------- batch normalization: torch, Keras

WIDTH = 3
MOMENTA = [0.1, 0.01, 0.5, 1.0, None]


def vectors(values):
    """Return a batch of vectors, as a column of fixed-size lists."""
    kind = pa.list_(pa.float64(), values.shape[1])
    return pa.record_batch({"e": pa.FixedSizeListArray.from_arrays(values.ravel(), type=kind)})


def matrix(batch):
    return batch["e"].flatten().to_numpy().reshape(-1, WIDTH)


def epochs_of(data, least=2):
    """Draw epochs of the same rows, each cut into batches of its own."""
    rng = np.random.default_rng(data.draw(SEEDS))
    offset = data.draw(st.sampled_from([0.0, -3.0, 100.0]))
    rows = offset + rng.normal(size=(data.draw(st.integers(least, 60)), WIDTH)) * [1, 0.1, 20]
    for _ in range(data.draw(st.integers(1, 4))):
        start = 0
        while len(rows) - start >= least:
            stop = start + int(rng.integers(least, 20))
            yield rows[start:] if len(rows) - stop < least else rows[start:stop]
            start = len(rows) if len(rows) - stop < least else stop


def batch_norm(momentum=0.1, **how):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
    return torch, torch.nn.BatchNorm1d(WIDTH, momentum=momentum, dtype=torch.float64, **how)


def assert_torch_has(layer, norm):
    stats = norm.stats()
    for name, buffer in (("mean", layer.running_mean), ("var", layer.running_var)):
        for got, expected in zip(stats[name].to_pylist(), buffer.tolist(), strict=True):
            # A few units in the last place, because the sums of torch round.
            assert_close(got, expected, 16 * EPSILON, unit=1)


def assert_normalized(z, expected, values, gamma=1.0):
    """Compare up to the rounding of the batch mean, in units of the deviation."""
    rounding = EPSILON * (1 + gamma * abs(values).max(0) / np.sqrt(values.var(0) + 1e-5))
    assert (abs(z - expected) <= 8 * rounding).all(), (z, expected)


@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
@few
@given(data=st.data())
def test_batch_ema_agrees_with_torch(data, momentum):
    torch, layer = batch_norm(momentum)
    rng = np.random.default_rng(data.draw(SEEDS))
    gamma, beta = rng.normal(size=(2, WIDTH))
    affine = None
    if data.draw(st.booleans()):
        layer.weight.data, layer.bias.data = torch.from_numpy(gamma), torch.from_numpy(beta)
        affine = {f"e[{i}]": (gamma[i], beta[i]) for i in range(WIDTH)}
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=momentum), eps=1e-5, affine=affine)
    layer.train()
    for values in epochs_of(data):
        z = norm.update_transform(vectors(values), using="batch")
        expected = layer(torch.from_numpy(values)).detach().numpy()
        assert_normalized(matrix(z), expected, values, 1 if affine is None else abs(gamma))
    assert_torch_has(layer, norm)
    layer.eval()
    frozen = norm.freeze()
    for values in (rng.normal(size=(5, WIDTH)), *rng.normal(size=(3, 1, WIDTH))):
        expected = layer(torch.from_numpy(values)).detach().numpy()
        np.testing.assert_allclose(
            matrix(frozen.transform(vectors(values))), expected, rtol=1e-14, atol=1e-13
        )


def test_defaults_agree_with_torch():
    torch, layer = batch_norm()
    assert torch.nn.BatchNorm1d(WIDTH).momentum == 0.1
    assert torch.nn.BatchNorm1d(WIDTH).eps == 1e-5
    policy = sbn.BatchEMA(momentum=0.1)
    assert policy.initial == (layer.running_mean[0].item(), layer.running_var[0].item())
    norm = sbn.Normalizer(policy, eps=1e-5)
    values = np.arange(12.0).reshape(4, WIDTH)
    norm.update(vectors(values))
    layer(torch.from_numpy(values))
    assert_torch_has(layer, norm)


@few
@given(data=st.data())
def test_merged_parts_agree_with_torch(data):
    momentum = data.draw(st.sampled_from(MOMENTA))
    torch, layer = batch_norm(momentum)
    blocks = list(epochs_of(data))
    for values in blocks:
        layer(torch.from_numpy(values))
    make = maker(sbn.BatchEMA(momentum=momentum))
    assert_torch_has(layer, merged(data, make, map(vectors, blocks)))


@few
@given(data=st.data())
def test_batch_ema_agrees_with_keras(data):
    # Momentum is the weight of the old value in Keras, and the variance is biased.
    decay, eps = 0.99, 1e-3
    mean, var = np.zeros(WIDTH), np.ones(WIDTH)
    norm = sbn.Normalizer(sbn.BatchEMA(decay=decay, ddof=0), eps=eps)
    for values in epochs_of(data, least=1):
        z = matrix(norm.update_transform(vectors(values), using="batch"))
        assert_normalized(z, (values - values.mean(0)) / np.sqrt(values.var(0) + eps), values)
        mean = decay * mean + (1 - decay) * values.mean(0)
        var = decay * var + (1 - decay) * values.var(0)
    stats = norm.stats()
    np.testing.assert_allclose(stats["mean"].to_numpy(), mean, rtol=2e-14, atol=1e-15)
    np.testing.assert_allclose(stats["var"].to_numpy(), var, rtol=2e-14)
    values = np.random.default_rng(0).normal(size=(4, WIDTH))
    np.testing.assert_allclose(
        matrix(norm.freeze().transform(vectors(values))),
        (values - mean) / np.sqrt(var + eps),
        rtol=1e-13,
        atol=1e-14,
    )


# ----------------------------------------------------- BatchEMA, exactly; blocks of n rows


def exact_batch_ema(blocks, policy):
    """Return running mean and variance, and the total variance, in exact arithmetic.

    A block without values does nothing; one with too few for a variance moves the mean alone.
    """
    rate = policy.rate
    decay = Fraction(rate["decay"]) if "decay" in rate else None
    if rate.get("momentum") is not None:
        decay = 1 - Fraction(rate["momentum"])
    means, variances = [], []
    for block in blocks:
        present = block[~np.isnan(block)]
        if len(present):
            mean, square = exact_moments(present)
            means.append(mean)
            if len(present) > policy.ddof:
                variances.append(square / (len(present) - policy.ddof))

    def weights(n, prior):
        if not n and (prior is None or decay is None):
            return None
        if decay is None:
            return [Fraction(1, n)] * n
        each = [(1 - decay) * decay**i for i in reversed(range(n))]
        if prior is None:
            return [w / (1 - decay**n) for w in each]
        return [decay**n, *each]

    prior = (None, None) if policy.initial is None or decay is None else policy.initial
    of_means = weights(len(means), prior[0])
    of_variances = weights(len(variances), prior[1])
    if prior[0] is not None:
        means, variances = [Fraction(prior[0]), *means], [Fraction(prior[1]), *variances]
    mean = var = total = None
    if of_means is not None:
        mean = sum(w * b for w, b in zip(of_means, means, strict=True))
        between = sum(w * (b - mean) ** 2 for w, b in zip(of_means, means, strict=True))
        if of_variances is not None:
            var = sum(w * v for w, v in zip(of_variances, variances, strict=True))
            total = var + between
    return mean, var, total


def assert_exact(norm, blocks, unit):
    mean, var, total = exact_batch_ema(blocks, norm.policy)
    got = row_of(norm)
    assert_close(got["mean"], mean, 4 * EPSILON, unit=unit)
    assert_close(got["var"], var, 1e-14)
    assert_close(got["total_var"], total, 1e-14)


@pytest.mark.parametrize("initial", [None, (0.0, 1.0), (5.0, 0.0), (-1e3, 7.0)], ids=str)
@pytest.mark.parametrize("rate", [{"momentum": 0.1}, {"decay": 0.99}, {"momentum": None}], ids=str)
@few
@given(data=st.data())
def test_batch_ema_agrees_with_exact_arithmetic(data, rate, initial):
    offset = data.draw(st.sampled_from([0.0, 1e9]))
    blocks = data.draw(st.lists(gappy_series(max_rows=12, offset=offset), min_size=1, max_size=8))
    ddof = data.draw(st.sampled_from([0, 1]))
    make = maker(sbn.BatchEMA(**rate, ddof=ddof, initial=initial))
    batches = list(map(batch_of, blocks))
    seen = any((~np.isnan(block)).any() for block in blocks)
    for norm in (fitted(make, batches), merged(data, make, batches)):
        if seen:
            assert_exact(norm, blocks, unit=1)
        else:
            assert row_of(norm)["mean"] is None


@pytest.mark.parametrize(
    "policy",
    [
        sbn.BatchEMA(momentum=0.1),
        sbn.BatchEMA(decay=0.99, ddof=0),
        sbn.BatchEMA(momentum=None),
        sbn.BatchEMA(momentum=1.0),
        sbn.BatchEMA(momentum=0.5, initial=(3.0, 7.0)),
    ],
    ids=str,
)
def test_batch_ema_of_many_blocks_agrees_with_exact_arithmetic(policy):
    rng = np.random.default_rng(0)
    blocks = [5 + rng.normal(size=n) for n in rng.integers(2, 40, size=30)] * 3
    assert_exact(fitted(maker(policy), map(batch_of, blocks)), blocks, unit=1)


def test_total_variance_of_equal_blocks_is_that_of_the_values():
    x = np.random.default_rng(0).normal(size=60) + np.repeat([0.0, 10.0, -3.0], 20)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=None, ddof=0))
    got = row_of(fitted(lambda: norm, map(batch_of, np.split(x, 3))))
    assert got["total_var"] == pytest.approx(x.var(), rel=1e-14)
    assert got["var"] == pytest.approx(np.mean([part.var() for part in np.split(x, 3)]), rel=1e-14)
    assert got["total_var"] > 10 * got["var"]


@given(data=st.data())
def test_blocks_of_batch_rows_do_not_depend_on_cuts(data):
    rows = data.draw(st.integers(1, 40))
    offset = data.draw(st.sampled_from([0.0, 1e9]))
    x = data.draw(gappy_series(max_rows=200, offset=offset))
    rate = data.draw(st.sampled_from([{"momentum": 0.1}, {"decay": 0.5}, {"momentum": None}]))
    initial = data.draw(st.sampled_from([None, (0.0, 1.0)]))
    make = maker(sbn.BatchEMA(**rate, initial=initial, batch_rows=rows))
    one = fitted(make, [batch_of(x)])
    many = fitted(make, data.draw(cuts([batch_of(x)])))
    full = len(x) // rows
    blocks = np.split(x[: full * rows], full) if full else []
    for norm in (one, many):
        if np.isfinite(x[: full * rows]).any():
            assert_exact(norm, blocks, unit=1)
        else:
            assert row_of(norm)["mean"] is None
    a, b = row_of(one), row_of(many)
    for name in ("count", "nulls", "nans", "infs", "min", "max"):
        assert a[name] == b[name]
    for name in ("mean", "var", "total_var"):
        if a[name] is None:
            assert b[name] is None
        else:
            # One unit in the last place, of the values if the mean is near zero.
            assert_close(b[name], a[name], EPSILON, unit=1 if name == "mean" else 0)


@few
@given(data=st.data())
def test_blocks_of_batch_rows_agree_with_torch(data):
    momentum = data.draw(st.sampled_from(MOMENTA))
    rows = data.draw(st.integers(2, 16))
    torch, layer = batch_norm(momentum)
    values = np.random.default_rng(data.draw(SEEDS)).normal(2, 3, (rows * 7 + rows // 2, WIDTH))
    for block in np.split(values[: rows * 7], 7):
        layer(torch.from_numpy(block))
    make = maker(sbn.BatchEMA(momentum=momentum, batch_rows=rows))
    assert_torch_has(layer, fitted(make, data.draw(cuts([vectors(values)]))))


@few
@given(data=st.data())
def test_statistics_saved_inside_a_block_continue(data, tmp_path_factory):
    x = data.draw(gappy_series(max_rows=80, offset=1e6))
    at = data.draw(st.integers(0, len(x)))
    policy = sbn.BatchEMA(
        momentum=data.draw(st.sampled_from([0.25, None])),
        initial=data.draw(st.sampled_from([None, (0.0, 1.0)])),
        batch_rows=data.draw(st.integers(2, 30)),
    )
    whole = fitted(maker(policy), [batch_of(x[:at]), batch_of(x[at:])])
    path = tmp_path_factory.mktemp("inside") / "stats.json"
    half = fitted(maker(policy), [batch_of(x[:at])])
    half.save(path)
    loaded = sbn.load(path)
    if at:
        assert loaded.freeze().fingerprint == half.freeze().fingerprint
    assert loaded.update(batch_of(x[at:])).freeze().fingerprint == whole.freeze().fingerprint
    if at:
        thawed = half.freeze().thaw().update(batch_of(x[at:]))
        assert thawed.freeze().fingerprint == whole.freeze().fingerprint


@few
@given(data=st.data())
def test_blocks_merge_at_their_ends_or_into_an_open_block(data):
    rows = data.draw(st.integers(2, 9))
    older, newer = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    x = np.random.default_rng(data.draw(SEEDS)).normal(size=older + newer)
    initial = data.draw(st.sampled_from([None, (0.0, 1.0)]))
    make = maker(sbn.BatchEMA(momentum=0.25, batch_rows=rows, initial=initial))
    a, b = (fitted(make, [batch_of(part)]) for part in (x[:older], x[older:]))
    before = a.stats(), b.stats()
    open_rows = older % rows
    if open_rows == 0 or open_rows + newer <= rows:
        both, whole = a.merge(b), fitted(make, [batch_of(x)])
        for name in ("mean", "var", "total_var"):
            assert_close(row_of(both)[name], row_of(whole)[name] or np.nan, 4 * EPSILON, unit=1)
        assert row_of(both)["count"] == older + newer
    else:
        with pytest.raises(MergeError) as error:
            a.merge(b)
        assert f"{open_rows} of batch_rows={rows} rows" in str(error.value)
        assert "multiples of batch_rows" in str(error.value)
    assert (a.stats(), b.stats()) == before


# --------------------------------------------------------------------- sample weights


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


@few
@given(data=st.data())
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
            np.testing.assert_allclose(stats["mean"].to_numpy(), mean, rtol=1e-13)
            np.testing.assert_allclose(stats["var"].to_numpy(), var, rtol=rtol)
            np.testing.assert_allclose(stats["weight"].to_numpy(), w.sum(), rtol=1e-14)
            np.testing.assert_allclose(stats["effective_count"].to_numpy(), effective, rtol=1e-14)
            assert stats["count"].to_pylist() == [n] * WIDTH
    scaler = StandardScaler()
    pieces = [piece for piece in data.draw(cuts([batch])) if piece.num_rows]
    for piece in pieces:
        scaler.partial_fit(matrix(piece), sample_weight=piece["w"].to_numpy())
    stats = fitted(maker(sbn.Welford(), weights="w"), pieces).stats()
    np.testing.assert_allclose(stats["mean"].to_numpy(), scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(stats["var"].to_numpy(), scaler.var_, rtol=1e-12)
    np.testing.assert_allclose(stats["weight"].to_numpy(), scaler.n_samples_seen_, rtol=1e-13)


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
@few
@given(data=st.data())
def test_weights_agree_with_exact_arithmetic(data, policy):
    batch = data.draw(weighted_batch(max_rows=40))
    x = batch["x"].to_numpy(zero_copy_only=False)
    there = ~np.isnan(x)
    factors = exact_factors(policy, batch)
    weights = [f * Fraction(w) for f, w in zip(factors, batch["w"].to_numpy()[there], strict=True)]
    expected = exact_ewm(x, weights) if weights else (None, None, None)
    for ddof in (0, 1):
        make = maker(policy, columns=["x"], ddof=ddof, weights="w")
        for norm in both_ways(data, make, batch):
            got = row_of(norm)
            assert_close(got["mean"], expected[0], 8 * EPSILON, unit=1)
            assert_close(got["var"], expected[1 + ddof], 1e-13)
            if weights:
                assert_close(got["weight"], sum(weights), 1e-13)
                effective = sum(weights) ** 2 / sum(w * w for w in weights)
                assert_close(got["effective_count"], effective, 1e-13)


@for_policies_with_weights
@few
@given(data=st.data())
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
@few
@given(data=st.data())
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
