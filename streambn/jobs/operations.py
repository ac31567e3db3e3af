"""The operations of a job on batches: apply statistics, undo them, or learn and apply."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from streambn.io import CsvOptions, Format, parse_text
from streambn.learn_and_transform import Using
from streambn.normalizer import FrozenNormalizer, Normalizer
from streambn.statistics import Statistics

__all__ = ["ApplyStatistics", "BatchFunction", "LearnAndApply", "Operation"]

# Makes an output batch, which has the given schema, from an input batch.
BatchFunction = Callable[[Any, Any], Any]


class ApplyStatistics(NamedTuple):
    """Apply frozen statistics."""

    frozen: FrozenNormalizer
    dtype: Any = None
    inverse: bool = False  # whether to map normalized values back to the original ones

    @property
    def depends_on_batches(self) -> bool:
        """Whether the division of the data into batches has an effect."""
        return False

    @property
    def statistics(self) -> Statistics:
        """The statistics."""
        return self.frozen.statistics

    @property
    def features(self) -> Collection[str]:
        """Names of the features that it normalizes."""
        return self.frozen.features

    def changed(self, into: Format) -> Collection[str] | None:
        """Return the names of the columns that it does not pass through into a format."""
        del into
        return frozenset(self.frozen.standardizer.binding.columns)

    def schema(self, schema: Any) -> Any:
        """Return the output schema for an input schema."""
        transform = self.frozen.inverse_transform if self.inverse else self.frozen.transform
        return transform(_empty(schema), dtype=self.dtype).schema

    def function(self, names: Sequence[str]) -> BatchFunction:
        """Return the function for batches with these columns, which may be some of all."""
        part = self.frozen.standardizer.select(names)
        if part is None:
            return _with_schema
        return part.restore if self.inverse else part.standardize


class LearnAndApply(NamedTuple):
    """Learn each batch, and apply the statistics to it, as `Normalizer.update_transform` does.

    With `by_row` each row has the statistics as of that row. Sample weights and event times that
    pass through CSV are text. They are parsed to learn from.
    """

    normalizer: Normalizer
    using: Using = "running"
    dtype: Any = None
    csv: CsvOptions = CsvOptions()
    by_row: bool = False

    @property
    def depends_on_batches(self) -> bool:
        """Whether the division of the data into batches has an effect."""
        return not self.by_row

    @property
    def statistics(self) -> Statistics:
        """The statistics, as they are now."""
        return self.normalizer.statistics

    @property
    def features(self) -> Collection[str]:
        """Names of the features that it normalizes."""
        return self.normalizer.features

    def changed(self, into: Format) -> Collection[str] | None:
        """Return the names of the columns that it does not pass through into a format.

        None: it is not bound yet.
        """
        binding = self.statistics.binding
        if binding is None:
            return None
        # Weights and times into CSV are text, which the operation converts.
        learned = () if into is Format.CSV else self.statistics.row_columns
        return frozenset([*binding.columns, *learned])

    def bind(self, schema: Any) -> None:
        """Bind the normalizer to the columns of a schema, which has the types to learn."""
        self.normalizer._commit(self.statistics.bind(schema))

    def schema(self, schema: Any) -> Any:
        """Return the output schema for an input schema."""
        return self._learn_and_apply(_empty(schema)).schema

    def function(self, names: Sequence[str]) -> BatchFunction:
        """Return the function for batches, which must have all columns."""
        del names
        return lambda batch, schema: _with_schema(self._learn_and_apply(batch), schema)

    def _learn_and_apply(self, data: Any) -> Any:
        text = {
            index: data.schema.field(index)
            for index in map(data.schema.get_field_index, self.statistics.row_columns)
            if index >= 0 and pa.types.is_binary(data.schema.field(index).type)
        }
        typed = data
        for index, field in text.items():
            values = pa.nulls(0)
            if data.num_rows:
                values = parse_text(data.column(index), field.name, self.csv)
            typed = typed.set_column(index, field.name, values)
        out = self.normalizer.update_transform(
            typed, using=self.using, dtype=self.dtype, by_row=self.by_row
        )
        for index, field in text.items():
            out = out.set_column(index, field, data.column(index))
        return out


# What a job does to batches.
Operation = ApplyStatistics | LearnAndApply


def _empty(schema: Any) -> Any:
    # Not as a stream, whose fields would all become nullable.
    # Arrow imports pandas for `schema.empty_table()`.
    return pa.Table.from_batches([], schema)


def _with_schema(batch: Any, schema: Any) -> Any:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
