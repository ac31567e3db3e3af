"""Quotients of exact sums, each rounded once."""

from __future__ import annotations

import math
from typing import NamedTuple

from streambn.kernels.exact import ExactSums

__all__ = ["Central", "Ratio", "central_of", "nearest_pair", "read_feature"]

_ROOT_BITS = 56  # bits of an integer root before it is rounded to 53

Ratio = tuple[int, int]  # numerator, denominator > 0


class Central(NamedTuple):
    """Exact statistics of one feature: n, the mean, and Σ(x − mean)²."""

    n: int
    mean: Ratio
    m2: Ratio


def central_of(sums: ExactSums, feature: int) -> Central | None:
    """Return n, the mean and Σ(x − mean)² of a feature as fractions; None without values."""
    n = int(sums.count[feature])
    if not n:
        return None
    total, squares = sums.integers(feature)
    numerator, denominator = sums.unit(feature)
    return Central(
        n,
        (total * numerator, n * denominator),
        ((n * squares - total * total) * numerator**2, n * denominator**2),
    )


def read_feature(sums: ExactSums, feature: int, ddof: int) -> tuple[float, float, float, float]:
    """Return mean as hi and lo, variance and its root; NaN where they are undefined.

    Each is the nearest float64. Ties round to even. A variance beyond float64 is infinite; its
    root is taken of the exact variance and may be finite.
    """
    central = central_of(sums, feature)
    if central is None:
        return 0.0, 0.0, math.nan, math.nan
    mean = nearest_pair(*central.mean)
    if central.n <= ddof:
        return *mean, math.nan, math.nan
    variance = central.m2[0], central.m2[1] * (central.n - ddof)
    return *mean, _nearest(*variance), _nearest_root(*variance)


def _nearest(numerator: int, denominator: int) -> float:
    """Return the float64 nearest to a quotient; infinity beyond float64.

    Python divides two integers with one rounding, also for subnormal results.
    """
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def nearest_pair(numerator: int, denominator: int) -> tuple[float, float]:
    """Return the double-double nearest to a quotient."""
    hi = _nearest(numerator, denominator)
    if not math.isfinite(hi):
        return hi, 0.0
    high, unit = hi.as_integer_ratio()
    lo = (numerator * unit - high * denominator) / (denominator * unit)
    # A rest just below half a unit in the last place may round up to that half. Added to an odd
    # float64 it would then round to the next one.
    return hi, lo if hi + lo == hi else math.nextafter(lo, 0.0)


def _nearest_root(numerator: int, denominator: int) -> float:
    """Return the float64 nearest to the root of a quotient >= 0."""
    if not numerator:
        return 0.0
    # Scale the quotient by an even power of two to twice the bits of the root.
    power = 2 * _ROOT_BITS - numerator.bit_length() + denominator.bit_length()
    power += power % 2
    scaled, remainder = divmod(numerator << max(power, 0), denominator << max(-power, 0))
    root = math.isqrt(scaled)
    # One last bit says whether any of the bits below is set, which tells a tie from more.
    sticky = root << 1 | (remainder > 0 or root * root != scaled)
    exponent = power // 2 + 1
    return _nearest(sticky << max(-exponent, 0), 1 << max(exponent, 0))
