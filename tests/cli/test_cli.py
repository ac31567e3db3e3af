"""The `streambn` command, run as users run it: as a process, in a folder, in a pipe."""

from __future__ import annotations

import atexit
import csv
import fcntl
import functools
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn import kernels
from streambn.io import sources as files

COMMAND = [sys.executable, "-m", "streambn.cli.main"]
CO2 = Path(sbn.__file__).parent / "cli" / "data" / "co2.csv"
ENV = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
TIMEOUT = 60


def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command, in a process of its own if it takes options of `subprocess.run`."""
    if not options:
        return run_forked(list(map(str, args)))
    options = {"text": True, "stdin": subprocess.DEVNULL, "env": ENV, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
        **options,  # type: ignore[call-overload]
    )


@functools.cache
def server() -> subprocess.Popen[str]:
    path = Path(__file__).with_name("fork_server.py")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    atexit.register(process.communicate)  # the end of its stdin ends it
    return process


def run_forked(args: list[str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: f"{folder}/{name}" for name in ("stdout", "stderr")}
        process = server()
        print(json.dumps({"args": args, "cwd": os.getcwd(), **outputs}), file=process.stdin)
        process.stdin.flush()
        code = int(process.stdout.readline())
        out, err = (Path(path).read_text("utf-8") for path in outputs.values())
    return subprocess.CompletedProcess(args, code, out, err)


def good(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    done = run(*args, **options)
    assert done.returncode == 0, done.stderr
    return done


def bad(code: int, *args: object, **options: object) -> str:
    """Run what must fail, and return its one line."""
    before = tree()
    done = run(*args, **options)
    if not isinstance(done.stderr, str):
        done.stderr = done.stderr.decode()
    assert done.returncode == code, (done.returncode, done.stderr, done.stdout[:200])
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("streambn: ")
    assert tree() == before
    return lines[0]


def tree() -> list[str]:
    """Everything in the working folder, hidden files too."""
    return sorted(str(path) for path in Path().rglob("*"))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def co2() -> pd.DataFrame:
    return pd.read_csv(CO2, parse_dates=["date"])


def stats(path: str = "stats.json") -> dict[str, dict[str, object]]:
    return {lane["column"]: lane for lane in sbn.load(path).stats().to_pylist()}


def ipc(table: pa.Table, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def parts(folder: str = "data") -> pa.Table:
    """Lay out a small Hive-partitioned data set; return all of it, with its keys."""
    tables = []
    for year in (2020, 2021, 2022):
        table = pa.table({"x": [year + 0.5, None, -1.0], "n": [year, 2, 3], "s": ["a", "b", "c"]})
        path = Path(folder) / f"year={year}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, compression="zstd")
        tables.append(table.append_column("year", pa.array([year] * 3)))
    (Path(folder) / "_SUCCESS").touch()
    return pa.concat_tables(tables)


# --- fit, show, apply, on the real series ---------------------------------------------


def test_fit_show_and_apply_a_csv(co2: pd.DataFrame) -> None:
    fitted = good("fit", CO2, "-o", "stats.json")
    assert fitted.stdout == ""
    assert fitted.stderr == "streambn: 2,284 rows, statistics of 1 column in stats.json\n"
    assert tree() == ["stats.json"]
    lane = stats()["co2"]
    assert (lane["count"], lane["nulls"]) == (co2.co2.count(), co2.co2.isna().sum())
    assert lane["mean"] == pytest.approx(co2.co2.mean(), rel=1e-14)
    assert lane["var"] == pytest.approx(co2.co2.var(ddof=0), rel=1e-13)

    applied = good("apply", "stats.json", CO2, "-o", "out.csv")
    assert applied.stdout == applied.stderr == ""
    assert tree() == ["out.csv", "stats.json"]
    out = pd.read_csv("out.csv", parse_dates=["date"])
    assert out.date.equals(co2.date)
    expected = (co2.co2 - co2.co2.mean()) / co2.co2.std(ddof=0)
    pd.testing.assert_series_equal(out.co2, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["csv", "parquet", "partitioned"])
def test_statistics_are_those_of_duckdb_and_pandas(form: str, co2: pd.DataFrame) -> None:
    co2["year"] = co2.date.dt.year
    if form == "csv":
        given, query = CO2, f"read_csv('{CO2}')"
    elif form == "parquet":
        co2.drop(columns="year").to_parquet("co2.parquet", row_group_size=100)
        given, query = Path("co2.parquet"), "read_parquet('co2.parquet')"
    else:
        for year, part in co2.groupby("year"):
            path = Path("co2") / f"year={year}" / "part.parquet"
            path.parent.mkdir(parents=True)
            part.drop(columns="year").to_parquet(path)
        given, query = Path("co2"), "read_parquet('co2/*/*.parquet', hive_partitioning = true)"
    good("fit", given, "-o", "stats.json")
    (lane,) = stats().values()
    asked = f"""SELECT count(co2), count(*) - count(co2), avg(co2), stddev_pop(co2), min(co2),
        max(co2) FROM {query}"""
    found = tuple(lane[name] for name in ("count", "nulls", "mean", "std", "min", "max"))
    with duckdb.connect() as connection:
        assert found == pytest.approx(connection.execute(asked).fetchone(), rel=1e-12)
    x = co2.co2
    theirs = (x.count(), x.isna().sum(), x.mean(), x.std(ddof=0), x.min(), x.max())
    assert found == pytest.approx(theirs, rel=1e-12)
    if form != "partitioned":
        return
    # A partition key is a column like any other, if it is asked for.
    good("fit", given, "-o", "stats.json", "--columns", "co2,year")
    year = stats()["year"]
    assert (year["count"], year["mean"]) == (len(co2), pytest.approx(co2.year.mean()))
    assert year["std"] == pytest.approx(co2.year.std(ddof=0), rel=1e-12)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".csv"])
def test_apply_and_its_inverse_give_the_data_back(suffix: str, co2: pd.DataFrame) -> None:
    good("fit", CO2, "-o", "stats.json", "--frozen", "--eps", 1e-3, "--ddof", 1)
    good("apply", "stats.json", CO2, "-o", f"z{suffix}")
    good("apply", "stats.json", f"z{suffix}", "-o", "back.parquet", "--inverse")
    back = pd.read_parquet("back.parquet")
    pd.testing.assert_series_equal(back.co2, co2.co2, rtol=1e-13)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_outputs_carry_the_fingerprint(suffix: str) -> None:
    good("fit", CO2, "-o", "stats.json")
    good("apply", "stats.json", CO2, "-o", f"out{suffix}")
    schema = files.open_reader(files.Source(f"out{suffix}")).schema
    assert schema.metadata[b"streambn.fingerprint"].decode() == (
        sbn.load("stats.json").freeze().fingerprint
    )


def test_normalize_is_fit_then_apply() -> None:
    parts()
    done = good("normalize", "data", "-o", "out/", "--save", "stats.json", "--policy", "ema",
                "--alpha", 0.5)  # fmt: skip
    assert done.stderr == "streambn: 9 rows, statistics of 2 columns in stats.json\n"
    good("fit", "data", "-o", "again.json", "--policy", "ema", "--alpha", 0.5, "--quiet")
    assert sbn.load("again.json").stats().equals(sbn.load("stats.json").stats())
    good("apply", "again.json", "data", "-o", "out2/")
    for path in Path("out").rglob("*.parquet"):
        assert pq.read_table(path, partitioning=None).equals(
            pq.read_table(Path("out2") / path.relative_to("out"), partitioning=None)
        )


def test_dtype() -> None:
    good("fit", CO2, "-o", "stats.json")
    good("apply", "stats.json", CO2, "-o", "out.parquet", "--dtype", "float32")
    assert pq.read_schema("out.parquet").field("co2").type == pa.float32()


def test_a_frozen_file_is_frozen_and_a_live_one_goes_on(co2: pd.DataFrame) -> None:
    table = pyarrow.csv.read_csv(CO2)
    pq.write_table(table.slice(0, 1000), "a.parquet")
    pq.write_table(table.slice(1000), "b.parquet")
    good("fit", "a.parquet", "-o", "a.json", "--policy", "ema", "--halflife", 52)
    good("fit", "b.parquet", "-o", "ab.json", "--continue-from", "a.json")
    good("fit", "b.parquet", "-o", "b.json", "--policy", "ema", "--halflife", 52, "--frozen")
    good("merge", "a.json", "b.json", "-o", "merged.json", "--frozen")
    assert isinstance(sbn.load("a.json"), sbn.Normalizer)
    assert isinstance(sbn.load("merged.json"), sbn.FrozenNormalizer)
    ewm = co2.co2.ewm(halflife=52)
    for path in ("ab.json", "merged.json"):
        assert stats(path)["co2"]["mean"] == pytest.approx(ewm.mean().iloc[-1], rel=1e-12)
        assert stats(path)["co2"]["var"] == pytest.approx(ewm.var(bias=True).iloc[-1], rel=1e-9)
    assert stats("ab.json")["co2"]["count"] == co2.co2.count()


def test_merging_in_the_wrong_order_is_another_result_for_a_policy_that_forgets() -> None:
    for name, value in (("old", 1.0), ("new", 2.0)):
        pq.write_table(pa.table({"x": [value, value]}), f"{name}.parquet")
        good("fit", f"{name}.parquet", "-o", f"{name}.json", "--policy", "ema", "--alpha", 0.5)
    good("merge", "old.json", "new.json", "-o", "ordered.json")
    good("merge", "new.json", "old.json", "-o", "reversed.json")
    assert stats("ordered.json")["x"]["mean"] > stats("reversed.json")["x"]["mean"]


def test_merge_can_replace_its_own_input() -> None:
    good("fit", CO2, "-o", "total.json")
    good("merge", "total.json", "total.json", "-o", "total.json")
    assert stats("total.json")["co2"]["count"] == 2 * 2225


def test_exact_statistics_are_the_same_file_however_the_data_lie() -> None:
    rng = np.random.default_rng(0)
    x = np.append(rng.normal(1e9, 1, 5000), [1e300, -1e300])
    pq.write_table(pa.table({"x": x}), "whole.parquet", row_group_size=700)
    for i, part in enumerate(np.array_split(rng.permutation(x), 5)):
        pq.write_table(pa.table({"x": part}), f"part-{i}.parquet")
    exact = ("--policy", "exact", "--frozen", "--quiet")
    good("fit", "whole.parquet", "-o", "whole.json", *exact, "--threads", 2)
    good("fit", "part-*.parquet", "-o", "parts.json", *exact)
    for i in range(5):
        good("fit", f"part-{i}.parquet", "-o", f"{i}.json", *exact)
    good("merge", *(f"{i}.json" for i in (3, 0, 4, 1, 2)), "-o", "merged.json", "--frozen")
    whole = Path("whole.json").read_bytes()
    assert Path("parts.json").read_bytes() == whole
    assert Path("merged.json").read_bytes() == whole
    assert stats("whole.json")["x"]["mean"] == float(sum(map(Fraction, x.tolist())) / len(x))
    good("apply", "whole.json", "whole.parquet", "-o", "out.parquet", "--quiet")
    shown = json.loads(good("show", "whole.json", "--format", "json").stdout)
    assert shown["policy"].startswith("Exact: every value counts equally")
    assert "weights" in bad(2, "fit", "whole.parquet", "-o", "w.json", *exact, "--weights", "x")


# --- by event time, with weights ------------------------------------------------------


@pytest.fixture
def trades() -> pa.Table:
    """Rows of two weeks, out of order, some of no weight; and a text that nobody needs."""
    rng = np.random.default_rng(11)
    minutes = rng.integers(0, 14 * 24 * 60, 900)
    start = np.datetime64("2026-03-02T09:30", "s")
    return pa.table(
        {
            "price": pa.array(rng.normal(100, 3, 900), mask=rng.random(900) < 0.1),
            "at": start + 60 * minutes,
            "volume": rng.integers(0, 5, 900),
            "venue": ["XETR"] * 900,
        }
    )


def weighed(table: pa.Table, weight: np.ndarray) -> dict[str, float]:
    """The statistics of the prices, from the definition; of rows that weigh nothing, none."""
    price = table["price"].to_numpy()
    there = ~np.isnan(price) & (weight > 0)
    x, w = price[there], weight[there]
    mean = np.average(x, weights=w)
    return {
        "count": int(there.sum()),
        "mean": mean,
        "var": np.average((x - mean) ** 2, weights=w),
        "weight": w.sum(),
        "effective_count": w.sum() ** 2 / (w**2).sum(),
    }


def fading(table: pa.Table, days: float, *, weighed: bool = True) -> np.ndarray:
    """What rows weigh by their age, times their volume. A row that weighs nothing is none."""
    at, volume = table["at"].to_numpy(), table["volume"].to_numpy() if weighed else np.ones(900)
    return volume * np.exp2((at - at[volume > 0].max()) / np.timedelta64(1, "D") / days)


def assert_stats(path: str, expected: dict[str, float], column: str = "price") -> None:
    lane = stats(path)[column]
    assert {name: lane[name] for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["parquet", "csv", "stdin"])
@pytest.mark.parametrize("weights", [None, "volume"])
def test_forgetting_by_event_time(form: str, weights: str | None, trades: pa.Table) -> None:
    path, options = f"t.{form}", {}
    if form == "parquet":
        pq.write_table(trades, path, row_group_size=100)
    elif form == "csv":
        pyarrow.csv.write_csv(trades, path)
    else:
        path, options = "-", {"input": ipc(trades, 100), "text": False}
    flags = ["--policy", "ema", "--halflife", "1d12h", "--time", "at", "--columns", "price"]
    flags += ["--weights", weights] if weights else []
    good("fit", path, "-o", "s.json", *flags, **options)
    assert sbn.load("s.json").policy == sbn.EMA(halflife="36h", time="at")
    assert sbn.load("s.json").options.weights == weights
    assert_stats("s.json", weighed(trades, fading(trades, 1.5, weighed=weights is not None)))
    assert [*stats("s.json")] == ["price"]


def test_neither_times_nor_weights_are_normalized_unless_named(trades: pa.Table) -> None:
    seconds = trades["at"].cast(pa.int64())
    pq.write_table(trades.set_column(1, "at", seconds), "t.parquet")
    ema = ("--policy", "ema", "--halflife", 86_400, "--time", "at", "--weights", "volume")
    good("normalize", "t.parquet", "-o", "out.parquet", "--save", "s.json", *ema)
    assert [*stats("s.json")] == ["price"]
    out = pq.read_table("out.parquet")
    assert out["at"].equals(seconds)
    assert out["volume"].equals(trades["volume"])
    expected = weighed(trades, fading(trades, 1))
    assert_stats("s.json", expected)
    z = (trades["price"].to_numpy() - expected["mean"]) / np.sqrt(expected["var"])
    np.testing.assert_allclose(out["price"].to_numpy(), z, rtol=1e-11, atol=1e-12)
    good("fit", "t.parquet", "-o", "s.json", *ema, "--columns", "at,price,volume")
    assert [*stats("s.json")] == ["at", "price", "volume"]


@pytest.mark.parametrize("policy", [["welford"], ["ema", "--span", 50]])
def test_weights_of_other_policies(policy: list[object], trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    good("fit", "t.parquet", "-o", "s.json", "--weights", "volume", "--policy", *policy)
    volume = trades["volume"].to_numpy()
    rows = np.cumsum(volume[::-1] > 0)[::-1] - 1.0  # a row of no weight leaves no trace
    decay = 1.0 if policy == ["welford"] else 49 / 51
    assert_stats("s.json", weighed(trades, volume * decay**rows))


def test_event_time_goes_on_and_merges_in_any_order(trades: pa.Table) -> None:
    ema = ("--policy", "ema", "--halflife", "P2D", "--time", "at", "--weights", "volume")
    for name, start in (("a", 0), ("b", 300), ("c", 600)):
        pq.write_table(trades.slice(start, 300), f"{name}.parquet")
        good("fit", f"{name}.parquet", "-o", f"{name}.json", *ema)
    good("fit", "c.parquet", "b.parquet", "-o", "on.json", "--continue-from", "a.json")
    good("merge", "a.json", "b.json", "c.json", "-o", "abc.json")
    good("merge", "c.json", "a.json", "b.json", "-o", "cab.json", "--frozen")
    expected = weighed(trades, fading(trades, 2))
    for path in ("on.json", "abc.json", "cab.json"):
        assert_stats(path, expected)


def test_a_partition_key_can_be_the_time_or_the_weight() -> None:
    table = parts()
    ema = ("--policy", "ema", "--halflife", 1, "--time", "year")
    good("fit", "data", "-o", "s.json", *ema, "--columns", "n")
    n, year = table["n"].to_numpy(), table["year"].to_numpy()
    mean = np.average(n, weights=np.exp2(year - 2022.0))
    assert stats("s.json")["n"]["mean"] == pytest.approx(mean, rel=1e-14)
    good("fit", "data", "-o", "s.json", "--weights", "year")
    assert stats("s.json")["n"]["mean"] == pytest.approx(np.average(n, weights=year), rel=1e-14)
    assert "year" not in stats("s.json")


def test_rows_without_a_time() -> None:
    Path("t.csv").write_text("at,x\n2026-03-01,1\n,2\n2026-03-02,5\n")
    ema = ["fit", "t.csv", "-o", "s.json", "--policy", "ema", "--halflife", "1d", "--time", "at"]
    said = bad(1, *ema)
    assert said == (
        "streambn: t.csv: column 'at' has no time in row 1 of the batch (1 in all). The batch was "
        "rejected. Fill in the times, or skip such rows with --null-time skip."
    )
    assert bad(1, *ema, "--null-time", "raise") == said
    good(*ema, "--null-time", "skip")
    assert stats("s.json")["x"]["mean"] == pytest.approx(11 / 3)
    assert sbn.load("s.json").policy == sbn.EMA(halflife="1d", time="at", null_time="skip")


def test_only_what_a_fit_needs_is_read(trades: pa.Table) -> None:
    """The venues are damaged, and so cannot be read by accident."""
    pq.write_table(trades, "t.parquet", use_dictionary=False, write_page_checksum=True)
    content = Path("t.parquet").read_bytes()
    column = pq.read_metadata("t.parquet").row_group(0).column(3)
    end = column.data_page_offset + column.total_compressed_size
    Path("t.parquet").write_bytes(content[: end - 4] + b"oops" + content[end:])
    assert "damaged" in bad(1, "fit", "t.parquet", "-o", "s.json", "--columns", "venue,price")
    ema = ("--policy", "ema", "--halflife", "1d", "--time", "at", "--weights", "volume")
    good("fit", "t.parquet", "-o", "s.json", *ema)
    good("fit", "t.parquet", "-o", "s.json", *ema, "--columns", "price")
    good("fit", "t.parquet", "-o", "s.json", "--continue-from", "s.json")
    assert stats("s.json")["price"]["count"] > 900


# --- inputs and outputs ---------------------------------------------------------------


@pytest.mark.parametrize("inputs", [["data"], ["data/**/*.parquet"], ["data/year=*"]])
def test_folders_and_globs(inputs: list[str]) -> None:
    table = parts()
    good("fit", *inputs, "-o", "stats.json")
    lanes = stats()
    assert list(lanes) == ["x", "n"]  # and not the partition key
    assert lanes["x"]["count"] == 6
    assert lanes["n"]["mean"] == pytest.approx(pl.from_arrow(table)["n"].mean())

    good("apply", "stats.json", *inputs, "-o", "out/")
    written = sorted(str(path) for path in Path("out").rglob("*.*") if path.is_file())
    assert written.pop(0) == "out/_streambn.manifest"
    assert written == [f"out/year={year}/part-0.parquet" for year in (2020, 2021, 2022)]
    assert pq.read_schema(written[0]).names == ["x", "n", "s"]
    codec = pq.read_metadata(written[0]).row_group(0).column(0).compression
    assert codec == "ZSTD"

    good("apply", "stats.json", *inputs, "-o", "one.parquet")
    one = pq.read_table("one.parquet")
    assert one.column_names == ["x", "n", "s", "year"]
    assert one["year"].equals(table["year"])
    assert one["s"].to_pylist() == table["s"].to_pylist()
    assert one["x"].to_pylist()[0] == pytest.approx(
        (2020.5 - lanes["x"]["mean"]) / lanes["x"]["std"]
    )


def test_a_partition_key_named_is_a_column() -> None:
    parts()
    good("fit", "data", "-o", "stats.json", "--columns", "x,year")
    assert stats()["year"]["mean"] == pytest.approx(2021)
    good("apply", "stats.json", "data", "-o", "out/")
    table = pq.read_table("out/year=2020/part-0.parquet", partitioning=None)
    assert table["year"].to_pylist() == pytest.approx([-math.sqrt(1.5)] * 3)


def test_the_order_of_files_is_that_of_the_arguments() -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        pq.write_table(pa.table({"x": [value]}), f"{name}.parquet")
    for order in (["a", "b"], ["b", "a"]):
        files = [f"{name}.parquet" for name in order]
        good("fit", *files, "-o", "".join(order) + ".json", "--policy", "ema", "--alpha", 0.75)
    assert stats("ab.json")["x"]["mean"] > 2 > stats("ba.json")["x"]["mean"]


def test_files_of_several_formats_and_column_orders_go_into_one() -> None:
    pq.write_table(pa.table({"x": [1.0, 3.0], "s": ["a", "b"]}), "a.bin")
    Path("b.bin").write_text("s,x\nc,5\n")
    good("fit", "a.bin", "b.bin", "-o", "stats.json")
    assert stats()["x"]["mean"] == pytest.approx(3)
    good("apply", "stats.json", "a.bin", "b.bin", "-o", "out.arrow")
    out = pa.ipc.open_file("out.arrow").read_all()
    assert out["s"].to_pylist() == ["a", "b", "c"]
    assert out["x"].to_pylist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])


def test_stdin_to_stdout(co2: pd.DataFrame) -> None:
    stream = ipc(pyarrow.csv.read_csv(CO2), 100)
    good("fit", "-", "-o", "stats.json", input=stream, text=False)
    assert stats()["co2"]["mean"] == pytest.approx(co2.co2.mean(), rel=1e-14)
    done = good("apply", "stats.json", "-", "-o", "-", input=stream, text=False)
    out = pa.ipc.open_stream(done.stdout).read_all()
    assert out["date"].to_pylist() == co2.date.dt.date.tolist()
    assert out.schema.metadata[b"streambn.fingerprint"]
    assert pl.read_ipc_stream(done.stdout)["co2"].std(ddof=0) == pytest.approx(1)


def test_stdout_is_flushed_batch_by_batch() -> None:
    table = pa.table({"x": [1.0, 2.0, 3.0]})
    pq.write_table(table, "t.parquet")
    good("fit", "t.parquet", "-o", "stats.json")
    with subprocess.Popen(
        [*COMMAND, "apply", "stats.json", "-", "-o", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENV,
    ) as process:
        assert process.stdin
        assert process.stdout
        writer = pa.ipc.new_stream(process.stdin, table.schema)
        writer.write_table(table)
        process.stdin.flush()
        reader = pa.ipc.open_stream(process.stdout)
        assert reader.read_next_batch().num_rows == 3
        writer.write_table(table.slice(0, 2))  # only after the first has come back
        process.stdin.flush()
        assert reader.read_next_batch().num_rows == 2
        writer.close()
        process.stdin.close()
        assert list(reader) == []
        assert process.wait(TIMEOUT) == 0


def test_empty_files_are_no_ops() -> None:
    table = pa.table({"x": [1.0, 2.0], "s": ["a", "b"]})
    pq.write_table(table, "t.parquet")
    pq.write_table(table.slice(0, 0), "empty.parquet")
    with pa.ipc.new_file("empty.arrow", table.schema):
        pass
    Path("empty.csv").write_text("x,s\n")
    done = good("fit", "empty.parquet", "empty.arrow", "empty.csv", "-o", "empty.json")
    assert done.stderr == "streambn: 0 rows, statistics of 0 columns in empty.json\n"
    assert good("show", "empty.json").stdout.splitlines()[2].split() == ["rows", "0"]
    assert json.loads(good("show", "empty.json", "--format", "json").stdout)["columns"] == []
    assert good("show", "empty.json", "--format", "csv").stdout == (
        "column,count,nulls,nans,infs,mean,var,std,min,max\n"
    )
    good("fit", "empty.csv", "t.parquet", "empty.arrow", "-o", "t.json")
    assert stats("t.json")["x"]["count"] == 2
    good("merge", "empty.json", "t.json", "-o", "merged.json")
    assert sbn.load("merged.json").stats().equals(sbn.load("t.json").stats())
    good("apply", "t.json", "empty.parquet", "-o", "out.csv")
    assert Path("out.csv").read_text() == '"x","s"\n'
    assert "empty.json: no data was seen" in bad(1, "apply", "empty.json", "t.parquet", "-o", "-")
    assert "no data was seen" in bad(1, "fit", "empty.csv", "-o", "out.json", "--frozen")


def test_categories_that_differ_from_file_to_file() -> None:
    for name, letters in (("a", "xy"), ("b", "zx")):
        column = pa.array(list(letters)).dictionary_encode()
        pq.write_table(pa.table({"n": [1, 2], "c": column}), f"{name}.parquet")
    good("fit", "a.parquet", "b.parquet", "-o", "s.json")
    for suffix in (".parquet", ".arrows", ".csv"):
        good("apply", "s.json", "a.parquet", "b.parquet", "-o", f"out{suffix}")
    assert pq.read_table("out.parquet")["c"].to_pylist() == ["x", "y", "z", "x"]
    said = bad(1, "apply", "s.json", "a.parquet", "b.parquet", "-o", "out.arrow")
    assert said.endswith("Write .arrows or .parquet instead.")


def test_a_csv_whose_dates_turn_out_to_be_times() -> None:
    Path("t.csv").write_text("at,x\n" + "2026-03-01,1\n" * 300_000 + "2026-03-01 12:00:00,2\n")
    ema = ("-o", "s.json", "--policy", "ema", "--halflife", "12h", "--time", "at")
    assert "--csv-type at=timestamp[us]" in bad(1, "fit", "t.csv", *ema)
    good("fit", "t.csv", *ema, "--csv-type", "at=timestamp[us]")
    assert stats("s.json")["x"]["weight"] == pytest.approx(300_000 / 2 + 1)


def test_csv_types_can_be_given() -> None:
    Path("t.csv").write_text("id,x\n" + "001,1\n" * 1_000_000 + "002,1.5\n")
    said = bad(1, "fit", "t.csv", "-o", "stats.json")
    assert "t.csv: column 'x'" in said
    assert "--csv-type x=double" in said
    good("fit", "t.csv", "-o", "stats.json", "--csv-type", "x=double", "--csv-type", "id=string")
    assert stats()["x"]["max"] == 1.5
    good("apply", "stats.json", "t.csv", "-o", "out.parquet", "--csv-type", "x=double",
         "--csv-type", "id=string")  # fmt: skip
    assert pq.read_table("out.parquet")["id"][-1].as_py() == "002"


def test_every_option_of_fit_arrives() -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0, math.inf], "b": [1.0, 2.0, 4.0]}), "t.parquet")
    Path("affine.json").write_text('{"b": [2, 1]}')
    good(
        "fit", "t.parquet", "-o", "s.json", "--policy", "batch-ema", "--momentum", "0.25",
        "--batch-rows", 2, "--batch-ddof", 0, "--initial", "10,4", "--columns", "a", "--columns",
        "b", "--eps", 0.5, "--ddof", 1, "--no-center", "--scale", "--clip", 3, "--nan", "raise",
        "--inf", "ignore", "--affine", "a=3,-1", "--affine", "affine.json",
    )  # fmt: skip
    loaded = sbn.load("s.json")
    assert loaded.policy == sbn.BatchEMA(momentum=0.25, batch_rows=2, ddof=0, initial=(10.0, 4.0))
    twin = sbn.Normalizer(
        loaded.policy, columns=["a", "b"], eps=0.5, ddof=1, center=False, clip=3, nan="raise",
        inf="ignore", affine={"a": (3, -1), "b": (2, 1)},
    )  # fmt: skip
    twin.update(pq.read_table("t.parquet"))
    assert twin.freeze().fingerprint == loaded.freeze().fingerprint

    good("fit", "t.parquet", "-o", "s.json", "--inf", "ignore", "--policy", "batch-ema",
         "--momentum", "none", "--initial", "none")  # fmt: skip
    assert sbn.load("s.json").policy == sbn.BatchEMA(momentum=None, initial=None)
    good("fit", "t.parquet", "-o", "s.json", "--inf", "ignore", "--policy", "ema", "--span", 4,
         "--no-adjust", "--ignore-na")  # fmt: skip
    assert sbn.load("s.json").policy == sbn.EMA(span=4, adjust=False, ignore_na=True)


# --- show -----------------------------------------------------------------------------


@pytest.fixture
def mixed() -> str:
    table = pa.table(
        {
            "revenue_of_the_whole_group": [1234567.5, 7654321.0, 5.0],
            "flat": [7.0, 7.0, 7.0],
            "void": pa.array([None, None, None], pa.float64()),
            "hole": [0.1, math.nan, None],
            "emb": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
        }
    )
    table = pa.concat_tables([table] * 500)
    pq.write_table(table, "mixed.parquet")
    good("fit", "mixed.parquet", "-o", "mixed.json", "--frozen")
    return "mixed.json"


def test_show_for_people(mixed: str) -> None:
    done = good("show", mixed)
    assert done.stderr == ""
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    frozen = sbn.load(mixed)
    assert lines[:4] == [
        f"policy       {frozen.policy.describe()}",
        "state        frozen",
        f"fingerprint  {frozen.fingerprint}",
        "rows         1,500",
    ]
    rows = {line.split()[0]: line for line in lines[4:] if line}
    assert rows["column"].split() == [
        "column", "count", "nulls", "nans", "mean", "var", "std", "min", "max",
    ]  # fmt: skip
    revenue = pd.Series([1234567.5, 7654321.0, 5.0])
    assert rows["revenue_of_the_whole_group"].split()[1:] == [
        "1,500", "0", "0", f"{revenue.mean():.6g}", f"{revenue.var(ddof=0):.6g}",
        f"{revenue.std(ddof=0):.6g}", "5", "7.65432e+06",
    ]  # fmt: skip
    assert rows["flat"].split()[1:] == ["1,500", "0", "0", "7", "0", "0", "7", "7", "⚠", "constant"]
    assert rows["void"].split()[1:4] == ["0", "1,500", "0"]
    assert rows["void"].split()[4:] == ["-", "-", "-", "-", "-", "⚠", "no", "values"]
    assert rows["hole"].split()[1:4] == ["500", "500", "500"]
    assert rows["emb[1]"].split()[4] == "4"
    assert lines[-1].startswith("\N{WARNING SIGN} constant: ")
    # Aligned: every number ends where its heading ends.
    for name in ("count", "nulls", "mean"):
        end = rows["column"].index(name) + len(name)
        assert all(rows[row][end - 1] != " " for row in ("flat", "emb[0]", "hole", "void"))
        assert all(rows[row][end : end + 1] in ("", " ") for row in ("flat", "emb[0]", "void"))


def test_show_in_ascii(mixed: str) -> None:
    done = good("show", mixed, env={**ENV, "PYTHONIOENCODING": "ascii"})
    assert done.stdout.isascii()
    assert "! constant" in done.stdout


def test_show_of_a_live_file_has_no_marks_without_need() -> None:
    good("fit", CO2, "-o", "stats.json")
    out = good("show", "stats.json").stdout
    assert "live" in out
    assert "constant" not in out
    assert re.search(r"co2 +2,225 +59 +340\.142 +\S+ +\S+ +313 +373\.9\s", out)


def test_show_as_json(mixed: str) -> None:
    shown = json.loads(good("show", mixed, "--format", "json").stdout, parse_constant=pytest.fail)
    frozen = sbn.load(mixed)
    assert shown["state"] == "frozen"
    assert shown["policy"] == frozen.policy.describe()
    assert shown["fingerprint"] == frozen.fingerprint
    assert shown["rows"] == 1500
    assert shown["columns"] == frozen.stats().to_pylist()  # floats to the last digit
    assert [lane["column"] for lane in shown["columns"]][-2:] == ["emb[0]", "emb[1]"]


def test_show_as_json_has_no_numbers_that_json_has_not() -> None:
    pq.write_table(pa.table({"x": [1.0, -math.inf], "y": [1.0, math.nan]}), "t.parquet")
    good("fit", "t.parquet", "-o", "s.json", "--inf", "propagate", "--nan", "propagate")
    out = good("show", "s.json", "--format", "json").stdout
    columns = json.loads(out, parse_constant=pytest.fail)["columns"]
    assert columns[1]["mean"] == "NaN"
    good("show", "s.json")


def test_show_as_csv(mixed: str) -> None:
    shown = list(csv.DictReader(io.StringIO(good("show", mixed, "--format", "csv").stdout)))
    expected = sbn.load(mixed).stats().to_pylist()
    assert len(shown) == len(expected)
    for row, lane in zip(shown, expected, strict=True):
        assert row["column"] == lane["column"]
        for name in ("count", "mean", "var", "std", "min", "max"):
            assert (float(row[name]) if row[name] else None) == lane[name]


def test_show_of_statistics_by_event_time(trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    ema = ("--policy", "ema", "--halflife", "2d", "--time", "at", "--weights", "volume")
    good("fit", "t.parquet", "-o", "s.json", *ema)
    newest = trades["at"].to_numpy()[trades["volume"].to_numpy() > 0].max()
    lines = good("show", "s.json").stdout.splitlines()
    lane = stats("s.json")["price"]
    counted = lane["count"] + lane["nulls"]
    assert [line.rstrip() for line in lines[:6]] == [
        "policy       EMA by event time in 'at': half-life 2d",
        "weights      column 'volume'",
        "state        live, can go on learning",
        f"rows         {counted}",
        f"newest row   {newest}",
        "",
    ]
    assert lines[6].split() == [
        "column", "count", "nulls", "mean", "var", "std", "min", "max", "weight", "effective_count",
    ]  # fmt: skip
    assert lines[-1].split()[-2:] == [f"{lane['weight']:.6g}", f"{lane['effective_count']:.6g}"]

    later = np.datetime64("2026-04-01T10:00:00")
    for at, when in ((newest, newest), ("2026-04-01T12:00+02:00", later)):
        days = (when - newest) / np.timedelta64(1, "D")
        lines = good("show", "s.json", "--at", at).stdout.splitlines()
        assert lines[4:6] == [f"newest row   {newest}", f"as of        {when}"]
        shown = json.loads(good("show", "s.json", "--at", at, "--format", "json").stdout)
        times = (str(newest), str(when))
        assert (shown["weights"], shown["newest"], shown["at"]) == ("volume", *times)
        [faded] = shown["columns"]
        assert faded.pop("weight") == pytest.approx(lane["weight"] * 2 ** (-days / 2), rel=1e-12)
        assert faded == {name: value for name, value in lane.items() if name != "weight"}
        [row] = csv.DictReader(
            io.StringIO(good("show", "s.json", "--at", at, "--format", "csv").stdout)
        )
        assert float(row["weight"]) == pytest.approx(lane["weight"] * 2 ** (-days / 2), rel=1e-12)
        assert list(row) == list(lane)


def test_show_of_times_that_are_numbers_or_fine() -> None:
    for name, times, halflife, newest, later in (
        ("number", [1, 3], "2", 3, "5"),
        ("half", [1.0, 3.5], "2", 3.5, "5.5"),
        ("large", [0, 2**53 + 1], "2", 2**53 + 1, str(2**53 + 3)),
        ("fine", pa.array([0, 1_500_000_000_000_000_001], pa.timestamp("ns")), "2ns",
         "2017-07-14T02:40:00.000000001", "2017-07-14T02:40:00.000000003"),
        ("day", pa.array([0, 366], pa.date32()), "2d", "1971-01-02", "1971-01-04"),
        ("far", pa.array([0, 10**15], pa.timestamp("ms")), "365d", "33658-09-27T01:46:40", None),
    ):  # fmt: skip
        pq.write_table(pa.table({"x": [1.0, 2.0], "at": times}), f"{name}.parquet")
        ema = ("--policy", "ema", "--halflife", halflife, "--time", "at")
        good("fit", f"{name}.parquet", "-o", f"{name}.json", *ema)
        shown = json.loads(good("show", f"{name}.json", "--format", "json").stdout)
        assert (shown["newest"], shown["at"]) == (newest, None)
        weight = shown["columns"][0]["weight"]
        if later is not None:
            out = good("show", f"{name}.json", "--at", later, "--format", "json").stdout
            assert str(json.loads(out)["at"]) == later
            assert json.loads(out)["columns"][0]["weight"] == pytest.approx(weight / 2)
    assert "half-life 2 of its unit" in good("show", "number.json").stdout


def test_show_has_the_statistics_that_only_some_policies_have() -> None:
    good("fit", CO2, "-o", "w.json")
    good("fit", CO2, "-o", "b.json", "--policy", "batch-ema", "--decay", 0.99, "--batch-rows", 52)
    good("fit", CO2, "-o", "e.json", "--policy", "ema", "--halflife", 52)
    assert sbn.load("b.json").policy == sbn.BatchEMA(decay=0.99, batch_rows=52)
    base = ["column", "count", "nulls", "nans", "infs", "mean", "var", "std", "min", "max"]
    for path, more in (
        ("w.json", []),
        ("b.json", ["total_var"]),
        ("e.json", ["weight", "effective_count"]),
    ):
        [row] = csv.DictReader(io.StringIO(good("show", path, "--format", "csv").stdout))
        assert list(row) == base + more
        lane = stats(path)["co2"]
        assert {name: float(row[name]) for name in more} == {name: lane[name] for name in more}
        shown = good("show", path).stdout
        assert all(name in shown for name in more)
        assert "newest row" not in shown
        assert "weights " not in shown
        assert f"{sbn.load(path).policy.describe()}\n" in shown  # on one line, however long


def test_show_before_anything_was_seen() -> None:
    Path("none.csv").write_text("x,at\n")
    ema = ("--policy", "ema", "--halflife", "1d", "--time", "at")
    good("fit", "none.csv", "-o", "s.json", *ema)
    shown = good("show", "s.json", "--at", "2026-03-01").stdout
    assert "newest row" not in shown
    assert "as of        2026-03-01\n" in shown


# --- what goes wrong ------------------------------------------------------------------


def test_usage_errors() -> None:
    table = pa.table({"x": [1.0, 2.0]})
    pq.write_table(table, "t.parquet")
    good("fit", "t.parquet", "-o", "s.json")
    fit = ("fit", "t.parquet", "-o", "out.json")
    for said, args in (
        ("No such command", ["nonsense"]),
        ("--nonsense", [*fit, "--nonsense"]),
        ("output", ["fit", "t.parquet"]),
        ("INPUT", ["fit", "-o", "out.json"]),
        ("median", [*fit, "--policy", "median"]),
        ("--halflife belongs to --policy ema, but the policy is exact", [*fit, "--halflife", 3]),
        ("--batch-ddof belongs to --policy batch-ema", [*fit, "--policy", "ema", "--alpha", 0.1,
                                                        "--batch-ddof", 0]),
        ("alpha", [*fit, "--policy", "ema"]),
        ("alpha", [*fit, "--policy", "ema", "--alpha", 2]),
        ("halflife", [*fit, "--policy", "ema", "--alpha", 0.1, "--halflife", 3]),
        ("--halflife 7d is a duration, which needs --time",
         [*fit, "--policy", "ema", "--halflife", "7d"]),
        ("got 'seven'", [*fit, "--policy", "ema", "--halflife", "seven"]),
        ("got '1mo'. A month", [*fit, "--policy", "ema", "--halflife", "1mo", "--time", "x"]),
        ("--alpha counts rows, and with --time x there are none",
         [*fit, "--policy", "ema", "--alpha", 0.1, "--time", "x"]),
        ("exactly one of --alpha, --halflife", [*fit, "--policy", "ema", "--time", "x"]),
        ("--no-adjust is for", [*fit, "--policy", "ema", "--halflife", 1, "--time", "x",
                                "--no-adjust"]),
        ("--ignore-na is for", [*fit, "--policy", "ema", "--halflife", 1, "--time", "x",
                                "--ignore-na"]),
        ("--time belongs to --policy ema", [*fit, "--time", "x"]),
        ("name the column with --time", [*fit, "--policy", "ema", "--halflife", 1,
                                         "--null-time", "skip"]),
        ("null-time", [*fit, "--policy", "ema", "--halflife", 1, "--time", "x",
                       "--null-time", "ignore"]),
        ("--weights x has no meaning for BatchEMA(decay=0.9)",
         [*fit, "--policy", "batch-ema", "--decay", 0.9, "--weights", "x"]),
        ("--weights x has no meaning for EMA(alpha=0.1, adjust=False)",
         [*fit, "--policy", "ema", "--alpha", 0.1, "--no-adjust", "--weights", "x"]),
        ("--weights cannot be changed", [*fit, "--continue-from", "s.json", "--weights", "x"]),
        ("--at '3': these statistics do not go by event time", ["show", "s.json", "--at", 3]),
        ("momentum", [*fit, "--policy", "batch-ema", "--momentum", 0.1, "--decay", 0.9]),
        ("--momentum", [*fit, "--policy", "batch-ema", "--momentum", "much"]),
        ("--initial", [*fit, "--policy", "batch-ema", "--momentum", 0.1, "--initial", "0"]),
        ("--affine", [*fit, "--affine", "x"]),
        ("--affine", [*fit, "--affine", "x=1"]),
        ("affine", [*fit, "--affine", "s.json"]),
        ("eps", [*fit, "--eps", -1]),
        ("--csv-type x=dubble", [*fit, "--csv-type", "x=dubble"]),
        ("--eps cannot be changed", [*fit, "--continue-from", "s.json", "--eps", 1]),
        ("is one of the inputs", ["fit", "t.parquet", "-o", "t.parquet"]),
        ("no/such does not exist", ["fit", "t.parquet", "-o", "no/such/out.json"]),
        ("is not a regular file", ["fit", "t.parquet", "-o", "/dev/null"]),
        (".parquet", ["apply", "s.json", "t.parquet", "-o", "out.txt"]),
        ("is one of the inputs", ["apply", "s.json", "t.parquet", "-o", "./t.parquet"]),
        ("float16", ["apply", "s.json", "t.parquet", "-o", "out.csv", "--dtype", "float16"]),
        ("same file", ["normalize", "t.parquet", "-o", "o.csv", "--save", "o.csv"]),
        ("yaml", ["show", "s.json", "--format", "yaml"]),
    ):  # fmt: skip
        assert said in bad(2, *args), args
    said = bad(2, "normalize", "-", "-o", "out.parquet", input=ipc(table), text=False)
    assert "reads its inputs twice" in said
    assert "fit on one" in said


def test_times_to_show_that_are_none_or_have_passed(trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    for name, halflife, column in (("t", "2d", "at"), ("n", 1, "volume")):
        ema = ("--policy", "ema", "--halflife", halflife, "--time", column)
        good("fit", "t.parquet", "-o", f"{name}.json", *ema)
    for path, at, said in (
        ("t.json", "tomorrow", "--at 'tomorrow': must be a time such as 2026-01-31"),
        ("t.json", "3", "--at '3': must be a time"),
        ("t.json", "2026-03-01", "--at '2026-03-01': lies "),
        ("n.json", "2026-03-01", "--at '2026-03-01': must be a number"),
        ("n.json", "nan", "--at 'nan': must be a time like those in column 'volume'"),
        ("n.json", "3", "--at '3': lies 1 half-lives before the newest row"),
    ):
        assert said in bad(2, "show", path, "--at", at)


def test_columns_that_are_no_times_or_no_weights(trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    fit = ("fit", "t.parquet", "-o", "s.json")
    for code, said, flags in (
        (1, "'at' is timestamp[ms], but --halflife 30 has no unit. Give a duration, such as "
         "--halflife 7d", ["--halflife", 30, "--time", "at"]),
        (1, "'volume' holds plain numbers (int64), and --halflife 7d is a duration",
         ["--halflife", "1w", "--time", "volume"]),
        (3, "'venue' is string, which is not an event", ["--halflife", "7d", "--time", "venue"]),
        (3, "Did you mean 'venue'?", ["--halflife", "7d", "--time", "venu"]),
        (3, "Did you mean 'volume'?", ["--halflife", 9, "--weights", "volumes"]),
        (3, "'at' is timestamp[ms], which is not one number", ["--halflife", 9, "--weights", "at"]),
        (1, "nulls. The batch was rejected", ["--halflife", 9, "--weights", "price"]),
    ):  # fmt: skip
        told = bad(code, *fit, "--policy", "ema", *flags)
        assert "t.parquet: " in told
        assert said in told


@pytest.fixture
def fitted() -> str:
    pq.write_table(pa.table({"price": [1.0, 2.0], "s": ["a", "b"]}), "t.parquet")
    good("fit", "t.parquet", "-o", "s.json", "--frozen")
    return "s.json"


def test_schema_errors_name_file_and_column(fitted: str) -> None:
    pq.write_table(pa.table({"prize": [1.0]}), "other.parquet")
    pq.write_table(pa.table({"price": ["1"], "s": ["a"]}), "text.parquet")
    pq.write_table(pa.table({"price": [1.0], "s": ["a"], "more": [1]}), "more.parquet")
    said = bad(3, "fit", "t.parquet", "-o", "out.json", "--columns", "prise")
    assert "'prise'" in said
    assert "'price'" in said
    assert "'s'" in bad(3, "fit", "t.parquet", "-o", "out.json", "--columns", "s")
    said = bad(3, "fit", "t.parquet", "other.parquet", "-o", "out.json")
    assert "other.parquet" in said
    assert "'price'" in said
    for out in ("out.csv", "out/", "-"):
        said = bad(3, "apply", fitted, "text.parquet", "-o", out)
        assert "text.parquet" in said
        assert "'price'" in said
    said = bad(3, "apply", fitted, "t.parquet", "more.parquet", "-o", "out.parquet")
    assert "more.parquet" in said
    assert "'more'" in said


def test_a_failure_midway_leaves_nothing(fitted: str) -> None:
    pq.write_table(pa.table({"price": [math.inf], "s": ["a"]}), "inf.parquet")
    said = bad(1, "fit", "t.parquet", "inf.parquet", "-o", "out.json")
    assert "inf.parquet" in said
    assert "'price'" in said
    for out in ("out.csv", "out.parquet", "out.arrow", "out.arrows"):
        assert "inf.parquet" in bad(1, "apply", fitted, "t.parquet", "inf.parquet", "-o", out)


def test_a_failure_in_a_folder_leaves_what_was_done(fitted: str) -> None:
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


def test_an_old_output_survives_a_failure(fitted: str) -> None:
    Path("out.csv").write_text("old")
    pq.write_table(pa.table({"price": [math.inf]}), "inf.parquet")
    bad(1, "apply", fitted, "inf.parquet", "-o", "out.csv")
    assert Path("out.csv").read_text() == "old"


def test_damaged_inputs(fitted: str) -> None:
    content = Path("t.parquet").read_bytes()
    Path("short.parquet").write_bytes(content[:-20])
    Path("empty.parquet").touch()
    Path("rubbish.csv").write_bytes(bytes(range(256)))
    for path in ("short.parquet", "empty.parquet", "rubbish.csv", "nothing.csv", "no*.csv"):
        assert path in bad(1, "fit", path, "-o", "out.json")
        assert path in bad(1, "apply", fitted, path, "-o", "out.csv")
    stream = ipc(pa.table({"price": [1.0] * 1000, "s": ["a"] * 1000}))
    for content in (b"", b"a,b\n1,2\n", stream[:-500]):
        assert "standard input" in bad(1, "fit", "-", "-o", "o.json", input=content, text=False)
    assert "CSV" in bad(1, "fit", "-", "-o", "o.json", input="a,b\n1,2\n")


def test_corrupt_statistics(fitted: str) -> None:
    text = Path(fitted).read_text()
    number = max(i for i, c in enumerate(text) if c in "12345678")
    for broken in ("", "{}", text[:-10], text[:number] + "9" + text[number + 1 :]):
        Path("broken.json").write_text(broken)
        assert "broken.json" in bad(5, "show", "broken.json")
    for args in (
        ["apply", "broken.json", "t.parquet", "-o", "out.csv"],
        ["merge", fitted, "broken.json", "-o", "out.json"],
        ["fit", "t.parquet", "--continue-from", "broken.json", "-o", "out.json"],
    ):
        assert "broken.json" in bad(5, *args)
    assert "t.parquet" in bad(5, "show", "t.parquet")
    assert "nothing.json" in bad(1, "show", "nothing.json")


def test_statistics_that_do_not_belong_together(fitted: str) -> None:
    good("fit", "t.parquet", "-o", "ema.json", "--policy", "ema", "--alpha", 0.1)
    assert "ema.json" in bad(1, "merge", fitted, "ema.json", "-o", "out.json")


def test_no_permission(fitted: str) -> None:
    Path("locked").mkdir(mode=0o500)
    # Root may write everywhere, but nobody makes files in /sys.
    folder = "locked" if os.geteuid() else "/sys"
    said = bad(1, "apply", fitted, "t.parquet", "-o", f"{folder}/out.csv")
    assert "Permission denied" in said or "Read-only file system" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(fitted: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "apply", fitted, "t.parquet", "-o", "-"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENV, timeout=TIMEOUT,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "streambn: No space left on device\n"


# --- pipes and signals ----------------------------------------------------------------


@pytest.fixture
def large() -> str:
    """Statistics, and an Arrow file large enough for a pipe to fill."""
    table = pa.table({"x": pa.array(range(1_000_000), pa.float64())})
    with pa.ipc.new_file("large.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    good("fit", "large.arrow", "-o", "s.json")
    return "large.arrow"


@pytest.mark.parametrize(
    "args",
    ["apply s.json large.arrow -o -", "show s.json", "show s.json --format csv", "demo", "--help"],
)
def test_whoever_reads_may_go_away(large: str, args: str) -> None:
    with subprocess.Popen(
        [*COMMAND, *args.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    ) as process:
        assert process.stdout
        assert process.stderr
        if args.startswith("apply"):
            assert process.stdout.read(10)
        process.stdout.close()
        # The help is printed by typer, some releases of which have a code of their own.
        assert process.wait(TIMEOUT) in ((1, 141) if args == "--help" else (141,))
        assert process.stderr.read() == b""


def test_head(large: str) -> None:
    command = " ".join([*COMMAND, "apply", "s.json", large, "-o", "-"])
    done = subprocess.run(
        f"{command} | head -c 10", shell=True, capture_output=True, env=ENV, check=False
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, b"")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "args",
    [
        "fit - -o out.json",
        "apply s.json - -o out.parquet",
        "apply s.json - -o out.csv",
        "apply s.json - -o new/",
        "apply s.json - -o -",
    ],
)
def test_an_interrupt_while_waiting_leaves_no_output(number: int, code: int, args: str) -> None:
    table = pa.table({"x": pa.array(range(1000), pa.float64())})
    pq.write_table(table, "t.parquet")
    good("fit", "t.parquet", "-o", "s.json")
    before = tree()
    with subprocess.Popen(
        [*COMMAND, *args.split()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV,
    ) as process:  # fmt: skip
        assert process.stdin
        writer = pa.ipc.new_stream(process.stdin, table.schema)
        for _ in range(5):
            writer.write_table(table)
        process.stdin.flush()
        wait_until_idle(process)
        # A hidden file of the output, or of the lock of a checkpoint.
        assert (tree() != before) == (not args.endswith("-o -"))
        process.send_signal(number)
        assert process.wait(TIMEOUT) == code
        assert process.stderr
        said = process.stderr.read().decode()
        learned = args.startswith("fit")
        assert said == "streambn: stopped; --resume goes on from out.json.checkpoint\n" * learned
    # What was learned of a pipe cannot be learned again.
    assert tree() == sorted([*before, *["out.json.checkpoint"] * learned])


def wait_until_idle(process: subprocess.Popen[bytes]) -> None:
    """Wait until the command has read all that it was sent, and sleeps."""
    assert process.stdin
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(0.05)
        unread = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4))
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if unread == bytes(4) and state == "S":
            time.sleep(0.1)
            return
    pytest.fail("the command does not read")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv"])
def test_an_interrupt_while_working_leaves_nothing(number: int, suffix: str) -> None:
    table = pa.table({"x": pa.array(range(1_000_000), pa.float64())})
    table = pa.concat_tables([table] * 20)
    pyarrow.parquet.write_table(table, "t.parquet")
    good("fit", "t.parquet", "-o", "s.json")
    before = tree()
    with subprocess.Popen(
        [*COMMAND, "apply", "s.json", "t.parquet", "-o", f"out{suffix}"],
        stderr=subprocess.PIPE, env=ENV,
    ) as process:  # fmt: skip
        while tree() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 128 + number
        assert process.stderr
        assert process.stderr.read() == b""
    assert tree() == before


@pytest.mark.parametrize(("stop", "code"), [("KeyboardInterrupt", 130), ("SystemExit(143)", 143)])
def test_an_interrupt_that_strikes_where_python_swallows_it_is_not_lost(
    stop: str, code: int
) -> None:
    script = (
        "import time, streambn.cli.main\n"
        "class Finalized:\n"
        "    def __del__(self):\n"
        f"        raise {stop}\n"
        "def work(arguments):\n"
        "    Finalized()\n"
        "    time.sleep(30)\n"
        "streambn.cli.main._invoke = work\n"
        "streambn.cli.main.main()"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=ENV, check=False)
    assert (done.returncode, done.stderr) == (code, b"")
    assert time.monotonic() - started < 20


# --- the command itself ---------------------------------------------------------------


def test_version() -> None:
    for arguments in (["--version"], ["show", "--version"]):
        out = good(*arguments).stdout
        assert (
            out == f"streambn {sbn.__version__}, {kernels.describe()}; pyarrow {pa.__version__}\n"
        )
    assert kernels.describe().startswith(f"{kernels.active} kernels (")


@pytest.mark.parametrize("command", ["fit", "apply", "normalize", "merge", "show", "demo"])
def test_help_of_every_command_has_an_example(command: str) -> None:
    done = good(command, "--help", env={**ENV, "COLUMNS": "100", "NO_COLOR": "1"})
    assert f"streambn {command} " in done.stdout
    assert "Example:" in done.stdout
    assert done.stderr == ""
    assert command in good("--help").stdout
    assert good().stdout == good("--help").stdout


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nimport streambn.cli.main\nstreambn.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENV
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "streambn: the streambn command needs its extra: pip install 'streambn[cli]'\n"
    )


def test_the_library_does_not_load_the_command() -> None:
    code = (
        "import sys, streambn\n"
        "heavy = {'typer', 'rich', 'pyarrow.parquet', 'pyarrow.csv', 'streambn.cli.main',\n"
        "         'streambn.io.sources', 'streambn.io.formats', 'streambn.jobs.plan', 'streambn.cli.demo'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def in_a_terminal(*args: str, code: int = 0) -> str:
    """Run with stdout and stderr on a pseudo-terminal; return what it showed."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    env = {**ENV, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*COMMAND, *args], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as screen:
            while True:
                try:
                    piece = screen.read(65_536)
                except OSError:  # how Linux says that the other end is closed
                    break
                if not piece:
                    break
                shown += piece
        assert process.wait(TIMEOUT) == code, shown
    return shown.decode(errors="replace")


