"""The loop of a streaming job: the step in NumPy is right, and the tables are whole."""

from __future__ import annotations

import importlib

import numpy as np
import pyarrow as pa

import streambn as sbn

online = importlib.import_module("benchmarks.online")


def test_the_step_in_numpy_does_the_same() -> None:
    rng = np.random.default_rng(0)
    ours, arrays, batches = sbn.Normalizer(eps=1e-8), online.NumPyStep(3), online.NumPyStep(3)
    for _ in range(5):
        x = rng.normal(size=(8, 3))
        batch = pa.record_batch({f"x{i}": x[:, i].copy() for i in range(3)})
        z = np.column_stack(ours.update_transform(batch).columns)
        # It starts from a variance of 1 that counts as a ten-thousandth of a row.
        for out in (arrays.array(x), np.column_stack(batches.batch(batch).columns)):
            np.testing.assert_allclose(out, z, rtol=1e-4, atol=1e-4)


def test_everything_is_measured_and_judged(monkeypatch, capsys) -> None:
    monkeypatch.setattr(online, "SHAPES", online.SHAPES[:2])
    assert online.main(None, rounds=1, quick=True) == 0
    printed = capsys.readouterr().out
    for text in (
        "8 × 17, array: update_transform against NumPy",
        "NumPy, batch",
        "stats() 20 times",
    ):
        assert text in printed


def test_bounds_compare_within_rounds() -> None:
    samples = {
        "update": (1.0, 2.0, 1.0), "frozen.transform": (1.0, 2.0, 1.0),
        "update, transform": (2.2, 4.4, 2.2), "update_transform, running": (2.8, 5.6, 2.8),
        "NumPy, batch": (2.8, 5.6, 2.8), "NumPy, array": (1.0, 1.0, 1.0),
        "update_transform, array": (1.5, 1.5, 1.5),
    }  # fmt: skip
    found = online.bounds({str(online.ENVIRONMENTS): samples}, 1.01)
    assert [round(bound.measured, 9) for bound in found] == [1.4, 1.2, 1.0, 1.5, 1.01]
    assert [bound.holds for bound in found] == [True, True, True, False, True]
