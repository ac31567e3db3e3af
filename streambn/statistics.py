"""The immutable value behind every normalizer: a policy, its state and the bound columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._lazy import lazy_property
from streambn._messages import listed, spell
from streambn.accumulators import Estimates, ExactMoments, Moments, check_rows
from streambn.arrow import (
    Binding,
    Change,
    LeftOut,
    Matrix,
    Names,
    Selection,
    bind,
    fields_by_name,
    parse_instant,
    read_all_rows,
    row_columns,
    select_counted_rows,
)
from streambn.errors import InvalidValueError, MergeError, NotFittedError, SchemaError
from streambn.kernels import Columns, Series, UnmergeableError
from streambn.kernels.bitmaps import arrow_array, string_array
from streambn.kernels.interface import Floats, Transformed
from streambn.options import Options
from streambn.policies import Exact, Policy, Welford, check_takes_weights

__all__ = ["Statistics", "check_affine"]

# Larger batches are counted with care. Smaller ones would take a century to exceed 64 bits.
_MANY_ROWS: Final = 2**32


@dataclass(frozen=True)
class Statistics:
    """Statistics of a stream: a value that learns and merges by returning a new one.

    Attributes
    ----------
    policy : Policy
    options : Options
    columns : tuple of str, callable or None
        The columns that the user asked for; None: all numeric ones.
    binding : Binding or None
        The columns found in the first batch; None before it.
    state : object or None
        The policy's state, of ``binding.width`` features; None before the first batch.
    rounded : bool
        Whether sums of `Exact` were rounded into the state. It informs the user and is neither
        saved nor compared.
    exclude : tuple of str
        The columns that the user wants left alone.
    left_out : tuple of LeftOut
        Other columns that have no statistics. They inform the user and are not compared.
    """

    policy: Policy
    options: Options
    columns: Names | None
    binding: Binding | None = None
    state: Any = None
    rounded: bool = field(default=False, compare=False)
    exclude: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.options.weights is not None:
            check_takes_weights(self.policy, "weights", self.options.weights)

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached properties stay out, so that equal statistics have equal pickles.
        return Statistics, tuple(getattr(self, each.name) for each in fields(self))

    # ------------------------------------------------------------------- learning

    @property
    def selection(self) -> Selection:
        """The rule that finds the columns of a schema."""
        union = self.options.schema == "union"
        return Selection(self.columns, self.exclude, tuple(self.row_columns), union)

    def bind(self, schema: pa.Schema, batch: pa.RecordBatch | Matrix | None = None) -> Statistics:
        """Return the statistics bound to the columns of a schema.

        The first schema binds them. A later one may settle the type of a column that held only
        nulls so far, and with ``schema="union"`` it may add columns.

        Parameters
        ----------
        schema : pyarrow.Schema
        batch : pyarrow.RecordBatch or Matrix, optional
            Data of that schema. The lists of a record batch tell the size of vectors.

        Raises
        ------
        SchemaError
            A column is missing or not numeric.
        """
        bound = self
        if isinstance(batch, Matrix) and bound.binding is not None:
            bound.binding.check_matrix(batch, self)
        if bound.binding is None:
            binding, left_out = bind(schema, self.selection)
            state = self.policy.init(binding.width)
            bound = replace(self, binding=binding, state=state).leave_out(left_out)
            check_affine(self.options, binding)
        elif bound.binding.is_settled:
            return self
        assert bound.binding is not None
        change = bound.binding.adapt(schema, self.selection, batch)
        return bound if change is None else bound._change(change)

    @property
    def named_columns(self) -> list[str]:
        """Names that the user gave: of columns, and of sample weights and event times."""
        columns = self.columns if isinstance(self.columns, tuple) else ()
        return list(dict.fromkeys([*columns, *self.row_columns]))

    def other_columns(self, schema: pa.Schema) -> list[str]:
        """Return the numeric columns of a schema that have no statistics, though they might."""
        binding = self.require_binding()
        known = {*binding.columns, *(each.column for each in self.left_out)}
        if binding.union or isinstance(self.columns, tuple) or known.issuperset(schema.names):
            return []
        fields = fields_by_name(schema)
        rest = [same[0] for name, same in fields.items() if name not in known and len(same) == 1]
        leaves, _ = self.selection.find(pa.schema(rest))
        return list(dict.fromkeys(leaf.path[0] for leaf in leaves))

    def _change(self, change: Change) -> Statistics:
        """Return the statistics with another binding, whose features have histories of ours."""
        binding, state = change.binding, self.state
        if binding is self.binding:
            return self.leave_out(change.left_out)
        if not binding.leaves and not binding.union:
            raise SchemaError(
                f"the data has no numeric column to normalize: {listed(map(str, change.left_out))}."
            )
        if binding != self.binding:
            if binding.union:
                self._check_never_left_out(binding)
            spare = [len(self.features)] if binding.spare else []
            state = self.policy.take(state, [*change.origins, *spare])
            check_affine(self.options, binding)
        return replace(self, binding=binding, state=state).leave_out(change.left_out)

    def _check_never_left_out(self, binding: Binding) -> None:
        """Raise a SchemaError if a leaf of a union was left out before: its values are lost."""
        left_out = {each.column: each.reason for each in self.left_out}
        for leaf in binding.leaves if left_out else ():
            if leaf.name in left_out:
                raise SchemaError(
                    f"column {leaf.name!r} is numeric here, but was left out before "
                    f"({left_out[leaf.name]}). Cast it to one type, or name it in "
                    f"{spell('exclude')}.",
                    column=leaf.name,
                )

    def leave_out(self, columns: Iterable[LeftOut]) -> Statistics:
        """Return the statistics with further columns left out."""
        known = {each.column for each in self.left_out}
        new = [each for each in columns if each.column not in known]
        if new:
            features = {*self.features}
            new = [each for each in new if each.column not in features]
        return replace(self, left_out=(*self.left_out, *new)) if new else self

    def learn(self, batch: pa.RecordBatch | Matrix, columns: Columns | None = None) -> Statistics:
        """Return the statistics after one more batch.

        Parameters
        ----------
        batch : pyarrow.RecordBatch or Matrix
        columns : Columns, optional
            The leaves of the batch, if they were extracted by the binding.

        Raises
        ------
        SchemaError
            A column is missing, or `Exact` finds decimals where there were floats.
        InvalidValueError
            ``nan=`` or ``inf=`` refuses a value; or a weight or an event time is missing or out
            of range.
        """
        if batch.num_rows == 0:
            return self
        bound = self.bind(batch.schema, batch)
        counted = bound._counted(batch, columns)
        if counted.rows == 0:
            return self
        try:
            state = self.policy.update(bound.state, counted)
        except UnmergeableError as error:
            raise bound._unmergeable(error) from error
        return bound._with_learned(state, batch)

    def learn_block(
        self, batch: pa.RecordBatch | Matrix, columns: Columns | None = None
    ) -> tuple[Statistics, Statistics]:
        """Return the statistics after one more batch, and those of the batch alone.

        Those of the batch have its biased variance. All its rows count equally, whatever the
        policy; sample weights apply.

        Parameters and errors are those of `learn`.
        """
        bound = self.bind(batch.schema, batch)
        binding, policy = bound.require_binding(), bound.policy
        counted = bound._counted(batch, columns)
        block = (ExactMoments if policy.exact else Moments).of(counted)
        own = Statistics(
            Exact() if policy.exact else Welford(),
            bound._options_of_block(),
            self.columns,
            binding,
            block,
            exclude=self.exclude,
        )
        if counted.rows == 0:  # nothing was learned, not even which columns there are
            return self, own
        try:
            state = policy.append(bound.state, block, counted.rows)
        except UnmergeableError as error:
            raise bound._unmergeable(error) from error
        if state is None:
            state = policy.update(bound.state, counted)
        return bound._with_learned(state, batch), own

    def _options_of_block(self) -> Options:
        """Return the options for the statistics of one batch, always as the same object."""
        derived, options = self.require_binding().derived, self.options
        known: tuple[Options, Options] | None = derived.get(Options)
        if known is None or known[0] is not options:
            known = derived[Options] = options, replace(options, ddof=0)
        return known[1]

    def _unmergeable(self, error: UnmergeableError) -> SchemaError:
        """Return the error for sums that do not merge, which names the column."""
        name = self.features[error.feature]
        return SchemaError(f"column {name!r} {error.reason} The batch was rejected.", column=name)

    def _with_learned(self, state: Any, batch: pa.RecordBatch | Matrix) -> Statistics:
        """Return the same statistics with the state after a batch, if it is valid."""
        learned = self._with_state(state)
        before, after = self.tally, learned.tally
        if batch.num_rows > _MANY_ROWS:
            check_rows(after, learned.features)
        # Most streams are finite, and this is the cheapest test of it.
        if np.count_nonzero(after.not_finite):
            self.options.check_finite(
                after.nans - before.nans, after.infs - before.infs, self.features
            )
        return learned

    def learn_rows(
        self, batch: pa.RecordBatch, columns: Columns, series: Series
    ) -> tuple[Statistics, Transformed]:
        """Return the statistics after one more batch, and its rows mapped as they were learned.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            These statistics are bound to its columns.
        columns : Columns
            What `extract_rows` gave for the batch.
        series : Series
            Of all features, and of the spare one that a union of columns has.

        Raises
        ------
        SchemaError, InvalidValueError
            As for `learn`.
        """
        try:
            state, mapped = self.policy.map_series(self.state, columns, series)
        except UnmergeableError as error:
            raise self._unmergeable(error) from error
        self.options.check_finite(mapped.nans, mapped.infs, self.features)
        if columns.rows == 0 or (columns.weights is not None and not columns.weights.any()):
            return self, mapped
        learned = self._with_state(state)
        if batch.num_rows > _MANY_ROWS:
            check_rows(learned.tally, learned.features)
        return learned, mapped

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features; empty before the first batch."""
        return () if self.binding is None else self.binding.features

    def columns_to_read(self, schema: pa.Schema) -> list[str]:
        """Return the names of the top-level columns that learning data of a schema reads.

        Names that the schema lacks are among them, unless it may lack them.
        """
        names = list(dict.fromkeys([*self.require_binding().columns, *self.row_columns]))
        if self.options.schema != "union":
            return names
        present = {*schema.names}
        return [name for name in names if name in present]

    @property
    def row_columns(self) -> list[str]:
        """Names of the columns of sample weights and event times."""
        return row_columns(self.options.weights, self.policy.event_time)

    def _counted(self, batch: pa.RecordBatch | Matrix, columns: Columns | None) -> Columns:
        """Return the leaves of the rows that count, with their weights and times."""
        binding = self.require_binding()
        if columns is None:
            columns = binding.extract(batch)
        weights, event_time = self.options.weights, self.policy.event_time
        if weights is None and event_time is None:
            return columns
        if isinstance(batch, Matrix):
            batch = batch.to_batch()
            columns = binding.extract(batch)
        counted, selection = select_counted_rows(batch, binding.columns, weights, event_time)
        if counted is not batch:
            columns = binding.extract(counted)
        return columns.with_rows(selection.weights, selection.times)

    def extract_rows(self, batch: pa.RecordBatch) -> Columns:
        """Return the leaves of all rows, for `learn_rows`; a row that does not count weighs 0.

        Raises
        ------
        SchemaError, InvalidValueError
            A column is missing, or a weight or an event time is missing or out of range, or the
            event times do not ascend.
        """
        columns = self.require_binding().extract(batch)
        weights, event_time = self.options.weights, self.policy.event_time
        if weights is None and event_time is None:
            return columns
        rows = read_all_rows(batch, weights, event_time, self.policy.newest(self.state))
        return columns.with_rows(rows.weights, rows.times)

    def _with_state(self, state: Any) -> Statistics:
        """Return the same statistics with another state.

        `dataclasses.replace` would take a tenth of the time of learning ten rows. The tally is
        computed here because the next batch needs it to tell what it added.
        """
        statistics = object.__new__(Statistics)
        statistics.__dict__.update(
            policy=self.policy,
            options=self.options,
            columns=self.columns,
            binding=self.binding,
            state=state,
            rounded=self.rounded,
            exclude=self.exclude,
            left_out=self.left_out,
            derived={},
        )
        if self.binding is not None and not self.binding.spare:
            statistics.__dict__["tally"] = self.policy.tally(state)
        return statistics

    # -------------------------------------------------------------------- merging

    def merge(self, newer: Statistics) -> Statistics:
        """Return the statistics of this stream followed by `newer`'s.

        If one side is kept by `Exact` and the other by `Welford`, the exact sums are rounded
        once and the result is kept by `Welford`.

        Raises
        ------
        MergeError
            The policies, options or columns differ otherwise; or `Exact` finds decimals on one
            side and floats on the other; or a feature would have more than 2**61 rows.
        """
        older = self
        if {older.policy, newer.policy} == {Exact(), Welford()}:
            older, newer = older.as_welford(), newer.as_welford()
        for name in ("policy", "options"):
            ours, theirs = getattr(older, name), getattr(newer, name)
            if ours != theirs:
                raise MergeError(
                    f"the {name} of the two statistics differ: {ours!r} and {theirs!r}. Fit both "
                    f"with the same {name}.",
                    argument=name,
                )
        rounded = older.rounded or newer.rounded
        if older.binding is None or newer.binding is None:
            for name in ("columns", "exclude"):
                ours, theirs = getattr(older, name), getattr(newer, name)
                if ours != theirs:
                    ours, theirs = _describe_names(ours), _describe_names(theirs)
                    raise MergeError(
                        f"the {name} of the two statistics differ: {ours} and {theirs}, and one "
                        f"side has seen no data. Fit both with the same {spell(name)}.",
                        argument=name,
                    )
            return replace(older if newer.binding is None else newer, rounded=rounded)
        if older.binding != newer.binding:
            older, newer = older._align(newer)
        ours = older.features
        try:
            merged = older.policy.merge(older.state, newer.state)
        except UnmergeableError as error:
            name = ours[error.feature]
            raise MergeError(f"column {name!r} {error.reason}", column=name) from error
        result = replace(older, state=merged, rounded=rounded)
        try:
            check_rows(result.tally, ours)
        except InvalidValueError as error:
            raise MergeError(error.message, column=error.column) from error
        return result.leave_out(newer.left_out)

    def _align(self, newer: Statistics) -> tuple[Statistics, Statistics]:
        """Return both statistics with the same features in the same order."""
        older = self._change(self.require_binding().typed_by(newer.require_binding()))
        newer = newer._change(newer.require_binding().typed_by(older.require_binding()))
        if older.options.schema == "union":
            try:
                older, newer = older._with_leaves_of(newer), newer._with_leaves_of(older)
            except SchemaError as error:
                raise MergeError(error.message, column=error.column) from error
        ours, theirs = older.features, newer.features
        _check_same_features(ours, theirs)
        if ours == theirs:
            return older, newer
        where = {name: i for i, name in enumerate(theirs)}
        spare = [len(theirs)] if newer.require_binding().spare else []
        order = [*(where[name] for name in ours), *spare]
        return older, replace(newer, state=older.policy.take(newer.state, order))

    def _with_leaves_of(self, other: Statistics) -> Statistics:
        """Return the statistics with the leaves that only others have, null in every row."""
        binding = self.require_binding()
        known = {leaf.path for leaf in binding.leaves}
        added = [leaf for leaf in other.require_binding().leaves if leaf.path not in known]
        return self._change(binding.replaced({}).with_null(added, binding))

    def as_welford(self) -> Statistics:
        """Return the statistics as `Welford` keeps them.

        Mean and sum of squares of `Exact` are rounded once, to double-double.

        Raises
        ------
        MergeError
            The policy does not count every value equally.
        """
        if self.policy == Welford():
            return self
        if self.policy != Exact():
            raise MergeError(
                f"statistics of {self.policy!r} do not convert to those of Welford(), which counts "
                "every value equally. Fit again with Welford().",
                argument="policy",
            )
        state = None if self.state is None else self.state.to_moments()
        return replace(self, policy=Welford(), state=state, rounded=state is not None)

    # -------------------------------------------------------------------- reading

    def require_binding(self) -> Binding:
        """Return the bound columns.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        if self.binding is None:
            raise NotFittedError("no data was seen, so there are no statistics. Call update(data).")
        return self.binding

    @lazy_property
    def derived(self) -> dict[Any, Any]:
        """Cache of values that follow from these statistics alone, such as a `Standardizer`.

        The class of a value is its key. The cache is neither compared nor pickled.
        """
        return {}

    @property
    def feature_state(self) -> Any:
        """The policy's state of exactly the features."""
        return self._state_without_spare if self.require_binding().spare else self.state

    @lazy_property
    def _state_without_spare(self) -> Any:
        return self.policy.take(self.state, range(len(self.features)))

    @lazy_property
    def tally(self) -> Moments:
        """Counts, minimum and maximum of each feature."""
        return self.policy.tally(self.feature_state)

    @lazy_property
    def estimates(self) -> Estimates:
        """Mean and variance of each feature, by the rules of ``nan=`` and ``inf=``."""
        self.require_binding()
        estimates = self.policy.read(self.feature_state, self.options.ddof)
        if "propagate" not in (self.options.nan, self.options.inf):
            return estimates
        tally = self.tally
        poison = np.zeros(len(estimates.mean_hi))
        if self.options.nan == "propagate":
            poison[tally.nans > 0] = np.nan
        if self.options.inf == "propagate":
            both = (tally.pos_infs > 0) & (tally.neg_infs > 0)
            poison[tally.pos_infs > 0] += np.inf
            poison[(tally.neg_infs > 0) & ~both] -= np.inf
            poison[both] = np.nan
        hit = poison != 0
        if not hit.any():
            return estimates
        return estimates._replace(
            mean_hi=np.where(hit, poison, estimates.mean_hi),
            mean_lo=np.where(hit, 0.0, estimates.mean_lo),
            var=np.where(hit, np.nan, estimates.var),
            std=np.where(hit, np.nan, estimates.std),
            defined=estimates.defined | hit,
        )

    @lazy_property
    def known(self) -> NDArray[np.bool_]:
        """Whether each feature has statistics, of at least ``min_count=`` values."""
        defined, least = self.estimates.defined, self.options.min_count
        return defined & (self.tally.count >= least) if least else defined

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics as a table; see `streambn.Normalizer.stats`."""
        binding, tally, estimates = self.require_binding(), self.tally, self.estimates
        low, high = tally.min, tally.max
        if self.options.inf == "propagate":
            low = np.where(tally.neg_infs > 0, -np.inf, low)
            high = np.where(tally.pos_infs > 0, np.inf, high)
        # NaN means that a NaN or an infinity was propagated. Undefined statistics are null.
        poisoned = estimates.defined & ~np.isfinite(estimates.mean_hi)
        has_var = estimates.defined & ~(np.isnan(estimates.var) & ~poisoned)
        has_range = low <= high
        extras = {}
        for name, values in self._extra_statistics(at).items():
            if name in ("weight", "effective_count"):  # no value affects them
                extras[name] = arrow_array(values, ~np.isnan(values) & estimates.defined)
            else:
                extras[name] = arrow_array(np.where(poisoned, np.nan, values), has_var)
        return pa.table(
            {
                "column": string_array(binding.features),
                "count": arrow_array(tally.count),
                "nulls": arrow_array(tally.nulls),
                "nans": arrow_array(tally.nans),
                "infs": arrow_array(tally.infs),
                "mean": arrow_array(estimates.mean_hi + estimates.mean_lo, estimates.defined),
                "var": arrow_array(estimates.var, has_var),
                "std": arrow_array(estimates.std, has_var),
                "min": arrow_array(low, has_range),
                "max": arrow_array(high, has_range),
                **extras,
                **({"known": arrow_array(self.known)} if self.options.min_count else {}),
            }
        )

    def _extra_statistics(self, at: Any) -> dict[str, Floats]:
        event_time, instant = self.policy.event_time, None
        if at is not None:
            if event_time is None:
                raise InvalidValueError(
                    f"at={at!r} applies to statistics by event time only, not to "
                    f"{self.policy!r}. Omit it.",
                    argument="at",
                )
            instant = parse_instant(at, event_time)
        extras = self.policy.extra_statistics(self.feature_state, instant)
        if self.options.weights is not None:  # also if all weights happened to be 1
            extras = {
                "weight": self.tally.weight,
                "effective_count": self.tally.effective_count,
            } | extras
        return extras


def _describe_names(names: Names | None) -> str:
    return f"({listed(map(repr, names))})" if isinstance(names, tuple) else repr(names)


def _check_same_features(older: tuple[str, ...], newer: tuple[str, ...]) -> None:
    different = sorted(set(older) ^ set(newer))
    if different:
        side = "older" if different[0] in older else "newer"
        more = f" (and {len(different) - 1} more differ)" if len(different) > 1 else ""
        raise MergeError(
            f"column {different[0]!r} is only in the {side} statistics{more}. Fit both with the "
            f"same {spell('columns')}, or with {spell('schema', 'union')}.",
            column=different[0],
        )


def check_affine(options: Options, binding: Binding) -> None:
    """Raise a SchemaError if ``affine=`` names a column or an element that is not bound.

    While further data may bind it, nothing is wrong.
    """
    if not binding.is_settled:
        return
    for name in options.affine or ():
        if name not in binding.indices:
            missing = SchemaError.missing(name, binding.indices)
            raise SchemaError(f"affine: {missing}", argument="affine", column=name)
