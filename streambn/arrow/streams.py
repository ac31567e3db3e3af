"""Whatever speaks Arrow in; the same kind, or a lazy reader, out.

Nothing is imported to find out what an object is: Arrow's own protocols
(``__arrow_c_stream__``, ``__arrow_c_array__``) are enough, and the few kinds that are
given back as they came are known by the name of their class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.errors import InvalidValueError, SchemaError

__all__ = ["Stream", "map_batches", "map_stream", "open_stream"]

_WINDOW = 16 << 20  # bytes of a Parquet file that are scanned at once

Wanted = Callable[[pa.Schema], Sequence[str]]
Collect = Callable[[pa.Schema, list[pa.RecordBatch]], Any]


class Stream(NamedTuple):
    """Data as record batches.

    Attributes
    ----------
    schema : pyarrow.Schema or None
        None: an empty iterable, which has none.
    batches : iterator of pyarrow.RecordBatch
        To be consumed once.
    collect : callable or None
        Makes of a schema and batches the kind of object that came in. None: what came
        in was a stream, and a reader goes out.
    """

    schema: pa.Schema | None
    batches: Iterator[pa.RecordBatch]
    collect: Collect | None


def open_stream(data: Any, columns: Wanted | None = None) -> Stream:
    """Open any Arrow data.

    Parameters
    ----------
    data : object
        A RecordBatch, Table, RecordBatchReader, Dataset or Scanner of pyarrow; anything
        with ``__arrow_c_stream__`` or ``__arrow_c_array__``; or an iterable of those.
    columns : callable, optional
        Gives, for the schema of a Dataset, the columns that will be looked at: no others
        are read.

    Raises
    ------
    InvalidValueError
        The object holds no Arrow data.

    Notes
    -----
    A Dataset is scanned so that little of it is in memory at a time; a Scanner reads
    ahead as far as whoever made it told it to.
    """
    if isinstance(data, pa.RecordBatch):
        return Stream(data.schema, iter([data]), _to_batch)
    if isinstance(data, pa.Table):
        return Stream(data.schema, iter(data.to_batches()), _to_table)
    if isinstance(data, pa.RecordBatchReader):
        return Stream(data.schema, iter(data), None)
    dataset = sys.modules.get("pyarrow.dataset")
    if dataset is not None and isinstance(data, dataset.Dataset):
        wanted = [] if columns is None else list(columns(data.schema))
        # A column that is not there is the caller's to miss: it says so better.
        there = wanted and set(wanted) <= set(data.schema.names)
        return _scanned(dataset, data, wanted if there else None)
    if dataset is not None and isinstance(data, dataset.Scanner):
        reader = data.to_reader()
        return Stream(reader.schema, iter(reader), None)
    if hasattr(data, "__arrow_c_stream__"):
        reader = _imported(data, pa.RecordBatchReader.from_stream)
        return Stream(reader.schema, iter(reader), _collector(data))
    if hasattr(data, "__arrow_c_array__"):
        batch = _imported(data, pa.record_batch)
        return Stream(batch.schema, iter([batch]), _collector(data) or _to_batch)
    if isinstance(data, Iterable) and not _is_no_stream(data):
        return _open_iterable(data, columns)
    raise _no_arrow(data)


def map_batches(
    data: Any,
    output_schema: Callable[[pa.Schema], pa.Schema],
    function: Callable[[pa.RecordBatch, pa.Schema], pa.RecordBatch],
) -> Any:
    """Apply a function to every batch: now if the data is eager, else when it is pulled.

    Parameters
    ----------
    data : object
        As for `open_stream`.
    output_schema : callable
        Gives the schema that comes out for the schema that goes in.
    function : callable
        Makes of a batch and the output schema an output batch.

    Returns
    -------
    object
        Of the kind that came in; for a stream a pyarrow.RecordBatchReader.
    """
    return map_stream(open_stream(data), output_schema, function)


def map_stream(
    stream: Stream,
    output_schema: Callable[[pa.Schema], pa.Schema],
    function: Callable[[pa.RecordBatch, pa.Schema], pa.RecordBatch],
) -> Any:
    """Do as `map_batches` does, to data that is open already."""
    if stream.schema is None:
        return pa.RecordBatchReader.from_batches(pa.schema([]), iter([]))
    incoming = stream.schema
    schema = output_schema(incoming)
    mapped = (function(_aligned(batch, incoming), schema) for batch in stream.batches)
    if stream.collect is None:
        return pa.RecordBatchReader.from_batches(schema, mapped)
    return stream.collect(schema, list(mapped))


def _open_iterable(data: Iterable[Any], columns: Wanted | None) -> Stream:
    """Chain the batches of the items; the first item is looked at for its schema."""
    items = iter(data)
    nothing = object()
    first = next(items, nothing)
    if first is nothing:
        return Stream(None, iter([]), None)
    if not _speaks_arrow(first):
        raise _no_arrow(first, f"an item of {_kind(data)}")
    opened = open_stream(first, columns)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from opened.batches
        for item in items:
            if not _speaks_arrow(item):
                raise _no_arrow(item, f"an item of {_kind(data)}")
            yield from open_stream(item, columns).batches

    return Stream(opened.schema, batches(), None)


def _scanned(dataset: Any, data: Any, columns: list[str] | None) -> Stream:
    """Scan a dataset so that it is never held whole.

    By default Arrow reads ahead of its consumer, whole row groups at a time: a scan of a
    Parquet file of 418 MB grew a process by 379 MB, and by 91 MB with these options. Even so
    it goes on while the consumer is slow, up to a gigabyte; so a Parquet file is scanned a few
    row groups at a time.
    """
    options: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 1}
    parquet = getattr(dataset, "ParquetFileFormat", None)
    is_parquet = parquet is not None and isinstance(getattr(data, "format", None), parquet)
    if is_parquet:
        options["fragment_scan_options"] = dataset.ParquetFragmentScanOptions(
            pre_buffer=False, use_buffered_stream=True
        )
    scanner = data.scanner(columns=columns, **options)
    try:
        fragments = data.get_fragments() if is_parquet else None
    except ValueError:  # it is filtered: its fragments are not
        fragments = None
    if fragments is None:
        reader = scanner.to_reader()
        return Stream(reader.schema, iter(reader), None)

    def batches() -> Iterator[pa.RecordBatch]:
        for fragment in fragments:
            for window in _windows(fragment):
                part = fragment.subset(row_group_ids=window)
                yield from part.scanner(schema=data.schema, columns=columns, **options).to_reader()

    return Stream(scanner.projected_schema, batches(), None)


def _windows(fragment: Any) -> Iterator[list[int]]:
    """Give the row groups of a Parquet file, as many together as there are in 16 MB."""
    window: list[int] = []
    size = 0
    for group in fragment.row_groups:
        window.append(group.id)
        size += group.total_byte_size
        if size >= _WINDOW:
            yield window
            window, size = [], 0
    if window:
        yield window


def _is_no_stream(data: object) -> bool:
    """Say whether iterating over an object would be a misunderstanding."""
    return isinstance(data, str | bytes | dict) or _kind(data).startswith("numpy.")


def _speaks_arrow(item: object) -> bool:
    dataset = sys.modules.get("pyarrow.dataset")
    return (
        hasattr(item, "__arrow_c_stream__")
        or hasattr(item, "__arrow_c_array__")
        or (dataset is not None and isinstance(item, dataset.Dataset | dataset.Scanner))
    )


def _imported(data: Any, how: Callable[[Any], Any]) -> Any:
    try:
        return how(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"data ({_kind(data)}) gives no record batches: {error}. A normalizer needs columns "
            "of types that Arrow knows: pyarrow.table({'name': array})."
        ) from error


def _aligned(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Put a batch's columns in the order of the stream's first schema."""
    if batch.schema.equals(schema):
        return batch
    names = batch.schema.names
    for name in schema.names:
        if name not in names:
            raise SchemaError.missing(name, names)
    for name in names:
        if name not in schema.names:
            raise SchemaError(
                f"column {name!r} appears in the middle of the stream; the first batch has not "
                "got it, so it has no place in the output. Select the same columns throughout."
            )
    return batch.select(schema.names)


