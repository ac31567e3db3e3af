"""The result of a job as data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streambn._credentials import redact_url
from streambn._messages import escape_bytes, shown
from streambn.arrow import LeftOut
from streambn.errors import StreamBNError
from streambn.io import KeptText
from streambn.jobs.progress import Progress
from streambn.normalizer import FrozenNormalizer
from streambn.statistics import Statistics

__all__ = ["Report", "Skipped"]


class Skipped(NamedTuple):
    """A damaged part of an input that a job left out."""

    file: str  # its name, in which bytes that are not UTF-8 are escaped
    where: str  # such as "in row group 3"; "" for the whole file
    why: str

    @classmethod
    def of(cls, file: str, where: str, error: Exception) -> Skipped:
        """Describe the part that an error occurred in."""
        why = error.message if isinstance(error, StreamBNError) else str(error)
        why = getattr(error, "strerror", None) or why
        return cls(escape_bytes(file), where, shown(why))


class Report(NamedTuple):
    """What a job did.

    Attributes
    ----------
    rows, bytes, files : int
        Input that was read, by an earlier run too if this one resumed it.
    seconds : float
        Duration of this run.
    columns : int
        Number of columns that have statistics.
    fingerprint : str or None
        Fingerprint of the statistics; None if there are none.
    output : str
        The output as the caller named it, without credentials; ``"-"`` is standard output.
    skipped : sequence of Skipped
        Damaged parts of inputs that were left out, in the order of the inputs.
    resumed : bool
        Whether this run resumed an earlier one.
    left_out : sequence of LeftOut
        Columns that have no statistics although nobody excluded them.
    kept_text : sequence of KeptText
        CSV columns that passed through as text into a format with types, because a value would lose
        something in another type.
    """

    rows: int
    bytes: int
    seconds: float
    files: int
    columns: int
    fingerprint: str | None
    output: str
    skipped: Sequence[Skipped] = ()
    resumed: bool = False
    left_out: Sequence[LeftOut] = ()
    kept_text: Sequence[KeptText] = ()

    @classmethod
    def of(
        cls,
        output: str,
        statistics: Statistics,
        progress: Progress,
        skipped: Sequence[Skipped] = (),
        *,
        resumed: bool = False,
        kept_text: Iterable[KeptText] = (),
    ) -> Report:
        """Return the report of a job that has ended."""
        binding, fingerprint = statistics.binding, None
        if binding is not None:
            fingerprint = FrozenNormalizer.from_statistics(statistics).fingerprint
        return cls(
            output=redact_url(output),
            rows=progress.rows,
            bytes=progress.bytes,
            seconds=progress.seconds,
            files=progress.files,
            columns=0 if binding is None else len(binding.leaves),
            fingerprint=fingerprint,
            skipped=skipped,
            resumed=resumed,
            left_out=statistics.left_out,
            kept_text=[*kept_text],
        )

    def with_skipped(self, skipped: Sequence[Skipped]) -> Report:
        """Return the same report with parts that were left out before the job."""
        return self._replace(skipped=[*skipped, *self.skipped])

    def to_json(self, command: str) -> str:
        """Return one line of ASCII JSON for the command that ran the job."""
        document = {"command": command, **self._asdict()}
        document["output"] = escape_bytes(self.output)
        document["seconds"] = round(self.seconds, 3)
        document["skipped"] = [part._asdict() for part in self.skipped]
        if self.kept_text:
            document["kept_text"] = [kept._asdict() for kept in self.kept_text]
        else:
            del document["kept_text"]
        document["left_out"] = [column._asdict() for column in self.left_out]
        return json.dumps(document, allow_nan=False)
