"""The recursion y = λ·y + α·x from the first value on: an EMA with ``adjust=False``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streambn import kernels
from streambn.accumulators import Moments, check_moments, require
from streambn.kernels import Columns, recursion_step, recursion_weights
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import Floats, Ints
from streambn.policies.gaps import check_gaps

__all__ = ["RecursiveEMA", "RecursiveState"]


class RecursiveState(NamedTuple):
    """State of an `EMA` with ``adjust=False``.

    Attributes
    ----------
    moments : Moments
        Of all values but the first, each discounted by those after it. P is the discount of the
        first value. Counts and extremes are those of all values.
    first : Moments
        Of the first value alone, with weight 1.
    gaps : ndarray of int64, shape (2, features)
        Numbers of rows without a value before the first value and after the last one.
    """

    moments: Moments
    first: Moments
    gaps: Ints


@dataclass(frozen=True, slots=True)
class RecursiveEMA:
    """The recursion as a monoid.

    pandas defines that a value x that comes g rows after the last value turns the mean y into
    (λ**g·y + α·x)/(λ**g + α), where g = 1 if no value is missing. In units in which a value with
    g = 1 weighs 1, all values together always weigh 1/α. A value then weighs
    ω = 1/(λ**g + α) and discounts all values before it by f = λ**g·ω. The first value weighs P/α,
    where P is the product of the later f. `weighted` applies that prior when statistics are read.
    """

    decay: float
    alpha: float
    ignore_na: bool

    def init(self, features: int) -> RecursiveState:
        """See `Policy.init`."""
        empty = Moments.empty(features)
        return RecursiveState(empty, empty, np.zeros((2, features), np.int64))

    def update(self, state: RecursiveState, columns: Columns) -> RecursiveState:
        """See `Policy.update`."""
        rows = columns.rows
        if rows == 0:
            return state
        # The short way, if no value was missing so far: most batches will be complete too.
        if state.first.count.all() and (self.ignore_na or not state.moments.missing.any()):
            block = Moments.of(columns, self.decay, self.ignore_na)
            if self.ignore_na or (block.count == rows).all():
                return state._replace(moments=state.moments.merge(block))
        return self.merge(state, self._of_batch(columns))

    def merge(self, older: RecursiveState, newer: RecursiveState) -> RecursiveState:
        """See `Policy.merge`. Not commutative."""
        a, b = older, newer
        no_a, no_b = a.first.count == 0, b.first.count == 0
        weight, fade = self._step(a.gaps[1] + b.gaps[0] + 1)
        # The first value of `newer` is no longer a first value.
        joint = _single(b.first, weight).replace(decay=fade)
        joint = Moments(np.where(no_a | no_b, Moments.empty(len(fade)).memory, joint.memory))
        first = Moments(np.where(no_a, b.first.memory, a.first.memory))
        gaps = np.where(no_a, a.gaps + b.gaps, (a.gaps[0], b.gaps[1]))
        gaps[1] += np.where(no_b, a.gaps[1] + b.gaps[0], 0) * ~no_a
        moments = a.moments.merge(joint).merge(b.moments)
        return RecursiveState(moments, Moments.sealed(first), gaps)

    def _step(self, gap: Ints) -> tuple[Floats, Floats]:
        """Return the weight ω and the discount f of a value that comes `gap` rows later."""
        return recursion_step(np.ones_like(gap) if self.ignore_na else gap, self.decay, self.alpha)

    def _of_batch(self, columns: Columns) -> RecursiveState:
        tally, rows = Moments.of(columns), columns.rows
        features, complete = len(tally.count), tally.count == rows
        moments, first = (Moments.empty(features).memory.copy() for _ in range(2))
        gaps = np.zeros((2, features), np.int64)
        if complete.any():
            moments = Moments.of(columns.slice(1, rows - 1), self.decay).memory.copy()
            first = Moments.of(columns.slice(0, 1)).memory.copy()
        for feature, column, valid in iterate_features(columns, np.flatnonzero(~complete)):
            values, present = column, valid
            if self.ignore_na:
                values = column.take(pa.array(np.flatnonzero(valid)))
                present = np.ones(len(values), np.bool_)
            weights, decay, *gaps[:, feature] = recursion_weights(present, self.decay, self.alpha)
            later = Moments.of(Columns.of(values).with_weights(weights))
            moments[:, feature] = later.replace(decay=np.array([decay])).memory[:, 0]
            value = Columns.of(values.slice(gaps[0, feature], 1))
            first[:, feature] = Moments.of(value).memory[:, 0]
        return RecursiveState(
            Moments(moments).with_tally(tally),
            Moments.sealed(Moments(first)),
            gaps * (not self.ignore_na),
        )

    def tally(self, state: RecursiveState) -> Moments:
        """See `Policy.tally`."""
        return state.moments

    def weighted(self, state: RecursiveState) -> Moments:
        """Return the moments of all values, with the prior at the first."""
        return Moments.sealed(kernels.with_first(state.moments, state.first, self.alpha))

    def check_state(self, state: RecursiveState) -> None:
        """See `Policy.check_state`.

        The first value weighs 1 in `first`, and all values together weigh 1/α: W + P/α = 1/α.
        """
        moments, first = state.moments, state.first
        check_moments(moments, "moments.")
        check_moments(first, "first.", decay=1.0)
        count = np.minimum(moments.count, 1)
        require(first.count == count, "first.count", first.count, "1 where there is a value")
        require(first.weight == count, "first.weight", first.weight, "1 where there is a value")
        within = (first.min >= moments.min) & (first.max <= moments.max)
        require(within, "first.min", first.min, "from moments.min to moments.max")
        whole = np.abs(moments.weight * self.alpha + moments.decay - 1) <= 1e-3
        require(whole | (count == 0), "moments.weight", moments.weight, "(1 - decay)/alpha")
        more = (moments.count > 1) | (moments.weight == 0)
        require(more, "moments.weight", moments.weight, "0 where count is 1")
        check_gaps(state.gaps, moments)

    def take(self, state: RecursiveState, features: Sequence[int]) -> RecursiveState:
        """See `Policy.take`."""
        gaps = np.take(state.gaps, list(features), axis=1)  # C-contiguous, as the kernel needs it
        return RecursiveState(state.moments.take(features), state.first.take(features), gaps)


def _single(first: Moments, weight: Floats) -> Moments:
    """Return a first value with another weight, and without counts, which are kept elsewhere."""
    uncounted = first.with_tally(Moments.empty(len(weight)))
    return uncounted.replace(weight=weight, squares=weight * weight)
