"""`streambn show`: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import ast
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
from markdown_it import MarkdownIt
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


def test_columns_with_too_few_values_are_marked() -> None:
    fit(pa.table({"x": [1.0, 2.0], "y": [1.0, None], "z": [1.0, 3.0]}), "--min-count", 2)
    out = good("show", "s.json").stdout
    assert [line.split()[0] for line in out.splitlines() if line.endswith("few values")] == ["y"]
    assert "few values: normalizes to null until there are 2\n" in out
    assert [row["known"] for row in show_json("s.json")["columns"]] == [True, False, True]
    assert [row["known"] for row in show_csv("s.json")] == ["True", "False", "True"]


def test_statistics_of_no_data() -> None:
    sbn.Normalizer(sbn.EMA(halflife="1d", time="at")).save("s.json")
    for form in ("table", "markdown", "json", "csv"):
        assert "no values" not in good("show", "s.json", "--format", form).stdout
    shown = good("show", "s.json", "--at", "2026-03-01").stdout
    assert "newest row" not in shown
    assert "as of        2026-03-01\n" in shown


def test_table_of_options() -> None:
    fit(pa.table({"x": [1.0, 2.0], "w": [1, 2]}), "--eps", 0.5, "--clip", 3, "--policy", "welford",
        "--weights", "w")  # fmt: skip
    lines = good("show", "s.json").stdout.splitlines()
    assert lines[1:3] == ["options      eps=0.5, clip=3.0", "weights      column 'w'"]


# --- many features --------------------------------------------------------------------


@pytest.fixture
def wide() -> str:
    """Statistics of 60 features, of which the last are constant, empty and ordinary."""
    columns = {f"g{i}": pa.array([1.0, float(i) + 2]) for i in range(57)}
    empty = pa.array([None, None], pa.float64())
    fit(pa.table({**columns, "a,b": [4, 4], "void": empty, "emb": [1, 5]}))
    return "s.json"


def names(shown: str) -> list[str]:
    """Return the first column of a table, without its heading."""
    table = re.split(r"\n\s*\n", shown)[1].splitlines()
    return [line.split()[0] for line in table[2:] if not line.startswith("⚠")]


def test_a_long_table_shows_the_first_features_and_says_how_to_see_the_rest(wide: str) -> None:
    done = good("show", wide)
    assert names(done.stdout) == [f"g{i}" for i in range(40)]
    more = (
        "20 more features, 1 of them constant, 1 of them without values: see all with --all, "
        "some with --columns 'NAME,PATTERN*'."
    )
    assert done.stdout.splitlines()[-1] == more
    assert done.stderr == f"streambn: {more}\n"  # `show | grep void` finds nothing
    assert "rows         2\n" in done.stdout

    done = good("show", wide, "--all")
    assert names(done.stdout) == [*stats("s.json")]
    assert done.stdout.splitlines()[-1].startswith("⚠ constant")
    assert done.stderr == ""


def test_a_long_table_in_markdown(wide: str) -> None:
    done = good("show", wide, "--format", "markdown")
    assert done.stdout.splitlines()[-1] in done.stderr
    assert [row[0] for row in markdown_table(done.stdout)] == [f"g{i}" for i in range(40)]
    done = good("show", wide, "--format", "markdown", "--all")
    assert [row[0] for row in markdown_table(done.stdout)] == [*stats("s.json")]


def test_programs_get_all_features(wide: str) -> None:
    assert len(show_csv(wide)) == len(show_json(wide)["columns"]) == 60


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--columns", "g7"], ["g7"]),
        (["--columns", "void,g1"], ["g1", "void"]),
        (["--columns", "g1?,emb"], [*(f"g{i}" for i in range(10, 20)), "emb"]),
        (["--columns", '"a,b"', "--columns", "g1"], ["g1", "a,b"]),
        (["--columns", '"[ab],*"', "--columns", "e*"], ["a,b", "emb"]),
        (["--columns", "*"], [f"g{i}" for i in range(40)]),
    ],
)
def test_chosen_columns(flags: list[str], found: list[str], wide: str) -> None:
    assert names(good("show", wide, *flags).stdout) == found
    if flags[1] != "*":
        assert [row["column"] for row in show_csv(wide, *flags)] == found
        everything = {row["column"]: row for row in show_json(wide)["columns"]}
        shown = show_json(wide, *flags)
        assert shown["columns"] == [everything[name] for name in found]
        assert shown["rows"] == 2


def test_a_vector_is_chosen_by_its_name(mixed: str) -> None:
    for name in ("emb", "emb[[]?]", "emb[0],emb[1]"):
        assert [r["column"] for r in show_csv(mixed, "--columns", name)] == ["emb[0]", "emb[1]"]
    assert [r["column"] for r in show_csv(mixed, "--columns", "emb[1]")] == ["emb[1]"]


def test_a_column_that_does_not_exist(wide: str) -> None:
    message = bad(2, "show", wide, "--columns", "g1,vold")
    assert "--columns: 'vold' names no feature" in message
    assert "Did you mean 'void'?" in message


def test_a_table_that_is_longer_than_the_terminal_opens_a_pager(wide: str) -> None:
    Path("pager").write_text("#!/bin/sh\necho paged\ncat\n")
    Path("pager").chmod(0o755)
    pager = str(Path("pager").resolve())
    shown = in_a_terminal("show", wide, keyboard=True, PAGER=pager, LINES="30")
    assert shown.startswith("paged")
    assert "20 more features" in shown
    for flags in ({"LINES": "60"}, {"LINES": "30", "keyboard": False}):
        shown = in_a_terminal("show", wide, **{"keyboard": True, "PAGER": pager, **flags})
        assert "paged" not in shown
        assert "20 more features" in shown


# --- names ----------------------------------------------------------------------------

# fmt: off
ODD = [
    "", " ", " x", "x ", "x", "'x'", "x  y", "a.b", "a\\nb", "a\nb", "a\rb", "\t", "\x00",
    "\x1b[31m", 'q"', "it's", "漢字", "\u202ejpg", "a|b", "`a`", "*a*", "<b>a</b>", "a,b",
    "&amp;", "\\",
]
# fmt: on


@pytest.fixture
def odd() -> str:
    schema = pa.schema([(name, pa.float64()) for name in ODD])
    fit(pa.table([pa.array([1.0, 2.0])] * len(ODD), schema))
    return "s.json"


def test_programs_get_names_as_they_are(odd: str) -> None:
    assert [row["column"] for row in show_csv(odd)] == ODD
    assert [row["column"] for row in show_json(odd)["columns"]] == ODD
    for name in ODD:
        if name:
            quoted = '"' + name.replace('"', '""') + '"'
            assert [row["column"] for row in show_csv(odd, "--columns", quoted)] == [name]


def test_people_get_one_line_a_name_and_no_two_alike(odd: str) -> None:
    out = good("show", odd).stdout
    assert all(line.isprintable() for line in out.splitlines())
    shown = [line.split("    ")[0] for line in out.splitlines()[-len(ODD) :]]
    # A quoted name is a string in Python.
    assert [ast.literal_eval(x) if x[0] in "'\"" else x for x in shown] == ODD


@pytest.mark.parametrize("form", ["table", "markdown", "json", "csv"])
def test_a_terminal_does_not_obey_names(form: str, odd: str) -> None:
    shown = in_a_terminal("show", odd, "--format", form, NO_COLOR="1")
    assert shown.replace("\r\n", "").isprintable()
    assert r"\x1b[31m" in shown or r"\u001b[31m" in shown


def test_markdown_shows_names_as_they_are(odd: str) -> None:
    shown = [row[0] for row in markdown_table(good("show", odd, "--format", "markdown").stdout)]
    assert [ast.literal_eval(x) if x[0] in "'\"" else x for x in shown] == ODD


def test_names_beyond_the_encoding_of_stdout(odd: str) -> None:
    ascii_only = {**ENV, "PYTHONIOENCODING": "ascii"}
    for form in ("table", "markdown", "csv", "json"):
        out = good("show", odd, "--format", form, env=ascii_only).stdout
        assert out.isascii()
        assert "\\u6f22\\u5b57" in out


# --- Markdown -------------------------------------------------------------------------


def markdown_table(shown: str) -> list[list[str]]:
    """Return the rows of the table, as a parser of Markdown reads them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(shown)
    kinds = [token.type for token in tokens]
    body = tokens[kinds.index("tbody_open") : kinds.index("tbody_close")]
    cells = iter(token for token in body if token.type == "inline")
    width = kinds.count("th_open")
    texts = ["".join(p.content for p in cell.children if p.type != "html_inline") for cell in cells]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


