"""Files that appear whole or not at all, one by one or all of a job together."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["Stage", "atomic_write", "remove_leftovers", "staged"]

# Small writes are gathered up to this size; a larger one goes to the system as it is.
_BUFFER = 1 << 20
# After so many bytes the system is asked to begin writing them to the disk.
_RANGE = 8 << 20
# The mask of new files' modes can be read only by setting it, for all threads at once.
_mask_set = threading.Lock()


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
def staged(*, fsync: bool = True) -> Iterator[Stage]:
    """Open a stage on which several files are written, to appear together.

    They take their names when the block ends well, one after the other. If it raises,
    none does, and the folders that were made for them are removed.

    Parameters
    ----------
    fsync : bool
        Whether to wait until files and folders are on the disk. Without, they are whole
        for every reader, and after a crash of the program; a power cut in the seconds
        that follow may still lose them.
    """
    stage = Stage(fsync=fsync)
    try:
        yield stage
        stage.commit()
    except BaseException:
        stage.abandon()
        raise


class Stage:
    """Files that are written and wait for their names; made by `staged`."""

    def __init__(self, *, fsync: bool = True) -> None:
        self._fsync = fsync
        self._waiting: list[tuple[Path, Path]] = []
        self._made: list[Path] = []

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._made += reversed(missing)
        with _mask_set:
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
        try:
            handle, name = tempfile.mkstemp(".tmp", _prefix(target), target.parent)
        except OSError as error:
            error.filename = str(path)  # what was asked for, not what it is called meanwhile
            raise
        self._waiting.append((Path(name), target))
        raw = _Draining(handle) if self._fsync else io.FileIO(handle, "wb")
        with io.BufferedWriter(raw, _BUFFER) as file:
            yield file
            file.flush()
            os.fchmod(handle, _mode(target))
            if self._fsync:
                os.fsync(handle)

    def commit(self) -> None:
        """Give the files their names, and make these last."""
        folders = {target.parent for _, target in self._waiting}
        while self._waiting:
            os.replace(*self._waiting[0])
            del self._waiting[0]
        for folder in folders if self._fsync else ():
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


class _Draining(io.FileIO):
    """A file that the system begins to write to the disk while it is still being written.

    Left to itself, the system keeps new pages in memory for half a minute before it begins, and
    a wait for the disk would be for all of them. The advice that the pages are not needed has
    their writing begun at once, without waiting for its end: pages not yet on the disk stay in
    memory. A later fsync then finds most of its work done. It is not for nothing: files that
    nobody waits for are written in a tenth less of the time without it.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle, "wb")
        self._written = self._begun = 0

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._written += count
        if self._written - self._begun >= _RANGE:
            self.drain()
        return count

    def drain(self) -> None:
        """Have the system begin to write what it was given since the last time."""
        if hasattr(os, "posix_fadvise") and self._written > self._begun:
            length = self._written - self._begun
            with contextlib.suppress(OSError):  # it is advice, and not every file system's
                os.posix_fadvise(self.fileno(), self._begun, length, os.POSIX_FADV_DONTNEED)
        self._begun = self._written


def remove_leftovers(*paths: str | os.PathLike[str]) -> None:
    """Remove what a killed process left behind that had begun to write these files."""
    begun: dict[Path, set[str]] = {}
    for path in paths:
        target = Path(os.path.realpath(path))
        begun.setdefault(target.parent, set()).add(_prefix(target))
    for folder, prefixes in begun.items():  # each is listed once, however many files it has
        with contextlib.suppress(FileNotFoundError):
            for file in list(folder.iterdir()):
                left = re.fullmatch(r"(\..*\.)\w{8}\.tmp", file.name, re.DOTALL)
                if left and left[1] in prefixes:
                    file.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{target.name[:40]}."  # the whole may be as long as a name can be


def _mode(target: Path) -> int:
    """Give the mode of the file being replaced, or what a plain `open` would give."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        with _mask_set:
            mask = os.umask(0)
            os.umask(mask)
        return 0o666 & ~mask
