"""CSV: types do not depend on blocks, and what is written is read back."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambn.io import CsvOptions, InferenceError, csv_reader
from streambn.io.csv_dialect import detect_dialect
from streambn.io.csv_reader import open_csv, settle_types
from streambn.io.csv_types import parse_numbers
from streambn.io.csv_writer import CsvWriter

FEW = settings.get_profile("few")
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["x", "2026-01-01", "2026-01-01 10:00:00", "true"]),
)
ROWS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30)


def read_settled(content: bytes, block: int) -> pa.Table:
    """Read content in small blocks, with settled types if the first block misleads."""

    def opener() -> Any:
        return pa.BufferReader(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "_BLOCK", block)
        options = CsvOptions(header=True)
        try:
            reader = open_csv(opener, "it", options)
            return pa.Table.from_batches(reader, reader.schema)
        except InferenceError:
            settled = settle_types(opener, "it", options)
            reader = open_csv(opener, "it", options, settled)
            return pa.Table.from_batches(reader, reader.schema)


@FEW
@given(rows=ROWS, block=st.integers(150, 400))
def test_types_do_not_depend_on_blocks(rows: list[tuple[Any, Any]], block: int) -> None:
    lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
    content = "\n".join(["a,b", *lines]).encode() + b"\n"
    whole = read_settled(content, 2 << 20)
    parts = read_settled(content, block)
    assert parts.num_rows == whole.num_rows
    for name in ("a", "b"):
        ours, theirs = parts[name].combine_chunks(), whole[name].combine_chunks()
        # In one block, Arrow calls 1 and true booleans, and 2026-01-01 and 1.5 text.
        if ours.type != theirs.type:
            assert pa.types.is_string(ours.type) or pa.types.is_boolean(theirs.type)
        else:
            assert ours.equals(theirs)


FLOATS = st.floats(width=64) | st.integers(-(2**60), 2**60).map(float)


@given(
    floats=st.lists(st.none() | FLOATS, min_size=1, max_size=20),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5),
)
def test_floats_are_read_back_as_floats(floats: list[float | None], text: str) -> None:
    count = len(floats)
    batch = pa.record_batch(
        {
            "x": pa.array(floats, pa.float64()),
            "f": pa.array([0.5] * count, pa.float32()),
            "i": pa.array(range(count), pa.int64()),
            "s": [text] * count,
        }
    )
    file = io.BytesIO()
    writer = CsvWriter(file, batch.schema)
    writer.write_batch(batch)
    writer.close()
    by_arrow = io.BytesIO()
    pyarrow.csv.write_csv(batch, by_arrow)
    # Arrow's own text, but for the points.
    given_x, arrow_x = (
        pyarrow.csv.read_csv(
            io.BytesIO(content.getvalue()),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types={"x": pa.string()}),
        )
        for content in (file, by_arrow)
    )
    assert given_x.drop("x").equals(arrow_x.drop("x"))
    for ours, theirs in zip(given_x["x"].to_pylist(), arrow_x["x"].to_pylist(), strict=True):
        assert ours in (theirs, f"{theirs}.0")
    back = read_settled(file.getvalue(), 2 << 20)["x"].combine_chunks()
    if any(value is not None for value in floats):
        assert back.type == pa.float64()
        assert [str(v) for v in back.to_pylist()] == [str(v) for v in floats]


@given(
    number=st.integers(-(10**15), 10**15),
    digits=st.integers(0, 999),
    marks=st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]),
)
def test_numbers_with_thousands_are_read_as_python_writes_them(
    number: int, digits: int, marks: tuple[str, str]
) -> None:
    thousands, decimal = marks
    whole = f"{number:,}".replace(",", thousands)
    options = CsvOptions(decimal=decimal, thousands=thousands)
    column = pa.array([whole, None, "NA", f" {whole} "])
    integers, wrong = parse_numbers(column, pa.int64(), options)
    assert (wrong, integers.to_pylist()) == (-1, [number, None, None, number])
    column = pa.array([f"{whole}{decimal}{digits:03}", "nan", "x"])
    floats, wrong = parse_numbers(column.slice(0, 2), pa.float64(), options)
    assert wrong == -1
    assert floats[0].as_py() == float(f"{number}.{digits:03}")
    assert parse_numbers(column, pa.float64(), options)[1] == 2


@given(
    names=st.lists(st.from_regex(r"[a-z][a-z .]{0,5}", fullmatch=True), min_size=2, max_size=6),
    rows=st.lists(st.integers(-99, 99), min_size=1, max_size=9),
    delimiter=st.sampled_from(",;\t|"),
    comments=st.lists(st.sampled_from(["# by hand\n", "\n", "#\n"]), max_size=3),
)
def test_the_delimiter_and_the_header_are_found(
    names: list[str], rows: list[int], delimiter: str, comments: list[str]
) -> None:
    body = "".join(delimiter.join([str(row)] * len(names)) + "\n" for row in rows)
    sample = "".join(comments) + delimiter.join(names) + "\n" + body
    dialect = detect_dialect(sample, CsvOptions(), "it", whole=True)
    assert (dialect.delimiter, dialect.skip_lines) == (delimiter, len(comments) + 1)
    assert dialect.names is not None
    assert len(set(dialect.names)) == len(names)
    assert all(ours.startswith(name) for ours, name in zip(dialect.names, names, strict=True))


def test_long_lines_are_read_in_larger_blocks_with_the_same_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[f"{row}.{column}5" for column in range(40)] for row in range(50)]
    content = "\n".join(",".join(row) for row in [[f"c{i}" for i in range(40)], *rows]).encode()
    monkeypatch.setattr(csv_reader, "_BLOCK", 2000)
    monkeypatch.setattr(csv_reader, "_WIDE_BLOCK", 8000)

    def read() -> list[pa.RecordBatch]:
        return list(open_csv(lambda: pa.BufferReader(content), "it", CsvOptions()))

    narrow = read()
    monkeypatch.setattr(csv_reader, "_WIDE", 100)
    wide = read()
    assert len(wide) < len(narrow)
    assert pa.Table.from_batches(wide).equals(pa.Table.from_batches(narrow))
