"""Locations: what paths and URLs mean, and reading and writing files, local and elsewhere."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location, Stamp, identities, locate

AllFiles = Callable[[Location], list[str]]
TABLE = pa.table({"x": [1.0, 2.0, 4.0], "y": [1, 2, None]})


# --- paths and URLs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("a/b.csv", "a/b.csv"),
        ("/a/b.csv", "/a/b.csv"),
        ("a%20b?c=1#d", "a%20b?c=1#d"),
        ("://", "://"),
        ("1://x", "1://x"),
        ("file:///a/b.csv", "/a/b.csv"),
        ("FILE://localhost/a/b.csv", "/a/b.csv"),
        ("file:///a%20b/S%C3%A3o%23%3F%25.csv", "/a b/São#?%.csv"),
        ("file:///d/*.csv", "/d/*.csv"),
    ],
)
def test_paths_and_file_urls_are_local(text: str, local: str) -> None:
    assert locate(text) == Location(local, local)


def test_path_objects_are_local() -> None:
    assert locate(Path("s3://bucket")) == Location("s3:/bucket", "s3:/bucket")


def test_existing_file_with_the_name_of_a_url_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:").mkdir()
    Path("s3:/bucket").write_bytes(b"here")
    assert locate("s3://bucket").read_bytes() == b"here"
    assert locate("s3://other").local is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://bucket", "bucket"),
        ("s3://bucket/", "bucket"),
        ("s3://bucket/a b/c%20d.csv", "bucket/a b/c%20d.csv"),
        ("s3://bucket/a/?endpoint_override=http://127.0.0.1:9000&region=x", "bucket/a"),
        ("s3://bucket/year=202?/*.csv", "bucket/year=202?/*.csv"),
        ("s3://bucket/?ear=2020/*.csv?region=x", "bucket/?ear=2020/*.csv"),
        ("gs://bucket/a?anonymous=true", "bucket/a"),
        ("gcs://bucket/a", "bucket/a"),
    ],
)
def test_urls_of_stores_keep_the_keys_of_objects(text: str, key: str) -> None:
    there = locate(text)
    assert (there.text, there.local, there.key) == (text, None, key)
    assert pickle.loads(pickle.dumps(there)) == there


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file://elsewhere/a", "must not name another host, got 'elsewhere'"),
        ("s3://", "must name a bucket"),
        ("s3:///a", "must name a bucket"),
        ("s3://buck*/a", "must name a bucket"),
        ("s3://bucket/a?region=x&colour=red", "no option 'colour'; the options are "),
        ("s3://key:secret@bucket/a", "must not contain credentials"),
    ],
)
def test_malformed_urls_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as error:
        locate(text)
    assert error.value.argument == "path"
    assert "secret" not in str(error.value)


NAMES = st.text(st.characters(exclude_characters="/?*[", exclude_categories=["C"]), min_size=1)


@given(base=st.sampled_from(["/a", "a", "s3://b", "s3://b/c?region=x", "gs://b/c/"]),
       name=NAMES.filter(lambda name: name not in {".", ".."}))  # fmt: skip
def test_child_and_parent_are_inverse(base: str, name: str) -> None:
    folder = locate(base)
    child = folder.child(name)
    assert child.name == name
    assert locate(child.text) == child
    assert child.parent.identity == folder.identity
    assert child.child("x").parent == child
    assert child.identity.startswith(folder.identity.rstrip("/") + "/")


def test_identity_does_not_depend_on_the_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    Path("d").mkdir()
    Path("link").symlink_to("d")
    Path("d/to_f").symlink_to("f")
    for same in (
        ["d/f", "link/f", "./d/../d/f", "link/to_f", f"file://{tmp_path}/d/f"],
        ["d", "link", "d/", "d/."],
        ["s3://b/k", "s3://b/k/", "s3://b/k?region=x", "s3://b/k?endpoint_override=127.0.0.1:9000"],
        ["gs://b/k", "gcs://b/k?anonymous=true"],
        ["memory://b/k", "memory:///b/k/"],
    ):
        places = [locate(text) for text in same]
        assert len({place.identity for place in places}) == 1
        assert identities(places) == [place.identity for place in places]
    other = locate("s3://b/k?endpoint_override=http://127.0.0.1:9001")
    assert other.identity != locate("s3://b/k").identity


def test_local_files_import_no_file_system_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from streambn.io.locations import locate\n"
        "from streambn.io.sources import scan\n"
        "from streambn.jobs.plan import make_plan\n"
        "folder = locate('file://' + sys.argv[1])\n"
        "with folder.child('d/f.csv').open_output(fsync=False) as file:\n"
        "    file.write(b'x\\n1\\n')\n"
        "sources = scan([sys.argv[1]])\n"
        "make_plan(sources, sys.argv[1] + '.out/')\n"
        "sources[0].open().close(), sources[0].stamp()\n"
        "heavy = {'pyarrow.fs', 'fsspec', 'filelock', 'pyarrow.dataset', 'pyarrow.parquet'}\n"
        "print(len(sources), heavy & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "1 set()\n"


# --- reading and writing --------------------------------------------------------------


def test_written_file_appears_whole(folder: Location, all_files: AllFiles) -> None:
    file = folder.child("new/sub folder/f.bin")
    assert not file.exists()
    for content in (b"", b"old", b"n" * 12_000_000):
        with file.open_output(fsync=False) as output:
            for start in range(0, len(content), 5_000_000):
                output.write(memoryview(content)[start : start + 5_000_000])
                assert not file.exists() or file.stamp().size != len(content)
        assert (file.exists(), file.is_file(), file.is_folder()) == (True, True, False)
        assert file.parent.is_folder()
        assert not file.parent.is_file()
        assert file.read_bytes() == content
        assert file.stamp().size == len(content)
    assert file.read_bytes(beginning=b"nn") == content
    assert file.read_bytes(beginning=b"on") == b"nn"
    assert all_files(folder) == ["new/sub folder/f.bin"]
    file.remove()
    file.remove()  # a missing file is no error
    assert not file.exists()


def test_files_are_read_by_random_access(folder: Location) -> None:
    file = folder.child("f.parquet")
    file.write_bytes(b"0123456789")
    with file.open_input() as data:
        data.seek(7)
        assert data.read(2) == b"78"
        assert data.size() == 10
        assert data.read_at(3, 1) == b"123"
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    file.write_bytes(sink.getvalue())
    with file.open_input() as data:
        assert pq.ParquetFile(data).read(columns=["y"]).equals(TABLE.select(["y"]))


def test_stamp_changes_with_the_content(folder: Location) -> None:
    file = folder.child("f")
    file.write_bytes(b"one")
    first = file.stamp()
    assert file.stamp() == first
    file.write_bytes(b"three")
    assert file.stamp() != first
    assert isinstance(first, Stamp)


@pytest.mark.parametrize("size", [3, 12_000_000])
@pytest.mark.parametrize("failure", [StreamBNError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_error_while_writing_leaves_the_old_file(
    folder: Location, size: int, failure: BaseException, all_files: AllFiles
) -> None:
    with folder.child("old/f").open_output(fsync=False) as file:
        file.write(b"old")

    def fail(name: str) -> None:
        with folder.child(name).open_output(fsync=False) as file:
            file.write(b"n" * size)
            file.write(b"n" * size)
            raise failure

    for name in ("old/f", "new/f"):
        with pytest.raises(type(failure)):
            fail(name)
    assert all_files(folder) == ["old/f"]
    assert folder.child("old/f").read_bytes() == b"old"
    if folder.local is not None:
        assert os.listdir(folder.local) == ["old"]


def test_names_with_wildcards_can_be_written(folder: Location, all_files: AllFiles) -> None:
    file = folder.child("a[1]*?.csv")
    for content in (b"old", b"new"):
        with file.open_output(fsync=False) as output:
            output.write(content)
    assert all_files(folder) == ["a[1]*?.csv"]
    assert file.read_bytes() == b"new"


def test_statistics_are_saved_and_loaded_anywhere(folder: Location, all_files: AllFiles) -> None:
    file = folder.child("stats.json")
    normalizer = sbn.Normalizer().update(TABLE)
    normalizer.save(file.text)
    assert sbn.load(file.text).stats().equals(normalizer.stats())
    frozen = normalizer.freeze()
    frozen.save(file.text)
    assert sbn.load(file.text) == frozen
    assert all_files(folder) == ["stats.json"]
    file.write_bytes(b"PAR1")
    with pytest.raises(sbn.SnapshotError) as error:
        sbn.load(file.text)
    assert str(error.value).startswith(file.text)


def test_statistics_are_loaded_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    normalizer = sbn.Normalizer().update(TABLE)
    normalizer.save(tmp_path / "stats.json")
    content = (tmp_path / "stats.json").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert sbn.load(str(pipe)).stats().equals(normalizer.stats())
    writer.join()


@pytest.mark.parametrize("fsync", [True, False])
def test_fsync_is_optional_and_starts_while_the_file_is_written(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    synced: list[int] = []
    advised: list[tuple[int, int]] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _, start, length, __: advised.append((start, length))
    )
    file = locate(str(tmp_path / "new/f"))
    with file.open_output(fsync=fsync) as output:
        for _ in range(5):
            output.write(b"n" * 3_000_000)
        assert bool(advised) == fsync
        output.write(b"end")
    assert len(synced) == (2 if fsync else 0)  # the file and its folder
    # The advice covers each byte once, in order; fsync writes the last ones.
    assert [start for start, _ in advised] == [
        sum(length for _, length in advised[:n]) for n in range(len(advised))
    ]
    assert file.stamp().size == 15_000_003
