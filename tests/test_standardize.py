"""The map of each feature: the rule for constant columns, its scale, and its parts."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn
from streambn.standardize import Standardizer

BIG = [10**17, 10**17 + 10, 10**17 + 4]  # σ = 4.1, and ε·mean = 22


def standardizer(values: list[object], kind: pa.DataType, **options: object) -> Standardizer:
    table = pa.table({"x": pa.array(values, kind)})
    return sbn.Normalizer(**options).update(table).standardizer


@pytest.mark.parametrize(
    ("values", "kind", "constant"),
    [
        ([3.0, 3.0], pa.float64(), True),
        ([0.1] * 7, pa.float64(), True),
        ([1e17, 1e17 + 16], pa.float64(), True),  # neighbours: the difference is rounding
        ([1e17, 1e17 + 160], pa.float64(), False),
        (BIG, pa.int64(), False),
        ([10**17] * 3, pa.int64(), True),
        (list(map(Decimal, BIG)), pa.decimal128(20, 0), False),
        ([Decimal("0.1")] * 3, pa.decimal128(3, 1), True),
        ([5.0], pa.float64(), True),
        ([None], pa.float64(), False),
    ],
    ids=str,
)
def test_constant_is_a_variance_within_rounding_error_of_zero(
    values: list[object], kind: pa.DataType, constant: bool
) -> None:
    found = standardizer(values, kind)
    assert found.constant.tolist() == [constant]
    if constant:
        assert found.scale.tolist() == [1.0]


def test_large_integers_that_differ_are_divided_by_their_deviation() -> None:
    found = standardizer(BIG, pa.int64())
    deviation = math.sqrt(152) / 3  # of 0, 10 and 4
    assert found.scale[0] == pytest.approx(deviation, rel=1e-15)
    out = sbn.Normalizer().update(pa.table({"x": BIG})).transform(pa.table({"x": BIG}))
    expected = [(x - 14 / 3) / deviation for x in (0, 10, 4)]
    assert out["x"].to_pylist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("eps", [1e-3, 1e-300, 4.0])
def test_scale_of_a_constant_is_the_root_of_eps(eps: float) -> None:
    found = standardizer([3.0, 3.0], pa.float64(), eps=eps)
    assert found.constant.tolist() == [True]
    assert found.scale[0] == pytest.approx(math.sqrt(eps), rel=1e-15)


def test_scale_is_one_without_scaling() -> None:
    found = standardizer([1.0, 9.0], pa.float64(), scale=False)
    assert found.scale.tolist() == [1.0]
    assert found.constant.tolist() == [False]


def test_one_value_with_ddof_one_is_constant() -> None:
    found = standardizer([5.0], pa.float64(), ddof=1)
    assert (found.constant.tolist(), found.scale.tolist()) == ([True], [1.0])


def test_map_is_computed_once_for_each_state() -> None:
    norm = sbn.Normalizer().update(pa.table({"x": [1.0, 2.0]}))
    first = norm.standardizer
    assert norm.standardizer is first
    assert Standardizer.of(norm.statistics) is first
    norm.update(pa.table({"x": [9.0]}))
    assert norm.standardizer is not first
    assert first.parameters.location_hi.tolist() == [1.5]


def test_map_of_no_statistics_is_an_error() -> None:
    with pytest.raises(sbn.NotFittedError, match="no data was seen"):
        _ = sbn.Normalizer().standardizer


def test_fingerprint_of_the_input_does_not_pass() -> None:
    table = pa.table({"x": [1.0, 2.0]})
    norm = sbn.Normalizer().update(table)
    frozen = norm.freeze()
    marked = frozen.transform(table)
    key = b"streambn.fingerprint"
    assert marked.schema.metadata == {key: frozen.fingerprint.encode()}
    for out in (
        norm.transform(marked),
        frozen.inverse_transform(marked),
        norm.update_transform(marked),
    ):
        assert key not in (out.schema.metadata or {})


def test_scale_and_constant_stay_with_their_feature() -> None:
    table = pa.table({"a": [1.0, 3.0], "b": [2.0, 2.0], "l": pa.array([[1.0, 5.0], [1.0, 9.0]],
                     pa.list_(pa.float64(), 2))})  # fmt: skip
    whole = sbn.Normalizer().update(table).standardizer
    assert whole.constant.tolist() == [False, True, True, False]
    part = whole.select(["l", "b"])
    assert part is not None
    assert part.binding.features == ("b", "l[0]", "l[1]")
    assert np.array_equal(part.constant, [True, True, False])
    assert np.array_equal(part.scale, [1.0, 1.0, 2.0])
