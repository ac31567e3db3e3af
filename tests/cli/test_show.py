"""`streambn show`: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import CO2, ENV, bad, fit, good, stats
from terminal import in_a_terminal

import streambn as sbn

BASE = ["column", "count", "nulls", "nans", "infs", "mean", "var", "std", "min", "max"]


def show_json(path: str, *flags: object) -> dict:
    out = good("show", path, "--format", "json", *flags).stdout
    return json.loads(out, parse_constant=pytest.fail)


def show_csv(path: str, *flags: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(good("show", path, "--format", "csv", *flags).stdout)))


# --- tables ---------------------------------------------------------------------------


def test_table(mixed: str) -> None:
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
    # Every number ends where its heading ends.
    for name in ("count", "nulls", "mean"):
        end = rows["column"].index(name) + len(name)
        assert all(rows[row][end - 1] != " " for row in ("flat", "emb[0]", "hole", "void"))
        assert all(rows[row][end : end + 1] in ("", " ") for row in ("flat", "emb[0]", "void"))


def test_table_in_ascii(mixed: str) -> None:
    for columns in ({}, {"COLUMNS": "40"}):
        done = good("show", mixed, env={**ENV, "PYTHONIOENCODING": "ascii", **columns})
        assert done.stdout.isascii()
        assert "! constant" in done.stdout


def test_table_of_live_statistics() -> None:
    good("fit", CO2, "-o", "stats.json")
    out = good("show", "stats.json").stdout
    assert "live" in out
    assert "constant" not in out
    assert re.search(r"co2 +2,225 +59 +340\.142 +\S+ +\S+ +313 +373\.9\s", out)


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize("policy", [["welford"], ["ema", "--halflife", 10]])
def test_a_table_fits_its_terminal_and_keeps_numbers_whole(
    columns: int, policy: list[object], mixed: str
) -> None:
    good("fit", "mixed.parquet", "-o", "live.json", "--policy", *policy)
    shown = in_a_terminal("show", "live.json", columns=columns)
    blocks = re.split(r"\n\s*\n", re.sub(r"\x1b\[[0-9;]*m", "", shown.replace("\r", "")))[1:]
    found: dict[str, dict[str, str]] = {}
    for block in blocks:
        lines = [line.rstrip() for line in block.splitlines()]
        assert all(len(line) <= columns for line in lines)
        header = lines[0].split()
        for line in lines[2:]:
            if not line.startswith("⚠"):
                name, *cells = line.split("⚠")[0].split()
                found.setdefault(name, {}).update(zip(header[1:], cells, strict=True))
    assert [*found] == [*stats("live.json")]
    for name, row in stats("live.json").items():
        for statistic, value in row.items():
            if statistic == "column" or (statistic == "infs" and not value):
                continue
            text = "-" if value is None else f"{value:,.6g}"
            expected = f"{value:,}" if isinstance(value, int) else text
            assert found[name][statistic] == expected


def test_a_pipe_has_no_width(mixed: str) -> None:
    assert good("show", mixed).stdout.count("revenue_of_the_whole_group") == 1


@pytest.mark.parametrize(
    ("values", "flags", "scale"),
    [
        ([7.0, 7.0], [], 1.0),
        ([7.0, 7.0], ["--eps", "0.25"], 0.5),
        ([7.0, 8.0], [], None),
        # A spread of floats within their rounding is none.
        ([1e17, 1e17 + 16], [], 1.0),
        # Integers are not rounded, so any spread counts.
        ([10**17, 10**17 + 10, 10**17 + 4], [], None),
        ([10**17] * 3, [], 1.0),
    ],
)
def test_constant_columns_are_those_that_transform_treats_as_constant(
    values: list[float], flags: list[str], scale: float | None
) -> None:
    table = pa.table({"x": values})
    fit(table, *flags)
    out = good("show", "s.json").stdout
    assert ("⚠ constant" in out) == (scale is not None)
    if scale is not None:
        assert f"constant: its scale is {scale:g}\n" in out
    deviations = np.array([float(x - values[0]) for x in values])
    expected = (deviations - deviations.mean()) / (scale or deviations.std())
    z = sbn.load("s.json").transform(table)["x"].to_numpy()
    np.testing.assert_allclose(z, expected, rtol=1e-14)


def test_statistics_of_no_data() -> None:
    Path("none.csv").write_text("x,at\n")
    ema = ("--policy", "ema", "--halflife", "1d", "--time", "at")
    good("fit", "none.csv", "-o", "s.json", *ema)
    shown = good("show", "s.json", "--at", "2026-03-01").stdout
    assert "newest row" not in shown
    assert "as of        2026-03-01\n" in shown


# --- JSON and CSV ---------------------------------------------------------------------


def test_json(mixed: str) -> None:
    shown, frozen = show_json(mixed), sbn.load(mixed)
    assert shown["state"] == "frozen"
    assert shown["policy"] == frozen.policy.describe()
    assert shown["fingerprint"] == frozen.fingerprint
    assert shown["rows"] == 1500
    assert shown["columns"] == frozen.stats().to_pylist()  # to the last digit
    assert [row["column"] for row in shown["columns"]][-2:] == ["emb[0]", "emb[1]"]


def test_json_spells_numbers_that_json_lacks_as_text() -> None:
    fit(
        pa.table({"x": [1.0, -math.inf], "y": [1.0, math.nan]}),
        "--inf",
        "propagate",
        "--nan",
        "propagate",
    )
    assert show_json("s.json")["columns"][1]["mean"] == "NaN"
    good("show", "s.json")


def test_csv(mixed: str) -> None:
    for row, expected in zip(show_csv(mixed), sbn.load(mixed).stats().to_pylist(), strict=True):
        assert row["column"] == expected["column"]
        for name in ("count", "mean", "var", "std", "min", "max"):
            assert (float(row[name]) if row[name] else None) == expected[name]


@pytest.mark.parametrize(
    ("flags", "policy", "more"),
    [
        ([], sbn.Exact(), []),
        (
            ["--policy", "batch-ema", "--decay", 0.99, "--batch-rows", 52],
            sbn.BatchEMA(decay=0.99, batch_rows=52),
            ["total_var"],
        ),
        (
            ["--policy", "ema", "--halflife", 52],
            sbn.EMA(halflife=52),
            ["weight", "effective_count"],
        ),
    ],
)
def test_statistics_that_only_some_policies_have(
    flags: list[object], policy: sbn.Exact | sbn.EMA | sbn.BatchEMA, more: list[str]
) -> None:
    good("fit", CO2, "-o", "s.json", *flags)
    assert sbn.load("s.json").policy == policy
    [row] = show_csv("s.json")
    assert list(row) == BASE + more
    expected = stats("s.json")["co2"]
    assert {name: float(row[name]) for name in more} == {name: expected[name] for name in more}
    shown = good("show", "s.json").stdout
    assert all(name in shown for name in more)
    assert "newest row" not in shown
    assert "weights " not in shown
    assert f"{policy.describe()}\n" in shown  # on one line, however long


# --- event time -----------------------------------------------------------------------


def test_statistics_by_event_time(trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    ema = ("--policy", "ema", "--halflife", "2d", "--time", "at", "--weights", "volume")
    good("fit", "t.parquet", "-o", "s.json", *ema)
    newest = trades["at"].to_numpy()[trades["volume"].to_numpy() > 0].max()
    lines = good("show", "s.json").stdout.splitlines()
    row = stats("s.json")["price"]
    assert [line.rstrip() for line in lines[:6]] == [
        "policy       EMA by event time in 'at': half-life 2d",
        "weights      column 'volume'",
        "state        live, can go on learning",
        f"rows         {row['count'] + row['nulls']}",
        f"newest row   {newest}",
        "",
    ]
    assert lines[6].split() == [
        "column", "count", "nulls", "mean", "var", "std", "min", "max", "weight", "effective_count",
    ]  # fmt: skip
    assert lines[-1].split()[-2:] == [f"{row['weight']:.6g}", f"{row['effective_count']:.6g}"]

    later = np.datetime64("2026-04-01T10:00:00")
    for at, when in ((newest, newest), ("2026-04-01T12:00+02:00", later)):
        weight = row["weight"] * 2 ** (-(when - newest) / np.timedelta64(1, "D") / 2)
        lines = good("show", "s.json", "--at", at).stdout.splitlines()
        assert lines[4:6] == [f"newest row   {newest}", f"as of        {when}"]
        shown = show_json("s.json", "--at", at)
        times = (str(newest), str(when))
        assert (shown["weights"], shown["newest"], shown["at"]) == ("volume", *times)
        [decayed] = shown["columns"]
        assert decayed.pop("weight") == pytest.approx(weight, rel=1e-12)
        assert decayed == {name: value for name, value in row.items() if name != "weight"}
        [decayed] = show_csv("s.json", "--at", at)
        assert float(decayed["weight"]) == pytest.approx(weight, rel=1e-12)
        assert list(decayed) == list(row)


@pytest.mark.parametrize(
    ("times", "halflife", "newest", "later"),
    [
        ([1, 3], "2", 3, "5"),
        ([1.0, 3.5], "2", 3.5, "5.5"),
        ([0, 2**53 + 1], "2", 2**53 + 1, str(2**53 + 3)),
        (pa.array([0, 1_500_000_000_000_000_001], pa.timestamp("ns")), "2ns",
         "2017-07-14T02:40:00.000000001", "2017-07-14T02:40:00.000000003"),
        (pa.array([0, 366], pa.date32()), "2d", "1971-01-02", "1971-01-04"),
        (pa.array([0, 10**15], pa.timestamp("ms")), "365d", "33658-09-27T01:46:40", None),
    ],
    ids=["integers", "floats", "large integers", "nanoseconds", "dates", "far future"],
)  # fmt: skip
def test_times_of_all_kinds(
    times: object, halflife: str, newest: object, later: str | None
) -> None:
    fit(pa.table({"x": [1.0, 2.0], "at": times}), "--policy", "ema", "--halflife", halflife,
         "--time", "at")  # fmt: skip
    shown = show_json("s.json")
    assert (shown["newest"], shown["at"]) == (newest, None)
    if later is not None:
        as_of = show_json("s.json", "--at", later)
        assert str(as_of["at"]) == later
        weight = shown["columns"][0]["weight"]
        assert as_of["columns"][0]["weight"] == pytest.approx(weight / 2)


def test_a_half_life_of_numbers_has_the_unit_of_the_times() -> None:
    fit(
        pa.table({"x": [1.0, 2.0], "at": [1, 3]}),
        "--policy",
        "ema",
        "--halflife",
        2,
        "--time",
        "at",
    )
    assert "half-life 2 of its unit" in good("show", "s.json").stdout


@pytest.mark.parametrize(
    ("path", "at", "message"),
    [
        ("t.json", "tomorrow", "--at: 'tomorrow' must be a time such as 2026-01-31"),
        ("t.json", "3", "--at: '3' must be a time"),
        ("t.json", "2026-03-01", "--at: at lies "),
        ("n.json", "2026-03-01", "--at: '2026-03-01' must be a number"),
        ("n.json", "nan", "--at: at must be a time like those in column 'volume'"),
        ("n.json", "3", "--at: at lies 1 half-lives before the newest row"),
        ("w.json", "3", "--at: '3' has no meaning for Exact: "),
    ],
)
def test_invalid_times(path: str, at: str, message: str, trades: pa.Table) -> None:
    pq.write_table(trades, "t.parquet")
    for name, halflife, column in (("t", "2d", "at"), ("n", 1, "volume")):
        ema = ("--policy", "ema", "--halflife", halflife, "--time", column)
        good("fit", "t.parquet", "-o", f"{name}.json", *ema)
    good("fit", "t.parquet", "-o", "w.json")
    assert message in bad(2, "show", path, "--at", at)
