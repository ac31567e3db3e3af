"""Decimals in one part and floats in the next: the message names the policy that takes both."""

from __future__ import annotations

import statistics
import subprocess
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.errors import MergeError, SchemaError

DECIMALS = pa.table({"price": pa.array([Decimal("1.10"), Decimal("2.25")])})
FLOATS = pa.table({"price": [0.3, 7.125]})
VALUES = [1.1, 2.25, 0.3, 7.125]
PAIRS = [(DECIMALS, FLOATS), (FLOATS, DECIMALS)]
KEYWORD = r"column 'price' holds .* decimals of scale 2 .* or choose policy=Welford\(\)"


@pytest.mark.parametrize("pair", PAIRS, ids=["decimals first", "floats first"])
def test_library_names_welford_which_takes_both(pair):
    norm = sbn.Normalizer(sbn.Exact()).update(pair[0])
    before = norm.statistics
    with pytest.raises(SchemaError, match=KEYWORD) as caught:
        norm.update(pair[1])
    assert caught.value.column == "price"
    assert norm.statistics is before
    with pytest.raises(MergeError, match=KEYWORD):
        norm.merge(sbn.Normalizer(sbn.Exact()).update(pair[1]))

    both = sbn.Normalizer(policy=sbn.Welford()).update(pair[0]).update(pair[1])
    assert both.stats()["mean"][0].as_py() == pytest.approx(statistics.mean(VALUES), rel=1e-15)
    assert both.stats()["std"][0].as_py() == pytest.approx(statistics.pstdev(VALUES), rel=1e-15)


def test_adapter_names_welford():
    norm = RiverNormalizer(policy=sbn.Exact())
    norm.learn_one({"price": Decimal("1.1")})
    with pytest.raises(SchemaError, match=r"feature 'price' .* or choose policy=Welford\(\)"):
        norm.learn_one({"price": 0.3})


def shell(*arguments):
    command = [sys.executable, "-m", "streambn.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_shell_names_its_own_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(DECIMALS, "0.parquet")
    pq.write_table(FLOATS, "1.parquet")
    fit = ["fit", "0.parquet", "1.parquet", "-o", "stats.json"]
    refused = shell(*fit)
    assert refused.returncode == 3
    assert "1.parquet: column 'price' holds" in refused.stderr
    assert "or choose --policy welford" in refused.stderr
    assert shell(*fit, "--policy", "welford").returncode == 0
    loaded = sbn.load("stats.json")
    assert loaded.stats()["mean"][0].as_py() == pytest.approx(statistics.mean(VALUES), rel=1e-15)
