"""`update_transform` gives the bits of `update` and `transform`, whatever the policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn

POLICIES = [
    sbn.Welford(),
    sbn.Exact(),
    sbn.EMA(alpha=0.1),
    sbn.EMA(alpha=0.1, adjust=False),
    sbn.EMA(halflife=2.0, time="t"),
    sbn.BatchEMA(momentum=0.1),
    sbn.BatchEMA(decay=0.9, initial=None, batch_rows=3),
]
NARROW = st.none() | st.floats(-1e9, 1e9, width=32) | st.just(3.0)
WIDE = NARROW | st.sampled_from([1e200, -1e200])
policies = pytest.mark.parametrize("policy", POLICIES, ids=repr)


@st.composite
def streams(draw: st.DrawFn, fewest: int = 1) -> list[pa.RecordBatch]:
    """Draw batches of two columns of floats, one of integers, event times and weights."""
    batches, time = [], 0
    for rows in draw(st.lists(st.integers(0, 5), min_size=fewest, max_size=4)):

        def column(values: Any, kind: pa.DataType, rows: int = rows) -> pa.Array:
            return pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)

        columns = {
            "a": column(WIDE, pa.float64()),
            "b": column(NARROW, pa.float32()),
            "c": column(st.integers(-9, 9), pa.int8()),
            "t": pa.array(np.arange(time, time + rows), pa.float64()),
            "w": column(st.sampled_from([0.0, 0.5, 1.0]), pa.float64()),
        }
        batches.append(pa.record_batch(columns))
        time += rows
    return batches


def same(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """Return whether two batches have the same schema, nulls and bits."""
    return one.schema.equals(other.schema) and all(
        a.is_valid().equals(b.is_valid())
        and a.fill_null(0).to_numpy().tobytes() == b.fill_null(0).to_numpy().tobytes()
        for a, b in zip(one.columns, other.columns, strict=True)
    )


def options_of(policy: Any, weights: bool) -> dict[str, Any]:
    options = {"columns": ["a", "b", "c"], "clip": 3.0, "eps": 1e-3, "affine": {"a": (2.0, 1.0)}}
    return options | ({"weights": "w"} if weights and policy.takes_weights else {})


@policies
@given(batches=streams(), weights=st.booleans(), union=st.booleans())
def test_running_and_before(policy: Any, batches: Any, weights: bool, union: bool) -> None:
    options = options_of(policy, weights) | ({"schema": "union"} if union else {})
    apart, running, before = (sbn.Normalizer(policy, **options) for _ in range(3))
    for batch in batches:
        if apart.statistics.binding is not None:
            assert same(before.update_transform(batch, "before"), apart.transform(batch))
        else:
            before.update_transform(batch, "before")
        out = running.update_transform(batch, "running")
        apart.update(batch)
        if apart.statistics.binding is not None:
            assert same(out, apart.transform(batch))
    for norm in (running, before):
        assert norm.to_bytes() == apart.to_bytes()


@policies
@given(batches=streams(), weights=st.booleans(), ddof=st.sampled_from([0, 1]))
def test_batch(policy: Any, batches: Any, weights: bool, ddof: int) -> None:
    options = options_of(policy, weights) | {"ddof": ddof}
    apart, norm = sbn.Normalizer(policy, **options), sbn.Normalizer(policy, **options)
    own = sbn.Exact() if policy == sbn.Exact() else sbn.Welford()
    if policy.event_time is not None:
        options["exclude"] = None
    for batch in batches:
        out = norm.update_transform(batch, "batch")
        apart.update(batch)
        alone = sbn.Normalizer(own, **options | {"ddof": 0}).update(batch)
        if batch.num_rows and alone.statistics.binding is not None:
            expected = alone.transform(batch)
            assert out.cast(expected.schema).equals(expected) or same(out, expected)
    # The block enters the statistics by a merge, as it does in `update`.
    assert norm.to_bytes() == apart.to_bytes()


def test_output_schema_is_made_once() -> None:
    batch = pa.record_batch({"a": [1.0, 2.0], "name": ["x", "y"]})
    norm = sbn.Normalizer()
    schemas = [norm.update_transform(batch).schema for _ in range(3)]
    assert schemas[0].equals(schemas[2])
    frames = norm.standardizer._frame
    norm.update(batch)
    assert norm.standardizer._frame is frames


def test_options_of_a_batch_do_not_displace_those_of_the_stream() -> None:
    batch = pa.record_batch({"a": [1.0, 2.0]})
    norm = sbn.Normalizer(ddof=1).update(batch)
    frame = norm.standardizer._frame
    for _ in range(3):
        norm.update_transform(batch, "batch")
        assert norm.standardizer._frame is frame
