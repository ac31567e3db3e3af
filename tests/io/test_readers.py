"""Pieces of a file: together they are the file, and each is read on its own."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import until
from data_files import Drops, content
from hypothesis import given, settings
from hypothesis import strategies as st

from streambn import StreamBNError
from streambn.io import CsvOptions, csv_reader, readers
from streambn.io.formats import Format
from streambn.io.pieces import DataFile
from streambn.io.readers import open_file, open_pipe

FEW = settings.get_profile("few")


def opened(whole: bytes, **options: Any) -> DataFile:
    return open_file(lambda: pa.BufferReader(whole), "it", **options)


def read_all(file: DataFile) -> pa.Table:
    batches = (batch for piece in file.pieces for batch in piece.read())
    return pa.Table.from_batches(batches, file.schema)


def table_of(rows: int, kind: Format | None = None) -> pa.Table:
    missing = "" if kind is Format.CSV else None  # CSV has no null strings
    rng = np.random.default_rng(rows)
    return pa.table(
        {
            "x": rng.normal(size=rows),
            "n": pa.array(rng.integers(0, 9, rows), pa.int64()),
            "s": pa.array([missing if i % 5 == 3 else f"t{i}" for i in range(rows)], pa.string()),
        }
    )


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(whole: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(whole)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}
ALL = [Format.PARQUET, Format.IPC_FILE, Format.IPC_STREAM, Format.CSV]


def formats(*kinds: Format) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name)


FORMATS = formats(*ALL)
IN_PIECES = formats(Format.PARQUET, Format.IPC_FILE)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide even small tables into pieces of several row groups and batches."""
    monkeypatch.setattr(readers, "PARQUET_ROWS", 50)
    monkeypatch.setattr(csv_reader, "_BLOCK", 400)


# --- laws -----------------------------------------------------------------------------


@FORMATS
@FEW
@given(rows=st.integers(1, 200), group=st.integers(1, 120), batch=st.integers(1, 120))
def test_the_pieces_make_up_the_file(kind: Format, rows: int, group: int, batch: int) -> None:
    table = table_of(rows, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PARQUET_ROWS", batch)
        patch.setattr(csv_reader, "_BLOCK", 300)
        file = opened(content(kind, table, group))
        got = read_all(file)
    assert file.format is kind
    assert file.schema.equals(table.schema)
    assert got.equals(table)
    assert sum(piece.fraction for piece in file.pieces) == pytest.approx(1)
    assert all(piece.independent for piece in file.pieces) == (
        kind in (Format.PARQUET, Format.IPC_FILE)
    )


@FEW
@given(groups=st.lists(st.integers(0, 130), min_size=1, max_size=20), batch=st.integers(1, 100))
def test_small_row_groups_are_read_together(groups: list[int], batch: int) -> None:
    table = table_of(sum(groups))
    sink, start = io.BytesIO(), 0
    with pq.ParquetWriter(sink, table.schema) as writer:
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PARQUET_ROWS", batch)
        file = opened(sink.getvalue())
        pieces = [list(piece.read()) for piece in file.pieces]
    counts = [sum(b.num_rows for b in piece) for piece in pieces]
    assert sum(counts) == sum(groups)
    enough = batch // 4
    assert all(count >= enough for count in counts[:-1])
    # A piece takes no more row groups than it needs.
    assert all(count < max(enough, 1) + max(groups) for count in counts)
    assert all(b.num_rows <= batch for piece in pieces for b in piece)


@IN_PIECES
@FEW
@given(order=st.permutations(range(7)))
@pytest.mark.usefixtures("_small")
def test_pieces_are_read_in_any_order_and_again(kind: Format, order: list[int]) -> None:
    table = table_of(7 * 60)
    file = opened(content(kind, table, 60))
    assert len(file.pieces) == 7
    for index in [*order, *order]:
        part = pa.Table.from_batches(file.pieces[index].read(), file.schema)
        assert part.equals(table.slice(60 * index, 60))


@IN_PIECES
@pytest.mark.usefixtures("_small")
def test_several_threads_read_pieces_of_a_file(kind: Format) -> None:
    table = table_of(16 * 60)
    file = opened(content(kind, table, 60))
    together = threading.Barrier(4)

    def read(index: int) -> pa.Table:
        batches = file.pieces[index].read()
        first = next(batches)
        if index < 4:
            together.wait(30.0)  # four threads have read a batch, and none has finished
        return pa.Table.from_batches([first, *batches], file.schema)

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(read, range(16)))
    assert pa.concat_tables(parts).equals(table)


