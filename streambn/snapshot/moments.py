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

__all__ = ["COUNTS", "StoredMoments", "StoredTally", "restore_array", "restore_arrays"]

COUNTS: Final = ("count", "nulls", "nans", "pos_infs", "neg_infs")
_INTEGERS: Final = (*COUNTS, "exponent")


class StoredTally(Stored):
    """Counts and extremes, each a list over features.

    `min` and `max` of a feature without values are null.
    """

    count: list[int]
    nulls: list[int]
    nans: list[int]
    pos_infs: list[int]
    neg_infs: list[int]
    min: list[float | None]
    max: list[float | None]

    def check_lengths(self, features: int) -> None:
        """Raise a SnapshotError unless each list has one entry for each feature."""
        for name in self.__struct_fields__:
            values = getattr(self, name)
            if values is not None and len(values) != features:
                raise SnapshotError(f"{name} has {len(values)} entries for {features} features")

    def restore_extremes(self) -> dict[str, NDArray[np.float64]]:
        """Return `min` and `max` as arrays; null is the extreme of no values."""
        low = [np.inf if value is None else value for value in self.min]
        high = [-np.inf if value is None else value for value in self.max]
        return {"min": np.array(low, np.float64), "max": np.array(high, np.float64)}


class StoredMoments(StoredTally):
    """The fields of `Moments`, each a list over features. Version 1 has no `squares`."""

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
        self.check_lengths(features)
        fields = self.restore_extremes()
        others = {name: self._array(name) for name in MomentArrays.FIELDS if name not in fields}
        return Moments.sealed(MomentArrays.from_fields(**fields, **others))

    def _array(self, name: str) -> NDArray[Any]:
        values = getattr(self, name)
        if name == "squares" and values is None:
            # In version 1 age alone set the weights, and Q = W² − 2C.
            values = [max(w * w - 2 * c, 0.0) for w, c in zip(self.weight, self.pairs, strict=True)]
        return restore_array(name, values, np.int64 if name in _INTEGERS else np.float64)


def restore_array(name: str, values: Sequence[Any], dtype: Any) -> NDArray[Any]:
    """Return a list over features as an array.

    Raises
    ------
    SnapshotError
        A number does not fit into 64 bits.
    """
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        i, value = next((i, v) for i, v in enumerate(values) if not -(2**63) <= v < 2**63)
        bits = value.bit_length() + 1
        raise SnapshotError(f"{name}[{i}] has {bits:,} bits, but must fit into 64") from error


def restore_arrays(
    name: str, values: Sequence[Sequence[Any]], features: int, dtype: Any
) -> NDArray[Any]:
    """Return lists over features as one array, a row for each list.

    Raises
    ------
    SnapshotError
        A list does not have one entry for each feature, or a number does not fit into 64 bits.
    """
    for row in values:
        if len(row) != features:
            raise SnapshotError(f"{name} has {len(row)} entries for {features} features")
    return np.array([restore_array(name, row, dtype) for row in values])
