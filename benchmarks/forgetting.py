"""One picture: what four ways to forget make of one real series.

    python -m benchmarks.forgetting

writes `forgetting.svg` from the weekly CO2 that the package brings along. The weeks without a
value are left out, as a feed leaves them out; so an EMA by row does not notice them. Every curve
is read from a normalizer while it learns them.
"""

from __future__ import annotations

import datetime
import importlib.resources
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

import streambn as sbn

PICTURE = Path(__file__).parent / "forgetting.svg"

# Mid-tones: they can be read on white and on black, and the picture has no background.
INK, FAINT = "#6e7781", "#6e778150"
WIDTH, HEIGHT = 850, 590
LEFT, RIGHT = 40, 620  # of both panels; to the right are the names of the curves
LINE = 15  # between two lines of text


class Curve(NamedTuple):
    """A policy, and how its running mean is drawn."""

    policy: Any
    name: tuple[str, ...]  # in lines
    colour: str
    style: str = 'stroke-width="2"'


class Panel(NamedTuple):
    """A stretch of time, and the curves over it.

    Attributes
    ----------
    title, remark : str
    start, end : datetime.date
        The rows before are learned too.
    top, bottom : int
        Where it lies.
    ppm : (int, int, int)
        Lowest and highest value, and how far apart two lines of the grid are.
    ticks : list of (datetime.date, str)
    curves : tuple of Curve
        The last one above the others.
    every : int
        How many rows there are to a point of a curve.
    """

    title: str
    remark: str
    start: datetime.date
    end: datetime.date
    top: int
    bottom: int
    ppm: tuple[int, int, int]
    ticks: list[tuple[datetime.date, str]]
    curves: tuple[Curve, ...]
    every: int

    def x(self, day: datetime.date) -> float:
        """Return where a day is."""
        return LEFT + (RIGHT - LEFT) * ((day - self.start) / (self.end - self.start))

    def y(self, ppm: float) -> float:
        """Return where a value is."""
        low, high, _ = self.ppm
        return self.bottom - (self.bottom - self.top) * (ppm - low) / (high - low)


ROW, TIME, BLOCK, ALL = "#4c8bf5", "#e8590c", "#12a594", "#b5890a"
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
        curves=(
            Curve(sbn.Welford(), ("Welford()",), ALL),
            Curve(
                sbn.BatchEMA(decay=0.84, batch_rows=13, initial=None),
                ("BatchEMA(decay=0.84,", "batch_rows=13, initial=None)"),
                BLOCK,
            ),
            Curve(sbn.EMA(halflife=52), ("EMA(halflife=52)",), ROW),
            Curve(
                sbn.EMA(halflife="364d", time="date"),
                ('EMA(halflife="364d", time="date")',),
                TIME,
                'stroke-width="2" stroke-dasharray="5 5"',
            ),
        ),
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
        curves=(
            Curve(sbn.Welford(), ("Welford()",), ALL),
            Curve(
                sbn.BatchEMA(momentum=0.3, batch_rows=4, initial=None),
                ("BatchEMA(momentum=0.3,", "batch_rows=4, initial=None)"),
                BLOCK,
            ),
            Curve(sbn.EMA(halflife=8), ("EMA(halflife=8)",), ROW),
            Curve(
                sbn.EMA(halflife="56d", time="date"), ('EMA(halflife="56d", time="date")',), TIME
            ),
        ),
        every=1,
    ),
)


def weeks() -> pa.RecordBatch:
    """Read the weeks that have a value."""
    with importlib.resources.as_file(
        importlib.resources.files("streambn") / "data" / "co2.csv"
    ) as path:
        table = csv.read_csv(path)
    [batch] = table.filter(pc.is_valid(table["co2"])).combine_chunks().to_batches()
    return batch


def means(policy: Any, rows: pa.RecordBatch, after: Sequence[int]) -> list[float]:
    """Return the running mean after each of those rows; NaN while there is none."""
    running = sbn.Normalizer(policy, columns=["co2"])
    found = []
    for start, stop in pairwise([0, *(i + 1 for i in after)]):
        running.update(rows.slice(start, stop - start))
        [mean] = running.stats()["mean"].to_pylist()
        found.append(float("nan") if mean is None else mean)
    return found


def picture() -> str:
    """Return the picture as SVG, the same at every run."""
    rows = weeks()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{INK}">',
        "<title>The running means of four policies over one series</title>",
        *(line for panel in PANELS for line in _panel(panel, rows)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(panel: Panel, rows: pa.RecordBatch) -> Iterator[str]:
    dates, values = rows["date"].to_pylist(), rows["co2"].to_pylist()
    inside = [i for i, date in enumerate(dates) if panel.start <= date <= panel.end]
    yield _text(LEFT, panel.top - 26, panel.title, 'font-size="14" font-weight="bold"')
    yield _text(LEFT, panel.top - 10, f"Running mean of weekly CO₂, ppm; {panel.remark}")
    yield from _frame(panel)
    yield from _gap(panel, [dates[i] for i in inside])
    dots = "".join(f"M{panel.x(dates[i]):.1f} {panel.y(values[i]):.1f}h0" for i in inside)
    width = 3 if panel.every == 1 else 1.5
    yield (
        f'<path d="{dots}" stroke="{INK}" stroke-opacity="0.75" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )
    # From the last row before, so that each curve begins at the edge.
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
            yield _text(RIGHT + 8, y + 4 + i * LINE, line, f'fill="{curve.colour}"')


def _frame(panel: Panel) -> Iterator[str]:
    """Draw the grid and what stands at its lines."""
    low, high, step = panel.ppm
    for ppm in range(-(-low // step) * step, high + 1, step):
        y = panel.y(ppm)
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{FAINT}" stroke-width="0.6"/>'
        yield _text(LEFT - 8, y + 4, str(ppm), 'text-anchor="end" font-size="11"')
    for date, name in panel.ticks:
        x = panel.x(date)
        yield f'<path d="M{x:.1f} {panel.bottom}v4" stroke="{INK}" stroke-width="0.6"/>'
        yield _text(x, panel.bottom + 18, name, 'text-anchor="middle" font-size="11"')


def _gap(panel: Panel, dates: Sequence[datetime.date]) -> Iterator[str]:
    """Shade the longest gap, where weeks are told apart."""
    if panel.every != 1:
        return
    before, after = max(pairwise(dates), key=lambda pair: pair[1] - pair[0])
    x, width = panel.x(before), panel.x(after) - panel.x(before)
    yield (
        f'<rect x="{x:.1f}" y="{panel.top}" width="{width:.1f}" '
        f'height="{panel.bottom - panel.top}" fill="{INK}" fill-opacity="0.1"/>'
    )


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """Return a path on which a mean holds until the next one is known."""
    (x, y), *rest = points
    path = [f"M{max(x, LEFT):.1f} {y:.1f}"]
    for x, y in rest:
        path.append(f"H{x:.1f}V{y:.1f}")
    return "".join([*path, f"H{RIGHT}"])


def _apart(ys: Sequence[float], curves: Sequence[Curve]) -> list[float]:
    """Move names of curves as little down as keeps one from the next."""
    placed: dict[int, float] = {}
    free = float("-inf")
    for i in sorted(range(len(ys)), key=lambda i: ys[i]):
        placed[i] = max(ys[i], free)
        free = placed[i] + LINE * len(curves[i].name)
    return [placed[i] for i in range(len(ys))]


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    space = " " if attributes else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{space}{attributes}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture())
    print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes", file=sys.stderr)
