"""The merge of the moments of two successive segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import MomentArrays

__all__ = ["LEAST_WEIGHT", "merge_moments"]

# While only missing values arrive, the weight of an EMA falls no further than this. It is
# negligible next to any new value, and large enough that mean and variance stay defined.
LEAST_WEIGHT = 2.0**-400


def merge_moments(older: MomentArrays, newer: MomentArrays) -> MomentArrays:
    """Return the moments of the segment `older` followed by the segment `newer`.

    `streambn.accumulators.moments` documents the formula. The empty segment is the identity, bit
    for bit. Where both means are equal, the merged mean equals them bit for bit.
    """
    a, b = older, newer
    with np.errstate(all="ignore"):
        fade = b.decay
        if not b.weight.all():
            floor = np.where(a.weight > 0, LEAST_WEIGHT / a.weight, 0.0)
            fade = np.where(b.weight == 0, np.maximum(fade, np.minimum(floor, 1.0)), fade)
        w = fade * a.weight
        weight = w + b.weight
        exponent = np.maximum(a.exponent, b.exponent)
        exponent = np.where(w == 0, b.exponent, np.where(b.weight == 0, a.exponent, exponent))
        a_mean, a_m2 = _in_exponent(a, exponent, w == 0)
        b_mean, b_m2 = _in_exponent(b, exponent, b.weight == 0)

        delta = dd.add(b_mean, (-a_mean[0], -a_mean[1]))
        # The mean starts from the heavier side, where the rounding of the share moves it least.
        from_b = b.weight > w
        light, heavy = np.where(from_b, w, b.weight), np.where(from_b, b.weight, w)
        share = dd.divide(dd.wide(light), dd.wide(np.where(weight > 0, weight, 1.0)))
        move = dd.multiply(delta, share)
        sign = np.where(from_b, -1.0, 1.0)
        base = (np.where(from_b, b_mean[0], a_mean[0]), np.where(from_b, b_mean[1], a_mean[1]))
        mean = dd.add(base, (sign * move[0], sign * move[1]))
        between = dd.scale(dd.multiply(delta, move), heavy)
        faded_m2 = a_m2 if (fade == 1).all() else dd.scale(a_m2, fade)
        m2 = dd.add(dd.add(faded_m2, b_m2), between)
        pairs = fade * fade * a.pairs + b.pairs + w * b.weight
        squares = fade * fade * a.squares + b.squares

    return MomentArrays.from_fields(
        count=a.count + b.count,
        nulls=a.nulls + b.nulls,
        nans=a.nans + b.nans,
        pos_infs=a.pos_infs + b.pos_infs,
        neg_infs=a.neg_infs + b.neg_infs,
        min=np.minimum(a.min, b.min),
        max=np.maximum(a.max, b.max),
        weight=weight,
        pairs=pairs,
        squares=squares,
        mean_hi=mean[0],
        mean_lo=mean[1],
        m2_hi=m2[0],
        m2_lo=m2[1],
        decay=a.decay * fade,
        exponent=exponent,
    )


def _in_exponent(
    m: MomentArrays, exponent: Ints, empty: NDArray[np.bool_]
) -> tuple[dd.Pair, dd.Pair]:
    """Return mean and m2 of `m` in the units of another exponent. They are 0 where `empty`."""
    shift = m.exponent - exponent
    if not shift.any() and not empty.any():
        return (m.mean_hi, m.mean_lo), (m.m2_hi, m.m2_lo)

    def rescaled(values: Floats, by: Ints) -> Floats:
        return np.where(empty, 0.0, np.ldexp(values, by))

    return (
        (rescaled(m.mean_hi, shift), rescaled(m.mean_lo, shift)),
        (rescaled(m.m2_hi, 2 * shift), rescaled(m.m2_lo, 2 * shift)),
    )
