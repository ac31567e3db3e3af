"""An endless stream of numbered batches, and a loop that learns it, for tests and processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

import streambn as sbn

__all__ = ["ROWS", "batch", "learn", "undisturbed"]

ROWS = 4  # of a batch


def batch(number: int) -> pa.RecordBatch:
    """Return one batch."""
    values = np.random.default_rng(number).normal(1e6, 3.0, ROWS)
    return pa.record_batch({"x": values, "y": values**2})


def undisturbed(batches: int, policy: Any = None) -> sbn.Normalizer:
    """Return the statistics of the first batches."""
    norm = sbn.Normalizer(policy)
    for number in range(batches):
        norm.update(batch(number))
    return norm


def learn(checkpoint: sbn.Checkpointer, norm: sbn.Normalizer, numbers: Iterable[int]) -> None:
    """Learn and commit some batches."""
    for number in numbers:
        checkpoint.commit(norm.update(batch(number)), {"next": number + 1})
