"""The live normalizer, which learns, and the frozen one, which cannot."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn._transformer import Transformer, float_type_of
from streambn.arrow import map_stream, open_stream
from streambn.errors import InvalidValueError, NotFittedError
from streambn.options import Missing, Options
from streambn.policies import Policy, Welford, check_policy
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

# A process that only learns needs no statistics file; msgspec is half of the import time.
if TYPE_CHECKING:
    from streambn import snapshot
    from streambn.io import locations
else:
    snapshot = lazy_module("streambn.snapshot")
    locations = lazy_module("streambn.io.locations")

__all__ = ["FrozenNormalizer", "Normalizer", "load"]

Using = Literal["running", "before", "batch"]


class _Step(NamedTuple):
    """Of one batch, learned and normalized: the statistics after it, and the output."""

    after: Statistics
    out: pa.RecordBatch


class Normalizer(Transformer):
    """Running mean and variance of every numeric column, and the map they define.

    Parameters
    ----------
    policy : Policy
        How the past is weighted: `Welford`, `EMA`, `BatchEMA` or `Exact`.
    columns : sequence of str, optional
        Names of columns, or dotted names of struct fields; a struct stands for all that
        is numeric in it. Default: every float, integer and decimal column, and
        fixed-size lists, tensors and structs of them.
    eps : float
        Added to the variance before the square root.
    ddof : int
        Taken off the count in the variance: 0 (population) or 1 (sample).
    center, scale : bool
        Whether to subtract the mean, and to divide by the standard deviation.
    affine : dict, optional
        ``{"column": (gamma, beta)}``: the normalized value becomes z·gamma + beta. One
        element of a list is spoken of as ``"emb[3]"``.
    clip : float, optional
        Clamp z to [−clip, clip], before gamma and beta.
    nan : {"ignore", "raise", "propagate"}
        What a NaN does: it is skipped and counted, or refused, or makes its column's
        statistics NaN from there on.
    inf : {"raise", "ignore", "propagate"}
        What an infinity does, likewise; "raise" holds for `transform` too.
    weights : str, optional
        Name of a column of sample weights, from 0 to 1e30, for `Welford` and for `EMA` with
        ``adjust=True``. A row that weighs 0 leaves no trace. The column is not normalized, unless
        `columns` names it.

    Raises
    ------
    InvalidValueError
        An argument is outside its domain.

    Notes
    -----
    The first batch binds the columns; later ones are matched to them by name. One
    thread may learn while others transform: each sees one state, whole.

    A column whose variance is zero, within the rounding of its values, is divided by 1
    (by √eps if there is an eps), so that its constant becomes 0.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer()
    >>> for day in ([1.0, 2.0], [3.0, None], [6.0, 8.0]):
    ...     _ = norm.update(pa.table({"price": day}))
    >>> norm
    Normalizer(Welford()) of 1 feature
      price  n=5  nulls=1  mean=4  std=2.607681
    >>> frozen = norm.freeze()
    >>> frozen.transform(pa.table({"price": [4.0, None]}))["price"].to_pylist()
    [0.0, None]
    """

    __slots__ = ("_lock", "_statistics")

    def __init__(
        self,
        policy: Policy | None = None,
        columns: Sequence[str] | None = None,
        *,
        eps: float = 0.0,
        ddof: int = 0,
        center: bool = True,
        scale: bool = True,
        affine: Mapping[str, tuple[float, float]] | None = None,
        clip: float | None = None,
        nan: Missing = "ignore",
        inf: Missing = "raise",
        weights: str | None = None,
    ) -> None:
        options = Options(
            eps=eps,
            ddof=ddof,
            center=center,
            scale=scale,
            affine=affine,
            clip=clip,
            nan=nan,
            inf=inf,
            weights=weights,
        )
        policy = Welford() if policy is None else check_policy(policy)
        self._statistics = Statistics(policy, options, _checked_columns(columns))
        self._lock = threading.RLock()

    @classmethod
    def from_statistics(cls, fitted: Statistics) -> Self:
        """Return a normalizer that goes on from statistics."""
        self = cls.__new__(cls)
        self._statistics = fitted
        self._lock = threading.RLock()
        return self

    @property
    def statistics(self) -> Statistics:
        """The immutable value that holds policy, state and bound columns."""
        return self._statistics

    def update(self, data: Any) -> Self:
        """Learn.

        Parameters
        ----------
        data : Arrow data
            A pyarrow RecordBatch, Table, RecordBatchReader, Dataset or Scanner;
            anything with ``__arrow_c_stream__`` or ``__arrow_c_array__`` (Polars,
            DuckDB, pandas, arro3, nanoarrow); or an iterable of those. A stream is read
            once, one batch in memory at a time.

        Returns
        -------
        Normalizer
            Itself.

        Raises
        ------
        SchemaError
            A column is missing or not numeric.
        InvalidValueError
            There is a NaN or an infinity that ``nan=`` or ``inf=`` refuses, a weight or an
            event time that is missing or none, or `data` is no Arrow data.

        Notes
        -----
        A table is learned whole or not at all. A stream cannot be read again, so of it
        every batch is learned that came before the refused one, which leaves no trace.
        """
        with self._lock:
            if isinstance(data, pa.RecordBatch):  # the short way: most calls are for one
                self._statistics = self._statistics.learn(data)
                return self
            stream = open_stream(data, self._wanted)
            fitted = self._statistics
            for batch in stream.batches:
                fitted = fitted.learn(batch)
                if stream.collect is None:
                    self._statistics = fitted
            self._statistics = fitted
        return self

    def update_transform(self, data: Any, using: Using = "running", dtype: Any = None) -> Any:
        """Learn and normalize in one pass, batch by batch.

        Parameters
        ----------
        data : Arrow data
            As for `update`.
        using : {"running", "before", "batch"}
            By which statistics a batch is normalized: "running", those with the batch
            learned; "before", those before it, so that no value is judged by itself
            (the first batch comes out null); "batch", its own mean and its own biased
            variance, which is batch normalization's training pass. A batch is here a
            record batch as it comes, whatever `batch_rows` makes of it for learning;
            if its rows have weights, those are in it.
        dtype : data type, optional
            As for `transform`.

        Returns
        -------
        same kind as `data`
            For a stream a lazy pyarrow.RecordBatchReader: a batch is learned when it is
            pulled.

        Raises
        ------
        SchemaError, InvalidValueError
            As for `update`. A table is learned whole or not at all.
        """
        if using not in get_args(Using):
            raise InvalidValueError(f"using must be 'running', 'before' or 'batch', got {using!r}.")
        kind = float_type_of(dtype)

        def schema_of(schema: pa.Schema) -> pa.Schema:
            standardizer = Standardizer.of(self._statistics.bind(schema))
            return standardizer.output_schema(schema, kind, nullable=using == "batch")

        def step(before: Statistics, batch: pa.RecordBatch, schema: pa.Schema) -> _Step:
            after = before.learn(batch)
            by = (after if using == "running" else before).bind(batch.schema)
            if using == "batch":
                by = by.of_batch(batch)
            return _Step(after, Standardizer.of(by).standardize(batch, schema))

        def now(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
            with self._lock:
                self._statistics, out = step(self._statistics, batch, schema)
            return out

        stream = open_stream(data)
        if stream.collect is None:
            return map_stream(stream, schema_of, now)
        with self._lock:
            learned = self._statistics

            def aside(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
                nonlocal learned
                learned, out = step(learned, batch, schema)
                return out

            result = map_stream(stream, schema_of, aside)
            self._statistics = learned
        return result

    def merge(self, newer: Normalizer) -> Normalizer:
        """Return the statistics of this stream followed by `newer`'s stream.

        Parameters
        ----------
        newer : Normalizer
            With the same policy, options and columns (in any order). For `EMA` and
            `BatchEMA` its data must have come *after* this one's.

        Returns
        -------
        Normalizer
            A new one; both arguments stay as they are.

        Raises
        ------
        MergeError
            The two were not kept in the same way; see also `BatchEMA.merge`.
        """
        if not isinstance(newer, Normalizer):
            remedy = " Call thaw() on it first." if isinstance(newer, FrozenNormalizer) else ""
            raise InvalidValueError(
                f"merge takes a Normalizer, got {type(newer).__name__}.{remedy}"
            )
        return Normalizer.from_statistics(self._statistics.merge(newer._statistics))

    def with_weights(self, weights: str | None) -> Normalizer:
        """Return a copy that goes on with sample weights from another column, or without any.

        What was learned so far stays as it is.

        Raises
        ------
        InvalidValueError
            It is no name, or the policy takes no weights.
        """
        fitted = self._statistics
        return Normalizer.from_statistics(
            replace(fitted, options=replace(fitted.options, weights=weights))
        )

    def freeze(self) -> FrozenNormalizer:
        """Return the statistics as they stand, for good.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        return FrozenNormalizer.from_statistics(self._statistics)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a JSON file, whole or not at all; `streambn.load` reads it.

        Raises
        ------
        OSError
            The file cannot be written; whatever stood there stays.
        SnapshotError
            The policy is none of streambn's own.
        """
        _save(path, self._statistics, frozen=False)

    def _wanted(self, schema: pa.Schema) -> list[str]:
        """Name the columns that a dataset has to read."""
        return self._statistics.bind(schema).needed_columns

    def __getstate__(self) -> Statistics:
        return self._statistics

    def __setstate__(self, fitted: Statistics) -> None:
        self._statistics = fitted
        self._lock = threading.RLock()


class FrozenNormalizer(Transformer):
    """Statistics that never change again: what is applied at inference.

    Made by `Normalizer.freeze` or `streambn.load`. It has no way to learn; two with the
    same statistics and hyperparameters are equal and have the same `fingerprint`, which
    its outputs carry in their schema's metadata as ``streambn.fingerprint``.
    """

    _statistics: Statistics

    def __init__(self) -> None:
        raise InvalidValueError(
            "a FrozenNormalizer is made by Normalizer.freeze() or streambn.load(path)."
        )

    @classmethod
    def from_statistics(cls, fitted: Statistics) -> Self:
        """Return a frozen normalizer with these statistics.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        if fitted.binding is None:
            raise NotFittedError(
                "no data was seen, so there is nothing to freeze. Call update(data)."
            )
        self = cls.__new__(cls)
        self.__dict__["_statistics"] = fitted
        return self

    @property
    def statistics(self) -> Statistics:
        """The immutable value that holds policy, state and bound columns."""
        return self._statistics

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the statistics and hyperparameters."""
        return snapshot.fingerprint(self._statistics)

    def thaw(self) -> Normalizer:
        """Return a live Normalizer that goes on from here; this one stays as it is."""
        return Normalizer.from_statistics(self._statistics)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a frozen statistics file, which carries the fingerprint.

        Raises
        ------
        OSError, SnapshotError
            As for `Normalizer.save`.
        """
        _save(path, self._statistics, frozen=True)

    @property
    def _fingerprint(self) -> str | None:
        # A policy of the user's own has no canonical form.
        return self.fingerprint if snapshot.can_hold(self.policy) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenNormalizer.from_statistics, (self._statistics,)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"a FrozenNormalizer cannot change: {name!r} was to be set. thaw() it."
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a FrozenNormalizer cannot change: {name!r} was deleted.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenNormalizer):
            return NotImplemented
        if not snapshot.can_hold(self.policy):
            return self._statistics is other._statistics
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint) if snapshot.can_hold(self.policy) else id(self._statistics)


