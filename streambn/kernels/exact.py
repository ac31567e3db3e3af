"""Exact sums as the kernels hold them, and the error for sums that cannot be merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from streambn.errors import MergeError
from streambn.kernels.interface import Ints
from streambn.kernels.moments import IntField, TallyArrays

__all__ = ["ExactSums", "UnmergeableError", "decimal_sums", "empty_sums", "unmergeable"]


class ExactSums(TallyArrays):
    """Exact sums of one segment of a stream, as arrays over features.

    The sums are integers in a unit that divides every value: ``2**-1074`` for floats and
    integers, ``10**-scale`` for decimals. No addition rounds, so equal values give equal memory
    in any order and for any batches and merges.

    Parameters
    ----------
    memory : ndarray of int64, shape (110, F)
        The fields in their order. Fields of float64 are stored bit for bit.

    Attributes
    ----------
    count, nulls, nans, pos_infs, neg_infs : ndarray of int64
        As in `MomentArrays`.
    min, max : ndarray of float64
        The extremes of the finite values, each rounded to the nearest float64. -0.0 is less
        than 0.0.
    decimal : ndarray of int64
        1 if the unit is ``10**-scale``, else 0.
    scale : ndarray of int64
        Digits after the decimal point. May be negative. 0 where `decimal` is 0.
    total : ndarray of int64, shape (34, F)
        The sum of x in units: 64-bit limbs in two's complement, lowest first. The limbs hold
        2**63 floats of any size.
    squares : ndarray of int64, shape (67, F)
        The sum of x**2 in squared units, in the same form.
    """

    __slots__ = ()

    # The unit is 2**-UNIT_BITS, the smallest float64, unless it is decimal.
    UNIT_BITS: ClassVar[int] = 1074
    TOTAL: ClassVar[slice] = slice(9, 43)
    SQUARES: ClassVar[slice] = slice(43, 110)
    ROWS: ClassVar[int] = 110

    decimal = IntField(7)
    scale = IntField(8)

    @property
    def total(self) -> Ints:
        """The limbs of Σx."""
        return self.memory[self.TOTAL]

    @property
    def squares(self) -> Ints:
        """The limbs of Σx²."""
        return self.memory[self.SQUARES]

    def integers(self, feature: int) -> tuple[int, int]:
        """Return Σx and Σx² of a feature, in units."""
        [sums] = self.integers_of([feature])
        return sums

    def integers_of(self, features: Sequence[int] | Ints) -> Iterator[tuple[int, int]]:
        """Yield Σx and Σx² of some features, in units."""
        totals, squares = (
            np.ascontiguousarray(limbs[:, features].T).view(f"V{8 * len(limbs)}").ravel().tolist()
            for limbs in (self.total, self.squares)
        )
        for total, square in zip(totals, squares, strict=True):
            yield (
                int.from_bytes(total, "little", signed=True),
                int.from_bytes(square, "little", signed=True),
            )

    def unit(self, feature: int) -> tuple[int, int]:
        """Return the unit of `integers` of a feature, as numerator and denominator."""
        if not self.decimal[feature]:
            return 1, 1 << self.UNIT_BITS
        scale = int(self.scale[feature])
        return 10 ** max(-scale, 0), 10 ** max(scale, 0)

    def put(self, feature: int, total: int, squares: int) -> None:
        """Set Σx and Σx² of a feature, in units.

        Raises
        ------
        OverflowError
            If a sum does not fit into the limbs.
        """
        for limbs, value in ((self.total, total), (self.squares, squares)):
            octets = value.to_bytes(8 * len(limbs), "little", signed=True)
            limbs[:, feature] = np.frombuffer(octets, "<i8")


def empty_sums(features: int) -> ExactSums:
    """Return the exact sums of an empty segment, the identity of `merge_exact`."""
    sums = ExactSums(np.zeros((ExactSums.ROWS, features), np.int64))
    sums.min[:], sums.max[:] = np.inf, -np.inf
    return sums


class UnmergeableError(MergeError):
    """Two exact sums of a feature have no exact common sum.

    The caller that knows the column's name raises a `MergeError` with `reason`.

    Attributes
    ----------
    feature : int
        The index of the feature.
    reason : str
        What the feature holds, as a sentence without its subject.
    """

    def __init__(self, feature: int, reason: str) -> None:
        super().__init__(f"feature {feature} {reason}")
        self.feature = feature
        self.reason = reason


def decimal_sums(sums: ExactSums, feature: int, scale: int) -> tuple[int, int] | None:
    """Return Σx and Σx² of a feature in units of ``10**-scale``, or None if they are not whole."""
    total, squares = sums.integers(feature)
    if not sums.decimal[feature]:
        bits = sums.UNIT_BITS
        if total & ((1 << bits) - 1) or squares & ((1 << 2 * bits) - 1):
            return None
        total, squares = total >> bits, squares >> 2 * bits
    factor = 10 ** (scale - int(sums.scale[feature]))
    return total * factor, squares * factor * factor


def unmergeable(feature: int, older: ExactSums, newer: ExactSums) -> UnmergeableError:
    """Return the error for a feature whose sums `merge_exact` cannot merge."""
    other, decimal = (older, newer) if newer.decimal[feature] else (newer, older)
    low, high = float(other.min[feature]), float(other.max[feature])
    values = f"{low!r}" if low == high else f"values from {low!r} to {high!r}"
    if decimal_sums(other, feature, max(0, int(other.scale[feature]))) is None:
        problem = "no decimal unit holds the exact sums of both"
    else:
        problem = "the exact sums of both have too many digits"
    return UnmergeableError(
        feature,
        f"holds {values} on one side and decimals of scale {decimal.scale[feature]} on the other: "
        f"{problem}.",
    )
