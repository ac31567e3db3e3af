"""The recipe for Arrow Flight in the guide: normalizers are swapped without a gap."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cli_process import until
from pyarrow import flight

import streambn as sbn

GUIDE = (Path(__file__).parents[2] / "streambn" / "online" / "README.md").read_text()
[RECIPE] = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    if "pyarrow.flight" in block
]
SCHEMA = pa.schema({"x": pa.float64()})


class Source(flight.FlightServerBase):
    """Streams batches, each as soon as `more` is released, until `done` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.more, self.done = threading.Semaphore(0), threading.Event()

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.RecordBatchStream:
        return flight.GeneratorStream(SCHEMA, self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng(5)
        while self.more.acquire() and not self.done.is_set():
            yield pa.record_batch([rng.normal(50.0, 9.0, 4)], schema=SCHEMA)


@pytest.fixture
def recipe() -> dict[str, Any]:
    """Run the recipe, and return its names."""
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(RECIPE, "README.md", "exec"), names)
    return names


def test_a_client_gets_each_batch_by_one_normalizer(recipe: dict[str, Any], long: bool) -> None:
    """The service learns while clients exchange batches with it. No answer is missing or mixed."""
    swaps, clients = 200 if long else 30, 3
    known: dict[str, sbn.FrozenNormalizer] = {}

    class Service(recipe["Service"]):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "frozen":
                known[value.fingerprint] = value  # before a client can get it
            super().__setattr__(name, value)

    answers: list[tuple[pa.RecordBatch, pa.RecordBatch, str]] = []
    swapped = threading.Event()

    def exchange(port: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        with flight.connect(f"grpc://localhost:{port}") as client:
            writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
            with writer:
                writer.begin(SCHEMA)
                while not swapped.is_set():
                    batch = pa.record_batch([rng.normal(0.0, 1.0, 3)], schema=SCHEMA)
                    writer.write_batch(batch)
                    chunk = reader.read_chunk()
                    by = chunk.app_metadata.to_pybytes().decode()
                    answers.append((batch, chunk.data, by))
                writer.done_writing()

    with Source() as source, Service() as service:
        norm = sbn.Normalizer()
        with flight.connect(f"grpc://localhost:{source.port}") as client:
            stream = client.do_get(flight.Ticket(b""))
            learner = threading.Thread(target=service.learn, args=(norm, stream))
            learner.start()
            source.more.release()
            until(lambda: len(known) == 1)
            threads = [
                threading.Thread(target=exchange, args=(service.port, seed))
                for seed in range(clients)
            ]
            for thread in threads:
                thread.start()
            for swap in range(1, swaps):
                before = len(answers)
                source.more.release()
                until(lambda want=swap + 1: len(known) == want)
                until(lambda before=before: len(answers) >= before + clients)
            swapped.set()
            for thread in threads:
                thread.join()
            source.done.set()
            source.more.release()
            learner.join()
    assert norm.stats()["count"][0].as_py() == 4 * swaps
    assert len(known) == swaps
    used = {by for _, _, by in answers}
    assert used <= known.keys()
    assert len(used) > swaps // 2
    for batch, out, by in answers:
        assert out.equals(known[by].transform(batch))
