"""CSV columns that pass through: text as it came, and types that lose nothing of it."""

from __future__ import annotations

import csv
import decimal
import io
from typing import Any

import pyarrow as pa
import pytest
from csv_text import CELLS, csv_files
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from streambn.io import CsvOptions, Format, InferenceError, Passthrough, csv_reader
from streambn.io.csv_layouts import first_text, kind_of, layouts_of, unite
from streambn.io.csv_passthrough import lossless_text
from streambn.io.csv_reader import open_csv, settle_types
from streambn.io.csv_types import null_values
from streambn.io.csv_writer import CsvWriter

FEW = settings.get_profile("few")


def table_of(content: bytes, options: CsvOptions, passthrough: Passthrough | None) -> pa.Table:
    """Read content in blocks of a few rows."""

    def opener() -> Any:
        return pa.BufferReader(content)

    try:
        reader = open_csv(opener, "it", options, None, passthrough)
        return pa.Table.from_batches(reader, reader.schema)
    except InferenceError:
        settled = settle_types(opener, "it", options, passthrough)
        if passthrough is not None:
            passthrough = passthrough._replace(settled=settled)
        reader = open_csv(opener, "it", options, settled, passthrough)
        return pa.Table.from_batches(reader, reader.schema)


def written(table: pa.Table) -> list[list[str]]:
    """Write a table as CSV, and return its rows as Python's csv module reads them."""
    file = io.BytesIO()
    writer = CsvWriter(file, table.schema)
    for batch in table.to_batches():
        writer.write_batch(batch)
    writer.close()
    text = file.getvalue().decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline="")))


@given(file=csv_files())
def test_text_goes_out_as_it_came(file: Any) -> None:
    table = table_of(file.content, file.options, Passthrough({file.header[0]}, Format.CSV))
    header, *rows = written(table)
    assert header == file.header
    assert [row[1:] for row in rows] == [row[1:] for row in file.rows]


@given(file=csv_files())
def test_the_changed_column_is_that_of_a_typed_read(file: Any) -> None:
    changed = file.header[0]
    for into in (Format.CSV, Format.PARQUET):
        passed = table_of(file.content, file.options, Passthrough({changed}, into))
        typed = table_of(file.content, file.options, None)
        assert passed[changed].combine_chunks().equals(typed[changed].combine_chunks())


# --- types --------------------------------------------------------------------------------

TEXTS = st.lists(CELLS | st.floats().map(repr) | st.integers().map(str), min_size=1, max_size=4)
FORMATS = st.sampled_from(["{!r}", "{:.18e}", "{:.2f}", "{:.17g}", "{:g}", "{:.0f}", "{:+}"])


def assert_kept(texts: list[str], options: CsvOptions) -> None:
    """Check that the type of some texts holds the value of each, and tells them apart."""
    column = pa.array([text.encode() for text in texts], pa.binary())
    kind = kind_of(layouts_of(column, options))
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind):
        return
    values, wrong = lossless_text(column, kind, options)
    assert wrong is None
    missing = null_values(options)
    found: dict[Any, Any] = {}
    for text, value in zip(texts, values.to_pylist(), strict=True):
        text = text.strip(" \t\n\v\f\r")  # noqa: PLW2901
        if text in missing:
            assert value is None
            continue
        original = ORIGINALS[str(kind).split("[")[0]](text)
        if value == value:  # noqa: PLR0124  (not NaN)
            assert found.setdefault(value, original) == original


def exact(text: str) -> decimal.Decimal:
    number = decimal.Decimal(text)
    return number if number.is_finite() else decimal.Decimal(str(float(text)))


# What a text says, which differs where the text does, but for zeros at its end and such.
ORIGINALS = {
    "int64": str,
    "double": exact,
    "bool": str,
    "date32": str,
    "time32": str,
    "timestamp": str,
}


@given(texts=TEXTS)
@example(texts=["1.10", "1.1"])
@example(texts=["0.10000000000000001", "0.1"])
@example(texts=["5.684341886080801e-14", "5.6843418860808015e-14"])
def test_no_two_texts_become_one_value(texts: list[str]) -> None:
    assert_kept(texts, CsvOptions())


