"""Moments of two segments of which one follows the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import MomentArrays

__all__ = ["LEAST_WEIGHT", "merge_moments"]

# While nothing but missing values arrive, an EMA's weight stops falling here: it is
# negligible beside any new value, and mean and variance stay readable.
LEAST_WEIGHT = 2.0**-400


def merge_moments(older: MomentArrays, newer: MomentArrays) -> MomentArrays:
    """Moments of two segments of which `newer` follows `older`, lane by lane.

    With w = P_B·W_A, W = w + W_B and δ = μ_B − μ_A::

        μ = μ_A + δ·W_B/W        S = P_B·S_A + S_B + δ²·w·W_B/W
        P = P_A·P_B              C = P_B²·C_A + C_B + w·W_B
        Q = P_B²·Q_A + Q_B

    (Chan, Golub and LeVeque, 1983, extended by the decay P.) The segment of no weight
    is the identity, bit for bit; equal means stay as they are, bit for bit.
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
        # From the heavier side: the rounding of the share then moves the mean least.
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
    m: MomentArrays, exponent: Ints, gone: NDArray[np.bool_]
) -> tuple[dd.Pair, dd.Pair]:
    """Mean and m2 of `m` in the units of another exponent; 0 where `m` is gone."""
    shift = m.exponent - exponent
    if not shift.any() and not gone.any():
        return (m.mean_hi, m.mean_lo), (m.m2_hi, m.m2_lo)

    def rescaled(values: Floats, by: Ints) -> Floats:
        return np.where(gone, 0.0, np.ldexp(values, by))

    return (
        (rescaled(m.mean_hi, shift), rescaled(m.mean_lo, shift)),
        (rescaled(m.m2_hi, 2 * shift), rescaled(m.m2_lo, 2 * shift)),
    )
