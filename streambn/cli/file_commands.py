"""The commands that read files: `fit`, `apply` and `normalize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import streambn as sbn
from streambn.cli.app import app, as_frozen, as_live, usage
from streambn.cli.job_options import (
    CheckpointOptions,
    JobOptions,
    UsingStatistics,
    WriteOptions,
    folder_of,
)
from streambn.cli.options import (
    Dtype,
    FitOptions,
    Float,
    Frozen,
    Inputs,
    Out,
    Stats,
    flag,
    fresh_normalizer,
    in_flags,
    split_columns,
    taking,
)
from streambn.errors import InvalidValueError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from streambn.io.locations import Location
    from streambn.io.sources import Source
    from streambn.jobs.checkpoint import Interval
    from streambn.jobs.inputs import ReadOptions
    from streambn.jobs.job import Done, Fit
    from streambn.jobs.plan import Output
    from streambn.statistics import Statistics

__all__ = ["apply", "fit", "normalize"]


@app.command()
@taking(options=FitOptions, job=JobOptions, keeping=CheckpointOptions)
def fit(
    inputs: Inputs,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="STATS",
            help="The statistics file to write; --checkpoint FILE can take its place.",
            show_default=False,
        ),
    ] = None,
    options: FitOptions,
    job: JobOptions,
    keeping: CheckpointOptions,
    continue_from: Annotated[
        str | None,
        typer.Option(
            metavar="STATS",
            help="Go on learning from this statistics file, with its policy and settings.",
            show_default=False,
        ),
    ] = None,
    frozen: Frozen = False,
) -> None:
    """Learn means and variances of columns, and write them to a statistics file.

    Inputs are read once, in the order given, a batch at a time. A job that was
    stopped goes on with [bold]--resume[/bold], and its result is the same.

    Example: [bold]streambn fit 'data/**/*.parquet' -o stats.json --policy ema
    --halflife 10000 --columns price,volume[/bold]

    By event time: [bold]streambn fit trades.csv -o stats.json --policy ema
    --halflife 7d --time traded_at --weights volume[/bold]

    An endless stream: [bold]produce | streambn fit - --checkpoint stats.json[/bold]
    """
    from streambn.cli.progress_bar import fitted  # noqa: PLC0415
    from streambn.io import sources as files  # noqa: PLC0415
    from streambn.io.locations import locate, remove_leftovers  # noqa: PLC0415
    from streambn.io.locks import alone  # noqa: PLC0415
    from streambn.jobs import job as jobs  # noqa: PLC0415
    from streambn.jobs import plan as outputs  # noqa: PLC0415

    with usage():
        target = output or keeping.checkpoint
        if target is None:
            raise InvalidValueError("Missing option '-o' / '--output' (or --checkpoint)")
        if frozen and output is None:
            raise InvalidValueError("--frozen without --output: a checkpoint goes on learning")
        how, interval = job.reading(), keeping.interval()
    sources = files.scan(inputs)
    with usage():
        outputs.check_target(target, sources)
        if job.resume:
            jobs.check_resumable(sources)
        if output is not None:
            _check_checkpoint(keeping, sources, output, continue_from)
        normalizer = _start(options, continue_from)
    kept_at = locate(keeping.checkpoint or f"{target}.checkpoint")
    jobs.use_threads(how.threads)
    with alone(kept_at):
        if job.resume:
            remove_leftovers(kept_at, locate(target))
        with _fitting(normalizer, sources, options, job, how, kept_at, interval) as ended:
            normalizer = sbn.Normalizer.from_statistics(ended.statistics)
            if output is None:
                written = ended.keeper.write()  # not if there was nothing to learn
            else:
                written = True
                (normalizer.freeze() if frozen else normalizer).save(output)
        if output is not None:
            kept_at.remove()
    if written and not job.quiet:
        fitted(normalizer, ended.done.rows, target)
    fingerprint = normalizer.freeze().fingerprint if normalizer.lanes else None
    _tell(job, "fit", target, ended.done, fingerprint)


@app.command()
@taking(job=JobOptions, writing=WriteOptions)
def apply(
    stats: Stats,
    inputs: Inputs,
    *,
    output: Out,
    dtype: Dtype = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="Undo: from normalized values to the original ones.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read each output back: counts, nulls, and that the inverse gives the input.",
        ),
    ] = False,
    job: JobOptions,
    writing: WriteOptions,
) -> None:
    """Normalize data with a statistics file, frozen or not; nothing is learned.

    Columns without statistics pass through. Several inputs into one file
    are joined by column name, with Hive partition keys as columns; into a
    folder, each input keeps its path and format.

    Example: [bold]streambn apply stats.json data/ -o normalized/[/bold]
    """
    from streambn.io import sources as files  # noqa: PLC0415
    from streambn.io.locations import locate, remove_leftovers  # noqa: PLC0415
    from streambn.io.locks import alone  # noqa: PLC0415
    from streambn.jobs import folder as applyjobs  # noqa: PLC0415
    from streambn.jobs import job as jobs  # noqa: PLC0415
    from streambn.jobs import plan as outputs  # noqa: PLC0415
    from streambn.jobs.inputs import located  # noqa: PLC0415
    from streambn.jobs.operations import ApplyStatistics  # noqa: PLC0415

    with usage():
        how, encoding = job.reading(), writing.encoding()
        if verify and (output == files.PIPE or how.skipping):
            raise InvalidValueError(
                "--verify reads the output back beside all of the input: not standard output, and "
                "not with --on-error skip"
            )
    loaded = sbn.load(stats)
    with located(stats):
        frozen = as_frozen(loaded)
    sources = files.scan(inputs)
    with usage():
        plan = outputs.plan(sources, output, skipping=how.skipping)
        if any(locate(stats).identity == place for place in _identities(plan)):
            raise InvalidValueError(f"{stats}, the statistics, would be replaced by the output")
    jobs.use_threads(how.threads)
    turning = ApplyStatistics(frozen, _arrow_type(dtype), inverse)
    with alone(*_manifests(output, plan)):
        if job.resume:
            remove_leftovers(*_files(plan))
        applied = applyjobs.apply_job(
            turning,
            plan,
            how,
            encoding,
            job.display(),
            folder=folder_of(output, plan, turning, job, writing),
            fsync=writing.fsync,
            check=applyjobs.verified(turning, how) if verify else None,
        )
    _tell(job, "apply", output, applied, frozen.fingerprint)


@app.command()
@taking(options=FitOptions, job=JobOptions, keeping=CheckpointOptions, writing=WriteOptions)
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
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="In one pass: learn each batch, and normalize it by what is known then.",
        ),
    ] = False,
    using: Annotated[
        UsingStatistics,
        typer.Option(
            help="With --online: by the statistics with the batch in them (running), without it "
            "(before), or by its own (batch)."
        ),
    ] = UsingStatistics.running,
    job: JobOptions,
    keeping: CheckpointOptions,
    writing: WriteOptions,
) -> None:
    """Fit on the inputs, then apply to the same inputs: two passes over them, or one.

    Example: [bold]streambn normalize data.csv -o normalized.parquet --save stats.json[/bold]

    A stream, as it comes: [bold]produce | streambn normalize --online - -o - | consume[/bold]
    """
    from streambn.cli.progress_bar import fitted  # noqa: PLC0415
    from streambn.io import sources as files  # noqa: PLC0415
    from streambn.io.locations import locate, remove_leftovers  # noqa: PLC0415
    from streambn.io.locks import alone  # noqa: PLC0415
    from streambn.jobs import folder as applyjobs  # noqa: PLC0415
    from streambn.jobs import job as jobs  # noqa: PLC0415
    from streambn.jobs import plan as outputs  # noqa: PLC0415
    from streambn.jobs.operations import ApplyStatistics, LearnAndApply  # noqa: PLC0415

    with usage():
        how, encoding, interval = job.reading(), writing.encoding(), keeping.interval()
    sources = files.scan(inputs)
    with usage():
        if not online:
            _check_rereadable(sources)
        elif job.resume:
            raise InvalidValueError(
                "--online with --resume: what is normalized by statistics of the moment cannot be "
                "gone on with; begin anew"
            )
        plan = outputs.plan(sources, output, skipping=how.skipping)
        if save is not None:
            outputs.check_target(save, sources)
            if any(locate(save).identity == place for place in _identities(plan)):
                raise InvalidValueError(f"--save and --output are the same file, {save}")
        _check_checkpoint(keeping, sources, *(each.target for each in plan), save)
        normalizer = fresh_normalizer(options, online=online)
    jobs.use_threads(how.threads)
    if online:
        learning = LearnAndApply(normalizer, using.value, _arrow_type(dtype))
        with alone(*_manifests(output, plan)):
            applied = applyjobs.apply_job(
                learning,
                plan,
                how,
                encoding,
                job.display(),
                folder=folder_of(output, plan, learning, job, writing),
                fsync=writing.fsync,
            )
    else:
        kept_at = keeping.location(output, plan)
        kept = [] if kept_at is None else [kept_at]
        with alone(*kept, *_manifests(output, plan)):
            if job.resume:
                remove_leftovers(*kept, *([locate(save)] if save else []), *_files(plan))
            with _fitting(normalizer, sources, options, job, how, kept_at, interval) as ended:
                normalizer = sbn.Normalizer.from_statistics(ended.statistics)
                turning = ApplyStatistics(normalizer.freeze(), _arrow_type(dtype))
                applied = applyjobs.apply_job(
                    turning,
                    plan,
                    how,
                    encoding,
                    job.display(),
                    folder=folder_of(output, plan, turning, job, writing),
                    fsync=writing.fsync,
                )
            for place in kept:
                place.remove()
    if save is not None:
        normalizer.save(save)
        if not job.quiet:
            fitted(normalizer, applied.rows, save)
    _tell(job, "normalize", output, applied, normalizer.freeze().fingerprint)


# --- what they share -------------------------------------------------------------------


def _fitting(
    normalizer: sbn.Normalizer,
    sources: list[Source],
    options: FitOptions,
    job: JobOptions,
    how: ReadOptions,
    kept_at: Location | None,
    interval: Interval,
) -> AbstractContextManager[Fit]:
    """Learn from the sources, with a checkpoint until the block has ended."""
    from streambn.jobs import job as jobs  # noqa: PLC0415

    return jobs.fit_job(
        normalizer.statistics,
        sources,
        _asked(options, normalizer),
        how,
        job.display(),
        jobs.Checkpointing(kept_at, interval, job.depends(), job.resume),
        _learned,
    )


def _learned(fitted: Statistics, batch: Any) -> Statistics:
    """Learn a batch; what is wrong with it is told in the words of the options."""
    with in_flags():
        return fitted.learn(batch)


def _files(plan: list[Output]) -> list[Location]:
    from streambn.io.sources import PIPE  # noqa: PLC0415

    return [each.location for each in plan if each.target != PIPE]


def _manifests(output: str, plan: list[Output]) -> list[Location]:
    """Name what two jobs that write into one folder must not both write: none is of one file."""
    from streambn.io.locations import locate  # noqa: PLC0415
    from streambn.jobs.manifest import NAME  # noqa: PLC0415

    return [locate(output).child(NAME)] if plan[0].mirrored else []


def _identities(plan: list[Output]) -> list[str]:
    return [place.identity for place in _files(plan)]


def _arrow_type(dtype: Float | None) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    return None if dtype is None else pa.type_for_alias(dtype.value)


def _tell(
    job: JobOptions,
    command: str,
    output: str,
    counted: Done,
    fingerprint: str | None,
) -> None:
    """Say what was left out, and if asked for, in JSON what was done."""
    from streambn.cli.progress_bar import list_skipped, print_json  # noqa: PLC0415
    from streambn.jobs.report import Report  # noqa: PLC0415

    list_skipped(counted.skipped)
    if job.json:
        print_json(
            Report(command=command, output=output, fingerprint=fingerprint, **counted._asdict())
        )


def _check_rereadable(sources: list[Source]) -> None:
    for source in sources:
        if not source.rereadable:
            raise InvalidValueError(
                f"normalize reads its inputs twice, which {source.name} does not allow: fit on one "
                "copy of the stream and apply to another, or save it to a file first"
            )


def _check_checkpoint(
    keeping: CheckpointOptions, sources: list[Source], *others: str | None
) -> None:
    """Refuse a checkpoint where something else is or will be: it is removed at the end."""
    from streambn.io.locations import locate  # noqa: PLC0415
    from streambn.jobs import plan as outputs  # noqa: PLC0415

    if keeping.checkpoint is None:
        return
    outputs.check_target(keeping.checkpoint, sources)
    place = locate(keeping.checkpoint).identity
    for other in others:
        if other is not None and locate(other).identity == place:
            raise InvalidValueError(
                f"--checkpoint {keeping.checkpoint} would take the place of {other}, and is "
                "removed at the end: name another file"
            )


def _start(options: FitOptions, continue_from: str | None) -> sbn.Normalizer:
    if continue_from is None:
        return fresh_normalizer(options)
    for option in options.given():
        raise InvalidValueError(
            f"{flag(option)} cannot be changed under way: --continue-from takes the policy and "
            f"all settings from {continue_from}"
        )
    return as_live(sbn.load(continue_from))


def _asked(options: FitOptions, normalizer: sbn.Normalizer) -> list[str] | None:
    """Name the columns to read: those asked for, or those that the statistics have."""
    if options.columns is not None:
        return split_columns(options.columns)
    return list(normalizer.lanes) or None
