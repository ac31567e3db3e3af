"""The work that is measured: data, made from a seed, and what is to be done with it.

Each workload stands alone: its data is made, everything that does this work is timed
in turn, and the data is dropped. Batches come from memory: all of a workload's batches
together are larger than the caches, except where one small batch is learned again and
again, by every peer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrix = NDArray[Any]
Task = Literal[
    "column",
    "threads",
    "exact",
    "nulls",
    "batches",
    "lists",
    "ema",
    "ema-time",
    "weights",
    "transform",
    "rows",
    "rows-ema",
    "frames",
    "pipeline",
    "partial-fit",
]
Unit = Literal["GB/s", "µs per batch", "µs per row"]

MEAN, STD = 100.0, 15.0
NULLS = 0.2
HALFLIFE = 1_000  # of the EMA, in rows
HALFLIFE_HOURS = 1  # of the EMA by event time, with a row a second or so
TIME, WEIGHT = "t", "w"  # the columns that say something about the rows
ALPHA = 0.01  # of the EMA of single rows: the weight of the new one

MILLION = 1_000_000


class Shape(NamedTuple):
    """Rows and columns of a batch, and the number of batches."""

    rows: int
    columns: int
    batches: int


class Data(NamedTuple):
    """The data of one workload, twice.

    Attributes
    ----------
    batches : tuple of pyarrow.RecordBatch
        What streambn and the peers that speak Arrow are given. Columns that say something about
        the rows stand behind the values.
    matrices : tuple of ndarray, shape (rows, columns)
        The same numbers for the others. Where there are nulls, it holds the values
        beneath them.
    """

    batches: tuple[pa.RecordBatch, ...]
    matrices: tuple[Matrix, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all values, once for every time that they are read; no bitmaps."""
        return sum(matrix.nbytes for matrix in self.matrices)


@dataclass(frozen=True)
class Workload:
    """Some work, and how it is reported.

    Attributes
    ----------
    name : str
        For ``--only`` and in the JSON.
    title : str
        In the table and the plot.
    task : str
        Which of the things that a peer can do it is.
    make : callable
        Gives the data in a shape.
    shape : Shape
        In which it is timed.
    limits : tuple of str
        Names of `references.REFERENCES`; the hardest of them is *the* limit. None: the work
        is that of an interpreter, and how fast the memory is says nothing of it.
    beside : tuple of str
        Others of those, timed in the same rounds to be compared with.
    unit : str
        Of the figures.
    threads : int
        How many streambn may use.
    """

    name: str
    title: str
    task: Task
    make: Callable[[Shape], Data]
    shape: Shape
    limits: tuple[str, ...] = ("np.max",)
    beside: tuple[str, ...] = ()
    unit: Unit = "GB/s"
    threads: int = 1


def normal(shape: Shape, *, dtype: Any = np.float64, mean: float = MEAN, std: float = STD) -> Data:
    """Make normally distributed columns, independent of each other; integers are rounded."""
    return _of_columns(_normal(shape, mean, std).astype(dtype, copy=False))


def normal_with_nulls(shape: Shape) -> Data:
    """Make what `normal` makes, a fifth of it null, each value for itself."""
    dense = normal(shape)
    mask = np.random.default_rng(1)
    batches = [
        pa.record_batch(
            [
                pa.array(column.to_numpy(), mask=mask.random(len(column)) < NULLS)
                for column in batch
            ],
            names=batch.schema.names,
        )
        for batch in dense.batches
    ]
    return dense._replace(batches=tuple(batches))


def normal_in_time(shape: Shape) -> Data:
    """Make what `normal` makes, each row at a time of its own, in order, of microseconds."""
    rng = np.random.default_rng(2)
    steps = rng.exponential(1e6, (shape.batches, shape.rows)).cumsum().astype(np.int64)
    times = steps.reshape(shape.batches, shape.rows).view("datetime64[us]")
    return _beside(normal(shape), TIME, [pa.array(t) for t in times])


def normal_with_weights(shape: Shape) -> Data:
    """Make what `normal` makes, each row with a weight above 0."""
    rng = np.random.default_rng(3)
    weights = [pa.array(rng.uniform(0.5, 1.5, shape.rows)) for _ in range(shape.batches)]
    return _beside(normal(shape), WEIGHT, weights)


def _beside(data: Data, name: str, columns: Sequence[pa.Array]) -> Data:
    pairs = zip(data.batches, columns, strict=True)
    return data._replace(batches=tuple(b.append_column(name, column) for b, column in pairs))


def repeated(shape: Shape) -> Data:
    """Make one batch of what `normal` makes, to be learned again and again."""
    one = normal(shape._replace(batches=1))
    return Data(one.batches * shape.batches, one.matrices * shape.batches)


def embeddings(shape: Shape) -> Data:
    """Make one column of float32 lists of fixed size, row by row in memory."""
    rng = np.random.default_rng(0)
    matrices = [
        rng.standard_normal((shape.rows, shape.columns), np.float32) for _ in range(shape.batches)
    ]
    lists = [pa.FixedSizeListArray.from_arrays(m.reshape(-1), m.shape[1]) for m in matrices]
    return Data(tuple(pa.record_batch([x], names=["emb"]) for x in lists), tuple(matrices))


def row_by_row(shape: Shape) -> Data:
    """Make matrices of what `normal` makes that lie in memory row by row."""
    made = normal(shape)
    return made._replace(matrices=tuple(np.ascontiguousarray(m) for m in made.matrices))


