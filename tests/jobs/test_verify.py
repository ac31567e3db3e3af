"""Verification: correct outputs pass, and every change is found."""

from __future__ import annotations

import datetime
import decimal
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.errors import SchemaError, StreamBNError
from streambn.io import Format
from streambn.jobs.operations import ApplyStatistics
from streambn.jobs.verify import csv_types, verify

TYPES = [pa.float64(), pa.float32(), pa.float16()]
AFFINE = [None, {"a": (2.0, -1.0)}, {"a": (0.0, 3.0)}, {"a": (-1e-3, 1e6), "b": (0.5, 0)}]


def rebatched(batch, cuts):
    edges = sorted({0, batch.num_rows, *(cut % (batch.num_rows + 1) for cut in cuts)})
    return [batch.slice(a, b - a) for a, b in itertools.pairwise(edges)]


def check(frozen, given, written, *, dtype=None, inverse=False, kind=Format.PARQUET):
    as_list = [x if isinstance(x, list) else [x] for x in (given, written)]
    verify(ApplyStatistics(frozen, dtype, inverse), *as_list, name="out", kind=kind)


def fails(frozen, given, written, message="out", **options):
    with pytest.raises(StreamBNError, match=message) as caught:
        check(frozen, given, written, **options)
    said = str(caught.value)
    assert said.startswith("out: ")
    assert "\n" not in said
    return said


def with_column(batch, name, column):
    return batch.set_column(batch.schema.get_field_index(name), name, column)


def replaced(batch, name, row, value):
    values = batch[name].to_pylist()
    values[row] = value
    return with_column(batch, name, pa.array(values, batch[name].type, from_pandas=False))


def fitted(batch, **options):
    return sbn.Normalizer(inf="ignore", **options).update(batch).freeze()


def normalized(batch, **options):
    frozen = fitted(batch, **options)
    return frozen, frozen.transform(batch)


# --- random data ----------------------------------------------------------------------


