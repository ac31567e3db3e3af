"""The map from data to normalized values, and back, for an array."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import kernels
from streambn.arrow import Matrix, empty_like
from streambn.kernels import Columns
from streambn.standardize import Standardizer, beyond_float16

__all__ = ["array_of", "map_array"]

_FLOAT64: Final = np.dtype(np.float64)
_FLOATS: Final[dict[int, np.dtype[Any]]] = {
    pa.float16().id: np.dtype(np.float16),
    pa.float32().id: np.dtype(np.float32),
    pa.float64().id: _FLOAT64,
}


def map_array(
    standardizer: Standardizer,
    matrix: Matrix,
    dtype: pa.DataType | None,
    columns: Columns | None = None,
    *,
    inverse: bool = False,
) -> NDArray[Any]:
    """Return an array normalized as `Standardizer.standardize` normalizes batches.

    NaN stands for null. The output has one type, also for the columns that pass through.

    Parameters
    ----------
    standardizer : Standardizer
    matrix : Matrix
    dtype : pyarrow.DataType or None
        The float type of the output. None: that of the array if it is a float, else float64.
    columns : Columns, optional
        The leaves of the array, if the binding of the statistics extracted them.
    inverse : bool
        Whether to do what `Standardizer.restore` does instead.

    Raises
    ------
    SchemaError
        The columns of the array are others than those with statistics.
    InvalidValueError
        As for `standardize` and `restore`.
    """
    if inverse:
        standardizer.check_invertible()
    standardizer.binding.check_matrix(matrix, standardizer)
    part = standardizer.matching(matrix.schema)
    # A binding that is not settled has another layout here, without the spare feature.
    if columns is None or not part.binding.is_settled or part is not standardizer:
        columns = part.binding.extract(matrix)
    out, maps = _output(matrix, dtype), part.parameters
    nans, infs = kernels.map_matrix(columns, maps, inverse, out)
    if not inverse:
        part.options.check_finite(nans, infs, part.binding.features)
    width = out.shape[1]
    if np.count_nonzero(maps.known) == width and out.itemsize > 2:
        return out
    places = np.array([place.path[0] for place in columns.layout.places])
    out[:, places[~maps.known]] = np.nan
    others = np.setdiff1d(np.arange(width), places)
    _pass_through(matrix, others, out)
    # Where the statistics are infinite, so are the results.
    finite = places[np.isfinite(maps.location_hi)]
    _check_float16(matrix, finite, out, "" if inverse else "clip= bounds it, and ")
    return out


def array_of(
    batch: pa.RecordBatch, matrix: Matrix, normalized: Collection[str], dtype: pa.DataType | None
) -> NDArray[Any]:
    """Return the batch that an array became as an array, as `map_array` would.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    matrix : Matrix
        The input.
    normalized : collection of str
        The columns that were normalized. The others pass through.
    dtype : pyarrow.DataType or None
        See `map_array`.
    """
    out, others = _output(matrix, dtype), []
    for i, name in enumerate(matrix.schema.names):
        if name in normalized:
            out[:, i] = batch.column(i).to_numpy(zero_copy_only=False)
        else:
            others.append(i)
    _pass_through(matrix, np.array(others, np.intp), out)
    return out


def _output(matrix: Matrix, dtype: pa.DataType | None) -> NDArray[Any]:
    kind: np.dtype[Any] = matrix.array.dtype
    if dtype is not None:
        kind = _FLOATS[dtype.id]
    elif kind.kind != "f":
        kind = _FLOAT64
    return empty_like(matrix.array, kind)


def _pass_through(matrix: Matrix, columns: NDArray[np.intp], out: NDArray[Any]) -> None:
    with np.errstate(over="ignore"):
        out[:, columns] = matrix.array[:, columns]
    _check_float16(matrix, columns, out, "")


def _check_float16(
    matrix: Matrix, columns: NDArray[np.intp], out: NDArray[Any], remedy: str
) -> None:
    """Refuse more infinite values in an output of float16 than its input has."""
    if out.itemsize == 2 and len(columns):
        given, found = (np.isinf(x[:, columns]).sum(axis=0) for x in (matrix.array, out))
        if (found > given).any():
            column = columns[(found > given).argmax()]
            raise beyond_float16(matrix.schema.names[column], remedy)
