"""The commands of the shell: what each takes, and what it does with the library.

Nothing here handles an error or a signal; that is for `streambn.cli`, which runs them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

import streambn as sbn
from streambn.cli_options import (
    CsvTypes,
    Dtype,
    FitOptions,
    Float,
    Frozen,
    Inputs,
    Out,
    Quiet,
    Stats,
    StatsOut,
    flag,
    fresh_normalizer,
    in_flags,
    parse_csv_types,
    parse_time,
    split_columns,
    taking,
)
from streambn.errors import InvalidValueError, StreamBNError

if TYPE_CHECKING:
    from streambn import render
    from streambn.files import Source
    from streambn.outputs import Output

__all__ = [
    "ShowFormat",
    "UsageError",
    "app",
    "apply",
    "demo",
    "fit",
    "merge",
    "normalize",
    "show",
    "streambn",
]

# A longer batch is normalized in slices: its results would otherwise need as much
# memory again as the batch itself.
_APPLY_ROWS = 1 << 17

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ShowFormat(StrEnum):
    """The forms in which `show` prints."""

    table = "table"
    json = "json"
    csv = "csv"


def _version(wanted: bool) -> None:
    if wanted:
        import pyarrow as pa  # noqa: PLC0415

        from streambn import kernels  # noqa: PLC0415

        print(f"streambn {sbn.__version__}, {kernels.describe()}; pyarrow {pa.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, help="Print the version and the kernels."
    ),
]


@app.callback()
def streambn(version: Version = False) -> None:
    """Batch normalization's running statistics for any data: fit, freeze, apply.

    Try it: [bold]streambn demo[/bold]
    """


@app.command()
@taking(FitOptions)
def fit(
    inputs: Inputs,
    *,
    output: StatsOut,
    options: FitOptions,
    continue_from: Annotated[
        str | None,
        typer.Option(
            metavar="STATS",
            help="Go on learning from this statistics file, with its policy and settings.",
            show_default=False,
        ),
    ] = None,
    frozen: Frozen = False,
    csv_type: CsvTypes = None,
    quiet: Quiet = False,
) -> None:
    """Learn means and variances of columns, and write them to a statistics file.

    Inputs are read once, in the order given, a batch at a time.

    Example: [bold]streambn fit 'data/**/*.parquet' -o stats.json --policy ema
    --halflife 10000 --columns price,volume[/bold]

    By event time: [bold]streambn fit trades.csv -o stats.json --policy ema
    --halflife 7d --time traded_at --weights volume[/bold]
    """
    from streambn import files, outputs, render  # noqa: PLC0415

    sources = files.scan(inputs)
    with _usage():
        outputs.check_target(output, sources)
        types = parse_csv_types(csv_type)
        normalizer = _start(options, continue_from)
    rows = _learn(normalizer, sources, _asked(options), types, quiet=quiet)
    (normalizer.freeze() if frozen else normalizer).save(output)
    if not quiet:
        render.fitted(normalizer, rows, output)


@app.command()
def apply(
    stats: Stats,
    inputs: Inputs,
    *,
    output: Out,
    dtype: Dtype = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="Undo: from normalized values to the original ones.")
    ] = False,
    csv_type: CsvTypes = None,
    quiet: Quiet = False,
) -> None:
    """Normalize data with a statistics file, frozen or not; nothing is learned.

    Columns without statistics pass through. Several inputs into one file
    are joined by column name, with Hive partition keys as columns; into a
    folder, each input keeps its path and format.

    Example: [bold]streambn apply stats.json data/ -o normalized/[/bold]
    """
    from streambn import files, outputs  # noqa: PLC0415

    with _naming(stats):
        frozen = _frozen(sbn.load(stats))
    sources = files.scan(inputs)
    with _usage():
        types = parse_csv_types(csv_type)
        jobs = outputs.plan(sources, output)
        if any(os.path.realpath(stats) == os.path.realpath(job.target) for job in jobs):
            raise InvalidValueError(f"{stats}, the statistics, would be replaced by the output")
    _emit(_Emission(frozen, types, dtype, inverse), jobs, quiet=quiet)


@app.command()
@taking(FitOptions)
def normalize(
    inputs: Inputs,
    *,
    output: Out,
    options: FitOptions,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="STATS", help="Keep the statistics in this file too.", show_default=False
        ),
    ] = None,
    dtype: Dtype = None,
    csv_type: CsvTypes = None,
    quiet: Quiet = False,
) -> None:
    """Fit on the inputs, then apply to the same inputs: two passes over them.

    Example: [bold]streambn normalize data.csv -o normalized.parquet --save stats.json[/bold]
    """
    from streambn import files, outputs, render  # noqa: PLC0415

    sources = files.scan(inputs)
    with _usage():
        _check_rereadable(sources)
        types = parse_csv_types(csv_type)
        jobs = outputs.plan(sources, output)
        if save is not None:
            outputs.check_target(save, sources)
            if any(os.path.realpath(save) == os.path.realpath(job.target) for job in jobs):
                raise InvalidValueError(f"--save and --output are the same file, {save}")
        normalizer = fresh_normalizer(options)
    rows = _learn(normalizer, sources, _asked(options), types, quiet=quiet)
    _emit(_Emission(normalizer.freeze(), types, dtype), jobs, quiet=quiet)
    if save is not None:
        normalizer.save(save)
        if not quiet:
            render.fitted(normalizer, rows, save)


@app.command()
def merge(
    stats: Annotated[
        list[str],
        typer.Argument(
            metavar="STATS",
            help="Statistics files of consecutive pieces of one stream, the oldest first.",
            show_default=False,
        ),
    ],
    output: StatsOut,
    frozen: Frozen = False,
    quiet: Quiet = False,
) -> None:
    """Merge statistics of pieces into those of the whole.

    The order matters to policies that forget: what is older weighs less.
    Only an ema by event time knows by itself, and takes any order.

    Example: [bold]streambn merge monday.json tuesday.json -o week.json[/bold]
    """
    from streambn import outputs  # noqa: PLC0415

    del quiet  # there is nothing to be quiet about; scripts may say it everywhere
    with _usage():
        outputs.check_target(output)
    merged = _live(sbn.load(stats[0]))
    for path in stats[1:]:
        newer = _live(sbn.load(path))
        with _naming(path):
            merged = merged.merge(newer)
    (merged.freeze() if frozen else merged).save(output)


@app.command()
def show(
    stats: Stats,
    form: Annotated[
        ShowFormat, typer.Option("--format", help="A table for people; json or csv for programs.")
    ] = ShowFormat.table,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Of an ema by event time: what the weights have faded to by then, 2026-01-31, "
            "2026-01-31T12:30Z or a number. As of the newest row unless given.",
            show_default=False,
        ),
    ] = None,
    version: Version = False,
) -> None:
    """Print a statistics file: for each column its counts, mean, deviation and range.

    Example: [bold]streambn show stats.json --format csv[/bold]
    """
    from streambn import render  # noqa: PLC0415

    loaded = sbn.load(stats)
    with _usage():
        when = None if at is None else _instant(at, loaded)
    render.show(loaded, form.value, when)


@app.command()
def demo(
    save_data: Annotated[
        str | None,
        typer.Option(
            "--save-data",
            metavar="PATH",
            help="Write the demo's data set, a CSV file, to this path first.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell the whole story on real data: weekly CO2 at Mauna Loa, with gaps and drift.

    Example: [bold]streambn demo --save-data co2.csv[/bold]
    """
    from streambn import demo as story  # noqa: PLC0415
    from streambn import outputs  # noqa: PLC0415

    if save_data is not None:
        with _usage():
            outputs.check_target(save_data)
        story.save_data(save_data)
    story.tell(save_data)


