"""Work ahead of whoever uses it, on threads, in a fixed order and in bounded memory.

The order in which results come is that of the tasks, whatever thread is done first: so
what is made of them does not depend on how many threads there are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["ahead"]

Task = TypeVar("Task")
T = TypeVar("T")

# A thread that is abandoned ends when the item under way is made; those that hang in a
# read are not waited for longer than this, all together.
_PATIENCE = 5.0
# Tasks that are begun, even if all that they make is made: each may hold an open file, and
# those that make little take no room. Enough that no worker waits for a long one.
_TASKS = 64


def ahead(
    tasks: Iterable[Task],
    work: Callable[[Task], Iterable[T]],
    *,
    workers: int,
    room: int,
    size: Callable[[T], int],
    weight: Callable[[Task], int] = lambda _: 0,
) -> Generator[tuple[Task, Generator[T, None, None]], None, None]:
    """Run tasks on threads, ahead of the consumer, and give their items in order.

    Parameters
    ----------
    tasks : iterable
        What there is to do. It is asked for the next task by one thread at a time, so it may
        be lazy. What it raises is raised when all tasks before are done.
    work : callable
        Makes the items of a task, one after the other.
    workers : int
        Threads, which is how many tasks are under way at a time. With 1 there are no
        threads: each item is made when it is asked for.
    room : int
        Items that wait for the consumer hold at most about twice as much as this. The
        task whose turn it is may always go on; the others wait when there is no room.
    size : callable
        What an item takes of the room.
    weight : callable, optional
        What a task is worth of the room while it is worked on: tasks that are as large as all
        of it go one at a time.

    Yields
    ------
    (task, iterator)
        A task and its items. What `work` raises is raised where its next item would have
        come. An iterator that is not consumed to its end is abandoned when the next task is
        asked for. Close the outer iterator to stop at once.
    """
    if workers <= 1:
        for task in tasks:
            yield task, _asked_for(work, task)
        return
    board = _Board(iter(tasks), work, room, size, weight, max(_TASKS, 2 * workers))
    threads: list[threading.Thread] = []
    try:
        for i in range(workers):
            thread = threading.Thread(target=board.work, name=f"streambn-ahead-{i}", daemon=True)
            thread.start()
            threads.append(thread)
        while (lane := board.next_lane()) is not None:
            yield lane.task, board.items(lane)
            board.leave(lane)
    finally:
        board.stop()
        until = time.monotonic() + _PATIENCE
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _asked_for(work: Callable[[Task], Iterable[T]], task: Task) -> Generator[T, None, None]:
    # A generator, so that even what `work` raises before its first item is raised for that.
    yield from work(task)


class _Lane(Generic[Task, T]):
    """A task, and those of its items that wait for the consumer."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.items: deque[T] = deque()
        self.held = 0
        self.ended = self.left = False
        self.error: BaseException | None = None


class _Board(Generic[Task, T]):
    """What the threads and the consumer share; all of it under one condition."""

    def __init__(
        self,
        tasks: Iterator[Task],
        work: Callable[[Task], Iterable[T]],
        room: int,
        size: Callable[[T], int],
        weight: Callable[[Task], int],
        most_tasks: int,
    ) -> None:
        self._tasks, self._make, self._room, self._size = tasks, work, room, size
        self._weight, self._most_tasks = weight, most_tasks
        self._changed = threading.Condition()
        self._taking = threading.Lock()
        self._lanes: deque[_Lane[Task, T]] = deque()
        self._held = 0
        self._exhausted = self._stopped = False
        self._failure: BaseException | None = None  # of the tasks themselves

    # ------------------------------------------------------------- the threads' side

    def work(self) -> None:
        """Take one task after the other until there is none."""
        while (lane := self._take()) is not None:
            error: BaseException | None = None
            try:
                for item in self._make(lane.task):
                    wanted = self._put(lane, item)
                    del item  # or it would be held while the next is made
                    if not wanted:
                        break
            except BaseException as caught:
                error = caught
            with self._changed:
                lane.error, lane.ended = error, True
                self._changed.notify_all()

    def _take(self) -> _Lane[Task, T] | None:
        # Tasks are taken one at a time, so that their lanes stand in their order.
        with self._taking:
            with self._changed:
                self._changed.wait_for(self._may_take)
                if self._stopped or self._exhausted:
                    return None
            lane = None
            failure: BaseException | None = None
            try:
                for task in self._tasks:
                    lane = _Lane[Task, T](task)
                    break
            except BaseException as caught:
                failure = caught
            with self._changed:
                if lane is None:
                    self._exhausted, self._failure = True, failure
                else:
                    self._lanes.append(lane)
                self._changed.notify_all()
            return lane

    def _may_take(self) -> bool:
        if self._stopped or self._exhausted or not self._lanes:
            return True
        weight = sum(self._weight(lane.task) for lane in self._lanes if not lane.ended)
        return self._held + weight < self._room and len(self._lanes) < self._most_tasks

    def _put(self, lane: _Lane[Task, T], item: T) -> bool:
        """Hand an item over when there is room; say whether anybody still wants it."""
        size = self._size(item)

        def may_put() -> bool:
            if self._stopped or lane.left:
                return True
            first = self._lanes[0] is lane
            return (lane.held if first else self._held) < self._room

        with self._changed:
            self._changed.wait_for(may_put)
            if self._stopped or lane.left:
                return False
            lane.items.append(item)
            lane.held += size
            self._held += size
            self._changed.notify_all()
        return True

    # ------------------------------------------------------------ the consumer's side

    def next_lane(self) -> _Lane[Task, T] | None:
        """Wait for the next task to be begun; None: there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._lanes or self._exhausted)
            if self._lanes:
                return self._lanes[0]
            if self._failure is not None:
                raise self._failure
            return None

    def items(self, lane: _Lane[Task, T]) -> Generator[T, None, None]:
        """Give the items of a task as they come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: lane.items or lane.ended)
                if not lane.items:
                    break
                item = lane.items.popleft()
                size = self._size(item)
                lane.held -= size
                self._held -= size
                self._changed.notify_all()
            yield item
            del item  # or it would be held while the next is waited for
        if lane.error is not None:
            raise lane.error

    def leave(self, lane: _Lane[Task, T]) -> None:
        """Go on to the next task; what the last one still has is not wanted."""
        with self._changed:
            lane.left = True
            self._held -= lane.held
            lane.items.clear()
            lane.held = 0
            self._lanes.popleft()
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every thread end with the item that it is making."""
        with self._changed:
            self._stopped = True
            self._lanes.clear()
            self._changed.notify_all()
