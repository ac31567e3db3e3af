"""Sample weights and event times: accepted types, and errors for the others."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from normalizers import assert_refused

import streambn as sbn
from streambn.errors import InvalidValueError, SchemaError

X = pa.array([1.0, 4.0, 9.0])
NOON = dt.datetime(2026, 3, 2, 12)
CLOCK = [NOON, NOON + dt.timedelta(hours=1), NOON + dt.timedelta(hours=2)]
HOURLY = sbn.EMA(halflife="1h", time="t")
NUMERIC = sbn.EMA(halflife=1, time="t")
EXPECTED = (1 / 4 + 4 / 2 + 9) / 1.75


def mean(norm):
    return norm.stats()["mean"].to_pylist()


def learned(data, policy=None, **options):
    return sbn.Normalizer(policy or sbn.Welford(), **options).update(pa.table(data))


def refused(norm, batch, kind, says):
    """Check that learning fails with a message, and changes nothing."""
    assert_refused(norm, batch, kind, says, ["update"])


WEIGHTS = {
    "float64": pa.array([1.0, 0.5, 2.0]),
    "float32": pa.array([1.0, 0.5, 2.0], pa.float32()),
    "int8": pa.array([2, 1, 4], pa.int8()),
    "uint64": pa.array([2, 1, 4], pa.uint64()),
    "decimal": pa.array([Decimal("1.0"), Decimal("0.5"), Decimal("2.0")]),
    "dictionary": pa.array([1.0, 0.5, 2.0]).dictionary_encode(),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), [1.0, 0.5, 2.0]),
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_can_be_numbers_of_any_type(weights):
    norm = learned({"x": X, "w": weights}, weights="w")
    assert norm.features == ("x",)
    assert mean(norm) == [(1 + 2 + 18) / 3.5]


@pytest.mark.parametrize(
    ("weights", "kind", "says"),
    [
        ([1.0, -0.5, 1.0], InvalidValueError, r"column 'w' holds -0.5 in row 1 .*from 0"),
        ([1.0, 1.0, float("nan")], InvalidValueError, r"column 'w' holds nan in row 2"),
        ([float("inf"), 1.0, 1.0], InvalidValueError, r"column 'w' holds inf in row 0"),
        ([1.0, 2e30, 1.0], InvalidValueError, r"holds 2e\+30 in row 1 .*to 1e\+30"),
        ([1e-40, 0.0, 1e-300], InvalidValueError, r"no weight above 1e-40.*Multiply all weights"),
        ([1.0, None, 1.0], InvalidValueError, r"column 'w' holds 1 nulls.*with 0 for rows"),
        (["1", "2", "3"], SchemaError, r"column 'w' is string, which is not one number per row"),
        ([True, True, False], SchemaError, r"column 'w' is bool"),
        ([[1.0], [2.0], [3.0]], SchemaError, r"column 'w' is list"),
    ],
)
@pytest.mark.parametrize("policy", [sbn.Welford(), sbn.EMA(alpha=0.5)], ids=repr)
@pytest.mark.parametrize("before", [False, True])
def test_invalid_weights_are_rejected_without_a_trace(policy, before, weights, kind, says):
    norm = sbn.Normalizer(policy, weights="w")
    if before:
        norm.update(pa.table({"x": X, "w": [1.0, 2.0, 3.0]}))
    refused(norm, pa.table({"x": X, "w": pa.array(weights)}), kind, says)


def test_missing_weight_column_is_named_with_the_nearest():
    table = pa.table({"x": X, "wait": [1.0, 2.0, 3.0]})
    refused(sbn.Normalizer(weights="weit"), table, SchemaError, r"'weit'.*'wait'")
    twice = pa.table([X, X, X], names=["x", "w", "w"])
    refused(sbn.Normalizer(weights="w"), twice, SchemaError, r"'w' exists 2 times")
    alone = pa.table({"w": X})
    refused(sbn.Normalizer(weights="w"), alone, SchemaError, r"no numeric column .* than 'w'")


@pytest.mark.parametrize(
    "policy", [sbn.BatchEMA(momentum=0.1), sbn.EMA(alpha=0.5, adjust=False)], ids=repr
)
def test_some_policies_do_not_support_sample_weights(policy):
    with pytest.raises(InvalidValueError, match=r"weights='w' has no meaning for .*adjust=True"):
        sbn.Normalizer(policy, weights="w")


@pytest.mark.parametrize("weights", [3, "", ["w"], True])
def test_weights_must_be_a_column_name(weights):
    with pytest.raises(InvalidValueError, match="weights must be the name of a column"):
        sbn.Normalizer(weights=weights)


def test_batch_of_zero_weights_leaves_no_trace():
    nothing = pa.table({"x": [float("inf"), 1.0], "w": [0.0, 0.0]})
    assert learned(nothing, weights="w").features == ()
    norm = learned({"x": X, "w": X}, weights="w")
    stats = norm.stats()
    assert norm.update(nothing).stats() == stats


TYPES = {
    "float16": pa.array([1.0, 4.0, 9.0], pa.float16()),
    "decimal256": pa.array([1, 4, 9]).cast(pa.decimal256(40, 2)),
    "dictionary": X.dictionary_encode(),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), X),
    "list": pa.array([[1.0], [4.0], [9.0]], pa.list_(pa.float64(), 1)),
    "struct": pa.StructArray.from_arrays(
        [X, pa.array(["a", "b", "c"], pa.string_view())], ["x", "text"]
    ),
}


@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
def test_rows_of_zero_weight_are_dropped_from_columns_of_every_type(values):
    table = pa.table({"x": values, "text": pa.array(["a", "b", "c"], pa.string_view())})
    some = sbn.Normalizer().update(table.slice(0, 1)).update(table.slice(2))
    weighed = table.append_column("w", [[1.0, 0.0, 1.0]])
    norm = sbn.Normalizer(weights="w").update(weighed)
    assert norm.stats().select(some.stats().column_names) == some.stats()
    timed = table.append_column("t", [[5, None, 5]])
    norm = sbn.Normalizer(sbn.EMA(halflife=1, time="t", null_time="skip")).update(timed)
    assert mean(norm) == mean(some)


def test_small_weights_beside_larger_ones_are_allowed():
    norm = learned({"x": X, "w": [5e-324, 1.0, 1e-300]}, weights="w")
    assert mean(norm) == [4.0]
    assert norm.stats()["count"].to_pylist() == [3]


def test_batch_of_zero_weights_still_needs_the_columns():
    norm = learned({"x": X, "w": X}, weights="w")
    refused(norm, pa.table({"y": X, "w": [0.0, 0.0, 0.0]}), SchemaError, "'x'")


def test_propagated_nan_affects_moments_but_not_weights():
    table = pa.table({"x": [1.0, float("nan")], "w": [1.0, 2.0]})
    batch = sbn.Normalizer(sbn.BatchEMA(momentum=0.1), ["x"], nan="propagate").update(table)
    assert np.isnan(batch.stats()["total_var"][0].as_py())
    weighed = sbn.Normalizer(weights="w", nan="propagate").update(table).stats()
    assert np.isnan(weighed["mean"][0].as_py())
    assert weighed["weight"].to_pylist() == [1.0]


def test_stats_show_weights_after_their_column_is_dropped():
    norm = learned({"x": X, "w": [1.0, 2.0, 3.0]}, weights="w")
    assert norm.with_weights(None).stats() == norm.stats()
    assert "weight" not in sbn.Normalizer().update(pa.table({"x": X})).stats().column_names


def test_transform_needs_no_weights():
    frozen = learned({"x": X, "w": X}, weights="w").freeze()
    out = frozen.transform(pa.table({"x": X}))
    assert out["x"].to_pylist() == frozen.transform(pa.table({"w": X, "x": X}))["x"].to_pylist()
    assert frozen.transform(pa.table({"w": X, "x": X}))["w"].to_pylist() == X.to_pylist()


def test_batch_statistics_use_sample_weights():
    table = pa.table({"x": X, "w": [1.0, 0.0, 1.0]})
    norm = sbn.Normalizer(weights="w")
    assert norm.update_transform(table, using="batch")["x"].to_pylist() == [-1.0, -0.25, 1.0]
    assert norm.stats()["count"].to_pylist() == [2]


def test_dataset_scan_reads_weights_and_times(tmp_path):
    table = pa.table({"a": X, "x": X, "t": CLOCK, "w": [1.0, 2.0, 3.0]})
    ds.write_dataset(table, tmp_path, format="parquet")
    dataset = ds.dataset(tmp_path, format="parquet")
    norm = sbn.Normalizer(HOURLY, columns=["x"], weights="w").update(dataset)
    assert norm.stats() == sbn.Normalizer(HOURLY, ["x"], weights="w").update(table).stats()


MICROS = pa.array(CLOCK)
DAYS = pa.array([NOON.date() + dt.timedelta(days=d) for d in range(3)])
TIMES = {
    **{unit: ("1h", MICROS.cast(pa.timestamp(unit))) for unit in ("s", "ms", "us", "ns")},
    "zoned": ("1h", MICROS.cast(pa.timestamp("ms", "Asia/Kolkata"))),
    **{str(kind): ("24h", DAYS.cast(kind)) for kind in (pa.date32(), pa.date64())},
}


@pytest.mark.parametrize(("halflife", "times"), TIMES.values(), ids=TIMES)
def test_event_times_can_be_dates_and_have_any_unit_and_zone(halflife, times):
    norm = learned({"x": X, "t": times}, sbn.EMA(halflife=halflife, time="t"))
    assert norm.features == ("x",)
    assert mean(norm) == pytest.approx([EXPECTED], rel=1e-15)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int64(), pa.uint16(), pa.uint64(), pa.float32(), pa.float64()], ids=str
)
def test_numeric_event_times_are_not_normalized(kind):
    norm = learned({"x": X, "t": pa.array([5, 6, 7], kind)}, NUMERIC)
    assert norm.features == ("x",)
    assert mean(norm) == pytest.approx([EXPECTED], rel=1e-15)
    named = learned({"t": pa.array([5, 6, 7], kind)}, NUMERIC, columns=["t"])
    assert named.features == ("t",)


@pytest.mark.parametrize(
    ("policy", "times", "kind", "says"),
    [
        (NUMERIC, MICROS, InvalidValueError, r"'t' is timestamp\[us\], but halflife=1 .*'7d'"),
        (HOURLY, pa.array([1, 2, 3]), InvalidValueError, r"plain numbers \(int64\).*604_800"),
        (HOURLY, pa.array([1.0, 2, 3]), InvalidValueError, r"plain numbers \(double\)"),
        (HOURLY, pa.array(["a", "b", "c"]), SchemaError, r"'t' is string.*not an event time"),
        (HOURLY, pa.array([dt.timedelta(1)] * 3), SchemaError, r"'t' is duration.*not an event"),
        (HOURLY, pa.array([dt.time(1)] * 3), SchemaError, r"'t' is time64.*not an event time"),
        (NUMERIC, pa.array([1.0, np.inf, 2]), InvalidValueError, r"'t' holds an infinite time"),
        (NUMERIC, pa.array([1, 2**64 - 1, 2], pa.uint64()), InvalidValueError, r"beyond 2\*\*63"),
        (HOURLY, pa.array([NOON, None, None]), InvalidValueError, r"no time in row 1 .*2 in all"),
        (NUMERIC, pa.array([1.0, 2.0, np.nan]), InvalidValueError, r"no time in row 2.*null_time"),
        (HOURLY, pa.nulls(3), InvalidValueError, r"no time in row 0 .*3 in all"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_invalid_times_are_rejected_without_a_trace(policy, before, times, kind, says):
    norm = sbn.Normalizer(policy)
    if before:
        good = MICROS if policy is HOURLY else pa.array([1, 2, 3])
        norm.update(pa.table({"x": X, "t": good}))
    refused(norm, pa.table({"x": X, "t": times}), kind, says)


def test_missing_time_column_is_named_with_the_nearest():
    norm = sbn.Normalizer(sbn.EMA(halflife="1h", time="tme"))
    refused(norm, pa.table({"x": X, "time": CLOCK}), SchemaError, r"'tme'.*'time'")


@pytest.mark.parametrize("missing", [pa.nulls(2, pa.timestamp("us")), pa.nulls(2)], ids=str)
def test_rows_without_a_time_can_be_skipped(missing):
    policy = sbn.EMA(halflife="1h", time="t", null_time="skip")
    norm = sbn.Normalizer(policy).update(pa.table({"x": X, "t": CLOCK}))
    stats = norm.stats()
    skipped = pa.table({"x": [float("inf"), 1.0], "t": missing})
    assert norm.update(skipped).stats() == stats
    mixed = pa.table({"x": [7.0, 1.0, 4.0, 9.0], "t": [None, *CLOCK]})
    assert sbn.Normalizer(policy).update(mixed).stats() == stats


def test_row_of_zero_weight_needs_no_time():
    table = pa.table({"x": X, "t": [None, *CLOCK[1:]], "w": [0.0, 1.0, 1.0]})
    norm = sbn.Normalizer(HOURLY, weights="w").update(table)
    assert mean(norm) == pytest.approx([(4 / 2 + 9) / 1.5], rel=1e-15)


@pytest.mark.parametrize(
    ("says", "arguments"),
    [
        (r"halflife must be a number > 0, got 0", {"halflife": 0, "time": "t"}),
        (r"halflife must be a number of rows > 0, got 1000", {"halflife": 10**400}),
        (r"halflife must be a number > 0, got 1000", {"halflife": 10**400, "time": "t"}),
        (r"halflife must be a duration", {"halflife": "9" * 400 + "d", "time": "t"}),
        (r"longer than 0, got '0s'", {"halflife": "0s", "time": "t"}),
        (r"longer than 0", {"halflife": dt.timedelta(-1), "time": "t"}),
        (r"a duration such as '7d'.*'7 bananas'", {"halflife": "7 bananas", "time": "t"}),
        (r"'1M'.*Months and years have no fixed length", {"halflife": "1M", "time": "t"}),
        (r"is a duration, which needs time=.*halflife=10_000", {"halflife": "7d"}),
        (r"is a duration, which needs time=", {"halflife": dt.timedelta(7)}),
        (r"alpha= counts rows.*halflife=\"7d\"", {"alpha": 0.5, "time": "t"}),
        (r"exactly one of alpha=.*none of them", {"time": "t"}),
        (r"time must be the name of a column, got 3", {"halflife": "7d", "time": 3}),
        (r"time must be the name of a column, got ''", {"halflife": "7d", "time": ""}),
        (r"adjust=False applies to an EMA", {"halflife": "7d", "time": "t", "adjust": False}),
        (r"ignore_na=True applies to", {"halflife": "7d", "time": "t", "ignore_na": True}),
        (r"'raise' or 'skip', got", {"halflife": "7d", "time": "t", "null_time": "drop"}),
        (r"Name their column with time=", {"halflife": 7, "null_time": "skip"}),
    ],
)
def test_invalid_argument_is_named_with_a_remedy(says, arguments):
    with pytest.raises(InvalidValueError, match=says):
        sbn.EMA(**arguments)


def test_equal_half_lives_give_equal_policies():
    spelled = ["7d", "168h", "P7D", "1w", dt.timedelta(days=7), np.timedelta64(7, "D")]
    policies = [sbn.EMA(halflife=halflife, time="t") for halflife in spelled]
    assert len({*policies}) == 1
    assert {*map(repr, policies)} == {"EMA(halflife='7d', time='t')"}
    assert policies[0] != sbn.EMA(halflife="7d", time="t", null_time="skip")


def test_weights_fade_until_the_time_of_reading():
    norm = learned({"x": X, "t": CLOCK}, HOURLY)
    stats = norm.stats()
    assert stats["weight"].to_pylist() == pytest.approx([1.75], rel=1e-15)
    assert stats["effective_count"].to_pylist() == pytest.approx([1.75**2 / 1.3125], rel=1e-15)
    for at in (None, CLOCK[2], np.datetime64(CLOCK[2]), CLOCK[2].replace(tzinfo=dt.UTC)):
        assert norm.stats(at=at) == stats
    later = norm.freeze().stats(at=CLOCK[2] + dt.timedelta(hours=3))
    assert later["weight"].to_pylist() == pytest.approx([1.75 / 8], rel=1e-15)
    for name in ("count", "mean", "var", "effective_count"):
        assert later[name] == stats[name]


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (CLOCK[1], r"at lies 1 half-lives before the newest row"),
        (7, r"at must be a time like those in column 't', got 7"),
        ("noon", r"at must be a time .* got 'noon'"),
    ],
)
def test_at_must_be_a_later_time(at, says):
    norm = learned({"x": X, "t": CLOCK}, HOURLY)
    with pytest.raises(InvalidValueError, match=says):
        norm.stats(at=at)


def test_at_applies_to_event_time_only():
    norm = sbn.Normalizer().update(pa.table({"x": X}))
    with pytest.raises(InvalidValueError, match=r"at=5 applies to statistics by event time"):
        norm.stats(at=5)