@st.composite
def normalizers(draw):
    """Draw data and a frozen normalizer that learned some of it."""
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
        "affine": draw(st.sampled_from(AFFINE)),
        "inf": draw(st.sampled_from(["ignore", "ignore", "propagate"])),
        "nan": draw(st.sampled_from(["ignore", "ignore", "propagate"])),
    }
    part = draw(st.sampled_from([rows, rows, 1, max(1, rows // 2)]))
    policy = draw(st.sampled_from([sbn.Welford(), sbn.EMA(halflife=5)]))
    frozen = sbn.Normalizer(policy, ["a", "b"], **options).update(batch[:part]).freeze()
    return frozen, batch


cut_points = st.lists(st.integers(0, 100), max_size=5)
many = settings(suppress_health_check=list(HealthCheck))


def mapped(map_batch, batch, dtype):
    """Map a batch; give up the example if float16 cannot hold a result, which is refused."""
    try:
        return map_batch(batch, dtype=dtype)
    except sbn.InvalidValueError as error:
        if error.argument != "dtype":
            raise
        return reject()


@many
@given(normalizers(), st.sampled_from([None, *TYPES]), cut_points, cut_points)
def test_correct_output_passes(drawn, dtype, cuts, other_cuts):
    frozen, batch = drawn
    written = mapped(frozen.transform, batch, dtype)
    check(frozen, rebatched(batch, cuts), rebatched(written, other_cuts), dtype=dtype)


@many
@given(normalizers(), st.sampled_from([None, *TYPES]), cut_points)
def test_correct_inverse_passes(drawn, dtype, cuts):
    frozen, batch = drawn
    if any(gamma == 0 for gamma, _ in (frozen.statistics.options.affine or {}).values()):
        return
    for data in (batch, mapped(frozen.transform, batch, dtype)):
        back = mapped(frozen.inverse_transform, data, dtype)
        check(frozen, data, rebatched(back, cuts), inverse=True, dtype=dtype)


@many
@given(normalizers(), st.data(), st.sampled_from(TYPES), st.booleans())
def test_changed_value_is_found(drawn, data, dtype, inverse):
    frozen, batch = drawn
    if inverse and any(g == 0 for g, _ in (frozen.statistics.options.affine or {}).values()):
        return
    written = mapped(frozen.inverse_transform if inverse else frozen.transform, batch, dtype)
    column = data.draw(st.sampled_from(["a", "b"]))
    row = data.draw(st.integers(0, batch.num_rows - 1))
    value = written[column][row].as_py()

    def is_found(other, message="out"):
        changed = replaced(written, column, row, other)
        fails(frozen, batch, changed, message, dtype=dtype, inverse=inverse)

    is_found(1.0 if value is None else None, "null")
    if value is None:
        return
    is_found(0.0 if np.isnan(value) else np.nan)
    if not np.isfinite(value):
        return
    # 100 units in the last place; more where integers are rounded, or where terms cancel.
    largest = float(np.finfo(dtype.to_pandas_dtype()).max)
    transform = frozen.standardizer.parameters
    terms = [abs(value), np.abs(transform.location_hi).max() if inverse else 0.0]
    if transform.beta is not None:
        terms.append(np.abs(transform.beta / (transform.gamma if inverse else 1.0)).max())
        terms[-1] *= transform.scale.max() if inverse else 1.0
    if pa.types.is_integer(batch[column].type):
        with np.errstate(all="ignore"):
            terms.append(np.nanmax(np.abs(written[column].to_numpy(zero_copy_only=False))))
    step = 100 * float(np.spacing(np.abs(value), dtype=dtype.to_pandas_dtype()))
    step += 100 * 2.0**-53 * sum(terms)
    if not np.isfinite(step) or abs(value) + step > largest:
        return
    is_found(value + step, f"row {row + 1}:")
    is_found(np.inf)
    is_found(-np.inf)


@many
@given(normalizers(), st.data())
def test_lost_doubled_and_swapped_rows_are_found(drawn, data):
    frozen, batch = drawn
    written = frozen.transform(batch)
    rows = list(range(batch.num_rows))
    row = data.draw(st.sampled_from(rows))
    others = pa.array([i for i in rows if i != row], pa.int64())
    fails(frozen, batch, written.take(others))
    fails(frozen, batch.take(others), written)
    fails(frozen, batch, [written, written[row : row + 1]], "rows, and the output")
    other = data.draw(st.sampled_from(rows))
    if row != other:  # their keys differ
        rows[row], rows[other] = other, row
        fails(frozen, batch, written.take(pa.array(rows)))


# --- numbers --------------------------------------------------------------------------


def test_message_names_column_row_and_values():
    batch = pa.record_batch({"x": [1.0, 2.0, 4.0, 9.0]})
    frozen, written = normalized(batch, scale=False)
    assert fails(frozen, batch, written.take(pa.array([0, 2, 1, 3]))) == (
        "out: column 'x', row 2: expected -2.0, found 0.0"
    )


@pytest.mark.parametrize(
    ("dtype", "ulps"), [(pa.float64(), 60), (pa.float32(), 2), (pa.float16(), 2)]
)
def test_few_units_in_the_last_place_are_found(dtype, ulps):
    rng = np.random.default_rng(0)
    batch = pa.record_batch({"x": rng.normal(5, 2, 1000)})
    frozen = fitted(batch)
    values = frozen.transform(batch, dtype=dtype)["x"].to_numpy(zero_copy_only=False).copy()
    values[500] += ulps * np.spacing(np.abs(values[500]))
    fails(frozen, batch, pa.record_batch({"x": values}), "row 501:", dtype=dtype)


def test_rows_are_counted_through_all_batches():
    batch = pa.record_batch({"x": np.arange(200_000.0)})
    frozen, written = normalized(batch)
    bad = [written[:150_000], replaced(written[150_000:150_010], "x", 3, 9.0), written[150_010:]]
    fails(frozen, rebatched(batch, [7, 99_999]), bad, "row 150,004:")
    check(frozen, rebatched(batch, [7, 99_999]), [*rebatched(written, [65_537]), written[:0]])


def test_message_counts_rows():
    batch = pa.record_batch({"x": np.arange(2284.0)})
    frozen, written = normalized(batch)
    said = fails(frozen, [batch], rebatched(written[:-1], [1000]))
    assert said == "out: the input has 2,284 rows, and the output 2,283"
    assert "has 0 rows, and the output 2,284" in fails(frozen, [], written)
    check(frozen, [], [])


def test_values_beyond_float32_are_infinite():
    dtype = pa.float32()
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0]})
    frozen = fitted(batch)
    largest = float(np.finfo(dtype.to_pandas_dtype()).max)
    far = pa.record_batch({"x": [largest * 10, -largest * 10, largest / 10, np.inf]})
    written = frozen.transform(far, dtype=dtype)
    assert np.isinf(written["x"][0].as_py())
    check(frozen, far, written, dtype=dtype)
    for row, value in ((0, -np.inf), (0, 1.0), (2, np.inf), (3, largest)):
        fails(frozen, far, replaced(written, "x", row, value), f"row {row + 1}:", dtype=dtype)


def test_clipped_values_are_at_the_bound():
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0, 100.0, -100.0, np.inf]})
    frozen = fitted(batch[:3], clip=1.5, affine={"x": (2.0, 1.0)})
    written = frozen.transform(batch)
    assert written["x"].to_pylist()[3:] == [4.0, -2.0, 4.0]
    check(frozen, batch, written)
    for row, value in ((3, 3.9), (3, 4.1), (4, 4.0), (5, -2.0), (5, np.inf), (1, 4.0)):
        fails(frozen, batch, replaced(written, "x", row, value), f"row {row + 1}: expected")


