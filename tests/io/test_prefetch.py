"""Prefetching: items keep their order, memory stays bounded, and no thread is left behind."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.io.prefetch import prefetch

WORKERS = st.integers(1, 5)
# Each task yields items of these sizes.
TASKS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=12)
# Seconds after which a test fails instead of hanging.
LONG = 30.0


class FailedError(Exception):
    pass


def our_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("streambn-prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert our_threads() == []


def run(
    tasks: Iterable[Any],
    work: Callable[[Any], Iterable[Any]],
    workers: int = 3,
    capacity: int = 4,
    size: Callable[[Any], int] = int,
) -> Generator[tuple[Any, Generator[Any, None, None]], None, None]:
    return prefetch(tasks, work, workers=workers, capacity=capacity, size=size)


# --- order ----------------------------------------------------------------------------


@given(tasks=TASKS, workers=WORKERS, capacity=st.integers(1, 10))
def test_items_keep_the_order_of_the_tasks(
    tasks: list[list[int]], workers: int, capacity: int
) -> None:
    got = [(task, list(items)) for task, items in run(tasks, iter, workers, capacity)]
    assert got == [(task, task) for task in tasks]
    assert our_threads() == []


@given(tasks=TASKS, workers=WORKERS, data=st.data())
def test_an_error_is_raised_in_place_of_the_next_item(
    tasks: list[list[int]], workers: int, data: st.DataObject
) -> None:
    failing = data.draw(st.sets(st.integers(0, max(len(tasks) - 1, 0))))

    def work(number: int) -> Iterator[int]:
        yield from tasks[number]
        if number in failing:
            raise FailedError(number)

    for number, items in run(range(len(tasks)), work, workers):
        seen: list[int] = []
        with contextlib.ExitStack() as stack:
            if number in failing:
                stack.enter_context(pytest.raises(FailedError, match=f"^{number}$"))
            for item in items:
                seen.append(item)  # noqa: PERF402  (an exception would lose a whole list)
        assert seen == tasks[number]


@given(tasks=TASKS, workers=WORKERS, data=st.data())
def test_a_task_can_be_left_before_its_last_item(
    tasks: list[list[int]], workers: int, data: st.DataObject
) -> None:
    counts = [data.draw(st.integers(0, len(task) + 1)) for task in tasks]
    got = []
    for number, items in run(range(len(tasks)), lambda n: iter(tasks[n]), workers, capacity=2):
        got.append([item for item, _ in zip(items, range(counts[number]), strict=False)])
    assert got == [task[:count] for task, count in zip(tasks, counts, strict=True)]


@given(tasks=TASKS, workers=WORKERS, stop=st.integers(0, 20))
def test_closing_stops_all_threads(tasks: list[list[int]], workers: int, stop: int) -> None:
    results = run(tasks, iter, workers, capacity=2)
    seen = 0
    with contextlib.closing(results):
        for _, items in results:
            for _ in items:
                seen += 1
                if seen > stop:
                    break
            if seen > stop:
                break
    assert our_threads() == []


# --- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_an_error_of_the_tasks_is_raised_after_all_earlier_tasks(workers: int) -> None:
    def tasks() -> Iterator[list[int]]:
        yield [1, 2]
        yield [3]
        raise FailedError("no more")

    got: list[int] = []
    with pytest.raises(FailedError, match="no more"):  # noqa: PT012
        for _, items in run(tasks(), iter, workers):
            got += items
    assert got == [1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_kind_of_exception_reaches_the_consumer(workers: int) -> None:
    def work(_: int) -> Iterator[int]:
        raise SystemExit(7)
        yield 1

    with contextlib.closing(run([0, 1], work, workers)) as results:
        _, items = next(results)
        with pytest.raises(SystemExit):
            list(items)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_of_the_consumer_stops_the_threads(workers: int) -> None:
    results = run([[1]] * 100, iter, workers)
    with pytest.raises(FailedError), contextlib.closing(results):  # noqa: PT012
        for _ in results:
            raise FailedError
    assert our_threads() == []


@pytest.mark.parametrize("workers", [1, 3])
def test_a_forgotten_iterator_stops_its_threads(workers: int) -> None:
    results = run([[1] * 10] * 100, iter, workers)
    next(results)
    del results
    assert our_threads() == []


def test_an_iterator_starts_no_thread_before_its_first_item() -> None:
    results = run([[1]], iter)
    assert our_threads() == []
    results.close()


def test_unfinished_work_is_closed() -> None:
    closed = []

    def work(number: int) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(number)

    with contextlib.closing(run(range(4), work, workers=2, capacity=3)) as results:
        for number, items in results:
            next(items)
            if number == 2:
                break
    assert set(closed) >= {0, 1, 2}


def test_all_hanging_threads_share_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    timeouts: list[float | None] = []
    join = threading.Thread.join

    def work(number: int) -> Iterator[int]:
        if number:
            hang.wait(LONG)
        yield number

    def recording_join(self: threading.Thread, timeout: float | None = None) -> None:
        timeouts.append(timeout)
        join(self, timeout)

    monkeypatch.setattr(sys.modules[prefetch.__module__], "_JOIN_TIMEOUT", 0.2)
    results = run(range(9), work, workers=5)
    number, items = next(results)
    assert (number, list(items)) == (0, [0])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", recording_join)
        results.close()
    assert len(timeouts) == 5
    assert timeouts[-1] is not None
    assert timeouts[-1] < 0.1
    threads = our_threads()
    hang.set()
    for thread in threads:
        thread.join(LONG)


# --- memory ---------------------------------------------------------------------------


@given(
    tasks=st.lists(st.lists(st.integers(1, 5), max_size=20), max_size=15),
    workers=st.integers(2, 4),
    capacity=st.integers(1, 12),
)
def test_waiting_items_are_bounded(tasks: list[list[int]], workers: int, capacity: int) -> None:
    lock = threading.Lock()
    waiting = most = 0

    def work(task: list[int]) -> Iterator[int]:
        nonlocal waiting, most
        for size in task:
            with lock:
                waiting += size
                most = max(most, waiting)
            yield size

    for _, items in run(tasks, work, workers, capacity):
        for item in items:
            with lock:
                waiting -= item
    largest = 5
    # Twice the capacity may wait, each time plus the item that exceeded it. Each worker and
    # the consumer hold one more item.
    assert most <= 2 * (capacity + largest) + (workers + 1) * largest


class Item:
    """Counts its living instances."""

    lock = threading.Lock()
    now = most = 0

    def __init__(self) -> None:
        with Item.lock:
            Item.now += 1
            Item.most = max(Item.most, Item.now)

    def __del__(self) -> None:
        with Item.lock:
            Item.now -= 1


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_consumed_items_are_released(workers: int) -> None:
    Item.now = Item.most = 0

    def work(_: int) -> Iterator[Item]:
        for _ in range(50):
            yield Item()

    for _, items in run(range(5), work, workers, capacity=1, size=lambda _: 1):
        for _ in items:
            pass
    assert Item.now <= 1  # the loop's own variable
    # Two items wait: one of the first task and one of the others. Each worker holds one and
    # may be computing another. The consumer holds one.
    assert Item.most <= 2 + 2 * workers + 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_tasks_are_taken_only_when_there_is_capacity(workers: int) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with contextlib.closing(run(tasks(), lambda _: iter([10]), workers, capacity=1)) as results:
        for number, items in results:
            assert list(items) == [10]
            # The next task, one that fills the capacity, and one that each worker holds.
            assert taken <= number + workers + 2
            if number == 50:
                break


@pytest.mark.parametrize("workers", [2, 4])
def test_started_tasks_without_items_are_bounded(workers: int) -> None:
    # A task may hold a scarce resource such as an open file.
    started: list[int] = []
    first = threading.Event()

    def work(number: int) -> Iterator[int]:
        started.append(number)
        if number == 0:
            assert first.wait(LONG)
        return iter(())

    with contextlib.closing(run(range(10_000), work, workers)) as results:
        _, items = next(results)
        # The other tasks run up to the limit. After that only the first can go on.
        settled = threading.Event()
        while not settled.wait(0.05):
            before = len(started)
            if settled.wait(0.1) or len(started) == before:
                break
        assert len(started) < 1000
        first.set()
        list(items)


# --- threads --------------------------------------------------------------------------


def test_one_worker_computes_in_the_thread_of_the_consumer() -> None:
    computed = []

    def work(number: int) -> Iterator[int]:
        computed.append((number, threading.current_thread()))
        yield number

    results = run(range(3), work, workers=1)
    number, items = next(results)
    assert computed == []
    assert list(items) == [number]
    assert computed == [(0, threading.main_thread())]
    results.close()


def test_every_worker_runs_a_task() -> None:
    together = threading.Barrier(3)

    def work(number: int) -> Iterator[int]:
        together.wait(LONG)  # breaks unless three threads meet here
        yield number

    assert [list(items) for _, items in run(range(3), work, workers=3)] == [[0], [1], [2]]


def test_the_first_task_goes_on_when_others_fill_the_capacity() -> None:
    filled = threading.Event()

    def work(number: int) -> Iterator[int]:
        if number == 0:
            assert filled.wait(LONG)
            yield from [4] * 10
        else:
            yield 4
            filled.set()
            yield 4

    got = [list(items) for _, items in run(range(3), work, workers=2, capacity=4)]
    assert got == [[4] * 10, [4, 4], [4, 4]]
