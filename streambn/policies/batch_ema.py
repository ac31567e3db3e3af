"""Batch normalization's running statistics: every block discounts those before it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

from streambn import kernels
from streambn._messages import spell
from streambn.accumulators import (
    MAX_ROWS,
    Estimates,
    Moments,
    check_moments,
    check_sums,
    require,
    rounding_of,
)
from streambn.errors import InvalidValueError, MergeError
from streambn.kernels import Columns
from streambn.kernels.interface import Floats
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
        Of the blocks' means, each block one row. Its counts and extremes are those of the values
        in the blocks.
    variances : Moments
        Of the blocks' variances, each block one row.
    open : Moments
        Of the rows of the block that is not full yet; empty if `batch_rows` is None.
    open_rows : int
        Number of those rows.
    blocks : int
        Number of closed blocks.
    """

    means: Moments
    variances: Moments
    open: Moments
    open_rows: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEMA(Policy):
    """Average over *blocks* of rows, as batch normalization does.

    A block with mean b moves the running mean to r ← λ·r + (1 − λ)·b, and its variance moves the
    running variance likewise. A block is one record batch, or exactly `batch_rows` rows. Give
    exactly one of the first two parameters.

    Parameters
    ----------
    momentum : float or None
        Weight of the *new* block, 1 − λ, in (0, 1], as in torch. None: the cumulative average, in
        which all blocks count equally.
    decay : float
        Weight of the *old* value, λ, in [0, 1), as in Keras.
    ddof : int
        0 or 1, for the blocks' variances. torch uses 1 (unbiased), Keras 0.
    initial : (float, float) or None
        Running mean and variance before the first block. None: the average is divided by
        1 − λ**blocks, so that no initial value biases it. The cumulative average ignores it.
    batch_rows : int or None
        Rows in a block. The stream is cut into blocks of that many rows, whatever its batches.
        Rows that do not fill a block yet wait in the state and do not enter the statistics. None:
        each record batch is a block, so that the result depends on how the input was cut.

    Raises
    ------
    InvalidValueError
        Both or neither of momentum and decay are given, or a value is outside its domain.

    Notes
    -----
    A block in which a feature has no value leaves its statistics unchanged. With ``ddof=1`` a
    block with one value has no variance: it moves the mean only. (torch rejects such a block, but
    a stream cannot choose its rows.)

    For a batch-norm layer, ``update_transform(using="batch")`` is the training pass and
    ``freeze().transform`` the inference pass, also for a single row. The layer's eps, weight and
    bias are the normalizer's `eps` and `affine`. torch's BatchNorm1d is ``momentum=0.1,
    eps=1e-5``; Keras' BatchNormalization is ``decay=0.99, ddof=0, eps=1e-3``.

    The running variance is the variance within blocks. ``stats()`` also has ``total_var``, which
    includes the drift from block to block, E[v] + Var[b].

    A merge takes (older, newer) in the order of the stream. With `batch_rows`, `older` must end at
    the end of a block, or `newer` must fit into the rest of its last block. Otherwise the blocks
    would not be those of one pass.

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
                "BatchEMA takes exactly one of momentum= (weight of the new block, as in torch) "
                "and decay= (weight of the old value, as in Keras); got "
                f"momentum={self.momentum!r}, decay={self.decay!r}. For example "
                "BatchEMA(momentum=0.1)."
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
        whole = isinstance(rows, int) and not isinstance(rows, bool) and 1 <= rows <= MAX_ROWS
        if rows is not None and not whole:
            raise InvalidValueError(
                f"BatchEMA: batch_rows must be an integer >= 1 (and at most 2**61), or None, got "
                f"{rows!r:.60}.",
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
        """1 − λ, without rounding if the user gave it."""
        given = self.rate.get("momentum")
        return 1.0 - self._old_weight if given is None else given

    @property
    def _has_prior(self) -> bool:
        """Whether initial values enter the average."""
        return self.initial is not None and self._old_weight != 1

    @property
    def depends_on_batches(self) -> bool:
        """Whether a block is one record batch, however long it is."""
        return self.batch_rows is None

    def init(self, features: int) -> BatchState:
        """See `Policy.init`."""
        empty = Moments.empty(features)
        return BatchState(empty, empty, empty, 0, 0)

    def update(self, state: BatchState, columns: Columns) -> BatchState:
        """See `Policy.update`."""
        rows = columns.rows
        if self.batch_rows is None:
            return self._extend(state, Moments.of(columns), rows) if rows else state
        start = 0
        while start < rows:
            length = min(self.batch_rows - state.open_rows, rows - start)
            state = self._extend(state, Moments.of(columns.slice(start, length)), length)
            start += length
        return state

    def append(self, state: BatchState, block: Moments, rows: int) -> BatchState | None:
        """See `Policy.append`. With `batch_rows` the rows are cut into blocks of their own."""
        return self._extend(state, block, rows) if self.batch_rows is None else None

    def _extend(self, state: BatchState, piece: Moments, rows: int) -> BatchState:
        """Return the state with rows added to the open block, which closes if it is full."""
        block = state.open.merge(piece) if state.open_rows else piece
        rows += state.open_rows
        if self.batch_rows is not None and rows < self.batch_rows:
            return state._replace(open=block, open_rows=rows)
        means, variances = self._closed(state.means, state.variances, block)
        return BatchState(means, variances, Moments.empty(len(block.count)), 0, state.blocks + 1)

    def _closed(
        self, means: Moments, variances: Moments, block: Moments
    ) -> tuple[Moments, Moments]:
        """Return means and variances with one more block."""
        both = kernels.append_block(means, variances, block, self._old_weight, self.ddof)
        return Moments.sealed(both[0]), Moments.sealed(both[1])

    def merge(self, older: BatchState, newer: BatchState) -> BatchState:
        """See `Policy.merge`. Not commutative: `newer` follows `older`.

        Raises
        ------
        MergeError
            With `batch_rows`, `older` ends inside a block and `newer` does not fit into its rest.
        """
        rows = older.open_rows + newer.open_rows
        if older.open_rows and (newer.blocks or rows > (self.batch_rows or 0)):
            raise MergeError(
                f"the older statistics end inside a block, after {older.open_rows} of batch_rows="
                f"{self.batch_rows} rows, and the newer ones do not fit into the rest of it. Fit "
                "parts whose numbers of rows are multiples of batch_rows, or fit without "
                "batch_rows.",
                argument="batch_rows",
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
        """Return running mean and variance. The policy's own `ddof` applies, not the argument."""
        del ddof
        prior = self.initial if self._has_prior else None
        return kernels.read_blocks(state.means, state.variances, self._new_weight, prior)

    def tally(self, state: BatchState) -> Moments:
        """See `Policy.tally`. The rows of an open block are included."""
        return state.means.merge(state.open) if state.open_rows else state.means

    def of_nulls(self, rows: int) -> BatchState:
        """See `Policy.of_nulls`. Without `batch_rows` they are one block."""
        blocks, opened = divmod(rows, self.batch_rows) if self.batch_rows else (int(rows > 0), 0)
        means = variances = Moments.empty(1)
        if blocks:
            means, variances = self._closed(means, variances, Moments.of_nulls(rows - opened))
        return BatchState(means, variances, Moments.of_nulls(opened), opened, blocks)

    def check_state(self, state: BatchState) -> None:
        """See `Policy.check_state`.

        A row of `means` or `variances` weighs 1 as of its own block: (1 − λ)·W + P = 1. A variance
        has no extremes of its own, but its root is at most the range of the values.
        """
        means, variances = state.means, state.variances
        for name in ("blocks", "open_rows"):
            value = getattr(state, name)
            if not 0 <= value < 2 * MAX_ROWS:
                raise InvalidValueError(f"{name} is {value}, but must be from 0 to 2**62")
        if state.open_rows and state.open_rows >= (self.batch_rows or 0):
            raise InvalidValueError(
                f"open_rows is {state.open_rows}, but a block has batch_rows={self.batch_rows}"
            )
        blocks = np.full(means.count.shape, float(state.blocks))
        check_moments(means, "means.")
        check_sums(variances, "variances.", np.minimum(blocks, means.count))
        check_moments(state.open, "open.", decay=1.0)
        opened = state.open.memory[:5].sum(axis=0)
        full = opened == state.open_rows
        require(full, "open.count", state.open.count, f"of open_rows={state.open_rows} rows")
        require(means.weight <= blocks, "means.weight", means.weight, "at most blocks")
        for name, rows in (("means", means), ("variances", variances)):
            whole = np.abs((1 - self._old_weight) * rows.weight + rows.decay - 1) <= 1e-3
            require(whole, f"{name}.weight", rows.weight, "(1 - decay of all blocks)/momentum")
        even = variances.exponent % 2 == 0
        require(even, "variances.exponent", variances.exponent, "even")
        positive = variances.mean_hi >= 0
        require(positive, "variances.mean_hi", variances.mean_hi, ">= 0")
        tallied = (variances.memory[:5] == 0).all(axis=0)
        tallied &= np.isposinf(variances.min) & np.isneginf(variances.max)
        require(tallied, "variances.count", variances.count, "0, as all of its tally")
        some = variances.weight > 0
        low, high = np.where(some, means.min, 0.0), np.where(some, means.max, 0.0)
        with np.errstate(all="ignore"):
            # Half of each, because a deviation may be beyond float64.
            half = np.ldexp(np.sqrt(variances.mean_hi), variances.exponent // 2 - 1)
            within = half <= (high / 2 - low / 2) * 1.001 + rounding_of(low, high)
        require(within, "variances.mean_hi", variances.mean_hi, "a variance of means' values")

    def extra_statistics(self, state: BatchState, at: Floats | None) -> dict[str, Floats]:
        """Return ``total_var``, the variance with the drift between blocks: E[v] + Var[b].

        E[v] is the running variance within blocks. Var[b] is the population variance of the
        blocks' means with the same weights; an initial mean counts as one of them.
        """
        del at
        within = self.read(state, 0).var
        means = state.means
        with np.errstate(all="ignore"):
            between = means.read(0).var
            if self.initial is not None and self._has_prior:
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

    def check_by_row(self) -> None:
        """Refuse rows: see `Policy.check_by_row`."""
        raise InvalidValueError(
            f"{spell('by_row', True)} has no meaning for {self!r}: it averages over blocks of "
            "rows, so its statistics change between blocks only, never within one. Omit "
            f"{spell('by_row')}, and give {spell('batch_rows')} if the blocks must not depend on "
            "the batches; or choose EMA(...), which learns row by row.",
            argument="by_row",
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
        # An integer beyond float64 is finite, but does not convert.
        largest = sys.float_info.max
        if -largest <= mean <= largest and 0 <= var <= largest:
            return float(mean), float(var)
    raise InvalidValueError(
        "BatchEMA: initial must be a pair of finite numbers (mean, variance) with variance >= 0, "
        f"or None; got {initial!r}.",
        argument="initial",
    )
