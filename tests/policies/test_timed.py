"""EMA by event time: extreme times, gaps, units, errors and files."""

from __future__ import annotations

import copy
import datetime
import math
import pickle
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from parity import few_examples, row_of

import streambn as sbn
from streambn.errors import InvalidValueError, MergeError, SchemaError
from streambn.policies import EMA
from streambn.testing import exact_moments, merged_in_a_tree

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LAST = 2**63 - 1
DAY = 86_400 * 10**9
LENGTHS = {"1ns": 1, "1s": 10**9, "36525d": 36_525 * DAY, "3652500d": 3_652_500 * DAY}
KINDS = st.sampled_from([pa.timestamp(unit) for unit in UNITS])


def stamps(ticks, kind):
    """Return times of any type by their ticks; None is a null."""
    plain = pa.int64() if pa.types.is_timestamp(kind) else kind
    return pa.array(ticks, plain).cast(kind)


def table(x, ticks, kind=None, **others):
    kind = pa.timestamp("s") if kind is None else kind
    columns = {"x": pa.array(x, pa.float64()), **others, "t": stamps(ticks, kind)}
    return pa.table(columns)


def fit(*tables, halflife="7d", null_time="raise", **how):
    norm = sbn.Normalizer(EMA(halflife=halflife, time="t", null_time=null_time), **how)
    for some in tables:
        norm.update(some)
    return norm


def exact_weight(age, halflife):
    """Return 2**(−age/halflife) to forty digits, and 0 beyond a thousand half-lives."""
    with localcontext(prec=60, Emin=-(10**9), Emax=10**9):
        half_lives = Decimal(age.numerator) / age.denominator / Decimal(halflife)
        return Fraction(Decimal(2) ** -half_lives) if half_lives <= 1000 else Fraction(0)


ENDS = st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 1, LAST - 1, LAST])
FAR_TICKS = st.lists(ENDS | st.integers(-(2**63), LAST), min_size=1, max_size=6)


def assert_exact(data, rows, weights, **how):
    """Compare fits of all rows, of single rows and of merges with exact arithmetic."""
    x, single = rows["x"].to_pylist(), [rows.slice(i, 1) for i in range(len(rows))]
    mean, square = exact_moments(x, weights)
    total = sum(weights)
    fits = data.draw(st.permutations([fit(row, **how) for row in single]))
    merged = merged_in_a_tree(data.draw, lambda a, b: a.merge(b), fits)
    for norm in (fit(rows, **how), fit(*single, **how), merged):
        got = row_of(norm)
        assert got["count"] == len(x)
        assert got["mean"] == pytest.approx(float(mean), rel=1e-14, abs=1e-14)
        assert got["var"] == pytest.approx(float(square / total), rel=1e-13, abs=1e-300)
        assert got["weight"] == pytest.approx(float(total), rel=1e-14)
        assert (got["min"], got["max"]) == (min(x), max(x))
    return norm


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("halflife", LENGTHS)
@few_examples
def test_times_at_the_ends_of_int64(data, halflife, unit):
    ticks = data.draw(FAR_TICKS)
    rows = table(range(len(ticks)), ticks, pa.timestamp(unit))
    ages = [Fraction(max(ticks) - t) * UNITS[unit] for t in ticks]
    weights = [exact_weight(age, LENGTHS[halflife]) for age in ages]
    assert_exact(data, rows, weights, halflife=halflife)


FAR = [-1.7e308, -1e308, -1e300, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1e300, 1e308, 1.7e308]


@pytest.mark.parametrize("halflife", [5e-324, 1e-310, 4e-303, 1.0, 1e300, 1e308, 1.7e308])
@few_examples
def test_numeric_times_at_the_ends_of_float64(data, halflife):
    ticks = data.draw(st.lists(st.sampled_from(FAR), min_size=1, max_size=5))
    rows = table(range(len(ticks)), ticks, pa.float64())
    weights = [exact_weight(Fraction(max(ticks)) - Fraction(t), halflife) for t in ticks]
    norm = assert_exact(data, rows, weights, halflife=halflife, columns=["x"])
    assert row_of(norm, at=1.79e308)["weight"] <= row_of(norm)["weight"]


@pytest.mark.parametrize("halflife", [5e-324, 1e-3, 1.0, 1e300])
def test_integer_times_at_the_ends_of_int64_with_any_half_life(halflife):
    rows = table([1.0, 2.0, 3.0, 4.0], [-(2**63), LAST, LAST - 1, LAST], pa.int64())
    got = row_of(fit(rows, halflife=halflife, columns=["x"]))
    assert (got["mean"], got["count"]) == (2.5 if halflife == 1e300 else 3.0, 4)


