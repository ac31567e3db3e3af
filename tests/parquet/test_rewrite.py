"""A rewritten Parquet file has the bytes of a file that Arrow writes in one go."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.io.sources import scan
from streambn.io.writers import Encoding, parquet_writer
from streambn.jobs.operations import ApplyStatistics
from streambn.jobs.outputs import write_outputs
from streambn.jobs.plan import ReadOptions, make_plan
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.parquet import metadata as footers
from streambn.parquet import rewrite as rewrite_module
from streambn.parquet.rewrite import Assembler, ParquetSource, encode_block

# The fixtures patch the same values for all examples of a test.
FEW = settings(
    settings.get_profile("few"), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOURCE, TARGET = Path("in.parquet"), Path("out.parquet")
CODECS = ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["blocks", "runs"])
def _small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide even small tables: into blocks of a few columns and several batches, or into runs."""
    if request.param == "blocks":
        monkeypatch.setattr(rewrite_module, "_SMALL_CHUNK", 0)
        monkeypatch.setattr(rewrite_module, "_BLOCK_BYTES", 300)
        monkeypatch.setattr(rewrite_module, "_ROWS", 5)
    else:
        monkeypatch.setattr(rewrite_module, "_RUN_BYTES", 1000)
        monkeypatch.setattr(rewrite_module, "_ROWS", 1 << 20)


# --- tables ---------------------------------------------------------------------------


def codecs_of(metadata: pq.FileMetaData) -> list[str]:
    """Return the codecs of the first row group, as Arrow reads them."""
    group = metadata.row_group(0)
    codecs = [group.column(i).compression.lower() for i in range(metadata.num_columns)]
    return [{"uncompressed": "none", "lz4_raw": "lz4"}.get(codec, codec) for codec in codecs]


def _list(make: Any) -> Any:
    return lambda rng: [make(rng) for _ in range(rng.integers(0, 4))]


def _float(rng: np.random.Generator) -> float:
    return float(rng.choice([rng.normal(), 1e300, -0.0, np.nan, np.inf, 3.0]))


def _small(rng: np.random.Generator) -> float:
    return float(np.float16(rng.normal()))


def _int(rng: np.random.Generator) -> int:
    return int(rng.integers(0, 100))


def _text(rng: np.random.Generator) -> str:
    return str(rng.choice(["", "a", "ümläut", "x" * 50, "\n", "😀"]))


def _bytes(rng: np.random.Generator) -> bytes:
    return bytes(rng.bytes(3))


def _struct(**fields: Any) -> Any:
    return lambda rng: {name: None if rng.random() < 0.2 else f(rng) for name, f in fields.items()}


