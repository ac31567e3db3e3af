"""The commands on statistics files: `merge` and `show`."""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import itertools
from collections.abc import Sequence
from typing import Any

import click
import pyarrow as pa

import streambn as sbn
from streambn._credentials import redact_url
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
difflib = lazy_module("difflib")

__all__ = ["merge", "show"]

_LIMIT = 40  # features in a table: what people read, and what fits a screen or a page


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
        with located(redact_url(path)):
            merged = merged.merge(newer)
    (merged.freeze() if frozen else merged).save(output)
    if merged.statistics.rounded and not quiet:
        say(f"merged exact and welford statistics; {redact_url(output)} has policy welford")


@click.command(
    cls=Command,
    examples=[
        "streambn show stats.json --columns 'sensor_*'",
        "streambn show stats.json --format json | jq '.columns[] | {column, mean, scale}'",
    ],
)
@stats_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json", "csv"]),
    default="table",
    help="A table for people (the default) or the same in Markdown, with six digits; or JSON or "
    "CSV for programs, with every digit.",
)
@click.option(
    "--columns",
    "names",
    multiple=True,
    metavar="NAMES",
    help="Show these columns or features only, in the order of the file: names separated by "
    "commas, and shell patterns such as 'sensor_*'. Repeatable.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help=f"Show all features in a table or in Markdown, which show the first {_LIMIT} by default.",
)
@click.option(
    "--at",
    metavar="TIME",
    help="Read the weights of an ema by event time as of TIME: 2026-01-31, 2026-01-31T12:30Z or "
    "a number. Default: the newest row.",
)
@version_option
def show(stats: str, form: str, names: Sequence[str], *, everything: bool, at: str | None) -> None:
    """Print a statistics file.

    It holds counts, mean, variance, standard deviation and range of each column. JSON has the
    hyperparameters and the divisor of each column (its scale) as well.

    A long table opens in a pager on a terminal: that of the variable PAGER, or less.
    """
    loaded = sbn.load(stats)
    with usage_errors():
        chosen = _choose(loaded, names) if names else range(len(loaded.features))
        when = None if at is None else _read_time(at, loaded)
        render.show(render.View(loaded, chosen, when, None if everything else _LIMIT), form)


def _choose(loaded: sbn.Normalizer | sbn.FrozenNormalizer, texts: Sequence[str]) -> Sequence[int]:
    """Return the indices of the features that --columns names."""
    features, indices = loaded.features, {}
    if loaded.statistics.binding is not None:
        indices = loaded.statistics.binding.indices
    chosen: set[int] = set()
    for name in itertools.chain.from_iterable(csv.reader(texts, skipinitialspace=True)):
        # A name comes before a pattern: "emb[0]" is both.
        found = indices.get(name) or [
            i for i, feature in enumerate(features) if fnmatch.fnmatchcase(feature, name)
        ]
        if not found:
            near = difflib.get_close_matches(name, indices, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {len(features):,} features."
            raise InvalidValueError(
                f"{name!r} names no feature of the file and matches none. {hint}",
                argument="columns",
            )
        chosen.update(found)
    return sorted(chosen)


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
