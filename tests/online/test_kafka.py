"""The recipes for Kafka in the guide, run as they stand there, against a broker on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cli_process import TIMEOUT, until
from normalizers import bits

import streambn as sbn

kafka = pytest.importorskip(
    "confluent_kafka", reason="needs confluent-kafka: pip install 'streambn[kafka]'"
)

GUIDE = (Path(__file__).parents[2] / "streambn" / "online" / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
WORKER, GROUP = [block for block in BLOCKS if "confluent_kafka" in block]
[JSON_DECODE] = [block for block in BLOCKS if "from_pylist" in block]
ARROW_DECODE = re.search(r"^def decode.*?\n\n\n", WORKER, re.M | re.S)[0]

PARTITIONS = 4
Messages = list[tuple[int, pa.Table]]


def tables(count: int) -> Messages:
    """Return messages: the partition and the rows of each."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(count):
        rows = int(rng.integers(1, 6))
        price = pa.array(rng.normal(1e6, 3.0, rows), mask=rng.random(rows) < 0.1)
        volume = rng.integers(-(2**60), 2**60, rows)
        found.append((number % PARTITIONS, pa.table({"price": price, "volume": volume})))
    return found


def as_arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_json(table: pa.Table) -> bytes:
    rows = table.to_pylist()
    return json.dumps(rows[0] if len(rows) == 1 else rows).encode()


def undisturbed(messages: Messages) -> sbn.Normalizer:
    norm = sbn.Normalizer(sbn.Exact())
    for _, table in messages:
        norm.update(table)
    return norm


@pytest.fixture
def address() -> Iterator[str]:
    """Run a broker in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("kafka_broker.py")), "orders"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as broker:
        try:
            yield broker.stdout.readline().strip()
        finally:
            broker.communicate(timeout=TIMEOUT)


def produce(address: str, messages: Messages, encode: Callable[[pa.Table], bytes]) -> None:
    producer = kafka.Producer({"bootstrap.servers": address, "linger.ms": 0})
    for partition, table in messages:
        producer.produce("orders", encode(table), partition=partition)
    assert producer.flush(TIMEOUT) == 0


@contextlib.contextmanager
def process(code: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run code in a process, which is killed at the end of the block."""
    command = [sys.executable, "-c", code]
    with (
        (folder / "errors").open("ab") as errors,
        subprocess.Popen(command, cwd=folder, stderr=errors) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def run_until(true: Callable[[], bool], *running: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a condition holds while processes run."""
    until(lambda: true() or any(each.poll() is not None for each in running))
    assert [each.poll() for each in running] == [None] * len(running), errors_in(folder)


def errors_in(folder: Path) -> str:
    return (folder / "errors").read_text()


def replaced(code: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in code
        code = code.replace(old, new)
    return code


def number_of(offsets: dict[str, int]) -> int:
    return sum(offsets.values())


# --- one worker -------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["arrow", "json"])
def test_killed_worker_learns_each_message_once(
    payload: str, address: str, tmp_path: Path, long: bool
) -> None:
    messages = tables(3000 if long else 300)
    produce(address, messages, {"arrow": as_arrow, "json": as_json}[payload])
    code = replaced(
        WORKER,
        ("localhost:9092", address),
        ('every="30s"', "every=1"),  # so that a kill finds a write under way
        ("consume(500, timeout=1.0)", "consume(3, timeout=0.2)"),
    )
    if payload == "json":
        code = replaced(code, (ARROW_DECODE, JSON_DECODE))
    path, rng = tmp_path / "orders.json", random.Random(payload)

    def reached() -> int:
        return number_of(sbn.load(path).metadata) if path.exists() else 0

    for last in sorted(rng.sample(range(1, len(messages)), 30 if long else 3)):
        before = reached()
        with process(code, tmp_path) as worker:
            run_until(lambda last=last: reached() >= last, worker, folder=tmp_path)
            worker.send_signal(signal.SIGKILL)
        saved = sbn.load(path)  # whole, and of some messages of each partition
        seen = {int(p): offset for p, offset in saved.metadata.items()}
        known = [m for i, m in enumerate(messages) if i // PARTITIONS < seen.get(m[0], 0)]
        assert bits(saved) == bits(undisturbed(known))
        assert number_of(seen) >= before
    with process(code, tmp_path) as worker:
        until(lambda: reached() == len(messages) or worker.poll() is not None)
        assert worker.poll() is None, (tmp_path / "err").read_text()
    assert bits(sbn.load(path)) == bits(undisturbed(messages))


# --- a group of workers -----------------------------------------------------------------


def partitions_of(worker: subprocess.Popen[bytes]) -> set[int]:
    """Return the partitions whose files a process has locked."""
    found = set()
    for handle in Path(f"/proc/{worker.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := re.search(r"\.orders-(\d)\.json\.lock$", os.readlink(handle)):
                found.add(int(match[1]))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_partitions_move_between_workers(address: str, tmp_path: Path, long: bool) -> None:
    messages = tables(1200 if long else 240)
    third = len(messages) // 3
    code = replaced(
        GROUP,
        ("localhost:9092", address),
        ('every="30s"', "every=1"),
        ("poll(1.0)", "poll(0.2)"),
        # The shortest timeout that the broker bears.
        ('"enable.auto.commit"', '"session.timeout.ms": 3500, "heartbeat.interval.ms": 200, '
         '"enable.auto.commit"'),
    )  # fmt: skip
    paths = [tmp_path / f"orders-{p}.json" for p in range(PARTITIONS)]

    def reached(partitions: Any = range(PARTITIONS)) -> int:
        found = (paths[p] for p in partitions if paths[p].exists())
        return sum(sbn.load(path).metadata["offset"] for path in found)

    with process(code, tmp_path) as first, process(code, tmp_path) as killed:

        def both(true: Callable[[], bool]) -> None:
            run_until(true, first, killed, folder=tmp_path)

        both(lambda: [len(partitions_of(each)) for each in (first, killed)] == [2, 2])
        produce(address, messages[:third], as_arrow)
        both(lambda: reached() == third)

        # A worker dies while it learns, and the other one goes on from its files.
        mine, half = partitions_of(killed), third + third // 2
        produce(address, messages[third:half], as_arrow)
        both(lambda: reached(mine) > third // 2 + 3)
        killed.kill()
        produce(address, messages[half : 2 * third], as_arrow)
        run_until(lambda: reached() == 2 * third, first, folder=tmp_path)
        assert partitions_of(first) == {0, 1, 2, 3}

        # A worker joins, and the other one closes the files of the partitions that it loses.
        with process(code, tmp_path) as joined:
            run_until(lambda: len(partitions_of(joined)) == 2, first, joined, folder=tmp_path)
            produce(address, messages[2 * third :], as_arrow)
            run_until(lambda: reached() == len(messages), first, joined, folder=tmp_path)
            for worker in (first, joined):
                worker.send_signal(signal.SIGINT)
            for worker in (first, joined):
                worker.wait(TIMEOUT)
    assert errors_in(tmp_path).count("\nKeyboardInterrupt") == 2
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".lock")] == []
    merged = sbn.merge(map(sbn.load, paths))
    assert bits(merged) == bits(undisturbed(messages))
