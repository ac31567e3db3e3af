"""Forgetting by event time: a weight halves with every half-life, in whatever order rows come."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streambn.accumulators import Moments, check_moments, require
from streambn.errors import InvalidValueError
from streambn.kernels import Columns, Series, SeriesState, Times, map_series, time_weights
from streambn.kernels import doubledouble as dd
from streambn.kernels.flatten import iterate_features
from streambn.kernels.interface import NEGLIGIBLE, Floats, Transformed
from streambn.policies.base import instant

__all__ = ["TimedEMA", "TimedState"]

# Features lighter than this, relative to the newest row of the batch, are weighted as of their
# own newest value. That leaves a thousand half-lives of range behind it.
_LIGHT = 2.0**-64
# If a row is lighter than this, every feature without a value in the newest row is weighted so,
# because some of its values may need all of the range.
_LIGHTEST_ROW = 2.0**-900
# Plain numbers beyond this are divided by 4, because their difference may exceed float64.
_FAR = 2.0**1000
_FARTHEST = 2.0**107  # seconds in 64 bits, as nanoseconds


class TimedState(NamedTuple):
    """State of an `EMA` by event time.

    Attributes
    ----------
    moments : Moments
        Of each feature's values, weighted as of a time of its own; their decay is 1.
    times : ndarray of float64, shape (2, features)
        Those times as hi + lo, in nanoseconds since 1970 or in the user's numbers. None is before
        the newest value of its feature; 0 without a value.
    latest : ndarray of float64, shape (2,)
        The time of the newest row, likewise; -inf before the first row.
    zoned : bool or None
        Whether the times have a time zone; None: unknown, or they are numbers.
    """

    moments: Moments
    times: Floats
    latest: Floats
    zoned: bool | None = None


@dataclass(frozen=True, slots=True)
class TimedEMA:
    """A value weighs 2**(−age/halflife).

    Two segments are brought to the later of their times and merged like any others. The order of
    values and merges has no effect, up to rounding.
    """

    halflife: float  # in nanoseconds, or in the user's numbers
    numeric: bool  # whether times are the user's numbers

    def init(self, features: int) -> TimedState:
        """See `Policy.init`."""
        never = np.array([-np.inf, 0.0])
        return TimedState(Moments.empty(features), np.zeros((2, features)), never)

    def update(self, state: TimedState, columns: Columns) -> TimedState:
        """See `Policy.update`."""
        if columns.rows == 0:
            return state
        return self.merge(state, self._of_batch(columns))

    def _of_batch(self, columns: Columns) -> TimedState:
        times, given = _times_of(columns), columns.weights
        latest = times.ticks.max()
        weights = self._weights(times, latest, given)
        moments = Moments.of(columns.with_weights(weights))
        now = instant(latest, times.tick)
        reference = np.repeat(now[:, np.newaxis], len(moments.count), axis=1)
        light = self._light_features(columns, moments, weights)
        if light.any():
            memory = moments.memory.copy()
            for feature, values, valid in iterate_features(columns, np.flatnonzero(light)):
                rows = np.flatnonzero(valid)
                own = times.take(rows)
                last = own.ticks.max()
                weights = self._weights(own, last, None if given is None else given[rows])
                alone = Moments.of(Columns.of(values.take(rows)).with_weights(weights))
                memory[Moments.TALLY.stop :, feature] = alone.memory[Moments.TALLY.stop :, 0]
                reference[:, feature] = instant(last, times.tick)
            moments = Moments.sealed(Moments(memory))
        return TimedState(moments, reference * (moments.count > 0), now, times.zoned)

    def _light_features(
        self, columns: Columns, moments: Moments, weights: Floats
    ) -> NDArray[np.bool_]:
        """Return which features need weights as of their own newest value."""
        heaviest = 1.0 if columns.weights is None else columns.weights.max()
        light: NDArray[np.bool_] = (moments.weight < heaviest) & (moments.count > 0)
        if light.any() and weights.min() >= _LIGHTEST_ROW * heaviest:
            light &= moments.weight < _LIGHT * heaviest
        if light.any():
            # A value in the newest row is its feature's newest one, however light it is.
            newest = int(_times_of(columns).ticks.argmax())
            light &= Moments.of(columns.slice(newest, 1)).count == 0
        return light

    def _weights(self, times: Times, latest: float, given: Floats | None) -> Floats:
        # Bounded, because infinitely many half-lives in no time are NaN.
        halflives = min((times.tick or 1) / self.halflife, 2.0**1021)
        if times.ticks.dtype == np.float64 and max(latest, -times.ticks.min()) > _FAR:
            times, latest, halflives = Times(times.ticks / 4, None), latest / 4, halflives * 4
        weights: Floats = time_weights(times, latest, halflives, given)
        return weights

    def merge(self, older: TimedState, newer: TimedState) -> TimedState:
        """See `Policy.merge`. The merge is commutative, up to rounding."""
        a, b = older, newer
        no_a, no_b = a.moments.weight == 0, b.moments.weight == 0
        later = self._half_lives(a.times, b.times)
        late_a = (later < 0) & ~no_a & ~no_b
        fade = np.where(no_a | no_b, 1.0, _fade(np.abs(later)))
        early, late = a.moments, b.moments
        if late_a.any():
            early, late = (
                Moments(np.where(late_a, one.memory, other.memory))
                for one, other in ((late, early), (early, late))
            )
        merged = early.merge(late.replace(decay=fade)).replace(decay=np.ones_like(fade))
        times = np.where(no_b | late_a, a.times, b.times)
        latest = max(a.latest, b.latest, key=tuple)
        zoned = b.zoned if a.zoned is None else a.zoned
        return TimedState(Moments.sealed(merged), times, latest, zoned)

    def _half_lives(self, older: Floats, newer: Floats) -> Floats:
        """Return the half-lives between times given as hi + lo along the first axis."""
        # Quarters, for the reason given at `_FAR`.
        with np.errstate(over="ignore", invalid="ignore"):
            a, b = older / -4, newer / 4
            apart: Floats = dd.add((b[0], b[1]), (a[0], a[1]))[0] / self.halflife
            return apart * 4

    def map_series(
        self, state: TimedState, columns: Columns, series: Series
    ) -> tuple[TimedState, Transformed]:
        """See `Policy.map_series`. The times ascend, from that of the newest row on."""
        times = _times_of(columns)
        older = SeriesState(state.moments, times=state.times)
        newer, mapped = map_series(columns, older, series._replace(halflife=self.halflife))
        assert newer.times is not None
        learned = times.ticks if columns.weights is None else times.ticks[columns.weights > 0]
        if len(learned) == 0:
            return state, mapped
        moments, now = Moments.sealed(newer.moments), instant(learned[-1], times.tick)
        zoned = times.zoned if state.zoned is None else state.zoned
        return TimedState(moments, newer.times, now, zoned), mapped

    def tally(self, state: TimedState) -> Moments:
        """See `Policy.tally`."""
        return state.moments

    def weighted(self, state: TimedState) -> Moments:
        """Return the moments of all values."""
        return state.moments

    def weight(self, state: TimedState, at: Floats | None) -> Floats:
        """Return Σw of each feature as of a time; None: the time of the newest row.

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
                    f"at lies {-ahead:g} half-lives before the newest row. Statistics cannot be "
                    "read as of a time before it. Give a later time, or omit at.",
                    argument="at",
                )
            now = at
        seen = state.moments.weight > 0
        age = np.where(seen, self._half_lives(state.times, now[:, np.newaxis]), 0.0)
        return state.moments.weight * _fade(age)

    def of_nulls(self, rows: int) -> TimedState:
        """See `Policy.of_nulls`. The times of the rows are not known."""
        return self.init(1)._replace(moments=Moments.of_nulls(rows))

    def check_state(self, state: TimedState) -> None:
        """See `Policy.check_state`. No feature has a time after the newest row."""
        moments, times, latest = state.moments, state.times, state.latest
        check_moments(moments, "moments.", decay=1.0)
        self._check_times("times", times)
        if np.isneginf(latest[0]):
            rows = moments.memory[:5].sum(axis=0)
            require(rows == 0, "moments.count", moments.count, "0 where latest is null")
            return
        self._check_times("latest", latest[:, np.newaxis])
        some = moments.count > 0
        past = (times[0] < latest[0]) | ((times[0] == latest[0]) & (times[1] <= latest[1]))
        require(~some | past, "times[0]", times[0], "no later than latest")
        require(some | (times == 0).all(axis=0), "times[0]", times[0], "0 where count is 0")
        if self.numeric and state.zoned is not None:
            raise InvalidValueError(f"zoned is {state.zoned}, but times are numbers")

    def _check_times(self, name: str, times: Floats) -> None:
        high: Floats = times[0]
        low: Floats = times[1]
        bound = sys.float_info.max if self.numeric else _FARTHEST
        require(np.abs(high) <= bound, f"{name}[0]", high, f"a time within ±{bound:.2g}")
        small = np.abs(low) <= np.abs(high) * 2.0**-52
        require(small, f"{name}[1]", low, f"negligible beside {name}[0]")

    def newest(self, state: TimedState) -> Floats | None:
        """See `Policy.newest`."""
        return state.latest if np.isfinite(state.latest[0]) else None

    def take(self, state: TimedState, features: Sequence[int]) -> TimedState:
        """See `Policy.take`."""
        moments = state.moments.take(features)
        return state._replace(moments=moments, times=np.take(state.times, list(features), axis=1))


def _fade(half_lives: Floats) -> Floats:
    faded = np.exp2(-half_lives)
    return np.where(faded < NEGLIGIBLE, 0.0, faded)


def _times_of(columns: Columns) -> Times:
    if columns.times is None:
        raise TypeError("an EMA by event time needs columns with times")
    return columns.times
