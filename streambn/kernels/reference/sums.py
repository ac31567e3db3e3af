"""Sums about a centre, and the mean and sum of squared deviations that follow from them."""

from __future__ import annotations

import numpy as np

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats

__all__ = ["Sums", "from_sums"]

# Terms in one dot product. Equal terms round alike, so errors accumulate in long sums: the m2 of
# a column of two distinct values was wrong by 8e-15 with pieces of 4096 and by 4e-16 with pieces
# of 512, at the same speed. BLAS starts threads only for far longer products.
_DOT = 512
# The sum of squares about a centre c exceeds the sum about the mean by n(c - mean)². Subtracting
# up to 3/4 of it costs 2 bits. A block with a larger excess is centred again.
_EXCESS = 0.75
# Batches of at most this many rows are summed in NumPy's longdouble. Where it has more digits
# (80 bits on x86), the sums are right to the last bit of a float64. Elsewhere nothing is lost.
# This takes 0.4 of the time of a batch of 1000 rows and 50 columns.
_SHORT = 1024


class Sums:
    """Sums about a centre of blocks of shape (F, n), in reused scratch memory.

    The differences from the centre lie in pieces of at most `_DOT` values. Zeros pad the last
    piece. One dot product sums each piece.

    Parameters
    ----------
    features, n : int
        Features and rows of the largest block.
    rows : int
        Rows of the whole batch.
    """

    def __init__(self, features: int, n: int, rows: int) -> None:
        self._short = rows <= _SHORT
        self._piece = min(n, _DOT)
        self._pieces = np.zeros((features, -(-n // self._piece), self._piece))
        self._flat = self._pieces.reshape(features, -1)
        self._weighted = np.zeros((0,))
        self._ones = np.ones(self._piece)

    def pad(self, values: Floats) -> Floats:
        """Cut values of shape (..., n) into pieces, as the differences are cut."""
        padded = np.zeros((*values.shape[:-1], self._flat.shape[1]))
        padded[..., : values.shape[-1]] = values
        return padded.reshape(*values.shape[:-1], *self._pieces.shape[1:])

    def about(
        self, x: Floats, centre: Floats, weights: Floats | None, weight: Floats | float
    ) -> tuple[Floats, Floats]:
        """Return a centre c within the data, with Σw(x − c) and Σw(x − c)².

        Parameters
        ----------
        x : ndarray, shape (F, n)
        centre : ndarray, shape (F,)
            The first guess.
        weights : ndarray, shape ([F,] pieces, piece), or None
            None if all weights are 1.
        weight : ndarray, shape (F,), or float
            The sum of the weights.

        Returns
        -------
        centre : ndarray, shape (F,)
        totals : ndarray, shape (4, F)
            hi and lo of the first sum, then of the second. lo is 0 in long batches.
        """
        limit = weight * _EXCESS
        for _ in range(4):
            d = self._differences(x, centre)
            weighted = d
            if weights is not None:
                weighted = self._weighted = np.multiply(
                    d, weights, out=self._weighted if self._weighted.size else None
                )
            first: Floats = np.add.reduce(np.vecdot(weighted, self._ones), axis=-1)
            second: Floats = np.add.reduce(np.vecdot(weighted, d), axis=-1)
            poor = first * first > second * limit
            if not np.count_nonzero(poor):
                break
            centre = np.where(poor, centre + first / np.where(poor, weight, 1.0), centre)
        if not self._short:
            zero = np.zeros_like(first)
            return centre, np.array((first, zero, second, zero))
        return centre, _extended_sums(d, weights)

    def _differences(self, x: Floats, centre: Floats) -> Floats:
        """Return x − c in pieces, or x itself if c is 0 and x fills the pieces."""
        if x.shape == self._flat.shape:
            if not np.count_nonzero(centre):
                return x.reshape(self._pieces.shape)
            np.subtract(x, centre[:, np.newaxis], out=self._flat)
        else:
            np.subtract(x, centre[:, np.newaxis], out=self._flat[:, : x.shape[1]])
            self._flat[:, x.shape[1] :] = 0.0
        return self._pieces


def _extended_sums(d: Floats, weights: Floats | None) -> Floats:
    """Return Σwd and Σwd² in extended precision, as hi, lo, hi, lo of shape (4, F).

    A few features are summed at a time. Larger temporaries would be allocated from the system
    each time, which takes longer than the sums.
    """
    features = len(d)
    totals = np.empty((2, features), np.longdouble)
    step = max(1, _SHORT // d[0].size)
    for start in range(0, features, step):
        chunk = slice(start, start + step)
        extended = d[chunk].astype(np.longdouble)
        weighted = extended
        if weights is not None:
            weighted = extended * (weights if weights.ndim == 2 else weights[chunk])
        totals[0, chunk] = weighted.sum(axis=-1).sum(axis=-1)
        totals[1, chunk] = np.vecdot(weighted, extended).sum(axis=-1)
    high = totals.astype(np.float64)
    low = np.where(np.isfinite(high), totals - high, 0.0).astype(np.float64)
    return np.array((high[0], low[0], high[1], low[1]))


def from_sums(centre: Floats, totals: Floats, weight: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Return the weighted mean and sum of squared deviations, as hi + lo.

    mean = c + Σwd/W and m2 = Σwd² − (Σwd)²/W, where d = x − c. By Sterbenz's lemma d is exact
    where x is within a factor of two of c, which is where rounding would matter. Only the sums of
    small numbers have errors.
    """
    first, second = (totals[0], totals[1]), (totals[2], totals[3])
    offset = dd.divide(first, dd.wide(np.where(weight > 0, weight, 1.0)))
    excess = dd.multiply(first, offset)
    hi, lo = dd.add(second, (-excess[0], -excess[1]))
    positive = hi > 0
    mean = dd.add(dd.wide(centre), offset)
    return mean, (np.where(positive, hi, 0.0), np.where(positive, lo, 0.0))
