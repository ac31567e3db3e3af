"""A normalizer of features that come and go: one row, which is a dict, or a batch of rows.

What `streambn.Normalizer` is to columns that the first batch binds, `RowNormalizer` is to
features as online learners have them. A feature that a row does not have is null in it, also
before it first appeared. Rows one by one and rows in batches are learned alike.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from streambn.arrow import (
    Binding,
    Leaf,
    SchemaCache,
    float_type,
    parse_weights,
    row_columns,
    select_rows,
    weight_array,
)
from streambn.errors import InvalidValueError, SchemaError
from streambn.kernels import (
    BoundColumn,
    Columns,
    FeatureTransform,
    Layout,
    RowStatistics,
    Times,
    UnmergeableError,
    normalize,
)
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.rows import (
    CONSTANT,
    MISSING,
    UNSEEN,
    RowRules,
    number,
    refuse,
    weight_of,
)
from streambn.normalizer import FrozenNormalizer, Normalizer
from streambn.online.batches import array_of, column_of, filtered, selected, stamp_in
from streambn.online.features import Kinds, Match, twice
from streambn.online.state import BlockLedger, ValueLedger
from streambn.options import Options
from streambn.policies import Policy, Welford, check_policy, check_takes_weights
from streambn.standardize import Standardizer
from streambn.statistics import Statistics

__all__ = ["RowNormalizer"]

Row = dict[Any, Any]


class _Outputs(NamedTuple):
    """Where the columns of a batch go, and what they become."""

    columns: tuple[int, ...]
    lanes: Ints
    layout: Layout
    leaves: pa.Schema
    schema: pa.Schema


class RowNormalizer:
    """Running mean and variance of features that come and go, and the map they define.

    Parameters
    ----------
    policy : Policy, optional
        `Welford`, `EMA`, which go value by value, or another, which goes by blocks: a batch
        is a block of its rows, a single row one of its own.
    eps, ddof, center, scale, affine, clip, nan, inf, weights
        As for `streambn.Normalizer`. What it knows by the name of a column, how much a row weighs
        or when it happened, is here the value under that key, which is no feature.
    unseen : {"zero", "passthrough", "raise"}
        How the values of a feature come out of which none was learned: as 0.0, as they are,
        or not at all.
    constant : {"unit", "zero"}
        How the values of a feature of zero variance come out. "unit": divided by 1, as by
        `streambn.Normalizer`. "zero": as 0.0 whatever the value, as by River's scalers. With
        an eps both divide by √eps.

    Attributes
    ----------
    learn_one : callable
        Takes a dict of features and learns it, whole or not at all. Integers, floats,
        decimals, fractions and NumPy's numbers are numbers. What is no number passes through;
        in a feature that was one, it is an error. None is a missing value. A second argument,
        `weight`, says what the row weighs: 1; 0 leaves no trace. `Welford` and `EMA` with
        ``adjust=True`` heed it, others refuse it.
    transform_one : callable
        Takes a dict of features and gives a new one: of the numbers, floats.

    Raises
    ------
    InvalidValueError
        An argument is outside its domain.

    Notes
    -----
    The variance of a feature is zero if it is within the rounding error of the feature's values.

    Examples
    --------
    >>> from streambn import RowNormalizer
    >>> norm = RowNormalizer()
    >>> for x in ({"a": 1.0}, {"a": 3.0, "b": 7}):
    ...     norm.learn_one(x)
    >>> norm.transform_one({"a": 4.0, "b": 9, "c": "red"})
    {'a': 2.0, 'b': 2.0, 'c': 'red'}
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        unseen: str = "zero",
        constant: str = "unit",
        **options: Any,
    ) -> None:
        policy = Welford() if policy is None else check_policy(policy)
        self._begin(policy, Options(**options), unseen, constant)

    def _begin(self, policy: Policy, options: Options, unseen: str, constant: str) -> None:
        if unseen not in UNSEEN:
            raise InvalidValueError(
                f"unseen must be 'zero', 'passthrough' or 'raise', got {unseen!r}.",
                argument="unseen",
            )
        if constant not in CONSTANT:
            raise InvalidValueError(
                f"constant must be 'unit' or 'zero', got {constant!r}.", argument="constant"
            )
        Statistics(policy, options, None)  # which refuses what does not go together
        self.policy, self.options = policy, options
        self.unseen, self.constant = unseen, constant
        self._time = policy.event_time
        # Keys of a row that are no features, but say something about it.
        self._beside = frozenset(row_columns(options.weights, self._time))
        rule = policy.row_rule
        decay, ignore_na, prior = rule or (1.0, False, 0.0)
        rules = RowRules(
            decay=decay,
            ignore_missing=ignore_na,
            prior=prior,
            ddof=options.ddof,
            eps=options.eps,
            clip=math.inf if options.clip is None else options.clip,
            center=options.center,
            scale=options.scale,
            nan=MISSING.index(options.nan),
            inf=MISSING.index(options.inf),
            unseen=UNSEEN.index(unseen),
            constant=CONSTANT.index(constant),
        )
        self._lanes = RowStatistics(*rules, dict(options.affine or {}), number, refuse)
        self._lock = threading.RLock()
        self._schemas = SchemaCache()
        self._match: Match | None = None
        self._maps: tuple[int, FeatureTransform] | None = None
        self._ledger: ValueLedger | BlockLedger
        if rule is None:
            self._ledger = BlockLedger(policy, self._lanes)
            self.learn_one: Callable[..., None] = self._learn_block
            self.transform_one: Callable[[Row], Row] = self._transform_by_maps
        else:
            self._ledger = ValueLedger(policy, rule, self._lanes)
            # With nothing in between: a row of ten features takes less than a microsecond.
            self.learn_one, self.transform_one = self._lanes.learn, self._lanes.transform
            # (The lanes themselves refuse weights where there is a prior.)
            if self._beside or not (policy.takes_weights or prior):
                self.learn_one, self.transform_one = self._learn_row, self._transform_features

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
            A column is a list or in a struct, or is both a feature and the one of weights or of
            event times.
        """
        fitted = normalizer.statistics
        self = cls.__new__(cls)
        self._begin(fitted.policy, fitted.options, unseen, constant)
        binding = fitted.binding
        if binding is None:
            return self
        for leaf in binding.leaves:
            if leaf.name in self._beside:
                raise SchemaError(
                    f"column {leaf.name!r} is normalized, and says when a row happened or what it "
                    "weighs. A feature of rows cannot be both. Fit the others alone, with columns=."
                )
            if leaf.size is not None or len(leaf.path) > 1:
                raise SchemaError(
                    f"column {leaf.name!r} is a list or in a struct; the features of rows are "
                    "plain numbers. Fit those columns alone, with columns=."
                )
        tally = fitted.tally
        rows = int((tally.count + tally.nulls + tally.not_finite.sum(axis=0)).max(initial=0))
        self._ledger.begin(fitted.state, list(binding.features), binding.exact.tolist(), rows)
        return self

    # ------------------------------------------------------------------- learning

    @property
    def features(self) -> list[Any]:
        """The features that there are statistics of, in the order of their appearance."""
        return self._lanes.keys()

    @property
    def rows(self) -> int:
        """Rows learned."""
        return int(self._lanes.rows)

    def learn_many(
        self, batch: Any, names: Sequence[Hashable] | None = None, weights: Any = None
    ) -> None:
        """Learn a batch of rows, whole or not at all.

        Parameters
        ----------
        batch : pyarrow.RecordBatch or ndarray, shape (rows, features)
        names : sequence, optional
            The features; by default the names of the columns.
        weights : array-like, shape (rows,), optional
            What each row weighs; a row that weighs 0 leaves no trace.

        Raises
        ------
        SchemaError
            A feature is there twice, or one that was a number is something else.
        InvalidValueError
            There is a NaN or an infinity that ``nan=`` or ``inf=`` refuses; or a weight that is
            none, or that the policy does not heed.
        """
        names = list(batch.schema.names if names is None else names)
        found: Floats | None = None
        if weights is not None:
            found = weight_array(weights, len(batch))
            if not (found == 1).all():
                self._refuse_weights("weights", weights)
        stamps = None
        if self._beside:
            if self.options.weights is not None:
                column = column_of(batch, names, self.options.weights)
                name = self.options.weights
                found = parse_weights(column, f"column {name!r}", column=name)
            if self._time is not None:
                stamps = column_of(batch, names, self._time.column)
            there = [i for i, name in enumerate(names) if name not in self._beside]
            batch, names = selected(batch, there), [names[i] for i in there]
        self._learn_counted(batch, names, found, stamps)

    def _learn_counted(
        self, batch: Any, names: list[Any], weights: Floats | None, stamps: pa.Array | None
    ) -> None:
        """Learn those of the rows that count for something."""
        keep, weights, times = select_rows(weights, stamps, self._time)
        if keep is not None:
            batch = filtered(batch, keep)
        if len(batch) == 0:
            return
        with self._lock:
            while not self._learned(batch, names, weights, times):
                pass  # another thread learned a row meanwhile

    def _learned(
        self, batch: Any, names: list[Any], weights: Floats | None, times: Times | None
    ) -> bool:
        before = self.rows
        match = self._matched(batch, names)
        older = self._ledger.state(len(match.fresh))
        if self.rows != before:
            return False
        try:
            state = self.policy.update(older, Columns(batch, match.layout, weights, times))
        except UnmergeableError as error:
            feature = [*self.features, *match.fresh][error.feature]
            raise SchemaError(
                f"feature {feature!r} {error.reason} All that came with it was refused."
            ) from error
        after = self.policy.tally(state).not_finite
        if np.count_nonzero(after):
            nans, *infs = after - self.policy.tally(older).not_finite
            lanes = [*self.features, *match.fresh, None]
            self.options.check_finite(nans, sum(infs), lanes)
        rows = before + len(batch)
        if not self._ledger.take(state, match.fresh, match.exact, before, rows):
            return False
        if match is not self._match:
            self._match = match.for_more()
        return True

    def _refuse_weights(self, name: str, given: Any) -> None:
        """Refuse weights that are given where they have no meaning."""
        check_takes_weights(self.policy, name, given)
        if self.options.weights is not None:
            raise InvalidValueError(
                f"{name}={given!r:.60} was given, and weights={self.options.weights!r} says what "
                f"a row weighs. Leave {name} out."
            )

    def _taken_apart(self, row: Any, weight: Any) -> tuple[Row, float]:
        """Return the features of a row, and what it weighs."""
        if not isinstance(row, dict):
            refuse("row", None, row)
        found = weight_of(weight)
        if found != 1:
            self._refuse_weights("weight", weight)
        if not self._beside:
            return row, found
        if self.options.weights is not None:
            found = weight_of(row.get(self.options.weights), self.options.weights)
        return {key: value for key, value in row.items() if key not in self._beside}, found

    def _learn_row(self, row: Row, weight: Any = 1.0) -> None:
        """Learn a row value by value."""
        self._lanes.learn(*self._taken_apart(row, weight))

    def _learn_block(self, row: Row, weight: Any = 1.0) -> None:
        """Learn a row as a block of its own."""
        features, found = self._taken_apart(row, weight)
        names, arrays = [], []
        for key, value in features.items():
            read = number(value, key)
            if read is None:
                if self._lanes.index(key) >= 0:
                    refuse("other", key, value)
            elif read:
                if not math.isfinite(read[0]):
                    why = "nan" if math.isnan(read[0]) else "inf"
                    if getattr(self.options, why) == "raise":
                        refuse(why, key, value)
                names.append(key)
                arrays.append(array_of(value, read))
        if not arrays:
            # Nothing but missing values, or nothing at all: a row all the same.
            names, arrays = [None], [pa.nulls(1)]
        self._learn_counted(
            pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))]),
            names,
            None if found == 1 else np.array([found]),
            None if self._time is None else stamp_in(row, self._time),
        )

    # ---------------------------------------------------------------- normalizing

    def transform_many(
        self, batch: pa.RecordBatch, names: Sequence[Hashable] | None = None
    ) -> pa.RecordBatch:
        """Normalize a batch of rows by the statistics as they stand. Never learns.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
        names : sequence, optional
            The features; by default the names of the columns.

        Returns
        -------
        pyarrow.RecordBatch
            Floats keep their type, other numbers become float64; all else passes through.

        Raises
        ------
        NotFittedError
            A feature was never seen, and ``unseen="raise"``.
        SchemaError, InvalidValueError
            As for `learn_many`.
        """
        names = list(batch.schema.names if names is None else names)
        self._refuse_others(batch, names, self._kinds(batch))
        out, maps = self._plan(batch, names)
        unseen = ~maps.known[out.lanes]
        if self.unseen == "raise" and unseen.any():
            for column in np.array(out.columns)[unseen].tolist():
                if batch.column(column).null_count < len(batch):
                    refuse("unseen", names[column], None)
        by = FeatureTransform(
            location_hi=maps.location_hi[out.lanes],
            location_lo=maps.location_lo[out.lanes],
            scale=maps.scale[out.lanes],
            gamma=None if maps.gamma is None else maps.gamma[out.lanes],
            beta=None if maps.beta is None else maps.beta[out.lanes],
            clip=maps.clip,
            known=np.ones(len(unseen), np.bool_),
        )
        mapped = normalize(Columns(batch, out.layout), by, out.leaves)
        self.options.check_finite(
            mapped.nans, mapped.infs, [names[column] for column in out.columns]
        )
        if len(out.columns) == len(names):
            return pa.RecordBatch.from_arrays(mapped.batch.columns, schema=out.schema)
        arrays = batch.columns
        for i, column in enumerate(out.columns):
            arrays[column] = mapped.batch.column(i)
        return pa.RecordBatch.from_arrays(arrays, schema=out.schema)

    def _plan(self, batch: pa.RecordBatch, names: list[Any]) -> tuple[_Outputs, FeatureTransform]:
        """Say where the columns go, and by what maps: both as of one row."""
        with self._lock:
            while True:
                lanes = len(self._lanes)
                out: _Outputs = self._schemas.get(
                    batch.schema, (tuple(names), lanes), lambda: self._outputs(batch, names)
                )
                maps = self._lane_transform()
                if len(maps.known) == lanes + 1:  # else another thread brought a feature
                    return out, maps

    def _outputs(self, batch: pa.RecordBatch, names: list[Any]) -> _Outputs:
        kinds = self._kinds(batch)
        numeric = tuple(i for i in kinds.numeric if names[i] not in self._beside)
        fields = list(batch.schema)
        for i in numeric:
            fields[i] = fields[i].with_type(float_type(fields[i].type))
        lanes = np.array([self._lanes.index(names[i]) for i in numeric], np.int64)
        return _Outputs(
            columns=numeric,
            # A feature that has no lane: behind all that have stands what becomes of it.
            lanes=np.where(lanes < 0, len(self._lanes), lanes),
            layout=Layout([BoundColumn((i,), None) for i in numeric], batch.schema, kinds.encoded),
            leaves=pa.schema([(str(i), fields[i].type) for i in numeric]),
            schema=pa.schema(fields, metadata=batch.schema.metadata),
        )

    def _lane_transform(self) -> FeatureTransform:
        """Return the maps of all lanes, behind them that of a feature never seen.

        `known` says which are by statistics; the others are all alike.
        """
        known_maps = self._maps
        if known_maps is not None and known_maps[0] == self.rows:
            return known_maps[1]
        rows = self.rows
        fitted, options = self._fitted(), self.options
        standardizer = Standardizer.of(fitted)
        maps = standardizer.lanes
        lanes = len(maps.known)
        gamma = np.ones(lanes) if maps.gamma is None else maps.gamma
        if options.scale and options.eps == 0 and self.constant == "zero":
            gamma = np.where(standardizer.constant, 0.0, gamma)
        beta = np.zeros(lanes) if maps.beta is None else maps.beta
        known = np.append(maps.known, False)

        def with_unseen(values: Floats, unseen: float) -> Floats:
            return np.where(known, np.append(values, unseen), unseen)

        made = FeatureTransform(
            location_hi=with_unseen(maps.location_hi, 0.0),
            location_lo=with_unseen(maps.location_lo, 0.0),
            scale=with_unseen(maps.scale, 1.0),
            gamma=with_unseen(gamma, 1.0 if self.unseen == "passthrough" else 0.0),
            beta=with_unseen(beta, 0.0),
            clip=maps.clip,
            known=known,
        )
        self._maps = rows, made
        if isinstance(self._ledger, BlockLedger):
            arrays = (made.location_hi, made.location_lo, made.scale, made.gamma, made.beta, known)
            self._lanes.set_maps(*(a[:-1] for a in arrays if a is not None))
        return made

    def _transform_by_maps(self, row: Row) -> Row:
        with self._lock:
            self._lane_transform()
            return self._transform_features(row)

    def _transform_features(self, row: Row) -> Row:
        """Map a row, and leave what says something about it as it is."""
        if not self._beside or not isinstance(row, dict):
            return self._lanes.transform(row)
        features = {key: value for key, value in row.items() if key not in self._beside}
        return {**row, **self._lanes.transform(features)}

    # ------------------------------------------------------------------ the columns

    def _kinds(self, batch: Any) -> Kinds:
        if isinstance(batch, np.ndarray):
            return Kinds.of_matrix(batch.shape[1], batch.dtype.kind in "iu")
        kinds: Kinds = self._schemas.get(batch.schema, None, lambda: Kinds.of(batch.schema))
        return kinds

    def _matched(self, batch: Any, names: list[Any]) -> Match:
        """Say which lane each column belongs to, and what is new."""
        kinds = self._kinds(batch)
        self._refuse_others(batch, names, kinds)
        last = self._match
        if (
            last is not None
            and last.lanes == len(self._lanes)
            and last.kinds is kinds
            and last.names == names
        ):
            return last
        return Match.of(batch, names, kinds, self._lanes, self._ledger.spare)

    def _refuse_others(self, batch: Any, names: Sequence[Any], kinds: Kinds) -> None:
        for i in kinds.other:
            array = batch.column(i)
            if self._lanes.index(names[i]) >= 0 and array.null_count < len(array):
                refuse("other", names[i], array.drop_null()[0].as_py())

    # ------------------------------------------------------------------- statistics

    def _fitted(self) -> Statistics:
        features, exact, _, state = self._at_once(self._ledger.settled)
        leaves = zip(features, exact, strict=True)
        binding = Binding(tuple(Leaf((str(key),), None, whole) for key, whole in leaves))
        return Statistics(self.policy, self.options, None, binding, state)

    def _at_once(self, statistics: Callable[[], Any]) -> tuple[list[Any], list[bool], int, Any]:
        """Return features, which are exact, rows, and statistics, all as of one row."""
        with self._lock:
            while True:
                rows = self.rows
                found = self.features, self._lanes.exact(), rows, statistics()
                if self.rows == rows:  # or another thread learned one meanwhile
                    return found

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics as they stand; see `streambn.Normalizer.stats`."""
        return self._fitted().stats(at)

    def to_normalizer(self) -> Normalizer:
        """Return a live `streambn.Normalizer` with these statistics, of columns by these names.

        Raises
        ------
        SchemaError
            Two features have one name as text.
        """
        fitted = self._fitted()
        names = fitted.binding.features if fitted.binding else ()
        if len(set(names)) < len(names):
            raise twice(Counter(names).most_common(1)[0][0])
        if not names:
            fitted = Statistics(self.policy, self.options, None)
        return Normalizer.from_statistics(fitted)

    def __getstate__(self) -> dict[str, Any]:
        features, exact, rows, statistics = self._at_once(self._ledger.saved)
        return {
            "policy": self.policy,
            "options": self.options,
            "unseen": self.unseen,
            "constant": self.constant,
            # The one object of that text that Python has: equal statistics make equal pickles.
            "features": [sys.intern(k) if type(k) is str else k for k in features],
            "exact": exact,
            "rows": rows,
            "statistics": statistics,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._begin(state["policy"], state["options"], state["unseen"], state["constant"])
        kept = state["features"], state["exact"], state["rows"]
        self._ledger.restore(state["statistics"], *kept)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.policy!r}) of {len(self._lanes)} features"
