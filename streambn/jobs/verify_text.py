"""The inputs of a verification, in which columns that pass through are compared with their text.

A CSV file is read once more, and all columns that are not normalized as text, whatever the types
that the output has. The types must be able to hold each text, and the output must hold its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from streambn.errors import StreamBNError
from streambn.io import CsvOptions, Format, Passthrough, lossless_text
from streambn.jobs.inputs import Needs, keys_of, open_input
from streambn.jobs.plan import Output, ReadOptions

__all__ = ["read_inputs"]


def read_inputs(output: Output, needs: Needs, options: ReadOptions, schema: Any) -> Iterator[Any]:
    """Yield the batches of all sources of an output.

    Raises
    ------
    StreamBNError
        A type of the output schema does not keep the text of a CSV column.
    """
    rows = 0
    for source in output.sources:
        opened, columns = open_input(output, source, needs, options), list[str]()
        given = opened.passthrough
        if given is not None:
            keys = keys_of(output, source, needs.features)
            own = options.open(source, given).schema.names
            changed = frozenset(given.changed)
            if not given.keeps_text:  # the types of keys and declared types hold
                changed |= {*options.csv.types, *(key for key in keys if key not in own)}
            text = Passthrough(changed, Format.CSV)
            opened = options.open(source, text, keys=keys)
            columns = text.columns(opened.schema.names, options.csv)
        for piece in opened.pieces:
            for batch in piece.read():
                yield _with_types(batch, columns, schema, options.csv, output.target, rows)
                rows += batch.num_rows


def _with_types(
    batch: Any, columns: list[str], schema: Any, csv: CsvOptions, name: str, rows: int
) -> Any:
    """Return a batch whose columns of text have types of the output that keep the text."""
    for column in columns:
        text, kind = batch[column], schema.field(column).type
        if pa.types.is_binary(kind):
            continue
        values, row = lossless_text(text, kind, csv)
        if row is not None:
            value = text[row].as_py().decode(errors="replace")
            raise StreamBNError(
                f"{name}: column {column!r}, row {rows + row + 1:,}: {kind} does not keep the text "
                f"{value!r}",
                column=column,
            )
        index = batch.schema.get_field_index(column)
        batch = batch.set_column(index, column, values)
    return batch
