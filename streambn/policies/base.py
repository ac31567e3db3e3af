"""The contract between a normalizer and a policy."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from streambn._messages import spell
from streambn.accumulators import Estimates, Moments
from streambn.errors import InvalidValueError
from streambn.kernels import (
    BoundColumn,
    Columns,
    Layout,
    Series,
    SeriesState,
    Times,
    map_series,
)
from streambn.kernels.interface import Floats, Ints, Transformed
from streambn.kernels.recursion import counts_gaps

__all__ = ["EventTime", "Policy", "RowRule", "check_policy", "check_takes_weights", "instant"]


class EventTime(NamedTuple):
    """The column that tells a policy when a row happened.

    Attributes
    ----------
    column : str
    length : str
        The policy's unit of time as the user gave it, for error messages.
    numeric : bool
        Whether times are plain numbers; otherwise they are timestamps or dates.
    null : {"raise", "skip"}
        Whether a row without a time is an error or is skipped.
    """

    column: str
    length: str
    numeric: bool
    null: Literal["raise", "skip"]


class RowRule(NamedTuple):
    """The effect of one row on the statistics, for a policy that treats all rows alike.

    Attributes
    ----------
    decay : float
        λ, the factor by which a row discounts the rows before it.
    ignore_na : bool
        Whether a missing value discounts nothing.
    prior : float
        0 if the first value counts like any other. 1/α for the recursion of ``adjust=False``,
        in which the first value weighs 1/α and every later one 1.
    """

    decay: float
    ignore_na: bool
    prior: float

    @property
    def counts_gaps(self) -> bool:
        """Whether rows without a value are counted, to take effect at the next value."""
        return counts_gaps(self.decay, self.ignore_na, self.prior)


class Policy(abc.ABC):
    """How the past is weighted: hyperparameters and pure functions over a state.

    A policy holds no data. Its states are immutable values over features. Subclass it, implement
    the six abstract methods, and test the result with `streambn.testing.PolicyLaws`. A subclass
    must compare equal to another policy with the same hyperparameters, as a dataclass does.

    Priors, such as `initial` of `BatchEMA`, are applied by `read`. A state with a prior inside
    could not be merged.
    """

    __slots__ = ()

    # ---------------------------------------------------------------- required

    @abc.abstractmethod
    def init(self, features: int) -> Any:
        """Return the state of a stream of which nothing was seen."""

    @abc.abstractmethod
    def update(self, state: Any, columns: Columns) -> Any:
        """Return the state after one more batch."""

    @abc.abstractmethod
    def merge(self, older: Any, newer: Any) -> Any:
        """Return the state of the stream `older` followed by the stream `newer`."""

    @abc.abstractmethod
    def read(self, state: Any, ddof: int) -> Estimates:
        """Return mean and variance; `ddof` is 0 for the population variance, 1 for the sample's."""

    @abc.abstractmethod
    def tally(self, state: Any) -> Moments:
        """Return moments whose counts, minimum and maximum are those of all values seen."""

    @abc.abstractmethod
    def take(self, state: Any, features: Sequence[int]) -> Any:
        """Return the state of some features, in the given order."""

    # ---------------------------------------------------------------- optional

    def append(self, state: Any, block: Any, rows: int) -> Any | None:
        """Return the state after one more batch that was reduced before.

        None, the default, stands for a policy that weighs the rows of a batch itself.

        Parameters
        ----------
        state : object
        block : Moments or ExactMoments
            Of the batch alone, with all its rows counting equally. `ExactMoments` if the policy
            is `exact`.
        rows : int
            Number of rows in the batch.
        """
        del state, block, rows
        return None

    @property
    def commutative(self) -> bool:
        """Whether the order of `merge`'s arguments has no effect, up to rounding."""
        return False

    @property
    def exact(self) -> bool:
        """Whether the state is an `ExactMoments`, which rounds nothing."""
        return False

    @property
    def depends_on_batches(self) -> bool:
        """Whether the division of a stream into batches has an effect beyond rounding."""
        return False

    @property
    def takes_weights(self) -> bool:
        """Whether `update` applies the `weights` of the columns."""
        return False

    @property
    def event_time(self) -> EventTime | None:
        """The event times that `update` needs as the `times` of the columns; None: none."""
        return None

    def readable(self, state: Any) -> Moments | None:
        """Return moments from which `read` reads, so that a kernel can read them in one step.

        None, the default, stands for a policy that reads its state itself.
        """
        del state
        return None

    def newest(self, state: Any) -> Floats | None:
        """Return the time of the newest row as hi + lo, shape (2,); None: none is known."""
        del state
        return None

    def extra_statistics(self, state: Any, at: Floats | None) -> dict[str, Floats]:
        """Return statistics other than mean and variance, by name; NaN where undefined.

        The default, for a policy that takes weights and whose rows were weighted, is Σw and the
        effective sample size (Σw)²/Σw² of the tally.

        Parameters
        ----------
        state : object
        at : ndarray of float64, shape (2,), or None
            The time as of which to read, as hi + lo; None: the time of the newest row.
        """
        del at
        tally = self.tally(state) if self.takes_weights else None
        if tally is None or np.array_equal(tally.weight, tally.count):
            return {}
        return {"weight": tally.weight, "effective_count": tally.effective_count}

    def describe(self) -> str:
        """Return a description for people."""
        return repr(self)

    def of_nulls(self, rows: int) -> Any:
        """Return the state of one feature that is null in so many rows, however many.

        The default, for a policy that has no shorter way, learns such rows.
        """
        batch = pa.RecordBatch.from_arrays([pa.nulls(rows)], ["0"])
        times = None if self.event_time is None else Times(np.zeros(rows), None)
        layout = Layout([BoundColumn((0,), None)])
        return self.update(self.init(1), Columns(batch, layout, None, times))

    def check_state(self, state: Any) -> None:
        """Check a state that comes from elsewhere, such as a file.

        The default accepts every state, which is right for a policy that no file holds.

        Raises
        ------
        InvalidValueError
            No stream has such a state; the message names the field and its value.
        """
        del state

    # ---------------------------------------- optional: statistics kept row by row

    @property
    def row_rule(self) -> RowRule | None:
        """The effect of one row, if it is the same for all; None: rows are learned as batches."""
        return None

    def from_moments(self, moments: Moments, first: Moments | None, gaps: Ints | None) -> Any:
        """Return the state for moments that were kept row by row under `row_rule`.

        Parameters
        ----------
        moments : Moments
            Of all values; of all but the first if the rule has a prior.
        first : Moments or None
            Of the first value alone, if the rule has a prior.
        gaps : ndarray of int64, shape (2, features), or None
            Rows without a value before the first value and after the last one, if the rule counts
            them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no row_rule")

    def to_moments(self, state: Any) -> tuple[Moments, Moments | None, Ints | None]:
        """Return the arguments of `from_moments` for a state."""
        raise NotImplementedError(f"{type(self).__name__} has no row_rule")

    # -------------------------------------- optional: rows mapped as they are learned

    def check_by_row(self) -> None:
        """Check that `map_series` works, as it does by default for a policy with a `row_rule`.

        Raises
        ------
        InvalidValueError
            It does not; the message says why.
        """
        if self.row_rule is None:
            raise InvalidValueError(
                f"{spell('by_row', True)} needs statistics as of each row, which {self!r} does not "
                f"keep. Omit {spell('by_row')}, or choose a policy such as Welford() or EMA(...).",
                argument="by_row",
            )

    def map_series(self, state: Any, columns: Columns, series: Series) -> tuple[Any, Transformed]:
        """Return the state after one more batch, and its rows mapped as they were learned.

        Parameters
        ----------
        state : object
        columns : Columns
            A row of weight 0 is mapped, and not learned.
        series : Series
            The map. Its rules about earlier rows are those of the policy.
        """
        decay, ignore_na, prior = self.row_rule or RowRule(1.0, False, 0.0)
        rules = series.rules._replace(decay=decay, ignore_missing=ignore_na, prior=prior)
        older = SeriesState(*self.to_moments(state))
        newer, mapped = map_series(columns, older, series._replace(rules=rules))
        first = None if newer.first is None else Moments.sealed(newer.first)
        return self.from_moments(Moments.sealed(newer.moments), first, newer.gaps), mapped


def check_policy(policy: object) -> Policy:
    """Return `policy` if it is a policy.

    Raises
    ------
    InvalidValueError
        It is not.
    """
    if not isinstance(policy, Policy):
        raise InvalidValueError(
            "policy must be a policy such as Welford(), EMA(halflife=1000) or "
            f"BatchEMA(momentum=0.1), got {policy!r}. A policy of your own must subclass "
            "streambn.policies.Policy.",
            argument="policy",
        )
    return policy


def check_takes_weights(policy: Policy, argument: str, value: object) -> None:
    """Raise an InvalidValueError if weights are given to a policy that does not apply them."""
    if not policy.takes_weights:
        raise InvalidValueError(
            f"{argument}={value!r:.60} has no meaning for {policy!r}. Choose Welford() or "
            f"EMA(...) with adjust=True, or omit {argument}.",
            argument=argument,
        )


def instant(ticks: np.number, tick: int | None) -> Floats:
    """Return a time as an exact sum hi + lo, shape (2,).

    Parameters
    ----------
    ticks : NumPy number
    tick : int or None
        Nanoseconds in a tick, which makes the result nanoseconds; None: a plain number.
    """
    if not isinstance(ticks, np.integer):
        return np.array([float(ticks), 0.0])
    whole = int(ticks) * (tick or 1)  # below 2**107, which two float64 hold
    high = float(whole)
    return np.array([high, float(whole - int(high))])
