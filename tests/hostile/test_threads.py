"""Threads that learn at once, with rows whose conversion lets other threads run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streambn as sbn


class Key(Enum):
    """Names whose hash is Python code."""

    A = "a"
    B = "b"
    C = "c"


@pytest.fixture(autouse=True)
def hurried_threads() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*steps: Callable[[], None]) -> None:
    """Run functions at the same time, and raise the first error of any."""
    barrier, errors = threading.Barrier(len(steps)), []

    def run(step: Callable[[], None]) -> None:
        barrier.wait()
        try:
            step()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


POLICIES = [sbn.Welford(), sbn.EMA(alpha=0.5, adjust=False), sbn.Exact(), sbn.BatchEMA(decay=0.5)]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("names", [[f"n{i}" for i in range(8)], list(Key)], ids=["texts", "enum"])
def test_a_feature_is_registered_once(policy: sbn.policies.Policy, names: list[Any]) -> None:
    for _ in range(10 if isinstance(policy, sbn.Welford) else 2):
        rows = sbn.RowNormalizer(policy)

        def learn(rows: sbn.RowNormalizer = rows) -> None:
            for name in names:
                rows.learn_one({name: Decimal("1.5"), "all": Decimal(2)})

        at_once(learn, learn)
        found = rows.stats().to_pylist()
        assert sorted(map(str, rows.features)) == sorted([*map(str, names), "all"])
        assert {row["column"]: row["count"] for row in found} == {
            **{str(name): 2 for name in names},
            "all": 2 * len(names),
        }
        assert {row["count"] + row["nulls"] for row in found} == {2 * len(names)}


def test_rows_and_frames_are_learned_at_once() -> None:
    for _ in range(5):
        rows = sbn.RowNormalizer()

        def one(rows: sbn.RowNormalizer = rows) -> None:
            for i in range(20):
                rows.learn_one({f"n{i}": Decimal(1), "x": 1.0})

        def many(rows: sbn.RowNormalizer = rows) -> None:
            for i in range(0, 20, 2):
                rows.learn_many(pa.record_batch({f"n{i}": [1.0, 2.0], "x": [2.0, 3.0]}))

        at_once(one, many, lambda rows=rows: [rows.stats() for _ in range(9)])
        found = rows.stats().to_pylist()
        assert sorted(rows.features) == sorted(["x", *(f"n{i}" for i in range(20))])
        assert {row["count"] + row["nulls"] for row in found} == {40}
        [x] = [row for row in found if row["column"] == "x"]
        assert x["count"] == 40
        rows.to_normalizer()


def test_columns_of_a_union_are_added_once() -> None:
    norm = sbn.Normalizer(schema="union")

    def learn() -> None:
        for i in range(12):
            norm.update(pa.table({f"c{i}": [1.0, 2.0], "all": [1.0, 3.0]}))

    at_once(learn, learn, learn)
    found = norm.stats().to_pylist()
    assert {row["column"]: row["count"] for row in found} == {
        "all": 72,
        **{f"c{i}": 6 for i in range(12)},
    }
    assert {row["count"] + row["nulls"] for row in found} == {72}


def test_one_estimator_learns_while_others_transform() -> None:
    sklearn = pytest.importorskip("streambn.adapters.sklearn")
    data = np.arange(12.0).reshape(6, 2)
    estimator = sklearn.SklearnNormalizer().fit(data)

    def learn() -> None:
        for _ in range(20):
            estimator.partial_fit(data)

    def transform() -> None:
        for _ in range(20):  # the mean stays the same, whatever part was learned
            assert np.allclose(estimator.transform(data).mean(axis=0), 0)

    at_once(learn, transform, transform)
    assert estimator.n_samples_seen_ == 6 * 21
