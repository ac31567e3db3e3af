"""Statistics of features over a stream of rows, value by value.

`streambn.accumulators.moments` documents the monoid of moments. A row is a segment with W = 1,
μ = x, S = C = 0, Q = 1 and P = λ, so learning a row is a merge. The arithmetic uses plain floats,
because the overhead of a NumPy call exceeds the cost of the arithmetic on one value.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from streambn.kernels.interface import Ints
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.reference.row_features import (
    Feature,
    FeatureMap,
)
from streambn.kernels.reference.row_learner import RowLearner
from streambn.kernels.rows import MISSING, UNSEEN, RowRules, weight_of

__all__ = ["RowStatistics"]

_FIELDS = len(MomentArrays.FIELDS)
_RAISE = MISSING.index("raise")


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
        self._learner = RowLearner(self._rules)
        self._affine: dict[Any, tuple[float, float]] = affine
        self._number: Callable[[Any, Any], tuple[float, float, bool] | tuple[()] | None] = number
        self._refuse: Callable[[str, Any, Any], NoReturn] = refuse
        passes = UNSEEN[self._rules.unseen] == "passthrough"
        self._unseen = FeatureMap(gamma=1.0 if passes else 0.0)
        # The extension is protected by the interpreter's lock. This class needs its own, because
        # Python may switch threads within a method.
        self._lock = threading.RLock()
        self._features: dict[Any, Feature] = {}
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
                self._learner.learn_value(feature, value, value_weight)
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
                by = None if feature is None else self._learner.map_of(feature)
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

    def _catch_up(self, feature: Feature) -> None:
        """Bring a feature up to the last row. The rows that lacked it count as nulls."""
        missed = self.rows - feature.rows
        if not missed:
            return
        feature.nulls += missed
        feature.rows = self.rows
        self._learner.learn_missing(feature, missed)
