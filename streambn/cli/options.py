"""Options and arguments that several commands share: inputs, outputs and how a job runs."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import pyarrow as pa

import streambn as sbn
from streambn._credentials import redact_url
from streambn.cli.app import Option, OptionGroup, usage_errors
from streambn.cli.progress import show
from streambn.errors import StreamBNError
from streambn.io import SUFFIXES, CsvOptions, Encoding, Format, Location, Source, locate, scan
from streambn.jobs import Checkpoint, Display, Interval, ReadOptions, Skipped, WriteOptions
from streambn.kernels import MAX_THREADS, usable_cores
from streambn.policies import nanoseconds

__all__ = [
    "CHECKPOINT_OPTIONS",
    "JOB_OPTIONS",
    "OUTPUT_OPTIONS",
    "CheckpointOptions",
    "JobOptions",
    "OutputOptions",
    "dtype_option",
    "frozen_option",
    "inputs_argument",
    "live",
    "output_option",
    "quiet_option",
    "stats_argument",
    "stats_output_option",
    "thaw_option",
]

# Names of characters that are hard to write in a shell.
_CHARACTERS = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
# Long enough that writing a checkpoint costs nothing, short enough that losing one costs little.
_SECONDS = 30.0

inputs_argument = click.argument(
    "inputs",
    metavar="INPUT...",
    nargs=-1,
    required=True,
    help="Files, quoted globs (** crosses folders) or folders (Hive partitions too), as paths or "
    "as URLs such as s3://; or - for a stream of Arrow IPC, CSV or newline-delimited JSON on "
    "stdin. Files may also be Parquet. The content tells the format.",
)
stats_argument = click.argument("stats", metavar="STATS", help="A statistics file.")
output_option = click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="A file (.parquet, .arrow, .arrows, .csv or .ndjson, and .gz after the last three), a "
    "folder, or - for a stream on stdout.",
)
stats_output_option = click.option(
    "-o", "--output", required=True, metavar="STATS", help="Write statistics to this file."
)
frozen_option = click.option(
    "--frozen", is_flag=True, help="Write frozen statistics, which can be applied but not learn."
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Print nothing to stderr except errors."
)
thaw_option = click.option(
    "--thaw", is_flag=True, help="Let frozen statistics learn again, and write live ones."
)


def live(path: str, *, thaw: bool) -> sbn.Normalizer:
    """Load statistics that can learn; frozen ones only on request."""
    loaded = sbn.load(path)
    if isinstance(loaded, sbn.Normalizer):
        return loaded
    if not thaw:
        raise click.UsageError(f"{redact_url(path)} is frozen. To learn on from it, give --thaw.")
    return loaded.thaw()


class _Dtype(click.Choice[str]):
    """A float type, converted to Arrow's."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return pa.type_for_alias(super().convert(value, param, ctx))


dtype_option = click.option(
    "--dtype",
    type=_Dtype(["float32", "float64"]),
    help="Type of the results. Default: float32 stays float32, everything else becomes float64.",
)


class _CsvType(click.ParamType[tuple[str, pa.DataType]]):
    """A column and its type, NAME=TYPE."""

    name = "NAME=TYPE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, pa.DataType]:
        column, equals, alias = value.rpartition("=")
        try:
            type_ = pa.type_for_alias(alias)
        except ValueError:
            equals = ""
        if not equals:
            self.fail(
                f"{value!r} must be NAME=TYPE with an Arrow type, such as double, int64, string, "
                "date32, timestamp[us] or bool.",
                param,
                ctx,
            )
        return column, type_


class _Interval(click.ParamType[Interval]):
    """A duration or a number of rows."""

    name = "DURATION|ROWS"

    def convert(self, value: Any, param: Any, ctx: Any) -> Interval:
        if isinstance(value, Interval):
            return value
        if value.isdigit() and int(value) > 0:
            return Interval(None, int(value))
        length = nanoseconds(value)
        if length is None or length <= 0:
            self.fail(
                f"{value!r} must be a duration such as 30s or 5min, or a number of rows.",
                param,
                ctx,
            )
        return Interval(length / 1e9, None)


