"""Normalizers from files and from bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from streambn._lazy import lazy_module
from streambn.normalizer import FrozenNormalizer, Normalizer

if TYPE_CHECKING:
    from streambn import io, snapshot
else:
    io = lazy_module("streambn.io")
    snapshot = lazy_module("streambn.snapshot")

__all__ = ["from_bytes", "load"]


def load(path: str | os.PathLike[str]) -> Normalizer | FrozenNormalizer:
    """Read a statistics file.

    Parameters
    ----------
    path : str or path object
        A file. A string may also be a URL.

    Returns
    -------
    Normalizer or FrozenNormalizer
        The kind that was saved.

    Raises
    ------
    SnapshotError
        The file is damaged, foreign or from a newer version of streambn.
    OSError
        The file cannot be read.
    """
    location = io.locate(path)
    # A foreign file may be large. One that does not begin like JSON is not read to its end.
    return _restored(snapshot.decode(location.read_bytes(beginning=b"{"), location.label))


def from_bytes(content: bytes | bytearray | memoryview) -> Normalizer | FrozenNormalizer:
    """Read the bytes that `to_bytes` returned.

    Parameters
    ----------
    content : bytes-like

    Returns
    -------
    Normalizer or FrozenNormalizer
        The kind that was written.

    Raises
    ------
    SnapshotError
        The bytes are damaged, foreign or from a newer version of streambn. They are checked as a
        file is: a state that no data could have given is refused.
    InvalidValueError
        `content` is not bytes.
    """
    return _restored(snapshot.from_bytes(content))


def _restored(saved: snapshot.Snapshot) -> Normalizer | FrozenNormalizer:
    kind = FrozenNormalizer if saved.frozen else Normalizer
    return kind.from_statistics(saved.statistics, saved.note)
