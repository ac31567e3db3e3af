"""Merging: parts give the statistics of the whole, and other statistics are an error."""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normalizers import NUMBER, batches, bits, exact, fit, floats, policies, record, row_of, xs

import streambn as sbn


def ends_at_a_block(policy: Any, data: list[pa.RecordBatch], cut: int) -> bool:
    """Return whether the first batches end at the end of a block, as a merge requires."""
    rows = getattr(policy, "batch_rows", None)
    return rows is None or sum(b.num_rows for b in data[:cut]) % rows == 0


@policies
@given(data=batches(), cut=st.integers(0, 5), permute=st.booleans())
def test_merge_of_two_parts_equals_learning_the_whole(
    policy: Any, data: list[pa.RecordBatch], cut: int, permute: bool
) -> None:
    cut = min(cut, len(data))
    if not ends_at_a_block(policy, data, cut):
        return
    whole = fit(*data, policy=policy)
    older = fit(*data[:cut], policy=policy)
    newer = fit(*[b.select(["y", "x"]) if permute else b for b in data[cut:]], policy=policy)
    before = bits(older), bits(newer)
    merged = older.merge(newer)
    assert (bits(older), bits(newer)) == before  # both are unchanged
    if not whole.features:
        assert merged.features == ()
        return
    stats = {r["column"]: r for r in merged.stats().to_pylist()}
    for row in whole.stats().to_pylist():
        other = stats[row["column"]]
        for name in ("count", "nulls", "nans", "infs", "min", "max"):
            assert row[name] == other[name]
        ours, theirs = (floats([r[name] for name in ("mean", "var", "std")]) for r in (row, other))
        assert theirs == pytest.approx(ours, rel=1e-9, abs=1e-12, nan_ok=True)


@policies
def test_empty_normalizer_is_the_identity_of_merge(policy: Any) -> None:
    some = fit(xs(1.0, 2.0, 6.0), policy=policy)
    empty = sbn.Normalizer(policy)
    assert bits(some.merge(empty)) == bits(some)
    assert bits(empty.merge(some)) == bits(some)
    assert empty.merge(empty).features == ()
    bound = fit(xs(None, None, None), policy=policy)
    for merged in (some.merge(bound), bound.merge(some)):
        assert row_of(merged)["count"] == 3


@given(data=batches(NUMBER), order=st.randoms(use_true_random=False))
def test_merge_in_any_order_counts_differences_between_means(
    data: list[pa.RecordBatch], order: random.Random
) -> None:
    values = [v for batch in data for v in batch["y"].to_pylist()]
    if not values:
        return
    shards = [fit(batch) for batch in data]
    order.shuffle(shards)
    while len(shards) > 1:
        at = order.randrange(len(shards) - 1)
        shards[at : at + 2] = [shards[at].merge(shards[at + 1])]
    mean, var = exact(values)
    row = row_of(shards[0], "y")
    assert row["count"] == len(values)
    assert row["var"] == pytest.approx(float(var), rel=1e-13, abs=0)
    assert abs(Fraction(row["mean"]) - mean) <= 3e-16 * (abs(mean) + math.sqrt(var))


ONE = fit(xs(1.0))
LIST = record(x=pa.array([[1.0]], pa.list_(pa.float64(), 1)))
EMA, OTHER_EMA = (fit(xs(1.0), policy=sbn.EMA(alpha=alpha)) for alpha in (0.5, 0.4))
BLOCKS = sbn.BatchEMA(momentum=0.5, batch_rows=2)


@pytest.mark.parametrize(
    ("older", "newer", "message"),
    [
        (ONE, EMA, "policy.*differ"),
        (EMA, OTHER_EMA, r"policy.*alpha=0\.5.*alpha=0\.4"),
        (ONE, fit(xs(1.0), eps=0.5), "options.*differ"),
        (ONE, fit(xs(1.0), ddof=1), "options.*differ"),
        (ONE, fit(record(y=[1.0])), "'x' is only in the older"),
        (ONE, fit(record(x=[1.0], y=[1.0])), "'y' is only in the newer"),
        (ONE, fit(LIST), "'x' is only in the older"),
        (fit(xs(1.0), policy=BLOCKS), fit(xs(1.0, 2.0, 3.0), policy=BLOCKS), "batch_rows=2"),
    ],
)
def test_merge_of_different_statistics_is_an_error(
    older: sbn.Normalizer, newer: sbn.Normalizer, message: str
) -> None:
    before = bits(older), bits(newer)
    with pytest.raises(sbn.MergeError, match=message):
        older.merge(newer)
    assert (bits(older), bits(newer)) == before


@pytest.mark.parametrize("other", [None, {}, 3, fit(xs(1.0)).freeze()])
def test_merge_takes_live_normalizers_only(other: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match="merge takes a Normalizer") as caught:
        fit(xs(1.0)).merge(other)
    assert ("thaw()" in str(caught.value)) == isinstance(other, sbn.FrozenNormalizer)


@policies
@given(data=batches(), sent=st.booleans())
def test_merge_of_many_equals_merges_of_two(
    policy: Any, data: list[pa.RecordBatch], sent: bool
) -> None:
    if not all(ends_at_a_block(policy, data, cut) for cut in range(len(data))):
        return
    parts = [sbn.Normalizer(policy), *(fit(batch, policy=policy) for batch in data)]
    before = list(map(bits, parts))
    given_as = iter(sbn.from_bytes(part.to_bytes()) for part in parts) if sent else parts
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    assert bits(sbn.merge(given_as)) == bits(whole)
    assert list(map(bits, parts)) == before


def test_merge_of_one_is_independent_of_it() -> None:
    one = fit(xs(1.0, 3.0))
    merged = sbn.merge([one])
    merged.update(xs(5.0))
    assert row_of(one)["count"] == 2
    assert row_of(merged)["count"] == 3


def test_many_are_merged_as_they_come() -> None:
    given_out: list[weakref.ref[Any]] = []

    def parts() -> Iterator[sbn.Normalizer]:
        for value in range(9):
            assert sum(reference() is not None for reference in given_out) <= 2
            part = fit(xs(float(value)))
            given_out.append(weakref.ref(part.statistics))
            yield part
            del part

    assert row_of(sbn.merge(parts()))["mean"] == 4.0


@pytest.mark.parametrize("others", [[], [fit(xs(1.0)).freeze()], [fit(xs(1.0)), None]])
def test_merge_of_many_takes_live_normalizers_only(others: list[Any]) -> None:
    with pytest.raises(
        sbn.InvalidValueError, match=r"merge (takes a|needs at least one) Norm"
    ) as e:
        sbn.merge(others)
    assert e.value.argument == "normalizers"


def test_merge_of_many_reports_what_differs() -> None:
    with pytest.raises(sbn.MergeError, match="policy"):
        sbn.merge([ONE, ONE, EMA])
