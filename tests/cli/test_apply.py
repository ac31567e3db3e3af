"""`streambn apply` and `streambn normalize`: what they write, and where."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from cli_process import CO2, bad, good, ipc, run, says, stats, tree

import streambn as sbn
from streambn.io.sources import Source, open_reader


def test_apply_to_a_csv(co2: pd.DataFrame) -> None:
    good("fit", CO2, "-o", "stats.json")
    done = good("apply", "stats.json", CO2, "-o", "out.csv")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "streambn: 2,284 rows, 1 column normalized in out.csv",
        "streambn: left out: date (date32[day])",
    ]
    assert tree() == ["out.csv", "stats.json"]
    out = pd.read_csv("out.csv", parse_dates=["date"])
    assert out.date.equals(co2.date)
    expected = (co2.co2 - co2.co2.mean()) / co2.co2.std(ddof=0)
    pd.testing.assert_series_equal(out.co2, expected, rtol=1e-12, atol=1e-12)
    assert good("apply", "stats.json", CO2, "-o", "out.csv", "--quiet").stderr == ""


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".csv"])
def test_inverse_restores_the_data(suffix: str, co2: pd.DataFrame) -> None:
    good("fit", CO2, "-o", "stats.json", "--frozen", "--eps", 1e-3, "--ddof", 1)
    good("apply", "stats.json", CO2, "-o", f"z{suffix}")
    good("apply", "stats.json", f"z{suffix}", "-o", "back.parquet", "--inverse")
    back = pd.read_parquet("back.parquet")
    pd.testing.assert_series_equal(back.co2, co2.co2, rtol=1e-13)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_outputs_have_the_dtype_and_carry_the_fingerprint(suffix: str) -> None:
    good("fit", CO2, "-o", "stats.json")
    good("apply", "stats.json", CO2, "-o", f"out{suffix}", "--dtype", "float32")
    schema = open_reader(Source(f"out{suffix}")).schema
    assert schema.field("co2").type == pa.float32()
    fingerprint = sbn.load("stats.json").freeze().fingerprint
    assert schema.metadata[b"streambn.fingerprint"].decode() == fingerprint


def test_normalize_is_fit_then_apply(partitions: pa.Table) -> None:
    ema = ("--policy", "ema", "--alpha", 0.5)
    done = good("normalize", "data", "-o", "out/", "--save", "stats.json", *ema)
    assert done.stderr.splitlines() == [
        "streambn: 9 rows, statistics of 2 columns in stats.json",
        "streambn: 9 rows, 2 columns normalized in out/",
        "streambn: left out: s (string)",
    ]
    good("fit", "data", "-o", "again.json", *ema)
    assert sbn.load("again.json").stats().equals(sbn.load("stats.json").stats())
    good("apply", "again.json", "data", "-o", "out2/")
    for path in Path("out").rglob("*.parquet"):
        assert pq.read_table(path, partitioning=None).equals(
            pq.read_table(Path("out2") / path.relative_to("out"), partitioning=None)
        )


# --- outputs --------------------------------------------------------------------------


def test_a_named_partition_key_is_normalized(partitions: pa.Table) -> None:
    good("fit", "data", "-o", "stats.json", "--columns", "x,year")
    assert stats()["year"]["mean"] == pytest.approx(2021)
    good("apply", "stats.json", "data", "-o", "out/")
    table = pq.read_table("out/year=2020/part-0.parquet", partitioning=None)
    assert table["year"].to_pylist() == pytest.approx([-math.sqrt(1.5)] * 3)


def test_files_of_several_formats_and_column_orders_go_into_one() -> None:
    pq.write_table(pa.table({"x": [1.0, 3.0], "s": ["a", "b"]}), "a.bin")
    Path("b.bin").write_text("s,x\nc,5\n")
    good("fit", "a.bin", "b.bin", "-o", "stats.json")
    assert stats()["x"]["mean"] == pytest.approx(3)
    good("apply", "stats.json", "a.bin", "b.bin", "-o", "out.arrow")
    out = pa.ipc.open_file("out.arrow").read_all()
    assert out["s"].to_pylist() == ["a", "b", "c"]
    assert out["x"].to_pylist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])


def test_dictionaries_can_differ_between_files() -> None:
    for name, letters in (("a", "xy"), ("b", "zx")):
        column = pa.array(list(letters)).dictionary_encode()
        pq.write_table(pa.table({"n": [1, 2], "c": column}), f"{name}.parquet")
    good("fit", "a.parquet", "b.parquet", "-o", "s.json")
    for suffix in (".parquet", ".arrows", ".csv"):
        good("apply", "s.json", "a.parquet", "b.parquet", "-o", f"out{suffix}")
    assert pq.read_table("out.parquet")["c"].to_pylist() == ["x", "y", "z", "x"]
    message = bad(1, "apply", "s.json", "a.parquet", "b.parquet", "-o", "out.arrow")
    assert message.endswith("Write .arrows or .parquet instead.")


def test_a_failure_leaves_no_output(fitted: str) -> None:
    pq.write_table(pa.table({"price": [math.inf], "s": ["a"]}), "inf.parquet")
    says(bad(1, "fit", "t.parquet", "inf.parquet", "-o", "out.json"), "inf.parquet", "'price'")
    for out in ("out.csv", "out.parquet", "out.arrow", "out.arrows"):
        assert "inf.parquet" in bad(1, "apply", fitted, "t.parquet", "inf.parquet", "-o", out)


def test_a_failure_in_a_folder_keeps_the_finished_outputs(fitted: str) -> None:
    Path("d/a").mkdir(parents=True)
    Path("d/b").mkdir()
    pq.write_table(pa.table({"price": [1.0], "s": ["a"]}), "d/a/t.parquet")
    pq.write_table(pa.table({"price": [math.inf], "s": ["a"]}), "d/b/t.parquet")
    failed = run("apply", fitted, "d", "-o", "out")
    assert (failed.returncode, failed.stderr.count("d/b/t.parquet")) == (1, 1)
    done = ["out", "out/_streambn.manifest", "out/a", "out/a/t.parquet"]
    assert [path for path in tree() if path.startswith("out")] == done
    pq.write_table(pa.table({"price": [2.0], "s": ["a"]}), "d/b/t.parquet")
    before = Path("out/a/t.parquet").stat()
    good("apply", fitted, "d", "-o", "out", "--resume")
    assert Path("out/a/t.parquet").stat() == before
    assert pq.read_table("out/b/t.parquet").num_rows == 1


def test_a_failure_keeps_the_output_of_an_earlier_run(fitted: str) -> None:
    Path("out.csv").write_text("old")
    pq.write_table(pa.table({"price": [math.inf]}), "inf.parquet")
    bad(1, "apply", fitted, "inf.parquet", "-o", "out.csv")
    assert Path("out.csv").read_text() == "old"


# --- pipes ----------------------------------------------------------------------------


def test_stdin_to_stdout(co2: pd.DataFrame) -> None:
    stream = ipc(pyarrow.csv.read_csv(CO2), 100)
    good("fit", "-", "-o", "stats.json", input=stream, text=False)
    assert stats()["co2"]["mean"] == pytest.approx(co2.co2.mean(), rel=1e-14)
    done = good("apply", "stats.json", "-", "-o", "-", input=stream, text=False)
    assert done.stderr.splitlines() == [
        b"streambn: 2,284 rows, 1 column normalized to standard output",
        b"streambn: left out: date (date32[day])",
    ]
    out = pa.ipc.open_stream(done.stdout).read_all()
    assert out["date"].to_pylist() == co2.date.dt.date.tolist()
    assert out.schema.metadata[b"streambn.fingerprint"]
    assert pl.read_ipc_stream(done.stdout)["co2"].std(ddof=0) == pytest.approx(1)
