"""Every value counts equally, and nothing is rounded before it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from streambn._messages import spell
from streambn.accumulators import Estimates, ExactMoments, Moments, check_exact
from streambn.kernels import Columns, Series, UnmergeableError
from streambn.kernels.interface import Transformed
from streambn.policies.base import Policy
from streambn.policies.welford import Welford

__all__ = ["Exact"]


@dataclass(frozen=True, slots=True)
class Exact(Policy):
    """Count every value equally and keep exact sums: the same data give the same bits.

    Mean, variance and standard deviation are the float64 values nearest to the exact ones, for
    all finite data between 5e-324 and 1.8e308. The result does not depend on batches, order,
    threads or machines. The state is an `ExactMoments`, Σx and Σx² as integers, 880 bytes per
    feature.

    Notes
    -----
    Decimals are summed in units of their last digit: 0.1 is one tenth, which float64 cannot
    represent. A column that holds decimals in some batches and fractional floats in others has
    no unit in which both are exact, so the later batch is rejected. `Welford` takes both.

    Sample weights are not supported, because a product with a weight would be rounded.

    Statistics of `Exact` merge with those of `Welford` into statistics of `Welford`; see
    `streambn.Normalizer.merge` and `streambn.Normalizer.as_welford`.

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
    exact: ClassVar[bool] = True

    def init(self, features: int) -> ExactMoments:
        """See `Policy.init`."""
        return ExactMoments.empty(features)

    def update(self, state: ExactMoments, columns: Columns) -> ExactMoments:
        """See `Policy.update`.

        Raises
        ------
        UnmergeableError
            A feature holds decimals and fractional floats.
        """
        with _remedy():
            return state.extend(columns)

    def append(self, state: ExactMoments, block: ExactMoments, rows: int) -> ExactMoments:
        """See `Policy.append`. It raises as `update` does."""
        del rows
        return self.merge(state, block)

    def merge(self, older: ExactMoments, newer: ExactMoments) -> ExactMoments:
        """See `Policy.merge`. The merge is commutative, bit for bit; it raises as `update` does."""
        with _remedy():
            return older.merge(newer)

    def read(self, state: ExactMoments, ddof: int) -> Estimates:
        """Return mean and variance (n·Σx² − (Σx)²)/(n·(n − ddof)), each rounded once."""
        return state.read(ddof)

    def tally(self, state: ExactMoments) -> Moments:
        """See `Policy.tally`."""
        return state.tally

    def take(self, state: ExactMoments, features: Sequence[int]) -> ExactMoments:
        """See `Policy.take`."""
        return state.take(features)

    def of_nulls(self, rows: int) -> ExactMoments:
        """See `Policy.of_nulls`."""
        return ExactMoments.of_nulls(rows)

    def check_state(self, state: ExactMoments) -> None:
        """See `Policy.check_state`."""
        check_exact(state)

    def check_by_row(self) -> None:
        """See `Policy.check_by_row`."""

    def map_series(
        self, state: ExactMoments, columns: Columns, series: Series
    ) -> tuple[ExactMoments, Transformed]:
        """See `Policy.map_series`.

        The state stays exact. Rows are mapped by moments that start at the state, rounded once to
        double-doubles, and grow by a merge for each row. Each merge rounds in the 104th bit, so
        after n rows the mean and the variance are within about n·2**-104 of the exact ones, which
        float64 shows only where they are within that of a tie between two float64. Only there the
        output may differ, in its last bit, with the batches.
        """
        after = self.update(state, columns)
        _, mapped = Welford().map_series(state.to_moments(), columns, series)
        return after, mapped

    def describe(self) -> str:
        """See `Policy.describe`."""
        return "Exact: every value counts equally, and only the result is rounded"


@contextlib.contextmanager
def _remedy() -> Iterator[None]:
    """Add the remedy to the error for decimals and floats in one column."""
    try:
        yield
    except UnmergeableError as error:
        raise UnmergeableError(
            error.feature,
            f"{error.reason} Cast the column to one type, such as float64, or choose "
            f"{spell('policy', Welford())}, which takes both and rounds.",
        ) from error
