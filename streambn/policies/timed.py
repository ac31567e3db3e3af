"""Forgetting by the clock: a value weighs half as much a half-life later, wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streambn.accumulators import Moments
from streambn.errors import InvalidValueError
from streambn.kernels import Columns, Times, time_weights
from streambn.kernels import doubledouble as dd
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import NEGLIGIBLE, Floats
from streambn.policies.base import instant

__all__ = ["TimedEMA", "TimedState"]

# A column whose values are so much lighter than the batch's newest row is weighed as of its own
# newest value: there is room for a thousand half-lives behind that.
_LIGHT = 2.0**-64
# Where a row is so much lighter than the newest that this room is needed, no column goes without
# a part of it: each that has no value in the newest row is weighed so.
_ROOM = 2.0**-900
# Plain numbers beyond this are taken in quarters: their difference may be beyond float64.
_FAR = 2.0**1000


class TimedState(NamedTuple):
    """State of an `EMA` by event time.

    Attributes
    ----------
    moments : Moments
        Of each lane's values, weighed as of a time of its own; their decay is 1.
    times : ndarray of float64, shape (2, L)
        Those times as hi + lo, in nanoseconds since 1970 or in the user's numbers: not before the
        lane's newest value; 0 where there is none.
    latest : ndarray of float64, shape (2,)
        The time of the newest row, likewise: "now". -inf while there is none.
    """

    moments: Moments
    times: Floats
    latest: Floats


@dataclass(frozen=True, slots=True)
class TimedEMA:
    """A value weighs 2**(−age/halflife).

    Two segments are brought to the later one's time and joined as any others: the order of
    values and of merges is without effect, up to rounding.
    """

    halflife: float  # nanoseconds, of which there are whole ones, or the user's numbers

    def init(self, lanes: int) -> TimedState:
        """See `Policy.init`."""
        return TimedState(Moments.empty(lanes), np.zeros((2, lanes)), np.array([-np.inf, 0.0]))

    def update(self, state: TimedState, columns: Columns) -> TimedState:
        """See `Policy.update`."""
        if columns.rows == 0:
            return state
        return self.merge(state, self._segment(columns))

    def _segment(self, columns: Columns) -> TimedState:
        """Return the state of one batch."""
        times, given = _times_of(columns), columns.weights
        latest = times.ticks.max()
        weights = self._weights(times, latest, given)
        moments = Moments.of(columns.with_weights(weights))
        now = instant(latest, times.tick)
        reference = np.repeat(now[:, np.newaxis], len(moments.count), axis=1)
        heaviest = 1.0 if given is None else given.max()
        light = (moments.weight < heaviest) & (moments.count > 0)
        if light.any() and weights.min() >= _ROOM * heaviest:
            light &= moments.weight < _LIGHT * heaviest
        if light.any():
            # A value in the newest row is the column's own newest one, whatever it weighs.
            newest = int(times.ticks.argmax())
            light &= Moments.of(columns.slice(newest, 1)).count == 0
        if light.any():
            memory = moments.memory.copy()
            for lane, values, there in iterate_features(columns, np.flatnonzero(light)):
                at = np.flatnonzero(there)
                own = times.take(at)
                last = own.ticks.max()
                weights = self._weights(own, last, None if given is None else given[at])
                alone = Moments.of(Columns.of(values.take(at)).with_weights(weights))
                books = {name: getattr(moments, name)[lane] for name in Moments.TALLY}
                memory[:, lane] = alone.replace(**books).memory[:, 0]
                reference[:, lane] = instant(last, times.tick)
            moments = Moments.sealed(Moments(memory))
        return TimedState(moments, reference * (moments.count > 0), now)

    def _weights(self, times: Times, latest: float, given: Floats | None) -> Floats:
        # Not infinitely many, of which in no time at all NaN would pass.
        halflives = min((times.tick or 1) / self.halflife, 2.0**1021)
        if times.ticks.dtype == np.float64 and max(latest, -times.ticks.min()) > _FAR:
            times, latest, halflives = Times(times.ticks / 4, None), latest / 4, halflives * 4
        weights: Floats = time_weights(times, latest, halflives, given)
        return weights

    def merge(self, older: TimedState, newer: TimedState) -> TimedState:
        """See `Policy.merge`. Commutative, up to rounding."""
        a, b = older, newer
        no_a, no_b = a.moments.weight == 0, b.moments.weight == 0
        later = self._half_lives(a.times, b.times)
        late_a = (later < 0) & ~no_a & ~no_b
        fade = np.where(no_a | no_b, 1.0, _faded(np.abs(later)))
        early, late = a.moments, b.moments
        if late_a.any():
            early, late = (
                Moments(np.where(late_a, one.memory, other.memory))
                for one, other in ((late, early), (early, late))
            )
        merged = early.merge(late.replace(decay=fade)).replace(decay=np.ones_like(fade))
        times = np.where(no_b | late_a, a.times, b.times)
        return TimedState(Moments.sealed(merged), times, max(a.latest, b.latest, key=tuple))

    def _half_lives(self, older: Floats, newer: Floats) -> Floats:
        """Return how much later times are than others, each as hi + lo along the first axis."""
        # Of quarters, as for `_FAR`; of no time at all it is infinite or NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            a, b = older / -4, newer / 4
            apart: Floats = dd.add((b[0], b[1]), (a[0], a[1]))[0] / self.halflife
            return apart * 4

    def weight(self, state: TimedState, at: Floats | None) -> Floats:
        """Return Σw as of a time; None: as of the newest row.

        Raises
        ------
        InvalidValueError
            The time lies before the newest row.
        """
        now = state.latest
        if at is not None:
            ahead = float(self._half_lives(now, at))
            if ahead < 0:
                raise InvalidValueError(
                    f"at lies {-ahead:g} half-lives before the newest row that was learned, which "
                    "it would have to forget. Give a time not before that, or none.",
                    argument="at",
                )
            now = at
        seen = state.moments.weight > 0
        age = np.where(seen, self._half_lives(state.times, now[:, np.newaxis]), 0.0)
        return state.moments.weight * _faded(age)

    def take(self, state: TimedState, lanes: Sequence[int]) -> TimedState:
        """See `Policy.take`."""
        return state._replace(moments=state.moments.take(lanes), times=state.times[:, list(lanes)])


def _faded(half_lives: Floats) -> Floats:
    faded = np.exp2(-half_lives)
    return np.where(faded < NEGLIGIBLE, 0.0, faded)


def _times_of(columns: Columns) -> Times:
    if columns.times is None:
        raise TypeError("an EMA by event time was given columns without times")
    return columns.times
