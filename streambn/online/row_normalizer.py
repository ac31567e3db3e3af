"""The normalizer of rows, whose features come and go."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from streambn.arrow import (
    Binding,
    Leaf,
    Matrix,
    check_names,
    parse_weights,
    row_columns,
    weight_array,
)
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import RowStatistics
from streambn.kernels.interface import Floats
from streambn.kernels.rows import (
    CONSTANT,
    UNSEEN,
    number,
    refuse,
    weight_of,
)
from streambn.normalizer import FrozenNormalizer, Normalizer
from streambn.online.batch_learner import BatchLearner
from streambn.online.batch_transformer import BatchTransformer
from streambn.online.features import BatchColumns, column_of, duplicate_feature, select_columns
from streambn.online.rows import PassingKeys, row_batch, row_time
from streambn.online.state import KernelState, PolicyState
from streambn.options import Options
from streambn.policies import Policy, Welford, check_policy, check_takes_weights
from streambn.statistics import Statistics

__all__ = ["RowNormalizer"]

Row = dict[Any, Any]


class RowNormalizer:
    """Running mean and variance of features that come and go, and the map they define.

    It learns and transforms rows, which are dicts, and batches of rows. A feature that a row
    lacks is null in that row, also in the rows before it first appeared.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted. `Welford` (the default) and `EMA` learn rows one by one. To other
        policies a batch is one block, and a single row is a block of its own.
    columns : sequence of str, optional
        Names and shell patterns of the features. Other keys pass through. Default: every key.
    exclude : sequence of str, optional
        Names and shell patterns of keys that are not features and pass through.
    unseen : {"zero", "passthrough", "raise"}
        Output for values of a feature without statistics, or with fewer values than
        ``min_count=``: 0.0, the value itself, or a `NotFittedError`.
    constant : {"unit", "zero"}
        Output for values of a feature of zero variance. "unit" divides by 1, as
        `streambn.Normalizer` does. "zero" gives 0.0 whatever the value, as River's scalers do.
        With an `eps` both divide by √eps.
    **options
        eps, ddof, center, scale, affine, clip, nan, inf, weights and min_count, as for
        `streambn.Normalizer`. Sample weights and event times stand under a key of the row, which
        is not a feature and passes through.

    Attributes
    ----------
    policy : Policy
    options : Options
    columns : tuple of str or None
    exclude : tuple of str
    unseen, constant : str
    learn_one : callable
        ``learn_one(row, weight=1.0)`` learns a dict, whole or not at all. Ints, floats, decimals,
        fractions and NumPy's numbers are numbers, and None is a missing value. Other values are
        ignored, but a `SchemaError` in a feature that was a number. A row of weight 0 changes
        nothing. `Welford` and `EMA` with ``adjust=True`` take weights.
    transform_one : callable
        ``transform_one(row)`` returns a new dict whose numbers are normalized, as floats. Other
        values pass through.

    Raises
    ------
    InvalidValueError
        An argument is out of range.

    Notes
    -----
    Any number of threads may learn and transform at the same time. Each row and each batch is
    learned whole, in some order, and each call sees the statistics as of one row. An `EMA`, whose
    result depends on the order, then depends on that of the threads.

    Examples
    --------
    >>> import streambn as sbn
    >>> norm = sbn.RowNormalizer()
    >>> for x in ({"a": 1.0}, {"a": 3.0, "b": 7}):
    ...     norm.learn_one(x)
    >>> norm.transform_one({"a": 4.0, "b": 9, "c": "red"})
    {'a': 2.0, 'b': 2.0, 'c': 'red'}
    """

    def __init__(
        self,
        policy: Policy | None = None,
        columns: Sequence[str] | None = None,
        *,
        exclude: Sequence[str] | None = None,
        unseen: str = "zero",
        constant: str = "unit",
        **options: Any,
    ) -> None:
        policy = Welford() if policy is None else check_policy(policy)
        if callable(columns):
            raise InvalidValueError(
                "columns must be a list of names for rows, which have no schema, got a callable.",
                argument="columns",
            )
        names = check_names(columns, exclude)
        self._set_up(policy, Options(**options), *names, unseen, constant)

    def _set_up(
        self,
        policy: Policy,
        options: Options,
        columns: Any,
        exclude: tuple[str, ...],
        unseen: str,
        constant: str,
    ) -> None:
        if unseen not in UNSEEN:
            raise InvalidValueError(
                f"unseen must be 'zero', 'passthrough' or 'raise', got {unseen!r}.",
                argument="unseen",
            )
        if constant not in CONSTANT:
            raise InvalidValueError(
                f"constant must be 'unit' or 'zero', got {constant!r}.", argument="constant"
            )
        Statistics(policy, options, None)  # refuses weights that the policy does not take
        # Features of rows always come and go. The statistics that it gives out are of those seen.
        options = replace(options, schema="fixed")
        self.policy, self.options = policy, options
        self.unseen, self.constant = unseen, constant
        self._event_time = policy.event_time
        self.columns, self.exclude = columns, exclude
        self._row_columns = row_columns(options.weights, self._event_time)
        self._passing = PassingKeys(self._row_columns, columns, exclude)
        rule = policy.row_rule
        decay, ignore_na, prior = rule or (1.0, False, 0.0)
        rules = options.row_rules._replace(
            decay=decay,
            ignore_missing=ignore_na,
            prior=prior,
            unseen=UNSEEN.index(unseen),
            constant=CONSTANT.index(constant),
        )
        self._kernel = RowStatistics(*rules, dict(options.affine or {}), number, refuse)
        self._lock = threading.RLock()
        self._state: KernelState | PolicyState
        self.learn_one: Callable[..., None]
        self.transform_one: Callable[[Row], Row]
        if rule is None:
            self._state = PolicyState(policy, self._kernel)
            self.learn_one, self.transform_one = self._learn_block, self._transform_block
        else:
            self._state = KernelState(policy, rule, self._kernel)
            # The kernel's own methods: a row of ten features takes about a microsecond.
            self.learn_one, self.transform_one = self._kernel.learn, self._kernel.transform
            # With a prior the kernel refuses weights.
            if self._passing or not (policy.takes_weights or prior):
                self.learn_one, self.transform_one = self._learn_row, self._transform_row
        columns = BatchColumns(self._kernel)
        self._learner = BatchLearner(
            policy, options, self._kernel, self._state, columns, self._lock
        )
        self._transformer = BatchTransformer(
            options, self._kernel, self._state, columns, self._statistics, self._passing,
            unseen, constant, self._lock,
        )  # fmt: skip

    # ------------------------------------------------------------------------ exchange

    @classmethod
    def from_normalizer(
        cls,
        normalizer: Normalizer | FrozenNormalizer,
        *,
        unseen: str = "zero",
        constant: str = "unit",
    ) -> Self:
        """Return a RowNormalizer that goes on from the statistics of a normalizer.

        Parameters
        ----------
        normalizer : Normalizer or FrozenNormalizer
            Of plain columns. It does not change.
        unseen, constant : str
            As for the class.

        Raises
        ------
        SchemaError
            A column is a list or part of a struct, or is a feature and also the column of weights
            or of event times.
        """
        statistics = normalizer.statistics
        self = cls.__new__(cls)
        columns = statistics.columns if isinstance(statistics.columns, tuple) else None
        names = (columns, statistics.exclude)
        self._set_up(statistics.policy, statistics.options, *names, unseen, constant)
        binding = statistics.binding
        if binding is None:
            return self
        for leaf in binding.leaves:
            if leaf.name in self._row_columns:
                raise SchemaError(
                    f"column {leaf.name!r} is a feature and also holds the weights or event times "
                    "of rows, which RowNormalizer does not support. Fit without that feature, with "
                    "columns= or exclude=.",
                    column=leaf.name,
                )
            if leaf.size is not None or len(leaf.path) > 1:
                raise SchemaError(
                    f"column {leaf.name!r} is a list or part of a struct, but features of rows are "
                    "plain numbers. Fit without that column, with columns= or exclude=.",
                    column=leaf.name,
                )
        tally = statistics.tally
        rows = int((tally.count + tally.nulls + tally.not_finite.sum(axis=0)).max(initial=0))
        features = list(binding.features)
        self._state.begin(statistics.feature_state, features, binding.exact.tolist(), rows)
        return self

    def to_normalizer(self) -> Normalizer:
        """Return a live `streambn.Normalizer` that goes on from here; this one does not change.

        Its columns have the names of the features, as strings.

        Raises
        ------
        SchemaError
            Two features have the same name as text.
        """
        statistics = self._statistics()
        names = statistics.features
        if len(set(names)) < len(names):
            raise duplicate_feature(Counter(names).most_common(1)[0][0])
        if not names:
            statistics = Statistics(self.policy, self.options, self.columns, exclude=self.exclude)
        return Normalizer.from_statistics(statistics)

    # ---------------------------------------------------------------------- statistics

    @property
    def features(self) -> list[Any]:
        """The features that have statistics, in the order of their appearance."""
        return self._kernel.keys()

    @property
    def rows(self) -> int:
        """The number of rows learned."""
        return int(self._kernel.rows)

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics, one row for each feature; see `streambn.Normalizer.stats`."""
        return self._statistics().stats(at)

    def _statistics(self) -> Statistics:
        features, exact, _, state = self._consistent(self._state.read_known)
        leaves = tuple(Leaf((str(k),), None, e) for k, e in zip(features, exact, strict=True))
        return Statistics(
            self.policy, self.options, self.columns, Binding(leaves), state, exclude=self.exclude
        )

    def _consistent(self, read: Callable[[], Any]) -> tuple[list[Any], list[bool], int, Any]:
        """Return features, their exactness, rows, and what `read` returns, all as of one row."""
        with self._lock:
            while True:
                rows = self.rows
                found = self.features, self._kernel.exact(), rows, read()
                if self.rows == rows:  # otherwise another thread learned a row meanwhile
                    return found

    # ------------------------------------------------------------------------ learning

    def _learn_row(self, row: Row, weight: Any = 1.0) -> None:
        """Learn a row value by value."""
        self._kernel.learn(*self._split(row, weight))

    def _learn_block(self, row: Row, weight: Any = 1.0) -> None:
        """Learn a row as a block of its own."""
        features, found = self._split(row, weight)
        batch, names = row_batch(features, self._kernel, self.options)
        weights = None if found == 1 else np.array([found])
        time = None if self._event_time is None else row_time(row, self._event_time)
        self._learner.learn(batch, names, weights, time)

    def _split(self, row: Any, weight: Any) -> tuple[Row, float]:
        """Return the features of a row, and its weight."""
        if not isinstance(row, dict):
            refuse("row", None, row)
        found = weight_of(weight)
        if found != 1:
            self._check_weights_allowed("weight", weight)
        if not self._passing:
            return row, found
        if self.options.weights is not None:
            found = weight_of(row.get(self.options.weights), self.options.weights)
        return {key: value for key, value in row.items() if key not in self._passing}, found

    def _check_weights_allowed(self, argument: str, value: Any) -> None:
        check_takes_weights(self.policy, argument, value)
        if self.options.weights is not None:
            raise InvalidValueError(
                f"{argument}={value!r:.60} conflicts with weights={self.options.weights!r}, the "
                f"key that holds the weights of rows. Omit {argument}.",
                argument=argument,
            )

    def learn_many(
        self, batch: Any, names: Sequence[Hashable] | None = None, weights: Any = None
    ) -> None:
        """Learn a batch of rows, whole or not at all.

        Parameters
        ----------
        batch : pyarrow.RecordBatch or ndarray, shape (rows, columns)
        names : sequence, optional
            Names of the columns. Default: those of the record batch, and ``x0``, ``x1``, ... for
            an array.
        weights : array-like, shape (rows,), optional
            Weight of each row. A row of weight 0 changes nothing.

        Raises
        ------
        SchemaError
            Two columns belong to one feature, or a feature that was a number is one no longer.
        InvalidValueError
            ``nan=`` or ``inf=`` refuses a value, or a weight is out of range, or the policy takes
            no weights.
        """
        if isinstance(batch, np.ndarray):
            matrix = Matrix.of(batch, "batch")
            batch, names = matrix.array, matrix.schema.names if names is None else names
        names = list(batch.schema.names if names is None else names)
        found: Floats | None = None
        if weights is not None:
            found = weight_array(weights, len(batch))
            if not (found == 1).all():
                self._check_weights_allowed("weights", weights)
        times = None
        if self._passing:
            if (key := self.options.weights) is not None:
                column = column_of(batch, names, key)
                found = parse_weights(column, key)
            if self._event_time is not None:
                times = column_of(batch, names, self._event_time.column)
            columns = [i for i, name in enumerate(names) if name not in self._passing]
            batch, names = select_columns(batch, columns), [names[i] for i in columns]
        self._learner.learn(batch, names, found, times)

    # -------------------------------------------------------------------- transforming

    def _transform_row(self, row: Row) -> Row:
        """Transform a row, but not its weight and event time."""
        if not self._passing or not isinstance(row, dict):
            return self._kernel.transform(row)
        features = {key: value for key, value in row.items() if key not in self._passing}
        return {**row, **self._kernel.transform(features)}

    def _transform_block(self, row: Row) -> Row:
        """Transform a row where the kernel does not keep the statistics."""
        with self._lock:
            self._transformer.current_maps()
            return self._transform_row(row)

    def transform_many(
        self, batch: pa.RecordBatch, names: Sequence[Hashable] | None = None
    ) -> pa.RecordBatch:
        """Return a batch of rows normalized by the current statistics. Never learns.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
        names : sequence, optional
            Names of the columns. Default: those of the record batch.

        Returns
        -------
        pyarrow.RecordBatch
            Floats keep their type, other numbers become float64, other columns pass through.

        Raises
        ------
        NotFittedError
            A feature has no statistics, and ``unseen="raise"``.
        SchemaError, InvalidValueError
            As for `learn_many`.
        """
        names = tuple(batch.schema.names if names is None else names)
        return self._transformer.transform(batch, names)

    # ------------------------------------------------------------------------- copying

    def __getstate__(self) -> dict[str, Any]:
        features, exact, rows, statistics = self._consistent(self._state.dump)
        return {
            "policy": self.policy,
            "options": self.options,
            "columns": self.columns,
            "exclude": self.exclude,
            "unseen": self.unseen,
            "constant": self.constant,
            # Interned names make the pickles of equal statistics equal.
            "features": [sys.intern(key) if type(key) is str else key for key in features],
            "exact": exact,
            "rows": rows,
            "statistics": statistics,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        names = ("policy", "options", "columns", "exclude", "unseen", "constant")
        self._set_up(*(state[name] for name in names))
        self._state.restore(state["statistics"], state["features"], state["exact"], state["rows"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.policy!r}) of {len(self._kernel)} features"
