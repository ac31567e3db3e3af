"""Small batches are joined, in order, and never wait for later ones."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.io import Joined, join_small, joins
from streambn.io.pipes import Pipe

X = pa.table({"x": [1.0, 2.0, 3.0], "s": ["a", None, "c"]})


def batches(*rows: int) -> list[pa.RecordBatch]:
    """Return batches of so many rows, whose values count on."""
    starts = [sum(rows[:i]) for i in range(len(rows))]
    return [
        pa.record_batch({"x": pa.array(range(start, start + count), pa.float64())})
        for start, count in zip(starts, rows, strict=True)
    ]


@given(rows=st.lists(st.sampled_from([0, 1, 7, 5000]), max_size=30))
def test_the_parts_are_the_batches(rows: list[int]) -> None:
    given = batches(*rows)
    joined = [*join_small(given)]
    assert [part for each in joined for part in each.parts()] == given
    assert [cut for each in joined for cut in each.cuts] == rows
    # A batch of 5,000 rows is not small, and stays as it is.
    for each in joined:
        assert len(each.cuts) == 1 or max(each.cuts) < 5000


def test_joined_batches_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "_ENOUGH", 800)
    assert [each.cuts for each in join_small(batches(*[50] * 5))] == [(50, 50), (50, 50), (50,)]


@pytest.mark.parametrize("type_", [pa.dictionary(pa.int8(), pa.string()), pa.string_view()])
def test_batches_with_rare_types_stay_alone(type_: pa.DataType) -> None:
    batch = pa.record_batch({"x": pa.array(["a"]).cast(type_)})
    assert [*join_small([batch, batch])] == [Joined(batch, (1,))] * 2


def test_no_batch_waits_for_one_that_is_not_ready() -> None:
    here = iter([False, True, False, True, True, False])
    joined = join_small(batches(1, 2, 3, 4, 5), lambda: next(here))
    assert [each.cuts for each in joined] == [(1, 2), (3, 4, 5)]


def test_an_error_comes_after_the_batches_before_it() -> None:
    def damaged() -> Iterator[pa.RecordBatch]:
        yield from batches(1, 2)
        raise OSError("damaged")

    joined = join_small(damaged())
    assert next(joined).cuts == (1, 2)
    with pytest.raises(OSError, match="damaged"):
        next(joined)


def test_a_pipe_knows_which_messages_are_complete() -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, X.schema) as writer:
        writer.write_table(X, max_chunksize=1)
    stream = sink.getvalue()
    end, start = os.pipe()
    with open(end, "rb", buffering=0) as raw, open(start, "wb", buffering=0) as producer:
        pipe = Pipe(raw)
        assert not pipe.has_message()
        producer.write(stream[:-20])
        reader = pa.ipc.open_stream(pipe)
        complete = 0
        while pipe.has_message():
            reader.read_next_batch()
            complete += 1
        assert complete == 2
        producer.write(stream[-20:])
        assert not pipe.has_message()  # a part of it is not in the buffer
        assert reader.read_next_batch().to_pydict() == {"x": [3.0], "s": ["c"]}
        assert not pipe.has_message()
        producer.close()
        with pytest.raises(StopIteration):
            reader.read_next_batch()


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 7, b"\xff" * 9, b"\xff\xff\xff\xff\1\0\0\0" * 9]
)
def test_what_is_no_message_is_never_complete(content: bytes) -> None:
    assert not Pipe(io.BytesIO(content)).has_message()
