"""Features with fewer values than `min_count`: null comes out until they are known."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normalizers import POLICIES

import streambn as sbn
from streambn.testing import batches

LEAST = st.integers(0, 12)


def column(values: list[float | None]) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.float64())})


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@given(stream=batches(), probe=batches(1), least=LEAST)
def test_features_with_fewer_values_come_out_null(
    policy: sbn.Policy, stream: list[Any], probe: list[Any], least: int
) -> None:
    plain, norm = sbn.Normalizer(policy), sbn.Normalizer(policy, min_count=least)
    for batch in stream:
        plain.update(batch)
        norm.update(batch)
    if plain.statistics.binding is None:
        return
    stats = plain.stats()
    known = pc.greater_equal(stats["count"], least).to_pylist()
    for apply in ("transform", "inverse_transform"):
        out, expected = (getattr(n.freeze(), apply)(probe[0]) for n in (norm, plain))
        for name, is_known in zip(stats["column"].to_pylist(), known, strict=True):
            wanted = expected[name] if is_known else pa.nulls(len(probe[0]), pa.float64())
            assert repr(out[name].to_pylist()) == repr(wanted.to_pylist())
    shown = norm.stats()
    assert repr(shown.select(stats.column_names).to_pylist()) == repr(stats.to_pylist())
    if least:
        defined = stats["mean"].is_valid().to_pylist()
        both = [a and b for a, b in zip(known, defined, strict=True)]
        assert shown["known"].to_pylist() == both
    else:
        assert "known" not in shown.column_names


def test_values_count_and_not_weights_nor_missing_ones() -> None:
    data = pa.table({"x": [1.0, None, math.nan, 3.0], "w": [100.0] * 4})
    norm = sbn.Normalizer(min_count=3, weights="w").update(data)
    assert norm.transform(data)["x"].null_count == 4
    norm.update(data)
    assert norm.transform(data)["x"].to_pylist()[0] == -1.0


@pytest.mark.parametrize("using", ["running", "before", "batch"])
def test_loop_gives_nulls_until_the_feature_is_known(using: Any) -> None:
    norm = sbn.Normalizer(min_count=4)
    given_ = [column([1.0, 2.0, 4.0]), column([3.0, 5.0, None]), column([1.0, 2.0, 3.0, 4.0])]
    nulls = [norm.update_transform(batch, using)["x"].null_count for batch in given_]
    assert nulls == {"running": [3, 1, 0], "before": [3, 3, 0], "batch": [3, 3, 0]}[using]


@pytest.mark.parametrize("using", ["running", "before"])
@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.EMA(alpha=0.3)], ids=repr)
def test_rows_are_null_until_the_feature_is_known(policy: Any, using: Any) -> None:
    batch = column([1.0, None, 3.0, math.nan, 4.0, 8.0, 2.0])
    norm, one_by_one = (sbn.Normalizer(policy, min_count=3) for _ in range(2))
    got = norm.update_transform(batch, using, by_row=True)["x"].to_pylist()
    rows = [batch.slice(i, 1) for i in range(len(batch))]
    expected = [one_by_one.update_transform(row, using)["x"][0].as_py() for row in rows]
    assert repr(got) == repr(expected)
    assert got[:3] == [None] * 3


def test_output_of_a_feature_that_is_not_known_yet_is_nullable() -> None:
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False)])
    batch = pa.record_batch([pa.array([1.0, 2.0])], schema=schema)
    assert sbn.Normalizer(min_count=3).update_transform(batch).schema.field("x").nullable
    assert not sbn.Normalizer(min_count=2).update(batch).transform(batch).schema.field("x").nullable


def test_propagated_nan_is_not_known_before_there_are_enough_values() -> None:
    batch = column([1.0, math.nan])
    norm = sbn.Normalizer(min_count=2, nan="propagate").update(batch)
    assert norm.transform(batch)["x"].null_count == 2
    out = norm.update(batch).transform(batch)["x"].to_pylist()
    assert all(math.isnan(z) for z in out)


def test_representations_tell_how_many_are_not_known() -> None:
    data = pa.table({"x": [1.0, 2.0], "y": [1.0, None], "z": [None, 3.0]})
    norm = sbn.Normalizer(min_count=2).update(data)
    line = "2 features are not known yet: each has fewer than min_count=2 values"
    assert repr(norm).splitlines()[-1] == f"  {line}"
    assert line in norm._repr_html_()
    assert "not known" not in repr(norm.update(data))


def test_merge_refuses_another_min_count() -> None:
    one, two = (sbn.Normalizer(min_count=n).update(column([1.0])) for n in (1, 2))
    with pytest.raises(sbn.MergeError, match="options of the two statistics differ"):
        one.merge(two)


def test_merged_parts_are_known_together() -> None:
    parts = [sbn.Normalizer(min_count=2).update(column([x])) for x in (1.0, 3.0)]
    assert parts[0].transform(column([3.0]))["x"].to_pylist() == [None]
    assert sbn.merge(parts).transform(column([3.0]))["x"].to_pylist() == [1.0]
