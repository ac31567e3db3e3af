"""Full validation of Arrow data from outside of the process.

Arrow trusts the offsets, indices and run ends of an array wherever it reads one. An array that was
decoded from foreign bytes may point anywhere, and then reads end the process or return its memory.
Nothing must read such an array before it was validated.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import pyarrow as pa

from streambn.arrow.schemas import is_any_list
from streambn.errors import InvalidValueError
from streambn.kernels.flatten import check_offsets

__all__ = ["Validation", "Validator", "check_offsets_below", "check_validation"]

Validation = Literal["basic", "full"]

# More rows have no use in one batch, and counts of them would overflow. A column of nulls, or a
# batch without columns, takes no memory for any number of rows.
_MOST_ROWS = 2**31 - 1


def check_validation(validate: object) -> None:
    """Raise an InvalidValueError unless `validate` is the name of a validation."""
    if validate not in get_args(Validation):
        raise InvalidValueError(
            f"validate must be 'basic' or 'full', got {validate!r}.", argument="validate"
        )


def check_offsets_below(batch: pa.RecordBatch) -> None:
    """Raise an ArrowInvalid if an array of a validated batch starts before its buffers.

    Only the C data interface can say so, and Arrow does not notice it.
    """
    arrays = list(batch.columns)
    while arrays:
        array = arrays.pop()
        check_offsets(array)
        arrays += _parts(array)


def _parts(array: pa.Array) -> list[pa.Array]:
    """Return the arrays that an array is made of."""
    types, kind = pa.types, array.type
    if isinstance(array, pa.ExtensionArray):
        return [array.storage]
    if types.is_dictionary(kind):
        return [array.indices, array.dictionary]
    if types.is_run_end_encoded(kind):
        return [array.run_ends, array.values]
    if types.is_map(kind):
        return [array.keys, array.items]
    if is_any_list(kind):
        return [array.values]
    if types.is_struct(kind) or types.is_union(kind):
        return [array.field(i) for i in range(kind.num_fields)]
    return []


class Validator:
    """Validates the batches of one stream in full, with every buffer that they refer to.

    A dictionary is validated once for all successive batches that share it.
    """

    __slots__ = ("_dictionaries", "_schema", "_shareable")

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._shareable: set[int] = set()
        # The dictionary of each column that was validated last. It stays alive, so that no other
        # one can take its place in memory.
        self._dictionaries: dict[int, pa.Array] = {}

    def check(self, batch: pa.RecordBatch) -> None:
        """Validate a batch.

        Raises
        ------
        pyarrow.ArrowInvalid
            The batch is damaged. The message names the column.
        """
        if batch.num_rows > _MOST_ROWS:
            raise pa.ArrowInvalid(
                f"a batch of {batch.num_rows:,} rows, and at most {_MOST_ROWS:,} are read"
            )
        if self._schema is None or not batch.schema.equals(self._schema):
            self._schema = batch.schema
            self._shareable = {i for i, kind in enumerate(batch.schema.types) if _shareable(kind)}
        if not self._shareable:
            _check_whole(batch)
            return
        batch.validate()  # also that all columns have the length of the batch
        for index, array in enumerate(batch.columns):
            with _Column(batch, index):
                if index in self._shareable:
                    self._check_encoded(index, array)
                else:
                    array.validate(full=True)

    def _check_encoded(self, index: int, array: pa.DictionaryArray) -> None:
        known, dictionary = self._dictionaries.get(index), array.dictionary
        if known is None or not _is_same(known, dictionary):
            array.validate(full=True)
            self._dictionaries[index] = dictionary
        else:
            array.indices.validate(full=True)
            # The indices into any array of that length are valid, or not.
            pa.DictionaryArray.from_arrays(array.indices, pa.nulls(len(dictionary)))


def _shareable(kind: pa.DataType) -> bool:
    """Return whether arrays of a type have a dictionary whose buffers identify it."""
    return pa.types.is_dictionary(kind) and not (
        pa.types.is_nested(kind.value_type) or pa.types.is_dictionary(kind.value_type)
    )


def _is_same(one: pa.Array, other: pa.Array) -> bool:
    return one.type == other.type and _memory(one) == _memory(other)


def _memory(array: pa.Array) -> list[Any]:
    buffers = [buffer and (buffer.address, buffer.size) for buffer in array.buffers()]
    return [len(array), array.offset, *buffers]


def _check_whole(batch: pa.RecordBatch) -> None:
    try:
        batch.validate(full=True)
    except pa.ArrowException:
        for index, array in enumerate(batch.columns):
            with _Column(batch, index):
                array.validate(full=True)
        raise


class _Column:
    """A context in which Arrow's errors name a column of a batch."""

    def __init__(self, batch: pa.RecordBatch, index: int) -> None:
        self._batch, self._index = batch, index

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, pa.ArrowException):
            name = self._batch.schema.field(self._index).name
            raise pa.ArrowInvalid(f"column {name!r}: {error}") from error
