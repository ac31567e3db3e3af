"""What the immutable values of this package have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streambn.kernels.interface import Ints
from streambn.kernels.moments import TallyArrays

__all__ = ["SealedArrays"]


class SealedArrays(TallyArrays):
    """Arrays over features that never change, because their memory is read-only."""

    __slots__ = ()

    @classmethod
    def sealed(cls, arrays: TallyArrays) -> Self:
        """Take over arrays that have no other owner, and make them read-only."""
        arrays.memory.setflags(write=False)
        return cls(arrays.memory)

    def take(self, features: Sequence[int] | NDArray[np.int64]) -> Self:
        """Return the values of some features, in the given order."""
        return self.sealed(type(self)(np.take(self.memory, np.asarray(features, int), axis=1)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _seal, (type(self), self.memory)

    def __eq__(self, other: object) -> bool:
        """Compare bit for bit."""
        return isinstance(other, type(self)) and np.array_equal(self.memory, other.memory)

    __hash__ = None  # type: ignore[assignment]


def _seal(kind: type[SealedArrays], memory: Ints) -> SealedArrays:
    return kind.sealed(kind(memory))
