"""The map from data to normalized values, and the one rule for constant columns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import kernels
from streambn.accumulators import Estimates
from streambn.arrow import Binding, Leaf, SchemaCache, Selection, fields_by_name, find_field
from streambn.errors import InvalidValueError
from streambn.kernels import FeatureTransform
from streambn.kernels.interface import Floats, Transformed
from streambn.options import Options
from streambn.statistics import Statistics

__all__ = ["FINGERPRINT_KEY", "Standardizer"]

FINGERPRINT_KEY = b"streambn.fingerprint"

_EPSILON = float(np.finfo(np.float64).eps)
_LEAST_NORMAL = float(np.finfo(np.float64).smallest_normal)


@dataclass(frozen=True, eq=False)
class Standardizer:
    """The map z = clip((x − mean) / scale) · gamma + beta of each feature, and its inverse.

    It follows from statistics, never learns, and is safe to share between threads.

    Attributes
    ----------
    binding : Binding
        The columns that the map applies to.
    options : Options
    parameters : FeatureTransform
        The map as arrays over features.
    constant : ndarray of bool, shape (features,)
        Whether the variance of each feature is within rounding error of zero: σ ≤ ε·|mean|
        with ε = 2.2e-16, or σ < 2.3e-308, where float64 loses digits and 1/σ overflows; or σ = 0
        for integers and decimals, whose values are not rounded. A
        feature whose variance is undefined, as that of one value with ``ddof=1``, is constant;
        one without a mean is not.
    selection : Selection
        The rule that found the columns.

    Notes
    -----
    The scale of a feature is √(var + eps). The scale of a constant feature is √eps, or 1 if
    ``eps=0``, so that its constant normalizes to 0. With ``scale=False`` every scale is 1.

    The bound for a constant is scikit-learn's n·ε·var + (n·ε·mean)² without n. The factor n
    covers the error of plain summation, which double-double moments do not have; with it, a
    column of mean 1e12 and σ = 1 would count as constant after 5,000 rows.
    """

    binding: Binding
    options: Options
    parameters: FeatureTransform
    constant: NDArray[np.bool_]
    selection: Selection

    @classmethod
    def of(cls, statistics: Statistics) -> Standardizer:
        """Return the map that follows from statistics; it is computed once for each.

        Raises
        ------
        NotFittedError
            No data was seen.
        """
        found: Standardizer | None = statistics.derived.get(cls)
        if found is None:
            found = statistics.derived[cls] = cls._of(statistics)
        return found

    @classmethod
    def _of(cls, statistics: Statistics) -> Standardizer:
        options, binding = statistics.options, replace(statistics.require_binding(), spare=False)
        estimates = statistics.estimates
        zero = np.zeros(len(binding.features))
        constant = _is_constant(estimates, binding.exact)
        gamma, beta = _affine(options, binding)
        parameters = FeatureTransform(
            location_hi=estimates.mean_hi if options.center else zero,
            location_lo=estimates.mean_lo if options.center else zero,
            scale=_scale(estimates, options.eps, constant) if options.scale else zero + 1.0,
            gamma=gamma,
            beta=beta,
            clip=options.clip,
            known=statistics.known,
        )
        constant &= estimates.defined
        return cls(binding, options, parameters, constant, statistics.selection)

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
        return self._take(binding, indices)

    def matching(self, schema: pa.Schema) -> Standardizer:
        """Return the map of the columns that data of a schema has.

        It differs from this one if the statistics are a union of columns, or if a column held
        only nulls while they were learned.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        """
        if self.binding.is_settled:
            return self
        matched: Standardizer = self._schemas.get(schema, "match", lambda: self._match(schema))
        return matched

    def _match(self, schema: pa.Schema) -> Standardizer:
        part, fields = self, fields_by_name(schema)
        if not self.binding.union:
            for leaf in self.binding.leaves:
                find_field(fields, leaf.path)
        change = replace(self.binding, union=False).adapt(schema, self.selection)
        if change is not None:
            part = self._take(replace(change.binding, union=self.binding.union), change.origins)
        keep = [
            (leaf, range(start, start + leaf.width))
            for leaf, start in part.binding.starts()
            if leaf.typed and leaf.path[0] in fields
        ]
        binding = Binding(tuple(leaf for leaf, _ in keep))
        return part._take(binding, [i for _, features in keep for i in features])

    def _take(self, binding: Binding, features: Any) -> Standardizer:
        """Return the map of some features, which are those of `binding`."""
        features = np.asarray(features, np.int64)
        return replace(
            self,
            binding=binding,
            parameters=self.parameters.take(features),
            constant=self.constant[features],
        )

    @cached_property
    def _schemas(self) -> SchemaCache:
        return SchemaCache()

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
        made: pa.Schema = self._schemas.get(
            schema,
            (dtype, nullable, fingerprint),
            lambda: self._output_schema(schema, dtype, nullable, fingerprint),
        )
        return made

    def _output_schema(
        self, schema: pa.Schema, dtype: pa.DataType | None, nullable: bool, fingerprint: str | None
    ) -> pa.Schema:
        part = self.matching(schema)
        nullable = nullable or not bool(part.parameters.known.all())
        schema = part.binding.output_schema(schema, dtype, nullable)
        metadata = dict(schema.metadata or {})
        if metadata.pop(FINGERPRINT_KEY, None) is None and fingerprint is None:
            return schema
        if fingerprint is not None:
            metadata[FINGERPRINT_KEY] = fingerprint.encode()
        return schema.with_metadata(metadata or None)

    def standardize(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a batch normalized, with the schema that `output_schema` gave.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            ``nan="raise"`` or ``inf="raise"`` refuses a value, or float16 cannot hold a result.
        """
        part = self.matching(batch.schema)
        columns = part.binding.extract(batch)
        leaf_schema = part.binding.leaf_schema(columns, schema)
        mapped = kernels.normalize(columns, part.parameters, leaf_schema)
        self.options.check_finite(mapped.nans, mapped.infs, part.binding.features)
        part._check_range(mapped, leaf_schema, "clip= bounds it, and ")
        return part.binding.rebuild(columns, mapped.batch, schema)

    def restore(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a normalized batch in the units of the data: the inverse of `standardize`.

        Raises
        ------
        SchemaError
            A column is missing or is not numeric.
        InvalidValueError
            A gamma is 0, which has no inverse, or float16 cannot hold a result.
        """
        gamma = self.parameters.gamma
        if gamma is not None and not gamma.all():
            name = self.binding.features[int(np.flatnonzero(gamma == 0)[0])]
            raise InvalidValueError(
                f"affine gives column {name!r} a gamma of 0, which has no inverse. Choose another "
                "gamma.",
                argument="affine",
                column=name,
            )
        part = self.matching(batch.schema)
        columns = part.binding.extract(batch)
        leaf_schema = part.binding.leaf_schema(columns, schema)
        mapped = kernels.denormalize(columns, part.parameters, leaf_schema)
        part._check_range(mapped, leaf_schema, "")
        return part.binding.rebuild(columns, mapped.batch, schema)

    def _check_range(self, mapped: Transformed, schema: pa.Schema, remedy: str) -> None:
        """Refuse finite values that became infinite because float16 ends at 65,504.

        Larger types end so far beyond what is normalized that a look at every output would not
        pay. They overflow to infinity, as everywhere.
        """
        narrow: list[tuple[int, Leaf, range]] = self._schemas.get(
            schema, "float16", lambda: self._float16_leaves(schema)
        )
        for index, leaf, features in narrow:
            array = mapped.batch.column(index)
            values = array
            if isinstance(values, pa.ExtensionArray):  # a tensor
                values = values.storage
            while pa.types.is_fixed_size_list(values.type):
                values = values.flatten()
            found = np.count_nonzero(np.isinf(values.to_numpy(zero_copy_only=False)))
            if found > mapped.infs[features].sum():
                raise InvalidValueError(
                    f"column {leaf.name!r} would hold values beyond 65,504, the largest of "
                    f"float16: {remedy}dtype=pyarrow.float32() holds it.",
                    argument="dtype",
                    column=leaf.name,
                )

    def _float16_leaves(self, schema: pa.Schema) -> list[tuple[int, Leaf, range]]:
        """Return index, leaf and features of the float16 columns among the normalized leaves."""
        found = []
        for index, (leaf, start) in enumerate(self.binding.starts()):
            kind, features = schema.field(index).type, range(start, start + leaf.width)
            # Where the statistics are infinite, so are the results.
            finite = np.isfinite(self.parameters.location_hi[features]).all()
            if finite and pa.types.is_float16(kind if leaf.size is None else kind.value_type):
                found.append((index, leaf, features))
        return found


def _is_constant(estimates: Estimates, exact: NDArray[np.bool_]) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        rounding = np.maximum(_EPSILON * np.abs(estimates.mean_hi), _LEAST_NORMAL)
        rounding = np.where(exact, 0.0, rounding)
        return ~(estimates.std > rounding) & np.isfinite(estimates.mean_hi)


def _scale(estimates: Estimates, eps: float, constant: NDArray[np.bool_]) -> Floats:
    with np.errstate(all="ignore"):
        std = np.where(constant, 0.0, estimates.std)
        if eps == 0:
            return np.where(constant, 1.0, std)
        var = estimates.var + eps
        # Where the variance leaves the range of float64 its root may not.
        ordinary = (estimates.var > 1e-290) & np.isfinite(var)
        return np.where(constant | ~ordinary, np.hypot(std, np.sqrt(eps)), np.sqrt(var))


def _affine(options: Options, binding: Binding) -> tuple[Floats | None, Floats | None]:
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
