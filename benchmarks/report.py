"""What a run found, as JSON and as tables in Markdown, which read well on a terminal too."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.bars import Verdict
from benchmarks.filejobs import FilesMeasured
from benchmarks.measure import Measured, Timing
from benchmarks.peers import PEERS

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


# --------------------------------------------------------------------------- JSON


def as_json(
    measurements: Sequence[Measured],
    files: Sequence[FilesMeasured],
    verdicts: Sequence[Verdict],
    rounds: int,
) -> dict[str, Any]:
    """Give all there is to know about a run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "packages": machine.versions(),
        "kernels": machine.kernels_in_use(),
        "rounds": rounds,
        "workloads": {m.workload.name: _workload(m) for m in measurements},
        "file_jobs": {m.name: _file_job(m) for m in files},
        "bars": [
            {
                "name": bar.title,
                "workload": bar.workload,
                "against": bar.against,
                "what": bar.what,
                "bound": bar.bound,
                "ratio": ratio,
                "holds": Verdict(bar, ratio).holds,
            }
            for bar, ratio in verdicts
        ],
    }


def _workload(measured: Measured) -> dict[str, Any]:
    workload = measured.workload
    return {
        "title": workload.title,
        "unit": workload.unit,
        "threads": workload.threads,
        **workload.shape._asdict(),
        "bytes": measured.nbytes,
        "limits": workload.limits,
        "samples": {
            who: {
                "figure": measured.figure(who),
                "of_limit": measured.of_limit(who),
                "speed_of_streambn": measured.ratio(who, "streambn"),
                **_sample(timing),
            }
            for who, timing in measured.timings.items()
        },
    }


def _file_job(measured: FilesMeasured) -> dict[str, Any]:
    job = measured.job
    return {
        "title": job.title,
        "files": {place: files._asdict() for place, files in job.places.items()},
        "samples": {
            who: {
                "what": job.contenders[who].what,
                "by_streambn": measured.ratio(who, "streambn"),
                "peak_mb": peak,
                **_sample(measured.timings[who]),
            }
            for who, peak in measured.peaks.items()
        },
    }


def _sample(timing: Timing) -> dict[str, Any]:
    """Summarize the samples of one pass; the spread is the quartiles' distance."""
    taken = timing.taken
    low, _, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else (taken * 3)
    return {
        "median": timing.median,
        "min": min(taken),
        "max": max(taken),
        "spread": high - low,
        "samples": len(taken),
        "passes_per_sample": timing.passes,
    }


# ----------------------------------------------------------------------- Markdown


def table(measurements: Sequence[Measured]) -> str:
    """Set the workloads beside each other, each peer in its column."""
    others = [p.name for p in PEERS if p.name != "streambn"]
    present = [name for name in others if any(name in m.timings for m in measurements)]
    header = ["", "unit", "streambn", "of the limit", *present]
    return _aligned(
        header,
        [
            [
                m.workload.title,
                m.workload.unit,
                f"**{_digits(m.figure('streambn'))}**",
                _fraction(m.of_limit("streambn")),
                *(_digits(m.figure(name)) if name in m.timings else "" for name in present),
            ]
            for m in measurements
        ],
    )


def file_table(files: Sequence[FilesMeasured]) -> str:
    """Set the jobs on files beside each other: the time, and the most memory held."""
    others = ["Polars", "DuckDB"]

    def cell(measured: FilesMeasured, who: str) -> str:
        if who not in measured.peaks:
            return ""
        figure = measured.timings[who].median
        if measured.job.contenders[who].what == "MB":
            return f"{figure:,.0f} MB"
        return f"{figure:.2f} s, {measured.peaks[who]:,.0f} MB"

    def beside(measured: FilesMeasured) -> str:
        names = [n for n in measured.timings if n not in ("streambn", *others)]
        return "; ".join(f"{n}: {cell(measured, n)}" if n in measured.peaks else n for n in names)

    return _aligned(
        ["", "beside", "streambn", *others],
        [
            [
                m.job.title,
                beside(m),
                f"**{cell(m, 'streambn')}**",
                *(cell(m, name) for name in others),
            ]
            for m in files
        ],
    )


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Set each bar beside what was measured."""
    sides = {"speed": "at least", "time": "at most", "memory": "at most"}
    return _aligned(
        ["bar", "what", "bound", "measured", ""],
        [
            [
                v.bar.title,
                v.bar.what,
                f"{sides[v.bar.what]} {v.bar.bound:g}",
                "not measured" if v.ratio is None else f"{v.ratio:.2f}",
                "ok" if v.holds else "MISSED",
            ]
            for v in verdicts
        ],
    )


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    """Write a table whose source reads as well; all but the first two columns are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rules), *map(line, rows)])


def _fraction(of_limit: float | None) -> str:
    return "" if of_limit is None else f"{of_limit:.2g}"


def _digits(value: float) -> str:
    """Write a number with two digits, or all those before the point."""
    decimals = 2 if value < 1 else 1 if value < 10 else 0
    return f"{value:,.{decimals}f}"


# ------------------------------------------------------------------------- README


def readme_part(
    measurements: Sequence[Measured], files: Sequence[FilesMeasured], rounds: int
) -> str:
    """Write what stands in the README between the two comments."""
    here = machine.machine()
    return "\n\n".join(
        [
            BEGIN,
            f"{here['cpu']}, {here['cores']} cores; Python {here['python']}; "
            f"{machine.kernels_in_use()}; medians of {rounds} interleaved rounds, "
            "on one thread unless said.",
            table(measurements),
            "![Speed of streambn and others as a fraction of the limit](benchmarks/throughput.svg)",
            _notes(measurements),
            "Jobs on files, whole processes on all cores: the time from start to end, and the most "
            "memory held. A file has 3,000,000 rows of 16 float64, eight have as many together.",
            file_table(files),
            END,
        ]
    )


def _notes(measurements: Sequence[Measured]) -> str:
    """Say what the table cannot."""
    others = [
        f"for *{m.workload.title}* {' or '.join(m.workload.limits)}, whichever is faster"
        if len(m.workload.limits) > 1
        else f"for *{m.workload.title}* {m.workload.limits[0]} for every batch"
        for m in measurements
        if m.workload.limits not in {("np.max",), ()}
    ]
    growth = [
        f"{m.ratio('streambn', 'streambn on one column'):.2f} "
        f"({m.workload.shape.rows * m.workload.shape.columns * 8 // 10**6} MB)"
        for m in measurements
        if "streambn on one column" in m.timings
    ]
    return (
        f"The limit is np.max over the same values; {'; '.join(others)}. A peer is given its data "
        "in the form that suits it: NumPy, scikit-learn and torch a matrix. NumPy, pyarrow, "
        "Polars and torch keep no running state; putting their batches together is not counted. "
        "Polars and pandas compute the whole series of the EMA, streambn the state at its end; by "
        "event time they have the mean alone, Polars by a definition of its own. "
        "In River streambn is RiverNormalizer, against StandardScaler and, by row, "
        "AdaptiveStandardScaler; for that there is no limit but the interpreter's. "
        "In batches of equal bytes a value in one of 1,000 columns takes "
        f"{' and '.join(growth)} times as long as one in a single column."
    )


def replaced(readme: str, part: str) -> str:
    """Put the part where the README has it.

    Raises
    ------
    ValueError
        The README has not got the two comments, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"README.md must have {BEGIN} and {END}, once each, in this order")
    return f"{before}{part}{after}"
