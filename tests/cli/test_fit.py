"""`streambn fit`: what it learns, from which rows, and with which options."""

from __future__ import annotations

import json
import math
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
from cli_process import CO2, bad, fit, good, ipc, run, says, stats, tree

import streambn as sbn


def test_fit_a_csv(co2: pd.DataFrame) -> None:
    done = good("fit", CO2, "-o", "stats.json")
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "streambn: 2,284 rows, statistics of 1 column in stats.json",
        "streambn: left out: date (date32[day])",
    ]
    assert tree() == ["stats.json"]
    row = stats()["co2"]
    assert (row["count"], row["nulls"]) == (co2.co2.count(), co2.co2.isna().sum())
    assert row["mean"] == pytest.approx(co2.co2.mean(), rel=1e-14)
    assert row["var"] == pytest.approx(co2.co2.var(ddof=0), rel=1e-13)


def test_the_message_counts_columns_and_not_elements() -> None:
    vectors = pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float64(), 3))
    done = fit(pa.table({"v": vectors, "x": [1.0]}))
    assert done.stderr == "streambn: 1 row, statistics of 2 columns in s.json\n"


@pytest.mark.parametrize("form", ["csv", "parquet", "partitioned"])
def test_statistics_agree_with_duckdb_and_pandas(form: str, co2: pd.DataFrame) -> None:
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
    (row,) = stats().values()
    select = f"""SELECT count(co2), count(*) - count(co2), avg(co2), stddev_pop(co2), min(co2),
        max(co2) FROM {query}"""
    found = tuple(row[name] for name in ("count", "nulls", "mean", "std", "min", "max"))
    with duckdb.connect() as connection:
        assert found == pytest.approx(connection.execute(select).fetchone(), rel=1e-12)
    x = co2.co2
    expected = (x.count(), x.isna().sum(), x.mean(), x.std(ddof=0), x.min(), x.max())
    assert found == pytest.approx(expected, rel=1e-12)
    if form != "partitioned":
        return
    # A partition key is learned like any other column if it is named.
    good("fit", given, "-o", "stats.json", "--columns", "co2,year")
    year = stats()["year"]
    assert (year["count"], year["mean"]) == (len(co2), pytest.approx(co2.year.mean()))
    assert year["std"] == pytest.approx(co2.year.std(ddof=0), rel=1e-12)


# --- policies -------------------------------------------------------------------------


def test_exact_statistics_do_not_depend_on_order_files_or_batches() -> None:
    rng = np.random.default_rng(0)
    x = np.append(rng.normal(1e9, 1, 5000), [1e300, -1e300])
    pq.write_table(pa.table({"x": x}), "whole.parquet", row_group_size=700)
    for i, part in enumerate(np.array_split(rng.permutation(x), 5)):
        pq.write_table(pa.table({"x": part}), f"part-{i}.parquet")
    exact = ("--policy", "exact", "--quiet")
    good("fit", "whole.parquet", "-o", "whole.json", *exact, "--frozen", "--threads", 2)
    good("fit", "part-*.parquet", "-o", "parts.json", *exact, "--frozen")
    for i in range(5):
        good("fit", f"part-{i}.parquet", "-o", f"{i}.json", *exact)
    good("merge", *(f"{i}.json" for i in (3, 0, 4, 1, 2)), "-o", "merged.json", "--frozen")
    whole = Path("whole.json").read_bytes()
    assert Path("parts.json").read_bytes() == whole
    assert Path("merged.json").read_bytes() == whole
    assert stats("whole.json")["x"]["mean"] == float(sum(map(Fraction, x.tolist())) / len(x))
    good("apply", "whole.json", "whole.parquet", "-o", "out.parquet", "--quiet")
    shown = json.loads(good("show", "whole.json", "--format", "json").stdout)
    assert shown["policy"]["description"].startswith("Exact: every value counts equally")
    assert "weights" in bad(2, "fit", "whole.parquet", "-o", "w.json", *exact, "--weights", "x")


