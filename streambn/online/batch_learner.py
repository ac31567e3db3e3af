"""Learning batches of rows, whose columns are matched to features by name."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa

from streambn.arrow import select_rows
from streambn.errors import SchemaError
from streambn.kernels import Columns, RowStatistics, Times, UnmergeableError
from streambn.kernels.interface import Floats
from streambn.online.features import BatchColumns, FeatureMatch, select_rows_of
from streambn.online.state import KernelState, PolicyState
from streambn.options import Options
from streambn.policies import Policy

__all__ = ["BatchLearner"]


class BatchLearner:
    """Learns batches of rows into the statistics of features.

    Rows learned one by one may add features to the kernel at any time. The lock is held while a
    batch is learned.
    """

    def __init__(
        self,
        policy: Policy,
        options: Options,
        kernel: RowStatistics,
        state: KernelState | PolicyState,
        columns: BatchColumns,
        lock: threading.RLock,
    ) -> None:
        self._policy, self._options = policy, options
        self._kernel, self._state = kernel, state
        self._columns, self._lock = columns, lock
        self._match: FeatureMatch | None = None

    def learn(
        self, batch: Any, names: list[Any], weights: Floats | None, times: pa.Array | None
    ) -> None:
        """Learn the rows that count, which have a weight above 0 and, if need be, a time.

        The batch holds the features, without weights and times. Errors are those of
        `RowNormalizer.learn_many`, or an InvalidValueError if a time is missing.
        """
        selection = select_rows(weights, times, self._policy.event_time)
        if selection.keep is not None:
            batch = select_rows_of(batch, selection.keep)
        if len(batch) == 0:
            return
        with self._lock:
            while not self._try_to_learn(batch, names, selection.weights, selection.times):
                pass  # another thread learned a row meanwhile

    def _try_to_learn(
        self, batch: Any, names: list[Any], weights: Floats | None, times: Times | None
    ) -> bool:
        before = self._kernel.rows
        match = self._matched(batch, names)
        older = self._state.read(len(match.new))
        if self._kernel.rows != before:
            return False
        features = [*self._kernel.keys(), *match.new, None]  # None is the spare one
        try:
            state = self._policy.update(older, Columns(batch, match.layout, weights, times))
        except UnmergeableError as error:
            name = features[error.feature]
            raise SchemaError(
                f"feature {name!r} {error.reason} The batch was rejected.", column=str(name)
            ) from error
        after = self._policy.tally(state).not_finite
        if np.count_nonzero(after):
            nans, *infs = after - self._policy.tally(older).not_finite
            self._options.check_finite(nans, sum(infs), features)
        rows = before + len(batch)
        if not self._state.write(state, match.new, match.exact, before=before, rows=rows):
            return False
        if match is not self._match:
            self._match = match.for_next_batch()
        return True

    def _matched(self, batch: Any, names: list[Any]) -> FeatureMatch:
        types = self._columns.types(batch, names)
        last = self._match
        if (
            last is not None
            and last.known == len(self._kernel)
            and last.types is types
            and last.names == names
        ):
            return last
        return FeatureMatch.of(batch, names, types, self._kernel, self._state.has_spare)