def test_unsigned_integer_times():
    rows = table([1.0, 4.0], [LAST - 1, LAST], pa.uint64())
    norm = fit(rows, halflife=1.0, columns=["x"])
    assert row_of(norm)["mean"] == 3
    before = norm.freeze().fingerprint
    with pytest.raises(InvalidValueError, match=r"'t' holds a time beyond 2\*\*63 - 1.*float64"):
        norm.update(table([1.0, 4.0], [0, 2**63], pa.uint64()))
    assert norm.freeze().fingerprint == before


# ---------------------------------------------------------------------------- gaps

HOURS = pa.timestamp("ms")


def hours(*numbers):
    return [round(3_600_000 * number) for number in numbers]


def two_columns(x, y, ticks, kind=HOURS):
    return table(x, ticks, kind, y=pa.array(y, pa.float64()))


OLD = ([1.0, 4.0, -2.0], hours(0, 1, 5))


@pytest.mark.parametrize("silence", [100, 1000, 1e5, 1e9])
@pytest.mark.parametrize("how", ["one batch", "later batches", "a merge", "a merge, newer first"])
def test_feature_without_new_values_keeps_its_statistics(how, silence):
    x, ticks = OLD
    alone = row_of(fit(table(x, ticks, HOURS), halflife="1h"))
    nothing = [None] * 3
    old = two_columns(x, [7.0, 8.0, 9.0], ticks)
    new = two_columns(nothing, [1.0, 2.0, 3.0], hours(silence, silence + 1, silence + 2))
    if how == "one batch":
        norm = fit(pa.concat_tables([new, old]).combine_chunks(), halflife="1h")
    elif how == "later batches":
        norm = fit(old, *(new.slice(i, 1) for i in range(3)), halflife="1h")
    else:
        one, other = (old, new) if how == "a merge" else (new, old)
        norm = fit(one, halflife="1h").merge(fit(other, halflife="1h"))
    got = row_of(norm)
    for name in ("count", "mean", "var", "std", "min", "max", "effective_count"):
        assert got[name] == alone[name], name
    assert got["nulls"] == 3
    fresh = row_of(fit(new.drop_columns(["x"]), halflife="1h"), "y")
    assert row_of(norm, "y")["mean"] == pytest.approx(fresh["mean"], rel=1e-14, abs=0)
    assert row_of(norm, "y")["count"] == 6
    # The weight as of now has faded.
    faded = alone["weight"] * 2.0 ** -(silence - 3) if silence - 3 <= 1000 else 0
    assert got["weight"] == pytest.approx(faded, rel=1e-12, abs=0)


@pytest.mark.parametrize("silence", [1, 30, 63, 64, 65, 70])
def test_feature_with_an_older_newest_value_keeps_its_statistics(silence):
    x, ticks = OLD
    alone = row_of(fit(table(x, ticks, HOURS), halflife="1h", ddof=1))
    late = two_columns([None], [0.0], hours(5 + silence))
    rows = pa.concat_tables([two_columns(x, x, ticks), late]).combine_chunks()
    got = row_of(fit(rows, halflife="1h", ddof=1))
    for name in ("mean", "var", "effective_count"):
        assert got[name] == pytest.approx(alone[name], rel=1e-14, abs=0)
    assert got["weight"] == pytest.approx(alone["weight"] * 2.0**-silence, rel=1e-14, abs=0)


@pytest.mark.parametrize("newest", [None, 1e-25, 1.0, 1e25])
@pytest.mark.parametrize("late", [0, 30, 63, 65, 2000])
@pytest.mark.parametrize("age", [1, 500, 930, 960, 999])
def test_value_counts_within_a_thousand_half_lives_of_the_next(age, late, newest):
    # The unbiased variance of two values is half the squared difference, for any weights.
    rows = two_columns([1.0, 3.0, None], [0.0] * 3, hours(0, age, age + late))
    how = {"halflife": "1h", "ddof": 1, "columns": ["x", "y"]}
    if newest is not None:
        rows = rows.append_column("w", pa.array([1.0, 1.0, newest]))
        how["weights"] = "w"
    for norm in (
        fit(rows, **how),
        fit(*(rows.slice(i, 1) for i in range(3)), **how),
        fit(*(rows.slice(i, 1) for i in (2, 1, 0)), **how),
    ):
        assert row_of(norm)["var"] == pytest.approx(2, rel=1e-13, abs=0)
        assert row_of(norm, "y")["var"] == (None if late > 1000 else 0)