# --------------------------------------------------------------- back to what came in


def _to_batch(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    del schema
    [batch] = batches
    return batch


def _to_table(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, schema=schema)


def _collector(data: Any) -> Collect | None:
    """Return how to make an eager kind of a table; None: it is a stream, or unknown."""
    kind = next(
        (known for c in type(data).__mro__ if (known := (_package(c), c.__name__)) in _FROM_TABLE),
        None,
    )
    if kind is None:
        return None
    make = _FROM_TABLE[kind]
    return lambda schema, batches: make(type(data), _to_table(schema, batches))


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


_FROM_TABLE: dict[tuple[str, str], Callable[[Any, pa.Table], Any]] = {
    ("pandas", "DataFrame"): lambda _, table: table.to_pandas(),
    ("polars", "DataFrame"): lambda cls, table: cls(table),
    ("arro3", "Table"): lambda cls, table: cls.from_arrow(table),
    ("arro3", "RecordBatch"): lambda cls, table: cls.from_arrow(_one_batch(table)),
}


def _kind(data: object) -> str:
    return f"{type(data).__module__}.{type(data).__qualname__}"


def _no_arrow(data: object, what: str = "data") -> InvalidValueError:
    remedy = "Pass a pyarrow Table, RecordBatch or reader, or anything with __arrow_c_stream__."
    if isinstance(data, str | bytes):
        remedy = "To read files, open them first: pyarrow.dataset.dataset(path)."
    elif isinstance(data, dict):
        remedy = "Make a table of it: pyarrow.table(data)."
    elif _kind(data).startswith("polars"):
        remedy = "Collect it first: data.collect(), or data.collect_batches() for a stream."
    elif _kind(data).startswith("numpy"):
        remedy = "Name its columns: pyarrow.table({'x': data})."
    return InvalidValueError(f"{what} is {_kind(data)}, which holds no Arrow data. {remedy}")
