"""Accept any Arrow data or arrays, and return the same kind of object or a lazy reader.

Arrow's protocols (``__arrow_c_stream__``, ``__arrow_c_array__``) identify the data, so no other
library is imported. The few kinds that are returned in kind are known by the names of their
classes.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from streambn.arrow.matrices import Matrix
from streambn.arrow.unify import nullable_field
from streambn.arrow.validation import (
    Validation,
    Validator,
    check_offsets_below,
    check_validation,
)
from streambn.errors import InvalidValueError, SchemaError

__all__ = ["Stream", "as_batch", "map_batches", "map_stream", "open_stream"]

_WINDOW = 16 << 20  # bytes of Parquet row groups that one scan covers

Wanted = Callable[[pa.Schema], Sequence[str]]
Collect = Callable[[pa.Schema, list[pa.RecordBatch]], Any]


class Stream(NamedTuple):
    """Data as record batches.

    Attributes
    ----------
    schema : pyarrow.Schema or None
        None for an empty iterable.
    batches : iterator of pyarrow.RecordBatch or Matrix
        Can be consumed once.
    collect : callable or None
        Takes a schema and batches and returns an object of the input's kind. None: the input is a
        stream, and the output a reader.
    arrays : bool
        Whether each batch is a `Matrix`. The output of a stream is then an iterator of arrays.
    """

    schema: pa.Schema | None
    batches: Iterator[Any]
    collect: Collect | None
    arrays: bool = False


def as_batch(data: Any) -> pa.RecordBatch | Matrix | None:
    """Return data that is a single batch as one, and None for any other data.

    Raises
    ------
    InvalidValueError
        The data is an array, but not of rows and columns of numbers.
    """
    if isinstance(data, pa.RecordBatch):
        return data
    return Matrix.of(data) if isinstance(data, np.ndarray) else None


def open_stream(data: Any, columns: Wanted | None = None, validate: Validation = "basic") -> Stream:
    """Open any Arrow data.

    Parameters
    ----------
    data : object
        A RecordBatch, Table, RecordBatchReader, Dataset or Scanner of pyarrow, or an open IPC
        file; the answer of an Arrow Flight server, or a cursor of ADBC; anything with
        ``__arrow_c_stream__`` or ``__arrow_c_array__``; or an iterable of those.
    columns : callable, optional
        Takes the schema of a Dataset and returns the columns to read. Default: all.
    validate : {"basic", "full"}
        "full": each batch is validated in full when it is read.

    Raises
    ------
    InvalidValueError
        The object holds no Arrow data, or `validate` is unknown. With ``validate="full"`` a
        damaged batch raises it too.

    Notes
    -----
    A Dataset is scanned with little read-ahead, to save memory. A Scanner reads ahead as it was
    configured to.
    """
    check_validation(validate)
    stream = _open(data, columns)
    if validate == "full":
        return stream._replace(batches=_validated(stream.batches))
    return stream


def _validated(batches: Iterator[Any]) -> Iterator[Any]:
    validator = Validator()
    for number in itertools.count():
        try:
            batch = next(batches, None)
            if batch is not None and not isinstance(batch, Matrix):
                validator.check(batch)
                check_offsets_below(batch)
        except (pa.ArrowInvalid, OSError) as error:
            # Arrow raises a plain OSError without a number for what it cannot decode. All others
            # are of the file or the network.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
                raise
            raise InvalidValueError(
                f"batch {number} of data is damaged: {error}. The batch was rejected. Ask its "
                "producer for valid Arrow data.",
                argument="data",
            ) from error
        if batch is None:
            return
        yield batch
        del batch  # releases it before the next one is read


def _open(data: Any, columns: Wanted | None) -> Stream:
    if (batch := as_batch(data)) is not None:
        return Stream(batch.schema, iter([batch]), _to_batch, isinstance(batch, Matrix))
    if isinstance(data, pa.Table):
        return Stream(data.schema, iter(data.to_batches()), _to_table)
    if isinstance(data, pa.RecordBatchReader):
        return Stream(data.schema, iter(data), None)
    dataset = sys.modules.get("pyarrow.dataset")
    if dataset is not None and isinstance(data, dataset.Dataset):
        wanted = [] if columns is None else list(columns(data.schema))
        # The caller reports a missing column better than the scan would.
        exist = wanted and set(wanted) <= set(data.schema.names)
        return _scan(dataset, data, wanted if exist else None)
    if isinstance(data, pa.RecordBatchFileReader):
        return Stream(data.schema, map(data.get_batch, range(data.num_record_batches)), None)
    if (make_reader := _reader_method(data)) is not None:
        reader = make_reader()
        return Stream(reader.schema, iter(reader), None)
    if hasattr(data, "__arrow_c_stream__"):
        reader = _import(data, pa.RecordBatchReader.from_stream)
        return Stream(reader.schema, iter(reader), _collector(data))
    if hasattr(data, "__arrow_c_array__"):
        batch = _import(data, pa.record_batch)
        return Stream(batch.schema, iter([batch]), _collector(data) or _to_batch)
    if isinstance(data, Iterable) and _is_stream(data):
        return _open_iterable(data, columns)
    raise _not_arrow(data)


def map_batches(
    data: Any,
    output_schema: Callable[[pa.Schema], pa.Schema],
    function: Callable[[Any, Any], Any],
    validate: Validation = "basic",
) -> Any:
    """Apply a function to every batch, at once for eager data, otherwise when it is pulled.

    Parameters
    ----------
    data : object
        As for `open_stream`.
    output_schema : callable
        Takes the input schema and returns the output schema.
    function : callable
        Takes a batch and the output schema and returns an output batch. Takes a `Matrix` and None
        and returns an array.
    validate : {"basic", "full"}
        As for `open_stream`.

    Returns
    -------
    object
        Of the kind of the input; for a stream a pyarrow.RecordBatchReader, and for a stream of
        arrays an iterator of arrays. All fields of a reader are nullable, because the batches to
        come may hold nulls whatever the first ones declare.
    """
    return map_stream(open_stream(data, validate=validate), output_schema, function)


def map_stream(
    stream: Stream,
    output_schema: Callable[[pa.Schema], pa.Schema],
    function: Callable[[Any, Any], Any],
) -> Any:
    """Do the same as `map_batches` for an open stream."""
    if stream.schema is None:
        return pa.RecordBatchReader.from_batches(pa.schema([]), iter([]))
    if stream.arrays:
        arrays = (function(batch, None) for batch in stream.batches)
        return arrays if stream.collect is None else next(arrays)
    incoming = stream.schema
    schema = output_schema(incoming)
    if stream.collect is None:
        schema = pa.schema(map(nullable_field, schema), schema.metadata)
    mapped = (function(_align(batch, incoming), schema) for batch in stream.batches)
    if stream.collect is None:
        return pa.RecordBatchReader.from_batches(schema, mapped)
    return stream.collect(schema, list(mapped))


def _open_iterable(data: Iterable[Any], columns: Wanted | None) -> Stream:
    """Chain the batches of the items. The first item gives the schema."""

    def open_item(item: Any) -> Stream:
        if not _is_arrow(item):
            raise _not_arrow(item, f"an item of {_kind(data)}")
        if isinstance(item, np.ndarray) != isinstance(first, np.ndarray):
            raise InvalidValueError(
                f"an item of {_kind(data)} is {_kind(item)}, and the first one is {_kind(first)}. "
                "Pass either arrays or Arrow data, not both.",
                argument="data",
            )
        return _open(item, columns)

    items = iter(data)
    try:
        first = next(items)
    except StopIteration:
        return Stream(None, iter([]), None)
    stream = open_item(first)
    rest = itertools.chain.from_iterable(open_item(item).batches for item in items)
    batches = itertools.chain(stream.batches, rest)
    return Stream(stream.schema, batches, None, isinstance(first, np.ndarray))


def _scan(dataset: Any, data: Any, columns: list[str] | None) -> Stream:
    """Scan a dataset without holding all of it in memory.

    By default Arrow reads whole row groups ahead of its consumer. A scan of a 418 MB Parquet file
    grew a process by 379 MB, and by 91 MB with these options. A slow consumer would still let it
    read ahead up to a gigabyte, so Parquet files are scanned a few row groups at a time.
    """
    _check_time_zones(data, columns)
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
    except ValueError:  # a filtered dataset, whose fragments are not filtered
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


def _check_time_zones(data: Any, columns: list[str] | None) -> None:
    """Raise a SchemaError if some files have timestamps with a time zone, and others without.

    The scan casts each file to the schema of the dataset, in silence.
    """
    kinds = {name: data.schema.field(name).type for name in columns or ()}
    kinds = {name: kind for name, kind in kinds.items() if pa.types.is_timestamp(kind)}
    if not kinds:
        return
    try:
        fragments = data.get_fragments()
    except ValueError:  # as in `_scan`
        return
    for fragment in fragments:
        schema = fragment.physical_schema
        for name, kind in kinds.items():
            own = schema.field(name).type if name in schema.names else kind
            if pa.types.is_timestamp(own) and (own.tz is None) != (kind.tz is None):
                raise SchemaError(
                    f"column {name!r} is {own} in {getattr(fragment, 'path', 'a part')!r} and "
                    f"{kind} in the dataset. Give all files a time zone, or none.",
                    column=name,
                )


def _windows(fragment: Any) -> Iterator[list[int]]:
    """Yield the row groups of a Parquet file in runs of about 16 MB."""
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


def _is_stream(data: object) -> bool:
    """Return whether an iterable can hold batches: text, dicts and arrays cannot.

    Neither can a chunk of Arrow Flight, which is a pair of a batch and metadata.
    """
    return not (
        isinstance(data, str | bytes | dict)
        or hasattr(data, "app_metadata")
        or hasattr(data, "__array__")
    )


def _reader_method(data: Any) -> Callable[[], pa.RecordBatchReader] | None:
    """Return the method of a stream-like object that gives a RecordBatchReader.

    A Scanner and an answer of Arrow Flight have `to_reader`, a cursor of ADBC has
    `fetch_record_batch`. To iterate over the latter two gives chunks with metadata, and tuples.
    """
    if hasattr(data, "__arrow_c_stream__"):
        return None
    for name in ("to_reader", "fetch_record_batch"):
        method: Callable[[], pa.RecordBatchReader] | None = getattr(data, name, None)
        if callable(method):
            return method
    return None


def _is_arrow(item: object) -> bool:
    dataset = sys.modules.get("pyarrow.dataset")
    return (
        hasattr(item, "__arrow_c_stream__")
        or hasattr(item, "__arrow_c_array__")
        or isinstance(item, pa.RecordBatchFileReader | np.ndarray)
        or (dataset is not None and isinstance(item, dataset.Dataset))
        or _reader_method(item) is not None
    )


def _import(data: Any, function: Callable[[Any], Any]) -> Any:
    try:
        return function(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"data ({_kind(data)}) does not convert to record batches: {error}. Pass columns of "
            "types that Arrow supports: pyarrow.table({'name': array}).",
            argument="data",
        ) from error


def _align(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with its columns in the order of the stream's schema."""
    if batch.schema.equals(schema):
        return batch
    names = batch.schema.names
    for name in schema.names:
        if name not in names:
            raise SchemaError.missing(name, names)
    for name in names:
        if name not in schema.names:
            raise SchemaError(
                f"column {name!r} is not in the first batch of the stream, so the output has no "
                "place for it. Select the same columns in every batch.",
                column=name,
            )
    return batch.select(schema.names)