def test_progress_only_on_a_terminal(large: str) -> None:
    shown = in_a_terminal("fit", large, "-o", "t.json")
    assert "fitting" in shown
    assert "rows/s" in shown
    assert "of 1 file" in shown
    shown = in_a_terminal("fit", large, "-o", "t.json", "--quiet")
    assert shown == ""


def test_show_on_a_narrow_terminal_leaves_the_variance_out(mixed: str) -> None:
    shown = in_a_terminal("show", mixed)
    assert "std" in shown
    assert "var" not in shown
    assert "revenue_of_the_whole_group" in shown


def test_show_on_a_narrow_terminal_leaves_out_what_only_some_policies_have(mixed: str) -> None:
    good("fit", "mixed.parquet", "-o", "ema.json", "--policy", "ema", "--halflife", 10)
    shown = in_a_terminal("show", "ema.json")
    assert "std" in shown
    assert "var" not in shown
    assert "effective_count" not in shown
    assert "effective_count" in good("show", "ema.json").stdout


def test_nothing_binary_goes_to_a_terminal(fitted: str) -> None:
    shown = in_a_terminal("apply", fitted, "t.parquet", "-o", "-", code=2)
    said = "streambn: standard output is a terminal: pipe it on, or name a file"
    assert " ".join(shown.split()) == said


