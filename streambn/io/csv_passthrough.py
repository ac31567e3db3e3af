"""CSV columns that an operation passes through: their text, or types that lose nothing of it.

Into CSV they go as the text that they are, with every zero, sign and spelling of a missing value.
Another format has types. There, a column has the type of its layout, and one without a layout stays
text; see `streambn.io.csv_layouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from streambn._messages import display_name, start_of
from streambn.io.csv_dialect import CsvOptions
from streambn.io.csv_layouts import (
    Layouts,
    convert,
    first_misfit,
    first_text,
    kind_of,
    layouts_of,
    restored,
    unite,
)
from streambn.io.csv_types import infer_types, text_as, without_nulls
from streambn.io.formats import Format

__all__ = [
    "KeptText",
    "MisfitError",
    "Passthrough",
    "PassthroughOf",
    "TypedText",
    "lossless_text",
    "text_at",
]

# The type of times in JSON.
_TIMES = pa.large_string()


class Passthrough(NamedTuple):
    """The columns that an operation passes through: all but those that it changes.

    Attributes
    ----------
    changed : collection of str
        Names of the columns that it changes, or learns from.
    into : Format
        Format of the output.
    settled : mapping of str to pyarrow.DataType
        Types that all values of a column are known to have, and that lose nothing of them.
    """

    changed: Collection[str]
    into: Format
    settled: Mapping[str, Any] = MappingProxyType({})

    @property
    def keeps_text(self) -> bool:
        """Whether all text stays as it is, because the output has no types."""
        return self.into is Format.CSV

    def columns(self, names: Iterable[str], options: CsvOptions) -> list[str]:
        """Return the columns of a file to read as text. A declared type holds in types only."""
        declared: Collection[str] = () if self.keeps_text else options.types
        return [name for name in names if name not in self.changed and name not in declared]

    def kind_of(self, layouts: Layouts) -> Any:
        """Return the type of a column in the output."""
        kind = kind_of(layouts)
        # JSON has no times, so their text stays as well. It may be null, unlike other text.
        return _TIMES if self.into is Format.JSON and pa.types.is_temporal(kind) else kind


# Or a function that returns it for the inferred schema of a file.
PassthroughOf = Passthrough | Callable[[Any], Passthrough | None]


class KeptText(NamedTuple):
    """A column that stays text, because a value would lose something in another type."""

    column: str
    value: str | None = None  # None: none of the first rows

    def __str__(self) -> str:
        if self.value is None:
            return display_name(self.column)
        return f"{display_name(self.column)} ({start_of(repr(self.value), 40)})"


class MisfitError(Exception):
    """A value does not fit the type of the values before it."""

    def __init__(self, column: str, kind: Any, row: int) -> None:
        super().__init__(column, kind, row)
        self.column, self.kind, self.row = column, kind, row


class TypedText:
    """The types of columns of text, which lose nothing of the values, and the conversion to them.

    Parameters
    ----------
    passthrough : Passthrough
    columns : sequence of str
        Columns that are read as binary.
    options : CsvOptions
    """

    def __init__(
        self, passthrough: Passthrough, columns: Sequence[str], options: CsvOptions
    ) -> None:
        self._passthrough, self._options = passthrough, options
        self._settled = {c: kind for c, kind in passthrough.settled.items() if c in columns}
        self._layouts: dict[str, Layouts] = {c: None for c in columns if c not in self._settled}

    @property
    def types(self) -> dict[str, Any]:
        """The type of each column."""
        found = {c: self._passthrough.kind_of(layouts) for c, layouts in self._layouts.items()}
        return self._settled | found

    def learn(self, batch: Any) -> None:
        """Find the types that the values so far and those of a batch have."""
        for column, layouts in self._layouts.items():
            if layouts is None or kind_of(layouts) != pa.binary():
                more = layouts_of(batch[column], self._options)
                self._layouts[column] = unite(layouts, more)

    def convert(self, batch: Any) -> dict[str, Any]:
        """Return the columns of a batch in their types.

        Raises
        ------
        MisfitError
            A value does not fit the types that `learn` found.
        """
        return {column: self._typed(column, kind, batch) for column, kind in self.types.items()}

    def _typed(self, column: str, kind: Any, batch: Any) -> Any:
        text = batch[column]
        if column in self._settled:
            return self._cast(text, kind)
        before = self._layouts[column]
        try:
            if before is None or kind != kind_of(before) or _is_text(kind):
                if before is None and layouts_of(text, self._options) is not None:
                    raise self._misfit(column, kind, text)
                return self._cast(text, kind)
            layouts = [x for x in before if x.kind == kind]
            if not self._options.null_values:  # which could look like values
                typed = restored(text, layouts, self._options)
                if typed is not None:
                    return typed
            values = without_nulls(text, self._options)
        except pa.ArrowInvalid:  # not in UTF-8
            raise self._misfit(column, kind, text) from None
        kept, typed = convert(values, layouts, self._options)
        if not kept:
            raise self._misfit(column, kind, text)
        self._layouts[column] = kept | {x for x in before if _is_text(x.kind)}
        return typed

    def _cast(self, text: Any, kind: Any) -> Any:
        if pa.types.is_null(kind):
            return pa.nulls(len(text))
        if _is_text(kind):
            return text.cast(kind)
        return text_as(without_nulls(text, self._options), kind, self._options)

    def _misfit(self, column: str, kind: Any, text: Any) -> MisfitError:
        before = self._layouts[column]
        row = first_misfit(text, before, kind_of(before), self._options)
        return MisfitError(column, kind, row)

    def kept_text(self, batch: Any) -> list[KeptText]:
        """Return the columns of a batch that are text, although Arrow would find another type."""
        text = [column for column, kind in self.types.items() if pa.types.is_string(kind)]
        guesses = infer_types([batch.select(text)], self._options)
        return [
            KeptText(column, self._losing_value(batch[column]))
            for column, kind in guesses.items()
            if not _is_text(kind)
            if not (pa.types.is_temporal(kind) and self._passthrough.into is Format.JSON)
        ]

    def _losing_value(self, text: Any) -> str | None:
        row = first_text(text, self._options)
        return None if row is None else text_at(text, row)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def lossless_text(text: Any, kind: Any, options: CsvOptions) -> tuple[Any, int | None]:
    """Return binary text as a type, or the first row whose text it does not keep.

    Values of another type that the layout of the text has are not cast: such as integers, where the
    type is that of several files.
    """
    if kind == _TIMES:
        return without_nulls(text, options).cast(kind), None
    if _is_text(kind):
        return text.cast(kind), None
    row = first_text(text, options)
    if row is not None:
        return None, row
    found = kind_of(layouts_of(text, options))
    if pa.types.is_null(found):
        return pa.nulls(len(text)), None
    return text_as(without_nulls(text, options), found, options), None


def text_at(column: Any, row: int) -> str:
    """Return a value of binary text."""
    value: bytes = column[row].as_py()
    return value.decode(errors="replace")
