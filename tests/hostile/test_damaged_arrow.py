"""Damaged Arrow data is refused before anything reads it, or read as Arrow reads it."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cli_process import bad, good, run
from damaged_arrow import LAYOUTS, NUMBERS, ROWS, DamagedStream, damaged_streams, stream_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.arrow import Validator
from streambn.errors import InvalidValueError, StreamBNError

jobs = pytest.mark.usefixtures("jobs_in_a_folder")

USES = {
    "learn": lambda norm, data, **options: norm.update(data, **options),
    "transform": lambda norm, data, **options: norm.transform(data, **options).read_all(),
    "both": lambda norm, data, **options: norm.update_transform(data, **options).read_all(),
}


def opened(data: bytes) -> Any:
    return pa.ipc.open_stream(pa.py_buffer(data))


def validated(stream: DamagedStream) -> pa.RecordBatch | None:
    """Return the batch of a stream if Arrow's full validation passes."""
    try:
        [batch] = opened(stream.data)
        batch.validate(full=True)
    except (pa.ArrowException, OSError):
        return None
    return batch


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the values of a batch as Python sees them, without any encoding."""
    y = batch["y"]
    kind = y.type
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        y = pa.array(y.to_pylist(), kind.value_type)
    elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        y = pa.array(y.to_pylist(), pa.list_(kind.value_type))
    elif pa.types.is_struct(kind):
        fields = [
            pa.array(y.field(i).to_pylist(), t) for i, t in enumerate((pa.float64(), pa.int64()))
        ]
        y = pa.StructArray.from_arrays(fields, ["a", "b"], mask=pa.array(y.is_null()))
    return pa.record_batch({"x": batch["x"], "y": y})


def shown(column: pa.Array | pa.ChunkedArray) -> str:
    """Return the values of a column as text, in which one NaN equals another."""
    if pa.types.is_temporal(column.type):  # Python's types hold years from 1 to 9999 only
        integers = pa.int32() if column.type.bit_width == 32 else pa.int64()
        column = column.cast(integers)
    return repr(column.to_pylist())


def normalizer(layout: str) -> sbn.Normalizer:
    """Return a normalizer of all columns that may have statistics, without data."""
    names = ["x", "y"] if layout in NUMBERS else ["x"]
    return sbn.Normalizer(columns=names, inf="ignore")


@settings.get_profile("many")
@given(stream=damaged_streams())
def test_full_validation_refuses_or_reads_what_arrow_reads(stream: DamagedStream) -> None:
    valid = validated(stream)
    for use in USES.values():
        norm = normalizer(stream.layout).update(opened(stream_of(stream.layout)))
        before = pickle.dumps(norm.statistics)
        try:
            got = use(norm, opened(stream.data), validate="full")
        except StreamBNError:
            assert pickle.dumps(norm.statistics) == before
            continue
        assert valid is not None
        if use is USES["learn"] and stream.layout in NUMBERS:
            again = normalizer(stream.layout).update(
                plain(opened(stream_of(stream.layout)).read_next_batch())
            )
            assert got.stats().equals(again.update(plain(valid)).stats())
        elif use is USES["transform"] and stream.layout not in NUMBERS:
            assert shown(got["y"]) == shown(valid["y"])


@settings.get_profile("many")
@given(stream=damaged_streams(tuple(NUMBERS)))
def test_columns_with_statistics_are_validated_in_any_case(stream: DamagedStream) -> None:
    """If lengths and buffers fit each other, no index or offset leads out of them."""
    try:
        [batch] = opened(stream.data)
        batch.validate()
    except (pa.ArrowException, OSError):
        return
    norm = normalizer(stream.layout).update(opened(stream_of(stream.layout)))
    before = pickle.dumps(norm.statistics)
    for use in USES.values():
        try:
            use(norm, iter([batch]))
        except StreamBNError:
            assert pickle.dumps(norm.statistics) == before
        norm = pickle.loads(pickle.dumps(sbn.Normalizer.from_statistics(pickle.loads(before))))


@jobs
@settings(
    settings.get_profile("few"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stream=damaged_streams())
def test_jobs_refuse_or_read_what_arrow_reads(stream: DamagedStream) -> None:
    for path in Path().iterdir():
        path.unlink()
    Path("valid.arrows").write_bytes(stream_of(stream.layout))
    good("fit", "valid.arrows", "-o", "s.json", "--columns", "x", "--inf", "ignore")
    Path("d.arrows").write_bytes(stream.data)
    valid = validated(stream)
    for command in (
        ("fit", "d.arrows", "-o", "d.json", "--inf", "ignore"),
        ("apply", "s.json", "d.arrows", "-o", "out.arrows"),
    ):
        if valid is None:
            assert "d.arrows" in bad(1, *command)
            continue
        good(*command)
    if valid is not None:
        out = pa.ipc.open_stream("out.arrows").read_all()
        assert shown(out["y"]) == shown(valid["y"])


@jobs
@settings(
    settings.get_profile("few"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    layout=st.sampled_from([*LAYOUTS]),
    codec=st.sampled_from([None, "lz4", "zstd"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_random_bytes_end_no_job(
    layout: str, codec: str | None, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(stream_of(layout, codec))
    for place, value in changes:
        data[int(place * len(data))] = value
    for path in Path().iterdir():
        path.unlink()
    Path("valid.arrows").write_bytes(stream_of(layout))
    good("fit", "valid.arrows", "-o", "s.json", "--columns", "x")
    Path("d.arrows").write_bytes(data)
    for command in (
        ("fit", "d.arrows", "-o", "d.json"),
        ("apply", "s.json", "d.arrows", "-o", "o.arrows"),
    ):
        done = run(*command)
        assert done.returncode == 0 or "d.arrows" in done.stderr
        assert done.returncode in (0, 1, 3)


def damage(data: bytes, old: np.ndarray, new: np.ndarray) -> bytes:
    assert data.count(old.tobytes()) == 1
    return data.replace(old.tobytes(), new.tobytes())


def three_batches(path: str, damaged: int | None, kind: Any) -> None:
    """Write batches of x = 0 … 9, 10 … 19 and 20 … 29, one of them with a bad offset of text."""
    with kind(path, pa.schema({"x": pa.float64(), "s": pa.string()})) as writer:
        for number in range(3):
            text = pa.array(["abc" * (number + 1)] * 10)
            writer.write_batch(
                pa.record_batch([pa.array(np.arange(10.0) + 10 * number), text], ["x", "s"])
            )
    if damaged is not None:
        offsets = np.arange(11, dtype=np.int32) * 3 * (damaged + 1)
        bad_offsets = offsets.copy()
        bad_offsets[4] = 2**31 - 1
        Path(path).write_bytes(damage(Path(path).read_bytes(), offsets, bad_offsets))


@jobs
@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize(
    ("path", "kind"), [("d.arrow", pa.ipc.new_file), ("d.arrows", pa.ipc.new_stream)]
)
@pytest.mark.parametrize("policy", ["exact", "batch-ema --momentum 0.1"])  # joins batches or not
def test_damaged_batch_is_skipped_alone(damaged: int, path: str, kind: Any, policy: str) -> None:
    three_batches(path, None, kind)
    good("fit", path, "-o", "s.json")
    three_batches(path, damaged, kind)
    place = f"in record batch {damaged}: column 's': Offset invariant failure"
    flags = ("--policy", *policy.split(), "--columns", "*")
    if kind is pa.ipc.new_stream:  # a file is read without the columns that have no statistics
        assert place in bad(1, "fit", path, "-o", "f.json", *flags)
        done = good("fit", path, "-o", "f.json", "--on-error", "skip", *flags)
        assert done.stderr.count(f"skipped {path}, in record batch {damaged}: ") == 1
        assert "20 rows" in done.stderr
    for out in ("o.csv", "o.parquet", "o.arrow"):
        message = bad(1, "apply", "s.json", path, "-o", out)
        assert message.startswith(f"streambn: {path}: damaged")
        assert place in message
        done = good("apply", "s.json", path, "-o", out, "--on-error", "skip")
        assert f"skipped {path}, in record batch {damaged}: " in done.stderr
        assert "20 rows" in done.stderr


@jobs
def test_pipe_skips_a_damaged_batch_and_goes_on() -> None:
    three_batches("d.arrows", 1, pa.ipc.new_stream)
    done = run(
        "fit",
        "-",
        "-o",
        "f.json",
        "--on-error",
        "skip",
        input=Path("d.arrows").read_bytes(),
        text=False,
    )
    assert b"in record batch 1" in done.stderr
    assert sbn.load("f.json").stats()["count"].to_pylist() == [20]


def test_a_dictionary_is_validated_once_and_its_indices_always() -> None:
    texts = pa.array(["a", "b", "c"])

    def batch(*indices: int) -> pa.RecordBatch:
        column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), texts, safe=False)
        return pa.record_batch({"k": column})

    validator = Validator()
    for _ in range(2):
        validator.check(batch(0, 1, 2))
        for index in (3, -1, 127):
            with pytest.raises(pa.ArrowInvalid, match="column 'k'"):
                validator.check(batch(0, index))
    offsets, _ = pa.py_buffer(np.array([0, 1, 99, 3], np.int32)), texts.buffers()[2]
    damaged = pa.StringArray.from_buffers(3, offsets, texts.buffers()[2])
    column = pa.DictionaryArray.from_arrays(pa.array([0]), damaged, safe=False)
    for _ in range(2):
        with pytest.raises(pa.ArrowInvalid, match="column 'k'"):
            validator.check(pa.record_batch({"k": column}))


@jobs
def test_rows_without_bytes_are_bounded() -> None:
    data = bytearray(stream_of("null"))
    for at in (i for i in range(len(data) - 8) if data[i : i + 8] == ROWS.to_bytes(8, "little")):
        data[at : at + 8] = (2**62).to_bytes(8, "little")
    Path("d.arrows").write_bytes(data)
    assert "damaged" in bad(1, "fit", "d.arrows", "-o", "d.json")
    with pytest.raises(InvalidValueError, match="damaged"):
        sbn.Normalizer().update(opened(bytes(data)), validate="full")
    huge = pa.RecordBatch.from_struct_array(
        pa.StructArray.from_buffers(pa.struct([]), 2**62, [None])
    )
    assert huge.num_rows == 2**62
    with pa.ipc.new_stream("z.arrows", huge.schema) as writer:
        writer.write_batch(huge)
    assert "4,611,686,018,427,387,904 rows" in bad(1, "fit", "z.arrows", "-o", "z.json")


tells_memory = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the system does not tell the memory"
)
# The peak of `getrusage` may be that of the process that started this one.
MEASURE = """
import re, sys
from streambn.cli import main
code = main.run(sys.argv[1:])
print(code, re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@jobs
@tells_memory
@pytest.mark.parametrize(
    ("path", "length"),
    [("d.arrows", 2**34), ("d.arrows.gz", 2**34), ("d.arrows", 2**40), ("d.arrows", 2**63 - 1)],
)
def test_declared_length_takes_no_memory(path: str, length: int) -> None:
    data = stream_of("float64")
    damaged = damage_length(data, length)
    Path(path).write_bytes(gzip.compress(damaged) if path.endswith("gz") else damaged)
    command = [sys.executable, "-c", MEASURE, "fit", path, "-o", "s.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"{path}: damaged or truncated" in done.stderr
    code, kilobytes = map(int, done.stdout.split())
    assert code == 1
    assert kilobytes < 500_000


def damage_length(data: bytes, length: int) -> bytes:
    """Declare another length for the body of the first batch of a stream."""
    at = 8 + int.from_bytes(data[4:8], "little")  # the message after the schema
    table = at + 8 + int.from_bytes(data[at + 8 : at + 12], "little")
    fields = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    place = table + int.from_bytes(data[fields + 10 : fields + 12], "little")
    return data[:place] + length.to_bytes(8, "little") + data[place + 8 :]


@jobs
@tells_memory
@pytest.mark.parametrize("length", [2**31 - 1, -5])
def test_declared_metadata_takes_no_memory(length: int) -> None:
    data = stream_of("float64")
    Path("d.arrows").write_bytes(data[:4] + length.to_bytes(4, "little", signed=True) + data[8:])
    command = [sys.executable, "-c", MEASURE, "fit", "d.arrows", "-o", "s.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "d.arrows: damaged or truncated" in done.stderr
    code, kilobytes = map(int, done.stdout.split())
    assert code == 1
    assert kilobytes < 500_000


@jobs
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("length", [2**40, 2**63 - 1, -2, 0, 7999])
def test_declared_uncompressed_length_is_refused(codec: str, length: int) -> None:
    values = pa.record_batch({"x": np.zeros(1000)})
    with pa.ipc.new_file(
        "d.arrow", values.schema, options=pa.ipc.IpcWriteOptions(compression=codec)
    ) as writer:
        writer.write_batch(values)
        writer.write_batch(values)
    data = Path("d.arrow").read_bytes()
    at = data.index(struct.pack("<q", 8000), 300)
    Path("d.arrow").write_bytes(data[:at] + struct.pack("<q", length) + data[at + 8 :])
    assert (
        "d.arrow: damaged or truncated, not readable as an Arrow IPC file in record batch"
        in bad(1, "fit", "d.arrow", "-o", "s.json")
    )
    done = good("fit", "d.arrow", "-o", "s.json", "--on-error", "skip")
    assert "1,000 rows" in done.stderr


@jobs
def test_a_long_run_is_decoded_in_parts() -> None:
    rows = 3 * 2**20 + 5
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([7, rows]), pa.array([1.0, 3.0]))
    with pa.ipc.new_stream("r.arrows", pa.schema({"x": runs.type})) as writer:
        writer.write_batch(pa.record_batch({"x": runs}))
    good("fit", "r.arrows", "-o", "r.json")
    stats = sbn.load("r.json").stats()
    assert stats["count"].to_pylist() == [rows]
    assert stats["max"].to_pylist() == [3.0]


@pytest.mark.parametrize("value", ["Full", "", None, True, "none"])
def test_unknown_validation_is_refused(value: Any) -> None:
    batch = pa.record_batch({"x": [1.0, 2.0]})
    norm = sbn.Normalizer().update(batch)
    for use in (
        norm.update,
        norm.transform,
        norm.inverse_transform,
        norm.update_transform,
        norm.freeze().transform,
    ):
        with pytest.raises(InvalidValueError, match="'basic' or 'full'") as error:
            use(batch, validate=value)
        assert error.value.argument == "validate"
    assert norm.stats()["count"].to_pylist() == [2]
