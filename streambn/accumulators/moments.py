"""The monoid of weighted moments, on which all statistics rest.

A segment of a stream is described, feature by feature, by

=========  =====================================================================
W          sum of the weights w_i
Q          sum of w_i²
C          sum over i < j of w_i·w_j
μ          weighted mean
S          sum of w_i·(x_i − μ)²
P          decay, the factor by which the segment discounts all that came before
=========  =====================================================================

An older segment A followed by a newer segment B merges, with w = P_B·W_A and δ = μ_B − μ_A,
into::

    W = w + W_B                  P = P_A·P_B
    μ = μ_A + δ·W_B/W            S = P_B·S_A + S_B + δ²·w·W_B/W
    Q = P_B²·Q_A + Q_B           C = P_B²·C_A + C_B + w·W_B

One row is W = 1, μ = x, S = 0, C = 0, Q = 1 and P = λ. With λ = 1 this is Welford's algorithm in
the merging form of Chan, Golub and LeVeque (1983). With λ < 1 it is the exponentially weighted
mean and variance. The population variance is S/W, the unbiased one S·W/(2C).

The merge is associative for every decay, and commutative if P = 1. The segment with W = 0 and
P = 1 is its identity, bit for bit. There is no subtraction, which would not be safe in floating
point. μ and S are unevaluated sums hi + lo of two float64 (double-double).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from streambn import kernels
from streambn.accumulators.sealed import SealedArrays
from streambn.kernels import Columns, Estimates, MomentArrays
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import TallyArrays

__all__ = ["Moments"]


class Moments(SealedArrays, MomentArrays):
    """Moments of one segment of a stream: an immutable value over features.

    `streambn.kernels.MomentArrays` documents the fields and their units; the module's docstring
    has the formula of `merge`.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from streambn.kernels import Columns
    >>> one, two = (Moments.of(Columns.of(pa.array(values))) for values in ([1.0, 2.0], [6.0]))
    >>> both = one.merge(two)
    >>> both.count, both.mean, both.m2
    (array([3]), array([3.]), array([14.]))
    >>> one.merge(Moments.empty(1)) == one
    True
    """

    __slots__ = ()

    @classmethod
    def empty(cls, features: int) -> Self:
        """Return the moments of no data: the identity of `merge`."""
        return cls.sealed(kernels.empty_moments(features))

    @classmethod
    def of_nulls(cls, rows: int) -> Self:
        """Return the moments of one feature that is null in so many rows."""
        return cls.sealed(kernels.empty_moments(1).replace(nulls=np.array([rows])))

    @classmethod
    def of(cls, columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> Self:
        """Return the moments of one batch; see `streambn.kernels.block_moments`."""
        return cls.sealed(kernels.block_moments(columns, decay, ignore_na))

    def merge(self, newer: MomentArrays) -> Self:
        """Return the moments of this segment followed by `newer`."""
        return type(self).sealed(kernels.merge_moments(self, newer))

    def extend(self, columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> Self:
        """Return the moments of this segment followed by one batch."""
        return type(self).sealed(kernels.extend_moments(self, columns, decay, ignore_na))

    def with_tally(self, tally: TallyArrays) -> Self:
        """Return these moments with other counts and extremes."""
        memory = self.memory.copy()
        memory[self.TALLY] = tally.memory[self.TALLY]
        return self.sealed(MomentArrays(memory))

    @property
    def mean(self) -> Floats:
        """The mean in the data's units, rounded to float64; 0 where undefined."""
        return np.ldexp(self.mean_hi + self.mean_lo, self.exponent)

    @property
    def m2(self) -> Floats:
        """Σw(x − mean)² in the data's units; infinity beyond float64."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.m2_hi + self.m2_lo, 2 * self.exponent)

    @property
    def infs(self) -> Ints:
        """Number of infinities of either sign."""
        return self.pos_infs + self.neg_infs

    @property
    def missing(self) -> Ints:
        """Counts of nulls, NaN, +inf and −inf, shape (4, features)."""
        return self.memory[1:5]

    @property
    def effective_count(self) -> Floats:
        """Kish's effective sample size W²/Q."""
        some = self.squares > 0
        with np.errstate(over="ignore"):
            ratio = self.weight / np.where(some, self.squares, 1.0)
            return np.where(some, ratio * self.weight, 0.0)

    def read(self, ddof: int) -> Estimates:
        """Return mean and variance: S/W, or S·W/(2C) if `ddof` is 1."""
        return kernels.read_moments(self, ddof)

    def __add__(self, newer: object) -> Self:
        """Return the same as `merge`."""
        return self.merge(newer) if isinstance(newer, MomentArrays) else NotImplemented
