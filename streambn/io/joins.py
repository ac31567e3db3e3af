"""Small batches joined to larger ones.

A batch of a few rows takes about as long to learn or to normalize as one of a thousand. A stream of
such batches is therefore worked on in larger batches that remember the cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.io.pieces import Damaged

__all__ = ["Joined", "join_none", "join_small"]

# A batch of fewer bytes is joined to the next one, until both have so many.
_SMALL = 1 << 15
_ENOUGH = 1 << 19


class Joined(NamedTuple):
    """Batches that follow each other, as one; or the place of a damaged one.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
        None if it is damaged.
    cuts : tuple of int
        The number of rows of each of the batches.
    damaged : Damaged or None
    """

    batch: Any
    cuts: tuple[int, ...]
    damaged: Damaged | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the batch."""
        return 0 if self.batch is None else int(self.batch.nbytes)

    def parts(self) -> Iterator[Any]:
        """Yield the batches that were joined."""
        start = 0
        for rows in self.cuts:
            yield self.batch.slice(start, rows)
            start += rows


def join_small(batches: Iterable[Any], ready: Callable[[], bool] | None = None) -> Iterator[Joined]:
    """Join small batches, in their order.

    An exception that the batches raise comes after all batches before it.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch or Damaged
        Of one schema. Batches with columns of some rare types stay alone.
    ready : callable, optional
        Returns whether the next batch can be read without a wait; asked before each one. No batch
        waits for a later one that is not ready. Without it, all are, and how batches are joined
        depends on them alone.
    """
    waiting: list[Any] = []
    size = 0
    iterator = iter(batches)
    joinable: bool | None = None
    while True:
        if ready is not None and not ready() and waiting:
            yield from _join(waiting)
            waiting, size = [], 0
        try:
            batch = next(iterator, None)
        except BaseException:
            yield from _join(waiting)
            raise
        if batch is None:
            yield from _join(waiting)
            return
        if isinstance(batch, Damaged):
            yield from _join(waiting)
            waiting, size = [], 0
            yield _alone(batch)
            continue
        own = batch.get_total_buffer_size()
        if waiting and joinable is None:
            joinable = all(map(_is_plain, batch.schema.types))
        if waiting and not joinable:
            yield from _join(waiting)
            waiting, size = [], 0
        if own >= _SMALL:
            yield from _join(waiting)
            waiting, size = [], 0
            yield _alone(batch)
        else:
            waiting.append(batch)
            size += own
            if size >= _ENOUGH:
                yield from _join(waiting)
                waiting, size = [], 0
        del batch  # releases it before the next one is read


def join_none(batches: Iterable[Any]) -> Iterator[Joined]:
    """Leave each batch alone, for what depends on the division into batches."""
    for batch in batches:
        yield _alone(batch)
        del batch  # releases it before the next one is read


def _join(batches: list[Any]) -> Iterator[Joined]:
    if len(batches) > 1:
        yield Joined(pa.concat_batches(batches), tuple(batch.num_rows for batch in batches))
    elif batches:
        yield _alone(batches[0])


def _alone(batch: Any) -> Joined:
    if isinstance(batch, Damaged):
        return Joined(None, (0,), batch)
    return Joined(batch, (batch.num_rows,))


def _is_plain(type_: Any) -> bool:
    """Return whether arrays of a type are joined by their values alone, without dictionaries."""
    types = pa.types
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return _is_plain(type_.value_type)
    if types.is_struct(type_):
        return all(_is_plain(type_.field(i).type) for i in range(type_.num_fields))
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    others = (types.is_primitive, types.is_decimal, types.is_fixed_size_binary, types.is_null)
    return any(test(type_) for test in texts + others)
