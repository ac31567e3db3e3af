"""Parquet row groups, decoded into batches of bounded size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from streambn._lazy import lazy_module

pq = lazy_module("pyarrow.parquet")

__all__ = ["open_parquet", "read_row_groups"]

# Without a buffer, Arrow reads a column chunk whole, and a file of one row group would be
# in memory whole. A larger buffer leaves the processor's cache and is slower.
_BUFFER = 1 << 16
# Rows of the first batch if a row may have any size, and how much the next one may grow.
_FIRST_ROWS = 16
_GROWTH = 8
# Decoded bytes of a batch after the first, if its rows are like those before it.
_BATCH_BYTES = 16 << 20
# Decoded bytes of a batch at most if all texts are as long as the longest one in a dictionary.
_LARGE_BYTES = 96 << 20


def open_parquet(
    opener: Callable[[], Any],
    metadata: Any = None,
    dictionaries: list[str] | None = None,
    *,
    remote: bool = False,
) -> Any:
    """Open a Parquet file for reading with little memory.

    The file is not mapped into memory: a mapped file that shrinks kills the process. The text
    columns with the paths in `dictionaries` become dictionaries, which hold equal texts once.
    """
    return pq.ParquetFile(
        opener(),
        metadata=metadata,
        read_dictionary=dictionaries,
        buffer_size=0 if remote else _BUFFER,
        pre_buffer=remote,
        page_checksum_verification=True,
    )


def read_row_groups(
    file: Any,
    groups: Sequence[int],
    columns: list[str] | None,
    rows: int,
    batch_rows: int,
    *,
    reopen: Callable[[list[str]], Any] | None = None,
    use_threads: bool = False,
) -> Iterable[Any]:
    """Return the batches of some row groups with `rows` rows in all.

    They are decoded as a whole if they fit into one batch, which takes less memory. Otherwise
    batches of `batch_rows` rows are decoded one by one, their columns on threads if asked for.

    The size of texts and lists is not in the file: a dictionary page holds a text once that every
    row repeats. With `reopen`, which opens the file again with the dictionaries of some columns,
    the first batch is short. Each later one has as many rows, up to `batch_rows`, as the batch
    before it and the longest text in a dictionary allow.
    """
    batches: Iterable[Any]
    if reopen is not None and rows > _FIRST_ROWS:
        most = min(batch_rows, max(_LARGE_BYTES // _longest_text(file, groups, columns, reopen), 1))
        largest = max(file.metadata.row_group(group).total_byte_size for group in groups)
        first = max(_BATCH_BYTES // max(largest, 1), _FIRST_ROWS)
        first = min(first, _FIRST_ROWS * _GROWTH**2, most)
        batches = file.iter_batches(first, groups, columns, use_threads=use_threads)
        return _grow(file, batches, most)
    if rows <= batch_rows:
        batches = file.read_row_groups(groups, columns, use_threads=False).to_batches()
        return batches
    batches = file.iter_batches(batch_rows, groups, columns, use_threads=use_threads)
    return batches


def _grow(file: Any, batches: Iterable[Any], most: int) -> Iterator[Any]:
    for batch in batches:
        fitting = _BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)
        count = max(min(batch.num_rows * _GROWTH, fitting, most), 1)
        yield batch
        del batch  # releases it before the next one is read
        file.reader.set_batch_size(count)


def _longest_text(
    file: Any, groups: Sequence[int], columns: list[str] | None, reopen: Callable[[list[str]], Any]
) -> int:
    """Return the bytes of the longest text in a dictionary, or 1 if no text can be long."""
    sizes = {group: file.metadata.row_group(group) for group in groups}
    groups = [n for n, each in sizes.items() if each.num_rows * each.total_byte_size > _LARGE_BYTES]
    if not groups:
        return 1
    leaves = [file.schema.column(i) for i in range(file.metadata.num_columns)]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY"
        and (columns is None or leaf.path.partition(".")[0] in columns)
    ]
    longest = 1
    if texts:
        dictionaries = reopen(texts)
        for group in groups:
            # Arrow refuses some encodings. Damage will be found again.
            with contextlib.suppress(pa.ArrowException, OSError, ValueError):
                batch = next(dictionaries.iter_batches(1, [group], texts, use_threads=False), None)
                arrays = [] if batch is None else batch.columns
                longest = max([longest, *(n for array in arrays for n in _longest(array))])
    return longest


def _longest(array: Any) -> Iterator[int]:
    """Yield the bytes of the longest text in each dictionary of an array."""
    if pa.types.is_dictionary(array.type):
        texts = array.dictionary
        if len(texts) and (pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)):
            offsets = np.frombuffer(texts.buffers()[1], np.int32)
            yield int(np.diff(offsets[texts.offset : texts.offset + len(texts) + 1]).max())
    elif pa.types.is_struct(array.type):
        for i in range(array.type.num_fields):
            yield from _longest(array.field(i))
    elif pa.types.is_map(array.type):
        yield from _longest(array.keys)
        yield from _longest(array.items)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield from _longest(array.values)
