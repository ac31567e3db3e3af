"""Laws of common types: what holds both of two columns, and what is cast to it."""

from __future__ import annotations

import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from streambn.arrow.unify import (
    cast_column,
    common_field,
    holds,
    input_type,
    null_in_required,
    nullable_field,
    untyped_field,
)

TEXT = st.sampled_from(
    [
        pa.string(), pa.large_string(), pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()),
    ]
)  # fmt: skip
NUMBERS = st.sampled_from(
    [
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.float32(),
        pa.float64(), pa.decimal128(5, 1), pa.decimal128(12, 4),
    ]
)  # fmt: skip
FLAT = TEXT | NUMBERS | st.just(pa.null()) | st.just(pa.bool_())


@st.composite
def fields(draw: st.DrawFn, depth: int = 2, name: str = "x") -> pa.Field:
    kind = draw(FLAT)
    if depth and draw(st.booleans()):
        names = draw(st.permutations("abc"))[: draw(st.integers(1, 3))]
        below = [draw(fields(depth - 1, name)) for name in names]
        makers = [lambda _: pa.struct(below)]
        if not pa.types.is_null(below[0].type):  # Arrow's cast of lists of them is broken
            makers += [pa.list_, pa.large_list]
        kind = draw(st.sampled_from(makers))(below[0])
    return pa.field(name, kind, pa.types.is_null(kind) or draw(st.booleans()))


FIELDS = fields()


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Return values that every type of a family can hold."""
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: in_field(field) for field in kind})
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return st.lists(in_field(kind.value_field), max_size=3)
    if pa.types.is_decimal(kind):
        return st.integers(0, 99).map(decimal.Decimal)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return st.integers(0, 99)
    return st.sampled_from(["", "a", "bc"])


def in_field(field: pa.Field) -> st.SearchStrategy[Any]:
    values = values_of(field.type)
    return st.none() | values if field.nullable else values


def shape(kind: pa.DataType) -> Any:
    """Return a type without the names of its elements and the order of its fields."""
    if pa.types.is_struct(kind):
        return {field.name: (shape(field.type), field.nullable) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return str(kind)[:4], shape(kind.value_type), kind.value_field.nullable
    return kind


@given(one=FIELDS, other=FIELDS)
def test_the_order_matters_only_for_names(one: pa.Field, other: pa.Field) -> None:
    there, back = common_field(one, other), common_field(other, one)
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert (shape(there.type), there.nullable) == (shape(back.type), back.nullable)


@given(one=FIELDS, other=FIELDS)
def test_the_common_field_holds_both(one: pa.Field, other: pa.Field) -> None:
    assert common_field(one, one) == one
    common = common_field(one, other)
    if common is not None:
        assert common.nullable == (one.nullable or other.nullable)
        for field in (one, other, common):
            assert common_field(common, field) == common
            assert holds(common.type, field.type)


@given(one=FIELDS, other=FIELDS, data=st.data())
def test_values_are_the_same_in_the_common_type(
    one: pa.Field, other: pa.Field, data: st.DataObject
) -> None:
    common = common_field(one, other)
    if common is None:
        return
    values = data.draw(st.lists(in_field(one), max_size=4))
    column = pa.array([None, *values], one.type)[1:]
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # pyarrow gives a null struct an index into an empty dictionary
        reject()
    out = cast_column(column, common.type)
    out.validate(full=True)
    assert out.type == common.type
    assert out.to_pylist() == pa.array(values, common.type).to_pylist()
    assert null_in_required(common, out) is None


@given(field=FIELDS)
def test_a_nullable_field_holds_the_field(field: pa.Field) -> None:
    nullable = nullable_field(field)
    assert "not null" not in str(nullable)
    assert common_field(nullable, field) == nullable


def test_a_column_is_cast_so_that_the_map_gives_the_common_type() -> None:
    f32, f64, i64 = pa.float32(), pa.float64(), pa.int64()
    for source, mapped, target, needed in (
        (pa.string(), pa.string(), pa.large_string(), pa.large_string()),
        (f32, f32, f64, f64),
        (i64, f64, f64, i64),
        (pa.null(), f64, f32, f32),
        (pa.dictionary(pa.int8(), f32), f32, f64, f64),
        (pa.list_(i64, 2), pa.list_(f64, 2), pa.list_(pa.field("e", f64), 2),
         pa.list_(pa.field("e", i64), 2)),
        (pa.list_(f32, 2), pa.list_(f32, 2), pa.list_(f64, 2), pa.list_(f64, 2)),
        (pa.list_(i64), pa.list_(f64), pa.large_list(f64), pa.large_list(i64)),
        (pa.list_(i64, 2), pa.list_(f64, 2), pa.list_(f64), pa.list_(i64)),
        (pa.fixed_shape_tensor(i64, [2]), pa.fixed_shape_tensor(f64, [2]),
         pa.fixed_shape_tensor(f64, [2]), pa.fixed_shape_tensor(i64, [2])),
        (pa.struct([("a", i64), ("t", pa.string())]), pa.struct([("a", f64), ("t", pa.string())]),
         pa.struct([("n", i64), ("t", pa.large_string()), ("a", f64)]),
         pa.struct([("n", i64), ("t", pa.large_string()), ("a", i64)])),
    ):  # fmt: skip
        assert input_type(source, mapped, target) == needed


def test_a_column_of_nulls_has_no_type_yet() -> None:
    inner = pa.struct([("a", pa.null()), ("b", pa.int8())])
    mapped = pa.field("x", pa.struct([("a", pa.float64()), ("b", pa.float64())]))
    untyped = pa.field("x", pa.struct([("a", pa.null()), ("b", pa.float64())]))
    assert untyped_field(pa.field("x", inner), mapped) == untyped


def test_list_views_become_lists() -> None:
    views = pa.array([[1, 2], None, [], [3]], pa.list_view(pa.int8()))
    for column in (views, views.slice(1, 3), views.take(pa.array([3, 1, 0]))):
        out = cast_column(column, pa.large_list(pa.int64()))
        out.validate(full=True)
        assert out.to_pylist() == column.to_pylist()


def test_a_run_end_encoded_column_is_decoded() -> None:
    kind = pa.run_end_encoded(pa.int32(), pa.string())
    column = pa.array(["a", "a", None, "b"], kind)
    common = common_field(pa.field("x", kind), pa.field("x", pa.string()))
    assert common == pa.field("x", pa.string())
    assert cast_column(column.slice(1), pa.string()).to_pylist() == ["a", None, "b"]
    struct = pa.StructArray.from_arrays([column], ["r"])
    assert cast_column(struct, pa.struct([("r", pa.string())])).to_pylist()[1:3] == [
        {"r": "a"},
        {"r": None},
    ]


def test_a_value_that_does_not_fit_is_refused() -> None:
    for values, kind, target in (
        ([2**53 + 1], pa.int64(), pa.float64()),
        ([decimal.Decimal(10**17 + 1)], pa.decimal128(38, 0), pa.float64()),
        ([2**63], pa.uint64(), pa.int64()),
    ):
        with pytest.raises(pa.ArrowInvalid):
            cast_column(pa.array(values, kind), target)


def test_an_invalid_cast_of_arrow_is_an_error() -> None:
    column = pa.array([None, [[None, None]]], pa.list_(pa.list_(pa.null())))[1:]
    with pytest.raises(pa.ArrowInvalid):
        cast_column(column, pa.large_list(pa.list_(pa.null())))
