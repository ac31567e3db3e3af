"""Compare outputs with a second computation from their inputs.

`verify_output` reads an output again, together with its inputs. It normalizes the inputs with
the NumPy reference kernels and compares the result with the output row by row. The output must
have the same rows, the same nulls, the same normalized values up to rounding, and the same
values in all other columns.

Some changes cannot be found: a change within rounding, another type for a column, an empty string
in place of a null one in CSV, and null in place of NaN in JSON. Formats do not keep all types, so
only values are compared, and CSV and JSON write these pairs alike.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._lazy import lazy_module
from streambn._messages import start_of
from streambn._transformer import float_type_of
from streambn.arrow import Leaf
from streambn.errors import SchemaError, StreamBNError
from streambn.io import (
    CsvOptions,
    Format,
    RawJson,
    Source,
    json_values,
    located,
    open_reader,
    row_size,
)
from streambn.jobs.compare import first_difference
from streambn.jobs.inputs import needs_of, read_schemas
from streambn.jobs.operations import ApplyStatistics
from streambn.jobs.output_schema import settle_schema
from streambn.jobs.plan import Output, ReadOptions
from streambn.jobs.verify_text import read_inputs
from streambn.kernels import reference
from streambn.kernels.bitmaps import unpack_validity
from streambn.kernels.flatten import FlatColumn, flatten_columns
from streambn.kernels.interface import Floats
from streambn.standardize import Standardizer

csv = lazy_module("pyarrow.csv")

__all__ = ["csv_types", "json_types", "verify", "verify_output"]

# Rows, and bytes of them, that are compared at a time, which bounds the memory.
_ROWS = 1 << 16
_BYTES = 4 << 20
# Rounding errors of the two computations, as a multiple of the largest term: 16 units of float64.
_ROUNDING = 16 * 2.0**-53


def verify_output(output: Output, operation: ApplyStatistics, options: ReadOptions) -> None:
    """Read an output and its inputs again, and compare them; see `verify`."""
    needs = needs_of(output, operation)
    schemas = read_schemas(output, needs, options)
    schema = settle_schema(operation, schemas, options)
    inputs = read_inputs(output, needs, options, schema)
    types = {}
    if schema is not None and output.format is Format.CSV:
        types = csv_types(schema)
    elif schema is not None and output.format is Format.JSON:
        types = json_types(schema, operation)
    written: Iterable[Any] = ()
    if output.format is not Format.JSON or Source(output.target).stamp().size:
        written = open_reader(
            Source(output.target),
            csv=CsvOptions(types, header=True),
            # JSON that passed through JSON is text on both sides.
            passthrough=needs.passthrough(output.sources[0], options) if _is_raw(schema) else None,
        )
    verify(operation, inputs, written, name=output.name, schema=schema, kind=output.format)


def verify(
    operation: ApplyStatistics,
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    *,
    name: str,
    schema: pa.Schema | None = None,
    kind: Format = Format.PARQUET,
) -> None:
    """Check that an output is what an operation makes of its inputs.

    Parameters
    ----------
    operation : ApplyStatistics
    inputs, outputs : iterable of pyarrow.RecordBatch
        The same rows, in any batches. The inputs may come from several files, each with its own
        order and types of columns.
    name : str
        The name of the output in messages.
    schema : pyarrow.Schema, optional
        The schema of an output of several inputs, which may have columns that an input lacks and
        wider types. Default: that of each input alone.
    kind : Format
        The format of the output. CSV is read with the types of `csv_types`, and JSON with those
        of `json_types`.

    Raises
    ------
    StreamBNError
        The output differs. The message names the column, the row and both values.
    """
    comparison = _Comparison(operation, name, kind, schema)
    start = 0
    for given, written in _in_step(inputs, outputs, name):
        with np.errstate(all="ignore"):
            comparison.compare(given, written, start)
        start += given.num_rows


def _is_raw(schema: Any) -> bool:
    return any(isinstance(field.type, RawJson) for field in schema or ())


def csv_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the types to read a CSV file with that has this schema.

    Types that the CSV reader does not know are left out, and inferred.
    """
    types = {}
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        options = csv.ConvertOptions(column_types={"x": kind})
        try:
            csv.read_csv(io.BytesIO(b"x\n"), convert_options=options)
        except pa.ArrowException:
            continue
        types[field.name] = kind
    return types


def json_types(schema: pa.Schema, operation: ApplyStatistics) -> dict[str, pa.DataType]:
    """Return the types to read newline-delimited JSON with that has this schema.

    Columns without statistics have the types that `json_values` gives them.
    """
    normalized = {leaf.path[0] for leaf in operation.frozen.standardizer.binding.leaves}
    empty = {field.name: pa.nulls(0, field.type) for field in schema}
    return {
        name: array.type if name in normalized else json_values(array, name).type
        for name, array in empty.items()
        if not isinstance(array.type, RawJson)
    }


