"""Inputs and outputs of file jobs: found, told by content, read lazily, written whole."""

from __future__ import annotations

import datetime
import gzip
import os
import random
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from streambn.errors import InvalidValueError, SchemaError, StreamBNError
from streambn.io import formats
from streambn.io import readers as reading
from streambn.io import sources as files
from streambn.io.formats import Format
from streambn.io.sources import Source
from streambn.io.writers import Encoding
from streambn.jobs import plan as outputs
from streambn.jobs.outputs import write_outputs
from streambn.jobs.plan import ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.stream import concat

TABLE = pa.table(
    {
        "x": pa.array([1.5, None, -2.25, float("inf")], pa.float64()),
        "y": pa.array([1, 2, None, 2**60], pa.int64()),
        "name": ["a", "b, c", "", 'd "e"'],
        "day": pa.array([datetime.date(2020, 1, n) for n in (1, 2, 3, 4)]),
    }
)
EVERY_SUFFIX = sorted(formats.SUFFIXES)


def write_as(path: Path, table: pa.Table, **options: object) -> Path:
    """Write by suffix with Arrow's own writers, not with those under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = formats.SUFFIXES[path.suffix]
    if kind is Format.PARQUET:
        pq.write_table(table, path, **options)
    elif kind is Format.CSV:
        pyarrow.csv.write_csv(table, path)
    else:
        new = pa.ipc.new_file if kind is Format.IPC_FILE else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, **options)
    return path


def read(path: object, **options: object) -> pa.Table:
    return files.open_reader(Source(str(path)), **options).read_all()


def names(folder: Path) -> list[str]:
    """Everything below a folder, hidden files and folders too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Same:
    """Turns batches into themselves, but for one at which it fails."""

    features = ()

    def __init__(self, failure: BaseException | None = None, at: int = 0) -> None:
        self.failure, self.left = failure, at

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return schema

    def function(self, names: object) -> object:
        def turn(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
            self.left -= 1
            if self.failure is not None and self.left < 0:
                raise self.failure
            return batch

        return turn


def write(plan: list[outputs.Output], turns: object = None, *, skipping: bool = False) -> None:
    how, none = ReadOptions({}, skip_damaged=skipping), Encoding()
    write_outputs(
        turns or Same(), plan, how, none, Progress("writing", 1),
        lambda job: job.location.open_output(fsync=False),
    )  # fmt: skip


def write_one(table: pa.Table, out: Path, chunk: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_as(Path(folder) / "t.arrows", table, max_chunksize=chunk)
        write(outputs.make_plan([Source(str(path))], str(out)).outputs)


# --- finding --------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in (
        "d/year=2020/city=S%C3%A3o%20Paulo/b.parquet",
        "d/year=2020/city=S%C3%A3o%20Paulo/a.parquet",
        "d/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
        "d/_SUCCESS",
        "d/.hidden.parquet",
        "d/_temporary/0/a.parquet",
        "d/year=2020/city=12/.a.parquet.crc",
        "one.parquet",
    ):
        write_as(tmp_path / (path if path.endswith(".parquet") else path + ".csv"), TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_listed_sorted_without_hidden_names(tree: Path) -> None:
    assert [source.path for source in files.scan(["d"])] == [
        "d/year=2020/city=S%C3%A3o%20Paulo/a.parquet",
        "d/year=2020/city=S%C3%A3o%20Paulo/b.parquet",
        "d/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
    ]


@pytest.mark.parametrize("pattern", ["d/**", "d/**/*.parquet", "d/*", "d/*/*/?.parquet", "d/y*"])
def test_globs_find_what_the_folder_holds(tree: Path, pattern: str) -> None:
    assert [s.path for s in files.scan([pattern])] == [s.path for s in files.scan(["d"])]
    assert [s.relative for s in files.scan([pattern])] == [s.relative for s in files.scan(["d"])]


def test_a_glob_finds_hidden_names_if_it_names_them(tree: Path) -> None:
    assert [s.path for s in files.scan(["d/.hid*"])] == ["d/.hidden.parquet"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tree: Path) -> None:
    write_as(tree / "odd[1].csv", TABLE)
    assert [s.path for s in files.scan(["odd[1].csv"])] == ["odd[1].csv"]


def test_files_keep_the_order_of_the_arguments_and_come_once(tree: Path) -> None:
    sources = files.scan(["one.parquet", "d/year=2020", "d", f"{tree}/one.parquet"])
    assert [s.path for s in sources] == ["one.parquet", *[s.path for s in files.scan(["d"])]]
    assert [s.relative for s in sources] == [s.path for s in sources]


def test_hive_keys_are_unquoted_typed_and_null(tree: Path) -> None:
    keys = [source.keys for source in files.scan(["d"])]
    assert [{k: v.as_py() for k, v in one.items()} for one in keys] == [
        {"year": 2020, "city": "São Paulo"},
        {"year": 2020, "city": "São Paulo"},
        {"year": None, "city": "12"},  # not all of its values are integers
    ]
    assert {one["year"].type for one in keys} == {pa.int64()}
    assert {one["city"].type for one in keys} == {pa.string()}


def test_a_link_in_a_circle_ends(tree: Path) -> None:
    os.symlink(tree / "d", tree / "d" / "year=2020" / "again")
    assert len(files.scan(["d"])) == 3


def test_a_linked_folder_is_followed(tree: Path) -> None:
    write_as(tree / "elsewhere/z.csv", TABLE)
    os.symlink(tree / "elsewhere", tree / "d" / "z")
    assert files.scan(["d"])[-1].path == "d/z/z.csv"


@pytest.mark.parametrize("argument", ["nothing", "nothing*.csv", "empty", "file:///no/such"])
def test_an_argument_that_means_nothing_is_named(tree: Path, argument: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(StreamBNError) as error:
        files.scan(["one.parquet", argument])
    assert str(error.value).startswith(argument)


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
@pytest.mark.parametrize("misnamed", ["data", "data.txt", "data.parquet", "data.csv.gz"])
def test_the_format_is_told_by_content(tmp_path: Path, suffix: str, misnamed: str) -> None:
    written = write_as(tmp_path / f"t{suffix}", TABLE)
    path = written.rename(tmp_path / misnamed)
    assert read(path).equals(TABLE)


def test_feather_as_pandas_writes_it(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(TABLE, tmp_path / "f", compression="zstd")
    assert read(tmp_path / "f").equals(TABLE)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_batches_are_those_of_the_file(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"x": range(1000)})
    options = {"row_group_size": 300} if suffix == ".parquet" else {"max_chunksize": 300}
    path = write_as(tmp_path / f"t{suffix}", table, **options)
    sizes = [batch.num_rows for batch in files.open_reader(Source(str(path)))]
    assert sizes == ([1000] if suffix == ".parquet" else [300, 300, 300, 100])


def test_a_bom_and_windows_line_ends_are_csv(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa,b\r\n1,x\r\n2.5,\r\n")
    assert read(tmp_path / "t").to_pydict() == {"a": [1.0, 2.5], "b": ["x", ""]}


RUBBISH = {
    "empty": b"",
    "zeros": bytes(100),
    "random": random.Random(7).randbytes(1000),
    "xz": b"\xfd7zXZ\x00" + random.Random(8).randbytes(40),
    "gzip": gzip.compress(bytes(100)),
    "json": b'{"a": [1, 2]}',
    "json lines": b'[1]\n{"a": 1}',
    "latin-1": "température\n20\n".encode("latin-1"),
    "utf-16": "a,b\n1,2\n".encode("utf-16"),
    "white": b"\n \n",
}


@pytest.mark.parametrize("content", RUBBISH.values(), ids=RUBBISH.keys())
def test_other_content_is_refused_with_the_formats_there_are(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "rubbish.parquet"
    path.write_bytes(content)
    with pytest.raises(StreamBNError, match=r"Parquet, an Arrow IPC file, .* stream, and CSV") as e:
        read(path)
    assert str(e.value).startswith(str(path))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_named_in_one_line(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write_as(tmp_path / f"t{suffix}", pa.table({"x": range(10_000)}))
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(StreamBNError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: damaged or truncated")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_damage_anywhere_ends_in_data_or_in_a_named_error(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"x": range(3000), "name": [f"n{i}" for i in range(3000)]})
    whole = write_as(tmp_path / f"t{suffix}", table).read_bytes()
    path = tmp_path / f"broken{suffix}"
    rng = random.Random(3)
    for _ in range(150):
        start = rng.randrange(8, len(whole) - 8)
        path.write_bytes(whole[:start] + rng.randbytes(8) + whole[start + 8 :])
        try:
            read(path)
        except StreamBNError as error:
            assert str(error).startswith(str(path))  # noqa: PT017  (most damage goes unseen)


def test_damage_in_pages_with_checksums_is_always_seen(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"x": [float(i) for i in range(3000)]})
    pq.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # one bit, amid the values
    path.write_bytes(content)
    with pytest.raises(StreamBNError, match="damaged or truncated, not readable as Parquet in row"):
        read(path)


def test_a_csv_row_with_too_few_fields(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1\n")
    with pytest.raises(StreamBNError, match=r"t\.csv: damaged .* Expected 2 columns, got 1"):
        read(tmp_path / "t.csv")


def test_a_csv_value_that_the_inferred_type_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,price\n" + "1,100\n" * 1_000_000 + "1,99.5\n")
    with pytest.raises(StreamBNError) as error:
        read(path)
    said = str(error.value)
    assert said.startswith(f"{path}: column 'price': a value after row ")
    assert "int64: invalid value '99.5'" in said
    assert said.endswith("--csv-type price=double, or string")
    assert read(path, csv_types={"price": pa.float64()})["price"][-1].as_py() == 99.5


def test_parquet_reads_only_the_columns_that_are_needed(tmp_path: Path) -> None:
    path = write_as(tmp_path / "t.parquet", TABLE)
    reader = files.open_reader(
        Source(str(path)), select_columns=lambda schema: files.columns_to_fit(schema, None)
    )
    assert reader.schema.names == ["x", "y"]
    assert reader.read_all().equals(TABLE.select(["x", "y"]))


def test_the_columns_that_a_fit_needs() -> None:
    schema = pa.schema(
        [
            ("f", pa.float16()),
            ("b", pa.bool_()),
            ("d", pa.decimal128(9, 2)),
            ("t", pa.timestamp("s")),
            ("dict", pa.dictionary(pa.int8(), pa.int64())),
            ("emb", pa.list_(pa.float32(), 3)),
            ("free", pa.list_(pa.float32())),
            ("s", pa.struct({"u": pa.int8()})),
            ("s.u", pa.int8()),
        ]
    )
    numeric = ["f", "d", "dict", "emb", "s", "s.u"]
    assert files.columns_to_fit(schema, None) == numeric
    assert files.columns_to_fit(schema, ["s.u"]) == ["s", "s.u"]
    assert files.columns_to_fit(schema, ["b"]) == ["b"]  # refused later, by its type
    assert files.columns_to_fit(schema, ["f", "nope"]) is None  # so that the error can hint
    assert files.columns_to_fit(pa.schema([("b", pa.bool_())]), None) is None

    def needed(names: list[str] | None, *beside: str, keys: tuple[str, ...] = ()) -> object:
        return files.columns_to_fit(schema, names, beside, keys)

    assert needed(None, "f", "t") == ["f", "d", "t", *numeric[2:]]
    assert needed(["emb[0]", "emb[1]", "s.u"]) == ["emb", "s", "s.u"]  # lanes
    assert needed(["d"], "t") == ["d", "t"]
    assert needed(["d"], "nope") is None
    assert needed(["d"], "s.nope") is None  # what is beside the values is no field
    assert needed(["d"], "year", keys=("year",)) == ["d"]
    assert needed(["d", "year"], "t", keys=("t", "year")) == ["d", "t"]
    assert needed(None, "year", keys=("year",)) == numeric
    assert needed(["year"], keys=("year",)) is None  # one is needed, if only for its length


def test_partition_keys_become_columns_unless_the_file_has_them(tmp_path: Path) -> None:
    write_as(tmp_path / "x=7/k=v/t.parquet", TABLE)
    (source,) = files.scan([str(tmp_path / "x=7")])
    got = files.open_reader(source, keys=source.keys).read_all()
    assert got.column_names == [*TABLE.column_names, "k"]
    assert got["x"].equals(TABLE["x"])
    assert got["k"].to_pylist() == ["v"] * 4
    assert files.open_reader(source).schema.names == TABLE.column_names


def test_a_named_pipe_carries_an_arrow_stream_and_is_not_rereadable(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def produce() -> None:
        with open(fifo, "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as stream:
            stream.write_table(TABLE)

    producer = threading.Thread(target=produce)
    producer.start()
    (source,) = files.scan([str(fifo)])
    assert not source.rereadable
    assert files.open_reader(source).read_all().equals(TABLE)
    producer.join()


def test_an_end_that_a_compressed_file_lacks_is_missed(tmp_path: Path) -> None:
    whole = gzip.compress(b"x\n" + b"1\n" * 100_000)
    for kept in (5, len(whole) // 2, len(whole) - 9):
        (tmp_path / "t.csv.gz").write_bytes(whole[:kept])
        with pytest.raises(StreamBNError, match=r"t\.csv\.gz: damaged"):
            read(tmp_path / "t.csv.gz")


# --- joining --------------------------------------------------------------------------


def joined(*tables: pa.Table) -> pa.Table:
    return concat((f"file {i}", table.to_reader()) for i, table in enumerate(tables)).read_all()


def test_streams_are_joined_by_column_name() -> None:
    first = pa.table({"a": [1.0], "b": ["x"]}).replace_schema_metadata({"k": "v"})
    second = pa.table({"b": ["y"], "a": pa.array([2], pa.int32())})
    both = joined(first, second)
    assert both.to_pydict() == {"a": [1.0, 2.0], "b": ["x", "y"]}
    assert both.schema.equals(first.schema, check_metadata=True)


def test_streams_that_cannot_be_joined_name_file_and_column() -> None:
    first = pa.table({"a": [1], "b": ["x"]})
    with pytest.raises(SchemaError, match=r"^file 1: column 'b' is not in the data\."):
        joined(first, pa.table({"a": [1], "bb": ["y"]}))
    with pytest.raises(SchemaError, match=r"^file 1: column 'c' is not in file 0"):
        joined(first, pa.table({"a": [1], "b": ["y"], "c": [2]}))
    with pytest.raises(SchemaError, match=r"^file 1: column 'a' is double.* fit int64"):
        joined(first, pa.table({"a": [1.5], "b": ["y"]}))


def test_a_later_stream_is_not_asked_for_before_its_turn() -> None:
    asked = []

    def readers():  # type: ignore[no-untyped-def]
        for name in ("one", "two"):
            asked.append(name)
            yield name, TABLE.to_reader()

    joint = concat(readers())
    assert asked == ["one"]
    joint.read_next_batch()
    assert asked == ["one"]
    joint.read_all()
    assert asked == ["one", "two"]


# --- writing --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    table = TABLE.replace_schema_metadata({"streambn.fingerprint": "f00"})
    out = tmp_path / f"out{suffix.upper()}"
    write_one(table, out)
    assert names(tmp_path) == [out.name]
    back = read(out)
    assert back.equals(table)
    if formats.SUFFIXES[suffix] is not Format.CSV:  # which has no place for it
        assert back.schema.metadata == table.schema.metadata
    with open(out, "rb") as file:
        assert formats.sniff(file.read(100), "out") is formats.SUFFIXES[suffix]


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_no_rows_make_a_file_with_a_schema(tmp_path: Path, suffix: str) -> None:
    write_one(TABLE.slice(0, 0), tmp_path / f"t{suffix}")
    back = read(tmp_path / f"t{suffix}")
    assert back.column_names == TABLE.column_names
    assert back.num_rows == 0


def test_parquet_keeps_the_codec_of_its_input(tmp_path: Path) -> None:
    for codec in ("zstd", "gzip", "none", "brotli", "lz4"):
        path = write_as(tmp_path / "in.parquet", TABLE, compression=codec)
        write(outputs.make_plan([Source(str(path))], str(tmp_path / "out.parquet")).outputs)
        written, given = (pq.read_metadata(tmp_path / name) for name in ("out.parquet", path.name))
        assert written.row_group(0).column(0).compression == (
            given.row_group(0).column(0).compression
        )


def test_parquet_has_no_dictionaries_of_floats(tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": [0.5] * 100,
            "emb": pa.array([[0.5, 1.0]] * 100, pa.list_(pa.float32(), 2)),
            "s": [{"u": 0.5, "name": "a"}] * 100,
            "name": ["a"] * 100,
        }
    )
    write_one(table, tmp_path / "t.parquet")
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if c.has_dictionary_page} == {"s.name", "name"}


def test_small_batches_are_gathered_into_row_groups(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(range(100_000), pa.int64())})
    write_one(table, tmp_path / "t.parquet", chunk=100)
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 1


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
@pytest.mark.parametrize("failure", [StreamBNError("no"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_failure_midway_leaves_things_as_they_were(
    tmp_path: Path, suffix: str, failure: BaseException, rows: int
) -> None:
    source = write_as(tmp_path / "in.arrows", TABLE, max_chunksize=1)
    (tmp_path / f"old{suffix}").write_text("old")
    for out in (f"new{suffix}", f"old{suffix}", f"made/for/it{suffix}"):
        target = str(tmp_path / out)
        job = outputs.Output(target, formats.SUFFIXES[suffix], (Source(str(source)),))
        with pytest.raises(type(failure)):
            write([job], Same(failure, at=rows))
    assert names(tmp_path) == ["in.arrows", f"old{suffix}"]
    assert (tmp_path / f"old{suffix}").read_text() == "old"


def test_a_column_that_the_format_cannot_hold_is_told_with_the_output(tmp_path: Path) -> None:
    with pytest.raises(StreamBNError, match=r"out\.csv: cannot be written as CSV: .*list") as error:
        write_one(pa.table({"l": [[1, 2]]}), tmp_path / "out.csv")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_a_folder_mirrors_paths_and_formats(tree: Path) -> None:
    write_as(tree / "d/more/t.csv", TABLE)
    jobs = outputs.make_plan(files.scan(["d"]), "out").outputs
    assert [(job.target, job.format) for job in jobs] == [
        ("out/more/t.csv", Format.CSV),
        ("out/year=2020/city=S%C3%A3o%20Paulo/a.parquet", Format.PARQUET),
        ("out/year=2020/city=S%C3%A3o%20Paulo/b.parquet", Format.PARQUET),
        ("out/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet", Format.PARQUET),
    ]
    write(jobs)
    assert names(tree / "out/more") == ["t.csv"]
    assert read("out/more/t.csv").equals(TABLE)


def test_where_outputs_go(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    one, many = files.scan(["one.parquet"]), files.scan(["one.parquet", "d"])
    (tree / "there.parquet").mkdir()

    def targets(sources: list[Source], out: str) -> list[str]:
        return [job.target for job in outputs.make_plan(sources, out).outputs]

    assert targets(one, "out.csv") == ["out.csv"]
    assert targets(one, "-") == ["-"]
    assert targets(one, "out/") == ["out/one.parquet"]
    assert targets(one, "there.parquet") == ["there.parquet/one.parquet"]
    assert targets(many, "out.csv") == ["out.csv"]
    assert targets(many, "-") == ["-"]
    assert targets(many, "out.v2")[0] == "out.v2/one.parquet"
    assert targets(files.scan(["-"]), "out/") == ["out/stdin.arrows"]
    assert targets(files.scan(["one.parque[t]"]), "out") == ["out/one.parquet"]


def test_outputs_that_must_not_be(tree: Path) -> None:
    one, folder = files.scan(["one.parquet"]), files.scan(["d"])
    os.symlink("one.parquet", "link.parquet")
    os.mkfifo("fifo.parquet")
    for sources, out, message in (
        (one, "out", r"one of \.parquet, .*\.csv"),
        (one, "out.txt", r"one of \.parquet"),
        (one, "one.parquet", "is one of the inputs"),
        (one, f"{tree}/./one.parquet", "is one of the inputs"),
        (one, "link.parquet", "is one of the inputs"),
        (one, ".", "is one of the inputs"),
        (one, "fifo.parquet", "not a regular file"),
        (one, "no/such/out.parquet", "the folder no/such does not exist"),
        (folder, "d", "is in the input folder d"),
        (folder, "d/out/", "is in the input folder d"),
        (files.scan(["d/**/*.parquet"]), "d/out/", "is in the input folder d"),
        (folder, "one.v2", "is a file"),
    ):
        Path("one.v2").touch()
        with pytest.raises(InvalidValueError, match=message):
            outputs.make_plan(sources, out)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    pytest.importorskip("resource")  # not on Windows
    batch = pa.record_batch({"x": pa.array([0.5] * 65_536), "y": pa.array([1.5] * 65_536)})

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(300):  # 300 MB in all
            yield batch

    # One row group and one record batch after another, as others may write them.
    whole = pa.Table.from_batches(batches())
    pq.write_table(whole, tmp_path / "t.parquet", row_group_size=1 << 26, use_dictionary=False)
    write_one(whole, tmp_path / "t.arrow")
    del whole
    for suffix in (".parquet", ".arrow"):
        code = (
            "import resource, sys; from streambn.io import sources as files\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
            "for n, batch in enumerate(files.open_reader(files.Source(sys.argv[1]))):\n"
            "    batch['x'].to_numpy().sum()\n"
            "    before = peak() if n == 15 else before if n > 15 else 0\n"
            "print(peak() - before)"
        )
        grown = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"t{suffix}")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(grown.stdout) < 60


def test_a_piece_that_is_dropped_if_damaged_is_held_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it goes out, and not as it came in too."""
    monkeypatch.setattr(reading, "PARQUET_ROWS", 100)
    table = pa.table({"x": pa.array(range(1000), pa.float64())})
    pq.write_table(table, tmp_path / "t.parquet")
    read: list[weakref.ref[pa.RecordBatch]] = []
    held: list[int] = []

    class Anew(Same):
        def function(self, names: object) -> object:
            def turn(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
                read.append(weakref.ref(batch))
                held.append(sum(each() is not None for each in read))
                return pa.record_batch([pa.array(batch["x"].to_numpy() + 1)], schema=schema)

            return turn

    (output,) = outputs.make_plan(
        [Source(str(tmp_path / "t.parquet"))], str(tmp_path / "o.arrow")
    ).outputs
    write([output], Anew(), skipping=True)
    assert len(held) == 10
    assert max(held) <= 2
    assert pa.ipc.open_file(output.target).read_all()["x"].to_pylist() == list(range(1, 1001))