F64, F32, STR = pa.float64(), pa.float32(), pa.string()
KINDS: dict[Any, Any] = {
    F64: _float,
    F32: _small,
    pa.float16(): lambda rng: np.float16(rng.normal()),
    pa.int8(): _int,
    pa.int64(): _int,
    pa.uint16(): _int,
    pa.uint64(): _int,
    pa.bool_(): lambda rng: bool(rng.integers(2)),
    STR: _text,
    pa.large_string(): _text,
    pa.string_view(): _text,
    pa.binary(): _bytes,
    pa.binary(3): _bytes,
    pa.dictionary(pa.int32(), STR): _text,
    pa.dictionary(pa.int8(), pa.int64()): _int,
    pa.list_(F64): _list(_float),
    pa.large_list(F32): _list(_small),
    pa.list_(STR): _list(_text),
    pa.list_(pa.list_(F64)): _list(_list(_float)),
    pa.list_(F32, 3): lambda rng: [_small(rng) for _ in range(3)],
    pa.struct([("a", F64), ("b", STR), ("c", pa.int32())]): _struct(a=_float, b=_text, c=_int),
    pa.struct([("s", pa.struct([("t", F64)])), ("l", pa.list_(F64))]): _struct(
        s=_struct(t=_float), l=_list(_float)
    ),
    pa.list_(pa.struct([("a", F64), ("b", STR)])): _list(_struct(a=_float, b=_text)),
    pa.map_(STR, F64): lambda rng: [(f"k{i}", _float(rng)) for i in range(rng.integers(0, 3))],
    pa.decimal128(10, 2): lambda rng: Decimal(_int(rng)) / 4,
    pa.decimal256(50, 3): lambda rng: Decimal(_int(rng)) / 8,
    pa.timestamp("us"): lambda rng: pd.Timestamp(_int(rng), unit="s").to_pydatetime(),
    pa.timestamp("ns", "Europe/Berlin"): lambda rng: _int(rng) * 1_000_000,
    pa.date32(): _int,
    pa.time64("us"): _int,
    pa.duration("ms"): _int,
    pa.null(): lambda _: None,
}
NAMES = ["a", "B", "ü ber", "", " ", "a,b", 'q"uote', "x\ny", "😀", "a/b", "index", "%41", "a;b"]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.sampled_from([0, 1, 2, 7, 40]))
    types = draw(st.lists(st.sampled_from(list(KINDS)), max_size=8))
    names = draw(st.permutations(NAMES))[: len(types)]
    nulls = draw(st.sampled_from([0.0, 0.3, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    fields, columns = [pa.field("x", F64)], [pa.array(rng.normal(size=rows))]
    for name, type_ in zip(names, types, strict=True):
        nullable = draw(st.booleans()) or pa.types.is_null(type_)
        part = nulls if nullable else 0.0
        values = [None if rng.random() < part else KINDS[type_](rng) for _ in range(rows)]
        metadata = draw(st.sampled_from([None, {"unit": "µm"}]))
        fields.append(pa.field(name, type_, nullable=nullable, metadata=metadata))
        columns.append(pa.array(values, type_))
    order = draw(st.permutations(range(len(fields))))
    metadata = draw(st.sampled_from([None, {"who": "me", "": "empty", "ünï": "cødé"}]))
    schema = pa.schema([fields[i] for i in order], metadata)
    return pa.Table.from_arrays([columns[i] for i in order], schema=schema)


def fitted(table: pa.Table) -> sbn.FrozenNormalizer:
    """Return statistics of a table, or of another one if it is empty."""
    normalizer = sbn.Normalizer(columns=None if table.num_rows else ["x"], inf="ignore")
    if table.num_rows == 0:
        table = pa.table({"x": [1.0, 2.0, 4.0]})
    return normalizer.update(table).freeze()


def blocks_of(path: str | Path) -> Any:
    (found,) = scan([str(path)])
    return ParquetSource(found.open, found.name, remote=False).blocks()


def rewrite(
    source: str | Path,
    target: str | Path,
    frozen: sbn.FrozenNormalizer,
    *,
    threads: int = 1,
    compression: str | None = None,
    inverse: bool = False,
    skip_damaged: bool = False,
    dtype: pa.DataType | None = None,
) -> list[Skipped]:
    """Apply statistics to a file, block by block."""
    assert blocks_of(source)
    return write_outputs(
        ApplyStatistics(frozen, dtype, inverse),
        make_plan(scan([str(source)]), str(target)).outputs,
        ReadOptions(threads=threads, skip_damaged=skip_damaged),
        Encoding(compression),
        Progress("applying", 1),
        lambda output: output.location.open_output(fsync=False),
    )


def same(one: pa.Table, other: pa.Table) -> bool:
    """Return whether all bits are equal, those of NaN and -0 included, and all metadata."""

    def stream(table: pa.Table) -> bytes:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return sink.getvalue()

    if not one.schema.equals(other.schema, check_metadata=True) or len(one) != len(other):
        return False
    back, forth = (pa.ipc.open_stream(stream(table)).read_all() for table in (one, other))
    return repr(back.to_pydict()) == repr(forth.to_pydict())


def as_arrow_writes(table: pa.Table, rows: list[int], codecs: Any) -> bytes:
    """Write a file in one go with the same settings."""
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema, codecs) as writer:
        start = 0
        for count in rows:
            writer.write_table(table.slice(start, count), row_group_size=max(count, 1))
            start += count
    return sink.getvalue()


def group_rows(metadata: pq.FileMetaData) -> list[int]:
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


# --- laws -----------------------------------------------------------------------------


def map_batches(function: Callable[[pa.Table], pa.Table], path: Path) -> pa.Table:
    """Map a file in the batches that the rewrite reads.

    Near infinities, the NumPy kernels may round the last bit differently in another batch.
    """
    file = pq.ParquetFile(path)
    groups = range(file.num_row_groups)
    tables = [
        function(pa.Table.from_batches([batch]))
        for group in groups
        for batch in file.iter_batches(rewrite_module._ROWS, row_groups=[group])
    ]
    return pa.concat_tables(tables) if tables else function(pq.read_table(path))


@pytest.mark.usefixtures("_small_parts")
@FEW
@given(
    table=tables(),
    group=st.sampled_from([1, 3, 16, 100]),
    codec=st.sampled_from(CODECS),
    threads=st.sampled_from([1, 2, 5]),
)
def test_a_rewritten_file_equals_one_written_in_one_go(
    table: pa.Table, group: int, codec: str, threads: int
) -> None:
    pq.write_table(table, SOURCE, row_group_size=group, compression=codec)
    frozen = fitted(table)
    rewrite(SOURCE, TARGET, frozen, threads=threads)
    expected = frozen.transform(pq.read_table(SOURCE))
    got, parts = pq.read_table(TARGET), map_batches(frozen.transform, SOURCE)
    assert got.schema.equals(expected.schema, check_metadata=True)
    assert same(got, parts)
    before, after = pq.read_metadata(SOURCE), pq.read_metadata(TARGET)
    assert group_rows(after) == group_rows(before)
    assert codecs_of(after) == codecs_of(before)
    if same(parts, expected):
        assert TARGET.read_bytes() == as_arrow_writes(expected, group_rows(before), codec)


@pytest.mark.usefixtures("_small_parts")
@FEW
@given(table=tables(), group=st.sampled_from([3, 100]), codec=st.sampled_from(CODECS))
def test_the_inverse_restores_the_values(table: pa.Table, group: int, codec: str) -> None:
    pq.write_table(table, SOURCE, row_group_size=group, compression=codec)
    frozen = fitted(table)
    rewrite(SOURCE, TARGET, frozen, dtype=pa.float64())
    back = Path("back.parquet")
    rewrite(TARGET, back, frozen, inverse=True, threads=2)
    expected = map_batches(frozen.inverse_transform, TARGET)
    assert same(pq.read_table(back), expected)


@pytest.mark.usefixtures("_small_parts")
@FEW
@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=40), columns=st.integers(1, 40))
@example(rows=[1] * 14, columns=14)
@example(rows=[1] * 15, columns=15)
@example(rows=[0, 1, 0], columns=16)
@example(rows=[1] * 200, columns=2)
def test_any_number_of_columns_and_row_groups(rows: list[int], columns: int) -> None:
    # Thrift writes the length of a list of fifteen or more in a longer form.
    values = np.arange(sum(rows) * columns, dtype=float).reshape(columns, -1)
    table = pa.table({f"c{i}": column for i, column in enumerate(values)})
    SOURCE.write_bytes(as_arrow_writes(table, rows, "zstd"))
    frozen = fitted(pa.table({name: [1.0, 2.0] for name in table.column_names}))
    rewrite(SOURCE, TARGET, frozen, threads=2)
    expected = frozen.transform(pq.read_table(SOURCE))
    assert TARGET.read_bytes() == as_arrow_writes(expected, rows, "zstd")


