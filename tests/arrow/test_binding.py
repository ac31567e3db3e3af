"""Arrow columns as features: every encoding of the same numbers gives the same statistics."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn import snapshot
from streambn.arrow.binding import bind

BITMAP_AND_DATA = 2


def record(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [c if isinstance(c, pa.Array) else pa.array(c) for c in columns.values()],
        names=list(columns),
    )


def fit(data: Any, **options: Any) -> sbn.Normalizer:
    return sbn.Normalizer(**options).update(data)


def bits(norm: sbn.Normalizer) -> bytes:
    """Return the bytes of a state, which tell apart states that differ in one bit."""
    return snapshot.encode(snapshot.Snapshot(norm._statistics, frozen=False))


def by_feature(norm: sbn.Normalizer) -> dict[str, dict[str, Any]]:
    return {row["column"]: row for row in norm.stats().to_pylist()}


# ------------------------------------------------------- the same numbers, any encoding


class Kind(NamedTuple):
    """A numeric type, and the number that represents an integer k in 0..99 in it."""

    type: pa.DataType
    number: Callable[[int], Any]


def _integers(kind: pa.DataType, offset: int = 0) -> Kind:
    return Kind(kind, lambda k: k + offset)


def _decimals(kind: pa.DataType, offset: int = 0) -> Kind:
    # scaleb() would round to the 28 digits of the decimal context.
    return Kind(kind, lambda k: Decimal(f"{k + offset}E{-kind.scale}"))


def _floats(kind: pa.DataType, offset: float = 0.0) -> Kind:
    return Kind(kind, lambda k: offset + k / 4)


KINDS = {
    **{str(t): _integers(t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): _integers(t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "int64 at its lower end": _integers(pa.int64(), -(2**63)),
    "int64 at its upper end": _integers(pa.int64(), 2**63 - 100),
    "uint64 at its upper end": _integers(pa.uint64(), 2**64 - 100),
    "float16": _floats(pa.float16()),
    "float32": _floats(pa.float32()),
    "float32 far from zero": _floats(pa.float32(), 2.0**20),
    "float64": _floats(pa.float64()),
    "float64 far from zero": _floats(pa.float64(), 1e12),
    "decimal32": _decimals(pa.decimal32(9, 2), -50),
    "decimal32, negative scale": _decimals(pa.decimal32(9, -2)),
    "decimal64": _decimals(pa.decimal64(18, 3), -50),
    "decimal64 at its end": _decimals(pa.decimal64(18, 0), 10**18 - 100),
    "decimal128": _decimals(pa.decimal128(20, 4), -50),
    "decimal128, negative scale": _decimals(pa.decimal128(20, -3)),
    "decimal128 far from zero": _decimals(pa.decimal128(38, 2), 10**20),
    "decimal256": _decimals(pa.decimal256(40, 10), -50),
    "decimal256 far from zero": _decimals(pa.decimal256(76, 5), -(10**20)),
}

Ks = Sequence[int | None]


def plain(kind: Kind, ks: Ks) -> pa.Array:
    return pa.array([None if k is None else kind.number(k) for k in ks], kind.type)


def dictionary(kind: Kind, ks: Ks) -> pa.Array:
    """Encode nulls alternately as null indices and as null values of the dictionary."""
    values = [None, *sorted({k for k in ks if k is not None})]
    nulls = iter([None, 0] * len(ks))
    indices = [next(nulls) if k is None else values.index(k) for k in ks]
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int16()), plain(kind, values))


def run_end_encoded(kind: Kind, ks: Ks) -> pa.Array:
    ends = [i + 1 for i in range(len(ks)) if i + 1 == len(ks) or ks[i] != ks[i + 1]]
    return pa.RunEndEncodedArray.from_arrays(
        pa.array(ends, pa.int32()), plain(kind, [ks[end - 1] for end in ends])
    )


ENCODINGS = (plain, dictionary, run_end_encoded)


K = st.one_of(st.none(), st.integers(0, 99))
JUNK = st.lists(st.integers(0, 99), max_size=9)  # what a slice leaves out on either side


@st.composite
def numbers(draw: Any, kind: Kind, min_size: int = 0) -> tuple[pa.Array, list[int | None]]:
    """Draw a flat array, often a slice, and the integers that it represents."""
    encode = draw(st.sampled_from(ENCODINGS))
    ks, before, after = draw(st.lists(K, min_size=min_size, max_size=12)), draw(JUNK), draw(JUNK)
    array = encode(kind, [*before, *ks, *after])
    return array.slice(len(before), len(ks)), ks


@st.composite
def flat(draw: Any, kind: Kind) -> tuple[pa.Array, dict[str, list[int | None]]]:
    array, ks = draw(numbers(kind))
    return array, {"x": ks}


@st.composite
def struct(draw: Any, kind: Kind) -> tuple[pa.Array, dict[str, list[int | None]]]:
    """Draw x.a.b and x.c, with null structs on both levels above valid values."""
    inner, ks = draw(numbers(kind))
    rows = len(ks)
    masks = [np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)] * 2
    masks[1] = masks[1][::-1].copy()
    level = pa.StructArray.from_arrays([inner], ["b"], mask=pa.array(masks[0]))
    other = pa.array(range(rows), pa.int32())
    whole = pa.StructArray.from_arrays([level, other], ["a", "c"], mask=pa.array(masks[1]))
    start = draw(st.integers(0, rows))
    gone = masks[0] | masks[1]
    below = [None if gone[i] else ks[i] for i in range(start, rows)]
    beside = [None if masks[1][i] else i for i in range(start, rows)]
    return whole.slice(start), {"x.a.b": below, "x.c": beside}


@st.composite
def fixed_list(
    draw: Any, kind: Kind, tensor: bool = False
) -> tuple[pa.Array, dict[str, list[int | None]]]:
    """Draw lists with null rows, null elements, and values at an offset."""
    width = draw(st.sampled_from([4] if tensor else [1, 2, 5]))
    encode = plain if tensor else draw(st.sampled_from(ENCODINGS))
    element = st.lists(K, min_size=width, max_size=width)
    rows = draw(st.lists(element, max_size=8))
    nulls = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    junk = draw(JUNK)
    values = encode(kind, [*junk, *(k for row in rows for k in row)]).slice(len(junk))
    array = pa.FixedSizeListArray.from_arrays(values, width, mask=pa.array(nulls, pa.bool_()))
    if tensor:
        kind_of = pa.fixed_shape_tensor(kind.type, [2, 2], dim_names=["h", "w"])
        array = pa.ExtensionArray.from_storage(kind_of, array)
    start = draw(st.integers(0, len(rows)))
    seen = list(zip(rows, nulls, strict=True))[start:]
    features = {f"x[{i}]": [None if null else row[i] for row, null in seen] for i in range(width)}
    return array.slice(start), features


@st.composite
def tensor(draw: Any, kind: Kind) -> tuple[pa.Array, dict[str, list[int | None]]]:
    return draw(fixed_list(kind, tensor=True))


NESTINGS = {"flat": flat, "struct": struct, "list": fixed_list, "tensor": tensor}


def values_of(rows: list[Any], feature: str) -> list[Any]:
    """Return the values of feature ``x.a.b`` or ``x[2]`` in rows of Python objects."""
    found = rows
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", feature):
        found = [None if r is None else r[name or int(index)] for r in found]
    return found


def moments_of(values: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
    mean = sum(values, Fraction(0)) / len(values)
    return mean, sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)


def storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("name", KINDS)
@settings.get_profile("few")
@given(data=st.data())
def test_every_encoding_gives_the_same_statistics_and_output(
    name: str, nesting: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    array, features = data.draw(NESTINGS[nesting](kind))
    batch = record(x=array)
    norm = sbn.Normalizer().update(batch)
    if batch.num_rows == 0:
        assert norm.features == ()
        return
    stats = by_feature(norm)
    assert list(stats) == list(features)
    result = norm.transform(batch)
    result.validate(full=True)
    rows = storage(result.column(0)).to_pylist()
    width = {pa.float16(): 2e-3, pa.float32(): 2e-6}
    for feature, ks in features.items():
        is_x = feature != "x.c"
        here = [None if k is None else Fraction(kind.number(k) if is_x else k) for k in ks]
        values = [v for v in here if v is not None]
        row = stats[feature]
        assert (row["count"], row["nulls"]) == (len(values), len(ks) - len(values))
        got = values_of(rows, feature)
        if not values:
            assert row["mean"] is row["var"] is row["min"] is row["max"] is None
            assert got == [None] * len(ks)
            continue
        mean, var = moments_of(values)
        # A mean near zero is as accurate as the values, not relative to itself.
        assert abs(Fraction(row["mean"]) - mean) <= 3e-16 * (abs(mean) + max(map(abs, values)) / 9)
        assert row["var"] == pytest.approx(float(var), rel=1e-14, abs=0)
        assert (row["min"], row["max"]) == (float(min(values)), float(max(values)))
        root = math.sqrt(var) or 1.0
        tolerance = width.get(kind.type, 1e-13) if is_x else 1e-13
        tolerance = max(tolerance, float(abs(mean)) / root * 2**-100)  # the mean's 106 bits
        for value, z in zip(here, got, strict=True):
            assert (z is None) == (value is None)
            if value is not None:
                expected = float(value - mean) / root
                assert float(z) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@given(data=st.data(), name=st.sampled_from(sorted(KINDS)))
def test_slices_give_the_same_bits_as_copies(data: st.DataObject, name: str) -> None:
    nesting = data.draw(st.sampled_from(sorted(NESTINGS)))
    array, _ = data.draw(NESTINGS[nesting](KINDS[name]))
    batch = record(x=array)
    fresh = pa.ipc.open_stream(_written(batch)).read_next_batch()
    if batch.num_rows == 0:
        return
    assert bits(fit(batch)) == bits(fit(fresh))
    norm = fit(batch)
    assert norm.transform(batch).equals(norm.transform(fresh))


def _written(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("encode", ENCODINGS, ids=lambda e: e.__name__)
def test_zero_rows_normalize_to_zero_rows(encode: Any, name: str) -> None:
    kind = KINDS[name]
    norm = fit(record(x=encode(kind, [1, 2, 5])))
    empty = record(x=encode(kind, [1, 2, 5]).slice(1, 0))
    before = bits(norm)
    assert bits(norm.update(empty)) == before
    out = norm.transform(empty)
    out.validate(full=True)
    assert out.num_rows == 0
    assert out.schema == norm.transform(record(x=encode(kind, [1]))).schema


def test_integers_beyond_the_float_mantissa_keep_their_last_digits() -> None:
    values = [2**53 + 1, 2**53 + 3, 2**53 + 5]
    assert np.var(np.array(values, np.int64).astype(float)) != pytest.approx(8 / 3)  # rejected
    for kind in (pa.int64(), pa.uint64(), pa.decimal128(20, 0)):
        norm = fit(record(x=pa.array(values, kind)))
        assert by_feature(norm)["x"]["var"] == pytest.approx(8 / 3, rel=1e-15)
        z = norm.transform(record(x=pa.array(values, kind))).column(0).to_pylist()
        assert z == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-15)


def test_decimals_are_not_rounded_to_float64() -> None:
    """NIST certifies a deviation of 0.1 for the decimal data."""
    texts = ["10000000.2", *["10000000.1", "10000000.3"] * 500]
    array = pa.array([Decimal(t) for t in texts], pa.decimal128(12, 1))
    assert by_feature(fit(record(x=array), ddof=1))["x"]["std"] == 0.1
    assert by_feature(fit(record(x=array.cast(pa.float64())), ddof=1))["x"]["std"] != 0.1


def test_narrow_column_does_not_affect_another() -> None:
    price = pa.array([70000.25, 70000.5, 70001.0])
    alone = by_feature(fit(record(price=price)))["price"]
    beside = by_feature(fit(record(flag=pa.array([1, 2, 3], pa.int8()), price=price)))["price"]
    assert beside == alone


# ------------------------------------------------------------------- values under nulls

_POISONS: dict[pa.DataType, list[Any]] = {
    pa.float16(): [np.nan, np.inf, -np.inf, 65504.0],
    pa.float32(): [np.nan, np.inf, -np.inf, 3e38],
    pa.float64(): [np.nan, np.inf, -np.inf, 1.7e308, 5e-324],
    pa.int8(): [-128, 127],
    pa.int32(): [-(2**31), 2**31 - 1],
    pa.int64(): [-(2**63), 2**63 - 1],
    pa.uint64(): [2**64 - 1, 2**63],
    pa.decimal32(9, 2): [-(2**31), 2**31 - 1],
    pa.decimal64(18, 2): [-(2**63), 2**63 - 1],
    pa.decimal128(38, 2): [-(2**127), 2**127 - 1],
    pa.decimal256(76, 2): [-(2**255), 2**255 - 1],
}


def _buffer(kind: pa.DataType, values: Sequence[Any]) -> pa.Buffer:
    if pa.types.is_decimal(kind):
        width = kind.byte_width
        return pa.py_buffer(b"".join(int(v).to_bytes(width, "little", signed=True) for v in values))
    return pa.py_buffer(np.array(values, kind.to_pandas_dtype()).tobytes())


def under_nulls(kind: pa.DataType, values: Sequence[Any], valid: Sequence[bool]) -> pa.Array:
    """Return an array with given values in its buffer, valid or not."""
    bitmap = pa.py_buffer(np.packbits(np.array(valid, bool), bitorder="little").tobytes())
    return pa.Array.from_buffers(kind, len(values), [bitmap, _buffer(kind, values)])


def _nested(array: pa.Array, nesting: str, valid: Sequence[bool]) -> pa.Array:
    """Nest an array in a list or a struct whose rows are null where not `valid`."""
    if nesting == "plain":
        return array
    mask = ~np.array(valid, bool)
    if nesting == "struct":
        return pa.StructArray.from_arrays([array], ["f"], mask=pa.array(mask))
    rows = pa.array(mask[: len(mask) // 2])
    return pa.FixedSizeListArray.from_arrays(array.slice(0, len(rows) * 2), 2, mask=rows)


@pytest.mark.parametrize("nesting", ["plain", "struct", "list"])
@pytest.mark.parametrize("kind", _POISONS, ids=str)
@settings.get_profile("few")
@given(data=st.data())
def test_values_under_nulls_are_never_read(
    kind: pa.DataType, nesting: str, data: st.DataObject
) -> None:
    n = data.draw(st.integers(2, 40))
    valid = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    outer = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    clean = data.draw(st.lists(st.integers(0, 100), min_size=n, max_size=n))
    poison = st.sampled_from(_POISONS[kind])
    if nesting == "plain":
        hidden = [not v for v in valid]
    elif nesting == "struct":
        hidden = [not (v and o) for v, o in zip(valid, outer, strict=True)]
    else:
        hidden = [not v or (i < n // 2 * 2 and not outer[i // 2]) for i, v in enumerate(valid)]
    dirty = [data.draw(poison) if h else c for h, c in zip(hidden, clean, strict=True)]
    start = data.draw(st.integers(0, n // 2 - 1))
    one, two = (
        record(x=_nested(under_nulls(kind, values, valid), nesting, outer)).slice(start)
        for values in (clean, dirty)
    )
    options = {"nan": "raise", "inf": "raise"}
    first, second = fit(one, **options), fit(two, **options)
    assert bits(first) == bits(second)
    assert first.transform(one).equals(second.transform(two))
    out = second.transform(two).column(0)
    assert _hidden_values(out) <= {0.0}


def _hidden_values(array: pa.Array) -> set[float]:
    """Return the values in the buffers of an array under its nulls."""
    valid = np.ones(len(array), bool)
    width = 1
    while not pa.types.is_floating(array.type):
        valid &= array.is_valid().to_numpy(zero_copy_only=False)
        if pa.types.is_struct(array.type):
            array = array.field(0)
        else:
            width = array.type.list_size
            array = array.values.slice(array.offset * width, len(array) * width)
            valid = np.repeat(valid, width)
    valid = valid & array.is_valid().to_numpy(zero_copy_only=False)
    raw = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return set(raw[array.offset : array.offset + len(array)][~valid].astype(float).tolist())


def test_invalid_dictionary_index_under_a_null_is_ignored() -> None:
    indices = under_nulls(pa.int32(), [0, 2**31 - 1, 1, -(2**31)], [True, False, True, False])
    array = pa.DictionaryArray.from_arrays(indices, pa.array([1.0, 3.0]), safe=False)
    norm = fit(record(x=array))
    assert by_feature(norm)["x"] | {"column": ""} == {
        "column": "", "count": 2, "nulls": 2, "nans": 0, "infs": 0,
        "mean": 2.0, "var": 1.0, "std": 1.0, "min": 1.0, "max": 3.0,
    }  # fmt: skip
    assert norm.transform(record(x=array)).column(0).to_pylist() == [-1.0, None, 1.0, None]


def test_feature_without_values_leaks_no_memory() -> None:
    array = pa.array([[1.0, None], [3.0, None]], pa.list_(pa.float64(), 2))
    norm = fit(record(x=array))
    out = norm.transform(record(x=pa.array([[5.0, 7.0], [5.0, 8.0]], array.type))).column(0)
    out.validate(full=True)
    assert out.to_pylist() == [[3.0, None], [3.0, None]]
    assert _hidden_values(out) == {0.0}


# ----------------------------------------------------------------------- which columns

NOT_NUMERIC = {
    "bool": pa.array([True, False]),
    "timestamp": pa.array([1, 2], pa.timestamp("us", "UTC")),
    "date32": pa.array([1, 2], pa.date32()),
    "date64": pa.array([datetime.date(2020, 1, 1), None], pa.date64()),
    "time32": pa.array([1, 2], pa.time32("s")),
    "time64": pa.array([1, 2], pa.time64("ns")),
    "duration": pa.array([1, 2], pa.duration("ms")),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "string": pa.array(["1", "2"]),
    "large_string": pa.array(["1", "2"], pa.large_string()),
    "string_view": pa.array(["1", "2"], pa.string_view()),
    "binary": pa.array([b"1", b"2"]),
    "fixed_size_binary": pa.array([b"12345678"] * 2, pa.binary(8)),
    "list": pa.array([[1.0], [2.0]]),
    "large_list": pa.array([[1.0], [2.0]], pa.large_list(pa.float64())),
    "list of strings": pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
    "list of booleans": pa.array([[True], [False]], pa.list_(pa.bool_(), 1)),
    "list of timestamps": pa.array([[1], [2]], pa.list_(pa.timestamp("s"), 1)),
    "list of no elements": pa.array([[], []], pa.list_(pa.float64(), 0)),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(2),
    "dictionary of strings": pa.array(["a", "b"]).dictionary_encode(),
    "run-end-encoded timestamps": pa.RunEndEncodedArray.from_arrays(
        pa.array([2], pa.int32()), pa.array([1], pa.timestamp("s"))
    ),
    "struct of strings": pa.array([{"a": "x"}, None]),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16] * 2, pa.binary(16))),
}


@pytest.mark.parametrize("name", NOT_NUMERIC)
def test_other_types_are_never_averaged(name: str) -> None:
    array = NOT_NUMERIC[name]
    batch = record(x=[1.0, 3.0], other=array)
    norm = fit(batch)
    assert norm.features == ("x",)
    out = norm.transform(batch)
    assert out.schema.field("other").equals(batch.schema.field("other"))
    assert out["other"].equals(array)
    with pytest.raises(sbn.SchemaError, match=r"'other' is .*not numeric.*cast it"):
        fit(batch, columns=["x", "other"])
    with pytest.raises(sbn.SchemaError, match="no numeric column"):
        fit(record(other=array))


@pytest.mark.parametrize("name", [n for n in NOT_NUMERIC if n != "null"])
def test_column_that_is_no_longer_numeric_is_an_error(name: str) -> None:
    norm = fit(record(other=[1.0, 3.0]))
    before = bits(norm)
    for act in (norm.update, norm.transform, norm.update_transform):
        with pytest.raises(sbn.SchemaError, match="'other'"):
            act(record(other=NOT_NUMERIC[name]))
        assert bits(norm) == before


def test_features_are_named_by_struct_field_and_element() -> None:
    batch = record(
        emb=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        s=pa.array([{"a": 1, "b": {"c": [1.0, 2.0], "text": "x"}}],
                   pa.struct([("a", pa.int64()),
                              ("b", pa.struct([("c", pa.list_(pa.float64(), 2)),
                                               ("text", pa.string())]))])),
    )  # fmt: skip
    features = ("emb[0]", "emb[1]", "s.a", "s.b.c[0]", "s.b.c[1]")
    assert fit(batch).features == features
    assert fit(batch).stats()["column"].to_pylist() == list(features)
    assert fit(batch, columns=["s.b", "emb"]).features == (*features[3:], *features[:2])
    assert fit(batch, columns=["s.a"]).features == ("s.a",)
    with pytest.raises(sbn.SchemaError, match=r"'s\.b\.text'"):
        fit(batch, columns=["s.b.text"])


def test_column_with_a_dotted_name_precedes_a_struct_field() -> None:
    struct = pa.array([{"b": 1.0}, {"b": 3.0}])
    batch = pa.RecordBatch.from_arrays([struct, pa.array([10.0, 30.0])], ["a", "a.b"])
    norm = fit(batch, columns=["a.b"])
    assert by_feature(norm)["a.b"]["mean"] == 20.0
    out = norm.transform(batch)
    assert out.column(0).equals(struct)
    assert out.column(1).to_pylist() == [-1.0, 1.0]
    with pytest.raises(sbn.SchemaError, match=r"'a\.b'"):
        fit(batch)  # two features of one name could not be told apart


def test_dots_and_brackets_in_names_have_no_meaning() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1.0, 3.0])] * 3, ["", "a..b", "x[0]"])
    norm = fit(batch, columns=["x[0]", "a..b", ""])
    assert norm.features == ("x[0]", "a..b", "")
    assert norm.transform(batch).column("a..b").to_pylist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("prices", "price"), ("Price", "price"), ("pos.xx", "pos.x"), ("positon", "position")],
)
def test_missing_name_is_reported_with_the_nearest(asked: str, nearest: str) -> None:
    batch = record(price=[1.0], pos=pa.array([{"x": 1.0, "y": 2.0}]), position=[1.0])
    with pytest.raises(sbn.SchemaError, match=f"{asked!r} is not in the data.*{nearest!r}"):
        fit(batch, columns=["price", asked])


def test_missing_name_without_a_near_one_lists_all() -> None:
    with pytest.raises(sbn.SchemaError, match=r"'zzz' is not in the data.*'a', 'b'") as caught:
        fit(record(a=[1.0], b=[2.0]), columns=["zzz"])
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("columns", [["x", "x"], ["s", "s.a"], ["s.a", "s"]])
def test_column_named_twice_is_an_error(columns: list[str]) -> None:
    batch = record(x=[1.0], s=pa.array([{"a": 1.0}]))
    with pytest.raises(sbn.SchemaError, match="twice"):
        fit(batch, columns=columns)


def test_two_selected_columns_of_one_name_are_an_error() -> None:
    twins = pa.RecordBatch.from_arrays([pa.array([1.0]), pa.array([2.0])], ["x", "x"])
    for columns in (None, ["x"]):
        with pytest.raises(sbn.SchemaError, match="'x'"):
            fit(twins, columns=columns)
    norm = fit(record(x=[1.0]))
    with pytest.raises(sbn.SchemaError, match="'x' exists 2 times"):
        norm.update(twins)


def test_two_other_columns_of_one_name_pass_through() -> None:
    arrays = [pa.array(["a", "b"]), pa.array([1.0, 3.0]), pa.array(["c", "d"])]
    batch = pa.RecordBatch.from_arrays(arrays, ["s", "x", "s"])
    out = fit(batch).transform(batch)
    assert out.schema.names == ["s", "x", "s"]
    assert out.column(0).equals(arrays[0])
    assert out.column(1).to_pylist() == [-1.0, 1.0]
    assert out.column(2).equals(arrays[2])


def test_index_of_a_pandas_frame_is_not_normalized() -> None:
    frame = pd.DataFrame({"x": [1.0, 3.0]}, index=pd.Index([100, 200], name="id"))
    assert fit(frame).features == ("x",)
    assert fit(frame, columns=["id", "x"]).features == ("id", "x")  # unless one says so
    unnamed = pd.DataFrame({"x": [1.0, 3.0]}, index=[7, 9])
    assert fit(pa.Table.from_pandas(unnamed)).features == ("x",)
    pairs = pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=["a", "b"])
    assert fit(pd.DataFrame({"x": [1.0, 3.0]}, index=pairs)).features == ("x",)


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b"null", b'{"index_columns": 3}', b"\xff"])
def test_broken_pandas_metadata_is_ignored(metadata: bytes) -> None:
    schema = pa.schema([("x", pa.float64())], metadata={b"pandas": metadata})
    assert bind(schema, None).features == ("x",)


def test_many_features_are_bound_and_learned() -> None:
    wide = record(emb=pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * 30_000)), 30_000))
    features = fit(wide).features
    assert (len(features), features[-1]) == (30_000, "emb[29999]")
    stats = fit(record(**{f"c{i}": [1.0 * i] for i in range(4_000)})).stats()
    assert stats["mean"].to_pylist() == [float(i) for i in range(4_000)]


# ---------------------------------------------------------------------- later batches


def test_later_batches_are_matched_by_name() -> None:
    norm = fit(record(x=[1.0, 3.0], y=[10, 30], s=pa.array([{"p": 1.0, "q": 5.0}] * 2)))
    shuffled = record(
        new=["a", "b"],
        s=pa.array([{"q": 5.0, "r": "text", "p": 1.0}] * 2),
        y=pa.array([10.0, 30.0], pa.float32()),
        x=pa.array([1, 3], pa.int8()),
    )
    out = norm.transform(shuffled)
    assert out.schema.names == ["new", "s", "y", "x"]
    assert out.to_pylist() == [
        {"new": t, "s": {"q": 0.0, "r": "text", "p": 0.0}, "y": z, "x": z}
        for t, z in (("a", -1.0), ("b", 1.0))
    ]
    norm.update(shuffled)
    stats = by_feature(norm)
    assert list(stats) == ["x", "y", "s.p", "s.q"]
    assert [row["mean"] for row in stats.values()] == [2.0, 20.0, 1.0, 5.0]
    assert [row["count"] for row in stats.values()] == [4, 4, 4, 4]


def test_missing_column_is_named_with_the_nearest() -> None:
    norm = fit(record(price=[1.0, 2.0], volume=[1.0, 2.0]))
    before = bits(norm)
    for act in (norm.update, norm.transform, norm.inverse_transform, norm.update_transform):
        with pytest.raises(sbn.SchemaError, match=r"'volume' is not in the data.*'volumes'"):
            act(record(price=[9.0], volumes=[1.0]))
        assert bits(norm) == before


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float64(), 3)), "list of 2.*list of 3"),
        (pa.array([1.0]), "list of 2.*one number"),
        (pa.array([[1.0, 2.0]]), "no longer numeric"),
    ],
)
def test_list_that_changes_its_size_is_an_error(now: pa.Array, message: str) -> None:
    norm = fit(record(e=pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))))
    for act in (norm.update, norm.transform):
        with pytest.raises(sbn.SchemaError, match=f"'e'.*{message}"):
            act(record(e=now))


def test_plain_column_that_becomes_a_list_is_an_error() -> None:
    with pytest.raises(sbn.SchemaError, match="'e' had one number per row and now has a list"):
        fit(record(e=[1.0])).update(record(e=pa.array([[1.0]], pa.list_(pa.float64(), 1))))


def test_column_without_values_may_have_the_null_type() -> None:
    pair = pa.list_(pa.float64(), 2)
    struct = pa.struct([("a", pa.float64()), ("t", pa.string())])
    batch = record(
        x=[1.0, 3.0],
        e=pa.array([[1.0, 2.0], [3.0, 6.0]], pair),
        s=pa.array([{"a": 1.0, "t": "x"}, {"a": 3.0, "t": "y"}], struct),
    )
    norm = fit(batch)
    stats = by_feature(norm)
    bare = record(
        x=pa.nulls(3),
        e=pa.nulls(3),
        s=pa.StructArray.from_arrays([pa.nulls(3), pa.array(["p", None, "q"])], ["a", "t"]),
    )
    out = norm.transform(bare)
    out.validate(full=True)
    assert out.schema.field("x").type == pa.float64()
    assert out.schema.field("e").type == pair
    assert out.schema.field("s").type == struct
    assert out["x"].to_pylist() == [None] * 3
    assert out["e"].to_pylist() == [None] * 3  # null lists, not lists of nulls
    assert out["s"].to_pylist() == [{"a": None, "t": t} for t in ("p", None, "q")]
    norm.update(bare)
    for feature, row in by_feature(norm).items():
        assert row == stats[feature] | {"nulls": 3}


def test_struct_without_values_may_have_the_null_type() -> None:
    norm = fit(record(s=pa.array([{"a": 1.0}, {"a": 3.0}])))
    assert by_feature(norm.update(record(s=pa.nulls(2))))["s.a"]["nulls"] == 2


# ------------------------------------------------------------------------------ output


@pytest.mark.parametrize("name", KINDS)
def test_floats_keep_their_type_and_others_become_float64(name: str) -> None:
    kind = KINDS[name]
    expected = kind.type if pa.types.is_floating(kind.type) else pa.float64()
    for encode in ENCODINGS:
        batch = record(
            x=encode(kind, [1, 2, 5]),
            s=pa.StructArray.from_arrays([encode(kind, [1, 2, 5])], ["a"]),
            e=pa.FixedSizeListArray.from_arrays(encode(kind, [1, 2, 5]), 1),
        )
        norm = fit(batch)
        for dtype, wanted in (
            (None, expected),
            (np.float32, pa.float32()),
            ("float64", pa.float64()),
            (pa.float16(), pa.float16()),
        ):
            out = norm.transform(batch, dtype=dtype)
            out.validate(full=True)
            assert out.schema.field("x").type == wanted
            assert out.schema.field("s").type.field("a").type == wanted
            assert out.schema.field("e").type.value_type == wanted
            assert out.schema.field("e").type.list_size == 1


def test_tensor_keeps_its_shape() -> None:
    kind = pa.fixed_shape_tensor(
        pa.float32(), [2, 3], dim_names=["height", "width"], permutation=[1, 0]
    )
    storage = pa.array([range(6), range(6, 12), None], pa.list_(pa.float32(), 6))
    array = pa.ExtensionArray.from_storage(kind, storage)
    norm = fit(record(t=array))
    assert norm.features == tuple(f"t[{i}]" for i in range(6))
    out = norm.transform(record(t=array)).column(0)
    out.validate(full=True)
    assert out.type == kind
    assert out.storage.to_pylist() == [[-1.0] * 6, [1.0] * 6, None]
    wide = norm.transform(record(t=array), dtype="float64").column(0).type
    assert wide == pa.fixed_shape_tensor(
        pa.float64(), [2, 3], dim_names=["height", "width"], permutation=[1, 0]
    )


@pytest.mark.parametrize("dtype", ["int64", pa.int32(), "complex128", bool, "U5", object(), 5])
def test_dtype_must_be_a_float_type(dtype: Any) -> None:
    norm = fit(record(x=[1.0]))
    for act in (norm.transform, norm.inverse_transform, norm.update_transform):
        with pytest.raises(sbn.InvalidValueError, match="dtype must be float16, float32 or"):
            act(record(x=[1.0]), dtype=dtype)


def test_float32_output_is_rounded_once() -> None:
    values = np.random.default_rng(7).normal(5, 3, 1000)
    batch = record(x=values)
    norm = fit(batch)
    wide = norm.transform(batch).column(0).to_numpy()
    narrow = norm.transform(batch, dtype="float32").column(0).to_numpy()
    assert narrow.dtype == np.float32
    assert (narrow == wide.astype(np.float32)).all()


def test_other_columns_pass_through_unchanged() -> None:
    text = pa.array(["a", None, "c"])
    skipped = under_nulls(pa.float64(), [1.0, np.nan, np.inf], [True, False, True])
    flags = pa.array([True, None, False])
    batch = record(text=text, skipped=skipped, x=[1.0, 2.0, 3.0], flags=flags)
    out = fit(batch, columns=["x"]).transform(batch)
    for name in ("text", "skipped", "flags"):
        given_buffers = [b and b.address for b in batch[name].buffers()]
        assert [b and b.address for b in out[name].buffers()] == given_buffers
    # The input is unchanged.
    assert batch["x"].to_pylist() == [1.0, 2.0, 3.0]


def test_metadata_of_schema_and_fields_is_kept() -> None:
    item = pa.field("item", pa.int16(), metadata={"unit": "mm"})
    inner = pa.field("f", pa.float32(), metadata={"unit": "K"})
    schema = pa.schema(
        [
            pa.field("x", pa.int64(), metadata={"unit": "kg"}),
            pa.field("s", pa.struct([inner, pa.field("t", pa.string(), metadata={"k": "v"})])),
            pa.field("e", pa.list_(item, 2), metadata={"model": "7"}),
            pa.field("note", pa.string(), metadata={"lang": "en"}),
        ],
        metadata={"source": "sensor 9"},
    )
    rows = [{"x": 1, "s": {"f": 1.0, "t": "a"}, "e": [1, 2], "note": "n"}]
    batch = pa.RecordBatch.from_pylist(rows, schema)
    norm = fit(batch)
    for out in (norm.transform(batch), norm.update_transform(batch), norm.inverse_transform(batch)):
        out.validate(full=True)
        assert out.schema.metadata == schema.metadata
        for name in schema.names:
            assert out.schema.field(name).metadata == schema.field(name).metadata
        assert out.schema.field("s").type.field("f").metadata == inner.metadata
        assert out.schema.field("s").type.field("t").metadata == {b"k": b"v"}
        assert out.schema.field("e").type.value_field.metadata == item.metadata
        assert out.schema.field("e").type.value_field.name == "item"


def _nulls_where_none_may_be(schema: pa.Schema, batch: pa.RecordBatch) -> list[str]:
    pairs = zip(schema, batch.columns, strict=True)
    return [field.name for field, array in pairs if not field.nullable and array.null_count]


def test_non_nullable_fields_hold_no_nulls() -> None:
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False), pa.field("y", pa.float64())])

    def batch(*xs: float) -> pa.RecordBatch:
        arrays = [pa.array(xs), pa.nulls(len(xs), pa.float64())]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    norm = fit(batch(1.0, 3.0), columns=["x"])
    assert not norm.transform(batch(1.0)).schema.field("x").nullable
    nan = math.nan
    fresh, fitted = sbn.Normalizer(columns=["x"]), fit(batch(1.0, 3.0), columns=["x"])
    unseen = fit(batch(nan), columns=["x"])
    for out in (
        unseen.transform(batch(1.0)),
        fresh.update_transform(batch(nan, 1.0), using="before"),
        fitted.update_transform(batch(nan, nan), using="batch"),
        fitted.update_transform(batch(nan, nan), using="running"),
    ):
        assert _nulls_where_none_may_be(out.schema, out) == []


def test_output_without_nulls_has_no_bitmap() -> None:
    out = fit(record(x=[1.0, 3.0])).transform(record(x=[1.0, 3.0])).column(0)
    assert len(out.buffers()) == BITMAP_AND_DATA
    assert out.null_count == 0
