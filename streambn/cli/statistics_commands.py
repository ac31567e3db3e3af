"""The commands of the shell: what each takes, and what it does with the library.

Here are those about statistics files; those that read data are in `streambn.cli.file_commands`.
Nothing here handles an error or a signal; that is for `streambn.cli.main`, which runs them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

import streambn as sbn
from streambn.cli import file_commands  # first, as help lists commands in the order of definition
from streambn.cli.app import UsageError, Version, app, as_live, usage
from streambn.cli.options import Frozen, Quiet, Stats, StatsOut, parse_time
from streambn.errors import InvalidValueError

__all__ = ["ShowFormat", "UsageError", "app", "demo", "file_commands", "merge", "show"]


class ShowFormat(StrEnum):
    """The forms in which `show` prints."""

    table = "table"
    json = "json"
    csv = "csv"


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
    from streambn.jobs import plan as outputs  # noqa: PLC0415
    from streambn.jobs.inputs import located  # noqa: PLC0415

    del quiet  # there is nothing to be quiet about; scripts may say it everywhere
    with usage():
        outputs.check_target(output)
    merged = as_live(sbn.load(stats[0]))
    for path in stats[1:]:
        newer = as_live(sbn.load(path))
        with located(path):
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
    from streambn.cli import render  # noqa: PLC0415

    loaded = sbn.load(stats)
    with usage():
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
    from streambn.cli import demo as story  # noqa: PLC0415
    from streambn.jobs import plan as outputs  # noqa: PLC0415

    if save_data is not None:
        with usage():
            outputs.check_target(save_data)
        story.save_data(save_data)
    story.tell(save_data)


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
