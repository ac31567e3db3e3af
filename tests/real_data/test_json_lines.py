"""Newline-delimited JSON through the command: files, compressed files and pipes, in and out."""

from __future__ import annotations

import gzip
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import ENV, TIMEOUT, bad, good, run, says, stats

from streambn.io import json_reader

STREAMBN = f"{shlex.quote(sys.executable)} -m streambn.cli"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def events(rows: int = 500) -> list[dict[str, Any]]:
    """Return events as services log them: keys that come and go, floats that look like integers."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(rows):
        row: dict[str, Any] = {
            "ts": f"2024-05-01T00:{i // 60:02}:{i % 60:02}.25Z",
            "device": f"d{i % 3}",
            "reading": float(rng.normal(20, 3)) if i % 7 else None,
            "level": i if i < rows // 2 else i + 0.5,
            "battery": {"volts": float(rng.normal(3.7, 0.1)), "state": "ok"},
        }
        if i > rows // 2:
            row["late"] = i % 5
        if i % 11 == 0:
            del row["device"]
        found.append(row)
    return found


def write(path: str, rows: list[dict[str, Any]]) -> None:
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    Path(path).write_bytes(gzip.compress(data) if path.endswith(".gz") else data)


def read(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def shell(command: str) -> str:
    """Run a line of a shell."""
    done = subprocess.run(
        ["sh", "-c", command.replace("streambn", STREAMBN)],
        capture_output=True, text=True, check=False, env=ENV, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["blocks", "one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in one block, or in many, of which the first does not show the types."""
    if request.param == "blocks":
        monkeypatch.setattr(json_reader, "_BLOCK", 2000)


COLUMNS = ("reading", "level", "late", "battery.volts")