class _Separator(click.ParamType[str]):
    """A character, or its name."""

    name = "CHAR"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return _CHARACTERS.get(value.casefold(), str(value))


class _Values(click.ParamType[tuple[str, ...]]):
    """Values with commas between them, as in a line of CSV."""

    name = "VALUE,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        return tuple(next(csv.reader([value]), ()))


class JobOptions(NamedTuple):
    """How a job reads its inputs and reports; the fields are the options."""

    csv_types: tuple[tuple[str, pa.DataType], ...]
    delimiter: str | None
    decimal: str
    thousands: str | None
    null_values: tuple[tuple[str, ...], ...]
    header: bool | None
    skip_lines: int
    encoding: str | None
    on_error: str
    threads: int
    resume: bool
    progress: str
    json: bool
    quiet: bool

    @property
    def read_options(self) -> ReadOptions:
        """How to read inputs."""
        csv_options = CsvOptions(
            dict(self.csv_types),
            self.delimiter,
            self.decimal,
            self.thousands,
            tuple(itertools.chain.from_iterable(self.null_values)),
            self.header,
            self.skip_lines,
            self.encoding,
        )
        with usage_errors():
            return ReadOptions(csv_options.check(), self.threads, self.on_error == "skip")

    def scan(self, inputs: Sequence[str]) -> tuple[list[Source], list[Skipped]]:
        """Return the inputs, and the objects in stores that --on-error skip leaves out."""
        unusable: list[Skipped] = []

        def skip(error: StreamBNError) -> None:
            unusable.append(Skipped.of(error.source or "", "", error))

        return scan(inputs, skip if self.on_error == "skip" else None), unusable

    @property
    def display(self) -> Display:
        """How to show progress."""
        return functools.partial(show, form=self.progress, quiet=self.quiet)


_job_option = functools.partial(Option, section="Job options")
_csv_option = functools.partial(Option, section="CSV options")
JOB_OPTIONS = OptionGroup(
    "job",
    JobOptions,
    [
        _csv_option(
            ["--csv-type", "csv_types"],
            type=_CsvType(),
            multiple=True,
            help="Type of a column, of JSON too. Default: one that all its values fit; in a pipe, "
            "the type of the first rows. A column that is not normalized goes from CSV to CSV as "
            "it is, and elsewhere in a type that loses nothing. Repeatable.",
        ),
        _csv_option(
            ["--delimiter"],
            type=_Separator(),
            help="Character between values, such as ';' or tab. Default: detected among the comma, "
            "the semicolon, the tab and the vertical bar.",
        ),
        _csv_option(
            ["--decimal"],
            type=_Separator(),
            default=".",
            help="Decimal separator, a point or a comma. Default: a point.",
        ),
        _csv_option(
            ["--thousands"],
            type=_Separator(),
            help="Separator of groups of digits, such as , or space.",
        ),
        _csv_option(
            ["--null-values"],
            type=_Values(),
            multiple=True,
            help="More values that stand for a missing number, such as -,?. The empty value, NA, "
            "N/A, #N/A and NULL do so already. Repeatable.",
        ),
        _csv_option(
            ["--header/--no-header"],
            default=None,
            help="Whether the first line holds the names of the columns. Default: it does, and "
            "numbers in their place are an error. Without names, the columns are f0, f1, ...",
        ),
        _csv_option(
            ["--skip-lines"],
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Lines to skip before the header. Blank lines and lines that begin with # are "
            "skipped without it.",
        ),
        _csv_option(
            ["--encoding"],
            metavar="NAME",
            help="Encoding of the text, such as latin-1. Default: UTF-8, or UTF-16 if the file "
            "begins with its mark.",
        ),
        _job_option(
            ["--on-error"],
            type=click.Choice(["stop", "skip"]),
            default="stop",
            help="Stop at damaged input (the default), or skip, count and list it: a row group, a "
            "record batch, the rest of a stream, a file with other columns, or an object whose key "
            "is no relative path.",
        ),
        _job_option(
            ["--threads"],
            type=click.IntRange(min=1, max=MAX_THREADS),
            default=usable_cores,
            envvar="STREAMBN_THREADS",
            metavar="N",
            help="Number of threads. Results do not depend on it. Default: STREAMBN_THREADS, or "
            "the number of cores.",
        ),
        _job_option(
            ["--resume"], is_flag=True, help="Continue an earlier run of the same job that stopped."
        ),
        _job_option(
            ["--progress"],
            type=click.Choice(["auto", "plain", "off"]),
            default="auto",
            help="auto: a bar if stderr is a terminal. plain: a line a minute, for logs.",
        ),
        _job_option(
            ["--json"],
            is_flag=True,
            help="Print the result of the job, or its failure, as one line of JSON.",
        ),
        _job_option(["-q", "--quiet"], is_flag=True, help="Print nothing to stderr except errors."),
    ],
)


