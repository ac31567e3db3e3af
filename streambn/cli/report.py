"""What a job reports at its end: to people on stderr, and to programs as JSON."""

from __future__ import annotations

import sys

import streambn as sbn
from streambn.cli.messages import plural, say
from streambn.jobs.job import Done
from streambn.jobs.report import Report
from streambn.statistics import Statistics

__all__ = ["report", "say_applied", "say_fitted"]


def say_fitted(normalizer: sbn.Normalizer, rows: int, path: str) -> None:
    """Print what a fit learned."""
    columns = _columns(normalizer.statistics)
    say(f"{plural(rows, 'row')}, statistics of {plural(columns, 'column')} in {path}")


def say_applied(frozen: sbn.FrozenNormalizer, rows: int, output: str) -> None:
    """Print what was normalized."""
    columns = _columns(frozen.statistics)
    where = "to standard output" if output == "-" else f"in {output}"
    say(f"{plural(rows, 'row')}, {plural(columns, 'column')} normalized {where}")


def report(
    command: str, output: str, done: Done, fingerprint: str | None, *, as_json: bool
) -> None:
    """Print what was skipped, a line each, and on request the result of a job as JSON."""
    for file, where, why in done.skipped:
        say(f"skipped {file}{f', {where}' if where else ''}: {why}")
    if as_json:
        line = Report(command=command, output=output, fingerprint=fingerprint, **done._asdict())
        # stdout may hold the output of the command.
        print(line.to_json(), file=sys.stderr if output == "-" else sys.stdout, flush=True)


def _columns(statistics: Statistics) -> int:
    return 0 if statistics.binding is None else len(statistics.binding.leaves)
