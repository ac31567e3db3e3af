"""Executors: what calls a function for many items, perhaps on other machines.

A job without an executor reads ahead on threads of its own. With one, a job divides its work into
shares of similar cost, the workers of the executor do them, and the job puts the results together
in the order of its inputs. So the result does not depend on the executor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from streambn.errors import InvalidValueError
from streambn.io import Source

__all__ = ["Executor", "check_shareable", "group", "map_in_order", "share_bytes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# A share has so many bytes at most, and as many as lead to so many shares if there are few bytes.
_MOST_BYTES, _FEWEST_BYTES, _SHARES = 128 << 20, 16 << 20, 64
# To open a file costs as much as to read so many bytes.
_FILE_COST = 1 << 20


class Executor(Protocol):
    """Calls a function for many items, as an executor of `concurrent.futures` does.

    The function, the items and the results are picklable. An executor may call the function for an
    item several times, and uses one result.
    """

    def map(self, fn: Callable[[Item], Result], iterable: Iterable[Item], /) -> Iterator[Result]:
        """Yield the result for each item, in their order."""
        ...


def map_in_order(
    executor: Executor, function: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[tuple[Item, Result], None, None]:
    """Yield each item and its result. Close the generator to cancel what is in progress."""
    if not items:
        return
    results = executor.map(function, items)
    with contextlib.ExitStack() as stack:
        close: Any = getattr(results, "close", None)  # a generator has it, other iterators may not
        if close is not None:
            stack.callback(close)
        yield from zip(items, results, strict=True)


def share_bytes(total: int) -> int:
    """Return the bytes of a share of so many bytes."""
    return min(max(total // _SHARES, _FEWEST_BYTES), _MOST_BYTES)


def group(items: Iterable[tuple[Item, int]], most: int) -> list[list[Item]]:
    """Divide items, each with its bytes, into groups of about so many bytes; keep the order."""
    groups: list[list[Item]] = []
    room = 0
    for item, size in items:
        cost = size + _FILE_COST
        if not groups or cost > 2 * room:  # more than half of it would not fit
            groups.append([])
            room = most
        groups[-1].append(item)
        room -= cost
    return groups


def check_shareable(sources: Iterable[Source]) -> None:
    """Refuse inputs that workers cannot read.

    Raises
    ------
    InvalidValueError
        One is a pipe.
    """
    for source in sources:
        if not source.rereadable:
            raise InvalidValueError(
                f"{source.name} can be read once and on this machine only, so workers cannot share "
                "it. Save it to a file first."
            )
