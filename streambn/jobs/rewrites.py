"""The rewrite of a Parquet file into another, with normalized columns.

A file is rewritten block by block, or in runs of small row groups (`streambn.parquet.rewrite`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import OutputBuffer, is_text, leaf_types, located, prefetch
from streambn.jobs.operations import BatchFunction
from streambn.jobs.plan import ReadOptions
from streambn.jobs.report import Skipped
from streambn.jobs.stream import Chunk
from streambn.parquet import (
    Assembler,
    Block,
    ExpansionError,
    ParquetSource,
    Run,
    RunWriter,
    column_paths,
    encode_block,
)

__all__ = ["Memory", "Rewrite"]

# Normalized bytes of runs that may wait to be encoded.
_BUFFER_BYTES = 16 << 20
# A block is in memory as it was read, as it is normalized, and encoded.
_COPIES = 3


class Memory:
    """A limit on the memory of several threads: each waits until there is enough for it."""

    def __init__(self, total: int) -> None:
        self._total, self._used = total, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def use(self, size: int) -> Iterator[None]:
        """Use so many bytes during the block; if they exceed the limit, use them alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._total)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


class _MappedRun(NamedTuple):
    """A run of row groups, normalized, or a row group that was skipped."""

    run: Run
    batches: Sequence[Any]
    skipped: Skipped | None = None


class Rewrite:
    """The rewrite of one Parquet file into another, block by block."""

    def __init__(
        self,
        source: ParquetSource,
        schema: Any,
        function: Callable[[tuple[str, ...]], BatchFunction],
        compression: str | None,
        memory: Memory,
    ) -> None:
        self.source, self.name = source, source.name
        self._schema, self._function, self._memory = schema, function, memory
        self._codecs: dict[str, str] | str
        if compression is not None or len(set(source.codecs)) == 1:
            self._codecs = compression or source.codecs[0]
        else:
            self._codecs = dict(zip(column_paths(schema), source.codecs, strict=True))

    def make(self, block: Block) -> Iterator[Chunk]:
        """Read, normalize and encode a block, as one chunk.

        Raises
        ------
        ExpansionError
            The block takes too much memory, which its size in the file does not tell.
        """
        schema = pa.schema([self._schema.field(i) for i in block.columns])
        function = self._function(tuple(schema.names))
        with self._memory.use(_COPIES * block.size):
            with located(self.name, block.where):
                try:
                    batches = [function(batch, schema) for batch in self.source.read(block)]
                except ExpansionError:
                    if not block.texts:
                        raise
                    batches = []
                    for batch in self.source.read_dictionaries(block):
                        schema = _with_dictionaries(schema, batch.schema)
                        batches.append(function(batch, schema))
            data = encode_block(batches, schema, self._codecs)
            del batches  # or they would stay in memory until the block is written
        yield Chunk(data, block.rows if block.last else 0, block.bytes)

    def make_runs(self, runs: Sequence[Run], workers: int, options: ReadOptions) -> Iterator[Chunk]:
        """Read and normalize runs of small row groups, and encode them one after the other."""
        buffer = OutputBuffer()
        writer = RunWriter(buffer, self._schema, self._codecs)
        mapped = prefetch(
            runs,
            functools.partial(self._map_run, skip_damaged=options.skip_damaged),
            workers=workers,
            capacity=_BUFFER_BYTES,
            size=lambda part: sum(batch.nbytes for batch in part.batches) + 1,
        )
        with contextlib.closing(mapped):
            for _, parts in mapped:
                for part in parts:
                    if part.skipped is None:
                        writer.add(part.batches, part.run.rows)
                        yield Chunk(buffer.take(), sum(part.run.rows), part.run.bytes)
                    else:
                        yield Chunk(b"", 0, part.run.bytes, [part.skipped])
        writer.close()
        yield Chunk(buffer.take())

    def _map_run(self, run: Run, skip_damaged: bool) -> Iterator[_MappedRun]:
        function = self._function(tuple(self._schema.names))
        try:
            with located(self.name, run.where):
                batches = [function(batch, self._schema) for batch in self.source.read_run(run)]
        except (StreamBNError, OSError, ExpansionError) as error:
            if len(run.groups) > 1:  # find the row group that is at fault, or read each alone
                for part in run.parts():
                    yield from self._map_run(part, skip_damaged)
                return
            if not skip_damaged or isinstance(error, ExpansionError):
                raise
            yield _MappedRun(run, (), Skipped.of(self.name, run.where, error))
        else:
            yield _MappedRun(run, batches)

    def assembly(self, write: Callable[[Any], Any]) -> Assembler:
        """Begin the new file."""
        return Assembler(write, self._schema, self._codecs)


def _with_dictionaries(schema: Any, read: Any) -> Any:
    """Return an output schema with the dictionaries of the columns as they were read."""
    fields = [
        field.with_type(_with_dictionary(field.type, own))
        for field, own in zip(schema, read.types, strict=True)
    ]
    return pa.schema(fields)


def _with_dictionary(kind: Any, read: Any) -> Any:
    if pa.types.is_struct(kind):  # only structs lead to normalized values
        fields = [
            field.with_type(_with_dictionary(field.type, own.type))
            for field, own in zip(kind, read, strict=True)
        ]
        return pa.struct(fields)
    return read if any(map(is_text, leaf_types(kind))) else kind
