"""Rows that are mapped as they are learned, each by the statistics just before it or with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from streambn.kernels import doubledouble as dd
from streambn.kernels.flatten import flatten_columns, iterate_features
from streambn.kernels.interface import NEGLIGIBLE, Columns, Floats, Times, Transformed
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.reference.row_features import Feature
from streambn.kernels.reference.row_learner import RowLearner
from streambn.kernels.reference.transforms import arrays_of
from streambn.kernels.rows import number
from streambn.kernels.series import Series, SeriesState

__all__ = ["map_series"]

_Time = tuple[float, float]


@np.errstate(all="ignore")
def map_series(
    columns: Columns, state: SeriesState, series: Series
) -> tuple[SeriesState, Transformed]:
    """Return the state after a batch, and its rows, each mapped by the statistics as of that row.

    The rows of a batch are learned one after the other, so neither result depends on how a stream
    was cut into batches. A row of weight 0 is mapped, and not learned.

    Parameters
    ----------
    columns : Columns
        With times if the series has a half-life. The times of the rows that are learned ascend,
        and none is before the times of `state`.
    state : SeriesState
        Before the batch.
    series : Series

    Notes
    -----
    A row discounts the moments of a feature by the rules, or by 2**(−age/halflife) with the age of
    the feature's last value. As a discount of all weights alike changes neither mean nor variance,
    it is applied when the next value is learned.
    """
    learner, rows = RowLearner(series.rules), columns.rows
    features = _load(state, series)
    moments_at = None if state.times is None else state.times.copy()
    times = None if series.halflife is None else _as_pairs(columns.times)
    y = np.zeros((rows, len(features)))
    known = np.zeros((rows, len(features)), np.bool_)
    counts = np.zeros((2, len(features)), np.int64)
    nans, infs = counts
    for index, array, _ in iterate_features(columns, range(len(features))):
        feature, exact = features[index], bool(series.exact[index])
        values: list[Any] = [number(value, index) or () for value in array.to_pylist()]
        nans[index] = sum(bool(value) and math.isnan(value[0]) for value in values)
        infs[index] = sum(bool(value) and math.isinf(value[0]) for value in values)
        at: _Time | None = None
        if moments_at is not None:
            at = float(moments_at[0, index]), float(moments_at[1, index])
        for row, value in enumerate(values):
            if series.before:
                known[row, index], y[row, index] = _map(learner, feature, value)
            weight = 1.0 if columns.weights is None else float(columns.weights[row])
            if weight > 0:
                if at is None or times is None or not value or not math.isfinite(value[0]):
                    learner.learn_value(feature, value, weight)
                else:
                    fade = _fade(at, times[row], series.halflife or 1.0) if feature.count else 1.0
                    learner.learn_weighted(feature, value[:2], weight, fade)
                    feature.decay, at = 1.0, times[row]
                feature.exact = exact  # as the column, whatever its values are
            if not series.before:
                known[row, index], y[row, index] = _map(learner, feature, value)
        if moments_at is not None:
            moments_at[:, index] = at
    batch = arrays_of(flatten_columns(columns), y, known, series.schema)
    return _store(features, state, moments_at), Transformed(batch, counts)


def _map(learner: RowLearner, feature: Feature, value: Any) -> tuple[bool, float]:
    """Return whether a feature is known, and its mapped value, or 0 if there is none."""
    by = learner.map_of(feature)
    if not by.known or not value:
        return by.known, 0.0
    return True, by(value[0], value[1], learner.rules.clip)


def _as_pairs(times: Times | None) -> list[_Time]:
    """Return the times of the rows as hi + lo, as `streambn.policies.instant` does."""
    if times is None:
        raise TypeError("a series with a half-life needs columns with times")
    if times.ticks.dtype != np.int64:
        return [(tick, 0.0) for tick in times.ticks.tolist()]
    wholes = [tick * (times.tick or 1) for tick in times.ticks.tolist()]
    return [(float(whole), float(whole - int(float(whole)))) for whole in wholes]


def _fade(older: _Time, newer: _Time, halflife: float) -> float:
    """Return the discount of a value of one time by a value of another."""
    # Quarters, because the difference of two float64 may be beyond float64.
    a, b = (older[0] / -4, older[1] / -4), (newer[0] / 4, newer[1] / 4)
    faded = float(np.exp2(-(np.float64(dd.add(b, a)[0]) / halflife * 4)))
    return 0.0 if faded < NEGLIGIBLE else faded


def _load(state: SeriesState, series: Series) -> list[Feature]:
    features = []
    for index in range(len(state.moments.count)):
        feature = Feature()
        if series.gamma is not None and series.beta is not None:
            feature = Feature(float(series.gamma[index]), float(series.beta[index]))
        feature.set(state.moments, index)
        feature.exact = bool(series.exact[index])
        if state.first is not None and feature.count:
            feature.first = Feature()
            feature.first.set(state.first, index)
        if state.gaps is not None:
            feature.before, feature.since = state.gaps[:, index].tolist()
        features.append(feature)
    return features


def _store(features: Sequence[Feature], state: SeriesState, times: Floats | None) -> SeriesState:
    def stacked(some: Sequence[Feature | None]) -> MomentArrays:
        none = empty_moments(1)
        arrays = [(none if each is None else each.arrays()).memory for each in some]
        return MomentArrays(np.hstack([empty_moments(0).memory, *arrays]))

    first = None if state.first is None else stacked([each.first for each in features])
    gaps = None
    if state.gaps is not None:
        pairs = [(each.before, each.since) for each in features]
        gaps = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
    return SeriesState(stacked(features), first, gaps, times)
