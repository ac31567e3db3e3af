"""The laws of every adapter, on frames and on single rows."""

from __future__ import annotations

import math

import pyarrow as pa

import streambn as sbn
from streambn.adapters.river import RiverNormalizer
from streambn.testing import AdapterLaws

EPSILON = 2.0**-52


class OnFrames(AdapterLaws):
    def learned(self, policy, batches):
        model = RiverNormalizer(policy)
        for batch in batches:
            model.learn_many(self.as_frame(batch))
        return model

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
        model = RiverNormalizer(policy)
        for batch in batches:
            for row in batch.to_pylist():
                model.learn_one(row)
        return model

    def transformed(self, adapter, batch):
        rows = [adapter.transform_one(row) for row in batch.to_pylist()]
        return {name: [row[name] for row in rows] for name in ("a", "b")}


class TestWelfordOnBatches(OnFrames):
    policy = sbn.Welford()


class TestEMAOnBatches(OnFrames):
    policy = sbn.EMA(halflife=3)


class TestBatchEMAOnBatches(OnFrames):
    policy = sbn.BatchEMA(momentum=0.1)
    depends_on_cuts = True


class TestRecursiveEMAOnTables(OnFrames):
    policy = sbn.EMA(alpha=0.3, adjust=False, ignore_na=True)

    def as_frame(self, batch):
        return pa.Table.from_batches([batch])


class TestWelfordOnRows(OnRows):
    policy = sbn.Welford()


class TestExactOnBatches(OnFrames):
    policy = sbn.Exact()


class TestExactOnRows(OnRows):
    policy = sbn.Exact()


class TestEMAOnRows(OnRows):
    policy = sbn.EMA(span=5)


class TestRecursiveEMAOnRows(OnRows):
    policy = sbn.EMA(alpha=0.3, adjust=False)