# --- other readers and writers --------------------------------------------------------


@pytest.fixture
def mixed() -> pa.Table:
    rng = np.random.default_rng(7)
    kinds: dict[str, Any] = {
        "f": F64,
        "g": F32,
        "i": pa.int64(),
        "s": STR,
        "d": pa.dictionary(pa.int32(), STR),
        "l": pa.list_(F64),
        "t": pa.struct([("a", F64), ("b", STR), ("c", pa.int32())]),
        "n": pa.decimal128(10, 2),
        "w": pa.timestamp("us"),
    }
    columns = {
        name: pa.array(
            [None if rng.random() < 0.1 else KINDS[type_](rng) for _ in range(500)], type_
        )
        for name, type_ in kinds.items()
    }
    return pa.table({**columns, "x": rng.normal(size=500)})


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.usefixtures("_small_parts")
def test_other_readers_read_the_same(codec: str, mixed: pa.Table) -> None:
    pq.write_table(mixed, SOURCE, row_group_size=120)
    frozen = fitted(mixed)
    rewrite(SOURCE, TARGET, frozen, threads=2, compression=codec)
    assert set(codecs_of(pq.read_metadata(TARGET))) == {codec}
    expected = frozen.transform(pq.read_table(SOURCE))
    whole = Path("whole.parquet")
    pq.write_table(expected, whole)
    pl.testing.assert_frame_equal(pl.read_parquet(TARGET), pl.read_parquet(whole))
    # Arrow's dataset reader skips row groups by their statistics.
    some = pa.compute.field("x") > 1.0
    assert same(pq.read_table(TARGET, filters=some), pq.read_table(whole, filters=some))
    with duckdb.connect() as db:
        for query in ("SELECT * FROM '{}'", "SELECT count(*), min(x) FROM '{}' WHERE x > 1"):
            got, wanted = (db.sql(query.format(path)).fetchall() for path in (TARGET, whole))
            assert repr(got) == repr(wanted)


