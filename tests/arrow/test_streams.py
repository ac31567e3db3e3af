"""Any Arrow data as input; output of the same kind, or a lazy reader."""

from __future__ import annotations

import gc
import importlib
import itertools
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normalizers import assert_refused, bits

import streambn as sbn
from streambn.arrow.streams import map_batches, open_stream

TABLE = pa.table(
    {
        "x": pa.chunked_array([[1.0, None], [3.0, 5.0, 5.0]], pa.float64()),
        "n": pa.chunked_array([[10, 20], [30, None, 60]], pa.int64()),
        "s": pa.chunked_array([["a", None], ["c", "d", "e"]], pa.string()),
    }
)


def fitted(**options: Any) -> sbn.Normalizer:
    return sbn.Normalizer(**options).update(TABLE)


def needs(module: str, package: str) -> Any:
    """Import a module, or skip the test and name the package to install."""
    return pytest.importorskip(module, reason=f"needs {package}: pip install {package}")


class StreamOnly:
    """An object of an unknown class that implements the stream protocol."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class ArrayOnly:
    """An object of an unknown class that implements the array protocol."""

    def __init__(self, table: pa.Table) -> None:
        self._batch = _batch(table)

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._batch.__arrow_c_array__(requested_schema)


def _batch(table: pa.Table, folder: Path | None = None) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _dataset(table: pa.Table, folder: Path) -> ds.Dataset:
    """Return a dataset with one file per chunk."""
    folder.mkdir(exist_ok=True)
    for i, batch in enumerate(table.to_batches()):
        pq.write_table(pa.table(batch), folder / f"{i}.parquet")
    return ds.dataset(folder)


def _duckdb(table: pa.Table, folder: Path) -> Any:
    connection = duckdb.connect()
    connection.register("seen", table)
    return connection.sql("select * from seen")


def _pandas(table: pa.Table, folder: Path) -> pd.DataFrame:
    return table.to_pandas().set_index(pd.Index(range(100, 100 + len(table)), name="key"))


def _arro3(kind: str) -> Callable[[pa.Table, Path], Any]:
    def make(table: pa.Table, folder: Path) -> Any:
        core = needs("arro3.core", "arro3-core")
        source = _batch(table) if kind == "RecordBatch" else table
        return getattr(core, kind).from_arrow(source)

    return make


def _nanoarrow(kind: str) -> Callable[[pa.Table, Path], Any]:
    return lambda table, folder: getattr(needs("nanoarrow", "nanoarrow"), kind)(table)


def _generator(of: str) -> Callable[[pa.Table, Path], Iterator[Any]]:
    def make(table: pa.Table, folder: Path) -> Iterator[Any]:
        for i, batch in enumerate(table.to_batches()):
            whole = pa.table(batch)
            mixed = [pl.DataFrame(whole), StreamOnly(whole), batch, whole]
            yield {"batches": batch, "tables": whole}.get(of) or mixed[i % len(mixed)]

    return make


READER = pa.RecordBatchReader
KINDS: dict[str, tuple[Callable[[pa.Table, Path], Any], type | str]] = {
    "RecordBatch": (_batch, pa.RecordBatch),
    "Table": (lambda table, _: table, pa.Table),
    "RecordBatchReader": (lambda table, _: table.to_reader(), READER),
    "Dataset": (_dataset, READER),
    "Scanner": (lambda table, folder: _dataset(table, folder).scanner(), READER),
    "in-memory dataset": (lambda table, _: ds.dataset(table), READER),
    "polars": (lambda table, _: pl.DataFrame(table), pl.DataFrame),
    "pandas": (_pandas, pd.DataFrame),
    "duckdb": (_duckdb, READER),
    "arro3 Table": (_arro3("Table"), "arro3.core.Table"),
    "arro3 RecordBatch": (_arro3("RecordBatch"), "arro3.core.RecordBatch"),
    "arro3 RecordBatchReader": (_arro3("RecordBatchReader"), READER),
    "nanoarrow ArrayStream": (_nanoarrow("ArrayStream"), READER),
    "nanoarrow Array": (_nanoarrow("Array"), READER),
    "any stream": (lambda table, _: StreamOnly(table), READER),
    "any array": (lambda table, _: ArrayOnly(table), pa.RecordBatch),
    "generator of batches": (_generator("batches"), READER),
    "generator of tables": (_generator("tables"), READER),
    "generator of anything": (_generator("anything"), READER),
    "list of batches": (lambda table, _: table.to_batches(), READER),
    "tuple of tables": (lambda table, folder: tuple(_generator("tables")(table, folder)), READER),
    "list of datasets": (lambda table, folder: [_dataset(table, folder)], READER),
}


def as_table(data: Any) -> pa.Table:
    """Read any output with pyarrow."""
    return data.read_all() if isinstance(data, READER) else pa.table(data)


def values_of(data: Any) -> dict[str, list[Any]]:
    table = as_table(data)
    plain = {"s": pa.string(), "x": pa.float64(), "n": pa.float64()}
    return {name: table[name].cast(kind).to_pylist() for name, kind in plain.items()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, folder: Path, table: pa.Table = TABLE) -> Any:
    return KINDS[kind][0](table, folder / "data")


def is_of_kind(data: Any, kind: str) -> bool:
    wanted = KINDS[kind][1]
    if isinstance(wanted, str):
        module, _, name = wanted.rpartition(".")
        wanted = getattr(importlib.import_module(module), name)
    return type(data) is wanted


def test_update_accepts_every_kind(kind: str, tmp_path: Path) -> None:
    norm = sbn.Normalizer(columns=["x", "n"]).update(make(kind, tmp_path))
    stats = norm.stats().drop_columns(["mean", "var", "std"])
    assert stats.equals(fitted().stats().drop_columns(["mean", "var", "std"]))
    assert norm.stats()["mean"].to_pylist() == [3.5, 30.0]
    assert norm.stats()["var"].to_pylist() == pytest.approx([2.75, 350.0], rel=1e-15)


def test_transform_returns_the_kind_of_its_input(kind: str, tmp_path: Path) -> None:
    norm = fitted()
    out = norm.transform(make(kind, tmp_path))
    assert is_of_kind(out, kind)
    expected = values_of(norm.transform(TABLE))
    assert expected["s"] == TABLE["s"].to_pylist()
    assert expected["x"][0] == pytest.approx(-2.5 / 2.75**0.5, rel=1e-15)
    assert values_of(out) == expected


def test_update_transform_accepts_every_kind(kind: str, tmp_path: Path) -> None:
    norm = sbn.Normalizer(columns=["x", "n"])
    out = norm.update_transform(make(kind, tmp_path))
    assert is_of_kind(out, kind)
    rows = values_of(out)
    assert rows["s"] == TABLE["s"].to_pylist()
    assert norm.stats()["count"].to_pylist() == [4, 4]
    assert norm.stats()["mean"].to_pylist() == [3.5, 30.0]
    # The last rows are normalized by the statistics of all rows, however the data was cut.
    assert rows["x"][-1] == pytest.approx(1.5 / 2.75**0.5, rel=1e-14)


def test_inverse_transform_restores_every_kind(kind: str, tmp_path: Path) -> None:
    norm = fitted()
    source = make(kind, tmp_path, norm.transform(TABLE))
    out = norm.inverse_transform(source)
    assert is_of_kind(out, kind)
    rows = values_of(out)
    for name in ("x", "n"):
        expected = np.array(TABLE[name].to_pylist(), float)
        assert np.array(rows[name], float) == pytest.approx(expected, rel=1e-15, nan_ok=True)
    assert rows["s"] == TABLE["s"].to_pylist()


@pytest.mark.parametrize(
    "source",
    ["Table", "polars", "pandas", "RecordBatch", "arro3 Table", "arro3 RecordBatch",
     "RecordBatchReader", "duckdb"],
)  # fmt: skip
def test_zero_rows_keep_their_kind(source: str, tmp_path: Path) -> None:
    empty = pa.Table.from_batches([pa.RecordBatch.from_pylist([], schema=TABLE.schema)])
    norm = fitted()
    before = bits(norm)
    out = norm.transform(make(source, tmp_path, empty))
    assert is_of_kind(out, source)
    table = as_table(out)
    assert table.num_rows == 0
    assert table.schema.names[:3] == ["x", "n", "s"]
    assert bits(norm) == before


def test_table_without_chunks_stays_a_table() -> None:
    norm = fitted()
    bare = pa.Table.from_batches([], schema=TABLE.schema)
    assert norm.transform(bare).schema == norm.transform(TABLE).schema
    assert bits(norm.update(bare)) == bits(fitted())


@pytest.mark.parametrize("nothing", [[], (), iter([])])
def test_empty_iterable_is_an_empty_stream(nothing: Any) -> None:
    norm = fitted()
    assert bits(norm.update(nothing)) == bits(fitted())
    out = norm.transform(nothing)
    assert isinstance(out, READER)
    assert out.read_all().num_rows == 0


def test_table_keeps_its_chunks() -> None:
    out = fitted().transform(TABLE)
    assert [len(chunk) for chunk in out["x"].chunks] == [2, 3]


Z = np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3)  # 1, 2 and 6, normalized


def test_pandas_keeps_index_and_column_order() -> None:
    times = pd.date_range("2020-01-01", periods=3, tz="Europe/Berlin", name="when")
    frame = pd.DataFrame(
        {
            "name": ["a", "b", None],
            "x": [1.0, 2.0, 6.0],
            "grade": pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"], ordered=True),
            "at": pd.date_range("2021-01-01", periods=3),
            "n": np.array([1, 2, 6], np.int32),
            "f": np.array([1, 2, 6], np.float32),
        },
        index=times,
    )
    out = sbn.Normalizer().update(frame).transform(frame)
    expected = frame.copy()
    for name, dtype in (("x", np.float64), ("n", np.float64), ("f", np.float32)):
        expected[name] = Z.astype(dtype)
    pd.testing.assert_frame_equal(out, expected, rtol=1e-6, check_freq=False)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 11, 2),
        pd.RangeIndex(5, 11, 2, name="k"),
        pd.Index([7, 3, 3], name="id"),
        pd.Index(["b", "a", "c"]),
        pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["i", None]),
    ],
    ids=repr,
)
def test_pandas_keeps_any_index(index: pd.Index) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=index)
    norm = sbn.Normalizer().update(frame)
    assert norm.features == ("x",)
    pd.testing.assert_index_equal(norm.transform(frame).index, index, exact="equiv")


@pytest.mark.parametrize(
    "dtype", ["Int64", "Int8", "UInt16", "Float64", "Float32", "int64[pyarrow]", "double[pyarrow]"]
)
def test_pandas_nullable_integers_become_floats(dtype: str) -> None:
    """The metadata of the frame says integer, but a normalized column is not."""
    frame = pd.DataFrame({"x": pd.array([1, 2, 6, None], dtype=dtype)})
    norm = sbn.Normalizer().update(frame)
    out = norm.transform(frame)["x"]
    assert [float(v) for v in out[:3]] == pytest.approx(Z.tolist(), rel=1e-6)
    assert pd.isna(out[3])


def test_polars_keeps_its_types() -> None:
    frame = pl.DataFrame(
        {
            "x": pl.Series([1.0, 3.0], dtype=pl.Float32),
            "d": pl.Series(["1.00", "3.00"]).cast(pl.Decimal(10, 2)),
            "e": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float64, 2)),
            "s": pl.Series(["a", None]),
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "o": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])),
            "t": pl.Series([1, 2], dtype=pl.Time),
            "u": pl.Series([1, 2], dtype=pl.Datetime("us", "UTC")),
            "l": pl.Series([[1], [2, 3]]),
            "b": pl.Series([True, None]),
            "y": pl.Series([b"1", b"2"]),
        }
    )
    norm = sbn.Normalizer().update(frame)
    assert norm.features == ("x", "d", "e[0]", "e[1]")
    out = norm.transform(frame)
    assert out.schema == {**frame.schema, "d": pl.Float64}
    assert out.drop("x", "d", "e").equals(frame.drop("x", "d", "e"))
    assert out["x"].to_list() == out["d"].to_list() == [-1.0, 1.0]
    assert out["e"].to_list() == [[-1.0, -1.0], [1.0, 1.0]]


def test_chunked_polars_frame_is_one_frame() -> None:
    part = pl.DataFrame({"x": [1.0, 3.0]})
    frame = pl.concat([part, part], rechunk=False)
    norm = sbn.Normalizer().update(frame)
    assert norm.transform(frame)["x"].to_list() == [-1.0, 1.0, -1.0, 1.0]


def test_polars_batch_generator_is_a_stream() -> None:
    lazy = pl.LazyFrame({"x": [1.0, 3.0, 5.0, 7.0]})
    norm = sbn.Normalizer().update(lazy.collect_batches(chunk_size=2, maintain_order=True))
    assert norm.stats()["mean"].to_pylist() == [4.0]


def test_subclass_of_a_known_kind_keeps_its_class() -> None:
    class Frame(pd.DataFrame):
        pass

    norm = fitted(columns=["x"])
    assert isinstance(norm.transform(Frame({"x": [1.0]})), pd.DataFrame)


def test_struct_array_without_nulls_is_a_batch() -> None:
    norm = fitted(columns=["x"])
    rows = pa.array([{"x": 3.5}, {"x": None}])
    z = norm.transform(rows).column(0)
    assert z[0].as_py() == pytest.approx(0.0, abs=1e-16)
    assert not z[1].is_valid
    with pytest.raises(sbn.InvalidValueError, match="null"):
        norm.transform(pa.array([{"x": 3.5}, None]))


X_ALONE = pa.schema([("x", pa.float64())])


class Counted:
    """A stream that counts how many batches were pulled, and how many are still referenced."""

    def __init__(self, n: int, rows: int = 3) -> None:
        self.n, self.rows, self.pulled, self.most_alive = n, rows, 0, 0
        self._memory: list[weakref.ref[Any]] = []

    @property
    def alive(self) -> int:
        return sum(memory() is not None for memory in self._memory)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for i in range(self.n):
            self.pulled += 1
            yield self._made(np.arange(self.rows, dtype=float) + i)
            self.most_alive = max(self.most_alive, self.alive)

    def _made(self, values: np.ndarray) -> pa.RecordBatch:
        self._memory.append(weakref.ref(values))
        array = pa.Array.from_buffers(pa.float64(), self.rows, [None, pa.py_buffer(values)])
        return pa.RecordBatch.from_arrays([array], ["x"])

    def reader(self) -> pa.RecordBatchReader:
        return READER.from_batches(X_ALONE, iter(self))


def assert_fails_after(
    rows: list[int], out: pa.RecordBatchReader, error: type[Exception], match: str | None = None
) -> None:
    assert [out.read_next_batch().num_rows for _ in rows] == rows
    with pytest.raises(error, match=match):
        out.read_next_batch()


@pytest.mark.parametrize("as_reader", [True, False])
def test_stream_is_pulled_only_when_read(as_reader: bool) -> None:
    norm = fitted(columns=["x"])
    for method in (norm.transform, norm.update_transform, norm.inverse_transform):
        source = Counted(4)
        out = method(source.reader() if as_reader else iter(source))
        assert source.pulled == (0 if as_reader else 1)  # an iterable gives its schema by an item
        for i in range(1, 5):
            out.read_next_batch()
            assert source.pulled == i
        with pytest.raises(StopIteration):
            out.read_next_batch()


@pytest.mark.parametrize("as_reader", [True, False])
def test_stream_is_learned_one_batch_at_a_time(as_reader: bool) -> None:
    source = Counted(50)
    sbn.Normalizer().update(source.reader() if as_reader else iter(source))
    gc.collect()
    assert source.pulled == 50
    assert source.most_alive <= 2
    assert source.alive == 0


@pytest.mark.parametrize("method", ["transform", "update_transform", "inverse_transform"])
def test_stream_is_normalized_in_bounded_memory(method: str) -> None:
    norm = sbn.Normalizer().update(Counted(1))
    source = Counted(40, rows=100_000)
    tracemalloc.start()
    try:
        rows = sum(batch.num_rows for batch in getattr(norm, method)(source.reader()))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 4_000_000
    assert source.most_alive <= 2
    assert most < 10 * 800_000  # a quarter of the stream


def test_lazy_reader_uses_the_statistics_at_the_call() -> None:
    norm = fitted(columns=["x"])
    expected = values_of(norm.transform(TABLE))
    lazy = norm.transform(TABLE.to_reader())
    norm.update(pa.table({"x": [1e6, -1e6]}))
    assert values_of(lazy) == expected
    assert values_of(norm.transform(TABLE)) != expected


def test_lazy_reader_learns_only_pulled_batches() -> None:
    norm = sbn.Normalizer()
    out = norm.update_transform(iter(Counted(4)))
    assert norm.features == ()
    for count in (3, 6):
        out.read_next_batch()
        assert norm.stats()["count"].to_pylist() == [count]
    del out
    assert norm.stats()["count"].to_pylist() == [6]


def test_reader_is_consumed_once() -> None:
    norm = sbn.Normalizer()
    reader = Counted(3).reader()
    for _ in range(2):
        assert norm.update(reader).stats()["count"].to_pylist() == [9]


class SourceError(Exception):
    """An error that neither streambn nor Arrow raises."""


@pytest.mark.parametrize("error", [SourceError("broken pipe"), OSError(5, "gone"), KeyError("k")])
@pytest.mark.parametrize("as_reader", [True, False])
def test_errors_of_the_source_keep_their_type(error: Exception, as_reader: bool) -> None:
    def source() -> Iterator[pa.RecordBatch]:
        yield from iter(Counted(2))
        raise error

    def data() -> Any:
        return READER.from_batches(X_ALONE, source()) if as_reader else source()

    norm = sbn.Normalizer()
    with pytest.raises(type(error)):
        norm.update(data())
    assert norm.stats()["count"].to_pylist() == [6]  # what came before is learned
    for method in (norm.transform, norm.update_transform):
        assert_fails_after([3, 3], method(data()), type(error))


def test_errors_of_streambn_in_a_lazy_reader_keep_their_type() -> None:
    def source() -> Iterator[pa.RecordBatch]:
        yield from iter(Counted(1))
        yield pa.RecordBatch.from_arrays([pa.array([np.inf])], ["x"])

    norm = sbn.Normalizer().update(Counted(1))
    assert_fails_after([3], norm.transform(source()), sbn.InvalidValueError, "'x' holds infinity")


def test_batches_are_put_in_the_column_order_of_the_first() -> None:
    flipped = TABLE.select(["s", "n", "x"])
    norm = fitted()
    out = norm.transform([TABLE, flipped, TABLE.to_batches()[0]]).read_all()
    expected = norm.transform(TABLE)
    assert out.equals(pa.concat_tables([expected, expected, expected.slice(0, 2)]))


def test_new_column_within_a_stream_is_ignored_by_update_and_an_error_of_transform() -> None:
    wider = TABLE.append_column("late", pa.array([1.0] * 5))
    norm = sbn.Normalizer(columns=["x"]).update([TABLE, wider])
    assert norm.stats()["count"].to_pylist() == [8]
    assert_fails_after([2, 3], norm.transform([TABLE, wider]), sbn.SchemaError, "'late'")


def test_missing_column_within_a_stream_is_named() -> None:
    norm = sbn.Normalizer(columns=["x"])
    norm.update([TABLE, TABLE.drop_columns(["s"])])  # it is not needed here
    for gone in ("s", "x"):
        out = norm.transform([TABLE, TABLE.drop_columns([gone])])
        assert_fails_after([2, 3], out, sbn.SchemaError, f"'{gone}'")


def test_other_column_that_changes_its_type_is_named() -> None:
    first = pa.table({"x": [1.0], "other": pa.array([7], pa.int64())})
    second = pa.table({"x": [1.0], "other": ["seven"]})
    norm = sbn.Normalizer(columns=["x"]).update(first)
    assert_fails_after([1], norm.transform([first, second]), sbn.SchemaError, "'other'")


def test_normalized_column_may_change_its_numeric_type() -> None:
    norm = fitted(columns=["x"])
    kinds = [pa.float32(), pa.float64(), pa.int8(), pa.decimal128(5, 1), pa.null()]
    parts = [pa.table({"x": pa.array([None] if k == pa.null() else [4], k)}) for k in kinds]
    out = norm.transform(parts).read_all()
    assert out.schema.field("x").type == pa.float32()  # as in the first
    z = float(np.float32(0.5 / 2.75**0.5))
    assert out["x"].to_pylist() == [z, z, z, z, None]
    out.validate(full=True)


@given(cuts=st.lists(st.integers(0, 5), max_size=6))
def test_cuts_of_a_stream_do_not_matter(cuts: list[int]) -> None:
    edges = sorted({0, 5, *cuts})
    parts = [TABLE.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    parts.insert(len(cuts) % 3, TABLE.slice(0, 0))
    norm = sbn.Normalizer().update(parts)
    assert norm.stats()["count"].to_pylist() == [4, 4]
    assert norm.stats()["var"].to_pylist() == pytest.approx([2.75, 350.0], rel=1e-15)
    frozen = fitted().freeze()
    assert frozen.transform(parts).read_all().equals(frozen.transform(TABLE))


X = pa.array([1.0])


class Refusing:
    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise TypeError("this frame is not collected")


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        *((name, "pyarrow.dataset.dataset") for name in ("data.parquet", b"data.parquet")),
        (Path("data.parquet"), "pyarrow"),
        ({"x": [1.0]}, r"pyarrow\.table\(data\)"),
        *(
            (values, r"data\.reshape\(")
            for values in (np.array([1.0]), np.array([]), np.array(5.0))
        ),
        (pl.LazyFrame({"x": [1.0]}), "collect"),
        *(
            (values, r"pyarrow\.table\(\{'name': array\}\)")
            for values in (pl.Series("x", [1.0]), pd.Series([1.0]), X, pa.chunked_array([X]))
        ),
        *(
            (data, r"numpy\.atleast_2d\(data\)")
            for data in (7, 1.5, np.float64(5.0), [1.0, 2.0], [[1.0]], ([1.0], [2.0]))
        ),
        *((data, "__arrow_c_stream__") for data in (None, [None])),
        *((data, "pyarrow") for data in (X_ALONE, ["a"])),
        *((data, r"pyarrow\.table") for data in ([{"x": 1.0}], [X])),
        (Refusing(), "this frame is not collected"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_data_are_an_error_with_a_remedy(data: Any, remedy: str) -> None:
    norm = fitted()
    assert_refused(norm, data, sbn.InvalidValueError, remedy)
    assert_refused(norm, data, sbn.InvalidValueError, remedy, ["inverse_transform"])


def test_invalid_item_late_in_an_iterable_is_an_error() -> None:
    norm = fitted()
    with pytest.raises(sbn.InvalidValueError, match=r"an item of .*list is .*int"):
        norm.update([TABLE, 5])
    assert_fails_after([2, 3], norm.transform([TABLE, None]), sbn.InvalidValueError, "an item of")


class Spied(ds.FileSystemDataset):
    """A dataset that records the arguments of its scanners."""

    def __init__(self, dataset: ds.Dataset) -> None:
        fragments = list(dataset.get_fragments())
        super().__init__(fragments, dataset.schema, dataset.format, dataset.filesystem)
        self.asked: list[Any] = []

    def scanner(self, columns: Any = None, **options: Any) -> ds.Scanner:
        self.asked.append(columns)
        return super().scanner(columns=columns, **options)


@pytest.mark.parametrize("named", [True, False])
def test_dataset_scan_reads_only_needed_columns(named: bool, tmp_path: Path) -> None:
    dataset = Spied(_dataset(TABLE, tmp_path / "data"))
    norm = sbn.Normalizer(columns=["x"]) if named else sbn.Normalizer(columns=["x"]).update(TABLE)
    norm.update(dataset)
    assert dataset.asked == [["x"]]
    assert norm.transform(dataset).read_all().schema.names == ["x", "n", "s"]


def test_unreadable_column_matters_only_if_it_is_learned(tmp_path: Path) -> None:
    file = tmp_path / "half.parquet"
    text = pa.array([f"{i:09d}" * 20 for i in range(2000)])
    table = pa.table({"x": np.arange(2000.0), "text": text})
    pq.write_table(table, file, use_dictionary=False, compression="none")
    where = pq.ParquetFile(file).metadata.row_group(0).column(1)
    with file.open("r+b") as raw:
        raw.seek(where.data_page_offset)
        raw.write(b"\xff" * 64)
    with pytest.raises(OSError):  # noqa: PT011 - Parquet's own words
        ds.dataset(file).to_table()
    norm = sbn.Normalizer(columns=["x"]).update(ds.dataset(file))
    assert norm.stats()["mean"].to_pylist() == [999.5]


def test_struct_field_of_a_dataset_is_learned(tmp_path: Path) -> None:
    table = pa.table({"s": [{"a": 1.0, "b": "x"}, {"a": 3.0, "b": "y"}], "t": ["p", "q"]})
    norm = sbn.Normalizer(columns=["s.a"]).update(_dataset(table, tmp_path / "data"))
    assert norm.stats()["mean"].to_pylist() == [2.0]


def test_missing_column_of_a_dataset_is_a_schema_error(tmp_path: Path) -> None:
    dataset = _dataset(TABLE, tmp_path / "data")
    with pytest.raises(sbn.SchemaError, match=r"'xx' is not in the data.*'x'"):
        sbn.Normalizer(columns=["xx"]).update(dataset)
    with pytest.raises(sbn.SchemaError, match="'zz' is not in the data"):
        sbn.Normalizer().update(pa.table({"zz": [1.0]})).update(dataset)


def test_open_stream_returns_schema_batches_and_collector() -> None:
    stream = open_stream(TABLE)
    batches = list(stream.batches)
    assert [b.num_rows for b in batches] == [2, 3]
    assert stream.collect is not None
    assert stream.collect(TABLE.schema, batches).equals(TABLE)
    assert open_stream(Counted(1).reader()).collect is None
    assert open_stream([]).schema is None


def test_map_batches_is_eager_for_tables_and_lazy_for_streams() -> None:
    calls = []

    def same(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        calls.append(batch.num_rows)
        return batch

    assert map_batches(TABLE, lambda schema: schema, same).equals(TABLE)
    assert calls == [2, 3]
    out = map_batches(TABLE.to_reader(), lambda schema: schema, same)
    assert calls == [2, 3]
    assert out.read_all().equals(TABLE)
    assert calls == [2, 3, 2, 3]


@pytest.mark.memory
@pytest.mark.parametrize("seconds", [0.0, 0.003], ids=["fast", "slow"])
def test_dataset_scan_reads_little_ahead(tmp_path: Path, seconds: float) -> None:
    """With a slow consumer, a default scan holds all of a file of this size."""
    rows, groups = 20_000, 150
    table = pa.table({f"x{i}": np.random.default_rng(i).normal(size=rows) for i in range(4)})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    norm = sbn.Normalizer()
    pool = pa.default_memory_pool()
    start, highest = pool.bytes_allocated(), 0
    for _ in norm.update(table).transform(ds.dataset(tmp_path)):
        highest = max(highest, pool.bytes_allocated() - start)
        time.sleep(seconds)
    assert highest < 50 * table.nbytes
