"""Compiled kernels: instruction sets, threads, fork, and memory."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from moment_checks import COUNTS
from native_kernels import (
    F2,
    F4,
    F8,
    core_transform,
    feature_transform,
    masked_array,
    native,
    run_transform,
)
from producers import LAYOUT, Producer, batch_node, forget_exports

import streambn as sbn
from streambn.errors import InvalidValueError
from streambn.kernels import BoundColumn, Columns, Layout, MomentArrays

pytestmark = pytest.mark.usefixtures("check_released")


# Every type, plain and in lists, with and without nulls, in lengths around the limits of the
# compiled loops.
SIMD_SCRIPT = """
def arrays(rows):
    rng = np.random.default_rng(rows)
    x = rng.normal(1e6, 1, rows)
    null = rng.random(rows) < 0.1
    for kind in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split():
        small = kind in ("f2", "i1", "u1")
        with np.errstate(all="ignore"):
            v = (np.abs(x - 1e6) * 30 if small or kind == "i2" else np.abs(x) * 1000).astype(kind)
        for mask in (None, null):
            yield pa.array(v, mask=mask)
        flat = pa.array(v[: rows // 3 * 3], mask=null[: rows // 3 * 3])
        yield pa.FixedSizeListArray.from_arrays(flat, 3)
    for bits, digits in ((32, 9), (64, 18), (128, 38), (256, 76)):
        if rows < 2000:
            kind = getattr(pa, f"decimal{bits}")(digits, 2)
            yield pa.array([Decimal(int(v)) / 100 for v in x], kind, mask=null)
    spoiled = np.where(null, rng.choice([np.nan, np.inf, -np.inf, 1e300, 1e-300], rows), x)
    yield pa.array(spoiled, mask=np.roll(null, 1), from_pandas=False)
    yield pa.array(x * 1e-310)

for rows in (1, 7, 65, 511, 513, 1025, 32769, 140001):
    for array in arrays(rows):
        size = getattr(array.type, "list_size", None)
        columns = Columns(pa.record_batch({"x": array}), Layout([BoundColumn((0,), size)]))
        for decay in (1.0, 0.99, 0.0):
            for ignore_na in (False, True):
                found.append(native.block_moments(columns, decay, ignore_na).memory)
"""


def test_instruction_sets_give_the_same_moments(by_instruction_set):
    found = by_instruction_set(SIMD_SCRIPT)
    first = MomentArrays(found["baseline"])
    assert first.memory.shape[1] > 1000
    for other in map(MomentArrays, found.values()):
        for name in (*COUNTS, "min", "max", "weight", "pairs", "squares", "decay", "exponent"):
            a, b = getattr(first, name), getattr(other, name)
            assert a.tobytes() == b.tobytes(), name
        # The error of a square comes from a fused multiply-add or from split factors. The two
        # differ below the hundredth bit where that error is subnormal.
        for name in ("mean", "m2"):
            (a, b), (c, d) = (
                (getattr(m, f"{name}_hi"), getattr(m, f"{name}_lo")) for m in (first, other)
            )
            assert (np.abs((a - c) + (b - d)) <= 1e-28 * np.abs(a)).all()


def large_batch():
    """Return a batch of many types that is long enough for several threads."""
    rng = np.random.default_rng(0)
    rows = 3_000_000
    x = rng.normal(1e6, 1, rows)
    null = rng.random(rows) < 0.1
    spoiled = np.where(null, np.nan, x)
    cents = pa.py_buffer((x * 1e4).astype(np.int64))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x[:rows].astype(F4), mask=null), 1)
    return pa.record_batch(
        {
            "plain": pa.array(x),
            "nulls": pa.array(x, mask=null),
            "nan": pa.array(spoiled, from_pandas=False),
            "int8": pa.array((x % 100).astype(np.int8)),
            "int64": pa.array((x * 1e9).astype(np.int64), mask=null),
            "decimal": pa.Array.from_buffers(pa.decimal64(18, 4), rows, [None, cents]),
            "list": lists,
            "half": pa.array(x.astype(np.float32) - 1e6).cast(pa.float16()),
        }
    )


LARGE = Layout([BoundColumn((i,), 1 if i == 6 else None) for i in range(8)])


def result_bytes(columns):
    """Yield the bytes of all moments and outputs of the columns."""
    width = columns.layout.features
    for decay, ignore_na in ((1.0, False), (0.999, False), (0.999, True)):
        yield native.block_moments(columns, decay, ignore_na).memory.tobytes()
    dtypes = [F8, F4, F8, F2, F8, F8, F4, F8][:width]
    for function in (native.normalize, native.denormalize):
        out = run_transform(function, columns, feature_transform(width, 1e6, 2.0, clip=2.5), dtypes)
        yield out.nans.tobytes() + out.infs.tobytes()
        for array in out.arrays:
            yield from (b.to_pybytes() for b in array.buffers() if b)
            yield array.null_count


def test_results_do_not_depend_on_the_number_of_threads(threads):
    columns = Columns(large_batch(), LARGE)
    threads(1)
    expected = list(map(hash, result_bytes(columns)))
    for count in (2, 3, 8):
        threads(count)
        assert list(map(hash, result_bytes(columns))) == expected


def test_any_number_of_threads_is_accepted(threads):
    for count in (1, 7, 2**31 - 1, 2**31, 2**40, 10**30):
        threads(count)
        assert native.block_moments(Columns.of(pa.array([1.0, 3.0]))).mean_hi[0] == 2


def test_concurrent_calls_are_independent(threads):
    batch = large_batch().slice(0, 400_000)
    jobs = [Columns(batch.slice(7 * i, 300_000), LARGE) for i in range(12)]
    threads(1)
    expected = [list(map(hash, result_bytes(job))) for job in jobs]
    threads(3)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: list(map(hash, result_bytes(job))), jobs))
    assert found == expected


def test_concurrent_calls_with_new_decays():
    columns = Columns.of(pa.array(np.random.default_rng(0).normal(size=3000)))
    decays = [0.5 + i / 1000 for i in range(60)] * 4
    alone = [native.block_moments(columns, decay).memory.tobytes() for decay in decays]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda decay: native.block_moments(columns, decay).memory, decays)
        assert [memory.tobytes() for memory in together] == alone


def moments_and_nulls(columns):
    moments = native.block_moments(columns, 0.999)
    out = run_transform(native.normalize, columns, feature_transform(8, 1e6), [F8] * 8)
    return moments.memory.tobytes(), [array.null_count for array in out.arrays]


def _run_in_child(queue, columns, count):
    native.set_threads(count)
    queue.put(moments_and_nulls(columns))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork: Linux or macOS")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parent_and_child_work_after_fork(threads):
    columns = Columns(large_batch().slice(0, 1_000_000), LARGE)
    threads(3)
    expected = moments_and_nulls(columns)
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    for count in (1, 3):
        child = fork.Process(target=_run_in_child, args=(queue, columns, count))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert queue.get() == expected
    assert moments_and_nulls(columns) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork: Linux or macOS")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_works_after_fork_during_a_call(threads):
    columns = Columns(large_batch().slice(0, 300_000), LARGE)
    threads(3)
    memory = native.block_moments(columns, 0.999).memory.tobytes()
    ended = threading.Event()

    def work():
        while not ended.is_set():
            native.block_moments(columns, 0.999)

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:  # a failed assertion would run the rest of pytest here
                same = native.block_moments(columns, 0.999).memory.tobytes() == memory
                os._exit(0 if same else 1)
            assert _exit_code(pid, seconds=60) == 0
    finally:
        ended.set()
        busy.join()


def _exit_code(pid, seconds):
    """Wait for a process and return its exit code; kill one that hangs and return None."""
    for _ in range(seconds * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_any_thread_may_release_outputs_even_at_exit():
    code = """
import threading, numpy as np, pyarrow as pa
from streambn.kernels import Columns, FeatureTransform, native
one = np.ones(1)
transform = FeatureTransform.of(one, one, one, None, None, None, np.ones(1, bool))
columns = Columns.of(pa.array(np.arange(1e4) % 100))
make = lambda: native.normalize(columns, transform, pa.schema({"0": pa.float64()})).batch.columns
box = [make() for _ in range(20)]
workers = [threading.Thread(target=box.pop) for _ in range(10)]
[w.start() for w in workers], [w.join() for w in workers]
# Arrow's own threads, which do not hold the GIL, drop the last references.
for _ in range(5):
    chunks = pa.chunked_array([make()[0] for _ in range(10)])
    assert pa.table({"x": chunks}).group_by("x").aggregate([]).num_rows == 100
    del chunks
keep = make()
class AtExit:
    def __del__(self, arrays=make()):
        pass
last = AtExit()
print("done")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "done"), ran.stderr


def test_outputs_outlive_their_input_and_normalizer():
    batch = pa.record_batch({"x": masked_array(np.arange(5000.0), np.arange(5000) % 7 > 0)})
    norm = sbn.Normalizer().update(batch)
    expected = norm.transform(batch).to_pylist()
    out = norm.transform(pa.record_batch(batch.columns, schema=batch.schema))
    column, part = out.column(0), out.column(0).slice(4000, 9)
    del batch, norm, out
    gc.collect()
    junk = [np.full(5000, 7.0) for _ in range(50)]
    assert column.to_pylist() == [row["x"] for row in expected]
    del column
    gc.collect()
    junk += [np.full(64_000, 7.0) for _ in range(50)]
    assert part.to_pylist() == [row["x"] for row in expected[4000:4009]]


@pytest.mark.parametrize("rows", [10, 100_000])
def test_arrow_allocates_and_frees_outputs(rows):
    gc.collect()
    columns = Columns.of(masked_array(np.arange(float(rows)), np.arange(rows) % 3 > 0))
    before = pa.total_allocated_bytes()
    out = run_transform(native.normalize, columns, feature_transform(1), [F8])
    grown = pa.total_allocated_bytes() - before
    # Small outputs share 64 KB; Arrow rounds larger ones up to 64 bytes.
    assert rows * 8 <= grown <= max(2 * 65536, rows * 8 + rows // 8 + 65536 + 256)
    assert out.arrays[0].buffers()[1].address % 64 == 0
    del out, columns
    assert pa.total_allocated_bytes() <= before  # arrays of earlier tests may be freed meanwhile


def resident_memory():
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.memory
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc: run it on Linux")
def test_repeated_calls_and_errors_leak_nothing():
    rows = 5000
    batch = pa.record_batch(
        {
            "x": masked_array(np.arange(float(rows)), np.arange(rows) % 3 > 0),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * rows)), 2),
        }
    )
    layout = Layout([BoundColumn((0,), None), BoundColumn((1,), 2)])
    columns = Columns(batch, layout)
    wrong = Columns(batch, Layout([BoundColumn((0,), None), BoundColumn((1,), 3)]))
    node = batch_node()
    node.children[0].n_buffers = 1
    numbers, flags, counts = np.ones((3, 3)), np.ones((2, 3), bool), np.zeros((2, 3), np.int64)
    arguments = numbers, flags, None, None, 1.0, False, "gx", counts, 1
    failing = (
        lambda: native.block_moments(wrong),
        lambda: run_transform(native.normalize, wrong, feature_transform(4), [F8, F8]),
        lambda: native.block_moments(Columns(Producer(node), LAYOUT)),
        # This call fails after it has allocated the first column.
        lambda: core_transform(batch, layout.packed, *arguments),
    )

    def calls():
        for decay in (1.0, 0.9):
            native.merge_moments(*[native.block_moments(columns, decay)] * 2)
        out = run_transform(native.normalize, columns, feature_transform(3), [F8, F4])
        run_transform(native.denormalize, columns, feature_transform(3), [F2, F8])
        for call in failing:
            with contextlib.suppress(InvalidValueError, ValueError):
                call()
        forget_exports()
        return out

    for _ in range(200):
        calls()
    gc.collect()
    allocated, held = pa.total_allocated_bytes(), resident_memory()
    for _ in range(2000):
        calls()
    gc.collect()
    assert pa.total_allocated_bytes() == allocated
    # 16,000 calls that leak 100 bytes each would add 1.6 MB.
    assert resident_memory() - held < 1_500_000
