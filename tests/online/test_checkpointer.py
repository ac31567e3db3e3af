"""A checkpointer keeps statistics and their place together, whatever happens to the loop."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cli_process import TIMEOUT, until
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import bits, policies
from numbered_stream import ROWS, batch, learn, undisturbed

import streambn as sbn


def place(path: Any) -> int:
    return sbn.load(path).metadata["next"]


def holds(path: Any, batches: int, policy: Any = None) -> bool:
    """Return whether a file holds so many batches of the stream, and says so."""
    saved = sbn.load(path)
    return saved.metadata == {"next": batches} and bits(saved) == bits(undisturbed(batches, policy))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Return a path, and check that no checkpointer leaves a thread, a lock or a half file."""
    yield tmp_path / "s.json"
    assert not [t.name for t in threading.enumerate() if t.name.startswith("streambn")]
    assert [each.name for each in tmp_path.iterdir()] in ([], ["s.json"])


# --- the loop and its file --------------------------------------------------------------


@policies
@settings.get_profile("few")
@given(data=st.data())
def test_a_loop_that_stops_and_resumes_learns_each_batch_once(
    policy: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("loop") / "s.json"
    total = 0
    for _ in range(data.draw(st.integers(1, 3))):
        every = data.draw(st.sampled_from([1, 3 * ROWS, "1ms", "1h", timedelta(days=9_000)]))
        more = data.draw(st.integers(0, 4))
        with sbn.Checkpointer(path, every=every) as checkpoint:
            norm, metadata = checkpoint.resume(sbn.Normalizer(policy))
            assert metadata.get("next", 0) == total
            learn(checkpoint, norm, range(total, total + more))
            norm.update(batch(77))  # which is not committed
        total += more
        assert holds(path, total, policy) if total else not path.exists()


def test_without_a_file_the_loop_begins_with_the_argument(path: Path) -> None:
    with sbn.Checkpointer(path) as checkpoint:
        norm = sbn.Normalizer()
        resumed, metadata = checkpoint.resume(norm)
        assert (resumed is norm, metadata) == (True, {})
        # Statistics from elsewhere bring their metadata along.
        offline = sbn.from_bytes(undisturbed(2).to_bytes(metadata={"next": 2}))
        resumed, metadata = checkpoint.resume(offline)
        assert (resumed is offline, metadata) == (True, {"next": 2})
    assert not path.exists()


def test_a_commit_takes_statistics_and_metadata_at_that_moment(path: Path) -> None:
    offsets = {"next": 2}
    with sbn.Checkpointer(path, every="1h") as checkpoint:
        norm = undisturbed(2)
        checkpoint.commit(norm, offsets)
        norm.update(batch(2))
        offsets["next"] = 3
    assert holds(path, 2)


def test_metadata_of_a_normalizer_are_committed_by_default(path: Path) -> None:
    with sbn.Checkpointer(path) as checkpoint:
        checkpoint.commit(sbn.from_bytes(undisturbed(2).to_bytes(metadata={"next": 2})))
    assert holds(path, 2)
    with sbn.Checkpointer(path) as checkpoint:
        norm, _ = checkpoint.resume(sbn.Normalizer())
        checkpoint.commit(norm.update(batch(2)))
    assert sbn.load(path).metadata == {}


def test_a_loop_over_rows_goes_on(path: Path) -> None:
    rows = [{"x": float(n), **({"y": 1.0} if n > 3 else {})} for n in range(6)]
    for end in (2, 6):
        with sbn.Checkpointer(path) as checkpoint:
            norm, metadata = checkpoint.resume(sbn.Normalizer())
            learner = sbn.RowNormalizer.from_normalizer(norm)
            for number in range(metadata.get("next", 0), end):
                learner.learn_one(rows[number])
                checkpoint.commit(learner.to_normalizer(), {"next": number + 1})
    assert sbn.load(path).metadata == {"next": 6}
    assert sbn.load(path).stats()["count"].to_pylist() == [6, 2]


# --- when it writes ---------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [False, True])
def test_it_writes_after_so_many_rows(path: Path, resumed: bool) -> None:
    first = 0
    if resumed:
        undisturbed(5).save(path, metadata={"next": 5})
        first = 5
    with sbn.Checkpointer(path, every=2 * ROWS + 1) as checkpoint:
        norm, _ = checkpoint.resume(sbn.Normalizer())
        learn(checkpoint, norm, range(first, first + 2))
        assert holds(path, 5) if resumed else not path.exists()
        learn(checkpoint, norm, [first + 2])
        until(lambda: path.exists() and place(path) == first + 3)
        learn(checkpoint, norm, [first + 3])
        assert holds(path, first + 3)
    assert holds(path, first + 4)


def test_it_writes_while_the_loop_waits_for_data(path: Path) -> None:
    with sbn.Checkpointer(path, every="20ms") as checkpoint:
        norm = sbn.Normalizer()
        for number in range(3):
            learn(checkpoint, norm, [number])
            until(lambda expected=number + 1: path.exists() and place(path) == expected)


def test_it_does_not_write_what_the_file_holds(path: Path) -> None:
    with sbn.Checkpointer(path, every=1) as checkpoint:
        norm = undisturbed(1)
        checkpoint.commit(norm, {"next": 1})
        until(path.exists)
        before = path.stat().st_ino
        checkpoint.commit(norm, {"next": 1})
    with sbn.Checkpointer(path, every="1ms") as checkpoint:
        norm, metadata = checkpoint.resume(sbn.Normalizer())
        checkpoint.commit(norm, metadata)
    assert path.stat().st_ino == before
    with sbn.Checkpointer(path) as checkpoint:
        norm, metadata = checkpoint.resume(sbn.Normalizer())
        checkpoint.commit(norm, {"next": 2})
    assert place(path) == 2


def test_no_file_is_older_than_the_one_before_it(path: Path) -> None:
    seen = []
    with sbn.Checkpointer(path, every=1) as checkpoint:
        norm, done = sbn.Normalizer(), threading.Event()

        def watch() -> None:
            while not done.is_set():
                if path.exists():
                    seen.append(sbn.load(path))

        reader = threading.Thread(target=watch)
        reader.start()
        learn(checkpoint, norm, range(300))
        until(lambda: len(seen) > 3)
        done.set()
        reader.join()
    places = [each.metadata["next"] for each in seen]
    assert places == sorted(places)
    for each in seen:  # statistics and place belong together
        assert each.stats()["count"][0].as_py() == ROWS * each.metadata["next"]
    assert holds(path, 300)


def test_an_exception_of_the_loop_writes_the_last_commit(path: Path) -> None:
    def run() -> None:
        with sbn.Checkpointer(path) as checkpoint:
            norm = sbn.Normalizer()
            learn(checkpoint, norm, range(3))
            norm.update(batch(3))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        run()
    assert not hasattr(caught.value, "__notes__")
    assert holds(path, 3)


def test_a_path_may_be_a_url() -> None:
    url = f"memory://bucket-{os.getpid()}/s.json"
    for end in (2, 4):
        with sbn.Checkpointer(url, every=1) as checkpoint:
            norm, metadata = checkpoint.resume(sbn.Normalizer())
            learn(checkpoint, norm, range(metadata.get("next", 0), end))
        assert holds(url, end)


# --- what goes wrong --------------------------------------------------------------------


def test_a_failed_write_is_raised_by_the_next_commit_and_made_up_for(tmp_path: Path) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    errors = []
    with sbn.Checkpointer(folder / "s.json", every=1) as checkpoint:
        norm, numbers = sbn.Normalizer(), itertools.count()
        learn(checkpoint, norm, [next(numbers)])
        until((folder / "s.json").exists)
        folder.rename(moved)

        def next_commit_raises() -> bool:
            try:
                learn(checkpoint, norm, [next(numbers)])
            except FileNotFoundError as error:
                errors.append(error)
            return bool(errors)

        until(next_commit_raises)
        assert errors[0].filename == str(folder / "s.json")
        written = place(moved / "s.json")
        moved.rename(folder)
    committed = next(numbers)
    assert written < committed
    assert holds(folder / "s.json", committed)


def test_the_loop_goes_on_after_a_failed_write(tmp_path: Path) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    with sbn.Checkpointer(folder / "s.json", every="1ms") as checkpoint:
        norm = sbn.Normalizer()
        folder.rename(moved)
        learn(checkpoint, norm, [0])
        until(lambda: checkpoint._error is not None)
        moved.rename(folder)
        until((folder / "s.json").exists)  # the thread tries again by itself
        until(lambda: checkpoint._error is None)
        learn(checkpoint, norm, [1])


FULL = """
import resource, sys
import pyarrow as pa, streambn as sbn
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
error = None
try:
    with sbn.Checkpointer("s.json", every="1h") as checkpoint:
        norm, place = checkpoint.resume(sbn.Normalizer())
        checkpoint.commit(norm.update(pa.record_batch({"x": [1.0], "y": [2.0]})), {"next": 9})
        if sys.argv[1] == "raise":
            raise KeyError("mine")
except (OSError, KeyError) as raised:
    error = raised
print(type(error).__name__, getattr(error, "errno", None), *getattr(error, "__notes__", ()))
"""


@pytest.mark.parametrize("how", ["end", "raise"])
def test_a_full_disk_is_an_error_and_keeps_the_old_file(how: str, path: Path) -> None:
    undisturbed(2).save(path, metadata={"next": 2})
    done = subprocess.run(
        [sys.executable, "-c", FULL, how],
        cwd=path.parent, capture_output=True, text=True, check=True, timeout=TIMEOUT,
    )  # fmt: skip
    if how == "end":
        assert done.stdout.split() == ["OSError", str(errno.EFBIG)]
    else:
        assert done.stdout.startswith("KeyError None the last commit is not in s.json: [Errno")
    assert holds(path, 2)


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "0s", "-1s", "soon", "", None, timedelta(0)])
def test_an_interval_that_is_none_is_refused(every: Any, path: Path) -> None:
    with pytest.raises(sbn.InvalidValueError, match="every must be a duration above 0") as caught:
        sbn.Checkpointer(path, every=every)
    assert caught.value.argument == "every"


