"""Run tasks on threads ahead of their consumer, in a fixed order and in bounded memory.

Results arrive in the order of the tasks, whichever thread finishes first. What a consumer
computes from them therefore does not depend on the number of threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["prefetch"]

Task = TypeVar("Task")
T = TypeVar("T")

# Seconds to wait for all threads together at the end. A thread stops after its current item;
# one that hangs in a read is left behind.
_JOIN_TIMEOUT = 5.0
# Started tasks at a time, even if their results are small: each may hold an open file. The
# limit is high enough that no thread idles while another works on a long task.
_STARTED_TASKS = 64


def prefetch(
    tasks: Iterable[Task],
    work: Callable[[Task], Iterable[T]],
    *,
    workers: int,
    capacity: int,
    size: Callable[[T], int],
) -> Generator[tuple[Task, Generator[T, None, None]], None, None]:
    """Run tasks on threads ahead of the consumer and yield their items in order.

    Parameters
    ----------
    tasks : iterable
        The tasks. One thread at a time takes the next one, so a lazy iterable is fine. An
        exception that it raises reaches the consumer after all earlier tasks.
    work : callable
        Yields the items of a task.
    workers : int
        Number of threads. With 1, no thread is started: each item is computed when the
        consumer asks for it.
    capacity : int
        Total size of the items that may wait. The first task may fill the capacity on its
        own, so up to twice as much can wait.
    size : callable
        Returns the size of an item.

    Yields
    ------
    (task, iterator)
        A task and its items. An exception from `work` is raised in place of the next item.
        Items that the consumer does not take are dropped when it asks for the next task.
        Close the outer iterator to stop all threads.
    """
    if workers <= 1:
        for task in tasks:
            yield task, _run(work, task)
        return
    queue = _Queue(iter(tasks), work, capacity, size, max(_STARTED_TASKS, 2 * workers))
    threads: list[threading.Thread] = []
    try:
        for i in range(workers):
            thread = threading.Thread(
                target=queue.run_tasks, name=f"streambn-prefetch-{i}", daemon=True
            )
            thread.start()
            threads.append(thread)
        while (entry := queue.first()) is not None:
            yield entry.task, queue.items(entry)
            queue.drop(entry)
    finally:
        queue.stop()
        deadline = time.monotonic() + _JOIN_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _run(work: Callable[[Task], Iterable[T]], task: Task) -> Generator[T, None, None]:
    # A generator delays even the exceptions that `work` raises before its first item.
    yield from work(task)


class _Entry(Generic[Task, T]):
    """A started task and its waiting items."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.items: deque[tuple[T, int]] = deque()  # each with its size
        self.size = 0
        self.finished = self.dropped = False
        self.error: BaseException | None = None


class _Queue(Generic[Task, T]):
    """The started tasks in order, shared by the threads and the consumer."""

    def __init__(
        self,
        tasks: Iterator[Task],
        work: Callable[[Task], Iterable[T]],
        capacity: int,
        size: Callable[[T], int],
        most_entries: int,
    ) -> None:
        self._tasks, self._work = tasks, work
        self._capacity, self._size_of, self._most_entries = capacity, size, most_entries
        self._changed = threading.Condition()
        self._taking = threading.Lock()
        self._entries: deque[_Entry[Task, T]] = deque()
        self._size = 0
        self._exhausted = self._stopped = False
        self._failure: BaseException | None = None  # raised by `tasks`

    # ---------------------------------------------------------------- called by the threads

    def run_tasks(self) -> None:
        """Run one task after another until none is left."""
        while (entry := self._start()) is not None:
            error: BaseException | None = None
            try:
                for item in self._work(entry.task):
                    wanted = self._put(entry, item)
                    del item  # releases it before the next one is computed
                    if not wanted:
                        break
            except BaseException as caught:
                error = caught
            with self._changed:
                entry.error, entry.finished = error, True
                self._changed.notify_all()

    def _start(self) -> _Entry[Task, T] | None:
        # The lock keeps the entries in the order of the tasks.
        with self._taking:
            with self._changed:
                self._changed.wait_for(self._may_start)
                if self._stopped or self._exhausted:
                    return None
            entry, failure = None, None
            try:
                for task in self._tasks:
                    entry = _Entry[Task, T](task)
                    break
            except BaseException as caught:
                failure = caught
            with self._changed:
                if entry is None:
                    self._exhausted, self._failure = True, failure
                else:
                    self._entries.append(entry)
                self._changed.notify_all()
            return entry

    def _may_start(self) -> bool:
        if self._stopped or self._exhausted or not self._entries:
            return True
        return self._size < self._capacity and len(self._entries) < self._most_entries

    def _put(self, entry: _Entry[Task, T], item: T) -> bool:
        """Append an item once there is room, and return whether the consumer wants more."""
        size = self._size_of(item)

        def may_put() -> bool:
            if self._stopped or entry.dropped:
                return True
            first = self._entries[0] is entry
            return (entry.size if first else self._size) < self._capacity

        with self._changed:
            self._changed.wait_for(may_put)
            if self._stopped or entry.dropped:
                return False
            entry.items.append((item, size))
            entry.size += size
            self._size += size
            self._changed.notify_all()
        return True

    # --------------------------------------------------------------- called by the consumer

    def first(self) -> _Entry[Task, T] | None:
        """Wait for the next task to start; return None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._exhausted)
            if self._entries:
                return self._entries[0]
            if self._failure is not None:
                raise self._failure
            return None

    def items(self, entry: _Entry[Task, T]) -> Generator[T, None, None]:
        """Yield the items of a task as they arrive."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: entry.items or entry.finished)
                if not entry.items:
                    break
                item, size = entry.items.popleft()
                entry.size -= size
                self._size -= size
                self._changed.notify_all()
            yield item
            del item  # releases it before the wait for the next one
        if entry.error is not None:
            raise entry.error

    def drop(self, entry: _Entry[Task, T]) -> None:
        """Remove the first task, with the items that the consumer did not take."""
        with self._changed:
            entry.dropped = True
            self._size -= entry.size
            entry.items.clear()
            entry.size = 0
            self._entries.popleft()
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every thread end after its current item."""
        with self._changed:
            self._stopped = True
            self._entries.clear()
            self._changed.notify_all()
