"""Google Cloud Storage: jobs in a bucket, and objects whose keys are no paths."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import COMMAND
from object_stores import put

import streambn as sbn
from streambn.errors import StreamBNError
from streambn.io import Location, locate, scan


def command(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_commands_do_the_same_in_a_bucket_and_a_folder(gs: Location, tmp_path: Path) -> None:
    local = locate(str(tmp_path))
    for year in (2020, 2021):
        table = pa.table({"x": [year + 0.5, None, 1.0], "s": ["a", "b", None]})
        for folder in (gs, local):
            with folder.child(f"in/year={year}/t.parquet").open_output(fsync=False) as file:
                pq.write_table(table, file, row_group_size=2)
    for base in (gs, local):
        stats, out = base.child("s.json").text, base.child("out/").text
        command("fit", base.child("in").text, "-o", stats, "-q")
        command("apply", stats, base.child("in/**/*.parquet").text, "-o", out, "-q")
    for name in ("s.json", "out/year=2020/t.parquet", "out/year=2021/t.parquet"):
        assert gs.child(name).read_bytes() == (tmp_path / name).read_bytes()
    assert sbn.load(gs.child("s.json").text).stats()["count"].to_pylist() == [4]
    resumed = command("apply", gs.child("s.json").text, gs.child("in").text, "-o",
                      gs.child("out/").text, "--resume", "--json", "-q")  # fmt: skip
    assert json.loads(resumed)["resumed"]


def test_a_fit_that_stopped_goes_on_in_a_bucket(gs: Location) -> None:
    for name in ("a", "b"):
        gs.child(f"in/{name}.csv").write_bytes(b"x\n1\n2\n3\n")
    gs.child("in/c.csv").write_bytes(b"x\n1\nb\n")
    job = ["fit", gs.child("in").text, "-o", gs.child("s.json").text, "--checkpoint-every", "1"]
    command(*job, "--csv-type", "x=double", code=1)
    assert gs.child("s.json.checkpoint").exists()
    gs.child("in/c.csv").write_bytes(b"x\n1\n2\n")
    done = command(*job, "--csv-type", "x=double", "--resume", "--json", "-q")
    assert json.loads(done)["resumed"]
    assert json.loads(done)["rows"] == 8


def test_missing_buckets_and_objects_are_named(gs: Location) -> None:
    with pytest.raises(StreamBNError, match=r"^gs://bucket.*/none\?.*: no such file or folder$"):
        scan([gs.child("none").text])
    with pytest.raises(StreamBNError, match=r"there is no bucket 'none-of-this-name'$"):
        scan([gs.text.replace(gs.key, "none-of-this-name")])


@pytest.mark.parametrize("key", ["in/../../pwn.csv", "in/./a.csv", "in//a.csv", "in/x/"])
def test_a_key_that_is_no_path_is_refused_or_left_out(gs: Location, key: str) -> None:
    gs.child("in/ok.csv").write_bytes(b"x\n1\n")
    put(gs, key, b"x\n1\n")
    folder = gs.child("in").text
    if not key.endswith("/"):
        with pytest.raises(StreamBNError, match="Rename it, or name the inputs by a pattern"):
            scan([folder])
    assert [s.relative for s in scan([folder], lambda _: None)] == ["ok.csv"]
