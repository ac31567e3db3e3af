"""Normalization of rows by maps that never change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from streambn.kernels.interface import FeatureTransform
from streambn.kernels.rows import MISSING

__all__ = ["RowMaps"]

# Beyond this, subtracting the location can overflow.
_OVERFLOW: Final = 2.0**969
_RAISE: Final = MISSING.index("raise")


class RowMaps:
    """The maps of features, applied to rows. A row is a dict from features to values.

    Parameters
    ----------
    names : list
        The features.
    *transform
        The fields of their `FeatureTransform`; a clip of infinity clips nothing.
    may_lack : bool
        Whether a row may lack features.
    nan, inf : int
        Indices into `MISSING`.
    number, refuse : callable
        The functions of `streambn.kernels.rows`.
    """

    def __init__(self, names: Sequence[Any], *arguments: Any) -> None:
        *fields, may_lack, nan, inf, number, refuse = arguments
        self._maps = FeatureTransform.of(*fields)
        self._index = {name: i for i, name in enumerate(names)}
        if len(self._index) < len(names):
            raise ValueError("a feature is given twice")
        self._may_lack: bool = may_lack
        self._refused = [("nan", math.isnan)] if nan == _RAISE else []
        self._refused += [("inf", math.isinf)] if inf == _RAISE else []
        self._number, self._refuse = number, refuse

    def transform(self, row: Any) -> dict[Any, Any]:
        """Return a copy of a row with its features normalized, or None if they are not known."""
        return self._map(row, self._normalized)

    def inverse(self, row: Any) -> dict[Any, Any]:
        """Return a copy of a normalized row with its features in the units of the data."""
        return self._map(row, self._restored)

    def _map(
        self, row: Any, function: Callable[[int, Any, Any, float, float], float]
    ) -> dict[Any, Any]:
        if not isinstance(row, dict):
            self._refuse("row", None, row)
        out = dict(row)
        found = 0
        for key, given in row.copy().items():
            i = self._index.get(key)
            if i is None:
                continue
            found += 1
            value = self._number(given, key)
            if value is None:
                self._refuse("text", key, given)
            y = function(i, key, given, *value[:2]) if value else None
            out[key] = y if self._maps.known[i] else None
        if found < len(self._index) and not self._may_lack:
            self._refuse("missing", next(name for name in self._index if name not in out), out)
        return out

    def _normalized(self, i: int, key: Any, given: Any, high: float, low: float) -> float:
        for why, is_refused in self._refused:
            if is_refused(high):
                self._refuse(why, key, given)
        location, rest, scale, extreme = self._of(i)
        if extreme:
            high, low, location, rest, scale = (x / 4 for x in (high, low, location, rest, scale))
        y = high - location
        if low:
            y += low
        y = (y - rest) / scale
        # Comparisons with NaN are false, so a NaN stays NaN.
        clip = self._maps.clip
        if clip is not None:
            y = clip if y > clip else -clip if y < -clip else y
        if self._maps.gamma is None or self._maps.beta is None:
            return y
        return y * float(self._maps.gamma[i]) + float(self._maps.beta[i])

    def _restored(self, i: int, key: Any, given: Any, high: float, low: float) -> float:
        y = high + low
        if self._maps.gamma is not None and self._maps.beta is not None:
            y = (y - float(self._maps.beta[i])) / float(self._maps.gamma[i])
        location, rest, scale, extreme = self._of(i)
        if not extreme:
            return (y * scale + rest) + location
        return ((y * (scale / 4) + rest / 4) + location / 4) * 4

    def _of(self, i: int) -> tuple[float, float, float, bool]:
        """Return location, its low part and scale of a feature, and whether they are extreme."""
        maps = self._maps
        location, rest, scale = (
            float(x[i]) for x in (maps.location_hi, maps.location_lo, maps.scale)
        )
        return location, rest, scale, abs(location) > _OVERFLOW or scale > _OVERFLOW
