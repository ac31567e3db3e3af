"""Weights that fade by row: an EMA with ``adjust=True``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.accumulators import Moments, check_moments
from streambn.kernels import Columns, extend_over_gaps
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.recursion import EDGE, gap_fade, longest_gap
from streambn.policies.gaps import check_gaps

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
        if columns.rows == 0:
            return state
        if self.ignore_na or self.decay == 1:  # rows without a value discount nothing
            after = state.moments.extend(columns, self.decay, self.ignore_na)
            return AdjustedState(after, state.gaps)
        arrays, gaps, left = extend_over_gaps(state.moments, state.gaps, columns, self.decay)
        for feature, values, valid in iterate_features(columns, left) if left else ():
            of_batch = AdjustedState(Moments(arrays.memory[:, [feature]]), gaps[:, [feature]])
            of_batch = self._over_long_gaps(of_batch, values, valid, columns.weights)
            merged = self.merge(self.take(state, [feature]), of_batch)
            arrays.memory[:, feature] = merged.moments.memory[:, 0]
            gaps[:, feature] = merged.gaps[:, 0]
        return AdjustedState(Moments.sealed(arrays), gaps)

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

    def _over_long_gaps(
        self,
        state: AdjustedState,
        values: pa.Array,
        valid: NDArray[np.bool_],
        weights: Floats | None,
    ) -> AdjustedState:
        """Return the state of one feature in a batch, where a gap may be long.

        Parameters
        ----------
        state : AdjustedState
            The state from the kernel. It is right if no gap in the batch is long.
        values : pyarrow.Array
        valid : ndarray of bool, shape (rows,)
            True where a row holds a value.
        weights : ndarray of float64, shape (rows,), or None
        """
        at, longest = np.flatnonzero(valid), longest_gap(self.decay)
        if len(at) == 0:
            return state
        before, since = at[0], len(valid) - 1 - at[-1]
        if max(before, since) < EDGE and since <= longest / 2 and not (np.diff(at) > longest).any():
            return state
        memory = state.moments.memory
        memory[Moments.TALLY.stop :] = self._of_values(values, at, weights).memory[
            Moments.TALLY.stop :
        ]
        return AdjustedState(state.moments, np.array([[before], [since]]))

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
        # Within a piece no gap is long, so the kernel applies all discounts.
        ends = np.flatnonzero(np.diff(at) - 1 > longest_gap(self.decay))
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

    def check_state(self, state: AdjustedState) -> None:
        """See `Policy.check_state`. A gap is of rows without a value."""
        check_moments(state.moments, "moments.")
        check_gaps(state.gaps, state.moments)

    def take(self, state: AdjustedState, features: Sequence[int]) -> AdjustedState:
        """See `Policy.take`."""
        gaps = np.take(state.gaps, list(features), axis=1)  # C-contiguous, as the kernel needs it
        return AdjustedState(state.moments.take(features), gaps)
