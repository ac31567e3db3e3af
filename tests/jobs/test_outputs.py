"""Outputs: the plan of their files, streams joined into one, and files written whole."""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import EVERY_SUFFIX, TABLE, names, read, write_as, write_tree

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import SUFFIXES, Encoding, Format, Source, readers, scan
from streambn.io.formats import sniff
from streambn.jobs import Output, Progress, ReadOptions, make_plan
from streambn.jobs.operations import ApplyStatistics
from streambn.jobs.outputs import write_outputs


class Identity:
    """An operation that returns its batches, and fails at one of them."""

    features = ()
    depends_on_batches = True  # it counts them

    def __init__(self, failure: BaseException | None = None, at: int = 0) -> None:
        self.failure, self.left = failure, at

    def changed(self, into: object) -> None:
        return None

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return schema

    def function(self, names: object) -> object:
        def identity(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
            self.left -= 1
            if self.failure is not None and self.left < 0:
                raise self.failure
            return batch

        return identity


def write(plan: list[Output], operation: object = None, *, skip_damaged: bool = False) -> None:
    options, encoding = ReadOptions(skip_damaged=skip_damaged), Encoding()
    write_outputs(
        operation or Identity(), plan, options, encoding, Progress("writing", 1),
        lambda output: output.location.open_output(fsync=False),
    )  # fmt: skip


def write_one(table: pa.Table, out: Path, chunk: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_as(Path(folder) / "t.arrows", table, chunk)
        write(make_plan([Source(str(path))], str(out)).outputs)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path)
    return tmp_path


# --- writing --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_a_written_file_reads_back(tmp_path: Path, suffix: str) -> None:
    table = TABLE.replace_schema_metadata({"streambn.fingerprint": "f00"})
    out = tmp_path / f"out{suffix.upper()}"
    write_one(table, out)
    assert names(tmp_path) == [out.name]
    back = read(out)
    if SUFFIXES[suffix] is Format.JSON:  # JSON has no infinity
        table = table.set_column(0, "x", pa.array([1.5, None, -2.25, None]))
    assert back.equals(table)
    if SUFFIXES[suffix] not in (Format.CSV, Format.JSON):  # they have no metadata
        assert back.schema.metadata == table.schema.metadata
    with open(out, "rb") as file:
        assert sniff(file.read(100), "out") is SUFFIXES[suffix]


@pytest.mark.parametrize("suffix", [s for s in EVERY_SUFFIX if SUFFIXES[s] is not Format.JSON])
def test_an_output_without_rows_has_a_schema(tmp_path: Path, suffix: str) -> None:
    write_one(TABLE.slice(0, 0), tmp_path / f"t{suffix}")
    back = read(tmp_path / f"t{suffix}")
    assert back.column_names == TABLE.column_names
    assert back.num_rows == 0


def test_parquet_keeps_the_codec_of_its_input(tmp_path: Path) -> None:
    for codec in ("zstd", "gzip", "none", "brotli", "lz4"):
        path = write_as(tmp_path / "in.parquet", TABLE, compression=codec)
        write(make_plan([Source(str(path))], str(tmp_path / "out.parquet")).outputs)
        given, written = (
            pq.read_metadata(name).row_group(0).column(0).compression
            for name in (path.name, "out.parquet")
        )
        assert written == given


def test_parquet_floats_are_written_without_dictionaries(tmp_path: Path) -> None:
    emb = pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2))
    row = pa.table({"x": [0.5], "emb": emb, "s": [{"u": 0.5, "name": "a"}], "name": ["a"]})
    table = pa.concat_tables([row] * 100)
    write_one(table, tmp_path / "t.parquet")
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if c.has_dictionary_page} == {"s.name", "name"}


