"""Progress: counts, rates and forecasts."""

from __future__ import annotations

import pytest
from fake_clock import Clock

from streambn.jobs.progress import Progress


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- counting -------------------------------------------------------------------------


def test_files_rows_and_bytes_are_counted(clock):
    counted = Progress("fitting", 2, 300, clock=clock)
    counted.start_file("a", 100)
    counted.add(10, 40)
    assert (counted.name, counted.rows, counted.in_file, counted.bytes) == ("a", 10, 10, 40)
    assert (counted.files_done, counted.fraction) == (0, 40 / 300)
    counted.end_file()
    assert (counted.name, counted.files_done, counted.bytes) == (None, 1, 100)
    counted.start_file("b", 200)
    assert (counted.rows, counted.in_file) == (10, 0)
    counted.add(5, 50)
    counted.add(5)
    assert (counted.rows, counted.in_file, counted.bytes) == (20, 10, 150)
    counted.end_file()
    assert (counted.files_done, counted.bytes, counted.fraction, counted.eta) == (2, 300, 1, 0)


def test_bytes_of_a_file_do_not_exceed_its_size(clock):
    # A reader may count decompressed bytes.
    counted = Progress("fitting", 1, 100, clock=clock)
    counted.start_file("a", 100)
    counted.add(1, 5000)
    counted.add(1, 5000)
    assert counted.bytes == 100
    counted.end_file()
    assert counted.bytes == 100


def test_file_of_unknown_size(clock):
    counted = Progress("fitting", 1, clock=clock)
    counted.start_file("standard input")
    clock.count(counted, 4, 10, 500)
    counted.end_file()
    assert counted.bytes == 2000
    assert counted.rates == (10, 500)
    assert (counted.fraction, counted.eta) == (None, None)


def test_next_file_ends_the_one_before(clock):
    counted = Progress("fitting", 2, 30, clock=clock)
    counted.start_file("a", 10)
    counted.start_file("b", 20)
    assert (counted.files_done, counted.bytes, counted.name) == (1, 10, "b")
    counted.end_file()
    counted.end_file()
    assert (counted.files_done, counted.bytes) == (2, 30)


def test_job_without_files_is_complete(clock):
    counted = Progress("fitting", 0, 0, clock=clock)
    assert (counted.fraction, counted.eta, counted.rates) == (1.0, 0.0, (0, 0))
    assert counted.recent_rates == (0, 0)


# --- rates ----------------------------------------------------------------------------


def test_steady_rate_is_both_rates(clock):
    counted = Progress("fitting", 1, 10_000, clock=clock)
    counted.start_file("a", 10_000)
    clock.count(counted, 40, 7, 100)
    assert counted.rates == (7, 100)
    assert counted.recent_rates == pytest.approx((7, 100))
    assert counted.eta == pytest.approx(60)
    assert counted.seconds == 40


def test_recent_rate_and_eta_follow_a_change(clock):
    counted = Progress("fitting", 1, 100_000, clock=clock)
    counted.start_file("a", 100_000)
    clock.count(counted, 300, 1, 10)
    clock.count(counted, 15, 10, 100)
    half_life_later = counted.recent_rates.bytes
    assert half_life_later == pytest.approx(55, rel=1e-5)
    clock.count(counted, 285, 10, 100)
    assert counted.rates == (5.5, 55)
    assert counted.recent_rates == pytest.approx((10, 100), rel=1e-4)
    assert counted.eta == pytest.approx((100_000 - 33_000) / 100, rel=1e-4)


def test_recent_rate_of_an_idle_stream_decays(clock):
    counted = Progress("fitting", 1, 1000, clock=clock)
    counted.start_file("a", 1000)
    clock.count(counted, 10, 1, 10)
    before = counted.eta
    clock.now += 60
    assert counted.recent_rates.bytes < 2
    assert counted.eta > 5 * before


def test_work_of_an_earlier_run_counts_in_no_rate(clock):
    counted = Progress("fitting", 5, 10_000, clock=clock)
    counted.skip(files=3, bytes=6000, rows=60)
    counted.start_file("d", 2000)
    counted.skip(bytes=1000, rows=10)
    assert (counted.files_done, counted.bytes, counted.rows, counted.in_file) == (3, 7000, 70, 10)
    clock.count(counted, 10, 1, 100)
    assert counted.rates == (1, 100)
    assert counted.recent_rates == pytest.approx((1, 100))
    assert (counted.rows, counted.in_file, counted.bytes) == (80, 20, 8000)
    assert counted.eta == pytest.approx(20)
    counted.end_file()
    assert counted.bytes == 8000
