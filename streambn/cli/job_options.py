"""The options of the shell that are about files: how they are read, told of and written.

To be imported for ``--help`` too, so nothing here imports Arrow.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from streambn.cli.options import option, parse_csv_types
from streambn.errors import InvalidValueError

if TYPE_CHECKING:
    from streambn.io.locations import Location
    from streambn.io.writers import Encoding
    from streambn.jobs.checkpoint import Interval
    from streambn.jobs.folder import Folder
    from streambn.jobs.inputs import ReadOptions
    from streambn.jobs.operations import ApplyStatistics, LearnAndApply
    from streambn.jobs.plan import Output
    from streambn.jobs.progress import Display

__all__ = [
    "CheckpointOptions",
    "Codec",
    "JobOptions",
    "OnError",
    "ProgressForm",
    "UsingStatistics",
    "WriteOptions",
    "folder_of",
    "parse_interval",
]

# Long enough that writing it costs nothing, short enough that losing it costs little.
_SECONDS = 30.0

_JOB = "Job"
_CHECKPOINT = "Checkpoint"
_OUTPUT = "Output"


class OnError(StrEnum):
    """What to do about damaged input."""

    stop = "stop"
    skip = "skip"


class ProgressForm(StrEnum):
    """How to tell of progress."""

    auto = "auto"
    plain = "plain"
    off = "off"


class Codec(StrEnum):
    """Compression of Parquet."""

    none = "none"
    snappy = "snappy"
    gzip = "gzip"
    brotli = "brotli"
    lz4 = "lz4"
    zstd = "zstd"


class UsingStatistics(StrEnum):
    """By which statistics a batch is normalized that is learned as well."""

    running = "running"
    before = "before"
    batch = "batch"


@dataclass(frozen=True)
class JobOptions:
    """What every job over files can be told."""

    csv_type: Annotated[
        list[str] | None,
        option(
            "Type of a CSV column, instead of what its first rows suggest. Repeatable.",
            panel=_JOB,
            metavar="NAME=TYPE",
        ),
    ] = None
    on_error: Annotated[
        OnError,
        option(
            "What to do about a damaged row group or record batch, the damaged rest of a stream, "
            "or a file with other columns. stop, unless skip is given: left out, counted, listed.",
            panel=_JOB,
        ),
    ] = OnError.stop
    threads: Annotated[
        int | None,
        option(
            "Threads to use; STREAMBN_THREADS or as many as there are cores unless given. Results "
            "do not depend on it.",
            panel=_JOB,
            metavar="N",
        ),
    ] = None
    resume: Annotated[
        bool,
        option("Go on where an earlier run of the same job was stopped.", "--resume", panel=_JOB),
    ] = False
    progress: Annotated[
        ProgressForm,
        option(
            "auto: a bar on a terminal; plain: a line a minute, for logs; off: nothing.",
            panel=_JOB,
        ),
    ] = ProgressForm.auto
    json: Annotated[
        bool,
        option("Print one line of JSON at the end: what was done.", "--json", panel=_JOB),
    ] = False
    quiet: Annotated[
        bool, option("Print nothing to stderr but an error.", "--quiet", "-q", panel=_JOB)
    ] = False

    @property
    def count(self) -> int:
        """The number of threads."""
        if self.threads is not None:
            if self.threads < 1:
                raise InvalidValueError(f"--threads {self.threads}: must be at least 1")
            return self.threads
        asked = os.environ.get("STREAMBN_THREADS", "")
        if asked.isdigit() and int(asked) > 0:
            return int(asked)
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def display(self) -> "Display":
        """Return the display of progress that was chosen."""
        from streambn.cli.progress_bar import show  # noqa: PLC0415

        return functools.partial(show, form=self.progress.value, quiet=self.quiet)

    def depends(self) -> list[str]:
        """Say what results depend on, of these options."""
        return [f"csv types {sorted(self.csv_type or ())}", f"on error {self.on_error.value}"]

    def reading(self) -> "ReadOptions":
        """Say how inputs are to be read."""
        from streambn.jobs.inputs import ReadOptions  # noqa: PLC0415

        skipping = self.on_error is OnError.skip
        return ReadOptions(parse_csv_types(self.csv_type), self.count, skipping)


@dataclass(frozen=True)
class CheckpointOptions:
    """How a fit is kept from being lost."""

    checkpoint: Annotated[
        str | None,
        option(
            "Where to keep how far the fit has come, itself a statistics file: beside the output "
            "unless given, with .checkpoint at its end. Removed when the output is there; in the "
            "place of an output, it stays.",
            panel=_CHECKPOINT,
            metavar="FILE",
        ),
    ] = None
    checkpoint_every: Annotated[
        str | None,
        option(
            "How often: 30s unless given, or a number of rows. Besides on SIGUSR1, and when the "
            "job is stopped.",
            panel=_CHECKPOINT,
            metavar="DURATION|ROWS",
        ),
    ] = None

    def location(self, output: str, plan: "Sequence[Output]") -> "Location | None":
        """Say where the checkpoint of a job is kept that writes these outputs."""
        from streambn.io.locations import locate  # noqa: PLC0415
        from streambn.io.sources import PIPE  # noqa: PLC0415

        if self.checkpoint is not None:
            return locate(self.checkpoint)
        if output == PIPE:
            return None
        if plan[0].mirrored:
            return locate(output).child("_streambn.checkpoint")
        return locate(f"{output}.checkpoint")

    def interval(self) -> "Interval":
        """Say how often a checkpoint is to be written."""
        return parse_interval(self.checkpoint_every)


def parse_interval(text: str | None) -> "Interval":
    """Read a duration or a number of rows."""
    from streambn.jobs.checkpoint import Interval  # noqa: PLC0415
    from streambn.policies.durations import nanoseconds  # noqa: PLC0415

    if text is None:
        return Interval(_SECONDS, None)
    if text.isdigit() and int(text) > 0:
        return Interval(None, int(text))
    length = nanoseconds(text)
    if length is None or length <= 0:
        raise InvalidValueError(
            f"--checkpoint-every {text!r}: must be a duration such as 30s or 5min, or a number of "
            "rows"
        )
    return Interval(length / 1e9, None)


@dataclass(frozen=True)
class WriteOptions:
    """How outputs are written."""

    compression: Annotated[
        Codec | None,
        option("Compression of Parquet; that of the input unless given.", panel=_OUTPUT),
    ] = None
    row_group_rows: Annotated[
        int | None,
        option(
            "Rows of a Parquet row group; as in the input unless given.",
            panel=_OUTPUT,
            metavar="N",
        ),
    ] = None
    overwrite: Annotated[
        bool,
        option(
            "Replace outputs of other statistics or options in the folder.",
            "--overwrite",
            panel=_OUTPUT,
        ),
    ] = False
    fsync: Annotated[
        bool,
        option(
            "Wait until each output is on the disk before it gets its name: then even a power cut "
            "leaves it whole. Statistics and checkpoints are always waited for.",
            "--fsync",
            panel=_OUTPUT,
        ),
    ] = False

    def encoding(self) -> "Encoding":
        """Say how Parquet is to be written."""
        from streambn.io.writers import Encoding  # noqa: PLC0415

        if self.row_group_rows is not None and self.row_group_rows < 1:
            raise InvalidValueError(f"--row-group-rows {self.row_group_rows}: must be at least 1")
        return Encoding(self.compression and self.compression.value, self.row_group_rows)


def folder_of(
    output: str,
    plan: "Sequence[Output]",
    turns: "ApplyStatistics | LearnAndApply",
    job: JobOptions,
    writing: WriteOptions,
) -> "Folder | None":
    """Describe the folder that outputs go to; None: it is one output."""
    from streambn.io.locations import locate  # noqa: PLC0415
    from streambn.jobs.folder import Folder  # noqa: PLC0415

    if not plan[0].mirrored:
        return None
    depends = [
        *job.depends(),
        f"type {turns.dtype}",
        f"inverse {getattr(turns, 'inverse', False)}",
        f"compression {writing.compression and writing.compression.value}",
        f"rows of a row group {writing.row_group_rows}",
    ]
    return Folder(locate(output), depends, job.resume, writing.overwrite)
