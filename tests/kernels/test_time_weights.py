"""Weights by time in the kernels: powers of two of the age, to two units in the last place."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from streambn.kernels import Times, reference


def two_to(x):
    """Return 2**x of a fraction to fifty digits."""
    whole = math.floor(x)
    power, rest = Fraction(1), Fraction(2) ** whole
    # 2**f is a product of powers 2**(1/2), 2**(1/4), ...: each is the root of the one before.
    digits, f = Fraction(2), x - whole
    for _ in range(90):
        digits = Fraction(math.isqrt(int(digits * 2**400)), 2**200)
        f *= 2
        if f >= 1:
            power, f = power * digits, f - 1
            power = Fraction(int(power * 2**200), 2**200)
    return power * rest


def assert_near_weights(got, ages, halflives, weights=None):
    """Compare with the exact power of the float64 product, in ulp."""
    for i, (w, age) in enumerate(zip(got.tolist(), ages, strict=True)):
        x = float(age) * -halflives
        if x < -1000:
            assert w == 0
            continue
        expected = two_to(Fraction(x)) * (1 if weights is None else Fraction(weights[i]))
        # The product with a weight has one more rounding.
        units = 2 if weights is None else 3.5
        assert abs(Fraction(w) - expected) <= Fraction(units) * Fraction(math.ulp(float(expected)))


NANOSECONDS = 365 * 86_400 * 10**9  # in a year
TICKS = {
    "both extremes": (np.array([-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 2, 2**63 - 1]), 2**-54),
    "just above zero": (np.array([-(2**63), 2**63 - 1]), 1 / (2.0**64 / 999)),
    "zero at the far end": (np.array([-(2**63), 2**63 - 1]), 1 / (2.0**64 / 1001)),
    "centuries": (np.arange(-280, 281) * (NANOSECONDS // 2), 1 / (7 * NANOSECONDS)),
    "seconds": (1_700_000_000 + np.arange(0, 900, 7), 1 / 60),
    "floats": (np.array([-1e3, -0.1, 0.0, 1e-9, 0.1, 3.5]), 1 / 1.7),
    "far floats": (np.array([-1e300, -1e18, 1e18 - 512, 1e18]), 1 / 1000.0),
    "equal": (np.array([5, 5, 5]), 3.0),
}


@pytest.mark.parametrize("name", TICKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_by_time_are_powers_of_two(kernels, name, weighted):
    ticks, halflives = TICKS[name]
    weights = np.random.default_rng(0).random(len(ticks)) if weighted else None
    for latest in (ticks.max().item(), ticks[len(ticks) // 2 :].max().item()):
        got = kernels.time_weights(Times(ticks, 1), latest, halflives, weights)
        assert got.dtype == np.float64
        assert_near_weights(got, [latest - tick for tick in ticks.tolist()], halflives, weights)


def test_weight_is_zero_past_a_thousand_halflives(kernels):
    ages = np.array([999.999, 1000.0, np.nextafter(1000.0, 2000.0), 1e9, np.inf])
    got = kernels.time_weights(Times(-ages, None), 0.0, 1.0)
    assert got[1] == 2.0**-1000
    assert got[0] > got[1]
    np.testing.assert_array_equal(got[2:], 0.0)


def test_random_powers_are_accurate_to_two_ulp(kernels):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 1, 300), rng.uniform(0, 1000, 300), np.arange(0, 10, 0.5)])
    got = kernels.time_weights(Times(-x, None), 0.0, 1.0)
    assert_near_weights(got, x.tolist(), 1.0)
    np.testing.assert_array_equal(got[np.rint(x) == x], np.exp2(-x[np.rint(x) == x]))


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000, 70_000])
def test_weights_by_time_agree_with_the_reference(native, rows):
    rng = np.random.default_rng(rows)
    weights = rng.random(rows)
    for ticks, halflives in (
        (rng.integers(-(2**63), 2**63 - 1, rows), 1e-17),
        (rng.integers(0, 2**50, rows), 1e-13),
        (rng.normal(0, 100, rows), 0.7),
    ):
        latest = ticks.max(initial=0).item()
        for given in (None, weights):
            arguments = Times(ticks, 1), latest, halflives, given
            got, expected = (k.time_weights(*arguments) for k in (native, reference))
            assert (np.abs(got - expected) <= 4 * np.spacing(expected)).all()
            assert got.shape == (rows,)
    if rows == 1000:
        assert ((got > 0) & (got < 1)).all()


def test_unfit_times_raise(native):
    core, out = native._core.time_weights, np.full(3, 7.0)
    good = np.arange(3)
    for ticks in (good.astype("i4"), good[::-1], good.astype("u8"), good[:2], "text", None):
        with pytest.raises((ValueError, BufferError, TypeError)):
            core(ticks, 2, 1.0, None, 1, out)
    for weights in (good, np.ones(2), np.ones(6)[::2], np.ones(3, np.float32)):
        with pytest.raises((ValueError, BufferError)):
            core(good, 2, 1.0, weights, 1, out)
    for latest in (1.5, "now", 2**63, None):
        with pytest.raises((RuntimeError, TypeError, ValueError, OverflowError)):
            core(good, latest, 1.0, None, 1, out)
    np.testing.assert_array_equal(out, 7.0)
