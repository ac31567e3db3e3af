"""Event times all have a time zone, or none has one; a mixture is refused, and both are named."""

from __future__ import annotations

import datetime as dt
import itertools

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.cli.app import streambn as command
from streambn.errors import MergeError, SchemaError

DAY = dt.datetime(2026, 3, 1)
POLICY = sbn.EMA(halflife="1d", time="ts")
TYPES = {
    "naive": pa.timestamp("us"),
    "naive seconds": pa.timestamp("s"),
    "date": pa.date32(),
    "UTC": pa.timestamp("us", "UTC"),
    "Berlin": pa.timestamp("ns", "Europe/Berlin"),
}
ZONED = {"UTC", "Berlin"}
MIXED = [pair for pair in itertools.permutations(TYPES, 2) if len(ZONED.intersection(pair)) == 1]
ALIKE = [pair for pair in itertools.product(TYPES, TYPES) if pair not in MIXED]


def rows(kind, day=0, x=1.0):
    time = pa.array([DAY + dt.timedelta(days=day)]).cast(TYPES[kind])
    return pa.table({"x": [x], "ts": time})


def normalizer():
    return sbn.Normalizer(POLICY)


def through_a_file(norm, path):
    norm.save(path)
    return sbn.load(path)


WAYS = {
    "batches": lambda a, b, path: normalizer().update(a).update(b),
    "one stream": lambda a, b, path: normalizer().update([a, b]),
    "merge": lambda a, b, path: normalizer().update(a).merge(normalizer().update(b)),
    "saved state": lambda a, b, path: through_a_file(normalizer().update(a), path).update(b),
    "frozen state": lambda a, b, path: normalizer().update(a).freeze().thaw().update(b),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("pair", MIXED, ids=" ".join)
def test_mixture_is_refused_and_both_are_named(pair, way, tmp_path):
    with pytest.raises((SchemaError, MergeError), match="'ts'") as caught:
        way(*map(rows, pair), tmp_path / "stats.json")
    assert "UTC timestamps" in str(caught.value)
    assert "naive timestamps" in str(caught.value)
    assert caught.value.column == "ts"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("pair", ALIKE, ids=" ".join)
def test_times_of_one_kind_go_together(pair, way, tmp_path):
    one, other = rows(pair[0], 0, 1.0), rows(pair[1], 1, 4.0)
    norm = way(one, other, tmp_path / "stats.json")
    assert norm.stats()["mean"][0].as_py() == pytest.approx(3.0, rel=1e-15)


def test_refused_batch_leaves_no_trace():
    norm = normalizer().update(rows("naive"))
    before = norm.statistics
    with pytest.raises(SchemaError):
        norm.update(rows("UTC"))
    assert norm.statistics is before


@pytest.mark.parametrize("pair", [("naive", "UTC"), ("UTC", "naive")], ids=" ".join)
def test_dataset_does_not_cast_in_silence(pair, tmp_path):
    for i, kind in enumerate(pair):
        pq.write_table(rows(kind), tmp_path / f"{i}.parquet")
    with pytest.raises(SchemaError, match=r"'ts' is timestamp\[us.*timestamp\[us.*in the dataset"):
        normalizer().update(ds.dataset(tmp_path))
    # A column of times that are not event times is the user's affair.
    assert sbn.Normalizer().update(ds.dataset(tmp_path)).stats()["count"][0].as_py() == 2


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_shell_names_file_and_column(ending, tmp_path):
    for i, kind in enumerate(("naive", "UTC")):
        path = tmp_path / f"{i}.{ending}"
        (pq.write_table if ending == "parquet" else pc.write_csv)(rows(kind), path)
    options = ["--policy", "ema", "--halflife", "1d", "--time", "ts", "-o", tmp_path / "s.json"]
    arguments = ["fit", tmp_path / f"0.{ending}", tmp_path / f"1.{ending}", *options]
    result = CliRunner().invoke(command, [str(x) for x in arguments], obj={})
    assert isinstance(result.exception, SchemaError)
    assert f"1.{ending}: column 'ts' holds UTC timestamps" in str(result.exception)


def test_rows_of_river_are_checked_too():
    norm = RiverNormalizer(policy=POLICY)
    norm.learn_one({"x": 1.0, "ts": DAY})
    for time in (DAY.replace(tzinfo=dt.UTC), pd.Timestamp(DAY, tz="Asia/Tokyo")):
        with pytest.raises(SchemaError, match="'ts' holds UTC timestamps"):
            norm.learn_one({"x": 1.0, "ts": time})
    norm.learn_one({"x": 4.0, "ts": pd.Timestamp(DAY) + pd.Timedelta(1, "D")})
    assert norm.stats()["mean"][0].as_py() == pytest.approx(3.0)
