"""What a normalizer asks of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from streambn.accumulators.moments import Estimates, Moments
from streambn.kernels import Columns
from streambn.kernels.interface import Floats, Ints

__all__ = ["ByRow", "EventTime", "Extras", "Policy", "RowPolicy", "event_time_of", "takes_weights"]


class Policy(Protocol):
    """What a normalizer asks of a policy. Every method is a pure function.

    Notes
    -----
    A policy may have more. With an attribute ``takes_weights`` that is true it heeds the
    `weights` of the `Columns`; without, a normalizer with ``weights=`` refuses it. With an
    `EventTime` as ``event_time`` it gets the `times` of the `Columns`. With a method
    `Extras.extras` it has further statistics.
    """

    @property
    def commutative(self) -> bool:
        """Say whether the order of `merge`'s arguments is without effect."""

    def init(self, lanes: int) -> Any:
        """Return the state of a stream of which nothing was seen."""

    def update(self, state: Any, columns: Columns) -> Any:
        """Return the state after one more batch."""

    def merge(self, older: Any, newer: Any) -> Any:
        """Return the state of the stream `older` followed by the stream `newer`."""

    def read(self, state: Any, ddof: int) -> Estimates:
        """Return the statistics, the variance with `ddof` taken off where that applies."""

    def tally(self, state: Any) -> Moments:
        """Return moments of whose fields count, nulls, nans, infs, min, max are used."""

    def take(self, state: Any, lanes: Sequence[int]) -> Any:
        """Return the state of some of the lanes, in the order given."""

    def describe(self) -> str:
        """Say in words what the policy does."""


class EventTime(NamedTuple):
    """The column by which a policy knows when a row happened.

    Attributes
    ----------
    column : str
    length : str
        How long the policy's unit of time is, as the user gave it.
    numeric : bool
        Whether times are plain numbers; else timestamps or dates.
    null : {"raise", "skip"}
        What a row without a time does: it is an error, or leaves no trace.
    """

    column: str
    length: str
    numeric: bool
    null: Literal["raise", "skip"]


def event_time_of(policy: Policy) -> EventTime | None:
    """Say by which column a policy knows when rows happened, if it asks for that."""
    return getattr(policy, "event_time", None)


def takes_weights(policy: Policy) -> bool:
    """Say whether a policy heeds sample weights."""
    return bool(getattr(policy, "takes_weights", False))


class Extras(Policy, Protocol):
    """A policy with statistics of its own beside mean and variance."""

    def extras(self, state: Any, at: Floats | None) -> dict[str, Floats]:
        """Return them by name, NaN where undefined.

        Parameters
        ----------
        state : object
        at : ndarray of float64, shape (2,), or None
            The time as of which to read, as a policy by event time keeps times; None: that of
            the newest row.
        """


class ByRow(NamedTuple):
    """What one row does to the statistics, where that is the same for all rows.

    Attributes
    ----------
    decay : float
        λ, the factor by which it discounts those before it.
    ignore_na : bool
        Whether a missing value discounts nothing.
    prior : float
        What the first value weighs, where the later ones weigh 1 and all together always as
        much, 1/α: the recursion of ``adjust=False``. 0: the first one is as any other.
    """

    decay: float
    ignore_na: bool
    prior: float


class RowPolicy(Policy, Protocol):
    """A policy whose statistics can be kept value by value, outside it.

    Its state is made of the moments of all values or, where the first one has a weight of its
    own, of what a `RecursiveState` holds.
    """

    @property
    def by_row(self) -> ByRow:
        """Say what a row does."""

    def of_moments(self, moments: Moments, first: Moments | None, gaps: Ints | None) -> Any:
        """Make a state."""

    def moments_of(self, state: Any) -> tuple[Moments, Moments | None, Ints | None]:
        """Take a state apart."""