class CheckpointOptions(NamedTuple):
    """Where and how often a fit writes a checkpoint; the fields are the options."""

    path: str | None
    interval: Interval

    def checkpoint(self, default: Location | None, *, resume: bool) -> Checkpoint:
        """Return the checkpoint of a job, at a default location unless one was given."""
        location = default if self.path is None else locate(self.path)
        return Checkpoint(location, self.interval, resume)


_checkpoint_option = functools.partial(Option, section="Checkpoint options")
CHECKPOINT_OPTIONS = OptionGroup(
    "checkpoints",
    CheckpointOptions,
    [
        _checkpoint_option(
            ["--checkpoint", "path"],
            metavar="FILE",
            help="Write checkpoints to FILE, which is itself a statistics file. Default: the "
            "output with .checkpoint appended. It is removed when the output is complete. Without "
            "an output it stays.",
        ),
        _checkpoint_option(
            ["--checkpoint-every", "interval"],
            type=_Interval(),
            default=Interval(_SECONDS, None),
            help="How often to write a checkpoint. Default: 30s. SIGUSR1 asks for one at any time, "
            "and a job that is stopped writes one.",
        ),
    ],
)


class OutputOptions(NamedTuple):
    """How outputs are written; the fields are the options."""

    format: str | None
    compression: str | None
    row_group_rows: int | None
    overwrite: bool
    fsync: bool

    @property
    def kind(self) -> Format | None:
        """Format of a file or of standard output."""
        return None if self.format is None else SUFFIXES[f".{self.format}"]

    def write_options(self, *, resume: bool, verify: bool = False) -> WriteOptions:
        """Return how to write outputs."""
        encoding = Encoding(self.compression, self.row_group_rows)
        return WriteOptions(encoding, resume, self.overwrite, self.fsync, verify)


_output_option = functools.partial(Option, section="Output options")
OUTPUT_OPTIONS = OptionGroup(
    "outputs",
    OutputOptions,
    [
        _output_option(
            ["--format"],
            type=click.Choice(["parquet", "arrow", "arrows", "csv", "ndjson"]),
            help="Format of the output. Default: that of its suffix, arrows on stdout, and that of "
            "each input in a folder.",
        ),
        _output_option(
            ["--compression"],
            type=click.Choice(["none", "snappy", "gzip", "brotli", "lz4", "zstd"]),
            help="Compression of Parquet. Default: as in the input.",
        ),
        _output_option(
            ["--row-group-rows"],
            type=click.IntRange(min=1),
            metavar="N",
            help="Rows in a Parquet row group. Default: as in the input.",
        ),
        _output_option(
            ["--overwrite"],
            is_flag=True,
            help="Replace outputs in the folder that other statistics or options made.",
        ),
        _output_option(
            ["--fsync"],
            is_flag=True,
            help="Wait for the disk before an output gets its name, so that it survives a power "
            "cut. Statistics and checkpoints are always written this way.",
        ),
    ],
)
