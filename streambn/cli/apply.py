"""The commands that write normalized data: `apply` and `normalize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

import streambn as sbn
from streambn._credentials import redact_url
from streambn.by_row import check_by_row
from streambn.cli.app import Command, usage_errors
from streambn.cli.engine import ENGINE_OPTIONS, EngineOptions
from streambn.cli.fit import check_checkpoint
from streambn.cli.messages import report, say_applied, say_fitted, say_kept_text, say_left_out
from streambn.cli.normalizer_options import NORMALIZER_OPTIONS, NormalizerOptions
from streambn.cli.options import (
    CHECKPOINT_OPTIONS,
    JOB_OPTIONS,
    OUTPUT_OPTIONS,
    CheckpointOptions,
    JobOptions,
    OutputOptions,
    dtype_option,
    inputs_argument,
    output_option,
    stats_argument,
)
from streambn.errors import InvalidValueError
from streambn.io import PIPE, Source, identities, locate, located
from streambn.jobs import (
    ApplyStatistics,
    LearnAndApply,
    apply_job,
    check_target,
    make_plan,
    normalize_job,
)

__all__ = ["apply", "normalize"]


@click.command(
    cls=Command,
    groups=[JOB_OPTIONS, OUTPUT_OPTIONS, ENGINE_OPTIONS],
    examples=[
        "streambn apply stats.json data/ -o normalized/",
        "streambn apply stats.json normalized.parquet -o data.parquet --inverse",
        "produce | streambn apply stats.json - -o - | consume",
    ],
)
@stats_argument
@inputs_argument
@output_option
@dtype_option
@click.option("--inverse", is_flag=True, help="Map normalized values back to the original ones.")
@click.option(
    "--union-by-name",
    is_flag=True,
    help="Let inputs of a single output lack columns. An absent column is null.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Read each output back and compare it with a second computation from the inputs.",
)
def apply(
    stats: str,
    inputs: Sequence[str],
    output: str,
    dtype: Any,
    *,
    inverse: bool,
    union_by_name: bool,
    verify: bool,
    job: JobOptions,
    outputs: OutputOptions,
    engine: EngineOptions,
) -> None:
    """Normalize data with a statistics file.

    The file is live or frozen; nothing is learned. Columns without statistics pass through, from
    CSV to CSV as the text that they are.

    Inputs that go into a single file are joined by column name, in their common types, with Hive
    partition keys as columns. In a folder, each input keeps its path and format.
    """
    engine.check(inputs, output)
    read_options = job.read_options._replace(union=union_by_name)
    if verify and (output == PIPE or read_options.skip_damaged):
        raise click.UsageError(
            "--verify compares an output file with all of its inputs. It cannot be combined with "
            "-o - or with --on-error skip."
        )
    loaded = sbn.load(stats)
    with located(redact_url(stats)):
        frozen = loaded.freeze() if isinstance(loaded, sbn.Normalizer) else loaded
    sources, unusable = job.scan(inputs)
    with usage_errors():
        plan = make_plan(sources, output, kind=outputs.kind, skip_damaged=read_options.skip_damaged)
        if locate(stats).identity in identities(plan.files):
            raise InvalidValueError(
                f"The output would replace {redact_url(stats)}, the statistics."
            )
    with engine.executor() as executor:
        done = apply_job(
            ApplyStatistics(frozen, dtype, inverse),
            plan,
            options=read_options,
            write_options=outputs.write_options(resume=job.resume, verify=verify),
            display=job.display,
            executor=executor,
        ).with_skipped(unusable)
    if not job.quiet:
        say_applied(done)
        say_left_out(done)
        say_kept_text(done)
    report("apply", done, as_json=job.json)


@click.command(
    cls=Command,
    groups=[NORMALIZER_OPTIONS, JOB_OPTIONS, CHECKPOINT_OPTIONS, OUTPUT_OPTIONS, ENGINE_OPTIONS],
    examples=[
        "streambn normalize data.csv -o normalized.parquet --save stats.json",
        "produce | streambn normalize --online - -o - | consume",
        "streambn normalize --online --by-row --using before prices.csv -o scores.csv",
    ],
)
@inputs_argument
@output_option
@click.option("--save", metavar="STATS", help="Write the statistics to this file too.")
@dtype_option
@click.option(
    "--online",
    is_flag=True,
    help="Learn and normalize in a single pass: each batch by the statistics as of that batch.",
)
@click.option(
    "--by-row",
    is_flag=True,
    help="With --online, normalize each row by the statistics as of that row. The result does not "
    "depend on batches, and no value is judged by a later one.",
)
@click.option(
    "--using",
    type=click.Choice(["running", "before", "batch"]),
    default="running",
    help="With --online, which statistics to apply to a batch or row: running (the default) "
    "includes it, before excludes it, batch are those of the batch alone.",
)
def normalize(
    inputs: Sequence[str],
    output: str,
    save: str | None,
    dtype: Any,
    using: Any,
    *,
    online: bool,
    by_row: bool,
    options: NormalizerOptions,
    job: JobOptions,
    checkpoints: CheckpointOptions,
    outputs: OutputOptions,
    engine: EngineOptions,
) -> None:
    """Fit on data, then normalize the same data.

    The inputs are read twice, or once with --online.
    """
    engine.check(inputs, output)
    if by_row and not online:
        raise click.UsageError(
            "--by-row normalizes rows as they are learned, which needs --online. Add --online."
        )
    if online and engine.engine != "local":
        raise click.UsageError(
            "--online learns and normalizes each batch in turn, so it cannot be combined with "
            f"--engine {engine.engine}."
        )
    read_options = job.read_options
    sources, unusable = job.scan(inputs)
    with usage_errors():
        if not online:
            _check_rereadable(sources)
        elif job.resume:
            raise click.UsageError(
                "--online cannot be combined with --resume: the statistics of the earlier run are "
                "lost. Start again without --resume."
            )
        plan = make_plan(sources, output, kind=outputs.kind, skip_damaged=read_options.skip_damaged)
        if save is not None:
            check_target(save, sources)
            if locate(save).identity in identities(plan.files):
                raise click.UsageError(
                    f"--save and --output are the same file, {redact_url(save)}."
                )
        check_checkpoint(checkpoints, sources, *(each.target for each in plan.outputs), save)
    normalizer = options.normalizer(online=online)
    if by_row:
        with usage_errors():
            check_by_row(normalizer.policy, by_row, using)
    write_options = outputs.write_options(resume=job.resume)
    if online:
        operation = LearnAndApply(normalizer, using, dtype, read_options.csv, by_row)
        done = apply_job(
            operation, plan, options=read_options, write_options=write_options, display=job.display
        )
        if save is not None:
            normalizer.save(save)
    else:
        with engine.executor() as executor:
            done = normalize_job(
                normalizer.statistics,
                plan,
                checkpoints.checkpoint(plan.checkpoint, resume=job.resume),
                save=save,
                dtype=dtype,
                options=read_options,
                write_options=write_options,
                display=job.display,
                executor=executor,
            )
    done = done.with_skipped(unusable)
    if not job.quiet:
        if save is not None:
            say_fitted(done, save)
        say_applied(done)
        say_left_out(done)
        say_kept_text(done)
    report("normalize", done, as_json=job.json)


def _check_rereadable(sources: Sequence[Source]) -> None:
    for source in sources:
        if not source.rereadable:
            raise InvalidValueError(
                f"normalize reads its inputs twice, but {source.name} can be read only once. Fit "
                "on one copy of the stream and apply to another, save it to a file first, or use "
                "--online."
            )
