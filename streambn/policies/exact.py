"""Everything seen counts equally, and nothing is rounded before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Estimates, Moments
from streambn.kernels import Columns

__all__ = ["Exact"]


@dataclass(frozen=True, slots=True)
class Exact:
    """Everything seen counts equally, and the sums are exact: same data, same bits.

    Mean, variance and standard deviation are the float64 numbers nearest to the exact values,
    of any finite data from the subnormal numbers to 1.8e308. So they are the same bits however
    the stream was cut, in whatever order it came, and on however many threads or machines it
    was learned. Its state is a `ExactMoments`: Σx and Σx² as integers, 880 bytes a column.

    Notes
    -----
    Decimals are summed as decimals, in units of their last digit: 0.1 is a tenth, as it is not
    as a float64. A column of which some batches hold decimals and others floats that are not
    whole has no unit in which both are exact: the later batch is refused.

    Sample weights are refused: a product with one would have to be rounded.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.Exact())
    >>> for day in ([1e300, 1.0], [2.0, -1e300], [3.0, 4.0]):
    ...     _ = norm.update(pa.table({"x": day}))
    >>> norm.stats()["mean"].to_pylist()
    [1.6666666666666667]
    """

    commutative: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = False
    event_time: ClassVar[None] = None

    def init(self, lanes: int) -> ExactMoments:
        """See `Policy.init`."""
        return ExactMoments.empty(lanes)

    def update(self, state: ExactMoments, columns: Columns) -> ExactMoments:
        """See `Policy.update`.

        Raises
        ------
        UnmergeableError
            There are decimals in a lane, and floats that are not whole.
        """
        return state.extend(columns)

    def merge(self, older: ExactMoments, newer: ExactMoments) -> ExactMoments:
        """See `Policy.merge`. Commutative, bit for bit; it raises as `update` does."""
        return older.merge(newer)

    def read(self, state: ExactMoments, ddof: int) -> Estimates:
        """See `Policy.read`: (n·Σx² − (Σx)²)/(n·(n − ddof)), rounded once."""
        return state.reading(ddof)

    def tally(self, state: ExactMoments) -> Moments:
        """See `Policy.tally`."""
        return state.books

    def take(self, state: ExactMoments, lanes: Sequence[int]) -> ExactMoments:
        """See `Policy.take`."""
        return state.take(lanes)

    def describe(self) -> str:
        """See `Policy.describe`."""
        return "Exact: every value counts equally, and only the result is rounded"
