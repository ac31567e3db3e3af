"""Weights that fade by row: an EMA with ``adjust=True``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.accumulators import Moments
from streambn.kernels import Columns
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.recursion import LEAST_FADE, gap_fade

__all__ = ["AdjustedEMA", "AdjustedState"]


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
        rows, before = columns.rows, state.moments
        if rows == 0:
            return state
        if self._has_gaps and before.missing.any():
            return self.merge(state, self._of_batch(columns))
        # The short way, if no value was missing so far: most batches will be complete too.
        after = before.extend(columns, self.decay, self.ignore_na)
        if self._has_gaps and not (after.count - before.count == rows).all():
            return self.merge(state, self._of_batch(columns))
        return state._replace(moments=after)

    @property
    def _has_gaps(self) -> bool:
        """Whether rows without a value discount anything."""
        return not self.ignore_na and self.decay != 1

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

    def _of_batch(self, columns: Columns) -> AdjustedState:
        moments, rows = Moments.of(columns, self.decay), columns.rows
        gaps = np.zeros((2, len(moments.count)), np.int64)
        odd = self._features_to_cut(columns, moments)
        if not odd.any():
            return AdjustedState(moments, gaps)
        memory = moments.memory.copy()
        for feature, values, valid in iterate_features(columns, np.flatnonzero(odd)):
            at = np.flatnonzero(valid)
            gaps[:, feature] = (at[0], rows - 1 - at[-1]) if len(at) else (rows, 0)
            alone = self._of_values(values, at, columns.weights)
            memory[Moments.TALLY.stop :, feature] = alone.memory[Moments.TALLY.stop :, 0]
        return AdjustedState(Moments.sealed(Moments(memory)), gaps)

    def _features_to_cut(self, columns: Columns, moments: Moments) -> NDArray[np.bool_]:
        """Return which features begin or end with a gap, or may hold a long one."""
        incomplete: NDArray[np.bool_] = moments.count < columns.rows
        if columns.rows > self._longest_gap or not incomplete.any():
            return incomplete
        first, last = (Moments.of(columns.slice(i, 1)).count for i in (0, columns.rows - 1))
        odd: NDArray[np.bool_] = incomplete & ((first == 0) | (last == 0))
        return odd

    @property
    def _longest_gap(self) -> float:
        """The rows of the longest gap whose discount is not bounded."""
        return math.log(LEAST_FADE) / math.log(self.decay) if self.decay > 0 else 0.0

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
