"""Ray: fits of Datasets agree with fits of the same rows in one process, whatever the blocks."""

from __future__ import annotations

import datetime
import decimal
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_process import cluster

import streambn as sbn
from streambn.testing import batches, cuts

pytest.importorskip("ray", reason="needs ray: pip install 'ray[data]'")


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    with cluster() as ray:
        yield ray


@pytest.fixture(scope="module")
def adapter(ray):
    return pytest.importorskip("streambn.adapters.ray")


def dataset(ray, *tables):
    """Return a Dataset with a block for each table that has rows."""
    return ray.data.from_arrow([t if isinstance(t, pa.Table) else pa.table(t) for t in tables])


def collected(ray, ds):
    return pa.concat_tables(ray.get(ds.to_arrow_refs()))


def fingerprint(normalizer):
    return normalizer.freeze().fingerprint


def assert_close(normalizer, expected, rtol=1e-13):
    one, other = normalizer.stats(), expected.stats()
    for name in one.column_names:
        if name in ("mean", "var", "std", "total_var", "weight", "effective_count"):
            pair = (x[name].to_numpy(zero_copy_only=False).astype(float) for x in (one, other))
            np.testing.assert_allclose(*pair, rtol=rtol, equal_nan=True)
        else:
            assert one[name].equals(other[name])


# ----------------------------------------------------------------- blocks do not matter


@settings(settings.get_profile("few"))
@given(st.data())
def test_fit_has_the_bits_of_one_process_under_exact(ray, adapter, data):
    stream = data.draw(batches())
    blocks = map(pa.Table.from_batches, ([cut] for cut in data.draw(cuts(stream))))
    start = sbn.Normalizer(sbn.Exact())
    if data.draw(st.booleans()):
        start.update(pa.table({"b": [1.5, None], "a": [1e9, 3.0]}))
    before = start.to_bytes()
    fitted = adapter.fit(dataset(ray, *blocks), start)
    assert start.to_bytes() == before
    start.update(stream)
    assert fitted.features == start.features
    if start.features:
        assert fingerprint(fitted) == fingerprint(start)


@settings(settings.get_profile("few"))
@given(st.data())
def test_fit_agrees_with_one_process_under_welford_and_event_time(ray, adapter, data):
    by_time = sbn.EMA(halflife="7s", time="t")
    policy = data.draw(st.sampled_from([sbn.Welford(), by_time]))
    time = None if policy.event_time is None else policy.event_time
    stream = data.draw(batches(time=time, weighted=True))
    weights = "weights" if "weights" in stream[0].schema.names else None
    blocks = [pa.Table.from_batches([cut]) for cut in data.draw(cuts(stream))]
    start = sbn.Normalizer(policy, columns=["a", "b"], weights=weights)
    fitted = adapter.fit(dataset(ray, *data.draw(st.permutations(blocks))), start)
    if any(batch.num_rows for batch in stream):
        assert_close(fitted, start.update(stream))


def test_repeated_fits_have_the_same_bits(ray, adapter):
    rng = np.random.default_rng(0)
    blocks = [{"x": rng.normal(size=100)} for _ in range(20)]
    one, other = (adapter.fit(dataset(ray, *blocks), sbn.Normalizer()) for _ in range(2))
    assert one.to_bytes() == other.to_bytes()


def test_fit_reads_parquet(ray, adapter, tmp_path):
    table = pa.table({"x": range(1000), "y": np.linspace(0, 1, 1000), "name": ["a"] * 1000})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    pa.parquet.write_table(table, tmp_path / "b.parquet", row_group_size=300)
    ds = ray.data.read_parquet(str(tmp_path))
    norm = sbn.Normalizer(sbn.Exact(), exclude=["y"])
    fitted = adapter.fit(ds, norm)
    assert fingerprint(fitted) == fingerprint(norm.update(table).update(table))


