"""Streams through the command: batches pass at once, and statistics are saved."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn

COMMAND = [sys.executable, "-m", "streambn.cli"]
ENV = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}
TIMEOUT = 120


def some_table(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    x = pa.array(rng.normal(1e3, 2, rows), mask=rng.random(rows) < 0.1)
    n = pa.array(rng.integers(-(2**60), 2**60, rows))
    return pa.table({"x": x, "n": n, "s": [f"row {i % 7}" for i in range(rows)]})


@contextlib.contextmanager
def piped(folder: Path, *args: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command with pipes to the test."""
    with subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, cwd=folder,
        **options,
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def until(true: Any) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows_in(checkpoint: Path) -> int:
    """Return the number of rows in a checkpoint."""
    if not checkpoint.exists():
        return 0
    lane = sbn.load(checkpoint).stats().select(["count", "nulls"]).to_pylist()[0]
    return int(lane["count"] + lane["nulls"])


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
@pytest.mark.parametrize("every", [["--checkpoint-every", "1h"], ["--checkpoint-every", 1]])
def test_checkpoint_of_an_endless_stream_holds_all_batches_so_far(
    every: list[object], tmp_path: Path
) -> None:
    table = some_table(600)
    checkpoint = tmp_path / "s.json"
    with piped(tmp_path, "fit", "-", "--checkpoint", "s.json", "-q", *every) as process:
        assert process.stdin
        assert process.stderr
        writer = pa.ipc.new_stream(process.stdin, table.schema)
        for sent in (100, 200, 300):
            writer.write_table(table.slice(sent - 100, 100))
            process.stdin.flush()

            def asked(sent: int = sent) -> bool:
                # The signal may come before the batch, so it is sent again. It would end a
                # command that does not handle it yet.
                if "1h" in every and (checkpoint.exists() or ready(process.pid)):
                    process.send_signal(signal.SIGUSR1)
                return rows_in(checkpoint) == sent

            until(asked)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 143
        assert len(process.stderr.read().splitlines()) <= 1
    assert rows_in(checkpoint) == 300
    rest = io.BytesIO()
    with pa.ipc.new_stream(rest, table.schema) as again:
        again.write_table(table.slice(300), max_chunksize=100)
    for more in (rest.getvalue(), None):  # the second stream is empty
        done = subprocess.run(
            [*COMMAND, "fit", "-", "--checkpoint", "s.json", "-q", "--resume"],
            input=more or empty(table.schema), capture_output=True, check=False, env=ENV,
            timeout=TIMEOUT, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert rows_in(checkpoint) == 600
    expected = sbn.Normalizer(sbn.Exact()).update(table)  # independent of batches
    assert sbn.load(checkpoint).stats() == expected.stats()


def empty(schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pa.ipc.new_stream(sink, schema).close()
    return sink.getvalue()


def ready(pid: int) -> bool:
    """Return whether a process handles SIGUSR1."""
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(line, 16) >> (signal.SIGUSR1 - 1) & 1)


def test_each_batch_passes_before_the_next_one_comes(tmp_path: Path) -> None:
    table = some_table(500)
    expected = sbn.Normalizer()
    with piped(tmp_path, "normalize", "--online", "-", "-o", "-", "-q") as process:
        assert process.stdin
        assert process.stdout
        writer = pa.ipc.new_stream(process.stdin, table.schema)
        process.stdin.flush()
        reader = None
        for batch in table.to_batches(max_chunksize=100):
            writer.write_batch(batch)
            process.stdin.flush()
            reader = reader or pa.ipc.open_stream(process.stdout)
            wanted = expected.update_transform(batch)
            assert reader.read_next_batch().to_pydict() == wanted.to_pydict()
        writer.close()
        process.stdin.close()
        assert reader
        with pytest.raises(StopIteration):
            reader.read_next_batch()
        assert process.wait(TIMEOUT) == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stopped_and_continued_process_loses_no_bytes(unbuffered: str, tmp_path: Path) -> None:
    """A system call that writes to a pipe then writes only a part."""
    table = pa.table({"x": np.arange(200_000.0)})
    with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=100_000)
    statistics = sbn.Normalizer().update(table)
    statistics.save(tmp_path / "s.json")
    environment = {**ENV, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [*COMMAND, "apply", "s.json", "data.arrow", "-o", "-"],
        stdout=subprocess.PIPE, env=environment, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stdout

        def state() -> str:
            content = Path(f"/proc/{process.pid}/stat").read_text()
            return content.rpartition(")")[2].split()[0]

        full = bytes(4)

        def waits() -> bool:
            nonlocal full
            before = full
            full = fcntl.ioctl(process.stdout.fileno(), termios.FIONREAD, bytes(4))
            return full != bytes(4) and full == before and state() == "S"

        until(waits)
        for number, wanted in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            process.send_signal(number)
            until(lambda wanted=wanted: state() == wanted)
        found = pa.ipc.open_stream(process.stdout).read_all()
        assert process.wait(TIMEOUT) == 0
    assert found == statistics.freeze().transform(table)


def peak(folder: Path, args: list[object], batches: int) -> int:
    """Send batches to a command; return its peak memory in bytes."""
    rng = np.random.default_rng(0)
    batch = pa.record_batch({f"x{i}": rng.normal(size=20_000) for i in range(4)})
    with piped(folder, *args) as process:
        assert process.stdin
        writer = pa.ipc.new_stream(process.stdin, batch.schema)
        for _ in range(batches):
            writer.write_batch(batch)
        process.stdin.flush()
        status = Path(f"/proc/{process.pid}/status").read_text()
        (kilobytes,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.M)
        writer.close()
        process.stdin.close()
        assert process.wait(TIMEOUT) == 0
    return int(kilobytes) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "args",
    [
        ["fit", "-", "--checkpoint", "s.json", "-q"],
        ["normalize", "--online", "-", "-o", "out.arrows", "-q"],
    ],
)
def test_memory_does_not_grow_with_the_stream(args: list[object], tmp_path: Path) -> None:
    short, long = (peak(tmp_path, args, batches) for batches in (60, 300))
    assert long - short < 50e6  # the difference in data is 154 MB
