"""Arrow columns as features: which are bound, how later batches are matched, and the output."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from normalizers import assert_refused, fit, record, row_of

import streambn as sbn
from streambn.arrow import Selection, bind

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
    "variable list of strings": pa.array([["a"], ["b", "c"]]),
    "list of strings": pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
    "list of booleans": pa.array([[True], [False]], pa.list_(pa.bool_(), 1)),
    "list of timestamps": pa.array([[1], [2]], pa.list_(pa.timestamp("s"), 1)),
    "list of no elements": pa.array([[], []], pa.list_(pa.float64(), 0)),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
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
    with pytest.raises(sbn.SchemaError, match=r"'other' is .*not numeric"):
        fit(batch, columns=["x", "other"])
    with pytest.raises(sbn.SchemaError, match="no numeric column"):
        fit(record(other=array))


@pytest.mark.parametrize("name", NOT_NUMERIC)
def test_column_that_is_no_longer_numeric_is_an_error(name: str) -> None:
    norm = fit(record(other=[1.0, 3.0]))
    assert_refused(norm, record(other=NOT_NUMERIC[name]), sbn.SchemaError, "'other'")


def test_features_are_named_by_struct_field_and_element() -> None:
    b = pa.struct({"c": pa.list_(pa.float64(), 2), "text": pa.string()})
    kind = pa.struct({"a": pa.int64(), "b": b})
    batch = record(
        emb=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        s=pa.array([{"a": 1, "b": {"c": [1.0, 2.0], "text": "x"}}], kind),
    )
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
    assert row_of(norm, "a.b")["mean"] == 20.0
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
    for columns in (None, ["x"], ["*"]):
        with pytest.raises(sbn.SchemaError, match="'x' exists 2 times"):
            fit(twins, columns=columns)
    norm = fit(record(x=[1.0]))
    with pytest.raises(sbn.SchemaError, match="'x' exists 2 times"):
        norm.update(twins)


def test_two_other_fields_of_one_name_in_a_struct_pass_through() -> None:
    names, fields = ["t", "t", "x"], [pa.array(["a"]), pa.array(["b"]), pa.array([5.0])]
    batch = pa.record_batch({"s": pa.StructArray.from_arrays(fields, names)})
    out = fit(batch).transform(batch)["s"]
    assert [out.field(i).to_pylist() for i in range(3)] == [["a"], ["b"], [0.0]]


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
    binding, _ = bind(schema, Selection())
    assert binding.features == ("x",)


def test_many_features_are_bound_and_learned() -> None:
    wide = record(emb=pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * 30_000)), 30_000))
    features = fit(wide).features
    assert (len(features), features[-1]) == (30_000, "emb[29999]")
    stats = fit(record(**{f"c{i}": [1.0 * i] for i in range(4_000)})).stats()
    assert stats["mean"].to_pylist() == [float(i) for i in range(4_000)]


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
    assert norm.features == ("x", "y", "s.p", "s.q")
    assert norm.stats()["mean"].to_pylist() == [2.0, 20.0, 1.0, 5.0]
    assert norm.stats()["count"].to_pylist() == [4, 4, 4, 4]


def test_missing_column_is_named_with_the_nearest() -> None:
    norm = fit(record(price=[1.0, 2.0], volume=[1.0, 2.0]))
    batch, message = record(price=[9.0], volumes=[1.0]), r"'volume' is not in the data.*'volumes'"
    assert_refused(norm, batch, sbn.SchemaError, message)
    assert_refused(norm, batch, sbn.SchemaError, message, ["inverse_transform"])


PAIR, SINGLE = (pa.array([row], pa.list_(pa.float64(), len(row))) for row in ([1.0, 2.0], [1.0]))


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (PAIR, pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float64(), 3)), "list of 2.*list of 3"),
        (PAIR, pa.array([1.0]), "list of 2.*one number"),
        (PAIR, pa.array([[1.0, 2.0, 3.0]]), "vectors of 2 numbers, but row 0 .* has 3"),
        (pa.array([1.0]), pa.array([[1.0]]), "no longer numeric"),
        (
            pa.array([1.0]),
            pa.array([[1.0]], pa.list_(pa.float64(), 1)),
            "had one number per row and now has a list",
        ),
    ],
)
def test_column_that_changes_its_shape_is_an_error(
    then: pa.Array, now: pa.Array, message: str
) -> None:
    assert_refused(fit(record(e=then)), record(e=now), sbn.SchemaError, f"'e'.*{message}")


def test_column_without_values_may_have_the_null_type() -> None:
    pair = pa.list_(pa.float64(), 2)
    struct = pa.struct([("a", pa.float64()), ("t", pa.string())])
    batch = record(
        x=[1.0, 3.0],
        e=pa.array([[1.0, 2.0], [3.0, 6.0]], pair),
        s=pa.array([{"a": 1.0, "t": "x"}, {"a": 3.0, "t": "y"}], struct),
    )
    norm = fit(batch)
    stats = norm.stats().to_pylist()
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
    assert norm.update(bare).stats().to_pylist() == [row | {"nulls": 3} for row in stats]
    assert row_of(norm.update(bare.set_column(2, "s", pa.nulls(3))), "s.a")["nulls"] == 6


def test_tensor_keeps_its_shape() -> None:
    shape = {"dim_names": ["height", "width"], "permutation": [1, 0]}
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3], **shape)
    storage = pa.array([range(6), range(6, 12), None], pa.list_(pa.float32(), 6))
    array = pa.ExtensionArray.from_storage(kind, storage)
    norm = fit(record(t=array))
    assert norm.features == tuple(f"t[{i}]" for i in range(6))
    out = norm.transform(record(t=array)).column(0)
    out.validate(full=True)
    assert out.type == kind
    assert out.storage.to_pylist() == [[-1.0] * 6, [1.0] * 6, None]
    wide = norm.transform(record(t=array), dtype="float64").column(0).type
    assert wide == pa.fixed_shape_tensor(pa.float64(), [2, 3], **shape)


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
    gone = np.array([False, True, False])
    skipped = pa.array([1.0, np.nan, np.inf], mask=gone, from_pandas=False)
    flags = pa.array([True, None, False])
    batch = record(text=text, skipped=skipped, x=[1.0, 2.0, 3.0], flags=flags)
    out = fit(batch, columns=["x"]).transform(batch)
    for name in ("text", "skipped", "flags"):
        given_buffers = [b and b.address for b in batch[name].buffers()]
        assert [b and b.address for b in out[name].buffers()] == given_buffers
    assert batch["x"].to_pylist() == [1.0, 2.0, 3.0]  # the input is unchanged


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


def test_non_nullable_fields_hold_no_nulls() -> None:
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False), pa.field("y", pa.float64())])

    def batch(*xs: float) -> pa.RecordBatch:
        arrays = [pa.array(xs), pa.nulls(len(xs), pa.float64())]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    norm = fit(batch(1.0, 3.0), columns=["x"])
    assert not norm.transform(batch(1.0)).schema.field("x").nullable
    nan = math.nan
    for out in (
        fit(batch(nan), columns=["x"]).transform(batch(1.0)),
        sbn.Normalizer(columns=["x"]).update_transform(batch(nan, 1.0), using="before"),
        norm.update_transform(batch(nan, nan), using="batch"),
        norm.update_transform(batch(nan, nan), using="running"),
    ):
        for field, array in zip(out.schema, out.columns, strict=True):
            assert field.nullable or not array.null_count


def test_output_without_nulls_has_no_bitmap() -> None:
    out = fit(record(x=[1.0, 3.0])).transform(record(x=[1.0, 3.0])).column(0)
    assert out.buffers()[0] is None
    assert out.null_count == 0


def test_a_union_with_other_columns_is_resolved_once() -> None:
    batch = record(x=[1.0, 2.0], name=["a", "b"])
    norm = fit(batch, schema="union")
    bound = norm.statistics.binding
    assert norm.update(batch).update(batch).statistics.binding is bound


def test_an_absent_field_of_a_struct_is_refused_with_a_remedy_that_helps() -> None:
    norm = fit(record(s=pa.array([{"a": 1.0, "b": 2.0}])), schema="union")
    with pytest.raises(sbn.SchemaError, match="Only whole columns may be absent") as caught:
        norm.update(record(s=pa.array([{"b": 2.0}])))
    assert "union" not in str(caught.value)
