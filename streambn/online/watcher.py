"""Serves the newest statistics of a file that another process replaces."""

from __future__ import annotations

import logging
import math
import numbers
import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from streambn._lazy import lazy_module
from streambn._messages import listed
from streambn.errors import InvalidValueError, SchemaError, StreamBNError
from streambn.normalizer import FrozenNormalizer
from streambn.policies import nanoseconds
from streambn.stored import load

# `RowNormalizer` needs no files.
if TYPE_CHECKING:
    from streambn import io
else:
    io = lazy_module("streambn.io")

__all__ = ["Watcher"]

_log = logging.getLogger("streambn")

# Two versions of a file that are written within one tick of the file system's clock may look
# alike. A file that is younger than this, in seconds, is read again at the next look.
_YOUNG: Final = 2.0


class Watcher:
    """Serves the newest statistics of a file that another process replaces.

    A service that normalizes live data then follows a job that learns, without a restart.

    Parameters
    ----------
    path : str or path object
        A statistics file. `Normalizer.save` replaces it in one step, whatever its readers do. A
        string may also be a URL.
    every : str, timedelta or float
        How often to look at the file: a duration such as ``"1s"``, or a number of seconds. 0: at
        every access.

    Raises
    ------
    SnapshotError, OSError
        As for `streambn.load`.
    NotFittedError
        The statistics are live and have seen no data.
    InvalidValueError
        `every` is not a duration.

    Notes
    -----
    There is no thread in the background. The access to `frozen` that finds `every` elapsed looks
    at the file, and reads it if it was replaced. Other threads get the former statistics
    meanwhile.

    A file that is missing or damaged, or that has other columns, does not replace statistics: the
    watcher keeps those that it has, and the logger ``streambn`` warns once for each such file.
    With ``schema="union"`` there may be further columns. A reload is logged at level INFO.

    Examples
    --------
    >>> import pyarrow as pa, streambn as sbn, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/stats.json"
    >>> norm = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]}))
    >>> norm.save(path)
    >>> watcher = sbn.Watcher(path, every=0)
    >>> watcher.frozen.transform_one({"x": 4.0})
    {'x': 2.0}
    >>> norm.update(pa.table({"x": [5.0, 7.0]})).save(path)
    >>> watcher.frozen.transform_one({"x": 4.0})
    {'x': 0.0}
    >>> folder.cleanup()
    """

    def __init__(
        self, path: str | os.PathLike[str], *, every: str | timedelta | float = "1s"
    ) -> None:
        self._path, self._interval = path, every
        self._every = _seconds(every)
        self._location = io.locate(path)
        self._lock = threading.Lock()
        self._seen: _Version | None = _version(self._location)  # None: read the file again
        self._warned: Any = None  # the last problem
        self._frozen = load(path).freeze()
        self._due = time.monotonic() + self._every

    @property
    def frozen(self) -> FrozenNormalizer:
        """The newest statistics, frozen. Use one result for all rows of one request."""
        if time.monotonic() >= self._due and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._due = time.monotonic() + self._every
                self._lock.release()
        return self._frozen

    def _look(self) -> None:
        """Read the file if it was replaced."""
        version = None
        try:
            # Before the file is read: a later version is then found by the next look.
            version = _version(self._location)
            if self._seen == version._replace(young=False):
                return
            frozen = load(self._path).freeze()
            _check_same_columns(self._frozen, frozen)
        except (StreamBNError, OSError) as error:
            problem = version and version.identity, str(error)
            if problem != self._warned:
                self._warned = problem
                text = "%s does not replace the statistics in use: %s"
                _log.warning(text, self._location.label, error)
            # What the system or a network refuses, it may grant the next time.
            self._seen = version if isinstance(error, StreamBNError) else None
            return
        self._seen, self._warned = version, None
        if frozen == self._frozen and frozen.metadata == self._frozen.metadata:
            return
        self._frozen = frozen
        _log.info("reloaded the statistics of %s", self._location.label)

    def __reduce__(self) -> tuple[Any, ...]:
        return _watcher, (self._path, self._interval)

    def __repr__(self) -> str:
        return f"Watcher({self._location.label!r}, every={self._interval!r})"


def _watcher(path: Any, every: Any) -> Watcher:
    return Watcher(path, every=every)


def _seconds(every: Any) -> float:
    if isinstance(every, numbers.Real) and not isinstance(every, bool):
        seconds = float(every)
    else:
        length = nanoseconds(every)
        seconds = math.nan if length is None else length / 1e9
    if not 0 <= seconds < math.inf:
        raise InvalidValueError(
            "every must be a duration, such as '1s' or '500ms', or a number of seconds >= 0, got "
            f"{every!r}.",
            argument="every",
        )
    return seconds


class _Version(NamedTuple):
    """What tells the versions of a file apart.

    Attributes
    ----------
    identity : object
    young : bool
        Whether the file is so young that its next version may have the same identity.
    """

    identity: Any
    young: bool


def _version(location: io.Location) -> _Version:
    if location.local is None:
        stamp = location.stamp()
        return _Version(stamp, stamp.etag is None and _is_young(stamp.modified))
    status = os.stat(location.local)
    times = status.st_mtime_ns, status.st_ctime_ns
    return _Version((status.st_ino, status.st_size, *times), _is_young(max(times)))


def _is_young(modified: int | None) -> bool:
    return modified is not None and abs(time.time() - modified / 1e9) < _YOUNG


def _check_same_columns(before: FrozenNormalizer, after: FrozenNormalizer) -> None:
    """Raise a SchemaError unless data that fit the statistics before fit those after."""
    ours, theirs = (x.statistics.require_binding().leaves for x in (before, after))
    known = {leaf.name for leaf in ours}
    shapes = {(leaf.name, leaf.size) for leaf in theirs}
    # A column that had no type may have one now, or be left out.
    lost = [x.name for x in ours if x.typed and (x.name, x.size) not in shapes]
    if lost:
        raise SchemaError(f"it lacks {listed(map(repr, lost))}, which the statistics in use have.")
    new = [x.name for x in theirs if x.name not in known]
    if new and after.options.schema != "union":
        raise SchemaError(f"it has {listed(map(repr, new))}, which the statistics in use lack.")