def _in_step(inputs: Iterable[Any], outputs: Iterable[Any], name: str) -> Iterator[tuple[Any, Any]]:
    """Cut two streams into pairs of batches with the same rows."""
    sides = [filter(len, inputs), filter(len, outputs)]  # without empty batches
    pair: list[Any] = [next(side, None) for side in sides]
    rows = 0
    while all(batch is not None for batch in pair):
        most = min(_ROWS, 1 + _BYTES // max(1, *(row_size(batch.schema) for batch in pair)))
        count = min(pair[0].num_rows, pair[1].num_rows, most)
        yield pair[0].slice(0, count), pair[1].slice(0, count)
        rows += count
        for i, batch in enumerate(pair):
            pair[i] = batch.slice(count) if count < batch.num_rows else next(sides[i], None)
    counts = [
        rows + (0 if batch is None else batch.num_rows) + sum(rest.num_rows for rest in side)
        for batch, side in zip(pair, sides, strict=True)
    ]
    if counts[0] != counts[1]:
        raise StreamBNError(
            f"the input has {counts[0]:,} rows, and the output {counts[1]:,}", source=name
        )


class _Comparison:
    """The comparison of one output with its inputs, a slice of both at a time."""

    def __init__(
        self, operation: ApplyStatistics, name: str, kind: Format, schema: pa.Schema | None
    ) -> None:
        self._standardizer = operation.frozen.standardizer
        self._inverse, self._dtype = operation.inverse, float_type_of(operation.dtype)
        self._name, self._kind, self._schema = name, kind, schema
        self._match(self._standardizer)

    def _match(self, part: Standardizer) -> None:
        """Compare by a map of the columns that an input has."""
        self._part, self._binding, self._transform = part, part.binding, part.parameters
        self._leaves = {leaf.path for leaf in self._binding.leaves}
        self._largest = np.zeros(len(self._transform.known))  # of each feature, so far
        with np.errstate(all="ignore"):
            self._offset = _ROUNDING * self._offsets()

    def _offsets(self) -> Floats:
        """Return the size of the terms that are added last, which may cancel."""
        t, zero = self._transform, np.zeros(len(self._transform.known))
        beta = zero if t.beta is None else np.abs(t.beta)
        if not self._inverse:
            return beta
        shift = beta if t.gamma is None else beta / np.abs(t.gamma) * t.scale
        offsets: Floats = np.abs(t.location_hi) + np.nan_to_num(shift, nan=0.0, posinf=0.0)
        return offsets

    def compare(self, given: pa.RecordBatch, written: pa.RecordBatch, start: int) -> None:
        """Compare the rows from `start` on."""
        given = self._complete(given)
        written = self._align(written, given.schema.names)
        part = self._standardizer.matching(given.schema)
        if part is not self._part:
            self._match(part)
        schema = self._standardizer.output_schema(given.schema, self._dtype)
        if self._schema is not None:  # in the order of the input
            schema = pa.schema([self._schema.field(name) for name in given.schema.names])
        with located(self._name):
            columns = self._binding.extract(given)
            found = flatten_columns(self._binding.extract(written))
        kernel = reference.denormalize if self._inverse else reference.normalize
        leaf_schema = self._binding.leaf_schema(columns, schema)
        expected = kernel(columns, self._transform, leaf_schema).batch.columns
        first = 0
        for leaf, source, mapped, target in zip(
            self._binding.leaves, flatten_columns(columns), expected, found, strict=True
        ):
            features = slice(first, first + leaf.width)
            if not _is_null_in(given.schema, leaf.path):
                self._compare_lists(leaf, source, target, start)
            self._compare_values(leaf, features, source, mapped, target, start)
            first += leaf.width
        for path, one, other in self._unchanged(given, written):
            if self._kind is Format.JSON:
                one, other = (json_values(side, path[0]) for side in (one, other))  # noqa: PLW2901
            row = first_difference(one, other, text=self._kind is Format.CSV)
            if row is not None:
                self._fail(".".join(path), start + row, _shown(one[row]), _shown(other[row]))

    def _complete(self, given: pa.RecordBatch) -> pa.RecordBatch:
        """Append columns that only other inputs have, which are null here."""
        names = set(given.schema.names)
        for field in self._schema or ():
            if field.name not in names:
                given = given.append_column(field, pa.nulls(given.num_rows, field.type))
        return given

    def _align(self, written: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """Bring the columns of the output into the order of the input."""
        found = written.schema.names
        if found == names:
            return written
        for name in names:
            if name not in found:
                with located(self._name):
                    raise SchemaError.missing(name, found)
        for name in found:
            if name not in names:
                raise SchemaError(f"{self._name}: column {name!r} is not in the input", column=name)
        return written.select(names)

    def _compare_lists(self, leaf: Leaf, given: FlatColumn, found: FlatColumn, start: int) -> None:
        """Compare which lists are null, and which structs around a column."""
        if given.outer is None and found.outer is None:
            return
        valid = [
            np.ones(side.rows, np.bool_) if side.outer is None else side.outer
            for side in (given, found)
        ]
        wrong = valid[0] != valid[1]
        if wrong.any():
            row = int(wrong.argmax())
            words = ["a value" if side[row] else "null" for side in valid]
            self._fail(leaf.name, start + row, *words)

    def _compare_values(
        self,
        leaf: Leaf,
        features: slice,
        given: FlatColumn,
        mapped: pa.Array,
        written: FlatColumn,
        start: int,
    ) -> None:
        """Compare a normalized column, in the coarser type of the two computations."""
        null = _nulls(given) | ~self._transform.known[features]
        found_null = _nulls(written)
        expected, found = _numbers(_elements(mapped)), _numbers(written.values)
        dtype = min(expected.dtype, found.dtype, key=lambda dtype: dtype.itemsize)
        expected = expected.astype(dtype).reshape(null.shape)
        found = found.astype(dtype).reshape(null.shape)
        size = np.abs(expected.astype(np.float64))
        if not pa.types.is_floating(given.values.type):
            # The kernels subtract one of the first values before they round an integer.
            usable = np.where(null | ~np.isfinite(size), 0.0, size)
            largest = self._largest[features]
            np.maximum(largest, usable.max(axis=0, initial=0.0), out=largest)
            size = np.broadcast_to(largest, size.shape)
        if self._kind is Format.JSON:  # it has null in place of NaN and infinity
            null |= ~np.isfinite(expected)
        close = _is_close(expected, found, _ROUNDING * size + self._offset[features])
        wrong = (null != found_null) | ~(null | close)
        if wrong.any():
            row, feature = divmod(int(wrong.argmax()), leaf.width)
            self._fail(
                leaf.features[feature],
                start + row,
                "null" if null[row, feature] else repr(float(expected[row, feature])),
                "null" if found_null[row, feature] else repr(float(found[row, feature])),
            )

    def _unchanged(
        self, given: pa.RecordBatch, written: pa.RecordBatch
    ) -> Iterator[tuple[tuple[str, ...], pa.Array, pa.Array]]:
        """Find the columns, and the fields of structs, that are not normalized."""

        def below(
            path: tuple[str, ...], one: pa.Array, other: pa.Array
        ) -> Iterator[tuple[tuple[str, ...], pa.Array, pa.Array]]:
            if path in self._leaves:
                return
            if not any(leaf[: len(path)] == path for leaf in self._leaves):
                yield path, one, other
            elif pa.types.is_struct(one.type) and pa.types.is_struct(other.type):
                fields = dict(zip(other.type.names, other.flatten(), strict=True))
                for name, field in zip(one.type.names, one.flatten(), strict=True):
                    if name not in fields:
                        column = ".".join((*path, name))
                        raise SchemaError(
                            f"column {column!r} is missing", column=column, source=self._name
                        )
                    yield from below((*path, name), field, fields[name])

        for i, name in enumerate(given.schema.names):
            yield from below((name,), given.column(i), written.column(i))

    def _fail(self, column: str, row: int, expected: str, found: str) -> None:
        raise StreamBNError(
            f"{self._name}: column {column!r}, row {row + 1:,}: expected {expected}, found {found}",
            column=column,
        )


# --- normalized columns -------------------------------------------------------------------


def _is_null_in(schema: pa.Schema, path: tuple[str, ...]) -> bool:
    """Whether a column, or a struct around it, has the null type, which holds no lists."""
    kind = schema.field(path[0]).type
    for name in path[1:]:
        if pa.types.is_null(kind):
            break
        kind = kind.field(name).type
    return bool(pa.types.is_null(kind))


def _nulls(column: FlatColumn) -> NDArray[np.bool_]:
    """Return which values are null, shape (rows, width)."""
    valid = unpack_validity(column.values, 0, len(column.values))
    null = np.zeros(len(column.values), np.bool_) if valid is None else ~valid
    null = null.reshape(-1, column.width)
    return null if column.outer is None else null | ~column.outer[:, np.newaxis]


def _elements(array: pa.Array) -> pa.Array:
    """Return the elements of fixed-size lists or tensors, those of null lists too."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        array = array.values.slice(array.offset * size, len(array) * size)
    return array


def _numbers(array: pa.Array) -> NDArray[np.floating[Any]]:
    """Return values as floats, in their own type if they have one, with NaN for null."""
    if not pa.types.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    numbers: NDArray[np.floating[Any]] = array.to_numpy(zero_copy_only=False)
    return numbers


def _is_close(
    expected: NDArray[np.floating[Any]], found: NDArray[np.floating[Any]], rounding: Floats
) -> NDArray[np.bool_]:
    """Compare values: at most one unit in the last place apart, besides `rounding`."""
    same: NDArray[np.bool_] = (expected == found) | (np.isnan(expected) & np.isnan(found))
    if same.all():
        return same
    unit = np.spacing(np.maximum(np.abs(expected), np.abs(found)))
    apart = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    close: NDArray[np.bool_] = np.isfinite(apart) & (apart <= unit + rounding)
    return same | close


def _shown(value: pa.Scalar) -> str:
    """Return a value as a message shows it."""
    try:
        text = repr(value.as_py()) if value.is_valid else "null"
    except (ValueError, OverflowError, pa.ArrowException):  # Python has no such value
        text = str(value)
    return start_of(text)
