"""Every row discounts those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streambn.errors import InvalidValueError
from streambn.kernels import Columns
from streambn.kernels.interface import Floats
from streambn.moments import Moments, Reading, spread
from streambn.policies.arguments import Domain, check_flag, number, shown_arguments
from streambn.policies.protocol import ByRow

__all__ = ["EMA", "EMAState"]

_DOMAINS: Final[dict[str, Domain]] = {
    "alpha": Domain("in (0, 1]", lambda v: 0 < v <= 1),
    "halflife": Domain("of rows > 0", lambda v: 0 < v < math.inf),
    "span": Domain(">= 1", lambda v: 1 <= v < math.inf),
    "com": Domain(">= 0", lambda v: 0 <= v < math.inf),
}


class EMAState(NamedTuple):
    """State of an `EMA`.

    Attributes
    ----------
    moments : Moments
        Of all rows, each discounted by λ for every row after it.
    first : Moments or None
        Of the first value alone, discounted likewise: the prior of ``adjust=False``.
    """

    moments: Moments
    first: Moments | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EMA:
    """Exponentially weighted mean and variance: every row discounts those before it.

    The row i of n has the weight λ**(n−1−i), λ = 1 − α. Give exactly one of:

    Parameters
    ----------
    alpha : float
        The weight of the new, in (0, 1].
    halflife : float
        Rows after which a weight has halved, > 0: λ = 2**(−1/halflife).
    span : float
        α = 2/(span + 1), span >= 1.
    com : float
        Centre of mass: α = 1/(1 + com), com >= 0.
    adjust : bool
        True: the weights as they are, divided by their sum. False: the recursion
        y = λ·y + α·x that starts at the first value x₀; that is a prior at x₀ with the
        extra weight (1/α − 1)·λ**(rows since), applied at read.
    ignore_na : bool
        False: a missing value ages the others as any row does. True: it does not.

    Raises
    ------
    InvalidValueError
        None or several of the four are given, or one is outside its domain.

    Notes
    -----
    The definitions are those of pandas' ``ewm``; the variance for ``ddof=1`` is
    S·W/(2C), its ``bias=False``, without the cancellation of W² − Σw². One case
    differs: with ``adjust=False`` and ``ignore_na=False``, pandas normalizes the
    weights anew after each gap, which no weighting by position does.

    Merging takes (older, newer) in the order of the stream.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.EMA(alpha=0.5)).update(pa.table({"x": [1.0, 2.0, 6.0]}))
    >>> norm.stats()["mean"].to_pylist()  # (0.25*1 + 0.5*2 + 1*6) / 1.75
    [4.142857142857143]
    """

    alpha: float | None = None
    halflife: float | None = None
    span: float | None = None
    com: float | None = None
    adjust: bool = True
    ignore_na: bool = False
    commutative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        given = {n: v for n, v in self._rates().items() if v is not None}
        if len(given) != 1:
            got = ", ".join(f"{n}={v!r}" for n, v in given.items()) or "none of them"
            raise InvalidValueError(
                f"EMA takes exactly one of alpha=, halflife=, span=, com=; got {got}. "
                "For example EMA(halflife=10_000)."
            )
        [(name, value)] = given.items()
        object.__setattr__(self, name, number("EMA", name, value, *_DOMAINS[name]))
        for flag in ("adjust", "ignore_na"):
            check_flag("EMA", flag, getattr(self, flag))

    def _rates(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("alpha", "halflife", "span", "com")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(shown_arguments(self))})"

    @property
    def decay(self) -> float:
        """λ, the factor by which a row discounts those before it."""
        if self.alpha is not None:
            return 1.0 - self.alpha
        if self.halflife is not None:
            return math.exp(-math.log(2.0) / self.halflife)
        if self.span is not None:
            return (self.span - 1.0) / (self.span + 1.0)
        assert self.com is not None
        return self.com / (1.0 + self.com)

    @property
    def _new_weight(self) -> float:
        """α, without the cancellation in 1 − λ."""
        if self.alpha is not None:
            return self.alpha
        if self.halflife is not None:
            return -math.expm1(-math.log(2.0) / self.halflife)
        return 2.0 / (self.span + 1.0) if self.span is not None else 1.0 / (1.0 + (self.com or 0.0))

    @property
    def _prior(self) -> float:
        """The extra weight of the first value under ``adjust=False``: 1/α − 1."""
        return self.decay / self._new_weight

    def init(self, lanes: int) -> EMAState:
        """See `Policy.init`."""
        return EMAState(Moments.empty(lanes), None if self.adjust else Moments.empty(lanes))

    def update(self, state: EMAState, columns: Columns) -> EMAState:
        """See `Policy.update`."""
        if state.first is None:
            return EMAState(state.moments.extend(columns, self.decay, self.ignore_na), None)
        block = Moments.of(columns, self.decay, self.ignore_na)
        first = self._first(columns, (state.first.count == 0) & (block.count > 0))
        return self.merge(state, EMAState(block, first))

    def merge(self, older: EMAState, newer: EMAState) -> EMAState:
        """See `Policy.merge`. Not commutative: `newer` follows `older`."""
        moments = older.moments.merge(newer.moments)
        if older.first is None or newer.first is None:
            return EMAState(moments, None)
        fade = _fade(older.moments, newer.moments, moments)
        return EMAState(moments, _earlier(older.first, newer.first, fade))

    def _first(self, columns: Columns, wanted: NDArray[np.bool_]) -> Moments:
        """Find the first value of each wanted lane, by halving the batch."""
        rows = columns.rows
        lanes = len(wanted)
        if rows == 0 or not wanted.any():
            return Moments.empty(lanes)
        whole = Moments.of(columns, self.decay, self.ignore_na)
        wanted = wanted & (whole.count > 0)
        if rows == 1 or not wanted.any():
            return _only(whole, wanted)
        half = rows // 2
        ahead, behind = columns.slice(0, half), columns.slice(half, rows - half)
        left = self._first(ahead, wanted)
        right = self._first(behind, wanted & (left.count == 0))
        older, newer = (Moments.of(c, self.decay, self.ignore_na) for c in (ahead, behind))
        return _earlier(left, right, _fade(older, newer, older.merge(newer)))

    def read(self, state: EMAState, ddof: int) -> Reading:
        """See `Policy.read`: S/W, or with ``ddof=1`` S·W/(2C)."""
        m = state.moments
        if state.first is not None:
            # The prior and the first value are one observation: not a pair.
            extra = self._prior * state.first.weight
            pairs = m.pairs + extra * (m.weight - state.first.weight)
            # `extra` is aged already: the rows that follow must not discount it again.
            prior = state.first.replace(weight=extra)
            m = prior.merge(m.replace(decay=np.ones_like(extra))).replace(pairs=pairs)
        squares = (m.m2_hi, m.m2_lo)
        with np.errstate(all="ignore"):
            divisor = m.weight if ddof == 0 else np.where(m.pairs > 0, 2 * m.pairs / m.weight, 0.0)
        var, std = spread(squares, divisor, m.exponent)
        return Reading(*m.mean_pair, var, std, state.moments.count > 0)

    def tally(self, state: EMAState) -> Moments:
        """See `Policy.tally`."""
        return state.moments

    def take(self, state: EMAState, lanes: Sequence[int]) -> EMAState:
        """See `Policy.take`."""
        return EMAState(
            state.moments.take(lanes), None if state.first is None else state.first.take(lanes)
        )

    @property
    def by_row(self) -> ByRow:
        """See `RowPolicy.by_row`."""
        return ByRow(self.decay, self.ignore_na, 0.0 if self.adjust else self._prior)

    def of_moments(self, moments: Moments, first: Moments | None) -> EMAState:
        """See `RowPolicy.of_moments`."""
        if first is None and not self.adjust:  # α = 1, whose first value weighs nothing more
            first = Moments.empty(len(moments.count))
        return EMAState(moments, first)

    def moments_of(self, state: EMAState) -> tuple[Moments, Moments | None]:
        """See `RowPolicy.moments_of`."""
        return state.moments, state.first if self.by_row.prior else None

    def describe(self) -> str:
        """See `Policy.describe`."""
        [(name, value)] = [(n, v) for n, v in self._rates().items() if v is not None]
        words = {
            "alpha": f"each row weighs {value:g} of the mean",
            "halflife": f"half-life {value:,g} rows",
            "span": f"span {value:,g} rows",
            "com": f"centre of mass {value:,g} rows",
        }[name]
        start = "" if self.adjust else ", recursive from the first value (adjust=False)"
        missing = ", missing values do not age the rest (ignore_na=True)" if self.ignore_na else ""
        return f"EMA by row: {words}{start}{missing}"


def _only(moments: Moments, lanes: NDArray[np.bool_]) -> Moments:
    """Keep the lanes of which there is to be something; empty the others."""
    empty = Moments.empty(len(lanes))
    return Moments.sealed(Moments(np.where(lanes, moments.memory, empty.memory)))


def _fade(older: Moments, newer: Moments, merged: Moments) -> Floats:
    """Return the factor by which a merge aged the older side."""
    kept = np.divide(
        merged.weight, older.weight, out=np.ones_like(older.weight), where=older.weight > 0
    )
    return np.where(newer.weight == 0, kept, newer.decay)


def _earlier(older: Moments, newer: Moments, fade: Floats) -> Moments:
    """Return the first values of two segments joined, the older one aged by `fade`."""
    aged = older.replace(weight=older.weight * fade, decay=older.decay * fade)
    there = older.count > 0
    return Moments.sealed(Moments(np.where(there, aged.memory, newer.memory)))
