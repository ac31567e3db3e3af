"""The result of a job as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Report", "Skipped"]


class Skipped(NamedTuple):
    """A part of an input that was damaged and left out: which file, where in it, and why."""

    file: str
    where: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job did, for programs.

    Attributes
    ----------
    command : str
    rows, bytes, files : int
        What was read, an earlier run's included if this one went on from it.
    seconds : float
        This run's.
    fingerprint : str or None
        Of the statistics.
    output : str
        ``"-"``: standard output.
    skipped : sequence of Skipped
    resumed : bool
        Whether this run went on from an earlier one.
    """

    command: str
    rows: int
    bytes: int
    seconds: float
    files: int
    fingerprint: str | None
    output: str
    skipped: Sequence[Skipped] = ()
    resumed: bool = False

    def to_json(self) -> str:
        """Give one line of JSON, in ASCII."""
        document = {
            "command": self.command,
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "files": self.files,
            "fingerprint": self.fingerprint,
            "output": self.output,
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "resumed": self.resumed,
        }
        return json.dumps(document, allow_nan=False)