def test_only_a_live_normalizer_is_committed_and_resumed(path: Path) -> None:
    with sbn.Checkpointer(path, every=1) as checkpoint:
        for method in (checkpoint.commit, checkpoint.resume):
            with pytest.raises(sbn.InvalidValueError, match=r"Call thaw\(\) on it"):
                method(undisturbed(1).freeze())
            with pytest.raises(sbn.InvalidValueError, match=r"Call to_normalizer\(\) on it"):
                method(sbn.RowNormalizer())
            with pytest.raises(sbn.InvalidValueError, match="takes a Normalizer, got str"):
                method("norm")
    assert not path.exists()


def test_a_refused_commit_commits_nothing(path: Path) -> None:
    with sbn.Checkpointer(path, every=1) as checkpoint:
        with pytest.raises(sbn.InvalidValueError, match=r"metadata\['at'\]\[0\] is of type set"):
            checkpoint.commit(undisturbed(1), {"at": [set()]})
        checkpoint.commit(undisturbed(2), {"next": 2})
        with pytest.raises(sbn.InvalidValueError, match="metadata"):
            checkpoint.commit(undisturbed(3), {"next": float("nan")})
    assert holds(path, 2)


def test_a_closed_checkpointer_is_of_no_use(path: Path) -> None:
    checkpoint = sbn.Checkpointer(path)
    checkpoint.commit(undisturbed(2), {"next": 2})
    for _ in range(2):
        checkpoint.close()
    for use in (checkpoint.commit, checkpoint.resume):
        with pytest.raises(sbn.StreamBNError, match=r"s\.json is closed"):
            use(undisturbed(3))
    assert holds(path, 2)