def test_fit_keeps_the_low_digits_of_integers_and_decimals(ray, adapter):
    digits = [decimal.Decimal("12345678901234567890.01"), decimal.Decimal("0.02")]
    blocks = [{"i": [2**53 + 1], "d": digits[:1]}, {"i": [2**53 + 3], "d": digits[1:]}]
    norm = sbn.Normalizer(sbn.Exact())
    fitted = adapter.fit(dataset(ray, *blocks), norm)
    for block in blocks:
        norm.update(pa.table(block))
    assert fingerprint(fitted) == fingerprint(norm)


def test_columns_may_be_chosen_by_a_callable_and_need_not_exist_in_all_blocks(ray, adapter):
    blocks = [pa.table({"x": [1.0, 2.0], "id": [1, 2]}), pa.table({"y": [5.0], "x": [3.0]})]
    norm = sbn.Normalizer(
        sbn.Exact(), columns=lambda field: pa.types.is_floating(field.type), schema="union"
    )
    fitted = adapter.fit(dataset(ray, *blocks), norm)
    rows = {row["column"]: (row["count"], row["nulls"]) for row in fitted.stats().to_pylist()}
    assert rows == {"x": (3, 0), "y": (1, 2)}


def test_names_need_not_be_identifiers(ray, adapter):
    table = pa.table(
        {"a.b": [1.0, 2.0], "x y": [1, 2], "s": [{"u": 1.0}, {"u": 4.0}], "t": ["", ""]}
    )
    norm = sbn.Normalizer(sbn.Exact())
    assert fingerprint(adapter.fit(dataset(ray, table), norm)) == fingerprint(norm.update(table))


# --------------------------------------------------------------------- nulls and nothing


def test_null_blocks_take_the_type_of_others(ray, adapter):
    blocks = [{"x": pa.nulls(3)}, {"x": [1.0, 3.0]}, {"x": pa.nulls(2)}]
    fitted = adapter.fit(dataset(ray, *blocks), sbn.Normalizer())
    assert fitted.stats().select(["count", "nulls", "mean"]).to_pylist() == [
        {"count": 2, "nulls": 5, "mean": 2.0}
    ]


def test_one_missing_value_does_not_undo_statistics(ray, adapter):
    scalers = pytest.importorskip("ray.data.preprocessors")
    ds = dataset(ray, {"x": [1.0, np.nan, 3.0]})
    assert scalers.StandardScaler(["x"]).fit(ds).stats_["mean(x)"] is None
    row = adapter.fit(ds, sbn.Normalizer()).stats().to_pylist()[0]
    assert (row["count"], row["nans"], row["mean"]) == (2, 1, 2.0)


@pytest.mark.parametrize("make", [pa.table, pd.DataFrame])
def test_a_column_of_nulls_has_no_statistics(ray, adapter, make):
    block = make({"x": [None, None], "y": [1.0, 3.0]})
    from_blocks = ray.data.from_arrow if make is pa.table else ray.data.from_pandas
    ds = from_blocks([block])
    fitted = adapter.fit(ds, sbn.Normalizer(sbn.Exact()))
    assert fitted.stats()["mean"].to_pylist() == [None, 2.0]
    out = adapter.transform(ds, fitted.freeze())
    assert collected(ray, out)["y"].to_pylist() == [-1.0, 1.0]
    assert collected(ray, out)["x"].to_pylist() == [None, None]


def test_blocks_of_pandas_become_arrow(ray, adapter):
    frames = [
        pd.DataFrame({"x": [1, None], "d": [decimal.Decimal("0.1"), None], "s": ["a", None]}),
        pd.DataFrame({"x": [None, 4.0], "d": [None, decimal.Decimal("7")], "s": [None, None]}),
    ]
    norm = sbn.Normalizer(sbn.Exact())
    fitted = adapter.fit(ray.data.from_pandas(frames), norm)
    assert fitted.features == ("x", "d")
    assert fitted.stats()["mean"].to_pylist() == [2.5, 3.55]


