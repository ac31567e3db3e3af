"""Columns of CSV that a job passes through: no command, dialect or format changes what they say."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good
from csv_text import CsvFile, csv_files
from hypothesis import HealthCheck, assume, given, settings

import streambn as sbn
from streambn.io import csv_passthrough, csv_writer

Run = Callable[..., Any]

# Three identifiers that are one float, codes with zeros in front, and missing values.
ROWS = [
    ["zip", "id", "price", "code", "when", "ok", "cost", "w"],
    ["01234", "12345678901234567890", "1.5", "0x1F", "2024-01-05T00:00", "TRUE", "1.50", "1.0"],
    ["00501", "12345678901234567891", "2.5", "+5", "2024-01-06T00:00", "FALSE", "22.25", "02"],
    ["99,999", "12345678901234567892", "NA", "1e5", "", "NA", "-", "1e0"],
    ['say "x"', "12345678901234567892", "3.5", " 7", "2024-01-07T00:00", "TRUE", "3.00", "1"],
]
PRICE = ROWS[0].index("price")


def write(path: str, rows: list[list[str]] = ROWS, **dialect: Any) -> None:
    with open(path, "w", newline="", encoding=dialect.pop("encoding", None)) as file:
        csv.writer(file, **dialect).writerows(rows)


def cells(text: str) -> list[list[str]]:
    """Return the rows of a CSV file as Python reads them."""
    return list(csv.reader(io.StringIO(text, newline="")))


def passed(text: str) -> list[list[str]]:
    """Return the cells that are not normalized."""
    return [row[:PRICE] + row[PRICE + 1 :] for row in cells(text)]


@pytest.fixture(autouse=True)
def _folder(jobs_in_a_folder: None) -> None:
    write("in.csv")
    sbn.Normalizer().update(pa.table({"price": [1.5, 2.5, 3.5]})).save("stats.json")


APPLY = ["apply", "stats.json"]
NORMALIZE = ["normalize", "--columns", "price"]
COMMANDS = {
    "apply": APPLY,
    "inverse": [*APPLY, "--inverse"],
    "verify": [*APPLY, "--verify"],
    "normalize": NORMALIZE,
    "weights": [*NORMALIZE, "--weights", "w"],
    "online": [*NORMALIZE, "--online"],
    "online weights": [*NORMALIZE, "--online", "--weights", "w"],
    "declared": [*APPLY, "--csv-type", "zip=string", "--csv-type", "id=double"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("out", ["out.csv", "out.csv.gz", "out/"])
def test_csv_goes_out_as_it_came(run: Run, command: list[str], out: str) -> None:
    done = run(*command, "in.csv", "-o", out, "-q")
    assert (done.code, done.lines) == (0, [])
    path = Path(out, "in.csv") if out == "out/" else Path(out)
    content = path.read_bytes()
    text = (gzip.decompress(content) if out.endswith("gz") else content).decode()
    assert passed(text) == passed(Path("in.csv").read_text())


@pytest.mark.parametrize("command", [APPLY, [*NORMALIZE, "--online"]])
def test_a_pipe_goes_out_as_it_came(command: list[str]) -> None:
    text = Path("in.csv").read_text()
    done = good(*command, "-", "-o", "-", "--format", "csv", input=text)
    assert passed(done.stdout) == passed(text)


def test_event_times_go_out_as_they_came(run: Run) -> None:
    rows = [row for row in ROWS if row[4]]
    for more in ([], ["--online"]):
        write("in.csv", rows)
        policy = ["--policy", "ema", "--halflife", "1d", "--time", "when"]
        done = run(*NORMALIZE, *policy, *more, "in.csv", "-o", "out.csv", "-q")
        assert (done.code, done.lines) == (0, [])
        assert passed(Path("out.csv").read_text()) == passed(Path("in.csv").read_text())


def test_the_keys_of_folders_go_out_as_they_are(run: Run) -> None:
    for month in ("01", "02"):
        Path(f"data/month={month}").mkdir(parents=True)
        write(f"data/month={month}/a.csv")
    done = run(*APPLY, "data", "-o", "out.csv", "-q", "--verify")
    assert (done.code, done.lines) == (0, [])
    rows = cells(Path("out.csv").read_text())
    assert [row[-1] for row in rows] == ["month", *["01"] * 4, *["02"] * 4]


@settings(
    parent=settings.get_profile("few"), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(file=csv_files())
def test_any_dialect_goes_out_as_it_came(run: Run, file: CsvFile) -> None:
    # Other control characters are not text.
    assume(all(c >= " " or c in "\t\n\r" for row in file.rows for cell in row for c in cell))
    Path("odd.csv").write_bytes(file.content)
    column = file.header[0]
    sbn.Normalizer().update(pa.table({column: [1.5, 2.5]})).save("odd.json")
    given = file.options
    options = ["--delimiter", given.delimiter, "--decimal", given.decimal]
    options += ["--encoding", given.encoding, "--header" if given.header else "--no-header"]
    options += ["--null-values", ",".join(given.null_values)] if given.null_values else []
    done = run("apply", "odd.json", "odd.csv", "-o", "odd.out.csv", "-q", "--verify", *options)
    assert (done.code, done.lines) == (0, [])
    rows = cells(Path("odd.out.csv").read_bytes().decode())
    assert [row[1:] for row in rows] == [row[1:] for row in [file.header, *file.rows]]


def test_text_that_is_not_in_the_encoding_goes_out_as_it_came(run: Run) -> None:
    Path("in.csv").write_bytes(b"price,name\n1.5,caf\xe9\n2.5,\xff\xfe\n")
    assert run(*APPLY, "in.csv", "-o", "out.csv", "-q", "--verify").code == 0
    assert Path("out.csv").read_bytes().splitlines()[1:] == [
        b"-1.224744871391589,caf\xe9",
        b"0.0,\xff\xfe",
    ]


# --- formats with types -----------------------------------------------------------------

TYPES = {
    "zip": "string",
    "id": "string",
    "price": "double",
    "code": "string",
    "when": "timestamp[ms]",
    "ok": "bool",
    "cost": "double",
    "w": "string",
}


@pytest.mark.parametrize("command", [COMMANDS[name] for name in ("verify", "normalize", "online")])
def test_types_lose_nothing(run: Run, command: list[str]) -> None:
    done = run(*command, "in.csv", "-o", "out.parquet", "--null-values", "-")
    assert done.code == 0
    [said] = [line for line in done.lines if "kept as text" in line]
    # "99,999" and 'say "x"' look like nothing else, so that nobody expects a number of them.
    assert "id ('12345678901234567890')" in said
    assert "zip" not in said
    table = pq.read_table("out.parquet")
    assert {field.name: str(field.type) for field in table.schema} == TYPES
    given = dict(zip(ROWS[0], zip(*ROWS[1:], strict=True), strict=True))
    for name in ("zip", "id", "code", "w"):
        assert tuple(table[name].to_pylist()) == given[name]
    assert table["cost"].to_pylist() == [1.5, 22.25, None, 3.0]


def test_a_late_value_decides_the_type(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streambn.io.csv_reader._BLOCK", 200)
    rows = [["price", "id"], *([f"{i}.5", str(1000 + i)] for i in range(100)), ["1.5", "007"]]
    write("in.csv", rows)
    for command in ([*APPLY, "--verify"], NORMALIZE, [*NORMALIZE, "--online"]):
        done = run(*command, "in.csv", "-o", "out.parquet")
        assert done.code == 0, done.lines
        assert pq.read_table("out.parquet")["id"].to_pylist() == [row[1] for row in rows[1:]]


def test_files_that_are_joined_keep_one_text(run: Run) -> None:
    write("a.csv", [["price", "zip", "n"], ["1", "123", "1"]])
    write("b.csv", [["price", "zip", "n"], ["2", "0456", "2.5"]])
    done = run(*APPLY, "a.csv", "b.csv", "-o", "out.parquet", "--verify")
    assert done.code == 0, done.lines
    assert "kept as text, which loses nothing: zip" in done.lines[-1]
    table = pq.read_table("out.parquet")
    assert table["zip"].to_pylist() == ["123", "0456"]
    assert table["n"].to_pylist() == [1.0, 2.5]


def test_a_pipe_names_the_value_that_its_type_would_change() -> None:
    rows = [f"{i}.5,{1000 + i}\n" for i in range(150_000)]
    text = "".join(["price,id\n", *rows, "1.5,007\n"])
    said = bad(1, *APPLY, "-", "-o", "out.parquet", input=text)
    assert "column 'id'" in said
    assert "'007' does not fit int64" in said
    assert said.endswith("Give --csv-type id=string")


# --- --verify ---------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["out.csv", "out/"])
def test_verify_finds_a_changed_text(run: Run, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    write_batch = csv_writer.CsvWriter.write_batch

    def change(self: Any, batch: pa.RecordBatch) -> None:
        code = batch["code"].to_pylist()
        code[1] = b"5"
        write_batch(self, batch.set_column(3, "code", pa.array(code, pa.binary())))

    monkeypatch.setattr(csv_writer.CsvWriter, "write_batch", change)
    done = run(*APPLY, "in.csv", "-o", out, "--verify")
    path = Path("out/in.csv") if out == "out/" else Path("out.csv")
    assert done.code == 1
    assert done.lines == [
        f"streambn: {path}: column 'code', row 2: expected b'+5', found b'5'",
    ]
    assert not path.exists()


@pytest.mark.parametrize("out", ["out.parquet", "out.arrow", "out.ndjson"])
def test_verify_finds_a_type_that_loses_text(
    run: Run, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    columns = csv_passthrough.Passthrough.columns

    def without_id(self: Any, *args: Any) -> list[str]:  # so that Arrow guesses its type
        return [c for c in columns(self, *args) if self.keeps_text or c != "id"]

    monkeypatch.setattr(csv_passthrough.Passthrough, "columns", without_id)
    done = run(*APPLY, "in.csv", "-o", out, "--verify")
    assert done.code == 1
    assert done.lines == [
        f"streambn: {out}: column 'id', row 1: double does not keep the text '12345678901234567890'"
    ]
    assert not Path(out).exists()


# --- newline-delimited JSON ---------------------------------------------------------------


@pytest.mark.parametrize("command", [COMMANDS[name] for name in ("verify", "normalize", "online")])
@pytest.mark.parametrize("out", ["out.ndjson", "out/"])
def test_json_goes_out_as_it_came(run: Run, command: list[str], out: str) -> None:
    rest = '"id":12345678901234567890123,"n":1.0,"day":"2024-01-05T00:00","s":{"a": [1, 2.50]}}'
    lines = [f'{{"price":{price},{rest}' for price in ("1.5", "2.5", "3.5")]
    Path("in.ndjson").write_text("\n".join(lines))
    done = run(*command, "in.ndjson", "-o", out, "-q")
    assert (done.code, done.lines) == (0, [])
    path = Path("out/in.ndjson") if out == "out/" else Path(out)
    assert [line.partition(",")[2] for line in path.read_text().splitlines()] == [rest] * 3
