"""Jobs that would write the same files are kept apart, and by nothing that outlives them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn import StreamBNError
from streambn.io import sources as files
from streambn.io.locations import locate
from streambn.io.locks import alone
from streambn.jobs.manifest import NAME

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

TABLE = pa.table({"x": np.arange(100.0)})
TIMEOUT = 120


@pytest.fixture
def inputs() -> None:
    """Files in data/, and stats.json of them."""
    Path("data").mkdir()
    for name in "ab":
        pq.write_table(TABLE, f"data/{name}.parquet")
    sbn.Normalizer().update(TABLE).save("stats.json")


def everything() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


# --- the room itself ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["it", "no/such/folder/it"])
def test_only_one_at_a_time(name: str) -> None:
    for _ in range(2):
        with alone(locate(name), locate("another")):
            for again in (name, f"./{name}", os.path.abspath(name)):
                with pytest.raises(StreamBNError, match=f"{name} is being written by another job"):
                    alone(locate("third"), locate(again)).__enter__()
            with alone(locate(f"{name}2")):
                pass
        assert everything() == []


def test_links_do_not_lead_around_it() -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    with alone(locate("folder/it")), pytest.raises(StreamBNError, match="another job"):
        alone(locate("link/it")).__enter__()


def test_it_ends_with_an_error_too_and_leaves_what_was_written() -> None:
    with pytest.raises(KeyError), alone(locate("folder/it")):  # noqa: PT012
        Path("folder/it").touch()
        raise KeyError
    assert everything() == ["folder", "folder/it"]
    with alone(locate("folder/it")):
        pass


def test_what_is_locked_is_hidden_from_readers_of_the_folder() -> None:
    with alone(locate(f"out/{NAME}")):
        pq.write_table(TABLE, "out/a.parquet")
        assert len(os.listdir("out")) == 2
        assert [source.path for source in files.scan(["out"])] == ["out/a.parquet"]
        assert pq.read_table("out") == TABLE


def test_a_lock_that_is_removed_while_it_is_taken_is_not_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a job that ends between the two calls of the next one."""
    real, taken = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        if not taken:
            os.unlink(".it.lock")
        taken.append(handle)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone(locate("it")):
        assert len(taken) == 2
        with pytest.raises(StreamBNError, match="another job"):
            alone(locate("it")).__enter__()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_keeps_nobody_from_work(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    before = os.listdir("/dev/fd")
    monkeypatch.setattr(fcntl, "flock", flock)
    with alone(locate("it")), alone(locate("it")):
        pass
    assert os.listdir("/dev/fd") == before


def test_where_no_file_can_be_made_others_tell_it() -> None:
    Path("file").touch()
    with alone(locate("file/it")), alone(locate("s3://bucket/it")):
        pass
    assert everything() == ["file"]


# --- jobs -----------------------------------------------------------------------------

APPLY = ["apply", "stats.json", "data", "-o", "out/", "-q"]
NORMALIZE = ["normalize", "data", "-o", "out/", "-q"]


@pytest.mark.parametrize(
    ("args", "more"),
    [
        *itertools.product([APPLY, NORMALIZE], [[], ["--resume"], ["--overwrite"]]),
        *itertools.product([NORMALIZE], [["--online"], ["--online", "--overwrite"]]),
    ],
    ids="_".join,
)
def test_a_job_leaves_a_folder_alone_that_another_writes_into(
    args: list[str], more: list[str], run: Callable[..., Any], inputs: None
) -> None:
    Path("out").mkdir()
    Path("out/.a.parquet.abcd1234.tmp").touch()  # what the other is writing
    with alone(locate(f"out/{NAME}")):
        before = everything()
        done = run(*args, *more)
        (line,) = done.lines
        assert done.code == 1
        assert f"out/{NAME} is being written by another job" in line
        assert "wait until that has ended, or write somewhere else" in line
        assert everything() == before
        assert run(*[arg.replace("out/", "other/") for arg in args], *more).code == 0
    assert run(*args, *more).code == 0
    assert not [path for path in everything() if path.endswith(".lock")]


@pytest.mark.parametrize(
    ("args", "checkpoint"),
    [
        (["fit", "data", "-o", "s.json"], "s.json.checkpoint"),
        (["fit", "data", "-o", "s.json", "--checkpoint", "c.json"], "c.json"),
        (["fit", "data", "--checkpoint", "c.json"], "c.json"),
        (["normalize", "data", "-o", "out.parquet"], "out.parquet.checkpoint"),
        (["normalize", "data", "-o", "out/", "--checkpoint", "c.json"], "c.json"),
    ],
)
def test_a_job_leaves_a_checkpoint_alone_that_another_keeps(
    args: list[str], checkpoint: str, run: Callable[..., Any], inputs: None
) -> None:
    with alone(locate(checkpoint)):
        before = everything()
        done = run(*args, "-q")
        (line,) = done.lines
        assert done.code == 1
        assert f"{checkpoint} is being written by another job" in line
        assert everything() == before
    assert run(*args, "-q").code == 0
    assert not [path for path in everything() if path.endswith(".lock")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_job_that_was_killed_is_in_nobodys_way(run: Callable[..., Any], inputs: None) -> None:
    os.mkfifo("slow")
    args = ["apply", "stats.json", "slow", "-o", "out/", "-q"]
    command = [sys.executable, "-m", "streambn.cli.main", *args]
    with subprocess.Popen(command) as process:
        lock = Path("out") / f".{NAME}.lock"
        try:
            with open("slow", "wb") as pipe:  # which waits until the job reads
                pipe.write(b"")
                deadline = time.monotonic() + TIMEOUT
                while not lock.exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                refused = run(*APPLY)
                assert (refused.code, len(refused.lines)) == (1, 1)
                process.kill()
                process.wait(TIMEOUT)
        finally:
            process.kill()
    assert lock.exists()
    done = run(*APPLY, "--resume")
    assert (done.code, done.lines) == (0, [])
    assert not lock.exists()
