"""The reader of CSV: Arrow parses and converts, and every error names its remedy.

Arrow infers the type of a column from the first block. If a later value does not fit, the reader
raises an `InferenceError` where the file can be read again: `settle_types` then returns types
that all its values fit, and the file is read from its beginning.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn.errors import StreamBNError
from streambn.io.csv_dialect import (
    CsvOptions,
    Dialect,
    detect_dialect,
    detect_encoding,
)
from streambn.io.csv_errors import csv_error, quoted, ragged_error, remedy_of
from streambn.io.csv_passthrough import (
    KeptText,
    MisfitError,
    Passthrough,
    PassthroughOf,
    TypedText,
    text_at,
)
from streambn.io.csv_types import (
    infer_types,
    null_values,
    numbers_in_text,
    parse_numbers,
)
from streambn.io.formats import after_row

csv = lazy_module("pyarrow.csv")
pc = lazy_module("pyarrow.compute")

__all__ = ["CsvReader", "InferenceError", "open_csv", "open_csv_pipe", "settle_types"]

# Arrow infers the type of a CSV column from the first block. Its own block of a megabyte
# sees fewer values.
_BLOCK = 2 << 20
# A file with lines of so many characters has larger blocks. Each step from parsing to writing costs
# some time for each column of a block, and 1,000 columns take half the time in all.
_WIDE, _WIDE_BLOCK = 1 << 12, 8 << 20
# Bytes that show the dialect, and as many as are read if they do not contain two lines.
_SAMPLE = 1 << 16
_LARGEST_SAMPLE = 16 << 20
# Arrow names the column, the type and the value in its message only.
_MISFIT = re.compile(
    r"In CSV column #(\d+): .*?conversion error to (.+?): (?:invalid value '(.*)'|.*)", re.S
)

# Opens the decompressed bytes of a file.
_Opener = Callable[[], Any]


class InferenceError(StreamBNError):
    """A value does not fit the type that the first rows of its column have.

    The file can be read again, with the types of `settle_types`.
    """


def open_csv(
    opener: _Opener,
    name: str,
    options: CsvOptions,
    settled: Mapping[str, Any] | None = None,
    passthrough: PassthroughOf | None = None,
) -> CsvReader:
    """Open a CSV file.

    Parameters
    ----------
    opener : callable
        Opens the decompressed bytes of the file.
    name : str
        Name of the file in messages.
    options : CsvOptions
    settled : mapping of str to pyarrow.DataType, optional
        Types of columns that `settle_types` found.
    passthrough : Passthrough or callable, optional
        The columns that keep their text. Default: none.

    Raises
    ------
    StreamBNError
        The header or the first rows cannot be read with these options.
    """
    size = _SAMPLE
    while True:
        with opener() as file:
            start = file.read(size)
        if start.count(b"\n") > 1 or len(start) < size or size >= _LARGEST_SAMPLE:
            break
        size *= 16
    dialect, encoding = _detect(start, options, name, whole=len(start) < size)
    return CsvReader(opener(), dialect, encoding, name, options, opener, settled, passthrough)


def open_csv_pipe(
    pipe: Any, name: str, options: CsvOptions, passthrough: PassthroughOf | None = None
) -> CsvReader:
    """Open CSV that can be read only once.

    Parameters
    ----------
    pipe : Pipe
    name : str
        Name of the pipe in messages.
    options : CsvOptions
    passthrough : Passthrough or callable, optional
        The columns that keep their text. Default: none.
    """
    start = pipe.head(_SAMPLE)
    dialect, encoding = _detect(start, options, name, whole=len(start) < _SAMPLE)
    return CsvReader(pipe, dialect, encoding, name, options, passthrough=passthrough)


def settle_types(
    opener: _Opener, name: str, options: CsvOptions, passthrough: Passthrough | None = None
) -> dict[str, Any]:
    """Read a whole file, and return a type for each column that all its values fit.

    A column that passes through has one that loses nothing of its text. The types of a file of one
    block, which are inferred from all its values, need not be read.
    """
    with opener() as file:
        if len(file.read(_BLOCK)) < _BLOCK:
            return {}
    reader = open_csv(opener, name, options)
    if passthrough is None:
        return infer_types(reader.read_text(), options)
    columns = passthrough.columns(reader.schema.names, options)
    others = [column for column in reader.schema.names if column not in columns]
    passed = TypedText(passthrough, [] if passthrough.keeps_text else columns, options)

    def read_others() -> Iterator[Any]:
        for batch in reader.read_text():
            passed.learn(batch)
            yield batch.select(others)

    return {**infer_types(read_others(), options), **passed.types}


def _detect(start: bytes, options: CsvOptions, name: str, *, whole: bool) -> tuple[Dialect, str]:
    encoding = detect_encoding(start, options)
    dialect = detect_dialect(start.decode(encoding, "replace"), options, name, whole=whole)
    for column in dialect.names or ():
        if "\ufffd" in column:
            raise StreamBNError(
                f"the name of column {column!r} is not in the encoding {encoding}: give "
                "--encoding, such as latin-1, cp1252 or utf-16",
                argument="encoding",
                source=name,
            )
    return dialect, encoding


def _whole_rows(start: bytes, encoding: str) -> bytes:
    """Return the beginning of a file up to the last line break outside of quotes."""
    text = start.decode(encoding, "replace")
    end, quotes = len(text), text.count('"')
    while (line := text.rfind("\n", 0, end)) >= 0:
        quotes -= text.count('"', line, end)
        end = line
        if quotes % 2 == 0:
            return text[: end + 1].encode(encoding, "replace")
    return start


class CsvReader:
    """The batches of a CSV file, which can be read once.

    Attributes
    ----------
    schema : pyarrow.Schema
    passthrough : Passthrough or None
        The columns that keep their text.
    kept_text : list of KeptText
        Those of them that stay text, although they look like numbers or times.
    """

    def __init__(
        self,
        file: Any,
        dialect: Dialect,
        encoding: str,
        name: str,
        options: CsvOptions,
        opener: _Opener | None = None,
        settled: Mapping[str, Any] | None = None,
        passthrough: PassthroughOf | None = None,
    ) -> None:
        self.schema: Any
        self._dialect, self._encoding, self._name = dialect, encoding, name
        self._options, self._opener, self._settled = options, opener, settled or {}
        self._block = max(_WIDE_BLOCK if dialect.width >= _WIDE else _BLOCK, 4 * dialect.width)
        self._ragged: list[Any] = []  # rows with another number of values
        self._passed: TypedText | None = None
        self.kept_text: list[KeptText] = []
        types = {**self._settled, **options.types}
        self._numbers: dict[str, Any] = {}  # types of columns with thousands separators
        if options.thousands is not None:
            self._numbers = {c: kind for c, kind in types.items() if _is_number(kind)}
        types |= dict.fromkeys(self._numbers, pa.string())
        if callable(passthrough):
            # Of the names of columns alone, it could not tell which ones change.
            first = CsvReader(
                self._again(file), dialect, encoding, name, options, settled=self._settled
            )
            passthrough = passthrough(first.schema)
        self.passthrough = passthrough
        passed, reader = self._open_passing(file, types, passthrough)
        self._batches, schema = iter(reader), reader.schema
        if passthrough is not None:
            known = {c: kind for c, kind in self._settled.items() if c not in passed}
            self._settled = {**known, **passthrough.settled}
        self._numbers = {c: kind for c, kind in self._numbers.items() if c not in passed}
        if options.thousands is not None:
            self._find_numbers({**types, **dict.fromkeys(passed)})
        kinds = dict(self._numbers)
        if passthrough is not None and not passthrough.keeps_text and passed:
            self._passed = TypedText(passthrough, passed, options)
            self._find_passed(self._passed)
            kinds |= self._passed.types
        for index, column in enumerate(schema.names):
            if column in kinds:
                schema = schema.set(index, pa.field(column, kinds[column]))
        self.schema = schema

    def __iter__(self) -> Iterator[Any]:
        rows = 0
        while (batch := self._next(rows)) is not None:
            if self._numbers or self._passed is not None:
                batch = self._convert(batch, rows)
            rows += batch.num_rows
            yield batch
            del batch  # releases it before the next one is read

    def read_text(self) -> Iterator[Any]:
        """Read the file again, all columns as text, up to the first damage."""
        if self._opener is not None:
            text = dict.fromkeys(self.schema.names, pa.binary())
            # Whoever reads the values reports the error.
            with contextlib.suppress(pa.ArrowException, UnicodeError):
                yield from self._open(self._opener(), text)

    def _again(self, file: Any) -> Any:
        """Return the start of the file. `file` is at its start, and stays there."""
        if self._opener is not None:
            return self._opener()
        start = file.head(self._block)
        return pa.BufferReader(
            start if len(start) < self._block else _whole_rows(start, self._encoding)
        )

    def _open_passing(
        self, file: Any, types: Mapping[str, Any], passthrough: Passthrough | None
    ) -> tuple[list[str], Any]:
        """Open the file with the columns that pass through as binary; return their names too."""
        if passthrough is None:
            return [], self._open(file, types)
        first = self._dialect.rows[0][1] if self._dialect.rows else ()
        names = self._dialect.names or [f"f{i}" for i in range(len(first))]
        while True:
            passed = passthrough.columns(names, self._options)
            reader = self._open(file, {**types, **dict.fromkeys(passed, pa.binary())})
            names = reader.schema.names
            if passthrough.columns(names, self._options) == passed:
                return passed, reader
            # Python and Arrow do not see the same columns, as of values of 128 KB.
            if self._opener is None:
                problem = "the first line is not readable: give --header"
                raise csv_error("header", problem, self._name, 0)
            file = self._opener()

    def _open(self, file: Any, types: Mapping[str, Any], columns: Sequence[str] = ()) -> Any:
        dialect = self._dialect
        if dialect.empty and dialect.names is not None:
            fields = [(column, types.get(column, pa.null())) for column in dialect.names]
            return pa.RecordBatchReader.from_batches(pa.schema(fields), [])

        read = csv.ReadOptions(
            block_size=self._block,
            skip_rows=dialect.skip_lines,
            column_names=dialect.names,
            autogenerate_column_names=dialect.names is None,
            encoding=self._encoding,
        )
        parse = csv.ParseOptions(
            delimiter=dialect.delimiter,
            # A line break in quotes is data. So is an empty line in a table of one column.
            newlines_in_values=True,
            ignore_empty_lines=dialect.several,
            invalid_row_handler=functools.partial(_refuse_row, self._ragged),
        )
        convert = csv.ConvertOptions(
            column_types=dict(types),
            null_values=null_values(self._options),
            decimal_point=self._options.decimal,
            include_columns=list(columns),
        )
        try:
            return csv.open_csv(file, read, parse, convert)
        except (pa.ArrowException, UnicodeError) as error:
            raise self._explained(error, dialect.names or [], 0) from error

    def _next(self, rows: int) -> Any:
        try:
            return next(self._batches, None)
        except (pa.ArrowException, UnicodeError) as error:
            raise self._explained(error, self.schema.names, rows) from error

    # --- numbers with thousands separators ------------------------------------------------

    def _find_numbers(self, types: Mapping[str, Any]) -> None:
        """Find the columns of numbers among those of text, in the first batch."""
        batch = self._next(0)
        if batch is None:
            return
        self._batches = itertools.chain([batch], self._batches)
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            if column not in types and pa.types.is_string(values.type):
                kind = numbers_in_text(values, self._options)
                if kind is not None:
                    self._numbers[column] = kind

    def _find_passed(self, passed: TypedText) -> None:
        """Find the types of the columns that pass through, in the first batch."""
        batch = self._next(0)
        if batch is not None:
            self._batches = itertools.chain([batch], self._batches)
            passed.learn(batch)
            self.kept_text = passed.kept_text(batch)

    def _convert(self, batch: Any, rows: int) -> Any:
        columns = []
        passed = self._typed(batch, rows)
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            if column in passed:
                values = passed[column]  # noqa: PLW2901
            elif (kind := self._numbers.get(column)) is not None:
                numbers, row = parse_numbers(values, kind, self._options)
                if row >= 0:
                    raise self._misfit(column, kind, values[row].as_py(), rows + row)
                values = numbers  # noqa: PLW2901
            columns.append(values)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _typed(self, batch: Any, rows: int) -> dict[str, Any]:
        """Return the columns that pass through, in types that lose nothing."""
        if self._passed is None:
            return {}
        try:
            return self._passed.convert(batch)
        except MisfitError as misfit:
            value = text_at(batch[misfit.column], misfit.row)
            raise self._misfit(misfit.column, misfit.kind, value, rows + misfit.row) from None

    # --- errors ---------------------------------------------------------------------------

    def _explained(self, error: Exception, columns: Sequence[str], rows: int) -> Exception:
        """Return the error to raise instead of one of Arrow's."""
        if self._ragged:
            ragged = self._ragged[0]
            return ragged_error(ragged, self._dialect, self._options, self._name, rows)
        if isinstance(error, UnicodeError):
            problem = f"not in the encoding {self._encoding}: give another --encoding"
            return csv_error("encoding", problem, self._name, rows)
        if (misfit := _MISFIT.match(str(error))) is not None:
            number, kind, value = int(misfit[1]), misfit[2], misfit[3]
            column = columns[number] if number < len(columns) else f"f{number}"
            return self._misfit(column, kind, value, rows)
        if "straddles" in str(error):
            size = f"{self._block / (1 << 20):.0f} MB"
            problem = f"a row is longer than {size}. A quote that is not closed makes such rows"
            return csv_error(None, problem, self._name, rows)
        return error

    def _misfit(self, column: str, kind: object, value: str | None, rows: int) -> StreamBNError:
        """Return the error of a value that does not fit the type of its column."""
        given = column in self._options.types
        again = not given and self._opener is not None and column not in self._settled
        error = InferenceError if again else StreamBNError
        row = None if again else self._row_of(column, value)
        where = f"row {row:,}" if row is not None else after_row(rows) or "in the first rows"
        if value is None:
            problem, remedy = "text that is not in UTF-8", "--encoding, such as latin-1"
        else:
            origin = "the type given for it" if given else "the type inferred from the first rows"
            problem = f"the value {quoted(value)} does not fit {kind}, {origin}"
            remedy = remedy_of(column, value, str(kind), self._options)
            if self._passed is not None and column in self._passed.types:
                remedy = f"--csv-type {shlex.quote(column)}=string"
        return error(
            f"column {column!r}, {where}: {problem}. Give {remedy}",
            argument="csv_types" if value is not None else "encoding",
            column=column,
            source=self._name,
        )

    def _row_of(self, column: str, value: str | None) -> int | None:
        """Return the row of the first such value, from 1; None if it cannot be found."""
        if self._opener is None or value is None:
            return None
        before = 0
        for batch in self._open(self._opener(), {column: pa.string()}, [column]):
            row = pc.index(pc.ascii_trim_whitespace(batch.column(0)), value).as_py()
            if row >= 0:
                return int(before + row + 1)
            before += batch.num_rows
        return None


def _refuse_row(refused: list[Any], row: Any) -> str:
    """Keep a row with another number of values than the first, for the message."""
    # Not a method: the reader would hold itself, and its file open.
    refused.append(row)
    return "error"


def _is_number(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
