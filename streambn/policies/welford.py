"""Every value counts equally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streambn.accumulators import Estimates, Moments, check_moments
from streambn.kernels import Columns
from streambn.kernels.interface import Ints
from streambn.policies.base import Policy, RowRule

__all__ = ["Welford"]


@dataclass(frozen=True, slots=True)
class Welford(Policy):
    """Count every value equally.

    Mean and variance of the whole stream by Welford's update in its merging form (Chan, Golub
    and LeVeque, 1983). The state is a `Moments`.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.Welford()).update(pa.table({"x": [1.0, 2.0, 6.0]}))
    >>> norm.stats()["mean"].to_pylist()
    [3.0]
    """

    commutative: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True
    row_rule: ClassVar[RowRule] = RowRule(decay=1.0, ignore_na=False, prior=0.0)

    def init(self, features: int) -> Moments:
        """See `Policy.init`."""
        return Moments.empty(features)

    def update(self, state: Moments, columns: Columns) -> Moments:
        """See `Policy.update`."""
        return state.extend(columns)

    def append(self, state: Moments, block: Moments, rows: int) -> Moments:
        """See `Policy.append`."""
        del rows
        return state.merge(block)

    def merge(self, older: Moments, newer: Moments) -> Moments:
        """See `Policy.merge`. The merge is commutative, up to rounding."""
        return older.merge(newer)

    def read(self, state: Moments, ddof: int) -> Estimates:
        """Return mean and variance S/(n − ddof); see `Moments.read` for sample weights."""
        return state.read(ddof)

    def readable(self, state: Moments) -> Moments:
        """See `Policy.readable`."""
        return state

    def tally(self, state: Moments) -> Moments:
        """See `Policy.tally`."""
        return state

    def take(self, state: Moments, features: Sequence[int]) -> Moments:
        """See `Policy.take`."""
        return state.take(features)

    def check_state(self, state: Moments) -> None:
        """See `Policy.check_state`."""
        check_moments(state, decay=1.0)

    def from_moments(self, moments: Moments, first: Moments | None, gaps: Ints | None) -> Moments:
        """See `Policy.from_moments`."""
        del first, gaps
        return moments

    def to_moments(self, state: Moments) -> tuple[Moments, None, None]:
        """See `Policy.to_moments`."""
        return state, None, None

    def describe(self) -> str:
        """See `Policy.describe`."""
        return "Welford: every value counts equally"
