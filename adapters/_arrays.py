"""Arrays and sample weights of scikit-learn as record batches, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import FrozenNormalizer, Normalizer
from streambn.errors import InvalidValueError, SchemaError

__all__ = [
    "Floats",
    "append_weights",
    "check_not_temporal",
    "is_bound_to",
    "is_temporal",
    "list_column",
    "to_array",
    "to_columns",
    "to_lists",
    "weight_array",
]

Floats = NDArray[np.floating[Any]]

_LIST_COLUMN = "x"  # holds the rows of an array as lists, where features have no names


def to_columns(array: Floats, names: Any) -> pa.RecordBatch:
    """Return an array as named columns."""
    # The columns of an F-ordered array, which most frames give, are not copied.
    return pa.RecordBatch.from_arrays([pa.array(x) for x in array.T], names=list(names))


def to_lists(array: Floats, name: str) -> pa.RecordBatch:
    """Return an array as one column of lists, a list for each row."""
    rows = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.RecordBatch.from_arrays([rows], names=[name])


def to_array(batch: pa.RecordBatch, width: int) -> Floats:
    """Return a batch of `to_columns` or `to_lists` as an array, nulls as NaN."""
    out: Floats
    if pa.types.is_fixed_size_list(batch.schema.types[0]):
        out = batch.column(0).values.to_numpy(zero_copy_only=False).reshape(-1, width)
    else:
        out = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
    return out


def list_column(features: tuple[str, ...]) -> str:
    """Return the name of the column of lists whose elements are the features."""
    return features[0].rpartition("[")[0] if features else _LIST_COLUMN


def is_bound_to(frozen: FrozenNormalizer, batch: pa.RecordBatch) -> bool:
    """Return whether a normalizer has the columns of a batch."""
    try:
        frozen.transform(batch)
    except SchemaError:
        return False
    return True


def weight_array(sample_weight: Any, samples: int) -> NDArray[np.float64]:
    """Return the weight of each sample. `Normalizer.update` checks their range."""
    if sample_weight is None:
        return np.ones(samples)
    try:
        weights: NDArray[np.float64] = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"sample_weight must hold numbers >= 0, got {sample_weight!r:.60}.",
            argument="sample_weight",
        ) from error
    if weights.ndim == 0:
        weights = np.full(samples, weights)
    if weights.shape != (samples,):
        raise InvalidValueError(
            f"sample_weight must have the shape ({samples},), one weight for each sample, got "
            f"{weights.shape}.",
            argument="sample_weight",
        )
    if not weights.any():
        raise InvalidValueError(
            "sample_weight holds only zeros, so there is nothing to learn. Give at least one "
            "sample a weight > 0.",
            argument="sample_weight",
        )
    return weights


def append_weights(
    normalizer: Normalizer, batch: pa.RecordBatch, weights: NDArray[np.float64]
) -> tuple[Normalizer, pa.RecordBatch]:
    """Append a column of weights, and return a normalizer that reads its weights from it."""
    name = normalizer.options.weights or "sample_weight"
    while name in batch.schema.names:  # a feature has that name
        name += "_"
    if name != normalizer.options.weights:
        normalizer = normalizer.with_weights(name)
    columns, names = [*batch.columns, pa.array(weights)], [*batch.schema.names, name]
    return normalizer, pa.RecordBatch.from_arrays(columns, names=names)


def check_not_temporal(X: Any, positions: Sequence[int] | None = None) -> None:
    """Refuse dates and durations, which scikit-learn would convert to integers.

    `positions` tells which columns of the user's data those of `X` are.
    """
    if isinstance(X, pa.Table):
        kinds = X.schema.types
    elif hasattr(X, "__arrow_c_stream__"):  # a frame
        kinds = list(getattr(X, "dtypes", []))
    else:
        kinds = [getattr(X, "dtype", None)]
    for i, kind in enumerate(kinds):
        if is_temporal(kind):
            place = i if positions is None else positions[i]
            raise SchemaError(
                f"column {place} of X is {kind}, which is not numeric. Leave it out, or convert it "
                "to a number of units first.",
                argument="X",
            )


def is_temporal(kind: Any) -> bool:
    """Return whether a type of NumPy, pandas, Polars or Arrow holds dates or durations."""
    if isinstance(kind, pa.DataType):
        return bool(pa.types.is_temporal(kind))
    polars = getattr(kind, "is_temporal", None)
    return bool(polars()) if polars else getattr(kind, "kind", "") in {"M", "m"}
