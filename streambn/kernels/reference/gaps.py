"""An exponentially weighted average that counts rows without a value until the next value."""

from __future__ import annotations

import numpy as np

from streambn.kernels.interface import Columns, Ints
from streambn.kernels.moments import MomentArrays
from streambn.kernels.recursion import EDGE, gap_fade, longest_gap
from streambn.kernels.reference.blocks import block_moments
from streambn.kernels.reference.merge import merge_moments

__all__ = ["extend_over_gaps"]


def extend_over_gaps(
    older: MomentArrays, gaps: Ints, columns: Columns, decay: float
) -> tuple[MomentArrays, Ints, list[int]]:
    """Return the moments and the gaps of an average by row, followed by a batch.

    Moments are weighted as of the last value of each feature, and P is the factor by which the
    rows from the first value to the last discount what came before. A gap of g rows without a
    value discounts what came before by λ**g, once the next value is there.

    Parameters
    ----------
    older : MomentArrays
    gaps : ndarray of int64, shape (2, F)
        Rows without a value before the first value and after the last one; all of them before it
        if there is none.
    columns : Columns
        At least one row.
    decay : float
        λ < 1.

    Returns
    -------
    moments : MomentArrays
    gaps : ndarray of int64, shape (2, F)
    left : list of int
        Features that are left to the caller, because a gap in the batch or before it may be long.
        Their moments and gaps are those of the batch alone. If the gap is in the batch, only
        their counts and extremes are right.
    """
    block, rows = block_moments(columns, decay), columns.rows
    longest = longest_gap(decay)
    complete = not (older.memory[1:5].any() or block.memory[1:5].any())
    ends = np.zeros_like(gaps) if complete else _gaps_at_ends(columns)
    if not (ends.any() or gaps.any()) and (complete or rows <= longest):
        return merge_moments(older, block), ends, []
    none = block.count == 0
    ends = np.where(none, np.array([[rows], [0]]), ends)
    # Beyond this a discount may cost digits of W, C or S.
    left = (ends < 0).any(axis=0) | (ends[1] > longest / 2)
    ends = np.maximum(ends, 0)
    # The weights of the block are as of the last row.
    faded = np.power(decay, np.where(none | left, 0, ends[1]))
    newer = block.replace(
        weight=block.weight / faded,
        pairs=block.pairs / faded / faded,
        squares=block.squares / faded / faded,
        m2_hi=block.m2_hi / faded,
        m2_lo=block.m2_lo / faded,
        decay=np.power(decay, np.where(none, 0, rows - ends.sum(axis=0))),
    )
    left |= ~none & (rows > longest) & (rows - block.count + 1 > longest)
    no_older, no_newer = older.weight == 0, newer.weight == 0
    between = gaps[1] + ends[0]
    fade = np.where(no_older | no_newer | left, 1.0, gap_fade(between, decay))
    merged = merge_moments(older, newer.replace(decay=newer.decay * fade))
    after = np.where(
        no_older,
        (gaps[0] + ends[0], ends[1]),
        (gaps[0], np.where(no_newer, between, ends[1])),
    )
    merged.memory[:, left] = newer.memory[:, left]
    after[:, left] = ends[:, left]
    return merged, after, np.flatnonzero(left).tolist()


def _gaps_at_ends(columns: Columns) -> Ints:
    """Return the rows without a value at both ends of a batch; −1 if they are many."""
    rows = columns.rows
    if rows <= EDGE:
        return np.array(_gaps_of_few(columns), np.int64)
    head, tail = columns.slice(0, EDGE), columns.slice(rows - EDGE, EDGE)
    return np.array((_gaps_of_few(head)[0], _gaps_of_few(tail)[1]), np.int64)


def _gaps_of_few(columns: Columns) -> tuple[Ints, Ints]:
    """Return the rows without a value at both ends of at most 52 rows; −1 if all lack one.

    With λ = 1/2, W is a sum of different powers of 2, one for each value. In units of the first
    row's weight it is an integer whose bits are the validity.
    """
    weight = block_moments(columns.with_weights(None), 0.5).weight
    bits = np.ldexp(weight, columns.rows - 1).astype(np.int64)
    first = np.frexp(bits & -bits)[1] - 1
    return first, np.where(bits == 0, -1, columns.rows - np.frexp(bits)[1])
