"""Statistics of a structured stream, each micro-batch counted once."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from pyspark.sql import DataFrame

import streambn as sbn
from streambn.errors import InvalidValueError, SnapshotError

from .._parts import check_normalizer
from .frames import fit

__all__ = ["StreamingFit"]

_log = logging.getLogger("streambn")


class StreamingFit:
    """Learn from a structured stream, and keep the statistics in a file.

    Give it to ``df.writeStream.foreachBatch``. Each micro-batch is learned by `fit`, and then the
    statistics and the number of the batch are written in one step. A batch that Spark replays
    after a failure therefore changes nothing, and a query that starts again goes on from the file.

    Parameters
    ----------
    normalizer : Normalizer
        Policy, options and columns, and perhaps statistics to go on from. It stays as it is.
    path : str or path object
        The statistics file; a string may also be a URL. Give each query a file of its own.
    order_by : str or sequence of str, optional
        As for `fit`, within a batch. Batches follow each other as they arrive. An `EMA` by event
        time needs no order and weighs late rows as if they had been on time.

    Raises
    ------
    InvalidValueError
        An argument is of another type; or, when it is called, the file belongs to another query,
        or to a normalizer with other options.

    Notes
    -----
    A reader that loads the file sees the statistics after one batch, whole. They are a live
    normalizer: ``streambn.load(path).freeze()`` normalizes. ``metadata["batch"]`` of what was
    loaded is the number of the batch, which tells the version.

    The query belongs to its checkpoint. A query with a new checkpoint numbers its batches from 0
    again, so it is refused. To go on from its statistics, pass ``streambn.load(path)`` to a
    `StreamingFit` with another path.
    """

    def __init__(
        self,
        normalizer: sbn.Normalizer,
        path: str | os.PathLike[str],
        *,
        order_by: str | Sequence[str] | None = None,
    ) -> None:
        check_normalizer(normalizer)
        if not isinstance(path, str | os.PathLike):
            raise InvalidValueError(
                f"path must be a path or a URL, got {type(path).__name__}.", argument="path"
            )
        self._start = sbn.Normalizer.from_statistics(normalizer.statistics)
        self._path = os.fspath(path)
        self._order_by = order_by
        self._learned: sbn.Normalizer | None = None
        self._batch: int | None = None
        self._query: str | None = None

    @property
    def normalizer(self) -> sbn.Normalizer:
        """A copy of the statistics after the last batch."""
        learned = self._start if self._learned is None else self._learned
        return sbn.Normalizer.from_statistics(learned.statistics)

    @property
    def batch(self) -> int | None:
        """The number of the last batch that was learned; None: none yet."""
        return self._batch

    def __call__(self, df: DataFrame, batch: int) -> None:
        """Learn a micro-batch, unless it was learned before."""
        query = _query_of(df)
        if self._learned is None:
            self._load()
        self._check_query(query, batch)
        if self._batch is not None and batch <= self._batch:
            return
        if self._batch is not None and batch > self._batch + 1:
            _log.warning(
                "%s lacks the batches %d to %d, which the query has finished without it",
                self._path,
                self._batch + 1,
                batch - 1,
            )
        learned = fit(df, self.normalizer, order_by=self._order_by)
        learned.save(self._path, metadata={"batch": batch, "query": query})
        self._learned, self._batch, self._query = learned, batch, query

    def _check_query(self, query: str | None, batch: int) -> None:
        """Raise an InvalidValueError if another query learned the batches so far."""
        if None not in (query, self._query):
            same = query == self._query
        else:  # Spark Connect does not tell, but a query repeats no batch before its last one
            same = self._batch is None or batch >= self._batch
        if not same:
            raise InvalidValueError(
                f"{self._path} holds the statistics of another query, whose checkpoint this one "
                "does not have. Choose another path=; to go on from these statistics, load them "
                "and pass them as the normalizer.",
                argument="path",
            )

    def _load(self) -> None:
        """Go on from the file, if there is one."""
        try:
            saved = sbn.load(self._path)
        except FileNotFoundError:
            self._learned = self._start
            return
        batch, owner = saved.metadata.get("batch"), saved.metadata.get("query")
        if not isinstance(batch, int) or isinstance(saved, sbn.FrozenNormalizer):
            raise SnapshotError(
                f"{self._path} holds statistics, but not those of a stream. Choose another path=; "
                "to go on from these statistics, load them and pass them as the normalizer.",
                argument="path",
            )
        for name in ("policy", "options"):
            ours, theirs = getattr(self._start, name), getattr(saved, name)
            if ours != theirs:
                raise InvalidValueError(
                    f"{self._path} holds statistics with another {name}: {theirs!r}, not {ours!r}. "
                    "Choose another path=, or the same normalizer.",
                    argument="path",
                )
        self._learned, self._batch, self._query = saved, batch, owner


def _query_of(df: DataFrame) -> str | None:
    """Return the id of the query, which its checkpoint keeps; None: Spark does not tell."""
    context = getattr(df.sparkSession, "sparkContext", None)  # Spark Connect has none
    return None if context is None else context.getLocalProperty("sql.streaming.queryId")
