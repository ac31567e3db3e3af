"""Batch normalization's running statistics: every block discounts those before it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from streambn.accumulators import Estimates, Moments, var_and_std
from streambn.errors import InvalidValueError, MergeError
from streambn.kernels import Columns
from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats, Ints
from streambn.policies.arguments import Domain, check_number, format_arguments, is_number
from streambn.policies.base import Policy

__all__ = ["BatchEMA", "BatchState"]

_DOMAINS: Final[dict[str, Domain]] = {
    "momentum": Domain("in (0, 1], or None for the cumulative average", lambda v: 0 < v <= 1),
    "decay": Domain("in [0, 1)", lambda v: 0 <= v < 1),
}


class _Unset(Enum):
    UNSET = "not given"

    def __repr__(self) -> str:
        return "not given"


_UNSET: Final = _Unset.UNSET


class BatchState(NamedTuple):
    """State of a `BatchEMA`.

    Attributes
    ----------
    means : Moments
        Of the blocks' means, each block one row; it keeps the books (count, nulls, …)
        of the values in them.
    variances : Moments
        Of the blocks' variances, each block one row.
    open : Moments
        Of the rows of the block that is not full yet; nothing if `batch_rows` is None.
    open_rows : int
        How many rows those are.
    blocks : int
        How many blocks are closed.
    """

    means: Moments
    variances: Moments
    open: Moments
    open_rows: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEMA(Policy):
    """Batch normalization's running statistics: an average over *blocks* of rows.

    With the mean b and the variance v of a block: r ← λ·r + (1 − λ)·b, likewise for v.
    One block is one record batch, or exactly `batch_rows` rows. Give exactly one of:

    Parameters
    ----------
    momentum : float or None
        Weight of the *new* block, 1 − λ, in (0, 1]: torch's sense. None: the cumulative
        average, every block counting equally.
    decay : float
        Weight of the *old* value, λ, in [0, 1): Keras' sense.
    ddof : int
        0 or 1: of the blocks' variances. torch has 1 (unbiased), Keras 0.
    initial : (float, float) or None
        Running mean and variance before the first block; None: no bias towards any
        such values, the average is divided by 1 − λ**blocks. Without effect on the
        cumulative average.
    batch_rows : int or None
        None: a block is a record batch as it comes, so the result depends on where the
        engine cut the stream. A number: the stream is cut anew into blocks of so many
        rows; rows that do not fill one yet wait in the state and are not in the mean.

    Raises
    ------
    InvalidValueError
        Both, or neither, of momentum and decay are given, or a value is outside its
        domain.

    Notes
    -----
    A block in which a column has no value leaves that column's statistics alone. One
    with a single value, under ``ddof=1``, has no variance: it moves the mean and leaves
    the variance alone (torch refuses such a block; a stream cannot choose its rows).

    Of a batch-norm layer, ``update_transform(using="batch")`` is the training pass, and
    ``freeze().transform``, of a single row too, the inference pass; the layer's eps, weight and
    bias are the normalizer's `eps` and `affine`. torch's BatchNorm1d is ``momentum=0.1,
    eps=1e-5``; Keras' BatchNormalization is ``decay=0.99, ddof=0, eps=1e-3``.

    ``stats()`` has beside the running variance, which is that within blocks, ``total_var``: it
    includes the drift from block to block, E[v] + Var[b].

    Merging takes (older, newer) in the order of the stream. With `batch_rows`, `older`
    must end at the edge of a block, or `newer` must fit into what its last block lacks;
    else the blocks of the two together would be other blocks.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.BatchEMA(momentum=0.1))
    >>> norm.update(pa.table({"x": [1.0, 3.0]})).stats()["mean"].to_pylist()
    [0.2]
    >>> sbn.Normalizer(sbn.BatchEMA(decay=0.9, initial=None)).update(
    ...     pa.table({"x": [1.0, 3.0]})
    ... ).stats()["mean"].to_pylist()
    [2.0]
    """

    momentum: float | _Unset | None = _UNSET
    decay: float | _Unset = _UNSET
    ddof: int = 1
    initial: tuple[float, float] | None = (0.0, 1.0)
    batch_rows: int | None = None

    def __post_init__(self) -> None:
        if (self.momentum is _UNSET) == (self.decay is _UNSET):
            raise InvalidValueError(
                "BatchEMA takes exactly one of momentum= (weight of the new block, torch's sense) "
                f"and decay= (weight of the old, Keras' sense); got momentum={self.momentum!r}, "
                f"decay={self.decay!r}. For example BatchEMA(momentum=0.1)."
            )
        for name in ("momentum", "decay"):
            value = getattr(self, name)
            if value is _UNSET or (value is None and name == "momentum"):
                continue
            object.__setattr__(self, name, check_number("BatchEMA", name, value, _DOMAINS[name]))
        if isinstance(self.ddof, bool) or self.ddof not in (0, 1):
            raise InvalidValueError(
                f"BatchEMA: ddof must be 0 or 1, got {self.ddof!r}.", argument="ddof"
            )
        object.__setattr__(self, "ddof", int(self.ddof))
        if self.initial is not None:
            object.__setattr__(self, "initial", _checked_initial(self.initial))
        rows = self.batch_rows
        if isinstance(rows, np.integer) and is_number(rows):
            rows = int(rows)
            object.__setattr__(self, "batch_rows", rows)
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise InvalidValueError(
                f"BatchEMA: batch_rows must be a whole number of rows >= 1 or None, got {rows!r}.",
                argument="batch_rows",
            )

    @property
    def rate(self) -> dict[str, float | None]:
        """Whichever of momentum and decay was given, by its name."""
        rates = {"momentum": self.momentum, "decay": self.decay}
        return {k: v for k, v in rates.items() if not isinstance(v, _Unset)}

    @property
    def _old_weight(self) -> float:
        """λ; 1 for the cumulative average."""
        if not isinstance(self.decay, _Unset):
            return float(self.decay)
        return 1.0 if self.momentum is None else 1.0 - float(self.momentum)  # type: ignore[arg-type]

    @property
    def _new_weight(self) -> float:
        """1 − λ, as it was given if it was."""
        given = self.rate.get("momentum")
        return 1.0 - self._old_weight if given is None else given

    def init(self, features: int) -> BatchState:
        """See `Policy.init`."""
        empty = Moments.empty(features)
        return BatchState(empty, empty, empty, 0, 0)

    def update(self, state: BatchState, columns: Columns) -> BatchState:
        """See `Policy.update`."""
        rows = columns.rows
        start = 0
        while start < rows:
            wanted = rows if self.batch_rows is None else self.batch_rows - state.open_rows
            length = min(wanted, rows - start)
            state = self._extend(state, Moments.of(columns.slice(start, length)), length)
            start += length
        return state

    def _extend(self, state: BatchState, piece: Moments, rows: int) -> BatchState:
        """Add rows to the open block and close it if it is full."""
        block = state.open.merge(piece) if state.open_rows else piece
        rows += state.open_rows
        if self.batch_rows is not None and rows < self.batch_rows:
            return state._replace(open=block, open_rows=rows)
        mean, variance = self._one_row(block)
        means, variances = state.means.merge(mean), state.variances.merge(variance)
        return BatchState(means, variances, Moments.empty(len(block.count)), 0, state.blocks + 1)

    def _one_row(self, block: Moments) -> tuple[Moments, Moments]:
        """Turn a block into one row of means and one of variances."""
        decay = np.full(block.count.shape, self._old_weight)
        mean = Moments.single(
            (block.mean_hi, block.mean_lo), block.exponent, decay, block.count > 0
        )
        books = {name: getattr(block, name) for name in Moments.TALLY}
        mean = Moments.sealed(mean.replace(**books))
        divisor = block.weight - self.ddof
        present = divisor > 0
        divisor = np.where(present, divisor, 1.0)
        variance = dd.divide((block.m2_hi, block.m2_lo), dd.wide(divisor))
        return mean, Moments.single(variance, 2 * block.exponent, decay, present)

    def merge(self, older: BatchState, newer: BatchState) -> BatchState:
        """See `Policy.merge`. Not commutative: `newer` follows `older`.

        Raises
        ------
        MergeError
            With `batch_rows`: `older` ends inside a block that `newer` would overfill.
        """
        rows = older.open_rows + newer.open_rows
        if older.open_rows and (newer.blocks or rows > (self.batch_rows or 0)):
            raise MergeError(
                f"the older statistics end inside a block: {older.open_rows} of batch_rows="
                f"{self.batch_rows} rows, and the newer ones, cut from their own start, do not "
                "fit into it. Fit parts whose numbers of rows are multiples of batch_rows, or "
                "fit without batch_rows."
            )
        if older.open_rows:
            return self._extend(older, newer.open, newer.open_rows)
        return BatchState(
            older.means.merge(newer.means),
            older.variances.merge(newer.variances),
            newer.open,
            newer.open_rows,
            older.blocks + newer.blocks,
        )

    def read(self, state: BatchState, ddof: int) -> Estimates:
        """See `Policy.read`. The blocks' own `ddof` holds; the argument is without effect."""
        del ddof
        means, variances = state.means, state.variances
        prior_mean, prior_var = self.initial or (None, None)
        mean, exponent = self._average(means, prior_mean)
        square, twice = self._average(variances, prior_var)
        weighed = variances if prior_var is None or self._old_weight == 1 else means
        var, std = var_and_std(square, np.where(weighed.weight > 0, 1.0, 0.0), twice // 2)
        hi, lo = np.ldexp(mean[0], exponent), np.ldexp(mean[1], exponent)
        return Estimates(hi, lo, var, std, means.weight > 0)

    def _average(self, rows: Moments, prior: float | None) -> tuple[dd.Pair, Ints]:
        """Average blocks' values, with a prior P·r₀ + (1 − P)·average if there is one.

        Returns
        -------
        average : pair of ndarrays
        exponent : ndarray
            Even; the average is in units of 2**exponent.
        """
        average, exponent = (rows.mean_hi, rows.mean_lo), rows.exponent
        if prior is None or self._old_weight == 1:
            return average, exponent
        if prior:
            exponent = np.maximum(exponent, 0)
        by = rows.exponent - exponent
        scaled = (np.ldexp(average[0], by), np.ldexp(average[1], by))
        pull = np.ldexp(rows.decay * prior, -exponent)
        # 1 − P is (1 − λ)·W, and that does not cancel: of one block it is the momentum.
        return dd.add(dd.scale(scaled, self._new_weight * rows.weight), dd.wide(pull)), exponent

    def tally(self, state: BatchState) -> Moments:
        """See `Policy.tally`; the rows of an open block are in it."""
        return state.means.merge(state.open) if state.open_rows else state.means

    def extra_statistics(self, state: BatchState, at: Floats | None) -> dict[str, Floats]:
        """Return the variance of all values, which includes the drift between blocks.

        ``total_var`` is E[v] + Var[b]: the running variance within blocks and the population
        variance of the blocks' means, under the same weights; an initial mean is one of them.
        """
        del at
        within = self.read(state, 0).var
        means = state.means
        with np.errstate(all="ignore"):
            between = means.read(0).var
            if self.initial is not None and self._old_weight != 1:
                # Two groups: the blocks, of weight 1 − P, and the initial mean, of weight P.
                share = self._new_weight * means.weight
                apart = means.mean - self.initial[0]
                between = share * (between + means.decay * apart * apart)
        return {"total_var": within + between}

    def take(self, state: BatchState, features: Sequence[int]) -> BatchState:
        """See `Policy.take`."""
        return BatchState(
            state.means.take(features),
            state.variances.take(features),
            state.open.take(features),
            state.open_rows,
            state.blocks,
        )

    def describe(self) -> str:
        """See `Policy.describe`."""
        block = "record batch" if self.batch_rows is None else f"block of {self.batch_rows:,} rows"
        if self.momentum is None:
            return f"BatchEMA: the average over blocks, each {block} counting equally"
        start = (
            "no initial values"
            if self.initial is None
            else f"from mean {self.initial[0]:g} and variance {self.initial[1]:g}"
        )
        return f"BatchEMA: each {block} weighs {self._new_weight:g} of the running value, {start}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(format_arguments(self))})"


def _checked_initial(initial: object) -> tuple[float, float]:
    if isinstance(initial, tuple | list) and len(initial) == 2 and all(map(is_number, initial)):
        mean, var = initial
        # An integer too large for a float64 is finite all the same.
        largest = sys.float_info.max
        if -largest <= mean <= largest and 0 <= var <= largest:
            return float(mean), float(var)
    raise InvalidValueError(
        "BatchEMA: initial must be (mean, variance), finite numbers with variance >= 0, or "
        f"None; got {initial!r}.",
        argument="initial",
    )
