"""Nulls, NaN and infinities: skipped, rejected or propagated, and counted."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from normalizers import (
    INF,
    NAN,
    assert_refused,
    bits,
    column,
    each_using,
    each_value,
    fit,
    policies,
    record,
    row_of,
    xs,
)

import streambn as sbn
from streambn import snapshot


@policies
def test_null_is_skipped_and_counted_and_stays_null(policy: Any) -> None:
    with_nulls = fit(xs(1.0, None, 2.0, None), xs(None, 6.0), policy=policy)
    row = row_of(with_nulls)
    assert (row["count"], row["nulls"], row["nans"], row["infs"]) == (3, 3, 0, 0)
    assert (row["min"], row["max"]) == (1.0, 6.0)
    z = column(with_nulls.transform(xs(None, 3.0, None)))
    assert z[0] is z[2] is None
    assert math.isfinite(z[1])


@policies
def test_nan_and_null_do_not_affect_the_statistics(policy: Any) -> None:
    row = row_of(fit(xs(1.0, NAN, 2.0), xs(NAN), xs(None), xs(6.0, 7.0, 8.0), policy=policy))
    assert (row["count"], row["nans"], row["nulls"]) == (5, 2, 1)
    assert math.isfinite(row["mean"])
    assert math.isfinite(row["var"])


@policies
def test_empty_batch_changes_nothing(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0), xs(4.0), policy=policy)
    before = bits(norm)
    assert bits(norm.update(xs())) == before
    for using in ("running", "before", "batch"):
        assert norm.update_transform(xs(), using=using).num_rows == 0
        assert bits(norm) == before


@pytest.mark.parametrize("method", ["update", "update_transform"])
def test_empty_first_batch_does_not_bind(method: str) -> None:
    norm = sbn.Normalizer()
    before = bits(norm)
    getattr(norm, method)(xs())
    assert bits(norm) == before
    norm.update(record(other=[1.0]))
    assert norm.features == ("other",)


def test_all_null_batch_only_counts_nulls() -> None:
    norm = fit(xs(1.0, 2.0, 6.0))
    before = row_of(norm)
    norm.update(xs(None, None)).update(record(x=pa.nulls(3)))
    assert row_of(norm) == before | {"nulls": 5}


@policies
def test_all_null_column_has_null_statistics(policy: Any) -> None:
    batch = record(x=[1.0, 2.0], gone=pa.nulls(2, pa.float64()))
    norm = fit(batch, batch, policy=policy)
    row = row_of(norm, "gone")
    assert (row["count"], row["nulls"]) == (0, 4)
    assert all(row[name] is None for name in ("mean", "var", "std", "min", "max"))
    out = norm.transform(record(x=[1.0], gone=[7.0]))
    assert column(out, "gone") == [None]
    late = fit(batch, record(x=[1.0], gone=[7.0]), record(x=[1.0], gone=[9.0]), policy=policy)
    assert row_of(late, "gone")["count"] == 2


def test_infinity_is_rejected_by_default() -> None:
    norm = fit(xs(1.0, 2.0))
    for value in (INF, -INF):
        message = r"'x' holds infinity.*inf='ignore'"
        assert_refused(norm, xs(3.0, value), sbn.InvalidValueError, message)


def options_for(value: float, setting: str) -> dict[str, Any]:
    return {"nan": setting} if math.isnan(value) else {"inf": setting}


@policies
@each_value
def test_ignored_values_are_counted_and_pass_through(value: float, policy: Any) -> None:
    options = options_for(value, "ignore")
    norm = fit(xs(1.0, value, 3.0), xs(1.0, 2.0, 6.0), policy=policy, **options)
    row = row_of(norm)
    name = "nans" if math.isnan(value) else "infs"
    assert row[name] == 1
    assert row["count"] == 5
    assert (row["min"], row["max"]) == (1.0, 6.0)
    assert math.isfinite(row["mean"])
    assert math.isfinite(row["var"])
    z = column(norm.transform(xs(value, 1.0)))
    assert repr(z[0]) == repr(value)  # NaN stays NaN, and -inf stays -inf
    assert math.isfinite(z[1])


@policies
@each_value
def test_rejected_values_leave_no_trace(value: float, policy: Any) -> None:
    options = options_for(value, "raise")
    norm = fit(xs(1.0, 2.0), policy=policy, **options)
    word = "NaN" if math.isnan(value) else "infinity"
    name = next(iter(options))
    message = rf"'x' holds {word} in 2 rows.*{name}='ignore'.*{name}='propagate'"
    bad = record(y=["a", "b", "c"], x=[5.0, value, value])
    assert_refused(norm, bad, sbn.InvalidValueError, message)
    norm.update(xs(None, 5.0))  # a null is not a NaN


@policies
@each_value
def test_propagated_values_stay_in_the_statistics(value: float, policy: Any) -> None:
    options = options_for(value, "propagate")
    norm = fit(xs(1.0, value, 3.0), record(x=[1.0, 2.0, 6.0]), policy=policy, **options)
    row = row_of(norm)
    assert repr(row["mean"]) == repr(value)
    assert math.isnan(row["var"])
    assert math.isnan(row["std"])
    assert row["count"] == 5
    assert math.isnan(column(norm.transform(xs(1.0)))[0])
    loaded = sbn.Normalizer.from_statistics(snapshot.decode(bits(norm)).statistics)
    assert repr(row_of(loaded)) == repr(row)


def test_both_infinities_propagate_to_nan() -> None:
    row = row_of(fit(xs(1.0, INF, -INF, 3.0), inf="propagate"))
    assert math.isnan(row["mean"])
    assert math.isnan(row["var"])
    assert (row["min"], row["max"], row["infs"]) == (-INF, INF, 2)


def test_propagation_affects_its_own_feature_only() -> None:
    norm = fit(record(x=[1.0, NAN], y=[1.0, 3.0]), nan="propagate")
    assert row_of(norm, "y")["mean"] == 2.0
    assert column(norm.transform(record(x=[1.0], y=[3.0])), "y") == [1.0]


@each_using
@pytest.mark.parametrize("nan", ["ignore", "propagate"])
def test_nan_passes_through_update_transform(nan: str, using: str) -> None:
    norm = fit(xs(1.0, 3.0), nan=nan)
    out = column(norm.update_transform(xs(1.0, NAN, None, 3.0), using=using))
    assert math.isnan(out[1])
    assert out[2] is None
    assert math.isnan(out[0]) == (nan == "propagate" and using != "before")