@pytest.mark.parametrize(
    ("saved", "ours", "argument"),
    [
        ({}, {"policy": sbn.Exact()}, "policy"),
        ({"policy": sbn.EMA(alpha=0.5)}, {"policy": sbn.EMA(alpha=0.25)}, "policy"),
        ({}, {"ddof": 1}, "options"),
        ({"columns": ["x"]}, {}, "columns"),
        ({"columns": ["x"]}, {"columns": ["y"]}, "columns"),
        ({"exclude": ["x"]}, {}, "exclude"),
    ],
)
def test_a_file_with_other_hyperparameters_is_refused(
    saved: dict, ours: dict, argument: str, path: Path
) -> None:
    sbn.Normalizer(**saved).update(batch(0)).save(path, metadata={"next": 1})
    before = path.read_bytes()
    with sbn.Checkpointer(path, every=1) as checkpoint:
        with pytest.raises(sbn.InvalidValueError, match=f"the {argument} of the statistics") as got:
            checkpoint.resume(sbn.Normalizer(**ours))
        assert got.value.argument == argument
        assert checkpoint.resume(sbn.Normalizer(**saved))[1] == {"next": 1}
    assert path.read_bytes() == before


def test_columns_that_a_function_chose_are_resumed(path: Path) -> None:
    def choose(field: pa.Field) -> bool:
        return field.name == "y"

    for end in (1, 2):
        with sbn.Checkpointer(path) as checkpoint:
            norm, metadata = checkpoint.resume(sbn.Normalizer(columns=choose))
            learn(checkpoint, norm, range(metadata.get("next", 0), end))
    saved = sbn.load(path)
    assert (saved.features, saved.stats()["count"].to_pylist()) == (("y",), [2 * ROWS])


def test_files_that_cannot_go_on_are_refused(path: Path) -> None:
    undisturbed(1).freeze().save(path)
    with sbn.Checkpointer(path) as checkpoint:
        with pytest.raises(sbn.InvalidValueError, match="frozen statistics, which learn no more"):
            checkpoint.resume(sbn.Normalizer())
        path.write_text("{}")
        with pytest.raises(sbn.SnapshotError, match="not a statistics file"):
            checkpoint.resume(sbn.Normalizer())
    assert path.read_text() == "{}"


class OwnPolicy(sbn.Welford):
    """A policy of a user's own."""


