"""Strategies of CSV files with values that a reader of types would change."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

from hypothesis import strategies as st

from streambn.io import CsvOptions

# Values that look like those of a type, but lose something in it; and missing ones.
ODD = [
    *("", "NA", "N/A", "null", "-", "nan", "inf", "#N/A", "None"),
    *("01234", "+5", "-0", "0x1F", "1e5", "12E4", "1E400", "5.", ".5", "1_000", "1,234", "1.234,5"),
    *("12345678901234567890", "9223372036854775808", "-9223372036854775808", "9007199254740993"),
    *("1.50", "1.5", "1.10", "0.1000000000000000055511151231257827", "0.12345678901234567890"),
    *("true", "TRUE", "True", "t", "0", "1", "False"),
    *("2024-01-05", "2024-01-05T00:00", "2024-01-05 00:00:00.50", "2024-01-05T00:00:00+01:00"),
    *("2024-1-5", "12:30", "12:30:00", "2024-13-05", "24:00", "0000-00-00"),
    *(" 5", "5 ", "\t5", "a b", 'say "yes"', '"', "a,b", "a;b", "a|b", "#", "line\nbreak", "\r"),
    *("é", "\x1f", "Ω", "=1+1", "\ufeff"),
]
CELLS = st.sampled_from(ODD) | st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6
)
NUMBERS = st.sampled_from(["1", "-2.5", "3e-2", "NA", "", "1000", "0.1"])


class CsvFile(NamedTuple):
    """A file, the options to read it with, and its cells. The first column holds numbers."""

    content: bytes
    options: CsvOptions
    header: list[str]
    rows: list[list[str]]


@st.composite
def csv_files(
    draw: st.DrawFn, encodings: tuple[str, ...] = ("utf-8", "utf-16", "cp1252")
) -> CsvFile:
    """Draw a file in any dialect, whose first column holds numbers and the others odd values."""
    encoding = draw(st.sampled_from(encodings))
    delimiter = draw(st.sampled_from(",;\t|"))
    decimal = "." if delimiter == "," else draw(st.sampled_from(".,"))
    width = draw(st.integers(1, 4))
    with_header = draw(st.booleans())
    header = ["x", *"abcd"[:width]] if with_header else [f"f{i}" for i in range(width + 1)]
    numbers = NUMBERS.map(lambda text: text.replace(".", decimal))
    # Columns of a few values each are more like those of a type.
    columns = [draw(st.lists(CELLS, min_size=1, max_size=3)) for _ in range(width)]
    cells = st.tuples(numbers, *map(st.sampled_from, columns)).map(list)
    rows = draw(st.lists(cells, min_size=1, max_size=12))
    rows[0][0] = "7"
    rows = [[_encodable(cell, encoding) for cell in row] for row in rows]
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [
        _line(row, delimiter, quoting) + end for row in ([header] if with_header else []) + rows
    ]
    options = CsvOptions(
        delimiter=delimiter,
        decimal=decimal,
        null_values=draw(st.sampled_from([(), ("-",), ("None", "-")])),
        header=with_header,
        encoding=encoding,
    )
    return CsvFile("".join(lines).encode(encoding), options, header, rows)


def _line(row: list[str], delimiter: str, quoting: int) -> str:
    # Before 3.13, Python quotes only the line breaks that end its lines.
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\r\n").writerow(row)
    return file.getvalue().removesuffix("\r\n")


def _encodable(text: str, encoding: str) -> str:
    return text.encode(encoding, "ignore").decode(encoding)
