"""What a normalizer asks of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from streambn.kernels import Columns
from streambn.moments import Moments, Reading

__all__ = ["ByRow", "Policy", "RowPolicy"]


class Policy(Protocol):
    """What a normalizer asks of a policy. Every method is a pure function."""

    @property
    def commutative(self) -> bool:
        """Say whether the order of `merge`'s arguments is without effect."""

    def init(self, lanes: int) -> Any:
        """Return the state of a stream of which nothing was seen."""

    def update(self, state: Any, columns: Columns) -> Any:
        """Return the state after one more batch."""

    def merge(self, older: Any, newer: Any) -> Any:
        """Return the state of the stream `older` followed by the stream `newer`."""

    def read(self, state: Any, ddof: int) -> Reading:
        """Return the statistics, the variance with `ddof` taken off where that applies."""

    def tally(self, state: Any) -> Moments:
        """Return moments of whose fields count, nulls, nans, infs, min, max are used."""

    def take(self, state: Any, lanes: Sequence[int]) -> Any:
        """Return the state of some of the lanes, in the order given."""

    def describe(self) -> str:
        """Say in words what the policy does."""


class ByRow(NamedTuple):
    """What one row does to the statistics, where that is the same for all rows.

    Attributes
    ----------
    decay : float
        λ, the factor by which it discounts those before it.
    ignore_na : bool
        Whether a missing value discounts nothing.
    prior : float
        Extra weight of the first value, discounted like it; 0: none.
    """

    decay: float
    ignore_na: bool
    prior: float


class RowPolicy(Policy, Protocol):
    """A policy whose statistics can be kept value by value, outside it.

    Its state is made of the moments of all values and, if that has a prior weight, those of
    the first one alone.
    """

    @property
    def by_row(self) -> ByRow:
        """Say what a row does."""

    def of_moments(self, moments: Moments, first: Moments | None) -> Any:
        """Make a state."""

    def moments_of(self, state: Any) -> tuple[Moments, Moments | None]:
        """Take a state apart."""
