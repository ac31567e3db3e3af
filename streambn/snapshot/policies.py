"""Policies and their states as a statistics file holds them.

Each class stores one policy with its state, and a table finds the class by the policy's type.
A file decodes to the class that its ``kind`` names. The attribute `since` is the lowest version
of the format that can express the policy.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Self

import msgspec
import numpy as np

from streambn.errors import SnapshotError
from streambn.policies import (
    EMA,
    AdjustedState,
    BatchEMA,
    BatchState,
    Exact,
    Policy,
    RecursiveState,
    TimedState,
    Welford,
)
from streambn.snapshot.base import OutdatedError, Stored
from streambn.snapshot.exact_sums import StoredExactMoments
from streambn.snapshot.moments import StoredMoments, restore_arrays

__all__ = [
    "StoredBatchEMA",
    "StoredBatchEMAState",
    "StoredEMA",
    "StoredEMAState",
    "StoredExact",
    "StoredPolicy",
    "StoredWelford",
    "can_hold",
    "hyperparameters",
    "store",
]


class _StoredState(Stored):
    """A policy without hyperparameters, which is stored as its state."""

    stored_state: ClassVar[Any]

    state: Any

    @classmethod
    def of(cls, policy: Policy, state: Any) -> Self:
        """Return the stored form; a state of None is stored as null."""
        del policy
        return cls(state=None if state is None else cls.stored_state.of(state))

    def restore(self, features: int) -> Any:
        """Return the state."""
        return self.state.restore(features)


class StoredWelford(_StoredState, tag="welford", tag_field="kind"):
    """`Welford` and its moments."""

    since: ClassVar[int] = 2
    policy: ClassVar[type[Policy]] = Welford
    stored_state: ClassVar[Any] = StoredMoments

    state: StoredMoments | None


class StoredExact(_StoredState, tag="exact", tag_field="kind"):
    """`Exact` and its sums."""

    since: ClassVar[int] = 4
    policy: ClassVar[type[Policy]] = Exact
    stored_state: ClassVar[Any] = StoredExactMoments

    state: StoredExactMoments | None


class StoredEMAState(Stored):
    """State of an `EMA`.

    Attributes
    ----------
    moments : StoredMoments
    first
        The field of `RecursiveState`, with ``adjust=False``.
    gaps
        The field of `RecursiveState`, or of `AdjustedState` if a gap is not 0. Version 1 has none.
    times, latest, zoned
        The fields of `TimedState`, by event time. `latest` is null before the first row.
    """

    moments: StoredMoments
    first: StoredMoments | None
    gaps: tuple[list[int], list[int]] | None = None
    times: tuple[list[float], list[float]] | None = None
    latest: tuple[float, float] | None = None
    zoned: bool | None = None

    @classmethod
    def of(cls, policy: EMA, state: Any) -> Self:
        """Return the stored form of a state."""
        if policy.time is not None:
            seen = policy.newest(state) is not None
            return cls(
                moments=StoredMoments.of(state.moments),
                first=None,
                times=tuple(state.times.tolist()),
                latest=tuple(state.latest.tolist()) if seen else None,
                zoned=state.zoned,
            )
        moments, first, gaps = policy.to_moments(state)
        if first is None and gaps is not None and not gaps.any():
            gaps = None
        return cls(
            moments=StoredMoments.of(moments),
            first=None if first is None else StoredMoments.of(first),
            gaps=None if gaps is None else tuple(gaps.tolist()),
        )

    def restore(self, features: int) -> AdjustedState | RecursiveState | TimedState:
        """Return the state.

        Raises
        ------
        OutdatedError
            The recursion has no gaps.
        SnapshotError
            A number is out of range.
        """
        moments = self.moments.restore(features)
        if self.times is not None:
            times = restore_arrays("times", self.times, features, np.float64)
            latest = np.array(self.latest or (-np.inf, 0.0))
            return TimedState(moments, times, latest, self.zoned)
        first = None if self.first is None else self.first.restore(features)
        if self.gaps is None and first is None:
            return AdjustedState(moments, np.zeros((2, features), np.int64))
        if self.gaps is None:
            raise OutdatedError(
                "was written before the first release by an EMA with adjust=False, without the "
                "gaps between values that it needs. Fit again."
            )
        gaps = restore_arrays("gaps", self.gaps, features, np.int64)
        if first is None:
            return AdjustedState(moments, gaps)
        return RecursiveState(moments, first, gaps)


class StoredEMA(Stored, tag="ema", tag_field="kind"):
    """`EMA` and its state."""

    alpha: float | None
    halflife: float | str | None
    span: float | None
    com: float | None
    adjust: bool
    ignore_na: bool
    state: StoredEMAState | None
    time: str | None = None
    # None stands for "raise". msgspec would not omit a string that merely equals the default.
    null_time: Literal["skip"] | None = None

    @classmethod
    def of(cls, policy: EMA, state: Any) -> Self:
        """Return the stored form; a state of None is stored as null."""
        rates = {name: getattr(policy, name) for name in ("alpha", "halflife", "span", "com")}
        return cls(
            **{name: float(x) if isinstance(x, int) else x for name, x in rates.items()},
            adjust=policy.adjust,
            ignore_na=policy.ignore_na,
            time=policy.time,
            null_time="skip" if policy.null_time == "skip" else None,
            state=None if state is None else StoredEMAState.of(policy, state),
        )

    @property
    def since(self) -> int:
        """The lowest version of the format that can express the policy and its state."""
        if self.state is None:
            return 2
        counted = self.adjust and self.state.gaps is not None
        return 5 if counted or self.state.zoned is not None else 2

    def policy(self) -> EMA:
        """Return the policy."""
        return EMA(
            alpha=self.alpha,
            halflife=self.halflife,
            span=self.span,
            com=self.com,
            adjust=self.adjust,
            ignore_na=self.ignore_na,
            time=self.time,
            null_time=self.null_time or "raise",
        )

    def restore(self, features: int) -> Any:
        """Return the state.

        Raises
        ------
        SnapshotError
            The state is not one of this policy, or a number is out of range.
        """
        if self.state is None:
            return None
        if (self.state.first is None) != self.adjust:
            raise SnapshotError("a first value must be stored if adjust is false, and only then")
        if (self.state.times is None) != (self.time is None):
            raise SnapshotError("times must be stored if time is set, and only then")
        return self.state.restore(features)


class StoredBatchEMAState(Stored):
    """The fields of `BatchState`."""

    means: StoredMoments
    variances: StoredMoments
    open: StoredMoments
    open_rows: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    blocks: Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class StoredBatchEMA(Stored, tag="batch-ema", tag_field="kind", kw_only=True):
    """`BatchEMA` and its state; of momentum and decay, the one that the user gave."""

    since: ClassVar[int] = 2

    momentum: float | msgspec.UnsetType | None = msgspec.UNSET
    decay: float | msgspec.UnsetType = msgspec.UNSET
    ddof: int
    initial: tuple[float, float] | None
    batch_rows: int | None
    state: StoredBatchEMAState | None

    @classmethod
    def of(cls, policy: BatchEMA, state: BatchState | None) -> Self:
        """Return the stored form; a state of None is stored as null."""
        rate: dict[str, Any] = {
            name: None if value is None else float(value) for name, value in policy.rate.items()
        }
        stored = None
        if state is not None:
            stored = StoredBatchEMAState(
                means=StoredMoments.of(state.means),
                variances=StoredMoments.of(state.variances),
                open=StoredMoments.of(state.open),
                open_rows=state.open_rows,
                blocks=state.blocks,
            )
        return cls(
            **rate,
            ddof=policy.ddof,
            initial=policy.initial,
            batch_rows=policy.batch_rows,
            state=stored,
        )

    def policy(self) -> BatchEMA:
        """Return the policy."""
        rates = {"momentum": self.momentum, "decay": self.decay}
        given: dict[str, Any] = {k: v for k, v in rates.items() if v is not msgspec.UNSET}
        return BatchEMA(**given, ddof=self.ddof, initial=self.initial, batch_rows=self.batch_rows)

    def restore(self, features: int) -> BatchState | None:
        """Return the state."""
        if self.state is None:
            return None
        return BatchState(
            self.state.means.restore(features),
            self.state.variances.restore(features),
            self.state.open.restore(features),
            self.state.open_rows,
            self.state.blocks,
        )


StoredPolicy = StoredWelford | StoredEMA | StoredBatchEMA | StoredExact

# By the exact type: a subclass is the user's own policy, whose code a file does not hold.
_STORED: Final[dict[type, Any]] = {
    Welford: StoredWelford,
    EMA: StoredEMA,
    BatchEMA: StoredBatchEMA,
    Exact: StoredExact,
}


def can_hold(policy: Policy) -> bool:
    """Return whether a statistics file can hold a policy: only one of streambn's own."""
    return type(policy) in _STORED


def store(policy: Policy, state: Any) -> StoredPolicy:
    """Return the stored form of a policy and its state.

    Raises
    ------
    SnapshotError
        The policy is not one of streambn's own.
    """
    if not can_hold(policy):
        names = ", ".join(known.__name__ for known in _STORED)
        raise SnapshotError(
            f"policy {policy!r} cannot be saved: a statistics file holds no code, so only {names} "
            "can be saved.",
            argument="policy",
        )
    stored: StoredPolicy = _STORED[type(policy)].of(policy, state)
    return stored


def hyperparameters(policy: Policy) -> dict[str, Any]:
    """Return the kind and the hyperparameters of a policy, as a statistics file names them.

    Raises
    ------
    SnapshotError
        The policy is not one of streambn's own.
    """
    document: dict[str, Any] = msgspec.to_builtins(store(policy, None))
    del document["state"]
    return document
