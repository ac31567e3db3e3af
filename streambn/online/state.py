"""Where the statistics of features are kept: in the row kernel, or as the state of a policy.

Both classes have the same methods. They give out a policy's state that has room for new features,
and take in the state that follows from it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np

from streambn.accumulators import ExactMoments, Moments
from streambn.kernels import (
    ExactSums,
    FeatureTransform,
    RowStatistics,
)
from streambn.kernels.interface import Ints
from streambn.kernels.moments import MomentArrays
from streambn.policies import Policy, RowRule

__all__ = ["KernelState", "PolicyState"]

_FIELDS: Final = len(MomentArrays.FIELDS)


class KernelState:
    """Statistics in the row kernel, for a policy with a `row_rule`."""

    # Whether `read` returns one feature more than it was asked for.
    has_spare: ClassVar[bool] = False

    def __init__(self, policy: Policy, rule: RowRule, kernel: RowStatistics) -> None:
        self._policy = policy
        self._rule = rule
        self._kernel = kernel

    def read(self, new: int = 0) -> Any:
        """Return the policy's state of all features and of `new` further ones."""
        moments, first, gaps, _ = self._stored(per_feature=False)
        if new:
            moments = np.hstack([moments, self._never_seen(new)])
            if first is not None:
                first = np.hstack([first, Moments.empty(new).memory])
            if gaps is not None:
                rows = np.full(new, self._kernel.rows)
                gaps = np.hstack([gaps, np.array([rows, np.zeros_like(rows)])])
        return self._policy.from_moments(
            Moments.sealed(MomentArrays(moments)),
            None if first is None else Moments.sealed(MomentArrays(first)),
            gaps,
        )

    def read_known(self) -> Any:
        """Return the policy's state of exactly the known features."""
        return self.read()

    def write(
        self, state: Any, new: list[Any], exact: list[bool], *, before: int, rows: int
    ) -> bool:
        """Replace the statistics by a policy's state after `rows` rows.

        Parameters
        ----------
        state : object
            Of all features, then of the new ones.
        new : list
            Names of the new features.
        exact : list of bool
            For each feature, whether all its values are integers or decimals.
        before, rows : int
            Number of rows before and after.

        Returns
        -------
        bool
            False if another thread has learned since there were `before` rows. Nothing changed
            then.
        """
        moments, first, gaps = self._policy.to_moments(state)
        return self._kernel.update(
            new, exact, before, rows, moments.memory, None if first is None else first.memory, gaps,
            None,
        )  # fmt: skip

    def begin(self, state: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """Take over a policy's state that was kept elsewhere."""
        self.write(state, features, exact, before=0, rows=rows)

    def dump(self) -> Any:
        """Return the statistics for `restore`, bit for bit.

        The kernel brings a feature up to date only when a row has it. Doing so here would round,
        and a copy would go on with other bits.
        """
        return [None if a is None else a.tobytes() for a in self._stored(per_feature=True)]

    def restore(self, dumped: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """Take over what `dump` returned."""
        arrays = [None if data is None else np.frombuffer(data, np.int64) for data in dumped]
        self._kernel.update(features, exact, 0, rows, *arrays)

    def set_maps(self, transform: FeatureTransform) -> None:
        """Set the map of each feature in the kernel, which computes them itself."""

    def _stored(self, *, per_feature: bool) -> tuple[Ints, Ints | None, Ints | None, Ints | None]:
        """Return moments, first values and gaps, and if `per_feature` the rows of each feature."""
        while True:
            features = len(self._kernel)
            moments = np.empty((_FIELDS, features), np.int64)
            first = gaps = None
            if self._rule.prior:
                first = np.empty_like(moments)
            if self._rule.counts_gaps:
                gaps = np.empty((2, features), np.int64)
            rows = np.empty(features, np.int64) if per_feature else None
            try:
                self._kernel.store(moments, first, gaps, rows)
            except ValueError:
                if len(self._kernel) != features:
                    continue  # another thread learned a new feature meanwhile
                raise
            return moments, first, gaps, rows

    def _never_seen(self, features: int) -> Ints:
        """Return the moments of features that no row had."""
        empty = Moments.empty(features)
        return empty.replace(nulls=np.full(features, self._kernel.rows)).memory


class PolicyState:
    """Statistics as the state of a policy without a `row_rule`. The row kernel only transforms.

    The state has one more feature than the kernel. That spare feature is null in every row, and
    its statistics are those of each feature that appears for the first time.
    """

    has_spare: ClassVar[bool] = True

    def __init__(self, policy: Policy, kernel: RowStatistics) -> None:
        self._policy = policy
        self._kernel = kernel
        self._state = policy.init(1)

    def read(self, new: int = 0) -> Any:
        """See `KernelState.read`; the last feature is the spare one."""
        known = len(self._kernel)
        return self._policy.take(self._state, [*range(known), *[known] * (new + 1)])

    def read_known(self) -> Any:
        """See `KernelState.read_known`."""
        return self._policy.take(self._state, range(len(self._kernel)))

    def write(
        self, state: Any, new: list[Any], exact: list[bool], *, before: int, rows: int
    ) -> bool:
        """See `KernelState.write`."""
        empty = Moments.empty(len(exact)).memory
        written = self._kernel.update(new, exact, before, rows, empty, None, None, None)
        if written:
            self._state = state
        return written

    def begin(self, state: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """See `KernelState.begin`."""
        self.restore(_append(state, self._policy.of_nulls(rows)), features, exact, rows)

    def dump(self) -> Any:
        """See `KernelState.dump`."""
        return self._state

    def restore(self, dumped: Any, features: list[Any], exact: list[bool], rows: int) -> None:
        """See `KernelState.restore`."""
        self.write(dumped, features, exact, before=0, rows=rows)

    def set_maps(self, transform: FeatureTransform) -> None:
        """See `KernelState.set_maps`; this kernel has no statistics to compute maps from."""
        t, features = transform, len(self._kernel)
        arrays = (t.location_hi, t.location_lo, t.scale, t.gamma, t.beta, t.known)
        self._kernel.set_maps(*(values[:features] for values in arrays if values is not None))


def _append(state: Any, other: Any) -> Any:
    """Return a state with the one feature of another state appended.

    A number, and an array whose last axis is not the features, are taken from the first state.
    """
    if isinstance(state, Moments):
        return Moments.sealed(MomentArrays(np.hstack([state.memory, other.memory])))
    if isinstance(state, ExactMoments):
        return ExactMoments.sealed(ExactSums(np.hstack([state.memory, other.memory])))
    if isinstance(state, np.ndarray) and other.shape[-1:] == (1,):
        return np.concatenate([state, other], axis=-1)
    if isinstance(state, tuple) and hasattr(state, "_make"):
        return state._make(map(_append, state, other))
    return state
