"""A structured stream teaches each row once, whatever stops it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_process import run_script

import streambn as sbn

pytest.importorskip("pyspark", reason="needs pyspark: pip install pyspark")

from pyspark.errors import StreamingQueryException

from streambn.adapters.spark import StreamingFit

FILES = 6
SCHEMA = "x double, t long"


def write(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        times = [100 * number + i for i in range(50)]
        values = [1e9 + (i * 7919 % 101) for i in times]
        pq.write_table(pa.table({"x": values, "t": times}), folder / f"{number}.parquet")


def run(spark: Any, folder: Path, learn: Any, checkpoint: str = "checkpoint") -> None:
    """Learn each file that is there as a micro-batch."""
    stream = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1)
    query = (
        stream.parquet(str(folder / "in"))
        .writeStream.foreachBatch(learn)
        .option("checkpointLocation", str(folder / checkpoint))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()


def local(policy: Any, folder: Path) -> sbn.Normalizer:
    return sbn.Normalizer(policy, ["x"]).update(pq.read_table(folder / "in"))


def test_a_stream_has_the_statistics_of_its_rows(spark: Any, tmp_path: Path) -> None:
    write(tmp_path / "in", range(3))
    norm, path = sbn.Normalizer(sbn.Exact(), ["x"]), tmp_path / "s.json"
    learn = StreamingFit(norm, path)
    assert (learn.batch, learn.normalizer.features) == (None, ())
    run(spark, tmp_path, learn)
    assert learn.batch == 2
    assert learn.normalizer.freeze() == local(sbn.Exact(), tmp_path).freeze()
    saved = sbn.load(path)
    assert (saved.metadata["batch"], saved.freeze()) == (2, learn.normalizer.freeze())
    assert norm.features == ()

    # The query goes on where it stopped, and the statistics from their file.
    write(tmp_path / "in", range(3, 5))
    run(spark, tmp_path, StreamingFit(norm, path))
    assert sbn.load(path).metadata["batch"] == 4
    assert sbn.load(path).freeze() == local(sbn.Exact(), tmp_path).freeze()

    # Another query would count its batches from 0 again.
    for again in (StreamingFit(norm, path), learn):
        with pytest.raises(StreamingQueryException, match="of another query"):
            run(spark, tmp_path, again, "another")
    other = StreamingFit(sbn.Normalizer(columns=["x"]), path)
    with pytest.raises(sbn.InvalidValueError, match="with another policy"):
        other(spark.range(1), 5)


def test_a_replayed_batch_changes_nothing(spark: Any, tmp_path: Path) -> None:
    df = spark.range(10).selectExpr("double(id) AS x")
    norm, path = sbn.Normalizer(sbn.Exact()), tmp_path / "s.json"
    learn = StreamingFit(norm, path)
    learn(df, 0)
    content = path.read_bytes()
    for again in (learn, StreamingFit(norm, path)):
        again(df, 0)
        assert path.read_bytes() == content
    learn(df, 1)
    assert sbn.load(path).stats()["count"].to_pylist() == [20]
    with pytest.raises(sbn.InvalidValueError, match="of another query"):
        learn(df, 0)


def test_batches_that_are_lacking_are_logged(
    spark: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learn = StreamingFit(sbn.Normalizer(), tmp_path / "s.json")
    learn(spark.range(1), 0)
    learn(spark.range(1), 3)
    assert "lacks the batches 1 to 2" in caplog.text


def test_a_batch_that_is_refused_changes_nothing(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    learn = StreamingFit(sbn.Normalizer(), path)
    learn(spark.range(10).selectExpr("double(id) AS x"), 0)
    content = path.read_bytes()
    with pytest.raises(sbn.InvalidValueError, match="infinity"):
        learn(spark.range(2).selectExpr("double('inf') AS x"), 1)
    assert (learn.batch, path.read_bytes()) == (0, content)
    learn(spark.range(2).selectExpr("double(id) AS x"), 1)
    assert learn.batch == 1


def test_late_rows_count_by_their_event_times(spark: Any, tmp_path: Path) -> None:
    policy = sbn.EMA(halflife=40.0, time="t")
    learn = StreamingFit(sbn.Normalizer(policy, ["x"]), tmp_path / "s.json")
    late = spark.range(50).selectExpr("double(id) AS x", "id AS t")
    learn(late.where("id % 3 > 0"), 0)
    learn(late.where("id % 3 = 0"), 1)
    expected = sbn.Normalizer(policy, ["x"]).update(late.coalesce(1).toArrow()).stats()
    for name in ("mean", "var"):
        [found], [value] = learn.normalizer.stats()[name].to_pylist(), expected[name].to_pylist()
        assert found == pytest.approx(value, rel=1e-13)


def test_a_file_of_other_statistics_is_left_alone(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    sbn.Normalizer().update(pa.table({"x": [1.0]})).save(path)
    content = path.read_bytes()
    with pytest.raises(sbn.SnapshotError, match="not those of a stream"):
        StreamingFit(sbn.Normalizer(), path)(spark.range(1), 0)
    assert path.read_bytes() == content


def test_arguments_of_another_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sbn.InvalidValueError, match="normalizer must be"):
        StreamingFit(sbn.Exact(), tmp_path / "s.json")
    with pytest.raises(sbn.InvalidValueError, match="path must be a path"):
        StreamingFit(sbn.Normalizer(), 7)


# The process kills itself in a batch: before the statistics are written, or after.
KILLED = """
import os, signal, sys
import streambn as sbn
from pyspark.sql import SparkSession
from streambn.adapters.spark import StreamingFit

folder, fatal, after = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "after"
builder = SparkSession.builder.master("local[1]")
for name, value in SETTINGS.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
learn = StreamingFit(sbn.Normalizer(sbn.Exact(), ["x"]), f"{folder}/s.json")

def batch(df, number):
    if number == fatal and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    learn(df, number)
    if number == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

stream = spark.readStream.schema("x double, t long").option("maxFilesPerTrigger", 1)
query = (
    stream.parquet(f"{folder}/in").writeStream.foreachBatch(batch)
    .option("checkpointLocation", f"{folder}/checkpoint").trigger(availableNow=True).start()
)
query.awaitTermination()
"""


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_a_stream_killed_in_a_batch_goes_on(spark: Any, tmp_path: Path, moment: str) -> None:
    write(tmp_path / "in", range(FILES))
    with run_script(KILLED, tmp_path, 2, moment) as killed:
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert sbn.load(tmp_path / "s.json").metadata["batch"] == (1 if moment == "before" else 2)
    run(spark, tmp_path, StreamingFit(sbn.Normalizer(sbn.Exact(), ["x"]), tmp_path / "s.json"))
    saved = sbn.load(tmp_path / "s.json")
    assert saved.metadata["batch"] == FILES - 1
    assert saved.freeze() == local(sbn.Exact(), tmp_path).freeze()
