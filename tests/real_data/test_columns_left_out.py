"""Columns that have no statistics: the pandas index, text, lists, and excluded columns."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good, stats

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.adapters.sklearn import SklearnNormalizer

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")


def test_the_index_of_pandas_passes_through_in_every_command() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0]})
    kept = frame[frame.a != 3]  # its index is 0, 1, 3
    kept.to_parquet("p0.parquet")
    frame.to_parquet("p1.parquet")  # without a column for its index
    done = good("normalize", "p0.parquet", "-o", "o.parquet", "--save", "s.json")
    assert "left out: __index_level_0__ (index of the DataFrame)" in done.stderr
    good("apply", "s.json", "p0.parquet", "-o", "q.parquet", "--quiet", "--verify")
    expected = (kept - kept.mean()) / kept.std(ddof=0)
    for name in ("o.parquet", "q.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(name), expected)
    good("fit", "p0.parquet", "p1.parquet", "-o", "both.json", "--quiet")
    assert stats("both.json")["a"]["count"] == 7
    good("fit", "p0.parquet", "-o", "named.json", "--columns", "a,__index_level_0__")
    assert stats("named.json")["__index_level_0__"]["mean"] == pytest.approx(4 / 3)


WIDE = pa.table(
    {
        "id": [1, 2],
        "label": [0, 1],
        "c,d": [1.0, 2.0],
        " x": [3.0, 5.0],
        "sensor_1": [1.0, 2.0],
        "sensor_2": [1.0, 2.0],
        "name": ["a", "b"],
        "tags": [[1.0], [2.0, 3.0]],
    }
)
ALL = ["id", "label", "c,d", " x", "sensor_1", "sensor_2"]


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ([], ALL),
        (["--exclude", "id,label"], ALL[2:]),
        (["--exclude", "id", "--exclude", "s*", "--exclude", '"c,d"'], ["label", " x"]),
        (["--columns", "sensor_?"], ["sensor_1", "sensor_2"]),
        (["--columns", '"c,d"," x"'], ["c,d", " x"]),
        (["--columns", "*", "--exclude", "sensor_*"], ALL[:4]),
    ],
)
def test_names_patterns_and_quotes(flags: list[str], chosen: list[str]) -> None:
    pq.write_table(WIDE, "t.parquet")
    good("fit", "t.parquet", "-o", "s.json", *flags)
    assert [*stats("s.json")] == chosen
    good("normalize", "t.parquet", "-o", "o.parquet", *flags)
    out = pq.read_table("o.parquet")
    for name in WIDE.schema.names:
        assert out[name].equals(WIDE[name]) == (name not in chosen)


def test_a_wrong_name_is_refused_in_the_words_of_the_shell() -> None:
    pq.write_table(WIDE, "t.parquet")
    message = bad(3, "fit", "t.parquet", "-o", "s.json", "--exclude", "lable")
    assert message.startswith("streambn: --exclude: t.parquet: exclude: column 'lable'")
    assert "Did you mean 'label'?" in message
    message = bad(3, "fit", "t.parquet", "-o", "s.json", "--columns", "name")
    assert "--columns" in message
    assert "columns=" not in message
    both = bad(2, "fit", "t.parquet", "-o", "s.json", "--columns", "id", "--exclude", "id")
    assert "'id'" in both


def test_what_is_left_out_is_said_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(WIDE, "t.parquet")
    expected = {"name": "string", "tags": None}
    for command in (
        ["fit", "t.parquet", "-o", "s.json"],
        ["normalize", "t.parquet", "-o", "o.parquet"],
        ["apply", "s.json", "t.parquet", "-o", "p.parquet"],
    ):
        done = good(*command, "--json")
        [line] = [line for line in done.stderr.splitlines() if "left out" in line]
        assert line.startswith("streambn: left out: name (string), tags (list<")
        reported = {each["column"]: each["reason"] for each in json.loads(done.stdout)["left_out"]}
        assert reported.keys() == expected.keys()
    shown = json.loads(good("show", "s.json", "--format", "json").stdout)
    assert [each["column"] for each in shown["left_out"]] == ["name", "tags"]
    assert "left out     name (string), tags" in good("show", "s.json").stdout
    with caplog.at_level(logging.INFO, "streambn"):
        sbn.Normalizer().update(WIDE).update(WIDE)
    [record] = caplog.records
    assert "name (string)" in record.message


def test_numbers_in_text_are_recognized() -> None:
    Path("t.csv").write_text('id,B\n1,"2,288"\n2,"1,047"\n3,194\n')
    done = good("fit", "t.csv", "-o", "s.json")
    assert (
        "left out: B (string; 100 % of its values look like numbers: --thousands ," in done.stderr
    )
    good("fit", "t.csv", "-o", "s.json", "--thousands", ",")
    assert stats("s.json")["B"]["mean"] == (2288 + 1047 + 194) / 3


def test_adapters_select_columns() -> None:
    scaler = RiverNormalizer(exclude=["id", "l*"])
    named = RiverNormalizer(columns=["sensor_*"])
    rows = WIDE.to_pylist()
    for row in rows:
        scaler.learn_one(row)
        named.learn_one(row)
    out = scaler.transform_one(rows[0])
    assert (out["id"], out["label"], out["sensor_1"]) == (1, 0, -1.0)
    out = named.transform_one(rows[0])
    assert (out["id"], out["c,d"], out["sensor_2"]) == (1, 1.0, -1.0)
    frame = pd.DataFrame({name: WIDE[name].to_pylist() for name in ALL})
    batches = RiverNormalizer(exclude=["id", "l*"])
    batches.learn_many(frame)
    pd.testing.assert_series_equal(batches.transform_many(frame)["id"], frame["id"])
    assert np.array_equal(batches.transform_many(frame)["sensor_1"], [-1.0, 1.0])
    restored = RiverNormalizer.from_normalizer(batches.to_normalizer())
    assert restored.transform_one(rows[0])["id"] == 1


def test_scikit_learn_takes_frames_with_text() -> None:
    frame = WIDE.drop_columns(["tags"]).to_pandas()
    expected = frame.copy()
    for name in ("c,d", " x", "sensor_1", "sensor_2"):
        expected[name] = [-1.0, 1.0]
    for how in (
        {"exclude": ["id", "l*", "name"]},
        {"columns": ["c,d", " x", "sensor_*"]},
        {"columns": lambda field: pa.types.is_floating(field.type)},
    ):
        scaler = SklearnNormalizer(**how).set_output(transform="pandas")
        pd.testing.assert_frame_equal(scaler.fit_transform(frame), expected)
        assert scaler.n_samples_seen_ == 2
