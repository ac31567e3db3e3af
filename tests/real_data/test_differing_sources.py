"""Sources of one output that store a column differently: nullability, width, encoding, presence.

Whatever the order of the sources and the format of the output, it is a valid file that holds all
rows: no null in a field that is not nullable, no digit lost, no column dropped.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn.io import Source, open_reader

Run = Callable[..., Any]
FORMATS = ("parquet", "arrow", "arrows")

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")


def store(name: str, table: pa.Table) -> str:
    """Write a file in the format of its suffix."""
    if name.endswith(".parquet"):
        pq.write_table(table, name)
    elif name.endswith(".csv"):
        pyarrow.csv.write_csv(table, name)
    else:
        new = pa.ipc.new_file if name.endswith(".arrow") else pa.ipc.new_stream
        with new(name, table.schema) as writer:
            writer.write_table(table)
    return name


def load(name: str) -> pa.Table:
    """Read a file, and check that it is valid."""
    table = open_reader(Source(name)).read_all()
    table.validate(full=True)
    for field, column in zip(table.schema, table.columns, strict=True):
        assert not list(wrong_nulls(field, column.combine_chunks())), field
    return table


def wrong_nulls(field: pa.Field, array: pa.Array) -> Iterator[str]:
    """Find the fields, at any depth, that hold null but are not nullable."""
    if not field.nullable and array.null_count:
        yield field.name
    if pa.types.is_struct(field.type):
        inside = array.filter(array.is_valid())
        for child in field.type:
            yield from wrong_nulls(child, inside.field(child.name))
    elif pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        yield from wrong_nulls(field.type.value_field, array.flatten())


def z(values: list[Any]) -> list[Any]:
    """Normalize by pandas."""
    series = pd.Series(values, dtype="float64")
    out = (series - series.mean()) / series.std(ddof=0)
    return [None if pd.isna(value) else value for value in out]


def close(found: list[Any], expected: list[Any], rel: float) -> None:
    """Check numbers up to an error relative to the largest one."""
    assert [value is None for value in found] == [value is None for value in expected]
    one, other = (np.array([0.0 if v is None else v for v in side]) for side in (found, expected))
    np.testing.assert_allclose(one, other, rtol=0, atol=rel * np.abs(other).max())


def good(result: Any) -> Any:
    assert result.code == 0, result.lines
    return result


def refused(result: Any, *words: str) -> None:
    assert result.code == 3, result.lines
    for word in words:
        assert word in result.lines[-1]


# --- normalized columns ---------------------------------------------------------------


def of(kind: pa.DataType, *values: Any) -> pa.Array:
    return pa.array(values, kind)


D = decimal.Decimal
NORMALIZED = {
    "required, then nullable": (
        of(pa.float64(), 1.0, 2.0),
        of(pa.float64(), None, 4.0),
        pa.float64(),
    ),
    "float64 and float32": (
        of(pa.float64(), 0.1, 0.7),
        of(pa.float32(), 0.25, 0.3),
        pa.float64(),
    ),
    "float32 and integers": (
        of(pa.float32(), 0.1, 0.2),
        of(pa.int8(), 3, None),
        pa.float64(),
    ),
    "float16 and float32": (
        of(pa.float16(), 0.5, 0.2),
        of(pa.float32(), 0.1, 3.0),
        pa.float32(),
    ),
    "signed and unsigned": (
        of(pa.int64(), -1, 5),
        of(pa.uint64(), 2**63 + 5000, 7),
        pa.float64(),
    ),
    "decimals of two scales": (
        of(pa.decimal128(38, 2), D("1.25"), D("2.50")),
        of(pa.decimal256(76, 60), D("1.2345678"), None),
        pa.float64(),
    ),
    "nulls only, and float32": (
        of(pa.null(), None, None),
        of(pa.float32(), 1.0, 2.0),
        pa.float32(),
    ),
    "dictionary and plain": (
        of(pa.dictionary(pa.int8(), pa.float32()), 1.5, 2.5),
        of(pa.float64(), 0.1, 4.0),
        pa.float64(),
    ),
}


def side_by_side(columns: dict[str, tuple[Any, ...]], part: int, *required: str) -> pa.Table:
    """Return a table of one part of every case."""
    fields = []
    for name, parts in columns.items():
        whole = parts[part].null_count == 0 and name in required
        fields.append(pa.field(name, parts[part].type, nullable=not whole))
    return pa.table([parts[part] for parts in columns.values()], pa.schema(fields))


@pytest.mark.parametrize("suffix", [*FORMATS, "csv"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_normalized_columns(run: Run, suffix: str, flip: bool, online: bool) -> None:
    tables = [
        side_by_side(NORMALIZED, part, "required, then nullable") for part in (flip, not flip)
    ]
    files = [store(f"{n}.arrow", table) for n, table in enumerate(tables)]
    out = f"out.{suffix}"
    if online:
        good(run("normalize", "--online", "--policy=welford", *files, "-o", out))
    else:
        good(run("fit", *files, "-o", "s.json", "--policy=welford"))
        good(run("apply", "s.json", *files, "-o", out, "--verify"))
        good(run("apply", "s.json", out, "-o", f"back.{suffix}", "--inverse"))
    found = load(out)
    for case, (*_, kind) in NORMALIZED.items():
        if suffix != "csv":
            assert found.schema.field(case) == pa.field(case, kind)
        if not online:
            values = [value for table in tables for value in table[case].to_pylist()]
            floats = [None if value is None else float(value) for value in values]
            rel = {pa.float64(): 1e-13, pa.float32(): 1e-6}[kind]
            close(found[case].to_pylist(), z(floats), rel)
            close(load(f"back.{suffix}")[case].to_pylist(), floats, rel)


# --- columns that pass through --------------------------------------------------------

DAY, NOON = datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 12)


WORDS = pa.dictionary(pa.int8(), pa.string())
# Two columns of two rows, and the type that holds both.
PASSED = {
    "required": (of(pa.int32(), 1, 2), of(pa.int32(), None, 4), pa.int32()),
    "integers": (of(pa.int16(), 1, 2), of(pa.int64(), 2**60, None), pa.int64()),
    "integers and floats": (of(pa.int64(), 1, 2), of(pa.float32(), 0.5, None), pa.float64()),
    "floats": (of(pa.float32(), 0.1, 2), of(pa.float64(), 0.1, None), pa.float64()),
    "decimals": (
        of(pa.decimal128(10, 2), D("1.25"), None),
        of(pa.decimal128(12, 6), D("1.234567"), D(0)),
        pa.decimal128(14, 6),
    ),
    "decimals and integers": (
        of(pa.decimal128(10, 2), D("1.25"), None),
        of(pa.int64(), 2**62, -1),
        pa.decimal128(22, 2),
    ),
    "decimals and floats": (
        of(pa.decimal128(10, 2), D("1.25"), None),
        of(pa.float64(), 0.3, None),
        pa.float64(),
    ),
    "text": (of(pa.string(), "a", None), of(pa.large_string(), "", "b"), pa.large_string()),
    "views": (of(pa.string_view(), "a", None), of(pa.string(), "", "b"), pa.large_string()),
    "bytes": (of(pa.binary_view(), b"a", None), of(pa.binary(), b"", b"b"), pa.large_binary()),
    "dictionary and plain": (of(WORDS, "a", None), of(pa.string(), "b", ""), pa.string()),
    "dictionary and view": (
        of(WORDS, "a", None),
        of(pa.string_view(), "b", ""),
        pa.large_string(),
    ),
    "null and text": (of(pa.null(), None, None), of(pa.string(), "a", None), pa.string()),
    "null and struct": (
        of(pa.null(), None, None),
        pa.array([{"a": 1}, None]),
        pa.struct([("a", pa.int64())]),
    ),
    "dates": (of(pa.date32(), DAY, None), of(pa.date64(), DAY, DAY), pa.date64()),
    "times": (
        of(pa.timestamp("ms", "UTC"), NOON, None),
        of(pa.timestamp("ns", "UTC"), NOON, NOON),
        pa.timestamp("ns", "UTC"),
    ),
    "lists": (
        of(pa.list_(pa.int32()), [1], None),
        of(pa.large_list(pa.int64()), [2**40, None], []),
        pa.large_list(pa.int64()),
    ),
    "list views": (
        of(pa.list_view(pa.int32()), [1], None),
        of(pa.list_(pa.int32()), [2, None], []),
        pa.list_(pa.int32()),
    ),
    "names of elements": (
        of(pa.list_(pa.field("element", pa.string(), nullable=False)), ["a"], None),
        of(pa.list_(pa.field("item", pa.string())), [None], []),
        None,
    ),
    "structs": (
        of(pa.struct([pa.field("a", pa.int8(), nullable=False)]), {"a": 1}, None),
        of(pa.struct([("b", pa.string()), ("a", pa.int16())]), {"b": "z", "a": 2}, None),
        None,
    ),
    "structs in lists": (
        of(pa.list_(pa.struct([pa.field("a", pa.int8(), nullable=False)])), [{"a": 1}], []),
        of(pa.list_(pa.struct([("b", pa.string())])), [{"b": "z"}], None),
        None,
    ),
    "maps": (
        of(pa.map_(pa.string(), pa.int8()), [("a", 1)], None),
        of(pa.map_(pa.large_string(), pa.int64()), [("b", None)], []),
        pa.map_(pa.large_string(), pa.int64()),
    ),
    "tensors": (
        pa.array([[1, 2], None], pa.list_(pa.int8(), 2)).cast(
            pa.fixed_shape_tensor(pa.int8(), [2])
        ),
        pa.array([[3, 4], None], pa.list_(pa.int32(), 2)).cast(
            pa.fixed_shape_tensor(pa.int32(), [2])
        ),
        pa.fixed_shape_tensor(pa.int32(), [2]),
    ),
}


def contents(column: pa.ChunkedArray) -> list[Any]:
    array = column.combine_chunks()
    return (array.storage if isinstance(array, pa.ExtensionArray) else array).to_pylist()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("flip", [False, True])
def test_columns_that_pass_through(run: Run, suffix: str, flip: bool) -> None:
    parts = {**PASSED, "x": (of(pa.float64(), 1, 2), of(pa.float64(), None, 4), pa.float64())}
    first, second = (side_by_side(parts, part, "x", "required") for part in (0, 1))
    tables = [first, second.select(second.column_names[::-1])]
    tables = tables[::-1] if flip else tables
    files = [store(f"{n}.arrow", table) for n, table in enumerate(tables)]
    good(run("fit", *files, "-o", "s.json", "--columns", "x"))
    good(run("apply", "s.json", *files, "-o", f"out.{suffix}", "--verify"))
    out = load(f"out.{suffix}")
    assert out.column_names == tables[0].column_names
    for case, (*_, kind) in PASSED.items():
        values = [value for table in tables for value in contents(table[case])]
        # Parquet has no date64.
        if kind is not None and (suffix, case) != ("parquet", "dates"):
            assert out.schema.field(case).type == kind
        if kind is None:  # the rest of a struct is null
            values = pa.array(values, out.schema.field(case).type).to_pylist()
        assert contents(out[case]) == values
    close(out["x"].to_pylist(), z([v for table in tables for v in table["x"].to_pylist()]), 1e-14)


# --- columns that not all sources have ------------------------------------------------


def three_that_differ() -> list[str]:
    return [
        store("a.parquet", pa.table({"x": [1.0, 2.0], "old": pa.array([1, 2], pa.int8())})),
        store("b.csv", pa.table({"note": ["n", ""], "x": [3.0, 6.0]})),
        store("c.arrows", pa.table({"s": [{"k": 1}], "x": [3.0], "old": [300]})),
    ]


def test_a_union_by_name_has_the_columns_of_all_sources(run: Run) -> None:
    files = three_that_differ()
    good(run("fit", *files, "-o", "s.json", "--columns", "x"))
    for suffix in FORMATS:
        out = f"out.{suffix}"
        good(run("apply", "s.json", *files, "-o", out, "--union-by-name", "--verify"))
        table = load(out)
        assert table.column_names == ["x", "old", "note", "s"]
        assert table["old"].to_pylist() == [1, 2, None, None, 300]
        assert table["note"].to_pylist() == [None, None, "n", "", None]
        assert table["s"].to_pylist() == [None, None, None, None, {"k": 1}]
        close(table["x"].to_pylist(), z([1, 2, 3, 6, 3]), 1e-14)


def test_other_columns_are_refused_before_work_without_a_union(run: Run) -> None:
    first, second, third = three_that_differ()
    good(run("fit", first, second, third, "-o", "s.json", "--columns", "x"))
    files = sorted(os.listdir())
    for job in (("apply", "s.json"), ("normalize", "--columns=x"), ("normalize", "--online")):
        for inputs, words in (
            ((first, third), ("c.arrows: column 's' is not in a.parquet",)),
            ((third, first), ("a.parquet: column 's' is missing, but in c.arrows",)),
        ):
            for out in ("o.arrow", "-"):
                refused(run(*job, *inputs, "-o", out), *words, "--union-by-name", "folder")
                assert sorted(os.listdir()) == files
    # In a folder, each file keeps its own columns and types.
    good(run("apply", "s.json", first, second, third, "-o", "out/"))
    assert load("out/a.parquet").schema.field("old").type == pa.int8()
    assert load("out/b.csv").column_names == ["note", "x"]


def test_a_column_with_statistics_must_be_in_every_source(run: Run) -> None:
    store("a.parquet", pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0]}))
    store("b.parquet", pa.table({"x": [3.0]}))
    good(run("fit", "a.parquet", "-o", "s.json"))
    result = run("apply", "s.json", "a.parquet", "b.parquet", "-o", "o.arrow")
    refused(result, "b.parquet", "'y'")


def test_a_float_of_a_later_source_makes_the_column_float(run: Run) -> None:
    (first, second), kind = (of(pa.int64(), 1, 2), of(pa.float64(), 1.5, None)), pa.float64()
    store("a.arrow", pa.table({"x": [1.0, 2.0], "id": first}))
    store("b.arrow", pa.table({"x": [1.0, 2.0], "id": second}))
    good(run("fit", "a.arrow", "b.arrow", "-o", "s.json", "--columns=x"))
    good(run("apply", "s.json", "a.arrow", "b.arrow", "-o", "o.csv"))
    assert load("o.csv")["id"].cast(kind).to_pylist() == [1, 2, 1.5, None]


# --- refusals -------------------------------------------------------------------------

UNFIT = {
    "text and integers": (of(pa.string(), "a"), of(pa.int64(), 1), "string", "int64"),
    "zones": (
        of(pa.timestamp("ms"), NOON),
        of(pa.timestamp("ms", "UTC"), NOON),
        "timestamp[ms]",
        "timestamp[ms, tz=UTC]",
    ),
    "booleans": (of(pa.bool_(), True), of(pa.int8(), 1), "bool", "int8"),
    "structs": (pa.array([{"a": 1}]), pa.array([{"a": "b"}]), "int64", "string"),
    "views in lists": (
        of(pa.list_(pa.list_view(pa.int8())), [[1]]),
        of(pa.list_(pa.list_(pa.int8())), [[1]]),
        "list_view",
        "int8",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("flip", [False, True])
def test_types_without_a_common_one_are_refused_before_work(
    run: Run, case: str, flip: bool
) -> None:
    *columns, one, other = UNFIT[case]
    columns, kinds = (columns[::-1], [other, one]) if flip else (columns, [one, other])
    files = [
        store(f"{n}.arrow", pa.table({"x": [1.0, float(n)], "p": pa.concat_arrays([column] * 2)}))
        for n, column in enumerate(columns)
    ]
    words = ("1.arrow: column 'p' is", *kinds, "0.arrow", "Cast it", "folder")
    good(run("fit", *files, "-o", "s.json", "--columns", "x"))
    for job in (("apply", "s.json"), ("normalize", "--columns=x", "--save=n.json")):
        for out in ("o.parquet", "o.arrow", "-"):
            result = run(*job, *files, "-o", out)
            refused(result, *words)
            assert result.out == ""
    assert sorted(os.listdir()) == ["0.arrow", "1.arrow", "s.json"]
    good(run("apply", "s.json", *files, "-o", "out/"))


def test_values_that_do_not_fit_the_common_type_are_refused(run: Run) -> None:
    for first, second in (
        (of(pa.int64(), 2**53 + 1), of(pa.float64(), 0.5)),
        (of(pa.uint64(), 2**63), of(pa.int64(), 1)),
        (of(pa.decimal128(38, 0), 10**17 + 1), of(pa.float64(), 0.5)),
        (of(pa.timestamp("s"), datetime.datetime(3000, 1, 1)), of(pa.timestamp("ns"), NOON)),
    ):
        store("a.arrow", pa.table({"x": [1.0], "p": first}))
        store("b.arrow", pa.table({"x": [2.0], "p": second}))
        good(run("fit", "a.arrow", "b.arrow", "-o", "s.json", "--columns", "x"))
        result = run("apply", "s.json", "a.arrow", "b.arrow", "-o", "o.arrow")
        refused(result, "a.arrow", "'p'", str(first.type), "Cast it to one type")
        assert not os.path.exists("o.arrow")


def test_a_source_of_other_types_can_be_skipped(run: Run) -> None:
    store("a.arrow", pa.table({"x": [1.0, 2.0], "p": ["a", "b"]}))
    store("b.arrow", pa.table({"x": [9.0], "p": [1]}))
    store("c.arrow", pa.table({"x": [3.0, 6.0], "p": pa.array(["c", None], pa.large_string())}))
    files = ("a.arrow", "b.arrow", "c.arrow")
    good(run("fit", "a.arrow", "c.arrow", "-o", "s.json"))
    result = good(run("apply", "s.json", *files, "-o", "o.arrow", "--on-error", "skip"))
    assert "skipped b.arrow: column 'p'" in result.lines[-1]
    assert load("o.arrow")["p"].to_pylist() == ["a", "b", "c", None]


# --- streams --------------------------------------------------------------------------


@contextlib.contextmanager
def on_stdin(path: str) -> Iterator[None]:
    """Let standard input be a file, which a job reads as it would a pipe."""
    before = os.dup(0)
    with open(path, "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_of_a_pipe_every_field_is_nullable(run: Run) -> None:
    inner = pa.struct([pa.field("k", pa.int8(), nullable=False)])
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False), pa.field("s", inner, False)])
    store("a.arrows", pa.table([[1.0, 3.0], [{"k": 1}, {"k": 2}]], schema))
    wide = pa.schema([("s", pa.struct([("k", pa.int8())])), ("x", pa.float32())])
    store("b.arrows", pa.table([[{"k": None}, None], [None, 5.0]], wide))
    good(run("fit", "a.arrows", "-o", "s.json", "--columns", "x"))
    expected = pa.schema([("x", pa.float64()), ("s", pa.struct([("k", pa.int8())]))])
    for inputs, rows in ((["-"], 2), (["-", "b.arrows"], 4)):
        with on_stdin("a.arrows"):
            good(run("apply", "s.json", *inputs, "-o", "o.arrow"))
        out = load("o.arrow")
        assert out.num_rows == rows
        assert out.schema.equals(expected)
    # Of a file, a field that holds no null stays so.
    good(run("apply", "s.json", "a.arrows", "-o", "o.arrow"))
    assert load("o.arrow").schema.equals(schema)


def test_a_pipe_must_fit_what_the_others_settled(run: Run) -> None:
    store("a.arrow", pa.table({"x": [1.0, 3.0], "p": pa.array([1, 2], pa.int32())}))
    good(run("fit", "a.arrow", "-o", "s.json", "--columns", "x"))
    for column, fits in ((pa.array([7], pa.int8()), True), (pa.array([7], pa.int64()), False)):
        store("b.arrows", pa.table({"x": [1.0], "p": column}))
        with on_stdin("b.arrows"):
            result = run("apply", "s.json", "a.arrow", "-", "-o", "o.arrow")
        if fits:
            assert load(good(result) and "o.arrow")["p"].to_pylist() == [1, 2, 7]
        else:
            refused(
                result, "standard input: column 'p' is int64, but int32", "List this source first"
            )
    store("b.arrows", pa.table({"x": [1.0], "p": pa.array([7], pa.int32()), "q": ["late"]}))
    with on_stdin("b.arrows"):
        result = run("apply", "s.json", "a.arrow", "-", "-o", "o.arrow")
    refused(result, "standard input: column 'q' is not in the other sources", "folder")


def test_a_reader_of_differing_batches_has_one_schema() -> None:
    required = pa.schema([pa.field("x", pa.float64(), False), pa.field("s", pa.string(), False)])
    inner = pa.struct([pa.field("k", pa.int8(), nullable=False), ("t", pa.string())])
    first = pa.table([[1.0, 3.0], ["a", "b"]], required)
    first = first.append_column("p", pa.array([{"k": 1, "t": "q"}] * 2, inner))
    other = pa.struct([("t", WORDS), ("k", pa.int8())])
    second = pa.table(
        {
            "p": pa.array([None, {"t": "r", "k": None}], other),
            "s": pa.array([None, "c"], pa.string_view()),
            "x": pa.array([None, 5], pa.float32()),
        }
    )
    norm = sbn.Normalizer(columns=["x"]).update([first, second])
    for out in (
        norm.transform([first, second]),
        norm.transform(iter([first, second])),
        sbn.Normalizer(columns=["x"]).update_transform([first, second]),
    ):
        assert isinstance(out, pa.RecordBatchReader)
        table = out.read_all()
        assert all(field.nullable for field in table.schema)
        table.validate(full=True)
        assert table["s"].to_pylist() == ["a", "b", None, "c"]
        assert table["p"].to_pylist() == [
            {"k": 1, "t": "q"}, {"k": 1, "t": "q"}, None, {"k": None, "t": "r"},
        ]  # fmt: skip
        assert not list(wrong_nulls(table.schema.field("p"), table["p"].combine_chunks()))
    table = norm.transform([first, second]).read_all()
    close(table["x"].to_pylist(), z([1, 3, None, 5]), 1e-15)
    # A table has one schema, which stays as it is.
    assert norm.transform(first).schema.field("x") == required.field("x")


def test_a_stream_does_not_narrow_a_column_that_passes_through() -> None:
    norm = sbn.Normalizer(columns=["x"]).update(pa.table({"x": [1.0, 3.0]}))
    wide = pa.table({"x": [1.0], "p": pa.array([0.1], pa.float64())})
    narrow = pa.table({"x": [1.0], "p": pa.array([0.5], pa.float32())})
    assert norm.transform([wide, narrow]).read_all()["p"].to_pylist() == [0.1, 0.5]
    with pytest.raises(sbn.SchemaError, match="'p' is double, but was float in the first batch"):
        norm.transform([narrow, wide]).read_all()


def test_a_null_that_its_file_declares_impossible_is_refused(run: Run) -> None:
    inner = pa.list_(pa.field("item", pa.int8(), nullable=False))
    schema = pa.schema([pa.field("x", pa.float64(), False), pa.field("l", inner)])
    for x, lists, name in (([1, None], [[1], None], "'x'"), ([1, 2], [[1, None], []], "'l.item'")):
        columns = [pa.array(x, pa.float64()), pa.array(lists, inner)]
        store("a.arrow", pa.Table.from_arrays(columns, schema=schema))
        good(run("fit", "a.arrow", "-o", "s.json", "--columns", "x"))
        for suffix in FORMATS:
            result = run("apply", "s.json", "a.arrow", "-o", f"out.{suffix}")
            refused(result, f"a.arrow: column {name} holds null", "declares it not null")


# --- normalized columns inside structs, lists and tensors -----------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_nested_columns(run: Run, suffix: str, flip: bool, dtype: str | None) -> None:
    wide = 2**53 + 1  # no float has this value
    tables = [
        pa.table(
            {
                "s": of(
                    pa.struct([pa.field("a", pa.int64(), nullable=False), ("t", pa.string())]),
                    {"a": wide, "t": "q"},
                    {"a": 3, "t": None},
                ),
                "l": of(
                    pa.list_(pa.field("element", pa.int64(), nullable=False), 2), [1, wide], [2, 7]
                ),
                "m": of(pa.list_(pa.int32(), 2), [1, 4], None).cast(
                    pa.fixed_shape_tensor(pa.int32(), [2])
                ),
            }
        ),
        pa.table(
            {
                "l": of(pa.list_(pa.float32(), 2), None, [0.1, None]),
                "m": of(pa.list_(pa.float32(), 2), [0.3, 0.7], [1, 2]).cast(
                    pa.fixed_shape_tensor(pa.float32(), [2])
                ),
                "s": of(
                    pa.struct([("t", pa.large_string()), ("k", pa.int8()), ("a", pa.float32())]),
                    {"t": "w", "k": 5, "a": 0.5},
                    None,
                ),
            }
        ),
    ]
    tables = tables[::-1] if flip else tables
    files = [store(f"{n}.arrow", table) for n, table in enumerate(tables)]
    good(run("fit", *files, "-o", "s.json", "--columns", "s.a,l,m", "--policy=welford"))
    kind = ("--dtype", dtype) if dtype else ()
    good(run("apply", "s.json", *files, "-o", f"out.{suffix}", *kind, "--verify"))
    out = load(f"out.{suffix}")
    floating = pa.float32() if dtype else pa.float64()
    rel = 1e-6 if dtype else 1e-14
    assert out.schema.field("m").type == pa.fixed_shape_tensor(floating, [2])
    assert out.schema.field("l").type.value_type == floating
    assert {field.name: field.type for field in out.schema.field("s").type} == {
        "a": floating, "t": pa.large_string(), "k": pa.int8(),
    }  # fmt: skip
    given = [row or {} for table in tables for row in table["s"].to_pylist()]
    found = [row or {} for row in out["s"].to_pylist()]
    for name in ("t", "k"):
        assert [row.get(name) for row in found] == [row.get(name) for row in given]
    close([row.get("a") for row in found], z([row.get("a") for row in given]), rel)
    for name in ("l", "m"):
        given = [row or [None] * 2 for table in tables for row in contents(table[name])]
        found = [row or [None] * 2 for row in contents(out[name])]
        for i in range(2):
            close([row[i] for row in found], z([row[i] for row in given]), rel)
    good(run("apply", "s.json", f"out.{suffix}", "-o", f"back.{suffix}", "--inverse"))
    load(f"back.{suffix}")


# --- columns that come and go, and vectors stored as lists ----------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("flip", [False, True])
def test_a_union_of_normalized_columns(run: Run, suffix: str, flip: bool) -> None:
    tables = [pa.table({"x": [1.0, 2.0]}), pa.table({"y": [1, 4], "x": [3.0, None]})]
    tables = tables[::-1] if flip else tables
    files = [store(f"{n}.parquet", table) for n, table in enumerate(tables)]
    good(run("fit", *files, "-o", "s.json", "--union-by-name"))
    good(run("apply", "s.json", *files, "-o", f"out.{suffix}", "--verify"))
    good(run("normalize", *files, "-o", f"again.{suffix}", "--union-by-name"))
    good(run("normalize", "--online", *files, "-o", f"online.{suffix}", "--union-by-name"))
    for name in ("out", "again", "online"):
        out = load(f"{name}.{suffix}")
        assert out.schema.field("y") == pa.field("y", pa.float64())
        if name != "online":
            for column, absent in (("x", [None, None]), ("y", [None, None])):
                parts = [t[column].to_pylist() if column in t.schema.names else absent
                         for t in tables]  # fmt: skip
                close(out[column].to_pylist(), z(parts[0] + parts[1]), 1e-14)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("flip", [False, True])
def test_vectors_stored_as_lists(run: Run, suffix: str, flip: bool) -> None:
    tables = [
        pa.table({"v": of(pa.list_(pa.float32()), [0.1, 2], None)}),
        pa.table({"v": of(pa.large_list(pa.int64()), [1, 2], [5, 2**53 + 1])}),
    ]
    tables = tables[::-1] if flip else tables
    files = [store(f"{n}.arrow", table) for n, table in enumerate(tables)]
    good(run("fit", *files, "-o", "s.json", "--columns", "v", "--policy=welford"))
    good(run("apply", "s.json", *files, "-o", f"out.{suffix}", "--verify"))
    good(run("normalize", "--online", *files, "-o", f"on.{suffix}", "--columns", "v"))
    out = load(f"out.{suffix}")
    for table in (out, load(f"on.{suffix}")):
        assert table.schema.field("v").type.value_type == pa.float64()
    given = [row or [None] * 2 for table in tables for row in table["v"].to_pylist()]
    found = [row or [None] * 2 for row in out["v"].to_pylist()]
    for i in range(2):
        close([row[i] for row in found], z([row[i] for row in given]), 1e-14)
    for data in (tables[0], tables[0].to_reader()):
        out = sbn.Normalizer(columns=["v"]).update_transform(data)
        out = out if isinstance(out, pa.Table) else out.read_all()
        assert pa.types.is_floating(out.schema.field("v").type.value_type)
        expected = [None if row is None else [0.0, 0.0] for row in tables[0]["v"].to_pylist()]
        if not flip:
            assert out["v"].to_pylist() == expected
