"""Names that hold commands of a terminal, markup or formulas: none reaches whoever reads them."""

from __future__ import annotations

import csv
import html
import io
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import run as run_command
from hostile_names import CONTROLS, NAMES, hostile_texts
from hypothesis import given
from hypothesis import strategies as st
from terminal import in_a_terminal

import streambn as sbn
from streambn._messages import display_name, escape, shown
from streambn.errors import SchemaError, StreamBNError
from streambn.io import Source, open_reader, scan

Run = Callable[..., Any]

FILE_NAMES = {
    key: name[:200] for key, name in NAMES.items() if "/" not in name and name.strip() == name
}
STRUCT = pa.struct([(name[:50], pa.string()) for name in NAMES.values()])
TABLE = pa.table(
    {name: [1.0, 2.0, 4.0] for name in NAMES.values()} | {"left out": pa.array([{}] * 3, STRUCT)}
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    pq.write_table(TABLE, folder / "t.parquet")
    sbn.Normalizer().update(TABLE).save(folder / "s.json")
    timed = sbn.EMA(halflife="1d", time=NAMES["clear"])
    sbn.Normalizer(timed).save(folder / "time.json")
    return folder


@pytest.fixture(autouse=True)
def _files(files: Path, jobs_in_a_folder: None) -> None:
    shutil.copytree(files, ".", dirs_exist_ok=True)


# --- one place ------------------------------------------------------------------------


@given(hostile_texts)
def test_what_is_shown_prints_and_stays_as_it_is(text: str) -> None:
    for show in (shown, escape):
        once = show(text)
        assert once.isprintable()
        assert show(once) == once
        once.encode()
    assert escape(text) == text or not text.isprintable()
    for error in (StreamBNError(text), SchemaError(text, source=text)):
        assert str(error).isprintable()
        assert error.message.isprintable()


@given(st.text(hostile_texts.map(lambda text: text[:1]).filter(bool)), st.integers(0, 30_000))
def test_a_long_text_is_cut_in_the_middle(text: str, size: int) -> None:
    assert len(shown(text + size * "x")) < 11_000
    assert len(display_name(text + size * "\x1b")) < 300


def test_no_two_names_look_alike() -> None:
    assert len({display_name(name) for name in NAMES.values()}) == len(NAMES)
    codes = [*range(0x3100), *range(0xD800, 0xE000), *range(0xE0000, 0xE0100), 0x10FFFF]
    assert len({escape(chr(code)) for code in codes}) == len(codes)


# --- the command ----------------------------------------------------------------------

COMMANDS = {
    "show": ["show", "s.json"],
    "all": ["show", "s.json", "--all"],
    "markdown": ["show", "s.json", "--format", "markdown"],
    "json": ["show", "s.json", "--format", "json"],
    "time": ["show", "time.json"],
    "fit": ["fit", "t.parquet", "-o", "n.json", "--progress=plain", "--json"],
    "apply csv": ["apply", "s.json", "t.parquet", "-o", "o.ndjson", "--progress=plain"],
    "verify": ["apply", "s.json", "t.parquet", "-o", "o.parquet", "--verify"],
    "merge": ["merge", "s.json", "s.json", "-o", "n.json"],
    "no csv": ["apply", "s.json", "t.parquet", "-o", "o.csv"],
    "struct": ["fit", "t.parquet", "-o", "n.json", "--columns", "left out"],
    **{
        f"{flag} {key}": ["fit", "t.parquet", "-o", "n.json", flag, f"zz{name[:2000]}"]
        for key, name in NAMES.items()
        for flag in ("--columns", "--weights")
        if key in {"title", "new line", "right to left", "long", "password"}
    },
    "option": ["fit", "t.parquet", "-o", "n.json", f"--{NAMES['clear']}"],
    "command": [NAMES["clear"]],
    "choice": ["show", "s.json", "--format", NAMES["clear"]],
    "value": ["fit", "t.parquet", "-o", "n.json", "--checkpoint-every", NAMES["clear"]],
    "encoding": ["fit", "t.parquet", "-o", "n.json", "--encoding", NAMES["clear"]],
    "csv type": ["fit", "t.parquet", "-o", "n.json", "--csv-type", f"x={NAMES['clear']}"],
    "at": ["show", "time.json", "--at", NAMES["clear"]],
    "no stats": ["show", NAMES["clear"]],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(run: Run, case: str) -> None:
    done = run(*COMMANDS[case])
    for line in (*done.lines, *done.out.split("\n")):
        assert line.isprintable()
        assert len(line) < 11_000 or case == "json"
        assert "s3cret" not in line or case in {"fit", "json", "show", "all", "markdown"}


@pytest.mark.parametrize("name", FILE_NAMES.values(), ids=FILE_NAMES)
def test_no_command_prints_the_characters_of_a_file_name(run: Run, name: str) -> None:
    Path("in").mkdir()
    Path("in", name).write_text("x\n1\n2\n")
    Path("in", f"{name}.bad").write_text("x,y\n1,2\n3,4,5\n")
    Path("in", f"{name}.damaged").write_bytes(b"PAR1")
    for job in (
        ["fit", "in", "-o", "n.json"],
        ["normalize", "in", "-o", "out/", "--on-error=skip", "--json", "--progress=plain"],
        ["normalize", "in", "-o", "out/", "--on-error=skip", "--resume"],
        ["apply", "s.json", f"in/{name}", "-o", f"{name}.csv"],
        ["apply", f"in/{name}", f"in/{name}", "-o", "o.csv"],
        ["fit", f"in/{name}", "-o", f"in/{name}/n.json"],
        ["fit", f"in/{name}", "-o", f"{name}.json", "--progress=plain"],
        ["fit", f"no{name}", "-o", "n.json", "--json"],
        ["demo", "--save-data", f"{name}.csv"],
        ["show", f"in/{name}"],
    ):
        done = run(*job)
        for line in (*done.lines, *done.out.split("\n")):
            assert line.isprintable()


def test_no_value_of_a_table_reaches_a_terminal(run: Run) -> None:
    for content in ("x,y\n1,\x1b[2J\n", "x,y\n1,2\n1,\x1b[2J,3\n", "x\n" + "1\n" * 9 + "\x1b[2J\n"):
        Path("v.csv").write_text(content)
        for flags in ([], ["--csv-type", "x=double"], ["--csv-type", "y=double"]):
            done = run("fit", "v.csv", "-o", "n.json", *flags)
            assert all(line.isprintable() for line in done.lines)


@pytest.mark.parametrize("form", ["table", "markdown", "json", "csv"])
def test_a_terminal_obeys_nothing(form: str) -> None:
    screen = in_a_terminal("show", "s.json", "--format", form, "--all", NO_COLOR="1")
    assert screen.replace("\r\n", "").isprintable()


def test_a_progress_bar_escapes_file_names() -> None:
    Path("in").mkdir()
    Path("in/\x1b]0;PWNED\x07\x1b[2J.csv").write_text("x\n1\n2\n")
    screen = in_a_terminal("fit", "in", "-o", "n.json", columns=200)
    assert not [control for control in CONTROLS[:3] if control in screen]


def test_a_pipe_of_csv_has_the_names_as_they_are() -> None:
    """A program reads them; a spreadsheet would take the formula for one, in any CSV."""
    done = run_command("show", "s.json", "--format", "csv", text=False)
    rows = csv.DictReader(io.StringIO(done.stdout.decode(), newline=""))
    assert [row["column"] for row in rows] == [*NAMES.values()]


def test_markdown_has_no_markup_of_names(run: Run) -> None:
    done = run("show", "s.json", "--format", "markdown")
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    outside = re.sub(r"(`+)[^`]*\1|<code>[^<]*</code>", "", done.out)
    assert not set(outside) & set("<>[]`")


# --- the library ----------------------------------------------------------------------


def test_representations_print() -> None:
    norm = sbn.load("s.json")
    for one in (norm, norm.freeze(), sbn.load("time.json")):
        assert all(line.isprintable() for line in repr(one).splitlines())
        page = one._repr_html_()
        assert page.isprintable()
        assert "<img" not in page
        assert len(page) < 20_000
    assert (
        html.escape(NAMES["html"])
        in sbn.Normalizer().update(TABLE.select([NAMES["html"]]))._repr_html_()
    )


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_errors_and_logs_print(name: str, caplog: pytest.LogCaptureFixture) -> None:
    x, text = pa.table({name: [1.0]}), pa.table({name: ["\x1b[2J"]})
    bad = pa.table({name: [float("inf")]})
    for act in (
        lambda: sbn.Normalizer(columns=["zz"]).update(x),
        lambda: sbn.Normalizer(columns=[name]).update(text),
        lambda: sbn.Normalizer(weights=name).update(text),
        lambda: sbn.Normalizer(sbn.EMA(halflife="1d", time=name)).update(text),
        lambda: sbn.Normalizer().update(bad),
        lambda: sbn.Normalizer().update(x).transform(text),
        lambda: sbn.Normalizer().update(x).merge(sbn.Normalizer().update(pa.table({"y": [1.0]}))),
        lambda: sbn.Normalizer(affine={name: (1.0, 0.0)}).update(pa.table({"y": [1.0]})),
        lambda: scan([f"no{name}"]),
        lambda: open_reader(Source(f"no{name}")),
        lambda: sbn.load("t.parquet"),
    ):
        with pytest.raises((StreamBNError, OSError)) as error:
            act()
        assert str(error.value).isprintable()
    with caplog.at_level(logging.INFO, "streambn"):
        sbn.Normalizer().update(pa.table({name: ["a"], "x": [1.0]}))
    assert caplog.messages
    assert all(message.isprintable() for message in caplog.messages)


def test_json_keeps_the_names(run: Run) -> None:
    document = json.loads(run("show", "s.json", "--format", "json").out)
    assert [row["column"] for row in document["columns"]] == [*NAMES.values()]
    left_out = {column["column"] for column in document["left_out"]}
    assert left_out == {f"left out.{field.name}" for field in STRUCT}
