"""What a live and a frozen normalizer have in common: statistics, applied."""

from __future__ import annotations

import abc
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from streambn._repr import as_html, as_text
from streambn.arrow import map_batches
from streambn.errors import InvalidValueError
from streambn.options import Options
from streambn.policies import Policy
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

__all__ = ["Transformer", "float_type_of"]


class Transformer(abc.ABC):
    """What both normalizers do with the statistics that they hold."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def statistics(self) -> Statistics:
        """The statistics as they stand."""

    @property
    def policy(self) -> Policy:
        """The policy: how the past is weighted."""
        return self.statistics.policy

    @property
    def options(self) -> Options:
        """The hyperparameters other than policy and columns."""
        return self.statistics.options

    @property
    def standardizer(self) -> Standardizer:
        """The map that the statistics define, as they stand.

        It holds what `transform` uses: the scale of each feature, and which are constant.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        return Standardizer.of(self.statistics)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: ``column``, ``struct.field`` or ``list[0]``; () without data."""
        return self.statistics.features

    @property
    def lanes(self) -> tuple[str, ...]:
        """Former name of `features`."""
        warnings.warn("lanes was renamed: use features.", DeprecationWarning, stacklevel=2)
        return self.features

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics as they stand, one row a lane.

        Parameters
        ----------
        at : datetime, date, numpy.datetime64 or number, optional
            Of an `EMA` by event time: as of when the weights are read; by default, and at the
            earliest, as of the newest row. Mean and variance do not depend on it.

        Returns
        -------
        pyarrow.Table
            column (str); count, nulls, nans, infs (int64): finite values seen, and what
            was not counted among them; mean, var, std, min, max (float64; null where
            undefined). var and std are by this normalizer's `ddof`; the running
            variance of a `BatchEMA` is by its own. Besides, of an `EMA` or with ``weights=``,
            weight: Σw; effective_count: Kish's effective sample size (Σw)²/Σw². Of a
            `BatchEMA`, total_var: the variance between the blocks included, E[v] + Var[b].

        Raises
        ------
        NotFittedError
            No data was seen.
        InvalidValueError
            `at` is no time such as the event times, or lies before the newest row.
        """
        return self.statistics.stats(at)

    def transform(self, data: Any, dtype: Any = None) -> Any:
        """Normalize by the statistics as they stand. Never learns.

        y = (x − mean) / √(var + eps), clipped, times gamma plus beta. Nulls stay null,
        NaN stays NaN, a lane that was never seen becomes null. Other columns and the
        schema's metadata pass through.

        Parameters
        ----------
        data : Arrow data
            See `Normalizer.update`.
        dtype : data type, optional
            Of the normalized columns: float16, float32 or float64, as pyarrow or NumPy
            have it. Default: floats keep their type, all else becomes float64.

        Returns
        -------
        same kind as `data`
            For a stream a pyarrow.RecordBatchReader, which holds one batch at a time
            and normalizes by the statistics as they were at this call.

        Raises
        ------
        NotFittedError
            No data was seen.
        SchemaError
            A column is missing or not numeric.
        InvalidValueError
            There is a NaN or an infinity that ``nan=`` or ``inf=`` refuses.
        """
        standardizer, kind = self.standardizer, float_type_of(dtype)

        def output_schema(schema: pa.Schema) -> pa.Schema:
            return standardizer.output_schema(schema, kind, fingerprint=self._fingerprint)

        if isinstance(data, pa.RecordBatch):  # the short way, because most calls are for one
            return standardizer.standardize(data, output_schema(data.schema))
        return map_batches(data, output_schema, standardizer.standardize)

    def inverse_transform(self, data: Any, dtype: Any = None) -> Any:
        """Undo `transform`: x = (y − beta)/gamma · √(var + eps) + mean.

        What was clipped stays clipped. Integers and decimals come back as float64.

        Parameters
        ----------
        data : Arrow data
            With the normalized columns under their own names.
        dtype : data type, optional
            As for `transform`.

        Returns
        -------
        same kind as `data`

        Raises
        ------
        NotFittedError, SchemaError
            As for `transform`.
        InvalidValueError
            A gamma is 0.
        """
        standardizer, kind = self.standardizer, float_type_of(dtype)
        return map_batches(
            data, lambda schema: standardizer.output_schema(schema, kind), standardizer.restore
        )

    @property
    def _fingerprint(self) -> str | None:
        """The fingerprint that outputs carry, if any."""
        return None

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self.statistics)

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.statistics)


def float_type_of(dtype: Any) -> pa.DataType | None:
    """Make of what the user calls a float type one of pyarrow's."""
    if dtype is None:
        return None
    try:
        kind = dtype if isinstance(dtype, pa.DataType) else pa.from_numpy_dtype(np.dtype(dtype))
        if pa.types.is_floating(kind):
            return kind
    except (TypeError, pa.ArrowException):
        pass
    raise InvalidValueError(f"dtype must be float16, float32 or float64, got {dtype!r}.")
