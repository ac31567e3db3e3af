"""Exponentially weighted mean and variance, by row or by event time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, cast

import numpy as np

from streambn.accumulators import Estimates, Moments
from streambn.errors import InvalidValueError, MergeError, SchemaError, StreamBNError
from streambn.kernels import Columns, Series, Times
from streambn.kernels.interface import Floats, Ints, Transformed
from streambn.policies.adjusted import AdjustedEMA, AdjustedState
from streambn.policies.arguments import (
    Domain,
    check_flag,
    check_number,
    format_arguments,
    is_name,
    is_number,
)
from streambn.policies.base import EventTime, Policy, RowRule
from streambn.policies.durations import EXAMPLES, format_duration, nanoseconds
from streambn.policies.recursive import RecursiveEMA, RecursiveState
from streambn.policies.timed import TimedEMA, TimedState

__all__ = ["EMA"]

_DOMAINS: Final[dict[str, Domain]] = {
    "alpha": Domain("in (0, 1]", lambda v: 0 < v <= 1),
    "halflife": Domain("of rows > 0", lambda v: 0 < v < math.inf),
    "span": Domain(">= 1", lambda v: 1 <= v < math.inf),
    "com": Domain(">= 0", lambda v: 0 <= v < math.inf),
}
_LENGTH: Final = Domain("> 0", _DOMAINS["halflife"].contains)
_RATES: Final = tuple(_DOMAINS)
_LONGEST: Final = 86_400 * 10**24  # nanoseconds
_LEAST_ALPHA: Final = 1e-150  # the first value weighs 1/α, whose square must stay in float64


_Form = AdjustedEMA | RecursiveEMA | TimedEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class EMA(Policy):
    """Weight values exponentially: newer values discount older ones.

    By row, row i of n weighs λ**(n−1−i) with λ = 1 − α. By event time, a row weighs
    2**(−age/halflife). Give exactly one of the first four parameters.

    Parameters
    ----------
    alpha : float
        Weight of the newest row in the mean, in (0, 1].
    halflife : float, str, datetime.timedelta or numpy.timedelta64
        Age at which a weight has halved, > 0. Without `time`, a number of rows:
        λ = 2**(−1/halflife). With `time`, a duration such as ``"7d"``, ``"1h30min"`` or the ISO
        8601 ``"P7D"``; or a number in the unit of the times if those are numbers.
    span : float
        α = 2/(span + 1), span >= 1.
    com : float
        Centre of mass: α = 1/(1 + com), com >= 0.
    adjust : bool
        True: divide the weighted sum by the sum of the weights. False: the recursion
        y = λ·y + α·x from the first value x₀ on, which is a prior at x₀ of weight
        λ**(rows since)/α. By row only, and with α of at least 1e-150.
    ignore_na : bool
        Whether missing values leave the weights of older rows unchanged. By row only.
    time : str, optional
        Name of the column of event times: timestamps, dates or plain numbers. Timestamps all have
        a time zone, or none has one. The column is not normalized unless ``columns=`` names it.
    null_time : {"raise", "skip"}
        Whether a row without a time is an error or is skipped.

    Raises
    ------
    InvalidValueError
        None or several of the four are given, a value is outside its domain, or a duration is
        given without `time`.

    Notes
    -----
    The definitions are those of pandas' ``ewm``. The variance with ``ddof=1`` is S·W/(2C), pandas'
    ``bias=False``, without the cancellation of W² − Σw². With ``adjust=False`` and
    ``ignore_na=False``, a value that comes g rows after the last gives
    y = (λ**g·y + α·x)/(λ**g + α).

    By row, a gap of missing values between two values discounts what came before by no more than
    2**−600. The unbiased variance of two values x and y is (x − y)²/2 at any distance.

    By row, a merge takes (older, newer) in the order of the stream. By event time, rows and merges
    may come in any order, with the same result up to rounding (1e-12).

    By event time, mean and variance do not depend on the time at which they are read, because all
    weights fade alike. Σw does: it is read as of the time of the newest row, or as of
    ``stats(at=...)``. A feature keeps its statistics however long no new value comes. A value that
    is more than a thousand half-lives older than the newest value of its feature weighs nothing
    in float64: it is counted, but does not enter mean and variance.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.EMA(alpha=0.5)).update(pa.table({"x": [1.0, 2.0, 6.0]}))
    >>> norm.stats()["mean"].to_pylist()  # (0.25*1 + 0.5*2 + 1*6) / 1.75
    [4.142857142857143]

    >>> from datetime import date
    >>> days = pa.table({"x": [6.0, 1.0], "day": [date(2026, 3, 9), date(2026, 3, 2)]})
    >>> weekly = sbn.Normalizer(sbn.EMA(halflife="7d", time="day")).update(days)
    >>> weekly.stats()["mean"].to_pylist()  # (6 + 0.5*1) / 1.5
    [4.333333333333333]
    """

    alpha: float | None = None
    halflife: float | str | timedelta | np.timedelta64 | None = None
    span: float | None = None
    com: float | None = None
    adjust: bool = True
    ignore_na: bool = False
    time: str | None = None
    null_time: Literal["raise", "skip"] = "raise"
    _form: _Form = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = {n: v for n in _RATES if (v := getattr(self, n)) is not None}
        if len(given) != 1:
            got = ", ".join(f"{n}={v!r}" for n, v in given.items()) or "none of them"
            raise InvalidValueError(
                f"EMA takes exactly one of alpha=, halflife=, span=, com=; got {got}. "
                'For example EMA(halflife=10_000), or EMA(halflife="7d", time="t").'
            )
        [(name, value)] = given.items()
        for flag in ("adjust", "ignore_na"):
            check_flag("EMA", flag, getattr(self, flag))
        self._check_null_time()
        form: _Form
        if self.time is not None:
            self._check_by_time(name)
            length = self._set_length(value)
            form = TimedEMA(length, numeric=not isinstance(self.halflife, str))
        else:
            self._set_rate(name, value)
            if not self.adjust and self._alpha < _LEAST_ALPHA:
                raise InvalidValueError(
                    f"EMA: {name}={getattr(self, name)!r} is too slow for adjust=False: alpha "
                    f"would be less than {_LEAST_ALPHA:g} and could not move the mean. Choose a "
                    "faster one, or adjust=True.",
                    argument=name,
                )
            form = (
                AdjustedEMA(self._decay, self.ignore_na)
                if self.adjust
                else RecursiveEMA(self._decay, self._alpha, self.ignore_na)
            )
        object.__setattr__(self, "_form", form)

    def _check_null_time(self) -> None:
        if self.null_time not in ("raise", "skip"):
            raise InvalidValueError(
                f"EMA: null_time must be 'raise' or 'skip', got {self.null_time!r}.",
                argument="null_time",
            )
        if self.time is None and self.null_time != "raise":
            raise InvalidValueError(
                f"EMA: null_time={self.null_time!r} applies to event times only. Name their "
                "column with time=, or omit null_time.",
                argument="null_time",
            )

    def _check_by_time(self, name: str) -> None:
        if not is_name(self.time):
            raise InvalidValueError(
                f"EMA: time must be the name of a column, got {self.time!r}.", argument="time"
            )
        if name != "halflife":
            raise InvalidValueError(
                f"EMA: {name}= counts rows, but time={self.time!r} weights them by age. Give the "
                'half-life instead, for example halflife="7d".',
                argument=name,
            )
        for flag, default in (("adjust", True), ("ignore_na", False)):
            if getattr(self, flag) != default:
                raise InvalidValueError(
                    f"EMA: {flag}={not default} applies to an EMA by row, not by event time. Omit "
                    f"{flag}, or omit time.",
                    argument=flag,
                )

    def _set_length(self, value: object) -> float:
        """Set `halflife` by event time, and return its length."""
        length = nanoseconds(value)
        if length is None:
            if not is_number(value):
                raise InvalidValueError(
                    f"EMA: halflife must be a duration {EXAMPLES}, or a number if the times are "
                    f"numbers; got {value!r}. Months and years have no fixed length: give days.",
                    argument="halflife",
                )
            halflife = check_number("EMA", "halflife", value, _LENGTH)
            object.__setattr__(self, "halflife", halflife)
            return float(halflife)
        if length <= 0:
            raise InvalidValueError(
                f"EMA: halflife must be longer than 0, got {value!r}.", argument="halflife"
            )
        if length >= _LONGEST:  # ages are less than 2**64 seconds
            raise InvalidValueError(
                f"EMA: halflife must be shorter than {format_duration(_LONGEST)}, got {value!r}.",
                argument="halflife",
            )
        # Equal lengths get one spelling, so that policies compare, print and save alike.
        object.__setattr__(self, "halflife", format_duration(length))
        return float(length)

    def _set_rate(self, name: str, value: object) -> None:
        if name == "halflife" and nanoseconds(value) is not None:
            raise InvalidValueError(
                f"EMA: halflife={value!r} is a duration, which needs time=, the name of the column "
                f"of event times: EMA(halflife={value!r}, time=...). To count rows give a number, "
                "such as halflife=10_000.",
                argument="halflife",
            )
        object.__setattr__(self, name, check_number("EMA", name, value, _DOMAINS[name]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(format_arguments(self))})"

    # -------------------------------------------------------------------- by row

    @property
    def decay(self) -> float | None:
        """λ, the factor by which a row discounts those before it; None by event time."""
        return None if self.time is not None else self._decay

    @property
    def _decay(self) -> float:
        if self.alpha is not None:
            return 1.0 - self.alpha
        if self.halflife is not None:
            return math.exp(-math.log(2.0) / cast(float, self.halflife))
        if self.span is not None:
            return (self.span - 1.0) / (self.span + 1.0)
        assert self.com is not None
        return self.com / (1.0 + self.com)

    @property
    def _alpha(self) -> float:
        """α, without the cancellation in 1 − λ."""
        if self.alpha is not None:
            return self.alpha
        if self.halflife is not None:
            return -math.expm1(-math.log(2.0) / cast(float, self.halflife))
        return 2.0 / (self.span + 1.0) if self.span is not None else 1.0 / (1.0 + (self.com or 0.0))

    @property
    def row_rule(self) -> RowRule | None:
        """See `Policy.row_rule`; None by event time."""
        if self.time is not None:
            return None
        return RowRule(self._decay, self.ignore_na, 0.0 if self.adjust else 1.0 / self._alpha)

    def from_moments(self, moments: Moments, first: Moments | None, gaps: Ints | None) -> Any:
        """See `Policy.from_moments`."""
        if gaps is None:
            gaps = np.zeros((2, len(moments.count)), np.int64)
        if first is None:
            return AdjustedState(moments, gaps)
        return RecursiveState(moments, first, gaps * (not self.ignore_na))

    def to_moments(self, state: Any) -> tuple[Moments, Moments | None, Ints | None]:
        """See `Policy.to_moments`."""
        if not self.adjust:
            return tuple(state)
        return state.moments, None, state.gaps

    # ---------------------------------------------------------------- the contract

    @property
    def commutative(self) -> bool:
        """See `Policy.commutative`; True by event time."""
        return self.time is not None

    @property
    def takes_weights(self) -> bool:
        """See `Policy.takes_weights`; False for the recursion, which has weights of its own."""
        return self.adjust

    @property
    def event_time(self) -> EventTime | None:
        """See `Policy.event_time`; None by row."""
        if self.time is None:
            return None
        numeric = not isinstance(self.halflife, str)
        return EventTime(self.time, f"halflife={self.halflife!r}", numeric, self.null_time)

    def newest(self, state: Any) -> Floats | None:
        """See `Policy.newest`; None by row."""
        return self._form.newest(state) if isinstance(self._form, TimedEMA) else None

    def init(self, features: int) -> Any:
        """See `Policy.init`: an `AdjustedState`, a `RecursiveState` or a `TimedState`."""
        return self._form.init(features)

    def update(self, state: Any, columns: Columns) -> Any:
        """See `Policy.update`.

        Raises
        ------
        SchemaError
            The times have a time zone, and the earlier ones have none; or the other way round.
        """
        if self.time is not None and columns.times is not None:
            self._check_zone(state, columns.times, "earlier", "holds", SchemaError)
        return self._form.update(state, columns)

    def merge(self, older: Any, newer: Any) -> Any:
        """See `Policy.merge`. By row `newer` follows `older`; by event time it is commutative.

        Raises
        ------
        MergeError
            The times of one side have a time zone, and those of the other have none.
        """
        if self.time is not None:
            self._check_zone(older, newer, "older", "of the newer statistics holds", MergeError)
        return self._form.merge(older, newer)

    def _check_zone(
        self,
        before: TimedState,
        now: TimedState | Times,
        former: str,
        holds: str,
        kind: type[StreamBNError],
    ) -> None:
        """Raise an error if times with a time zone follow times without one, or the reverse."""
        if None in (before.zoned, now.zoned) or before.zoned == now.zoned:
            return
        words = {True: "UTC timestamps", False: "naive timestamps, without a time zone"}
        raise kind(
            f"column {self.time!r} {holds} {words[bool(now.zoned)]}, but the {former} ones are "
            f"{words[bool(before.zoned)]}. Give all of them a time zone, or none.",
            column=self.time,
        )

    def read(self, state: Any, ddof: int) -> Estimates:
        """Return mean and variance S/W, or S·W/(2C) if `ddof` is 1."""
        return self._form.weighted(state).read(ddof)

    def readable(self, state: Any) -> Moments:
        """See `Policy.readable`."""
        return self._form.weighted(state)

    def tally(self, state: Any) -> Moments:
        """See `Policy.tally`."""
        return self._form.tally(state)

    def take(self, state: Any, features: Sequence[int]) -> Any:
        """See `Policy.take`."""
        return self._form.take(state, features)

    def of_nulls(self, rows: int) -> Any:
        """See `Policy.of_nulls`."""
        if isinstance(self._form, TimedEMA):
            return self._form.of_nulls(rows)
        return Policy.of_nulls(self, rows)

    def check_state(self, state: Any) -> None:
        """See `Policy.check_state`."""
        self._form.check_state(state)

    def check_by_row(self) -> None:
        """See `Policy.check_by_row`."""

    def map_series(self, state: Any, columns: Columns, series: Series) -> tuple[Any, Transformed]:
        """See `Policy.map_series`. By event time, no time is before one of an earlier row."""
        if isinstance(self._form, TimedEMA):
            if columns.times is not None:
                self._check_zone(state, columns.times, "earlier", "holds", SchemaError)
            return self._form.map_series(state, columns, series)
        return Policy.map_series(self, state, columns, series)

    def extra_statistics(self, state: Any, at: Floats | None) -> dict[str, Floats]:
        """Return Σw and the effective sample size (Σw)²/Σw²."""
        form, weighted = self._form, self._form.weighted(state)
        weight = weighted.weight
        if isinstance(form, TimedEMA):
            weight = form.weight(state, at)
        elif isinstance(form, AdjustedEMA):
            weight = form.weight(state)
        return {"weight": weight, "effective_count": weighted.effective_count}

    def describe(self) -> str:
        """See `Policy.describe`."""
        if self.time is not None:
            length = self.halflife
            if not isinstance(length, str):
                length = f"{length:,.16g} of its unit"
            skipped = ", rows without a time are skipped" if self.null_time == "skip" else ""
            return f"EMA by event time in {self.time!r}: half-life {length}{skipped}"
        [(name, value)] = [(n, v) for n in _RATES if (v := getattr(self, n)) is not None]
        words = {
            "alpha": f"each row weighs {value:g} of the mean",
            "halflife": f"half-life {value:,g} rows",
            "span": f"span {value:,g} rows",
            "com": f"centre of mass {value:,g} rows",
        }[name]
        start = "" if self.adjust else ", recursive from the first value (adjust=False)"
        missing = ", missing values do not age the rest (ignore_na=True)" if self.ignore_na else ""
        return f"EMA by row: {words}{start}{missing}"
