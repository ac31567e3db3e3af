"""Moments of one batch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streambn.kernels.flatten import flatten_columns
from streambn.kernels.interface import Columns, Floats, Ints
from streambn.kernels.moments import ZERO_EXPONENT, MomentArrays, empty_moments
from streambn.kernels.reference.merge import LEAST_WEIGHT, merge_moments
from streambn.kernels.reference.sources import Source, group
from streambn.kernels.reference.sums import Sums, from_sums

__all__ = ["BLOCK", "block_moments", "extend_moments"]

# Values in a block. Measured against np.max over the same 16M float64 in one run, with 1 MB
# of second-level and 32 MB of third-level cache: 32k values 0.25, 64k 0.30, 128k 0.32, 256k
# 0.35. Below, the cost of NumPy's calls shows; above, smaller caches than these end.
BLOCK = 262144
# Inside 2**±400 squares, and the low halves of their sums, are normal numbers.
_BIG = 2.0**400
_SMALL = 2.0**-400
# Rows that fade and end with so little weight end with rows that weigh nothing: the weight is
# then not to fall further than in `merge_moments`.
_FADED = 2.0**-300


@np.errstate(all="ignore")
def block_moments(columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> MomentArrays:
    """Moments of all lanes of one batch.

    Parameters
    ----------
    columns : Columns
        If its rows have weights, those are factors of the ones below.
    decay : float
        λ, the factor from one row to the next: row i of n has the weight λ**(n-1-i).
        1 weighs all rows alike.
    ignore_na : bool
        With a decay: whether a missing value (null, NaN, infinity) leaves the weights
        before it alone. False: it ages them as any row does.

    Returns
    -------
    MomentArrays
        Shape (L,), lanes in the order of the columns.
    """
    moments = empty_moments(columns.layout.features)
    for source, lanes in group(flatten_columns(columns), BLOCK):
        moments.memory[:, lanes] = _source_moments(
            source, _Weighing(decay, ignore_na, columns.weights)
        ).memory
    return moments


def extend_moments(
    older: MomentArrays, columns: Columns, decay: float = 1.0, ignore_na: bool = False
) -> MomentArrays:
    """Moments of the segment `older` followed by one batch."""
    return merge_moments(older, block_moments(columns, decay, ignore_na))


class _Weighing(NamedTuple):
    """What a row weighs: the arguments of `block_moments`."""

    decay: float
    ignore_na: bool
    weights: Floats | None

    @property
    def even(self) -> bool:
        """Whether every row weighs 1."""
        return self.decay == 1 and self.weights is None

    def some(self, start: int, stop: int) -> _Weighing:
        """Return that of some rows."""
        return self if self.weights is None else self._replace(weights=self.weights[start:stop])

    def of_rows(self, n: int) -> Floats | None:
        """Return the weights of the n rows, none of which is missing; None: all are 1."""
        faded = None if self.decay == 1 else _powers(self.decay)[BLOCK - n :]
        if faded is None or self.weights is None:
            return self.weights if faded is None else faded
        product: Floats = faded * self.weights
        return product

    def totals(self, n: int) -> _Totals:
        """Return W, C and Q of the n rows, none of which is missing."""
        if self.weights is None:
            return _even_totals(self.decay, n)
        weights = self.of_rows(n)
        return _totals(self.weights if weights is None else weights)


class _Totals(NamedTuple):
    """W = Σw, C = Σw_i·w_j over i < j, Q = Σw², each of rows or of shape (L,)."""

    weight: Any
    pairs: Any
    squares: Any


def _source_moments(source: Source, weighing: _Weighing) -> MomentArrays:
    """Moments of a source: block by block, then a tree of merges over the blocks.

    The loop holds the five passes over the data and one look at the centre; whatever
    is arithmetic on their few results is done afterwards, for all blocks at once.
    """
    step = max(1, BLOCK // source.width)
    starts = range(0, source.rows, step)
    if not starts:
        return empty_moments(source.width)
    shape = (len(starts), source.width)
    low, high, centres = np.full((3, *shape), np.nan)
    totals = np.full((4, *shape), np.nan)
    centres[:] = source.centre
    sums = Sums(source.width, min(step, source.rows), source.rows)
    centre = centres[0]
    rows = np.array([min(step, source.rows - start) for start in starts])
    of_rows = [
        weighing.some(start, start + step).totals(int(n))
        for start, n in zip(starts, rows, strict=True)
    ]
    weights = None
    for i, start in enumerate(starts if not source.has_nulls else ()):
        x = source.read(start, start + step)
        n = x.shape[1]
        if i == 0 or n < step or weighing.weights is not None:
            plain = weighing.some(start, start + step).of_rows(n)
            weights = None if plain is None else sums.pad(plain)
        # First, as it can subtract while the block is on its way from memory.
        centre, totals[:, i] = sums.about(x, centre, weights, of_rows[i].weight)
        centres[i] = centre
        np.minimum.reduce(x, axis=1, out=low[i])
        np.maximum.reduce(x, axis=1, out=high[i])
    fades = weighing.decay**rows
    blocks = _plain_blocks(rows, of_rows, fades, low, high, centres, totals)

    largest = np.maximum(-low, high)  # |x|; NaN and infinity come through
    ordinary = ((largest >= _SMALL) & (largest <= _BIG)) | (largest == 0)
    centre = centres[0].copy()
    if weighing.decay != 1 and weighing.weights is not None:
        ordinary &= np.array([[of.weight >= _FADED] for of in of_rows])
    for i in np.flatnonzero(~ordinary.all(axis=1)).tolist():
        start, odd = starts[i], np.flatnonzero(~ordinary[i])
        x, null = source.read(start, start + step), source.missing(start, start + step)
        absent = None if null is None else null[odd]
        some = weighing.some(start, start + step)
        block = _careful_block(x[odd], absent, centre[odd], source.rows, some)
        seen = np.ldexp(block.mean_hi, block.exponent)
        centre[odd] = np.where(block.count > 0, seen, centre[odd])
        blocks.memory[:, i, odd] = block.memory
    return _in_data_units(source, _tree(blocks))


def _tree(stacked: MomentArrays) -> MomentArrays:
    """Merge segments of shape (blocks, L) in order, pairwise, to shape (L,)."""
    memory = stacked.memory
    while (n := memory.shape[1]) > 1:
        even = n // 2 * 2
        merged = merge_moments(MomentArrays(memory[:, 0:even:2]), MomentArrays(memory[:, 1:even:2]))
        memory = np.concatenate((merged.memory, memory[:, even:]), axis=1)
    return MomentArrays(memory[:, 0].copy())


def _plain_blocks(
    rows: Ints,
    of_rows: list[_Totals],
    fades: Floats,
    low: Floats,
    high: Floats,
    centre: Floats,
    totals: Floats,
) -> MomentArrays:
    """Moments, shape (blocks, L), of blocks in which all is finite and of ordinary size."""
    shape = low.shape
    weight, pairs, squares = (np.broadcast_to(t[:, np.newaxis], shape) for t in np.array(of_rows).T)
    # A constant lane: whatever the centre was, the differences it left are rounding.
    constant = low == high
    centre, totals = np.where(constant, low, centre), np.where(constant, 0.0, totals)
    (mean_hi, mean_lo), (m2_hi, m2_lo) = from_sums(centre, totals, weight)
    return empty_moments(shape).replace(
        count=rows[:, np.newaxis],
        min=low,
        max=high,
        weight=weight,
        pairs=pairs,
        squares=squares,
        mean_hi=mean_hi,
        mean_lo=mean_lo,
        m2_hi=m2_hi,
        m2_lo=m2_lo,
        decay=fades[:, np.newaxis],
        exponent=np.where(constant & (low == 0), ZERO_EXPONENT, 0),
    )


def _careful_block(
    x: Floats,
    null: NDArray[np.bool_] | None,
    centre: Floats,
    rows: int,
    weighing: _Weighing,
) -> MomentArrays:
    """Moments of any block: with nulls, NaN, infinities, and at the ends of the range."""
    lanes, n = x.shape
    usable = np.isfinite(x)
    if null is not None:
        usable &= ~null
    count = _count(usable)
    weighs, filled, low, high = usable, *_filled(x, usable)
    least, most = low, high
    if weighing.weights is not None:
        # What weighs nothing is counted, and is one of the extremes; no more.
        weighs = usable & (weighing.weights > 0)
        filled, least, most = _filled(x, weighs)
    seen = weighs.any(axis=1)
    largest = np.where(seen, np.maximum(-least, most), 0.0)
    ordinary = (largest >= _SMALL) & (largest <= _BIG)
    exponent = np.where(ordinary, 0, np.frexp(largest)[1])
    exponent = np.where(largest == 0, ZERO_EXPONENT, exponent)

    centre = np.where(seen, np.minimum(np.maximum(centre, least), most), 0.0)
    scale = np.where(largest == 0, 0, -exponent)
    if scale.any():
        # 2**1074 is no float64, so ldexp and not a product.
        filled, centre = np.ldexp(filled, scale[:, np.newaxis]), np.ldexp(centre, scale)

    weights, behind, total = _careful_weights(usable, weighs, weighing)
    weight, pairs, squares = _totals(weights)
    faded = np.power(weighing.decay, behind)
    if weighing.decay != 1:
        # As in merge_moments: neither the weight nor, with it, the decay falls further.
        floor = np.minimum(LEAST_WEIGHT / np.where(seen, weight, 1.0), 1.0)
        faded = np.where(seen, np.maximum(faded, floor), faded)
        total = total * faded
    if weighing.even:
        pairs = count * (count - 1.0) / 2
    sums = Sums(lanes, n, rows)
    mean, m2 = from_sums(*sums.about(filled, centre, sums.pad(weights), weight), weight)
    nulls = np.zeros(lanes, np.int64) if null is None else _count(null)
    nans, pos_infs, neg_infs = _special(x, null, n - count - nulls)
    return MomentArrays.from_fields(
        count=count,
        nulls=nulls,
        nans=nans,
        pos_infs=pos_infs,
        neg_infs=neg_infs,
        min=low,
        max=high,
        weight=weight * faded,
        pairs=pairs * faded * faded,
        squares=squares * faded * faded,
        mean_hi=np.where(seen, mean[0], 0.0),
        mean_lo=np.where(seen, mean[1], 0.0),
        m2_hi=np.where(seen, m2[0] * faded, 0.0),
        m2_lo=np.where(seen, m2[1] * faded, 0.0),
        decay=total,
        exponent=exponent,
    )


def _filled(x: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return (L, n) values with the lane's first of the mask elsewhere, and their extremes.

    The extremes then need no mask.
    """
    seen = mask.any(axis=1)
    first = x[np.arange(len(x)), mask.argmax(axis=1)]
    filled: Floats = np.where(mask, x, np.where(seen, first, 0.0)[:, np.newaxis])
    low = np.where(seen, filled.min(axis=1), np.inf)
    high = np.where(seen, filled.max(axis=1), -np.inf)
    return filled, low, high


