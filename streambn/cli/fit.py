"""The command `fit`, and the parts of it that `normalize` shares."""

from __future__ import annotations

from collections.abc import Sequence

import click

import streambn as sbn
from streambn._credentials import redact_url
from streambn.cli.app import Command, usage_errors
from streambn.cli.engine import ENGINE_OPTIONS, EngineOptions
from streambn.cli.messages import report, say_fitted, say_left_out
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
from streambn.errors import InvalidValueError
from streambn.io import Source, locate
from streambn.jobs import check_resumable, check_target, fit_job

__all__ = ["check_checkpoint", "fit"]


@click.command(
    cls=Command,
    groups=[NORMALIZER_OPTIONS, JOB_OPTIONS, CHECKPOINT_OPTIONS, ENGINE_OPTIONS],
    examples=[
        "streambn fit 'data/**/*.parquet' -o stats.json --columns price,volume",
        "streambn fit data/ -o stats.json --policy ema --halflife 10000",
        "streambn fit trades.csv -o stats.json --policy ema --halflife 7d --time traded_at",
        "streambn fit s3://bucket/data -o stats.json --engine spark",
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
    checkpoints: CheckpointOptions,
    engine: EngineOptions,
) -> None:
    """Learn statistics of columns and write them to a file.

    The inputs are read once, in the order given, a batch at a time. A job that was stopped
    continues with --resume and gives the same result.
    """
    target = output or checkpoints.path
    if target is None:
        raise click.UsageError("Missing option '-o' / '--output' (or --checkpoint).")
    if frozen and output is None:
        raise click.UsageError("--frozen needs --output: a checkpoint must be able to learn on.")
    engine.check(inputs)
    sources, unusable = job.scan(inputs)
    with usage_errors():
        check_target(target, sources)
        if job.resume:
            check_resumable(sources)
        if output is not None:
            check_checkpoint(checkpoints, sources, output, continue_from)
    normalizer = _start(options, continue_from, thaw=thaw)
    with engine.executor() as executor:
        done = fit_job(
            normalizer.statistics,
            sources,
            output,
            checkpoints.checkpoint(locate(target).with_suffix(".checkpoint"), resume=job.resume),
            frozen=frozen,
            options=job.read_options,
            display=job.display,
            executor=executor,
        ).with_skipped(unusable)
    if not job.quiet and (output is not None or done.rows):
        say_fitted(done, target)
        say_left_out(done)
    report("fit", done, as_json=job.json)


def _start(options: NormalizerOptions, continue_from: str | None, *, thaw: bool) -> sbn.Normalizer:
    """Return the normalizer to begin with."""
    if continue_from is None:
        return options.normalizer()
    for name in options.given:
        raise click.UsageError(
            f"--{name.replace('_', '-')} cannot be changed: --continue-from takes the policy and "
            f"all settings from {redact_url(continue_from)}."
        )
    return live(continue_from, thaw=thaw)


def check_checkpoint(
    checkpoints: CheckpointOptions, sources: list[Source], *others: str | None
) -> None:
    """Refuse a checkpoint in the place of another file: it is removed at the end."""
    if checkpoints.path is None:
        return
    check_target(checkpoints.path, sources)
    place = locate(checkpoints.path).identity
    for other in others:
        if other is not None and locate(other).identity == place:
            name, replaced = redact_url(checkpoints.path), redact_url(other)
            raise InvalidValueError(
                f"--checkpoint {name} would replace {replaced}, and is removed at the end. Name "
                "another file."
            )
