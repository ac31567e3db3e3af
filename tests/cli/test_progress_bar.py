"""Progress on stderr, and what is printed at the end of a job."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from streambn.cli.progress_bar import bar_text, fitted, line, list_skipped, print_json, show
from streambn.jobs.progress import Progress
from streambn.jobs.report import Report, Skipped

GB = 10**9


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def steady(counted, clock, seconds, rows, size):
    for _ in range(seconds):
        clock.now += 1
        counted.add(rows, size)


# --- in words -------------------------------------------------------------------------


def half_done(clock):
    counted = Progress("fitting", 8, 3_400_000_000, clock=clock)
    counted.skip_done(files=3, bytes=900_000_000)
    counted.start_file("data/x.parquet", 2_500_000_000)
    steady(counted, clock, 10, 123_456, 30_000_000)
    return counted


def test_a_line_says_it_all(clock):
    counted = half_done(clock)
    said = line(counted)
    assert said.startswith(
        "streambn: fitting 3 of 8 files, 1,234,560 rows, 1.2 GB of 3.4 GB, 123.5 k rows/s, "
    )
    assert said.endswith("k rows/s, 30.0 MB/s, ETA 0:01:13, data/x.parquet")
    counted.end_file()
    assert line(counted, last=True).endswith(
        "4 of 8 files, 1,234,560 rows, 3.4 GB of 3.4 GB, 123.5 k rows/s, 250.0 MB/s, in 0:00:10"
    )


def test_a_line_leaves_out_what_nobody_knows(clock):
    counted = Progress("applying", 1, clock=clock)
    counted.start_file("standard input")
    steady(counted, clock, 3900, 850, 0)
    assert line(counted) == (
        "streambn: applying 0 of 1 file, 3,315,000 rows, 850 rows/s, standard input"
    )
    assert line(counted, last=True).endswith(", in 1:05:00")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (GB, "1.0 GB"),
        (5 * 10**15, "5,000.0 TB"),
    ],
)
def test_sizes(clock, size, words):
    counted = Progress("fitting", 1, clock=clock)
    counted.add(0, size)
    assert f", {words}," in line(counted)


def test_the_text_beside_a_bar_fits(clock):
    counted = half_done(clock)
    whole = bar_text(counted, 200)
    assert whole.endswith("  data/x.parquet")
    for width in range(len(whole) + 3):
        assert len(bar_text(counted, width)) <= width
    assert bar_text(counted, len(whole)) == whole
    assert bar_text(counted, len(whole) - 3).endswith("  …/x.parquet")
    assert bar_text(counted, len(whole) - 3, plain=True).endswith("  ....parquet")
    assert bar_text(counted, 14) == "3 of 8 files"
    assert bar_text(counted, 5) == ""


# --- while it runs --------------------------------------------------------------------


def test_plain_is_a_line_a_minute_and_one_at_the_end(clock, capsys):
    counted = Progress("fitting", 1, 1000, clock=clock)
    with show(counted, form="plain", clock=clock):
        counted.start_file("a\nb", 1000)
        steady(counted, clock, 59, 1, 1)
        assert capsys.readouterr().err == ""
        steady(counted, clock, 1, 1, 1)
        [said] = capsys.readouterr().err.splitlines()
        assert said.startswith("streambn: fitting 0 of 1 file, 60 rows, 60 B of 1.0 kB")
        assert said.endswith(", a?b")
        steady(counted, clock, 120, 1, 1)
        assert len(capsys.readouterr().err.splitlines()) == 2
        clock.now += 600  # the stream stands still
        counted.add(1, 1)
        assert len(capsys.readouterr().err.splitlines()) == 1
        counted.end_file()
    captured = capsys.readouterr()
    [said] = captured.err.splitlines()
    assert said.startswith("streambn: fitting 1 of 1 file, 181 rows, 1.0 kB of 1.0 kB")
    assert captured.out == ""


def test_of_a_job_that_fails_there_is_no_last_line(clock, capsys):
    counted = Progress("fitting", 1, clock=clock)
    with pytest.raises(KeyError), show(counted, form="plain", clock=clock):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("options", [{"form": "off"}, {"form": "plain", "quiet": True}, {}])
def test_nothing_is_said_where_nothing_is_asked_for(clock, capsys, options):
    counted = Progress("fitting", 1, clock=clock)
    with show(counted, clock=clock, **options):
        counted.start_file("a")
        steady(counted, clock, 100, 1, 1)
    assert capsys.readouterr() == ("", "")
    assert counted.rows == 100


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [None, 1000])
def test_a_terminal_has_a_bar(clock, monkeypatch, total):
    pytest.importorskip("rich")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    counted = Progress("fitting", 2, total, clock=clock)
    with show(counted, clock=clock):
        counted.start_file("[red]a.csv", 500)
        steady(counted, clock, 10, 1000, 50)
        counted.end_file()
        counted.start_file("b.csv", 500)
    shown = screen.getvalue()
    assert "fitting" in shown
    assert "1 of 2 files" in shown
    assert "1.0 k rows/s" in shown
    assert "b.csv" in shown
    assert ("ETA 0:00:10" in shown) == (total is not None)


def test_a_bar_is_not_for_the_quiet(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    counted = Progress("fitting", 1, clock=clock)
    with show(counted, quiet=True, clock=clock):
        counted.add(1)
    assert screen.getvalue() == ""


def test_counting_imports_nothing_for_people():
    code = "import sys, streambn.jobs.progress; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- at the end -----------------------------------------------------------------------


def report(**changes):
    values = {
        "command": "fit",
        "rows": 10,
        "bytes": 200,
        "seconds": 1.23456,
        "files": 2,
        "fingerprint": "ab",
        "output": "stats.json",
    }
    return Report(**{**values, **changes})


def test_the_report_is_one_line_of_json(capsys):
    odd = Skipped("d/\udcffé\n.parquet", "row group 3", 'it is "damaged"')
    print_json(report(skipped=[odd], resumed=True))
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    assert captured.out.isascii()
    assert json.loads(captured.out) == {
        "command": "fit",
        "rows": 10,
        "bytes": 200,
        "seconds": 1.235,
        "files": 2,
        "fingerprint": "ab",
        "output": "stats.json",
        "skipped": [{"file": odd.file, "where": odd.where, "why": odd.why}],
        "resumed": True,
    }


def test_the_report_keeps_out_of_an_output_on_stdout(capsys):
    print_json(report(output="-", fingerprint=None))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["fingerprint"] is None


def test_what_was_skipped_is_listed(capsys):
    list_skipped([Skipped("a", "row group 3", "damaged"), Skipped("b", "", "another\nschema")])
    assert capsys.readouterr().err == (
        "streambn: skipped a, row group 3: damaged\nstreambn: skipped b: another?schema\n"
    )


def test_the_summary_for_people(capsys):
    fitted(SimpleNamespace(lanes=("a",)), 2284, "stats.json")
    fitted(SimpleNamespace(lanes=("a", "b")), 1, "s")
    assert capsys.readouterr().err == (
        "streambn: 2,284 rows, statistics of 1 column in stats.json\n"
        "streambn: 1 rows, statistics of 2 columns in s\n"
    )