@pytest.mark.parametrize("writer", ["polars", "duckdb", "pandas", "pyarrow 1", "old list names"])
@pytest.mark.usefixtures("_small_parts")
def test_files_of_other_writers(writer: str, mixed: pa.Table) -> None:
    if writer == "polars":
        pl.from_arrow(mixed).write_parquet(SOURCE, row_group_size=100, compression="zstd")
    elif writer == "duckdb":
        with duckdb.connect() as db:
            table = mixed.set_column(4, "d", mixed["d"].cast(STR))
            db.register("mixed", table)
            db.sql(f"COPY mixed TO '{SOURCE}' (FORMAT parquet, CODEC zstd, ROW_GROUP_SIZE 2048)")
    elif writer == "pandas":
        frame = mixed.to_pandas().set_index("w")
        frame.to_parquet(SOURCE, compression="zstd")
    elif writer == "pyarrow 1":
        pq.write_table(mixed, SOURCE, version="1.0", data_page_version="1.0", compression="zstd",
                       row_group_size=99, write_statistics=False)  # fmt: skip
    else:
        pq.write_table(mixed, SOURCE, use_compliant_nested_type=False, compression="zstd")
    table = pq.read_table(SOURCE)
    frozen = fitted(table)
    rewrite(SOURCE, TARGET, frozen, threads=2)
    before, after = pq.read_metadata(SOURCE), pq.read_metadata(TARGET)
    expected = as_arrow_writes(frozen.transform(table), group_rows(before), "zstd")
    assert TARGET.read_bytes() == expected
    assert group_rows(after) == group_rows(before)
    assert set(codecs_of(after)) == {"zstd"}
    if writer == "pandas":
        back = pd.read_parquet(TARGET)
        assert back.index.name == "w"
        assert list(back.columns) == [*"fgisdltn", "x"]


def test_each_column_keeps_its_own_codec(mixed: pa.Table) -> None:
    codecs = dict(zip("fgisdnwx", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"] * 2,
                      strict=False))  # fmt: skip
    codecs |= {"l.list.element": "gzip", "t.a": "none", "t.b": "brotli", "t.c": "gzip"}
    pq.write_table(mixed, SOURCE, compression=codecs)
    rewrite(SOURCE, TARGET, fitted(mixed))
    assert codecs_of(pq.read_metadata(TARGET)) == codecs_of(pq.read_metadata(SOURCE))
    assert len(set(codecs_of(pq.read_metadata(TARGET)))) == 6
    rewrite(SOURCE, TARGET, fitted(mixed), compression="zstd")
    assert set(codecs_of(pq.read_metadata(TARGET))) == {"zstd"}


