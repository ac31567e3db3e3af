"""A clock that a test moves, for jobs that count their progress."""

from __future__ import annotations

from streambn.jobs.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def count(self, counted: Progress, seconds: int, rows: int, size: int) -> None:
        """Let time pass, and count so many rows and bytes each second."""
        for _ in range(seconds):
            self.now += 1
            counted.add(rows, size)
