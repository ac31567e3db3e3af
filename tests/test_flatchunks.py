"""Flat columns of Parquet decoded without Arrow: the same as with it, or declined."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streambn import flatchunks, kernels, reading
from streambn.errors import StreamBNError
from streambn.flatchunks import FlatChunks
from streambn.reading import open_file

pytestmark = pytest.mark.skipif(
    kernels.FlatFile is None,
    reason="the compiled kernels are not there: install streambn where there is a compiler",
)

TYPES = [pa.float64(), pa.float32(), pa.int64(), pa.int32(), pa.uint64(), pa.uint32()]


# --- files ----------------------------------------------------------------------------


def column(rng: np.random.Generator, type_: Any, rows: int, distinct: int, nulls: float) -> Any:
    """Make a column of so many different values, and of runs of nulls."""
    bits = rng.integers(0, 256, max(distinct, 1) * type_.byte_width, np.uint8)
    pool = bits.view(type_.to_pandas_dtype())
    values = pool[rng.integers(0, len(pool), rows)]
    if rng.random() < 0.3:
        values = np.sort(values)  # which Snappy shortens
    missing = np.repeat(rng.random(rows // 7 + 1) < nulls, 7)[:rows]
    return pa.array(values, type_, mask=missing if nulls else None)


@st.composite
def files_of_columns(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """Draw a table and how it is to be written."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from([1, 2, 7, 8, 9, 63, 64, 65, 200, 1000, 3000]))
    fields, columns = [], []
    for i, type_ in enumerate(draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))):
        nulls = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]))
        distinct = draw(st.sampled_from([1, 2, 3, 17, 200, 5000]))
        columns.append(column(rng, type_, rows, distinct, nulls))
        fields.append(pa.field(f"c{i}", type_, nullable=bool(nulls) or draw(st.booleans())))
    how = {
        "compression": draw(st.sampled_from(["none", "snappy"])),
        "use_dictionary": draw(st.booleans()),
        "data_page_size": draw(st.sampled_from([1, 64, 1000, 1 << 20])),
        "dictionary_pagesize_limit": draw(st.sampled_from([16, 1000, 1 << 20])),
        "write_batch_size": draw(st.sampled_from([1, 10, 1024])),
        "row_group_size": draw(st.sampled_from([rows, max(rows // 2, 1)])),
        "write_page_checksum": draw(st.booleans()),
        "write_statistics": draw(st.booleans()),
    }
    return pa.table(columns, schema=pa.schema(fields)), how


def flat_groups(path: Path, batch_rows: int, threads: int = 2) -> Iterator[Any]:
    """Decode the row groups of a file; None: one that is declined, even in part."""
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    chunks = FlatChunks(lambda: pa.OSFile(str(path)), schema, metadata)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        opened = chunks.opened(group, rows, schema.names)
        batches = [] if opened is None else list(opened.batches(batch_rows, threads))
        table = pa.Table.from_batches(batches, schema)
        table.validate(full=True)
        assert all(batch.num_rows == batch_rows for batch in batches[:-1])
        yield table if batches and table.num_rows == rows else None


def same(one: Any, other: Any) -> bool:
    """Compare bit by bit: NaN is NaN here, and -0.0 is not 0.0."""
    if one.num_rows != other.num_rows or one.column_names != other.column_names:
        return False
    for a, b in zip(one.columns, other.columns, strict=True):
        bits = pa.uint64() if a.type.bit_width == 64 else pa.uint32()
        views = [column.combine_chunks().view(bits) for column in (a, b)]
        if not views[0].equals(views[1]):
            return False
    return True


# --- laws -----------------------------------------------------------------------------


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files_of_columns(), st.sampled_from([1, 3, 64, 100, 1 << 16]), st.integers(1, 3))
def test_it_is_what_arrow_reads(
    tmp_path: Path, made: tuple[Any, dict[str, Any]], batch_rows: int, threads: int
) -> None:
    table, how = made
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, **how)
    file = pq.ParquetFile(path)
    groups = list(flat_groups(path, batch_rows, threads))
    assert len(groups) == file.num_row_groups
    for index, group in enumerate(groups):
        assert group is not None, "it was declined"
        assert same(group, file.read_row_group(index))
        assert [c.null_count for c in group.columns] == [
            c.null_count for c in file.read_row_group(index).columns
        ]


@pytest.mark.parametrize("nulls", [0.0, 0.2])
@pytest.mark.parametrize("distinct", [300, 1_000_000])
@pytest.mark.parametrize("rows_of_a_batch", [65_536, 1 << 20])
def test_pages_as_large_as_writers_make_them(
    tmp_path: Path, nulls: float, distinct: int, rows_of_a_batch: int
) -> None:
    rng = np.random.default_rng(1)
    types = [pa.float64(), pa.float32(), pa.int64()]
    table = pa.table([column(rng, t, 400_000, distinct, nulls) for t in types], names=list("abc"))
    for writer in ("arrow", "polars", "duckdb"):
        path = tmp_path / f"{writer}.parquet"
        if writer == "arrow":
            pq.write_table(table, path)
        elif writer == "polars":
            pl.from_arrow(table).write_parquet(path, compression="snappy", row_group_size=400_000)
        else:
            duckdb.from_arrow(table).create_view("data")
            duckdb.sql(f"COPY (FROM data) TO '{path}' (CODEC 'snappy')")
        groups = list(flat_groups(path, rows_of_a_batch))
        assert None not in groups, f"a file of {writer} was declined"
        assert same(pa.concat_tables(groups), pq.read_table(path))


def test_what_snappy_shortens_in_each_of_its_ways(tmp_path: Path) -> None:
    # Copies from near and from far, that overlap what they make, and long literals between.
    rng = np.random.default_rng(2)
    noise = rng.random(30_000)
    parts = [np.zeros(1000), np.tile(noise[:3], 500), noise, noise[:20_000], np.full(9, 1.5), noise]
    wide = np.concatenate(parts)
    narrow = np.tile(np.arange(5, dtype=np.int32), 4000)
    for name, values in (("wide", wide), ("narrow", narrow), ("bytes", wide.view(np.uint32))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"x": values}), path, use_dictionary=False, compression="snappy")
        (group,) = flat_groups(path, 65_536)
        assert group is not None
        assert same(group, pq.read_table(path))