def load(path: str | os.PathLike[str]) -> Normalizer | FrozenNormalizer:
    """Read a statistics file: a Normalizer or a FrozenNormalizer, as it was saved.

    Raises
    ------
    SnapshotError
        The file is damaged, foreign or from a newer version; the message says which.
    OSError
        It cannot be read.
    """
    # The content of a foreign file may be large: one that is not JSON is read in part only.
    location = _locate(path)
    saved = snapshot.decode(location.read_bytes(beginning=b"{"), location.text)
    return (FrozenNormalizer if saved.frozen else Normalizer).from_statistics(saved.statistics)


def _save(path: str | os.PathLike[str], statistics: Statistics, *, frozen: bool) -> None:
    _locate(path).write_bytes(snapshot.encode(snapshot.Snapshot(statistics, frozen)))


def _locate(path: str | os.PathLike[str]) -> locations.Location:
    """Return the location of a file. A string may be a URL, a path object never is one."""
    text = os.fspath(path)
    if isinstance(path, str):
        return locations.locate(text)
    return locations.Location(text, text)


def _checked_columns(columns: object) -> tuple[str, ...] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise InvalidValueError(f"columns must be a list of names or None, got {columns!r}.")
    names = tuple(columns)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidValueError(
            f"columns must be one or more names, got {columns!r}. None takes all that is numeric."
        )
    return names