@pytest.mark.parametrize("half_lives", [1001, 5000, 1e8])
def test_value_older_than_a_thousand_half_lives_weighs_nothing(half_lives):
    rows = table([5.0, -1.0], hours(0, half_lives), HOURS)
    for parts in ([rows], [rows.slice(0, 1), rows.slice(1)], [rows.slice(1), rows.slice(0, 1)]):
        for ddof, var in ((0, 0.0), (1, None)):
            got = row_of(fit(*parts, halflife="1h", ddof=ddof))
            assert (got["mean"], got["count"], got["var"]) == (-1, 2, var)
            assert (got["weight"], got["effective_count"]) == (1, 1)
            assert (got["min"], got["max"]) == (-1, 5)


def test_rows_after_a_long_gap_outweigh_all_others():
    norm = fit(table([1e15, 1e15 + 2], hours(0, 1), HOURS), halflife="1h")
    norm.update(table([3.0, 5.0], hours(10_000, 10_000), HOURS))
    assert (row_of(norm)["mean"], row_of(norm)["var"], row_of(norm)["count"]) == (4, 1, 4)


@pytest.mark.parametrize(
    ("kind", "halflife"),
    [(pa.timestamp("us"), "1s"), (pa.date32(), "1d"), (pa.int64(), 2.0), (pa.float32(), 2.0)],
    ids=str,
)
def test_row_without_a_time_is_rejected_or_skipped(kind, halflife):
    good = table([1.0, 4.0], [5, 6], kind)
    bad = table([2.0, 1e9, 3.0, np.inf], [7, None, 4, None], kind)
    norm = fit(good, halflife=halflife, columns=["x"])
    before = norm.freeze().fingerprint
    message = "'t' has no time in row 1.*2 in all.*The batch was rejected.*null_time='skip'"
    with pytest.raises(InvalidValueError, match=message):
        norm.update(bad)
    assert norm.freeze().fingerprint == before
    how = {"halflife": halflife, "null_time": "skip", "columns": ["x"]}
    skipping = fit(good, bad, **how)
    without = fit(good, table([2.0, 3.0], [7, 4], kind), **how)
    assert skipping.stats().equals(without.stats())
    assert skipping.freeze().fingerprint == without.freeze().fingerprint


def test_nan_is_a_missing_time_and_infinity_an_error():
    rows = table([1.0, 2.0, 4.0], [0.0, math.nan, 1.0], pa.float64())
    with pytest.raises(InvalidValueError, match=r"'t' has no time in row 1 of the batch \(1 in"):
        fit(rows, halflife=1.0, columns=["x"])
    norm = fit(rows, halflife=1.0, columns=["x"], null_time="skip")
    assert row_of(norm)["mean"] == pytest.approx(3, rel=1e-15)
    assert row_of(norm)["nulls"] == 0
    rows = table([1.0, 2.0], [0.0, math.inf], pa.float64())
    with pytest.raises(InvalidValueError, match="'t' holds an infinite time"):
        fit(rows, halflife=1.0, columns=["x"], null_time="skip")


def test_batch_without_times_leaves_no_trace():
    rows = table([1.0, 2.0], [0, 1])
    timeless = pa.table({"x": [5.0, 6.0], "t": pa.nulls(2)})
    norm = fit(rows, timeless, table([7.0], [None]), null_time="skip")
    assert norm.freeze().fingerprint == fit(rows, null_time="skip").freeze().fingerprint
    with pytest.raises(InvalidValueError, match=r"'t' has no time in row 0 of the batch \(2 in"):
        fit(rows, timeless)


def test_row_of_zero_weight_needs_no_time():
    w = pa.array([0.0, 1.0, 1.0])
    assert row_of(fit(table([1.0, 2.0, 3.0], [None, 1, 2], w=w), weights="w"))["count"] == 2
    rows = table([1.0, 2.0, 3.0], [None, 1, None], w=w)
    with pytest.raises(InvalidValueError, match=r"no time in row 2 of the batch \(1 in all\)"):
        fit(rows, weights="w")