def test_nothing_is_learned_from_nothing(ray, adapter):
    norm = sbn.Normalizer()
    empty = pa.table({"x": pa.array([], pa.float64())})
    for ds in (ray.data.from_items([]), dataset(ray, empty), dataset(ray, empty, empty)):
        fitted = adapter.fit(ds, norm)
        assert fitted is not norm
        assert fitted.features == ()
    table = pa.table({"x": [1.0, 2.0]})
    norm.update(table)
    assert adapter.fit(dataset(ray, empty), norm).to_bytes() == norm.to_bytes()


# ------------------------------------------------------------------------------- order


def test_order_by_puts_blocks_in_order(ray, adapter):
    rng = np.random.default_rng(0)
    table = pa.table({"t": rng.permutation(100), "x": rng.normal(size=100)})
    ordered = table.sort_by("t")
    parts = [ordered.slice(0, 30), ordered.slice(30, 1), ordered.slice(31)]
    shuffled = [part.take(rng.permutation(part.num_rows)) for part in parts]
    for policy in (sbn.EMA(halflife=10), sbn.EMA(alpha=0.1, adjust=False)):
        norm = sbn.Normalizer(policy, columns=["x"])
        fitted = adapter.fit(dataset(ray, *shuffled[::-1]), norm, order_by="t")
        assert_close(fitted, norm.update(ordered), rtol=1e-12)
    sorted_by_ray = dataset(ray, *shuffled[::-1]).sort("t")
    norm = sbn.Normalizer(sbn.EMA(halflife=10), columns=["x"])
    assert_close(adapter.fit(sorted_by_ray, norm, order_by="t"), norm.update(ordered), rtol=1e-12)


def test_order_by_takes_several_columns_of_times_and_text(ray, adapter):
    day = datetime.date(2026, 1, 1)
    later = datetime.date(2026, 1, 2)
    one = {"t": [day, day], "s": ["b", "a"], "x": [2.0, 1.0]}
    other = {"t": [later, day], "s": ["a", "c"], "x": [9.0, 3.0]}
    norm = sbn.Normalizer(sbn.EMA(halflife=1), columns=["x"])
    fitted = adapter.fit(dataset(ray, other, one), norm, order_by=["t", "s"])
    assert_close(fitted, norm.update(pa.table({"x": [1.0, 2.0, 3.0, 9.0]})))


@pytest.mark.parametrize("batch_rows", [20, 7, 33, 1000])
def test_blocks_of_a_batch_ema_may_end_in_the_next_block_of_ray(ray, adapter, batch_rows):
    rng = np.random.default_rng(0)
    table = pa.table({"t": range(100), "x": rng.normal(size=100), "y": rng.normal(1e6, 1, 100)})
    blocks = [table.slice(60), table.slice(0, 41), table.slice(44, 16), table.slice(41, 3)]
    shuffled = [block.take(rng.permutation(block.num_rows)) for block in blocks]
    start = sbn.Normalizer(sbn.BatchEMA(momentum=0.1, batch_rows=batch_rows), columns=["x", "y"])
    start.update(table.slice(0, 11))
    fitted = adapter.fit(dataset(ray, *shuffled), start, order_by="t")
    assert_close(fitted, start.update(table))


def test_a_batch_ema_refuses_blocks_that_change(ray, adapter, tmp_path):
    place = str(tmp_path / "read")

    def grow(table):
        rows = os.path.exists(place)
        open(place, "w").close()
        return table.slice(0, table.num_rows - (not rows))

    ds = dataset(ray, {"t": range(10), "x": range(10)})
    ds = ds.map_batches(grow, batch_format="pyarrow", batch_size=None)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=0.1, batch_rows=3), columns=["x"])
    ds.schema()
    os.remove(place)
    with pytest.raises(sbn.InvalidValueError, match=r"other blocks.*ds\.materialize\(\)"):
        adapter.fit(ds, norm, order_by="t")


