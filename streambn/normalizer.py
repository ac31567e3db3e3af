"""The live normalizer, which learns, and the frozen one, which cannot."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from streambn._lazy import lazy_module
from streambn._messages import listed
from streambn._transformer import Transformer, float_type_of
from streambn.arrow import Validation, as_batch, check_names, map_stream, open_stream
from streambn.by_row import check_by_row
from streambn.errors import InvalidValueError, NotFittedError
from streambn.learn_and_transform import (
    Using,
    check_using,
    learn_and_transform,
    output_schema_of,
)
from streambn.options import Missing, Options, SchemaRule
from streambn.policies import Policy, Welford, check_policy
from streambn.row_transform import RowTransform
from streambn.statistics import Statistics

# A process that only learns needs no files, and msgspec takes half of the import time.
if TYPE_CHECKING:
    from streambn import io, snapshot
else:
    io = lazy_module("streambn.io")
    snapshot = lazy_module("streambn.snapshot")

__all__ = ["FrozenNormalizer", "Normalizer", "merge"]

_log = logging.getLogger("streambn")


class Normalizer(Transformer):
    """Running mean and variance of every numeric column, and the map they define.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted: `Welford` (the default), `Exact`, `EMA` or `BatchEMA`.
    columns : sequence of str, or callable, optional
        Names of columns, or dotted names of struct fields. A struct stands for all its numeric
        fields. A column of lists of one length must be named, and holds vectors. A name with
        ``*`` or ``?`` that no column has is a shell pattern for numeric columns. A callable takes
        a pyarrow.Field and returns whether to select the column if it is numeric. Default: all
        columns of floats, integers and decimals, and of fixed-size lists, tensors and structs of
        them.
    exclude : sequence of str, optional
        Names or shell patterns of columns to leave alone, among those of `columns`.
    schema : {"fixed", "union"}
        "fixed": the first batch binds the columns, and a later batch must have them all. "union":
        columns may appear later and be absent; an absent column is null in every row of the batch.
    eps : float
        Added to the variance before the square root.
    ddof : int
        Subtracted from the count in the variance: 0 (population) or 1 (sample).
    center, scale : bool
        Whether to subtract the mean, and whether to divide by the standard deviation.
    affine : dict, optional
        ``{"column": (gamma, beta)}``: the normalized value becomes z·gamma + beta. ``"emb[3]"``
        names one element of a list.
    clip : float, optional
        Clamp z to [−clip, clip], before gamma and beta.
    nan : {"ignore", "raise", "propagate"}
        Skip and count NaN values, reject the batch, or let them make the statistics of their
        column NaN for good.
    inf : {"raise", "ignore", "propagate"}
        The same for infinite values. "raise" applies to `transform` too.
    min_count : int
        Number of values from which a feature is known. One with fewer values normalizes to null,
        whatever their weights.
    weights : str, optional
        Name of a column of sample weights from 0 to 1e30, for `Welford` and for `EMA` with
        ``adjust=True``. Rows of weight 0 are skipped. The column is not normalized unless
        `columns` names it.

    Raises
    ------
    InvalidValueError
        An argument is outside its domain.

    Notes
    -----
    The first batch binds the columns. Later batches are matched to them by name. A column that
    holds only nulls has no type at first, and takes that of the first batch that has one. If that
    is not numeric, the column leaves the statistics. Columns without statistics are logged once,
    by the logger ``streambn`` at level INFO.

    Threads may share a normalizer. Calls of `update` wait for each other, and each call that reads
    sees one state, whole. Statistics that depend on the order of batches, as those of `EMA`, then
    depend on that of the threads.

    A column whose variance is within rounding error of zero has scale 1, or √eps with an `eps`,
    so that its constant normalizes to 0. See `streambn.standardize.Standardizer`.

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

    __slots__ = ("_lock", "_metadata", "_statistics")

    _statistics: Statistics

    def __init__(
        self,
        policy: Policy | None = None,
        columns: Sequence[str] | Callable[[pa.Field], bool] | None = None,
        *,
        exclude: Sequence[str] | None = None,
        schema: SchemaRule = "fixed",
        eps: float = 0.0,
        ddof: int = 0,
        center: bool = True,
        scale: bool = True,
        affine: Mapping[str, tuple[float, float]] | None = None,
        clip: float | None = None,
        nan: Missing = "ignore",
        inf: Missing = "raise",
        weights: str | None = None,
        min_count: int = 0,
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
            schema=schema,
            min_count=min_count,
        )
        policy = Welford() if policy is None else check_policy(policy)
        chosen, excluded = check_names(columns, exclude)
        self.__setstate__((Statistics(policy, options, chosen, exclude=excluded), None))

    @classmethod
    def from_statistics(
        cls, statistics: Statistics, metadata: dict[str, Any] | None = None
    ) -> Self:
        """Return a normalizer that continues from statistics, with the metadata beside them."""
        self = cls.__new__(cls)
        self.__setstate__((statistics, metadata))
        return self

    @property
    def statistics(self) -> Statistics:
        """The immutable value that holds policy, options, columns and state."""
        return self._statistics

    def update(self, data: Any, *, validate: Validation = "basic") -> Self:
        """Learn from data.

        Parameters
        ----------
        data : Arrow data or array
            A pyarrow RecordBatch, Table, RecordBatchReader, Dataset or Scanner; any object with
            ``__arrow_c_stream__`` or ``__arrow_c_array__`` (Polars, DuckDB, pandas, arro3,
            nanoarrow); the answer of an Arrow Flight server, or a cursor of ADBC; a NumPy array
            of rows and columns (see Notes); or an iterable of those. A stream is read once, with
            one batch in memory at a time.
        validate : {"basic", "full"}
            "full": validate each batch in full before it is read. Choose it for data that cross
            a trust boundary, such as Arrow IPC from a network or batches of a foreign library.

        Returns
        -------
        Normalizer
            Itself.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            ``nan=`` or ``inf=`` refuses a value; a weight or an event time is missing or out of
            range; a column is damaged; or `data` is neither Arrow data nor such an array.

        Notes
        -----
        The columns of an array are named ``x0``, ``x1``, and so on. They are matched by name as
        those of a table are, so that statistics of both merge, and an array whose columns are
        others than those with statistics is refused. An array may have any number type and any
        memory layout. It is read in place unless its byte order is foreign.

        A rejected batch leaves no trace. A table is learned whole or not at all. Of a stream,
        which cannot be read twice, the batches before the rejected one stay learned.

        Either validation checks what the statistics read: the structure that the Arrow C data
        interface shows, and the indices, run ends and list offsets of these columns. "basic"
        trusts the producer for the rest: that buffers are as long as their arrays need, and that
        columns without statistics are valid. "full" runs Arrow's full validation on all columns,
        which adds the lengths of buffers, null counts, offsets, type ids, UTF-8 and the digits of
        decimals. It is free for plain numbers, and takes 4 ns per string. No validation can find
        the length of a buffer that comes through the C data interface, which does not tell it:
        a producer in the same process is trusted for that.
        """
        with self._lock:
            batch = as_batch(data) if validate == "basic" else None
            if batch is not None:  # the short way, because most calls are for one
                self._commit(self._statistics.learn(batch))
                return self
            start = self._statistics

            def needed(schema: pa.Schema) -> list[str]:
                nonlocal start
                start = start.bind(schema)
                return start.columns_to_read(schema)

            stream = open_stream(data, needed, validate)
            statistics = start
            for batch in stream.batches:
                statistics = statistics.learn(batch)
                # Without a row nothing was learned, not even which columns there are.
                if stream.collect is None and statistics is not start:
                    self._commit(statistics)
            if statistics is not start:
                self._commit(statistics)
        return self

    def _commit(self, learned: Statistics) -> None:
        """Replace the statistics, and log the columns that are left out of the new ones."""
        before = self._statistics
        if learned is not before:
            # First: a thread that reads the new statistics must not find the old metadata.
            self._metadata = None
        self._statistics = learned
        if learned.left_out is not before.left_out:
            new = learned.left_out[len(before.left_out) :]
            _log.info("columns without statistics: %s", listed(map(str, new)))

    def update_transform(
        self,
        data: Any,
        using: Using = "running",
        dtype: Any = None,
        *,
        by_row: bool = False,
        validate: Validation = "basic",
    ) -> Any:
        """Learn from data and normalize it in one pass, batch by batch or row by row.

        Parameters
        ----------
        data : Arrow data or array
            See `update`.
        using : {"running", "before", "batch"}
            The statistics that normalize a batch. "running": those that include the batch.
            "before": those before it, so that no value is judged by itself; the first batch
            becomes null. "batch": the batch's own mean and biased variance, as in batch
            normalization's training pass, with its sample weights if it has any. A batch is a
            record batch of the input, also for a `BatchEMA` with `batch_rows`.
        dtype : data type, optional
            See `transform`.
        by_row : bool
            Normalize each row by the statistics as of that row: "running" includes the row, and
            "before" has only the rows above it. The result then does not depend on how the
            stream was cut into batches, and no value is judged by a later one. For `EMA` by event
            time the rows must come in the order of time. Not for `BatchEMA`, whose statistics
            change between blocks only.
        validate : {"basic", "full"}
            See `update`.

        Returns
        -------
        same kind as `data`
            For a stream a lazy pyarrow.RecordBatchReader, which learns each batch when it is
            pulled.

        Raises
        ------
        SchemaError, InvalidValueError
            As for `update`. A table is learned whole or not at all.

        Examples
        --------
        >>> import pyarrow as pa
        >>> import streambn as sbn
        >>> data = pa.table({"x": [1.0, 3.0, 2.0, 9.0]})
        >>> sbn.Normalizer().update_transform(data, using="before", by_row=True)["x"].to_pylist()
        [None, 2.0, 0.0, 8.573214099741124]
        """
        check_using(using)
        if by_row is not False:
            check_by_row(self._statistics.policy, by_row, using)
        kind = float_type_of(dtype)
        single = as_batch(data) if validate == "basic" else None
        if single is not None:  # the short way, because most calls are for one
            with self._lock:
                learned, out = learn_and_transform(self._statistics, single, using, kind, by_row)
                self._commit(learned)
            return out
        learned = self._statistics

        def output_schema(schema: pa.Schema) -> pa.Schema:
            return output_schema_of(self._statistics.bind(schema), schema, using, kind)

        def step(batch: Any, schema: Any) -> Any:
            nonlocal learned
            with self._lock:
                before = self._statistics if is_lazy else learned
                learned, out = learn_and_transform(before, batch, using, kind, by_row, schema)
                if is_lazy:
                    self._commit(learned)
            return out

        stream = open_stream(data, validate=validate)
        is_lazy = stream.collect is None
        if is_lazy:
            return map_stream(stream, output_schema, step)
        with self._lock:
            learned = self._statistics
            result = map_stream(stream, output_schema, step)
            self._commit(learned)
        return result

    def merge(self, newer: Normalizer) -> Normalizer:
        """Return the statistics of this stream followed by `newer`'s stream.

        Parameters
        ----------
        newer : Normalizer
            With the same policy, options and columns, the columns in any order. For `EMA` by row
            and `BatchEMA`, its data must have come *after* this one's.

        Returns
        -------
        Normalizer
            A new one; both arguments stay as they are. `Exact` and `Welford` statistics merge
            into `Welford` statistics, as `as_welford` makes them.

        Raises
        ------
        MergeError
            The policies, options or columns differ, or a column would have more than 2**61 rows;
            see also `BatchEMA` for `batch_rows`.
        """
        return Normalizer.from_statistics(self._statistics.merge(_mergeable(newer, "newer")))

    def as_welford(self) -> Normalizer:
        """Return the same statistics under the `Welford` policy.

        The exact sums of an `Exact` normalizer are rounded once: mean and sum of squared
        differences become the nearest double-double numbers (about 32 digits).

        Returns
        -------
        Normalizer
            A new one; this one stays as it is.

        Raises
        ------
        MergeError
            The policy is neither `Exact` nor `Welford`.

        Examples
        --------
        >>> import pyarrow as pa
        >>> import streambn as sbn
        >>> sbn.Normalizer(sbn.Exact()).update(pa.table({"x": [1.0, 2.0]})).as_welford()
        Normalizer(Welford()) of 1 feature, rounded from Exact()
          x  n=2  mean=1.5  std=0.5
        """
        return Normalizer.from_statistics(self._statistics.as_welford())

    def with_weights(self, weights: str | None) -> Normalizer:
        """Return a copy that reads sample weights from another column, or from none.

        The statistics so far stay as they are.

        Raises
        ------
        InvalidValueError
            `weights` is not a name, or the policy does not support sample weights.
        """
        options = replace(self._statistics.options, weights=weights)
        return Normalizer.from_statistics(replace(self._statistics, options=options))

    def freeze(self) -> FrozenNormalizer:
        """Return the statistics as they are now, as an immutable normalizer.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        return FrozenNormalizer.from_statistics(self._statistics, self._metadata)

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write the state to a JSON file, which `streambn.load` reads.

        The file is replaced whole or not at all.

        Parameters
        ----------
        path : str or path object
            A file. A string may also be a URL, such as ``"s3://bucket/stats.json"``.
        metadata : dict, optional
            Data of JSON types, such as offsets into the stream that was learned. They are written
            in one step with the statistics, and ``streambn.load(path).metadata`` returns them.
            They are not part of the fingerprint. Default: those that these statistics already
            have, see `metadata`.

        Raises
        ------
        InvalidValueError
            A value in `metadata` is not of a JSON type, or is NaN or infinite, or an integer
            beyond 64 bits.
        OSError
            The file cannot be written. An existing file stays as it is.
        SnapshotError
            The policy is not one of streambn's own, or a callable is to choose the columns and
            has seen no data. A file holds the names that it chose, not the callable.
        """
        io.locate(path).write_bytes(snapshot.encode(_snapshot(self, metadata)))

    def to_bytes(self, *, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Return the state as bytes, which `streambn.from_bytes` reads.

        They hold what a statistics file holds, in compact form: for sending a state to another
        process, or for a column of states. 100 features take 14 kB under `Welford`.

        Parameters
        ----------
        metadata : dict, optional
            See `save`.

        Returns
        -------
        bytes

        Raises
        ------
        InvalidValueError, SnapshotError
            As for `save`.

        Examples
        --------
        >>> import pyarrow as pa
        >>> import streambn as sbn
        >>> parts = [pa.table({"x": [1.0, 2.0]}), pa.table({"x": [6.0]})]
        >>> sent = [sbn.Normalizer().update(part).to_bytes() for part in parts]
        >>> sbn.merge(map(sbn.from_bytes, sent))
        Normalizer(Welford()) of 1 feature
          x  n=3  mean=3  std=2.160247
        """
        return snapshot.to_bytes(**_snapshot(self, metadata)._asdict())

    def __getstate__(self) -> tuple[Statistics, dict[str, Any] | None]:
        return self._statistics, self._metadata

    def __setstate__(self, state: tuple[Statistics, dict[str, Any] | None]) -> None:
        self._statistics, self._metadata = state
        self._lock = threading.RLock()


class FrozenNormalizer(Transformer):
    """Statistics that never change again, for inference.

    `Normalizer.freeze` and `streambn.load` create it. It has no way to learn. Frozen normalizers
    with the same statistics and hyperparameters are equal and have the same `fingerprint`. Their
    outputs carry it in the schema's metadata as ``streambn.fingerprint``.
    """

    _statistics: Statistics

    def __init__(self) -> None:
        raise InvalidValueError(
            "a FrozenNormalizer is created by Normalizer.freeze() or streambn.load(path)."
        )

    @classmethod
    def from_statistics(
        cls, statistics: Statistics, metadata: dict[str, Any] | None = None
    ) -> Self:
        """Return a frozen normalizer with these statistics, and the metadata beside them.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        if statistics.binding is None:
            raise NotFittedError(
                "no data was seen, so there is nothing to freeze. Call update(data) first."
            )
        self = cls.__new__(cls)
        self.__dict__.update(_statistics=statistics, _metadata=metadata)
        return self

    @property
    def statistics(self) -> Statistics:
        """The immutable value that holds policy, options, columns and state."""
        return self._statistics

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of statistics and hyperparameters, in hexadecimal."""
        return snapshot.fingerprint(self._statistics)

    def transform_one(self, row: dict[Any, Any]) -> dict[Any, Any]:
        """Normalize one row, as `transform` normalizes a batch.

        A row of ten numbers takes about a microsecond.

        Parameters
        ----------
        row : dict
            Values by column: Python's and NumPy's numbers, decimals and fractions. None is a
            missing value. A vector is a list or an array, a struct is a dict. Other keys pass
            through.

        Returns
        -------
        dict
            A new one with the same keys. Normalized values are floats. None and NaN stay, and a
            feature without statistics, or with fewer values than `min_count`, becomes None.

        Raises
        ------
        SchemaError
            A column is missing, unless ``schema="union"``, or is not a number.
        InvalidValueError
            ``nan="raise"`` or ``inf="raise"`` refuses a value, or the row is not a dict.

        Examples
        --------
        >>> import pyarrow as pa
        >>> import streambn as sbn
        >>> frozen = sbn.Normalizer().update(pa.table({"x": [1.0, 3.0]})).freeze()
        >>> frozen.transform_one({"id": 7, "x": 4})
        {'id': 7, 'x': 2.0}
        >>> frozen.inverse_transform_one({"x": 2.0})
        {'x': 4.0}
        """
        return self._rows.transform(row)

    def inverse_transform_one(self, row: dict[Any, Any]) -> dict[Any, Any]:
        """Undo `transform_one`, as `inverse_transform` undoes `transform`.

        Parameters
        ----------
        row : dict
            Normalized values by column.

        Returns
        -------
        dict
            A new one. A feature without statistics becomes None.

        Raises
        ------
        SchemaError
            As for `transform_one`.
        InvalidValueError
            A gamma is 0, which has no inverse, or the row is not a dict.
        """
        return self._rows.inverse(row)

    @cached_property
    def _rows(self) -> RowTransform:
        return RowTransform(self.standardizer)

    def freeze(self) -> Self:
        """Return itself, so that ``streambn.load(path).freeze()`` works for both kinds."""
        return self

    def thaw(self) -> Normalizer:
        """Return a live Normalizer that continues from here; this one stays as it is."""
        return Normalizer.from_statistics(self._statistics, self._metadata)

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write a frozen statistics file, which carries the fingerprint.

        Parameters and errors are those of `Normalizer.save`.
        """
        io.locate(path).write_bytes(snapshot.encode(_snapshot(self, metadata)))

    def to_bytes(self, *, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Return the frozen state as bytes; see `Normalizer.to_bytes`."""
        return snapshot.to_bytes(**_snapshot(self, metadata)._asdict())

    @cached_property
    def _fingerprint(self) -> str | None:
        # A policy of the user's own has no canonical form to hash.
        return self.fingerprint if snapshot.can_hold(self.policy) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenNormalizer.from_statistics, (self._statistics, self._metadata)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"cannot set {name!r}: a FrozenNormalizer is immutable. Call thaw() for a live one."
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: a FrozenNormalizer is immutable.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenNormalizer):
            return NotImplemented
        if not snapshot.can_hold(self.policy):
            return self._statistics is other._statistics
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint) if snapshot.can_hold(self.policy) else id(self._statistics)


def merge(normalizers: Iterable[Normalizer]) -> Normalizer:
    """Return the statistics of several streams, one after the other.

    Parameters
    ----------
    normalizers : iterable of Normalizer
        The oldest first. They are merged as they come, so a generator needs memory for two.

    Returns
    -------
    Normalizer
        A new one; see `Normalizer.merge`.

    Raises
    ------
    MergeError
        See `Normalizer.merge`.
    InvalidValueError
        There is no normalizer, or one is frozen.

    Examples
    --------
    >>> import pyarrow as pa
    >>> import streambn as sbn
    >>> days = [pa.table({"x": [1.0, 2.0]}), pa.table({"x": [3.0]}), pa.table({"x": [6.0]})]
    >>> sbn.merge(sbn.Normalizer().update(day) for day in days).stats()["mean"][0].as_py()
    3.0
    """
    merged: Statistics | None = None
    for each in normalizers:
        newer = _mergeable(each, "normalizers")
        merged = newer if merged is None else merged.merge(newer)
    if merged is None:
        raise InvalidValueError(
            "merge needs at least one Normalizer, got none.", argument="normalizers"
        )
    return Normalizer.from_statistics(merged)


def _mergeable(normalizer: object, argument: str) -> Statistics:
    if isinstance(normalizer, Normalizer):
        return normalizer.statistics
    remedy = " Call thaw() on it first." if isinstance(normalizer, FrozenNormalizer) else ""
    raise InvalidValueError(
        f"merge takes a Normalizer, got {type(normalizer).__name__}.{remedy}", argument=argument
    )


def _snapshot(
    normalizer: Normalizer | FrozenNormalizer, metadata: Mapping[str, Any] | None
) -> snapshot.Snapshot:
    statistics = normalizer.statistics  # before their metadata, which `_commit` removes first
    note = normalizer._metadata if metadata is None else snapshot.check_metadata(metadata)
    return snapshot.Snapshot(statistics, isinstance(normalizer, FrozenNormalizer), note or None)
