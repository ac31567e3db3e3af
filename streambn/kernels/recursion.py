"""Gaps between two values of an exponentially weighted average by row."""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import numpy as np

from streambn.kernels.interface import Floats, Ints

__all__ = [
    "EDGE",
    "LEAST_FADE",
    "Recursion",
    "counts_gaps",
    "gap_fade",
    "gap_powers",
    "longest_gap",
    "recursion_step",
]

# A gap discounts by no more than this. Without a bound, the weights before a long gap would be 0 in
# float64, and the unbiased variance of one value after it would be 0/0. With it, the mean forgets
# values up to 1e164 times larger than the new ones, and squares of differences down to 1e-57 keep
# their digits.
LEAST_FADE: Final = 2.0**-600

# Rows at an end of a batch. If all of them lack a value, the gap there counts as long.
EDGE: Final = 52
_TABLE = 1024  # gaps, in rows, whose powers are tabulated


class Recursion(NamedTuple):
    """The weights of one feature's values in the recursion y = λ·y + α·x.

    Attributes
    ----------
    weights : ndarray of float64, shape (rows,)
        The weight of each value after the first, as of the last value. 0 elsewhere. As of its
        own row, a value that directly follows another weighs 1.
    decay : float
        P, the factor by which all later values discount the first.
    before, since : int
        Rows without a value before the first value and after the last. `before` counts all
        rows if there is no value.
    """

    weights: Floats
    decay: float
    before: int
    since: int


def counts_gaps(decay: float, ignore_missing: bool, prior: float) -> bool:
    """Return whether rows without a value are counted, to take effect at the next value."""
    return prior > 0 or (decay != 1 and not ignore_missing)


def gap_fade(missing: Ints, decay: float) -> Floats:
    """Return the factor by which rows without a value discount what came before."""
    fade: Floats = np.maximum(np.power(decay, missing), LEAST_FADE)
    return fade


def longest_gap(decay: float) -> float:
    """Return the rows of the longest gap whose discount is not bounded."""
    return math.log(LEAST_FADE) / math.log(decay) if decay > 0 else 0.0


@functools.lru_cache(maxsize=64)
def gap_powers(decay: float, rows: int) -> Floats:
    """Return the powers of λ for a batch: of 0, 1, …, 1023, and of rows, rows − 1, ….

    The second part ends with the rows between two gaps that are just not long. Powers from here
    are the same in both kernels.
    """
    whole = np.maximum(rows - np.arange(2 * EDGE - 1), 0)
    powers: Floats = np.power(decay, np.append(np.arange(_TABLE), whole))
    return powers


def recursion_step(gap: Ints, decay: float, alpha: float) -> tuple[Floats, Floats]:
    """Return the weight of a value `gap` rows after the last, and the discount it applies.

    A gap of g rows turns the mean y into (λ**g·y + α·x) / (λ**g + α). In units in which
    everything before the value weighs 1/α, the value weighs ω = 1 / (λ**g + α) and discounts
    everything before it by λ**g·ω. The power is bounded as in `gap_fade`.
    """
    # Most gaps are short, and a table lookup is faster than a power.
    short = np.minimum(gap, _TABLE)
    faded = np.power(decay, np.arange(short.max(initial=0) + 1.0))[short]
    faded = np.where(gap > _TABLE, np.power(decay, gap), faded)
    faded = np.maximum(faded, decay * LEAST_FADE)
    weight = 1.0 / (faded + alpha)
    direct = gap == 1  # λ + α is 1, which rounding must not change
    return np.where(direct, 1.0, weight), np.where(direct, decay, faded * weight)