def test_a_policy_that_no_file_holds_is_refused_at_once(path: Path) -> None:
    with (
        sbn.Checkpointer(path) as checkpoint,
        pytest.raises(sbn.SnapshotError, match="cannot hold statistics of OwnPolicy"),
    ):
        checkpoint.resume(sbn.Normalizer(OwnPolicy()))


def test_a_folder_that_is_a_file_is_refused_at_once(path: Path) -> None:
    path.touch()
    with pytest.raises(OSError, match=r"s\.json"), sbn.Checkpointer(path / "s.json"):
        pass


# --- one writer -------------------------------------------------------------------------

LOOP = """
import sys
import numbered_stream as stream, streambn as sbn
policy = sbn.BatchEMA(momentum=0.1)
with sbn.Checkpointer("s.json", every=int(sys.argv[1])) as checkpoint:
    norm, metadata = checkpoint.resume(sbn.Normalizer(policy))
    for number in range(metadata.get("next", 0), int(sys.argv[2])):
        stream.learn(checkpoint, norm, [number])
        print(number, flush=True)
    sys.stdin.read()
"""


def loop(path: Path, every: int, end: int) -> subprocess.Popen[str]:
    """Start a process that learns the stream up to a batch, and then waits."""
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, str(every), str(end)],
        cwd=path.parent, env={**os.environ, "PYTHONPATH": here}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_a_second_checkpointer_in_the_process_is_refused(path: Path) -> None:
    for _ in range(2):
        with sbn.Checkpointer(path, every=1) as checkpoint:
            learn(checkpoint, undisturbed(1), [1])
            for same in (path, os.path.relpath(path)):
                with pytest.raises(sbn.StreamBNError, match=r"another job is writing .*s\.json"):
                    sbn.Checkpointer(same)
        assert holds(path, 2)


def test_any_thread_may_close_it(path: Path) -> None:
    checkpoint = sbn.Checkpointer(path)
    checkpoint.commit(undisturbed(1), {"next": 1})
    thread = threading.Thread(target=checkpoint.close)
    thread.start()
    thread.join()
    sbn.Checkpointer(path).close()
    assert holds(path, 1)


def test_a_killed_process_releases_the_file(path: Path) -> None:
    with loop(path, 1, 3) as process:
        for _ in range(3):
            assert process.stdout.readline()
        with pytest.raises(sbn.StreamBNError, match="another job is writing"):
            sbn.Checkpointer(path)
        process.kill()
        process.wait(TIMEOUT)
    with sbn.Checkpointer(path) as checkpoint:
        checkpoint.commit(undisturbed(4), {"next": 4})
    assert holds(path, 4)


def test_kill_at_any_point_leaves_a_whole_file(path: Path, long: bool) -> None:
    """The file holds some batches of the stream, and the loop goes on from there."""
    end, reached, rng = 4000 if long else 1000, 0, random.Random(7)
    kills = 30 if long else 2
    for _ in range(kills):
        with loop(path, 1, end) as process:
            for _ in range(rng.randrange(1, end // kills - 1)):
                process.stdout.readline()
            process.kill()
        if path.exists():
            saved = sbn.load(path)
            assert saved.stats()["count"][0].as_py() == ROWS * saved.metadata["next"]
            assert saved.metadata["next"] >= reached
            reached = saved.metadata["next"]
    assert reached > 0
    with loop(path, ROWS * end, end) as process:
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert holds(path, end, sbn.BatchEMA(momentum=0.1))


# --- event loops ------------------------------------------------------------------------


def test_an_event_loop_goes_on_while_the_last_commit_is_written(path: Path) -> None:
    """The last commit goes through a pipe, which waits for a reader in the same event loop."""
    pipe = path.with_name("s.json")
    os.mkfifo(pipe)

    async def serve() -> bytes:
        async with sbn.Checkpointer(pipe, every="1h") as checkpoint:
            checkpoint.commit(undisturbed(2), {"next": 2})
            reader = asyncio.create_task(asyncio.to_thread(pipe.read_bytes))
        return await reader

    content = asyncio.run(serve())
    pipe.unlink()
    path.write_bytes(content)
    assert holds(path, 2)


def test_an_exception_passes_through_async_with(path: Path) -> None:
    async def serve() -> None:
        async with sbn.Checkpointer(path) as checkpoint:
            checkpoint.commit(undisturbed(2), {"next": 2})
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(serve())
    assert holds(path, 2)


def test_commits_of_many_threads(path: Path) -> None:
    with sbn.Checkpointer(path, every=1) as checkpoint:
        commits: list[Callable[[], None]] = [
            lambda n=n: [checkpoint.commit(undisturbed(n), {"next": n}) for _ in range(20)]
            for n in range(1, 5)
        ]
        threads = [threading.Thread(target=commit) for commit in commits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        checkpoint.commit(undisturbed(6), {"next": 6})
    assert holds(path, 6)
