"""Mean, variance and scale of each feature, as they are read from a state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import NEGLIGIBLE, Estimates, Floats, Ints, Maps
from streambn.kernels.moments import MomentArrays, TallyArrays, empty_moments
from streambn.kernels.reference.merge import merge_moments

__all__ = ["maps_of", "maps_of_moments", "read_moments", "var_and_std", "with_first"]

# The error of a double-double is near 2**-104. Smaller low parts of a mean are noise: the mean of
# 1, 2 and 3 must be 2 and not 2 + 1e-32, so that 2 normalizes to 0.
_NOISE = 2.0**-96
_EPSILON = float(np.finfo(np.float64).eps)
_LEAST_NORMAL = float(np.finfo(np.float64).smallest_normal)
# Where the variance leaves the range of float64 its root may not.
_ORDINARY_VARIANCE = 1e-290


def read_moments(moments: MomentArrays, ddof: int) -> Estimates:
    """Return mean and variance: S/W, or S·W/(2C) if `ddof` is 1.

    2C equals W² − Q without its cancellation. With unit weights the divisor is n − 1.
    """
    m = moments
    with np.errstate(all="ignore"):
        unbiased = np.where(m.pairs > 0, 2 * m.pairs / m.weight, 0.0)
    # W = Q = n implies Σ(w − 1)² = 0, and then n − 1 needs no rounding.
    unit_weights = (m.weight == m.count) & (m.squares == m.count)
    unbiased = np.where(unit_weights, m.weight - 1.0, unbiased)
    divisor = m.weight if ddof == 0 else unbiased
    noise = np.abs(m.mean_lo) < _NOISE * np.abs(m.mean_hi)
    return Estimates(
        np.ldexp(m.mean_hi, m.exponent),
        np.ldexp(np.where(noise, 0.0, m.mean_lo), m.exponent),
        *var_and_std((m.m2_hi, m.m2_lo), divisor, m.exponent),
        m.weight > 0,
    )


def var_and_std(m2: dd.Pair, divisor: Floats, exponent: Ints) -> tuple[Floats, Floats]:
    """Return variance ``m2 / divisor`` and its root; `m2` is in units of 2**(2 * exponent).

    Both are NaN where the divisor is not positive. The root is taken before the exponent is
    applied, so it is right where the variance leaves the range of float64.
    """
    with np.errstate(all="ignore"):
        positive = divisor > 0
        scaled = dd.divide(m2, dd.wide(np.where(positive, divisor, 1.0)))[0]
        scaled = np.where(positive, np.maximum(scaled, 0.0), np.nan)
        return np.ldexp(scaled, 2 * exponent), np.ldexp(np.sqrt(scaled), exponent)


def with_first(moments: MomentArrays, first: MomentArrays, alpha: float) -> MomentArrays:
    """Return the moments of all values of the recursion of ``EMA(adjust=False)``.

    Parameters
    ----------
    moments : MomentArrays
        Of all values but the first. P is the discount of the first value.
    first : MomentArrays
        Of the first value alone. It weighs P/α.
    alpha : float
    """
    # 0.7 times the smallest float64 is itself, and the first value would never be forgotten.
    left = np.where(moments.decay < NEGLIGIBLE, 0.0, moments.decay)
    weight = left / alpha * first.count
    prior = first.replace(weight=weight, squares=weight * weight)
    prior.memory[TallyArrays.TALLY] = empty_moments(len(weight)).memory[TallyArrays.TALLY]
    # The weight is that as of the last row: the later values must not discount it once more.
    return merge_moments(prior, moments.replace(decay=np.ones(len(weight))))


def maps_of_moments(moments: MomentArrays, ddof: int, exact: NDArray[np.bool_], eps: float) -> Maps:
    """Return the maps that `maps_of` gives for the estimates of `read_moments`."""
    return maps_of(read_moments(moments, ddof), exact, eps)


def maps_of(estimates: Estimates, exact: NDArray[np.bool_], eps: float) -> Maps:
    """Return location and scale √(var + eps) of each feature, and its flags.

    A constant feature has scale √eps, or 1 if `eps` is 0.

    Parameters
    ----------
    estimates : Estimates
    exact : ndarray of bool, shape (F,)
        Whether the feature holds integers or decimals, which are not rounded.
    eps : float

    Returns
    -------
    numbers : ndarray of float64, shape (3, F)
        The mean as hi and lo, and the scale.
    flags : ndarray of bool, shape (2, F)
        Whether the feature has a mean, and whether it is constant.
    """
    hi, lo, var, std, defined = estimates
    with np.errstate(all="ignore"):
        rounding = np.maximum(_EPSILON * np.abs(hi), _LEAST_NORMAL)
        rounding = np.where(exact, 0.0, rounding)
        constant = ~(std > rounding) & np.isfinite(hi)
        std = np.where(constant, 0.0, std)
        if eps == 0:
            scale = np.where(constant, 1.0, std)
        else:
            ordinary = (var > _ORDINARY_VARIANCE) & np.isfinite(var + eps)
            root = np.hypot(std, np.sqrt(eps))
            scale = np.where(constant | ~ordinary, root, np.sqrt(var + eps))
        return np.array([hi, lo, scale]), np.array([defined, constant & defined])
