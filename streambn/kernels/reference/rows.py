"""Statistics of features over a stream of rows, value by value.

`streambn.accumulators.moments` documents the monoid of moments. A row is a segment with W = 1,
μ = x, S = C = 0, Q = 1 and P = λ, so learning a row is a merge. The arithmetic uses plain floats,
because the overhead of a NumPy call exceeds the cost of the arithmetic on one value.

A prior selects the recursion y = λ·y + α·x, which starts at the first value.
`streambn.kernels.recursion.recursion_step` documents the weight ω of a value g rows after the
last, and its discount λ**g·ω; `gap_fade` is the discount of a gap without a prior. The first value
is kept apart. It gets its weight P/α when the statistics are read, where P is the product of the
discounts of all later values.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from streambn.kernels import doubledouble as dd
from streambn.kernels.interface import Ints
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.recursion import LEAST_FADE
from streambn.kernels.reference.merge import merge_moments
from streambn.kernels.reference.row_features import (
    LARGEST,
    SMALLEST,
    Feature,
    FeatureMap,
    flush,
    single,
)
from streambn.kernels.rows import CONSTANT, MISSING, UNSEEN, RowRules, weight_of

__all__ = ["RowStatistics"]

_EPSILON = 2.0**-52
_LEAST_NORMAL = 2.0**-1022
_NOISE = 2.0**-96  # smaller low parts of a mean are noise: see accumulators/moments.py
_MAX_EXPONENT = 1024  # numbers of a larger binary exponent are beyond float64

_FIELDS = len(MomentArrays.FIELDS)
_RAISE, _PROPAGATE = MISSING.index("raise"), MISSING.index("propagate")


class RowStatistics:
    """Statistics of features over a stream of rows. Features may come and go.

    A row is a dict from features to values.

    Parameters
    ----------
    *rules
        The fields of a `RowRules`.
    affine : dict
        Pairs (gamma, beta) by feature.
    number, refuse : callable
        The functions of `streambn.kernels.rows`.
    """

    def __init__(self, *arguments: Any) -> None:
        *fields, affine, number, refuse = arguments
        self._rules = RowRules(*fields)
        self._affine: dict[Any, tuple[float, float]] = affine
        self._number: Callable[[Any, Any], tuple[float, float, bool] | tuple[()] | None] = number
        self._refuse: Callable[[str, Any, Any], NoReturn] = refuse
        passes = UNSEEN[self._rules.unseen] == "passthrough"
        self._unseen = FeatureMap(gamma=1.0 if passes else 0.0)
        # The extension is protected by the interpreter's lock. This class needs its own, because
        # Python may switch threads within a method.
        self._lock = threading.RLock()
        self._features: dict[Any, Feature] = {}
        self._shares = (0.0, 0.0), (0.0, 0.0)
        self.rows = 0

    def __len__(self) -> int:
        return len(self._features)

    def keys(self) -> list[Any]:
        """Return the features in the order of their appearance."""
        with self._lock:
            return list(self._features)

    def exact(self) -> list[bool]:
        """Return for each feature whether only integers and decimals were seen."""
        with self._lock:
            return [feature.exact for feature in self._features.values()]

    def learn(self, row: Any, weight: Any = 1.0) -> None:
        """Learn one row. A row that raises an error, or has weight 0, changes nothing."""
        value_weight = weight_of(weight)
        if value_weight != 1 and self._rules.prior:
            self._refuse("recursion", None, weight)
        with self._lock:
            read = self._read(row)
            for key, feature, value in read:
                self._check(key, feature, value, row[key])
            if value_weight == 0:
                return
            for key, known, value in read:
                # Only a number adds a feature. A missing value may belong to a column of text.
                if known is None and not value:
                    continue
                feature = known or Feature(*self._affine.get(key, ()))
                self._features[key] = feature
                self._catch_up(feature)
                feature.rows += 1
                self._learn_value(feature, value, value_weight)
            self.rows += 1

    def transform(self, row: Any) -> dict[Any, Any]:
        """Return a copy of a row with its numbers normalized. Other values stay unchanged."""
        with self._lock:
            read = self._read(row)
            out = dict(row)
            for key, feature, value in read:
                self._check(key, feature, value, row[key])
                if not value:
                    continue
                by = None if feature is None else self._map_of(feature)
                if by is None or not by.known:
                    if UNSEEN[self._rules.unseen] == "raise":
                        few = feature is not None and self._rules.min_count > 0
                        self._refuse("few" if few else "unseen", key, row[key])
                    by = self._unseen
                out[key] = by(value[0], value[1], self._rules.clip)
            return out

    def store(
        self, moments: Ints, first: Ints | None, gaps: Ints | None, rows: Ints | None
    ) -> None:
        """Write the moments into arrays and, with a prior, the first values and the gaps.

        Parameters
        ----------
        moments : ndarray of int64, shape (16, F)
            The memory of a `MomentArrays`.
        first : ndarray of int64, shape (16, F), or None
            The moments of the first values alone.
        gaps : ndarray of int64, shape (2, F), or None
            Rows without a value before the first value, and since the last.
        rows : ndarray of int64, shape (F,), or None
            The rows that the moments of each feature include. Without it, the moments are brought
            up to the last row of the stream first.
        """
        with self._lock:
            if moments.shape[1] != len(self):
                raise ValueError(f"there are {len(self)} lanes, and room for {moments.shape[1]}")
            if first is not None:
                first[...] = empty_moments(len(self)).memory
            for i, feature in enumerate(self._features.values()):
                current = copy.copy(feature)
                if rows is None:
                    self._catch_up(current)
                else:
                    rows[i] = current.rows
                moments[:, i] = current.arrays().memory[:, 0]
                if current.first is not None and first is not None:
                    first[:, i] = current.first.arrays().memory[:, 0]
                if gaps is not None:
                    gaps[:, i] = current.before, current.since

    def update(
        self,
        fresh: Sequence[Any],
        exact: Sequence[bool],
        before: int,
        rows: int,
        moments: Ints,
        first: Ints | None,
        gaps: Ints | None,
        rows_of_lanes: Ints | None,
    ) -> bool:
        """Add the features `fresh`, and set the moments of all to those after `rows` rows.

        The arrays are those of `store`. Return False, and change nothing, if the stream no longer
        has `before` rows because another thread has learned.
        """
        with self._lock:
            if before != self.rows:
                return False
            for key in fresh:
                self._features[key] = Feature(*self._affine.get(key, ()))
            for i, feature in enumerate(self._features.values()):
                feature.set(MomentArrays(moments.reshape(_FIELDS, -1)), i)
                feature.rows = rows if rows_of_lanes is None else int(rows_of_lanes[i])
                feature.exact, feature.map = exact[i], None
                feature.first = None
                if first is not None and feature.count:
                    feature.first = Feature()
                    feature.first.set(MomentArrays(first.reshape(_FIELDS, -1)), i)
                feature.before = feature.since = 0
                if gaps is not None:
                    feature.before, feature.since = gaps.reshape(2, -1)[:, i].tolist()
            self.rows = rows
        return True

    def index(self, key: Any) -> int:
        """Return the index of a feature, or -1 if it is unknown."""
        return list(self._features).index(key) if key in self._features else -1

    def set_maps(self, *arrays: Any) -> None:
        """Set the maps of all features, whose statistics are kept elsewhere."""
        columns = (array.tolist() for array in arrays)
        for feature, values in zip(
            self._features.values(), zip(*columns, strict=True), strict=True
        ):
            feature.map = FeatureMap(*values)

    def _read(self, row: Any) -> list[tuple[Any, Feature | None, Any]]:
        if not isinstance(row, dict):
            self._refuse("row", None, row)
        return [
            (key, self._features.get(key), self._number(value, key)) for key, value in row.items()
        ]

    def _check(self, key: Any, feature: Feature | None, value: Any, given: Any) -> None:
        if value is None and feature is not None:
            self._refuse("other", key, given)
        if value and math.isnan(value[0]) and self._rules.nan == _RAISE:
            self._refuse("nan", key, given)
        if value and math.isinf(value[0]) and self._rules.inf == _RAISE:
            self._refuse("inf", key, given)

    def _learn_value(self, feature: Feature, value: Any, weight: float) -> None:
        if not value:
            feature.nulls += 1
        elif math.isnan(value[0]):
            feature.nans += 1
        elif value[0] == math.inf:
            feature.pos_infs += 1
        elif value[0] == -math.inf:
            feature.neg_infs += 1
        else:
            feature.exact = feature.exact and value[2]
            return self._learn_number(feature, value[:2], weight)
        if value:
            # With "propagate", a NaN or an infinity changes the map.
            feature.exact, feature.map = False, None
        return self._learn_missing(feature, 1)

    def _catch_up(self, feature: Feature) -> None:
        """Bring a feature up to the last row. The rows that lacked it count as nulls."""
        missed = self.rows - feature.rows
        if not missed:
            return
        feature.nulls += missed
        feature.rows = self.rows
        self._learn_missing(feature, missed)

    def _learn_missing(self, feature: Feature, rows: int) -> None:
        # Missing values change nothing until the next value.
        if not self._rules.counts_gaps:
            return
        if feature.count == 0:
            feature.before += rows
        else:
            feature.since += rows

    def _learn_number(self, feature: Feature, x: tuple[float, float], value_weight: float) -> None:
        decay = self._rules.decay
        feature.map = None
        if self._rules.prior and feature.first is None:
            feature.first = single(x, 1.0, 1.0)
            feature.count += 1
            feature.min, feature.max = min(feature.min, x[0]), max(feature.max, x[0])
            return
        if feature.since and not self._rules.ignore_missing:
            decay *= max(decay**feature.since, LEAST_FADE)
            if self._rules.prior:
                value_weight = 1.0 / (decay + 1.0 / self._rules.prior)
                decay *= value_weight
        feature.since = 0
        w = decay * feature.weight
        if w == 0 or feature.exponent != 0 or not SMALLEST <= abs(x[0]) <= LARGEST:
            feature.set(merge_moments(feature.arrays(), single(x, value_weight, decay).arrays()))
            feature.decay = flush(feature.decay)
            return
        weight = w + value_weight
        mean = feature.mean_hi, feature.mean_lo
        delta = dd.add(x, (-mean[0], -mean[1]))
        # The mean starts from the heavier side, as in `merge_moments`.
        from_x = w < value_weight
        light, heavy = (w, value_weight) if from_x else (value_weight, w)
        if self._shares[0] != (w, value_weight):  # features of a row mostly share them
            self._shares = (w, value_weight), dd.divide((light, 0.0), (weight, 0.0))
        move = dd.multiply(delta, self._shares[1])
        between = dd.scale(dd.multiply(delta, move), heavy)
        mean = dd.add(x, (-move[0], -move[1])) if from_x else dd.add(mean, move)
        m2 = feature.m2_hi, feature.m2_lo
        m2 = dd.add(m2 if decay == 1 else dd.scale(m2, decay), between)
        feature.mean_hi, feature.mean_lo = mean
        feature.m2_hi, feature.m2_lo = m2
        feature.pairs = decay * decay * feature.pairs + w * value_weight
        feature.squares = decay * decay * feature.squares + value_weight * value_weight
        feature.weight = weight
        feature.decay = flush(feature.decay * decay)
        feature.count += 1
        feature.min, feature.max = min(feature.min, x[0]), max(feature.max, x[0])

    def _map_of(self, feature: Feature) -> FeatureMap:
        # Rows without the feature discount all its weights alike, so the map stays valid.
        if feature.map is None:
            feature.map = self._make_map(feature)
        return feature.map

    def _make_map(self, feature: Feature) -> FeatureMap:
        rules = self._rules
        new = FeatureMap(gamma=feature.gamma, beta=feature.beta, known=feature.count > 0)
        propagated = math.nan if rules.nan == _PROPAGATE and feature.nans else 0.0
        if rules.inf == _PROPAGATE:
            propagated += math.inf if feature.pos_infs else 0.0
            propagated -= math.inf if feature.neg_infs else 0.0  # both infinities give NaN
        if (not new.known and propagated == 0) or feature.count < rules.min_count:
            new.known = False
            return new
        new.known = True
        m = feature
        if feature.first is not None:
            # The weight of the first value is discounted already. A decay of 1 keeps the merge
            # from discounting it again.
            prior = feature.first.arrays().replace(weight=np.array([rules.prior * feature.decay]))
            m = Feature()
            m.set(merge_moments(prior, feature.arrays().replace(decay=np.ones(1))))
        mean = math.ldexp(m.mean_hi, m.exponent)
        rest = math.ldexp(m.mean_lo, m.exponent)
        if propagated != 0:
            mean, rest = propagated, 0.0
        if rules.center:
            new.high, new.low = mean, 0.0 if abs(rest) < _NOISE * abs(mean) else rest
        if not rules.scale:
            return new
        divisor = m.weight if rules.ddof == 0 else 2 * m.pairs / m.weight if m.pairs > 0 else 0.0
        var = std = math.nan
        if divisor > 0 and propagated == 0:
            scaled = max(m.m2_hi / divisor, 0.0)
            std = math.ldexp(math.sqrt(scaled), m.exponent)
            large = scaled > 0 and math.frexp(scaled)[1] + 2 * m.exponent > _MAX_EXPONENT
            var = math.inf if large else math.ldexp(scaled, 2 * m.exponent)
        rounding = 0.0 if feature.exact else max(_EPSILON * abs(mean), _LEAST_NORMAL)
        constant = not std > rounding and math.isfinite(mean)
        std = 0.0 if constant else std
        if rules.eps == 0:
            new.scale = 1.0 if constant else std
            if constant and CONSTANT[rules.constant] == "zero":
                new.gamma = 0.0
            return new
        ordinary = var > 1e-290 and math.isfinite(var + rules.eps) and not constant
        new.scale = (
            math.sqrt(var + rules.eps) if ordinary else math.hypot(std, math.sqrt(rules.eps))
        )
        return new
