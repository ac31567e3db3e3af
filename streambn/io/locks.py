"""Jobs kept apart that would write the same files: a lock beside what only one may write.

The lock is the system's, on a hidden file, and ends with the process that holds it, however
that ends: the file that a killed process leaves behind locks nothing, and goes with the next
job. It is advice between jobs, of one machine or of several that share a file system which
has locks. Stores elsewhere have none, so there nobody is kept apart.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from streambn.errors import StreamBNError
from streambn.io.atomic import Stage
from streambn.io.locations import Location

__all__ = ["alone"]


@contextlib.contextmanager
def alone(*files: Location) -> Iterator[None]:
    """Be the only job that writes these files, as long as the block runs.

    Parameters
    ----------
    files : Location
        Each is locked by a file beside it, whether it is there or not. Folders above it that
        are missing are made, and removed at the end if nothing came into them.

    Raises
    ------
    StreamBNError
        Another job is at it.
    """
    with contextlib.ExitStack() as stack:
        for file in files:
            if file.local is not None:
                stack.enter_context(_locked(file))
        yield


@contextlib.contextmanager
def _locked(file: Location) -> Iterator[None]:
    written = Path(file.identity)
    lock = written.with_name(f".{written.name}.lock")
    folders = Stage(fsync=False)
    handle = None
    try:
        try:
            folders.make_folder(lock.parent)
            handle = _taken(lock)
        except BlockingIOError:
            raise StreamBNError(
                f"{file.text} is being written by another job: wait until that has ended, or "
                "write somewhere else"
            ) from None
        except OSError:
            # Either nothing can be written there at all, which is told when it is tried, or
            # the file system has no locks.
            pass
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                lock.unlink()  # before it is let go: later it may be another job's
            os.close(handle)
        folders.abandon()


def _taken(lock: Path) -> int | None:
    """Lock a file, which is made if need be; None: this system has no such locks."""
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:
        return None
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The job before may have removed it since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(lock), os.fstat(handle)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
