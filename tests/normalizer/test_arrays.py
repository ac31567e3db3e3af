"""Two-dimensional NumPy arrays as batches of the columns x0, x1, and so on."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn.errors import InvalidValueError, SchemaError

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
POLICIES = [
    sbn.Welford(),
    sbn.Exact(),
    sbn.EMA(halflife=3.0),
    sbn.EMA(alpha=0.3, adjust=False),
    sbn.BatchEMA(momentum=0.1, batch_rows=5),
]


class Metres(np.ndarray):
    pass


def as_field(array: np.ndarray) -> np.ndarray:
    records = np.zeros(array.shape, [("flag", "i1"), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


# Ways to hold the same numbers in memory.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "every second row of columns": lambda a: np.asfortranarray(np.repeat(a, 2, axis=0))[::2],
    "rows from the last": lambda a: a[::-1].copy()[::-1],
    "columns from the last": lambda a: a[:, ::-1].copy()[:, ::-1],
    "both from the last": lambda a: np.asfortranarray(a[::-1, ::-1])[::-1, ::-1],
    "part of a wider array": lambda a: np.hstack([a, a])[:, : a.shape[1]],
    "part of a file": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "not aligned": lambda a: np.frombuffer(b"0" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "a field of records": as_field,
    "a subclass": lambda a: a.view(Metres),
}


def named(array: np.ndarray) -> pa.RecordBatch:
    """Return an array as columns x0, x1, ..."""
    columns = [pa.array(np.ascontiguousarray(column)) for column in array.T]
    return pa.record_batch(columns, names=[f"x{i}" for i in range(array.shape[1])])


def as_array(batch: pa.RecordBatch) -> np.ndarray:
    """Return columns as an array, nulls as NaN."""
    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    return np.stack(columns, axis=1)


def assert_same(array: np.ndarray, expected: np.ndarray) -> None:
    assert type(array) is np.ndarray
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)  # NaN equals NaN


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.integers(0, 12)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = np.round(rng.normal(20, 10, shape) * 8) / 8
    if dtype.kind == "f" and draw(st.booleans()):
        array[rng.random(shape) < 0.2] = np.nan
    with np.errstate(invalid="ignore"):
        return np.clip(array, 0 if dtype.kind == "u" else None, 100).astype(dtype)


@given(array=arrays(), layout=st.sampled_from([*LAYOUTS]), policy=st.sampled_from(POLICIES))
def test_an_array_counts_as_its_columns(
    array: np.ndarray, layout: str, policy: sbn.Welford
) -> None:
    given_array, batch = LAYOUTS[layout](array), named(array)
    before = given_array.tobytes()
    ours, theirs = sbn.Normalizer(policy), sbn.Normalizer(policy)
    for _ in range(2):
        ours.update(given_array)
        theirs.update(batch)
    assert ours.to_bytes() == theirs.to_bytes()
    if len(array):
        z = as_array(theirs.transform(batch))
        assert_same(ours.transform(given_array), z)
        assert_same(ours.freeze().transform(given_array), z)
        inverse = ours.inverse_transform(LAYOUTS[layout](z))
        assert_same(inverse, as_array(theirs.inverse_transform(named(z))))
        for using in ("running", "before", "batch"):
            z = as_array(theirs.update_transform(batch, using=using))
            assert_same(ours.update_transform(given_array, using=using), z)
        for using in ("running", "before") if not isinstance(policy, sbn.BatchEMA) else ():
            z = as_array(theirs.update_transform(batch, using=using, by_row=True))
            assert_same(ours.update_transform(given_array, using=using, by_row=True), z)
        assert ours.to_bytes() == theirs.to_bytes()
    assert given_array.tobytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "columns"), [(1300, 3), (520, 75), (1, 70)])
def test_large_arrays_count_as_their_columns(layout: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(7)
    array = rng.normal(1e6, 3.0, (rows, columns)).astype("f4" if columns == 3 else "f8")
    array[rng.random(array.shape) < 0.01] = np.nan
    given_array, batch = LAYOUTS[layout](array), named(array)
    for policy in (sbn.Welford(), sbn.Exact(), sbn.EMA(halflife=100.0)):
        ours = sbn.Normalizer(policy).update(given_array)
        theirs = sbn.Normalizer(policy).update(batch)
        assert ours.to_bytes() == theirs.to_bytes()
    assert_same(ours.transform(given_array), as_array(theirs.transform(batch)))


def test_an_output_has_the_memory_layout_of_its_input() -> None:
    array = np.arange(12.0).reshape(4, 3)
    norm = sbn.Normalizer().update(array)
    assert norm.transform(array).flags.c_contiguous
    assert norm.transform(np.asfortranarray(array)).flags.f_contiguous
    assert norm.transform(array[::2]).flags.c_contiguous
    for out in (norm.transform(array), norm.transform(np.zeros((100_000, 3)))):
        assert out.flags.writeable
        assert not np.shares_memory(out, array)


def test_floats_keep_their_type_and_integers_become_float64() -> None:
    norm = sbn.Normalizer().update(np.arange(6).reshape(3, 2))
    for dtype in DTYPES:
        z = norm.transform(np.ones((2, 2), dtype))
        assert z.dtype == (dtype if dtype[0] == "f" else "f8")
    for dtype in (np.float32, pa.float16(), "f8"):
        assert norm.transform(np.ones((2, 2)), dtype).dtype in ("f2", "f4", "f8")
        assert norm.inverse_transform(np.ones((2, 2), int), dtype).dtype in ("f2", "f4", "f8")
    assert norm.update_transform(np.ones((2, 2)), dtype=np.float32).dtype == np.float32


def test_a_feature_that_is_not_known_becomes_nan() -> None:
    array = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 5.0]], "f4")
    norm = sbn.Normalizer().update(array)
    z = norm.transform(np.ones((2, 3), "f4"))
    assert np.isnan(z).tolist() == [[False, True, False]] * 2
    assert np.isnan(sbn.Normalizer().update_transform(array, using="before")).all()
    assert np.isnan(sbn.Normalizer(min_count=3).update(array).transform(array)).all()


def test_statistics_of_arrays_and_of_tables_are_the_same(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(4, 3)
    ours, theirs = sbn.Normalizer().update(array), sbn.Normalizer().update(named(array))
    assert ours.features == ("x0", "x1", "x2")
    assert ours.merge(theirs).merge(ours).stats()["count"].to_pylist() == [12] * 3
    ours.save(tmp_path / "s.json")
    loaded = sbn.load(tmp_path / "s.json")
    for norm in (loaded, pickle.loads(pickle.dumps(ours)), theirs, theirs.freeze()):
        assert_same(norm.transform(array), ours.transform(array))
        assert norm.transform(named(array)).equals(ours.transform(named(array)))
    # Columns of a table may have another order, and further columns between them.
    mixed = named(array).select([2, 0, 1]).append_column("day", pa.array(["mon"] * 4))
    assert_same(sbn.Normalizer().update(mixed).transform(array), ours.transform(array))


def test_other_columns_pass_through() -> None:
    array = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 9.0]])
    for options in ({"columns": ["x0", "x2"]}, {"exclude": ["x1"]}, {"columns": ["x2", "x0"]}):
        norm = sbn.Normalizer(**options).update(array)
        expected = [[-1.0, 2.0, -1.0], [1.0, 4.0, 1.0]]
        for layout in LAYOUTS.values():
            assert_same(norm.transform(layout(array)), np.array(expected))
            assert_same(norm.inverse_transform(layout(np.array(expected))), array)
    # An array has one type, so that columns that pass through take it too.
    assert_same(norm.transform(array.astype("i8")), np.array(expected))
    assert_same(norm.transform(array, "f4"), np.array(expected, "f4"))
    with pytest.raises(InvalidValueError, match=r"column 'x1' would hold values beyond 65,504"):
        norm.transform(np.array([[1.0, 1e5, 1.0]]), "f2")
    assert norm.transform(np.array([[1.0, np.inf, 1.0]]), "f2")[0, 1] == np.inf
    with pytest.raises(InvalidValueError, match="column 'x0' would hold values beyond 65,504"):
        norm.transform(np.array([[1e6, 1.0, 1.0]]), "f2")
    for by_row in (False, True):
        norm = sbn.Normalizer(columns=["x0", "x2"])
        z = norm.update_transform(array, using="before", by_row=by_row)
        assert np.isnan(z[0]).tolist() == [True, False, True]
        assert z[:, 1].tolist() == [2.0, 4.0]
        with pytest.raises(InvalidValueError, match=r"column 'x1' would hold values beyond"):
            norm.update_transform(np.array([[1.0, 1e5, 1.0]]), dtype="f2", by_row=by_row)
        assert norm.stats()["count"].to_pylist() == [2, 2]


def test_weights_and_event_times_are_columns_of_the_array() -> None:
    array = np.array([[1.0, 5.0, 1.0], [3.0, 9.0, 3.0], [7.0, 7.0, 0.0]])
    for options in (
        {"weights": "x2"},
        {"policy": sbn.EMA(halflife=2.0, time="x2")},
        {"policy": sbn.EMA(halflife=2.0, time="x1"), "weights": "x2"},
    ):
        ours, theirs = sbn.Normalizer(**options), sbn.Normalizer(**options)
        for layout in LAYOUTS.values():
            assert ours.update(layout(array)).to_bytes() == theirs.update(named(array)).to_bytes()
        assert_same(ours.transform(array), as_array(theirs.transform(named(array))))
    with pytest.raises(SchemaError, match="column 'w' is not in the data"):
        sbn.Normalizer(weights="w").update(array)


def test_columns_of_a_union_appear_and_may_be_absent() -> None:
    array = np.arange(12.0).reshape(4, 3)
    ours, theirs = (sbn.Normalizer(schema="union") for _ in range(2))
    for part in (array[:, :2], array, array[:, :1]):
        assert ours.update(part).to_bytes() == theirs.update(named(part)).to_bytes()
        assert_same(ours.transform(part), as_array(theirs.transform(named(part))))
    with pytest.raises(SchemaError, match="an array names its columns 'x0'"):
        sbn.Normalizer(schema="union").update(pa.table({"price": [1.0]})).update(array)


def test_a_column_without_a_type_takes_that_of_an_array() -> None:
    norm = sbn.Normalizer().update(pa.table({"x0": [1.0, 3.0], "x1": pa.nulls(2)}))
    norm.update(np.array([[1.0, 5.0], [3.0, 7.0]]))
    assert norm.stats()["count"].to_pylist() == [4, 2]
    assert norm.transform(np.array([[2.0, 6.0]])).tolist() == [[0.0, 0.0]]


# ------------------------------------------------------------------------ streams


def test_a_stream_of_arrays_gives_a_lazy_iterator_of_arrays() -> None:
    parts = [np.arange(6.0).reshape(3, 2), np.ones((1, 2), "f4"), np.arange(4).reshape(2, 2)]
    norm = sbn.Normalizer().update(parts)
    assert norm.to_bytes() == sbn.Normalizer().update(map(named, parts)).to_bytes()
    assert norm.to_bytes() == sbn.Normalizer().update(iter(parts), validate="full").to_bytes()
    out = norm.transform(iter(parts))
    norm.update(np.ones((9, 2)))  # a stream is normalized by the statistics at its start
    expected = [sbn.Normalizer().update(parts).transform(part) for part in parts]
    for z, array in zip(out, expected, strict=True):
        assert_same(z, array)

    online, pulled = sbn.Normalizer(), []

    def stream() -> Iterator[np.ndarray]:
        for part in parts:
            pulled.append(part)
            yield part

    out = online.update_transform(stream(), using="before")
    assert np.isnan(next(out)).all()
    assert len(pulled) == 1 == online.stats()["count"][0].as_py() / 3
    assert len(list(out)) == 2
    assert list(sbn.Normalizer().update(parts).transform([])) == []


def test_a_rejected_array_of_a_stream_leaves_the_ones_before() -> None:
    norm, parts = sbn.Normalizer(), [np.ones((3, 2)), np.ones((3, 3))]
    with pytest.raises(SchemaError, match="the array has 3 columns"):
        norm.update(parts)
    assert norm.stats()["count"].to_pylist() == [3, 3]
    mixed = [np.ones((3, 2)), pa.record_batch({"x0": [1.0], "x1": [1.0]})]
    for function in (norm.update, lambda data: list(norm.transform(data))):
        with pytest.raises(InvalidValueError, match="Pass either arrays or Arrow data, not both"):
            function(mixed)
        with pytest.raises(InvalidValueError, match="Pass either arrays or Arrow data, not both"):
            function(mixed[::-1])


# ---------------------------------------------------------------------- bad input

X = np.arange(1.0, 13.0).reshape(4, 3)
NAMES = {"numpy": np, "pyarrow": pa}


@pytest.mark.parametrize(
    ("data", "message", "remedy"),
    [
        (X[:, 0], "shape (4,)", "data.reshape(-1, 1)"),
        (X[0], "shape (3,)", "data.reshape(1, -1)"),
        (np.array(2.0), "shape ()", "data.reshape(1, 1)"),
        (X.reshape(2, 2, 3), "shape (2, 2, 3)", "data.reshape(-1, data.shape[-1])"),
        (X > 2, "bool", "data.astype(numpy.int8)"),
        (X * 1j, "complex128", "numpy.hstack([data.real, data.imag])"),
        (X.astype(str), "<U32", "data.astype(numpy.float64)"),
        (X.astype(object), "object", "data.astype(numpy.float64)"),
        (X.astype(np.longdouble), "float128", "data.astype(numpy.float64)"),
        (X.astype("M8[s]"), "datetime64[s]", "data.astype(numpy.int64)"),
        (X.astype("m8[s]"), "timedelta64[s]", "data.astype(numpy.int64)"),
        (
            np.zeros(3, [("a", "f8"), ("b", "i4")]),
            "structured array",
            "pyarrow.table({name: data[name].ravel() for name in data.dtype.names})",
        ),
        (
            np.ma.array(X.astype(int), mask=X > 9),
            "masked array",
            "data.astype(float).filled(numpy.nan)",
        ),
        (X.tolist(), "list", "numpy.atleast_2d(data)"),
        (X[0].tolist(), "float", "numpy.atleast_2d(data)"),
        (np.float32(1.0), "numpy.float32", "numpy.atleast_2d(data)"),
    ],
    ids=lambda value: value if isinstance(value, str) and "(" not in value else "",
)
def test_the_advice_for_other_data_works(data: Any, message: str, remedy: str) -> None:
    norm = sbn.Normalizer()
    for function in (norm.update, norm.update_transform):
        with pytest.raises(InvalidValueError, match=re.escape(message)) as caught:
            function(data)
        assert caught.value.argument == "data"
        assert remedy in str(caught.value)
    assert norm.features == ()
    assert norm.update(eval(remedy, {"data": data, **NAMES})).stats()["count"][0].as_py() > 0


@pytest.mark.parametrize(
    ("data", "message", "remedy"),
    [
        ({"price": [1.0], "volume": [2], "rate": [3.0]}, "of 'price', 'volume', 'rate'",
         "pyarrow.table(dict(zip(norm.features, data.T)))"),
        ({"x2": [1.0], "x1": [2], "price": [3.0]}, "of 'x2', 'x1', 'price'",
         "pyarrow.table(dict(zip(norm.features, data.T)))"),
        ({"e": pa.FixedSizeListArray.from_arrays(X.ravel(), 3)}, "of 'e'",
         "pyarrow.table({'e': pyarrow.FixedSizeListArray.from_arrays(data.ravel(), 3)})"),
        ({"x0": [1.0], "x1": [2.0]}, "has 3 columns, but the statistics are of an array of 2",
         "data[:, :2]"),
    ],
    ids=["names", "some names", "vectors", "width"],
)  # fmt: skip
def test_an_array_stands_for_no_other_columns(data: Any, message: str, remedy: str) -> None:
    norm = sbn.Normalizer().update(pa.table(data))
    frozen, before = norm.freeze(), norm.to_bytes()
    for function in (norm.update, norm.transform, norm.inverse_transform, norm.update_transform,
                     frozen.transform, frozen.inverse_transform):  # fmt: skip
        with pytest.raises(SchemaError, match=re.escape(message)) as caught:
            function(X)
        assert remedy in str(caught.value)
    assert norm.to_bytes() == before
    norm.update(eval(remedy, {"data": X, "norm": norm, **NAMES}))
    assert norm.to_bytes() != before


def test_an_array_of_another_width_is_refused() -> None:
    norm = sbn.Normalizer().update(X)
    with pytest.raises(SchemaError, match=r"the array has 2 columns, .* of 3 \('x0', 'x1', 'x2'\)"):
        norm.transform(X[:, :2])
    with pytest.raises(SchemaError, match=r"the array has 6 columns, .* Pass data\[:, :3\]"):
        norm.update(np.hstack([X, X]))
    assert_same(norm.transform(np.hstack([X, X])[:, :3]), norm.transform(X))
    # Where columns are named, an array with these columns fits, whatever its width.
    chosen = sbn.Normalizer(columns=["x0", "x2"]).update(X)
    assert chosen.transform(np.hstack([X, X])).shape == (4, 6)
    with pytest.raises(SchemaError, match=r"the array has 2 columns, .* an array of 3"):
        chosen.transform(X[:, :2])
    weighted = sbn.Normalizer(weights="x2").update(X)
    assert weighted.transform(X[:, :2]).shape == (4, 2)
    with pytest.raises(SchemaError, match=r"Pass data\[:, :3\]"):
        weighted.update(np.hstack([X, X]))
    for data in (np.zeros((3, 0)), [np.zeros((3, 0))]):
        with pytest.raises(SchemaError, match="it has no columns"):
            sbn.Normalizer().update(data)
    with pytest.raises(SchemaError, match="column 'price' is not in the data"):
        sbn.Normalizer(columns=["price"]).update(X)


def test_a_rejected_array_leaves_no_trace() -> None:
    norm = sbn.Normalizer(nan="raise").update(X)
    before = norm.to_bytes()
    for value, word in ((np.nan, "NaN"), (np.inf, "infinity")):
        bad = X.copy()
        bad[1, 2] = value
        for function in (norm.update, norm.transform, norm.update_transform):
            with pytest.raises(InvalidValueError, match=f"column 'x2' holds {word} in 1 rows"):
                function(bad)
    with pytest.raises(InvalidValueError, match="validate"):
        norm.update(X, validate="none")  # type: ignore[arg-type]
    assert norm.to_bytes() == before
    assert norm.update(np.zeros((0, 3))).to_bytes() == before
    assert norm.transform(np.zeros((0, 3))).shape == (0, 3)
    assert norm.transform(X, validate="full").tobytes() == norm.transform(X).tobytes()


def test_extreme_statistics_map_arrays_as_tables() -> None:
    array = np.array([[1e300, 1.0], [1.5e308, 1.0], [-1e300, 2.0]])
    norm = sbn.Normalizer(affine={"x0": (2.0, 1.0)}, clip=1.0).update(array)
    for layout in LAYOUTS.values():
        z = norm.transform(layout(array))
        assert_same(z, as_array(norm.transform(named(array))))
        assert_same(norm.inverse_transform(z), as_array(norm.inverse_transform(named(z))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_row_normalizers_learn_arrays(layout: str) -> None:
    ours, theirs = sbn.RowNormalizer(), sbn.Normalizer().update(X)
    ours.learn_many(LAYOUTS[layout](X))
    assert ours.to_normalizer().stats().equals(theirs.stats())
    ours.learn_many(LAYOUTS[layout](X), names=["x2", "x1", "x3"])
    assert ours.features == ["x0", "x1", "x2", "x3"]
    with pytest.raises(InvalidValueError, match=re.escape("Pass batch.reshape(-1, 1)")) as caught:
        ours.learn_many(X[0])
    assert caught.value.argument == "batch"