@few_examples
def test_batches_may_have_different_units(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    parts = data.draw(st.lists(st.tuples(st.integers(0, 5), KINDS), min_size=1, max_size=5))
    one, mixed = [], []
    # All have a time zone, or none has one.
    zones = data.draw(st.sampled_from([[None], ["UTC", "Asia/Tokyo"]]))
    for rows, kind in parts:
        x = rng.normal(size=rows)
        # A few hours around 1970, in whole units.
        ticks = rng.integers(-2 * 10**12, 2 * 10**12, rows) // UNITS[kind.unit]
        zoned = pa.timestamp(kind.unit, data.draw(st.sampled_from(zones)))
        mixed.append(table(x, ticks.tolist(), zoned))
        one.append(table(x, (ticks * UNITS[kind.unit]).tolist(), pa.timestamp("ns")))
    a, b = fit(*one, halflife="90s"), fit(*mixed, halflife="90s")
    if not a.features:
        assert not b.features
        return
    for name in ("count", "mean", "var", "weight", "effective_count"):
        assert row_of(b)[name] == pytest.approx(row_of(a)[name], rel=1e-14, abs=1e-14), name
    fits = [fit(some, halflife="90s") for some in data.draw(st.permutations(mixed))]
    c = merged_in_a_tree(data.draw, lambda older, newer: older.merge(newer), fits)
    for name in ("count", "mean", "var", "weight"):
        assert row_of(c)[name] == pytest.approx(row_of(a)[name], rel=1e-12, abs=1e-13)


def test_days_are_equal_in_all_types():
    days = [datetime.date(2026, 3, 1), datetime.date(2026, 2, 22), datetime.date(1926, 3, 1)]
    midnights = [datetime.datetime(day.year, day.month, day.day) for day in days]
    kinds = [
        pa.array(days, pa.date32()),
        pa.array(days, pa.date64()),
        *(pa.array(midnights, pa.timestamp(unit)) for unit in UNITS),
    ]
    expected = (8 + 0.5 * 2) / 1.5
    fits = [fit(pa.table({"x": [8.0, 2.0, 1e6], "t": times})) for times in kinds]
    for norm in fits:
        assert row_of(norm)["mean"] == pytest.approx(expected, rel=1e-15, abs=0)
        assert norm.freeze().fingerprint == fits[0].freeze().fingerprint


def test_time_zones_do_not_matter():
    utc = pd.to_datetime(["2026-03-29 00:30", "2026-03-29 01:30"], utc=True)
    zoned = [utc.tz_convert(zone) for zone in ("UTC", "Europe/Vienna", "America/New_York")]
    # One hour apart, although the clocks of Vienna show two.
    assert (zoned[1][1].hour, zoned[1][0].hour) == (3, 1)
    expected = fit(pa.table({"x": [1.0, 4.0], "t": utc}), halflife="1h").freeze().fingerprint
    naive = pa.table({"x": [1.0, 4.0], "t": utc.tz_localize(None)})
    assert row_of(fit(naive, halflife="1h"))["mean"] == 3
    for times in zoned:
        norm = fit(pa.table({"x": [1.0, 4.0], "t": times}), halflife="1h")
        assert norm.freeze().fingerprint == expected
        assert row_of(norm)["mean"] == 3


# ---------------------------------------------------------------------- as of a time

START = datetime.datetime(2026, 3, 1, 12)


def daily(halflife="1d", **how):
    times = [START - datetime.timedelta(days=2), START - datetime.timedelta(days=1), START]
    rows = pa.table({"x": [1.0, 2.0, 6.0], "t": pa.array(times), "y": [None, 1.0, None]})
    return fit(rows, halflife=halflife, **how)


@pytest.mark.parametrize("days", [0, 0.5, 1, 30, 999, 2000])
def test_weights_fade_with_time_and_means_do_not(days):
    norm = daily()
    now = row_of(norm)
    at = START + datetime.timedelta(days=days)
    later = row_of(norm, at=at)
    fade = 2.0**-days  # 0 after 2000 days
    assert later["weight"] == pytest.approx(1.75 * fade, rel=1e-13, abs=0)
    assert row_of(norm, "y", at=at)["weight"] == pytest.approx(0.5 * fade, rel=1e-13, abs=0)
    assert {**later, "weight": 0} == {**now, "weight": 0}
    assert norm.freeze().stats(at=at).equals(norm.stats(at=at))
    assert row_of(norm) == now


NOON = datetime.datetime(2026, 3, 2, 12)
ZONE = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("at", "days"),
    [
        *((NOON, 1), (NOON.replace(hour=14, tzinfo=ZONE), 1), (pa.scalar(NOON), 1)),
        *((np.datetime64(f"2026-03-02T12{rest}"), 1) for rest in ("", ":00", ":00:00")),
        (np.datetime64("2026-03-02T12:00:00.000000000"), 1),
        *((pd.Timestamp(NOON), 1), (pd.Timestamp("2026-03-02 21:00", tz="Asia/Tokyo"), 1)),
        # A date is its first instant.
        *((datetime.date(2026, 3, 2), 0.5), (np.datetime64("2026-03-02"), 0.5)),
    ],
    ids=repr,
)
def test_at_accepts_any_kind_of_time(at, days):
    assert row_of(daily(), at=at)["weight"] == pytest.approx(1.75 * 2.0**-days, rel=1e-15, abs=0)


