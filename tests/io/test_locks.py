"""Jobs that would write the same files exclude each other, and a killed job leaves no lock."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import TIMEOUT, piped, until

import streambn as sbn
from streambn import StreamBNError
from streambn.io import locate, lock
from streambn.io.sources import scan
from streambn.jobs.manifest import NAME

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

TABLE = pa.table({"x": np.arange(100.0)})


@pytest.fixture
def inputs() -> None:
    """Write files into data/, and their statistics into stats.json."""
    Path("data").mkdir()
    for name in "ab":
        pq.write_table(TABLE, f"data/{name}.parquet")
    sbn.Normalizer().update(TABLE).save("stats.json")


def all_paths() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


# --- lock -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "no/such/folder/file"])
def test_second_lock_of_a_file_is_refused(name: str) -> None:
    for _ in range(2):
        with lock(locate(name), locate("another")):
            for same in (name, f"./{name}", os.path.abspath(name)):
                with pytest.raises(StreamBNError, match=f"another job is writing .*{name}: wait"):
                    lock(locate("third"), locate(same)).__enter__()
            with lock(locate(f"{name}2")):
                pass
        assert all_paths() == []


def test_lock_holds_for_a_symbolic_link_too() -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    with lock(locate("folder/file")), pytest.raises(StreamBNError, match="another job"):
        lock(locate("link/file")).__enter__()


def test_error_releases_the_lock_and_keeps_written_files() -> None:
    with pytest.raises(KeyError), lock(locate("folder/file")):  # noqa: PT012
        Path("folder/file").touch()
        raise KeyError
    assert all_paths() == ["folder", "folder/file"]
    with lock(locate("folder/file")):
        pass


def test_readers_of_the_folder_ignore_the_lock_file() -> None:
    with lock(locate(f"out/{NAME}")):
        pq.write_table(TABLE, "out/a.parquet")
        assert len(os.listdir("out")) == 2
        assert [source.path for source in scan(["out"])] == ["out/a.parquet"]
        assert pq.read_table("out") == TABLE


def test_lock_file_that_the_previous_job_removes_is_created_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The previous job may end between the opening and the locking of its lock file."""
    real, locked = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        if not locked:
            os.unlink(".file.lock")
        locked.append(handle)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(locate("file")):
        assert len(locked) == 2
        with pytest.raises(StreamBNError, match="another job"):
            lock(locate("file")).__enter__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_file_system_without_locks_is_used_without(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    handles = os.listdir("/dev/fd")
    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(locate("file")), lock(locate("file")):
        pass
    assert os.listdir("/dev/fd") == handles


def test_unwritable_folders_and_stores_are_not_locked() -> None:
    Path("file").touch()
    with lock(locate("file/below"), locate("s3://bucket/file")):
        pass
    assert all_paths() == ["file"]


# --- jobs -----------------------------------------------------------------------------

APPLY = ["apply", "stats.json", "data", "-o", "out/", "-q"]
NORMALIZE = ["normalize", "data", "-o", "out/", "-q"]


def excludes(args: list[str], file: str, run: Callable[..., Any]) -> None:
    """Check that a job is refused, and writes nothing, while another one writes a file."""
    with lock(locate(file)):
        before = all_paths()
        done = run(*args)
        (line,) = done.lines
        assert done.code == 1
        assert f"another job is writing {file}: wait until it ends" in line
        assert all_paths() == before
        if file.startswith("out/"):
            assert run(*[arg.replace("out/", "other/") for arg in args]).code == 0
    assert run(*args).code == 0
    assert not [path for path in all_paths() if path.endswith(".lock")]


@pytest.mark.parametrize(
    ("args", "more"),
    [
        *itertools.product([APPLY, NORMALIZE], [[], ["--resume"], ["--overwrite"]]),
        *itertools.product([NORMALIZE], [["--online"], ["--online", "--overwrite"]]),
    ],
    ids="_".join,
)
def test_job_refuses_a_folder_that_another_job_writes(
    args: list[str], more: list[str], run: Callable[..., Any], inputs: None
) -> None:
    Path("out").mkdir()
    Path("out/.a.parquet.abcd1234.tmp").touch()  # a temporary file of the other job
    excludes([*args, *more], f"out/{NAME}", run)


@pytest.mark.parametrize(
    ("args", "checkpoint"),
    [
        ("fit data -o s.json", "s.json.checkpoint"),
        ("fit data -o s.json --checkpoint c.json", "c.json"),
        ("fit data --checkpoint c.json", "c.json"),
        ("normalize data -o out.parquet", "out.parquet.checkpoint"),
        ("normalize data -o out/ --checkpoint c.json", "c.json"),
    ],
)
def test_job_refuses_a_checkpoint_that_another_job_writes(
    args: str, checkpoint: str, run: Callable[..., Any], inputs: None
) -> None:
    excludes([*args.split(), "-q"], checkpoint, run)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_killed_job_leaves_no_lock_behind(run: Callable[..., Any], inputs: None) -> None:
    os.mkfifo("slow")
    args = ["apply", "stats.json", "slow", "-o", "out/", "-q"]
    lock_file = Path("out") / f".{NAME}.lock"
    with piped(*args) as process, open("slow", "wb"):  # blocks until the job reads
        until(lock_file.exists)
        refused = run(*APPLY)
        assert (refused.code, len(refused.lines)) == (1, 1)
        process.kill()
        process.wait(TIMEOUT)
    assert lock_file.exists()
    done = run(*APPLY, "--resume")
    assert (done.code, done.lines) == (0, [])
    assert not lock_file.exists()