@pytest.mark.parametrize(
    ("blocks", "order_by", "message"),
    [
        ([[1, 5], [4, 9]], "t", r"blocks overlap.*ends with 5.*begins with 4.*ds\.sort\('t'\)"),
        ([[1, 5], [5, 9]], "t", "has the value 5 twice"),
        ([[1, 2, 2]], "t", "has the value 2 twice"),
        ([[1, None]], "t", "column 't' holds null"),
        ([[1.0, np.nan]], "t", "column 't' holds NaN"),
        ([["b", "d"], ["c", "e"]], ["t"], "ends with 'd'.*begins with 'c'"),
        ([[1]], "u", "order_by: column 'u' is not in the data"),
        ([[True]], "t", "order_by: column 't' is bool"),
        ([[1]], 3, "order_by must be a column's name, or a list of names, got 3"),
        ([[1]], [], "order_by must be"),
        ([[1]], None, r"depends on the order of rows.*order_by='t', after ds\.sort\('t'\)"),
    ],
)
def test_an_order_that_is_none_is_refused(ray, adapter, blocks, order_by, message):
    ds = dataset(ray, *({"t": pa.array(t, from_pandas=False), "x": [1.0] * len(t)} for t in blocks))
    norm = sbn.Normalizer(sbn.EMA(halflife=10), columns=["x"])
    with pytest.raises(sbn.StreamBNError, match=message) as caught:
        adapter.fit(ds, norm, order_by=order_by)
    assert caught.value.argument == "order_by"
    assert norm.features == ()


# ------------------------------------------------------------------------ what goes wrong


def test_a_block_that_is_tried_again_counts_once(ray, adapter, tmp_path):
    folder = str(tmp_path)

    def fail_twice(table):
        deaths = os.listdir(folder)
        if 3.0 in table["x"].to_pylist() and len(deaths) < 2:
            open(f"{folder}/{len(deaths)}", "w").close()
            os._exit(1)
        return table

    blocks = [{"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}, {"x": [5.0, 6.0]}]
    ds = dataset(ray, *blocks).map_batches(fail_twice, batch_format="pyarrow", batch_size=None)
    norm = sbn.Normalizer(sbn.Exact(), columns=["x"])
    fitted = adapter.fit(ds, norm)
    assert len(os.listdir(folder)) == 2
    assert fingerprint(fitted) == fingerprint(
        norm.update(pa.table({"x": range(1, 7)}).cast(pa.schema([("x", pa.float64())])))
    )


def test_columns_are_checked_before_the_job(ray, adapter):
    ds = dataset(ray, {"price": [1.0], "name": ["a"], "all": [[{"u": 1.0}]]})
    with pytest.raises(sbn.SchemaError, match=r"'prize'.*Did you mean 'price'") as caught:
        adapter.fit(ds, sbn.Normalizer(columns=["prize"]))
    assert caught.value.column == "prize"
    for name in ("name", "all", "all.u"):
        with pytest.raises(sbn.SchemaError, match=f"'{name}'"):
            adapter.fit(ds, sbn.Normalizer(columns=[name]))


def test_errors_of_workers_are_ours(ray, adapter):
    good, bad = {"x": [1.0]}, {"x": [1.0, np.inf]}
    norm = sbn.Normalizer()
    with pytest.raises(
        sbn.InvalidValueError, match="column 'x' holds infinity in 1 rows"
    ) as caught:
        adapter.fit(dataset(ray, good, bad), norm)
    assert caught.value.column == "x"
    assert norm.features == ()
    # No error is dropped, even if Ray may drop blocks.
    ds = dataset(ray, good, bad)
    allowed, ds.context.max_errored_blocks = ds.context.max_errored_blocks, -1
    try:
        with pytest.raises(sbn.InvalidValueError):
            adapter.fit(ds, norm)
    finally:
        ds.context.max_errored_blocks = allowed
    with pytest.raises(sbn.SchemaError, match="column 'y' is not in the data"):
        adapter.fit(dataset(ray, {"x": [1.0], "y": [1.0]}, {"x": [1.0]}), norm)


def test_decimals_and_floats_do_not_mix_under_exact(ray, adapter):
    ds = dataset(ray, {"x": [decimal.Decimal("1.5")]}, {"x": [1.25]})
    with pytest.raises(sbn.MergeError, match="column 'x' holds") as caught:
        adapter.fit(ds, sbn.Normalizer(sbn.Exact()))
    assert caught.value.column == "x"


def test_arguments_are_checked(ray, adapter):
    ds = dataset(ray, {"x": [1.0]})
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0]})).freeze()
    for call, argument in (
        (lambda: adapter.fit(pa.table({"x": [1.0]}), sbn.Normalizer()), "ds"),
        (lambda: adapter.fit(ds, frozen), "normalizer"),
        (lambda: adapter.fit(ds, sbn.Normalizer(sbn.BatchEMA(momentum=0.1))), "batch_rows"),
        (lambda: adapter.transform(None, frozen), "ds"),
        (lambda: adapter.transform(ds, sbn.Normalizer()), "frozen"),
        (lambda: adapter.preprocessor(sbn.Normalizer()), "frozen"),
        (lambda: adapter.Statistics(frozen), "normalizer"),
        (lambda: adapter.Statistics(sbn.Normalizer(sbn.EMA(halflife=3))), "policy"),
    ):
        with pytest.raises(sbn.InvalidValueError) as caught:
            call()
        assert caught.value.argument == argument


