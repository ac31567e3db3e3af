"""Endless streams through the command, and the memory that it takes for them.

    python -m benchmarks.soak [--minutes 10] [--plot soak.svg]

feeds batches that are made on the fly through ``streambn fit - --checkpoint`` and through
``streambn normalize --online``, both at once and as fast as they take them. The checkpoint
is read again and again meanwhile; at the end it must have every row, and every row must
have come out of the other. The memory of both is sampled, drawn, and summed up in a line
for each; the exit code is 1 if one of them grew by more than a tenth.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

import streambn as sbn
from benchmarks.plot import FAINT, INK, STYLES

BATCH = 100_000
COLUMNS = 8
SAMPLES = 600
# What counts as the beginning: caches and pools have then been filled.
SETTLED = 0.2
GROWTH = 1.1


class Sample(NamedTuple):
    """Memory, in MB, so many seconds after the beginning."""

    seconds: float
    megabytes: float


class Soaked:
    """A process that is fed without end."""

    def __init__(self, name: str, args: Sequence[str], batches: Sequence[Any]) -> None:
        self.name, self._batches = name, batches
        self.samples: list[Sample] = []
        self.sent = self.received = 0
        self.seconds = 0.0
        self._stopped = threading.Event()
        reads = "-o" in args
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "streambn.cli.main", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if reads else None,
        )
        self._threads = [threading.Thread(target=self._feed)]
        if reads:
            self._threads.append(threading.Thread(target=self._drain))
        for thread in self._threads:
            thread.start()

    def _feed(self) -> None:
        writer: Any = pa.ipc.new_stream(self.process.stdin, self._batches[0].schema)
        while not self._stopped.is_set():
            batch = self._batches[self.sent // BATCH % len(self._batches)]
            writer.write_batch(batch)
            self.sent += batch.num_rows
        writer.close()
        assert self.process.stdin
        self.process.stdin.close()

    def _drain(self) -> None:
        for batch in pa.ipc.open_stream(self.process.stdout):
            self.received += batch.num_rows

    def sample(self, seconds: float) -> None:
        """Look how much memory it holds."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                self.samples.append(Sample(seconds, int(line.split()[1]) / 1024))

    def finish(self, seconds: float) -> None:
        """End the stream, after so many seconds, and wait for the process."""
        self.seconds = seconds
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        code = self.process.wait()
        assert code == 0, f"{self.name}: exit code {code}"

    @property
    def growth(self) -> float:
        """The highest memory of the last part, as a multiple of the highest of the first."""
        first = int(len(self.samples) * SETTLED)
        before = max(s.megabytes for s in self.samples[: first + 1])
        return max(s.megabytes for s in self.samples[first:]) / before

    def line(self) -> str:
        """Sum it up."""
        return (
            f"{self.name:18} {self.sent:>15,} rows in {self.seconds:.0f} s "
            f"({self.sent / self.seconds / 1e6:.1f} M rows/s)   "
            f"{max(s.megabytes for s in self.samples):.0f} MB at most, "
            f"{self.samples[-1].megabytes:.0f} MB at the end, "
            f"{self.growth:.3f} times what the first fifth took"
        )


def some_batches() -> list[Any]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(8):
        arrays = [
            pa.array(column, mask=rng.random(BATCH) < 0.1)
            for column in rng.normal(1e6, 1, (COLUMNS, BATCH))
        ]
        made.append(pa.record_batch(arrays, names=[f"x{i}" for i in range(COLUMNS)]))
    return made


def rows_in(checkpoint: Path) -> int:
    """Say how many rows a checkpoint has; it must be whole whenever it is read."""
    if not checkpoint.exists():
        return 0
    lane = sbn.load(checkpoint).stats().select(["count", "nulls"]).to_pylist()[0]
    return int(lane["count"] + lane["nulls"])


def draw(soaked: Sequence[Soaked], path: Path) -> None:
    """Draw the memory over time."""
    with mpl.rc_context(
        {
            "svg.hashsalt": "streambn",
            "svg.fonttype": "none",
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    ):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for each, style in zip(soaked, ("streambn", "NumPy"), strict=True):
            seconds, megabytes = zip(*each.samples, strict=True)
            minutes = [s / 60 for s in seconds]
            label = f"{each.name}, {each.sent / 1e9:.2f} billion rows"
            axes.plot(minutes, megabytes, color=STYLES[style][0], linewidth=1.2, label=label)
        axes.set_xlabel("minutes")
        axes.set_ylabel("resident memory in MB")
        axes.set_ylim(bottom=0)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, transparent=True, metadata=metadata)


def soak(minutes: float, folder: Path) -> list[Soaked]:
    """Let both run for so long."""
    batches = some_batches()
    checkpoint = folder / "fit.json"
    keeping = ["--checkpoint", str(checkpoint), "--checkpoint-every", "1s"]
    soaked = [
        Soaked("fit", ["fit", "-", *keeping, "-q"], batches),
        Soaked("normalize --online", ["normalize", "--online", "-", "-o", "-", "-q"], batches),
    ]
    began = time.monotonic()
    known = 0
    while (passed := time.monotonic() - began) < minutes * 60:
        for each in soaked:
            each.sample(passed)
        now = rows_in(checkpoint)
        assert now >= known, "the checkpoint went back"
        known = now
        time.sleep(minutes * 60 / SAMPLES)
    for each in soaked:
        each.finish(time.monotonic() - began)
    fitted, normalized = soaked
    assert rows_in(checkpoint) == fitted.sent, "rows were lost"
    assert normalized.received == normalized.sent, "rows were lost"
    return soaked


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--plot", type=Path, default=Path("soak.svg"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak(args.minutes, Path(folder))
    draw(soaked, args.plot)
    for each in soaked:
        print(each.line())
    return int(any(each.growth > GROWTH for each in soaked))


if __name__ == "__main__":
    sys.exit(main())
