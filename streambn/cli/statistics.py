"""The commands on statistics files: `merge` and `show`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import click
import pyarrow as pa

import streambn as sbn
from streambn._lazy import lazy_module
from streambn.cli.app import Command, usage_errors, version_option
from streambn.cli.messages import say
from streambn.cli.normalizer_options import number_or_text
from streambn.cli.options import (
    frozen_option,
    live,
    quiet_option,
    stats_argument,
    stats_output_option,
    thaw_option,
)
from streambn.errors import InvalidValueError
from streambn.io import located
from streambn.jobs import check_target

# `merge` needs no rich.
render = lazy_module("streambn.cli.render")

__all__ = ["merge", "show"]


@click.command(
    cls=Command, examples=["streambn merge monday.json tuesday.json wednesday.json -o week.json"]
)
@click.argument(
    "stats",
    metavar="STATS...",
    nargs=-1,
    required=True,
    help="Statistics files of consecutive parts of one stream, the oldest first.",
)
@stats_output_option
@frozen_option
@thaw_option
@quiet_option
def merge(stats: Sequence[str], output: str, *, frozen: bool, thaw: bool, quiet: bool) -> None:
    """Merge statistics files into one.

    The result is what a single fit of all the data gives. The order matters to the policies
    ema and batch-ema, which weight older data less, except to an ema by event time.

    Exact and welford statistics merge into welford statistics.
    """
    with usage_errors():
        check_target(output)
    parts = [live(path, thaw=thaw) for path in stats]
    merged = parts[0]
    for path, newer in zip(stats[1:], parts[1:], strict=True):
        with located(path):
            merged = merged.merge(newer)
    (merged.freeze() if frozen else merged).save(output)
    if merged.statistics.rounded and not quiet:
        say(f"merged exact and welford statistics; {output} has policy welford")


@click.command(cls=Command, examples=["streambn show stats.json --format csv"])
@stats_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="A table for people (the default), or JSON or CSV for programs, with every digit.",
)
@click.option(
    "--at",
    metavar="TIME",
    help="Read the weights of an ema by event time as of TIME: 2026-01-31, 2026-01-31T12:30Z or "
    "a number. Default: the newest row.",
)
@version_option
def show(stats: str, form: str, at: str | None) -> None:
    """Print a statistics file.

    It holds counts, mean, variance, standard deviation and range of each column.
    """
    loaded = sbn.load(stats)
    with usage_errors():
        when = None if at is None else _read_time(at, loaded)
        rows = loaded.stats(when).to_pylist() if loaded.features else []
    render.show(loaded, rows, form, when)


def _read_time(text: str, loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> Any:
    """Read the value of --at."""
    time = loaded.policy.event_time
    if time is None:
        raise InvalidValueError(
            f"{text!r} has no meaning for {loaded.policy.describe()}: its weights do not change "
            "with time. Leave --at out.",
            argument="at",
        )
    if time.numeric:
        number = number_or_text(text)
        if not isinstance(number, str):
            return number
    else:
        # Arrow reads times with a zone and without, to the nanosecond where these fit.
        for kind in (pa.timestamp(unit, zone) for unit in ("ns", "us") for zone in (None, "UTC")):
            with contextlib.suppress(pa.ArrowInvalid):
                return pa.scalar(text.strip()).cast(kind)
    wanted = "a number" if time.numeric else "a time such as 2026-01-31 or 2026-01-31T12:30:00Z"
    raise InvalidValueError(
        f"{text!r} must be {wanted}, like the values of column {time.column!r}.", argument="at"
    )