def test_errors_of_others_stay_theirs(ray, adapter):
    exceptions = pytest.importorskip("ray.exceptions")

    def divide(table):
        return 1 // 0

    ds = dataset(ray, {"x": [1.0]}).map_batches(divide, batch_format="pyarrow")
    with pytest.raises(exceptions.RayError, match="ZeroDivisionError"):
        adapter.fit(ds, sbn.Normalizer())


# ------------------------------------------------------------------------------- groups


def test_statistics_of_groups(ray, adapter):
    rng = np.random.default_rng(0)
    table = pa.table({"k": rng.integers(0, 3, 100), "x": rng.normal(1e9, 1, 100), "s": ["a"] * 100})
    ds = dataset(ray, table.slice(0, 40), table.slice(40, 20), table.slice(60))
    norm = sbn.Normalizer(sbn.Exact(), exclude=["k"])
    groups = ds.groupby("k").aggregate(adapter.Statistics(norm), adapter.Statistics(norm, "again"))
    rows = {row["k"]: row for row in groups.iter_rows()}
    assert rows.keys() == {0, 1, 2}
    for key, row in rows.items():
        alone = sbn.Normalizer(sbn.Exact(), exclude=["k"])
        alone.update(table.filter(pc.equal(table["k"], key)))
        assert row["statistics"] == row["again"]
        assert fingerprint(sbn.from_bytes(row["statistics"])) == fingerprint(alone)
    whole = ds.aggregate(adapter.Statistics(norm))["statistics"]
    assert fingerprint(sbn.from_bytes(whole)) == fingerprint(norm.update(table))


def test_statistics_of_groups_of_pandas_have_null_columns(ray, adapter):
    frame = pd.DataFrame({"k": ["a", "a", "b"], "x": [1.0, 3.0, None], "y": [None, None, None]})
    groups = (
        ray.data.from_pandas([frame]).groupby("k").aggregate(adapter.Statistics(sbn.Normalizer()))
    )
    found = {
        row["k"]: sbn.from_bytes(row["statistics"]).stats()["mean"].to_pylist()
        for row in groups.iter_rows()
    }
    assert found == {"a": [2.0, None], "b": [None, None]}


