"""The workloads: seeded data in memory, and the task to do on it.

The data of a workload is made, everything that does its task is timed in turn, and the data is
dropped. All batches of a workload together are larger than the caches, except where every peer
takes one or a few small batches again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrix = NDArray[Any]
Unit = Literal["GB/s", "µs per batch", "µs per row"]

MEAN, STD = 100.0, 15.0
NULLS = 0.2  # of the values
HALFLIFE = 1_000  # of the EMA by row
HALFLIFE_HOURS = 1  # of the EMA by event time; a row comes about every second
ALPHA = 0.01  # of the EMA in River: the weight of the new row
TIME, WEIGHT = "t", "w"  # names of the columns that are not values
MILLION = 1_000_000


class Shape(NamedTuple):
    """Rows and columns of each batch, and the number of batches."""

    rows: int
    columns: int
    batches: int


class Data(NamedTuple):
    """The data of a workload: Arrow batches, and matrices for the peers without Arrow.

    Columns of times or weights come last, in batches only. Under a null, a matrix has some value.
    """

    batches: tuple[pa.RecordBatch, ...]
    matrices: tuple[Matrix, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all values, each counted as often as it is read."""
        return sum(matrix.nbytes for matrix in self.matrices)


@dataclass(frozen=True)
class Workload:
    """A task on some data, and how to report it.

    The fastest of the limits is the limit of the machine. There is none where the interpreter, not
    the memory, bounds the speed.
    """

    name: str  # for ``--only``
    title: str  # in tables and in the plot
    task: str  # the key in `Peer.tasks`
    make: Callable[[Shape], Data]
    shape: Shape
    limits: tuple[str, ...] = ("np.max",)  # names in `references.REFERENCES`
    references: tuple[str, ...] = ()  # more of them, timed in the same rounds
    unit: Unit = "GB/s"
    threads: int = 1  # of streambn

    def quick(self) -> Workload:
        """Return the same workload on little data."""
        rows, columns, batches = map(min, self.shape, (500, 5, 3))
        return replace(self, shape=Shape(rows, columns, batches))


# ---------------------------------------------------------------------------------- data


def normal(shape: Shape, *, dtype: Any = np.float64, mean: float = MEAN, std: float = STD) -> Data:
    """Make independent, normally distributed columns. Integers are truncated."""
    return _of_columns((_standard_normal(shape) * std + mean).astype(dtype, copy=False))


def float32(shape: Shape) -> Data:
    """Make `normal` data in float32."""
    return normal(shape, dtype=np.float32)


def int64(shape: Shape) -> Data:
    """Make `normal` data in int64."""
    return normal(shape, dtype=np.int64, mean=1e6, std=1e4)


def decades(shape: Shape) -> Data:
    """Make values of both signs whose magnitudes span thirty powers of ten."""
    values = _standard_normal(shape)
    return _of_columns(values * 10.0 ** np.random.default_rng(4).uniform(-15, 15, values.shape))


def with_nulls(shape: Shape) -> Data:
    """Make `normal` data, in which each value is null with the same probability."""
    dense, rng = normal(shape), np.random.default_rng(1)
    batches = [
        pa.record_batch(
            [pa.array(x.to_numpy(), mask=rng.random(len(x)) < NULLS) for x in batch],
            names=batch.schema.names,
        )
        for batch in dense.batches
    ]
    return dense._replace(batches=tuple(batches))


def with_times(shape: Shape) -> Data:
    """Make `normal` data, each row at its own time, in microseconds and ascending."""
    steps = np.random.default_rng(2).exponential(1e6, (shape.batches, shape.rows))
    times = steps.cumsum().astype(np.int64).reshape(steps.shape).view("datetime64[us]")
    return _appended(normal(shape), TIME, times)


def with_weights(shape: Shape) -> Data:
    """Make `normal` data, each row with a weight between 0.5 and 1.5."""
    weights = np.random.default_rng(3).uniform(0.5, 1.5, (shape.batches, shape.rows))
    return _appended(normal(shape), WEIGHT, weights)


def repeated(shape: Shape) -> Data:
    """Make one `normal` batch, and repeat it."""
    one = normal(shape._replace(batches=1))
    return Data(one.batches * shape.batches, one.matrices * shape.batches)


def in_turns(shape: Shape) -> Data:
    """Make at most ten `normal` batches, and repeat them in turns."""
    some = normal(shape._replace(batches=min(shape.batches, 10)))
    times = shape.batches // len(some.batches)
    return Data(some.batches * times, some.matrices * times)


def embeddings(shape: Shape) -> Data:
    """Make one column of fixed-size float32 lists, row by row in memory."""
    size = (shape.batches, shape.rows, shape.columns)
    matrices = np.random.default_rng(0).standard_normal(size, np.float32)
    lists = [pa.FixedSizeListArray.from_arrays(m.reshape(-1), shape.columns) for m in matrices]
    return Data(tuple(pa.record_batch([x], names=["emb"]) for x in lists), tuple(matrices))


def row_by_row(shape: Shape) -> Data:
    """Make `normal` data whose matrices lie row by row in memory."""
    made = normal(shape)
    return made._replace(matrices=tuple(np.ascontiguousarray(m) for m in made.matrices))


