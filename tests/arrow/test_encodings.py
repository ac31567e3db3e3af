"""Arrow columns as features: every encoding of the same numbers gives the same statistics."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import bits, exact, fit, record, row_of


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


# An array, and the integers that its features represent.
Drawn = tuple[pa.Array, dict[str, list[int | None]]]


@st.composite
def flat(draw: Any, kind: Kind) -> Drawn:
    array, ks = draw(numbers(kind))
    return array, {"x": ks}


@st.composite
def struct(draw: Any, kind: Kind) -> Drawn:
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
def fixed_list(draw: Any, kind: Kind, tensor: bool = False) -> Drawn:
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


NESTINGS = {
    "flat": flat,
    "struct": struct,
    "list": fixed_list,
    "tensor": functools.partial(fixed_list, tensor=True),
}


def values_of(rows: list[Any], feature: str) -> list[Any]:
    """Return the values of feature ``x.a.b`` or ``x[2]`` in rows of Python objects."""
    found = rows
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", feature):
        found = [None if r is None else r[name or int(index)] for r in found]
    return found


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
    norm = fit(batch)
    if batch.num_rows == 0:
        assert norm.features == ()
        return
    assert norm.features == tuple(features)
    result = norm.transform(batch)
    result.validate(full=True)
    out = result.column(0)
    rows = getattr(out, "storage", out).to_pylist()
    width = {pa.float16(): 2e-3, pa.float32(): 2e-6}
    for feature, ks in features.items():
        is_x = feature != "x.c"
        here = [None if k is None else Fraction(kind.number(k) if is_x else k) for k in ks]
        values = [v for v in here if v is not None]
        row = row_of(norm, feature)
        assert (row["count"], row["nulls"]) == (len(values), len(ks) - len(values))
        got = values_of(rows, feature)
        if not values:
            assert row["mean"] is row["var"] is row["min"] is row["max"] is None
            assert got == [None] * len(ks)
            continue
        mean, var = exact(values)
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
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    fresh = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
    if batch.num_rows == 0:
        return
    assert bits(fit(batch)) == bits(fit(fresh))
    norm = fit(batch)
    assert norm.transform(batch).equals(norm.transform(fresh))


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


def test_decimals_are_not_rounded_to_float64() -> None:
    """NIST certifies a deviation of 0.1 for the decimal data."""
    texts = ["10000000.2", *["10000000.1", "10000000.3"] * 500]
    array = pa.array([Decimal(t) for t in texts], pa.decimal128(12, 1))
    assert row_of(fit(record(x=array), ddof=1))["std"] == 0.1
    assert row_of(fit(record(x=array.cast(pa.float64())), ddof=1))["std"] != 0.1


def test_narrow_column_does_not_affect_another() -> None:
    price = pa.array([70000.25, 70000.5, 70001.0])
    beside = fit(record(flag=pa.array([1, 2, 3], pa.int8()), price=price))
    assert row_of(beside, "price") == row_of(fit(record(price=price)), "price")


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
    assert row_of(norm) | {"column": ""} == {
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
