"""The running averages over blocks of rows, which `BatchEMA` keeps.

Each block is one row of means and one row of variances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Estimates, Floats, Ints
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.reference.estimates import var_and_std
from streambn.kernels.reference.merge import merge_moments

__all__ = ["append_block", "read_blocks"]

_ORDINARY = 400  # values within 2**±400 are kept in plain units
_NO_EXPONENT = -2200  # below the exponent of any other value


def append_block(
    means: MomentArrays, variances: MomentArrays, block: MomentArrays, decay: float, ddof: int
) -> tuple[MomentArrays, MomentArrays]:
    """Return the means and the variances with one more block.

    Parameters
    ----------
    means, variances : MomentArrays
        Of the blocks so far. The counts and extremes of `means` are those of all values.
    block : MomentArrays
        Of the rows of the block.
    decay : float
        The factor by which the block discounts those before it.
    ddof : int
        For the variance of the block. A block without a variance moves the mean only.
    """
    decays = np.full(block.count.shape, decay)
    mean = _single((block.mean_hi, block.mean_lo), block.exponent, decays, block.count > 0)
    mean.memory[MomentArrays.TALLY] = block.memory[MomentArrays.TALLY]
    divisor = block.weight - ddof
    present = divisor > 0
    variance = dd.divide((block.m2_hi, block.m2_lo), dd.wide(np.where(present, divisor, 1.0)))
    row = _single(variance, 2 * block.exponent, decays, present)
    return merge_moments(means, mean), merge_moments(variances, row)


def _single(
    value: dd.Pair, exponent: Ints, decay: Floats, present: NDArray[np.bool_]
) -> MomentArrays:
    """Return one row ``value * 2**exponent`` of weight 1, missing where not `present`."""
    hi, lo = (np.where(present, part, 0.0) for part in value)
    binary = np.frexp(hi)[1] + exponent
    # An even exponent, because the value may be a variance whose root is read.
    target = np.where(np.abs(binary) <= _ORDINARY, 0, binary // 2 * 2)
    target = np.where(hi == 0, _NO_EXPONENT, target)
    shift = np.where(hi == 0, 0, exponent - target)
    return empty_moments(len(hi)).replace(
        weight=present.astype(np.float64),
        squares=present.astype(np.float64),
        mean_hi=np.ldexp(hi, shift),
        mean_lo=np.ldexp(lo, shift),
        decay=np.where(present, decay, 1.0),
        exponent=target,
    )


def read_blocks(
    means: MomentArrays,
    variances: MomentArrays,
    new_weight: float,
    prior: tuple[float, float] | None,
) -> Estimates:
    """Return the averages of the means and the variances of blocks.

    Parameters
    ----------
    means, variances : MomentArrays
        Each block one row.
    new_weight : float
        The share of the newest block in the running value.
    prior : (float, float) or None
        Mean and variance before the first block; None: they have no weight.
    """
    prior_mean, prior_var = prior or (None, None)
    mean, exponent = _average(means, new_weight, prior_mean)
    square, twice = _average(variances, new_weight, prior_var)
    known = variances if prior is None else means
    spread = var_and_std(square, np.where(known.weight > 0, 1.0, 0.0), twice // 2)
    hi, lo = np.ldexp(mean[0], exponent), np.ldexp(mean[1], exponent)
    return Estimates(hi, lo, *spread, means.weight > 0)


def _average(rows: MomentArrays, new_weight: float, prior: float | None) -> tuple[dd.Pair, Ints]:
    """Return P·prior + (1 − P)·average in units of 2**exponent, and the even exponent.

    P is the discount of all blocks.
    """
    average, exponent = (rows.mean_hi, rows.mean_lo), rows.exponent
    if prior is None:
        return average, exponent
    if prior:
        exponent = np.maximum(exponent, 0)
    shift = rows.exponent - exponent
    scaled = (np.ldexp(average[0], shift), np.ldexp(average[1], shift))
    pull = np.ldexp(rows.decay * prior, -exponent)
    # 1 − P equals (1 − λ)·W, which does not cancel: after one block it is the momentum.
    return dd.add(dd.scale(scaled, new_weight * rows.weight), dd.wide(pull)), exponent
