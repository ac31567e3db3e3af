"""Streams through the command: batches pass at once, and statistics are saved."""

from __future__ import annotations

import functools
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cli_process import ENV, TIMEOUT, ipc, piped, run, state, unread, until
from data_files import some_table, write_as

import streambn as sbn

TABLE = some_table(600)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_in(checkpoint: Path) -> int:
    """Return the number of rows in a checkpoint."""
    if not checkpoint.exists():
        return 0
    lane = sbn.load(checkpoint).stats().select(["count", "nulls"]).to_pylist()[0]
    return int(lane["count"] + lane["nulls"])


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
@pytest.mark.parametrize("every", [["--checkpoint-every", "1h"], ["--checkpoint-every", 1]])
def test_checkpoint_of_an_endless_stream_holds_all_batches_so_far(every: list[object]) -> None:
    checkpoint = Path("s.json")
    fit = ["fit", "-", "--checkpoint", "s.json", "-q"]
    with piped(*fit, *every) as process:
        writer = pa.ipc.new_stream(process.stdin, TABLE.schema)
        for sent in (100, 200, 300):
            writer.write_table(TABLE.slice(sent - 100, 100))
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
    for more in (TABLE.slice(300), TABLE.slice(600)):  # the second stream is empty
        done = run(*fit, "--resume", input=ipc(more, 100), text=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert rows_in(checkpoint) == 600
    expected = sbn.Normalizer(sbn.Exact()).update(TABLE)  # independent of batches
    assert sbn.load(checkpoint).stats() == expected.stats()


def ready(pid: int) -> bool:
    """Return whether a process handles SIGUSR1."""
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(line, 16) >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.parametrize(
    "command",
    [["apply", "s.json"], ["normalize", "--online"], ["normalize", "--online", "--by-row"]],
)
def test_each_batch_passes_before_the_next_one_comes(command: list[str]) -> None:
    sbn.Normalizer().update(TABLE).save("s.json")
    online = sbn.Normalizer()
    expected: Callable[[pa.RecordBatch], pa.RecordBatch] = functools.partial(
        online.update_transform, by_row="--by-row" in command
    )
    if command[0] == "apply":
        expected = sbn.load("s.json").transform
    with piped(*command, "-", "-o", "-", "-q") as process:
        writer = pa.ipc.new_stream(process.stdin, TABLE.schema)
        process.stdin.flush()
        reader = None
        for batch in TABLE.to_batches(max_chunksize=100):
            writer.write_batch(batch)
            process.stdin.flush()
            reader = reader or pa.ipc.open_stream(process.stdout)
            assert reader.read_next_batch().to_pydict() == expected(batch).to_pydict()
        writer.close()
        process.stdin.close()
        assert list(reader) == []
        assert process.wait(TIMEOUT) == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stopped_and_continued_process_loses_no_bytes(unbuffered: str) -> None:
    """A system call that writes to a pipe then writes only a part."""
    table = pa.table({"x": np.arange(200_000.0)})
    write_as("data.arrow", table, 100_000)
    statistics = sbn.Normalizer().update(table)
    statistics.save("s.json")
    environment = {**ENV, "PYTHONUNBUFFERED": unbuffered}
    with piped("apply", "s.json", "data.arrow", "-o", "-", "-q", env=environment) as process:
        full = bytes(4)

        def waits() -> bool:
            nonlocal full
            before, full = full, unread(process.stdout)
            return full != bytes(4) and full == before and state(process) == "S"

        until(waits)
        for number, wanted in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
            process.send_signal(number)
            until(lambda wanted=wanted: state(process) == wanted)
        found = pa.ipc.open_stream(process.stdout).read_all()
        assert process.wait(TIMEOUT) == 0
    assert found == statistics.freeze().transform(table)


def peak(args: list[str], batches: int) -> int:
    """Send batches to a command; return its peak memory in bytes."""
    rng = np.random.default_rng(0)
    batch = pa.record_batch({f"x{i}": rng.normal(size=20_000) for i in range(4)})
    with piped(*args) as process:
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
def test_memory_does_not_grow_with_the_stream(args: list[str]) -> None:
    short, long = (peak(args, batches) for batches in (60, 300))
    assert long - short < 50e6  # the difference in data is 154 MB


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("rows", [1, 500_000])
def test_a_signal_ends_the_wait_for_csv(rows: int) -> None:
    with piped("fit", "-", "-o", "s.json") as process:
        process.stdin.write(b"a,b\n" + b"1,2.5\n" * rows)
        process.stdin.flush()
        until(lambda: unread(process.stdin) == bytes(4) and state(process) == "S")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    assert not Path("s.json").exists()
