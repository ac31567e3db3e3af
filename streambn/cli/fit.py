"""The command `fit`, and the parts of it that `normalize` shares."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import click

import streambn as sbn
from streambn.cli.app import Command, usage_errors
from streambn.cli.normalizer_options import NORMALIZER_OPTIONS, NormalizerOptions
from streambn.cli.options import (
    CHECKPOINT_OPTIONS,
    JOB_OPTIONS,
    CheckpointOptions,
    JobOptions,
    frozen_option,
    inputs_argument,
    live,
    thaw_option,
)
from streambn.cli.report import report, say_fitted
from streambn.errors import InvalidValueError
from streambn.io import Location, locate, lock, remove_leftovers
from streambn.io.sources import Source, scan
from streambn.jobs.job import Checkpointing, Fit, check_resumable, fit_job, use_threads
from streambn.jobs.plan import check_target

__all__ = ["check_checkpoint", "fit", "fitting"]


@click.command(
    cls=Command,
    groups=[NORMALIZER_OPTIONS, JOB_OPTIONS, CHECKPOINT_OPTIONS],
    examples=[
        "streambn fit 'data/**/*.parquet' -o stats.json --columns price,volume",
        "streambn fit data/ -o stats.json --policy ema --halflife 10000",
        "streambn fit trades.csv -o stats.json --policy ema --halflife 7d --time traded_at",
        "produce | streambn fit - --checkpoint stats.json    # a stream without an end",
    ],
)
@inputs_argument
@click.option(
    "-o",
    "--output",
    metavar="STATS",
    help="Write statistics to this file. Required unless --checkpoint is given.",
)
@click.option(
    "--continue-from",
    metavar="STATS",
    help="Learn on from this statistics file, with its policy and settings.",
)
@thaw_option
@frozen_option
def fit(
    inputs: Sequence[str],
    output: str | None,
    continue_from: str | None,
    *,
    thaw: bool,
    frozen: bool,
    options: NormalizerOptions,
    job: JobOptions,
    keeping: CheckpointOptions,
) -> None:
    """Learn statistics of columns and write them to a file.

    The inputs are read once, in the order given, a batch at a time. A job that was stopped
    continues with --resume and gives the same result.
    """
    target = output or keeping.checkpoint
    if target is None:
        raise click.UsageError("Missing option '-o' / '--output' (or --checkpoint).")
    if frozen and output is None:
        raise click.UsageError("--frozen needs --output: a checkpoint must be able to learn on.")
    sources = scan(inputs)
    with usage_errors():
        check_target(target, sources)
        if job.resume:
            check_resumable(sources)
        if output is not None:
            check_checkpoint(keeping, sources, output, continue_from)
    normalizer = _start(options, continue_from, thaw=thaw)
    checkpoint = locate(keeping.checkpoint or f"{target}.checkpoint")
    use_threads(job.threads)
    with lock(checkpoint):
        if job.resume:
            remove_leftovers(checkpoint, locate(target))
        with fitting(normalizer, sources, options, job, keeping, checkpoint) as ended:
            normalizer = sbn.Normalizer.from_statistics(ended.statistics)
            if output is None:
                written = ended.keeper.write()  # nothing is written if there was nothing to learn
            else:
                written = True
                (normalizer.freeze() if frozen else normalizer).save(output)
        if output is not None:
            checkpoint.remove()
    if written and not job.quiet:
        say_fitted(normalizer, ended.done.rows, target)
    fingerprint = normalizer.freeze().fingerprint if normalizer.features else None
    report("fit", target, ended.done, fingerprint, as_json=job.json)


def _start(options: NormalizerOptions, continue_from: str | None, *, thaw: bool) -> sbn.Normalizer:
    """Return the normalizer to begin with."""
    if continue_from is None:
        return options.normalizer()
    for name in options.given:
        raise click.UsageError(
            f"--{name.replace('_', '-')} cannot be changed: --continue-from takes the policy and "
            f"all settings from {continue_from}."
        )
    return live(continue_from, thaw=thaw)


def fitting(
    normalizer: sbn.Normalizer,
    sources: list[Source],
    options: NormalizerOptions,
    job: JobOptions,
    keeping: CheckpointOptions,
    checkpoint: Location | None,
) -> AbstractContextManager[Fit]:
    """Learn from the sources, and keep a checkpoint until the block ends."""
    return fit_job(
        normalizer.statistics,
        sources,
        # The columns to read: those asked for, or those of the statistics.
        options.columns or list(normalizer.features) or None,
        job.reading(),
        job.display(),
        Checkpointing(checkpoint, keeping.checkpoint_every, job.depends(), job.resume),
    )


def check_checkpoint(
    keeping: CheckpointOptions, sources: list[Source], *others: str | None
) -> None:
    """Refuse a checkpoint in the place of another file: it is removed at the end."""
    if keeping.checkpoint is None:
        return
    check_target(keeping.checkpoint, sources)
    place = locate(keeping.checkpoint).identity
    for other in others:
        if other is not None and locate(other).identity == place:
            raise InvalidValueError(
                f"--checkpoint {keeping.checkpoint} would replace {other}, and is removed at the "
                "end. Name another file."
            )
