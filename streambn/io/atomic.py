"""Local files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["atomic_write", "check_writable", "new_folders", "remove_leftovers"]

# Smaller writes are gathered into buffers of this many bytes.
_BUFFER = 1 << 20
# The number of bytes after which the system is asked to start writing them to the disk.
_RANGE = 8 << 20


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, fsync: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an error.

    The bytes go to a temporary file in the same folder, which only its owner can read. At the
    end of the block the temporary file is renamed to `path`, in one step. If the block raises,
    `KeyboardInterrupt` included, the temporary file is removed and the old file stays.
    Symbolic links are followed. A pipe or a device is written to, never replaced.

    Parameters
    ----------
    path : path-like
        The file to create or replace. Its folder must exist. A replaced file keeps its mode.
    fsync : bool
        Whether to flush the file before the rename, and the folder after it, to the disk.
        Without it, the file survives a crash of the program, but a power cut within the next
        seconds may lose it.

    Yields
    ------
    file object
        Writable, binary.

    Raises
    ------
    OSError
        The folder does not exist, it or the file cannot be written to, or the disk is full.
    """
    # Each call of the system counts where a job writes many small files.
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)
    replaced = _status(target)
    if replaced is not None and stat.S_ISDIR(replaced.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if replaced is not None and not stat.S_ISREG(replaced.st_mode):
        with target.open("wb") as file:
            yield file
        return
    if replaced is not None and not os.access(target, os.W_OK):  # a rename would not mind
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = target.with_name(f"{_prefix(target)}{os.urandom(4).hex()}.tmp")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        error.filename = str(path)  # the user does not know the temporary name
        raise
    try:
        raw = _WritebackFile(handle, "wb") if fsync else io.FileIO(handle, "wb")
        with io.BufferedWriter(raw, _BUFFER) as file:
            mode = (replaced or os.fstat(handle)).st_mode & 0o777
            os.fchmod(handle, 0o600)
            yield file
            file.flush()
            os.fchmod(handle, mode)
            if fsync:
                os.fsync(handle)
        _rename(temporary, target, str(path))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if fsync:  # a rename survives a power cut once the folder is on the disk
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(path: str) -> None:
    """Raise the error that a file could not be written, before the work that its content takes.

    Missing folders above it would be created.
    """
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    folder = os.path.dirname(os.path.realpath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(folder) and not os.access(folder, os.W_OK | os.X_OK):
        probe = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")
        try:  # the system knows the reason
            os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            error.filename = path
            raise
        os.unlink(probe)


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a file; None if there is none."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):  # creating it raises the error
        return None


def _rename(temporary: Path, target: Path, name: str) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        error.filename, error.filename2 = name, None
        raise


class _WritebackFile(io.FileIO):
    """A file that the system writes to the disk while the program still adds to it.

    By default Linux keeps new pages in memory for up to 30 seconds, and a final fsync then
    waits for all of them. Advice that the pages are not needed makes it write them at once,
    without waiting. Files without fsync do without the advice: it costs them a tenth of their
    time.
    """

    _waiting = 0

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._waiting += count
        if self._waiting >= _RANGE and hasattr(os, "posix_fadvise"):
            start = self.tell() - self._waiting
            with contextlib.suppress(OSError):  # some file systems take no advice
                os.posix_fadvise(self.fileno(), start, self._waiting, os.POSIX_FADV_DONTNEED)
            self._waiting = 0
        return count


@contextlib.contextmanager
def new_folders(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; at the end of the block, remove new ones that are empty."""
    if folder.is_dir():  # as for most files, and a job writes many
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_leftovers(*paths: str | os.PathLike[str]) -> None:
    """Remove the temporary files that a killed process left when it wrote these files.

    Those of another user stay if only that user may remove them.
    """
    prefixes: dict[Path, set[str]] = {}
    for path in paths:
        target = Path(os.path.realpath(path))
        prefixes.setdefault(target.parent, set()).add(_prefix(target))
    for folder, wanted in prefixes.items():  # lists each folder once, however many files it has
        with contextlib.suppress(FileNotFoundError):
            for file in list(folder.iterdir()):
                match = re.fullmatch(r"(\..*\.)\w{8}\.tmp", file.name, re.DOTALL)
                if match and match[1] in wanted:
                    with contextlib.suppress(FileNotFoundError, PermissionError):
                        file.unlink()


def _prefix(target: Path) -> str:
    """Return the start of a temporary name; it is cut because names have at most 255 bytes."""
    return f".{target.name[:40]}."
