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
from streambn.errors import InvalidValueError, MergeError
from streambn.kernels import Columns
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
    globals()[f"Test{_name}Laws"] = type(
        f"Test{_name}Laws",
        (PolicyLaws,),
        {
            "policy": _policy,
            "depends_on_cuts": isinstance(_policy, BatchEMA) and _policy.batch_rows is None,
            "block_rows": getattr(_policy, "batch_rows", None) or 1,
        },
    )


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
    ("policy", "law"),
    [
        (IgnoresTimes(halflife=10.0, time="t"), "commutative_parts_merge_in_any_order"),
        (IgnoresOrder(), "commutative_parts_merge_in_any_order"),
        (AddsToWeights(), "weights_of_one_change_nothing"),
    ],
    ids=["times", "order", "weights"],
)
def test_laws_find_a_broken_policy(policy, law):
    laws = type("Laws", (PolicyLaws,), {"policy": policy})()
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


# --------------------------------------------------------------- against the exact value


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


def weights_of(policy, values):
    """Return the exact weights of the values that are not missing, by the definition."""
    # The decay that the policy computes with, as float64.
    decay, n = Fraction(policy.decay), len(values)
    at = [i for i, value in enumerate(values) if value is not None]
    if policy.ignore_na:
        at, n = list(range(len(at))), len(at)
    if policy.adjust:
        return [decay ** (n - 1 - i) for i in at]
    # The recursion divides by the sum of both weights at each value.
    weights = [Fraction(1)]
    for gap in np.diff(at).tolist():
        old, new = decay**gap, 1 - decay
        weights = [w * old / (old + new) for w in weights] + [new / (old + new)]
    return weights[: len(at)]


@pytest.mark.parametrize("ignore_na", [False, True])
@pytest.mark.parametrize("adjust", [False, True])
@settings.get_profile("few")
@given(data=st.data())
def test_ema_agrees_with_exact_arithmetic(data, adjust, ignore_na):
    rate = data.draw(st.sampled_from([{"alpha": 0.25}, {"alpha": 0.9}, {"com": 7.0}]))
    policy = EMA(**rate, adjust=adjust, ignore_na=ignore_na)
    value = st.none() | st.floats(-1, 1).map(lambda v: 1e9 + v)
    stream = data.draw(st.lists(st.lists(value, max_size=6), min_size=1, max_size=6))
    states = [policy.update(policy.init(1), columns(batch, kind=pa.float64())) for batch in stream]
    state = merged_in_a_tree(data.draw, policy.merge, states)
    flat = [v for batch in stream for v in batch]
    present = [v for v in flat if v is not None]
    population, sample = policy.read(state, 0), policy.read(state, 1)
    assert population.defined[0] == bool(present)
    if not present:
        return
    weights = weights_of(policy, flat)
    mean, square = exact_moments(present, weights)
    total, squared = sum(weights), sum(w * w for w in weights)
    assert population.mean_hi[0] == pytest.approx(float(mean), rel=1e-15, abs=0)
    assert population.var[0] == pytest.approx(float(square / total), rel=1e-11, abs=1e-13)
    if len(present) > 1:
        unbiased = square * total / (total**2 - squared)
        assert sample.var[0] == pytest.approx(float(unbiased), rel=1e-11, abs=1e-13)
    else:
        assert np.isnan(sample.var[0])


@pytest.mark.parametrize(
    "rate", [{"alpha": 0.3}, {"halflife": 7}, {"span": 12}, {"com": 4.0}], ids=str
)
@pytest.mark.parametrize(
    ("adjust", "ignore_na", "missing"),
    # Without (False, False, True): pandas divides anew after each gap, as the docstring of EMA
    # explains.
    [(a, i, m) for a in (True, False) for i in (True, False) for m in (False, a or i)],
)
def test_ema_agrees_with_pandas(rate, adjust, ignore_na, missing):
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    if missing:
        x[rng.random(400) < 0.3] = np.nan
    policy = EMA(**rate, adjust=adjust, ignore_na=ignore_na)
    state = learned(policy, np.split(x, np.sort(rng.integers(0, 400, size=15))))
    peer = pd.Series(x).ewm(**rate, adjust=adjust, ignore_na=ignore_na)
    assert policy.read(state, 0).mean_hi[0] == pytest.approx(peer.mean().iloc[-1], rel=1e-12, abs=0)
    assert policy.read(state, 0).var[0] == pytest.approx(
        peer.var(bias=True).iloc[-1], rel=1e-12, abs=0
    )
    assert policy.read(state, 1).var[0] == pytest.approx(
        peer.var(bias=False).iloc[-1], rel=1e-12, abs=0
    )


def test_ema_survives_many_half_lives_without_values():
    policy = EMA(halflife=1)
    state = learned(policy, [[1.0, 2.0, 4.0]])
    before = policy.read(state, 0)
    for _ in range(3):
        state = policy.update(state, Columns.of(pa.nulls(5000, pa.float64())))
    after = policy.read(state, 0)
    assert after.mean_hi[0] == before.mean_hi[0]
    assert after.var[0] == pytest.approx(before.var[0], rel=1e-12, abs=0)
    state = policy.update(state, columns([7.0, 7.0]))
    assert policy.read(state, 0).mean_hi[0] == 7.0