def test_every_option_reaches_the_normalizer() -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0, math.inf], "b": [1.0, 2.0, 4.0]}), "t.parquet")
    Path("affine.json").write_text('{"b": [2, 1]}')
    good(
        "fit", "t.parquet", "-o", "s.json", "--policy", "batch-ema", "--momentum", "0.25",
        "--batch-rows", 2, "--batch-ddof", 0, "--initial", "10,4", "--columns", "a", "--columns",
        "b", "--eps", 0.5, "--ddof", 1, "--no-center", "--scale", "--clip", 3, "--nan", "raise",
        "--inf", "ignore", "--affine", "a=3,-1", "--affine", "affine.json", "--min-count", 4,
    )  # fmt: skip
    loaded = sbn.load("s.json")
    assert loaded.policy == sbn.BatchEMA(momentum=0.25, batch_rows=2, ddof=0, initial=(10.0, 4.0))
    twin = sbn.Normalizer(
        loaded.policy, columns=["a", "b"], eps=0.5, ddof=1, center=False, clip=3, nan="raise",
        inf="ignore", affine={"a": (3, -1), "b": (2, 1)}, min_count=4,
    )  # fmt: skip
    twin.update(pq.read_table("t.parquet"))
    assert twin.freeze().fingerprint == loaded.freeze().fingerprint

    good("fit", "t.parquet", "-o", "s.json", "--inf", "ignore", "--policy", "batch-ema",
         "--momentum", "none", "--initial", "none")  # fmt: skip
    assert sbn.load("s.json").policy == sbn.BatchEMA(momentum=None, initial=None)
    good("fit", "t.parquet", "-o", "s.json", "--inf", "ignore", "--policy", "ema", "--span", 4,
         "--no-adjust", "--ignore-na")  # fmt: skip
    assert sbn.load("s.json").policy == sbn.EMA(span=4, adjust=False, ignore_na=True)


@pytest.mark.parametrize(
    ("flags", "policy"),
    [([], sbn.Exact()), (["--weights", "w"], sbn.Welford()), (["--policy", "welford"], None)],
)
def test_default_policy(flags: list[str], policy: sbn.Exact | sbn.Welford | None) -> None:
    fit(pa.table({"x": [1.0, 2.0], "w": [1, 2]}), *flags)
    assert sbn.load("s.json").policy == (policy or sbn.Welford())


# --- learning on ----------------------------------------------------------------------


def test_continue_from_gives_the_statistics_of_the_whole(co2: pd.DataFrame) -> None:
    table = pyarrow.csv.read_csv(CO2)
    pq.write_table(table.slice(0, 1000), "a.parquet")
    pq.write_table(table.slice(1000), "b.parquet")
    ema = ("--policy", "ema", "--halflife", 52)
    good("fit", "a.parquet", "-o", "a.json", *ema)
    good("fit", "b.parquet", "-o", "ab.json", "--continue-from", "a.json")
    good("fit", "b.parquet", "-o", "b.json", *ema)
    good("merge", "a.json", "b.json", "-o", "merged.json", "--frozen")
    assert isinstance(sbn.load("a.json"), sbn.Normalizer)
    assert isinstance(sbn.load("merged.json"), sbn.FrozenNormalizer)
    ewm = co2.co2.ewm(halflife=52)
    for path in ("ab.json", "merged.json"):
        assert stats(path)["co2"]["mean"] == pytest.approx(ewm.mean().iloc[-1], rel=1e-12)
        assert stats(path)["co2"]["var"] == pytest.approx(ewm.var(bias=True).iloc[-1], rel=1e-9)
    assert stats("ab.json")["co2"]["count"] == co2.co2.count()


def test_frozen_statistics_learn_on_only_if_thawed(fitted: str) -> None:
    fit = ("fit", "t.parquet", "-o", "out.json", "--continue-from", fitted)
    assert bad(2, *fit) == "streambn: s.json is frozen. To learn on from it, give --thaw."
    good(*fit, "--thaw")
    assert isinstance(sbn.load("out.json"), sbn.Normalizer)
    assert stats("out.json")["price"]["count"] == 4
    good("fit", "t.parquet", "-o", "on.json", "--continue-from", "out.json", "--thaw")


