"""CSV as it lies about: other separators, missing values, encodings and headers.

Each case is read right by itself or with its options, and what needs an option is refused with
that option. The right values are written out by hand.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import run as run_command

import streambn as sbn
from streambn import StreamBNError
from streambn.io import CsvOptions, Source, csv_reader, number_hint, open_reader

Run = Callable[..., Any]
Columns = dict[str, list[Any]]

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")


class Case(NamedTuple):
    """A file, the options of the shell, and its columns; or the options that a refusal names."""

    text: str | bytes
    flags: tuple[str, ...] = ()
    columns: Columns | None = None
    refused: tuple[str, ...] = ()


EU = "station;temp;wind\nA;12,5;3,1\nB;13,5;2,9\n"
CASES = {
    "semicolon": Case("s;t\nA;12.5\nB;13.5\n", (), {"s": ["A", "B"], "t": [12.5, 13.5]}),
    "tab": Case("s\tt\nA\t12.5\nB, C\t13.5\n", (), {"s": ["A", "B, C"], "t": [12.5, 13.5]}),
    "bar": Case("s|t\nA|12.5\nB|13.5\n", (), {"s": ["A", "B"], "t": [12.5, 13.5]}),
    "given delimiter": Case("s:t\nA:1\n", ("--delimiter", ":"), {"s": ["A"], "t": [1]}),
    "named delimiter": Case("s\tt,u\nA\t1\n", ("--delimiter", "tab"), {"s": ["A"], "t,u": [1]}),
    "spaces": Case("a b\n1 2\n3 4\n", refused=("--delimiter ' '",)),
    "decimal comma": Case(
        EU, ("--decimal", ","), {"station": ["A", "B"], "temp": [12.5, 13.5], "wind": [3.1, 2.9]}
    ),
    "decimal comma and points": Case(
        "a;b\n1.234,5;1\n2.000,25;2\n",
        ("--decimal", ",", "--thousands", "."),
        {"a": [1234.5, 2000.25], "b": [1, 2]},
    ),
    "decimal comma without the option": Case(EU, refused=("'temp'", "'12,5'", "--decimal ,")),
    "a named column of text": Case(
        'Id,B\n1,"2,288"\n', ("--columns", "B"), refused=("'B'", "row 1", "--thousands ,")
    ),
    "a late value of text": Case(
        "x,y\n" + "1.5,2\n" * 400_000 + "N.A,3\n",
        ("--columns", "x"),
        refused=("'x'", "row 400,001", "--null-values N.A"),
    ),
    "thousands": Case(
        'Id,B\n1,"2,288"\n2,"1,047"\n3,194\n',
        ("--thousands", ","),
        {"Id": [1, 2, 3], "B": [2288, 1047, 194]},
    ),
    "thousands with a type": Case(
        'Id,B\n1,"2,288"\n2,"-1,047.5"\n3,\n',
        ("--thousands", ",", "--csv-type", "B=double"),
        {"Id": [1, 2, 3], "B": [2288.0, -1047.5, None]},
    ),
    "no thousands": Case(
        'Id,B\n1,"2,288"\n2,"1,47"\n', ("--thousands", ","), {"Id": [1, 2], "B": ["2,288", "1,47"]}
    ),
    "thousands without the option": Case(
        'Id,B\n1,"2,288"\n', ("--csv-type", "B=double"), refused=("'B'", "row 1", "--thousands ,")
    ),
    "missing values": Case(
        "x,y\n1.5,-\n.,2\n3.5,?\n",
        ("--null-values", "-,.", "--null-values", "?"),
        {"x": [1.5, None, 3.5], "y": [None, 2, None]},
    ),
    "a missing value without the option": Case(
        "x\n1.5\n-\n",
        ("--csv-type", "x=double"),
        refused=("'x'", "row 2", "'-'", "--null-values -"),
    ),
    "no header": Case("1.5,2\n3.5,4\n", refused=("--no-header", "--header", "1.5")),
    "no header, as told": Case(
        "1.5,2\n3.5,4\n", ("--no-header",), {"f0": [1.5, 3.5], "f1": [2, 4]}
    ),
    "no header, with a name": Case("A,12,5\nB,13,6\n", refused=("--no-header",)),
    "numbers as names": Case("0,1\n5,6\n", ("--header",), {"0": [5], "1": [6]}),
    "years as names": Case(
        "name,1960,1961\nA,1.5,2\n", (), {"name": ["A"], "1960": [1.5], "1961": [2]}
    ),
    "comments": Case("# made by hand\n#\n\na,b\n1,2\n", (), {"a": [1], "b": [2]}),
    "a commented header": Case("# made by hand\n#a,b\n1,2\n", (), {"#a": [1], "b": [2]}),
    "skipped lines": Case(
        "Table 3\nof the annex\na,b\n1,2\n", ("--skip-lines", "2"), {"a": [1], "b": [2]}
    ),
    "a preamble": Case("Table 3\na,b\n1,2\n3,4\n", refused=("--skip-lines 1",)),
    "latin-1": Case(
        "température,ville\n20,Orléans\n".encode("latin-1"),
        ("--encoding", "latin-1"),
        {"température": [20], "ville": ["Orléans"]},
    ),
    "latin-1 without the option": Case(
        "température\n20\n".encode("latin-1"), refused=("--encoding",)
    ),
    "utf-16": Case("a,é\n1,2\n".encode("utf-16"), (), {"a": [1], "é": [2]}),
    "byte order mark": Case("\ufeffa,b\r\n1,2\r\n".encode(), (), {"a": [1], "b": [2]}),
    "quotes": Case('a,"b,\nc"\n1,"x\ny, z"\n', (), {"a": [1], "b,\nc": ["x\ny, z"]}),
    "equal names": Case(
        "x,x,,x.1,\n1,2,3,4,5\n", (), {"x": [1], "x.2": [2], "": [3], "x.1": [4], ".1": [5]}
    ),
    "a short row": Case("a,b\n1,2\n3\n", refused=("line 3", "1 value", "the header 2", "'3'")),
    "a long row": Case("a\n1,5\n2,5\n", refused=("line 2", "2 values", "--decimal ,")),
    "two separators alike": Case(
        "a;b\n1;2\n", ("--decimal", ",", "--thousands", ","), refused=("--thousands", "decimal")
    ),
    "an unknown encoding": Case("a\n1\n", ("--encoding", "klingon"), refused=("--encoding",)),
}


def only(*, refused: bool) -> Any:
    cases = {name: case for name, case in CASES.items() if bool(case.refused) == refused}
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def write(path: str, case: Case) -> Path:
    text = case.text.encode() if isinstance(case.text, str) else case.text
    Path(path).write_bytes(gzip.compress(text) if path.endswith(".gz") else text)
    return Path(path)


@only(refused=False)
def test_a_file_has_the_right_statistics(case: Case, run: Run) -> None:
    write("t.csv", case)
    done = run("fit", "t.csv", "-o", "s.json", *case.flags)
    assert done.code == 0, done.lines
    assert_statistics("s.json", case.columns)


def assert_statistics(path: str, columns: Columns | None) -> None:
    stats = {row["column"]: row for row in sbn.load(path).stats().to_pylist()}
    for column, values in (columns or {}).items():
        numbers = [value for value in values if isinstance(value, int | float)]
        assert (column in stats) == bool(numbers)
        if numbers:
            assert stats[column]["count"] == len(numbers)
            assert stats[column]["nulls"] == len(values) - len(numbers)
            assert stats[column]["mean"] == pytest.approx(sum(numbers) / len(numbers))


@only(refused=True)
def test_a_refusal_names_the_option(case: Case, run: Run) -> None:
    write("t.csv", case)
    done = run("fit", "t.csv", "-o", "s.json", *case.flags)
    assert done.code in (1, 2, 3)
    assert not Path("s.json").exists()
    (line,) = done.lines
    for part in case.refused:
        assert part in line
    assert "damaged" not in line
    assert "#0" not in line


@only(refused=False)
def test_a_compressed_pipe_carries_the_same(case: Case, run: Run) -> None:
    os.mkfifo("pipe")
    content = write("t.csv.gz", case).read_bytes()
    producer = threading.Thread(target=Path("pipe").write_bytes, args=(content,))
    producer.start()
    done = run("fit", "pipe", "-o", "s.json", *case.flags)
    producer.join()
    assert done.code == 0, done.lines
    assert_statistics("s.json", case.columns)


def test_standard_input_may_be_csv() -> None:
    for content in (b"a,b\n1,2\n3,4\n", gzip.compress(b"a,b\n1,2\n3,4\n")):
        done = run_command("fit", "-", "-o", "s.json", input=content, text=False)
        assert done.returncode == 0, done.stderr
        assert_statistics("s.json", {"a": [1, 3], "b": [2, 4]})


def test_every_job_takes_the_options(run: Run) -> None:
    Path("eu.csv").write_text(EU)
    flags = ("--decimal", ",")
    assert run("normalize", "eu.csv", "-o", "out.csv", "--save", "s.json", *flags).code == 0
    assert Path("out.csv").read_text() == '"station","temp","wind"\nA,-1.0,1.0\nB,1.0,-1.0\n'
    assert run("apply", "s.json", "eu.csv", "-o", "out.csv", "--verify", *flags).code == 0
    # Its own output needs no options.
    assert run("apply", "s.json", "out.csv", "-o", "back.parquet", "--inverse").code == 0
    assert pq.read_table("back.parquet")["temp"].to_pylist() == [12.5, 13.5]
    piped = run_command("apply", "s.json", "eu.csv", "-o", "-", *flags, text=False)
    assert pa.ipc.open_stream(piped.stdout).read_all()["temp"].to_pylist() == [-1.0, 1.0]


@pytest.mark.parametrize("flags", [("--decimal", ","), ("--null-values", "-"), ("--header",)])
def test_a_checkpoint_of_other_options_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK", 300)
    Path("t.csv").write_text("a;b\n" + "1;2\n" * 1000 + "inf;0\n")
    fit = ("fit", "t.csv", "-o", "s.json", "--checkpoint-every", "100")
    assert run(*fit).code == 1  # at the infinite value
    assert "other options" in run(*fit, "--resume", *flags).lines[0]
    assert "other options" not in run(*fit, "--resume").lines[0]


# --- types ----------------------------------------------------------------------------

LATER = {
    "floats": ("1", "2.5", pa.float64()),
    "text": ("1", "x", pa.string()),
    "text after floats": ("1.5", "x", pa.string()),
    "after nothing": ("", "2.5", pa.float64()),
    "timestamps": ("2026-01-01", "2026-01-01 12:00:00", pa.timestamp("s")),
    "thousands": ("1", '"1,234"', pa.int64()),
}


def later_file(first: str, later: str, rows: int = 200) -> str:
    return "v,w\n" + f"{first},1.5\n" * rows + f"{later},2.5\n" * rows


@pytest.mark.parametrize(("first", "later", "kind"), LATER.values(), ids=LATER)
def test_a_type_is_as_if_it_had_been_known_from_the_start(
    run: Run, monkeypatch: pytest.MonkeyPatch, first: str, later: str, kind: pa.DataType
) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK", 500)
    Path("t.csv").write_text(later_file(first, later))
    flags = ("--thousands", ",") if "," in later else ()
    known = ("--csv-type", f"v={'string' if kind == pa.string() else kind}")
    assert run("fit", "t.csv", "-o", "known.json", *flags, *known).code == 0
    assert run("fit", "t.csv", "-o", "found.json", *flags).code == 0
    assert Path("found.json").read_bytes() == Path("known.json").read_bytes()
    for out in ("out.csv", "out.parquet", "folder/"):
        for name, given in (("found", ()), ("known", known)):
            target = out.replace("o", f"{name}-o", 1)
            done = run("apply", "found.json", "t.csv", "-o", target, "--verify", *flags, *given)
            assert done.code == 0, done.lines
            assert "400 rows" in done.lines[0]
    assert Path("found-out.csv").read_bytes() == Path("known-out.csv").read_bytes()
    found, known_table = pq.read_table("found-out.parquet"), pq.read_table("known-out.parquet")
    if pa.types.is_temporal(kind):  # without the option, the forms of both stay as they are
        assert found["v"].to_pylist() == [first] * 200 + [later] * 200
        found, known_table = found.drop_columns("v"), known_table.drop_columns("v")
    assert found.equals(known_table)
    normal = run("normalize", "t.csv", "-o", "n.csv", "--threads", 2, *flags)
    assert normal.code == 0, normal.lines
    assert Path("n.csv").read_bytes() == Path("known-out.csv").read_bytes()
    assert run("normalize", "t.csv", "-o", "online.csv", "--online", *flags).code == 0


def test_several_files_are_settled_one_by_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK", 500)
    Path("in").mkdir()
    for index in range(4):
        Path(f"in/{index}.csv").write_text(later_file("1", "2" if index % 2 else "2.5"))
    done = run("fit", "in", "-o", "s.json", "--json", "--quiet")
    assert done.code == 0, done.lines
    report = json.loads(done.out)
    assert (report["rows"], report["files"], report["resumed"]) == (1600, 4, False)
    assert sbn.load("s.json").stats()["count"].to_pylist() == [1600, 1600]
    done = run("apply", "s.json", "in", "-o", "out.csv", "--verify", "--json", "--quiet")
    assert json.loads(done.out)["rows"] == 1600


def test_a_fit_that_stopped_knows_the_types(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK", 500)
    Path("t.csv").write_text(later_file("1", "2.5") + "inf,0\n")
    fit = ("fit", "t.csv", "-o", "s.json", "--checkpoint-every", "50")
    assert run(*fit).code == 1  # at the infinite value
    settled: list[Any] = []
    monkeypatch.setattr(csv_reader, "infer_types", lambda *given: settled.append(given) or {})
    assert "inf" in run(*fit, "--resume").lines[0]
    assert not settled


def test_a_pipe_names_the_type_to_give() -> None:
    text = later_file("1", "2.5", 400_000)
    done = run_command("fit", "-", "-o", "s.json", input=text)
    assert done.returncode == 1
    assert "column 'v'" in done.stderr
    assert "'2.5'" in done.stderr
    assert "--csv-type v=double" in done.stderr
    done = run_command("fit", "-", "-o", "s.json", "--csv-type", "v=double", input=text)
    assert done.returncode == 0


def test_applied_statistics_name_the_value_that_is_no_number(run: Run) -> None:
    sbn.Normalizer().update(pa.table({"v": [1.0, 3.0]})).save("s.json")
    Path("good.csv").write_text("v,w\n1,2\n")
    Path("late.csv").write_text("v,w\n" + "1.5,2\n" * 400_000 + "N.A,3\n")
    for inputs in (["late.csv"], ["good.csv", "late.csv"]):
        done = run("apply", "s.json", *inputs, "-o", "out.csv")
        assert done.code == 3
        assert "column 'v'" in done.lines[0]
        assert "--null-values N.A (row 400,001 is 'N.A')" in done.lines[0]
        assert not Path("out.csv").exists()
    done = run("apply", "s.json", "late.csv", "-o", "out.csv", "--null-values", "N.A")
    assert done.code == 0, done.lines


def test_a_reader_in_python_names_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK", 500)
    path = tmp_path / "t.csv"
    path.write_text(later_file("1", "2.5"))
    with pytest.raises(StreamBNError, match=r"column 'v', after row .*'2.5'.*--csv-type v=double"):
        open_reader(Source(str(path))).read_all()
    types = CsvOptions({"v": pa.float64()})
    assert open_reader(Source(str(path)), csv=types).read_all().num_rows == 400


def test_whole_floats_are_floats_again(run: Run) -> None:
    table = pa.table(
        {"x": [0.0, -0.0, 5.0, None, 1e20, 2.0**60], "s": ["a", 'b"', "", "c", "", "d"]}
    )
    pq.write_table(table, "t.parquet")
    sbn.Normalizer(columns=["y"]).update(pa.table({"y": [1.0, 3.0]})).save("y.json")
    pq.write_table(table.append_column("y", [[1.0] * 6]), "t.parquet")
    assert run("apply", "y.json", "t.parquet", "-o", "out.csv", "--verify").code == 0
    back = open_reader(Source("out.csv")).read_all()
    assert back.select(["x", "s"]).equals(table)
    assert back["y"].to_pylist() == [-1.0] * 6


# --- hints ----------------------------------------------------------------------------

HINTS = [
    (["2,288", "1,047", "194"], 1.0, "--thousands ,"),
    (["12,5", "13,5"], 1.0, "--decimal ,"),
    (["1.234,5", "2.000,25"], 1.0, "--decimal , --thousands ."),
    (["1.5", "-", "2.5", None, ""], 2 / 3, "--null-values -"),
    (["1 234", "5"], 1.0, "--thousands ' '"),
    (["a", "b"], None, None),
    (["1", "a", "b", "c", "d"], None, None),
    ([], None, None),
]


@pytest.mark.parametrize(("values", "share", "options"), HINTS)
def test_a_hint(values: list[str | None], share: float | None, options: str | None) -> None:
    hint = number_hint(values, CsvOptions())
    assert (hint and hint.share, hint and hint.options) == (share and pytest.approx(share), options)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_pipe_of_many_blocks_is_normalized_online_as_the_file(run: Run, encoding: str) -> None:
    rows = [f'0{i},"{i % 7},{i % 1000:03}","a\nb{i}"\n' for i in range(100_000)]
    Path("t.csv").write_text("id,x,t\n" + "".join(rows), encoding=encoding)
    flags = ("--online", "--thousands", ",", "--encoding", encoding, "-o")
    assert run("normalize", "t.csv", *flags, "file.csv").code == 0
    content = Path("t.csv").read_bytes()
    done = run_command("normalize", "-", *flags, "pipe.csv", input=content, text=False)
    assert done.returncode == 0, done.stderr
    assert Path("pipe.csv").read_bytes() == Path("file.csv").read_bytes()
