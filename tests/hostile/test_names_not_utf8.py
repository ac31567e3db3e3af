"""Names of local files that are not UTF-8: they work, keep their bytes, and are shown escaped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import run as run_command
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn._messages import escape, escape_bytes
from streambn.errors import InvalidValueError
from streambn.io import locate, original_path, scan, unicode_text

Run = Callable[..., Any]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs a file system whose names are any bytes"
)

CAFE = os.fsdecode(b"caf\xe9.csv")
CONTENT = "x\n1\n2\n4\n"


@pytest.fixture(autouse=True)
def _inputs(jobs_in_a_folder: None) -> None:
    Path("in").mkdir()
    for name in ("a.csv", CAFE):
        Path("in", name).write_text(CONTENT)


def outputs(folder: str) -> set[bytes]:
    return set(os.listdir(os.fsencode(folder)))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".csv", ".ndjson", ".csv.gz"])
def test_every_format_is_read_and_written(run: Run, suffix: str) -> None:
    table = pa.table({"x": [1.0, 2.0, 4.0]})
    pq.write_table(table, "t.parquet")
    name = os.fsdecode(b"in/\xff\xfe") + suffix
    assert run("fit", "t.parquet", "-o", "s.json").code == 0
    assert run("apply", "s.json", "t.parquet", "-o", name, "--verify").code == 0
    assert run("fit", name, "-o", "t.json").code == 0
    assert abs(sbn.load("t.json").stats()["mean"][0].as_py()) < 1e-9
    assert run("apply", "s.json", name, "-o", "out/", "--verify").code == 0
    assert outputs("out") == {os.fsencode(name)[3:], b"_streambn.manifest"}


def test_jobs_take_such_names_everywhere(run: Run) -> None:
    folder, stats = os.fsdecode(b"\xe0/"), os.fsdecode(b"s\xe0.json")
    for job in (
        ["fit", "in", "-o", stats, "--checkpoint", f"{CAFE}.checkpoint"],
        ["apply", stats, "in", "-o", folder],
        ["normalize", f"in/{CAFE}", "-o", folder + CAFE, "--save", f"2{stats}"],
        ["merge", stats, f"2{stats}", "-o", f"3{stats}"],
        ["show", f"3{stats}", "--columns", "x"],
        ["fit", "in", "-o", f"4{stats}", "--continue-from", stats],
        ["fit", f"in/{CAFE[:3]}*", "-o", stats],
        ["demo", "--save-data", f"2{CAFE}"],
    ):
        done = run(*job, *([] if job[0] in {"merge", "show", "demo"} else ["--json"]))
        assert done.code == 0, done.lines
        (done.out + "".join(done.lines)).encode()
    assert outputs(folder) == {b"caf\xe9.csv", b"a.csv", b"_streambn.manifest"}


def test_resume_knows_such_files(run: Run) -> None:
    assert run("fit", "in", "-o", "s.json").code == 0
    assert run("apply", "s.json", "in", "-o", "out/").code == 0
    done = run("apply", "s.json", "in", "-o", "out/", "--resume", "--json")
    assert json.loads(done.out)["resumed"]
    Path("in", CAFE).write_text("x\n5\n")
    assert run("apply", "s.json", "in", "-o", "out/", "--resume").code == 0
    assert Path("out", CAFE).read_text().count("\n") == 2
    Path("in/b.csv").write_text("x\n1\n?\n")  # between both others
    fit = ["fit", "in", "-o", "t.json", "--csv-type", "x=double", "--checkpoint-every", "1"]
    assert run(*fit).code == 1
    json.loads(Path("t.json.checkpoint").read_bytes())
    Path("in/b.csv").write_text("x\n1\n2\n")
    done = run(*fit, "--resume", "--json")
    assert done.code == 0, done.lines
    assert json.loads(done.out)["resumed"]
    assert run(*fit).code == 0
    Path("in/d.csv").write_text("x\n1\n?\n")
    assert run(*fit).code == 1
    os.remove(f"in/{CAFE}")
    done = run(*fit, "--resume")
    assert done.code == 1
    assert "in/caf\\xe9.csv was an input and is no longer one" in done.lines[0]


def test_messages_and_reports_show_the_bytes(run: Run) -> None:
    Path("in", CAFE).write_bytes(b"PAR1 damaged")
    done = run("fit", "in", "-o", "s.json")
    assert done.code == 1
    assert done.lines[0].startswith("streambn: in/caf\\xe9.csv: damaged or truncated")
    done = run("normalize", "in", "-o", "out/", "--on-error", "skip", "--json", "--progress=plain")
    assert done.code == 0, done.lines
    assert "skipped in/caf\\xe9.csv: " in "".join(done.lines)
    [skipped] = json.loads(done.out)["skipped"]
    assert skipped["file"] == "in/caf\\xe9.csv"
    resumed = run("normalize", "in", "-o", "out/", "--on-error", "skip", "--json", "--resume")
    assert resumed.code == 0, resumed.lines
    done = run("fit", f"no{CAFE}", "-o", "s.json", "--json")
    assert json.loads(done.out)["error"] == "nocaf\\xe9.csv: no such file or folder"


def test_the_command_line_of_a_process_has_such_names() -> None:
    done = run_command("fit", f"in/{CAFE}", "-o", "s.json", "--progress=plain", text=False)
    assert done.returncode == 0
    assert b"\xe9" not in done.stderr


@pytest.mark.parametrize("option", ["--columns", "--time", "--weights", "--null-values"])
def test_other_arguments_must_be_utf_8(run: Run, option: str) -> None:
    policy = ["--policy", "ema", "--halflife", "1d"] if option == "--time" else []
    done = run("fit", "in/a.csv", "-o", "s.json", option, "caf\udce9", *policy)
    assert done.code in {1, 2, 3}
    assert "caf\\udce9" in done.lines[0]
    assert "codec" not in done.lines[0]


def test_a_partition_value_stays_apart_from_others(run: Run) -> None:
    for value in (b"k=\xe9", b"k=\xe8", b"k=caf%C3%A9"):
        os.makedirs(b"p/" + value)
        Path(os.fsdecode(b"p/" + value + b"/a.csv")).write_text(CONTENT)
    sources = scan(["p"])
    assert [s.keys["k"].as_py() for s in sources] == ["café", "%E8", "%E9"]
    assert run("normalize", "p", "-o", "o.parquet").code == 0


def test_a_file_url_has_any_bytes() -> None:
    url = Path("in", CAFE).absolute().as_uri()
    assert "%E9" in url
    assert locate(url).read_bytes() == CONTENT.encode()


PATHS = st.binary(max_size=12).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@given(PATHS, PATHS)
def test_stored_names_are_unicode_and_tell_all_paths_apart(first: str, second: str) -> None:
    stored = unicode_text(first)
    stored.encode()
    assert original_path(stored) == first
    assert (stored == unicode_text(second)) == (first == second)
    assert escape(first).isprintable()
    escape_bytes(first).encode()


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["caf\udce9"]},
        {"exclude": ["caf\udce9"]},
        {"weights": "caf\udce9"},
        {"affine": {"caf\udce9": (1.0, 0.0)}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_normalizer_has_a_column_that_arrow_and_its_file_lack(options: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"caf\\udce9") as error:
        sbn.Normalizer(**options)
    assert error.value.argument in options
    with pytest.raises(InvalidValueError, match="time must be the name of a column"):
        sbn.EMA(halflife="1d", time="caf\udce9")


# --- names in data --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_column_whose_name_is_not_utf_8_is_an_error_of_its_file(
    run: Run, kind: str, nested: bool
) -> None:
    values = pa.array([1.0, 2.0])
    if nested:
        values = pa.StructArray.from_arrays([values], ["AAAA"])
    table = pa.table({"s" if nested else "AAAA": values, "b": [1.0, 2.0]})
    path = Path(f"t.{kind}")
    if kind == "parquet":
        pq.write_table(table, path, store_schema=False)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(path, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"\xff\xfe\x1b["))
    done = run("fit", path, "-o", "s.json")
    assert done.code == 1
    assert done.lines[0].startswith(f"streambn: t.{kind}: damaged or truncated")
    Path("d").mkdir()
    path.rename(f"d/t.{kind}")
    Path("d/ok.csv").write_text(CONTENT)
    assert run("fit", "d", "-o", "s.json", "--on-error", "skip").code == 0
