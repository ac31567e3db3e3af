"""Values that their output type cannot hold, and deviations that cannot divide."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

import streambn as sbn
from streambn.errors import InvalidValueError

HALF = pa.float16()


def fitted(values: Any, **options: Any) -> sbn.Normalizer:
    return sbn.Normalizer(**options).update(pa.table({"x": values}))


@pytest.mark.parametrize("frozen", [False, True])
def test_float16_refuses_what_it_cannot_hold(frozen: bool) -> None:
    norm = fitted([1e-3, 2e-3])
    by: Any = norm.freeze() if frozen else norm
    with pytest.raises(InvalidValueError, match="'x' would hold values beyond 65,504") as found:
        by.transform(pa.table({"x": [1.0, 1e5]}), dtype=HALF)
    assert (found.value.column, found.value.argument) == ("x", "dtype")
    held = by.transform(pa.table({"x": [1e-3, None, math.nan, 2e-3]}), dtype=HALF)["x"]
    assert str(held.to_pylist()) == "[-1.0, None, nan, 1.0]"
    assert by.transform(pa.table({"x": [1e5]}), dtype=pa.float32())["x"][0].as_py() > 1e8


def test_float16_keeps_infinities_of_the_input() -> None:
    norm = fitted([1.0, 3.0], inf="ignore")
    out = norm.transform(pa.table({"x": [math.inf, 2.0, -math.inf]}), dtype=HALF)
    assert out["x"].to_pylist() == [math.inf, 0.0, -math.inf]


def test_clip_bounds_what_float16_holds() -> None:
    norm = fitted([1e-3, 2e-3], clip=5.0)
    assert norm.transform(pa.table({"x": [1e5]}), dtype=HALF)["x"].to_pylist() == [5.0]


def test_float16_vectors_and_the_inverse_are_checked() -> None:
    kind = pa.list_(pa.float32(), 2)
    norm = fitted(pa.array([[0.0, 1e6], [1.0, 3e6]], kind), columns=["x"])
    z = norm.transform(pa.table({"x": pa.array([[0.0, 1e6]], kind)}), dtype=HALF)
    assert z["x"].to_pylist() == [[-1.0, -1.0]]
    with pytest.raises(InvalidValueError, match="beyond 65,504"):
        norm.inverse_transform(z)
    assert norm.inverse_transform(z, dtype=pa.float32())["x"].to_pylist() == [[0.0, 1e6]]


def test_a_rejected_result_leaves_no_trace() -> None:
    norm = fitted(pa.array([0.0, 1.0]).cast(HALF), affine={"x": (60_000.0, 0.0)})
    before = norm.stats()
    with pytest.raises(InvalidValueError, match="beyond 65,504"):
        norm.update_transform(pa.table({"x": pa.array([3.0]).cast(HALF)}))
    assert norm.stats().equals(before)


@pytest.mark.parametrize("values", [[0.0, 5e-324], [0.0, 1e-310, 2e-310], [1e-308, 2e-308]])
def test_a_subnormal_deviation_counts_as_zero(values: list[float]) -> None:
    norm = fitted(values)
    mean = norm.stats()["mean"][0].as_py()
    assert norm.standardizer.constant.tolist() == [True]
    out = norm.transform(pa.table({"x": [1.0, 1e300]}))["x"].to_pylist()
    assert out == [1.0 - mean, 1e300 - mean]
    rows = sbn.RowNormalizer.from_normalizer(norm)
    assert rows.transform_one({"x": 1e300})["x"] == out[1]
    learned = sbn.RowNormalizer()
    for value in values:
        learned.learn_one({"x": value})
    assert learned.transform_one({"x": 1.0})["x"] == out[0]


def test_the_smallest_normal_deviation_divides() -> None:
    norm = fitted([0.0, 1e-307])
    assert norm.transform(pa.table({"x": [0.0, 1.0]}))["x"].to_pylist() == [
        -1.0,
        pytest.approx(2e307),
    ]


@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.Exact()])
@pytest.mark.parametrize("scale", [-300, -201, 201, 400, 2000])
def test_decimals_that_float64_cannot_hold_are_left_out(
    policy: sbn.policies.Policy, scale: int
) -> None:
    kind = pa.decimal128(5, scale)
    raw = pa.array([7, 9], pa.decimal128(5, 0)).buffers()
    table = pa.table({"d": pa.Array.from_buffers(kind, 2, raw), "x": [1.0, 2.0]})
    norm = sbn.Normalizer(policy).update(table)
    assert norm.features == ("x",)
    assert norm.transform(table)["d"].type == kind
    with pytest.raises(sbn.errors.SchemaError, match="'d'"):
        sbn.Normalizer(policy, columns=["d"]).update(table)