# --- what is declined -----------------------------------------------------------------


def fields() -> Any:
    """Give a table of which only x is flat."""
    return pa.table(
        {
            "x": pa.array([1.0, None, 3.0]),
            "text": ["a", "b", "c"],
            "narrow": pa.array([1, 2, 3], pa.int16()),
            "when": pa.array([1, 2, 3], pa.timestamp("us")),
            "list": pa.array([[1.0], [], [2.0]]),
            "struct": pa.array([{"x": 1.0}, {"x": 2.0}, None]),
        }
    )


def opened(path: Path, names: list[str]) -> Any:
    """Open columns of the first row group."""
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    chunks = FlatChunks(lambda: pa.OSFile(str(path)), schema, metadata)
    return chunks.opened(0, metadata.row_group(0).num_rows, names)


def test_only_flat_columns_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(fields(), path)
    assert opened(path, ["x"]) is not None
    for name in fields().column_names[1:]:
        assert opened(path, ["x", name]) is None, name
    assert opened(path, []) is None


def test_a_name_that_two_columns_could_have_is_declined(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"s.x": [1.0], "s": pa.array([{"x": 2.0}])}), path)
    assert opened(path, ["s.x"]) is None


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "zstd"},
        {"data_page_version": "2.0"},
        {"column_encoding": "BYTE_STREAM_SPLIT", "use_dictionary": False},
    ],
    ids=str,
)
def test_what_it_does_not_know_is_for_arrow(tmp_path: Path, how: dict[str, Any]) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.random.default_rng(3).random(1000)})
    pq.write_table(table, path, **how)
    assert list(flat_groups(path, 100)) == [None]
    assert read(path) == table.to_pylist()


def test_files_that_are_not_on_this_machine_are_for_arrow(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1.0]}), path)
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    chunks = FlatChunks(lambda: pa.BufferReader(path.read_bytes()), schema, metadata)
    assert chunks.opened(0, 1, ["x"]) is None


def read(path: Path) -> list[Any]:
    """Read a file as a job does."""
    pieces = open_file(lambda: pa.OSFile(str(path)), path.name).pieces
    return [row for piece in pieces for batch in piece.read() for row in batch.to_pylist()]


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_arrow_goes_on_where_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: int
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.random.default_rng(4).random(100)})
    pq.write_table(table, path)
    batches = flatchunks.FlatGroup.batches

    def some(self: Any, rows: int, threads: int) -> Iterator[Any]:
        for index, batch in enumerate(batches(self, rows, threads)):
            if index == stops:
                return
            yield batch

    monkeypatch.setattr(reading, "PARQUET_ROWS", 40)
    monkeypatch.setattr(flatchunks.FlatGroup, "batches", some)
    assert read(path) == table.to_pylist()


def test_a_page_that_is_damaged_is_told_by_arrow_and_what_stood_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.random.default_rng(5).random(1000)})
    pq.write_table(
        table, path, use_dictionary=False, data_page_size=1000, write_batch_size=100,
        write_page_checksum=True,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    data[6000] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(reading, "PARQUET_ROWS", 100)
    (piece,) = open_file(lambda: pa.OSFile(str(path)), "a.parquet").pieces
    rows: list[Any] = []
    with pytest.raises(StreamBNError, match=r"a\.parquet: .* in row group 0"):
        rows.extend(row for batch in piece.read() for row in batch.to_pylist())
    assert rows
    assert rows == table.to_pylist()[: len(rows)]


def test_a_file_that_was_cut_while_it_was_open(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.random.default_rng(6).random(200_000)}), path)
    group = opened(path, ["x"])
    batches = group.batches(65_536, 1)
    next(batches)
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    assert sum(batch.num_rows for batch in batches) < 200_000 - 65_536


