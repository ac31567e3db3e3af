"""How a stream is cut never shows in a result, also across long runs of missing values.

The oracle weighs values by the definition, with a hundred digits, and with the documented bound:
a gap discounts by no more than 2**-600.
"""

from __future__ import annotations

import itertools
from decimal import Context, Decimal, localcontext

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_close, fitted, maker, row_of

import streambn as sbn
from streambn.testing import merged_in_a_tree

GAPS = [0, 1, 2, 7, 40, 300, 700, 1000, 5000, 100_000]
RATES = [{"span": 2}, {"alpha": 0.01}, {"halflife": 3000}, {"com": 0}]
ROWS = {
    f"{next(iter(rate.items()))} {adjust=} {ignore_na=}": sbn.EMA(
        **rate, adjust=adjust, ignore_na=ignore_na
    )
    for rate in RATES
    for adjust in (True, False)
    for ignore_na in (False, True)
}
OTHERS = {
    "Welford": sbn.Welford(),
    "Exact": sbn.Exact(),
    "by time": sbn.EMA(halflife=50.0, time="t"),
    "batch": sbn.BatchEMA(momentum=0.1, batch_rows=300),
    "batch, biased": sbn.BatchEMA(decay=0.5, ddof=0, batch_rows=1000, initial=None),
    "batch, cumulative": sbn.BatchEMA(momentum=None, batch_rows=999),
}
WEIGHTED = {name: policy for name, policy in {**ROWS, **OTHERS}.items() if policy.takes_weights}


@st.composite
def runs(draw):
    """Draw values between gaps of missing ones: a list of float or None."""
    values = st.lists(st.integers(-50, 50).map(lambda n: n / 4), max_size=3)
    rows = []
    long = 0
    for gap in draw(st.lists(st.sampled_from(GAPS), min_size=1, max_size=4)):
        long += gap == 100_000
        rows += [None] * (gap if long < 2 else 900) + draw(values)
    return rows


def batch_of(rows, weights=None):
    columns = {"x": pa.array(rows, pa.float64()), "t": np.arange(float(len(rows)))}
    if weights is not None:
        columns["w"] = pa.array(weights, pa.float64())
    return pa.record_batch(columns)


def pieces(data, batch):
    """Cut a batch at random rows, and at rows beside a value."""
    at = np.flatnonzero(batch["x"].is_valid().to_numpy(zero_copy_only=False)).tolist()
    near = [row for i in at for row in (i, i + 1)]
    edge = st.integers(0, batch.num_rows)
    edge = st.sampled_from(near) | edge if near else edge
    edges = sorted(data.draw(st.lists(edge, max_size=6)))
    bounds = [0, *edges, batch.num_rows]
    return [batch.slice(a, b - a) for a, b in itertools.pairwise(bounds)]


def statistics(norm):
    return row_of(norm)["count"], *(row_of(norm)[name] for name in ("mean", "var", "std"))


def assert_same(one, other, rows):
    """Compare statistics: means relative to the range, variances relative to themselves."""
    known = [x for x in rows if x is not None]
    spread = max(known, default=0) - min(known, default=0)
    assert one[0] == other[0]
    assert_close(one[1], other[1], 1e-13, unit=spread)
    for got, expected in zip(one[2:], other[2:], strict=True):
        assert_close(got, expected, 1e-11)


def check_cuts(data, make, batch):
    """Check that one batch, many batches and a merge of many fits agree."""
    whole = make().update(batch)
    parts = pieces(data, batch)
    if batch.num_rows == 0:
        return None
    rows = batch["x"].to_pylist()
    assert_same(statistics(fitted(make, parts)), statistics(whole), rows)
    policy = whole.policy
    if getattr(policy, "batch_rows", None) is None:
        fits = [make().update(part) for part in parts]
        merged = merged_in_a_tree(data.draw, lambda older, newer: older.merge(newer), fits)
        assert_same(statistics(merged), statistics(whole), rows)
        if policy.exact:
            assert merged.statistics.state == whole.statistics.state
    return statistics(whole)


LEAST = Decimal(2) ** -600


def discount(gap, decay):
    """Return the factor by which `gap` missing rows and the value after them discount the past."""
    if decay == 0:
        return Decimal(0)
    return Decimal(decay) * max(Decimal(decay) ** gap, LEAST)


def exact_statistics(rows, policy, weights=None):
    """Return mean, biased variance and unbiased variance by definition; None where undefined."""
    with localcontext(Context(prec=100)):
        at = [i for i, x in enumerate(rows) if x is not None]
        if not at:
            return None, None, None
        decay, alpha = policy.decay, 1 - Decimal(policy.decay)
        w = [Decimal(1) if policy.adjust else 1 / alpha]
        for before, here in itertools.pairwise(at):
            fade = discount(0 if policy.ignore_na else here - before - 1, decay)
            new = Decimal(1) if policy.adjust else 1 / (fade + alpha)
            fade = fade if policy.adjust else fade * new
            w = [*(old * fade for old in w), new]
        if weights is not None:
            w = [old * Decimal(weights[i]) for old, i in zip(w, at, strict=True)]
        x = [Decimal(rows[i]) for i in at]
        total = sum(w)
        mean = sum(a * b for a, b in zip(w, x, strict=True)) / total
        couples = list(itertools.combinations(zip(w, x, strict=True), 2))
        pairs = sum(v * w for (v, _), (w, _) in couples)
        square = sum(v * w * (x - y) ** 2 for (v, x), (w, y) in couples)
        return mean, square / total**2, square / (2 * pairs) if pairs else None


