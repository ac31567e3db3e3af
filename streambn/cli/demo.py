"""`streambn demo`: the whole story on real data, each number computed as it is told.

The data is the weekly CO2 concentration at Mauna Loa, which the package brings along:
real, with missing weeks and a drift. It goes through the functions that users call.
"""

from __future__ import annotations

import datetime
import importlib.resources
import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

import streambn as sbn
from streambn.cli.app import Command, usage_errors
from streambn.io import sources as files
from streambn.io.locations import locate
from streambn.jobs.plan import check_target

__all__ = ["demo", "save_data", "story", "tell"]

_HALFLIFE = 52  # rows, which are weeks: a year
_LAST_FITTED = datetime.date(1990, 12, 31)
_LABELS = {"welford": "Welford", "ema": f"EMA(halflife={_HALFLIFE})"}


@click.command(cls=Command, examples=["streambn demo --save-data co2.csv"])
@click.option(
    "--save-data", "path", metavar="PATH", help="First write the data, a CSV file, to PATH."
)
def demo(path: str | None) -> None:
    """Walk through fit, freeze and apply on real data.

    The data are weekly CO2 concentrations at Mauna Loa, Hawaii. They have gaps and a trend.
    """
    if path is not None:
        with usage_errors():
            check_target(path)
        save_data(path)
    tell(path)


def save_data(path: str) -> None:
    """Write the data set, a CSV file, to a path or a URL."""
    locate(path).write_bytes(_resource().read_bytes())


def tell(data: str | None = None) -> None:
    """Print the story.

    Parameters
    ----------
    data : str, optional
        Where `save_data` has written the data set, for the commands at the end.
    """
    for line in story(data):
        print(line)


def story(data: str | None = None) -> Iterator[str]:
    """Yield the story line by line; the parameter is that of `tell`."""
    weeks = _weeks()
    is_early = pc.less_equal(weeks["date"], pa.scalar(_LAST_FITTED))
    early, later = weeks.filter(is_early), weeks.filter(pc.invert(is_early))
    live = {
        "welford": sbn.Normalizer(sbn.Welford(), columns=["co2"]).update(early),
        "ema": sbn.Normalizer(sbn.EMA(halflife=_HALFLIFE), columns=["co2"]).update(early),
    }
    frozen = {name: normalizer.freeze() for name, normalizer in live.items()}
    applied = {name: one.transform(weeks) for name, one in frozen.items()}

    yield from _the_data(weeks)
    yield from _the_fit(frozen)
    yield from _the_application(weeks, applied, is_early)
    yield from _the_drift(later, {name: _by_year(table) for name, table in applied.items()})
    yield from _the_way_on(later, frozen["ema"])
    yield from _the_commands(data)


def _resource() -> Any:
    return importlib.resources.files("streambn.cli") / "data" / "co2.csv"


def _weeks() -> Any:
    """Read the data set as any CSV file is read."""
    with importlib.resources.as_file(_resource()) as path:
        (source,) = files.scan([str(path)])
        return files.open_reader(source).read_all()


def _the_data(weeks: Any) -> Iterator[str]:
    dates, co2 = weeks["date"], weeks["co2"]
    per_year = _by_year(weeks)
    first, last = min(per_year), max(per_year)
    yield "1. The data: CO2 in the air at Mauna Loa, Hawaii, in parts per million (ppm)"
    yield ""
    yield from _prose(
        f"{weeks.num_rows:,} weeks from {dates[0]} to {dates[-1]}, of which {co2.null_count} have "
        f"no value. It drifts: the mean of {first} is {per_year[first]:.1f} ppm, that of {last} is "
        f"{per_year[last]:.1f}, {per_year[last] - per_year[first]:+.1f}."
    )
    yield ""


