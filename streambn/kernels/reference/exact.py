"""Exact sums of values and of their squares. No addition rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow.types import is_decimal

from streambn.kernels.exact import ExactSums, decimal_sums, empty_sums, unmergeable
from streambn.kernels.flatten import FlatColumn, flatten_columns
from streambn.kernels.interface import Columns, Estimates, Floats, Ints
from streambn.kernels.rational import read_feature
from streambn.kernels.reference.sources import Source

__all__ = ["exact_sums", "extend_exact", "merge_exact", "read_exact"]

# Rows in one sum. `np.bincount` sums in float64, which is exact below 2**53. Terms are
# therefore cut into halves of 27 bits, and at most 2**26 of them are summed.
_BLOCK = 1 << 20
_HALF = 27
_LOW = (1 << _HALF) - 1


@np.errstate(all="ignore")
def exact_sums(columns: Columns) -> ExactSums:
    """Return the exact sums of every feature of a batch.

    Parameters
    ----------
    columns : Columns
        Weights and times are ignored.

    Returns
    -------
    ExactSums
        Features in the order of the columns.
    """
    sums = empty_sums(columns.layout.features)
    first = 0
    for column in flatten_columns(columns):
        sums.memory[:, first : first + column.width] = _column_sums(column).memory
        first += column.width
    return sums


def read_exact(sums: ExactSums, ddof: int) -> Estimates:
    """Return mean Σx/n and variance (n·Σx² − (Σx)²)/(n·(n − ddof)), each rounded once."""
    features = sums.memory.shape[1]
    found = np.array([read_feature(sums, feature, ddof) for feature in range(features)], np.float64)
    mean_hi, mean_lo, var, std = np.ascontiguousarray(found.reshape(features, 4).T)
    return Estimates(mean_hi, mean_lo, var, std, sums.count > 0)


def extend_exact(older: ExactSums, columns: Columns) -> ExactSums:
    """Return the exact sums of the segment `older` followed by a batch. See `merge_exact`."""
    return merge_exact(older, exact_sums(columns))


def merge_exact(older: ExactSums, newer: ExactSums) -> ExactSums:
    """Return the exact sums of two segments together.

    The merge is commutative and associative, bit for bit. Decimals of two scales take the unit of
    the finer scale. Floats and integers merge with decimals as decimals of scale 0, if their sums
    are whole numbers.

    Raises
    ------
    UnmergeableError
        The sums of a feature are not whole, or do not fit into the limbs.
    """
    a, b = older, newer
    features = a.memory.shape[1]
    merged = empty_sums(features)
    merged.memory[:5] = a.memory[:5] + b.memory[:5]
    merged.min[:] = np.where(_order(a.min) < _order(b.min), a.min, b.min)
    merged.max[:] = np.where(_order(a.max) > _order(b.max), a.max, b.max)
    merged.decimal[:] = a.decimal | b.decimal
    for feature in range(features):
        # A feature without values has no unit and takes that of the other side.
        sides = [side for side in (a, b) if side.count[feature]]
        if merged.decimal[feature]:
            scale = merged.scale[feature] = max(int(side.scale[feature]) for side in sides)
            parts = [decimal_sums(side, feature, int(scale)) for side in sides]
        else:
            parts = [side.integers(feature) for side in sides]
        if not _put_all(merged, feature, parts):
            raise unmergeable(feature, a, b)
    return merged


def _put_all(sums: ExactSums, feature: int, parts: Sequence[tuple[int, int] | None]) -> bool:
    """Set the sums of a feature to the total of its parts. Return whether all exist and fit."""
    there = [part for part in parts if part is not None]
    try:
        sums.put(feature, sum(total for total, _ in there), sum(squares for _, squares in there))
    except OverflowError:
        return False
    return len(there) == len(parts)


def _column_sums(column: FlatColumn) -> ExactSums:
    """Return the exact sums of the features of one column."""
    source = Source({0: column})
    [part] = source.parts
    sums = empty_sums(column.width)
    if not source.rows:
        return sums
    null = source.missing(0, source.rows)
    # float64 holds every value of a type of at most 53 bits, integers included.
    floats = source.read(0, source.rows) if part.layout.words == 0 else None
    for feature in range(column.width):
        there: Any = slice(None) if null is None else ~null[feature]
        if floats is not None:
            _add_floats(sums, feature, floats[feature, there])
        else:
            words = part.data.reshape(source.rows, column.width, -1)[there, feature]
            scale = part.layout.power if is_decimal(column.values.type) else None
            _add_integers(sums, feature, words, scale)
    if null is not None:
        sums.nulls[:] = null.sum(axis=1)
    return sums


def _add_floats(sums: ExactSums, feature: int, x: Floats) -> None:
    sums.nans[feature] = np.count_nonzero(np.isnan(x))
    sums.pos_infs[feature] = np.count_nonzero(x == np.inf)
    sums.neg_infs[feature] = np.count_nonzero(x == -np.inf)
    if sums.memory[2:5, feature].any():
        x = x[np.isfinite(x)]
    if not len(x):
        return
    order = _order(x)
    sums.count[feature] = len(x)
    sums.min[feature], sums.max[feature] = x[order.argmin()], x[order.argmax()]
    blocks = [_float_sums(x[start : start + _BLOCK]) for start in range(0, len(x), _BLOCK)]
    sums.put(feature, sum(total for total, _ in blocks), sum(square for _, square in blocks))


def _float_sums(x: Floats) -> tuple[int, int]:
    """Return Σx and Σx² in units of 2**-1074."""
    bits = np.ascontiguousarray(x).view(np.int64)
    biased = bits >> 52 & 0x7FF
    # A subnormal number has the exponent of the smallest normal one, and no leading 1.
    exponent = np.maximum(biased, 1) - 1
    # Counted from the smallest exponent, because most columns use few of the 2046.
    least = int(exponent.min())
    exponent -= least
    mantissa = (bits & (1 << 52) - 1) | (biased > 0).astype(np.int64) << 52
    high, low = mantissa >> _HALF, mantissa & _LOW
    total = _sums_by(exponent, np.where(bits < 0, -mantissa, mantissa))
    outer, mixed, inner = (
        _sums_by(exponent, term) for term in (high * high, high * low, low * low)
    )
    squares = [
        (o << 2 * _HALF) + (m << _HALF + 1) + i for o, m, i in zip(outer, mixed, inner, strict=True)
    ]
    return (
        sum(part << e for e, part in enumerate(total) if part) << least,
        sum(part << 2 * e for e, part in enumerate(squares) if part) << 2 * least,
    )


def _sums_by(exponent: Ints, terms: Ints) -> list[int]:
    """Return the sum for each exponent of terms below 2**54."""
    high = np.bincount(exponent, (terms >> _HALF).astype(np.float64))
    low = np.bincount(exponent, (terms & _LOW).astype(np.float64))
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return [(int(upper) << _HALF) + int(lower) for upper, lower in pairs]


def _add_integers(
    sums: ExactSums, feature: int, words: NDArray[np.integer[Any]], scale: int | None
) -> None:
    """Add integers of shape (n, words), the lowest 64-bit word first.

    With a scale they are decimals: the integer divided by ``10**scale``.
    """
    if not len(words):
        return
    values = words[:, -1].astype(np.int64 if scale is not None else words.dtype).tolist()
    for word in range(words.shape[1] - 2, -1, -1):
        below = words[:, word].tolist()
        values = [(high << 64) + low for high, low in zip(values, below, strict=True)]
    low, high = min(values), max(values)
    shift = sums.UNIT_BITS if scale is None else 0
    sums.count[feature] = len(values)
    sums.min[feature], sums.max[feature] = (_nearest(value, scale or 0) for value in (low, high))
    sums.decimal[feature], sums.scale[feature] = scale is not None, scale or 0
    sums.put(feature, sum(values) << shift, sum(v * v for v in values) << 2 * shift)


def _nearest(value: int, scale: int) -> float:
    """Return value / 10**scale, rounded once."""
    try:
        return value / 10**scale if scale >= 0 else float(value * 10**-scale)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _order(x: Floats) -> Ints:
    """Return integers that sort as the floats do, with -0.0 below 0.0."""
    bits = np.ascontiguousarray(x).view(np.int64)
    return bits ^ (bits >> 63 & np.iinfo(np.int64).max)