# ------------------------------------------------------ objects of the input's kind


def _to_batch(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    del schema
    [batch] = batches
    return batch


def _to_table(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches, schema=schema)


def _collector(data: Any) -> Collect | None:
    """Return a function that converts to the kind of `data`; None for streams and unknown kinds."""
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


def _not_arrow(data: object, subject: str = "data") -> InvalidValueError:
    remedy = (
        "Pass a pyarrow Table, RecordBatch or reader, anything with __arrow_c_stream__, or a NumPy "
        "array."
    )
    if hasattr(data, "__aiter__"):
        remedy = "Pass its batches one by one: `async for batch in data: norm.update(batch)`."
    elif inspect.isawaitable(data):
        remedy = "Pass its result: norm.update(await data)."
    elif isinstance(data, str | bytes):
        remedy = "To read files, open them first: pyarrow.dataset.dataset(path)."
    elif isinstance(data, dict):
        remedy = "Convert it to a table: pyarrow.table(data)."
    elif _kind(data).startswith(("polars", "narwhals")):
        remedy = "Collect it first: data.collect(), or data.collect_batches() for a stream."
    elif hasattr(data, "__array__") or isinstance(data, list | tuple | int | float):
        remedy = "Convert it to an array of rows and columns: numpy.atleast_2d(data)."
    elif hasattr(data, "iter_batches"):
        remedy = "Pass its batches: data.iter_batches()."
    elif hasattr(data, "to_arrow_reader"):
        remedy = "Pass its result: data.to_arrow_reader()."
    elif hasattr(data, "app_metadata"):
        remedy = "Pass the batch in it, chunk.data, or the whole answer of client.do_get(ticket)."
    return InvalidValueError(
        f"{subject} is {_kind(data)}, which is not Arrow data. {remedy}", argument="data"
    )
