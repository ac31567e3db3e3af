"""The laws of all policies, and comparisons of each with exact values and peers."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from streambn.accumulators import Moments
from streambn.errors import InvalidValueError
from streambn.kernels import Columns, Times
from streambn.policies import EMA, BatchEMA, Policy, Welford
from streambn.testing import PolicyLaws, exact_moments, merged_in_a_tree

POLICIES = {
    "Welford": Welford(),
    "EMAAlpha": EMA(alpha=0.3),
    "EMAAll": EMA(alpha=1.0),
    "EMAHalflife": EMA(halflife=5),
    "EMAIgnoreNA": EMA(span=4, ignore_na=True),
    "EMARecursive": EMA(com=3, adjust=False),
    "EMARecursiveIgnoreNA": EMA(alpha=0.2, adjust=False, ignore_na=True),
    "EMATimestamps": EMA(halflife="1min", time="time"),
    "EMATimestampsFast": EMA(halflife="1s", time="time"),
    "EMANumericTimes": EMA(halflife=10.0, time="time"),
    "BatchTorch": BatchEMA(momentum=0.1),
    "BatchKeras": BatchEMA(decay=0.9, ddof=0),
    "BatchCumulative": BatchEMA(momentum=None),
    "BatchDebiased": BatchEMA(momentum=0.25, initial=None),
    "BatchRows": BatchEMA(momentum=0.25, initial=None, batch_rows=4),
    "BatchRowsTorch": BatchEMA(momentum=0.25, batch_rows=3),
}

for _name, _policy in POLICIES.items():
    _how = {
        "policy": _policy,
        "depends_on_cuts": isinstance(_policy, BatchEMA) and _policy.batch_rows is None,
        "block_rows": getattr(_policy, "batch_rows", None) or 1,
    }
    globals()[f"Test{_name}Laws"] = type(f"Test{_name}Laws", (PolicyLaws,), _how)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("rows", [1, 7])
def test_rows_of_nulls_are_learned_without_making_them(name, rows):
    policy = POLICIES[name]
    nulls = Columns.of(pa.nulls(rows, pa.float64()))
    if policy.event_time is not None:
        nulls = nulls.with_rows(None, Times(np.zeros(rows), None))
    learned, made = policy.update(policy.init(1), nulls), policy.of_nulls(rows)
    assert policy.tally(made) == policy.tally(learned)
    if policy.event_time is None:  # the times of such rows are not known
        # Each state is a tuple of moments, arrays and numbers, or moments alone.
        one, other = (x if isinstance(x, tuple) else (x,) for x in (made, learned))
        for a, b in zip(one, other, strict=True):
            fields = [*zip(a, b, strict=True)] if isinstance(a, Moments) else [(a, b)]
            assert all(np.array_equal(x, y) for x, y in fields)


class CustomPolicy(Policy):
    """A policy of a user that implements little more than the abstract methods."""

    commutative = True

    def init(self, features):
        return Moments.empty(features)

    def update(self, state, columns):
        assert columns.weights is None
        assert columns.times is None
        return state.extend(columns)

    def merge(self, older, newer):
        return older.merge(newer)

    def read(self, state, ddof):
        return state.read(ddof)

    def tally(self, state):
        return state

    def take(self, state, features):
        return state.take(features)


class TestCustomPolicyLaws(PolicyLaws):
    policy = CustomPolicy()


class IgnoresTimes(EMA):
    """Broken: rows that are merged later count as newer."""

    __slots__ = ()

    def merge(self, older, newer):
        return super().merge(older, newer._replace(times=older.times))


class IgnoresOrder(Welford):
    """Broken: a merge discounts the older side, but claims to be commutative."""

    __slots__ = ()

    def merge(self, older, newer):
        return older.replace(decay=older.decay * 0.5).merge(newer.replace(decay=newer.decay * 0.5))


class AddsToWeights(Welford):
    """Broken: it adds to sample weights."""

    __slots__ = ()

    def update(self, state, columns):
        if columns.weights is not None:
            columns = columns.with_weights(columns.weights + np.arange(columns.rows))
        return super().update(state, columns)


@pytest.mark.parametrize(
    ("policy", "law", "options"),
    [
        (IgnoresTimes(halflife=10.0, time="t"), "commutative_parts_merge_in_any_order", {}),
        (IgnoresOrder(), "commutative_parts_merge_in_any_order", {}),
        (AddsToWeights(), "weights_of_one_change_nothing", {}),
        (Welford(), "commutative_parts_merge_in_any_order", {"rtol": 0.0}),
    ],
    ids=["times", "order", "weights", "sums that round"],
)
def test_laws_find_a_broken_policy(policy, law, options):
    laws = type("Laws", (PolicyLaws,), {"policy": policy, **options})()
    [check] = [getattr(laws, name) for name in dir(laws) if name.startswith(f"law_{law}")]

    # Failing examples are not minimized, which takes long.
    @settings(max_examples=100, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def broken(data):
        check(data)

    with pytest.raises(AssertionError):
        broken()


def columns(*values, kind=None):
    return Columns.of(*(pa.array(v, kind, from_pandas=True) for v in values))


def learned(policy, batches):
    state = policy.init(1)
    for batch in batches:
        state = policy.update(state, columns(batch))
    return state


@pytest.mark.parametrize("offset", [0.0, 1e8, 1e12, 1e15])
@settings.get_profile("few")
@given(data=st.data())
def test_variance_is_right_to_1e_14_at_any_offset(data, offset):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = offset + rng.normal(size=1000)
    edges = np.unique(rng.integers(0, 1001, size=data.draw(st.integers(0, 200))))
    policy = Welford()
    states = [policy.update(policy.init(1), columns(part)) for part in np.split(x, edges)]
    if len(states) < 40:
        state = merged_in_a_tree(data.draw, policy.merge, states)
    else:
        state = functools.reduce(policy.merge, states)
    mean, square = exact_moments(x)
    reading = policy.read(state, 0)
    var = square / len(x)
    assert abs(Fraction(reading.var[0]) - var) <= Fraction(1e-14) * var
    got = Fraction(reading.mean_hi[0]) + Fraction(reading.mean_lo[0])
    assert abs(got - mean) <= Fraction(1e-14) * Fraction(float(var) ** 0.5)
    assert reading.std[0] == pytest.approx(float(var) ** 0.5, rel=1e-14, abs=0)


@pytest.mark.parametrize("offset", [1e8, 1e12, 1e15])
def test_one_pass_variance_fails_at_an_offset(offset):
    x = offset + np.random.default_rng(0).normal(size=1000)
    rejected = (x**2).mean() - x.mean() ** 2
    exact = float(exact_moments(x)[1] / len(x))
    ours = Welford().read(learned(Welford(), np.array_split(x, 7)), 0).var[0]
    assert abs(rejected - exact) > 0.5 * exact
    assert abs(ours - exact) <= 1e-14 * exact


def test_ema_forgets_all_but_the_end_of_a_long_stream():
    policy = EMA(halflife=2)
    x = np.concatenate([np.full(200_000, 1e15), [1.0, 2.0, 3.0] * 1000])
    reading = policy.read(learned(policy, [x]), 0)
    end = pd.Series(x[-2000:]).ewm(halflife=2)
    assert reading.mean_hi[0] == pytest.approx(end.mean().iloc[-1], rel=1e-13, abs=0)
    assert reading.var[0] == pytest.approx(end.var(bias=True).iloc[-1], rel=1e-12, abs=0)


def test_batch_ema_without_initial_values_is_unbiased():
    policy = BatchEMA(momentum=0.1, initial=None)
    blocks = [[1.0, 3.0], [5.0, 9.0], [2.0, 2.0]]
    weights = np.array([0.81, 0.9, 1.0])
    reading = policy.read(learned(policy, blocks), 0)
    mean, var = (np.average(of, weights=weights) for of in ([2, 7, 2], [2, 8, 0]))
    assert reading.mean_hi[0] == pytest.approx(mean, rel=1e-15, abs=0)
    assert reading.var[0] == pytest.approx(var, rel=1e-15, abs=0)


def test_batch_rows_cut_equal_blocks_from_any_batches():
    policy = BatchEMA(momentum=0.1, batch_rows=64)
    x = np.random.default_rng(1).normal(size=1000)
    one = learned(policy, [x])
    many = learned(policy, np.array_split(x, 37))
    assert (one.blocks, one.open_rows) == (many.blocks, many.open_rows) == (15, 1000 - 15 * 64)


def test_block_of_one_row_moves_the_mean_only_and_one_without_values_nothing():
    policy = BatchEMA(momentum=0.5)
    before = learned(policy, [[1.0, 3.0]])
    mean, var = policy.read(before, 0).mean_hi, policy.read(before, 0).var
    one = policy.read(policy.update(before, columns([10.0])), 0)
    assert (one.mean_hi[0], one.var[0]) == (0.5 * mean[0] + 5, var[0])
    nothing = policy.update(before, columns([None, None], kind=pa.float64()))
    assert policy.read(nothing, 0).mean_hi == mean


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (EMA, "exactly one of alpha=, halflife=, span=, com=; got none"),
        (lambda: EMA(alpha=0.1, span=3), "got alpha=0.1, span=3"),
        (lambda: EMA(alpha=0), r"alpha must be a number in \(0, 1\], got 0"),
        (lambda: EMA(alpha=1.5), "got 1.5"),
        (lambda: EMA(halflife=0), "halflife must be a number of rows > 0, got 0"),
        (lambda: EMA(halflife="7d"), "is a duration, which needs time="),
        (lambda: EMA(halflife=float("nan")), "got nan"),
        (lambda: EMA(span=0.5), "span must be a number >= 1"),
        (lambda: EMA(com=-1), "com must be a number >= 0"),
        (lambda: EMA(alpha=True), "got True"),
        (lambda: EMA(halflife=np.timedelta64(3, "M")), r"rows > 0, got np.timedelta64\(3"),
        (lambda: EMA(halflife=np.timedelta64(3, "Y"), time="t"), "Months and years .* give days"),
        (lambda: EMA(span=np.timedelta64(30)), "span must be a number >= 1, got np.timedelta64"),
        (lambda: BatchEMA(momentum=np.timedelta64(1, "Y")), "momentum must be a number"),
        (lambda: BatchEMA(momentum=0.1, batch_rows=np.timedelta64(3, "Y")), "batch_rows must be"),
        (lambda: BatchEMA(momentum=0.1, initial=(10**400, 1)), "initial must be"),
        (lambda: EMA(alpha=0.5, adjust=1), "adjust must be True or False, got 1"),
        (BatchEMA, "exactly one of momentum="),
        (lambda: BatchEMA(momentum=0.1, decay=0.9), "exactly one of momentum="),
        (lambda: BatchEMA(momentum=0), r"momentum must be a number in \(0, 1\]"),
        (lambda: BatchEMA(momentum=1.1), "got 1.1"),
        (lambda: BatchEMA(decay=1), r"decay must be a number in \[0, 1\)"),
        (lambda: BatchEMA(decay=None), "decay must be a number"),
        (lambda: BatchEMA(momentum=0.1, ddof=2), "ddof must be 0 or 1, got 2"),
        (lambda: BatchEMA(momentum=0.1, initial=(0, -1)), "variance >= 0"),
        (lambda: BatchEMA(momentum=0.1, initial=3), "initial must be"),
        (lambda: BatchEMA(momentum=0.1, batch_rows=0), "batch_rows must be an integer"),
        (lambda: BatchEMA(momentum=0.1, batch_rows=2.5), "got 2.5"),
    ],
)
def test_invalid_argument_is_named_with_a_remedy(make, says):
    with pytest.raises(InvalidValueError, match=says):
        make()


def test_equal_policies_compare_equal():
    assert EMA(halflife=10) == EMA(halflife=10.0) != EMA(halflife=11)
    assert EMA(halflife=np.float32(10)) == EMA(halflife=10)
    assert Welford() == Welford()
    assert repr(EMA(halflife=10)) == "EMA(halflife=10)"
    assert repr(BatchEMA(momentum=None, ddof=0)) == "BatchEMA(momentum=None, ddof=0)"
    with pytest.raises(AttributeError):
        EMA(alpha=0.5).alpha = 0.1


def test_policies_describe_themselves():
    assert Welford().describe() == "Welford: every value counts equally"
    assert EMA(halflife=10_000).describe() == "EMA by row: half-life 10,000 rows"
    assert "each record batch weighs 0.1" in BatchEMA(momentum=0.1).describe()
    assert "each block of 4,096 rows" in BatchEMA(decay=0.9, batch_rows=4096).describe()


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("gap", [30, 450, 5000, 15_000])
def test_long_gap_keeps_the_statistics_under_any_cut(adjust, gap):
    policy = EMA(halflife=1, adjust=adjust)
    silence = [None] * gap
    before = policy.read(learned(policy, [[1.0, 2.0, 3.0, 20.0]]), 0)
    a, b = learned(policy, [[1.0, 2.0, 3.0]]), learned(policy, [[20.0]])
    c = policy.update(policy.init(1), columns(silence, kind=pa.float64()))
    for state in (
        learned(policy, [[1.0, 2.0, 3.0, 20.0, *silence]]),
        learned(policy, [[1.0, 2.0, 3.0], [20.0, *silence]]),
        policy.merge(policy.merge(a, b), c),
        policy.merge(a, policy.merge(b, c)),
    ):
        after = policy.read(state, 0)
        assert after.mean_hi[0] == before.mean_hi[0]
        assert after.var[0] == pytest.approx(before.var[0], rel=1e-13, abs=0)
        later = policy.read(policy.update(state, columns([7.0, 7.0])), 0)
        assert gap == 30 or later.mean_hi[0] == 7.0
