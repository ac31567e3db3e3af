"""Checks of moments: exact arithmetic, and agreement of two kernels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa

# The decimal types, and the most digits that each can have.
DIGITS = {pa.decimal32: 9, pa.decimal64: 18, pa.decimal128: 38, pa.decimal256: 76}
COUNTS = ("count", "nulls", "nans", "pos_infs", "neg_infs")
# Tolerance of a mean, in standard deviations, and of a sum of squares, relative. The compiled
# kernels add at most 20 terms in a row: n - 1 roundings of 2**-53 are at most 2.2e-15 of the
# sum of the absolute terms. Squares about a centre are at most four times the squares about the
# mean, because the kernels choose another centre beyond that, which makes 9e-15. The reference
# sums 512 terms at a time, pairwise or in SIMD registers.
CLOSE = 1e-14


def assert_moments_agree(got, expected, close=CLOSE):
    """Check that all counts are equal and that all sums agree within their rounding errors."""
    for name in (*COUNTS, "min", "max"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    np.testing.assert_allclose(got.weight, expected.weight, rtol=close, atol=0)
    # A weight is rounded once a row until it vanishes; its square may be below any float64.
    np.testing.assert_allclose(got.squares, expected.squares, rtol=1e-12, atol=2.0**-1074)
    # The reference adds the pairs row by row, and subtracts each weight from the running sum.
    pairs = np.abs(got.pairs - expected.pairs)
    assert (pairs <= 1e-12 * expected.pairs + 2.0**-50 * expected.weight**2).all()
    # One rounding per 512 rows.
    np.testing.assert_allclose(got.decay, expected.decay, rtol=1e-13, atol=0)
    # Once the past is forgotten, the exponent may be that of the last 512 rows or of all rows.
    units = expected.exponent - got.exponent
    expected = expected.replace(
        mean_hi=np.ldexp(expected.mean_hi, units),
        mean_lo=np.ldexp(expected.mean_lo, units),
        m2_hi=np.ldexp(expected.m2_hi, 2 * units),
        m2_lo=np.ldexp(expected.m2_lo, 2 * units),
    )
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.where(got.weight > 0, expected.m2_hi / expected.weight, 0.0))
        mean = (got.mean_hi - expected.mean_hi) + (got.mean_lo - expected.mean_lo)
        m2 = (got.m2_hi - expected.m2_hi) + (got.m2_lo - expected.m2_lo)
    # The smallest float64, converted to the units of `expected`.
    least = np.ldexp(2.0**-1074, np.maximum(units, 0))
    slack = 2.0**-95 * np.abs(expected.mean_hi) + least
    assert (np.abs(mean) <= close * deviation + slack).all()
    assert (np.abs(m2) <= close * expected.m2_hi).all()


def mean_and_m2(m, feature=0):
    """Return mean and m2 of a feature as fractions."""
    unit = Fraction(2) ** int(m.exponent[feature])
    mean = (Fraction(m.mean_hi[feature]) + Fraction(m.mean_lo[feature])) * unit
    return mean, (Fraction(m.m2_hi[feature]) + Fraction(m.m2_lo[feature])) * unit**2