# --- compression ----------------------------------------------------------------------


@pytest.mark.parametrize("codec", COMPRESS)
@formats(Format.CSV, Format.IPC_STREAM, Format.IPC_FILE)
@pytest.mark.usefixtures("_small")
def test_compressed_files_are_read(kind: Format, codec: str) -> None:
    table = table_of(300, kind)
    file = opened(COMPRESS[codec](content(kind, table, 30)))
    assert file.format is kind
    assert read_all(file).equals(table)
    (piece,) = file.pieces
    assert (piece.where, piece.fraction, piece.independent) == ("", 1.0, False)


@pytest.mark.parametrize("codec", COMPRESS)
def test_all_members_of_a_compressed_file_are_read(codec: str) -> None:
    # `cat a.csv.gz b.csv.gz` makes such a file.
    table = table_of(50, Format.CSV)
    whole = content(Format.CSV, table)
    cut = whole.index(b"\n", len(whole) // 2) + 1
    both = COMPRESS[codec](whole[:cut]) + COMPRESS[codec](whole[cut:])
    assert read_all(opened(both)).equals(table)


@pytest.mark.parametrize("codec", COMPRESS)
def test_compressed_parquet_is_refused(codec: str) -> None:
    with pytest.raises(StreamBNError, match=f"compressed by {codec} as a whole.*decompress"):
        opened(COMPRESS[codec](content(Format.PARQUET, table_of(9))))


@pytest.mark.parametrize("codec", COMPRESS)
@formats(Format.CSV, Format.IPC_STREAM)
def test_a_truncated_compressed_file_is_an_error(kind: Format, codec: str) -> None:
    whole = COMPRESS[codec](content(kind, table_of(20_000), 30))
    ends = (5, len(whole) - 9) if (codec, kind) == ("gzip", Format.CSV) else ()
    for kept in (len(whole) // 2, *ends):
        with pytest.raises(StreamBNError, match=r"^it: damaged"):
            read_all(opened(whole[:kept]))


@pytest.mark.parametrize("buffers", ["lz4", "zstd"])
@formats(Format.IPC_STREAM, Format.IPC_FILE)
def test_ipc_files_with_compressed_buffers_are_read(kind: Format, buffers: str) -> None:
    table = table_of(300)
    assert read_all(opened(content(kind, table, 70, compression=buffers))).equals(table)


# --- columns --------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("names", [["x"], ["s", "x"], None])
def test_only_the_selected_columns_are_read(kind: Format, names: list[str] | None) -> None:
    table = table_of(100, kind)
    seen = []

    def select(schema: pa.Schema) -> list[str] | None:
        seen.append(schema.names)
        return names

    file = opened(content(kind, table, 30), select_columns=select)
    selected = names is not None and kind in (Format.PARQUET, Format.IPC_FILE)
    expected = table.select([n for n in table.column_names if n in names]) if selected else table
    assert file.schema.equals(expected.schema)
    assert read_all(file).equals(expected)
    assert seen in ([["x", "n", "s"]], [])


def test_types_of_csv_columns_can_be_given() -> None:
    file = opened(b"x,y\n1,2\n3,4\n", csv=CsvOptions({"x": pa.float64()}))
    assert file.schema.types == [pa.float64(), pa.int64()]
    assert read_all(file).to_pydict() == {"x": [1.0, 3.0], "y": [2, 4]}


# --- edge cases ----------------------------------------------------------------------


@FORMATS
def test_a_file_without_rows(kind: Format) -> None:
    table = table_of(0) if kind is not Format.CSV else pa.table({"x": pa.nulls(0)})
    file = opened(content(kind, table, 30))
    assert read_all(file).num_rows == 0
    assert file.schema.names == table.column_names


@IN_PIECES
@pytest.mark.usefixtures("_small")
def test_a_damaged_piece_does_not_affect_the_others(kind: Format) -> None:
    table = table_of(4 * 60)
    spoilt = bytearray(content(kind, table, 60))
    if kind is Format.PARQUET:
        where = pq.read_metadata(io.BytesIO(spoilt)).row_group(2).column(0).data_page_offset
        spoilt[where : where + 20] = b"\xff" * 20
    else:  # the metadata message of the third batch; the first message is the schema's
        at = 8
        for _ in range(3):
            message = pa.ipc.read_message(pa.py_buffer(bytes(spoilt[at:])))
            at = spoilt.index(b"\xff\xff\xff\xff", at + 8 + len(message.metadata))
        spoilt[at + 8 : at + 40] = b"\xff" * 32
    file = opened(bytes(spoilt))
    for index, piece in enumerate(file.pieces):
        if index == 2:
            with pytest.raises(StreamBNError, match=rf"^it: damaged.*{piece.where}"):
                list(piece.read())
        else:
            part = pa.Table.from_batches(piece.read(), file.schema)
            assert part.equals(table.slice(60 * index, 60))


def test_a_large_row_group_is_read_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PARQUET_ROWS", 10_000)
    table = pa.table({"x": np.random.default_rng(0).normal(size=1_000_000)})
    (piece,) = opened(content(Format.PARQUET, table)).pieces
    before = pa.total_allocated_bytes()
    most = 0
    for batch in piece.read():
        assert batch.num_rows <= 10_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4_000_000  # of 8 MB


def test_files_are_closed_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for kind in ALL:
        table = table_of(300, kind)
        path.write_bytes(content(kind, table, 30))
        made: list[Any] = []

        def opener(made: list[Any] = made) -> Any:
            made.append(pa.OSFile(str(path)))
            return made[-1]

        file = open_file(opener, "it")
        assert read_all(file).equals(table), kind
        descriptors = {Path(f"/proc/self/fd/{file.fileno()}") for file in made if not file.closed}
        made.clear()
        del file
        # A thread of Arrow may close it a moment later.
        until(lambda ds=descriptors: not [d for d in ds if d.exists() and d.resolve() == path])


# --- pipes ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 1 << 20])
def test_a_pipe_carries_an_arrow_stream(count: int) -> None:
    table = table_of(100)
    file = open_pipe(Drops(content(Format.IPC_STREAM, table, 30), count), "it")
    assert read_all(file).equals(table)


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs a system with poll: Linux or macOS")
def test_a_pipe_is_read_only_when_it_has_data() -> None:
    class Ready(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            assert select.select([self], [], [], 0)[0], "the read would have blocked"
            return super().read(size) or b""

    whole = content(Format.IPC_STREAM, table_of(100), 30)
    end, start = os.pipe()

    def produce() -> None:
        with open(start, "wb", buffering=0) as sink:
            for at in range(0, len(whole), 300):
                sink.write(whole[at : at + 300])
                time.sleep(0.01)

    producer = threading.Thread(target=produce)
    producer.start()
    with Ready(end) as pipe:
        assert read_all(open_pipe(pipe, "it")).equals(table_of(100))
    producer.join()


@formats(Format.PARQUET, Format.IPC_FILE)
def test_other_formats_are_refused_through_a_pipe(kind: Format) -> None:
    with pytest.raises(StreamBNError, match="through a pipe only an Arrow IPC stream"):
        open_pipe(Drops(content(kind, table_of(9)), 100), "it")
