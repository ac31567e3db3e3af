"""Operations on batches, also on some of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.jobs.operations import ApplyStatistics, LearnAndApply
from streambn.standardize import Standardizer

F64 = pa.float64()
FEW = settings.get_profile("few")


def table_of(rows: int, seed: int, missing: float = 0.1) -> pa.Table:
    """Return a table with numbers, lists, structs and strings."""
    rng = np.random.default_rng(seed)

    def values(make: Any) -> list[Any]:
        return [None if rng.random() < missing else make() for _ in range(rows)]

    def number() -> float | None:
        return None if rng.random() < missing else float(rng.normal(5, 3))

    return pa.table(
        {
            "a": pa.array(values(rng.normal), pa.float64()),
            "b": pa.array(values(rng.normal), pa.float32()),
            "n": pa.array(values(lambda: int(rng.integers(100))), pa.int32()),
            "s": pa.array(values(lambda: "text"), pa.string()),
            "l": pa.array(values(lambda: rng.normal(size=3).tolist()), pa.list_(pa.float32(), 3)),
            "p": pa.array(
                values(lambda: {"u": number(), "v": {"w": number()}, "t": "text"}),
                pa.struct({"u": F64, "v": pa.struct({"w": F64}), "t": pa.string()}),
            ),
            "t": pa.array(np.arange(rows) * 1.5 + 10 * seed),
            "w": pa.array(rng.integers(0, 3, rows) * 0.5),
        }
    )


COLUMNS = table_of(0, 0).column_names
AFFINE = {"a": (2.0, 1.0), "l": (0.5, 0.0), "l[1]": (3.0, -1.0), "p.v.w": (-1.0, 4.0)}
MADE: dict[str, dict[str, Any]] = {
    "welford": {},
    "welford, weighted": {"weights": "w"},
    "affine": {"affine": AFFINE},
    "clip": {"clip": 0.7, "eps": 0.1},
    "neither": {"center": False, "scale": False},
    "ddof": {"ddof": 1, "eps": 1e-3},
    "propagate": {"nan": "propagate", "inf": "propagate"},
    "ema": {"policy": sbn.EMA(alpha=0.2), "affine": AFFINE},
    "ema, weighted": {"policy": sbn.EMA(halflife=9), "weights": "w"},
    "ema, not adjusted": {"policy": sbn.EMA(span=9, adjust=False, ignore_na=True)},
    "ema by time": {"policy": sbn.EMA(halflife=20, time="t"), "clip": 2.0},
    "batch-ema": {"policy": sbn.BatchEMA(momentum=0.1)},
    "batch-ema of rows": {"policy": sbn.BatchEMA(momentum=0.1, batch_rows=7), "affine": AFFINE},
}
EACH = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


def fitted(made: dict[str, Any], seed: int = 1) -> sbn.Normalizer:
    normalizer = sbn.Normalizer(**made)
    for step in range(3):
        normalizer = normalizer.update(table_of(30, seed + step))
    return normalizer


def mapped(part: Standardizer, table: pa.Table, *, inverse: bool = False) -> pa.Table:
    schema = part.output_schema(table.schema, pa.float64() if inverse else None)
    function = part.restore if inverse else part.standardize
    return pa.Table.from_batches([function(batch, schema) for batch in table.to_batches()], schema)


def columns_of(part: Standardizer) -> set[str]:
    return {feature.partition(".")[0].partition("[")[0] for feature in part.binding.features}


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether tables are equal to the last bit, NaN included."""
    return one.schema.equals(other.schema) and repr(one.to_pydict()) == repr(other.to_pydict())


# --- some of the columns --------------------------------------------------------------


@EACH
@FEW
@given(data=st.data(), inverse=st.booleans())
def test_part_maps_its_columns_as_the_whole_does(
    made: dict[str, Any], data: st.DataObject, inverse: bool
) -> None:
    whole = fitted(made).standardizer
    names = data.draw(st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True))
    names = [name for name in COLUMNS if name in names]
    table = table_of(40, data.draw(st.integers(50, 60)))
    part = whole.select(names)
    columns = columns_of(whole)
    if part is None:
        assert not columns & set(names)
        return
    assert columns_of(part) == columns & set(names)
    expected = mapped(whole, table, inverse=inverse).select(names)
    assert same(mapped(part, table.select(names), inverse=inverse), expected)


@EACH
def test_parts_together_are_the_whole(made: dict[str, Any]) -> None:
    whole, table = fitted(made).standardizer, table_of(40, 77)
    expected = mapped(whole, table)
    for name in COLUMNS:
        part = whole.select([name])
        if part is None:
            assert expected[name].equals(table[name])
        else:
            assert same(mapped(part, table.select([name])), expected.select([name]))


@EACH
def test_all_columns_are_the_whole(made: dict[str, Any]) -> None:
    whole = fitted(made).standardizer
    assert whole.select(COLUMNS) is whole
    assert whole.select(["s"]) is None
    assert whole.select([]) is None


@EACH
def test_part_has_the_same_parameters(made: dict[str, Any]) -> None:
    whole = fitted(made).standardizer
    for names in (["a", "l"], ["p"], ["n", "b", "p"]):
        part = whole.select(names)
        assert part is not None
        where = [whole.binding.features.index(feature) for feature in part.binding.features]
        for name in ("location_hi", "location_lo", "scale", "known"):
            ours = np.asarray(getattr(whole.parameters, name))[where]
            assert np.array_equal(getattr(part.parameters, name), ours, equal_nan=True), name
        assert np.array_equal(part.constant, np.asarray(whole.constant)[where])


def test_part_of_features_never_seen() -> None:
    table = table_of(10, 1, missing=1.0)
    whole = sbn.Normalizer(columns=["a", "b"]).update(table).standardizer
    part = whole.select(["a"])
    assert part is not None
    table = table_of(10, 2)
    assert same(mapped(part, table.select(["a"])), mapped(whole, table).select(["a"]))


# --- operations -----------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [None, pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("inverse", [False, True])
def test_blocks_of_columns_are_what_transform_returns(
    made: dict[str, Any], dtype: pa.DataType | None, inverse: bool
) -> None:
    frozen, table = fitted(made).freeze(), table_of(40, 77)
    operation = ApplyStatistics(frozen, dtype, inverse)
    whole = frozen.inverse_transform if inverse else frozen.transform
    expected = whole(table, dtype=dtype)
    schema = operation.schema(table.schema)
    assert schema.equals(expected.schema, check_metadata=True)
    columns = []
    for names in (COLUMNS[:1], COLUMNS[1:4], COLUMNS[4:]):
        part = pa.schema([schema.field(name) for name in names])
        function = operation.function(names)
        (batch,) = table.select(names).to_batches()
        columns += function(batch, part).columns
    got = pa.Table.from_arrays(columns, schema=schema)
    assert same(got, expected)


@pytest.mark.parametrize("using", ["running", "before", "batch"])
def test_learn_and_apply_is_update_transform(using: Any) -> None:
    table = table_of(40, 3)
    made: dict[str, Any] = {"policy": sbn.EMA(alpha=0.2), "columns": ["a", "b"]}
    operation = LearnAndApply(sbn.Normalizer(**made), using)
    schema = operation.schema(table.schema)
    function = operation.function(table.column_names)
    plain = sbn.Normalizer(**made)
    for start in (0, 10, 20, 30):
        (batch,) = table.slice(start, 10).to_batches()
        expected = plain.update_transform(batch, using=using)
        assert repr(function(batch, schema).to_pydict()) == repr(expected.to_pydict())
    assert list(operation.features) == ["a", "b"]
