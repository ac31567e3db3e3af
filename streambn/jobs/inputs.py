"""What all jobs over files have in common: how inputs are read, and what is said of bad ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streambn.errors import StreamBNError
from streambn.io import Stamp
from streambn.io.sources import Source
from streambn.jobs.report import Skipped

__all__ = ["ReadOptions", "check_unchanged", "left_out", "located"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How inputs are to be read.

    Attributes
    ----------
    csv_types : mapping of str to pyarrow.DataType
        Types of CSV columns that are not to be inferred.
    threads : int
    skipping : bool
        Whether what is damaged is left out, instead of ending the job.
    """

    csv_types: Mapping[str, Any]
    threads: int = 1
    skipping: bool = False


def check_unchanged(source: Source, stamp: Stamp | None) -> None:
    """Refuse what was read of a file that was written to meanwhile.

    Parameters
    ----------
    source : Source
    stamp : Stamp or None
        The file's, when it was opened; None: it is a pipe.
    """
    if stamp is None:
        return
    try:
        same = source.stamp() == stamp
    except (OSError, StreamBNError):
        same = False
    if not same:
        raise StreamBNError(
            f"{source.name} changed, or went away, while it was read: what was read of it is of no "
            "use; run again when it is whole"
        )


@contextlib.contextmanager
def located(name: str, where: str = "") -> Iterator[None]:
    """Say in which file, and where in it, the library met what it complains about."""
    try:
        yield
    except StreamBNError as error:
        if str(error).startswith(name):
            raise
        raise type(error)(f"{name}{where and ' '}{where}: {error}") from error


def left_out(name: str, where: str, error: Exception) -> Skipped:
    """Say what is left out, and why."""
    return Skipped(name, where, str(error).removeprefix(f"{name}: "))
