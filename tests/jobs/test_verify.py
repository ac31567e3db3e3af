"""Outputs read back: honest ones always pass, and what was changed is found."""

from __future__ import annotations

import datetime
import decimal
import io
import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.errors import SchemaError, StreamBNError
from streambn.jobs.roundtrip import KINDS, Roundtrip
from streambn.jobs.verify import text_types, verify

TYPES = [pa.float64(), pa.float32(), pa.float16()]


def rebatched(batch, cuts):
    edges = sorted({0, batch.num_rows, *(cut % (batch.num_rows + 1) for cut in cuts)})
    return [batch.slice(a, b - a) for a, b in itertools.pairwise(edges)]


def check(frozen, given, written, **options):
    as_list = [x if isinstance(x, list) else [x] for x in (given, written)]
    return verify(frozen, *as_list, name="out", **options)


def fails(frozen, given, written, message="out", **options):
    with pytest.raises(StreamBNError, match=message) as caught:
        check(frozen, given, written, **options)
    said = str(caught.value)
    assert said.startswith("out: ")
    assert "\n" not in said
    return said


def replaced(batch, column, row, value):
    values = batch[column].to_pylist()
    values[row] = value
    arrays = batch.columns
    index = batch.schema.get_field_index(column)
    arrays[index] = pa.array(values, batch.schema.field(index).type)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def without(batch, row):
    rows = [i for i in range(batch.num_rows) if i != row]
    return batch.take(pa.array(rows, pa.int64()))


def fitted(batch, **options):
    return sbn.Normalizer(inf="ignore", **options).update(batch).freeze()


# --- by hypothesis --------------------------------------------------------------------


