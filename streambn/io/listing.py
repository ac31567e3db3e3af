"""The files of a folder, or of a pattern with wildcards, in the order of their paths."""

from __future__ import annotations

import errno
import fnmatch
import glob as local_glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from streambn.errors import StreamBNError
from streambn.io.locations import Location, mode_of

__all__ = ["glob", "walk"]


def walk(
    folder: Location, on_unusable: Callable[[StreamBNError], None] | None = None
) -> Iterator[Location]:
    """Yield the files below a folder, sorted by path.

    Files and folders whose name starts with a dot or an underscore are hidden and skipped, as in
    Hive and Spark. Local links are followed, each folder once on a path.

    Parameters
    ----------
    folder : Location
    on_unusable : callable, optional
        Called with the error of each key in a store that is no relative path below the folder.
        Default: raise the error.
    """
    if folder.local is not None:
        for path in _walk_local(folder.local):
            yield Location(path, path)
        return
    for names in folder.list_files():
        if not any(map(_is_hidden, names)):
            yield from _child(folder, names, on_unusable)


def _child(
    folder: Location, names: Sequence[str], on_unusable: Callable[[StreamBNError], None] | None
) -> Iterator[Location]:
    """Yield the file with these names on its path, or report that there can be none."""
    try:
        yield folder.child("/".join(names))
    except StreamBNError as error:
        if on_unusable is None:
            raise
        on_unusable(error)


def glob(
    pattern: Location, on_unusable: Callable[[StreamBNError], None] | None = None
) -> tuple[Location, list[Location]]:
    """Return the files that match a pattern, sorted by path.

    Parameters
    ----------
    pattern : Location
        ``*``, ``?`` and ``[…]`` match characters of a name, ``**`` matches any number of folders.
        A folder that matches stands for the files that `walk` yields. Hidden files match only
        if a name in the pattern starts with a dot or an underscore.
    on_unusable : callable, optional
        As in `walk`.

    Returns
    -------
    (Location, list of Location)
        The folder above the first wildcard, and the files.
    """
    base = pattern
    while base.is_pattern:
        base = base.parent
    if pattern.local is not None:
        return base, [Location(path, path) for path in _glob_local(pattern.local, base)]
    wanted = pattern.key[len(base.key) :].strip("/").split("/")
    allows_hidden = any(map(_is_hidden, wanted))
    files: list[Location] = []
    for names in base.list_files():
        # The file itself may match, or any folder above it.
        for depth in range(len(names) + (not pattern.ends_in_slash)):
            hidden = any(map(_is_hidden, names[depth:] if allows_hidden else names))
            if not hidden and _matches(names[:depth], wanted):
                files += _child(base, names, on_unusable)
                break
    return base, files


def _glob_local(pattern: str, base: Location) -> Iterator[str]:
    depth = len(Path(base.local or "").parts)
    allows_hidden = any(map(_is_hidden, Path(pattern).parts[depth:]))
    hits = local_glob.glob(pattern, recursive=True)
    _check_folders(pattern, depth)
    for hit in sorted(hits, key=lambda hit: Path(hit).parts):
        if allows_hidden or not any(map(_is_hidden, Path(hit).parts[depth:])):
            yield from _walk_local(hit) if os.path.isdir(hit) else [hit]


def _check_folders(pattern: str, depth: int) -> None:
    """Raise the error of a folder that must not be read, which `glob` takes for an empty one."""
    parts = Path(pattern).parts
    for count in range(max(depth, 1), len(parts)):
        for folder in local_glob.iglob(os.path.join(*parts[:count], ""), recursive=True):
            if not os.access(folder, os.R_OK | os.X_OK):
                name = os.path.dirname(folder)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_")) and name not in {os.curdir, os.pardir}


def _walk_local(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _is_hidden(name):
            continue
        mode = mode_of(path)
        if stat.S_ISDIR(mode):
            yield from _walk_local(path, (*above, real))
        elif stat.S_ISREG(mode):
            yield path


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Match the names on a path as `glob.glob` does, which skips names that start with a dot."""
    if not patterns:
        return not names
    pattern, *rest = patterns
    dotted = bool(names) and names[0].startswith(".")
    if pattern == "**":
        deeper = bool(names) and not dotted and _matches(names[1:], patterns)
        return deeper or _matches(names, rest)
    return (
        bool(names)
        and (not dotted or pattern.startswith("."))
        and fnmatch.fnmatchcase(names[0], pattern)
        and _matches(names[1:], rest)
    )
