"""The step of the recursion y = λ·y + α·x across a gap between two values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streambn.kernels.interface import Floats, Ints

__all__ = ["Recursion", "recursion_step"]

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


def recursion_step(gap: Ints, decay: float, alpha: float) -> tuple[Floats, Floats]:
    """Return the weight of a value `gap` rows after the last, and the discount it applies.

    A gap of g rows turns the mean y into (λ**g·y + α·x) / (λ**g + α). In units in which
    everything before the value weighs 1/α, the value weighs ω = 1 / (λ**g + α) and discounts
    everything before it by λ**g·ω.
    """
    # Most gaps are short, and a table lookup is faster than a power.
    short = np.minimum(gap, _TABLE)
    faded = np.power(decay, np.arange(short.max(initial=0) + 1.0))[short]
    faded = np.where(gap > _TABLE, np.power(decay, gap), faded)
    weight = 1.0 / (faded + alpha)
    direct = gap == 1  # λ + α is 1, which rounding must not change
    return np.where(direct, 1.0, weight), np.where(direct, decay, faded * weight)
