"""One step of a loop: learn a batch, and normalize it by the statistics around it."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import pyarrow as pa

from streambn.array_transform import array_of, map_array
from streambn.arrow import Matrix
from streambn.by_row import normalize_rows
from streambn.errors import InvalidValueError
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

__all__ = ["Using", "check_using", "learn_and_transform", "output_schema_of"]

Using = Literal["running", "before", "batch"]
_USING: Final = get_args(Using)


def check_using(using: str) -> None:
    """Raise an InvalidValueError if `using` names no statistics."""
    if using not in _USING:
        raise InvalidValueError(
            f"using must be 'running', 'before' or 'batch', got {using!r}.", argument="using"
        )


def output_schema_of(
    bound: Statistics, schema: pa.Schema, using: Using, dtype: pa.DataType | None
) -> pa.Schema:
    """Return the schema of batches that are normalized before or while they are learned.

    Parameters
    ----------
    bound : Statistics
        Bound to the schema of the input.
    schema : pyarrow.Schema
        That of the input.
    using : {"running", "before", "batch"}
    dtype : pyarrow.DataType or None
    """
    out = Standardizer.of(bound).output_schema(schema, dtype, nullable=using == "batch")
    return bound.require_binding().float_untyped(out, dtype)


def learn_and_transform(
    statistics: Statistics,
    batch: pa.RecordBatch | Matrix,
    using: Using,
    dtype: pa.DataType | None,
    by_row: bool,
    schema: pa.Schema | None = None,
) -> tuple[Statistics, Any]:
    """Return the statistics after a batch, and the batch normalized.

    Parameters
    ----------
    statistics : Statistics
        As of the batch before.
    batch : pyarrow.RecordBatch or Matrix
    using, dtype, by_row
        See `Normalizer.update_transform`.
    schema : pyarrow.Schema, optional
        That of the output. Default: that of a stream of this batch alone.

    Returns
    -------
    Statistics
        The same object if no row of the batch counts.
    pyarrow.RecordBatch or ndarray
    """
    bound = statistics.bind(batch.schema)
    is_array = isinstance(batch, Matrix)
    if schema is None and (by_row or not is_array):
        schema = output_schema_of(bound, batch.schema, using, dtype)
    bound = bound.bind(batch.schema, batch)  # lists tell the size of vectors
    if by_row:
        rows = batch.to_batch() if is_array else batch
        learned, out = normalize_rows(bound, rows, schema, before=using == "before")
        if is_array:
            out = array_of(out, batch, bound.require_binding().columns, dtype)
        return (statistics if learned is bound else learned), out
    columns = bound.require_binding().extract(batch)
    if using == "batch":
        learned, by = statistics.learn_block(batch, columns)
    else:
        learned = statistics.learn(batch, columns)
        # A batch without a row that counts does not bind the columns.
        by = learned if using == "running" and learned is not statistics else bound
    standardizer = Standardizer.of(by)
    if is_array:
        return learned, map_array(standardizer, batch, dtype, columns)
    return learned, standardizer.standardize(batch, schema, columns)
