"""What every implementation takes from here, as there is one way to compute it.

It stands outside the reference, so that where the compiled kernels are active nothing needs
that: its import would be a sixth of what `streambn` adds to that of pyarrow.
"""

from __future__ import annotations

import numpy as np

from streambn.errors import MergeError
from streambn.kernels.interface import ExactSums, Floats, Ints, LaneArrays

__all__ = [
    "ZERO_EXPONENT",
    "UnmergeableError",
    "empty_moments",
    "empty_sums",
    "in_decimals",
    "recursion_step",
    "unmergeable",
]

# The exponent of a lane that has seen nothing but zeros: any other outranks it.
ZERO_EXPONENT = -1100
_GAPS = 1024  # rows


def empty_moments(shape: int | tuple[int, ...]) -> LaneArrays:
    """Return the moments of nothing: the identity of `merge_moments`."""

    def zero() -> Floats:
        return np.zeros(shape)

    def none() -> Ints:
        return np.zeros(shape, np.int64)

    return LaneArrays.from_fields(
        count=none(),
        nulls=none(),
        nans=none(),
        pos_infs=none(),
        neg_infs=none(),
        min=np.full(shape, np.inf),
        max=np.full(shape, -np.inf),
        weight=zero(),
        pairs=zero(),
        squares=zero(),
        mean_hi=zero(),
        mean_lo=zero(),
        m2_hi=zero(),
        m2_lo=zero(),
        decay=np.ones(shape),
        exponent=np.full(shape, ZERO_EXPONENT, np.int64),
    )


def empty_sums(lanes: int) -> ExactSums:
    """Return the exact sums of nothing: the identity of `merge_exact`."""
    sums = ExactSums(np.zeros((ExactSums.ROWS, lanes), np.int64))
    sums.min[:], sums.max[:] = np.inf, -np.inf
    return sums


class UnmergeableError(MergeError):
    """Two exact sums of a lane have no sum of which all digits could be kept.

    Whoever knows the lane's column says so, before the reason.

    Attributes
    ----------
    lane : int
    reason : str
        What it holds, and what helps.
    """

    def __init__(self, lane: int, reason: str) -> None:
        super().__init__(f"lane {lane} {reason}")
        self.lane = lane
        self.reason = reason


def in_decimals(sums: ExactSums, lane: int, scale: int) -> tuple[int, int] | None:
    """Return Σx and Σx² of a lane in units of 10**-scale; None: those are not whole numbers."""
    total, squares = sums.integers(lane)
    if not sums.decimal[lane]:
        bits = sums.UNIT_BITS
        if total & ((1 << bits) - 1) or squares & ((1 << 2 * bits) - 1):
            return None
        total, squares = total >> bits, squares >> 2 * bits
    factor = 10 ** (scale - int(sums.scale[lane]))
    return total * factor, squares * factor * factor


def unmergeable(lane: int, older: ExactSums, newer: ExactSums) -> UnmergeableError:
    """Return the error for a lane of two segments that `merge_exact` cannot merge."""
    other, decimal = (older, newer) if newer.decimal[lane] else (newer, older)
    low, high = float(other.min[lane]), float(other.max[lane])
    values = f"{low!r}" if low == high else f"values from {low!r} to {high!r}"
    place = f"beside decimals of scale {decimal.scale[lane]}"
    if in_decimals(other, lane, max(0, int(other.scale[lane]))) is None:
        why = f"holds {values}, not whole, {place}: no unit holds the exact sums of both"
    else:
        why = f"holds {values} {place}: exact sums of both would have too many digits"
    return UnmergeableError(lane, f"{why}. Cast it to one type, such as float64.")


def recursion_step(gap: Ints, decay: float, alpha: float) -> tuple[Floats, Floats]:
    """Return what a value weighs so many rows after the last, and by what it discounts.

    A gap of g rows makes of the mean y: (λ**g·y + α·x)/(λ**g + α). Where all before it weighs
    1/α, that is a weight ω = 1/(λ**g + α), and a discount f = λ**g·ω.
    """
    # Most gaps are short, and a power takes longer than a look at a table.
    short = np.minimum(gap, _GAPS)
    faded = np.power(decay, np.arange(short.max(initial=0) + 1.0))[short]
    faded = np.where(gap > _GAPS, np.power(decay, gap), faded)
    weight = 1.0 / (faded + alpha)
    direct = gap == 1  # where λ + α is 1, and rounding must not say otherwise
    return np.where(direct, 1.0, weight), np.where(direct, decay, faded * weight)
