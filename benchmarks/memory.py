"""Memory of a long stream: fit and apply over batches that are made on the fly.

    python -m benchmarks.memory [MILLIONS OF ROWS]

prints the resident memory after the first million rows and at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import streambn as sbn

BATCH = 100_000
COLUMNS = 8


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(0)
    for _ in range(rows // BATCH):
        values = rng.normal(1e6, 1, size=(COLUMNS, BATCH))
        nulls = np.zeros(BATCH, bool)
        nulls[::7] = True
        arrays = [pa.array(column, mask=nulls) for column in values]
        yield pa.record_batch(arrays, names=[f"x{i}" for i in range(COLUMNS)])


def resident() -> float:
    """MB of memory that the process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status: this needs Linux")


def watched(stream: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """Pass a stream through and report memory after its first million rows, and at its end."""
    rows, first, highest = 0, 0.0, 0.0
    for batch in stream:
        yield batch
        rows += batch.num_rows
        if rows % 1_000_000 == 0:
            now = resident()
            first = first or now
            highest = max(highest, now)
    print(
        f"{name:6} {rows:>11,} rows   {first:6.0f} MB after 1M rows   "
        f"{highest:6.0f} MB at most   growth {highest - first:+.1f} MB"
    )


def main() -> None:
    rows = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 50_000_000
    norm = sbn.Normalizer(sbn.EMA(halflife=1_000_000))
    norm.update(watched(batches(rows), "fit"))
    applied = norm.freeze().transform(watched(batches(rows), "apply"))
    kept = sum(batch.num_rows for batch in applied)
    assert kept == rows, "rows were lost"


if __name__ == "__main__":
    main()
