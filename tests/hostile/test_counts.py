"""Statistics that are merged with themselves until a count would leave 64 bits."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

import streambn as sbn
from streambn.errors import MergeError

POLICIES = {
    "welford": (sbn.Welford(), {"x": [1.0, None, math.nan, math.inf]}, {}),
    "exact": (sbn.Exact(), {"x": [1.0, None, math.nan, math.inf]}, {}),
    "nulls": (sbn.Welford(), {"x": pa.nulls(4, pa.float64())}, {}),
    "weights": (sbn.Welford(), {"x": [1.0, 2.0], "w": [1e30, 1e30]}, {"weights": "w"}),
    "by row": (sbn.EMA(alpha=1e-9), {"x": [1.0, None, 2.0, None]}, {}),
    "recursive": (sbn.EMA(span=3, adjust=False), {"x": [None, 1.0, 2.0, None]}, {}),
    "by time": (sbn.EMA(halflife=1.0, time="t"), {"x": [1.0, None], "t": [1.0, 2.0]}, {}),
    "blocks": (sbn.BatchEMA(momentum=None), {"x": [1.0, 3.0]}, {}),
    "blocks of rows": (sbn.BatchEMA(decay=0.5, batch_rows=2), {"x": [1.0, None]}, {}),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_merge_refuses_counts_that_would_overflow(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policy, data, options = POLICIES[name]
    path = tmp_path_factory.mktemp("counts") / "s.json"
    norm = sbn.Normalizer(policy, inf="ignore", **options).update(pa.table(data))
    for _ in range(61 - int(math.log2(len(data["x"])))):
        norm = norm.merge(norm)
    before = norm.stats()
    with pytest.raises(MergeError, match=r"'x' would have 4,611,686,018,427,387,904 rows") as found:
        norm.merge(norm)
    assert found.value.column == "x"
    assert norm.stats().equals(before)
    [row] = before.to_pylist()
    rows = row["count"] + row["nulls"] + row["nans"] + row["infs"]
    assert rows == 2**61
    assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    # What saves, loads; and what was loaded can still learn, and be saved again.
    for _ in range(2):
        norm.save(path)
        norm = sbn.load(path)
        assert norm.stats().equals(before)
    assert norm.update(pa.table(data)).stats()["count"][0].as_py() >= row["count"]
    norm.save(path)
    sbn.load(path)