# --- event times and weights ----------------------------------------------------------


def weighted_stats(table: pa.Table, weight: np.ndarray) -> dict[str, float]:
    """Compute the statistics of the prices from their definition."""
    price = table["price"].to_numpy()
    valid = ~np.isnan(price) & (weight > 0)
    x, w = price[valid], weight[valid]
    mean = np.average(x, weights=w)
    return {
        "count": int(valid.sum()),
        "mean": mean,
        "var": np.average((x - mean) ** 2, weights=w),
        "weight": w.sum(),
        "effective_count": w.sum() ** 2 / (w**2).sum(),
    }


def decayed_weights(table: pa.Table, days: float, *, weighted: bool = True) -> np.ndarray:
    """Compute the weight of each row: its volume, halved every so many days.

    The newest row is the newest with a positive volume.
    """
    at, volume = table["at"].to_numpy(), table["volume"].to_numpy() if weighted else np.ones(900)
    return volume * np.exp2((at - at[volume > 0].max()) / np.timedelta64(1, "D") / days)


def assert_stats(path: str, expected: dict[str, float], column: str = "price") -> None:
    row = stats(path)[column]
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["parquet", "csv", "stdin"])
@pytest.mark.parametrize("weights", [None, "volume"])
def test_ema_by_event_time(form: str, weights: str | None, trades: pa.Table) -> None:
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
    expected = weighted_stats(trades, decayed_weights(trades, 1.5, weighted=weights is not None))
    assert_stats("s.json", expected)
    assert [*stats("s.json")] == ["price"]


def test_columns_of_times_and_weights_are_normalized_only_if_named(trades: pa.Table) -> None:
    seconds = trades["at"].cast(pa.int64())
    pq.write_table(trades.set_column(1, "at", seconds), "t.parquet")
    ema = ("--policy", "ema", "--halflife", 86_400, "--time", "at", "--weights", "volume")
    good("normalize", "t.parquet", "-o", "out.parquet", "--save", "s.json", *ema)
    assert [*stats("s.json")] == ["price"]
    out = pq.read_table("out.parquet")
    assert out["at"].equals(seconds)
    assert out["volume"].equals(trades["volume"])
    expected = weighted_stats(trades, decayed_weights(trades, 1))
    assert_stats("s.json", expected)
    z = (trades["price"].to_numpy() - expected["mean"]) / np.sqrt(expected["var"])
    np.testing.assert_allclose(out["price"].to_numpy(), z, rtol=1e-11, atol=1e-12)
    good("fit", "t.parquet", "-o", "s.json", *ema, "--columns", "at,price,volume")
    assert [*stats("s.json")] == ["at", "price", "volume"]


@pytest.mark.parametrize("policy", [["welford"], ["ema", "--span", 50]])
def test_sample_weights(policy: list[object], trades: pa.Table) -> None:
    fit(trades, "--weights", "volume", "--policy", *policy)
    volume = trades["volume"].to_numpy()
    newer_rows = np.cumsum(volume[::-1] > 0)[::-1] - 1.0  # rows of weight 0 do not count
    decay = 1.0 if policy == ["welford"] else 49 / 51
    assert_stats("s.json", weighted_stats(trades, volume * decay**newer_rows))


def test_event_time_continues_and_merges_in_any_order(trades: pa.Table) -> None:
    ema = ("--policy", "ema", "--halflife", "P2D", "--time", "at", "--weights", "volume")
    for name, start in (("a", 0), ("b", 300), ("c", 600)):
        pq.write_table(trades.slice(start, 300), f"{name}.parquet")
        good("fit", f"{name}.parquet", "-o", f"{name}.json", *ema)
    good("fit", "c.parquet", "b.parquet", "-o", "on.json", "--continue-from", "a.json")
    good("merge", "a.json", "b.json", "c.json", "-o", "abc.json")
    good("merge", "c.json", "a.json", "b.json", "-o", "cab.json", "--frozen")
    expected = weighted_stats(trades, decayed_weights(trades, 2))
    for path in ("on.json", "abc.json", "cab.json"):
        assert_stats(path, expected)