def test_gamma_zero_leaves_beta():
    batch = pa.record_batch({"x": [0.0, 1.0, 2.0]})
    frozen, written = normalized(batch, affine={"x": (0.0, 7.0)})
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 1, 7.1), r"expected 7.0, found 7.1")


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}])
def test_without_center_or_scale(options):
    batch = pa.record_batch({"x": [5.0, 5.5, 9.0, None, np.nan]})
    frozen, written = normalized(batch, **options)
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 1, 5.25))
    fails(frozen, batch, replaced(written, "x", 4, 0.0))


def test_features_without_finite_statistics():
    batch = pa.record_batch({"x": [1.0, np.nan, 2.0], "y": [1.0, np.inf, 2.0]})
    frozen = sbn.Normalizer(nan="propagate", inf="propagate", scale=False).update(batch).freeze()
    written = frozen.transform(batch)
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "x", 0, 1.0), "'x'")
    fails(frozen, batch, replaced(written, "y", 0, 1.0), "'y'")


def test_feature_never_seen_is_null():
    seen = pa.record_batch({"x": [1.0, 2.0], "y": pa.nulls(2, pa.float64())})
    frozen = fitted(seen)
    batch = pa.record_batch([[1.0, 2.0], [3.0, None]], schema=seen.schema)
    written = frozen.transform(batch)
    assert written["y"].null_count == 2
    check(frozen, batch, written)
    fails(frozen, batch, replaced(written, "y", 0, 3.0), "'y', row 1: expected null, found 3.0")
    # A reader may give a column without a single value the null type.
    check(frozen, batch, pa.record_batch({"x": written["x"], "y": pa.nulls(2)}))


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
    frozen, written = normalized(batch)
    check(frozen, batch, written)
    check(frozen, written, frozen.inverse_transform(written), inverse=True)
    for column in "iude":
        value = written[column][1].as_py() + 1e-6
        fails(frozen, batch, replaced(written, column, 1, value), f"{column!r}, row 2")


def test_rounding_of_wide_integers_is_allowed():
    # Each batch is rounded around a value of its own, so other cuts give other low digits.
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(-(2**62), 2**62, 3000), rng.integers(0, 99, 3000)])
    batch = pa.record_batch({"i": rng.permutation(values)})
    frozen = fitted(batch)
    for cuts in ([], [1], [100, 2000, 2001]):
        written = [frozen.transform(part) for part in rebatched(batch, cuts)]
        check(frozen, rebatched(batch, [3000]), written)


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
    frozen, written = normalized(batch)
    check(frozen, batch, written)
    check(frozen, written, frozen.inverse_transform(written), inverse=True)
    for column in ("l", "t"):  # each alone, too
        check(fitted(batch.select([column])), batch.select([column]),
              fitted(batch.select([column])).transform(batch.select([column])))  # fmt: skip

    def changed(name, row, value):
        old = written[name]
        storage = old.storage if isinstance(old, pa.ExtensionArray) else old
        values = storage.to_pylist()
        values[row] = value
        new = pa.array(values, storage.type)
        if isinstance(old, pa.ExtensionArray):
            new = pa.ExtensionArray.from_storage(old.type, new)
        return with_column(written, name, new)

    x, first = written["s"][3]["x"].as_py(), written["l"][2].as_py()[0]
    for name, row, value, message in (
        ("l", 3, [0.0, 0.5], "'l[0]', row 4"),
        ("l", 1, [None, None], "'l', row 2: expected null, found a value"),
        ("l", 2, [first, 1.0], "'l[1]', row 3: expected null, found 1.0"),
        ("t", 3, [0.0, 0.5], "'t[0]', row 4"),
        ("s", 3, {"x": 9.0, "s": "d"}, "'s.x', row 4"),
        ("s", 3, {"x": x, "s": "e"}, "'s.s', row 4: expected 'd', found 'e'"),
        ("s", 2, None, "'s.x', row 3: expected a value, found null"),
    ):
        fails(frozen, batch, changed(name, row, value), re.escape(message))


