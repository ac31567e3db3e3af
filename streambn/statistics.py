"""Statistics bound to columns: the immutable value behind both normalizers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import kernels
from streambn.accumulators.moments import Estimates, Moments
from streambn.arrow.binding import Binding, SchemaCache, bind
from streambn.arrow.sample_weights import beside, moment, refuse_weights, weigh
from streambn.errors import InvalidValueError, MergeError, NotFittedError, SchemaError
from streambn.kernels import Columns, FeatureTransform, UnmergeableError
from streambn.kernels.bitmaps import arrow_array
from streambn.kernels.interface import Floats, Ints
from streambn.options import Options
from streambn.policies import Exact, Policy, Welford, event_time_of, takes_weights

__all__ = ["Statistics", "check_affine", "refuse_not_finite"]

_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Statistics:
    """A policy, its state, and the columns that it belongs to.

    Attributes
    ----------
    policy : Policy
    options : Options
    columns : tuple of str, or None
        What the user asked for; None: whatever is numeric.
    binding : Binding or None
        The columns found in the first batch; None: there was none yet.
    state : object or None
        The policy's.
    """

    policy: Policy
    options: Options
    columns: tuple[str, ...] | None
    binding: Binding | None = None
    state: Any = None

    def __post_init__(self) -> None:
        if self.options.weights is not None:
            refuse_weights(self.policy, "weights", self.options.weights)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the cached properties: equal statistics make equal pickles.
        return Statistics, (self.policy, self.options, self.columns, self.binding, self.state)

    # ------------------------------------------------------------------- learning

    def bind(self, schema: pa.Schema) -> Statistics:
        """Return self, bound to the columns of a first batch if it was not."""
        if self.binding is not None:
            return self
        binding = bind(schema, self.columns, self._beside)
        check_affine(self.options, binding)
        return replace(self, binding=binding, state=self.policy.init(len(binding.lanes)))

    def learn(self, batch: pa.RecordBatch) -> Statistics:
        """Return the statistics with one more batch in them.

        Raises
        ------
        SchemaError
            The batch has not got the columns, or has decimals where there were floats and the
            policy is `Exact`.
        InvalidValueError
            It holds a NaN or an infinity that ``nan=`` or ``inf=`` refuses.
        """
        if batch.num_rows == 0:
            return self
        bound = self.bind(batch.schema)
        columns = bound._weighed(batch)
        if columns is None:
            return self
        try:
            state = self.policy.update(bound.state, columns)
        except UnmergeableError as error:
            lane = bound._bound_to().lanes[error.feature]
            raise SchemaError(
                f"column {lane!r} {error.reason} The batch was refused whole."
            ) from error
        learned = bound._with(state)
        before, after = bound.tally, learned.tally
        # Most streams are finite, and this look at them is the cheapest there is.
        if np.count_nonzero(after.not_finite):
            bound._refuse(after.nans - before.nans, _infs(after) - _infs(before))
        return learned

    @property
    def _beside(self) -> list[str]:
        return beside(self.options.weights, event_time_of(self.policy))

    @property
    def needed(self) -> list[str]:
        """Names of the top-level columns that learning reads, each once."""
        return list(dict.fromkeys([*self._bound_to().columns, *self._beside]))

    def _weighed(self, batch: pa.RecordBatch) -> Columns | None:
        """Find the leaves in a batch, and what its rows weigh; None: none leaves a trace."""
        binding = self._bound_to()
        weights, time = self.options.weights, event_time_of(self.policy)
        if weights is None and time is None:
            return binding.extract(batch)
        columns = binding.extract(batch)
        weighed = weigh(batch, binding.columns, weights, time)
        if weighed.batch.num_rows == 0:
            return None
        if weighed.batch is not batch:
            columns = binding.extract(weighed.batch)
        return Columns(columns.batch, columns.layout, weighed.weights, weighed.times)

    def _with(self, state: Any) -> Statistics:
        """Return the same with another state.

        Of a batch of ten rows, `dataclasses.replace` would take a tenth of the time. The
        tally is kept: what it is after this batch is that before the next.
        """
        fitted = object.__new__(Statistics)
        fitted.__dict__.update(
            policy=self.policy,
            options=self.options,
            columns=self.columns,
            binding=self.binding,
            state=state,
            tally=self.policy.tally(state),
        )
        return fitted

    def merge(self, newer: Statistics) -> Statistics:
        """Return the statistics of this stream followed by `newer`'s.

        Raises
        ------
        MergeError
            The policies, options or columns differ; or a column is of decimals here and of floats
            there, and the policy is `Exact`.
        """
        for name in ("policy", "options"):
            mine, other = getattr(self, name), getattr(newer, name)
            if mine != other:
                raise MergeError(
                    f"the {name} of the two differ: {mine!r} and {other!r}. "
                    "Only statistics kept in the same way can be merged."
                )
        if self.binding is None or newer.binding is None:
            if self.columns != newer.columns:
                raise MergeError(
                    f"the columns asked for differ: {self.columns} and {newer.columns}, and one "
                    "side has seen no data yet. Make both with the same columns=."
                )
            return self if newer.binding is None else newer
        mine, theirs = self.binding, newer.binding
        different = sorted(set(mine.lanes) ^ set(theirs.lanes))
        if different:
            side = "older" if different[0] in mine.lanes else "newer"
            raise MergeError(
                f"column {different[0]!r} is only in the {side} statistics"
                f"{f' (and {len(different) - 1} more differ)' if len(different) > 1 else ''}. "
                "Fit both with the same columns=."
            )
        state = newer.state
        if mine.lanes != theirs.lanes:
            where = {lane: i for i, lane in enumerate(theirs.lanes)}
            state = self.policy.take(state, [where[lane] for lane in mine.lanes])
        try:
            merged = self.policy.merge(self.state, state)
        except UnmergeableError as error:
            raise MergeError(f"column {mine.lanes[error.feature]!r} {error.reason}") from error
        return replace(self, state=merged)

    def select(self, columns: Collection[str]) -> Statistics | None:
        """Return the statistics of some of the top-level columns; None: they have none.

        What it normalizes has the same values as those columns of the whole.
        """
        leaves = self._bound_to().leaves
        kept = [leaf.path[0] in columns for leaf in leaves]
        if all(kept):
            return self
        if not any(kept):
            return None
        binding = Binding(tuple(leaf for leaf, keep in zip(leaves, kept, strict=True) if keep))
        lanes = np.flatnonzero(np.repeat(kept, [leaf.width for leaf in leaves]))
        affine = self.options.affine
        if affine is not None:
            keys = _affine_keys(binding)
            affine = {name: pair for name, pair in affine.items() if name in keys}
        return Statistics(
            self.policy,
            replace(self.options, affine=affine or None),
            self.columns,
            binding,
            self.policy.take(self.state, lanes.tolist()),
        )

    # -------------------------------------------------------------------- reading

    def _bound_to(self) -> Binding:
        if self.binding is None:
            raise NotFittedError(
                "nothing was seen yet, so there are no statistics. Call update(data) first."
            )
        return self.binding

    @cached_property
    def tally(self) -> Moments:
        """Counts, minimum and maximum of the lanes."""
        self._bound_to()
        return self.policy.tally(self.state)

    @cached_property
    def reading(self) -> Estimates:
        """Mean and variance of the lanes, by the rules for NaN and infinity."""
        self._bound_to()
        return self._propagated(self.policy.read(self.state, self.options.ddof), self.tally)

    def _propagated(self, reading: Estimates, tally: Moments) -> Estimates:
        """Let NaN and infinities that were seen into the statistics, if they are to be."""
        poison = np.zeros(len(reading.mean_hi))
        if self.options.nan == "propagate":
            poison[tally.nans > 0] = np.nan
        if self.options.inf == "propagate":
            both = (tally.pos_infs > 0) & (tally.neg_infs > 0)
            poison[tally.pos_infs > 0] += np.inf
            poison[(tally.neg_infs > 0) & ~both] -= np.inf
            poison[both] = np.nan
        hit = poison != 0
        if not hit.any():
            return reading
        return reading._replace(
            mean_hi=np.where(hit, poison, reading.mean_hi),
            mean_lo=np.where(hit, 0.0, reading.mean_lo),
            var=np.where(hit, np.nan, reading.var),
            std=np.where(hit, np.nan, reading.std),
            defined=reading.defined | hit,
        )

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics as a table; see `streambn.Normalizer.stats`."""
        binding, tally, reading = self._bound_to(), self.tally, self.reading
        low, high = tally.min, tally.max
        if self.options.inf == "propagate":
            low = np.where(tally.neg_infs > 0, -np.inf, low)
            high = np.where(tally.pos_infs > 0, np.inf, high)
        # NaN says that the statistics are poisoned; without a mean, or with too few values
        # for a variance, they are undefined, which is null.
        spread = reading.defined & ~(np.isnan(reading.var) & np.isfinite(reading.mean_hi))
        seen = low <= high

        poisoned = reading.defined & ~np.isfinite(reading.mean_hi)
        more = {
            # What is in the weights, no NaN among the values changes.
            name: arrow_array(values, ~np.isnan(values) & reading.defined)
            if name in ("weight", "effective_count")
            else arrow_array(np.where(poisoned, np.nan, values), spread)
            for name, values in self._extras(at).items()
        }
        return pa.table(
            {
                "column": pa.array(binding.lanes, pa.string()),
                "count": arrow_array(tally.count),
                "nulls": arrow_array(tally.nulls),
                "nans": arrow_array(tally.nans),
                "infs": arrow_array(_infs(tally)),
                "mean": arrow_array(reading.mean_hi + reading.mean_lo, reading.defined),
                "var": arrow_array(reading.var, spread),
                "std": arrow_array(reading.std, spread),
                "min": arrow_array(low, seen),
                "max": arrow_array(high, seen),
                **more,
            }
        )

    def _extras(self, at: Any) -> dict[str, Floats]:
        """Return further statistics by name, as of a time if there is one."""
        time, when = event_time_of(self.policy), None
        if at is not None:
            if time is None:
                raise InvalidValueError(
                    f"at={at!r} is for statistics by event time, which {self.policy!r} does not "
                    "keep. Leave it out."
                )
            when = moment(at, time)
        extras: Callable[..., dict[str, Floats]] | None = getattr(self.policy, "extras", None)
        if extras is not None:
            return extras(self.state, when)
        tally = self.tally
        if takes_weights(self.policy) and (
            self.options.weights is not None or (tally.weight != tally.count).any()
        ):
            return {"weight": tally.weight, "effective_count": tally.effective}
        return {}

    # ---------------------------------------------------------------- normalizing

    @cached_property
    def lane_transform(self) -> FeatureTransform:
        """The map of each lane."""
        return self._lane_transform(self.reading, self._bound_to())

    @cached_property
    def constant(self) -> NDArray[np.bool_]:
        """Which lanes are divided by nothing, as their variance is as good as zero."""
        return _constant(self.reading, self._bound_to().exact)

    def _lane_transform(self, reading: Estimates, binding: Binding) -> FeatureTransform:
        options = self.options
        lanes = len(binding.lanes)
        zero = np.zeros(lanes)
        gamma, beta = _affine_lanes(options, binding)
        return FeatureTransform(
            location_hi=reading.mean_hi if options.center else zero,
            location_lo=reading.mean_lo if options.center else zero,
            scale=_spread(reading, options.eps, binding.exact) if options.scale else zero + 1,
            gamma=gamma,
            beta=beta,
            clip=options.clip,
            known=reading.defined,
        )

    def output_schema(
        self, schema: pa.Schema, dtype: pa.DataType | None, nullable: bool = False
    ) -> pa.Schema:
        """Give the schema of normalized batches, `nullable` if lanes may come to be null."""
        binding = self._bound_to()
        nullable = nullable or not bool(self.reading.defined.all())
        return binding.output_schema(schema, dtype, nullable)

    @cached_property
    def _labelled_schemas(self) -> SchemaCache:
        return SchemaCache()

    def labelled_schema(
        self,
        schema: pa.Schema,
        dtype: pa.DataType | None,
        label: Callable[[pa.Schema], pa.Schema],
    ) -> pa.Schema:
        """Give the schema of normalized batches after `label`, and remember it."""
        labelled: pa.Schema = self._labelled_schemas.get(
            schema, (dtype, label), lambda: label(self.output_schema(schema, dtype))
        )
        return labelled

    def normalized(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a batch normalized by the statistics, as `schema` wants it."""
        binding = self._bound_to()
        return self._normalized_by(self.lane_transform, binding.extract(batch), schema)

    def normalized_by_itself(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a batch normalized by its own mean and its own biased variance."""
        binding = self._bound_to()
        weighed = self._weighed(batch)
        # In it all rows count alike, whatever the policy makes of them later.
        policy: Policy = self.policy if isinstance(self.policy, Exact) else Welford()
        own = policy.init(len(binding.lanes))
        own = own if weighed is None else policy.update(own, weighed)
        reading = self._propagated(policy.read(own, 0), policy.tally(own))
        lanes = self._lane_transform(reading, binding)
        return self._normalized_by(lanes, binding.extract(batch), schema)

    def _normalized_by(
        self,
        lanes: FeatureTransform,
        columns: Columns,
        schema: pa.Schema,
    ) -> pa.RecordBatch:
        binding = self._bound_to()
        mapped = kernels.normalize(columns, lanes, binding.leaf_schema(columns, schema))
        self._refuse(mapped.nans, mapped.infs)
        return binding.rebuild(columns, mapped.batch, schema)

    def denormalized(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a normalized batch in the units of the data."""
        binding = self._bound_to()
        lanes = self.lane_transform
        if lanes.gamma is not None and not lanes.gamma.all():
            lane = binding.lanes[int(np.flatnonzero(lanes.gamma == 0)[0])]
            raise InvalidValueError(f"affine gives {lane!r} the gamma 0, which cannot be undone.")
        columns = binding.extract(batch)
        mapped = kernels.denormalize(columns, lanes, binding.leaf_schema(columns, schema))
        return binding.rebuild(columns, mapped.batch, schema)

    def _refuse(self, nans: Ints, infs: Ints) -> None:
        refuse_not_finite(self.options, nans, infs, self._bound_to().lanes)


def refuse_not_finite(options: Options, nans: Ints, infs: Ints, lanes: Sequence[Any]) -> None:
    """Raise if there is something that ``nan="raise"`` or ``inf="raise"`` refuses."""
    for name, counts, word in (("nan", nans, "NaN"), ("inf", infs, "infinity")):
        if getattr(options, name) == "raise" and np.count_nonzero(counts):
            lane = int(np.flatnonzero(counts)[0])
            raise InvalidValueError(
                f"column {lanes[lane]!r} holds {word} ({counts[lane]} in this batch). "
                f"The batch was refused whole. Clean it, or choose {name}='ignore' (skip and "
                f"count) or {name}='propagate'."
            )


def _infs(tally: Moments) -> Ints:
    return tally.pos_infs + tally.neg_infs


def _constant(reading: Estimates, exact: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say where the variance is as good as zero: below (ε·mean)², the values' own rounding.

    It is scikit-learn's bound n·ε·var + (n·ε·mean)² without the n, which stands for the
    error that plain summation gathers and double-double moments do not: with it, a
    column of mean 1e12 and σ = 1 would count as constant after 5,000 rows. Integers
    and decimals are not rounded, so only their zero is zero.
    """
    with np.errstate(all="ignore"):
        rounding = np.where(exact, 0.0, _EPSILON * np.abs(reading.mean_hi))
        return ~(reading.std > rounding) & np.isfinite(reading.mean_hi)


def _spread(reading: Estimates, eps: float, exact: NDArray[np.bool_]) -> Floats:
    """Give what to divide by: √(var + eps), or 1 where the variance is as good as zero."""
    with np.errstate(all="ignore"):
        constant = _constant(reading, exact)
        std = np.where(constant, 0.0, reading.std)
        if eps == 0:
            return np.where(constant, 1.0, std)
        var = reading.var + eps
        # Where the variance leaves the range of float64 its root does not.
        ordinary = (reading.var > 1e-290) & np.isfinite(var)
        return np.where(constant | ~ordinary, np.hypot(std, np.sqrt(eps)), np.sqrt(var))


def _affine_keys(binding: Binding) -> dict[str, list[int]]:
    """Lanes by the names under which affine= may speak of them."""
    keys: dict[str, list[int]] = {}
    lane = 0
    for leaf in binding.leaves:
        keys[leaf.name] = list(range(lane, lane + leaf.width))
        for name in leaf.lanes:
            keys[name] = [*keys.get(name, []), lane] if name != leaf.name else keys[name]
            lane += 1
    return keys


def check_affine(options: Options, binding: Binding) -> None:
    """Raise a SchemaError if affine= speaks of what is not bound."""
    if options.affine is None:
        return
    keys = _affine_keys(binding)
    for name in options.affine:
        if name not in keys:
            raise SchemaError(f"affine: {SchemaError.missing(name, keys)}")


def _affine_lanes(options: Options, binding: Binding) -> tuple[Floats | None, Floats | None]:
    if options.affine is None:
        return None, None
    keys = _affine_keys(binding)
    gamma, beta = np.ones(len(binding.lanes)), np.zeros(len(binding.lanes))
    # Whole columns first, so that a single element may differ from its list.
    columns = {leaf.name for leaf in binding.leaves}
    for name, pair in sorted(options.affine.items(), key=lambda item: item[0] not in columns):
        lanes: Sequence[int] = keys[name]
        gamma[lanes], beta[lanes] = pair
    return gamma, beta