def test_a_partition_key_can_be_the_time_or_the_weight(partitions: pa.Table) -> None:
    ema = ("--policy", "ema", "--halflife", 1, "--time", "year")
    good("fit", "data", "-o", "s.json", *ema, "--columns", "n")
    n, year = partitions["n"].to_numpy(), partitions["year"].to_numpy()
    mean = np.average(n, weights=np.exp2(year - 2022.0))
    assert stats("s.json")["n"]["mean"] == pytest.approx(mean, rel=1e-14)
    good("fit", "data", "-o", "s.json", "--weights", "year")
    assert stats("s.json")["n"]["mean"] == pytest.approx(np.average(n, weights=year), rel=1e-14)
    assert "year" not in stats("s.json")


def test_rows_without_an_event_time() -> None:
    Path("t.csv").write_text("at,x\n2026-03-01,1\n,2\n2026-03-02,5\n")
    ema = ["fit", "t.csv", "-o", "s.json", "--policy", "ema", "--halflife", "1d", "--time", "at"]
    message = bad(1, *ema)
    says(message, "t.csv: column 'at'", "row 1 of the batch")
    assert bad(1, *ema, "--null-time", "raise") == message
    good(*ema, "--null-time", "skip")
    assert stats("s.json")["x"]["mean"] == pytest.approx(11 / 3)
    assert sbn.load("s.json").policy == sbn.EMA(halflife="1d", time="at", null_time="skip")


def test_fit_reads_only_the_columns_that_it_needs(trades: pa.Table) -> None:
    """The venues are damaged: reading them fails."""
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


# --- inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [["data"], ["data/**/*.parquet"], ["data/year=*"]])
def test_folders_and_globs(inputs: list[str], partitions: pa.Table) -> None:
    good("fit", *inputs, "-o", "stats.json")
    rows = stats()
    assert list(rows) == ["x", "n"]  # the partition key is not learned
    assert rows["x"]["count"] == 6
    assert rows["n"]["mean"] == pytest.approx(pl.from_arrow(partitions)["n"].mean())

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
    assert one["year"].equals(partitions["year"])
    assert one["s"].to_pylist() == partitions["s"].to_pylist()
    z = (2020.5 - rows["x"]["mean"]) / rows["x"]["std"]
    assert one["x"].to_pylist()[0] == pytest.approx(z)


def test_files_are_read_in_the_order_of_the_arguments() -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        pq.write_table(pa.table({"x": [value]}), f"{name}.parquet")
    for order in ("ab", "ba"):
        files = [f"{name}.parquet" for name in order]
        good("fit", *files, "-o", f"{order}.json", "--policy", "ema", "--alpha", 0.75)
    assert stats("ab.json")["x"]["mean"] > 2 > stats("ba.json")["x"]["mean"]


def test_empty_files_change_nothing() -> None:
    table = pa.table({"x": [1.0, 2.0], "s": ["a", "b"]})
    pq.write_table(table, "t.parquet")
    pq.write_table(table.slice(0, 0), "empty.parquet")
    with pa.ipc.new_file("empty.arrow", table.schema):
        pass
    Path("empty.csv").write_text("x,s\n")
    sbn.Normalizer().save("empty.json")
    assert good("show", "empty.json").stdout.splitlines()[2].split() == ["rows", "0"]
    assert json.loads(good("show", "empty.json", "--format", "json").stdout)["columns"] == []
    assert good("show", "empty.json", "--format", "csv").stdout == (
        "column,count,nulls,nans,infs,mean,var,std,min,max\n"
    )
    good("fit", "empty.csv", "t.parquet", "empty.arrow", "-o", "t.json")
    assert stats("t.json")["x"]["count"] == 2
    good("fit", "t.parquet", "-o", "frozen.json", "--frozen")
    for files in (["empty.json", "t.json"], ["frozen.json", "empty.json", "--thaw"]):
        good("merge", *files, "-o", "merged.json")
        assert sbn.load("merged.json").stats().equals(sbn.load("t.json").stats())
    good("apply", "t.json", "empty.parquet", "-o", "out.csv")
    assert Path("out.csv").read_text() == '"x","s"\n'
    assert "empty.json: " in bad(1, "apply", "empty.json", "t.parquet", "-o", "-")
    bad(1, "apply", "empty.json", "t.parquet", "-o", "no.csv")
    bad(1, "normalize", "empty.parquet", "-o", "no.csv")
    for files in (["empty.csv"], ["empty.parquet"], ["empty.parquet", "empty.csv", "empty.arrow"]):
        message = bad(1, "fit", *files, "-o", "out.json")
        says(message, "nothing to learn", *files[: len(files) == 1])
    assert "empty.csv: no rows" in bad(1, "normalize", "empty.csv", "-o", "no.csv")


