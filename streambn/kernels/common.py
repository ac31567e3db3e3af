"""What every implementation takes from here, as there is one way to compute it.

It stands outside the reference, so that where the compiled kernels are active nothing needs
that: its import would be a sixth of what `streambn` adds to that of pyarrow.
"""

from __future__ import annotations

import numpy as np

from streambn.kernels.interface import Floats, Ints, LaneArrays

__all__ = ["ZERO_EXPONENT", "empty_moments", "recursion_step"]

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