def test_small_batches_are_joined_into_row_groups(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(range(100_000), pa.int64())})
    write_one(table, tmp_path / "t.parquet", chunk=100)
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 1


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
@pytest.mark.parametrize("failure", [StreamBNError("no"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_failure_leaves_existing_files_unchanged(
    tmp_path: Path, suffix: str, failure: BaseException, rows: int
) -> None:
    source = write_as(tmp_path / "in.arrows", TABLE, 1)
    (tmp_path / f"old{suffix}").write_text("old")
    for out in (f"new{suffix}", f"old{suffix}", f"made/for/it{suffix}"):
        target = str(tmp_path / out)
        job = Output(target, SUFFIXES[suffix], (Source(str(source)),))
        with pytest.raises(type(failure)):
            write([job], Identity(failure, at=rows))
    assert names(tmp_path) == ["in.arrows", f"old{suffix}"]
    assert (tmp_path / f"old{suffix}").read_text() == "old"


def test_a_column_that_the_format_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StreamBNError, match=r"out\.csv: cannot be written as CSV: .*list") as error:
        write_one(pa.table({"l": [[1, 2]]}), tmp_path / "out.csv")
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_a_folder_mirrors_paths_and_formats(tree: Path) -> None:
    write_as(tree / "d/more/t.csv", TABLE)
    jobs = make_plan(scan(["d"]), "out").outputs
    assert [(job.target, job.format) for job in jobs] == [
        ("out/more/t.csv", Format.CSV),
        ("out/year=2020/city=S%C3%A3o%20Paulo/a.parquet", Format.PARQUET),
        ("out/year=2020/city=S%C3%A3o%20Paulo/b.parquet", Format.PARQUET),
        ("out/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet", Format.PARQUET),
    ]
    write(jobs)
    assert names(tree / "out/more") == ["t.csv"]
    assert read("out/more/t.csv").equals(TABLE)


def test_targets_of_a_plan(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    one, many = scan(["one.parquet"]), scan(["one.parquet", "d"])
    (tree / "there.parquet").mkdir()

    def targets(sources: list[Source], out: str) -> list[str]:
        return [job.target for job in make_plan(sources, out).outputs]

    assert targets(one, "out.csv") == ["out.csv"]
    assert targets(one, "-") == ["-"]
    assert targets(one, "out/") == ["out/one.parquet"]
    assert targets(one, "there.parquet") == ["there.parquet/one.parquet"]
    assert targets(many, "out.csv") == ["out.csv"]
    assert targets(many, "-") == ["-"]
    assert targets(many, "out.v2")[0] == "out.v2/one.parquet"
    assert targets(scan(["-"]), "out/") == ["out/stdin.arrows"]
    assert targets(scan(["one.parque[t]"]), "out") == ["out/one.parquet"]


def test_refused_targets(tree: Path) -> None:
    one, folder = scan(["one.parquet"]), scan(["d"])
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
        (scan(["d/**/*.parquet"]), "d/out/", "is in the input folder d"),
        (folder, "one.v2", "is a file"),
    ):
        Path("one.v2").touch()
        with pytest.raises(InvalidValueError, match=message):
            make_plan(sources, out)


def test_skipping_damage_holds_the_mapped_batches_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PARQUET_ROWS", 100)
    table = pa.table({"x": pa.array(range(1000), pa.float64())})
    pq.write_table(table, tmp_path / "t.parquet")
    read: list[weakref.ref[pa.RecordBatch]] = []
    held: list[int] = []

    class AddOne(Identity):
        def function(self, names: object) -> object:
            def add_one(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
                read.append(weakref.ref(batch))
                held.append(sum(each() is not None for each in read))
                return pa.record_batch([pa.array(batch["x"].to_numpy() + 1)], schema=schema)

            return add_one

    (output,) = make_plan([Source(str(tmp_path / "t.parquet"))], str(tmp_path / "o.arrow")).outputs
    write([output], AddOne(), skip_damaged=True)
    assert len(held) == 10
    assert max(held) <= 2
    assert pa.ipc.open_file(output.target).read_all()["x"].to_pylist() == list(range(1, 1001))


@pytest.mark.parametrize("suffix", [".arrows", ".arrow"])
@pytest.mark.parametrize("cuts", [[1] * 50, [2, 2, 0, 0, 3, 3, 3, 1], [0], [3, 60_000, 4, 4]])
def test_small_batches_are_normalized_together_and_keep_their_cuts(
    cuts: list[int], suffix: str
) -> None:
    x = np.random.default_rng(0).normal(size=sum(cuts))
    table = pa.table({"x": x, "s": [f"row {i % 9}" for i in range(len(x))]})
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0, 4.0]})).freeze()
    with pa.ipc.new_stream("in.arrows", table.schema) as writer:
        whole = pa.RecordBatch.from_pydict(table.to_pydict(), table.schema)
        for start, rows in zip(np.cumsum([0, *cuts]).tolist(), cuts, strict=False):
            writer.write_batch(whole.slice(start, rows))
    write(make_plan([Source("in.arrows")], f"out{suffix}").outputs, ApplyStatistics(frozen))
    kind = pa.ipc.open_stream if suffix == ".arrows" else pa.ipc.open_file
    with pa.OSFile(f"out{suffix}") as file:
        reader = kind(file)
        count = getattr(reader, "num_record_batches", None)
        batches = [*reader] if count is None else [reader.get_batch(i) for i in range(count)]
    assert [batch.num_rows for batch in batches] == cuts
    assert pa.Table.from_batches(batches).equals(frozen.transform(table))


def test_batches_before_one_at_fault_are_written() -> None:
    table = pa.table({"x": [1.0, 2.0, np.inf, 3.0]})
    write_as("in.arrows", table, 1)
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0]})).freeze()
    outputs = make_plan([Source("in.arrows")], "out.arrows").outputs
    with pytest.raises(StreamBNError, match=r"in\.arrows after row 2"):
        write(outputs, ApplyStatistics(frozen))
    write(outputs, ApplyStatistics(frozen), skip_damaged=True)
    expected = frozen.transform(table.slice(0, 2))
    with pa.OSFile("out.arrows") as file:
        assert pa.ipc.open_stream(file).read_all().equals(expected)


@pytest.mark.parametrize(
    ("files", "size", "threads"),
    [(2000, 40_000_000, 1), (63, 63, 8), (64, 64 << 16, 8), (64, (64 << 16) - 1, 1), (99, None, 8)],
)
def test_many_small_files_need_one_thread(files: int, size: int | None, threads: int) -> None:
    assert ReadOptions(threads=8).threads_for(files, size) == threads
