"""States of policies as raw arrays, for `streambn.snapshot.portable`.

Each class stores the state of one policy. An array is the bytes of little-endian 64-bit numbers,
row by row, with a number for each feature in a row.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streambn.accumulators import ExactMoments, Moments
from streambn.errors import SnapshotError
from streambn.kernels.interface import Ints
from streambn.policies import (
    EMA,
    AdjustedState,
    BatchEMA,
    BatchState,
    Exact,
    Policy,
    RecursiveState,
    TimedState,
    Welford,
)
from streambn.snapshot.base import Stored

__all__ = ["StoredArrays", "arrays_of"]

_INTS: Final = np.dtype("<i8")
_FLOATS: Final = np.dtype("<f8")
_MOMENT_ROWS: Final = len(Moments.FIELDS)


class StoredArrays(Protocol):
    """The stored form of a policy's state."""

    @classmethod
    def of(cls, state: Any) -> Self:
        """Return the stored form of a state."""

    def restore(self, features: int) -> Any:
        """Return the state; raise a SnapshotError if an array has another size."""


def arrays_of(policy: Policy) -> type[StoredArrays]:
    """Return the class that stores states of one of streambn's own policies."""
    if isinstance(policy, EMA):
        if policy.time is not None:
            return _TimedArrays
        return _AdjustedArrays if policy.adjust else _RecursiveArrays
    return _ARRAYS[type(policy)]


class _WelfordArrays(Stored):
    """The moments of `Welford`."""

    moments: bytes

    @classmethod
    def of(cls, state: Moments) -> Self:
        return cls(moments=_bytes(state.memory))

    def restore(self, features: int) -> Moments:
        return _moments("moments", self.moments, features)


class _ExactArrays(Stored):
    """The fields of `ExactMoments`.

    `total` and `squares` leave out the lowest limbs, as many as ``total_from`` and
    ``squares_from`` say, which are zero in every feature, and the highest ones, which repeat the
    sign. Data of one magnitude have 3 limbs of 34 and 5 of 67.
    """

    fields: bytes
    total: bytes
    total_from: int
    squares: bytes
    squares_from: int

    @classmethod
    def of(cls, state: ExactMoments) -> Self:
        total_from, total = _trimmed(state.total)
        squares_from, squares = _trimmed(state.squares)
        return cls(
            fields=_bytes(state.memory[: state.TOTAL.start]),
            total=_bytes(total),
            total_from=total_from,
            squares=_bytes(squares),
            squares_from=squares_from,
        )

    def restore(self, features: int) -> ExactMoments:
        head = ExactMoments.TOTAL.start
        fields = _array("fields", self.fields, _INTS, head, features)
        total = _limbs("total", self.total, features)
        squares = _limbs("squares", self.squares, features)
        memory = np.zeros((ExactMoments.ROWS, features), np.int64)
        memory[:head] = fields
        _extend("total", memory[ExactMoments.TOTAL], self.total_from, total)
        _extend("squares", memory[ExactMoments.SQUARES], self.squares_from, squares)
        return ExactMoments.sealed(ExactMoments(memory))


class _AdjustedArrays(Stored):
    """The fields of `AdjustedState`."""

    moments: bytes
    gaps: bytes

    @classmethod
    def of(cls, state: AdjustedState) -> Self:
        return cls(moments=_bytes(state.moments.memory), gaps=_bytes(state.gaps))

    def restore(self, features: int) -> AdjustedState:
        moments = _moments("moments", self.moments, features)
        return AdjustedState(moments, _array("gaps", self.gaps, _INTS, 2, features))


class _RecursiveArrays(Stored):
    """The fields of `RecursiveState`."""

    moments: bytes
    first: bytes
    gaps: bytes

    @classmethod
    def of(cls, state: RecursiveState) -> Self:
        return cls(
            moments=_bytes(state.moments.memory),
            first=_bytes(state.first.memory),
            gaps=_bytes(state.gaps),
        )

    def restore(self, features: int) -> RecursiveState:
        moments = _moments("moments", self.moments, features)
        first = _moments("first", self.first, features)
        return RecursiveState(moments, first, _array("gaps", self.gaps, _INTS, 2, features))


class _TimedArrays(Stored):
    """The fields of `TimedState`."""

    moments: bytes
    times: bytes
    latest: bytes
    zoned: bool | None

    @classmethod
    def of(cls, state: TimedState) -> Self:
        return cls(
            moments=_bytes(state.moments.memory),
            times=_bytes(state.times),
            latest=_bytes(state.latest),
            zoned=state.zoned,
        )

    def restore(self, features: int) -> TimedState:
        moments = _moments("moments", self.moments, features)
        times = _array("times", self.times, _FLOATS, 2, features)
        latest = _array("latest", self.latest, _FLOATS, 2, 1)[:, 0]
        return TimedState(moments, times, latest, self.zoned)


class _BatchArrays(Stored):
    """The fields of `BatchState`."""

    means: bytes
    variances: bytes
    open: bytes
    open_rows: int
    blocks: int

    @classmethod
    def of(cls, state: BatchState) -> Self:
        return cls(
            means=_bytes(state.means.memory),
            variances=_bytes(state.variances.memory),
            open=_bytes(state.open.memory),
            open_rows=state.open_rows,
            blocks=state.blocks,
        )

    def restore(self, features: int) -> BatchState:
        return BatchState(
            _moments("means", self.means, features),
            _moments("variances", self.variances, features),
            _moments("open", self.open, features),
            self.open_rows,
            self.blocks,
        )


_ARRAYS: Final[dict[type, type[StoredArrays]]] = {
    Welford: _WelfordArrays,
    Exact: _ExactArrays,
    BatchEMA: _BatchArrays,
}


def _bytes(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _array(
    name: str, content: bytes, dtype: np.dtype[Any], rows: int, features: int
) -> NDArray[Any]:
    """Return a read-only array of shape (rows, features)."""
    if len(content) != dtype.itemsize * rows * features:
        raise SnapshotError(
            f"{name} has {len(content):,} bytes, but {features:,} features have "
            f"{dtype.itemsize * rows * features:,}"
        )
    array = np.frombuffer(content, dtype).reshape(rows, features)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _moments(name: str, content: bytes, features: int) -> Moments:
    return Moments.sealed(Moments(_array(name, content, _INTS, _MOMENT_ROWS, features)))


def _limbs(name: str, content: bytes, features: int) -> Ints:
    width = _INTS.itemsize * features
    rows = len(content) // width if width else 0
    return _array(name, content, _INTS, rows, features)


def _trimmed(limbs: Ints) -> tuple[int, Ints]:
    """Return how many limbs are left out below, and the limbs that are left."""
    # A limb that repeats the sign of the one below adds nothing.
    needed = np.flatnonzero((limbs[1:] != limbs[:-1] >> 63).any(axis=1))
    end = int(needed[-1]) + 2 if len(needed) else 1
    used = np.flatnonzero(limbs[:end].any(axis=1))
    start = int(used[0]) if len(used) else end
    return start, limbs[start:end]


def _extend(name: str, limbs: Ints, start: int, kept: Ints) -> None:
    """Set all limbs from those that `_trimmed` kept."""
    end = start + len(kept)
    if start < 0 or end > len(limbs):
        raise SnapshotError(f"{name} has limbs from {start} to {end} of {len(limbs)}")
    limbs[start:end] = kept
    if len(kept):
        limbs[end:] = kept[-1] >> 63
