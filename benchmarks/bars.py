"""The bars: how fast streambn must be, as bounds on ratios measured in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from benchmarks import workloads
from benchmarks.filejobs import ALLOWED, AN_EIGHTH, COPY, LOOP, SCANS, SHOWN, WELFORD
from benchmarks.measure import Comparison


class Bar(NamedTuple):
    """A bound on the speed of streambn, its time or its memory, relative to something else.

    The speed must be at least `bound` times that of the others; time and memory at most. The ratio
    that is worst for streambn counts.
    """

    title: str
    work: str  # the name of the workload or file job in which all are measured
    against: tuple[str, ...]
    what: Literal["speed", "time", "memory"]
    bound: float

    def ratio(self, measured: Comparison) -> float | None:
        """Return the ratio, or None if one of the others was not measured."""
        if any(other not in measured.samples for other in self.against):
            return None
        if self.what == "speed":
            return min(measured.ratio(other, "streambn") for other in self.against)
        return max(measured.ratio("streambn", other) for other in self.against)


class Verdict(NamedTuple):
    """A bar and the measured ratio. A bar without a ratio is missed."""

    bar: Bar
    ratio: float | None

    @property
    def holds(self) -> bool:
        """Whether the bar was cleared."""
        if self.ratio is None:
            return False
        bound = self.bar.bound
        return self.ratio >= bound if self.bar.what == "speed" else self.ratio <= bound


# fmt: off
BARS = (
    Bar("float64 against np.max", "float64", ("np.max",), "speed", 0.70),
    Bar("float64, both on two threads, against np.max", "two-threads",
        workloads.ON_TWO_THREADS, "speed", 0.60),
    Bar("20 % nulls against none", "nulls", (workloads.WITHOUT_NULLS,), "speed", 0.85),
    Bar("float32 against np.max", "float32", ("np.max",), "speed", 0.50),
    Bar("int64 against np.max", "int64", ("np.max",), "speed", 0.50),
    Bar("float64 against Polars", "float64", ("Polars",), "speed", 1.8),
    Bar("float64 against pyarrow", "float64", ("pyarrow",), "speed", 2.5),
    Bar("EMA by row against Polars", "ema", ("Polars",), "speed", 6.0),
    Bar("EMA by row against Welford", "ema", (workloads.WITHOUT_FORGETTING,), "time", 1.05),
    Bar("EMA by event time against Polars' ewm_mean_by", "ema-time", ("Polars",), "speed", 3.0),
    Bar("EMA row by row against Polars", "by-row-ema", ("Polars",), "speed", 1.0),
    Bar("expanding row by row against pandas", "by-row", ("pandas",), "speed", 3.0),
    Bar("row by row, two threads, against a loop over rows", "by-row-10",
        (workloads.IN_A_LOOP,), "speed", 20.0),
    Bar("weights against none", "weights", (workloads.WITHOUT_WEIGHTS,), "time", 1.6),
    Bar("transform, 64k rows, against np.copyto", "transform", workloads.COPIES, "speed", 0.60),
    Bar("1,000 × 50 against River", "1000x50", ("River",), "speed", 7.0),
    Bar("1,000 × 50 against scikit-learn", "1000x50", ("scikit-learn",), "speed", 5.0),
    Bar("10 × 10 against np.add.reduce", "10x10", (workloads.TEN_VALUES,), "time", 18.75),
    Bar("1,000 columns against one, 128 MB", "1000-columns", (workloads.ONE_COLUMN,), "time", 1.5),
    Bar("rows in River against StandardScaler", "rows", ("River",), "speed", 5.0),
    Bar("rows in River against AdaptiveStandardScaler", "rows-ema", ("River",), "speed", 3.0),
    Bar("frozen rows against rows in River", "rows-frozen", (workloads.IN_RIVER,), "time", 1.2),
    Bar("batches of one row × 10 against np.add.reduce", "one-row-batches",
        (workloads.TEN_VALUES,), "time", 18.75),
    Bar("frames in River against StandardScaler", "frames", ("River",), "speed", 6.0),
    Bar("in scikit-learn against StandardScaler", "partial-fit", ("scikit-learn",), "speed", 5.0),
    Bar("Exact, float64, against NumPy's mean and var", "exact-float64", ("NumPy",), "speed", 2.0),
    Bar("Exact, float64, against DuckDB", "exact-float64", ("DuckDB",), "speed", 2.0),
    Bar("Exact, float32, against NumPy", "exact-float32", ("NumPy",), "speed", 3.0),
    Bar("Exact, int64, against NumPy", "exact-int64", ("NumPy",), "speed", 3.0),
    Bar("Exact, 30 decades, against NumPy", "exact-decades", ("NumPy",), "speed", 0.5),
    Bar("Exact on two threads against one", "exact-two-threads",
        (workloads.ON_ONE_THREAD,), "speed", 1.8),
    Bar("--help against import pyarrow", "help", ("import pyarrow",), "time", 1.6),
    Bar("show 10,000 columns against 1.5 s", "show", (SHOWN,), "time", 1.0),
    Bar("show --all of 10,000 columns against 1.5 s", "show-all", (SHOWN,), "time", 1.0),
    Bar("show --format csv of 10,000 columns against 1.5 s", "show-format-csv",
        (SHOWN,), "time", 1.0),
    Bar("fit, Snappy, against Polars", "fit-snappy", ("Polars",), "time", 0.9),
    Bar("fit, Snappy, against DuckDB", "fit-snappy", ("DuckDB",), "time", 0.6),
    Bar("fit, Snappy, Exact against Welford", "fit-snappy", (WELFORD,), "time", 1.1),
    Bar("fit, ZSTD, against Polars", "fit-zstd", ("Polars",), "time", 1.0),
    Bar("fit in a running process against pyarrow's fastest scan", "fit-inside",
        tuple(SCANS), "time", 1.3),
    Bar("normalize, Snappy, against Polars", "normalize-snappy", ("Polars",), "time", 0.85),
    Bar("normalize, Snappy, against DuckDB", "normalize-snappy", ("DuckDB",), "time", 0.4),
    Bar("normalize, ZSTD, against Polars", "normalize-zstd", ("Polars",), "time", 1.0),
    Bar("normalize eight files against Polars", "normalize-8-files", ("Polars",), "time", 0.75),
    Bar("10,000 row groups against pyarrow's read and write", "row-groups", (COPY,), "time", 1.3),
    Bar("2,000 files against pyarrow's read and write", "small-files", (COPY,), "time", 1.3),
    Bar("fit 20,000 batches against a loop of update", "fit-stream", (LOOP,), "time", 1.3),
    Bar("apply 20,000 batches against pyarrow's read and write", "apply-stream",
        (COPY,), "time", 1.3),
    Bar("normalize CSV against Polars", "normalize-csv", ("Polars",), "time", 1.0),
    Bar("eight times the rows against once", "normalize-memory", (AN_EIGHTH,), "memory", 1.15),
    Bar("24,000,000 rows against 600 MB", "normalize-memory", (ALLOWED,), "memory", 1.0),
)
# fmt: on


def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Judge the bars whose workload or job was measured."""
    by_name = {c.name: c for c in comparisons}
    return [Verdict(bar, bar.ratio(by_name[bar.work])) for bar in BARS if bar.work in by_name]