def oracle(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.json_normalize(rows)[list(COLUMNS)].astype(float)
    return (frame - frame.mean()) / frame.std(ddof=0)


def check(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Compare normalized rows with pandas, and all that is not normalized with the input."""
    assert len(found) == len(rows)
    got = pd.json_normalize(found)[list(COLUMNS)].astype(float)
    pd.testing.assert_frame_equal(got, oracle(rows), rtol=1e-12, atol=1e-12)
    for one, other in zip(found, rows, strict=True):
        assert one["device"] == other.get("device")
        assert one["battery"]["state"] == "ok"
        assert pd.Timestamp(one["ts"]) == pd.Timestamp(other["ts"])


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl.gz", ".log", ".json"])
def test_a_file_is_recognized_by_its_content(suffix: str) -> None:
    rows = events()
    write(f"in{suffix}", rows)
    good("fit", f"in{suffix}", "-o", "stats.json")
    frame = pd.json_normalize(rows)
    found = stats()
    assert set(found) == set(COLUMNS)
    for name in COLUMNS:
        values = frame[name].dropna().astype(float)
        assert found[name]["count"] == len(values)
        assert found[name]["nulls"] == len(rows) - len(values)
        assert found[name]["mean"] == pytest.approx(values.mean(), rel=1e-14)
        assert found[name]["var"] == pytest.approx(values.var(ddof=0), rel=1e-13)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("out", ["out.ndjson", "out.jsonl.gz", "out.parquet", "out.arrows", "dir/"])
def test_apply_and_back(out: str) -> None:
    rows = events()
    write("in.ndjson", rows)
    good("normalize", "in.ndjson", "-o", out, "--save", "stats.json", "--quiet")
    path = Path("dir/in.ndjson" if out == "dir/" else out)
    found = path.read_bytes()
    if "json" in path.name:
        check(read(gzip.decompress(found) if path.suffix == ".gz" else found), rows)
    else:
        check(read(good("apply", "stats.json", "in.ndjson", "-o", "-", "--format", "ndjson",
                        text=True).stdout), rows)  # fmt: skip
    good("apply", "stats.json", "in.ndjson", "-o", "again.ndjson", "--verify", "--quiet")
    good("apply", "stats.json", path, "-o", "back.ndjson", "--inverse", "--verify", "--quiet")
    for one, other in zip(read(Path("back.ndjson").read_text()), rows, strict=True):
        assert one["level"] == pytest.approx(other["level"], rel=1e-12, abs=1e-9)
        assert one["reading"] == (other["reading"] and pytest.approx(other["reading"], rel=1e-12))


def test_pipes_of_a_shell() -> None:
    rows = events()
    write("in.ndjson", rows)
    write("in.ndjson.gz", rows)
    shell("streambn fit in.ndjson -o whole.json -q")
    shell("cat in.ndjson | streambn fit - -o piped.json -q")
    shell("zcat < in.ndjson.gz | streambn fit - -o unzipped.json -q")
    for path in ("piped.json", "unzipped.json"):
        assert stats(path) == stats("whole.json")
    out = shell("cat in.ndjson | streambn apply whole.json - -o - -q --format ndjson")
    check(read(out), rows)
    out = shell(
        "cat in.ndjson | streambn apply whole.json - -o - -q | "
        "streambn apply whole.json - -o - -q --inverse --format ndjson"
    )
    levels = [row["level"] for row in read(out)]
    np.testing.assert_allclose(levels, [row["level"] for row in rows], rtol=1e-12, atol=1e-9)


def test_a_pipe_says_which_type_to_give() -> None:
    rows = [{"x": i, "pad": "p" * 5000} for i in range(600)]  # more than a block
    text = "".join(f"{json.dumps(row)}\n" for row in [*rows, {"x": 2.5}, {"x": 3, "y": 1}])
    done = run("fit", "-", "-o", "s.json", input=text)
    assert done.returncode == 1
    says(done.stderr, "standard input, line 601: column 'x': 2.5", "--csv-type x=double")
    done = run("fit", "-", "-o", "s.json", "--csv-type", "x=double", input=text)
    says(done.stderr, "line 602: column 'y' occurs here for the first time", "--csv-type y=double")
    types = ["--csv-type", "x=double", "--csv-type", "y=double"]
    done = run("fit", "-", "-o", "s.json", *types, input=text)
    assert done.returncode == 0, done.stderr
    Path("in.ndjson").write_text(text)
    good("fit", "in.ndjson", "-o", "whole.json")
    assert stats("s.json") == stats("whole.json")
    assert stats("s.json")["x"]["count"] == 602


def test_event_times_are_text_in_iso_8601() -> None:
    rows = events()
    write("in.ndjson", rows)
    good("fit", "in.ndjson", "-o", "s.json", "--policy", "ema", "--halflife", "60s", "--time", "ts",
         "--columns", "reading")  # fmt: skip
    frame = pd.DataFrame(rows).dropna(subset="reading")
    expected = frame["reading"].ewm(halflife="60s", times=pd.to_datetime(frame["ts"])).mean()
    assert stats("s.json")["reading"]["mean"] == pytest.approx(expected.iloc[-1], rel=1e-12)


@pytest.mark.usefixtures("_blocks")
def test_a_broken_line_is_named_and_the_rest_skipped() -> None:
    rows = events(100)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    Path("in.ndjson").write_text(text + '{"reading": 3\n' + text)
    message = bad(1, "fit", "in.ndjson", "-o", "s.json")
    says(message, "in.ndjson, line 101: not a JSON object", "jq -c .")
    done = good("fit", "in.ndjson", "-o", "s.json", "--on-error", "skip", "--json")
    assert stats("s.json")["level"]["count"] == 100
    (skipped,) = json.loads(done.stdout)["skipped"]
    assert (skipped["file"], skipped["where"]) == ("in.ndjson", "after row 100")
    assert "on-error" not in skipped["why"]


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("out", ["joined.ndjson", "joined.parquet"])
def test_lines_and_other_formats_in_one_output(out: str) -> None:
    rows = events()
    write("a.ndjson", rows[:400])
    rest = pa.Table.from_pylist([row | {"ts": None} for row in rows[400:]])
    pq.write_table(rest, "b.parquet")
    good("fit", "a.ndjson", "-o", "s.json", "--quiet")
    good("apply", "s.json", "a.ndjson", "b.parquet", "-o", out, "--quiet")
    if out.endswith("ndjson"):
        levels = [row["level"] for row in read(Path(out).read_text())]
    else:
        levels = pq.read_table(out)["level"].to_pylist()
    first = np.array([row["level"] for row in rows[:400]])
    expected = (np.array([row["level"] for row in rows]) - first.mean()) / first.std()
    np.testing.assert_allclose(levels, expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_newline_delimited_is_refused_with_the_remedy() -> None:
    Path("array.json").write_text(json.dumps(events(3)))
    says(bad(1, "fit", "array.json", "-o", "s.json"), "a JSON array", "jq -c '.[]'")
    Path("pretty.json").write_text(json.dumps(events(1)[0], indent=2))
    says(bad(1, "fit", "pretty.json", "-o", "s.json"), "pretty.json, line 1", "jq -c .")
    Path("mixed.jsonl").write_text('{"x": 1}\n{"x": "N/A"}\n')
    says(bad(1, "fit", "mixed.jsonl", "-o", "s.json"), "mixed.jsonl, line 2: column 'x': \"N/A\"",
         "write null")  # fmt: skip


def test_numbers_in_quotes_are_read_on_request() -> None:
    rows = [{"x": 1, "price": "1.10"}, {"x": 3, "price": None}, {"x": 5, "price": "-2.3"}]
    write("in.ndjson", rows)
    message = bad(3, "fit", "in.ndjson", "-o", "s.json", "--columns", "price")
    says(message, "in.ndjson: column 'price'", "--csv-type price=double")
    good("fit", "in.ndjson", "-o", "s.json", "--csv-type", "price=double")
    assert stats("s.json")["price"]["mean"] == pytest.approx(-0.6, rel=1e-15)


def test_statistics_are_no_data() -> None:
    write("in.ndjson", events(9))
    good("fit", "in.ndjson", "-o", "s.json")
    says(bad(1, "fit", "s.json", "-o", "t.json"), "s.json: a file of statistics")


@pytest.mark.usefixtures("_blocks")
def test_a_job_over_lines_resumes() -> None:
    rows = events()
    Path("in").mkdir()
    write("in/a.ndjson", rows)
    write("in/b.jsonl.gz", rows)
    first = good("normalize", "in", "-o", "out", "--json", "--quiet")
    again = good("normalize", "in", "-o", "out", "--resume", "--json", "--quiet")
    assert json.loads(first.stdout)["fingerprint"] == json.loads(again.stdout)["fingerprint"]
    one, other = Path("out/a.ndjson").read_bytes(), Path("out/b.jsonl.gz").read_bytes()
    assert one == gzip.decompress(other)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    fit = ["fit", "-", "--checkpoint", "c.json", "--resume", "-q"]
    for _ in range(2):
        done = run(*fit, input=text)
        assert done.returncode == 0, done.stderr
    assert stats("c.json")["level"]["count"] == 2 * len(rows)


def test_formats_of_outputs() -> None:
    write("in.ndjson", events(9))
    good("fit", "in.ndjson", "-o", "s.json")
    good("apply", "s.json", "in.ndjson", "-o", "data.json", "--format", "ndjson", "--quiet")
    assert len(read(Path("data.json").read_text())) == 9
    says(bad(2, "apply", "s.json", "in.ndjson", "-o", "data2.json"), ".ndjson", ".jsonl")
    says(
        bad(2, "apply", "s.json", "in.ndjson", "-o", "o/", "--format", "csv"), "--format", "folder"
    )
    says(bad(2, "apply", "s.json", "in.ndjson", "-o", "o.parquet.gz"), "--compression")
    says(
        bad(2, "apply", "s.json", "in.ndjson", "-o", "-", "--format", "parquet"),
        "--format",
        "stream",
    )


def test_lines_without_a_number_left_and_a_nan() -> None:
    table = pa.table({"x": [1.0, math.nan, math.inf, 3.0], "b": [b"\x00", b"", None, b"x"]})
    pq.write_table(table.select(["x"]), "in.parquet")
    pq.write_table(table, "bytes.parquet")
    good("fit", "in.parquet", "-o", "s.json", "--inf", "ignore")
    for flags, lines in (([], 2), (["--quiet"], 0)):
        done = good(
            "apply", "s.json", "in.parquet", "-o", "out.ndjson", "--verify", *flags, text=True
        )
        assert len(done.stderr.splitlines()) == lines
        assert ("2 NaN or infinite values as null" in done.stderr) == (lines > 0)
    assert [row["x"] for row in read(Path("out.ndjson").read_text())] == [-1.0, None, None, 1.0]
    message = bad(1, "apply", "s.json", "bytes.parquet", "-o", "out2.ndjson")
    says(
        message,
        "out2.ndjson: cannot be written as newline-delimited JSON",
        "'b' is binary",
        ".parquet",
    )