# --- CSV ------------------------------------------------------------------------------


def test_a_type_that_the_first_rows_do_not_show_is_found_in_the_file() -> None:
    content = "at,x\n" + "2026-03-01,1\n" * 300_000 + "2026-03-01 12:00:00,2\n"
    Path("t.csv").write_text(content)
    ema = ("-o", "s.json", "--policy", "ema", "--halflife", "12h", "--time", "at")
    # The rest of a pipe cannot be known.
    piped = run("fit", "-", *ema, input=content)
    assert piped.returncode == 1
    says(piped.stderr, "column 'at'", "'2026-03-01 12:00:00'", "--csv-type at=timestamp[us]")
    for given in ((), ("--csv-type", "at=timestamp[us]")):
        good("fit", "t.csv", *ema, *given)
        assert stats("s.json")["x"]["weight"] == pytest.approx(300_000 / 2 + 1)


def test_csv_type() -> None:
    Path("t.csv").write_text("id,x\n" + "001,1\n" * 1_000_000 + "002,1.5\n")
    types = ("--csv-type", "x=double", "--csv-type", "id=string")
    good("fit", "t.csv", "-o", "stats.json", *types)
    assert stats()["x"]["max"] == 1.5
    good("apply", "stats.json", "t.csv", "-o", "out.parquet", *types)
    assert pq.read_table("out.parquet")["id"][-1].as_py() == "002"
    says(
        bad(1, "fit", "t.csv", "-o", "no.json", "--csv-type", "x=int64"),
        *("t.csv: column 'x', row 1,000,001", "'1.5'", "the type given for it"),
    )


def test_csv_keeps_nan_and_null_apart() -> None:
    Path("t.csv").write_text("x,y\n1,1\nnan,2\n,3\n3,4\n")
    good("fit", "t.csv", "-o", "s.json")
    shown = json.loads(good("show", "s.json", "--format", "json").stdout)
    assert [shown["columns"][0][name] for name in ("count", "nulls", "nans")] == [2, 1, 1]
    assert "NaN" in bad(1, "fit", "t.csv", "-o", "r.json", "--nan", "raise")
    good("apply", "s.json", "t.csv", "-o", "out.csv")
    assert [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()[1:]] == [
        "-1.0", "nan", "", "1.0",
    ]  # fmt: skip


def test_an_empty_line_is_a_row_of_a_csv_of_one_column() -> None:
    Path("one.csv").write_text("x\n1\n\n3\n")
    good("normalize", "one.csv", "-o", "out.csv", "--save", "s.json")
    assert Path("out.csv").read_text().splitlines()[1:] == ["-1.0", "", "1.0"]
    good("normalize", "out.csv", "-o", "again.csv")
    assert Path("again.csv").read_text() == Path("out.csv").read_text()


def test_a_value_in_a_csv_can_contain_line_breaks() -> None:
    rows = 100_000
    text = pa.array([f"line\n{i}\nmore text" for i in range(rows)])
    pq.write_table(pa.table({"x": pa.array(range(rows), pa.float64()), "s": text}), "nl.parquet")
    good("normalize", "nl.parquet", "-o", "nl.csv")
    assert "100,000 rows" in good("fit", "nl.csv", "-o", "s.json").stderr
