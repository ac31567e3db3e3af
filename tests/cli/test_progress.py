"""Progress of a job on stderr: a line a minute in a log, or a bar on a terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable

import pytest
from fake_clock import Clock

from streambn.cli.progress import line, show
from streambn.jobs.progress import Progress

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- a line ---------------------------------------------------------------------------


def test_line(clock: Clock) -> None:
    counted = Progress("fitting", 8, 3_400_000_000, clock=clock)
    counted.skip(files=3, bytes=900_000_000)
    counted.start_file("data/x.parquet", 2_500_000_000)
    clock.count(counted, 10, 123_456, 30_000_000)
    assert line(counted) == (
        "fitting 3 of 8 files, 1,234,560 rows, 1.2 GB of 3.4 GB, 123,456 rows/s, 30.0 MB/s, "
        "ETA 0:01:13, data/x.parquet"
    )
    counted.end_file()
    assert line(counted, last=True) == (
        "fitting 4 of 8 files, 1,234,560 rows, 3.4 GB of 3.4 GB, 123,456 rows/s, 250.0 MB/s, "
        "in 0:00:10"
    )


def test_line_of_a_stream_has_no_size_and_no_eta(clock: Clock) -> None:
    counted = Progress("applying", 1, clock=clock)
    counted.start_file("standard input")
    clock.count(counted, 3900, 850, 0)
    assert line(counted) == "applying 0 of 1 file, 3,315,000 rows, 850 rows/s, standard input"
    assert line(counted, last=True).endswith(", in 1:05:00")


# --- a log ----------------------------------------------------------------------------


def test_plain_prints_a_line_a_minute_and_one_at_the_end(clock: Clock, capsys: Capsys) -> None:
    def printed() -> list[str]:
        return capsys.readouterr().err.splitlines()

    counted = Progress("fitting", 1, 1000, clock=clock)
    with show(counted, form="plain", clock=clock):
        counted.start_file("a\nb", 1000)
        clock.count(counted, 59, 1, 1)
        assert printed() == []
        clock.count(counted, 1, 1, 1)
        [first] = printed()
        assert first.startswith("streambn: fitting 0 of 1 file, 60 rows, 60 bytes of 1.0 kB")
        assert first.endswith(", a\\nb")
        clock.count(counted, 120, 1, 1)
        assert len(printed()) == 2
        clock.now += 600  # the stream stands still
        counted.add(1, 1)
        assert len(printed()) == 1
        counted.end_file()
    [last] = printed()
    assert last.startswith("streambn: fitting 1 of 1 file, 181 rows, 1.0 kB of 1.0 kB")


def test_plain_prints_no_last_line_of_a_failed_job(clock: Clock, capsys: Capsys) -> None:
    counted = Progress("fitting", 1, clock=clock)
    with pytest.raises(KeyError), show(counted, form="plain", clock=clock):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("options", [{"form": "off"}, {"form": "plain", "quiet": True}, {}])
def test_nothing_is_printed_unless_asked_for(
    clock: Clock, capsys: Capsys, options: dict[str, object]
) -> None:
    counted = Progress("fitting", 1, clock=clock)
    with show(counted, clock=clock, **options):  # type: ignore[arg-type]
        counted.start_file("a")
        clock.count(counted, 100, 1, 1)
    assert capsys.readouterr() == ("", "")
    assert counted.rows == 100


# --- a bar ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


NewTerminal = Callable[[int], Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> NewTerminal:
    """Return a function that makes stderr a terminal of so many columns."""

    def make(columns: int) -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        return screen

    return make


def last_drawn(screen: Terminal) -> str:
    """Return what the screen showed when the bar was drawn for the last time."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [text for text in re.split(r"[\r\n]", plain) if text.strip()][-1]


@pytest.mark.parametrize("total", [None, 1000])
def test_a_terminal_shows_a_bar(clock: Clock, terminal: NewTerminal, total: int | None) -> None:
    screen = terminal(120)
    counted = Progress("fitting", 2, total, clock=clock)
    with show(counted, clock=clock):
        counted.start_file("[red]a.csv", 500)
        clock.count(counted, 10, 1000, 50)
        counted.end_file()
        counted.start_file("b.csv", 500)
    drawn = last_drawn(screen)
    assert drawn.startswith("fitting ")
    for part in ("1 of 2 files", "10,000 rows", "bytes/s"):
        assert part in drawn
    assert drawn.rstrip().endswith("b.csv")
    assert ("0:00:10" in drawn) == (total is not None)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_bar_fits_its_terminal(clock: Clock, terminal: NewTerminal, columns: int) -> None:
    screen = terminal(columns)
    counted = Progress("applying", 100, 10**12, clock=clock)
    with show(counted, clock=clock):
        counted.start_file("data/year=2026/month=01/part-0.parquet", 10**10)
        clock.count(counted, 3, 10**6, 10**8)
    drawn = last_drawn(screen).rstrip()
    assert len(drawn) <= columns
    assert ("100 files" in drawn) == (columns > 40)
    assert ("3,000,000 rows" in drawn) == (columns > 40)
    assert drawn.endswith("part-0.parquet") == (columns == 200)


def test_an_earlier_run_is_not_part_of_the_speed(clock: Clock, terminal: NewTerminal) -> None:
    screen = terminal(120)
    counted = Progress("fitting", 2, 10**9, clock=clock)
    with show(counted, clock=clock):
        clock.now += 1
        counted.skip(files=1, bytes=9 * 10**8, rows=9)
        counted.start_file("b.csv", 10**8)
        clock.count(counted, 10, 1, 1000)
    assert "1.0 kB/s" in last_drawn(screen)


def test_quiet_shows_no_bar(clock: Clock, terminal: NewTerminal) -> None:
    screen = terminal(80)
    counted = Progress("fitting", 1, clock=clock)
    with show(counted, quiet=True, clock=clock):
        counted.add(1)
    assert screen.getvalue() == ""