def test_inputs_with_other_types_and_orders():
    first = pa.record_batch({"x": pa.array([1.0, 2.5], pa.float32()), "k": ["a", "b"]})
    second = pa.record_batch({"k": pa.array(["c"], pa.large_string()), "x": [1.7]})
    frozen = fitted(first)
    one, other = frozen.transform(first), frozen.transform(second)
    check(frozen, [first, second], [one, other.select(["x", "k"]).cast(one.schema)])
    schema = pa.schema({"x": pa.float64(), "k": pa.large_string()})
    check(frozen, [second, first], [other, one.cast(schema)])


def test_missing_and_new_columns_are_found():
    batch = pa.record_batch({"x": [1.0, 2.0], "k": ["a", "b"]})
    frozen, written = normalized(batch)
    for wrong in (["x"], ["k"]):
        with pytest.raises(SchemaError, match=r"^out: column .* is not in the data"):
            check(frozen, batch, written.select(wrong))
    more = written.append_column("new", pa.array([1, 2]))
    fails(frozen, batch, more, "'new' is not in the input")
    check(frozen, batch, written.select(["k", "x"]))
    texts = pa.record_batch({"x": ["a", "b"], "k": ["a", "b"]})
    fails(frozen, batch, texts, "'x' is no longer numeric")


# --- columns that are not normalized --------------------------------------------------

_DAY = datetime.datetime(2026, 1, 31, 12, 30)
UNCHANGED = {
    "string": (pa.array(["a", None, "", "d"]), "x"),
    "view": (pa.array(["a", None, "", "d"], pa.string_view()), "x"),
    "binary": (pa.array([b"a", None, b"", b"\xff"]), b"x"),
    "bool": (pa.array([True, None, False, True]), False),
    "float": (pa.array([1.0, None, np.nan, -0.0], from_pandas=False), 2.0),
    "half": (pa.array(np.array([1, 2, np.nan, 4], np.float16), from_pandas=False), np.float16(9)),
    "int": (pa.array([2**62, None, 2**62 + 1, 4]), 5),
    "decimal": (pa.array([decimal.Decimal("1.5"), None, None, decimal.Decimal(2)]), 1),
    "timestamp": (pa.array([_DAY, None, _DAY, _DAY], pa.timestamp("us", "UTC")), None),
    "nanoseconds": (pa.array([1, None, 3, 2**62 + 1], pa.timestamp("ns")), 9),
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


def next_to(column, rows=4):
    return pa.record_batch({"x": np.arange(float(rows)), "k": column})


@pytest.mark.parametrize("kind", UNCHANGED)
def test_other_columns_are_unchanged(frozen, kind):
    column, other = UNCHANGED[kind]
    batch = next_to(column)
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
        fails(frozen, batch, with_column(written, "k", new), f"'k', row {row + 1}")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", "a", None, "b"]).dictionary_encode(), pa.string()),
        (pa.array(["a", "a", None, "b"], pa.string_view()), pa.large_string()),
        (pa.array([1, 2, None, 3], pa.timestamp("s")), pa.timestamp("ms")),
        (pa.array([1, 2, None, 3], pa.uint32()), pa.int64()),
    ],
)
def test_same_values_may_have_another_type(frozen, column, kind):
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    batch = next_to(column)
    written = with_column(frozen.transform(batch), "k", plain.cast(kind))
    check(frozen, batch, written)
    moved = written["k"].take(pa.array([0, 1, 2, 0]))
    fails(frozen, batch, with_column(written, "k", moved), "row 4")
    fails(frozen, batch, with_column(written, "k", pa.array([[1]] * 4)), "'k', row 1: .*found \\[1")


def test_encodings_inside_lists(frozen):
    plain = pa.array([["a", "b"], None, ["a"], []])
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    encoded = next_to(
        pa.ListArray.from_arrays(plain.offsets, words, mask=pa.array([False, True, False, False]))
    )
    written = with_column(frozen.transform(encoded), "k", plain)
    check(frozen, encoded, written)
    changed = with_column(written, "k", pa.array([["a", "b"], None, ["b"], []]))
    fails(frozen, encoded, changed, "'k', row 3")


def test_columns_that_share_a_name(frozen):
    def batch(second):
        arrays = [pa.array([1.0]), pa.array(["a"]), pa.array([second])]
        return pa.RecordBatch.from_arrays(arrays, names=["x", "k", "k"])

    written = frozen.transform(batch("b"))
    check(frozen, batch("b"), written)
    fails(frozen, batch("c"), written, "'k', row 1: expected 'c', found 'b'")


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


