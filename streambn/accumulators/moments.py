"""Count, mean and variance of a stream's segment, as a value that merges exactly.

The monoid on which everything rests: `Moments.empty` is its identity, `Moments.merge`
its operation, and a policy is no more than the choice of each row's decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from streambn import kernels
from streambn.kernels import Columns, MomentArrays
from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats, Ints

__all__ = ["Estimates", "Moments", "spread"]

_ORDINARY = 400  # binary exponents within ± this are kept in plain units
_ZERO_EXPONENT = -2200  # of a zero: below any other
# A double-double's own error is near 2**-104; where the mean of 1, 2, 3 is 2 + 1e-32, it is
# 2, and 2 is to normalize to 0.
_NOISE = 2.0**-96


class Estimates(NamedTuple):
    """Statistics as a policy reads them out of its state, one entry a lane.

    Attributes
    ----------
    mean_hi, mean_lo : float64
        The mean as an unevaluated sum, in the data's units; 0 where undefined.
    var, std : float64
        Variance and standard deviation; NaN where undefined. Each is rounded on its
        own, so a standard deviation of 1e200 stands beside a variance of infinity.
    defined : bool
        Whether the lane has a mean at all.
    """

    mean_hi: Floats
    mean_lo: Floats
    var: Floats
    std: Floats
    defined: NDArray[np.bool_]


class Moments(MomentArrays):
    """Moments of one segment of a stream: an immutable value, arrays over lanes.

    The fields and their units are those of `streambn.kernels.MomentArrays`. With a decay
    P = 1 and unit weights this is Welford's algorithm in the merging form of Chan,
    Golub and LeVeque (1983); with P = λ < 1 a row it is the exponentially weighted mean
    and variance. Merging is associative for every decay, and commutative where P = 1.
    There is no subtraction: it would not be safe in floating point.

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

    # Counts and extremes, on which weights and forgetting have no effect.
    BOOKS: ClassVar = ("count", "nulls", "nans", "pos_infs", "neg_infs", "min", "max")

    @classmethod
    def sealed(cls, arrays: MomentArrays) -> Self:
        """Take over arrays that nobody else holds, and make them read-only."""
        arrays.memory.setflags(write=False)
        return cls(arrays.memory)

    def __reduce__(self) -> tuple[Any, ...]:
        return _sealed, (self.memory,)

    @classmethod
    def empty(cls, lanes: int) -> Self:
        """Return the moments of nothing: the identity of `merge`."""
        return cls.sealed(kernels.empty_moments(lanes))

    @classmethod
    def of(cls, columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> Self:
        """Return the moments of one batch; see `streambn.kernels.block_moments`."""
        return cls.sealed(kernels.block_moments(columns, decay, ignore_na))

    @classmethod
    def single(
        cls, value: dd.Pair, exponent: Ints, decay: Floats, present: NDArray[np.bool_]
    ) -> Self:
        """Return one row ``value * 2**exponent`` of weight 1, absent where not `present`."""
        hi, lo = (np.where(present, part, 0.0) for part in value)
        binary = np.frexp(hi)[1] + exponent
        # An even exponent: the lane may hold a variance, whose root is read.
        target = np.where(np.abs(binary) <= _ORDINARY, 0, binary // 2 * 2)
        target = np.where(hi == 0, _ZERO_EXPONENT, target)
        by = np.where(hi == 0, 0, exponent - target)
        row = kernels.empty_moments(len(hi)).replace(
            weight=present.astype(np.float64),
            squares=present.astype(np.float64),
            mean_hi=np.ldexp(hi, by),
            mean_lo=np.ldexp(lo, by),
            decay=np.where(present, decay, 1.0),
            exponent=target,
        )
        return cls.sealed(row)

    def merge(self, newer: MomentArrays) -> Self:
        """Return the moments of this segment followed by `newer`.

        See `streambn.kernels.merge_moments` for the formula. The arguments are
        (older, newer): the result depends on their order unless the decays are 1.
        """
        return type(self).sealed(kernels.merge_moments(self, newer))

    def extend(self, columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> Self:
        """Return the moments of this segment followed by one batch."""
        return type(self).sealed(kernels.extend_moments(self, columns, decay, ignore_na))

    def take(self, lanes: Sequence[int] | NDArray[np.int64]) -> Self:
        """Return some of the lanes, in the order given."""
        return type(self).sealed(MomentArrays(np.take(self.memory, np.asarray(lanes, int), axis=1)))

    @property
    def mean(self) -> Floats:
        """The mean in the data's units, rounded to float64; 0 where nothing was seen."""
        return np.ldexp(self.mean_hi + self.mean_lo, self.exponent)

    @property
    def mean_pair(self) -> dd.Pair:
        """The mean in the data's units as hi + lo, less the digits of lo that are noise."""
        lo = np.where(np.abs(self.mean_lo) < _NOISE * np.abs(self.mean_hi), 0.0, self.mean_lo)
        return np.ldexp(self.mean_hi, self.exponent), np.ldexp(lo, self.exponent)

    @property
    def m2(self) -> Floats:
        """Σw(x − mean)² in the data's units: infinity where float64 ends."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.m2_hi + self.m2_lo, 2 * self.exponent)

    @property
    def missing(self) -> Ints:
        """The counts of what is no finite value, shape (4, L)."""
        return self.memory[1:5]

    @property
    def effective(self) -> Floats:
        """Kish's effective sample size, W²/Q: how many equal weights say as much."""
        some = self.squares > 0
        ratio = self.weight / np.where(some, self.squares, 1.0)
        return np.where(some, ratio * self.weight, 0.0)

    def reading(self, ddof: int) -> Estimates:
        """Return mean and variance: S/W, or with ``ddof=1`` S·W/(2C).

        2C = W² − Q without its cancellation; of unit weights the divisor is n − 1.
        """
        with np.errstate(all="ignore"):
            unbiased = np.where(self.pairs > 0, 2 * self.pairs / self.weight, 0.0)
        # If W = Q = n, then Σ(w − 1)² = 0: n − 1 needs no rounding.
        even = (self.weight == self.count) & (self.squares == self.count)
        unbiased = np.where(even, self.weight - 1.0, unbiased)
        divisor = self.weight if ddof == 0 else unbiased
        var, std = spread((self.m2_hi, self.m2_lo), divisor, self.exponent)
        return Estimates(*self.mean_pair, var, std, self.weight > 0)

    def __add__(self, newer: object) -> Self:
        """Do as `merge` does."""
        return self.merge(newer) if isinstance(newer, MomentArrays) else NotImplemented

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        return isinstance(other, Moments) and np.array_equal(self.memory, other.memory)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _sealed(memory: Ints) -> Moments:
    return Moments.sealed(MomentArrays(memory))


def spread(square: dd.Pair, divisor: Floats, exponent: Ints) -> tuple[Floats, Floats]:
    """Variance and standard deviation ``square / divisor`` in units of 2**(2 * exponent).

    Returns
    -------
    var, std : ndarray
        NaN where the divisor is not positive. The root is taken before the exponent is
        applied: it is right where the variance itself leaves the range of float64.
    """
    with np.errstate(all="ignore"):
        good = divisor > 0
        by = np.where(good, divisor, 1.0)
        scaled = dd.divide(square, dd.wide(by))[0]
        scaled = np.where(good, np.maximum(scaled, 0.0), np.nan)
        return np.ldexp(scaled, 2 * exponent), np.ldexp(np.sqrt(scaled), exponent)
