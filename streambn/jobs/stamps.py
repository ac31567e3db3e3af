"""Stamps of the inputs of a job, by which it notices that an input changed while it ran.

A stamp has the size, the modification time, and the ETag of a store. A file that is replaced by
one of the same size and modification time, as by ``cp -p`` or within the resolution of the
clock of its file system, has the same stamp. The time of the last change of the inode would
tell, but a hard link or a new mode sets it too, and no file may fail a job for those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from streambn.errors import StreamBNError
from streambn.io import Source, Stamp, prefetch

__all__ = ["Learned", "Stamps", "read_stamps", "stamps_of"]

# To ask a store for a stamp is mostly a wait.
_REMOTE_THREADS = 16

# Stamps of sources, in order; None for a pipe, and for a file that cannot be found.
Stamps = tuple[Stamp | None, ...]
# Stamps of the sources that statistics were learned from, by path.
Learned = Mapping[str, Stamp | None]


def stamps_of(sources: Sequence[Source], learned: Learned | None = None) -> Stamps:
    """Return the stamps of sources that are about to be read.

    Parameters
    ----------
    sources : sequence of Source
    learned : mapping of str to Stamp or None, optional
        Their stamps from before the statistics were learned.

    Raises
    ------
    StreamBNError
        A source has changed since.
    """
    stamps = tuple(map(_stamp, sources))
    for source, stamp in zip(sources, stamps, strict=True):
        if learned is not None and stamp != learned.get(source.path):
            raise StreamBNError(
                f"{source.name} changed or was removed after it was learned, so the statistics do "
                "not fit its data. Start again when the inputs are complete."
            )
    return stamps


def read_stamps(sources: Sequence[Source]) -> Stamps:
    """Return the stamps of many sources, of which several are asked for at a time if it helps."""
    workers = _REMOTE_THREADS if any(source.remote for source in sources) else 1
    asked = prefetch(
        sources,
        lambda source: [_stamp(source)],
        workers=min(workers, len(sources)),
        capacity=len(sources) + 1,
        size=lambda _: 1,
    )
    return tuple(stamp for _, stamps in asked for stamp in stamps)


def _stamp(source: Source) -> Stamp | None:
    # An error here comes again when the source is read.
    with contextlib.suppress(StreamBNError, OSError):
        return source.stamp() if source.rereadable else None
    return None
