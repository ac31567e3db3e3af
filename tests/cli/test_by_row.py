"""normalize --online --by-row: each row by the statistics as of that row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import streambn as sbn

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")

ONLINE = ["normalize", "--online", "--by-row"]
Run = Callable[..., Any]


def table(rows: int = 3000) -> pa.Table:
    rng = np.random.default_rng(6)
    return pa.table(
        {
            "x": rng.normal(100, 3, rows),
            "n": pa.array(rng.integers(0, 9, rows), mask=rng.random(rows) < 0.1),
            "t": pa.array(np.arange(rows) * 1000, pa.timestamp("ms")),
            "w": rng.random(rows),
        }
    )


def test_a_file_is_judged_by_its_past_alone(run: Run) -> None:
    Path("v.csv").write_text("v\n1\n2\n3\n4\n")
    assert run(*ONLINE, "--using", "before", "v.csv", "-o", "o.csv", "-q").code == 0
    lines = Path("o.csv").read_text().splitlines()[1:]
    assert lines[0] == ""
    expected = [(2 - 1) / 1, (3 - 1.5) / 0.5, (4 - 2) / (2 / 3) ** 0.5]
    assert [float(line) for line in lines[1:]] == pytest.approx(expected)


@pytest.mark.parametrize("using", ["before", "running"])
@pytest.mark.parametrize(
    ("policy", "flags"),
    [
        (sbn.Welford(), []),
        (sbn.Exact(), ["--policy", "exact"]),
        (sbn.EMA(halflife=20), ["--policy", "ema", "--halflife", "20"]),
        (sbn.EMA(halflife="1m", time="t"), ["--policy", "ema", "--halflife", "1m", "--time", "t"]),
        (sbn.EMA(span=9, adjust=False), ["--policy", "ema", "--span", "9", "--no-adjust"]),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value),
)
def test_neither_files_nor_row_groups_show(
    run: Run, policy: sbn.policies.Policy, flags: list[str], using: str
) -> None:
    data = table()
    columns = ["x", "n"]
    pq.write_table(data, "one.parquet", row_group_size=1000)
    Path("parts").mkdir()
    for i, (start, stop) in enumerate([(0, 7), (7, 2000), (2000, 3000)]):
        pq.write_table(data.slice(start, stop - start), f"parts/{i}.parquet", row_group_size=100)
    chosen = ["--columns", "x,n", "--using", using, *flags]
    assert run(*ONLINE, "one.parquet", "-o", "one.arrow", "--save", "1.json", *chosen).code == 0
    assert run(*ONLINE, "parts", "-o", "parts.parquet", "--save", "2.json", *chosen).code == 0
    norm = sbn.Normalizer(policy, columns)
    expected = norm.update_transform(data, using, by_row=True)
    for output in ("one.arrow", "parts.parquet"):
        form = output.rpartition(".")[2]
        found = pyarrow.dataset.dataset(output, format=form).to_table()
        for name in columns:
            values = [t[name].to_numpy(zero_copy_only=False) for t in (found, expected)]
            rtol = 1e-13 if policy.exact else 0
            np.testing.assert_allclose(*values, rtol=rtol, atol=rtol)
        assert found["t"] == data["t"]
    for path in ("1.json", "2.json"):
        assert sbn.load(path).stats() == norm.stats()


def test_weights_and_times_pass_through_csv_as_text(run: Run) -> None:
    pa.csv.write_csv(table(50), "in.csv")
    flags = ["--weights", "w", "--policy", "ema", "--halflife", "5s", "--time", "t"]
    assert run(*ONLINE, "in.csv", "-o", "out.csv", *flags).code == 0
    norm = sbn.Normalizer(sbn.EMA(halflife="5s", time="t"), weights="w")
    expected = norm.update_transform(pa.csv.read_csv("in.csv"), by_row=True)
    found = pa.csv.read_csv("out.csv")
    for name in ("x", "n"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    assert found["w"] == expected["w"]


def test_times_out_of_order_are_named(run: Run) -> None:
    pq.write_table(table(9).take([0, 1, 5, 4]), "in.parquet")
    flags = ["--policy", "ema", "--halflife", "5s", "--time", "t"]
    result = run(*ONLINE, "in.parquet", "-o", "out.parquet", *flags)
    assert result.code == 1
    message = " ".join(result.lines)
    for part in ("in.parquet", "column 't' is out of order", "sort the data", "omit --by-row"):
        assert part in message
    assert not Path("out.parquet").exists()
