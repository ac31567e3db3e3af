"""`streambn merge`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import CO2, bad, good, stats

import streambn as sbn


def fit(name: str, *values: float, flags: tuple[object, ...] = ()) -> str:
    """Write statistics of some values to a file."""
    pq.write_table(pa.table({"x": [*values]}), f"{name}.parquet")
    good("fit", f"{name}.parquet", "-o", f"{name}.json", *flags)
    return f"{name}.json"


def test_order_matters_to_a_policy_that_forgets() -> None:
    ema = ("--policy", "ema", "--alpha", 0.5)
    old, new = fit("old", 1.0, 1.0, flags=ema), fit("new", 2.0, 2.0, flags=ema)
    good("merge", old, new, "-o", "ordered.json")
    good("merge", new, old, "-o", "reversed.json")
    assert stats("ordered.json")["x"]["mean"] > stats("reversed.json")["x"]["mean"]


def test_merge_can_replace_its_own_input() -> None:
    good("fit", CO2, "-o", "total.json")
    good("merge", "total.json", "total.json", "-o", "total.json")
    assert stats("total.json")["co2"]["count"] == 2 * 2225


def test_statistics_of_different_policies_do_not_merge() -> None:
    welford, ema = fit("a", 1.0), fit("b", 1.0, flags=("--policy", "ema", "--alpha", 0.1))
    assert "b.json" in bad(1, "merge", welford, ema, "-o", "out.json")


@pytest.mark.parametrize("frozen", ["a.json", "b.json"])
def test_frozen_statistics_merge_only_if_thawed(frozen: str) -> None:
    for name in ("a", "b"):
        fit(name, 1.0, 2.0, flags=("--frozen",) if frozen == f"{name}.json" else ())
    merge = ("merge", "a.json", "b.json", "-o", "out.json")
    assert bad(2, *merge) == f"streambn: {frozen} is frozen. To learn on from it, give --thaw."
    good(*merge, "--thaw")
    assert isinstance(sbn.load("out.json"), sbn.Normalizer)
    good(*merge, "--thaw", "--frozen")
    assert isinstance(sbn.load("out.json"), sbn.FrozenNormalizer)
    assert stats("out.json")["x"]["count"] == 4


@pytest.mark.parametrize("order", [("exact", "welford"), ("welford", "exact")])
def test_exact_and_welford_statistics_merge_into_welford(order: tuple[str, str]) -> None:
    for name, value in zip(order, (1.0, 3.0), strict=True):
        fit(name, value, value, flags=("--policy", name))
    files = [f"{name}.json" for name in order]
    done = good("merge", *files, "-o", "out.json")
    assert done.stderr == (
        "streambn: merged exact and welford statistics; out.json has policy welford\n"
    )
    assert sbn.load("out.json").policy == sbn.Welford()
    row = stats("out.json")["x"]
    assert (row["count"], row["mean"], row["var"]) == (4, 2.0, 1.0)
    assert good("merge", *files, "-o", "out.json", "--quiet").stderr == ""
    assert good("merge", files[0], files[0], "-o", "out.json").stderr == ""


def test_merge_writes_to_a_file() -> None:
    path = fit("a", 1.0)
    assert "to a file" in bad(2, "merge", path, "-o", "-")
    good("merge", path, "-o", "merged.json", "--quiet")
