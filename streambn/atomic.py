"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write"]


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` only when the block ends well.

    The bytes go to a temporary file in the same folder (a rename is atomic only
    within one file system), are flushed to the disk, and take the name `path` in
    one step; then the folder itself is flushed, so that the new name survives a
    power cut too. If the block raises, `KeyboardInterrupt` included, the temporary
    file is removed and whatever stood at `path` stays as it was. A symbolic link
    is followed, so it goes on pointing at the file it names.

    Parameters
    ----------
    path : path-like
        The file to create or replace. Its folder must exist.

    Yields
    ------
    file object
        Writable, binary.

    Raises
    ------
    OSError
        What the operating system says: no such folder, no permission, disk full.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(21, "is a directory, not a file", str(path))
    if target.exists() and not target.is_file():
        # A pipe or a device is written to; a rename would put a file in its place.
        with target.open("wb") as file:
            yield file
        return
    prefix = f".{target.name[:40]}."  # the whole may be as long as a name can be
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode(target))
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _mode(target: Path) -> int:
    """Give the mode of the file being replaced, or what a plain `open` would give."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