def test_nanoseconds_are_kept():
    newest = pd.Timestamp("2026-03-01 12:00:00.123456789")
    rows = pa.table({"x": [1.0], "t": pa.array([newest.value]).cast(pa.timestamp("ns"))})
    norm = fit(rows, halflife="1ns")
    assert row_of(norm, at=newest)["weight"] == 1
    assert row_of(norm, at=newest + pd.Timedelta(1, "ns"))["weight"] == 0.5
    assert row_of(norm, at=np.datetime64(newest.value + 2, "ns"))["weight"] == 0.25
    with pytest.raises(InvalidValueError, match="at lies 1 half-lives before the newest row"):
        norm.stats(at=newest - pd.Timedelta(1, "ns"))


def test_time_before_the_newest_row_is_an_error():
    norm = daily()
    with pytest.raises(InvalidValueError, match=r"at lies 0\.5 half-lives before the newest row"):
        norm.stats(at=START - datetime.timedelta(hours=12))
    # The newest row counts even if it has no value.
    rows = pa.table({"x": pa.nulls(1, pa.float64()), "t": [START + datetime.timedelta(days=1)]})
    norm.update(rows.append_column("y", pa.nulls(1, pa.float64())))
    assert row_of(norm)["weight"] == 0.875
    with pytest.raises(InvalidValueError, match="at lies 1 half-lives before"):
        norm.stats(at=START)


@pytest.mark.parametrize(
    "at",
    ["2026-03-02", 5, 1.5, True, pd.NaT, np.datetime64("NaT"), math.nan, [START], "soon", object()],
    ids=lambda at: type(at).__name__,
)
def test_invalid_time_is_an_error(at):
    with pytest.raises(InvalidValueError) as error:
        daily().stats(at=at)
    assert "at must be a time like those in column 't'" in str(error.value)
    assert repr(at) in str(error.value)


def test_numbers_are_times_if_the_times_are_numbers():
    norm = fit(table([1.0, 4.0], [0, 1], pa.int32()), halflife=1.0, columns=["x"])
    assert row_of(norm, at=2)["weight"] == row_of(norm, at=2.0)["weight"] == 0.75
    assert row_of(norm, at=np.int16(1))["weight"] == 1.5
    with pytest.raises(InvalidValueError, match="at must be a time like those in column 't'"):
        norm.stats(at=START)
    with pytest.raises(InvalidValueError, match="at lies 3 half-lives before"):
        norm.stats(at=-2)


@pytest.mark.parametrize("policy", [sbn.Welford(), EMA(alpha=0.5), sbn.BatchEMA(momentum=0.1)])
def test_at_applies_to_event_time_only(policy):
    norm = sbn.Normalizer(policy).update(pa.table({"x": [1.0, 2.0]}))
    message = "at=3 applies to statistics by event time.*Omit it"
    with pytest.raises(InvalidValueError, match=message):
        norm.stats(at=3)


def loaded(norm, path):
    norm.save(path / "s.json")
    return sbn.load(path / "s.json")


