"""Normalization of batches of rows, in which features without statistics may occur."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from streambn.arrow import float_type
from streambn.kernels import BoundColumn, Columns, FeatureTransform, Layout, normalize
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.rows import refuse
from streambn.online.features import ColumnTypes, KnownFeatures
from streambn.options import Options
from streambn.standardize import Standardizer

__all__ = ["BatchPlan", "transform_with_unseen"]


def transform_with_unseen(
    standardizer: Standardizer, unseen: str, constant: str
) -> FeatureTransform:
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
    maps, options = standardizer.lanes, standardizer.options
    features = len(maps.known)
    gamma = np.ones(features) if maps.gamma is None else maps.gamma
    beta = np.zeros(features) if maps.beta is None else maps.beta
    if constant == "zero" and options.scale and options.eps == 0:
        gamma = np.where(standardizer.constant, 0.0, gamma)
    known = np.append(maps.known, False)

    def extend(values: Floats, of_unseen: float) -> Floats:
        return np.where(known, np.append(values, of_unseen), of_unseen)

    return FeatureTransform(
        location_hi=extend(maps.location_hi, 0.0),
        location_lo=extend(maps.location_lo, 0.0),
        scale=extend(maps.scale, 1.0),
        gamma=extend(gamma, 1.0 if unseen == "passthrough" else 0.0),
        beta=extend(beta, 0.0),
        clip=maps.clip,
        known=known,
    )


class BatchPlan(NamedTuple):
    """How batches of one schema are normalized.

    Attributes
    ----------
    names : tuple
        Names of the columns.
    columns : tuple of int
        Indices of the columns that are normalized.
    features : ndarray of int64, shape (columns,)
        Index of the feature of each, or the number of features if it has no statistics.
    layout : Layout
        Of the columns that are normalized.
    normalized : pyarrow.Schema
        Schema of those columns in the output.
    schema : pyarrow.Schema
        Schema of the output.
    """

    names: tuple[Any, ...]
    columns: tuple[int, ...]
    features: Ints
    layout: Layout
    normalized: pa.Schema
    schema: pa.Schema

    @classmethod
    def of(
        cls,
        schema: pa.Schema,
        names: tuple[Any, ...],
        types: ColumnTypes,
        known: KnownFeatures,
        row_columns: Collection[str],
    ) -> Self:
        """Return the plan for a schema; `row_columns` pass through."""
        columns = tuple(i for i in types.numeric if names[i] not in row_columns)
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

    def check_seen(self, batch: pa.RecordBatch, transform: FeatureTransform) -> None:
        """Raise a NotFittedError if the batch has a value of a feature without statistics."""
        for column, known in zip(self.columns, transform.known[self.features], strict=True):
            if not known and batch.column(column).null_count < len(batch):
                refuse("unseen", self.names[column], None)

    def apply(
        self, batch: pa.RecordBatch, transform: FeatureTransform, options: Options
    ) -> pa.RecordBatch:
        """Return a normalized batch.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
        transform : FeatureTransform
            From `transform_with_unseen`.
        options : Options

        Raises
        ------
        InvalidValueError
            ``nan="raise"`` or ``inf="raise"`` refuses a value.
        """
        if not self.columns:
            return batch
        # Features without statistics have a map as well, so no output becomes null.
        chosen = FeatureTransform._make(
            values[self.features] if isinstance(values, np.ndarray) else values
            for values in transform
        )._replace(known=np.ones(len(self.columns), np.bool_))
        mapped = normalize(Columns(batch, self.layout), chosen, self.normalized)
        options.check_finite(mapped.nans, mapped.infs, [self.names[i] for i in self.columns])
        arrays = batch.columns
        for i, array in zip(self.columns, mapped.batch.columns, strict=True):
            arrays[i] = array
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
