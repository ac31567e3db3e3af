"""The plot throughput.svg: the speed of each peer relative to the limit of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log10

from benchmarks import svg
from benchmarks.measure import Comparison
from benchmarks.peers import PEERS

LEFT, RIGHT, TOP, ROW = 250, 830, 50, 26
LOWEST = 0.001  # fraction of the limit at the left edge
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
MARKS = {  # colour and shape
    "streambn": ("#e8590c", "m0-7l7 7-7 7-7-7z"),
    "NumPy": ("#4c8bf5", "m-4 0a4 4 0 0 0 8 0a4 4 0 0 0-8 0z"),
    "pyarrow": ("#12a594", "m-3.5-3.5h7v7h-7z"),
    "Polars": ("#8e6fd8", "m0-4.5l4.5 8h-9z"),
    "DuckDB": ("#b5890a", "m0 4.5l4.5-8h-9z"),
    "scikit-learn": ("#d6409f", "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"),
    "River": ("#3d9a50", "m0-2l2-2 2 2-2 2 2 2-2 2-2-2-2 2-2-2 2-2-2-2 2-2z"),
    "torch": ("#d64545", "m-4.5 0l8-4.5v9z"),
    "pandas": ("#7c8a99", "m4.5 0l-8-4.5v9z"),
}


def picture(workloads: Sequence[Comparison]) -> str:
    """Return the plot of the workloads that have a limit."""
    limited = [c for c in workloads if c.limits]
    height = TOP + ROW * len(limited) + 50
    return svg.document(850, height, "Speed relative to the limit", _lines(limited))


def _lines(workloads: Sequence[Comparison]) -> Iterator[str]:
    names = [p.name for p in PEERS if any(p.name in c.samples for c in workloads)]
    for i, name in enumerate(names):
        x = 20 + 90 * i
        yield _mark(x, 20, name)
        yield svg.text(x + 10, 24, name)
    bottom = TOP + ROW * len(workloads)
    for tick in TICKS:
        yield svg.rule(f"M{_x(tick):.1f} {TOP}V{bottom}", svg.INK if tick == 1 else svg.FAINT)
        yield svg.text(_x(tick), bottom + 16, f"{tick:g}", 'text-anchor="middle" font-size="11"')
    label = "speed, as a fraction of the limit: reading the data, or copying it"
    yield svg.text((LEFT + RIGHT) / 2, bottom + 38, label, 'text-anchor="middle"')
    for i, c in enumerate(workloads):
        y = TOP + ROW * (i + 0.5)
        yield svg.text(LEFT - 12, y + 4, c.title, 'text-anchor="end"')
        yield svg.rule(f"M{LEFT} {y:.1f}H{RIGHT}")
        for name in reversed(names):  # streambn is drawn last, above the others
            if name in c.samples:
                yield _mark(_x(c.of_limit(name) or LOWEST), y, name)


def _x(fraction: float) -> float:
    return RIGHT + (RIGHT - LEFT) * log10(max(fraction, LOWEST)) / -log10(LOWEST)


def _mark(x: float, y: float, name: str) -> str:
    colour, shape = MARKS[name]
    return f'<path d="M{x:.1f} {y:.1f}{shape}" fill="{colour}"/>'
