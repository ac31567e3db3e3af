"""The files that pandas, Polars, DuckDB and Spark write by default, with all their column types.

Each file is normalized and read back by the library that wrote it. Numeric columns have the
z-scores of exact arithmetic; every other column is what that library reads from its own file.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good, says, stats

D = dt.datetime(2020, 2, 29, 12, 30, 0, 123456)
DAYS = [D.date(), None, dt.date(1, 1, 1), dt.date(9999, 12, 31)]
TIMES = [D.time(), None, dt.time(0), dt.time(23, 59, 59)]
STAMPS = [D, None, D + dt.timedelta(days=1), dt.datetime(1969, 12, 31)]
EXACT = [decimal.Decimal("1.10"), None, decimal.Decimal("3.30"), decimal.Decimal("-4.00")]
WORDS = ["a", None, "", 'd, "e"\n']

# Columns that are learned, by writer; the others pass through.
Values = list[Any]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def z_scores(values: Values) -> list[float | None]:
    """Return the z-scores of numbers, by exact arithmetic up to the last square root."""
    present = [Fraction(v) for v in values if v is not None and v == v]  # noqa: PLR0124
    mean = sum(present) / len(present)
    var = sum((v - mean) ** 2 for v in present) / len(present)
    std = math.sqrt(var)
    found = [None if v is None or v != v else float(Fraction(v) - mean) / std for v in values]  # noqa: PLR0124
    return found


def check_numbers(name: str, found: Values, given: Values, tolerance: float) -> None:
    assert len(found) == len(given)
    for one, other in zip(found, z_scores(given), strict=True):
        missing = one is None or one is pd.NA or math.isnan(float(one))
        assert missing == (other is None), name
        if other is not None:
            assert float(one) == pytest.approx(other, rel=tolerance, abs=tolerance), name


def value(cell: Any) -> Any:
    """Return a value in one spelling: formats of text have several for a time, and one for null."""
    if isinstance(cell, list | tuple):
        return [value(each) for each in cell]
    if isinstance(cell, dict):
        return {key: value(each) for key, each in cell.items()}
    if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell or cell == "":  # noqa: PLR0124
        return None
    if isinstance(cell, str) and re.match(r"\d{4}-\d\d-\d\d", cell):
        cell = pd.Timestamp(cell)
    if isinstance(cell, dt.date):
        time = pd.Timestamp(cell)
        return time if time.tz is None else time.tz_convert(None)
    return cell


def normalize(path: str, out: str, numeric: set[str], *flags: str) -> None:
    good("normalize", path, "-o", out, "--save", "s.json", "--quiet", *flags)
    # A column of nothing but nulls has no value, and might be numeric.
    assert {name for name, found in stats("s.json").items() if found["count"]} == numeric
    good("apply", "s.json", path, "-o", f"verified-{out}", "--verify", "--quiet", *flags)


# --- pandas ---------------------------------------------------------------------------

PANDAS_NUMBERS: dict[str, Values] = {
    "int64": [1, 2, 3, 2**60],
    "Int64": [1, None, 3, 2**60],
    "UInt8": [1, None, 3, 255],
    "Float32": [1.5, None, 3.0, 4.0],
    "float64": [1.5, math.nan, 3.0, 4.0],
    "float16": [1.5, math.nan, 3.0, 4.0],
    "decimal": EXACT,
}


def pandas_frame() -> pd.DataFrame:
    numbers = {
        name: pd.Series(values, dtype=object if name == "decimal" else name)
        for name, values in PANDAS_NUMBERS.items()
    }
    others = {
        "bool": pd.Series([True, False, True, True]),
        "boolean": pd.Series([True, None, False, True], dtype="boolean"),
        "str": pd.Series(WORDS),
        "object": pd.Series(WORDS, dtype=object),
        "category": pd.Series(["a", None, "b", "a"], dtype="category"),
        "ordered": pd.Series(pd.Categorical(["a", None, "b", "a"], ["b", "a"], ordered=True)),
        "datetime": pd.Series(pd.to_datetime(STAMPS)),
        "zoned": pd.Series(pd.to_datetime(STAMPS)).dt.tz_localize("Europe/Berlin"),
        "ns": pd.Series(pd.to_datetime([1, None, 3, 4], unit="ns")),
        "timedelta": pd.Series(pd.to_timedelta([1, None, 3, 4], unit="s")),
        "date": pd.Series(DAYS, dtype=object),
        "time": pd.Series(TIMES, dtype=object),
        "empty": pd.Series([None] * 4),
    }
    nested = {
        "bytes": pd.Series([b"a", None, b"", b"\xff"]),
        "list": pd.Series([["x", None], None, [], ["y"]]),
        "dict": pd.Series([{"s": "x"}, None, {"s": None}, {"s": "z"}]),
        "period": pd.Series(pd.period_range("2020", "2023", freq="Y")),
    }
    return pd.DataFrame(numbers | others | nested)


PANDAS: dict[str, tuple[Callable[[Any, str], Any], Callable[[str], Any], list[str]]] = {
    "parquet": (pd.DataFrame.to_parquet, pd.read_parquet, []),
    "feather": (pd.DataFrame.to_feather, pd.read_feather, []),
    "csv": (
        lambda frame, path: frame.to_csv(path, index=False),
        pd.read_csv,
        ["bytes", "list", "dict", "period"],
    ),
    # Decimals are text, and so are decimals of Polars.
    "ndjson": (
        lambda f, path: f.to_json(
            path, orient="records", lines=True, double_precision=15, date_format="iso"
        ),
        lambda path: pd.read_json(path, lines=True, dtype=False),
        ["bytes", "period"],
    ),
}


@pytest.mark.parametrize("suffix", PANDAS)
def test_pandas(suffix: str) -> None:
    write, read, without = PANDAS[suffix]
    frame = pandas_frame().drop(columns=without)
    write(frame, f"in.{suffix}")
    numbers = set(PANDAS_NUMBERS) - ({"decimal"} if suffix == "ndjson" else set())
    normalize(f"in.{suffix}", f"out.{suffix}", numbers)
    given, found = read(f"in.{suffix}"), read(f"out.{suffix}")
    assert list(found) == list(given)
    for name in given:
        if name in numbers:
            tolerance = 1e-2 if name == "float16" else 1e-6 if name == "Float32" else 1e-13
            check_numbers(name, found[name].tolist(), PANDAS_NUMBERS[name], tolerance)
        elif suffix in {"csv", "ndjson"}:
            assert list(map(value, found[name])) == list(map(value, given[name])), name
        else:
            pd.testing.assert_series_equal(found[name], given[name])


# --- Polars ---------------------------------------------------------------------------

POLARS_NUMBERS: dict[str, tuple[Values, Any]] = {
    "Int8": ([1, None, 3, -4], pl.Int8),
    "UInt64": ([2**64 - 1, None, 3, 4], pl.UInt64),
    "Float32": ([1.5, None, 3.0, 4.0], pl.Float32),
    "Float64": ([1.5, None, math.nan, 4.0], pl.Float64),
    "Decimal": (EXACT, pl.Decimal(20, 2)),
}


def polars_frame() -> pl.DataFrame:
    numbers = [pl.Series(n, values, kind) for n, (values, kind) in POLARS_NUMBERS.items()]
    others = {
        "Boolean": pl.Series([True, None, False, True]),
        "String": pl.Series(WORDS),
        "Categorical": pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
        "Enum": pl.Series(["a", None, "b", "a"], dtype=pl.Enum(["b", "a"])),
        "Date": pl.Series(DAYS),
        "Datetime": pl.Series(STAMPS),
        "Datetime ns": pl.Series(STAMPS, dtype=pl.Datetime("ns")),
        "Datetime ms, zoned": pl.Series(STAMPS, dtype=pl.Datetime("ms", "Europe/Berlin")),
        "Time": pl.Series(TIMES),
        "Null": pl.Series([None] * 4, dtype=pl.Null),
        "Duration": pl.Series([dt.timedelta(0, 1), None, dt.timedelta(3), dt.timedelta(-4)]),
        "Binary": pl.Series([b"a", None, b"", b"\xff"]),
        "List": pl.Series([["x", None], None, [], ["y"]]),
        "Struct": pl.Series([{"s": "x"}, None, {"s": None}, {"s": "z"}]),
        "List of structs": pl.Series([[{"s": "x"}], None, [], [{"s": "z"}]]),
        "Array of text": pl.Series([["x"], None, ["a"], [""]], dtype=pl.Array(pl.String, 1)),
    }  # fmt: skip
    return pl.DataFrame(numbers).with_columns(**others)


POLARS: dict[str, tuple[Any, Any, list[str]]] = {
    "parquet": (pl.DataFrame.write_parquet, pl.read_parquet, []),
    "arrow": (pl.DataFrame.write_ipc, pl.read_ipc, []),
    "arrows": (pl.DataFrame.write_ipc_stream, pl.read_ipc_stream, []),
    "csv": (
        pl.DataFrame.write_csv,
        pl.read_csv,
        ["Duration", "Binary", "List", "Struct", "List of structs", "Array of text"],
    ),
    "ndjson": (pl.DataFrame.write_ndjson, pl.read_ndjson, ["Binary"]),
}


@pytest.mark.parametrize("suffix", POLARS)
def test_polars(suffix: str) -> None:
    write, read, without = POLARS[suffix]
    frame = polars_frame().drop(without)
    write(frame, f"in.{suffix}")
    numbers = set(POLARS_NUMBERS) - ({"Decimal"} if suffix == "ndjson" else set())
    normalize(f"in.{suffix}", f"out.{suffix}", numbers)
    given, found = read(f"in.{suffix}"), read(f"out.{suffix}")
    assert found.columns == given.columns
    for name in given.columns:
        if name in numbers:
            tolerance = 1e-6 if name == "Float32" else 1e-13
            check_numbers(name, found[name].to_list(), POLARS_NUMBERS[name][0], tolerance)
        else:
            pairs = zip(found[name].to_list(), given[name].to_list(), strict=True)
            assert all(value(one) == value(other) for one, other in pairs), name
            if suffix in {"parquet", "arrow", "arrows"}:
                assert found[name].dtype == given[name].dtype


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrows"])
@pytest.mark.parametrize("kind", [pl.Int128, pl.UInt128])
def test_polars_integers_that_arrow_has_no_type_for(suffix: str, kind: Any) -> None:
    POLARS[suffix][0](pl.DataFrame({"x": pl.Series([1, 2], dtype=kind)}), f"in.{suffix}")
    message = bad(1, "fit", f"in.{suffix}", "-o", "s.json")
    assert "damaged" not in message
    says(message, f"in.{suffix}", "more than 64 bits", "Cast")


# --- DuckDB ---------------------------------------------------------------------------

DUCKDB_NUMBERS: dict[str, tuple[str, Values]] = {
    "tinyint": ("CAST(i AS TINYINT)", [1, 2, 3, 4]),
    "ubigint": ("CAST(18446744073709551615 - i AS UBIGINT)", [2**64 - 1 - i for i in (1, 2, 3, 4)]),
    "hugeint": ("CAST(i AS HUGEINT)", [1, 2, 3, 4]),
    "decimal": ("CAST(i + 0.25 AS DECIMAL(18, 3))", [1.25, 2.25, 3.25, 4.25]),
    "decimal38": ("CAST(i AS DECIMAL(38, 10))", [1, 2, 3, 4]),
    "float": ("CAST(i AS FLOAT)", [1, 2, 3, 4]),
    "double": ("CASE WHEN i = 2 THEN NULL ELSE i + 0.5::DOUBLE END", [1.5, None, 3.5, 4.5]),
}
DUCKDB_OTHERS = {
    "boolean": "i > 1",
    "varchar": "'v, \"' || i",
    "date": "DATE '2020-01-01' + CAST(i AS INT)",
    "time": "TIME '01:02:03'",
    "timestamp": "TIMESTAMP '2020-01-01 00:00:00.5'",
    "timestamp_s": "TIMESTAMP_S '2020-01-01 00:00:01'",
    "timestamp_ns": "TIMESTAMP_NS '2020-01-01 00:00:00.000000001'",
    "timestamptz": "TIMESTAMPTZ '2020-01-01 00:00:00+01'",
    "interval": "INTERVAL 3 DAY",
    "uuid": "CAST('00000000-0000-0000-0000-00000000000' || i AS UUID)",
    "enum": "CAST('a' AS ENUM('a', 'b'))",
    "null": "NULL",
    "list": "['x', NULL]",
    "struct": "{'s': 'x'}",
    "map": "MAP {'k': 'v'}",
    "blob": "CAST('v' || i AS BLOB)",
    "bit": "CAST('x' AS VARCHAR)",
    "json": "CAST('[\"a\"]' AS JSON)",
    "union": "union_value(text := 'x')",
}
DUCKDB: dict[str, tuple[str, str, list[str]]] = {
    # A union becomes a struct there, with the number of its type.
    "parquet": ("FORMAT parquet", "read_parquet", ["union"]),
    "csv": ("FORMAT csv", "read_csv", ["list", "struct", "map", "blob", "json", "union"]),
    "ndjson": ("FORMAT json", "read_json", []),
}


@pytest.mark.parametrize("suffix", [*DUCKDB, "arrow"])
def test_duckdb(suffix: str) -> None:
    options, read, without = DUCKDB.get(suffix, ("", "", []))
    columns = {n: e for n, (e, _) in DUCKDB_NUMBERS.items()} | DUCKDB_OTHERS
    columns = {n: e for n, e in columns.items() if n not in without}
    connection = duckdb.connect()
    listed = ", ".join(f'{expression} AS "{n}"' for n, expression in columns.items())
    query = f"SELECT {listed} FROM range(1, 5) t(i) ORDER BY i"
    if suffix == "arrow":
        table = connection.sql(query).to_arrow_table()
        with pa.ipc.new_file("in.arrow", table.schema) as writer:
            writer.write_table(table)
    else:
        connection.execute(f"COPY ({query}) TO 'in.{suffix}' ({options})")
    # Arrow infers float64 for integers of CSV beyond int64.
    flags = ["--csv-type", "ubigint=uint64"] if suffix == "csv" else []
    normalize(f"in.{suffix}", f"out.{suffix}", set(DUCKDB_NUMBERS), *flags)

    def load(path: str) -> dict[str, Values]:
        if suffix == "arrow":
            rows = connection.from_arrow(pa.ipc.open_file(path).read_all())
        else:
            rows = connection.sql(f"SELECT * FROM {read}('{path}')")
        return dict(zip(rows.columns, map(list, zip(*rows.fetchall(), strict=True)), strict=True))

    given, found = load(f"in.{suffix}"), load(f"out.{suffix}")
    assert list(found) == list(given)
    for name in given:
        if name in DUCKDB_NUMBERS:
            tolerance = 1e-6 if name == "float" else 1e-13
            check_numbers(name, found[name], DUCKDB_NUMBERS[name][1], tolerance)
        elif (suffix, name) != ("parquet", "interval"):  # Arrow has no type for those of Parquet
            assert list(map(value, found[name])) == list(map(value, given[name])), name


# --- Spark, as its writer lays files out ----------------------------------------------

PAIRS = pa.map_(pa.string(), pa.string())


def test_spark() -> None:
    """Parts with checksums beside them, a marker, INT96 times, and decimals in bytes."""
    table = pa.table(
        {
            "x": [1.0, None, 3.0, 4.0],
            "price": pa.array(EXACT, pa.decimal128(38, 2)),  # a fixed_len_byte_array
            "small": pa.array(EXACT, pa.decimal128(7, 2)),
            "at": pa.array(STAMPS, pa.timestamp("ns")),
            "word": WORDS,
            "tags": [["a"], None, [], ["b"]],
            "pairs": pa.array([[("k", "v")], None, [], [("a", "b")]], PAIRS),
        }
    )  # fmt: skip
    places = ["day=2020-01-01", "day=__HIVE_DEFAULT_PARTITION__"]
    for number, place in enumerate(places):
        folder = Path("events") / place
        folder.mkdir(parents=True)
        name = f"part-{number:05}-0b5c.c000.snappy.parquet"
        pq.write_table(table.slice(2 * number, 2), folder / name,
                       use_deprecated_int96_timestamps=True, store_schema=False)  # fmt: skip
        (folder / f".{name}.crc").write_bytes(b"crc\x00\x00\x00\x02\x00")
    (Path("events") / "_SUCCESS").touch()
    (Path("events") / "._SUCCESS.crc").write_bytes(b"crc\x00")
    good("normalize", "events", "-o", "out", "--save", "s.json", "--quiet")
    assert set(stats("s.json")) == {"x", "price", "small"}
    good("apply", "s.json", "events", "-o", "one.parquet", "--verify", "--quiet")
    copies = sorted(Path("out").rglob("*.parquet"))
    assert [str(path.parent) for path in copies] == [f"out/{place}" for place in sorted(places)]
    found = pq.read_table("one.parquet")
    assert found["day"].to_pylist() == ["2020-01-01"] * 2 + [None] * 2
    assert found["at"].cast(pa.timestamp("us")).to_pylist() == STAMPS
    for name in ("word", "tags", "pairs"):
        assert found[name].to_pylist() == table[name].to_pylist()
    for name in ("x", "price", "small"):
        check_numbers(name, found[name].to_pylist(), table[name].to_pylist(), 1e-13)
    rows = duckdb.sql('SELECT "at" FROM read_parquet(\'out/*/*.parquet\') ORDER BY "at"').fetchall()
    assert [at for (at,) in rows] == [*sorted(filter(None, STAMPS)), None]


def test_spark_json_and_csv() -> None:
    """Rows without their null fields in .json parts, and CSV parts without a header."""
    Path("events").mkdir()
    rows = [{"x": 1.0, "w": "a"}, {"w": "b"}, {"x": 3.0}, {"x": 4.0, "w": "c"}]
    for number in range(2):
        part = "".join(f"{json.dumps(row)}\n" for row in rows[2 * number : 2 * number + 2])
        Path(f"events/part-{number:05}-c000.json").write_text(part)
    Path("events/_SUCCESS").touch()
    good("normalize", "events", "-o", "out.ndjson", "--save", "s.json", "--quiet")
    found = [json.loads(line) for line in Path("out.ndjson").read_text().splitlines()]
    check_numbers("x", [row["x"] for row in found], [1.0, None, 3.0, 4.0], 1e-13)
    assert [row["w"] for row in found] == ["a", "b", None, "c"]
    assert np.isfinite(stats("s.json")["x"]["mean"])
