"""Whatever gives out record batches can be passed as it is, or a message names the way."""

from __future__ import annotations

import io
import sqlite3

import narwhals
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.flight as fl
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn.errors import InvalidValueError

duckdb = pytest.importorskip("duckdb", reason="needs duckdb: pip install duckdb")

ROWS = pa.table({"x": [1.0, 2.0, 3.0, None, 10.0], "name": list("abcde")})
MEAN, STD = 4.0, 12.5**0.5
TICKET = fl.Ticket(b"rows")


class FlightServer(fl.FlightServerBase):
    """Serves the rows in three batches, with metadata, and normalizes what it is sent."""

    def do_get(self, context, ticket):
        def chunks():
            for start in (0, 2, 4):
                [batch] = ROWS.slice(start, 2).to_batches()
                yield batch, b"position"

        return fl.GeneratorStream(ROWS.schema, chunks())

    def do_put(self, context, descriptor, reader, writer):
        mean = sbn.Normalizer().update(reader).stats()["mean"][0]
        writer.write(str(mean).encode())

    def do_exchange(self, context, descriptor, reader, writer):
        normalized = sbn.Normalizer().update_transform(reader)
        writer.begin(normalized.schema)
        for batch in normalized:
            writer.write_batch(batch)


@pytest.fixture(scope="module")
def client():
    with FlightServer("grpc://127.0.0.1:0") as server, fl.connect(("127.0.0.1", server.port)) as c:
        yield c


def fitted(data):
    [row] = sbn.Normalizer(columns=["x"]).update(data).stats().to_pylist()
    return row["count"], row["mean"], pytest.approx(row["std"])


def test_answer_of_a_flight_server_is_learned(client):
    assert fitted(client.do_get(TICKET)) == (4, MEAN, STD)
    assert fitted(iter(client.do_get(TICKET))) == (4, MEAN, STD)
    # One answer for each endpoint.
    assert fitted(client.do_get(TICKET) for _ in range(3)) == (12, MEAN, STD)
    assert fitted(chunk.data for chunk in client.do_get(TICKET)) == (4, MEAN, STD)


def test_answer_of_a_flight_server_is_normalized_batch_by_batch(client):
    frozen = sbn.Normalizer().update(ROWS).freeze()
    reader = frozen.transform(client.do_get(TICKET))
    assert isinstance(reader, pa.RecordBatchReader)
    assert [batch.num_rows for batch in reader] == [2, 2, 1]
    whole = frozen.transform(client.do_get(TICKET)).read_all()
    assert whole.combine_chunks() == frozen.transform(ROWS).combine_chunks()
    norm = sbn.Normalizer()
    assert norm.update_transform(client.do_get(TICKET)).read_all()["name"] == ROWS["name"]
    assert norm.stats()["mean"][0].as_py() == MEAN
    again = frozen.inverse_transform(frozen.transform(client.do_get(TICKET))).read_all()
    assert again["x"].to_pylist() == pytest.approx(ROWS["x"].to_pylist())


def test_flight_server_learns_and_normalizes_what_it_is_sent(client):
    writer, metadata = client.do_put(fl.FlightDescriptor.for_path("in"), ROWS.schema)
    with writer:
        writer.write_table(ROWS)
        writer.done_writing()
        assert metadata.read().to_pybytes() == str(MEAN).encode()
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("both"))
    with writer:
        writer.begin(ROWS.schema)
        writer.write_table(ROWS)
        writer.done_writing()
        assert reader.read_all() == sbn.Normalizer().update_transform(ROWS)


def ipc_file():
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, ROWS.schema) as writer:
        writer.write_table(ROWS, max_chunksize=2)
    return pa.ipc.open_file(sink)


def nanoarrow_stream():
    needed = "needs nanoarrow: pip install nanoarrow"
    return pytest.importorskip("nanoarrow", reason=needed).ArrayStream(ROWS)


