"""Copies, pickles, and threads that read while others learn."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from normalizers import NAN, bits, column, fit, policies, record, row_of, same_bits, xs

import streambn as sbn


@policies
@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda o, p=p: pickle.loads(pickle.dumps(o, p)) for p in range(2, 6)),
    ],
    ids=["copy", "deepcopy", *(f"pickle {p}" for p in range(2, 6))],
)
def test_copies_are_equal_and_independent(policy: Any, copied: Callable[[Any], Any]) -> None:
    data = [record(x=[1.0, None, 3.0], y=[NAN, 2.0, 8.0]), record(y=[1.0], x=[5.0])]
    norm = fit(*data, policy=policy, eps=0.5, affine={"x": (2.0, 1.0)})
    other = copied(norm)
    assert type(other) is sbn.Normalizer
    assert bits(other) == bits(norm)
    before = bits(norm)
    other.update(data[0])
    assert bits(norm) == before
    assert bits(other) == bits(norm.update(data[0]))
    frozen = norm.freeze()
    twin = copied(frozen)
    assert type(twin) is sbn.FrozenNormalizer
    assert twin == frozen
    assert hash(twin) == hash(frozen)
    assert same_bits(column(twin.transform(data[0])), column(frozen.transform(data[0])))
    with pytest.raises(AttributeError):
        twin.anything = 1


def test_normalizer_without_data_can_be_copied() -> None:
    norm = sbn.Normalizer(sbn.EMA(alpha=0.5), columns=["x"], eps=0.25)
    other = pickle.loads(pickle.dumps(norm))
    assert bits(other.update(xs(1.0))) == bits(norm.update(xs(1.0)))


def test_readers_see_one_whole_state_during_an_update() -> None:
    """Columns x and y hold the same values, so every whole state treats them alike."""
    rng = np.random.default_rng(4)
    parts = [rng.normal(i, 1 + i, 64) for i in range(400)]
    norm = fit(record(x=parts[0], y=parts[0]))
    probe = record(x=np.arange(50.0), y=np.arange(50.0))
    done, problems, reads = threading.Event(), [], []

    def read() -> None:
        n = 0
        while not done.is_set() or n < 3:
            out = norm.transform(probe)
            if not out["x"].equals(out["y"]):
                problems.append("transform")
            mean, count = norm.stats()["mean"].to_pylist(), norm.stats()["count"].to_pylist()
            if mean[0] != mean[1] or count[0] != count[1] or count[0] % 64:
                problems.append("stats")
            frozen = norm.freeze()
            if frozen.transform(probe) != frozen.transform(probe):
                problems.append("freeze")
            n += 1
        reads.append(n)

    threads = [threading.Thread(target=read) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for i, part in enumerate(parts[1:]):
            batch = record(x=part, y=part)
            norm.update_transform(batch) if i % 3 == 0 else norm.update(batch)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval)
    assert problems == []
    assert len(reads) == 4
    assert bits(norm) == bits(fit(*[record(x=p, y=p) for p in parts]))


def test_concurrent_writers_lose_no_batch() -> None:
    norm = fit(xs(0.0))
    barrier = threading.Barrier(4)

    def write() -> None:
        barrier.wait(60)
        for i in range(50):
            norm.update(xs(1.0)) if i % 2 else norm.update_transform(xs(1.0))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write) for _ in range(4)]:
            done.result(60)
    assert row_of(norm)["count"] == 201


def test_readers_never_see_a_half_learned_table() -> None:
    seen = set()

    class Watching(sbn.Welford):
        __slots__ = ()

        def update(self, state: Any, columns: Any) -> Any:
            seen.add(row_of(norm)["count"])
            return super().update(state, columns)

    norm = sbn.Normalizer(Watching())
    norm._statistics = dataclasses.replace(fit(xs(0.0))._statistics, policy=Watching())
    table = pa.Table.from_batches([xs(1.0), xs(2.0), xs(3.0)])
    norm.update(table)
    assert seen == {1}
    seen.clear()
    norm.update_transform(table)
    assert seen == {4}
