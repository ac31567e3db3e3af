"""Executors for tests, which a job treats as it treats a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class InlineExecutor:
    """Runs everything in this process, on copies by pickle as on another machine.

    Parameters
    ----------
    attempts : int
        How often it calls the function for each item. One result counts.
    """

    def __init__(self, attempts: int = 1) -> None:
        self.attempts = attempts
        self.items = 0

    def map(self, fn: Callable[[Any], Any], iterable: Iterable[Any], /) -> Iterator[Any]:
        sent = [pickle.dumps(item) for item in iterable]
        function = pickle.dumps(fn)
        for item in sent:
            self.items += 1
            for _ in range(self.attempts):
                result = pickle.loads(function)(pickle.loads(item))
            yield pickle.loads(pickle.dumps(result))
