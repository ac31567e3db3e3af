"""The common base of both normalizers: statistics that are read and applied."""

from __future__ import annotations

import abc
import copy
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from streambn._repr import as_html, as_text
from streambn.array_transform import map_array
from streambn.arrow import Matrix, Validation, as_batch, map_batches
from streambn.errors import InvalidValueError
from streambn.options import Options
from streambn.policies import Policy
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

__all__ = ["Transformer", "float_type_of"]


class Transformer(abc.ABC):
    """Read statistics and apply them; subclasses hold the statistics."""

    __slots__ = ()

    _metadata: dict[str, Any] | None

    @property
    @abc.abstractmethod
    def statistics(self) -> Statistics:
        """The immutable value that holds policy, options, columns and state."""

    @property
    def policy(self) -> Policy:
        """The policy, which says how the past is weighted."""
        return self.statistics.policy

    @property
    def options(self) -> Options:
        """The hyperparameters other than policy and columns."""
        return self.statistics.options

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata of these statistics, such as offsets into their stream, as a copy.

        `save` and `to_bytes` write it, `streambn.load` and `streambn.from_bytes` read it, and
        `freeze` and `thaw` keep it. It belongs to exactly these statistics. A normalizer that
        learns or that a merge returns has other ones, and its metadata are empty.
        """
        return copy.deepcopy(self._metadata or {})

    @property
    def standardizer(self) -> Standardizer:
        """The map from data to normalized values that the statistics define now.

        It tells the scale of each feature, and which features are constant.

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
        warnings.warn("lanes was renamed to features.", DeprecationWarning, stacklevel=2)
        return self.features

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics as a table with one row per feature.

        Parameters
        ----------
        at : datetime, date, numpy.datetime64 or number, optional
            For an `EMA` by event time: the time as of which to read the weights, not before the
            newest row. Default: the time of the newest row. Mean and variance do not depend on
            it.

        Returns
        -------
        pyarrow.Table
            - ``column``: name of the feature.
            - ``count``: number of finite values.
            - ``nulls``, ``nans``, ``infs``: numbers of other values.
            - ``mean``, ``var``, ``std``, ``min``, ``max``: float64, null where undefined. `ddof`
              applies to ``var`` and ``std``; a `BatchEMA` uses its own.
            - ``weight``: Σw, for an `EMA` or with ``weights=``.
            - ``effective_count``: Kish's effective sample size (Σw)²/Σw², likewise.
            - ``known``: with ``min_count=``, whether the feature has as many values. One that is
              not known yet normalizes to null.
            - ``total_var``: for a `BatchEMA`, the variance with the drift between blocks,
              E[v] + Var[b].

        Raises
        ------
        NotFittedError
            No data was seen.
        InvalidValueError
            `at` is not a time like the event times, or lies before the newest row.
        """
        return self.statistics.stats(at)

    def transform(self, data: Any, dtype: Any = None, *, validate: Validation = "basic") -> Any:
        """Normalize data by the current statistics, without learning.

        y = clip((x − mean) / √(var + eps)) · gamma + beta. Nulls stay null and NaN stays NaN. A
        feature without statistics, or with fewer values than `min_count`, becomes null. Other
        columns and the schema's metadata are unchanged.

        A result beyond float16 is refused. One beyond float32 or float64 becomes infinite, as in
        NumPy; `clip` bounds results. Only values more than 3e38 deviations from the mean do that.

        Parameters
        ----------
        data : Arrow data or array
            See `Normalizer.update`.
        dtype : data type, optional
            Type of the normalized columns: float16, float32 or float64, of pyarrow or NumPy.
            Default: floats keep their type, all other types become float64.
        validate : {"basic", "full"}
            "full": validate each batch in full before it is read, also the columns that pass
            through. See `Normalizer.update`.

        Returns
        -------
        same kind as `data`
            For a stream a pyarrow.RecordBatchReader, which holds one batch at a time and uses the
            statistics at the time of this call. It has the types of the first batch, and all its
            fields are nullable. For a stream of arrays an iterator of arrays.

            An array has the memory order of `data`, NaN in place of null, and one type, that of
            the normalized columns, also for the columns that pass through.

        Raises
        ------
        NotFittedError
            No data was seen.
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            ``nan="raise"`` or ``inf="raise"`` refuses a value, or a column is damaged, or a result
            is beyond float16.
        """
        standardizer, kind = self.standardizer, float_type_of(dtype)
        fingerprint = self._fingerprint
        single = as_batch(data) if validate == "basic" else None
        if isinstance(single, Matrix):
            return map_array(standardizer, single, kind)
        if single is not None:  # the short way, because most calls are for one
            schema = standardizer.output_schema(single.schema, kind, fingerprint=fingerprint)
            return standardizer.standardize(single, schema)

        def output_schema(schema: pa.Schema) -> pa.Schema:
            return standardizer.output_schema(schema, kind, fingerprint=fingerprint)

        def function(batch: pa.RecordBatch | Matrix, schema: pa.Schema) -> Any:
            if isinstance(batch, Matrix):
                return map_array(standardizer, batch, kind)
            return standardizer.standardize(batch, schema)

        return map_batches(data, output_schema, function, validate)

    def inverse_transform(
        self, data: Any, dtype: Any = None, *, validate: Validation = "basic"
    ) -> Any:
        """Undo `transform`: x = (y − beta)/gamma · √(var + eps) + mean.

        Clipped values stay clipped. Integers and decimals come back as float64.

        Parameters
        ----------
        data : Arrow data or array
            Normalized columns under their own names.
        dtype : data type, optional
            See `transform`.
        validate : {"basic", "full"}
            See `Normalizer.update`.

        Returns
        -------
        same kind as `data`

        Raises
        ------
        NotFittedError, SchemaError
            As for `transform`.
        InvalidValueError
            A result is beyond float16, or a gamma is 0.
        """
        standardizer, kind = self.standardizer, float_type_of(dtype)

        def function(batch: pa.RecordBatch | Matrix, schema: pa.Schema) -> Any:
            if isinstance(batch, Matrix):
                return map_array(standardizer, batch, kind, inverse=True)
            return standardizer.restore(batch, schema)

        return map_batches(
            data, lambda schema: standardizer.output_schema(schema, kind), function, validate
        )

    @property
    def _fingerprint(self) -> str | None:
        """The fingerprint that outputs carry; None: none."""
        return None

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self.statistics)

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.statistics)


def float_type_of(dtype: Any) -> pa.DataType | None:
    """Return a float type of pyarrow or NumPy as pyarrow's; None stays None.

    Raises
    ------
    InvalidValueError
        `dtype` is not a float type.
    """
    if dtype is None:
        return None
    try:
        kind = dtype if isinstance(dtype, pa.DataType) else pa.from_numpy_dtype(np.dtype(dtype))
        if pa.types.is_floating(kind):
            return kind
    except (TypeError, pa.ArrowException):
        pass
    raise InvalidValueError(
        f"dtype must be float16, float32 or float64, got {dtype!r}.", argument="dtype"
    )