COPIES = {
    "file": loaded,
    "frozen file": lambda norm, path: loaded(norm.freeze(), path).thaw(),
    "thaw": lambda norm, path: norm.freeze().thaw(),
    "pickle": lambda norm, path: pickle.loads(pickle.dumps(norm)),
    "pickle of frozen": lambda norm, path: pickle.loads(pickle.dumps(norm.freeze())).thaw(),
    "deepcopy": lambda norm, path: copy.deepcopy(norm),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    ("kind", "halflife"),
    [(pa.timestamp("ns"), "1h30min"), (pa.date32(), "0.3d"), (pa.float64(), 0.1), (pa.int64(), 7)],
    ids=str,
)
@few_examples
def test_saved_statistics_continue_to_the_same_bits(data, kind, halflife, copied, tmp_path_factory):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = {"timestamp[ns]": 10**14, "date32[day]": 9}.get(str(kind), 60)

    def rows(n):
        ticks = rng.integers(-spread, spread, n)
        times = (ticks / 7 if kind == pa.float64() else ticks).tolist()
        return pa.table(
            {
                "x": 1e9 + rng.normal(size=n),
                "y": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.5),
                "never": pa.nulls(n, pa.float64()),
                "w": rng.random(n),
                "t": stamps(times, kind),
            }
        )

    how = {"halflife": halflife, "weights": "w", "columns": ["x", "y", "never"]}
    norm = fit(rows(data.draw(st.integers(1, 9))), rows(3), **how)
    twin = copied(norm, tmp_path_factory.mktemp("timed"))
    assert twin.policy == norm.policy
    assert twin.freeze() == norm.freeze()
    assert twin.stats().equals(norm.stats())
    more = rows(4)
    assert twin.update(more).freeze() == norm.update(more).freeze()
    assert twin.merge(norm).freeze() == norm.merge(twin).merge(fit(**how)).freeze()


def test_statistics_of_nulls_alone_can_be_saved(tmp_path):
    norm = fit(table([None, None], [5, 3]))
    again = loaded(norm, tmp_path)
    later = table([1.0, 3.0], [1, 2])
    assert again.update(later).freeze() == norm.update(later).freeze()
    assert row_of(again)["nulls"] == 2


SPELLINGS = [
    *("7d", "7D", "7 days", "1w", "168h", "6d24h", "6 days 24:00:00", "P7D", "P1W", "PT168H"),
    *("604800s", datetime.timedelta(days=7), datetime.timedelta(hours=168), pd.Timedelta("7D")),
    *(np.timedelta64(7, "D"), np.timedelta64(1, "W"), np.timedelta64(604_800, "s")),
    np.timedelta64(604_800 * 10**9, "ns"),
]


@pytest.mark.parametrize("halflife", SPELLINGS, ids=repr)
def test_equal_lengths_give_equal_policies(halflife):
    policy = EMA(halflife=halflife, time="t")
    assert policy == EMA(halflife="7d", time="t") != EMA(halflife="8d", time="t")
    assert repr(policy) == "EMA(halflife='7d', time='t')"
    assert hash(policy) == hash(EMA(halflife="7d", time="t"))
    rows = table([1.0, 2.0], [0, 10**6])
    a, b = fit(rows, halflife=halflife), fit(rows)
    assert a.freeze() == b.freeze()
    assert row_of(a.merge(b))["count"] == 4


def test_other_half_lives_columns_or_kinds_do_not_merge():
    rows = table([1.0, 2.0], [0, 10**6])
    for other in (
        fit(rows, halflife="8d"),
        fit(rows, null_time="skip"),
        sbn.Normalizer(EMA(halflife=7)).update(rows),
    ):
        with pytest.raises(MergeError, match="the policy of the two statistics differ"):
            fit(rows).merge(other)


@pytest.mark.parametrize(
    ("halflife", "times", "kind", "says"),
    [
        (7, pa.array([1, 2], pa.date32()), InvalidValueError, "'t' is date32.*has no unit"),
        (7, pa.array([None, 2], pa.date32()), InvalidValueError, "'t' is date32.*has no unit"),
        ("7d", pa.array([[1], [2]]), SchemaError, "'t' is list.*not an event time"),
    ],
)
def test_invalid_times_are_rejected_without_a_trace(halflife, times, kind, says):
    good = pa.array([1, 2], pa.timestamp("s") if isinstance(halflife, str) else pa.int64())
    norm = fit(pa.table({"x": [1.0, 2.0], "t": good}), halflife=halflife, columns=["x"])
    before = norm.freeze().fingerprint
    for bad in (norm, fit(halflife=halflife, columns=["x"])):
        with pytest.raises(kind, match=says):
            bad.update(pa.table({"x": [1.0, 2.0], "t": times}))
    assert norm.freeze().fingerprint == before
    assert bad.features == ()


def test_time_column_is_normalized_only_if_named():
    rows = table([1.0, 3.0], [0, 1], pa.int64())
    assert fit(rows, halflife=1.0).features == ("x",)
    assert fit(rows, halflife=1.0, columns=["x", "t"]).features == ("x", "t")
    out = fit(rows, halflife=1.0).transform(rows)
    assert out["t"].to_pylist() == [0, 1]
    # Transform needs no times.
    frozen = fit(rows, halflife=1.0).freeze()
    assert frozen.transform(rows.drop_columns(["t"])).equals(out.drop_columns(["t"]))