# --- what the commands share ----------------------------------------------------------


class UsageError(StreamBNError):
    """The command line makes no sense as a whole: exit code 2."""


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Tell a bad argument from a bad value in the data, which is the same exception."""
    try:
        yield
    except InvalidValueError as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _naming(name: str, progress: render.Progress | None = None) -> Iterator[None]:
    """Say in which file, and where in it, the library met what it complains about."""
    try:
        yield
    except StreamBNError as error:
        if str(error).startswith(name):
            raise
        where = f" after row {progress.in_file:,}" if progress and progress.in_file else ""
        raise type(error)(f"{name}{where}: {error}") from error


def _check_rereadable(sources: list[Source]) -> None:
    for source in sources:
        if not source.rereadable:
            raise InvalidValueError(
                f"normalize reads its inputs twice, which {source.name} does not allow: fit on one "
                "copy of the stream and apply to another, or save it to a file first"
            )


def _start(options: FitOptions, continue_from: str | None) -> sbn.Normalizer:
    if continue_from is None:
        return fresh_normalizer(options)
    for option in options.given():
        raise InvalidValueError(
            f"{flag(option)} cannot be changed under way: --continue-from takes the policy and "
            f"all settings from {continue_from}"
        )
    return _live(sbn.load(continue_from))


def _live(loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> sbn.Normalizer:
    return loaded.thaw() if isinstance(loaded, sbn.FrozenNormalizer) else loaded


def _frozen(loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> sbn.FrozenNormalizer:
    return loaded if isinstance(loaded, sbn.FrozenNormalizer) else loaded.freeze()


def _asked(options: FitOptions) -> list[str] | None:
    return None if options.columns is None else split_columns(options.columns)


def _instant(at: str, loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> Any:
    """Read the time of --at, and see that the statistics can be read as of then."""
    from streambn.policies import event_time_of  # noqa: PLC0415

    time = event_time_of(loaded.policy)
    if time is None:
        raise InvalidValueError(
            f"--at {at!r}: these statistics do not go by event time "
            f"({loaded.policy.describe()}), so nothing of them fades with time: leave it out"
        )
    when = parse_time(at, time)
    try:
        if loaded.lanes:
            loaded.stats(when)
    except InvalidValueError as error:
        raise InvalidValueError(f"--at {at!r}: {str(error).removeprefix('at ')}") from error
    return when


def _learn(
    normalizer: sbn.Normalizer,
    sources: list[Source],
    names: list[str] | None,
    csv_types: dict[str, Any],
    *,
    quiet: bool,
) -> int:
    """Update with every source, in order; return the number of rows."""
    from streambn import files, render  # noqa: PLC0415
    from streambn.policies import event_time_of  # noqa: PLC0415
    from streambn.weighing import beside  # noqa: PLC0415

    names = names or list(normalizer.lanes) or None
    others = beside(normalizer.options.weights, event_time_of(normalizer.policy))
    keys = [*(names or ()), *others]
    with render.progress("fitting", len(sources), quiet=quiet) as progress:
        for source in sources:
            progress.start_file()
            choose = functools.partial(
                files.fitting_columns, names=names, beside=others, keys=source.keys
            )
            with _naming(source.name, progress):
                reader = files.open_reader(source, keys=keys, choose=choose, csv_types=csv_types)
                for batch in reader:
                    with in_flags():
                        normalizer.update(batch)
                    progress.add(batch.num_rows)
    return progress.rows


@dataclass(frozen=True)
class _Emission:
    """A frozen normalizer and how it is to be applied."""

    frozen: sbn.FrozenNormalizer
    csv_types: dict[str, Any]
    dtype: Float | None = None
    inverse: bool = False

    def stream(self, source: Source, job: Output, progress: render.Progress) -> Any:
        """Open a source and normalize it, lazily."""
        import pyarrow as pa  # noqa: PLC0415

        from streambn import files  # noqa: PLC0415

        # In a folder's copy the partition keys stay where they are, in its path.
        keys = self.frozen.lanes if job.mirrored else source.keys
        reader = files.open_reader(
            source, keys=keys, csv_types=self.csv_types, max_rows=_APPLY_ROWS
        )
        turn = self.frozen.inverse_transform if self.inverse else self.frozen.transform
        progress.start_file()
        with _naming(source.name):
            turned = turn(reader, dtype=self.dtype and pa.type_for_alias(self.dtype.value))

        def batches() -> Iterator[Any]:
            with _naming(source.name, progress):
                for batch in turned:
                    yield batch
                    progress.add(batch.num_rows)

        return pa.RecordBatchReader.from_batches(turned.schema, batches())


def _emit(emission: _Emission, jobs: list[Output], *, quiet: bool) -> None:
    """Normalize every source into its output."""
    from streambn import outputs, render  # noqa: PLC0415
    from streambn.atomic import staged  # noqa: PLC0415

    count = sum(len(job.sources) for job in jobs)
    # On one stage: of a job that fails, nothing is left that looks like its result.
    with render.progress("applying", count, quiet=quiet) as progress, staged() as stage:
        for job in jobs:
            streams = ((s.name, emission.stream(s, job, progress)) for s in job.sources)
            outputs.write(outputs.concat(streams), job, stage)
