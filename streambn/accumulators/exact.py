"""Exact integer sums of a segment of a stream, which merge without rounding.

`streambn.accumulators.moments` keeps a mean and a sum of squares about it, each rounded to about
100 bits. This module keeps Σx and Σx² as integers. Statistics are divided and rounded once, when
they are read, so they depend on the values alone and not on their order or batches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Self

import numpy as np

from streambn import kernels
from streambn.accumulators.moments import Moments
from streambn.accumulators.sealed import SealedArrays
from streambn.kernels import Columns, Estimates, ExactSums
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import ZERO_EXPONENT
from streambn.kernels.rational import Ratio, central_of, nearest_pair

__all__ = ["ExactMoments"]

_ORDINARY = 400  # values within 2**±400 are kept in plain units


class ExactMoments(SealedArrays, ExactSums):
    """Σx and Σx² of one segment of a stream: an immutable value over features.

    `streambn.kernels.ExactSums` documents the fields and their units. The merge is associative
    and commutative, bit for bit.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from streambn.kernels import Columns
    >>> one, two = (ExactMoments.of(Columns.of(pa.array(v))) for v in ([1e300, 1.0], [-1e300]))
    >>> one.merge(two) == two.merge(one)
    True
    >>> one.merge(two).read(ddof=0).mean_hi
    array([0.33333333])
    """

    __slots__ = ()

    @classmethod
    def empty(cls, features: int) -> Self:
        """Return the sums of no data: the identity of `merge`."""
        return cls.sealed(kernels.empty_sums(features))

    @classmethod
    def of_nulls(cls, rows: int) -> Self:
        """Return the sums of one feature that is null in so many rows."""
        sums = kernels.empty_sums(1)
        sums.nulls[:] = rows
        return cls.sealed(sums)

    @classmethod
    def of(cls, columns: Columns) -> Self:
        """Return the sums of one batch."""
        return cls.sealed(kernels.exact_sums(columns))

    @classmethod
    def from_integers(
        cls, tally: Moments, scales: Sequence[int | None], sums: Sequence[tuple[int, int]]
    ) -> Self:
        """Build a value from counts and extremes, and from what `integers` gave.

        Parameters
        ----------
        tally : Moments
        scales : sequence of int or None
            Scale of the decimals of each feature; None: the unit is that of floats.
        sums : sequence of (int, int)
            Σx and Σx² of each feature, in its unit.

        Raises
        ------
        OverflowError
            A sum has too many digits.
        """
        made = kernels.empty_sums(len(sums))
        made.memory[cls.TALLY] = tally.memory[cls.TALLY]
        made.decimal[:] = [scale is not None for scale in scales]
        made.scale[:] = [scale or 0 for scale in scales]
        for feature, (total, squares) in enumerate(sums):
            made.put(feature, total, squares)
        return cls.sealed(made)

    def merge(self, newer: ExactSums) -> Self:
        """Return the sums of both segments.

        Raises
        ------
        UnmergeableError
            A feature holds decimals in one segment and fractional floats in the other.
        """
        return type(self).sealed(kernels.merge_exact(self, newer))

    def extend(self, columns: Columns) -> Self:
        """Return the sums of this segment and one batch; raises as `merge` does."""
        return type(self).sealed(kernels.extend_exact(self, columns))

    @property
    def tally(self) -> Moments:
        """Counts and extremes as moments, whose other fields are those of no data."""
        return _empty(self.memory.shape[1]).with_tally(self)

    def read(self, ddof: int) -> Estimates:
        """Return mean, variance and standard deviation, each the float64 nearest to its value.

        The mean is Σx/n, the variance (n·Σx² − (Σx)²)/(n·(n − ddof)). Ties round to even. A
        variance beyond float64 is infinite; its root is taken of the exact variance and may be
        finite.
        """
        return kernels.read_exact(self, ddof)

    def to_moments(self) -> Moments:
        """Return the moments of the same values, each rounded once.

        Mean and sum of squares are the double-doubles nearest to the exact values: hi is the
        nearest float64, and lo the float64 nearest to the rest.
        """
        features = self.memory.shape[1]
        pairs = np.zeros((2, features, 2))
        exponents = np.full(features, ZERO_EXPONENT)
        for feature in range(features):
            central = central_of(self, feature)
            if central is None:
                continue
            exponents[feature] = exponent = self._exponent(feature)
            shift = 0 if exponent == ZERO_EXPONENT else exponent
            pairs[0, feature] = nearest_pair(*_shifted(central.mean, shift))
            pairs[1, feature] = nearest_pair(*_shifted(central.m2, 2 * shift))
        weight = self.count.astype(np.float64)
        moments = self.tally.replace(
            weight=weight,
            squares=weight,
            pairs=np.array([float(n * (n - 1) // 2) for n in self.count.tolist()], np.float64),
            mean_hi=pairs[0, :, 0],
            mean_lo=pairs[0, :, 1],
            m2_hi=pairs[1, :, 0],
            m2_lo=pairs[1, :, 1],
            exponent=exponents,
        )
        return Moments.sealed(moments)

    def approximate_sums(self) -> tuple[Floats, Floats]:
        """Return Σx and Σx² in the data's units, each within a few units in the last place.

        Sums may be infinite or NaN if one of them is beyond float64. A sum below 1e-290 may have
        lost all digits.
        """
        plain = self.decimal == 0
        if plain.all():
            bits = self.UNIT_BITS
            return _approximate(self.total, bits), _approximate(self.squares, 2 * bits)
        unit = 10.0 ** -self.scale.astype(np.float64)
        with np.errstate(all="ignore"):
            total = _approximate(self.total, 0) * unit
            squares = _approximate(self.squares, 0) * unit * unit
        plain_columns = np.flatnonzero(plain)
        if len(plain_columns):
            total[plain], squares[plain] = self.take(plain_columns).approximate_sums()
        return total, squares

    def _exponent(self, feature: int) -> int:
        """Return the binary exponent of the units in which moments keep a feature's values."""
        _, squares = self.integers(feature)
        if not squares:
            return ZERO_EXPONENT
        numerator, denominator = self.unit(feature)
        bits = (squares * numerator**2).bit_length() - (denominator**2).bit_length()
        return 0 if abs(bits) <= 2 * _ORDINARY else bits // 2


def _approximate(limbs: Ints, bits: int) -> Floats:
    """Return integers of 64-bit limbs, in units of 2**-bits, as float64.

    The limbs become signed digits in base 2**64, which makes the digits above a small negative
    sum zero instead of -1. The highest digit that is not zero therefore dominates the others.
    """
    used = np.flatnonzero(np.bitwise_or.reduce(limbs, axis=1))
    start, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    limbs = limbs[start : end + 1]  # a digit may be carried into the next limb
    digits = limbs.astype(np.float64)
    digits[1:] += limbs[:-1] < 0
    with np.errstate(all="ignore"):
        weights = np.ldexp(1.0, 64 * np.arange(start, start + len(limbs)) - bits)
        if 64 * end - bits >= 1024:  # infinity times zero would be NaN
            weights[~digits.any(axis=1)] = 0.0
        values: Floats = weights @ digits
    return values


@functools.lru_cache(maxsize=16)
def _empty(features: int) -> Moments:
    return Moments.empty(features)


def _shifted(ratio: Ratio, exponent: int) -> Ratio:
    """Return a ratio in units of 2**exponent."""
    numerator, denominator = ratio
    return numerator << max(-exponent, 0), denominator << max(exponent, 0)