def test_metadata_of_schema_and_fields_is_kept() -> None:
    field = pa.field("x", F64, metadata={"unit": "m"})
    table = pa.table({"x": [1.0, 2.0]}, schema=pa.schema([field], {"who": "me"}))
    pq.write_table(table, SOURCE)
    frozen = fitted(table)
    rewrite(SOURCE, TARGET, frozen)
    schema = pq.read_schema(TARGET)
    assert schema.metadata[b"who"] == b"me"
    assert schema.metadata[b"streambn.fingerprint"].decode() == frozen.fingerprint
    assert schema.field("x").metadata[b"unit"] == b"m"


# --- blocks ---------------------------------------------------------------------------


def test_the_bytes_do_not_depend_on_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    table = pa.table({f"c{i}": rng.normal(size=20_000) for i in range(20)})
    pq.write_table(table, SOURCE, row_group_size=3000)
    frozen = fitted(table)
    results = set()
    for block in (1, 50_000, 1 << 30):
        monkeypatch.setattr(rewrite_module, "_BLOCK_BYTES", block)
        for threads in (1, 2, 5):
            rewrite(SOURCE, TARGET, frozen, threads=threads)
            results.add((TARGET).read_bytes())
    assert len(results) == 1


@settings.get_profile("few")
@given(
    leaves=st.lists(st.sampled_from([F64, STR, pa.struct([("a", F64), ("b", F64)])]), min_size=1),
    rows=st.integers(0, 20),
    group=st.integers(1, 10),
    size=st.integers(1, 2000),
)
def test_blocks_cover_each_row_group_once_and_in_order(
    leaves: list[pa.DataType], rows: int, group: int, size: int
) -> None:
    columns = [pa.nulls(rows, type_) for type_ in leaves]
    table = pa.Table.from_arrays(columns, [f"c{i}" for i in range(len(columns))])
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    source = ParquetSource(lambda: pa.BufferReader(sink.getvalue()), "it", remote=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite_module, "_BLOCK_BYTES", size)
        blocks = source.blocks()
    assert blocks is not None
    covered = [(block.group, column) for block in blocks for column in block.columns]
    groups = source.metadata.num_row_groups
    assert covered == [(g, c) for g in range(groups) for c in range(len(leaves))]
    ends = [block for block in blocks if block.last]
    assert [block.rows for block in ends] == group_rows(source.metadata)
    stored = sum(
        source.metadata.row_group(g).column(c).total_compressed_size
        for g in range(groups)
        for c in range(source.metadata.num_columns)
    )
    assert sum(block.bytes for block in blocks) == stored


@pytest.mark.parametrize("limit", ["_COLUMN_BYTES", "_GROUP_ROWS"])
def test_large_columns_and_row_groups_are_not_divided(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).normal(size=99)}), SOURCE)
    assert blocks_of(SOURCE)
    monkeypatch.setattr(rewrite_module, limit, 98)
    assert blocks_of(SOURCE) is None


@pytest.mark.parametrize("names", [["a.b", "x"], ["x", "x"], []])
def test_columns_with_ambiguous_names_are_not_divided(names: list[str]) -> None:
    table = pa.Table.from_arrays([pa.array([1.0])] * len(names), names)
    pq.write_table(table, SOURCE)
    assert blocks_of(SOURCE) is None


# --- damage ---------------------------------------------------------------------------


def _damage(path: Path, group: int, column: int) -> None:
    where = pq.read_metadata(path).row_group(group).column(column).data_page_offset
    content = bytearray(path.read_bytes())
    content[where : where + 20] = bytes(0xFF ^ byte for byte in content[where : where + 20])
    path.write_bytes(content)


