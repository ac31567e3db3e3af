"""Moments as a statistics file holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from streambn.accumulators import Moments
from streambn.errors import SnapshotError
from streambn.kernels import MomentArrays
from streambn.snapshot.base import Stored

__all__ = ["StoredMoments", "restore_arrays"]

_COUNTS: Final = ("count", "nulls", "nans", "pos_infs", "neg_infs")
_INTEGERS: Final = (*_COUNTS, "exponent")
_NOT_NEGATIVE: Final = (*_COUNTS, "weight", "pairs", "squares", "m2_hi", "decay")


class StoredMoments(Stored):
    """The fields of `Moments`, each a list over features.

    `min` and `max` of a feature without values are null. Version 1 has no `squares`.
    """

    count: list[int]
    nulls: list[int]
    nans: list[int]
    pos_infs: list[int]
    neg_infs: list[int]
    min: list[float | None]
    max: list[float | None]
    weight: list[float]
    pairs: list[float]
    mean_hi: list[float]
    mean_lo: list[float]
    m2_hi: list[float]
    m2_lo: list[float]
    decay: list[float]
    exponent: list[int]
    squares: list[float] | None = None

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """Return the stored form of moments."""
        lists: dict[str, Any] = {name: getattr(moments, name).tolist() for name in moments.FIELDS}
        for name in ("min", "max"):
            lists[name] = [value if abs(value) != np.inf else None for value in lists[name]]
        return cls(**lists)

    def restore(self, features: int) -> Moments:
        """Return the moments.

        Raises
        ------
        SnapshotError
            A list does not have one entry for each feature, or a number is out of range.
        """
        return Moments.sealed(
            MomentArrays.from_fields(
                **{name: self._array(name, features) for name in MomentArrays.FIELDS}
            )
        )

    def _array(self, name: str, features: int) -> NDArray[Any]:
        values = getattr(self, name)
        if name == "squares" and values is None:
            # In version 1 age alone set the weights, and Q = W² − 2C.
            values = [max(w * w - 2 * c, 0.0) for w, c in zip(self.weight, self.pairs, strict=True)]
        if len(values) != features:
            raise SnapshotError(f"{name} has {len(values)} entries for {features} features")
        if name in ("min", "max"):
            empty = np.inf if name == "min" else -np.inf
            return np.array([empty if value is None else value for value in values], np.float64)
        array = np.array(values, np.int64 if name in _INTEGERS else np.float64)
        if not np.isfinite(array).all():
            raise SnapshotError(f"{name} has a value beyond the range of float64")
        if name in _NOT_NEGATIVE and (array < 0).any():
            raise SnapshotError(f"{name} has a negative value")
        return array


def restore_arrays(values: Sequence[Sequence[Any]], features: int, dtype: Any) -> NDArray[Any]:
    """Return lists over features as one array, a row for each list.

    Raises
    ------
    SnapshotError
        A list does not have one entry for each feature, or a number is out of range.
    """
    for row in values:
        if len(row) != features:
            raise SnapshotError(f"a list has {len(row)} entries for {features} features")
    array = np.array(values, dtype)
    if not np.isfinite(array).all():
        raise SnapshotError("a list has a value beyond the range of float64")
    return array