# --- what a job must not do to its own files ------------------------------------------


def test_statistics_are_not_replaced_by_the_output(fitted: str) -> None:
    Path("stats.csv").write_bytes(Path(fitted).read_bytes())
    before = Path("stats.csv").read_bytes()
    assert "stats.csv" in bad(2, "apply", "stats.csv", "t.parquet", "-o", "stats.csv")
    assert Path("stats.csv").read_bytes() == before


def test_statistics_do_not_go_where_the_next_run_would_read_them(fitted: str) -> None:
    Path("d").mkdir()
    Path("d/t.parquet").write_bytes(Path("t.parquet").read_bytes())
    assert "lies in the input folder" in bad(2, "fit", "d", "-o", "d/stats.json")
    assert "to a file" in bad(2, "fit", "t.parquet", "-o", "-")
    assert "to a file" in bad(2, "merge", fitted, "-o", "-")
    good("merge", fitted, "-o", "merged.json", "--quiet")


def test_a_shard_without_rows_merges_and_cannot_be_applied(fitted: str) -> None:
    pq.write_table(pa.table({"price": pa.array([], pa.float64())}), "none.parquet")
    good("fit", "none.parquet", "-o", "none.json")
    good("merge", fitted, "none.json", "-o", "merged.json")
    shown = [good("show", f, "--format", "csv").stdout for f in (fitted, "merged.json")]
    assert shown[0] == shown[1]
    assert "no data was seen" in bad(1, "apply", "none.json", "t.parquet", "-o", "out.csv")
    assert "no data was seen" in bad(1, "normalize", "none.parquet", "-o", "out.csv")


