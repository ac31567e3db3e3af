"""The picture forgetting.svg: the running means of four policies over one real series.

    python -m benchmarks.forgetting

The series is the weekly CO2 of the demo. Weeks without a value are dropped, as a feed drops them,
so an EMA by row does not notice them. Each curve is read from a normalizer while it learns. The
picture is the same on every machine.
"""

from __future__ import annotations

import datetime
import importlib.resources
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

import streambn as sbn
from benchmarks import svg

PICTURE = Path(__file__).parent / "forgetting.svg"

LEFT, RIGHT = 40, 620  # edges of both panels; the names of the curves stand on the right
LINE = 15  # height of a line of text


class Curve(NamedTuple):
    """A policy, and how to draw its running mean."""

    policy: Any
    name: tuple[str, ...]  # in lines
    colour: str
    style: str = 'stroke-width="2"'


class Panel(NamedTuple):
    """A stretch of time, and the curves over it."""

    title: str
    remark: str
    start: datetime.date  # the policies learn the rows before it too
    end: datetime.date
    top: int
    bottom: int
    ppm: tuple[int, int, int]  # lowest and highest value, and the distance of the grid's lines
    ticks: list[tuple[datetime.date, str]]
    curves: tuple[Curve, ...]  # the last one is drawn above the others
    every: int  # rows for each point of a curve

    def x(self, day: datetime.date) -> float:
        """Return the position of a day."""
        return LEFT + (RIGHT - LEFT) * ((day - self.start) / (self.end - self.start))

    def y(self, ppm: float) -> float:
        """Return the position of a value."""
        low, high, _ = self.ppm
        return self.bottom - (self.bottom - self.top) * (ppm - low) / (high - low)


ROW, TIME, BLOCK, ALL = "#4c8bf5", "#e8590c", "#12a594", "#b5890a"


def _curves(
    halflife: int, rate: dict[str, Any], batch_rows: int, style: str = 'stroke-width="2"'
) -> tuple[Curve, ...]:
    """Return a curve for each policy. The half-life is a number of weeks, which are rows."""
    [(name, value)] = rate.items()
    days = f"{7 * halflife}d"
    block: Any = sbn.BatchEMA(**rate, batch_rows=batch_rows, initial=None)
    lines = (f"BatchEMA({name}={value},", f"batch_rows={batch_rows}, initial=None)")
    by_time = f'EMA(halflife="{days}", time="date")'
    return (
        Curve(sbn.Welford(), ("Welford()",), ALL),
        Curve(block, lines, BLOCK),
        Curve(sbn.EMA(halflife=halflife), (f"EMA(halflife={halflife})",), ROW),
        Curve(sbn.EMA(halflife=days, time="date"), (by_time,), TIME, style),
    )


PANELS = (
    Panel(
        title="Forty-three years that drift",
        remark="a value's weight halves in a year, or never",
        start=datetime.date(1958, 1, 1),
        end=datetime.date(2002, 1, 1),
        top=46,
        bottom=266,
        ppm=(310, 375, 10),
        ticks=[(datetime.date(year, 1, 1), str(year)) for year in range(1960, 2001, 5)],
        curves=_curves(52, {"decay": 0.84}, 13, 'stroke-width="2" stroke-dasharray="5 5"'),
        every=4,
    ),
    Panel(
        title="Eighteen weeks without a value",
        remark="a value's weight halves in eight weeks, or in eight rows",
        start=datetime.date(1963, 10, 1),
        end=datetime.date(1964, 8, 25),
        top=350,
        bottom=560,
        ppm=(314, 323, 2),
        ticks=[
            (datetime.date(1963, 10, 1), "Oct 1963"),
            (datetime.date(1963, 12, 1), "Dec"),
            (datetime.date(1964, 2, 1), "Feb 1964"),
            (datetime.date(1964, 4, 1), "Apr"),
            (datetime.date(1964, 6, 1), "Jun"),
            (datetime.date(1964, 8, 1), "Aug"),
        ],
        curves=_curves(8, {"momentum": 0.3}, 4),
        every=1,
    ),
)


def weeks() -> pa.RecordBatch:
    """Read the weeks that have a value."""
    with (importlib.resources.files("streambn.cli") / "data/co2.csv").open("rb") as file:
        table = csv.read_csv(file)
    [batch] = table.filter(pc.is_valid(table["co2"])).combine_chunks().to_batches()
    return batch