@st.composite
def normalizers(draw):
    """Draw data and a frozen normalizer that was fitted on some of it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 40))
    magnitude = 10.0 ** draw(st.sampled_from([-300, -20, -3, 0, 0, 3, 100, 307]))
    offset = draw(st.sampled_from([0, 0, 1, 1e3, 1e9, 1e15]))
    values = rng.normal(size=(2, rows)) * magnitude
    if magnitude * offset < 1e307:
        values += offset * magnitude
    if draw(st.booleans()):
        values[0] = values[0, 0]  # a constant column
    kind = draw(st.sampled_from([pa.float64(), pa.float64(), pa.float32(), pa.int64()]))
    if kind == pa.int64():
        values = (rng.normal(size=(2, rows)) * draw(st.sampled_from([5, 1e6, 1e18]))).round()
    else:
        for bad in (np.nan, np.inf, -np.inf):
            if draw(st.booleans()):
                values[rng.random((2, rows)) < 0.1] = bad
    arrays = []
    for column in values:
        missing = rng.random(rows) < draw(st.sampled_from([0, 0.2, 1]))
        with np.errstate(all="ignore"):
            column = column.astype(kind.to_pandas_dtype())  # noqa: PLW2901
        arrays.append(pa.array(column, kind, mask=missing, from_pandas=False))
    arrays.append(pa.array([str(i) for i in range(rows)]))
    batch = pa.record_batch(arrays, names=["a", "b", "key"])
    options = {
        "center": draw(st.booleans()),
        "scale": draw(st.booleans()),
        "clip": draw(st.sampled_from([None, None, 0.5, 1.0, 3.0])),
        "eps": draw(st.sampled_from([0.0, 1e-5, 1.0])),
        "affine": draw(
            st.sampled_from(
                [None, {"a": (2.0, -1.0)}, {"a": (0.0, 3.0)}, {"a": (-1e-3, 1e6), "b": (0.5, 0)}]
            )
        ),
        "inf": draw(st.sampled_from(["ignore", "ignore", "propagate"])),
        "nan": draw(st.sampled_from(["ignore", "ignore", "propagate"])),
    }
    part = draw(st.sampled_from([rows, rows, 1, max(1, rows // 2)]))
    policy = draw(st.sampled_from([sbn.Welford(), sbn.EMA(halflife=5)]))
    frozen = sbn.Normalizer(policy, ["a", "b"], **options).update(batch[:part]).freeze()
    return frozen, batch


cut_points = st.lists(st.integers(0, 100), max_size=5)
many = settings(suppress_health_check=list(HealthCheck))


@many
@given(normalizers(), st.sampled_from([None, *TYPES]), cut_points, cut_points)
def test_an_honest_output_passes(drawn, dtype, cuts, other_cuts):
    frozen, batch = drawn
    written = frozen.transform(batch, dtype=dtype)
    assert check(frozen, rebatched(batch, cuts), rebatched(written, other_cuts), dtype=dtype) == ()


@many
@given(normalizers(), st.sampled_from([None, *TYPES]), cut_points)
def test_an_honest_inverse_passes(drawn, dtype, cuts):
    frozen, batch = drawn
    if (
        frozen.statistics.lane_transform.gamma is not None
        and (frozen.statistics.lane_transform.gamma == 0).any()
    ):
        return
    for data in (batch, frozen.transform(batch, dtype=dtype)):
        back = frozen.inverse_transform(data, dtype=dtype)
        check(frozen, data, rebatched(back, cuts), inverse=True, dtype=dtype)


@many
@given(normalizers(), st.data(), st.sampled_from(TYPES))
def test_any_change_beyond_rounding_is_found(drawn, data, dtype):
    frozen, batch = drawn
    written = frozen.transform(batch, dtype=dtype)
    column = data.draw(st.sampled_from(["a", "b"]))
    row = data.draw(st.integers(0, batch.num_rows - 1))
    was = written[column][row].as_py()
    # A value turned null, a null turned into a value.
    other = 1.0 if was is None else None
    fails(frozen, batch, replaced(written, column, row, other), "null", dtype=dtype)
    if was is None:
        return
    fails(
        frozen, batch, replaced(written, column, row, 0.0 if np.isnan(was) else np.nan), dtype=dtype
    )
    if not np.isfinite(was):
        return
    # By how much: the tolerance in x, mapped to y; four times, for the rounding of the sum.
    lanes, x = frozen.statistics.lane_transform, float(batch[column][row].as_py())
    lane = ["a", "b"].index(column)
    one = type(lanes)._make(f[lane : lane + 1] if isinstance(f, np.ndarray) else f for f in lanes)
    maps = Roundtrip(one, KINDS[dtype.id], False)
    with np.errstate(all="ignore"):
        blur = abs(x) if pa.types.is_integer(batch[column].type) else 0.0
        z = np.abs(maps._z(np.array([[x]])))
        to_x, to_y = maps._tolerances(np.array([[x]]), np.array([[was]]), z, blur)
        gamma = abs(maps.gamma) or 1.0
        step = 4 * max(float(to_y[0, 0]), float((to_x / maps.scale * gamma)[0, 0]))
        changed = float(np.float64(was + step).astype(dtype.to_pandas_dtype()))
    largest = float(np.finfo(dtype.to_pandas_dtype()).max)
    # A large integer may be off by more than float16 can tell.
    for other in (np.inf, -np.inf) if max(abs(was), step) < largest / 2 else ():
        fails(frozen, batch, replaced(written, column, row, other), dtype=dtype)
    if np.isfinite(changed) and abs(changed - was) >= step / 2:
        fails(
            frozen, batch, replaced(written, column, row, changed), f"row {row + 1}:", dtype=dtype
        )


@many
@given(normalizers(), st.data())
def test_rows_lost_doubled_or_swapped_are_found(drawn, data):
    frozen, batch = drawn
    written = frozen.transform(batch)
    row = data.draw(st.integers(0, batch.num_rows - 1))
    fails(frozen, batch, without(written, row))
    fails(frozen, without(batch, row), written)
    fails(frozen, batch, [written, written[row : row + 1]], "rows, and the output")
    other = data.draw(st.integers(0, batch.num_rows - 1))
    if row != other:  # the keys differ
        rows = list(range(batch.num_rows))
        rows[row], rows[other] = other, row
        fails(frozen, batch, written.take(pa.array(rows)))


# --- numbers --------------------------------------------------------------------------


def test_rows_swapped_are_found_by_their_values():
    batch = pa.record_batch({"x": [1.0, 2.0, 4.0, 9.0]})
    frozen = fitted(batch)
    written = frozen.transform(batch)
    assert fails(frozen, batch, written.take(pa.array([0, 2, 1, 3]))).startswith(
        "out: column 'x', row 2: the input is 2.0, and the output 0.0, which is 4.0"
    )


def test_one_step_of_the_outputs_type_more_than_rounding_is_found():
    rng = np.random.default_rng(0)
    batch = pa.record_batch({"x": rng.normal(5, 2, 1000)})
    frozen = fitted(batch)
    for dtype, ulps in ((pa.float64(), 60), (pa.float32(), 2), (pa.float16(), 2)):
        name = dtype.to_pandas_dtype()
        values = frozen.transform(batch, dtype=dtype)["x"].to_numpy(zero_copy_only=False).copy()
        row = 500
        values[row] += ulps * np.spacing(np.abs(values[row]), dtype=name)
        fails(frozen, batch, pa.record_batch({"x": values}), "row 501:", dtype=dtype)


def test_the_row_is_counted_through_all_batches():
    batch = pa.record_batch({"x": np.arange(200_000.0)})
    frozen = fitted(batch)
    written = frozen.transform(batch)
    bad = [written[:150_000], replaced(written[150_000:150_010], "x", 3, 9.0), written[150_010:]]
    fails(frozen, rebatched(batch, [7, 99_999]), bad, "row 150,004:")
    check(frozen, rebatched(batch, [7, 99_999]), [*rebatched(written, [65_537]), written[:0]])


def test_counts_are_told():
    batch = pa.record_batch({"x": np.arange(2284.0)})
    frozen = fitted(batch)
    written = frozen.transform(batch)
    said = fails(frozen, [batch], rebatched(written[:-1], [1000]))
    assert said == "out: the input has 2,284 rows, and the output 2,283"
    assert "has 0 rows, and the output 2,284" in fails(frozen, [], written)
    assert check(frozen, [], []) == ()


@pytest.mark.parametrize("dtype", [pa.float16(), pa.float32()])
def test_what_is_too_large_for_the_type_is_infinite(dtype):
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0]})
    frozen = fitted(batch)
    largest = float(np.finfo(dtype.to_pandas_dtype()).max)
    far = pa.record_batch({"x": [largest * 10, -largest * 10, largest / 10, np.inf]})
    written = frozen.transform(far, dtype=dtype)
    assert np.isinf(written["x"][0].as_py())
    check(frozen, far, written, dtype=dtype)
    fails(frozen, far, replaced(written, "x", 0, -np.inf), "row 1:", dtype=dtype)
    fails(frozen, far, replaced(written, "x", 0, 1.0), "row 1:", dtype=dtype)
    fails(frozen, far, replaced(written, "x", 2, np.inf), "row 3:", dtype=dtype)
    fails(frozen, far, replaced(written, "x", 3, largest), "row 4:", dtype=dtype)


def test_what_is_clipped_lies_at_the_bound():
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0, 100.0, -100.0, np.inf]})
    frozen = fitted(batch[:3], clip=1.5, affine={"x": (2.0, 1.0)})
    written = frozen.transform(batch)
    assert written["x"].to_pylist()[3:] == [4.0, -2.0, 4.0]
    check(frozen, batch, written)
    for row, value in ((3, 3.9), (3, 4.1), (4, 4.0), (5, -2.0), (5, np.inf), (1, 4.0)):
        fails(frozen, batch, replaced(written, "x", row, value), f"row {row + 1}:.*should|mapped")


def test_gamma_zero_leaves_beta():
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0]})
    frozen = fitted(batch, affine={"x": (0.0, 7.0)})
    written = frozen.transform(batch)
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 1, 7.1), "should be 7.0")


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}])
def test_without_centre_or_scale(options):
    batch = pa.record_batch({"x": [5.0, 5.5, 9.0, None, np.nan]})
    frozen = fitted(batch, **options)
    written = frozen.transform(batch)
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 1, 5.25))
    fails(frozen, batch, replaced(written, "x", 4, 0.0))


def test_poisoned_lanes():
    batch = pa.record_batch({"x": [1.0, np.nan, 2.0], "y": [1.0, np.inf, 2.0]})
    frozen = sbn.Normalizer(nan="propagate", inf="propagate", scale=False).update(batch).freeze()
    written = frozen.transform(batch)
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 0, 1.0), "'x'")
    fails(frozen, batch, replaced(written, "y", 0, 1.0), "'y'")


def test_a_lane_never_seen_is_null():
    schema = pa.schema({"x": pa.float64(), "y": pa.float64()})
    seen = pa.record_batch({"x": [1.0, 2.0], "y": pa.nulls(2, pa.float64())})
    frozen = fitted(seen)
    batch = pa.record_batch([[1.0, 2.0], [3.0, None]], schema=schema)
    written = frozen.transform(batch)
    assert written["y"].null_count == 2
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "y", 0, 3.0), "'y', row 1: .* 3.0, and the output 3.0")
    # What a reader makes of a column without a single value.
    nothing = pa.record_batch({"x": written["x"], "y": pa.nulls(2)})
    check(frozen, batch, nothing)


def test_integers_and_decimals():
    cents = [decimal.Decimal("1.25"), decimal.Decimal("-3.00"), None]
    batch = pa.record_batch(
        {
            "i": pa.array([2**62, 2**62 + 1024, 5]),
            "u": pa.array([1, 2, None], pa.uint8()),
            "d": pa.array(cents, pa.decimal128(20, 2)),
            "e": pa.array(cents, pa.decimal256(60, 2)).dictionary_encode(),
        }
    )
    frozen = fitted(batch)
    written = frozen.transform(batch)
    check(frozen, batch, written)
    check(frozen, written, frozen.inverse_transform(written), inverse=True)
    for column in "iude":
        value = written[column][1].as_py() + 1e-6
        fails(frozen, batch, replaced(written, column, 1, value), f"{column!r}, row 2")


def test_lists_tensors_and_structs():
    lists = pa.array([[1.0, 2.0], None, [3.0, None], [4.0, 8.0]], pa.list_(pa.float64(), 2))
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2, 1]), lists.cast(pa.list_(pa.float32(), 2))
    )
    inner = pa.StructArray.from_arrays(
        [pa.array([1.0, 2.0, None, 4.0]), pa.array(["a", "b", None, "d"])],
        ["x", "s"],
        mask=pa.array([False, True, False, False]),
    )
    batch = pa.record_batch({"l": lists, "t": tensors, "s": inner})
    frozen = fitted(batch)
    written = frozen.transform(batch)
    check(frozen, batch, written)
    check(frozen, written, frozen.inverse_transform(written), inverse=True)

    def changed(column, row, value):
        arrays = [written.column(i) for i in range(3)]
        old = arrays[column]
        if isinstance(old, pa.ExtensionArray):
            new = old.storage.to_pylist()
            new[row] = value
            arrays[column] = pa.ExtensionArray.from_storage(
                old.type, pa.array(new, old.type.storage_type)
            )
        else:
            new = old.to_pylist()
            new[row] = value
            arrays[column] = pa.array(new, old.type)
        return pa.RecordBatch.from_arrays(arrays, schema=written.schema)

    fails(frozen, batch, changed(0, 3, [0.0, 0.5]), re.escape("'l[0]', row 4"))
    fails(frozen, batch, changed(0, 1, [None, None]), "'l', row 2: the input is null")
    fails(frozen, batch, changed(0, 2, [0.0, 1.0]), re.escape("'l[1]', row 3: the input is null"))
    fails(frozen, batch, changed(1, 3, [0.0, 0.5]), re.escape("'t[0]', row 4"))
    fails(frozen, batch, changed(2, 3, {"x": 9.0, "s": "d"}), "'s.x', row 4")
    fails(frozen, batch, changed(2, 3, {"x": written["s"][3]["x"].as_py(), "s": "e"}), "'s.s', row")
    fails(frozen, batch, changed(2, 2, None), "'s.x', row 3: the input is there")


def test_several_inputs_of_other_types_and_orders():
    first = pa.record_batch({"x": pa.array([1.0, 2.5], pa.float32()), "k": ["a", "b"]})
    second = pa.record_batch({"k": pa.array(["c"], pa.large_string()), "x": [1.7]})
    frozen = fitted(first)
    out = frozen.transform(first)
    more = frozen.transform(second).select(["x", "k"]).cast(out.schema)
    check(frozen, [first, second], [out, more])
    other_way = frozen.transform(second)
    check(
        frozen,
        [second, first],
        [
            other_way,
            frozen.transform(first).cast(pa.schema({"x": pa.float64(), "k": pa.large_string()})),
        ],
    )


def test_columns_that_are_missing_or_new():
    batch = pa.record_batch({"x": [1.0, 2.0], "k": ["a", "b"]})
    frozen = fitted(batch)
    written = frozen.transform(batch)
    for wrong in (["x"], ["k"]):
        with pytest.raises(SchemaError, match=r"^out: column .* is not in the data"):
            check(frozen, batch, written.select(wrong))
    more = pa.record_batch({**{n: written[n] for n in ("x", "k")}, "new": [1, 2]})
    fails(frozen, batch, more, "'new' is not in the input")
    check(frozen, batch, written.select(["k", "x"]))
    texts = pa.record_batch({"x": ["a", "b"], "k": ["a", "b"]})
    fails(frozen, batch, texts, "'x' is no longer numeric")


# --- columns that pass through --------------------------------------------------------

_DAY = datetime.datetime(2026, 1, 31, 12, 30)
PASSING = {
    "string": (pa.array(["a", None, "", "d"]), "x"),
    "view": (pa.array(["a", None, "", "d"], pa.string_view()), "x"),
    "binary": (pa.array([b"a", None, b"", b"\xff"]), b"x"),
    "bool": (pa.array([True, None, False, True]), False),
    "float": (pa.array([1.0, None, np.nan, -0.0], from_pandas=False), 2.0),
    "half": (pa.array(np.array([1, 2, np.nan, 4], np.float16), from_pandas=False), np.float16(9)),
    "int": (pa.array([2**62, None, 2**62 + 1, 4]), 5),
    "decimal": (pa.array([decimal.Decimal("1.5"), None, None, decimal.Decimal(2)]), 1),
    "timestamp": (pa.array([_DAY, None, _DAY, _DAY], pa.timestamp("us", "UTC")), None),
    "duration": (pa.array([1, None, 2, 3], pa.duration("s")), datetime.timedelta(9)),
    "null": (pa.nulls(4), None),
    "dictionary": (pa.array(["a", None, "a", "b"]).dictionary_encode(), "a"),
    "list": (pa.array([[1.0, np.nan], None, [], [2.0]], from_pandas=False), [2.0, 3.0]),
    "fixed": (pa.array([[1, 2], None, [3, None], [4, 5]], pa.list_(pa.int8(), 2)), [4, 6]),
    "map": (
        pa.array([[("a", 1)], None, [], [("b", 2), ("c", None)]], pa.map_(pa.string(), pa.int8())),
        [("b", 2), ("c", 3)],
    ),
    "struct": (
        pa.array([{"p": 1, "q": [None]}, None, {"p": None, "q": []}, {"p": 4, "q": ["z"]}]),
        {"p": 4, "q": ["y"]},
    ),
    "interval": (
        pa.array([(1, 2, 3), None, (1, 2, 3), (4, 5, 6)], pa.month_day_nano_interval()),
        (1, 1, 1),
    ),
}


@pytest.fixture
def frozen():
    return sbn.Normalizer(columns=["x"]).update(pa.table({"x": [1.0, 2.0]})).freeze()


def beside(column, rows=4):
    return pa.record_batch({"x": np.arange(float(rows)), "k": column})


@pytest.mark.parametrize("kind", PASSING)
def test_passing_columns_are_equal(frozen, kind):
    column, other = PASSING[kind]
    batch = beside(column)
    written = frozen.transform(batch)
    check(frozen, batch, written)
    check(frozen, rebatched(batch, [1, 3]), rebatched(written, [2]))
    if kind == "null":
        return
    values = column.to_pylist()
    for row, value in ((3, other), (0, None), (1, values[0])):
        changed = [*values[:row], value, *values[row + 1 :]]
        if kind == "dictionary":
            new = pa.array(changed).dictionary_encode()
        else:
            new = pa.array(changed, column.type, from_pandas=False)
        fails(frozen, batch, swapped(written, new), f"'k', row {row + 1}")


def swapped(batch, column):
    return pa.record_batch({"x": batch["x"], "k": column})


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", "a", None, "b"]).dictionary_encode(), pa.string()),
        (pa.array(["a", "a", None, "b"], pa.string_view()), pa.large_string()),
        (pa.array([1, 2, None, 3], pa.timestamp("s")), pa.timestamp("ms")),
        (pa.array([1, 2, None, 3], pa.uint32()), pa.int64()),
    ],
)
def test_formats_may_keep_the_values_and_not_the_type(frozen, column, kind):
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    batch = beside(column)
    written = swapped(frozen.transform(batch), plain.cast(kind))
    check(frozen, batch, written)
    fails(frozen, batch, swapped(written, written["k"].take(pa.array([0, 1, 2, 0]))), "row 4")
    fails(frozen, batch, swapped(written, pa.array([[1]] * 4)), "which passes through, is")


def test_encodings_inside_lists(frozen):
    plain = pa.array([["a", "b"], None, ["a"], []])
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    encoded = pa.ListArray.from_arrays(
        plain.offsets, words, mask=pa.array([False, True, False, False])
    )
    written = swapped(frozen.transform(beside(encoded)), plain)
    check(frozen, beside(encoded), written)
    changed = swapped(written, pa.array([["a", "b"], None, ["b"], []]))
    fails(frozen, beside(encoded), changed, "'k', row 3")


def test_columns_that_share_a_name_pass_through(frozen):
    def batch(second):
        return pa.RecordBatch.from_arrays(
            [pa.array([1.0]), pa.array(["a"]), pa.array([second])], names=["x", "k", "k"]
        )

    written = frozen.transform(batch("b"))
    check(frozen, batch("b"), written)
    fails(frozen, batch("c"), written, "'k', row 1: the input is 'c', and the output 'b'")


# --- formats --------------------------------------------------------------------------


def mixed():
    rng = np.random.default_rng(1)
    rows = 500
    return pa.record_batch(
        {
            "x": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.1),
            "f": pa.array(rng.normal(1e6, 3, rows), pa.float32()),
            "i": pa.array(rng.integers(0, 10, rows)),
            "h": pa.array(rng.normal(size=rows).astype(np.float16)),
            "key": pa.array([f"{i % 7:03}" for i in range(rows)]),
            "note": pa.array([None, "", "NA", "a,b", 'q"'] * (rows // 5)),
            "when": pa.array([_DAY + datetime.timedelta(i) for i in range(rows)]),
            "day": pa.array([datetime.date(2026, 1, 1 + i % 28) for i in range(rows)]),
            "ok": pa.array([i % 3 == 0 for i in range(rows)]),
        }
    )


@pytest.mark.parametrize("dtype", [None, pa.float32(), pa.float64()])
def test_through_csv(dtype):
    from pyarrow import csv

    batch = mixed()
    frozen = fitted(batch)
    written = frozen.transform(batch, dtype=dtype)
    file = io.BytesIO()
    csv.write_csv(pa.table(written), file)
    options = csv.ConvertOptions(null_values=["", "NA"])

    def read(**kept):
        file.seek(0)
        table = csv.read_csv(file, convert_options=kept.get("options", options))
        return table.to_batches()

    assert check(frozen, batch, read(), text=True, dtype=dtype) == ()
    typed = csv.ConvertOptions(null_values=["", "NA"], column_types={"key": pa.string()})
    assert check(frozen, batch, read(options=typed), text=True, dtype=dtype) == ()
    table = pa.Table.from_batches(read())
    values = table["f"].to_numpy().copy()
    values[100] += 1e-5
    bad = table.set_column(1, "f", pa.array(values)).to_batches()
    fails(frozen, batch, bad, "'f', row 101", text=True, dtype=dtype)
    texts = table.set_column(6, "when", pa.array([True] * 500)).to_batches()
    assert check(frozen, batch, texts, text=True, dtype=dtype) == ("when",)


def test_csv_is_read_back_with_the_types_of_the_input(frozen):
    from pyarrow import csv

    exact = [decimal.Decimal("12345678901234567890.12"), None, decimal.Decimal("-0.05")]
    columns = {
        "x": pa.array([1.0, 2.0, None]),
        "key": pa.array(["007", "008", ""], pa.large_string()),
        "word": pa.array(["01", None, "1"]).dictionary_encode(),
        "exact": pa.array(exact, pa.decimal128(25, 2)),
        "when": pa.array([_DAY, None, _DAY], pa.timestamp("us", "UTC")),
        "here": pa.array([_DAY, None, _DAY], pa.timestamp("ms", "Europe/Berlin")),
        "time": pa.array([_DAY.time(), None, _DAY.time()]),
        "id": pa.array([2**64 - 1, None, 5], pa.uint64()),
        "span": pa.array([1, None, 5], pa.duration("s")),
        "ok": pa.array([True, None, False]),
    }
    batch = pa.record_batch(columns)
    kinds = text_types(frozen, batch.schema)
    assert set(kinds) == {"key", "word", "exact", "when", "here", "time", "id"}
    file = io.BytesIO()
    plain = frozen.transform(batch)
    plain = plain.set_column(2, "word", plain["word"].dictionary_decode())
    csv.write_csv(pa.table(plain), file)
    options = csv.ConvertOptions(column_types=kinds, null_values=[""])
    file.seek(0)
    table = csv.read_csv(file, convert_options=options)
    assert check(frozen, batch, table.to_batches(), text=True) == ()
    for name, other in (("key", "7"), ("exact", exact[2]), ("id", 1), ("when", None)):
        changed = replaced(table.to_batches()[0], name, 0, other)
        fails(frozen, batch, changed, f"{name!r}, row 1", text=True)


@pytest.mark.parametrize("dtype", [None, *TYPES])
@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_through_binary_formats(kind, dtype):
    import pyarrow.parquet as pq

    batch = mixed()
    frozen = fitted(batch)
    written = frozen.transform(batch, dtype=dtype)
    file = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.table(written), file, row_group_size=100)
        read = pq.read_table(file).to_batches(max_chunksize=77)
    else:
        with pa.ipc.new_stream(file, written.schema) as writer:
            writer.write_batch(written)
        read = list(pa.ipc.open_stream(file.getvalue()))
    check(frozen, batch, read, dtype=dtype)
