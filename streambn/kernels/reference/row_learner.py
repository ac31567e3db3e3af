"""How one feature learns values one after the other, and the map that its statistics define.

A prior selects the recursion y = λ·y + α·x, which starts at the first value.
`streambn.kernels.recursion.recursion_step` documents the weight ω of a value g rows after the
last, and its discount λ**g·ω; `gap_fade` is the discount of a gap without a prior. The first value
is kept apart. It gets its weight P/α when the statistics are read, where P is the product of the
discounts of all later values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streambn.kernels import doubledouble as dd
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
from streambn.kernels.rows import CONSTANT, MISSING, RowRules

__all__ = ["PROPAGATE", "RowLearner"]

PROPAGATE = MISSING.index("propagate")

_EPSILON = 2.0**-52
_LEAST_NORMAL = 2.0**-1022
_NOISE = 2.0**-96  # smaller low parts of a mean are noise: see accumulators/moments.py
_MAX_EXPONENT = 1024  # numbers of a larger binary exponent are beyond float64


class RowLearner:
    """The rules by which features learn, and are mapped.

    Attributes
    ----------
    rules : RowRules
    """

    def __init__(self, rules: RowRules) -> None:
        self.rules = rules
        # The last weights of a merge, and their shares. The features of a row mostly have the same.
        self._shares = (0.0, 0.0), (0.0, 0.0)

    def learn_value(self, feature: Feature, value: Any, weight: float) -> None:
        """Learn a value (high, low, exact); a missing value is ()."""
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
            return self.learn_number(feature, value[:2], weight)
        if value:
            # With "propagate", a NaN or an infinity changes the map.
            feature.exact, feature.map = False, None
        return self.learn_missing(feature, 1)

    def learn_missing(self, feature: Feature, rows: int) -> None:
        """Learn so many rows without a value."""
        # Missing values change nothing until the next value.
        if not self.rules.counts_gaps:
            return
        if feature.count == 0:
            feature.before += rows
        else:
            feature.since += rows

    def learn_number(self, feature: Feature, x: tuple[float, float], value_weight: float) -> None:
        """Learn a finite number, which discounts what came before by the rules."""
        decay = self.rules.decay
        feature.map = None
        if self.rules.prior and feature.first is None:
            feature.first = single(x, 1.0, 1.0)
            feature.count += 1
            feature.min, feature.max = min(feature.min, x[0]), max(feature.max, x[0])
            return
        if feature.since and not self.rules.ignore_missing:
            decay *= max(decay**feature.since, LEAST_FADE)
            if self.rules.prior:
                value_weight = 1.0 / (decay + 1.0 / self.rules.prior)
                decay *= value_weight
        feature.since = 0
        self.learn_weighted(feature, x, value_weight, decay)

    def learn_weighted(
        self, feature: Feature, x: tuple[float, float], value_weight: float, decay: float
    ) -> None:
        """Learn a finite number, which discounts what came before by a factor."""
        feature.map = None
        w = decay * feature.weight
        # Zero has no exponent, so it joins values of any exponent.
        plain = SMALLEST <= abs(x[0]) <= LARGEST or x[0] == 0
        if w == 0 or feature.exponent != 0 or not plain:
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

    def map_of(self, feature: Feature) -> FeatureMap:
        """Return the map of a feature's current moments."""
        # Rows without the feature discount all its weights alike, so the map stays valid.
        if feature.map is None:
            feature.map = self._make_map(feature)
        return feature.map

    def _make_map(self, feature: Feature) -> FeatureMap:
        rules = self.rules
        new = FeatureMap(gamma=feature.gamma, beta=feature.beta, known=feature.count > 0)
        propagated = math.nan if rules.nan == PROPAGATE and feature.nans else 0.0
        if rules.inf == PROPAGATE:
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
        divisor = m.weight
        if rules.ddof:
            # The same as `read_moments` of reference/estimates.py.
            unit_weights = m.weight == m.squares == feature.count
            pairs = 2 * m.pairs / m.weight if m.pairs > 0 else 0.0
            divisor = m.weight - 1.0 if unit_weights else pairs
        var = std = math.nan
        if divisor > 0 and propagated == 0:
            scaled = max(dd.divide((m.m2_hi, m.m2_lo), (divisor, 0.0))[0], 0.0)
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