# ---------------------------------------------------------------------------- transform


@settings(settings.get_profile("few"))
@given(st.data())
def test_transform_has_the_bits_of_one_process(ray, adapter, data):
    stream = data.draw(batches().filter(lambda s: any(batch.num_rows for batch in s)))
    frozen = sbn.Normalizer(columns=["a"]).update(stream).freeze()
    blocks = [pa.Table.from_batches([cut]) for cut in data.draw(cuts(stream)) if cut.num_rows]
    out = collected(ray, adapter.transform(dataset(ray, *blocks), frozen))
    expected = frozen.transform(pa.Table.from_batches(stream))
    assert out.schema.equals(expected.schema)
    assert repr(out.to_pydict()) == repr(expected.to_pydict())  # NaN is not equal to itself


def test_transform_is_lazy_and_checks_columns_first(ray, adapter):
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]})).freeze()
    with pytest.raises(sbn.SchemaError, match="'x'"):
        adapter.transform(dataset(ray, {"y": [1.0]}), frozen)
    bad = adapter.transform(dataset(ray, {"x": [np.inf]}), frozen)
    with pytest.raises(Exception, match="InvalidValueError: column 'x' holds infinity"):
        bad.materialize()


def test_transform_leaves_other_columns_alone(ray, adapter):
    table = pa.table(
        {
            "s": pa.array(["a", "b"], pa.large_string()),
            "x": pa.array([1.0, 3.0], pa.float32()),
            "d": pa.array(["u", "u"]).dictionary_encode(),
            "n": [{"v": [1]}, None],
        }
    )
    frozen = sbn.Normalizer().update(table).freeze()
    out = collected(ray, adapter.transform(dataset(ray, table), frozen))
    assert out.drop_columns(["x"]).equals(table.drop_columns(["x"]))
    assert out["x"].equals(pa.chunked_array([[-1.0, 1.0]], pa.float32()))
    frames = adapter.transform(ray.data.from_pandas([table.to_pandas()]), frozen)
    assert collected(ray, frames)["x"].to_pylist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    "version", ["ArrowTensorType", "ArrowTensorTypeV2", "FixedShapeTensorType"]
)
def test_tensors_of_ray_are_features(ray, adapter, version):
    extensions = pytest.importorskip("ray.data.extensions")
    rows = [[1.0, 2.0], None, [3.0, 2.0]]
    if version == "FixedShapeTensorType":
        kind = pa.fixed_shape_tensor(pa.float32(), (1, 2))
        storage = pa.array(rows, pa.list_(pa.float32(), 2))
    else:
        kind = getattr(extensions, version)((1, 2), pa.float32())
        storage = pa.array(rows, kind.storage_type)
    table = pa.table({"id": ["a", "b", "c"], "t": pa.ExtensionArray.from_storage(kind, storage)})
    ds = dataset(ray, table, table.slice(1))
    fitted = adapter.fit(ds, sbn.Normalizer())
    assert fitted.features == ("t[0]", "t[1]")
    assert fitted.stats()["count"].to_pylist() == [3, 3]
    out = collected(ray, adapter.transform(ds, fitted.freeze()))
    assert out.schema.types == table.schema.types
    plain = out["t"].combine_chunks().storage.to_pylist()
    np.testing.assert_allclose(plain[0], [-np.sqrt(2), 0.0], rtol=1e-6)
    assert plain[1] is None


def test_images_become_floats_of_their_shape(ray, adapter):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    ds = ray.data.from_numpy(images)
    frozen = adapter.fit(ds, sbn.Normalizer(sbn.Exact())).freeze()
    out = adapter.transform(ds, frozen).take_batch(4)["data"]
    assert (out.shape, out.dtype) == ((4, 2, 3), np.float64)
    np.testing.assert_allclose(out, (images - images.mean(0)) / images.std(0), rtol=1e-14)


