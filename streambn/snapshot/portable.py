"""Statistics as compact bytes, which one process sends to another.

The bytes are a prefix, a head and a state::

    b"streambn"  version (uint16)  length of the head (uint32)  SHA-256 of head and state
    head     MessagePack: policy, options and columns
    state    MessagePack: the arrays of the policy's state, as little-endian int64 and float64;
             if the head says so, together with metadata, which are JSON

A statistics file is JSON that people can read; see `streambn.snapshot.file`. The bytes hold the
same content, and are written in a tenth of the time and read in a quarter of it. They pass the
same checks, because nothing is known about who wrote them. The states of one job have equal heads,
and a head that was read before is not parsed again.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Any, Final, Literal, NamedTuple

import msgspec

from streambn.arrow import Binding, Leaf, LeftOut
from streambn.errors import InvalidValueError, SnapshotError, StreamBNError
from streambn.snapshot.arrays import StoredArrays, arrays_of
from streambn.snapshot.base import Stored
from streambn.snapshot.body import StoredOptions, attach_state, check_leaves, saved_columns
from streambn.snapshot.file import Snapshot, shorten
from streambn.snapshot.policies import StoredPolicy, store
from streambn.statistics import Statistics

__all__ = ["from_bytes", "to_bytes"]

_MAGIC: Final = b"streambn"
# Bytes get the lowest version that can express them, because older programs read that one.
# Version 2 added min_count; 3 metadata.
_VERSION: Final = 3
_MIN_COUNT_VERSION: Final = 2
_PREFIX: Final = struct.Struct("<8sHI32s")
_CACHED_HEAD: Final = 2**16  # bytes; the cache keeps no longer head alive


class _StoredHead(Stored):
    """All but the state."""

    kind: Literal["normalizer", "frozen"]
    policy: StoredPolicy
    options: StoredOptions
    columns: tuple[str, ...] | None
    leaves: tuple[Leaf, ...] | None
    exclude: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    annotated: bool = False


class _Head(NamedTuple):
    """A head that was read: statistics without a state, and the stored form of their state."""

    statistics: Statistics
    frozen: bool
    annotated: bool
    arrays: type[StoredArrays]


class _Annotated(Stored):
    """A state and the metadata beside it. Before any data was seen, `state` is empty."""

    note: bytes
    state: bytes = b""


def to_bytes(statistics: Statistics, *, frozen: bool, note: dict[str, Any] | None = None) -> bytes:
    """Return statistics as bytes, with a note as in `Snapshot`.

    Raises
    ------
    SnapshotError
        The policy is not one of streambn's own, or a function is to choose the columns and has
        seen no data.
    """
    binding, state = statistics.binding, statistics.state
    head = _StoredHead(
        kind="frozen" if frozen else "normalizer",
        policy=store(statistics.policy, None),
        options=StoredOptions.of(statistics.options),
        columns=saved_columns(statistics),
        leaves=None if binding is None else binding.leaves,
        exclude=statistics.exclude,
        left_out=statistics.left_out,
        annotated=note is not None,
    )
    first = msgspec.msgpack.encode(head, order="deterministic")
    second = b""
    if state is not None:
        second = msgspec.msgpack.encode(arrays_of(statistics.policy).of(state))
    version = _MIN_COUNT_VERSION if statistics.options.min_count else 1
    if note is not None:
        version = _VERSION
        text = msgspec.json.encode(note, order="deterministic")
        second = msgspec.msgpack.encode(_Annotated(note=text, state=second))
    return b"".join(
        (_PREFIX.pack(_MAGIC, version, len(first), _digest(first, second)), first, second)
    )


def from_bytes(content: bytes | bytearray | memoryview) -> Snapshot:
    """Return the statistics that `to_bytes` wrote.

    Raises
    ------
    SnapshotError
        The bytes are foreign, damaged or from a newer version; the message says which.
    InvalidValueError
        `content` is not bytes.
    """
    try:
        view = memoryview(content).cast("B")
    except TypeError as error:
        raise InvalidValueError(
            f"content must be bytes that to_bytes() returned, got {type(content).__name__}.",
            argument="content",
        ) from error
    if view[: len(_MAGIC)].tobytes() != _MAGIC:
        raise SnapshotError(
            "the bytes are not statistics of streambn: they do not begin as to_bytes() begins them."
        )
    try:
        return _read(view)
    except (msgspec.MsgspecError, StreamBNError, OverflowError, struct.error) as error:
        if isinstance(error, _NewerError):
            raise SnapshotError(str(error)) from None
        problem = shorten(str(error))
    except RecursionError:
        problem = "they are nested too deeply"
    raise SnapshotError(f"the bytes of the statistics are damaged: {problem}. Send them again.")


class _NewerError(SnapshotError):
    """The bytes are intact, but a newer streambn wrote them."""


def _read(view: memoryview) -> Snapshot:
    _, version, length, digest = _PREFIX.unpack_from(view)
    if version > _VERSION:
        raise _NewerError(
            f"the bytes have version {version} of a newer streambn; this one reads versions up to "
            f"{_VERSION}. Install the same version on all machines."
        )
    start = _PREFIX.size
    first, second = view[start : start + length], view[start + length :]
    if version < 1 or len(first) < length or _digest(first, second) != digest:
        raise SnapshotError("their content does not match their checksum")
    head = _head(bytes(first)) if length <= _CACHED_HEAD else _parse_head(bytes(first))
    statistics, note = head.statistics, None
    if head.annotated:
        annotated = msgspec.msgpack.decode(second, type=_Annotated)
        second = memoryview(annotated.state)
        note = msgspec.json.decode(annotated.note, type=dict[str, Any])
    if statistics.binding is None:
        if head.frozen or second:
            raise SnapshotError("there are no columns, but a state or a frozen kind")
        return Snapshot(statistics, frozen=False, note=note)
    arrays = msgspec.msgpack.decode(second, type=head.arrays)
    return Snapshot(attach_state(statistics, arrays.restore, len(view)), head.frozen, note)


def _parse_head(content: bytes) -> _Head:
    stored = msgspec.msgpack.decode(content, type=_StoredHead)
    if stored.policy.state is not None:
        raise SnapshotError("the head has a state")
    options, policy = stored.options.restore(), stored.policy.policy()
    union = options.schema == "union"
    binding = None
    if stored.leaves is not None:
        check_leaves(stored.leaves)
        binding = Binding(stored.leaves, union, union)
    statistics = Statistics(
        policy,
        options,
        stored.columns,
        binding,
        exclude=stored.exclude,
        left_out=stored.left_out,
    )
    return _Head(statistics, stored.kind == "frozen", stored.annotated, arrays_of(policy))


_head = functools.lru_cache(maxsize=16)(_parse_head)


def _digest(head: bytes | memoryview, state: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(state)
    return digest.digest()