# --- CSV ------------------------------------------------------------------------------


def test_csv_keeps_nan_apart_from_null() -> None:
    Path("t.csv").write_text("x,y\n1,1\nnan,2\n,3\n3,4\n")
    good("fit", "t.csv", "-o", "s.json")
    shown = json.loads(good("show", "s.json", "--format", "json").stdout)
    assert [shown["columns"][0][name] for name in ("count", "nulls", "nans")] == [2, 1, 1]
    assert "NaN" in bad(1, "fit", "t.csv", "-o", "r.json", "--nan", "raise")
    good("apply", "s.json", "t.csv", "-o", "out.csv")
    assert [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()[1:]] == [
        "-1", "nan", "", "1",
    ]  # fmt: skip


def test_an_empty_line_is_a_row_of_a_csv_of_one_column() -> None:
    Path("one.csv").write_text("x\n1\n\n3\n")
    good("normalize", "one.csv", "-o", "out.csv", "--save", "s.json")
    assert Path("out.csv").read_text().splitlines()[1:] == ["-1", "", "1"]
    good("normalize", "out.csv", "-o", "again.csv")
    assert Path("again.csv").read_text() == Path("out.csv").read_text()


def test_line_breaks_in_a_csv_are_data() -> None:
    rows = 100_000
    text = pa.array([f"line\n{i}\nmore text" for i in range(rows)])
    pq.write_table(pa.table({"x": pa.array(range(rows), pa.float64()), "s": text}), "nl.parquet")
    good("normalize", "nl.parquet", "-o", "nl.csv")
    said = good("fit", "nl.csv", "-o", "s.json").stderr
    assert "100,000 rows" in said
