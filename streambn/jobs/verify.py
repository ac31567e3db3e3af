"""An output read back beside its input: every row is there, every null, every value.

What is checked, row by row: as many rows; null where the input is null, or where a lane was
never seen, and nowhere else; columns that pass through equal; and normalized values that,
mapped back, are the input again but for rounding. The maps are computed here, in NumPy, and
not by the kernels that wrote the output, so that an error of theirs would show.

**What is not found.** A change smaller than rounding: of integers and decimals beyond 2⁵³
that includes their low digits. In CSV, which has one spelling for both, an empty string in
the place of a null one. The types of columns: formats do not keep all, so only values are
compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import kernels
from streambn._transformer import float_type_of
from streambn.arrow.binding import Binding, Leaf, float_type
from streambn.errors import SchemaError, StreamBNError
from streambn.jobs.compare import IncomparableError, differing
from streambn.jobs.roundtrip import KINDS, Kind, Roundtrip
from streambn.kernels import FeatureTransform
from streambn.kernels.bitmaps import unpack_validity
from streambn.kernels.flatten import FlatColumn, flatten_columns
from streambn.kernels.interface import Floats
from streambn.normalizer import FrozenNormalizer

__all__ = ["text_types", "verify"]

# Rows compared at once, and values of a column: temporaries stay in the cache.
_ROWS = 1 << 16
_VALUES = 1 << 15


def verify(
    frozen: FrozenNormalizer,
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    *,
    name: str,
    inverse: bool = False,
    dtype: Any = None,
    text: bool = False,
) -> tuple[str, ...]:
    """Check that an output is what a frozen normalizer makes of an input.

    Parameters
    ----------
    frozen : FrozenNormalizer
    inputs, outputs : iterable of pyarrow.RecordBatch
        The same rows, in whatever batches. Inputs of several files follow one another; the
        output has the columns and types that the first of them gave it.
    name : str
        What messages call the output.
    inverse : bool
        The output is of `inverse_transform`.
    dtype : data type, optional
        As it was given to `transform`.
    text : bool
        The output was CSV, which keeps no types: best read as `text_types` says.

    Returns
    -------
    tuple of str
        Columns that pass through and could not be compared, because CSV gave them a type that
        has nothing to do with the input's. Always empty unless `text`.

    Raises
    ------
    StreamBNError
        The output differs; the message names it, the column, the row and both values.

    Notes
    -----
    Memory is bounded: both are compared in step, a slice of a batch at a time.
    """
    checker = _Checker(frozen, name, inverse, float_type_of(dtype), text)
    start = 0
    for given, written in _in_step(inputs, outputs, name):
        with np.errstate(all="ignore"):  # infinities and NaN are compared like all else
            checker.check(given, written, start)
        start += given.num_rows
    return tuple(checker.unchecked)


def text_types(frozen: FrozenNormalizer, schema: pa.Schema) -> dict[str, pa.DataType]:
    """Give the types with which a CSV output is to be read back, by column.

    Parameters
    ----------
    frozen : FrozenNormalizer
    schema : pyarrow.Schema
        The input's.

    Returns
    -------
    dict
        Of columns that pass through and that would not come back by what they look like:
        strings such as "007", decimals, times.
    """
    bound = set(frozen.statistics._bound_to().columns)
    types = pa.types
    kinds: dict[str, pa.DataType] = {}
    for field in schema:
        kind = field.type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if field.name in bound:
            continue
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            kinds[field.name] = pa.string()
        elif any(
            is_such(kind)
            for is_such in (
                types.is_decimal128,
                types.is_timestamp,
                types.is_time,
                types.is_integer,
            )
        ):
            kinds[field.name] = kind
    return kinds


# --- both sides in step ---------------------------------------------------------------


def _in_step(inputs: Iterable[Any], outputs: Iterable[Any], name: str) -> Iterator[tuple[Any, Any]]:
    """Cut two streams into pairs of batches of the same rows."""
    sides = [_filled(inputs), _filled(outputs)]
    pair: list[Any] = [next(side, None) for side in sides]
    rows = 0
    while all(batch is not None for batch in pair):
        count = min(pair[0].num_rows, pair[1].num_rows, _ROWS)
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
            f"{name}: the input has {counts[0]:,} rows, and the output {counts[1]:,}"
        )


def _filled(batches: Iterable[Any]) -> Iterator[Any]:
    return (batch for batch in batches if batch.num_rows)


# --- one pair -------------------------------------------------------------------------


class _Checker:
    """What is known of a pair of streams, and the check of one slice of both."""

    def __init__(
        self,
        frozen: FrozenNormalizer,
        name: str,
        inverse: bool,
        dtype: pa.DataType | None,
        text: bool,
    ) -> None:
        fitted = frozen.statistics
        self.binding: Binding = fitted._bound_to()
        self.lanes = fitted.lane_transform
        self.name, self.inverse, self.dtype, self.text = name, inverse, dtype, text
        self.kinds: list[Kind] | None = None
        self.unchecked: dict[str, None] = {}
        self.largest: dict[tuple[str, ...], float] = {}

    def check(self, given: pa.RecordBatch, written: pa.RecordBatch, start: int) -> None:
        """Compare the rows from `start` on."""
        written = self._aligned(written, given.schema.names)
        try:
            before = flatten_columns(self.binding.extract(given))
            after = flatten_columns(self.binding.extract(written))
        except SchemaError as error:
            raise SchemaError(f"{self.name}: {error}") from error
        kinds = [self._kind(given, written, leaf) for leaf in self.binding.leaves]
        if self.kinds is None:
            # Of several inputs into one output, the first says of which type its columns are.
            self.kinds = kinds
        first = 0
        for leaf, one, other, *both in zip(
            self.binding.leaves, before, after, kinds, self.kinds, strict=True
        ):
            part = slice(first, first + leaf.width)
            lanes = FeatureTransform._make(
                f[part] if isinstance(f, np.ndarray) else f for f in self.lanes
            )
            null = pa.types.is_null(_leaf_type(given.schema, leaf))
            self._check_leaf(leaf, one, other, lanes, max(both), start, null)
            first += leaf.width
        for path, one, other in self._passing(given, written):
            self._check_passed(path, one, other, start)

    def _aligned(self, written: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
        there = written.schema.names
        if there == names:
            return written
        for name in names:
            if name not in there:
                raise SchemaError(f"{self.name}: {SchemaError.missing(name, there)}")
        for name in there:
            if name not in names:
                raise SchemaError(f"{self.name}: column {name!r} is not in the input")
        return written.select(names)

    def _kind(self, given: pa.RecordBatch, written: pa.RecordBatch, leaf: Leaf) -> Kind:
        """Give the coarser of the types in which the output of this input was rounded."""
        kind = KINDS[(self.dtype or float_type(_leaf_type(given.schema, leaf))).id]
        return max(kind, KINDS[float_type(_leaf_type(written.schema, leaf)).id])

    # -------------------------------------------------------------- normalized columns

    def _check_leaf(
        self,
        leaf: Leaf,
        given: FlatColumn,
        written: FlatColumn,
        lanes: FeatureTransform,
        kind: Kind,
        start: int,
        null: bool,
    ) -> None:
        if not null:
            self._check_outer(leaf, given, written, start)
        maps = Roundtrip(lanes, kind, self.inverse)
        exact = not pa.types.is_floating(given.values.type)
        for (x, x_null), (stored, y_null), row in _pieces(given, written):
            # What was text is rounded as it was before.
            y = stored.astype(kind.dtype).astype(np.float64) if self.text else stored
            blur = self._blur(leaf, x, x_null) if exact else None
            expected = x_null | ~lanes.known[:, np.newaxis]
            wrong, apart = expected != y_null, None
            where = np.arange(x.shape[1])
            if not wrong.any():
                where = np.flatnonzero(maps.doubtful(x, y, expected).any(axis=0))
                if not where.size:
                    continue
                wrong, apart = maps.differ(
                    x[:, where], y[:, where], 0.0 if blur is None else blur[:, where]
                )
                wrong &= ~expected[:, where]
            if wrong.any():
                # The first row, and in it the first lane.
                among = int(wrong.any(axis=0).argmax())
                lane, at = int(wrong[:, among].argmax()), int(where[among])
                how = "" if lanes.known[lane] else ", and not null: it has no statistics"
                if apart is not None:
                    how = f", which {apart.words((lane, among))}"
                self._fail(
                    leaf.lanes[lane],
                    start + row + at,
                    "null" if x_null[lane, at] else repr(float(x[lane, at])),
                    "null" if y_null[lane, at] else repr(float(y[lane, at])),
                    how,
                )

    def _blur(self, leaf: Leaf, x: Floats, null: NDArray[np.bool_]) -> Floats:
        """Say how large the numbers are that integers or decimals were rounded as."""
        if kernels.active == "native":
            return x
        # These take differences from one of the first values, which may be a larger one.
        largest = np.abs(np.where(null, 0.0, x)).max(initial=self.largest.get(leaf.path, 0.0))
        self.largest[leaf.path] = largest
        return np.full_like(x, largest)

    def _check_outer(self, leaf: Leaf, given: FlatColumn, written: FlatColumn, start: int) -> None:
        """Compare which lists, or structs around the leaf, are null."""
        if given.outer is None and written.outer is None:
            return
        all_there = np.ones(given.rows, np.bool_)
        one = all_there if given.outer is None else given.outer
        other = all_there if written.outer is None else written.outer
        wrong = one != other
        if wrong.any():
            row = int(wrong.argmax())
            words = ["there" if side[row] else "null" for side in (one, other)]
            self._fail(leaf.name, start + row, *words)

    # ----------------------------------------------------------------- passing columns

    def _passing(
        self, given: pa.RecordBatch, written: pa.RecordBatch
    ) -> Iterator[tuple[str, pa.Array, pa.Array]]:
        """Find the columns, and fields of structs, that are not normalized."""
        bound = {leaf.path for leaf in self.binding.leaves}

        def below(
            path: tuple[str, ...], one: pa.Array, other: pa.Array
        ) -> Iterator[tuple[str, pa.Array, pa.Array]]:
            if path in bound or pa.types.is_null(one.type):
                if path not in bound and not _above_bound(path, bound):
                    yield ".".join(path), one, other
            elif not _above_bound(path, bound):
                yield ".".join(path), one, other
            elif pa.types.is_struct(other.type):
                for i, field in enumerate(one.type):
                    j = other.type.get_field_index(field.name)
                    if j < 0:
                        raise SchemaError(
                            f"{self.name}: column {'.'.join((*path, field.name))!r} is missing"
                        )
                    yield from below((*path, field.name), one.flatten()[i], other.flatten()[j])

        for i, name in enumerate(given.schema.names):
            yield from below((name,), given.column(i), written.column(i))

    def _check_passed(self, path: str, given: pa.Array, written: pa.Array, start: int) -> None:
        try:
            wrong = differing(given, written, text=self.text)
        except IncomparableError as error:
            if self.text:
                self.unchecked[path] = None
                return
            raise SchemaError(
                f"{self.name}: column {path!r}, which passes through, is {given.type} in the "
                f"input and {written.type} in the output"
            ) from error
        if wrong.any():
            row = int(wrong.argmax())
            self._fail(path, start + row, _shown(given[row]), _shown(written[row]))

    def _fail(self, column: str, row: int, given: str, written: str, how: str = "") -> None:
        raise StreamBNError(
            f"{self.name}: column {column!r}, row {row + 1:,}: the input is {given}, and the "
            f"output {written}{how}"
        )


def _above_bound(path: tuple[str, ...], bound: set[tuple[str, ...]]) -> bool:
    return any(leaf[: len(path)] == path for leaf in bound)


def _leaf_type(schema: pa.Schema, leaf: Leaf) -> pa.DataType:
    kind = schema.field(leaf.path[0]).type
    for name in leaf.path[1:]:
        if pa.types.is_null(kind):
            break
        kind = kind.field(name).type
    return kind


_Piece = tuple[Floats, NDArray[np.bool_]]


def _pieces(given: FlatColumn, written: FlatColumn) -> Iterator[tuple[_Piece, _Piece, int]]:
    """Read both columns as float64, and which values are null, each of shape (L, n)."""
    step = max(1, _VALUES // given.width)
    for row in range(0, given.rows, step):
        yield _piece(given, row, step), _piece(written, row, step), row


def _piece(column: FlatColumn, start: int, rows: int) -> _Piece:
    width = column.width
    part = column.values.slice(start * width, rows * width)
    valid = unpack_validity(part, 0, len(part))
    null = np.zeros(len(part), np.bool_) if valid is None else ~valid
    null = null.reshape(-1, width)
    if column.outer is not None:
        null = null | ~column.outer[start : start + rows, np.newaxis]
    if pa.types.is_decimal(part.type):
        part = part.cast(pa.float64())
    values = _numbers(part).astype(np.float64, copy=False)
    return np.ascontiguousarray(values.reshape(-1, width).T), null.T


def _numbers(array: pa.Array) -> NDArray[Any]:
    """View the values of a plain array, and whatever lies under its nulls."""
    dtype: np.dtype[Any] = np.dtype(array.type.to_pandas_dtype())
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)


# --- columns that pass through --------------------------------------------------------


def _shown(value: pa.Scalar) -> str:
    try:
        text = repr(value.as_py()) if value.is_valid else "null"
    except (ValueError, OverflowError, pa.ArrowException):  # what Python has no value for
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
