"""Folders and patterns: a store lists the same files as a local folder with the same tree."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location, locate
from streambn.io.formats import Format
from streambn.io.listing import glob, walk
from streambn.io.sources import scan
from streambn.jobs.plan import check_target, make_plan

TABLE = pa.table({"x": [1.0, 2.0, 4.0], "y": [1, 2, None]})
TREE = (
    "t.parquet",
    "year=2020/city=S%C3%A3o Paulo/b.parquet",
    "year=2020/city=S%C3%A3o Paulo/a.parquet",
    "year=2020/city=12/a[1].csv",
    "year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
    "year=2020/_SUCCESS",
    "year=2020/.a.parquet.crc",
    "_temporary/0/a.parquet",
    ".hidden.parquet",
)


@pytest.fixture
def twins(store: Location, tmp_path: Path) -> tuple[Location, Location]:
    """Return a local folder and a folder of a store with the same tree."""
    twins = locate(str(tmp_path)), store.child("d")
    for folder in twins:
        for name in TREE:
            with folder.child(name).open_output(fsync=False) as file:
                pq.write_table(TABLE, file)
    return twins


PATTERNS = [
    "**", "*", "*/", "**/", "**/*.parquet", "*/*/?.parquet", "y*", "y*/city=12/*", "**/city=12",
    "**/a*", "year=2020/**", "year=2020/*", "year=202?", "year=202[0-9]/*/[!b]*.parquet",
    "**/.hid*", ".*", "_*", "_temporary/**", "**/_*", "**/.*", "none*", "none/*", "*.parquet/*",
    "year=2020/city=S%C3%A3o Paul?/*", "**/city=*/**", "**/**", "*/_*", "YEAR*",
]  # fmt: skip


def test_walk_and_glob_agree(twins: tuple[Location, Location]) -> None:
    local, remote = twins

    def names(folder: Location, files: list[Location]) -> list[str]:
        return [file.identity.removeprefix(folder.identity + "/") for file in files]

    assert names(remote, list(walk(remote))) == names(local, list(walk(local)))
    for pattern in PATTERNS:
        base, files = glob(remote.child(pattern))
        local_base, local_files = glob(local.child(pattern))
        unique = list(dict.fromkeys(names(local, local_files)))
        assert (pattern, names(remote, files)) == (pattern, unique)
        assert base.identity.removeprefix(remote.identity) == (
            local_base.identity.removeprefix(local.identity)
        )
        for file in files:
            assert locate(file.text).identity == file.identity


def test_scan_agrees(twins: tuple[Location, Location]) -> None:
    local, remote = twins
    for inputs in ([""], ["year=2020", "t.parquet"], ["**/*.parquet", ""], ["*"]):
        found, expected = (
            scan([folder.child(name).text if name else folder.text for name in inputs])
            for folder in (remote, local)
        )
        assert [s.relative for s in found] == [s.relative for s in expected]
        assert [s.keys for s in found] == [s.keys for s in expected]
        assert [s.listed for s in found] == [s.listed for s in expected]
        assert [s.root is None for s in found] == [s.root is None for s in expected]
        assert all(source.rereadable for source in found)
        with found[0].open() as file:
            assert pq.read_table(file).equals(TABLE)
        assert found[0].stamp().size == expected[0].stamp().size
    both = scan([local.text, remote.text])
    assert [s.relative for s in both] == [s.relative for s in scan([local.text])] * 2


@pytest.mark.parametrize("argument", ["none", "none*", "none/"])
def test_missing_files_are_named(store: Location, argument: str) -> None:
    store.child("a").write_bytes(b"a")
    missing = store.child(argument)
    with pytest.raises(StreamBNError) as error:
        scan([missing.text])
    assert str(error.value) in {
        f"{missing.text}: no such file or folder",
        f"{missing.text}: no file matches this glob",
    }
    for read in (Location.open_input, Location.read_bytes, Location.stamp):
        with pytest.raises(StreamBNError) as error:
            read(missing)
        assert str(error.value).startswith(f"{missing.text}: no such file")


# --- outputs --------------------------------------------------------------------------


def test_outputs_in_a_store_mirror_partitions(twins: tuple[Location, Location]) -> None:
    local, remote = twins
    sources = scan([local.text])
    for folder in (remote.parent.child("out"), remote.parent.child("out/")):
        outputs = make_plan(sources, folder.text).outputs
        assert [output.target for output in outputs] == [
            remote.parent.child(f"out/{source.relative}").text for source in sources
        ]
        assert {output.format for output in outputs} == {Format.PARQUET}
        for output in outputs:
            with output.location.open_output(fsync=False) as file:
                pq.write_table(TABLE, file)
    written = scan([remote.parent.child("out").text])
    assert [s.relative for s in written] == [s.relative for s in sources]
    assert [s.keys for s in written] == [s.keys for s in sources]
    with written[-1].open() as file:
        assert pq.read_table(file).equals(TABLE)


def test_outputs_in_a_store_do_not_replace_inputs(twins: tuple[Location, Location]) -> None:
    local, remote = twins
    one = scan([remote.child("t.parquet").text])
    tree = scan([remote.text])
    for sources, out, message in (
        (one, "d/t.parquet", "is one of the inputs"),
        (one, "d", "is one of the inputs"),
        (one, "out", "suffix"),
        (tree, "d/out/", "is in the input folder"),
        (tree, "d/t.parquet/", "is a file, but"),
        (scan([local.text, remote.text]), "out/", "have the same output"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            make_plan(sources, remote.parent.child(out).text)
    (output,) = make_plan(one, remote.parent.child("out.csv").text).outputs
    assert output.format is Format.CSV
    with pytest.raises(InvalidValueError, match="is one of the inputs"):
        check_target(remote.child("t.parquet").text, one)
    check_target(remote.child("new/stats.json").text, one)
