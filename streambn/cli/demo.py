"""The command `demo`: fit, freeze, apply and thaw on real data, with every figure computed.

The data are weekly CO2 concentrations at Mauna Loa, which the package contains. They have gaps
and a trend.
"""

from __future__ import annotations

import datetime
import importlib.resources
import shlex
import textwrap
from collections.abc import Iterator
from importlib.resources.abc import Traversable

import click
import pyarrow as pa
import pyarrow.compute as pc

import streambn as sbn
from streambn._credentials import redact_url
from streambn._messages import escape
from streambn.cli.app import Command, usage_errors
from streambn.io import locate, open_reader, scan
from streambn.jobs import check_target
from streambn.policies import Policy

__all__ = ["demo", "story"]

_HALFLIFE = 52  # weeks
_LAST_FITTED = datetime.date(1990, 12, 31)
_POLICIES: dict[str, Policy] = {
    "Welford": sbn.Welford(),
    f"EMA(halflife={_HALFLIFE})": sbn.EMA(halflife=_HALFLIFE),
}


@click.command(cls=Command, examples=["streambn demo --save-data co2.csv"])
@click.option("--save-data", "path", metavar="PATH", help="First write the data to PATH, as CSV.")
def demo(path: str | None) -> None:
    """Walk through fit, freeze and apply on real data.

    The data are weekly CO2 concentrations at Mauna Loa, Hawaii. They have gaps and a trend.
    """
    if path is not None:
        with usage_errors():
            check_target(path)
        locate(path).write_bytes(_resource().read_bytes())
    for line in story(path):
        click.echo(line)


def story(data: str | None = None) -> Iterator[str]:
    """Yield the lines of the demo.

    Parameters
    ----------
    data : str, optional
        Path of a copy of the data, for the commands at the end.
    """
    weeks = _weeks()
    early = pc.less_equal(weeks["date"], pa.scalar(_LAST_FITTED))
    fitted, later = weeks.filter(early), weeks.filter(pc.invert(early))
    frozen = {
        label: sbn.Normalizer(policy, columns=["co2"]).update(fitted).freeze()
        for label, policy in _POLICIES.items()
    }
    welford, ema = frozen.values()
    yield from _describe_data(weeks)
    yield from _describe_fit(frozen)
    yield from _describe_application(weeks, fitted, welford)
    yield from _describe_drift(later, welford, ema)
    yield from _describe_thaw(later, ema)
    yield from _list_commands(data)


def _resource() -> Traversable:
    return importlib.resources.files("streambn.cli") / "data" / "co2.csv"


def _weeks() -> pa.Table:
    with importlib.resources.as_file(_resource()) as path:
        [source] = scan([str(path)])
        return open_reader(source).read_all()


def _describe_data(weeks: pa.Table) -> Iterator[str]:
    dates, co2, means = weeks["date"], weeks["co2"], _yearly_means(weeks)
    first, last = min(means), max(means)
    yield "1. Data: CO2 at Mauna Loa, Hawaii, in parts per million (ppm)"
    yield from _paragraph(
        f"{weeks.num_rows:,} weeks from {dates[0]} to {dates[-1]}, {co2.null_count} of them "
        f"without a value. The yearly mean rises from {means[first]:.1f} ppm in {first} to "
        f"{means[last]:.1f} ppm in {last}."
    )


def _describe_fit(frozen: dict[str, sbn.FrozenNormalizer]) -> Iterator[str]:
    yield f"2. Fit two policies on the weeks up to {_LAST_FITTED}, and freeze them"
    yield ""
    yield f"   {'':18} {'values':>6} {'missing':>8} {'mean':>8} {'std':>7}"
    rows = {label: each.stats().to_pylist()[0] for label, each in frozen.items()}
    for label, row in rows.items():
        yield (
            f"   {label:18} {row['count']:>6,} {row['nulls']:>8,} "
            f"{row['mean']:>8.2f} {row['std']:>7.2f}"
        )
    welford, ema = rows.values()
    yield from _paragraph(
        f"Welford weights all weeks equally. The EMA halves the weight of a week every {_HALFLIFE} "
        f"weeks, so it follows the trend: its mean is {ema['mean'] - welford['mean']:.2f} ppm "
        "higher, and its standard deviation is little more than the seasons of recent years."
    )


def _describe_application(
    weeks: pa.Table, fitted: pa.Table, welford: sbn.FrozenNormalizer
) -> Iterator[str]:
    missing, z = welford.transform(weeks)["co2"].null_count, welford.transform(fitted)["co2"]
    # Adding 0.0 turns -0.0 into 0.0.
    mean, std = round(pc.mean(z).as_py(), 4) + 0.0, pc.stddev(z).as_py()
    yield f"3. Normalize all {weeks.num_rows:,} weeks"
    yield from _paragraph(
        f"The {missing} missing values stay missing. By Welford, the weeks of the fit get mean "
        f"{mean:.4f} and standard deviation {std:.4f}. Later weeks drift away:"
    )


def _describe_drift(
    later: pa.Table, welford: sbn.FrozenNormalizer, ema: sbn.FrozenNormalizer
) -> Iterator[str]:
    ppm, by_welford, by_ema = (
        _yearly_means(table) for table in (later, welford.transform(later), ema.transform(later))
    )
    first, last = min(ppm), max(ppm)
    yield f"   {'year':6} {'mean ppm':>8} {'Welford z':>11} {'EMA z':>8}"
    for year in sorted({*range(first, last, 3), last}):
        yield f"   {year:<6} {ppm[year]:>8.1f} {by_welford[year]:>+11.2f} {by_ema[year]:>+8.2f}"
    yield from _paragraph(
        f"Frozen statistics do not follow the drift, so they reveal it: the mean of {last} is "
        f"{by_welford[last]:.1f} standard deviations above the weeks of the fit, and "
        f"{by_ema[last]:.1f} above the most recent of them."
    )


def _describe_thaw(later: pa.Table, ema: sbn.FrozenNormalizer) -> Iterator[str]:
    live = ema.thaw().update(later)
    z, frozen_z = _yearly_means(live.transform(later)), _yearly_means(ema.transform(later))
    last = max(z)
    yield "4. Thaw the EMA and learn the later weeks"
    yield from _paragraph(
        f"Its mean is now {live.stats()['mean'][0].as_py():.2f} ppm, and the z of {last} is "
        f"{z[last]:+.2f}. The frozen EMA, {ema.fingerprint[:12]}, still gives "
        f"{frozen_z[last]:+.2f}."
    )


def _list_commands(data: str | None) -> Iterator[str]:
    path = escape(redact_url(shlex.quote(data or "co2.csv")))
    yield "Try it:"
    yield ""
    if data is None:
        yield f"   streambn demo --save-data {path}"
    yield f"   streambn fit {path} -o stats.json --policy ema --halflife {_HALFLIFE}"
    yield "   streambn show stats.json"
    yield f"   streambn apply stats.json {path} -o normalized.parquet"


def _paragraph(text: str) -> list[str]:
    lines = textwrap.wrap(text, 84, initial_indent="   ", subsequent_indent="   ")
    return ["", *lines, ""]


def _yearly_means(weeks: pa.Table) -> dict[int, float]:
    table = pa.table({"year": pc.year(weeks["date"]), "co2": weeks["co2"]})
    means = table.group_by("year").aggregate([("co2", "mean")])
    return dict(zip(means["year"].to_pylist(), means["co2_mean"].to_pylist(), strict=True))