def test_markdown(mixed: str) -> None:
    out = good("show", mixed, "--format", "markdown").stdout
    frozen = sbn.load(mixed)
    assert out.splitlines()[:4] == [
        f"- policy: `{frozen.policy.describe()}`",
        "- state: frozen",
        f"- fingerprint: `{frozen.fingerprint}`",
        "- rows: 1,500",
    ]
    rows = {row[0]: row[1:] for row in markdown_table(out)}
    assert [*rows] == [*stats(mixed)]
    assert rows["flat"] == ["1,500", "0", "0", "7", "0", "0", "7", "7", "⚠ constant"]
    assert out.splitlines()[-1].startswith("⚠ constant")


# --- JSON and CSV ---------------------------------------------------------------------


def test_json(mixed: str) -> None:
    shown, frozen = show_json(mixed), sbn.load(mixed)
    assert shown["state"] == "frozen"
    assert shown["policy"] == {"kind": "exact", "description": frozen.policy.describe()}
    assert shown["fingerprint"] == frozen.fingerprint
    assert shown["rows"] == 1500
    statistics = frozen.stats().to_pylist()
    for row, expected in zip(shown["columns"], statistics, strict=True):
        assert {name: row[name] for name in expected} == expected  # to the last digit
    assert [row["column"] for row in shown["columns"]][-2:] == ["emb[0]", "emb[1]"]


