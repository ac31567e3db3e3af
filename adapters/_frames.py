"""Eager frames for River's mini-batch methods: pandas, Polars, pyarrow and others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.errors import InvalidValueError

__all__ = ["map_frame", "rows_of"]

# A frame of at most this many cells is copied to find out whether its memory is one matrix.
_SMALL = 100_000

Names = Sequence[Hashable]
Map = Callable[[pa.RecordBatch, Names], pa.RecordBatch]


def rows_of(X: Any) -> tuple[pa.RecordBatch | NDArray[Any], Names]:
    """Return the rows of a frame as a record batch or a matrix, and the names of its columns.

    Raises
    ------
    InvalidValueError
        `X` is not an eager frame.
    """
    if not nw.dependencies.is_pandas_dataframe(X):
        batch = _batch(X)
        return batch, batch.schema.names
    names = _pandas_names(X)
    matrix = _pandas_matrix(X, len(names))
    return (_pandas_batch(X) if matrix is None else matrix), names


def map_frame(X: Any, transform: Map, *, all_features: bool) -> Any:
    """Return a frame of the same kind whose numeric columns went through `transform`.

    Parameters
    ----------
    X : frame
    transform : callable
        Takes a record batch and the names of its columns, and returns a record batch.
    all_features : bool
        Whether `transform` maps every numeric column. Then a pandas frame of one dtype goes
        through as one matrix, which is faster.

    Raises
    ------
    InvalidValueError
        `X` is not an eager frame.
    """
    if nw.dependencies.is_pandas_dataframe(X):
        return _map_pandas(X, transform, all_features)
    batch = _batch(X)
    out = transform(batch, batch.schema.names)
    if isinstance(X, pa.RecordBatch):
        return out
    table = pa.Table.from_batches([out])
    if isinstance(X, pa.Table):
        return table
    # Columns without numbers may change on the way through Arrow, so they are not converted.
    frame = nw.from_native(X, eager_only=True)
    numeric = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    mapped = nw.from_arrow(table.select(numeric), backend=frame.implementation)
    if len(numeric) == table.num_columns:
        return mapped.to_native()
    return frame.with_columns(*mapped.iter_columns()).to_native()


def _batch(X: Any) -> pa.RecordBatch:
    """Return a frame as one batch, which is learned or refused as a whole."""
    if isinstance(X, pa.RecordBatch):
        return X
    if isinstance(X, pa.Table):
        table = X
    else:
        try:
            frame = nw.from_native(X, eager_only=True)
        except TypeError as error:
            raise InvalidValueError(
                "X must be a pandas, Polars or other eager frame, a pyarrow Table or a "
                f"RecordBatch, got {type(X).__name__}. Collect a lazy frame first; learn_one and "
                "transform_one take a dict.",
                argument="X",
            ) from error
        table = pa.table(X) if hasattr(X, "__arrow_c_stream__") else frame.to_arrow()
    batches = table.to_batches()
    if len(batches) > 1:
        batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


# ------------------------------------------------------------------------------ pandas


def _map_pandas(X: Any, transform: Map, all_features: bool) -> Any:
    names = _pandas_names(X)
    matrix = _pandas_matrix(X, len(names)) if all_features else None
    if matrix is None:
        out = transform(_pandas_batch(X), names)
        kinds, columns = X.dtypes.tolist(), {}
        for i, array in enumerate(out.columns):
            is_mapped = pa.types.is_floating(array.type)
            columns[i] = _pandas_column(kinds[i], array) if is_mapped else X.iloc[:, i].array
        frame = type(X)(columns, index=X.index, copy=False)
        frame.columns = X.columns
        return frame
    arrays = [pa.array(column, from_pandas=False) for column in matrix.T]
    out = transform(_unnamed(arrays), names)
    values = np.empty(matrix.shape, out.column(0).type.to_pandas_dtype(), order="F")
    for i, array in enumerate(out.columns):
        values[:, i] = array.to_numpy()
    return type(X)(values, index=X.index, columns=X.columns, copy=False)


# The column names of the last frame, in Arrow and as a list. Comparing the names of two frames
# is faster than making a list of them, and the frames of a stream have the same names.
_last_names: tuple[pa.ChunkedArray, Names] | None = None


def _pandas_names(X: Any) -> Names:
    global _last_names  # noqa: PLW0603 - the assignment of a tuple is atomic
    columns = X.columns
    to_arrow = getattr(columns.array, "__arrow_array__", None) if columns.nlevels == 1 else None
    if to_arrow is None:
        names: list[Hashable] = columns.tolist()
        return names
    texts, last = to_arrow(), _last_names
    if last is None or not texts.equals(last[0]):
        last = _last_names = texts, columns.tolist()
    return last[1]


def _pandas_matrix(X: Any, width: int) -> NDArray[Any] | None:
    """Return the memory of a frame whose numbers have one dtype, or None.

    Learning from a matrix is faster than converting fifty columns to Arrow arrays.
    """
    if len(X) * width > _SMALL:
        kinds = X.dtypes.to_numpy()
        if not (isinstance(kinds[0], np.dtype) and (kinds == kinds[0]).all()):
            return None
        matrix = X.to_numpy()
    else:
        # Reading the dtypes takes longer than testing whether two conversions share memory.
        matrix = X.to_numpy()
        if not np.may_share_memory(matrix, X.to_numpy()):
            return None
    return np.asfortranarray(matrix) if matrix.size and matrix.dtype.kind in "fiu" else None


def _pandas_batch(X: Any) -> pa.RecordBatch:
    arrays = [_pandas_array(X.iloc[:, i]) for i in range(X.shape[1])]
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(X), pa.struct([])))
    return _unnamed(arrays)


def _unnamed(arrays: Sequence[pa.Array]) -> pa.RecordBatch:
    """Return arrays as a batch. The names of pandas columns need not be strings."""
    return pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))])


def _pandas_array(column: Any) -> pa.Array:
    """Return a column as an Arrow array; NaN stays NaN unless pandas marks it as missing."""
    numpy_backed = isinstance(column.dtype, np.dtype)
    if not numpy_backed or column.dtype.kind not in "fiuO":
        array = pa.array(column, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    values = column.to_numpy()
    if column.dtype.kind != "O":
        return pa.array(values, from_pandas=False)
    values = [None if type(value).__name__ == "NAType" else value for value in values]
    # Arrow would convert a boolean among floats to 1.0.
    if not any(isinstance(value, bool | np.bool_) for value in values):
        try:
            return pa.array(values, from_pandas=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if all(value is None or isinstance(value, Real | Decimal) for value in values):
                floats = [None if value is None else float(value) for value in values]
                return pa.array(floats, from_pandas=False)
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _pandas_column(kind: Any, array: pa.Array) -> Any:
    """Return floats as the kind of column that they came from: NumPy, Arrow or masked."""
    if isinstance(kind, np.dtype):
        return array.to_numpy(zero_copy_only=False)
    if type(kind).__name__ == "ArrowDtype":
        return array.to_pandas(types_mapper=type(kind))
    pandas = nw.dependencies.get_pandas()
    return pandas.array(array.to_pylist(), dtype=f"Float{array.type.bit_width}")
