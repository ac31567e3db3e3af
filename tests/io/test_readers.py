"""Files read in pieces: together they are the file, and each can be read by itself."""

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
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambn import StreamBNError
from streambn.io import readers as reading
from streambn.io.formats import Format
from streambn.io.readers import DataFile, open_file, open_pipe

FEW = settings.get_profile("few")


def opened(content: bytes, name: str = "it", **how: Any) -> DataFile:
    return open_file(lambda: pa.BufferReader(content), name, **how)


def whole(of: DataFile) -> pa.Table:
    return pa.Table.from_batches((b for piece in of.pieces for b in piece.read()), of.schema)


def table_of(rows: int, kind: Format | None = None) -> pa.Table:
    missing = "" if kind is Format.CSV else None  # which has no null texts
    rng = np.random.default_rng(rows)
    return pa.table(
        {
            "x": rng.normal(size=rows),
            "n": pa.array(rng.integers(0, 9, rows), pa.int64()),
            "s": pa.array([missing if i % 5 == 3 else f"t{i}" for i in range(rows)], pa.string()),
        }
    )


def parquet(table: pa.Table, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows)
    return sink.getvalue()


def ipc(kind: Format, table: pa.Table, rows: int | None, buffers: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=buffers)
    new = pa.ipc.new_file if kind is Format.IPC_FILE else pa.ipc.new_stream
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink)
    return sink.getvalue()


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(content)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}
MAKE: dict[Format, Callable[[pa.Table], bytes]] = {
    Format.PARQUET: lambda table: parquet(table, 30),
    Format.IPC_FILE: lambda table: ipc(Format.IPC_FILE, table, 30),
    Format.IPC_STREAM: lambda table: ipc(Format.IPC_STREAM, table, 30),
    Format.CSV: csv,
}
FORMATS = pytest.mark.parametrize("kind", MAKE, ids=lambda kind: kind.name)
IN_PIECES = pytest.mark.parametrize("kind", [Format.PARQUET, Format.IPC_FILE], ids=lambda k: k.name)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pieces of many row groups and many batches, although the tables are small."""
    monkeypatch.setattr(reading, "PARQUET_ROWS", 50)
    monkeypatch.setattr(reading, "_CSV_BLOCK", 400)


# --- laws -----------------------------------------------------------------------------


@FORMATS
@FEW
@given(rows=st.integers(1, 200), group=st.integers(1, 120), batch=st.integers(1, 120))
def test_the_pieces_together_are_the_file(kind: Format, rows: int, group: int, batch: int) -> None:
    table = table_of(rows, kind)
    content = {
        Format.PARQUET: lambda: parquet(table, group),
        Format.CSV: lambda: csv(table),
    }.get(kind, lambda: ipc(kind, table, group))()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PARQUET_ROWS", batch)
        patch.setattr(reading, "_CSV_BLOCK", 300)
        of = opened(content)
        got = whole(of)
    assert of.format is kind
    assert of.schema.equals(table.schema)
    assert got.equals(table)
    assert sum(piece.fraction for piece in of.pieces) == pytest.approx(1)
    assert all(piece.independent for piece in of.pieces) == (
        kind in (Format.PARQUET, Format.IPC_FILE)
    )


@FEW
@given(groups=st.lists(st.integers(0, 130), min_size=1, max_size=20), batch=st.integers(1, 100))
def test_small_row_groups_are_joined(groups: list[int], batch: int) -> None:
    table = table_of(sum(groups))
    sink, start = io.BytesIO(), 0
    with pq.ParquetWriter(sink, table.schema) as writer:
        for rows in groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PARQUET_ROWS", batch)
        of = opened(sink.getvalue())
        pieces = [list(piece.read()) for piece in of.pieces]
    counts = [sum(b.num_rows for b in piece) for piece in pieces]
    assert sum(counts) == sum(groups)
    assert all(count >= batch // 4 for count in counts[:-1])
    # None is joined to what is large enough without it.
    assert all(count < batch // 4 + max(groups) + 1 for count in counts)
    assert all(b.num_rows <= batch for piece in pieces for b in piece)


@IN_PIECES
@FEW
@given(order=st.permutations(range(7)))
@pytest.mark.usefixtures("_small")
def test_each_piece_is_read_by_itself_in_any_order_and_again(
    kind: Format, order: list[int]
) -> None:
    table = table_of(7 * 60)
    content = parquet(table, 60) if kind is Format.PARQUET else ipc(kind, table, 60)
    of = opened(content)
    assert len(of.pieces) == 7
    for index in [*order, *order]:
        part = pa.Table.from_batches(of.pieces[index].read(), of.schema)
        assert part.equals(table.slice(60 * index, 60))


@IN_PIECES
@pytest.mark.usefixtures("_small")
def test_pieces_are_read_on_several_threads_at_once(kind: Format) -> None:
    table = table_of(16 * 60)
    content = parquet(table, 60) if kind is Format.PARQUET else ipc(kind, table, 60)
    of = opened(content)
    together = threading.Barrier(4)

    def read(index: int) -> pa.Table:
        batches = of.pieces[index].read()
        first = next(batches)
        if index < 4:
            together.wait(30.0)  # four have begun and none has ended
        return pa.Table.from_batches([first, *batches], of.schema)

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(read, range(16)))
    assert pa.concat_tables(parts).equals(table)


# --- compression ----------------------------------------------------------------------


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize(
    "kind", [Format.CSV, Format.IPC_STREAM, Format.IPC_FILE], ids=lambda k: k.name
)
@pytest.mark.usefixtures("_small")
def test_files_compressed_as_a_whole(kind: Format, codec: str) -> None:
    table = table_of(300, kind)
    of = opened(COMPRESS[codec](MAKE[kind](table)))
    assert of.format is kind
    assert whole(of).equals(table)
    (piece,) = of.pieces
    assert (piece.where, piece.fraction, piece.independent) == ("", 1.0, False)


@pytest.mark.parametrize("codec", COMPRESS)
def test_what_was_compressed_in_parts_is_read_to_its_end(codec: str) -> None:
    # As `cat a.csv.gz b.csv.gz` makes it.
    table = table_of(50, Format.CSV)
    content = csv(table)
    cut = content.index(b"\n", len(content) // 2) + 1
    both = COMPRESS[codec](content[:cut]) + COMPRESS[codec](content[cut:])
    assert whole(opened(both)).equals(table)


@pytest.mark.parametrize("codec", COMPRESS)
def test_parquet_is_not_read_through_compression(codec: str) -> None:
    with pytest.raises(StreamBNError, match=f"compressed by {codec} as a whole.*decompress"):
        opened(COMPRESS[codec](parquet(table_of(9))))


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize("kind", [Format.CSV, Format.IPC_STREAM], ids=lambda k: k.name)
def test_what_is_cut_short_is_told(kind: Format, codec: str) -> None:
    content = COMPRESS[codec](MAKE[kind](table_of(20_000)))
    with pytest.raises(StreamBNError, match=r"^it: damaged"):
        whole(opened(content[: len(content) // 2]))


@pytest.mark.parametrize("buffers", ["lz4", "zstd"])
@pytest.mark.parametrize("kind", [Format.IPC_STREAM, Format.IPC_FILE], ids=lambda k: k.name)
def test_compressed_buffers(kind: Format, buffers: str) -> None:
    table = table_of(300)
    assert whole(opened(ipc(kind, table, 70, buffers))).equals(table)


# --- columns --------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("names", [["x"], ["s", "x"], None])
def test_only_the_chosen_columns_are_read(kind: Format, names: list[str] | None) -> None:
    table = table_of(100, kind)
    seen = []

    def choose(schema: pa.Schema) -> list[str] | None:
        seen.append(schema.names)
        return names

    of = opened(MAKE[kind](table), select_columns=choose)
    chosen = names is not None and kind in (Format.PARQUET, Format.IPC_FILE)
    expected = table.select([n for n in table.column_names if n in names]) if chosen else table
    assert of.schema.equals(expected.schema)
    assert whole(of).equals(expected)
    assert seen in ([["x", "n", "s"]], [])


def test_types_of_csv_columns_can_be_given() -> None:
    of = opened(b"x,y\n1,2\n3,4\n", csv_types={"x": pa.float64()})
    assert of.schema.types == [pa.float64(), pa.int64()]
    assert whole(of).to_pydict() == {"x": [1.0, 3.0], "y": [2, 4]}


# --- what is odd ----------------------------------------------------------------------


@FORMATS
def test_no_rows(kind: Format) -> None:
    table = table_of(0) if kind is not Format.CSV else pa.table({"x": pa.nulls(0)})
    of = opened(MAKE[kind](table))
    assert whole(of).num_rows == 0
    assert of.schema.names == table.column_names


@IN_PIECES
@pytest.mark.usefixtures("_small")
def test_a_damaged_piece_leaves_the_others(kind: Format) -> None:
    table = table_of(4 * 60)
    content = bytearray(parquet(table, 60) if kind is Format.PARQUET else ipc(kind, table, 60))
    if kind is Format.PARQUET:
        where = pq.read_metadata(io.BytesIO(content)).row_group(2).column(0).data_page_offset
        content[where : where + 20] = b"\xff" * 20
    else:  # the third of the messages that say what a batch is made of, after the schema's
        at = 8
        for _ in range(3):
            message = pa.ipc.read_message(pa.py_buffer(bytes(content[at:])))
            at = content.index(b"\xff\xff\xff\xff", at + 8 + len(message.metadata))
        content[at + 8 : at + 40] = b"\xff" * 32
    of = opened(bytes(content))
    for index, piece in enumerate(of.pieces):
        if index == 2:
            with pytest.raises(StreamBNError, match=rf"^it: damaged.*{piece.where}"):
                list(piece.read())
        else:
            part = pa.Table.from_batches(piece.read(), of.schema)
            assert part.equals(table.slice(60 * index, 60))


def test_no_more_is_held_than_the_batch_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PARQUET_ROWS", 10_000)
    content = parquet(pa.table({"x": np.random.default_rng(0).normal(size=1_000_000)}))
    (piece,) = opened(content).pieces
    before = pa.total_allocated_bytes()
    most = 0
    for batch in piece.read():
        assert batch.num_rows <= 10_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4_000_000  # of 8 MB


def test_each_thread_opens_the_file_for_itself_and_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for kind, make in MAKE.items():
        table = table_of(300, kind)
        path.write_bytes(make(table))
        made: list[Any] = []

        def opener(made: list[Any] = made) -> Any:
            made.append(pa.OSFile(str(path)))
            return made[-1]

        of = open_file(opener, "it")
        assert whole(of).equals(table), kind
        descriptors = {Path(f"/proc/self/fd/{file.fileno()}") for file in made if not file.closed}
        made.clear()
        del of
        for _ in range(3000):  # a thread of Arrow's may let go of it a moment later
            if not [d for d in descriptors if d.exists() and d.resolve() == path]:
                break
            threading.Event().wait(0.01)
        else:
            pytest.fail(f"{kind.value} stays open")


# --- pipes ----------------------------------------------------------------------------


class Drops(io.RawIOBase):
    """Gives a few bytes at a time, as pipes do."""

    def __init__(self, content: bytes, count: int) -> None:
        self._rest, self._count = content, count

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._count) if size >= 0 else self._count
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


@pytest.mark.parametrize("count", [1, 7, 1 << 20])
def test_a_stream_through_a_pipe(count: int) -> None:
    table = table_of(100)
    of = open_pipe(Drops(MAKE[Format.IPC_STREAM](table), count), "it")
    assert whole(of).equals(table)


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs a system with poll: Linux or macOS")
def test_a_pipe_is_read_when_something_is_in_it_so_that_no_signal_waits_for_data() -> None:
    class Ready(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            assert select.select([self], [], [], 0)[0], "the read would have blocked"
            return super().read(size) or b""

    content = MAKE[Format.IPC_STREAM](table_of(100))
    end, start = os.pipe()

    def produce() -> None:
        with open(start, "wb", buffering=0) as sink:
            for at in range(0, len(content), 300):
                sink.write(content[at : at + 300])
                time.sleep(0.01)

    producer = threading.Thread(target=produce)
    producer.start()
    with Ready(end) as pipe:
        assert whole(open_pipe(pipe, "it")).equals(table_of(100))
    producer.join()


@pytest.mark.parametrize(
    "kind", [Format.CSV, Format.PARQUET, Format.IPC_FILE], ids=lambda k: k.name
)
def test_nothing_else_comes_through_a_pipe(kind: Format) -> None:
    with pytest.raises(StreamBNError, match="through a pipe only an Arrow IPC stream"):
        open_pipe(Drops(MAKE[kind](table_of(9)), 100), "it")
