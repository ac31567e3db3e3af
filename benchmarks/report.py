"""Tables of a run in Markdown, for the terminal, the root README and benchmarks/README.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bars import Verdict
from benchmarks.measure import Comparison
from benchmarks.peers import PEERS
from streambn import kernels

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
CHOSEN = (  # for the root README
    *("float64", "nulls", "ema", "transform", "rows", "partial-fit"),
    *("fit-snappy", "normalize-snappy"),
)
_OTHERS = [peer.name for peer in PEERS if peer.name != "streambn"]


def summary(comparisons: Sequence[Comparison]) -> str:
    """Return the part of the root README: a few rows, and the plot."""
    by_name = {c.name: c for c in comparisons}
    chosen = [by_name[name] for name in CHOSEN]
    names = _present(chosen)
    rows = []
    for c in chosen:
        times = [f"{c.ratio(who, 'streambn'):.1f} ×" if who in c.samples else "" for who in names]
        rows.append([c.title, f"**{_digits(c.figure('streambn'))} {c.unit}**", *times])
    return "\n\n".join(
        [
            f"Measured on {machine()}. A peer's column has its time as a multiple of "
            "streambn's. Files have 3,000,000 rows × 16 columns and take whole processes on all "
            "cores; everything else runs on one thread.",
            table(["", "streambn", *names], rows, texts=1),
            "![Speed of streambn and its peers relative to the speed of the memory]"
            "(benchmarks/throughput.svg)",
        ]
    )


def full(
    workloads: Sequence[Comparison],
    jobs: Sequence[Comparison],
    verdicts: Sequence[Verdict],
    rounds: int,
) -> str:
    """Return the part of benchmarks/README.md: all tables."""
    return "\n\n".join(
        [
            f"{machine()}; Python {platform.python_version()}; medians of {rounds} rounds.",
            "### Data in memory",
            workload_table(workloads),
            "![Speed of streambn and its peers relative to the speed of the memory]"
            "(throughput.svg)",
            "### Files",
            job_table(jobs),
            "### Bars",
            verdict_table(verdicts),
        ]
    )


def workload_table(workloads: Sequence[Comparison]) -> str:
    """Return the figures of all peers, a workload a row."""
    names = _present(workloads)
    rows = []
    for c in workloads:
        of_limit = c.of_limit("streambn")
        figures = [_digits(c.figure(who)) if who in c.samples else "" for who in names]
        limit = "" if of_limit is None else f"{of_limit:.2g}"
        rows.append([c.title, c.unit, f"**{_digits(c.figure('streambn'))}**", limit, *figures])
    return table(["", "unit", "streambn", "of the limit", *names], rows, texts=2)


def job_table(jobs: Sequence[Comparison]) -> str:
    """Return time and peak memory of the processes, a job a row."""

    def cell(c: Comparison, who: str) -> str:
        if who not in c.peaks:
            return ""
        seconds = "" if c.unit == "MB" else f"{c.figure(who):.2f} {c.unit}, "
        return f"{seconds}{c.peaks[who]:,.0f} MB"

    shown = ["Polars", "DuckDB"]
    rows = [
        [
            c.title,
            "; ".join(f"{w}: {cell(c, w)}" for w in c.peaks if w not in ("streambn", *shown)),
            f"**{cell(c, 'streambn')}**",
            *(cell(c, who) for who in shown),
        ]
        for c in jobs
    ]
    return table(["", "others", "streambn", *shown], rows, texts=2)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the bars and the measured ratios."""
    rows = [
        [
            v.bar.title,
            v.bar.what,
            f"{'at least' if v.bar.what == 'speed' else 'at most'} {v.bar.bound:g}",
            "not measured" if v.ratio is None else f"{v.ratio:.2f}",
            "ok" if v.holds else "MISSED",
        ]
        for v in verdicts
    ]
    return table(["bar", "of", "bound", "measured", ""], rows, texts=2)


def split(readme: Path, begin: str = BEGIN, end: str = END) -> tuple[str, str]:
    """Return the text of a README before and after its generated part.

    Raises
    ------
    ValueError
        If the README does not have each of the two comments once, in order.
    """
    before, found, rest = readme.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in after or end in after:
        raise ValueError(f"{readme} must have {begin} and {end}, once each, in this order")
    return before, after


def insert(readme: Path, part: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace the generated part of a README."""
    before, after = split(readme, begin, end)
    readme.write_text(f"{before}{begin}\n\n{part}\n\n{end}{after}")


def _present(comparisons: Sequence[Comparison]) -> list[str]:
    return [name for name in _OTHERS if any(name in c.samples for c in comparisons)]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, {kernels.describe()}"


def table(header: list[str], rows: list[list[str]], texts: int) -> str:
    """Return an aligned table in Markdown. The columns after the first `texts` hold numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        sides = zip(cells, widths, strict=True)
        padded = [c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(sides)]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rules), *map(line, rows)])


def _digits(value: float) -> str:
    """Format a number with two digits, or with all digits before the point."""
    return f"{value:,.{2 if value < 1 else 1 if value < 10 else 0}f}"
