"""The laws of every adapter, on frames and on single rows."""

from __future__ import annotations

import math

import pyarrow as pa
from river_rows import learned

import streambn as sbn
from streambn.testing import AdapterLaws

EPSILON = 2.0**-52


class OnFrames(AdapterLaws):
    def learned(self, policy, batches):
        return learned(*map(self.as_frame, batches), policy=policy)

    def transformed(self, adapter, batch):
        out = adapter.transform_many(self.as_frame(batch))
        return {name: pa.table({name: out[name]})[name].to_pylist() for name in ("a", "b")}

    def as_frame(self, batch):
        return batch

    def as_host(self, z, x, stats):
        if x is None or math.isnan(x):
            return x
        # As in River, a feature without statistics or of zero variance becomes 0.
        seen = stats["mean"] is not None
        return z if seen and stats["std"] > EPSILON * abs(stats["mean"]) else 0.0


class OnRows(OnFrames):
    def learned(self, policy, batches):
        return learned(*(row for batch in batches for row in batch.to_pylist()), policy=policy)

    def transformed(self, adapter, batch):
        rows = [adapter.transform_one(row) for row in batch.to_pylist()]
        return {name: [row[name] for row in rows] for name in ("a", "b")}


class OnTables(OnFrames):
    def as_frame(self, batch):
        return pa.Table.from_batches([batch])


CASES = {
    "WelfordOnBatches": (OnFrames, sbn.Welford()),
    "EMAOnBatches": (OnFrames, sbn.EMA(halflife=3)),
    "BatchEMAOnBatches": (OnFrames, sbn.BatchEMA(momentum=0.1)),
    "ExactOnBatches": (OnFrames, sbn.Exact()),
    "RecursiveEMAOnTables": (OnTables, sbn.EMA(alpha=0.3, adjust=False, ignore_na=True)),
    "WelfordOnRows": (OnRows, sbn.Welford()),
    "ExactOnRows": (OnRows, sbn.Exact()),
    "EMAOnRows": (OnRows, sbn.EMA(span=5)),
    "RecursiveEMAOnRows": (OnRows, sbn.EMA(alpha=0.3, adjust=False)),
}

for _name, (_base, _policy) in CASES.items():
    _how = {"policy": _policy, "depends_on_cuts": isinstance(_policy, sbn.BatchEMA)}
    globals()[f"Test{_name}"] = type(f"Test{_name}", (_base,), _how)
