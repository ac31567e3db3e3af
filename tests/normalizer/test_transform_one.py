"""One row, a dict: the same result as a batch of one row, and nothing else changes."""

from __future__ import annotations

import copy
import math
import pickle
import struct
import threading
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from normalizers import INF, NAN, POLICIES, fit, record, xs

import streambn as sbn

VALUES = st.none() | st.floats() | st.floats(-9, 9, width=16)
COLUMNS = ("x", "y", "flat")
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "eps": st.sampled_from([1e-5, 1e300]),
        "ddof": st.just(1),
        "center": st.just(False),
        "scale": st.just(False),
        "affine": st.sampled_from([{"x": (2.0, -0.0)}, {"x": (-0.5, 3.0), "y": (1e-300, 0.0)}]),
        "clip": st.sampled_from([1.5, 1e-300]),
        "nan": st.just("propagate"),
        "inf": st.sampled_from(["ignore", "propagate"]),
        "min_count": st.integers(1, 3),
    },
)


def same_bits(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isnan(other):
        return one is other if one is None or other is None else math.isnan(one)
    return type(one) is float and struct.pack("d", one) == struct.pack("d", other)


def batch_of(row: dict[str, Any]) -> pa.RecordBatch:
    return record(**{name: pa.array([value], pa.float64()) for name, value in row.items()})


def outcome(function: Any, *arguments: Any) -> Any:
    """Return what a function returns, or the kind of its error and the column at fault."""
    try:
        return function(*arguments)
    except sbn.InvalidValueError as error:
        return type(error), error.column


@settings.get_profile("many")
@given(
    seen=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4),
    probe=st.tuples(VALUES, VALUES, VALUES),
    options=OPTIONS,
    policy=st.sampled_from(list(POLICIES.values())),
)
@example([(1e300, 5e-324), (1.7e308, 0.0)], (1e308, -0.0, 5.0), {}, sbn.Welford())
@example([(1.0, -0.0)], (-0.0, -0.0, 7.0), {"center": False}, sbn.Welford())
def test_row_is_normalized_as_a_batch_of_one_row(
    seen: Any, probe: Any, options: Any, policy: Any
) -> None:
    first, second = zip(*seen, strict=True)
    data = {"x": first, "y": second, "flat": [7.0] * len(seen)}
    columns = record(**{name: pa.array(values, pa.float64()) for name, values in data.items()})
    try:
        frozen = fit(columns, policy=policy, **options).freeze()
    except sbn.InvalidValueError:  # an infinity
        return
    row = dict(zip(COLUMNS, probe, strict=True))
    for one, many in (
        (frozen.transform_one, frozen.transform),
        (frozen.inverse_transform_one, frozen.inverse_transform),
    ):
        got, expected = outcome(one, row), outcome(many, batch_of(row))
        if isinstance(got, tuple):
            assert got == expected
            continue
        assert list(got) == list(COLUMNS)
        for name in COLUMNS:
            assert same_bits(got[name], expected[name][0].as_py()), name
    assert row == dict(zip(COLUMNS, probe, strict=True)) or any(map(_is_nan, probe))


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)


def example_frozen(**options: Any) -> sbn.FrozenNormalizer:
    return fit(record(price=[1.0, 3.0], amount=[10.0, 30.0]), **options).freeze()


def test_result_is_a_new_dict_in_the_order_of_the_row() -> None:
    row = {"note": ["a"], "amount": 40, "id": 7, "price": 4.0}
    out = example_frozen().transform_one(row)
    assert out == {"note": ["a"], "amount": 2.0, "id": 7, "price": 2.0}
    assert list(out) == list(row)
    assert out["note"] is row["note"]
    assert row == {"note": ["a"], "amount": 40, "id": 7, "price": 4.0}
    assert example_frozen().inverse_transform_one(out) == row
    assert type(example_frozen().transform_one(OrderedDict(row))) is dict


