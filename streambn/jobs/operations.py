"""What a file job does to batches: statistics applied, undone, or learned on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from streambn.normalizer import FrozenNormalizer, Normalizer, Using

__all__ = ["ApplyStatistics", "BatchFunction", "LearnAndApply", "Operation"]

# Makes of a batch the batch of the given schema that goes out.
BatchFunction = Callable[[Any, Any], Any]


class Operation(Protocol):
    """What is done to the inputs."""

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""

    def turn(self, names: Sequence[str]) -> BatchFunction:
        """Give the function that turns batches of these columns."""


@dataclass(frozen=True)
class ApplyStatistics:
    """Statistics that are applied, or undone; nothing is learned.

    Attributes
    ----------
    frozen : FrozenNormalizer
    dtype : pyarrow.DataType or None
        Of the results; None: floats keep theirs.
    inverse : bool
        Whether normalized values are to become the original ones.
    """

    frozen: FrozenNormalizer
    dtype: Any = None
    inverse: bool = False

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""
        return self.frozen.features

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""
        turn = self.frozen.inverse_transform if self.inverse else self.frozen.transform
        return turn(_nothing(schema), dtype=self.dtype).schema

    def turn(self, names: Sequence[str]) -> BatchFunction:
        """Give the function that turns batches of these columns."""
        part = self.frozen.standardizer.select(names)
        if part is None:
            return _retyped
        return part.restore if self.inverse else part.standardize


@dataclass(frozen=True)
class LearnAndApply:
    """Statistics that learn each batch and are applied to it, in one pass.

    Attributes
    ----------
    normalizer : Normalizer
    using : {"running", "before", "batch"}
        As for `Normalizer.update_transform`.
    dtype : pyarrow.DataType or None
    """

    normalizer: Normalizer
    using: Using = "running"
    dtype: Any = None

    @property
    def lanes(self) -> Collection[str]:
        """Names of what is normalized."""
        return self.normalizer.features

    def schema(self, schema: Any) -> Any:
        """Give the schema that comes out."""
        return self._turned(_nothing(schema)).schema

    def turn(self, names: Sequence[str]) -> BatchFunction:
        """Give the function that turns batches, which must have all columns."""
        del names
        return lambda batch, schema: _retyped(self._turned(batch), schema)

    def _turned(self, data: Any) -> Any:
        return self.normalizer.update_transform(data, using=self.using, dtype=self.dtype)


def _nothing(schema: Any) -> Any:
    return pa.RecordBatchReader.from_batches(schema, [])


def _retyped(batch: Any, schema: Any) -> Any:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
