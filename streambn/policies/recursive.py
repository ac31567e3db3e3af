"""The recursion y = λ·y + α·x that starts at the first value: an EMA with ``adjust=False``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streambn.accumulators import Moments
from streambn.kernels import Columns, recursion_step, recursion_weights
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import Floats, Ints

__all__ = ["RecursiveEMA", "RecursiveState"]


class RecursiveState(NamedTuple):
    """State of an `EMA` with ``adjust=False``.

    Attributes
    ----------
    moments : Moments
        Of all values but the first, each discounted by those after it; P is how much they
        discount the first. The books (count, nulls, …) are of all values.
    first : Moments
        Of the first value alone, of weight 1.
    gaps : ndarray of int64, shape (2, L)
        Rows without a value before the first value, and since the last one.
    """

    moments: Moments
    first: Moments
    gaps: Ints


@dataclass(frozen=True, slots=True)
class RecursiveEMA:
    """The recursion, in the form of a monoid.

    A value x that comes g rows after the one before it (g = 1 where none is missing) makes of
    the mean y: (λ**g·y + α·x)/(λ**g + α), as pandas has it. In units in which a value without a
    gap before it weighs 1 the whole always weighs 1/α; so a value weighs ω = 1/(λ**g + α) and
    discounts all that came before by f = λ**g·ω, and the first weighs P/α, P being the product
    of the later ones' f. That prior is applied when the statistics are read.
    """

    decay: float
    alpha: float
    ignore_na: bool

    def init(self, lanes: int) -> RecursiveState:
        """See `Policy.init`."""
        empty = Moments.empty(lanes)
        return RecursiveState(empty, empty, np.zeros((2, lanes), np.int64))

    def update(self, state: RecursiveState, columns: Columns) -> RecursiveState:
        """See `Policy.update`."""
        rows = columns.rows
        if rows == 0:
            return state
        # Where none was missing so far, none will be missing in most of the batches to come.
        if state.first.count.all() and (self.ignore_na or not state.moments.missing.any()):
            block = Moments.of(columns, self.decay, self.ignore_na)
            if self.ignore_na or (block.count == rows).all():
                return state._replace(moments=state.moments.merge(block))
        return self.merge(state, self._segment(columns))

    def merge(self, older: RecursiveState, newer: RecursiveState) -> RecursiveState:
        """See `Policy.merge`. Not commutative: `newer` follows `older`."""
        a, b = older, newer
        no_a, no_b = a.first.count == 0, b.first.count == 0
        weight, fade = self._step(a.gaps[1] + b.gaps[0] + 1)
        # The first value of `newer` is one like any other now.
        joint = _weighed(b.first, weight).replace(decay=fade)
        joint = Moments(np.where(no_a | no_b, Moments.empty(len(fade)).memory, joint.memory))
        first = Moments(np.where(no_a, b.first.memory, a.first.memory))
        gaps = np.where(no_a, a.gaps + b.gaps, (a.gaps[0], b.gaps[1]))
        gaps[1] += np.where(no_b, a.gaps[1] + b.gaps[0], 0) * ~no_a
        moments = a.moments.merge(joint).merge(b.moments)
        return RecursiveState(moments, Moments.sealed(first), gaps)

    def _step(self, gap: Ints) -> tuple[Floats, Floats]:
        """Return what a value weighs so many rows after the last, and by what it discounts."""
        return recursion_step(np.ones_like(gap) if self.ignore_na else gap, self.decay, self.alpha)

    def _segment(self, columns: Columns) -> RecursiveState:
        """Return the state of one batch."""
        books, rows = Moments.of(columns), columns.rows
        lanes, dense = len(books.count), books.count == rows
        moments, first = (Moments.empty(lanes).memory.copy() for _ in range(2))
        gaps = np.zeros((2, lanes), np.int64)
        if dense.any():
            moments = Moments.of(columns.slice(1, rows - 1), self.decay).memory.copy()
            first = Moments.of(columns.slice(0, 1)).memory.copy()
        for lane, values, there in iterate_features(columns, np.flatnonzero(~dense)):
            if self.ignore_na:
                values = values.take(pa.array(np.flatnonzero(there)))  # noqa: PLW2901
                there = np.ones(len(values), np.bool_)  # noqa: PLW2901
            weights, decay, *gaps[:, lane] = recursion_weights(there, self.decay, self.alpha)
            later = Moments.of(Columns.of(values).with_weights(weights))
            moments[:, lane] = later.replace(decay=np.array([decay])).memory[:, 0]
            value = Columns.of(values.slice(gaps[0, lane], 1))
            first[:, lane] = Moments.of(value).memory[:, 0]
        kept = {name: getattr(books, name) for name in Moments.TALLY}
        return RecursiveState(
            Moments.sealed(Moments(moments).replace(**kept)),
            Moments.sealed(Moments(first)),
            gaps * (not self.ignore_na),
        )

    def whole(self, state: RecursiveState) -> Moments:
        """Return the moments with the prior at the first value."""
        m = state.moments
        prior = _weighed(state.first, m.decay / self.alpha * state.first.count)
        # It is aged already: those behind it must not do it again.
        return Moments.sealed(prior).merge(m.replace(decay=np.ones_like(m.decay)))

    def take(self, state: RecursiveState, lanes: Sequence[int]) -> RecursiveState:
        """See `Policy.take`."""
        first = state.first.take(lanes)
        return RecursiveState(state.moments.take(lanes), first, state.gaps[:, list(lanes)])


def _weighed(first: Moments, weight: Floats) -> Moments:
    """Return a single value of another weight, without books, which are kept elsewhere."""
    empty = Moments.empty(len(weight))
    books = {name: getattr(empty, name) for name in Moments.TALLY}
    return first.replace(weight=weight, squares=weight * weight, **books)
