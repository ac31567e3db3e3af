"""Sums about a centre, and the mean and squares that follow from them."""

from __future__ import annotations

import numpy as np

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Floats

__all__ = ["Sums", "from_sums"]

# Terms summed in one dot product. Equal terms round alike, so the errors of long sums add
# up: of a column with two values, m2 was wrong by 8e-15 in pieces of 4096, by 4e-16 in
# pieces of 512, at the same speed. Far below the length at which BLAS starts threads.
_DOT = 512
# A sum of squares about a centre c exceeds the one about the mean by n(c - mean)². Up
# to 3/4 of it may go in the subtraction (2 bits); beyond, the block is centred again.
_EXCESS = 0.75
# Batches of so few rows are summed in NumPy's longdouble, where their sums come out right to
# the last bit of a float64 where that has more digits (80 bits on x86; elsewhere nothing is
# lost). Of a batch of 1000 rows and 50 columns it takes 0.4 of the time.
_SHORT = 1024


class Sums:
    """Sums of (L, n) values about a centre, in a scratch space that is used again.

    The differences lie in pieces of at most `_DOT` values, the last one filled up with
    zeros, and are summed by one dot product a piece.

    Parameters
    ----------
    lanes, n : int
        The largest block.
    rows : int
        Of the whole batch, of which the block is a part.
    """

    def __init__(self, lanes: int, n: int, rows: int) -> None:
        self._short = rows <= _SHORT
        self._piece = min(n, _DOT)
        self._pieces = np.zeros((lanes, -(-n // self._piece), self._piece))
        self._flat = self._pieces.reshape(lanes, -1)
        self._weighted = np.zeros((0,))
        self._ones = np.ones(self._piece)

    def pad(self, values: Floats) -> Floats:
        """Cut (..., n) values into pieces as the differences are cut."""
        padded = np.zeros((*values.shape[:-1], self._flat.shape[1]))
        padded[..., : values.shape[-1]] = values
        return padded.reshape(*values.shape[:-1], *self._pieces.shape[1:])

    def about(
        self, x: Floats, centre: Floats, weights: Floats | None, weight: Floats | float
    ) -> tuple[Floats, Floats]:
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
        centre : ndarray, shape (L,)
        totals : ndarray, shape (4, L)
            hi and lo of the first sum, then of the second; lo is 0 in long batches.
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
        """Return x − c in pieces; x itself where c is 0 and x fills the pieces."""
        if x.shape == self._flat.shape:
            if not np.count_nonzero(centre):
                return x.reshape(self._pieces.shape)
            np.subtract(x, centre[:, np.newaxis], out=self._flat)
        else:
            np.subtract(x, centre[:, np.newaxis], out=self._flat[:, : x.shape[1]])
            self._flat[:, x.shape[1] :] = 0.0
        return self._pieces


def _extended_sums(d: Floats, weights: Floats | None) -> Floats:
    """Σwd and Σwd² in extended precision, as hi, lo, hi, lo of shape (4, L).

    Some lanes at a time: what is larger would be fetched from the system anew each time,
    which takes longer than the sums.
    """
    lanes = len(d)
    totals = np.empty((2, lanes), np.longdouble)
    step = max(1, _SHORT // d[0].size)
    for start in range(0, lanes, step):
        some = slice(start, start + step)
        extended = d[some].astype(np.longdouble)
        weighted = extended
        if weights is not None:
            weighted = extended * (weights if weights.ndim == 2 else weights[some])
        totals[0, some] = weighted.sum(axis=-1).sum(axis=-1)
        totals[1, some] = np.vecdot(weighted, extended).sum(axis=-1)
    high = totals.astype(np.float64)
    low = np.where(np.isfinite(high), totals - high, 0.0).astype(np.float64)
    return np.array((high[0], low[0], high[1], low[1]))


def from_sums(centre: Floats, totals: Floats, weight: Floats) -> tuple[dd.Pair, dd.Pair]:
    """Weighted mean and sum of squared deviations, as hi + lo, from sums about a centre.

    The differences d = x − c are exact where it matters (x within a factor of two of c,
    by Sterbenz's lemma), so the only errors are those of sums of small numbers:
    mean = c + Σwd/W, m2 = Σwd² − (Σwd)²/W.
    """
    first, second = (totals[0], totals[1]), (totals[2], totals[3])
    offset = dd.divide(first, dd.wide(np.where(weight > 0, weight, 1.0)))
    excess = dd.multiply(first, offset)
    hi, lo = dd.add(second, (-excess[0], -excess[1]))
    positive = hi > 0
    mean = dd.add(dd.wide(centre), offset)
    return mean, (np.where(positive, hi, 0.0), np.where(positive, lo, 0.0))
