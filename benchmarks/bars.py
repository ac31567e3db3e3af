"""How fast streambn has to be: bounds on ratios of times, or of memory, taken in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from benchmarks.filejobs import ALLOWED, AN_EIGHTH, WITH_WELFORD
from benchmarks.measure import Compared
from benchmarks.workloads import COPIES, ON_ONE_THREAD, ON_TWO_THREADS


class Bar(NamedTuple):
    """A bound on streambn's speed, or its time, by that of something else.

    Attributes
    ----------
    title : str
        What is compared.
    workload : str
        The name of the one, or of the job on files, in whose rounds both are measured.
    against : tuple of str
        By what the ratio is taken; of several, the hardest on streambn counts.
    what : {"speed", "time", "memory"}
        The speed has to be at least `bound` times that of the other; time and memory at most.
    bound : float
    """

    title: str
    workload: str
    against: tuple[str, ...]
    what: Literal["speed", "time", "memory"]
    bound: float


class Verdict(NamedTuple):
    """A bar and the ratio measured; None: it could not be, and so the bar is missed."""

    bar: Bar
    ratio: float | None

    @property
    def holds(self) -> bool:
        """Whether the bar was cleared."""
        if self.ratio is None:
            return False
        if self.bar.what == "speed":
            return self.ratio >= self.bar.bound
        return self.ratio <= self.bar.bound


BARS = (
    Bar("float64 against np.max", "float64", ("np.max",), "speed", 0.70),
    Bar(
        "float64, both on two threads, against np.max", "two-threads", ON_TWO_THREADS, "speed", 0.60
    ),
    Bar("20 % nulls against none", "nulls", ("streambn without nulls",), "speed", 0.85),
    Bar("float32 against np.max", "float32", ("np.max",), "speed", 0.50),
    Bar("int64 against np.max", "int64", ("np.max",), "speed", 0.50),
    Bar("float64 against Polars", "float64", ("Polars",), "speed", 1.8),
    Bar("float64 against pyarrow", "float64", ("pyarrow",), "speed", 2.5),
    Bar("EMA by row against Polars", "ema", ("Polars",), "speed", 6.0),
    Bar(
        "EMA by row, a thousand half-lives a batch, against none",
        "ema",
        ("streambn without forgetting",),
        "time",
        1.05,
    ),
    Bar("EMA by event time against Polars' ewm_mean_by", "ema-time", ("Polars",), "speed", 3.0),
    Bar("weights against none", "weights", ("streambn without weights",), "time", 1.6),
    Bar("transform, 64k rows, against np.copyto", "transform", COPIES, "speed", 0.60),
    Bar("1,000 × 50 against River", "1000x50", ("River",), "speed", 7.0),
    Bar("1,000 × 50 against scikit-learn", "1000x50", ("scikit-learn",), "speed", 5.0),
    Bar(
        "10 × 10 against np.add.reduce of 10 values",
        "10x10",
        ("np.add.reduce of 10 values",),
        "time",
        18.75,
    ),
    Bar(
        "a value in 1,000 columns against one, 128 MB each",
        "1000-columns-128MB",
        ("streambn on one column",),
        "time",
        1.5,
    ),
    Bar("rows in River against its StandardScaler", "rows", ("River",), "speed", 5.0),
    Bar("the same, against its AdaptiveStandardScaler", "rows-ema", ("River",), "speed", 3.0),
    Bar("frames in River against its StandardScaler", "frames", ("River",), "speed", 6.0),
    Bar(
        "in scikit-learn against its StandardScaler",
        "partial-fit",
        ("scikit-learn",),
        "speed",
        5.0,
    ),
    Bar("Exact, float64, against NumPy's mean and var", "exact-float64", ("NumPy",), "speed", 2.0),
    Bar("the same against DuckDB", "exact-float64", ("DuckDB",), "speed", 2.0),
    Bar("Exact, float32, against NumPy", "exact-float32", ("NumPy",), "speed", 3.0),
    Bar("Exact, int64, against NumPy", "exact-int64", ("NumPy",), "speed", 3.0),
    Bar("Exact, 30 decades, against NumPy", "exact-decades", ("NumPy",), "speed", 0.5),
    Bar("Exact on two threads against one", "exact-two-threads", (ON_ONE_THREAD,), "speed", 1.8),
    Bar("streambn --help against import pyarrow", "help", ("import pyarrow",), "time", 1.6),
    Bar("fit a file against Polars, streaming", "fit-file", ("Polars",), "time", 1.0),
    Bar("fit a file against DuckDB", "fit-file", ("DuckDB",), "time", 0.6),
    Bar("fit a file, exactly, against Welford", "fit-file", (WITH_WELFORD,), "time", 1.1),
    Bar(
        "fit a file, process under way, against a scan of pyarrow's",
        "fit-inside",
        ("pyarrow's scan",),
        "time",
        1.25,
    ),
    Bar("normalize a file against Polars", "normalize-file", ("Polars",), "time", 0.75),
    Bar("normalize a file against DuckDB", "normalize-file", ("DuckDB",), "time", 0.4),
    Bar("normalize eight files against Polars", "normalize-files", ("Polars",), "time", 0.6),
    Bar("eight times the rows against once", "normalize-memory", (AN_EIGHTH,), "memory", 1.15),
    Bar("the same against 600 MB", "normalize-memory", (ALLOWED,), "memory", 1.0),
)


def judged(measurements: Sequence[Compared]) -> list[Verdict]:
    """Judge the bars of those workloads and jobs that were measured."""
    by_name = {m.name: m for m in measurements}
    return [Verdict(b, _ratio(b, by_name[b.workload])) for b in BARS if b.workload in by_name]


def _ratio(bar: Bar, measured: Compared) -> float | None:
    if any(other not in measured.timings for other in bar.against):
        return None
    if bar.what == "speed":
        return min(measured.ratio(other, "streambn") for other in bar.against)
    return max(measured.ratio("streambn", other) for other in bar.against)
