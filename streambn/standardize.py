"""The map from data to normalized values, and the one rule for constant columns."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import kernels
from streambn._lazy import lazy_property
from streambn.arrow import Binding, Leaf, SchemaCache, Selection, fields_by_name, find_field
from streambn.errors import InvalidValueError
from streambn.kernels import Columns, FeatureTransform, Layout
from streambn.kernels.interface import Floats, Ints, Transformed
from streambn.options import Options
from streambn.statistics import Statistics

__all__ = [
    "FINGERPRINT_KEY",
    "Standardizer",
    "affine_of",
    "beyond_float16",
    "check_float16",
    "float16_leaves",
]

FINGERPRINT_KEY = b"streambn.fingerprint"

_OLDER_PLANS: Final = 3  # that are kept beside the newest one


class _Frame:
    """What the maps of one stream have in common, whatever the state.

    Attributes
    ----------
    binding : Binding
    options : Options
    columns, exclude
        The names that the user gave.
    selection : Selection
    gamma, beta : ndarray of float64, shape (features,), or None
        None: 1 and 0.
    propagates : bool
        Whether a NaN or an infinity makes statistics NaN.
    schemas : SchemaCache
        What follows from a schema of the data.
    plans : tuple of (pyarrow.Schema, pyarrow.Schema, _Plan)
        The last schemas of data and of output, and how they are mapped.
    """

    __slots__ = (
        "beta",
        "binding",
        "columns",
        "exclude",
        "gamma",
        "options",
        "plans",
        "propagates",
        "schemas",
        "selection",
    )

    def __init__(self, statistics: Statistics, binding: Binding) -> None:
        self.binding, self.options = binding, statistics.options
        self.columns, self.exclude = statistics.columns, statistics.exclude
        self.selection = statistics.selection
        self.gamma, self.beta = affine_of(statistics.options, binding)
        self.propagates = "propagate" in (statistics.options.nan, statistics.options.inf)
        self.schemas = SchemaCache()
        self.plans: tuple[tuple[pa.Schema, pa.Schema, _Plan], ...] = ()

    @classmethod
    def of(cls, statistics: Statistics) -> _Frame:
        """Return the frame of statistics, which is that of the batch before."""
        binding = statistics.require_binding().without_spare
        frames: tuple[_Frame, ...] = binding.derived.get(cls, ())
        for frame in frames:
            if (
                frame.options is statistics.options
                and frame.columns is statistics.columns
                and frame.exclude is statistics.exclude
            ):
                return frame
        made = cls(statistics, binding)
        # Two are enough for a stream: one of all data, and one of a batch.
        binding.derived[cls] = (made, *frames[:1])
        return made

    def take(self, binding: Binding, features: Any) -> _Frame:
        """Return the frame of some features, which are those of `binding`."""
        part = copy.copy(self)
        part.binding, part.schemas, part.plans = binding, SchemaCache(), ()
        if self.gamma is not None and self.beta is not None:
            part.gamma, part.beta = self.gamma[features], self.beta[features]
        return part


class _Plan(NamedTuple):
    """How batches of one schema are mapped to batches of another.

    A batch of one row takes less time with everything at hand that follows from its schema.
    """

    frame: _Frame
    features: NDArray[np.int64] | None  # of the frame, among all; None: all of them
    settled: bool  # whether the batches have the layout of those that are learned
    layout: Layout | None  # None: the batches have vectors to be converted
    leaf_schema: pa.Schema  # of the kernel's output
    whole: bool  # whether the kernel's output is the output
    narrow: list[tuple[int, Leaf, range]]  # the float16 columns

    def columns(self, batch: pa.RecordBatch) -> Columns:
        """Return the columns of the features."""
        if self.layout is None:
            return self.frame.binding.extract(batch)
        return Columns(batch, self.layout)

    def rebuild(
        self, columns: Columns, leaves: pa.RecordBatch, schema: pa.Schema
    ) -> pa.RecordBatch:
        """Return the output of the kernel as a batch of the output's schema."""
        return leaves if self.whole else self.frame.binding.rebuild(columns, leaves, schema)