def test_tensors_of_several_shapes_are_refused(ray, adapter):
    ds = ray.data.from_items([{"a": np.ones((2, 3))}, {"a": np.ones((3, 3))}])
    for columns in (None, ["a"]):
        with pytest.raises(sbn.SchemaError, match=r"a.*ArrowVariableShapedTensorType"):
            adapter.fit(ds, sbn.Normalizer(columns=columns))


# -------------------------------------------------------------------------- preprocessor


def test_preprocessor_transforms_datasets_and_batches(ray, adapter):
    table = pa.table({"x": [1.0, 3.0], "s": ["a", "b"], "t": [[1.0], [2.0]]})
    frozen = sbn.Normalizer(columns=["x"]).update(table).freeze()
    scaler = adapter.preprocessor(frozen)
    assert scaler.frozen is frozen
    expected = frozen.transform(table)
    assert collected(ray, scaler.transform(dataset(ray, table))).equals(expected)
    assert collected(ray, scaler.transform(dataset(ray, table), num_cpus=0.5)).equals(expected)
    assert scaler.transform_batch(table).equals(expected)
    frame = scaler.transform_batch(table.to_pandas())
    assert frame["x"].tolist() == [-1.0, 1.0]
    arrays = scaler.transform_batch({"x": np.array([1.0, 3.0]), "e": np.ones((2, 3, 4))})
    assert arrays["x"].tolist() == [-1.0, 1.0]
    assert arrays["e"].shape == (2, 3, 4)
    assert scaler.get_input_columns() == scaler.get_output_columns() == ["x"]
    assert "preprocessor(FrozenNormalizer" in repr(scaler)


def test_preprocessor_agrees_with_the_scaler_of_ray(ray, adapter):
    scalers = pytest.importorskip("ray.data.preprocessors")
    x = np.random.default_rng(0).normal(1e9, 1, 1000)
    ds = dataset(ray, {"x": x[:300]}, {"x": x[300:]})
    theirs = scalers.StandardScaler(["x"]).fit(ds)
    ours = adapter.preprocessor(adapter.fit(ds, sbn.Normalizer()).freeze())
    z = (theirs.transform_batch(pa.table({"x": x})), ours.transform_batch(pa.table({"x": x})))
    np.testing.assert_allclose(*(table["x"].to_numpy() for table in z), atol=1e-6)


def test_preprocessor_serializes_our_bytes(ray, adapter):
    frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]})).freeze()
    scaler = adapter.preprocessor(frozen)
    again = type(scaler).deserialize(scaler.serialize())
    assert again.frozen == frozen
    # A name, our bytes, and a call.
    operations = {op.name: arg for op, arg, _ in pickletools.genops(pickle.dumps(scaler, 2))}
    assert operations.keys() <= {
        "PROTO", "GLOBAL", "BINPUT", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "TUPLE1", "TUPLE2",
        "REDUCE", "STOP", "LONG_BINPUT",
    }  # fmt: skip
    content = pickle.dumps(scaler, 5)
    assert frozen.to_bytes() in content
    assert len(content) < len(frozen.to_bytes()) + 200


# A cluster whose workers do not find streambn.
FOREIGN = """
import sys
sys.path.insert(0, sys.argv[1])
from ray_process import cluster
import pyarrow as pa
import streambn as sbn
import streambn.adapters.ray

def hide():
    import sys

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("streambn"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Hidden())

with cluster(runtime_env={"worker_process_setup_hook": hide}) as ray:
    ds = ray.data.from_arrow(pa.table({"x": [1.0]}))
    try:
        streambn.adapters.ray.fit(ds, sbn.Normalizer())
    except sbn.InvalidValueError as error:
        print(error.argument, error, error.__cause__ is not None)
"""


@pytest.mark.long
def test_workers_without_streambn_are_one_clear_line():
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ds Ray's workers cannot import streambn (No module named 'streambn" in done.stdout
    assert done.stdout.strip().endswith("True")