@pytest.mark.parametrize("column", [0, 2, 4])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("part", ["_BLOCK_BYTES", "_RUN_BYTES"])
@pytest.mark.parametrize("size", [1, 5000])
def test_a_damaged_row_group_is_skipped_whole(
    column: int, threads: int, part: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite_module, part, size)
    rng = np.random.default_rng(3)
    table = pa.table({f"c{i}": rng.normal(size=300) for i in range(5)})
    pq.write_table(table, SOURCE, row_group_size=100, compression="none")
    _damage(SOURCE, 1, column)
    frozen = fitted(table)
    with pytest.raises(sbn.StreamBNError, match="in row group 1"):
        rewrite(SOURCE, TARGET, frozen, threads=threads)
    assert [path.name for path in Path().iterdir()] == ["in.parquet"]
    ((file, where, _),) = rewrite(SOURCE, TARGET, frozen, threads=threads, skip_damaged=True)
    assert (file, where) == (str(SOURCE), "in row group 1")
    rest = pa.concat_tables([table.slice(0, 100), table.slice(200)])
    assert same(pq.read_table(TARGET), frozen.transform(rest).replace_schema_metadata(
        pq.read_schema(TARGET).metadata))  # fmt: skip
    assert group_rows(pq.read_metadata(TARGET)) == [100, 100]


# --- footers --------------------------------------------------------------------------


@FEW
@given(data=st.data())
def test_thrift_structures_survive_a_round_trip(data: st.DataObject) -> None:
    numbers = st.integers(-(2**63), 2**63 - 1)
    ids = st.integers(1, 2**15 - 1)
    plain = st.one_of(
        st.tuples(st.sampled_from([4, 5, 6]), numbers),
        st.tuples(st.just(8), st.binary(max_size=200)),
        st.tuples(st.just(7), st.binary(min_size=8, max_size=8)),
        st.tuples(st.just(3), st.integers(0, 255)),
        st.sampled_from([(1, True), (2, False)]),
        st.tuples(st.just(9), st.tuples(st.just(1), st.lists(st.sampled_from([1, 2])))),
    )

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        struct = st.dictionaries(ids, inner, max_size=20)
        return st.one_of(
            st.tuples(st.just(12), struct),
            st.tuples(
                st.sampled_from([9, 10]), st.tuples(st.just(12), st.lists(struct, max_size=20))
            ),
            st.tuples(st.just(9), st.tuples(st.just(6), st.lists(numbers, max_size=20))),
        )

    fields = data.draw(st.dictionaries(ids, st.recursive(plain, deeper, max_leaves=20)))
    content = footers.write_struct(fields)
    assert footers.read_struct(content) == (fields, len(content))


@FEW
@given(table=tables(), group=st.integers(1, 50))
def test_a_footer_of_arrow_survives_a_round_trip(table: pa.Table, group: int) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    content = memoryview(sink.getvalue())
    start, fields = footers.read_footer(content)
    assert footers.write_struct(fields) == bytes(content[start:-8])


def test_a_dropped_row_group_is_not_in_the_file() -> None:
    schema = pa.schema([("x", F64)])
    one = encode_block(pa.table({"x": [1.0]}).to_batches(), schema, "none")
    out = bytearray()
    assembler = Assembler(out.extend, schema, "none")
    assembler.add(one)
    assembler.end_group(1)
    assembler.add(one)
    assembler.drop_group()
    assembler.add(encode_block(pa.table({"x": [2.0, 3.0]}).to_batches(), schema, "none"))
    assembler.end_group(2)
    assembler.close()
    assert pq.read_table(io.BytesIO(out))["x"].to_pylist() == [1.0, 2.0, 3.0]
    assert pq.read_metadata(io.BytesIO(out)).num_row_groups == 2


def test_a_file_without_row_groups() -> None:
    schema = pa.schema([("x", F64)])
    out = bytearray()
    Assembler(out.extend, schema, "none").close()
    assert pq.read_table(io.BytesIO(out)).schema.equals(schema)
