"""What commands report: to people on stderr, and to programs as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from streambn._credentials import redact_url
from streambn._messages import listed, shown

# `streambn --help` takes half the time without jobs.
if TYPE_CHECKING:
    from streambn.jobs import Report

__all__ = [
    "MAX_LEFT_OUT",
    "plural",
    "report",
    "say",
    "say_applied",
    "say_fitted",
    "say_kept_text",
    "say_left_out",
]

MAX_LEFT_OUT = 10  # columns in one line


def plural(number: int, noun: str) -> str:
    """Return a number and its noun, such as ``"2 files"``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def say(message: str) -> None:
    """Print a message on stderr, on one line."""
    print("streambn:", shown(message), file=sys.stderr, flush=True)


def say_fitted(done: Report, path: str) -> None:
    """Print what a fit learned."""
    where = redact_url(path)
    say(f"{plural(done.rows, 'row')}, statistics of {plural(done.columns, 'column')} in {where}")


def say_applied(done: Report) -> None:
    """Print what was normalized."""
    where = "to standard output" if done.output == "-" else f"in {done.output}"
    say(f"{plural(done.rows, 'row')}, {plural(done.columns, 'column')} normalized {where}")


def say_left_out(done: Report) -> None:
    """Print which columns have no statistics, and why."""
    if done.left_out:
        say(f"left out: {listed(map(str, done.left_out), MAX_LEFT_OUT)}")


def say_kept_text(done: Report) -> None:
    """Print which CSV columns passed through as text, although they look like another type."""
    if done.kept_text:
        columns = listed(map(str, done.kept_text), MAX_LEFT_OUT)
        say(f"kept as text, which loses nothing: {columns}; --csv-type NAME=TYPE sets another type")


def report(command: str, done: Report, *, as_json: bool) -> None:
    """Print what was skipped, a line each, and on request the result of a job as JSON."""
    for file, where, why in done.skipped:
        say(f"skipped {file}{f', {where}' if where else ''}: {why}")
    if as_json:
        # stdout may hold the output of the command.
        stream = sys.stderr if done.output == "-" else sys.stdout
        print(done.to_json(command), file=stream, flush=True)
