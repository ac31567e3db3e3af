"""Ten thousand columns, and names with spaces, dots, line breaks, quotes and escape sequences.

Whatever the columns are called and however many there are, they are found under their names, and
what people read about them is short, on one line, and without control characters.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good

import streambn as sbn

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

COUNT = 10_000
# fmt: off
ODD = [
    "", " ", " x", "x ", "a.b", "a\nb", "a\rb", "\t", "\x00", "\x1b]0;title\x07", "it's", 'q"q',
    "a,b", "漢字", "\u202ejpg", "*", "[x]", "\\", "|", "`x`", "<b>",
]
# fmt: on


def wide(kind: pa.DataType | None = None, prefix: str = "gene") -> pa.Table:
    values = pa.array([1, 2]).cast(kind or pa.float64())
    return pa.table([values] * COUNT, [f"{prefix}{i}" for i in range(COUNT)])


def odd() -> pa.Table:
    return pa.table([pa.array([i, i + 2.0]) for i in range(len(ODD))], ODD)


def fitted(table: pa.Table, **options: Any) -> sbn.Normalizer:
    return sbn.Normalizer(**options).update(table)


# Each gives an error; the words are in its message.
ERRORS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a missing column": (
        lambda: fitted(wide()).transform(wide().rename_columns({"gene77": "Gene77"})),
        ["'gene77'", "'Gene77'"],
    ),
    "a column that was never there": (
        lambda: fitted(wide(), columns=["gene10000"]),
        ["'gene10000'", "'gene1000'"],
    ),
    "no numeric column": (lambda: fitted(wide(pa.string())), ["no numeric column"]),
    "other columns on the two sides of a merge": (
        lambda: fitted(wide()).merge(fitted(wide(prefix="protein"))),
        ["'gene0'", "19999 more"],
    ),
    "affine of a missing column": (
        lambda: fitted(wide(), affine={"protein": (1, 0)}),
        ["affine", "'protein'"],
    ),
    "a line break in a missing name": (
        lambda: fitted(odd()).transform(pa.table({"a b": [1.0]})),
        ["is not in the data"],
    ),
    "NaN below an escape sequence": (
        lambda: fitted(pa.table({"\x1b[2J": [np.nan]}), nan="raise"),
        [r"'\x1b[2J'"],
    ),
    "no numeric column but escape sequences": (
        lambda: fitted(pa.table({"\x1b[2J": ["a"]})),
        ["no numeric column"],
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_a_message_is_one_short_line(case: tuple[Callable[[], Any], list[str]]) -> None:
    run, words = case
    with pytest.raises(sbn.StreamBNError) as caught:
        run()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    for word in words:
        assert word in message


@pytest.mark.parametrize("options", [{}, {"columns": wide().column_names}, {"schema": "union"}])
def test_many_columns_that_begin_with_nothing(options: dict[str, Any]) -> None:
    names = wide().column_names
    norm = fitted(pa.table([pa.nulls(2)] * COUNT, names), **options).update(wide())
    assert norm.features == tuple(names)
    rows = norm.merge(fitted(wide(), **options)).stats().select(["count", "nulls", "mean"])
    assert set(zip(*rows.to_pydict().values(), strict=True)) == {(4, 2, 1.5)}


def test_representations_are_short_and_printable() -> None:
    for norm in (fitted(wide()), fitted(odd()), fitted(wide(), affine={"gene1": (1, 0)})):
        for text in (repr(norm), repr(norm.freeze())):
            assert len(text) < 1000
            assert all(line.isprintable() for line in text.splitlines())
        page = norm._repr_html_()
        assert len(page) < 3000
        assert page.isprintable()


def test_odd_names_from_the_shell() -> None:
    pq.write_table(odd(), "t.parquet")
    good("fit", "t.parquet", "-o", "s.json")
    rows = list(csv.DictReader(io.StringIO(good("show", "s.json", "--format", "csv").stdout)))
    assert [row["column"] for row in rows] == ODD
    assert [float(row["mean"]) for row in rows] == [i + 1.0 for i in range(len(ODD))]
    for name in ODD[1:]:
        text = '"' + name.replace('"', '""') + '"'
        done = good("fit", "t.parquet", "-o", "one.json", "--columns", text)
        assert "statistics of 1 column " in done.stderr
        shown = json.loads(good("show", "one.json", "--format", "json").stdout)
        assert [row["column"] for row in shown["columns"]] == [name]


def test_many_columns_from_the_shell() -> None:
    table = wide().append_column("last", pa.array([7.0, 7.0]))
    pq.write_table(table, "t.parquet")
    assert "statistics of 10,001 columns" in good("fit", "t.parquet", "-o", "s.json").stderr
    shown = good("show", "s.json").stdout
    assert len(shown.splitlines()) < 60
    assert "gene39 " in shown
    assert "9,961 more features, 1 of them constant" in shown.splitlines()[-1]
    [row] = csv.DictReader(
        io.StringIO(good("show", "s.json", "--columns", "last", "--format", "csv").stdout)
    )
    assert float(row["mean"]) == 7.0
    message = bad(2, "show", "s.json", "--columns", "Gene77")
    assert "'gene77'" in message
    assert Path("s.json").exists()