def test_ema_forgets_all_but_the_end_of_a_long_stream():
    policy = EMA(halflife=2)
    x = np.concatenate([np.full(200_000, 1e15), [1.0, 2.0, 3.0] * 1000])
    reading = policy.read(learned(policy, [x]), 0)
    end = pd.Series(x[-2000:]).ewm(halflife=2)
    assert reading.mean_hi[0] == pytest.approx(end.mean().iloc[-1], rel=1e-13, abs=0)
    assert reading.var[0] == pytest.approx(end.var(bias=True).iloc[-1], rel=1e-12, abs=0)


# ------------------------------------------------------------------------- batch norm


def batch_norm_by_hand(blocks, new, ddof, mean=0.0, var=1.0):
    for k, block in enumerate(blocks, start=1):
        weight = 1 / k if new is None else new
        mean = (1 - weight) * mean + weight * np.mean(block)
        var = (1 - weight) * var + weight * np.var(block, ddof=ddof)
    return mean, var


@pytest.mark.parametrize(
    ("policy", "new", "ddof"),
    [
        (BatchEMA(momentum=0.1), 0.1, 1),
        (BatchEMA(decay=0.99, ddof=0), 1 - 0.99, 0),
        (BatchEMA(momentum=None), None, 1),
        (BatchEMA(momentum=1.0), 1.0, 1),
        (BatchEMA(momentum=0.5, initial=(3.0, 7.0)), 0.5, 1),
    ],
    ids=str,
)
def test_batch_ema_follows_the_recursion(policy, new, ddof):
    rng = np.random.default_rng(0)
    blocks = [5 + rng.normal(size=n) for n in rng.integers(2, 40, size=30)] * 3
    reading = policy.read(learned(policy, blocks), 0)
    initial = policy.initial or (0.0, 1.0)
    mean, var = batch_norm_by_hand(blocks, new, ddof, *initial)
    assert reading.mean_hi[0] == pytest.approx(mean, rel=1e-13, abs=0)
    assert reading.var[0] == pytest.approx(var, rel=1e-13, abs=0)


def test_batch_ema_without_initial_values_is_unbiased():
    policy = BatchEMA(momentum=0.1, initial=None)
    blocks = [[1.0, 3.0], [5.0, 9.0], [2.0, 2.0]]
    weights = np.array([0.81, 0.9, 1.0])
    reading = policy.read(learned(policy, blocks), 0)
    assert reading.mean_hi[0] == pytest.approx(
        np.average([2, 7, 2], weights=weights), rel=1e-15, abs=0
    )
    assert reading.var[0] == pytest.approx(np.average([2, 8, 0], weights=weights), rel=1e-15, abs=0)


def test_batch_rows_makes_cuts_irrelevant():
    policy = BatchEMA(momentum=0.1, batch_rows=64)
    x = np.random.default_rng(1).normal(size=1000)
    one = learned(policy, [x])
    many = learned(policy, np.array_split(x, 37))
    assert (one.blocks, one.open_rows) == (many.blocks, many.open_rows) == (15, 1000 - 15 * 64)
    a, b = policy.read(one, 0), policy.read(many, 0)
    assert a.mean_hi[0] == pytest.approx(b.mean_hi[0], rel=1e-14, abs=0)
    assert a.var[0] == pytest.approx(b.var[0], rel=1e-14, abs=0)
    mean, var = batch_norm_by_hand(x[: 15 * 64].reshape(15, 64), 0.1, 1)
    assert a.mean_hi[0] == pytest.approx(mean, rel=1e-12, abs=0)
    assert a.var[0] == pytest.approx(var, rel=1e-12, abs=0)


def test_batch_rows_merge_only_at_the_ends_of_blocks():
    policy = BatchEMA(momentum=0.5, initial=None, batch_rows=4)
    x = np.arange(12.0)
    whole = learned(policy, [x])
    at_edge = policy.merge(learned(policy, [x[:8]]), learned(policy, [x[8:]]))
    assert policy.read(at_edge, 0).mean_hi == policy.read(whole, 0).mean_hi
    filling = policy.merge(learned(policy, [x[:6]]), learned(policy, [x[6:8]]))
    assert policy.read(filling, 0).mean_hi == policy.read(learned(policy, [x[:8]]), 0).mean_hi
    with pytest.raises(MergeError, match="2 of batch_rows=4 rows"):
        policy.merge(learned(policy, [x[:6]]), learned(policy, [x[6:]]))


def test_block_of_one_row_moves_the_mean_only():
    policy = BatchEMA(momentum=0.5)
    before = learned(policy, [[1.0, 3.0]])
    after = policy.update(before, columns([10.0]))
    assert policy.read(after, 0).var[0] == policy.read(before, 0).var[0]
    assert policy.read(after, 0).mean_hi[0] == 0.5 * policy.read(before, 0).mean_hi[0] + 5


def test_block_without_values_changes_nothing():
    policy = BatchEMA(momentum=0.5)
    before = learned(policy, [[1.0, 3.0]])
    after = policy.update(before, columns([None, None], kind=pa.float64()))
    assert policy.read(after, 0).mean_hi == policy.read(before, 0).mean_hi


# -------------------------------------------------------------------------- arguments


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
        (
            lambda: EMA(halflife=np.timedelta64(3, "M")),
            r"number of rows > 0, got np.timedelta64\(3",
        ),
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
@pytest.mark.parametrize("gap", [30, 450, 5000])
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
        assert after.mean_hi[0] == pytest.approx(before.mean_hi[0], rel=1e-14, abs=0)
        assert after.var[0] == pytest.approx(before.var[0], rel=1e-13, abs=0)