class Cursor:
    """A cursor as ADBC's is: to iterate over it gives tuples."""

    def __iter__(self):
        return iter([(1.0, "a")])

    def fetch_record_batch(self):
        return ROWS.to_reader()


PRODUCERS = {
    "IPC file": ipc_file,
    "cursor of ADBC": Cursor,
    "relation of DuckDB": lambda: duckdb.from_arrow(ROWS),
    "reader of DuckDB": lambda: duckdb.from_arrow(ROWS).to_arrow_reader(),
    "Polars": lambda: pl.DataFrame(ROWS),
    "batches of a Polars LazyFrame": lambda: pl.DataFrame(ROWS).lazy().collect_batches(),
    "narwhals": lambda: narwhals.from_native(pl.DataFrame(ROWS)),
    "pandas": ROWS.to_pandas,
    "nanoarrow": nanoarrow_stream,
    "scanner": lambda: ds.dataset(ROWS).scanner(),
    "files of IPC": lambda: [ipc_file()],
}


@pytest.mark.parametrize("make", PRODUCERS.values(), ids=PRODUCERS)
def test_producer_is_learned_and_normalized(make):
    assert fitted(make()) == (4, MEAN, STD)
    norm = sbn.Normalizer(columns=["x"]).update(ROWS)
    normalized = pa.table(norm.transform(make()))["x"].to_pylist()
    assert normalized == pytest.approx(norm.transform(ROWS)["x"].to_pylist())


async def batches():
    for batch in ROWS.to_batches():
        yield batch


def parquet_file():
    sink = io.BytesIO()
    pq.write_table(ROWS, sink)
    return pq.ParquetFile(sink)


REFUSED = {
    "async iterable": (batches, r"`async for batch in data: norm\.update\(batch\)`"),
    "Polars LazyFrame": (lambda: pl.DataFrame(ROWS).lazy(), r"data\.collect\(\)"),
    "narwhals LazyFrame": (
        lambda: narwhals.from_native(pl.DataFrame(ROWS).lazy()),
        r"data\.collect\(\)",
    ),
    "connection to DuckDB": (
        lambda: duckdb.connect().execute("select 1.0 as x"),
        r"data\.to_arrow_reader\(\)",
    ),
    "Parquet file": (parquet_file, r"data\.iter_batches\(\)"),
    "pandas column": (lambda: pd.Series([1.0]), r"pyarrow\.table\(\{'name': array\}\)"),
    "Polars column": (lambda: pl.Series([1.0]), r"pyarrow\.table\(\{'name': array\}\)"),
    "cursor of rows": (
        lambda: sqlite3.connect(":memory:").execute("select 1.0"),
        r"an item of sqlite3\.Cursor is builtins\.tuple",
    ),
}


@pytest.mark.parametrize("method", ["update", "update_transform", "transform"])
@pytest.mark.parametrize(("make", "remedy"), REFUSED.values(), ids=REFUSED)
def test_message_names_the_way(make, remedy, method):
    norm = sbn.Normalizer(columns=["x"]).update(ROWS)
    before = norm.statistics
    with pytest.raises(InvalidValueError, match=remedy):
        getattr(norm, method)(make())
    assert norm.statistics is before


def test_chunk_of_flight_and_coroutine_are_named(client):
    chunk = next(iter(client.do_get(TICKET)))
    with pytest.raises(InvalidValueError, match=r"chunk\.data"):
        sbn.Normalizer().update(chunk)

    async def fetch():
        return ROWS

    pending = fetch()
    with pytest.raises(InvalidValueError, match=r"norm\.update\(await data\)"):
        sbn.Normalizer().update(pending)
    pending.close()


def test_batches_of_an_async_stream_are_learned_one_by_one():
    norm = sbn.Normalizer(columns=["x"])

    async def learn():
        async for batch in batches():
            norm.update(batch)

    with pytest.raises(StopIteration):
        learn().send(None)
    assert norm.stats()["mean"][0].as_py() == MEAN