class Standardizer:
    """The map z = clip((x − mean) / scale) · gamma + beta of each feature, and its inverse.

    It follows from statistics, never learns, and is safe to share between threads.

    Attributes
    ----------
    parameters : FeatureTransform
        The map as arrays over features.

    Notes
    -----
    The scale of a feature is √(var + eps). The scale of a constant feature is √eps, or 1 if
    ``eps=0``, so that its constant normalizes to 0. With ``scale=False`` every scale is 1.

    The bound for a constant is scikit-learn's n·ε·var + (n·ε·mean)² without n. The factor n
    covers the error of plain summation, which double-double moments do not have; with it, a
    column of mean 1e12 and σ = 1 would count as constant after 5,000 rows.
    """

    def __init__(self, parameters: FeatureTransform, frame: _Frame) -> None:
        self.parameters = parameters
        self._frame = frame

    @classmethod
    def of(cls, statistics: Statistics) -> Standardizer:
        """Return the map that follows from statistics; it is computed once for each.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        derived = statistics.derived
        found: Standardizer | None = derived.get(cls)
        if found is None:
            found = derived[cls] = cls._of(statistics)
        return found

    @classmethod
    def _of(cls, statistics: Statistics) -> Standardizer:
        frame = _Frame.of(statistics)
        options, exact = frame.options, frame.binding.exact
        moments = None
        if not frame.propagates:
            # Not by `feature_state` alone, because this is done after every batch of a loop.
            whole = frame.binding is statistics.binding
            state = statistics.state if whole else statistics.feature_state
            moments = statistics.policy.readable(state)
        if moments is None:
            numbers, flags = kernels.maps_of(statistics.estimates, exact, options.eps)
        else:
            numbers, flags = kernels.maps_of_moments(moments, options.ddof, exact, options.eps)
        if not options.center:
            numbers[:2] = 0.0
        if not options.scale:
            numbers[2] = 1.0
        if options.min_count:
            flags[0] &= statistics.tally.count >= options.min_count
        transform = FeatureTransform(numbers, flags, frame.gamma, frame.beta, options.clip)
        return cls(transform, frame)

    @property
    def binding(self) -> Binding:
        """The columns that the map applies to."""
        return self._frame.binding

    @property
    def selection(self) -> Selection:
        """The rule that found the columns."""
        return self._frame.selection

    @property
    def options(self) -> Options:
        """The hyperparameters other than policy and columns."""
        return self._frame.options

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Whether the variance of each feature is within rounding error of zero.

        That is σ ≤ ε·|mean| with ε = 2.2e-16, or σ < 2.3e-308, where float64 loses digits and 1/σ
        overflows; or σ = 0 for integers and decimals, whose values are not rounded. A feature
        whose variance is undefined, as that of one value with ``ddof=1``, is constant; one
        without a mean is not.
        """
        return self.parameters.constant

    @property
    def scale(self) -> Floats:
        """The divisor of each feature, shape (features,); NaN where it is undefined."""
        return self.parameters.scale

    def select(self, columns: Collection[str]) -> Standardizer | None:
        """Return the map of some top-level columns, or None if it does not change any of them."""
        binding, indices = self.binding.select(columns)
        if len(indices) == 0:
            return None
        if len(indices) == len(self.constant):
            return self
        return self._take(self._frame.take(binding, indices), indices)

    def matching(self, schema: pa.Schema) -> Standardizer:
        """Return the map of the columns that data of a schema has.

        It differs from this one if the statistics are a union of columns, or if a column held
        only nulls while they were learned.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        """
        frame, features = self._matched(schema)
        return self if frame is self._frame else self._take(frame, features)

    def _matched(self, schema: pa.Schema) -> tuple[_Frame, Any]:
        """Return the frame of the columns that data of a schema has, and its features."""
        if self.binding.is_settled:
            return self._frame, ()
        found: tuple[_Frame, Any] = self._frame.schemas.get(
            schema, "match", lambda: self._match(schema)
        )
        return found

    def _match(self, schema: pa.Schema) -> tuple[_Frame, NDArray[np.int64]]:
        binding, fields = self.binding, fields_by_name(schema)
        features = np.arange(len(self.constant))
        if not binding.union:
            for leaf in binding.leaves:
                find_field(fields, leaf.path)
        change = replace(binding, union=False).adapt(schema, self._frame.selection)
        if change is not None:
            binding = change.binding
            features = np.asarray(change.origins, np.int64)
        keep = [
            (leaf, range(start, start + leaf.width))
            for leaf, start in binding.starts()
            if leaf.typed and leaf.path[0] in fields
        ]
        matched = Binding(tuple(leaf for leaf, _ in keep))
        features = features[[i for _, indices in keep for i in indices]]
        return self._frame.take(matched, features), features

    def _take(self, frame: _Frame, features: NDArray[np.int64]) -> Standardizer:
        """Return the map of some features, which are those of a frame."""
        return Standardizer(self.parameters.take(features), frame)

    def output_schema(
        self,
        schema: pa.Schema,
        dtype: pa.DataType | None = None,
        *,
        nullable: bool = False,
        fingerprint: str | None = None,
    ) -> pa.Schema:
        """Return the schema of normalized batches.

        Parameters
        ----------
        schema : pyarrow.Schema
            The schema of the input.
        dtype : pyarrow.DataType, optional
            Float type of the normalized values. Default: floats keep their type, all other
            types become float64.
        nullable : bool
            Declare all normalized columns nullable, not only if a feature has no statistics yet.
        fingerprint : str, optional
            Fingerprint of the statistics for the schema's metadata. One that the input carries
            is removed in any case.
        """
        strict, loose = self._frame.schemas.get(
            schema,
            (dtype, fingerprint),
            lambda: _output_schemas(self.matching(schema).binding, schema, dtype, fingerprint),
        )
        # Most schemas declare their columns nullable, and then both are one.
        if strict is loose or nullable or not self.matching(schema)._all_known:
            return loose
        return strict

    @lazy_property
    def _all_known(self) -> bool:
        return bool(np.count_nonzero(self.parameters.known) == len(self.constant))

    def standardize(
        self, batch: pa.RecordBatch, schema: pa.Schema, columns: Columns | None = None
    ) -> pa.RecordBatch:
        """Return a batch normalized, with the schema that `output_schema` gave.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
        schema : pyarrow.Schema
        columns : Columns, optional
            The leaves of the batch, if the binding of the statistics extracted them.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            ``nan="raise"`` or ``inf="raise"`` refuses a value, or float16 cannot hold a result.
        """
        plan = self._plan(batch, schema)
        part = self if plan.features is None else self._take(plan.frame, plan.features)
        # A binding that is not settled has another layout here, without the spare feature.
        if columns is None or not plan.settled:
            columns = plan.columns(batch)
        mapped = kernels.normalize(columns, part.parameters, plan.leaf_schema)
        if np.count_nonzero(mapped.not_finite):
            self.options.check_finite(mapped.nans, mapped.infs, part.binding.features)
        if plan.narrow:
            part._check_range(mapped, plan.narrow, "clip= bounds it, and ")
        return plan.rebuild(columns, mapped.batch, schema)

    def restore(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a normalized batch in the units of the data: the inverse of `standardize`.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            A gamma is 0, which has no inverse, or float16 cannot hold a result.
        """
        self.check_invertible()
        plan = self._plan(batch, schema)
        part = self if plan.features is None else self._take(plan.frame, plan.features)
        columns = plan.columns(batch)
        mapped = kernels.denormalize(columns, part.parameters, plan.leaf_schema)
        if plan.narrow:
            part._check_range(mapped, plan.narrow, "")
        return plan.rebuild(columns, mapped.batch, schema)

    def _plan(self, batch: pa.RecordBatch, out: pa.Schema) -> _Plan:
        """Return the plan for a batch and its output schema, which is the same object each time."""
        frame, schema = self._frame, batch.schema
        for known, other, plan in frame.plans:
            if other is out and (known is schema or known.equals(schema, check_metadata=True)):
                return plan
        part, features = self._matched(schema)
        columns = part.binding.extract(batch)
        leaf_schema = part.binding.leaf_schema(columns, out)
        plan = _Plan(
            part,
            None if part is frame else features,
            part is frame and part.binding.is_settled,
            columns.layout if columns.batch is batch else None,
            leaf_schema,
            leaf_schema is out,
            float16_leaves(part.binding, leaf_schema),
        )
        frame.plans = (*frame.plans[-_OLDER_PLANS:], (schema, out, plan))
        return plan

    def check_invertible(self) -> None:
        """Raise an InvalidValueError if a gamma is 0, which has no inverse."""
        gamma = self.parameters.gamma
        if gamma is not None and not gamma.all():
            name = self.binding.features[int(np.flatnonzero(gamma == 0)[0])]
            raise InvalidValueError(
                f"affine gives column {name!r} a gamma of 0, which has no inverse. Choose another "
                "gamma.",
                argument="affine",
                column=name,
            )

    def _check_range(
        self, mapped: Transformed, narrow: list[tuple[int, Leaf, range]], remedy: str
    ) -> None:
        """Refuse finite values that became infinite because float16 ends at 65,504.

        Larger types end so far beyond what is normalized that a look at every output would not
        pay. They overflow to infinity, as everywhere.
        """
        for index, leaf, features in narrow:
            if not np.isfinite(self.parameters.location_hi[features]).all():
                continue  # where the statistics are infinite, so are the results
            check_float16(mapped.batch.column(index), mapped.infs[features], leaf, remedy)


def check_float16(values: pa.Array, infs: Ints, leaf: Leaf, remedy: str) -> None:
    """Refuse more infinite values in an output of float16 than its input has."""
    if isinstance(values, pa.ExtensionArray):  # a tensor
        values = values.storage
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    found = np.count_nonzero(np.isinf(values.to_numpy(zero_copy_only=False)))
    if found > infs.sum():
        raise beyond_float16(leaf.name, remedy)


def beyond_float16(column: str, remedy: str) -> InvalidValueError:
    """Return the error for finite results that float16 does not hold."""
    return InvalidValueError(
        f"column {column!r} would hold values beyond 65,504, the largest of float16: {remedy}"
        "dtype=pyarrow.float32() holds it.",
        argument="dtype",
        column=column,
    )


def float16_leaves(binding: Binding, schema: pa.Schema) -> list[tuple[int, Leaf, range]]:
    """Return index, leaf and features of the float16 columns among the normalized leaves."""
    found = []
    for index, (leaf, start) in enumerate(binding.starts()):
        kind = schema.field(index).type
        if pa.types.is_float16(kind if leaf.size is None else kind.value_type):
            found.append((index, leaf, range(start, start + leaf.width)))
    return found


def _output_schemas(
    binding: Binding, schema: pa.Schema, dtype: pa.DataType | None, fingerprint: str | None
) -> tuple[pa.Schema, pa.Schema]:
    """Return the output schema if normalization adds no nulls, and if it does."""

    def made(nullable: bool) -> pa.Schema:
        out = binding.output_schema(schema, dtype, nullable)
        metadata = dict(out.metadata or {})
        if metadata.pop(FINGERPRINT_KEY, None) is None and fingerprint is None:
            return out
        if fingerprint is not None:
            metadata[FINGERPRINT_KEY] = fingerprint.encode()
        return out.with_metadata(metadata or None)

    strict, loose = made(False), made(True)
    return (loose, loose) if strict.equals(loose) else (strict, loose)


def affine_of(options: Options, binding: Binding) -> tuple[Floats | None, Floats | None]:
    """Return gamma and beta of each feature; None: 1 and 0."""
    if options.affine is None:
        return None, None
    gamma, beta = np.ones(len(binding.features)), np.zeros(len(binding.features))
    # Whole columns first: an element may have a pair of its own.
    columns = {leaf.name for leaf in binding.leaves}
    for name, pair in sorted(options.affine.items(), key=lambda item: item[0] not in columns):
        indices = binding.indices.get(name, [])
        gamma[indices], beta[indices] = pair
    return gamma, beta