def _careful_weights(
    usable: NDArray[np.bool_], weighs: NDArray[np.bool_], weighing: _Weighing
) -> tuple[Floats, Floats, Floats]:
    """Weights of (L, n) values of which some are missing, or weigh nothing.

    Returns
    -------
    weights : ndarray, shape (L, n)
        As of the lane's last value that weighs anything; 0 where there is none.
    behind : ndarray, shape (L,)
        How many rows that age the others come after that one; all, where there is none.
    total : ndarray, shape (L,)
        The decay P of the rows up to it.
    """
    lanes, n = usable.shape
    none = np.zeros(lanes)
    decay = weighing.decay
    given = 1.0 if weighing.weights is None else weighing.weights
    if decay == 1:
        return np.where(weighs, given, 0.0), none, none + 1
    ages = usable if weighing.ignore_na else np.ones_like(usable)
    # How many rows that age the others come after each; after the last that weighs, `behind`.
    age: Ints = np.cumsum(ages[:, ::-1], axis=1)[:, ::-1] - ages
    rows = ages.sum(axis=1)
    last = n - 1 - weighs[:, ::-1].argmax(axis=1)
    behind = np.where(weighs.any(axis=1), age[np.arange(lanes), last], rows)
    age = np.maximum(age - behind[:, np.newaxis], 0)
    weights = np.where(weighs, np.power(decay, age) * given, 0.0)
    return weights, behind, np.power(decay, rows - behind)


