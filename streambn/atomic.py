"""Files that appear whole or not at all, one by one or all of a job together."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["Stage", "atomic_write", "staged"]


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
    with staged() as stage, stage.write(path) as file:
        yield file


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """Open a stage on which several files are written, to appear together.

    They take their names when the block ends well, one after the other. If it raises,
    none does, and the folders that were made for them are removed.
    """
    stage = Stage()
    try:
        yield stage
        stage.commit()
    except BaseException:
        stage.abandon()
        raise


class Stage:
    """Files that are written and wait for their names; made by `staged`."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Path, Path]] = []
        self._made: list[Path] = []

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._made += reversed(missing)
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def write(self, path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
        """Open a binary file that waits to replace `path`; see `atomic_write`."""
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
        self._waiting.append((Path(name), target))
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode(target))
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Give the files their names, and make these last."""
        folders = {target.parent for _, target in self._waiting}
        while self._waiting:
            os.replace(*self._waiting[0])
            del self._waiting[0]
        for folder in folders:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def abandon(self) -> None:
        """Remove the files that have no name yet, and the folders made for them."""
        for temporary, _ in self._waiting:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _mode(target: Path) -> int:
    """Give the mode of the file being replaced, or what a plain `open` would give."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