OPTIONS = {
    "ddof": ["--ddof", 1],
    "eps": ["--eps", 0.25],
    "not centered": ["--no-center", "--clip", 1.5],
    "not scaled": ["--no-scale", "--affine", "emb[1]=0.5,2"],
    "affine": ["--affine", "emb=3,-1", "--affine", "emb[1]=0.5,2", "--clip", 0.5],
    "momentum": ["--policy", "batch-ema", "--momentum", 0.3],
}


@pytest.mark.parametrize("flags", OPTIONS.values(), ids=OPTIONS)
def test_json_has_all_that_applies_the_statistics(flags: list[object], mixed: str) -> None:
    del mixed
    good("fit", "mixed.parquet", "-o", "s.json", *flags)
    shown, norm = show_json("s.json"), sbn.load("s.json")
    table = pq.read_table("mixed.parquet")
    out = norm.transform(table)

    def values(table: pa.Table, name: str) -> np.ndarray:
        name, _, index = name.partition("[")
        if index:
            return np.array(table[name].to_pylist(), float)[:, int(index[:-1])]
        return table[name].to_numpy().astype(float)

    for row in shown["columns"]:
        if row["scale"] is None:
            assert row["count"] == 0
            continue
        centered = values(table, row["column"]) - row["mean"] * shown["options"]["center"]
        z, clip = centered / row["scale"], shown["options"]["clip"]
        z = z if clip is None else np.clip(z, -clip, clip)
        expected = z * row["gamma"] + row["beta"]
        np.testing.assert_allclose(values(out, row["column"]), expected, rtol=1e-13, atol=1e-13)
        assert row["constant"] == (row["var"] == 0)


@pytest.mark.parametrize(
    ("flags", "policy", "options"),
    [
        (["--policy", "welford", "--ddof", 1], {"kind": "welford"}, {"ddof": 1}),
        (
            ["--policy", "ema", "--span", 9, "--ignore-na", "--no-scale"],
            {"kind": "ema", "span": 9.0, "alpha": None, "adjust": True, "ignore_na": True},
            {"scale": False},
        ),
        (
            ["--policy", "ema", "--halflife", "7d", "--time", "date", "--weights", "w"],
            {"kind": "ema", "halflife": "7d", "time": "date"},
            {"weights": "w"},
        ),
        (
            ["--policy", "batch-ema", "--momentum", 0.25, "--clip", 2, "--affine", "co2=2,1"],
            {"kind": "batch-ema", "momentum": 0.25, "ddof": 1, "batch_rows": None},
            {"clip": 2.0, "affine": {"co2": [2.0, 1.0]}},
        ),
    ],
)
def test_json_has_policy_and_options_as_data(
    flags: list[object], policy: dict[str, object], options: dict[str, object], co2: pd.DataFrame
) -> None:
    pq.write_table(pa.Table.from_pandas(co2.assign(w=2.0)), "t.parquet")
    good("fit", "t.parquet", "-o", "s.json", "--columns", "co2", *flags)
    shown, norm = show_json("s.json"), sbn.load("s.json")
    assert policy.items() <= shown["policy"].items()
    assert shown["policy"]["description"] == norm.policy.describe()
    defaults = {
        "eps": 0.0, "ddof": 0, "center": True, "scale": True, "affine": None, "clip": None,
        "nan": "ignore", "inf": "raise", "weights": None, "schema": "fixed", "min_count": 0,
    }  # fmt: skip
    assert shown["options"] == defaults | options


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
        "left out     venue (string)",
    ]
    assert lines[7].split() == [
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
        assert shown["options"]["weights"] == "volume"
        assert (shown["newest"], shown["at"]) == times
        [decayed] = shown["columns"]
        assert decayed.pop("weight") == pytest.approx(weight, rel=1e-12)
        same = {name: value for name, value in row.items() if name != "weight"}
        assert {name: decayed[name] for name in same} == same
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