def means(policy: Any, rows: pa.RecordBatch, after: Sequence[int]) -> list[float]:
    """Return the running mean after each of some rows, NaN while there is none."""
    running = sbn.Normalizer(policy, columns=["co2"])
    found = []
    for start, stop in pairwise([0, *(i + 1 for i in after)]):
        running.update(rows.slice(start, stop - start))
        [mean] = running.stats()["mean"].to_pylist()
        found.append(float("nan") if mean is None else mean)
    return found


def picture() -> str:
    """Return the picture."""
    rows = weeks()
    lines = [line for panel in PANELS for line in _panel(panel, rows)]
    return svg.document(850, 590, "The running means of four policies over one series", lines)


def _panel(panel: Panel, rows: pa.RecordBatch) -> Iterator[str]:
    dates, values = rows["date"].to_pylist(), rows["co2"].to_pylist()
    inside = [i for i, date in enumerate(dates) if panel.start <= date <= panel.end]
    yield svg.text(LEFT, panel.top - 26, panel.title, 'font-size="14" font-weight="bold"')
    yield svg.text(LEFT, panel.top - 10, f"Running mean of weekly CO₂, ppm; {panel.remark}")
    yield from _frame(panel)
    yield from _gap(panel, [dates[i] for i in inside])
    dots = "".join(f"M{panel.x(dates[i]):.1f} {panel.y(values[i]):.1f}h0" for i in inside)
    width = 3 if panel.every == 1 else 1.5
    yield (
        f'<path d="{dots}" stroke="{svg.INK}" stroke-opacity="0.75" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )
    # A curve that begins with the row before the first one reaches the edge.
    chosen = [i for i in range(inside[0] - 1, inside[-1] + 1) if i >= 0 and i % panel.every == 0]
    ends = []
    for curve in panel.curves:
        ys = map(panel.y, means(curve.policy, rows, chosen))
        points = [(panel.x(dates[i]), y) for i, y in zip(chosen, ys, strict=True) if isfinite(y)]
        yield (
            f'<path d="{_steps(points)}" fill="none" stroke="{curve.colour}" {curve.style} '
            'stroke-linejoin="round"/>'
        )
        ends.append(points[-1][1])
    for curve, y in zip(panel.curves, _apart(ends, panel.curves), strict=True):
        for i, line in enumerate(curve.name):
            yield svg.text(RIGHT + 8, y + 4 + i * LINE, line, f'fill="{curve.colour}"')


def _frame(panel: Panel) -> Iterator[str]:
    """Draw the grid and its labels."""
    low, high, step = panel.ppm
    for ppm in range(-(-low // step) * step, high + 1, step):
        y = panel.y(ppm)
        yield svg.rule(f"M{LEFT} {y:.1f}H{RIGHT}")
        yield svg.text(LEFT - 8, y + 4, str(ppm), 'text-anchor="end" font-size="11"')
    for date, name in panel.ticks:
        x = panel.x(date)
        yield svg.rule(f"M{x:.1f} {panel.bottom}v4", svg.INK)
        yield svg.text(x, panel.bottom + 18, name, 'text-anchor="middle" font-size="11"')


def _gap(panel: Panel, dates: Sequence[datetime.date]) -> Iterator[str]:
    """Shade the longest gap, if the panel shows single weeks."""
    if panel.every != 1:
        return
    before, after = max(pairwise(dates), key=lambda pair: pair[1] - pair[0])
    x, width = panel.x(before), panel.x(after) - panel.x(before)
    yield (
        f'<rect x="{x:.1f}" y="{panel.top}" width="{width:.1f}" '
        f'height="{panel.bottom - panel.top}" fill="{svg.INK}" fill-opacity="0.1"/>'
    )


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """Return a path that keeps a mean until the next one."""
    (x, y), *rest = points
    path = [f"M{max(x, LEFT):.1f} {y:.1f}"]
    for x, y in rest:
        path.append(f"H{x:.1f}V{y:.1f}")
    return "".join([*path, f"H{RIGHT}"])


def _apart(ys: Sequence[float], curves: Sequence[Curve]) -> list[float]:
    """Return the heights of the names, moved down as little as separates them."""
    placed: dict[int, float] = {}
    free = float("-inf")
    for i in sorted(range(len(ys)), key=lambda i: ys[i]):
        placed[i] = max(ys[i], free)
        free = placed[i] + LINE * len(curves[i].name)
    return [placed[i] for i in range(len(ys))]


if __name__ == "__main__":
    PICTURE.write_text(picture())
