"""Blocks of Ray as Arrow data that streambn reads, and back.

Ray has tensor types of its own, which hold the same buffers as Arrow's fixed-shape tensors.
"""

from __future__ import annotations

import math
from typing import Any, Final

import pyarrow as pa
from ray.data import Dataset
from ray.data.extensions import ArrowTensorType, ArrowTensorTypeV2

from streambn.errors import InvalidValueError

__all__ = ["as_arrow", "as_ray", "check_dataset", "schema_of"]

_TENSORS: Final = (ArrowTensorType, ArrowTensorTypeV2)


def check_dataset(ds: Any) -> None:
    """Raise an InvalidValueError unless `ds` is a Ray Dataset."""
    if not isinstance(ds, Dataset):
        raise InvalidValueError(
            f"ds must be a ray.data.Dataset, got {type(ds).__name__}. Make one with ray.data.read_"
            "parquet(...) or ray.data.from_arrow(...).",
            argument="ds",
        )


def schema_of(ds: Dataset, *, run: bool) -> pa.Schema | None:
    """Return the Arrow schema of a Dataset's blocks as `as_arrow` gives them; None: unknown.

    Parameters
    ----------
    ds : ray.data.Dataset
    run : bool
        Whether to run the first tasks of the Dataset if the schema is not known without them. The
        result is then None only for a Dataset without blocks.
    """
    found = ds.schema(fetch_if_missing=run)
    if found is None:
        return None
    if isinstance(found.base_schema, pa.Schema):
        return _arrow_schema(found.base_schema)
    # Blocks of pandas: only a conversion tells what a column of objects holds.
    table = next(iter(ds.limit(1).iter_batches(batch_format="pyarrow")), None) if run else None
    return None if table is None else _arrow_schema(table.schema)


def _arrow_schema(schema: pa.Schema) -> pa.Schema:
    return as_arrow(schema.empty_table()).schema


def as_arrow(table: pa.Table) -> pa.Table:
    """Return a table with Arrow's tensors in place of Ray's. Values are not copied."""
    for index, field in enumerate(table.schema):
        if isinstance(field.type, _TENSORS):
            values, shape = field.type.value_type, field.type.shape
            kind = pa.fixed_shape_tensor(values, shape)
            lists = pa.list_(values, math.prod(shape))
            column = _with_type(table.column(index), kind, lists)
            table = table.set_column(index, field.with_type(kind), column)
    return table


def as_ray(table: pa.Table, like: pa.Schema) -> pa.Table:
    """Return a table with Ray's tensors where a schema of Ray's has them."""
    for index, (field, old) in enumerate(zip(table.schema, like, strict=True)):
        if isinstance(old.type, _TENSORS):
            kind = type(old.type)(old.type.shape, field.type.value_type)
            column = _with_type(table.column(index), kind, kind.storage_type)
            table = table.set_column(index, field.with_type(kind), column)
    return table


def _with_type(column: pa.ChunkedArray, kind: pa.DataType, storage: pa.DataType) -> pa.ChunkedArray:
    """Return tensors as another type of tensors, which is stored as lists of some type."""
    chunks = [
        pa.ExtensionArray.from_storage(kind, chunk.storage.cast(storage)) for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, kind)