def _standard_normal(shape: Shape) -> NDArray[np.float64]:
    """Return values of shape (batches, columns, rows), in memory as Arrow keeps them."""
    return np.random.default_rng(0).standard_normal((shape.batches, shape.columns, shape.rows))


def _of_columns(values: NDArray[Any]) -> Data:
    names = [f"x{i}" for i in range(values.shape[1])]
    batches = [pa.record_batch([pa.array(column) for column in b], names=names) for b in values]
    return Data(tuple(batches), tuple(b.T for b in values))


def _appended(data: Data, name: str, columns: Any) -> Data:
    pairs = zip(data.batches, columns, strict=True)
    return data._replace(batches=tuple(b.append_column(name, pa.array(c)) for b, c in pairs))


# ----------------------------------------------------------------------------- the table

ON_TWO_THREADS = ("np.max on two threads, batch by batch", "np.max on two threads, all at once")
COPIES = ("np.copyto into one buffer", "np.copyto into one array")
TEN_VALUES = "np.add.reduce of 10 values"
ON_ONE_THREAD = "streambn on one thread"
IN_RIVER = "streambn in River"
IN_A_LOOP = "RowNormalizer in a loop"
WITHOUT_NULLS, WITHOUT_FORGETTING = "streambn without nulls", "streambn without forgetting"
WITHOUT_WEIGHTS, ONE_COLUMN = "streambn without weights", "streambn on one column"

_STREAM = Shape(MILLION, 1, 16)
_LONG = Shape(16 * MILLION, 1, 1)  # one batch: the work per batch does not count
_ROWS = Shape(2000, 10, 1)
_SERIES = Shape(MILLION, 8, 1)

# fmt: off
WORKLOADS = (
    Workload("float64", "fit float64", "column", normal, _STREAM),
    Workload("two-threads", "fit float64, two threads", "threads", normal, _STREAM,
             ON_TWO_THREADS, threads=2),
    Workload("float32", "fit float32", "column", float32, _STREAM),
    Workload("int64", "fit int64", "column", int64, _STREAM),
    Workload("exact-float64", "fit float64, Exact", "exact", normal, _STREAM),
    Workload("exact-two-threads", "fit float64, Exact, two threads", "exact", normal, _LONG,
             ON_TWO_THREADS, (ON_ONE_THREAD,), threads=2),
    Workload("exact-float32", "fit float32, Exact", "exact", float32, _STREAM),
    Workload("exact-int64", "fit int64, Exact", "exact", int64, _STREAM),
    Workload("exact-decades", "fit float64 over 30 decades, Exact", "exact", decades, _STREAM),
    Workload("nulls", "fit float64, 20 % nulls", "nulls", with_nulls, _STREAM,
             references=(WITHOUT_NULLS,)),
    Workload("10x10", "fit 10 rows × 10 columns", "batches", repeated, Shape(10, 10, 1000),
             (TEN_VALUES,), unit="µs per batch"),
    Workload("1000x50", "fit 1,000 rows × 50 columns", "batches", repeated, Shape(1000, 50, 100),
             unit="µs per batch"),
    Workload("1000-columns", "fit 16,000 rows × 1,000 columns", "batches", repeated,
             Shape(16_000, 1000, 4), references=(ONE_COLUMN,)),
    Workload("embeddings", "fit 10,000 embeddings of 768 float32", "lists", embeddings,
             Shape(10_000, 768, 4)),
    Workload("ema", "fit float64, EMA by row", "ema", normal, _STREAM,
             references=(WITHOUT_FORGETTING,)),
    Workload("ema-time", "fit float64, EMA by event time", "ema-time", with_times, _STREAM),
    Workload("by-row", "normalize 8 columns row by row", "by-row", normal, _SERIES, ()),
    Workload("by-row-ema", "the same, EMA by row", "by-row-ema", normal, _SERIES, ()),
    Workload("by-row-10", "normalize 10 columns row by row, two threads", "by-row", normal,
             Shape(50_000, 10, 1), (), (IN_A_LOOP,), unit="µs per row", threads=2),
    Workload("weights", "fit 64k rows × 16 columns with weights", "weights", with_weights,
             Shape(1 << 16, 16, 16), references=(WITHOUT_WEIGHTS,)),
    Workload("transform", "transform float64, 64k rows", "transform", normal,
             Shape(1 << 16, 1, 244), COPIES),
    Workload("rows", "River: learn and transform rows of 10", "rows", normal, _ROWS, (),
             unit="µs per row"),
    Workload("rows-ema", "River: the same, EMA by row", "rows-ema", normal, _ROWS, (),
             unit="µs per row"),
    Workload("rows-frozen", "frozen: transform rows of 10", "rows-frozen", normal, _ROWS, (),
             (IN_RIVER,), unit="µs per row"),
    Workload("one-row-batches", "frozen: transform batches of 1 row × 10 columns",
             "rows-as-batches", in_turns, Shape(1, 10, 1000), (TEN_VALUES,), unit="µs per batch"),
    Workload("frames", "River: learn frames of 1,000 × 50", "frames", repeated,
             Shape(1000, 50, 10), (), unit="µs per batch"),
    Workload("partial-fit", "scikit-learn: fit 1,000,000 rows × 16 columns", "partial-fit",
             row_by_row, Shape(MILLION, 16, 1)),
)
# fmt: on