def _normal(shape: Shape, mean: float, std: float) -> NDArray[np.float64]:
    """Make values of shape (batches, columns, rows), which lie in memory as Arrow has them."""
    values = np.random.default_rng(0).standard_normal((shape.batches, shape.columns, shape.rows))
    values *= std
    values += mean
    return values


def _of_columns(values: NDArray[Any]) -> Data:
    names = [f"x{i}" for i in range(values.shape[1])]
    batches = [pa.record_batch([pa.array(column) for column in b], names=names) for b in values]
    return Data(tuple(batches), tuple(b.T for b in values))


def _single(shape: Shape) -> Data:
    return normal(shape, dtype=np.float32)


def _integer(shape: Shape) -> Data:
    return normal(shape, dtype=np.int64, mean=1e6, std=1e4)


def decades(shape: Shape) -> Data:
    """Make columns of either sign whose sizes spread over thirty powers of ten."""
    sizes = 10.0 ** np.random.default_rng(4).uniform(-15, 15, (shape.batches, *shape[1::-1]))
    return _of_columns(_normal(shape, 0.0, 1.0) * sizes)


_STREAM = Shape(MILLION, 1, 16)
_LONG = Shape(16 * MILLION, 1, 1)  # so that what is done once a batch does not count
_ROWS = Shape(2000, 10, 1)
ON_TWO_THREADS = ("np.max on two threads, batch by batch", "np.max on two threads, all at once")
WELFORD, ON_ONE_THREAD = "streambn, Welford", "streambn on one thread"
COPIES = ("np.copyto into one buffer", "np.copyto into one array")

WORKLOADS = (
    Workload("float64", "fit float64", "column", normal, _STREAM),
    Workload(
        "two-threads",
        "fit float64, two threads",
        "threads",
        normal,
        _STREAM,
        ON_TWO_THREADS,
        threads=2,
    ),
    Workload("float32", "fit float32", "column", _single, _STREAM),
    Workload("int64", "fit int64", "column", _integer, _STREAM),
    Workload("exact-float64", "fit float64, Exact", "exact", normal, _STREAM, beside=(WELFORD,)),
    Workload(
        "exact-two-threads",
        "fit float64, Exact, two threads",
        "exact",
        normal,
        _LONG,
        ON_TWO_THREADS,
        beside=(ON_ONE_THREAD,),
        threads=2,
    ),
    Workload("exact-float32", "fit float32, Exact", "exact", _single, _STREAM, beside=(WELFORD,)),
    Workload("exact-int64", "fit int64, Exact", "exact", _integer, _STREAM, beside=(WELFORD,)),
    Workload(
        "exact-decades",
        "fit float64 over 30 decades, Exact",
        "exact",
        decades,
        _STREAM,
        beside=(WELFORD,),
    ),
    Workload(
        "nulls",
        "fit float64, 20 % nulls",
        "nulls",
        normal_with_nulls,
        _STREAM,
        beside=("streambn without nulls",),
    ),
    Workload(
        "10x10",
        "fit 10 rows × 10 columns",
        "batches",
        repeated,
        Shape(10, 10, 1000),
        ("np.add.reduce of 10 values",),
        unit="µs per batch",
    ),
    Workload(
        "1000x50",
        "fit 1,000 rows × 50 columns",
        "batches",
        repeated,
        Shape(1000, 50, 100),
        unit="µs per batch",
    ),
    Workload(
        "1Mx1", "fit 1,000,000 rows × 1 column", "batches", normal, _STREAM, unit="µs per batch"
    ),
    Workload(
        "1000-columns-8MB",
        "fit 1,000 rows × 1,000 columns",
        "batches",
        normal,
        Shape(1000, 1000, 16),
        beside=("streambn on one column",),
    ),
    Workload(
        "1000-columns-128MB",
        "fit 16,000 rows × 1,000 columns",
        "batches",
        repeated,
        Shape(16_000, 1000, 4),
        beside=("streambn on one column",),
    ),
    Workload(
        "embeddings",
        "fit 10,000 embeddings of 768 float32",
        "lists",
        embeddings,
        Shape(10_000, 768, 4),
    ),
    Workload(
        "ema",
        "fit float64, EMA by row",
        "ema",
        normal,
        _STREAM,
        beside=("streambn without forgetting",),
    ),
    Workload("ema-time", "fit float64, EMA by event time", "ema-time", normal_in_time, _STREAM),
    Workload(
        "weights",
        "fit 64k rows × 16 columns with weights",
        "weights",
        normal_with_weights,
        Shape(1 << 16, 16, 16),
        beside=("streambn without weights",),
    ),
    Workload(
        "transform",
        "transform float64, 64k rows",
        "transform",
        normal,
        Shape(1 << 16, 1, 244),
        COPIES,
    ),
    Workload(
        "rows",
        "River: learn and transform rows of 10",
        "rows",
        normal,
        _ROWS,
        limits=(),
        unit="µs per row",
    ),
    Workload(
        "rows-ema",
        "River: the same, EMA by row",
        "rows-ema",
        normal,
        _ROWS,
        limits=(),
        unit="µs per row",
    ),
    Workload(
        "frames",
        "River: learn frames of 1,000 × 50",
        "frames",
        repeated,
        Shape(1000, 50, 10),
        limits=(),
        unit="µs per batch",
    ),
    Workload(
        "pipeline",
        "River: scaler and logistic regression",
        "pipeline",
        normal,
        _ROWS,
        limits=(),
        unit="µs per row",
    ),
    Workload(
        "partial-fit",
        "scikit-learn: fit 1,000,000 rows × 16 columns",
        "partial-fit",
        row_by_row,
        Shape(MILLION, 16, 1),
    ),
)