# --- the border -----------------------------------------------------------------------


def test_the_reader_checks_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0]}), path)
    assert kernels.FlatFile is not None
    with path.open("rb") as file:
        chunks = kernels.FlatFile(file.fileno())
        assert chunks.reader(1, 3, [(0, 5, True)]) is None
        assert chunks.reader(-1, 3, [(0, 5, True)]) is None
        assert chunks.reader(0, 3, [(1, 5, True)]) is None
        assert chunks.reader(0, 3, [(-1, 5, True)]) is None
        assert chunks.reader(0, 3, [(0, 4, True)]) is None, "float32 was asked for"
        assert chunks.reader(0, 4, [(0, 5, True)]) is None, "there are three rows"
        reader = chunks.reader(0, 3, [(0, 5, True)])
        assert reader is not None
        for rows in (-1, 1 << 40):
            with pytest.raises(ValueError, match="rows"):
                reader.read(rows, 1)
        assert reader.read(4, 1) is None, "there are three"
        assert reader.read(1, 1) is None, "it has declined"
    for nothing in (-1, 10**6):
        assert kernels.FlatFile(nothing).reader(0, 3, [(0, 5, True)]) is None


def test_memory_lives_as_long_as_an_array_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.arange(100_000.0), "y": np.arange(100_000.0) * 2})
    pq.write_table(table, path)
    batches = list(opened(path, ["x", "y"]).batches(10_000, 2))
    kept = batches[3].column(1).slice(5, 10)
    del batches
    for _ in range(3):  # over the memory, if it were free
        list(opened(path, ["x", "y"]).batches(10_000, 2))
    assert kept.to_pylist() == [2.0 * i for i in range(30_005, 30_015)]


def test_several_readers_of_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(7)
    table = pa.table({name: column(rng, pa.float64(), 300_000, 400_000, 0.1) for name in "abcd"})
    pq.write_table(table, path, row_group_size=100_000)
    failed: list[Any] = []

    def work() -> None:
        try:
            assert same(pa.concat_tables(flat_groups(path, 30_000)), table)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# --- damage ---------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, bits, or the length of what is not the footer."""
    out = bytearray(data)
    end = len(out) - 8 - int.from_bytes(out[-8:-4], "little")
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.choice([rng.randrange(4, end), rng.randrange(4, min(end, 80))])
        out[at] = rng.choice([out[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255])
    return bytes(out)


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("checksum", [False, True])
def test_damage_is_declined_or_seen_by_arrow_too(
    tmp_path: Path, compression: str, checksum: bool
) -> None:
    """Wherever a damaged page is taken, Arrow takes it as well, and reads the same."""
    rng, seed = np.random.default_rng(8), random.Random(9)
    path = tmp_path / "a.parquet"
    taken = 0
    for index in range(40):
        distinct = [3, 50, 5000][index % 3]
        table = pa.table({"x": column(rng, TYPES[index % 6], 400, distinct, [0.0, 0.3][index % 2])})
        sink = io.BytesIO()
        pq.write_table(
            table, sink, compression=compression, write_page_checksum=checksum,
            data_page_size=[64, 1 << 20][index % 2], use_dictionary=distinct < 5000,
            write_batch_size=64,
        )  # fmt: skip
        for _ in range(25):
            path.write_bytes(damaged(sink.getvalue(), seed))
            (flat,) = flat_groups(path, 150)
            if flat is None:
                continue
            arrow = pq.ParquetFile(path, page_checksum_verification=True).read()
            assert same(flat, arrow)
            taken += 1
    assert taken > 0 or checksum, "nothing was compared"


def test_damaged_footers(tmp_path: Path) -> None:
    """Whatever a footer says, the reader stays in the file and in its memory."""
    table = pa.table({"x": np.arange(500.0), "y": pa.array([None, 1] * 250, pa.int32())})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=200)
    data = sink.getvalue()
    length = int.from_bytes(data[-8:-4], "little")
    rng = random.Random(10)
    path = tmp_path / "a.parquet"
    columns = [(0, 5, True), (1, 1, True)]
    declined = 0
    for _ in range(3000):
        out = bytearray(data)
        for _ in range(rng.choice([1, 2, 8])):
            out[rng.randrange(len(data) - 8 - length, len(data))] = rng.randrange(256)
        path.write_bytes(out[: rng.choice([len(out), rng.randrange(len(out))])])
        with path.open("rb") as file:
            assert kernels.FlatFile is not None
            chunks = kernels.FlatFile(file.fileno())
            for group, rows in enumerate((200, 200, 100)):
                reader = chunks.reader(group, rows, columns)
                declined += reader is None or reader.read(rows, 1) is None
    assert declined
