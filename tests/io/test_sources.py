"""Sources: their discovery, the detection of their format, and lazy reading."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from data_files import EVERY_SUFFIX, TABLE, read, write_as, write_tree

from streambn.errors import StreamBNError
from streambn.io import Source, open_reader, scan

# --- discovery ------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_listed_without_hidden_names(tree: Path) -> None:
    assert [source.path for source in scan(["d"])] == [
        "d/year=2020/city=S%C3%A3o%20Paulo/a.parquet",
        "d/year=2020/city=S%C3%A3o%20Paulo/b.parquet",
        "d/year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
    ]


@pytest.mark.parametrize("pattern", ["d/**", "d/**/*.parquet", "d/*", "d/*/*/?.parquet", "d/y*"])
def test_globs_find_the_files_of_the_folder(tree: Path, pattern: str) -> None:
    assert [s.path for s in scan([pattern])] == [s.path for s in scan(["d"])]
    assert [s.relative for s in scan([pattern])] == [s.relative for s in scan(["d"])]


def test_a_glob_that_names_hidden_files_finds_them(tree: Path) -> None:
    assert [s.path for s in scan(["d/.hid*"])] == ["d/.hidden.parquet"]


def test_a_file_name_with_glob_characters_is_a_file(tree: Path) -> None:
    write_as(tree / "odd[1].csv", TABLE)
    assert [s.path for s in scan(["odd[1].csv"])] == ["odd[1].csv"]


def test_files_keep_the_order_of_the_arguments_without_duplicates(tree: Path) -> None:
    sources = scan(["one.parquet", "d/year=2020", "d", f"{tree}/one.parquet"])
    assert [s.path for s in sources] == ["one.parquet", *[s.path for s in scan(["d"])]]
    assert [s.relative for s in sources] == [s.path for s in sources]


def test_hive_keys_are_unquoted_and_typed(tree: Path) -> None:
    keys = [source.keys for source in scan(["d"])]
    assert [{k: v.as_py() for k, v in one.items()} for one in keys] == [
        {"year": 2020, "city": "São Paulo"},
        {"year": 2020, "city": "São Paulo"},
        {"year": None, "city": "12"},  # not all of its values are integers
    ]
    assert {one["year"].type for one in keys} == {pa.int64()}
    assert {one["city"].type for one in keys} == {pa.string()}


def test_circular_links_end(tree: Path) -> None:
    os.symlink(tree / "d", tree / "d" / "year=2020" / "again")
    assert len(scan(["d"])) == 3


def test_a_linked_folder_is_followed(tree: Path) -> None:
    write_as(tree / "elsewhere/z.csv", TABLE)
    os.symlink(tree / "elsewhere", tree / "d" / "z")
    assert scan(["d"])[-1].path == "d/z/z.csv"


@pytest.mark.parametrize("argument", ["nothing", "nothing*.csv", "empty", "file:///no/such"])
def test_an_argument_without_files_is_an_error(tree: Path, argument: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(StreamBNError) as error:
        scan(["one.parquet", argument])
    assert str(error.value).startswith(argument)


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
@pytest.mark.parametrize("misnamed", ["data", "data.txt", "data.parquet", "data.csv.gz"])
def test_the_format_is_detected_by_content(tmp_path: Path, suffix: str, misnamed: str) -> None:
    written = write_as(tmp_path / f"t{suffix}", TABLE)
    path = written.rename(tmp_path / misnamed)
    assert read(path).equals(TABLE)


def test_feather_files_are_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(TABLE, tmp_path / "f", compression="zstd")
    assert read(tmp_path / "f").equals(TABLE)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_batches_follow_the_file(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"x": range(1000)})
    path = write_as(tmp_path / f"t{suffix}", table, 300)
    sizes = [batch.num_rows for batch in open_reader(Source(str(path)))]
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
    "json": b"[1, 2]",
    "json lines": b'[1]\n{"a": 1}',
    "white": b"\n \n",
}


@pytest.mark.parametrize("content", RUBBISH.values(), ids=RUBBISH.keys())
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rubbish.parquet"
    path.write_bytes(content)
    with pytest.raises(StreamBNError, match=r"Parquet, an Arrow IPC file, .* stream, CSV") as e:
        read(path)
    assert str(e.value).startswith(str(path))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_an_error_of_one_line(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write_as(tmp_path / f"t{suffix}", pa.table({"x": range(10_000)}))
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(StreamBNError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: damaged or truncated")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_damage_gives_data_or_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
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
            assert str(error).startswith(str(path))  # noqa: PT017  (most damage changes values only)


def test_checksums_reveal_damaged_pages(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"x": [float(i) for i in range(3000)]})
    pq.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # one bit in the values
    path.write_bytes(content)
    with pytest.raises(StreamBNError, match="damaged or truncated, not readable as Parquet in row"):
        read(path)


def test_a_fit_reads_only_numeric_columns(tmp_path: Path) -> None:
    path = write_as(tmp_path / "t.parquet", TABLE)
    reader = open_reader(Source(str(path)), select_columns=lambda schema: ["x", "y"])
    assert reader.schema.names == ["x", "y"]
    assert reader.read_all().equals(TABLE.select(["x", "y"]))


def test_partition_keys_become_columns_unless_the_file_has_them(tmp_path: Path) -> None:
    write_as(tmp_path / "x=7/k=v/t.parquet", TABLE)
    (source,) = scan([str(tmp_path / "x=7")])
    got = open_reader(source, keys=source.keys).read_all()
    assert got.column_names == [*TABLE.column_names, "k"]
    assert got["x"].equals(TABLE["x"])
    assert got["k"].to_pylist() == ["v"] * 4
    assert open_reader(source).schema.names == TABLE.column_names


def test_a_named_pipe_carries_an_arrow_stream(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def produce() -> None:
        with open(fifo, "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as stream:
            stream.write_table(TABLE)

    producer = threading.Thread(target=produce)
    producer.start()
    (source,) = scan([str(fifo)])
    assert not source.rereadable
    assert open_reader(source).read_all().equals(TABLE)
    producer.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    batch = pa.record_batch({"x": pa.array([0.5] * 65_536), "y": pa.array([1.5] * 65_536)})

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(300):  # 300 MB
            yield batch

    # One row group of all rows, and many record batches.
    whole = pa.Table.from_batches(batches())
    pq.write_table(whole, tmp_path / "t.parquet", row_group_size=1 << 26, use_dictionary=False)
    write_as(tmp_path / "t.arrow", whole)
    del whole
    for suffix in (".parquet", ".arrow"):
        code = (
            "import re, sys; from streambn.io import Source, open_reader\n"
            # Not of `getrusage`, which may give the peak of the process that started this one.
            "status = lambda: open('/proc/self/status').read()\n"
            "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', status())[1]) >> 10\n"
            "for n, batch in enumerate(open_reader(Source(sys.argv[1]))):\n"
            "    batch['x'].to_numpy().sum()\n"
            "    before = peak() if n == 15 else before if n > 15 else 0\n"
            "print(peak() - before)"
        )
        grown = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"t{suffix}")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(grown.stdout) < 60
