"""JSON values that pass through JSON: their text, whatever it is."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streambn.errors import StreamBNError
from streambn.io import Format, Passthrough, json_reader
from streambn.io.json_reader import open_json
from streambn.io.json_writer import JsonWriter

# Columns of one kind each, whose values Arrow would round or write otherwise.
COLUMNS = [
    ["1", "1.0", "-0.0", "1e5", "12345678901234567890123", "0.12345678901234567890123", "2E-3"],
    ['"2024-01-05"', '"2024-01-05T00:00"', '"2024-01-05T00:00:00Z"', '"x"', '"\\u00e9"', '""'],
    ["true", "false"],
    ['{"a": 1.0}', '{"a":2.50}', "{}"],
    ["[1, 2.50]", "[]", "[1.0,2]"],
]


@st.composite
def lines(draw: st.DrawFn) -> list[dict[str, str]]:
    kinds = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3))
    row = {"x": st.sampled_from(["1.5", "2", "null"])}
    row |= {f"c{i}": st.sampled_from([*kind, "null"]) for i, kind in enumerate(kinds)}
    return draw(st.lists(st.fixed_dictionaries({}, optional=row), min_size=1, max_size=8))


@given(rows=lines(), space=st.sampled_from(["", " "]))
def test_values_go_out_as_they_came(rows: list[dict[str, str]], space: str) -> None:
    content = "".join(
        "{" + f",{space}".join(f'"{name}":{space}{value}' for name, value in row.items()) + "}\n"
        for row in rows
    ).encode()
    assume(any(row.get("x", "null") != "null" for row in rows))

    def reader() -> Any:
        return io.BytesIO(content).read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "_BLOCK", 60)
        batches = open_json(reader(), "it", {}, reader, Passthrough({"x"}, Format.JSON))
        file = io.BytesIO()
        writer = JsonWriter(file, batches.schema)
        for batch in batches:
            writer.write_batch(batch)
    for line, row in zip(file.getvalue().decode().splitlines(), rows, strict=True):
        found = dict(parts(line))
        del found["x"]
        assert found == {name: row.get(name, "null") for name in found}


def parts(line: str) -> Iterator[tuple[str, str]]:
    """Yield the names and the texts of the fields of an object."""
    decoder, at = json.JSONDecoder(), 1
    while at < len(line) - 1:
        name, at = decoder.raw_decode(line, at)
        _, end = decoder.raw_decode(line, at + 1)
        yield name, line[at + 1 : end]
        at = end + 1


def test_no_file_can_declare_text_as_json() -> None:
    field = pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "streambn.raw_json"})
    file = io.BytesIO()
    with pa.ipc.new_stream(file, pa.schema([field])):
        pass
    schema = pa.ipc.open_stream(file.getvalue()).schema
    with pytest.raises(pa.ArrowInvalid, match="binary"):
        JsonWriter(io.BytesIO(), schema)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_what_arrow_alone_takes_for_a_number_is_refused(number: str) -> None:
    content = b'{"x": 1, "y": 2}\n{"x": %s, "y": 3}\n' % number.encode()

    def reader() -> Any:
        return io.BytesIO(content).read

    batches = open_json(
        reader(), "it", {"x": pa.float64()}, reader, Passthrough({"x"}, Format.JSON)
    )
    with pytest.raises(StreamBNError, match=r"it, line 2: not readable: JSON is malformed"):
        list(batches)
