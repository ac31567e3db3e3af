"""Exponentially weighted mean and variance, by row or by event time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np

from streambn.accumulators import Estimates, Moments
from streambn.errors import InvalidValueError
from streambn.kernels import Columns
from streambn.kernels.interface import Floats, Ints
from streambn.policies.arguments import (
    Domain,
    check_flag,
    check_number,
    format_arguments,
    is_number,
)
from streambn.policies.base import EventTime, Policy, RowRule
from streambn.policies.durations import DURATIONS, nanoseconds, shown_duration
from streambn.policies.recursive import RecursiveEMA, RecursiveState
from streambn.policies.timed import TimedEMA, TimedState

__all__ = ["EMA"]

_DOMAINS: Final[dict[str, Domain]] = {
    "alpha": Domain("in (0, 1]", lambda v: 0 < v <= 1),
    "halflife": Domain("of rows > 0", lambda v: 0 < v < math.inf),
    "span": Domain(">= 1", lambda v: 1 <= v < math.inf),
    "com": Domain(">= 0", lambda v: 0 <= v < math.inf),
}
_DURATION: Final = Domain("> 0", _DOMAINS["halflife"].contains)
_RATES: Final = tuple(_DOMAINS)


class _AdjustedEMA(NamedTuple):
    """Row i of n weighs λ**(n−1−i). Its state is a `Moments`."""

    decay: float
    ignore_na: bool

    def init(self, lanes: int) -> Moments:
        return Moments.empty(lanes)

    def update(self, state: Moments, columns: Columns) -> Moments:
        return state.extend(columns, self.decay, self.ignore_na)

    def merge(self, older: Moments, newer: Moments) -> Moments:
        return older.merge(newer)

    def take(self, state: Moments, lanes: Sequence[int]) -> Moments:
        return state.take(lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EMA(Policy):
    """Exponentially weighted mean and variance: what is new discounts what is old.

    By row, row i of n has the weight λ**(n−1−i), λ = 1 − α; by event time, a row has the
    weight 2**(−age/halflife). Give exactly one of the first four:

    Parameters
    ----------
    alpha : float
        The weight of the new, in (0, 1].
    halflife : float, str, datetime.timedelta or numpy.timedelta64
        After which a weight has halved, > 0. Without `time` so many rows: λ = 2**(−1/halflife).
        With it a duration, such as ``"7d"``, ``"1h30min"`` or ISO 8601's ``"P7D"``; or, if the
        times are numbers, a number of the same unit.
    span : float
        α = 2/(span + 1), span >= 1.
    com : float
        Centre of mass: α = 1/(1 + com), com >= 0.
    adjust : bool
        True: the weights as they are, divided by their sum. False: the recursion
        y = λ·y + α·x that starts at the first value x₀; that is a prior at x₀ of the
        weight λ**(rows since)/α, applied at read. By row only.
    ignore_na : bool
        False: a missing value ages the others as any row does. True: it does not. By row only.
    time : str, optional
        The column of event times: timestamps, dates, or plain numbers. It is not normalized,
        unless ``columns=`` names it.
    null_time : {"raise", "skip"}
        What a row without a time does: it is an error, or leaves no trace.

    Raises
    ------
    InvalidValueError
        None or several of the four are given, one is outside its domain, or a duration is given
        without `time`.

    Notes
    -----
    The definitions are those of pandas' ``ewm``; the variance for ``ddof=1`` is
    S·W/(2C), its ``bias=False``, without the cancellation of W² − Σw². A recursion with
    ``ignore_na=False`` weighs anew after a gap of g rows: y = (λ**g·y + α·x)/(λ**g + α).

    While nothing but missing values come, Σw falls no lower than 2**−400: mean and variance stay.

    By row, merging takes (older, newer) in the order of the stream. By event time, rows and
    merges may come in any order, with the same result up to rounding (1e-12).

    By event time mean and variance do not depend on when they are read: all weights fade alike.
    Their sum does. It is read as of the time of the newest row, "now", or as of the time given to
    ``stats(at=...)``. A column keeps its statistics however long nothing new comes for it; beside
    newer values, one that is more than a thousand half-lives older weighs nothing in float64:
    it is counted still, and no longer in mean and variance.

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
    # What does the work; made of the above.
    _scheme: Any = field(init=False, repr=False, compare=False)

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
        if self.null_time not in ("raise", "skip"):
            raise InvalidValueError(
                f"EMA: null_time must be 'raise' or 'skip', got {self.null_time!r}.",
                argument="null_time",
            )
        if self.time is None and self.null_time != "raise":
            raise InvalidValueError(
                f"EMA: null_time={self.null_time!r} is about rows without an event time: name the "
                "column of times with time=, or leave it out.",
                argument="null_time",
            )
        if self.time is not None:
            self._check_by_time(name)
            scheme: Any = TimedEMA(self._set_length(value))
        else:
            self._set_rate(name, value)
            decay = self._decay
            scheme = _AdjustedEMA(decay, self.ignore_na)
            if not self.adjust:
                scheme = RecursiveEMA(decay, self._alpha, self.ignore_na)
        object.__setattr__(self, "_scheme", scheme)

    def _check_by_time(self, name: str) -> None:
        if not isinstance(self.time, str) or not self.time:
            raise InvalidValueError(
                f"EMA: time must be the name of a column, got {self.time!r}.", argument="time"
            )
        if name != "halflife":
            raise InvalidValueError(
                f"EMA: {name}= counts rows, and with time={self.time!r} there are none to count. "
                'Give the half-life, for example halflife="7d".',
                argument=name,
            )
        for flag, usual in (("adjust", True), ("ignore_na", False)):
            if getattr(self, flag) != usual:
                raise InvalidValueError(
                    f"EMA: {flag}={not usual} is for an EMA by row; by event time a value weighs "
                    f"what its age says. Leave {flag} out, or leave out time.",
                    argument=flag,
                )

    def _set_length(self, value: object) -> float:
        """Set the half-life by event time, and return its length."""
        length = nanoseconds(value)
        if length is None:
            if not is_number(value):
                raise InvalidValueError(
                    f"EMA: halflife must be a duration {DURATIONS}, or a number if the times are "
                    f"numbers; got {value!r}. A month or a year has no fixed length: say days.",
                    argument="halflife",
                )
            halflife = check_number("EMA", "halflife", value, _DURATION)
            object.__setattr__(self, "halflife", halflife)
            return float(halflife)
        if length <= 0:
            raise InvalidValueError(
                f"EMA: halflife must be longer than 0, got {value!r}.", argument="halflife"
            )
        # One spelling for equal lengths: so policies compare, print and save alike.
        object.__setattr__(self, "halflife", shown_duration(length))
        return float(length)

    def _set_rate(self, name: str, value: object) -> None:
        if name == "halflife" and nanoseconds(value) is not None:
            raise InvalidValueError(
                f"EMA: halflife={value!r} is a duration, which needs time=, the name of the column "
                f"of event times: EMA(halflife={value!r}, time=...). To count rows give a "
                "number, such as halflife=10_000.",
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
        if first is None or gaps is None:
            return moments
        return RecursiveState(moments, first, gaps * (not self.ignore_na))

    def to_moments(self, state: Any) -> tuple[Moments, Moments | None, Ints | None]:
        """See `Policy.to_moments`."""
        return (state, None, None) if isinstance(state, Moments) else tuple(state)

    # ------------------------------------------------------------- what it asks for

    @property
    def commutative(self) -> bool:
        """See `Policy.commutative`: by event time."""
        return self.time is not None

    @property
    def takes_weights(self) -> bool:
        """Whether sample weights mean something: not in a recursion, which has its own."""
        return self.adjust

    @property
    def event_time(self) -> EventTime | None:
        """The column of event times; None by row."""
        if self.time is None:
            return None
        numeric = not isinstance(self.halflife, str)
        return EventTime(self.time, f"halflife={self.halflife!r}", numeric, self.null_time)

    # ---------------------------------------------------------------- the policy

    def newest(self, state: Any) -> Floats | None:
        """See `Policy.newest`."""
        known = isinstance(state, TimedState) and bool(np.isfinite(state.latest).all())
        return state.latest if known else None

    def init(self, features: int) -> Any:
        """See `Policy.init`: a `Moments`, a `RecursiveState` or a `TimedState`."""
        return self._scheme.init(features)

    def update(self, state: Any, columns: Columns) -> Any:
        """See `Policy.update`."""
        return self._scheme.update(state, columns)

    def merge(self, older: Any, newer: Any) -> Any:
        """See `Policy.merge`. By row `newer` follows `older`; by event time it is commutative."""
        return self._scheme.merge(older, newer)

    def read(self, state: Any, ddof: int) -> Estimates:
        """See `Policy.read`: S/W, or with ``ddof=1`` S·W/(2C)."""
        return self._weighed(state).read(ddof)

    def _weighed(self, state: Any) -> Moments:
        if isinstance(state, RecursiveState):
            whole: Moments = self._scheme.whole(state)
            return whole
        return self.tally(state)

    def tally(self, state: Any) -> Moments:
        """See `Policy.tally`."""
        moments: Moments = state if isinstance(state, Moments) else state.moments
        return moments

    def take(self, state: Any, features: Sequence[int]) -> Any:
        """See `Policy.take`."""
        return self._scheme.take(state, features)

    def extra_statistics(self, state: Any, at: Floats | None) -> dict[str, Floats]:
        """See `Policy.extra_statistics`: Σw and the effective sample size."""
        moments = self._weighed(state)
        weight = moments.weight
        if isinstance(state, TimedState):
            weight = self._scheme.weight(state, at)
        return {"weight": weight, "effective_count": moments.effective_count}

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
