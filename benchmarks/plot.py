"""One picture: how near to its limit streambn and its peers do each workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.measure import Measured
from benchmarks.peers import PEERS

# Mid-tones: they can be read on white and on black, and the picture has no background.
INK, FAINT = "#6e7781", "#6e778150"
STYLES: dict[str, tuple[str, str]] = {
    "streambn": ("#e8590c", "D"),
    "NumPy": ("#4c8bf5", "o"),
    "pyarrow": ("#12a594", "s"),
    "Polars": ("#8e6fd8", "^"),
    "DuckDB": ("#b5890a", "v"),
    "scikit-learn": ("#d6409f", "P"),
    "River": ("#3d9a50", "X"),
    "torch": ("#d64545", "<"),
    "pandas": ("#7c8a99", ">"),
}


def draw(measurements: Sequence[Measured], path: Path) -> None:
    """Write the picture, of all that has a limit; the same measurements make the same file."""
    measurements = [m for m in measurements if m.workload.limits]
    with mpl.rc_context(
        {
            "svg.hashsalt": "streambn",
            "svg.fonttype": "none",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        figure = Figure(figsize=(8.4, 0.42 * len(measurements) + 1.4), layout="constrained")
        _fill(figure, measurements)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, transparent=True, metadata=metadata)


def _fill(figure: Figure, measurements: Sequence[Measured]) -> None:
    axes = figure.subplots()
    for name in [p.name for p in PEERS][::-1]:  # streambn last, above the others
        rows = [i for i, m in enumerate(measurements) if name in m.timings]
        colour, marker = STYLES[name]
        axes.scatter(
            [measurements[i].of_limit(name) or 0.0 for i in rows],
            rows,
            s=70 if name == "streambn" else 34,
            c=colour,
            marker=marker,
            linewidths=0,
            label=name,
            zorder=3,
        )
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("speed, as a fraction of the limit: of reading the data, or copying it")
    axes.set_yticks(range(len(measurements)), [m.workload.title for m in measurements])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        names[::-1],
        loc="outside upper center",
        ncols=len(names),
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.7,
        fontsize=9,
    )