def through_csv(batch):
    """Write CSV, and read it back as a job does."""
    file = io.BytesIO()
    plain = pa.table(
        {
            name: column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
    )
    pa.csv.write_csv(plain, file)
    file.seek(0)
    options = pa.csv.ConvertOptions(column_types=csv_types(batch.schema), null_values=["", "NA"])
    return pa.csv.read_csv(file, convert_options=options).combine_chunks().to_batches()[0]


@pytest.mark.parametrize("dtype", [None, *TYPES], ids=str)
@pytest.mark.parametrize("inverse", [False, True])
def test_csv(dtype, inverse):
    batch = mixed()
    if inverse and dtype == pa.float16():
        batch = batch.drop_columns("f")  # too large for the type, and refused
    frozen = fitted(batch)
    map_batch = frozen.inverse_transform if inverse else frozen.transform
    read = through_csv(map_batch(batch, dtype=dtype))
    options = {"dtype": dtype, "inverse": inverse, "kind": Format.CSV}
    check(frozen, batch, read, **options)
    value = read["h"][100].as_py()
    fails(frozen, batch, replaced(read, "h", 100, value * 1.01), "'h', row 101", **options)
    changed = replaced(read, "key", 8, "2")
    fails(frozen, batch, changed, "'key', row 9: expected '001', found '2'", **options)


def test_csv_is_read_back_with_the_types_of_the_output(frozen):
    exact = [decimal.Decimal("12345678901234567890.12"), None, decimal.Decimal("-0.05")]
    batch = pa.record_batch(
        {
            "x": pa.array([1.0, 2.0, None]),
            "key": pa.array(["007", "008", ""], pa.large_string()),
            "word": pa.array(["01", None, "1"]).dictionary_encode(),
            "exact": pa.array(exact, pa.decimal128(25, 2)),
            "when": pa.array([_DAY, None, _DAY], pa.timestamp("us", "UTC")),
            "here": pa.array([_DAY, None, _DAY], pa.timestamp("ms", "Europe/Berlin")),
            "time": pa.array([_DAY.time(), None, _DAY.time()]),
            "id": pa.array([2**64 - 1, None, 5], pa.uint64()),
            "span": pa.array([1, None, 5], pa.duration("s")),
            "float": pa.array([0.1, None, np.nan], pa.float32(), from_pandas=False),
            "half": pa.array(np.array([0.1, 2, np.nan], np.float16), from_pandas=False),
            "bytes": pa.array([b"07", None, b"x"]),
            "ok": pa.array([True, None, False]),
        }
    )
    read = through_csv(frozen.transform(batch))
    check(frozen, batch, read, kind=Format.CSV)
    for name, other in (
        *(("key", "7"), ("exact", exact[2]), ("id", 1), ("when", None), ("float", 0.2)),
        *(("half", 0.2), ("ok", False), ("span", 2), ("bytes", b"7"), ("x", 0.5)),
    ):
        fails(frozen, batch, replaced(read, name, 0, other), f"{name!r}, row 1", kind=Format.CSV)


@pytest.mark.parametrize("dtype", [None, *TYPES], ids=str)
@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_binary_formats(kind, dtype):
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


# --- the command ----------------------------------------------------------------------


@pytest.fixture
def folder(jobs_in_a_folder, frozen):
    """A folder with statistics, and the same data in every format."""
    frozen.save("stats.json")
    table = pa.table({"x": [1.0, None, 3.0], "k": ["a", "", "c"]})
    Path("data/day=7").mkdir(parents=True)
    pq.write_table(table, "data/day=7/a.parquet")
    pa.csv.write_csv(table, "data/b.csv")
    with pa.ipc.new_file("data/c.arrow", table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("out", ["out/", "out.parquet", "out.csv", "out.ndjson", "out.jsonl.gz"])
@pytest.mark.parametrize("more", [[], ["--inverse"], ["--dtype", "float32"]])
def test_command_verifies_outputs(folder, run, out, more):
    inputs = ["data"] if out.endswith("/") else ["data/b.csv", "data/c.arrow"]
    done = run("apply", "stats.json", *inputs, "-o", out, "--verify", "-q", *more)
    assert (done.code, done.lines) == (0, [])


def test_wrong_output_is_removed(folder, run, monkeypatch):
    function = ApplyStatistics.function

    def two_rows(self, names):
        return lambda batch, schema: function(self, names)(batch[:2], schema)

    monkeypatch.setattr(ApplyStatistics, "function", two_rows)
    done = run("apply", "stats.json", "data/b.csv", "-o", "out.csv", "--verify")
    assert done.code == 1
    assert done.lines == ["streambn: out.csv: the input has 3 rows, and the output 2"]
    assert not Path("out.csv").exists()
