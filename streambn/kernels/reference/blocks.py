"""Moments of a batch."""

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

# Values in a block. The speed relative to np.max over the same 16M float64, with 1 MB of
# second-level and 32 MB of third-level cache, was 0.25 with 32k values, 0.30 with 64k, 0.32 with
# 128k and 0.35 with 256k. Smaller blocks pay for more calls of NumPy. Larger blocks exceed the
# caches of smaller machines.
BLOCK = 262144
# Within 2**±400 the squares, and the low halves of their sums, are normal numbers.
_BIG = 2.0**400
_SMALL = 2.0**-400
# A decayed block of less weight than this ends with rows of weight 0. Its weight must then stop
# falling where that of `merge_moments` does.
_FADED = 2.0**-300


@np.errstate(all="ignore")
def block_moments(columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> MomentArrays:
    """Return the moments of every feature of a batch.

    Parameters
    ----------
    columns : Columns
        If its rows have weights, they multiply the weights of the decay.
    decay : float
        λ, the factor by which each row discounts the rows before it. Row i of n has the weight
        λ**(n-1-i). With 1 all rows weigh the same.
    ignore_na : bool
        Whether a missing value (null, NaN or infinity) discounts nothing. If False, it discounts
        the rows before it as any row does. Without a decay this has no effect.

    Returns
    -------
    MomentArrays
        Shape (F,), features in the order of the columns.
    """
    moments = empty_moments(columns.layout.features)
    for source, features in group(flatten_columns(columns), BLOCK):
        moments.memory[:, features] = _source_moments(
            source, _RowWeights(decay, ignore_na, columns.weights)
        ).memory
    return moments


def extend_moments(
    older: MomentArrays, columns: Columns, decay: float = 1.0, ignore_na: bool = False
) -> MomentArrays:
    """Return the moments of the segment `older` followed by a batch."""
    return merge_moments(older, block_moments(columns, decay, ignore_na))


class _RowWeights(NamedTuple):
    """The weights of rows, from the arguments of `block_moments`."""

    decay: float
    ignore_na: bool
    weights: Floats | None

    @property
    def uniform(self) -> bool:
        """Whether every row weighs 1."""
        return self.decay == 1 and self.weights is None

    def rows(self, start: int, stop: int) -> _RowWeights:
        """Return the weights of rows `start` to `stop`."""
        return self if self.weights is None else self._replace(weights=self.weights[start:stop])

    def array(self, n: int) -> Floats | None:
        """Return the weights of n rows without missing values, or None if all are 1."""
        faded = None if self.decay == 1 else _powers(self.decay)[BLOCK - n :]
        if faded is None or self.weights is None:
            return self.weights if faded is None else faded
        product: Floats = faded * self.weights
        return product

    def totals(self, n: int) -> _Totals:
        """Return W, C and Q of n rows without missing values."""
        if self.weights is None:
            return _decayed_totals(self.decay, n)
        weights = self.array(n)
        return _totals(self.weights if weights is None else weights)


class _Totals(NamedTuple):
    """W = Σw, C = Σw_i·w_j over i < j, and Q = Σw². Scalars, or arrays of shape (F,)."""

    weight: Any
    pairs: Any
    squares: Any


def _source_moments(source: Source, row_weights: _RowWeights) -> MomentArrays:
    """Return the moments of a source: the moments of its blocks, merged in a tree.

    The loop makes the five passes over each block. The arithmetic on their few results follows
    the loop, for all blocks at once.
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
    block_totals = [
        row_weights.rows(start, start + step).totals(int(n))
        for start, n in zip(starts, rows, strict=True)
    ]
    weights = None
    for i, start in enumerate(starts if not source.has_nulls else ()):
        x = source.read(start, start + step)
        n = x.shape[1]
        if i == 0 or n < step or row_weights.weights is not None:
            plain = row_weights.rows(start, start + step).array(n)
            weights = None if plain is None else sums.pad(plain)
        # The sums come first, because they subtract while the block arrives from memory.
        centre, totals[:, i] = sums.about(x, centre, weights, block_totals[i].weight)
        centres[i] = centre
        np.minimum.reduce(x, axis=1, out=low[i])
        np.maximum.reduce(x, axis=1, out=high[i])
    fades = row_weights.decay**rows
    blocks = _ordinary_blocks(rows, block_totals, fades, low, high, centres, totals)

    largest = np.maximum(-low, high)  # max |x|; NaN and infinity propagate
    ordinary = ((largest >= _SMALL) & (largest <= _BIG)) | (largest == 0)
    centre = centres[0].copy()
    if row_weights.decay != 1 and row_weights.weights is not None:
        ordinary &= np.array([[of.weight >= _FADED] for of in block_totals])
    for i in np.flatnonzero(~ordinary.all(axis=1)).tolist():
        start, odd = starts[i], np.flatnonzero(~ordinary[i])
        x, null = source.read(start, start + step), source.missing(start, start + step)
        absent = None if null is None else null[odd]
        weights_of_rows = row_weights.rows(start, start + step)
        block = _general_block(x[odd], absent, centre[odd], source.rows, weights_of_rows)
        seen = np.ldexp(block.mean_hi, block.exponent)
        centre[odd] = np.where(block.count > 0, seen, centre[odd])
        blocks.memory[:, i, odd] = block.memory
    return _in_data_units(source, _tree(blocks))


def _tree(stacked: MomentArrays) -> MomentArrays:
    """Return segments of shape (blocks, F), merged pairwise and in order to shape (F,)."""
    memory = stacked.memory
    while (n := memory.shape[1]) > 1:
        even = n // 2 * 2
        merged = merge_moments(MomentArrays(memory[:, 0:even:2]), MomentArrays(memory[:, 1:even:2]))
        memory = np.concatenate((merged.memory, memory[:, even:]), axis=1)
    return MomentArrays(memory[:, 0].copy())


def _ordinary_blocks(
    rows: Ints,
    block_totals: list[_Totals],
    fades: Floats,
    low: Floats,
    high: Floats,
    centre: Floats,
    totals: Floats,
) -> MomentArrays:
    """Return the moments, shape (blocks, F), of blocks of finite values of ordinary size."""
    shape = low.shape
    weight, pairs, squares = (
        np.broadcast_to(t[:, np.newaxis], shape) for t in np.array(block_totals).T
    )
    # The deviations of a constant feature are 0. Differences from a centre are only rounding.
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


def _general_block(
    x: Floats,
    null: NDArray[np.bool_] | None,
    centre: Floats,
    rows: int,
    row_weights: _RowWeights,
) -> MomentArrays:
    """Return the moments of a block with nulls, NaN, infinities or values of extreme size."""
    features, n = x.shape
    usable = np.isfinite(x)
    if null is not None:
        usable &= ~null
    count = _count(usable)
    positive, filled, low, high = usable, *_filled(x, usable)
    least, most = low, high
    if row_weights.weights is not None:
        # A value of weight 0 enters only the count and the extremes.
        positive = usable & (row_weights.weights > 0)
        filled, least, most = _filled(x, positive)
    seen = positive.any(axis=1)
    largest = np.where(seen, np.maximum(-least, most), 0.0)
    ordinary = (largest >= _SMALL) & (largest <= _BIG)
    exponent = np.where(ordinary, 0, np.frexp(largest)[1])
    exponent = np.where(largest == 0, ZERO_EXPONENT, exponent)

    centre = np.where(seen, np.minimum(np.maximum(centre, least), most), 0.0)
    shift = np.where(largest == 0, 0, -exponent)
    if shift.any():
        # A product would need 2**1074, which is beyond float64. ldexp does not.
        filled, centre = np.ldexp(filled, shift[:, np.newaxis]), np.ldexp(centre, shift)

    weights, behind, total = _general_weights(usable, positive, row_weights)
    weight, pairs, squares = _totals(weights)
    faded = np.power(row_weights.decay, behind)
    if row_weights.decay != 1:
        # The weight, and the decay with it, stop falling where they do in `merge_moments`.
        floor = np.minimum(LEAST_WEIGHT / np.where(seen, weight, 1.0), 1.0)
        faded = np.where(seen, np.maximum(faded, floor), faded)
        total = total * faded
    if row_weights.uniform:
        pairs = count * (count - 1.0) / 2
    sums = Sums(features, n, rows)
    mean, m2 = from_sums(*sums.about(filled, centre, sums.pad(weights), weight), weight)
    nulls = np.zeros(features, np.int64) if null is None else _count(null)
    nans, pos_infs, neg_infs = _count_non_finite(x, null, n - count - nulls)
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
    """Return values of shape (F, n) filled outside the mask, and their extremes.

    The first masked value of a feature fills it, so the extremes need no mask.
    """
    seen = mask.any(axis=1)
    first = x[np.arange(len(x)), mask.argmax(axis=1)]
    filled: Floats = np.where(mask, x, np.where(seen, first, 0.0)[:, np.newaxis])
    low = np.where(seen, filled.min(axis=1), np.inf)
    high = np.where(seen, filled.max(axis=1), -np.inf)
    return filled, low, high


def _general_weights(
    usable: NDArray[np.bool_], positive: NDArray[np.bool_], row_weights: _RowWeights
) -> tuple[Floats, Floats, Floats]:
    """Return the weights of values of shape (F, n), some of them missing or of weight 0.

    Returns
    -------
    weights : ndarray, shape (F, n)
        Weights as of the feature's last value of positive weight. 0 where a value is missing.
    behind : ndarray, shape (F,)
        Number of discounting rows after that value, or all of them if there is no such value.
    total : ndarray, shape (F,)
        P, the decay of the rows up to that value.
    """
    features, n = usable.shape
    none = np.zeros(features)
    decay = row_weights.decay
    given = 1.0 if row_weights.weights is None else row_weights.weights
    if decay == 1:
        return np.where(positive, given, 0.0), none, none + 1
    ages = usable if row_weights.ignore_na else np.ones_like(usable)
    # Discounting rows after each row.
    age: Ints = np.cumsum(ages[:, ::-1], axis=1)[:, ::-1] - ages
    rows = ages.sum(axis=1)
    last = n - 1 - positive[:, ::-1].argmax(axis=1)
    behind = np.where(positive.any(axis=1), age[np.arange(features), last], rows)
    age = np.maximum(age - behind[:, np.newaxis], 0)
    weights = np.where(positive, np.power(decay, age) * given, 0.0)
    return weights, behind, np.power(decay, rows - behind)


def _count(mask: NDArray[np.bool_]) -> Ints:
    """Return the number of true values of each feature in a mask of shape (F, n)."""
    if len(mask) > 8:
        along: Ints = mask.sum(axis=1, dtype=np.int64)
        return along
    # NumPy counts one contiguous row ten times faster than along an axis.
    return np.array([np.count_nonzero(row) for row in mask], np.int64)


def _count_non_finite(
    x: Floats, null: NDArray[np.bool_] | None, expected: Ints
) -> tuple[Ints, Ints, Ints]:
    """Return the counts of NaN, +inf and -inf. They add up to `expected`."""
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
    """Return the powers …, λ², λ, 1 for a whole block. Subnormal powers become 0."""
    powers: Floats = np.power(decay, np.arange(BLOCK - 1, -1, -1.0))
    powers[powers < np.finfo(np.float64).tiny] = 0.0
    return powers


@functools.lru_cache(maxsize=64)
def _decayed_totals(decay: float, n: int) -> _Totals:
    """Return the totals of n rows whose weights are the powers of the decay."""
    if decay == 1:
        return _Totals(float(n), n * (n - 1) / 2, float(n))
    return _totals(_powers(decay)[BLOCK - n :])


def _totals(weights: Floats) -> _Totals:
    """Return the totals of weights along the last axis."""
    # C comes from prefix sums, because (W² − Σw²)/2 would cancel.
    pairs = (weights[..., 1:] * np.cumsum(weights, axis=-1)[..., :-1]).sum(axis=-1)
    return _Totals(weights.sum(axis=-1), pairs, (weights * weights).sum(axis=-1))


def _in_data_units(source: Source, moments: MomentArrays) -> MomentArrays:
    """Return the moments of offsets from the base as moments in the data's units."""
    seen = moments.count > 0
    mean = source.restore((moments.mean_hi, moments.mean_lo))
    m2 = source.in_units(source.in_units((moments.m2_hi, moments.m2_lo)))
    low, high = source.restore_extremes(
        *(np.where(seen, x, 0.0) for x in (moments.min, moments.max))
    )
    # Offsets that are all 0 are values equal to the base. They are ordinary unless it is 0.
    zeros = (moments.exponent == ZERO_EXPONENT) & (mean[0] == 0)
    exponent = np.where((source.base != 0) & ~zeros, 0, moments.exponent)
    # A feature without weight has no mean. Apart from its counts and extremes it is the identity
    # of `merge_moments`.
    positive = moments.weight > 0
    return moments.replace(
        min=np.where(seen, low, moments.min),
        max=np.where(seen, high, moments.max),
        mean_hi=np.where(positive, mean[0], 0.0),
        mean_lo=np.where(positive, mean[1], 0.0),
        m2_hi=np.where(positive, m2[0], 0.0),
        m2_lo=np.where(positive, m2[1], 0.0),
        exponent=np.where(positive, exponent, ZERO_EXPONENT),
    )
