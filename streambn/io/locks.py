"""Locks that keep two jobs from writing the same files.

A job holds the operating system's lock on a hidden file beside each file that it writes. The
system releases the lock when the process ends, killed or not. The hidden file itself locks
nothing: the next job reuses one that a killed job left. The locks hold between processes of one
machine, and between machines if their shared file system has locks. Object stores have none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from streambn._lazy import lazy_module
from streambn.errors import StreamBNError
from streambn.io.atomic import new_folders
from streambn.io.locations import Location

filelock = lazy_module("filelock")

__all__ = ["lock"]

# Long enough for a second attempt, which is needed if another job has just removed its lock file.
_TIMEOUT_SECONDS = 0.1
_POLL_SECONDS = 0.01


@contextlib.contextmanager
def lock(*files: Location) -> Iterator[None]:
    """Keep other jobs from writing these files while the block runs.

    A file system without locks, or one where the lock file cannot be created, is used without.

    Parameters
    ----------
    files : Location
        The files need not exist. Missing folders are created, and removed at the end if they
        are still empty. Files in object stores are not locked.

    Raises
    ------
    StreamBNError
        Another job holds the lock of one of the files, or its lock file belongs to another user.
    """
    with contextlib.ExitStack() as stack:
        for file in files:
            if file.local is not None:
                stack.enter_context(_locked(file))
        yield


@contextlib.contextmanager
def _locked(file: Location) -> Iterator[None]:
    target = Path(file.identity)
    path = target.with_name(f".{target.name}.lock")
    # filelock's fallback is a file that would outlive a killed job. Other users may open the file,
    # so the lock holds for them too.
    system_lock = filelock.FileLock(
        path,
        _TIMEOUT_SECONDS,
        0o666,
        thread_local=False,  # another thread may release it
        poll_interval=_POLL_SECONDS,
        fallback_to_soft=False,
    )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(new_folders(path.parent))
            stack.enter_context(system_lock)
            stack.callback(_remove, path)  # before the release: afterwards another job may own it
        except filelock.Timeout:
            raise StreamBNError(
                f"another job is writing {file.label}: wait until it ends, or write elsewhere"
            ) from None
        except PermissionError as error:
            if os.path.lexists(path):
                raise StreamBNError(
                    f"another user's {path} keeps this job from writing {file.label}: remove it if "
                    "no job writes there, or write elsewhere"
                ) from error
        except OSError:
            pass
        yield


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