def _the_fit(frozen: dict[str, Any]) -> Iterator[str]:
    yield f"2. Two statistics of the same weeks, those up to {_LAST_FITTED}, then frozen"
    yield ""
    yield f"   {'':18} {'values':>6} {'missing':>8} {'mean':>8} {'std':>7}"
    lanes = {name: one.stats().to_pylist()[0] for name, one in frozen.items()}
    for name, lane in lanes.items():
        yield (
            f"   {_LABELS[name]:18} {lane['count']:>6,} {lane['nulls']:>8,} "
            f"{lane['mean']:>8.2f} {lane['std']:>7.2f}"
        )
    gap = lanes["ema"]["mean"] - lanes["welford"]["mean"]
    yield ""
    yield from _prose(
        "Welford lets every week count alike: it says where the series was on average. The EMA "
        f"halves a week's weight every {_HALFLIFE} weeks: it says where the series was at the end. "
        f"The drift sets their means {gap:.2f} ppm apart; and as the EMA sees little more than the "
        "seasons of the last years, its deviation is the smaller one."
    )
    yield ""


def _the_application(weeks: Any, applied: dict[str, Any], is_early: Any) -> Iterator[str]:
    gaps = pc.is_null(weeks["co2"])
    missing = {str(table["co2"].null_count) for table in applied.values()}
    kept = all(pc.is_null(table["co2"]).equals(gaps) for table in applied.values())
    fitted = applied["welford"].filter(is_early)["co2"]
    # A mean may come out as -0.0000; adding 0.0 takes the sign off.
    mean, std = round(pc.mean(fitted).as_py(), 4) + 0.0, pc.stddev(fitted).as_py()
    yield f"3. Applied to all {weeks.num_rows:,} weeks"
    yield ""
    yield from _prose(
        f"{weeks['co2'].null_count} weeks have no value; normalized, "
        f"{' and '.join(sorted(missing))} have none, "
        f"{'the same ones' if kept else 'other ones'}: a null is skipped and counted, and stays "
        f"null. Over the weeks that it was fitted on, Welford's z has mean {mean:.4f} and "
        f"deviation {std:.4f}."
    )
    yield ""


def _the_drift(later: Any, z: dict[str, dict[int, float]]) -> Iterator[str]:
    ppm = _by_year(later)
    first, last = min(ppm), max(ppm)
    yield "4. Why the two disagree on the weeks after that, which neither has seen"
    yield ""
    yield f"   {'year':6} {'mean ppm':>8} {'Welford z':>11} {'EMA z':>8}"
    for year in sorted({*range(first, last, 3), last}):
        yield f"   {year:<6} {ppm[year]:>8.1f} {z['welford'][year]:>+11.2f} {z['ema'][year]:>+8.2f}"
    yield ""
    yield from _prose(
        "Both are frozen, so both show the drift instead of following it. The mean week of "
        f"{last} lies {z['welford'][last]:.1f} deviations above the average of all weeks fitted, "
        f"but {z['ema'][last]:.1f} above the level, and on the scale, of the last of them. A model "
        "trained on those has never met such values: this is what a drift alarm sees."
    )
    yield ""


def _the_way_on(later: Any, frozen: Any) -> Iterator[str]:
    live = frozen.thaw().update(later)
    lane = live.stats().to_pylist()[0]
    z, frozen_z = _by_year(live.transform(later)), _by_year(frozen.transform(later))
    last = max(z)
    yield "5. Thawed, the EMA goes on from where it was"
    yield ""
    yield from _prose(
        f"Having learned the later weeks too, its mean is {lane['mean']:.2f} ppm and its z of "
        f"{last} is {z[last]:+.2f}. To the frozen one, {frozen.fingerprint[:12]}, that z is what "
        f"it was: {frozen_z[last]:+.2f}."
    )
    yield ""


def _the_commands(data: str | None) -> Iterator[str]:
    path = shlex.quote(data or "co2.csv")
    yield "Now you:"
    yield ""
    if data is None:
        yield f"   streambn demo --save-data {path}"
    yield f"   streambn fit {path} -o stats.json --policy ema --halflife {_HALFLIFE}"
    yield "   streambn show stats.json"
    yield f"   streambn apply stats.json {path} -o normalized.parquet"


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, 84, initial_indent="   ", subsequent_indent="   ")


def _by_year(weeks: Any) -> dict[int, float]:
    """Average the column over the weeks of each year that have a value."""
    table = pa.table({"year": pc.year(weeks["date"]), "co2": weeks["co2"]})
    means = table.group_by("year").aggregate([("co2", "mean")])
    years: list[Any] = means["year"].to_pylist()
    values: list[Any] = means["co2_mean"].to_pylist()
    return dict(zip(years, values, strict=True))
