"""Exact sums of a stream's segment, as a value that merges without rounding.

Where `streambn.accumulators.moments` keeps a mean and a sum of squares about it, each rounded to some
hundred bits, this keeps Σx and Σx² as integers. What is read of them is divided once and
rounded once, so it depends on the values alone, and not on how they were cut or in which
order they came.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from streambn import kernels
from streambn.accumulators.moments import Estimates, Moments
from streambn.kernels import Columns, ExactSums
from streambn.kernels.interface import Ints

__all__ = ["ExactMoments"]

_BOOKS = slice(0, 7)  # the rows of a Moments, too, that hold counts and extremes
_ROOT_BITS = 56  # of a root, beside a last bit that stands for all others: 53 are kept


class ExactMoments(ExactSums):
    """Σx and Σx² of one segment of a stream: an immutable value, arrays over lanes.

    The fields and their units are those of `streambn.kernels.ExactSums`. Merging is
    associative and commutative, bit for bit.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from streambn.kernels import Columns
    >>> one, two = (ExactMoments.of(Columns.of(pa.array(v))) for v in ([1e300, 1.0], [-1e300]))
    >>> one.merge(two) == two.merge(one)
    True
    >>> one.merge(two).reading(ddof=0).mean_hi
    array([0.33333333])
    """

    __slots__ = ()

    @classmethod
    def sealed(cls, sums: ExactSums) -> Self:
        """Take over sums that nobody else holds, and make them read-only."""
        sums.memory.setflags(write=False)
        return cls(sums.memory)

    def __reduce__(self) -> tuple[Any, ...]:
        return _sealed, (self.memory,)

    @classmethod
    def empty(cls, lanes: int) -> Self:
        """Return the sums of nothing: the identity of `merge`."""
        return cls.sealed(kernels.empty_sums(lanes))

    @classmethod
    def of(cls, columns: Columns) -> Self:
        """Return the sums of one batch."""
        return cls.sealed(kernels.exact_sums(columns))

    @classmethod
    def from_integers(
        cls, books: Moments, scales: Sequence[int | None], sums: Sequence[tuple[int, int]]
    ) -> Self:
        """Make it of counts and extremes, and of what `integers` gives of each lane.

        Parameters
        ----------
        books : Moments
        scales : sequence of int or None
            Of decimals; None: the unit is that of floats.
        sums : sequence of (int, int)

        Raises
        ------
        OverflowError
            An integer has more digits than there is room for.
        """
        made = kernels.empty_sums(len(sums))
        made.memory[_BOOKS] = books.memory[_BOOKS]
        made.decimal[:] = [scale is not None for scale in scales]
        made.scale[:] = [scale or 0 for scale in scales]
        for lane, (total, squares) in enumerate(sums):
            made.put(lane, total, squares)
        return cls.sealed(made)

    def merge(self, newer: ExactSums) -> Self:
        """Return the sums of both segments.

        Raises
        ------
        UnmergeableError
            One has decimals in a lane, the other floats that are not whole there.
        """
        return type(self).sealed(kernels.merge_exact(self, newer))

    def extend(self, columns: Columns) -> Self:
        """Return the sums of this segment and one batch; see `merge`."""
        return type(self).sealed(kernels.extend_exact(self, columns))

    def take(self, lanes: Sequence[int] | NDArray[np.int64]) -> Self:
        """Return some of the lanes, in the order given."""
        return type(self).sealed(ExactSums(np.take(self.memory, np.asarray(lanes, int), axis=1)))

    @property
    def books(self) -> Moments:
        """Counts and extremes, as the moments of nothing else."""
        memory = _nothing(self.memory.shape[1]).copy()
        memory[_BOOKS] = self.memory[_BOOKS]
        return Moments.sealed(kernels.MomentArrays(memory))

    def reading(self, ddof: int) -> Estimates:
        """Return mean, variance and deviation, each the float64 nearest to the exact value.

        Mean Σx/n, variance (n·Σx² − (Σx)²)/(n·(n − ddof)). A tie goes to the even one. The
        variance is infinite where it lies beyond float64; its root, taken of the exact
        variance, then need not be.
        """
        lanes = self.memory.shape[1]
        found = np.array([self._lane(lane, ddof) for lane in range(lanes)], np.float64)
        mean, rest, var, std = np.ascontiguousarray(found.reshape(lanes, 4).T)
        return Estimates(mean, rest, var, std, self.count > 0)

    def _lane(self, lane: int, ddof: int) -> _Lane:
        count = int(self.count[lane])
        if not count:
            return _Lane(0.0, 0.0, math.nan, math.nan)
        total, squares = self.integers(lane)
        # One unit is numerator/denominator.
        scale = int(self.scale[lane])
        numerator = 10 ** max(-scale, 0)
        denominator = 10 ** max(scale, 0) if self.decimal[lane] else 1 << self.UNIT_BITS
        mean = _nearest(total * numerator, count * denominator)
        rest = _rest(total * numerator, count * denominator, mean)
        if count <= ddof:
            return _Lane(mean, rest, math.nan, math.nan)
        spread = (count * squares - total * total) * numerator**2
        divisor = count * (count - ddof) * denominator**2
        return _Lane(mean, rest, _nearest(spread, divisor), _nearest_root(spread, divisor))

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        return isinstance(other, ExactMoments) and np.array_equal(self.memory, other.memory)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


class _Lane(NamedTuple):
    mean_hi: float
    mean_lo: float
    var: float
    std: float


def _sealed(memory: Ints) -> ExactMoments:
    return ExactMoments.sealed(ExactSums(memory))


@functools.lru_cache(maxsize=16)
def _nothing(lanes: int) -> Ints:
    return Moments.empty(lanes).memory


def _nearest(numerator: int, denominator: int) -> float:
    """Return the float64 nearest to a quotient; infinity where it lies beyond.

    The division of two integers is Python's, which rounds once, to subnormal numbers too.
    """
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _rest(numerator: int, denominator: int, nearest: float) -> float:
    """Return what the nearest float64 leaves of a quotient, rounded to float64."""
    if not math.isfinite(nearest):
        return 0.0
    high, unit = nearest.as_integer_ratio()
    rest = (numerator * unit - high * denominator) / (denominator * unit)
    # Just below half a unit in the last place it may be rounded to that half, and added to an
    # odd float64 it would then round to the next.
    return rest if nearest + rest == nearest else math.nextafter(rest, 0.0)


def _nearest_root(numerator: int, denominator: int) -> float:
    """Return the float64 nearest to the root of a quotient >= 0."""
    if not numerator:
        return 0.0
    # An even power of two by which the quotient has twice the bits of the root.
    power = 2 * _ROOT_BITS - numerator.bit_length() + denominator.bit_length()
    power += power % 2
    scaled, left = divmod(numerator << max(power, 0), denominator << max(-power, 0))
    root = math.isqrt(scaled)
    # All bits below matter only in whether there is any: to tell a tie from what is more.
    sticky = root << 1 | (left > 0 or root * root != scaled)
    exponent = power // 2 + 1
    return _nearest(sticky << max(-exponent, 0), 1 << max(exponent, 0))