def assert_exact(got, expected, rows):
    known = [x for x in rows if x is not None]
    spread = max(known, default=0) - min(known, default=0)
    mean, var = (None if x is None else float(x) for x in expected)
    assert_close(got[1], mean, 1e-12, unit=spread)
    # Beyond two long gaps a weight is below any float64.
    assert_close(got[2], var, 1e-11, unit=1e-110 * spread**2)


@pytest.mark.parametrize("policy", ROWS.values(), ids=ROWS)
@settings.get_profile("few")
@given(data=st.data(), ddof=st.integers(0, 1), rows=runs())
def test_ema_by_row_is_exact_under_any_cut(policy, data, ddof, rows):
    got = check_cuts(data, maker(policy, ddof=ddof, columns=["x"]), batch_of(rows))
    if got is not None:
        mean, *variances = exact_statistics(rows, policy)
        assert_exact(got, (mean, variances[ddof]), rows)


@pytest.mark.parametrize("policy", OTHERS.values(), ids=OTHERS)
@settings.get_profile("few")
@given(data=st.data(), ddof=st.integers(0, 1), rows=runs())
def test_other_policies_do_not_depend_on_cuts(policy, data, ddof, rows):
    check_cuts(data, maker(policy, ddof=ddof, columns=["x"]), batch_of(rows))


@pytest.mark.parametrize("policy", WEIGHTED.values(), ids=WEIGHTED)
@settings.get_profile("few")
@given(data=st.data(), ddof=st.integers(0, 1), rows=runs(), seed=st.integers(0, 99))
def test_sample_weights_do_not_depend_on_cuts(policy, data, ddof, rows, seed):
    weights = np.random.default_rng(seed).choice([0.25, 1.0, 3.0], len(rows)).tolist()
    make = maker(policy, ddof=ddof, columns=["x"], weights="w")
    got = check_cuts(data, make, batch_of(rows, weights))
    if got is not None and isinstance(policy, sbn.EMA) and policy.time is None:
        mean, *variances = exact_statistics(rows, policy, weights)
        assert_exact(got, (mean, variances[ddof]), rows)


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("gap", [10, 300, 1000, 20_000])
def test_two_values_keep_their_unbiased_variance_at_any_distance(gap, adjust):
    rows = [10.0, *[None] * gap, 12.0, *[None] * gap]
    make = maker(sbn.EMA(span=2, adjust=adjust), ddof=1, columns=["x"])
    for step in (len(rows), 1000, 64):
        batch = batch_of(rows)
        norm = fitted(make, [batch.slice(i, step) for i in range(0, len(rows), step)])
        assert row_of(norm)["var"] == pytest.approx(2.0, rel=1e-14)
    if gap == 10:  # W² − Σw² of pandas cancels, and soon it is 0
        ewm = pd.Series(rows, dtype=float).ewm(span=2, adjust=adjust)
        assert ewm.var().iloc[-1] == pytest.approx(2.0, rel=1e-9)


def test_values_before_two_long_gaps_leave_no_trace():
    silence = [None] * 3000
    rows = [5.0, *silence, 10.0, *silence, 12.0]
    for ddof, expected in ((0, 0.0), (1, 2.0)):
        got = sbn.Normalizer(sbn.EMA(span=2), ddof=ddof, columns=["x"]).update(batch_of(rows))
        assert row_of(got)["mean"] == 12.0
        assert row_of(got)["var"] == pytest.approx(expected, rel=1e-15, abs=1e-100)


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("ignore_na", [True, False])
def test_rows_and_batches_count_the_same_gaps(adjust, ignore_na):
    policy = sbn.EMA(span=2, adjust=adjust, ignore_na=ignore_na)
    rows = [None] * 90 + [5.0, 4.5] + [None] * 900 + [10.0] + [None] * 2500 + [12.0] + [None] * 60
    whole = sbn.Normalizer(policy, ddof=1, columns=["x"]).update(batch_of(rows))
    for cut in (0, 91, 500, 1000, 3400, len(rows)):
        by_row = sbn.RowNormalizer(policy, ddof=1)
        by_row.learn_one({"y": 0.0})  # a feature of its own, so that "x" is absent and not null
        by_row.learn_many(pa.record_batch({"x": pa.array(rows[:cut], pa.float64())}))
        for x in rows[cut:]:
            by_row.learn_one({} if x is None else {"x": x})
        assert_same(statistics(by_row), statistics(whole), rows)
