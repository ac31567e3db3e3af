"""Work ahead on threads: in order, in bounded memory, and nothing left behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.io.prefetch import ahead

WORKERS = st.integers(1, 5)
# What each task makes: sizes of items.
TASKS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=12)
# A test that would hang fails instead.
LONG = 30.0


class FailedError(Exception):
    pass


def alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("streambn-ahead")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert alive() == []


def run(tasks, work, workers=3, room=4, size=int):
    return ahead(tasks, work, workers=workers, room=room, size=size)


# --- order ----------------------------------------------------------------------------


@given(tasks=TASKS, workers=WORKERS, room=st.integers(1, 10))
def test_order_is_that_of_the_tasks(tasks: list[list[int]], workers: int, room: int) -> None:
    got = [(task, list(items)) for task, items in run(tasks, iter, workers, room)]
    assert got == [(task, task) for task in tasks]
    assert alive() == []


@given(tasks=TASKS, workers=WORKERS, data=st.data())
def test_an_error_comes_where_the_next_item_would(
    tasks: list[list[int]], workers: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, max(len(tasks) - 1, 0))))

    def work(number: int) -> Iterator[int]:
        yield from tasks[number]
        if number in bad:
            raise FailedError(number)

    for number, items in run(range(len(tasks)), work, workers):
        seen = []
        with contextlib.ExitStack() as stack:
            if number in bad:
                stack.enter_context(pytest.raises(FailedError, match=f"^{number}$"))
            seen.extend(items) if number not in bad else [seen.append(item) for item in items]
        assert seen == tasks[number]


@given(tasks=TASKS, workers=WORKERS, data=st.data())
def test_what_is_not_consumed_does_not_stand_in_the_way(
    tasks: list[list[int]], workers: int, data: st.DataObject
) -> None:
    wanted = [data.draw(st.integers(0, len(task) + 1)) for task in tasks]
    got = []
    for number, items in run(range(len(tasks)), lambda n: iter(tasks[n]), workers, room=2):
        got.append([item for item, _ in zip(items, range(wanted[number]), strict=False)])
    assert got == [task[:count] for task, count in zip(tasks, wanted, strict=True)]


@given(tasks=TASKS, workers=WORKERS, stop=st.integers(0, 20))
def test_closing_at_any_place_stops_all(tasks: list[list[int]], workers: int, stop: int) -> None:
    made = run(tasks, iter, workers, room=2)
    seen = 0
    with contextlib.closing(made):
        for _, items in made:
            for _ in items:
                seen += 1
                if seen > stop:
                    break
            if seen > stop:
                break
    assert alive() == []


# --- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_tasks_that_fail_fail_the_whole_and_are_not_taken_for_ended(workers: int) -> None:
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
def test_an_exception_of_any_kind_comes_to_the_consumer(workers: int) -> None:
    def work(_: int) -> Iterator[int]:
        raise SystemExit(7)
        yield 1

    made = run([0, 1], work, workers)
    with contextlib.closing(made):
        _, items = next(made)
        with pytest.raises(SystemExit):
            list(items)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_exception_of_the_consumer_stops_the_threads(workers: int) -> None:
    made = run([[1]] * 100, iter, workers)
    with pytest.raises(FailedError), contextlib.closing(made):  # noqa: PT012
        for _ in made:
            raise FailedError
    assert alive() == []


@pytest.mark.parametrize("workers", [1, 3])
def test_one_that_is_dropped_stops_too(workers: int) -> None:
    made = run([[1] * 10] * 100, iter, workers)
    next(made)
    del made
    assert alive() == []


def test_one_that_was_never_begun_has_no_threads() -> None:
    made = run([[1]], iter)
    assert alive() == []
    made.close()


def test_what_is_abandoned_is_closed() -> None:
    closed = []

    def work(number: int) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(number)

    made = run(range(4), work, workers=2, room=3)
    with contextlib.closing(made):
        for number, items in made:
            next(items)
            if number == 2:
                break
    assert set(closed) >= {0, 1, 2}


def test_threads_that_hang_are_not_waited_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    waited: list[float | None] = []
    join = threading.Thread.join

    def work(number: int) -> Iterator[int]:
        if number:
            hang.wait(LONG)
        yield number

    def noted(self: threading.Thread, timeout: float | None = None) -> None:
        waited.append(timeout)
        join(self, timeout)

    monkeypatch.setattr("streambn.io.prefetch._PATIENCE", 0.2)
    made = run(range(9), work, workers=5)
    number, items = next(made)
    assert (number, list(items)) == (0, [0])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", noted)
        made.close()
    assert len(waited) == 5
    assert waited[-1] is not None
    assert waited[-1] < 0.1
    threads = [t for t in threading.enumerate() if t.name.startswith("streambn-ahead")]
    hang.set()
    for thread in threads:
        thread.join(LONG)


# --- memory ---------------------------------------------------------------------------


@given(
    tasks=st.lists(st.lists(st.integers(1, 5), max_size=20), max_size=15),
    workers=st.integers(2, 4),
    room=st.integers(1, 12),
)
def test_what_waits_is_bounded(tasks: list[list[int]], workers: int, room: int) -> None:
    lock = threading.Lock()
    waiting = most = 0

    def work(task: list[int]) -> Iterator[int]:
        nonlocal waiting, most
        for size in task:
            with lock:
                waiting += size
                most = max(most, waiting)
            yield size

    for _, items in run(tasks, work, workers, room):
        for item in items:
            with lock:
                waiting -= item
    largest = 5
    # What waits is at most twice the room, each time with the item that did not quite fit,
    # and there are one in the hand of each worker, and one in that of the consumer.
    assert most <= 2 * (room + largest) + (workers + 1) * largest


class Item:
    """Knows how many of its kind there are."""

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
def test_what_was_consumed_is_not_held(workers: int) -> None:
    Item.now = Item.most = 0

    def work(_: int) -> Iterator[Item]:
        for _ in range(50):
            yield Item()

    for _, items in run(range(5), work, workers, room=1, size=lambda _: 1):
        for _ in items:
            pass
    assert Item.now <= 1  # the loop's own variable
    # Two wait (one of the first task, one of the others), each worker has one in its hand
    # and may be making one; the consumer has one.
    assert Item.most <= 2 + 2 * workers + 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_tasks_are_asked_for_when_there_is_room(workers: int) -> None:
    asked = 0

    def tasks() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    made = run(tasks(), lambda _: iter([10]), workers, room=1)
    with contextlib.closing(made):
        for number, items in made:
            assert list(items) == [10]
            # One whose turn it is, one that fills the room, and what the workers hold.
            assert asked <= number + workers + 2
            if number == 50:
                break


@pytest.mark.parametrize("workers", [2, 4])
def test_tasks_without_items_are_bounded_too(workers: int) -> None:
    # A task may hold something that is scarce, such as an open file.
    begun: list[int] = []
    first = threading.Event()

    def work(number: int) -> Iterator[int]:
        begun.append(number)
        if number == 0:
            assert first.wait(LONG)
        return iter(())

    made = run(range(10_000), work, workers)
    with contextlib.closing(made):
        _, items = next(made)
        # The others go on until they may not; then only the first can bring any further.
        settled = threading.Event()
        while not settled.wait(0.05):
            before = len(begun)
            if settled.wait(0.1) or len(begun) == before:
                break
        assert len(begun) < 1000
        first.set()
        list(items)


# --- threads --------------------------------------------------------------------------


def test_one_worker_is_no_thread_and_makes_what_is_asked_for() -> None:
    made_by = []

    def work(number: int) -> Iterator[int]:
        made_by.append((number, threading.current_thread()))
        yield number

    made = run(range(3), work, workers=1)
    number, items = next(made)
    assert made_by == []
    assert list(items) == [number]
    assert made_by == [(0, threading.main_thread())]
    made.close()


def test_as_many_tasks_are_under_way_as_there_are_workers() -> None:
    together = threading.Barrier(3)

    def work(number: int) -> Iterator[int]:
        together.wait(LONG)  # breaks unless three are here at once
        yield number

    assert [list(items) for _, items in run(range(3), work, workers=3)] == [[0], [1], [2]]


def test_the_first_goes_on_though_the_others_have_filled_the_room() -> None:
    filled = threading.Event()

    def work(number: int) -> Iterator[int]:
        if number == 0:
            assert filled.wait(LONG)
            yield from [4] * 10
        else:
            yield 4
            filled.set()
            yield 4

    got = [list(items) for _, items in run(range(3), work, workers=2, room=4)]
    assert got == [[4] * 10, [4, 4], [4, 4]]
