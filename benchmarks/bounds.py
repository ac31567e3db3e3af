"""Bounds on times, which stand beside the bars of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import report


class Bound(NamedTuple):
    """A bound on a time: on its ratio to another one, or on the seconds."""

    title: str
    bound: float
    measured: float | None  # None: something is missing

    @property
    def holds(self) -> bool:
        """Whether the measurement keeps the bound; True if there is no measurement."""
        return self.measured is None or self.measured <= self.bound


def bound_table(judged: Sequence[Bound]) -> str:
    """Return a table of the bounds and the measurements."""
    rows = [
        [
            bar.title,
            f"{bar.bound:g}",
            "not measured" if bar.measured is None else f"{bar.measured:.2f}",
            "ok" if bar.holds else "MISSED",
        ]
        for bar in judged
    ]
    return report.table(["bar", "at most", "measured", ""], rows, texts=1)
