"""Everything seen counts equally."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streambn.accumulators.moments import Estimates, Moments
from streambn.kernels import Columns
from streambn.kernels.interface import Ints
from streambn.policies.base import ByRow

__all__ = ["Welford"]


@dataclass(frozen=True, slots=True)
class Welford:
    """Everything seen counts equally.

    Mean and variance over the whole stream by Welford's update in its merging form
    (Chan, Golub and LeVeque, 1983). Its state is a `Moments`.

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
    event_time: ClassVar[None] = None
    by_row: ClassVar[ByRow] = ByRow(decay=1.0, ignore_na=False, prior=0.0)

    def init(self, lanes: int) -> Moments:
        """See `Policy.init`."""
        return Moments.empty(lanes)

    def update(self, state: Moments, columns: Columns) -> Moments:
        """See `Policy.update`."""
        return state.extend(columns)

    def merge(self, older: Moments, newer: Moments) -> Moments:
        """See `Policy.merge`. Commutative, up to rounding."""
        return older.merge(newer)

    def read(self, state: Moments, ddof: int) -> Estimates:
        """See `Policy.read`: S/(n − ddof); with sample weights S/W or, with ddof, S·W/(2C)."""
        return state.reading(ddof)

    def tally(self, state: Moments) -> Moments:
        """See `Policy.tally`."""
        return state

    def take(self, state: Moments, lanes: Sequence[int]) -> Moments:
        """See `Policy.take`."""
        return state.take(lanes)

    def of_moments(self, moments: Moments, first: Moments | None, gaps: Ints | None) -> Moments:
        """See `RowPolicy.of_moments`."""
        del first, gaps
        return moments

    def moments_of(self, state: Moments) -> tuple[Moments, None, None]:
        """See `RowPolicy.moments_of`."""
        return state, None, None

    def describe(self) -> str:
        """See `Policy.describe`."""
        return "Welford: every value counts equally"
