"""Columns that hold only nulls at first, that appear later, and that are absent in some parts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cli_process import bad, good, stats
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import fit, policies
from numpy.testing import assert_allclose

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.adapters.sklearn import SklearnNormalizer

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

NOTHING = pa.table({"id": [1, 2], "flux": pa.nulls(2)})
VALUES = pa.table({"id": [3, 4], "flux": [1.0, 3.0]})
TEXT = pa.table({"id": [3, 4], "flux": ["a", "b"]})


def saved(norm: sbn.Normalizer) -> sbn.Normalizer:
    norm.save("between.json")
    return sbn.load("between.json")


def learned(parts: Iterable[pa.Table], **options: Any) -> sbn.Normalizer:
    return fit(*parts, **options)


def merged(parts: Iterable[pa.Table], **options: Any) -> sbn.Normalizer:
    first, *rest = (fit(part, **options) for part in parts)
    for norm in rest:
        first = first.merge(norm)
    return first


def saved_between(parts: Iterable[pa.Table], **options: Any) -> sbn.Normalizer:
    norm = sbn.Normalizer(**options)
    for part in parts:
        norm = saved(norm.update(part))
    return norm


def pickled_between(parts: Iterable[pa.Table], **options: Any) -> sbn.Normalizer:
    norm = sbn.Normalizer(**options)
    for part in parts:
        norm = pickle.loads(pickle.dumps(norm.update(part)))
    return norm


def from_files(parts: Iterable[pa.Table], **options: Any) -> sbn.Normalizer:
    for number, part in enumerate(parts):
        pq.write_table(part, f"part-{number}.parquet")
    flags = ["--union-by-name"] if options.get("schema") == "union" else []
    good("fit", "part-*.parquet", "-o", "s.json", "--policy", "welford", "--quiet", *flags)
    return sbn.load("s.json")


ways = pytest.mark.parametrize("way", [learned, merged, saved_between, pickled_between, from_files])
Way = Callable[..., sbn.Normalizer]


@ways
@pytest.mark.parametrize("parts", [[NOTHING, VALUES], [VALUES, NOTHING]])
def test_a_column_takes_the_type_of_its_first_value(way: Way, parts: list[pa.Table]) -> None:
    stats = way(parts).stats().to_pylist()
    assert [row["column"] for row in stats] == ["id", "flux"]
    assert [row["count"] for row in stats] == [4, 2]
    assert [row["nulls"] for row in stats] == [0, 2]
    assert (stats[1]["mean"], stats[1]["std"]) == (2.0, 1.0)


@ways
def test_a_column_that_turns_out_to_be_text_is_left_out_and_said(way: Way) -> None:
    norm = way([NOTHING, TEXT])
    assert norm.features == ("id",)
    [left_out] = norm.statistics.left_out
    assert left_out.column == "flux"


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        (pa.int8(), ["s.x"]),
        (pa.decimal128(5, 2), ["s.x"]),
        (pa.list_(pa.float32(), 2), ["s.x[0]", "s.x[1]"]),
        (pa.struct({"a": pa.float64(), "b": pa.string(), "c": pa.int64()}), ["s.x.a", "s.x.c"]),
        (pa.dictionary(pa.int8(), pa.int64()), ["s.x"]),
    ],
)
@policies
def test_fields_of_structs_take_their_types_too(
    policy: Any, kind: pa.DataType, features: list[str]
) -> None:
    value = {pa.int8(): 3, pa.decimal128(5, 2): 3}.get(kind)
    if pa.types.is_fixed_size_list(kind):
        value = [3, 5]
    elif pa.types.is_struct(kind):
        value = {"a": 3.0, "b": "x", "c": 5}
    elif pa.types.is_dictionary(kind):
        value = 3

    def part(values: list[Any], kind: pa.DataType) -> pa.Table:
        rows = [{"x": value} for value in values]
        return pa.table({"s": pa.array(rows, pa.struct({"x": kind})), "y": [1.0] * len(rows)})

    nothing, values = part([None] * 3, pa.null()), part([value, None], kind)
    norm = fit(nothing, values, policy=policy)
    typed = fit(part([None] * 3, kind), values, policy=policy)
    assert [*norm.features] == [*features, "y"]
    assert norm.stats().equals(typed.stats())
    frozen = fit(nothing, policy=policy).freeze()
    out = frozen.transform(values)
    for name in ("nothing learned", *features):
        if name in features and "[" not in name:
            assert pc.struct_field(out["s"], name.split(".")[1:]).null_count == 2
    assert frozen.transform(nothing)["s"].equals(nothing["s"])


def test_a_named_column_must_be_numeric_once_it_has_a_type() -> None:
    norm = fit(NOTHING, columns=["flux"])
    with pytest.raises(sbn.SchemaError, match="'flux' is string, which is not numeric"):
        norm.update(TEXT)
    assert fit(NOTHING, columns=["flux"]).update(VALUES).features == ("flux",)


def test_statistics_without_a_type_leave_text_alone() -> None:
    frozen = fit(NOTHING).freeze()
    assert frozen.transform(TEXT)["flux"].equals(TEXT["flux"])
    assert frozen.transform(VALUES)["flux"].null_count == 2  # there are no statistics
    assert frozen.transform(NOTHING)["flux"].equals(NOTHING["flux"])


def test_no_numeric_column_is_an_error_as_soon_as_it_is_known() -> None:
    norm = fit(pa.table({"x": pa.nulls(2)}))
    with pytest.raises(sbn.SchemaError, match=r"no numeric column.*x \(string\)"):
        norm.update(pa.table({"x": ["a"]}))


def test_adapters() -> None:
    scaler = RiverNormalizer()
    for row in [*NOTHING.to_pylist(), *VALUES.to_pylist()]:
        scaler.learn_one(row)
    assert scaler.stats().to_pylist()[1]["mean"] == 2.0
    frames = RiverNormalizer()
    for table in (NOTHING, VALUES):
        frames.learn_many(table)
    assert frames.stats()["mean"].to_pylist() == [2.5, 2.0]
    estimator = SklearnNormalizer()
    for table in (NOTHING, VALUES):
        estimator.partial_fit(table)
    assert estimator.mean_.tolist() == [2.5, 2.0]


WRITERS: dict[str, Callable[[pa.Table, str], Any]] = {
    "parquet": pq.write_table,
    "csv": lambda table, path: table.to_pandas().to_csv(path, index=False),
    "ndjson": lambda table, path: table.to_pandas().to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("form", WRITERS)
def test_normalize_files_of_which_the_first_holds_nothing(form: str) -> None:
    Path("in").mkdir()
    for number, table in enumerate((NOTHING, VALUES)):
        WRITERS[form](table, f"in/{number}.{form}")
    good("normalize", "in", "-o", "out.parquet", "--save", "s.json", "--quiet")
    assert pq.read_table("out.parquet")["flux"].to_pylist() == [None, None, -1.0, 1.0]
    assert stats("s.json")["flux"]["nulls"] == 2


# --- unions -----------------------------------------------------------------------------

X, XY = pa.table({"x": [1.0, 2.0]}), pa.table({"x": [3.0, 4.0], "y": [5.0, 7.0]})


@ways
@pytest.mark.parametrize("parts", [[X, XY], [XY, X]])
def test_a_union_counts_absent_columns_as_null(way: Way, parts: list[pa.Table]) -> None:
    norm = way(parts, schema="union")
    rows = {row["column"]: row for row in norm.stats().to_pylist()}
    assert (rows["x"]["count"], rows["x"]["mean"]) == (4, 2.5)
    assert (rows["y"]["count"], rows["y"]["nulls"], rows["y"]["mean"]) == (2, 2, 6.0)
    assert norm.freeze().transform(X).schema.names == ["x"]


def test_without_it_the_message_names_it() -> None:
    with pytest.raises(sbn.SchemaError, match=r"'y' is not in the data.*schema='union'"):
        fit(XY, X)
    pq.write_table(X, "a.parquet")
    pq.write_table(XY, "b.parquet")
    message = bad(3, "fit", "b.parquet", "a.parquet", "-o", "s.json")
    assert message.startswith("streambn: a.parquet: column 'y' is not in the data")
    assert "--union-by-name" in message
    done = good("fit", "a.parquet", "b.parquet", "-o", "s.json")
    assert "left out: y (only in 1 later file; --union-by-name includes it)" in done.stderr


@pytest.mark.parametrize("way", [learned, merged])
@pytest.mark.parametrize("order", [1, -1])
def test_text_and_numbers_under_one_name_are_refused_in_any_order(way: Way, order: int) -> None:
    text, numbers = pa.table({"s": ["a"], "y": [1.0]}), pa.table({"s": [1.0], "y": [1.0]})
    with pytest.raises(sbn.StreamBNError, match="column 's'"):
        way([text, numbers][::order], schema="union")


NAMES = ("a", "b", "c")
VALUE = st.one_of(st.none(), st.integers(-9, 9).map(float), st.floats(-1e6, 1e6, width=32))


@st.composite
def parts_with_gaps(draw: st.DrawFn) -> list[pa.Table]:
    """Draw tables of some columns each, some of them of the null type."""
    parts = []
    names_of_parts = st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=5)
    for names in draw(names_of_parts):
        rows = draw(st.integers(1, 4))
        values = st.lists(VALUE, min_size=rows, max_size=rows)
        columns = {name: draw(values) for name in sorted(names)}
        parts.append(
            pa.table(
                {
                    name: pa.array(values, pa.null() if set(values) == {None} else pa.float64())
                    for name, values in columns.items()
                }
            )
        )
    return parts


@policies
@settings.get_profile("few")
@given(parts=parts_with_gaps(), cut=st.integers(0, 5))
def test_a_union_is_the_same_as_columns_filled_with_nulls(
    policy: Any, parts: list[pa.Table], cut: int
) -> None:
    def filled(part: pa.Table) -> pa.Table:
        return pa.table(
            {
                name: part[name].cast(pa.float64())
                if name in part.schema.names
                else pa.nulls(len(part), pa.float64())
                for name in names
            }
        )

    names = list(dict.fromkeys(name for part in parts for name in part.schema.names))
    expected = fit(*map(filled, parts), policy=policy).stats()
    assert_same_statistics(fit(*parts, policy=policy, schema="union").stats(), expected)
    if getattr(policy, "batch_rows", None) is None:
        older, newer = (
            fit(*side, policy=policy, schema="union") for side in (parts[:cut], parts[cut:])
        )
        whole = fit(*map(filled, parts[:cut]), policy=policy).merge(
            fit(*map(filled, parts[cut:]), policy=policy)
        )
        assert_same_statistics(older.merge(newer).stats(), whole.stats())


def assert_same_statistics(got: pa.Table, expected: pa.Table) -> None:
    """Compare counts exactly, and estimates to the rounding of the order in which kernels add."""
    estimates = ("mean", "var", "std")
    assert got.drop_columns(estimates).equals(expected.drop_columns(estimates))
    extent = pc.subtract(expected["max"], expected["min"]).to_numpy()
    unit = np.where(extent > 0, extent, 1.0)
    assert_allclose(got["mean"] / unit, expected["mean"] / unit, rtol=1e-15, atol=1e-14)
    for name in ("var", "std"):
        assert_allclose(got[name], expected[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("using", ["running", "before", "batch"])
@pytest.mark.parametrize("others", [{}, {"name": pa.array(["p", "q"])}], ids=["alone", "with text"])
def test_the_output_of_a_stream_has_floats_where_its_first_batch_had_nothing(
    others: dict[str, Any], using: Any
) -> None:
    parts = [NOTHING, VALUES, VALUES]
    for name, array in others.items():
        parts = [part.append_column(name, array) for part in parts]
    typed = [part.set_column(1, "flux", part["flux"].cast(pa.float64())) for part in parts]
    norm, expected = sbn.Normalizer(), sbn.Normalizer()
    out = norm.update_transform(iter(parts), using=using).read_all()
    want = expected.update_transform(iter(typed), using=using).read_all()
    assert out.to_pylist() == want.to_pylist()
    assert norm.stats().equals(expected.stats())
    refused = sbn.Normalizer()
    with pytest.raises(sbn.SchemaError, match="'flux' is string"):
        refused.update_transform(iter([NOTHING, TEXT]), using=using).read_all()
    assert refused.stats()["nulls"].to_pylist() == [0, 2]


@pytest.mark.parametrize(
    ("nothing", "values"),
    [
        (pa.DictionaryArray.from_arrays(pa.nulls(2, pa.int8()), pa.nulls(0)), pa.array([1, 3])),
        (
            pa.array([[None, None], None], pa.list_(pa.null(), 2)),
            pa.array([[1.0, 2.0], [3.0, 6.0]], pa.list_(pa.float64(), 2)),
        ),
    ],
    ids=["dictionary", "fixed-size list"],
)
def test_encoded_nothing_has_no_type_yet(nothing: pa.Array, values: pa.Array) -> None:
    first, second = pa.table({"x": [1, 2], "v": nothing}), pa.table({"x": [1, 2], "v": values})
    norm = sbn.Normalizer().update(first).update(second)
    assert set(norm.stats()["count"].slice(1).to_pylist()) == {2}
    assert norm.stats()["nulls"].to_pylist()[1] == 2
