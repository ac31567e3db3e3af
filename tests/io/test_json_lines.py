"""Newline-delimited JSON: what is read does not depend on blocks, and floats keep their bits."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import io
import json
import math
import os
import select
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_files import Drops
from hypothesis import given, settings
from hypothesis import strategies as st

from streambn import StreamBNError
from streambn.io import (
    CsvOptions,
    Format,
    Location,
    Source,
    json_reader,
    json_values,
    open_reader,
    readers,
)
from streambn.io.json_writer import JsonWriter
from streambn.io.pieces import DataFile
from streambn.io.readers import open_file, open_pipe

FEW = settings.get_profile("few")


def opened(text: str | bytes, block: int = 2 << 20, /, **types: pa.DataType) -> DataFile:
    whole = text.encode() if isinstance(text, str) else text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "_BLOCK", block)
        file = open_file(lambda: pa.BufferReader(whole), "it", csv=CsvOptions(types))
        # The blocks are cut lazily.
        batches = list(file.pieces[0].read())
    return file._replace(pieces=[file.pieces[0]._replace(read=lambda: iter(batches))])


def table_of(file: DataFile) -> pa.Table:
    return pa.Table.from_batches(file.pieces[0].read(), file.schema)


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# --- laws -----------------------------------------------------------------------------

NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, width=64)
FIELDS = {
    "x": NUMBERS,
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "text": st.none() | st.text(max_size=9),
    "ok": st.none() | st.booleans(),
    "emb": st.none() | st.lists(st.none() | st.floats(-1e9, 1e9), max_size=3),
    "inner": st.none()
    | st.fixed_dictionaries({}, optional={"a": NUMBERS, "b": st.text(max_size=3)}),
}
ROWS = st.lists(st.fixed_dictionaries({"i": st.integers(0, 9)}, optional=FIELDS), min_size=1)


def plain(value: Any, expected: Any) -> Any:
    """Return a value as JSON has it: a missing key is null, and an integer may be a float."""
    if isinstance(value, dict):
        keys = expected if isinstance(expected, dict) else {}
        return {k: plain(v, keys.get(k)) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [plain(v, None) for v in value]
    if isinstance(expected, int) and not isinstance(expected, bool) and isinstance(value, float):
        assert value == float(expected)
        return expected
    return value


@FEW
@given(rows=ROWS, block=st.integers(8, 500), ending=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_rows_are_those_of_the_json_whatever_the_blocks(
    rows: list[dict[str, Any]], block: int, ending: str
) -> None:
    text = "".join(f"{json.dumps(row)}{ending}" for row in rows)
    whole, cut = table_of(opened(text)), table_of(opened(text, block))
    assert cut.schema == whole.schema
    assert cut.equals(whole)
    found = [plain(row, given) for row, given in zip(cut.to_pylist(), rows, strict=True)]
    assert found == [plain(row, None) for row in rows]


@FEW
@given(values=st.lists(st.floats() | st.none(), min_size=1), block=st.integers(8, 100))
def test_floats_read_back_to_the_same_bits(values: list[float | None], block: int) -> None:
    table = pa.table({"x": pa.array(values, pa.float64(), from_pandas=False)})
    text = written(table)
    assert "NaN" not in text.decode()
    back = table_of(opened(text, block, x=pa.float64()))["x"].to_pylist()
    for value, read in zip(values, back, strict=True):
        if value is None or not math.isfinite(value):
            assert read is None
        else:
            assert np.float64(read).tobytes() == np.float64(value).tobytes()


def written(table: pa.Table) -> bytes:
    out = io.BytesIO()
    writer = JsonWriter(out, table.schema)
    for batch in table.to_batches(max_chunksize=2):
        writer.write_batch(batch)
    writer._lost = []
    writer.close()
    return out.getvalue()


DAY = dt.datetime(2020, 2, 29, 12, 30, 0, 123456)
COLUMNS = {
    "int8": pa.array([1, None, -3], pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 1], pa.uint64()),
    "float16": pa.array([1.5, None, 2.0], pa.float16()),
    "float32": pa.array([0.1, None, 3.0], pa.float32()),
    "decimal": pa.array([decimal.Decimal("1.1"), None, decimal.Decimal(-(10**20))]),
    "bool": pa.array([True, None, False]),
    "text": pa.array(["a\u2028\"\\\n\x00é😀", None, ""]),
    "large": pa.array(["x", None, "2020-01-01"], pa.large_string()),
    "view": pa.array(["x", None, "y"], pa.string_view()),
    "date": pa.array([DAY.date(), None, dt.date(1, 1, 1)]),
    "naive": pa.array([1, None, -1], pa.timestamp("ns")),
    "zoned": pa.array([1, None, -1], pa.timestamp("us", "Europe/Berlin")),
    "seconds": pa.array([1, None, -1], pa.timestamp("s")),
    "time": pa.array([1, None, 5], pa.time64("us")),
    "duration": pa.array([1, None, 5], pa.duration("ns")),
    "category": pa.array(["a", None, "b"]).dictionary_encode(),
    "struct": pa.array([{"a": 1, "t": DAY}, None, {"a": None, "t": None}]),
    "list": pa.array([[1.5, None], None, []]),
    "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
    "lists": pa.array([[[DAY.date()]], None, [None]]),
    "null": pa.nulls(3),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_read_back_with_their_types(name: str) -> None:
    table = pa.table({name: COLUMNS[name]})
    file = opened(written(table), **{name: COLUMNS[name].type})
    assert file.schema == table.schema
    assert table_of(file).combine_chunks().equals(table)


MAP = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()), [str(uuid.UUID(int=5)), None]),
        (pa.array([[("a", 1)], None], MAP), [[{"key": "a", "value": 1}], None]),
        (pa.array([[1, 2], None], pa.list_view(pa.int64())), [[1, 2], None]),
        (pa.RunEndEncodedArray.from_arrays([1, 2], pa.array([1, None])), [1, None]),
        (pa.array([[math.nan, 1.0], None]), [[None, 1.0], None]),
    ],
    ids=["uuid", "map", "list view", "run ends", "NaN in a list"],
)  # fmt: skip
def test_other_columns_become_values_of_json(column: pa.Array, values: list[Any]) -> None:
    assert json_values(column, "x").to_pylist() == values
    assert [json.loads(row)["x"] for row in written(pa.table({"x": column})).splitlines()] == values


@pytest.mark.parametrize("column", [pa.array([b"x"]), pa.array([b"x"], pa.binary(1))])
def test_binary_columns_are_refused(column: pa.Array) -> None:
    with pytest.raises(pa.ArrowInvalid, match=r"'b' is .*binary"):
        JsonWriter(io.BytesIO(), pa.table({"b": column}).schema)


def test_a_loss_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    writer = JsonWriter(
        io.BytesIO(), pa.schema([("x", pa.float64()), ("s", pa.list_(pa.float32()))])
    )
    for _ in range(2):
        writer.write_batch(pa.record_batch({"x": [1.0, math.nan], "s": [[math.inf], None]}))
    writer.close()
    assert caplog.messages == [
        "wrote 4 NaN or infinite values as null: JSON has no number for them"
    ]


# --- types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, 2], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([1, 2**63], pa.uint64()),
        ([2**64 - 1, None], pa.uint64()),
        ([-1.5, 2**63], pa.float64()),
        ([1, 2**64], pa.float64()),
        ([None, None], pa.null()),
        ([None, 2], pa.int64()),
        (["2020-01-01", "2021-02-03"], pa.date32()),
        (["2020-01-01", "2021-02-03T10:00:00"], pa.timestamp("s")),
        (["2020-01-01T10:00:00Z", "2020-01-01T10:00:00.5Z"], pa.timestamp("us", "UTC")),
        (["2020-01-01T10:00:00+02:00", None], pa.timestamp("s", "UTC")),
        (["2020-01-01 10:00:00.123456789", None], pa.timestamp("ns")),
        (["2020-01-01T10:00:00Z", "2020-01-01T10:00:00"], pa.string()),  # in a zone, and in none
        (["2020-01-01", "unknown"], pa.string()),
        (["12", "x"], pa.string()),
        ([[1], [2.5]], pa.list_(pa.float64())),
        ([[None, 1], []], pa.list_(pa.int64())),
        ([[None, None], []], pa.list_(pa.string())),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([{"t": "2020-01-01T10:00:00"}, None], pa.struct([("t", pa.string())])),
    ],
    ids=repr,
)
@pytest.mark.parametrize("block", [8, 1000])
def test_types_are_inferred_from_all_lines(
    values: list[Any], type_: pa.DataType, block: int
) -> None:
    file = opened(lines(*({"x": value} for value in values)), block)
    assert file.schema == pa.schema([("x", type_)])
    assert table_of(file).num_rows == 2


def test_nonstandard_numbers_of_python_are_read() -> None:
    assert str(table_of(opened('{"x": NaN}\n{"x": -Infinity}\n'))["x"].to_pylist()) == "[nan, -inf]"


def test_declared_columns_exist_in_the_order_of_the_lines() -> None:
    file = opened(lines({"b": 1, "a": 2}), z=pa.string(), a=pa.float32())
    assert file.schema == pa.schema([("b", pa.int64()), ("a", pa.float32()), ("z", pa.string())])
    assert table_of(file).to_pylist() == [{"b": 1, "a": 2.0, "z": None}]


@pytest.mark.parametrize("block", [8, 1000])
def test_text_is_cast_to_a_declared_number_and_back(block: int) -> None:
    rows = [{}, {"text": "1.10", "id": 7}, {"text": "-2", "id": 2.5}, {"text": None}]
    file = opened(lines(*rows), block, text=pa.float64(), id=pa.string())
    assert file.schema == pa.schema([("text", pa.float64()), ("id", pa.string())])
    assert table_of(file)["text"].to_pylist() == [None, 1.1, -2.0, None]
    assert table_of(file)["id"].to_pylist() in (
        [None, "7", "2.5", None],
        [None, "7.0", "2.5", None],
    )
    exact = opened('{"x": 18446744073709551615}\n', x=pa.uint64())
    assert table_of(exact)["x"].to_pylist() == [2**64 - 1]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_files_are_read(compress: Any) -> None:
    file = opened(compress(lines(*({"x": i} for i in range(99))).encode()), 100)
    assert file.format is Format.JSON
    assert table_of(file)["x"].to_pylist() == list(range(99))


@pytest.mark.parametrize(
    "text", [b'\xef\xbb\xbf{"x": 1}\n', b'\n\n{"x": 1}', b'  {"x": 1}\n \n', b'{"x": 1}\r\n\r\n']
)
def test_marks_and_blank_lines_are_no_data(text: bytes) -> None:
    assert table_of(opened(text)).to_pylist() == [{"x": 1}]


def test_files_in_a_store_are_read(store: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reader, "_BLOCK", 200)
    text = lines(*({"x": i} for i in range(99)), {"x": 0.5})
    for name, data in (("a.ndjson", text.encode()), ("b.jsonl.gz", gzip.compress(text.encode()))):
        with store.child(name).open_output(fsync=False) as file:
            file.write(data)
        found = open_reader(Source(store.child(name).text)).read_all()
        assert found["x"].to_pylist() == [*range(99), 0.5]


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"x": 1', "not a JSON object: Expecting ',' delimiter, at character 8"),
        ("oops", "not a JSON object: Expecting value, at character 1"),
        ("null", "null is not an object"),
        ("[1]", r"\[1\] is not an object"),
        ('{"x": 1}{"x": 2}', "not a JSON object: Extra data, at character 9"),
        ('{"x": 1} null', "not a JSON object: Extra data"),
        ('{"x": 1, "x": 2}', "not a JSON object: 'x' occurs twice"),
        ('{"x": 1e400}', "1e400 is beyond the range of float64"),
        ('{"x": "N/A"}', "column 'x': \"N/A\" does not fit int64, .* write null where"),
        ('{"x": {"a": 1}}', "column 'x': {\"a\": 1} does not fit int64"),
        ('{"x": true}', "column 'x': true does not fit int64"),
        ('{"s": "\udcff"}', "not in UTF-8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("block", [16, 10_000])
@pytest.mark.parametrize("before", [0, 5])
def test_a_bad_line_is_named_after_the_good_ones(
    bad: str, message: str, block: int, before: int
) -> None:
    good = "".join(f'{{"x": {i}}}\n' for i in range(before + 1))
    whole = f"{good}\n{bad}\n{good}".encode("utf-8", "surrogateescape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "_BLOCK", block)
        file = open_file(lambda: pa.BufferReader(whole), "it")
        rows: list[int] = []
        with pytest.raises(StreamBNError, match=message) as error:
            rows.extend(x for batch in file.pieces[0].read() for x in batch["x"].to_pylist())
    assert str(error.value).startswith(f"it, line {before + 3}: ")
    assert rows == list(range(before + 1))


def test_objects_of_several_lines_are_refused_whatever_the_blocks() -> None:
    text = json.dumps({"x": 1, "y": 2}, indent=1) + "\n"
    for block in (4, 10_000):
        with pytest.raises(StreamBNError, match=r"it, line 1: .*jq -c \."):
            table_of(opened(text * 3, block))


def test_an_array_is_refused_with_the_remedy() -> None:
    with pytest.raises(StreamBNError, match=r"it: a JSON array.*jq -c '\.\[\]'"):
        opened('[{"x": 1},\n {"x": 2}]')


def test_an_endless_line_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reader, "_LINE", 1000)
    with pytest.raises(StreamBNError, match="line 1 is longer than"):
        opened('{"x": "' + "a" * 3000, 100)


# --- pipes ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 1 << 20])
def test_a_pipe_carries_lines(count: int) -> None:
    text = lines(*({"x": i / 4, "s": f"row {i}"} for i in range(300)))
    file = open_pipe(Drops(text.encode(), count), "it")
    assert file.format is Format.JSON
    assert table_of(file).to_pylist() == [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("late", "remedy"),
    [
        ({"x": 2.5}, "2.5 does not fit int64, the type of .*: --csv-type x=double"),
        ({"x": 2**63}, "does not fit int64, the type of .*: --csv-type x=uint64"),
        ({"n": "a"}, '"a" does not fit null, .* --csv-type n=string'),
        ({"n": [1]}, "does not fit null, .* Save the data to a file"),
        ({"t": "later"}, '"later" does not fit date32.*--csv-type t=string'),
        ({"new": True}, "occurs here for the first time. Set its type: --csv-type new=bool"),
    ],
)  # fmt: skip
def test_a_later_misfit_in_a_pipe_names_the_option(
    late: dict[str, Any], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "_BLOCK", 64)
    text = lines(*[{"x": 1, "n": None, "t": "2020-01-01"}] * 20, late).encode()
    file = open_pipe(Drops(text, 1 << 20), "it")
    with pytest.raises(StreamBNError, match=remedy) as error:
        table_of(file)
    (name,) = late
    assert error.value.column == name
    assert str(error.value).startswith("it, line 21: ")
    types = {"x": pa.float64(), "n": pa.string(), "t": pa.string(), "new": pa.bool_()}
    if late == {"x": 2**63}:
        types["x"] = pa.uint64()
    if late != {"n": [1]}:
        again = table_of(open_pipe(Drops(text, 1 << 20), "it", CsvOptions(types)))
        assert again[name].to_pylist()[-1] == late[name]


@pytest.mark.skipif(not hasattr(select, "poll"), reason="needs a system with poll: Linux or macOS")
def test_lines_of_a_slow_pipe_pass_before_more_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_FIRST_BLOCK_SECONDS", 0.01)
    end, start = os.pipe()
    with open(end, "rb", buffering=0) as pipe, open(start, "wb", buffering=0) as sink:
        sink.write(b'{"x": 1}\n{"x": 2}\n{"x"')
        batches = open_pipe(pipe, "it").pieces[0].read()
        assert next(batches)["x"].to_pylist() == [1, 2]
        sink.write(b": 3}\n")
        assert next(batches)["x"].to_pylist() == [3]
        sink.write(b'{"x": 4}')
        sink.close()
        assert next(batches)["x"].to_pylist() == [4]
        assert list(batches) == []