def _count(mask: NDArray[np.bool_]) -> Ints:
    """Count the true values of each lane of (L, n)."""
    if len(mask) > 8:
        along: Ints = mask.sum(axis=1, dtype=np.int64)
        return along
    # One lane at a time NumPy counts ten times faster than along an axis.
    return np.array([np.count_nonzero(lane) for lane in mask], np.int64)


def _special(x: Floats, null: NDArray[np.bool_] | None, expected: Ints) -> tuple[Ints, Ints, Ints]:
    """Count NaN, +inf and -inf among what is not null, if there are to be any."""
    if not expected.any():
        return expected, expected, expected
    there = True if null is None else ~null
    return (
        _count(np.isnan(x) & there),
        _count((x == np.inf) & there),
        _count((x == -np.inf) & there),
    )


@functools.lru_cache(maxsize=8)
def _powers(decay: float) -> Floats:
    """Return …, λ², λ, 1 for a whole block, with subnormal weights as 0."""
    powers: Floats = np.power(decay, np.arange(BLOCK - 1, -1, -1.0))
    powers[powers < np.finfo(np.float64).tiny] = 0.0
    return powers


@functools.lru_cache(maxsize=64)
def _even_totals(decay: float, n: int) -> _Totals:
    """Return the totals of n rows that only their age tells apart."""
    if decay == 1:
        return _Totals(float(n), n * (n - 1) / 2, float(n))
    return _totals(_powers(decay)[BLOCK - n :])


