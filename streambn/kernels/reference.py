"""The kernels in NumPy: the readable specification, the fallback, and the oracle.

Every reduction runs around a centre amid the data, never as Σx² − (Σx)²/n: with mean/σ
of 1e8 the latter has no digit left. Data is taken in blocks that stay in the cache
while they are passed over several times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels import doubledouble as dd
from streambn.kernels.decode import Source, unpack_validity
from streambn.kernels.interface import Column, Floats, LaneArrays, LaneTransform, Mapped

__all__ = ["block_moments", "denormalize", "empty_moments", "merge_moments", "normalize"]

# Values in a block. 64k float64 and their differences are 1 MB. Measured against np.max
# over the same 16M values in one run: 16k values 0.23, 32k 0.31, 64k 0.34; below, the
# cost of NumPy's calls shows, above, the cache ends.
_BLOCK = 49152
# Terms summed in one dot product: short, to bound its rounding error, and below the
# length from which BLAS would start threads (and give other bits on other machines).
_DOT = 4096
# Inside 2**±400 squares, and the low halves of their sums, are normal numbers.
_BIG = 2.0**400
_SMALL = 2.0**-400
# The exponent of a lane that has seen nothing but zeros: any other outranks it.
_ZERO_EXPONENT = -1100
# A sum of squares about a centre c exceeds the one about the mean by n(c - mean)². Up
# to 3/4 of it may go in the subtraction (2 bits); beyond, the block is centred again.
_EXCESS = 0.75
# While nothing but missing values arrive, an EMA's weight stops falling here: it is
# negligible beside any new value, and mean and variance stay readable.
_LEAST_WEIGHT = 2.0**-400
# From here on a subtraction of the location can overflow.
_FAR = 2.0**969


# --------------------------------------------------------------------------- moments


def empty_moments(shape: int | tuple[int, ...]) -> LaneArrays:
    """Return the moments of nothing: the identity of `merge_moments`."""
    counts = np.zeros((5, *np.atleast_1d(shape)), np.int64)
    floats = np.zeros((6, *np.atleast_1d(shape)))
    return LaneArrays(
        *counts,
        min=np.full(shape, np.inf),
        max=np.full(shape, -np.inf),
        weight=floats[0],
        pairs=floats[1],
        mean_hi=floats[2],
        mean_lo=floats[3],
        m2_hi=floats[4],
        m2_lo=floats[5],
        decay=np.ones(shape),
        exponent=np.full(shape, _ZERO_EXPONENT, np.int64),
    )


def merge_moments(older: LaneArrays, newer: LaneArrays) -> LaneArrays:
    """Moments of two segments of which `newer` follows `older`, lane by lane.

    With w = P_B·W_A, W = w + W_B and δ = μ_B − μ_A::

        μ = μ_A + δ·W_B/W        S = P_B·S_A + S_B + δ²·w·W_B/W
        P = P_A·P_B              C = P_B²·C_A + C_B + w·W_B

    (Chan, Golub and LeVeque, 1983, extended by the decay P.) The segment of no weight
    is the identity, bit for bit; equal means stay as they are, bit for bit.
    """
    a, b = older, newer
    with np.errstate(all="ignore"):
        fade = b.decay
        if not b.weight.all():
            floor = np.where(a.weight > 0, _LEAST_WEIGHT / a.weight, 0.0)
            fade = np.where(b.weight == 0, np.maximum(fade, np.minimum(floor, 1.0)), fade)
        w = fade * a.weight
        weight = w + b.weight
        exponent = np.maximum(a.exponent, b.exponent)
        exponent = np.where(w == 0, b.exponent, np.where(b.weight == 0, a.exponent, exponent))
        a_mean, a_m2 = _in_exponent(a, exponent, w == 0)
        b_mean, b_m2 = _in_exponent(b, exponent, b.weight == 0)

        delta = dd.add(b_mean, (-a_mean[0], -a_mean[1]))
        # From the heavier side: the rounding of the quotient then moves the mean least.
        from_b = b.weight > w
        share = np.where(from_b, w, b.weight) / np.where(weight > 0, weight, 1.0)
        step = np.where(from_b, -share, share)
        base = (np.where(from_b, b_mean[0], a_mean[0]), np.where(from_b, b_mean[1], a_mean[1]))
        mean = dd.add(base, dd.two_sum(delta[0] * step, delta[1] * step))

        between = delta[0] * delta[0] * (np.where(from_b, b.weight, w) * share)
        faded_m2 = a_m2 if (fade == 1).all() else dd.scale(a_m2, fade)
        m2 = dd.add(dd.add(faded_m2, b_m2), (between, np.zeros_like(between)))
        pairs = fade * fade * a.pairs + b.pairs + w * b.weight

    return LaneArrays(
        count=a.count + b.count,
        nulls=a.nulls + b.nulls,
        nans=a.nans + b.nans,
        pos_infs=a.pos_infs + b.pos_infs,
        neg_infs=a.neg_infs + b.neg_infs,
        min=np.minimum(a.min, b.min),
        max=np.maximum(a.max, b.max),
        weight=weight,
        pairs=pairs,
        mean_hi=mean[0],
        mean_lo=mean[1],
        m2_hi=m2[0],
        m2_lo=m2[1],
        decay=a.decay * b.decay,
        exponent=exponent,
    )


def _in_exponent(
    m: LaneArrays, exponent: NDArray[np.int64], gone: NDArray[np.bool_]
) -> tuple[dd.Pair, dd.Pair]:
    """Mean and m2 of `m` in the units of another exponent; 0 where `m` is gone."""
    shift = m.exponent - exponent
    if not shift.any() and not gone.any():
        return (m.mean_hi, m.mean_lo), (m.m2_hi, m.m2_lo)

    def rescaled(values: Floats, by: NDArray[np.int64]) -> Floats:
        return np.where(gone, 0.0, np.ldexp(values, by))

    return (
        (rescaled(m.mean_hi, shift), rescaled(m.mean_lo, shift)),
        (rescaled(m.m2_hi, 2 * shift), rescaled(m.m2_lo, 2 * shift)),
    )


def block_moments(
    columns: Sequence[Column], decay: float = 1.0, ignore_na: bool = False
) -> LaneArrays:
    """Moments of all lanes of one batch.

    Parameters
    ----------
    columns : sequence of Column
        All of the same number of rows.
    decay : float
        λ, the factor from one row to the next: row i of n has the weight λ**(n-1-i).
        1 weighs all rows alike.
    ignore_na : bool
        With a decay: whether a missing value (null, NaN, infinity) leaves the weights
        before it alone. False: it ages them as any row does.

    Returns
    -------
    LaneArrays
        Shape (L,), lanes in the order of the columns.
    """
    with np.errstate(all="ignore"):
        parts = [_column_moments(Source(column), decay, ignore_na) for column in columns]
    if not parts:
        return empty_moments(0)
    return LaneArrays(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _column_moments(source: Source, decay: float, ignore_na: bool) -> LaneArrays:
    """Moments of one column: block by block, then a tree of merges over the blocks.

    The loop holds the five passes over the data and one look at the centre; whatever
    is arithmetic on their few results is done afterwards, for all blocks at once.
    """
    step = max(1, _BLOCK // source.width)
    starts = range(0, source.rows, step)
    if not starts:
        return empty_moments(source.width)
    shape = (len(starts), source.width)
    low, high, first, second, centres = np.full((5, *shape), np.nan)
    sums = _Sums(source.width, min(step, source.rows))
    centre = source.centre
    for i, start in enumerate(starts):
        if source.has_nulls:
            continue
        x = source.read(start, min(start + step, source.rows))
        np.minimum.reduce(x, axis=1, out=low[i])
        np.maximum.reduce(x, axis=1, out=high[i])
        weights = None if decay == 1 else sums.padded(decay, x.shape[1])
        centre, first[i], second[i] = sums.about(x, centre, weights, _totals(decay, x.shape[1])[0])
        centres[i] = centre
    rows = np.array([min(step, source.rows - start) for start in starts])
    blocks = _plain_blocks(rows, decay, low, high, centres, first, second)

    largest = np.maximum(-low, high)  # |x|; NaN and infinity come through
    ordinary = ((largest >= _SMALL) & (largest <= _BIG)) | (largest == 0)
    centre = source.centre
    for i in np.flatnonzero(~ordinary.all(axis=1)):
        start, stop = starts[i], starts[i] + rows[i]
        x, null = source.read(start, stop), source.missing(start, stop)
        block = _careful_block(x, null, centre, decay, ignore_na)
        centre = np.where(block.count > 0, np.ldexp(block.mean_hi, block.exponent), centre)
        for field, value in zip(blocks, block, strict=True):
            field[i] = value
    return _in_data_units(source, _tree(blocks))


def _tree(stacked: LaneArrays) -> LaneArrays:
    """Merge segments of shape (blocks, L) in order, pairwise, to shape (L,)."""
    while (n := len(stacked.count)) > 1:
        even = n // 2 * 2
        merged = merge_moments(
            LaneArrays(*(field[0:even:2] for field in stacked)),
            LaneArrays(*(field[1:even:2] for field in stacked)),
        )
        stacked = LaneArrays(
            *(np.concatenate((new, old[even:])) for new, old in zip(merged, stacked, strict=True))
        )
    return LaneArrays(*(field[0] for field in stacked))


def _plain_blocks(
    rows: NDArray[np.int64],
    decay: float,
    low: Floats,
    high: Floats,
    centre: Floats,
    first: Floats,
    second: Floats,
) -> LaneArrays:
    """Moments, shape (blocks, L), of blocks in which all is finite and of ordinary size."""
    shape = low.shape
    totals = np.array([_totals(decay, int(n)) for n in rows])
    weight, pairs = (np.broadcast_to(t[:, np.newaxis], shape) for t in totals.T)
    # A constant lane: whatever the centre was, the differences it left are rounding.
    constant = low == high
    centre, first, second = (
        np.where(constant, value, other)
        for value, other in ((low, centre), (0.0, first), (0.0, second))
    )
    (mean_hi, mean_lo), m2 = _from_sums(centre, first, second, weight)
    return empty_moments(shape)._replace(
        count=np.broadcast_to(rows[:, np.newaxis], shape).copy(),
        min=low,
        max=high,
        weight=weight.copy(),
        pairs=pairs.copy(),
        mean_hi=mean_hi,
        mean_lo=mean_lo,
        m2_hi=m2,
        decay=np.broadcast_to(decay ** rows[:, np.newaxis], shape).copy(),
        exponent=np.where(constant & (low == 0), _ZERO_EXPONENT, 0),
    )


def _careful_block(
    x: Floats, null: NDArray[np.bool_] | None, centre: Floats, decay: float, ignore_na: bool
) -> LaneArrays:
    """Moments of any block: with nulls, NaN, infinities, and at the ends of the range."""
    lanes, n = x.shape
    usable = np.isfinite(x)
    if null is None:
        null = np.zeros_like(usable)
    usable &= ~null
    count = usable.sum(axis=1)
    low = np.min(x, axis=1, where=usable, initial=np.inf)
    high = np.max(x, axis=1, where=usable, initial=-np.inf)
    seen = count > 0
    largest = np.where(seen, np.maximum(-low, high), 0.0)
    ordinary = (largest >= _SMALL) & (largest <= _BIG)
    exponent = np.where(ordinary, 0, np.frexp(largest)[1])
    exponent = np.where(largest == 0, _ZERO_EXPONENT, exponent)

    centre = np.where(seen, np.minimum(np.maximum(centre, low), high), 0.0)
    filled = np.where(usable, x, centre[:, np.newaxis])
    scale = np.where(largest == 0, 0, -exponent)
    if scale.any():
        # 2**1074 is no float64, so ldexp and not a product.
        filled, centre = np.ldexp(filled, scale[:, np.newaxis]), np.ldexp(centre, scale)

    weights: Floats
    if decay == 1:
        weights = usable.astype(np.float64)
        weight, pairs, total = count.astype(np.float64), count * (count - 1.0) / 2, np.ones(lanes)
    else:
        if ignore_na:
            age = count[:, np.newaxis] - np.cumsum(usable, axis=1)
            weights = np.where(usable, decay ** age.astype(np.float64), 0.0)
            total = decay ** count.astype(np.float64)
        else:
            weights = np.where(usable, _weights(decay, n), 0.0)
            total = np.full(lanes, decay**n)
        weight, pairs = weights.sum(axis=1), _pairs(weights)
    sums = _Sums(lanes, n)
    mean, m2 = _from_sums(*sums.about(filled, centre, sums.pad(weights), weight), weight)
    return LaneArrays(
        count=count,
        nulls=null.sum(axis=1),
        nans=(np.isnan(x) & ~null).sum(axis=1),
        pos_infs=((x == np.inf) & ~null).sum(axis=1),
        neg_infs=((x == -np.inf) & ~null).sum(axis=1),
        min=low,
        max=high,
        weight=weight,
        pairs=pairs,
        mean_hi=np.where(seen, mean[0], 0.0),
        mean_lo=np.where(seen, mean[1], 0.0),
        m2_hi=np.where(seen, m2, 0.0),
        m2_lo=np.zeros(lanes),
        decay=total,
        exponent=exponent,
    )


class _Sums:
    """Sums of (L, n) values about a centre, in a scratch space that is used again.

    The differences lie in pieces of at most `_DOT` values, the last one filled up with
    zeros, and are summed by one dot product a piece.
    """

    def __init__(self, lanes: int, n: int) -> None:
        self._piece = min(n, _DOT)
        self._pieces = np.zeros((lanes, -(-n // self._piece), self._piece))
        self._flat = self._pieces.reshape(lanes, -1)
        self._ones = np.ones(self._piece)

    def pad(self, values: Floats) -> Floats:
        """Cut (..., n) values into pieces as the differences are cut."""
        padded = np.zeros((*values.shape[:-1], self._flat.shape[1]))
        padded[..., : values.shape[-1]] = values
        return padded.reshape(*values.shape[:-1], *self._pieces.shape[1:])

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives as long as one call
    def padded(self, decay: float, n: int) -> Floats:
        """Return the weights of n rows, cut into pieces."""
        return self.pad(_weights(decay, n))

    def about(
        self, x: Floats, centre: Floats, weights: Floats | None, weight: Floats | float
    ) -> tuple[Floats, Floats, Floats]:
        """Find a centre amid the data, and Σw(x − c) and Σw(x − c)² around it.

        Parameters
        ----------
        x : ndarray, shape (L, n)
        centre : ndarray, shape (L,)
            Where to begin.
        weights : ndarray, shape ([L,] pieces, piece), or None
            None: all 1.
        weight : ndarray, shape (L,), or float
            Their sum.

        Returns
        -------
        centre, first, second : ndarrays, shape (L,)
        """
        n = x.shape[1]
        if n < self._flat.shape[1]:
            self._flat[:, n:] = 0.0
        d = self._pieces
        for _ in range(4):
            np.subtract(x, centre[:, np.newaxis], out=self._flat[:, :n])
            weighted = d if weights is None else d * weights
            first = np.vecdot(weighted, self._ones).sum(axis=-1)
            second = np.vecdot(weighted, d).sum(axis=-1)
            poor = first * first > second * (weight * _EXCESS)
            if not poor.any():
                break
            centre = np.where(poor, centre + first / np.where(poor, weight, 1.0), centre)
        return centre, first, second


def _from_sums(
    centre: Floats, first: Floats, second: Floats, weight: Floats
) -> tuple[dd.Pair, Floats]:
    """Weighted mean, as hi + lo, and sum of squared deviations from sums about a centre.

    The differences d = x − c are exact where it matters (x within a factor of two of c,
    by Sterbenz's lemma), so the only errors are those of sums of small numbers:
    mean = c + Σwd/W, m2 = Σwd² − (Σwd)²/W.
    """
    offset = np.divide(first, weight, out=np.zeros_like(first), where=weight > 0)
    return dd.two_sum(centre, offset), np.maximum(second - first * offset, 0.0)


@functools.lru_cache(maxsize=8)
def _powers(decay: float) -> Floats:
    """Return …, λ², λ, 1 for a whole block, with subnormal weights as 0."""
    powers = np.power(decay, np.arange(_BLOCK - 1, -1, -1.0))
    powers[powers < np.finfo(np.float64).tiny] = 0.0
    return powers


def _weights(decay: float, n: int) -> Floats:
    return _powers(decay)[_BLOCK - n :]


@functools.lru_cache(maxsize=64)
def _totals(decay: float, n: int) -> tuple[float, float]:
    """Return W and C of n rows without a missing value."""
    if decay == 1:
        return float(n), n * (n - 1) / 2
    weights = _weights(decay, n)
    return float(weights.sum()), float(_pairs(weights))


def _pairs(weights: Floats) -> Floats:
    """Sum w_i·w_j over i < j, by prefix sums: (W² − Σw²)/2 would cancel."""
    return (weights * (np.cumsum(weights, axis=-1) - weights)).sum(axis=-1)


def _in_data_units(source: Source, moments: LaneArrays) -> LaneArrays:
    """Undo the base and the decimal scale under which a column was read."""
    zero = np.zeros(source.width)
    seen = moments.count > 0
    mean = source.restore((moments.mean_hi, moments.mean_lo))
    m2 = source.in_units(source.in_units((moments.m2_hi, moments.m2_lo)))
    low = source.restore((np.where(seen, moments.min, 0.0), zero))[0]
    high = source.restore((np.where(seen, moments.max, 0.0), zero))[0]
    # A base other than 0 makes an ordinary number of offsets that were all 0.
    zeros = (moments.exponent == _ZERO_EXPONENT) & (mean[0] == 0)
    integral = (source.base != 0) & seen
    return moments._replace(
        min=np.where(seen, low, moments.min),
        max=np.where(seen, high, moments.max),
        mean_hi=np.where(seen, mean[0], 0.0),
        mean_lo=np.where(seen, mean[1], 0.0),
        m2_hi=m2[0],
        m2_lo=m2[1],
        exponent=np.where(integral & ~zeros, 0, moments.exponent),
    )


# ------------------------------------------------------------------------- transforms


def normalize(
    columns: Sequence[Column], lanes: LaneTransform, dtypes: Sequence[np.dtype[np.floating]]
) -> Mapped:
    """Return y = clip((x − location)/spread)·γ + β for all columns of one batch.

    Computed in float64 and rounded once to the output type. Nulls stay null, with 0
    under them; NaN stays NaN; lanes that are not `known` come out null.

    Parameters
    ----------
    columns : sequence of Column
        All of the same number of rows.
    lanes : LaneTransform
        Shape (L,).
    dtypes : sequence of numpy dtype
        One a column: the floating type of the output.

    Returns
    -------
    Mapped
        Arrays, one a column, and what was met on the way.
    """
    return _map_columns(columns, lanes, dtypes, _normalize_chunk)


def denormalize(
    columns: Sequence[Column], lanes: LaneTransform, dtypes: Sequence[np.dtype[np.floating]]
) -> Mapped:
    """Return x = ((y − β)/γ)·spread + location: the inverse of `normalize` without clip."""
    return _map_columns(columns, lanes, dtypes, _denormalize_chunk)


_ChunkMap = Callable[[Source, Floats, LaneTransform], Floats]


def _map_columns(
    columns: Sequence[Column],
    lanes: LaneTransform,
    dtypes: Sequence[np.dtype[np.floating]],
    chunk_map: _ChunkMap,
) -> Mapped:
    outputs, first = [], 0
    nans, infs = np.zeros((2, len(lanes.known)), np.int64)
    for column, dtype in zip(columns, dtypes, strict=True):
        source = Source(column)
        last = first + column.width
        part = LaneTransform(
            *(f[first:last] if isinstance(f, np.ndarray) else f for f in lanes)  # type: ignore[arg-type]
        )
        out = np.empty((source.rows, source.width), dtype)
        step = max(1, _BLOCK // source.width)
        with np.errstate(all="ignore"):
            for start in range(0, source.rows, step):
                stop = min(start + step, source.rows)
                x, null = source.read(start, stop), source.missing(start, stop)
                y = chunk_map(source, x, part)
                # A sum is finite only if all of its terms are.
                if not np.isfinite(x.sum()):
                    seen = True if null is None else ~null
                    nans[first:last] += (np.isnan(x) & seen).sum(axis=1)
                    infs[first:last] += (np.isinf(x) & seen).sum(axis=1)
                if null is not None:
                    y[null] = 0.0
                if not part.known.all():
                    y[~part.known] = 0.0
                out[start:stop] = y.T
        outputs.append(_to_arrow(column, out, part.known))
        first = last
    return Mapped(outputs, nans, infs)


def _normalize_chunk(source: Source, x: Floats, lanes: LaneTransform) -> Floats:
    hi, lo = source.locate(lanes.location_hi, lanes.location_lo)
    spread = source.out_of_units(lanes.spread)
    if (np.maximum(np.abs(hi), spread) > _FAR).any():
        x, hi, lo, spread = x / 4, hi / 4, lo / 4, spread / 4
    y = x - hi[:, np.newaxis]
    if lo.any():
        y -= lo[:, np.newaxis]
    y /= spread[:, np.newaxis]
    if lanes.clip is not None:
        np.clip(y, -lanes.clip, lanes.clip, out=y)
    if lanes.gamma is not None and lanes.beta is not None:
        y *= lanes.gamma[:, np.newaxis]
        y += lanes.beta[:, np.newaxis]
    return y


def _denormalize_chunk(source: Source, y: Floats, lanes: LaneTransform) -> Floats:
    if lanes.gamma is not None and lanes.beta is not None:
        y = (y - lanes.beta[:, np.newaxis]) / lanes.gamma[:, np.newaxis]
    x = y * lanes.spread[:, np.newaxis]
    x += lanes.location_lo[:, np.newaxis]
    x += lanes.location_hi[:, np.newaxis]
    return x


def _to_arrow(column: Column, out: NDArray[np.floating], known: NDArray[np.bool_]) -> pa.Array:
    """Wrap the output without a copy, under the input's validity and that of the lanes."""
    n = out.size
    valid = unpack_validity(column.values, 0, n)
    if not known.all():
        lanes = np.broadcast_to(known, out.shape).reshape(-1)
        valid = lanes if valid is None else valid & lanes
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    kind = pa.from_numpy_dtype(out.dtype)
    return pa.Array.from_buffers(kind, n, [bitmap, pa.py_buffer(out)])
