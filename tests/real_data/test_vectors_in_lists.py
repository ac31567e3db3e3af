"""Vectors that are stored as lists whose type has no length, and tensors as nested lists."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good, stats
from normalizers import fit, policies

import streambn as sbn

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

ROWS = [[1.0, 2.0, 3.0], None, [3.0, None, 9.0], [5.0, 8.0, 9.0]]
FLAT = pa.array(ROWS, pa.list_(pa.float32(), 3))
LISTS = {
    "list": pa.list_(pa.float32()),
    "large_list": pa.large_list(pa.float32()),
    "list_view": pa.list_view(pa.float32()),
    "large_list_view": pa.large_list_view(pa.float32()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
@policies
def test_lists_of_one_length_are_vectors(policy: Any, kind: pa.DataType) -> None:
    batch = pa.record_batch({"id": [1, 2, 3, 4], "v": pa.array(ROWS, kind)})
    flat = pa.record_batch({"id": [1, 2, 3, 4], "v": FLAT})
    norm, expected = fit(columns=["v"], policy=policy), fit(columns=["v"], policy=policy)
    for start, length in ((1, 1), (0, 3), (2, 2), (4, 0)):  # the first piece has no list
        norm.update(batch.slice(start, length))
        expected.update(flat.slice(start, length))
    assert norm.features == ("v[0]", "v[1]", "v[2]")
    assert norm.stats().equals(expected.stats())
    out, want = norm.transform(batch), expected.transform(flat)
    assert out.schema.field("v").type == kind
    assert out["v"].to_pylist() == want["v"].to_pylist()
    assert out["id"].equals(batch["id"])
    back = norm.inverse_transform(out)
    assert back.schema.field("v").type == kind
    # Either way of storage goes with the other.
    assert norm.transform(flat)["v"].equals(want["v"])
    assert expected.transform(batch)["v"].equals(out["v"])
    assert norm.update(flat).stats().equals(expected.update(batch).stats())


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [1.0]], [[1.0], [1.0, 2.0]]])
def test_another_length_is_refused(rows: list[list[float]]) -> None:
    norm = fit(pa.table({"v": [rows[0]]}), columns=["v"])
    before = norm.stats()
    message = rf"'v' holds vectors of {len(rows[0])} numbers, but row 1 .* has {len(rows[1])}"
    with pytest.raises(sbn.SchemaError, match=message):
        norm.update(pa.table({"v": rows}))
    assert norm.stats().equals(before)
    with pytest.raises(sbn.SchemaError, match="an empty list"):
        fit(pa.table({"v": pa.array([[]], pa.list_(pa.float64()))}), columns=["v"])


def test_lists_are_left_out_unless_named_and_the_message_says_so() -> None:
    norm = fit(pa.table({"x": [1.0], "v": [[1.0, 2.0]]}))
    assert norm.features == ("x",)
    assert "name it" in norm.statistics.left_out[0].reason
    with pytest.raises(sbn.SchemaError, match=r"Remove it from columns=\.$"):  # no cast helps
        fit(pa.table({"x": [1.0], "v": [["a"]]}), columns=["v"])


def test_nested_lists_are_tensors() -> None:
    images = np.arange(24.0).reshape(4, 2, 3)
    kind = pa.list_(pa.list_(pa.float64(), 3), 2)
    batch = pa.record_batch({"image": pa.array(images.tolist(), kind)})
    norm = fit(batch)
    assert norm.features == tuple(f"image[{i}]" for i in range(6))
    assert norm.stats()["mean"].to_pylist() == images.reshape(4, 6).mean(axis=0).tolist()
    out = norm.transform(batch)
    assert out.schema.field("image").type == kind
    expected = (images - images.mean(axis=0)) / images.std(axis=0)
    np.testing.assert_allclose(out["image"].to_pylist(), expected, rtol=1e-14)
    missing = pa.record_batch({"image": pa.array([None, [None, [1, 2, None]]], kind)})
    assert norm.update(missing).stats()["nulls"].to_pylist() == [2, 2, 2, 1, 1, 2]


def test_files_of_other_writers() -> None:
    duckdb.sql(
        "COPY (SELECT i AS frame, [i*1.0, i*2.0, 3.0]::FLOAT[3] AS v FROM range(6) t(i)) "
        "TO 'duckdb.parquet'"
    )
    pd.DataFrame({"v": [[float(i), i * 2.0, 3.0] for i in range(6)]}).to_parquet("pandas.parquet")
    for name in ("duckdb", "pandas"):
        good(
            "normalize", f"{name}.parquet", "-o", "o.parquet", "--save", "s.json", "--columns", "v"
        )
        assert [row["mean"] for row in stats("s.json").values()] == [2.5, 5.0, 3.0]
        good("apply", "s.json", f"{name}.parquet", "-o", "p.parquet", "--verify")
        given, out = (pq.read_table(f"{n}.parquet")["v"] for n in (name, "o"))
        values = np.array(given.to_pylist())
        std = np.where(values.std(axis=0) == 0, 1, values.std(axis=0))
        expected = (values - values.mean(axis=0)) / std
        np.testing.assert_allclose(out.to_pylist(), expected, rtol=1e-6, atol=1e-7)
    pq.write_table(pa.table({"v": [[1.0, 2.0], [3.0]]}), "ragged.parquet")
    assert "row 1" in bad(3, "fit", "ragged.parquet", "-o", "r.json", "--columns", "v")


def test_vectors_may_begin_with_elements_that_are_all_null() -> None:
    nothing = pa.table({"v": pa.array([[None, None]])})
    norm = sbn.Normalizer(columns=["v"]).update(nothing).update(pa.table({"v": [[1, 2], [3, 6]]}))
    assert norm.stats()["mean"].to_pylist() == [2.0, 4.0]
    assert norm.stats()["nulls"].to_pylist() == [1, 1]
    assert norm.transform(nothing)["v"].to_pylist() == [[None, None]]


def test_lists_in_structs_are_left_out_aloud() -> None:
    tensor = pa.list_(pa.list_(pa.float64(), 1), 1)
    kind = pa.struct({"list": pa.list_(pa.float64()), "tensor": tensor, "a": pa.float64()})
    data = pa.table({"s": pa.array([{"list": [1.0], "tensor": [[1.0]], "a": 1.0}], kind)})
    left_out = sbn.Normalizer().update(data).statistics.left_out
    assert [each.column for each in left_out] == ["s.list", "s.tensor"]
    assert not any("name it" in each.reason for each in left_out)
