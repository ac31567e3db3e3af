"""Pages around floats as they lie in memory: read back as written, by whoever reads Parquet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streambn import plainpages
from streambn.rewriting import Assembly

TYPES = {"float32": pa.float32(), "float64": pa.float64()}
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308]


def write(path: Path, column: pa.ChunkedArray, field: pa.Field, codec: str) -> None:
    """Write a file of one column, made here and assembled as others are."""
    with open(path, "wb") as file:
        assembly = Assembly(file.write, pa.schema([field]), codec)
        assembly.add(plainpages.chunk(column.chunks, field, codec))
        assembly.end_group(len(column))
        assembly.close()


def same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Compare to the last bit, NaN and the sign of zero included."""
    bits = pa.int32() if one.type == pa.float32() else pa.int64()

    def viewed(column: pa.ChunkedArray) -> pa.Array:
        filled = column.combine_chunks().fill_null(0)
        return filled.view(bits)

    return one.is_null().equals(other.is_null()) and viewed(one).equals(viewed(other))


@st.composite
def columns(draw: st.DrawFn) -> pa.ChunkedArray:
    type_ = draw(st.sampled_from(list(TYPES.values())))
    nulls = draw(st.sampled_from([0.0, 0.1, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    chunks = []
    for length in draw(st.lists(st.integers(1, 300), min_size=1, max_size=4)):
        values = rng.normal(size=length + 3)
        at = rng.integers(0, length + 3, size=draw(st.integers(0, 9)))
        values[at] = rng.choice(SPECIAL, size=len(at))
        with np.errstate(over="ignore"):
            values = values.astype(type_.to_pandas_dtype())
        array = pa.array(values, type_, mask=rng.random(length + 3) < nulls)
        chunks.append(array.slice(draw(st.integers(0, 3)), length))
    return pa.chunked_array(chunks, type_)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(column=columns(), codec=st.sampled_from(list(plainpages.CODECS)), page=st.integers(1, 400))
def test_what_is_written_is_read_and_described_as_arrow_would(
    column: pa.ChunkedArray, codec: str, page: int, tmp_path: Path
) -> None:
    nullable = column.null_count > 0 or page % 2 == 0
    field = pa.field("x", column.type, nullable=nullable, metadata={"unit": "m"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plainpages, "_PAGE_ROWS", page)
        write(tmp_path / "ours.parquet", column, field, codec)
    table = pa.table([column], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "theirs.parquet", compression=codec, use_dictionary=False)
    back = pq.read_table(tmp_path / "ours.parquet")
    assert back.schema.equals(table.schema, check_metadata=True)
    assert same(back["x"], column)

    ours, theirs = (
        pq.read_metadata(tmp_path / name).row_group(0).column(0)
        for name in ("ours.parquet", "theirs.parquet")
    )
    assert ours.compression == theirs.compression
    assert ours.num_values == theirs.num_values
    assert ours.statistics.null_count == theirs.statistics.null_count
    assert ours.statistics.has_min_max == theirs.statistics.has_min_max
    if theirs.statistics.has_min_max:
        for end in ("min", "max"):
            mine, other = getattr(ours.statistics, end), getattr(theirs.statistics, end)
            assert (mine, math.copysign(1, mine)) == (other, math.copysign(1, other))


@pytest.mark.parametrize("codec", plainpages.CODECS)
@pytest.mark.parametrize("nulls", [0.0, 0.3])
def test_others_read_it_too(codec: str, nulls: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=300_000)
    column = pa.chunked_array([pa.array(values, mask=rng.random(len(values)) < nulls)])
    path = tmp_path / "t.parquet"
    write(path, column, pa.field("x", pa.float64()), codec)
    assert pl.read_parquet(path)["x"].to_arrow().cast(pa.float64()).equals(column.combine_chunks())
    counted = "count(x), min(x), max(x), sum(x), count(*) FILTER (x > 3)"
    [found] = duckdb.sql(f"SELECT {counted} FROM '{path}'").fetchall()
    kept = column.drop_null().to_numpy()
    total = pytest.approx(kept.sum(), abs=1e-9)
    assert found == (len(kept), kept.min(), kept.max(), total, (kept > 3).sum())
    # Here the pages' statistics are used to skip what cannot be meant.
    [few] = duckdb.sql(f"SELECT count(*) FROM '{path}' WHERE x > 3").fetchall()
    assert few == ((kept > 3).sum(),)


@pytest.mark.parametrize(
    ("values", "noise"),
    [
        (np.random.default_rng(0).normal(size=100_000), True),
        (np.random.default_rng(0).normal(size=3), True),
        (np.zeros(100_000), False),
        (np.arange(100_000) % 7 / 3, False),
        (np.concatenate([np.random.default_rng(0).normal(size=90_000), np.zeros(10_000)]), False),
        (np.array([]), False),
    ],
    ids=["noise", "a little", "constant", "few values", "constant at the end", "nothing"],
)
def test_what_a_codec_would_shorten_is_left_to_it(values: Any, noise: bool) -> None:
    assert plainpages.is_noise([pa.array(values, pa.float64())], pa.float64()) == noise
    assert not plainpages.is_noise([pa.array(values.astype(int))], pa.int64())
