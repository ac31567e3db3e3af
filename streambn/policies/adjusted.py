"""Weights that fade by row: an EMA with ``adjust=True``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streambn.accumulators import Moments
from streambn.kernels import Columns
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.recursion import LEAST_FADE, gap_fade

__all__ = ["AdjustedEMA", "AdjustedState"]


# Rows at an end of a block whose missing values are found in one call of the kernel.
_EDGE = 52


class AdjustedState(NamedTuple):
    """State of an `EMA` by row with ``adjust=True``.

    Attributes
    ----------
    moments : Moments
        Weighted as of the last value of each feature. P is the factor by which the rows from the
        first value to the last discount what came before.
    gaps : ndarray of int64, shape (2, features)
        Numbers of rows without a value before the first value and after the last one; all of
        them before it if there is none.
    """

    moments: Moments
    gaps: Ints


@dataclass(frozen=True, slots=True)
class AdjustedEMA:
    """Row i of n weighs λ**(n−1−i).

    A gap of g rows without a value discounts what came before by λ**g, and by no less than
    `LEAST_FADE`. Two values around a gap keep their unbiased variance that way, however long it
    is: for W = 1 + ε, C = ε and S = ε·δ² it is δ²/2 for any ε > 0 that float64 can represent.
    A gap may be cut anywhere, so its rows are counted, and their discount is applied by the next
    value.
    """

    decay: float
    ignore_na: bool

    def init(self, features: int) -> AdjustedState:
        """See `Policy.init`."""
        return AdjustedState(Moments.empty(features), np.zeros((2, features), np.int64))

    def update(self, state: AdjustedState, columns: Columns) -> AdjustedState:
        """See `Policy.update`."""
        if columns.rows == 0:
            return state
        # The short way, if no value was missing so far: most batches will be complete too.
        if not self._has_gaps or not np.count_nonzero(state.moments.missing):
            after = state.moments.extend(columns, self.decay, self.ignore_na)
            if not self._has_gaps or not np.count_nonzero(after.missing):
                return AdjustedState(after, state.gaps)
        gaps = _edge_gaps(columns)
        if not (gaps.any() or state.gaps.any() or columns.rows > self._longest_gap):
            return AdjustedState(state.moments.extend(columns, self.decay), gaps)
        return self.merge(state, self._of_batch(columns, gaps))

    @property
    def _has_gaps(self) -> bool:
        """Whether rows without a value discount anything."""
        return not self.ignore_na and self.decay != 1

    @property
    def _longest_gap(self) -> float:
        """The rows of the longest gap whose discount is not bounded."""
        return math.log(LEAST_FADE) / math.log(self.decay) if self.decay > 0 else 0.0

    def merge(self, older: AdjustedState, newer: AdjustedState) -> AdjustedState:
        """See `Policy.merge`. Not commutative."""
        a, b = older, newer
        if not (a.gaps.any() or b.gaps.any()):
            return AdjustedState(a.moments.merge(b.moments), a.gaps)
        no_a, no_b = a.moments.weight == 0, b.moments.weight == 0
        between = a.gaps[1] + b.gaps[0]
        fade = np.where(no_a | no_b, 1.0, gap_fade(between, self.decay))
        moments = a.moments.merge(b.moments.replace(decay=b.moments.decay * fade))
        gaps = np.where(
            no_a,
            (a.gaps[0] + b.gaps[0], b.gaps[1]),
            (a.gaps[0], np.where(no_b, between, b.gaps[1])),
        )
        return AdjustedState(moments, gaps)

    def _of_batch(self, columns: Columns, gaps: Ints) -> AdjustedState:
        """Return the state of a batch with the given gaps at its ends; −1 stands for long ones."""
        moments, rows = Moments.of(columns, self.decay), columns.rows
        none = moments.count == 0
        gaps = np.where(none, np.array([[rows], [0]]), gaps)
        # Beyond this a discount may cost digits of W, C or S.
        odd = (gaps < 0).any(axis=0) | (gaps[1] > self._longest_gap / 2)
        # The kernel's weights are as of the last row.
        faded = np.power(self.decay, np.where(none | odd, 0, gaps[1]))
        moments = moments.replace(
            weight=moments.weight / faded,
            pairs=moments.pairs / faded / faded,
            squares=moments.squares / faded / faded,
            m2_hi=moments.m2_hi / faded,
            m2_lo=moments.m2_lo / faded,
            decay=np.power(self.decay, np.where(none, 0, rows - gaps.sum(axis=0))),
        )
        suspects = odd | ((moments.count < rows) & ~none & (rows > self._longest_gap))
        if suspects.any():
            for feature, values, valid in iterate_features(columns, np.flatnonzero(suspects)):
                at = np.flatnonzero(valid)
                if not (odd[feature] or (np.diff(at) > self._longest_gap).any()):
                    continue
                gaps[:, feature] = at[0], rows - 1 - at[-1]
                alone = self._of_values(values, at, columns.weights).memory
                moments.memory[Moments.TALLY.stop :, feature] = alone[Moments.TALLY.stop :, 0]
        return AdjustedState(Moments.sealed(moments), gaps)

    def _of_values(self, values: pa.Array, at: Ints, weights: Floats | None) -> Moments:
        """Return the moments of one feature from its first value to its last.

        Parameters
        ----------
        values : pyarrow.Array
        at : ndarray of int64
            The rows that hold a value.
        weights : ndarray of float64, shape (rows,), or None
        """
        moments = Moments.empty(1)
        if len(at) == 0:
            return moments
        # Within a piece no gap is long, so the kernel applies all discounts.
        ends = np.flatnonzero(np.diff(at) - 1 > self._longest_gap)
        starts = np.append(0, ends + 1)
        stops = np.append(ends + 1, len(at))
        since = np.diff(at, prepend=at[0] - 1)[starts] - 1
        fades = gap_fade(since, self.decay)
        for start, stop, fade in zip(at[starts], at[stops - 1] + 1, fades, strict=True):
            piece = Columns.of(values.slice(start, stop - start))
            if weights is not None:
                piece = piece.with_weights(weights[start:stop])
            newer = Moments.of(piece, self.decay)
            moments = moments.merge(newer.replace(decay=newer.decay * fade))
        return moments

    def tally(self, state: AdjustedState) -> Moments:
        """See `Policy.tally`."""
        return state.moments

    def weighted(self, state: AdjustedState) -> Moments:
        """Return the moments of all values."""
        return state.moments

    def weight(self, state: AdjustedState) -> Floats:
        """Return Σw of each feature as of the last row."""
        return state.moments.weight * gap_fade(state.gaps[1], self.decay)

    def take(self, state: AdjustedState, features: Sequence[int]) -> AdjustedState:
        """See `Policy.take`."""
        return AdjustedState(state.moments.take(features), state.gaps[:, list(features)])


def _edge_gaps(columns: Columns) -> Ints:
    """Return the rows without a value at both ends of a batch; −1 if they are many."""
    rows = columns.rows
    if rows <= _EDGE:
        return np.array(_edges(columns), np.int64)
    head, tail = columns.slice(0, _EDGE), columns.slice(rows - _EDGE, _EDGE)
    return np.array((_edges(head)[0], _edges(tail)[1]), np.int64)


def _edges(columns: Columns) -> tuple[Ints, Ints]:
    """Return the rows without a value at both ends of at most 52 rows; −1 if all lack one.

    With λ = 1/2, W is a sum of different powers of 2, one for each value. In units of the first
    row's weight it is an integer whose bits are the validity.
    """
    weight = Moments.of(columns.with_weights(None), 0.5).weight
    bits = np.ldexp(weight, columns.rows - 1).astype(np.int64)
    first = np.frexp(bits & -bits)[1] - 1
    return first, np.where(bits == 0, -1, columns.rows - np.frexp(bits)[1])