@pytest.mark.parametrize(
    "value",
    [4, 4.0, np.float32(4), np.float64(4), np.int8(4), np.longdouble(4), Decimal(4), Fraction(4)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    out = example_frozen().transform_one({"price": value, "amount": 20})
    assert out == {"price": 2.0, "amount": 0.0}
    assert [type(z) for z in out.values()] == [float, float]


def test_large_integers_keep_their_digits() -> None:
    frozen = fit(record(n=[2**60 + 1, 2**60 + 3])).freeze()
    assert frozen.transform_one({"n": 2**60 + 4}) == {"n": 2.0}
    assert frozen.transform_one({"n": 2.0**60}) == {"n": -2.0}


def test_missing_values_stay() -> None:
    frozen = example_frozen()
    assert frozen.transform_one({"price": None, "amount": 20.0}) == {"price": None, "amount": 0.0}
    out = frozen.transform_one({"price": NAN, "amount": pd.NA})
    assert math.isnan(out["price"])
    assert out["amount"] is None


@pytest.mark.parametrize("method", ["transform_one", "inverse_transform_one"])
def test_a_missing_feature_is_named_with_the_nearest_key(method: str) -> None:
    with pytest.raises(sbn.SchemaError, match=r"'price' is not .* mean 'Price'") as caught:
        getattr(example_frozen(), method)({"Price": 1.0, "amount": 1.0, 3: 4})
    assert caught.value.column == "price"
    with pytest.raises(sbn.SchemaError, match=r"'price' is not .* Its columns: none. None stands"):
        getattr(example_frozen(), method)({})


@pytest.mark.parametrize("value", ["4", b"4", True, [4.0], {"a": 1}, object(), np.bool_(0), 4j])
def test_a_value_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(sbn.SchemaError, match="'amount' is not a number: it is") as caught:
        example_frozen().transform_one({"price": 1.0, "amount": value})
    assert caught.value.column == "amount"


@pytest.mark.parametrize(
    "row", [None, [("price", 1.0)], "price", pd.Series({"price": 1.0})], ids=str
)
def test_a_row_is_a_dict(row: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match="a row must be a dict"):
        example_frozen().transform_one(row)


def test_refused_values_follow_the_options() -> None:
    row = {"price": INF, "amount": 1.0}
    with pytest.raises(sbn.InvalidValueError, match="'price' holds infinity") as caught:
        example_frozen().transform_one(row)
    assert caught.value.column == "price"
    assert example_frozen(inf="ignore", clip=2.0).transform_one(row)["price"] == 2.0
    with pytest.raises(sbn.InvalidValueError, match="'price' holds NaN"):
        example_frozen(nan="raise").transform_one({"price": NAN, "amount": 1.0})
    assert example_frozen().inverse_transform_one(row)["price"] == INF


def test_gamma_of_zero_has_no_inverse() -> None:
    frozen = example_frozen(affine={"price": (0.0, 1.0)})
    assert frozen.transform_one({"price": 9.0, "amount": 20.0}) == {"price": 1.0, "amount": 0.0}
    with pytest.raises(sbn.InvalidValueError, match="'price' a gamma of 0"):
        frozen.inverse_transform_one({"price": 1.0, "amount": 0.0})


def test_a_union_may_lack_columns() -> None:
    norm = sbn.Normalizer(schema="union").update(xs(1.0, 3.0)).update(record(y=[5.0, 7.0]))
    frozen = norm.freeze()
    assert frozen.transform_one({"y": 8.0}) == {"y": 2.0}
    assert frozen.transform_one({}) == {}
    assert frozen.inverse_transform_one({"x": 2.0, "new": 1}) == {"x": 4.0, "new": 1}


def test_copies_and_loaded_ones_work(tmp_path: Path) -> None:
    frozen, row = example_frozen(), {"price": 4.0, "amount": 40.0}
    before = pickle.dumps(frozen)
    expected = frozen.transform_one(row)
    assert pickle.dumps(frozen) == before
    frozen.save(tmp_path / "s.json")
    loaded = sbn.load(tmp_path / "s.json")
    for other in (pickle.loads(before), copy.copy(frozen), copy.deepcopy(frozen), loaded):
        assert other.transform_one(row) == expected
        assert other == frozen


def test_extra_keys_may_be_anything() -> None:
    row = {"price": 4.0, "\ud800": 1, ("a", 1): 2, None: 3, 5: 4, "": 5, "amount": 40.0}
    assert example_frozen().transform_one(row) == {**row, "price": 2.0, "amount": 2.0}
    odd = fit(record(**{"": [1.0, 3.0], "ü": [1.0, 3.0], "\x00": [1.0, 3.0]})).freeze()
    assert odd.transform_one({"\x00": 4.0, "ü": 4.0, "": 4.0}) == {"\x00": 2.0, "ü": 2.0, "": 2.0}


def test_threads_share_a_frozen_normalizer() -> None:
    frozen = example_frozen()
    wrong: list[Any] = []

    def work(start: int) -> None:
        for i in range(start, start + 2000):
            x = i if i % 3 else Fraction(i)  # fractions run Python code
            out = frozen.transform_one({"id": i, "price": x, "amount": float(i)})
            if out != {"id": i, "price": i - 2.0, "amount": (i - 20.0) / 10.0}:
                wrong.append(out)

    threads = [threading.Thread(target=work, args=(10_000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ------------------------------------------------------------------- structs and vectors


@pytest.fixture(scope="module")
def nested() -> sbn.FrozenNormalizer:
    data = pa.table(
        {
            "x": [1.0, 3.0],
            "s": pa.array([{"a": 1, "t": "u"}, {"a": 3, "t": "v"}]),
            "emb": pa.array([[1.0, 10.0], [3.0, 30.0]], pa.list_(pa.float32(), 2)),
            "image": pa.array(
                [[[1.0], [2.0]], [[3.0], [2.0]]], pa.list_(pa.list_(pa.float64(), 1), 2)
            ),
            "void": pa.nulls(2),
        }
    )
    return sbn.Normalizer().update(data).freeze()


def test_structs_and_vectors_keep_their_shape(nested: sbn.FrozenNormalizer) -> None:
    mark = object()
    row = {
        "id": mark, "x": 4.0, "s": {"t": mark, "a": 4}, "emb": np.array([4, 40.0], np.float32),
        "image": [[4.0], (2.0,)], "void": None,
    }  # fmt: skip
    out = nested.transform_one(row)
    assert out == {
        "id": mark, "x": 2.0, "s": {"t": mark, "a": 2.0}, "emb": [2.0, 2.0],
        "image": [[2.0], [0.0]], "void": None,
    }  # fmt: skip
    assert list(out) == list(row)
    assert list(out["s"]) == ["t", "a"]
    assert all(type(z) is float for z in (*out["emb"], out["s"]["a"]))
    back = nested.inverse_transform_one(out)
    assert back == {**row, "s": {"t": mark, "a": 4.0}, "emb": [4.0, 40.0], "image": [[4.0], [2.0]]}
    assert row["s"] == {"t": mark, "a": 4}


def test_nested_values_may_be_missing(nested: sbn.FrozenNormalizer) -> None:
    row = {"x": None, "s": None, "emb": None, "image": None, "void": None}
    assert nested.transform_one(row) == row
    row |= {"s": {"a": None}, "emb": [None, 20.0]}
    assert nested.transform_one(row) == row | {"emb": [None, 0.0]}


def test_a_column_without_a_type_yet_is_null_or_passes(nested: sbn.FrozenNormalizer) -> None:
    row = {"x": None, "s": None, "emb": None, "image": None}
    assert nested.transform_one({**row, "void": 5})["void"] is None
    assert nested.transform_one({**row, "void": "text"})["void"] == "text"


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"emb": [1.0]}, sbn.SchemaError, "'emb' had a list of 2 .* now has a list of 1"),
        ({"emb": 1.0}, sbn.SchemaError, "'emb' had a list of 2"),
        ({"emb": [1.0, "x"]}, sbn.SchemaError, "'emb' is not a number: it is 'x'"),
        ({"s": {"b": 1.0}}, sbn.SchemaError, "'s.a' is not in the data"),
        ({"s": {"a": "x"}}, sbn.SchemaError, "'s.a' is not a number"),
        ({"s": 1.0}, sbn.SchemaError, "'s.a' is not in the data"),
        ({"x": "1"}, sbn.SchemaError, "'x' is not a number"),
        ({"emb": [INF, 1.0]}, sbn.InvalidValueError, r"'emb\[0\]' holds infinity"),
    ],
    ids=str,
)
def test_wrong_nested_values_are_refused(
    nested: sbn.FrozenNormalizer, wrong: Any, error: Any, match: str
) -> None:
    row = {"x": 1.0, "s": {"a": 1}, "emb": [1.0, 2.0], "image": [[1.0], [2.0]], "void": None}
    with pytest.raises(error, match=match):
        nested.transform_one(row | wrong)
    del row[next(iter(wrong))]
    with pytest.raises(sbn.SchemaError, match="is not in the data"):
        nested.transform_one(row)


@given(rows=st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=4), clip=st.booleans())
def test_nested_row_is_normalized_as_a_batch_of_one_row(rows: Any, clip: bool) -> None:
    emb, s = pa.list_(pa.float64(), 2), pa.struct([("a", pa.float64())])

    def batch(rows: list[Any]) -> pa.RecordBatch:
        lists = pa.array([[x, y] for x, y, _ in rows], emb)
        return record(emb=lists, s=pa.array([{"a": z} for _, _, z in rows], s))

    options: Any = {"clip": 2.0, "nan": "propagate", "inf": "propagate"} if clip else {}
    try:
        frozen = fit(batch(rows), **options).freeze()
    except sbn.InvalidValueError:
        return
    for row in rows:
        x, y, z = row
        got = frozen.transform_one({"emb": [x, y], "s": {"a": z}})
        [expected] = frozen.transform(batch([row])).to_pylist()
        assert all(map(same_bits, got["emb"], expected["emb"]))
        assert same_bits(got["s"]["a"], expected["s"]["a"])
