"""Normalization of batches of rows, in which features without statistics may occur."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from streambn.arrow import SchemaCache, float_type
from streambn.kernels import (
    BoundColumn,
    Columns,
    FeatureTransform,
    Layout,
    RowStatistics,
    normalize,
)
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.rows import refuse
from streambn.online.features import BatchColumns, ColumnTypes, KnownFeatures
from streambn.online.rows import PassingKeys
from streambn.online.state import KernelState, PolicyState
from streambn.options import Options
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

__all__ = ["BatchTransformer"]


class BatchTransformer:
    """Normalizes batches of rows by the current statistics of their features.

    Parameters
    ----------
    options : Options
    kernel : RowStatistics
        The features, which rows learned in another thread may extend at any time.
    state : KernelState or PolicyState
    columns : BatchColumns
    statistics : callable
        Returns the current statistics of all features.
    passing : PassingKeys
        Columns that are not features and pass through.
    unseen : {"zero", "passthrough", "raise"}
        Output for values of a feature without statistics.
    constant : {"unit", "zero"}
        Output for values of a feature of zero variance.
    lock : threading.RLock
    """

    def __init__(
        self,
        options: Options,
        kernel: RowStatistics,
        state: KernelState | PolicyState,
        columns: BatchColumns,
        statistics: Callable[[], Statistics],
        passing: PassingKeys,
        unseen: str,
        constant: str,
        lock: threading.RLock,
    ) -> None:
        self._options = options
        self._kernel, self._state, self._columns = kernel, state, columns
        self._statistics = statistics
        self._passing = passing
        self._unseen, self._constant = unseen, constant
        self._lock = lock
        self._plans = SchemaCache()
        self._current: tuple[int, FeatureTransform] | None = None

    def transform(self, batch: pa.RecordBatch, names: tuple[Any, ...]) -> pa.RecordBatch:
        """Return a normalized batch. Errors are those of `RowNormalizer.transform_many`."""
        types = self._columns.types(batch, names)
        plan, transform = self._plan(batch.schema, names, types)
        if self._unseen == "raise":
            plan.check_seen(batch, transform, self._options.min_count)
        return plan.apply(batch, transform, self._options)

    def _plan(
        self, schema: pa.Schema, names: tuple[Any, ...], types: ColumnTypes
    ) -> tuple[_Plan, FeatureTransform]:
        """Return the plan for a schema and the maps of all features, both as of one row."""
        with self._lock:
            while True:
                features = len(self._kernel)
                plan: _Plan = self._plans.get(
                    schema,
                    (names, features),
                    lambda: _Plan.of(schema, names, types, self._kernel, self._passing),
                )
                transform = self.current_maps()
                # Otherwise another thread learned a new feature meanwhile.
                if len(transform.known) == features + 1:
                    return plan, transform

    def current_maps(self) -> FeatureTransform:
        """Return the map of each feature, followed by the map of a feature without statistics.

        The state gets them too.
        """
        rows = self._kernel.rows
        if self._current is not None and self._current[0] == rows:
            return self._current[1]
        standardizer = Standardizer.of(self._statistics())
        transform = _with_unseen(standardizer, self._unseen, self._constant)
        self._current = rows, transform
        self._state.set_maps(transform)
        return transform


def _with_unseen(standardizer: Standardizer, unseen: str, constant: str) -> FeatureTransform:
    """Return the map of each feature, followed by the map of a feature without statistics.

    Parameters
    ----------
    standardizer : Standardizer
    unseen : {"zero", "passthrough", "raise"}
        The map of a feature without statistics. Features with statistics but without a mean get
        it too, and `known` is False for all of them.
    constant : {"unit", "zero"}
        The map of a constant feature if ``eps=0``.
    """
    maps, options = standardizer.parameters, standardizer.options
    features = len(maps.known)
    gamma = np.ones(features) if maps.gamma is None else maps.gamma
    beta = np.zeros(features) if maps.beta is None else maps.beta
    if constant == "zero" and options.scale and options.eps == 0:
        gamma = np.where(standardizer.constant, 0.0, gamma)
    known = np.append(maps.known, False)

    def extend(values: Floats, of_unseen: float) -> Floats:
        return np.where(known, np.append(values, of_unseen), of_unseen)

    return FeatureTransform.of(
        location_hi=extend(maps.location_hi, 0.0),
        location_lo=extend(maps.location_lo, 0.0),
        scale=extend(maps.scale, 1.0),
        gamma=extend(gamma, 1.0 if unseen == "passthrough" else 0.0),
        beta=extend(beta, 0.0),
        clip=maps.clip,
        known=known,
    )


class _Plan(NamedTuple):
    """How batches of one schema are normalized."""

    names: tuple[Any, ...]  # of all columns
    columns: tuple[int, ...]  # indices of the columns that are normalized
    features: Ints  # the index of each one's feature; the number of features if it has none yet
    layout: Layout  # of these columns
    normalized: pa.Schema  # of these columns in the output
    schema: pa.Schema  # of the output

    @classmethod
    def of(
        cls,
        schema: pa.Schema,
        names: tuple[Any, ...],
        types: ColumnTypes,
        known: KnownFeatures,
        passing: PassingKeys,
    ) -> Self:
        """Return the plan for a schema; columns in `passing` pass through."""
        columns = tuple(i for i in types.numeric if names[i] not in passing)
        fields = list(schema)
        for i in columns:
            fields[i] = fields[i].with_type(float_type(fields[i].type))
        features = np.array([known.index(names[i]) for i in columns], np.int64)
        return cls(
            names=names,
            columns=columns,
            features=np.where(features < 0, len(known), features),
            layout=Layout([BoundColumn((i,), None) for i in columns], schema, types.encoded),
            normalized=pa.schema([(str(i), fields[i].type) for i in columns]),
            schema=pa.schema(fields, metadata=schema.metadata),
        )

    def check_seen(
        self, batch: pa.RecordBatch, transform: FeatureTransform, min_count: int
    ) -> None:
        """Raise a NotFittedError if the batch has a value of a feature without statistics."""
        unseen = len(transform.known) - 1
        for column, feature in zip(self.columns, self.features.tolist(), strict=True):
            if not transform.known[feature] and batch.column(column).null_count < len(batch):
                few = feature != unseen and min_count > 0
                refuse("few" if few else "unseen", self.names[column], None)

    def apply(
        self, batch: pa.RecordBatch, transform: FeatureTransform, options: Options
    ) -> pa.RecordBatch:
        """Return a batch normalized by the maps that `_with_unseen` returned."""
        if not self.columns:
            return batch
        # Features without statistics have a map as well, so no output becomes null.
        maps = transform.take(self.features)
        maps.known[:] = True
        mapped = normalize(Columns(batch, self.layout), maps, self.normalized)
        options.check_finite(mapped.nans, mapped.infs, [self.names[i] for i in self.columns])
        if len(self.columns) == batch.num_columns:
            return pa.RecordBatch.from_arrays(mapped.batch.columns, schema=self.schema)
        arrays = batch.columns
        for i, array in zip(self.columns, mapped.batch.columns, strict=True):
            arrays[i] = array
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