@settings.get_profile("many")
@given(numbers=st.lists(st.floats(allow_nan=False), min_size=1, max_size=5), form=FORMATS)
def test_floats_keep_their_digits(numbers: list[float], form: str) -> None:
    texts = [form.format(number) for number in numbers]
    assert_kept(texts, CsvOptions())
    column = pa.array([text.encode() for text in texts], pa.binary())
    if form in ("{!r}", "{:.18e}"):
        kind = kind_of(layouts_of(column, CsvOptions()))
        assert kind == pa.float64()
        values, _ = lossless_text(column, kind, CsvOptions())
        assert values.to_pylist() == numbers


TYPES = {
    "int64": [["1", "-2", "0"], ["9223372036854775807"], [" 5", "10 "], ["1", "NA", ""]],
    "double": [
        *(["1.50", "22.25"], ["1", "2.5"], ["1.0", "2.5"], ["1e-05", "2.5"], ["1.0E-5"]),
        *([".5", "0.25"], ["nan", "1.5"], ["inf"], ["-0", "1"], ["1.000000000000000056e-01"]),
    ],
    "bool": [["true", "false"], ["TRUE", ""]],
    "date32[day]": [["2024-01-05", ""]],
    "time32[s]": [["12:30"], ["12:30:59"]],
    "timestamp[s]": [["2024-01-05T00:00"], ["2024-01-05 00:00:00", "NA"]],
    "timestamp[s, tz=UTC]": [["2024-01-05T00:00:00Z"]],
    "timestamp[ns]": [["2024-01-05 00:00:00.125"]],
    "null": [["", "NA"]],
    "string": [
        *(["01"], ["+5"], ["1e5", "7"], ["0x1F"], ["1.50", "2.5"], ["1.10", "1.9"], ["5."]),
        *(["9223372036854775808"], ["12345678901234567890"], ["0.12345678901234567891"]),
        *(["true", "FALSE"], ["true", "1"], ["2024-13-05"], ["2024-01-05", "2024-01-05 00:00"]),
        *(["2024-01-05T00:00+01:00"], ["12:30", "12:30:00"], ["25:00"], ["1E400", "1.5"], ["x"]),
        *(["2024-01-05 00:00:00.5", "2024-01-05 00:00:00.50"], ["1.5e-99999999999999999999"]),
    ],
}


@pytest.mark.parametrize(
    ("kind", "texts"), [(kind, texts) for kind, cases in TYPES.items() for texts in cases]
)
def test_a_column_has_a_type_that_loses_nothing(kind: str, texts: list[str]) -> None:
    column = pa.array([text.encode() for text in texts], pa.binary())
    assert str(kind_of(layouts_of(column, CsvOptions()))) == kind
    assert (first_text(column, CsvOptions()) is None) == (kind != "string")


def test_separators_belong_to_the_layout() -> None:
    options = CsvOptions(decimal=",", thousands=".")
    cases = [
        (["1.234,50", "2,25"], "double"),
        (["1.234", "999"], "int64"),
        (["1.234", "1234"], "string"),
        (["1.23"], "string"),
    ]
    for texts, kind in cases:
        column = pa.array([text.encode() for text in texts], pa.binary())
        assert str(kind_of(layouts_of(column, options))) == kind
    values, _ = lossless_text(pa.array([b"1.234,50"], pa.binary()), pa.float64(), options)
    assert values.to_pylist() == [1234.5]


@given(texts=TEXTS, cut=st.integers(0, 4))
def test_layouts_of_a_column_are_those_of_its_parts(texts: list[str], cut: int) -> None:
    column = pa.array([text.encode() for text in texts], pa.binary())
    parts = [layouts_of(part, CsvOptions()) for part in (column[:cut], column[cut:])]
    assert kind_of(unite(*parts)) == kind_of(layouts_of(column, CsvOptions()))


@FEW
@given(file=csv_files(encodings=("utf-8",)), block=st.integers(100, 300))
def test_types_that_lose_nothing_do_not_depend_on_blocks(file: Any, block: int) -> None:
    assume(max(map(len, file.content.splitlines())) < block // 2)
    passthrough = Passthrough({file.header[0]}, Format.PARQUET)
    whole = table_of(file.content, file.options, passthrough)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "_BLOCK", block)
        parts = table_of(file.content, file.options, passthrough)
    for name in file.header[1:]:
        assert parts[name].type == whole[name].type
        assert str(parts[name].to_pylist()) == str(whole[name].to_pylist())  # NaN is NaN
