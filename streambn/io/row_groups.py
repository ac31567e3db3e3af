"""Parquet row groups, decoded into batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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


def open_parquet(
    opener: Callable[[], Any],
    metadata: Any = None,
    *,
    remote: bool = False,
    dictionaries: list[str] | None = None,
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
    growing: bool = False,
    use_threads: bool = False,
) -> Iterable[Any]:
    """Return the batches of some row groups with `rows` rows in all.

    They are decoded as a whole if they fit into one batch, which takes less memory. Otherwise
    batches of `batch_rows` rows are decoded one by one, their columns on threads if asked for.

    The size of texts and lists is not in the file: a dictionary page holds a text once that every
    row repeats. With `growing`, the first batch is short, and each later one has as many rows,
    up to `batch_rows`, as the size of the batch before it allows.
    """
    batches: Iterable[Any]
    if growing and rows > _FIRST_ROWS:
        first = min(_FIRST_ROWS, batch_rows)
        batches = file.iter_batches(first, groups, columns, use_threads=use_threads)
        return _grow(file, batches, batch_rows)
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