def _totals(weights: Floats) -> _Totals:
    """Return the totals along the last axis."""
    # By prefix sums: (W² − Σw²)/2 would cancel.
    pairs = (weights[..., 1:] * np.cumsum(weights, axis=-1)[..., :-1]).sum(axis=-1)
    return _Totals(weights.sum(axis=-1), pairs, (weights * weights).sum(axis=-1))


def _in_data_units(source: Source, moments: MomentArrays) -> MomentArrays:
    """Undo the base and the decimal scale under which a column was read."""
    zero = np.zeros(source.width)
    seen = moments.count > 0
    mean = source.restore((moments.mean_hi, moments.mean_lo))
    m2 = source.in_units(source.in_units((moments.m2_hi, moments.m2_lo)))
    low = source.restore((np.where(seen, moments.min, 0.0), zero))[0]
    high = source.restore((np.where(seen, moments.max, 0.0), zero))[0]
    # A base other than 0 makes an ordinary number of offsets that were all 0.
    zeros = (moments.exponent == ZERO_EXPONENT) & (mean[0] == 0)
    exponent = np.where((source.base != 0) & ~zeros, 0, moments.exponent)
    # What weighs nothing has no mean: it is then the identity of `merge_moments` in all but
    # what is counted.
    weighs = moments.weight > 0
    return moments.replace(
        min=np.where(seen, low, moments.min),
        max=np.where(seen, high, moments.max),
        mean_hi=np.where(weighs, mean[0], 0.0),
        mean_lo=np.where(weighs, mean[1], 0.0),
        m2_hi=np.where(weighs, m2[0], 0.0),
        m2_lo=np.where(weighs, m2[1], 0.0),
        exponent=np.where(weighs, exponent, ZERO_EXPONENT),
    )
