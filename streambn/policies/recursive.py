"""The recursion y = λ·y + α·x that starts at the first value: an EMA with ``adjust=False``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from streambn.kernels import Columns
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.nesting import single_lanes
from streambn.moments import Moments

__all__ = ["RecursiveEMA", "RecursiveState"]

_GAPS = 1024  # rows
_TOGETHER = 8192
_LEAST = 2.0**-1000


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
        going_on = state.first.count.all() and (self.ignore_na or not state.gaps[1].any())
        if going_on:
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
        if self.ignore_na:
            return np.ones(len(gap)), np.full(len(gap), self.decay)
        # Most gaps are short, and a power takes longer than a look at a table.
        ahead = np.minimum(gap, _GAPS)
        faded = np.power(self.decay, np.arange(ahead.max(initial=0) + 1.0))[ahead]
        faded = np.where(gap > _GAPS, np.power(self.decay, gap), faded)
        weight = 1.0 / (faded + self.alpha)
        direct = gap == 1  # where λ + α is 1, and rounding must not say otherwise
        return np.where(direct, 1.0, weight), np.where(direct, self.decay, faded * weight)

    def _segment(self, columns: Columns) -> RecursiveState:
        """Return the state of one batch."""
        books, rows = Moments.of(columns), columns.rows
        lanes = len(books.count)
        moments = Moments.of(columns.slice(1, rows - 1), self.decay).memory.copy()
        first = Moments.of(columns.slice(0, 1)).memory.copy()
        gaps = np.zeros((2, lanes), np.int64)
        for lane, values, there in single_lanes(columns, np.flatnonzero(books.count < rows)):
            at = np.flatnonzero(there)
            if len(at) == 0:
                gaps[0, lane] = rows
                moments[:, lane] = first[:, lane] = Moments.empty(1).memory[:, 0]
                continue
            gaps[:, lane] = at[0], rows - 1 - at[-1]
            present = Columns.of(values.take(pa.array(at)))
            weights, fades = self._step(np.diff(at))
            behind = _products_behind(fades)
            later = Moments.of(present.slice(1, len(at) - 1).weighed(weights * behind[1:]))
            moments[:, lane] = later.replace(decay=behind[:1]).memory[:, 0]
            first[:, lane] = Moments.of(present.slice(0, 1)).memory[:, 0]
        kept = {name: getattr(books, name) for name in Moments.BOOKS}
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
    books = {name: getattr(empty, name) for name in Moments.BOOKS}
    return first.replace(weight=weight, squares=weight * weight, **books)


def _products_behind(fades: Floats) -> Floats:
    """Return …, f₂·f₃, f₃, 1: by how much each value is discounted by those behind it."""
    behind = np.zeros(len(fades) + 1)
    behind[-1] = product = 1.0
    # Some at a time and no further than there is something left: the smallest float64 times 0.7
    # is itself, and takes a hundred times as long as any other.
    stop = len(fades)
    while stop > 0 and product >= _LEAST:
        start = max(0, stop - _TOGETHER)
        behind[start:stop] = product * np.cumprod(fades[start:stop][::-1])[::-1]
        product, stop = float(behind[start]), start
    behind[behind < _LEAST] = 0.0
    return behind
