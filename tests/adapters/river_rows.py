"""Rows and frames for the tests of RiverNormalizer."""

import datetime
import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from streambn.adapters.river import RiverNormalizer

NAN, INF = math.nan, math.inf
DAY = datetime.datetime(2024, 1, 1)
ROWS = [
    {name: float(value) for name, value in zip("abc", values, strict=True)}
    for values in np.random.default_rng(3).normal([0.0, 1e9, -5.0], [1.0, 1.0, 1e-3], (60, 3))
]


def learned(*data, policy=None, **options):
    """Return a new normalizer that has learned rows, which are dicts, and frames."""
    return learn(RiverNormalizer(policy, **options), *data)


def learn(model, *data):
    for x in data:
        if isinstance(x, dict):
            model.learn_one(x)
        else:
            model.learn_many(x)
    return model


def stats_of(model, feature):
    [row] = [row for row in model.stats().to_pylist() if row["column"] == feature]
    return row


def mean_and_var(model, feature):
    of = stats_of(model, feature)
    return of["mean"], of["var"]


def counts(model, feature):
    return tuple(stats_of(model, feature)[name] for name in ("count", "nulls", "nans", "infs"))


def frames(columns):
    """Return the columns as each kind of frame."""
    return [make(columns) for make in (pd.DataFrame, pl.DataFrame, pa.table, pa.record_batch)]


def column(frame, name):
    """Return a column of any kind of frame as Python values."""
    values = frame[name]
    return values.to_pylist() if hasattr(values, "to_pylist") else values.to_list()
