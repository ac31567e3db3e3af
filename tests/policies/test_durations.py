"""Durations: accepted spellings, other values, and formatting."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.policies.durations import format_duration, nanoseconds

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
LENGTHS = {
    HOUR * 3 // 2: ["1.5h", "1h30min", "1h 30m", "90 min", "PT1H30M"],
    7 * DAY: ["7d", "7 days", "P7D"],
    14 * DAY: ["2w", "P2W"],
    3 * DAY + 4 * HOUR: [" 3 days, 4 hours "],
    DAY + 2 * HOUR + 184_500_000_000: ["1 days 02:03:04.5"],
    DAY + SECOND // 4: ["P1DT0.25S"],
    10 * HOUR: ["10:00:00"],
    SECOND // 2: [".5s"],
    SECOND // 4: ["250ms"],
    10_000: ["10us", "10 µs"],
    **{500: ["0.5us"], 1: ["1ns"], 0: ["0s"]},
}


@pytest.mark.parametrize(
    ("text", "length"), [(text, length) for length, texts in LENGTHS.items() for text in texts]
)
def test_text_is_parsed(text, length):
    assert nanoseconds(text) == length


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "7", "1000", "d", "7x", "7d!", "seven days", "nan d", "inf", "1e3s"),
        *("1M", "1 month", "1y", "P1M", "P1Y", "P", "PT"),
        *("-7d", "+7d", "1h-5min", "1:2", "25:61:00", "\N{FULLWIDTH DIGIT ONE}d"),
        *("9" * 31 + "d", "." + "9" * 31 + "d", "9" * 5000 + "d", "9" * 400 + ":00:00"),
        *("P" + "9" * 400 + "W", "P" + "9" * 400 + "D"),
        *(None, 7, 7.0, True, b"7d", ["7d"], np.float64(7)),
        *(np.timedelta64(1, "M"), np.timedelta64(1, "Y"), np.timedelta64("NaT"), pd.NaT),
    ],
)
def test_value_without_unit_or_fixed_length_is_not_a_duration(value):
    assert nanoseconds(value) is None


@given(st.timedeltas())
def test_timedelta_keeps_its_microseconds(value):
    assert nanoseconds(value) == value // timedelta(microseconds=1) * 1000


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_timedelta_of_pandas_and_numpy_keeps_its_nanoseconds(value):
    assert nanoseconds(np.timedelta64(value, "ns")) == value
    assert nanoseconds(pd.Timedelta(value, "ns")) == value


@pytest.mark.parametrize("unit", ["W", "D", "h", "m", "s", "ms", "us", "ns"])
def test_units_of_numpy_agree_with_pandas(unit):
    value = np.timedelta64(3, unit)
    assert nanoseconds(value) == value.astype("timedelta64[ns]").astype(int)
    assert nanoseconds(np.array(3).astype(f"timedelta64[5{unit}]")[()]) == 5 * nanoseconds(value)


@given(st.integers(1, 10**20))
def test_format_uses_the_largest_unit_that_divides_the_length(length):
    text = format_duration(length)
    assert nanoseconds(text) == length
    number = int(text.rstrip("dhminsu"))
    for unit in ("d", "h", "min", "s", "ms", "us"):
        if text.endswith(unit) and text == f"{number}{unit}":
            break
        assert length % nanoseconds(f"1{unit}")


# pandas spells weeks with a capital.
WORDS = {
    "W": ["W"],
    "D": ["D", "day", "days"],
    "h": ["h", "hr", "hour", "hours"],
    "m": ["m", "min", "minute", "minutes"],
    "s": ["s", "sec", "second", "seconds"],
    "ms": ["ms", "milli", "millis", "millisecond", "milliseconds"],
    "us": ["us", "micro", "micros", "microsecond", "microseconds"],
    "ns": ["ns", "nano", "nanos", "nanosecond", "nanoseconds"],
}


@pytest.mark.parametrize("unit", WORDS)
@pytest.mark.parametrize("number", ["1", "36", "007", "1.5", "0.001", "12.375"])
def test_numbers_with_units_agree_with_pandas(number, unit):
    # pandas drops fractions of a nanosecond; streambn rounds.
    slack = 1 if unit == "ns" else 0
    for word in WORDS[unit]:
        for text in (f"{number}{word}", f" {number} {word} ", f"1 day {number}{word} 2 h"):
            expected = pd.Timedelta(text).as_unit("ns").value
            assert abs(nanoseconds(text) - expected) <= slack, text


def test_iso_8601_may_have_a_fraction_of_an_hour():
    # pandas 3.1 parses "PT1.5H" as 5 hours and a second.
    assert nanoseconds("PT1.5H") == nanoseconds("90min")
    assert pd.Timedelta("PT1.5H") != pd.Timedelta("90min")


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.decimals(0, 59, places=6))
def test_texts_agree_with_pandas(days, hours, minutes, seconds):
    for text in (
        f"{days} days {hours:02}:{minutes:02}:{seconds:09}",
        f"P{days}DT{hours}H{minutes}M{seconds}S",
    ):
        assert nanoseconds(text) == pd.Timedelta(text).value
