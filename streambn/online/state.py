"""Where the statistics of features are: in the lanes, value by value, or in a policy's state.

A ledger hands out the policy's state, with room for features that are new, and takes the one
that the policy made of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from streambn.accumulators import ExactMoments, Moments
from streambn.kernels import BoundColumn, Columns, ExactSums, Layout, RowStatistics, Times
from streambn.kernels.interface import Ints
from streambn.kernels.moments import MomentArrays
from streambn.policies import Policy, RowRule

__all__ = ["BlockLedger", "ValueLedger"]

_FIELDS = len(MomentArrays.FIELDS)
_ONE = Layout([BoundColumn((0,), None)])


class ValueLedger:
    """Of a policy that goes value by value: the lanes keep all that there is."""

    # Whether the state has a lane behind those of all features.
    spare: ClassVar[bool] = False

    def __init__(self, policy: Policy, rule: RowRule, lanes: RowStatistics) -> None:
        self._policy = policy
        self._rule = rule
        self._lanes = lanes

    def state(self, fresh: int) -> Any:
        """Return the policy's state; behind all lanes there are `fresh` new ones."""
        moments, first, gaps, _ = self._stored(as_kept=False)
        if fresh:
            moments = np.hstack([moments, self._never_seen(fresh)])
            if first is not None:
                first = np.hstack([first, Moments.empty(fresh).memory])
            if gaps is not None:
                rows = np.full(fresh, self._lanes.rows)
                gaps = np.hstack([gaps, np.array([rows, np.zeros_like(rows)])])
        return self._policy.from_moments(
            Moments.sealed(MomentArrays(moments)),
            None if first is None else Moments.sealed(MomentArrays(first)),
            gaps,
        )

    def settled(self) -> Any:
        """Return the policy's state of the features, and of nothing else."""
        return self.state(0)

    def take(self, state: Any, fresh: list[Any], exact: list[bool], before: int, rows: int) -> bool:
        """Take over a state after `rows` rows, of the lanes that there are and of new ones.

        If another thread learned since there were `before` rows, nothing is done, and the
        result is False.
        """
        moments, first, gaps = self._policy.to_moments(state)
        values = None if first is None else first.memory
        return self._lanes.update(fresh, exact, before, rows, moments.memory, values, gaps, None)

    def begin(self, state: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """Take over a state that was kept elsewhere."""
        self.take(state, features, exact, 0, rows)

    def saved(self) -> Any:
        """Return what `restore` needs.

        As it is kept, not as of the last row: that would round, and a copy would go on from
        other bits.
        """
        return [None if a is None else a.tobytes() for a in self._stored(as_kept=True)]

    def restore(self, saved: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """Take over what `saved` gave."""
        arrays = [None if data is None else np.frombuffer(data, np.int64) for data in saved]
        self._lanes.update(features, exact, 0, rows, *arrays)

    def _stored(self, as_kept: bool) -> tuple[Ints, Ints | None, Ints | None, Ints | None]:
        """Return moments, those of first values, gaps, and how many rows each lane has seen."""
        while True:
            lanes = len(self._lanes)
            moments = np.empty((_FIELDS, lanes), np.int64)
            first = gaps = None
            if self._rule.prior:
                first, gaps = np.empty_like(moments), np.empty((2, lanes), np.int64)
            rows = np.empty(lanes, np.int64) if as_kept else None
            try:
                self._lanes.store(moments, first, gaps, rows)
            except ValueError:
                if len(self._lanes) != lanes:
                    continue  # another thread brought a feature meanwhile
                raise
            return moments, first, gaps, rows

    def _never_seen(self, lanes: int) -> Ints:
        """Return moments of features that all rows so far did not have."""
        decay, ignore_na, prior = self._rule
        rows = self._lanes.rows
        # With a prior what comes before the first value fades nothing.
        faded = 1.0 if ignore_na or prior else decay**rows
        empty = Moments.empty(lanes)
        return empty.replace(nulls=np.full(lanes, rows), decay=np.full(lanes, faded)).memory


class BlockLedger:
    """Of a policy that goes by blocks: its state, and the lanes only map.

    The state has one lane more than there are features. Nothing is ever seen of that one, and
    it becomes whatever appears.
    """

    spare: ClassVar[bool] = True

    def __init__(self, policy: Policy, lanes: RowStatistics) -> None:
        self._policy = policy
        self._lanes = lanes
        self._state = policy.init(1)

    def state(self, fresh: int) -> Any:
        """See `ValueLedger.state`; the spare lane is the last."""
        lanes = len(self._lanes)
        return self._policy.take(self._state, [*range(lanes), *[lanes] * (fresh + 1)])

    def settled(self) -> Any:
        """See `ValueLedger.settled`."""
        return self._policy.take(self._state, range(len(self._lanes)))

    def take(self, state: Any, fresh: list[Any], exact: list[bool], before: int, rows: int) -> bool:
        """See `ValueLedger.take`."""
        nothing = Moments.empty(len(exact)).memory
        taken = self._lanes.update(fresh, exact, before, rows, nothing, None, None, None)
        if taken:
            self._state = state
        return taken

    def begin(self, state: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """See `ValueLedger.begin`."""
        whole = _beside(state, self._without_values(rows))
        self.take(whole, features, exact, 0, rows)

    def _without_values(self, rows: int) -> Any:
        """Return the state of one lane of which so many rows had nothing."""
        if self._policy.event_time is None:
            return self._policy.update(self._state, _nulls(rows, None))
        # When they happened is without effect, but each needs a time: doubled, not all at once.
        state = self._state
        doubled = self._policy.update(state, _nulls(1, Times(np.zeros(1), None)))
        while rows:
            if rows % 2:
                state = self._policy.merge(state, doubled)
            doubled = self._policy.merge(doubled, doubled)
            rows //= 2
        return state

    def saved(self) -> Any:
        """See `ValueLedger.saved`."""
        return self._state

    def restore(self, saved: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """See `ValueLedger.restore`."""
        self.take(saved, features, exact, 0, rows)


def _nulls(rows: int, times: Times | None) -> Columns:
    batch = pa.RecordBatch.from_arrays([pa.nulls(rows)], ["0"])
    return Columns(batch, _ONE, None, times)


def _beside(state: Any, other: Any) -> Any:
    """Put the one lane of another state behind those of a state made of arrays over lanes.

    An array whose last axis is not the lanes, and a number, are the first state's.
    """
    if isinstance(state, Moments):
        return Moments.sealed(MomentArrays(np.hstack([state.memory, other.memory])))
    if isinstance(state, ExactMoments):
        return ExactMoments.sealed(ExactSums(np.hstack([state.memory, other.memory])))
    if isinstance(state, np.ndarray) and other.shape[-1:] == (1,):
        return np.concatenate([state, other], axis=-1)
    if isinstance(state, tuple) and hasattr(state, "_make"):
        return state._make(map(_beside, state, other))
    return state
