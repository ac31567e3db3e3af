"""Rows that are normalized as they are learned, each by the statistics as of that row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from streambn._messages import spell
from streambn.arrow import Binding, SchemaCache
from streambn.errors import InvalidValueError
from streambn.kernels import Series
from streambn.kernels.interface import Transformed
from streambn.options import Options
from streambn.policies import Policy
from streambn.standardize import affine_of, check_float16, float16_leaves
from streambn.statistics import Statistics

__all__ = ["check_by_row", "normalize_rows"]


def check_by_row(policy: Policy, by_row: object, using: str) -> None:
    """Check the arguments of `Normalizer.update_transform`.

    Raises
    ------
    InvalidValueError
        `by_row` is not a boolean; or it is True and the policy keeps no statistics as of a row, or
        `using` is "batch".
    """
    if not isinstance(by_row, bool):
        raise InvalidValueError(f"by_row must be True or False, got {by_row!r}.", argument="by_row")
    if using == "batch":
        raise InvalidValueError(
            f"{spell('by_row', True)} cannot be combined with {spell('using', 'batch')}, which "
            "normalizes a batch by its own statistics. Choose 'running' (with the row) or 'before' "
            "(without it).",
            argument="by_row",
        )
    policy.check_by_row()


def normalize_rows(
    statistics: Statistics, batch: pa.RecordBatch, schema: pa.Schema, *, before: bool
) -> tuple[Statistics, pa.RecordBatch]:
    """Return the statistics after one more batch, and the batch normalized row by row.

    Parameters
    ----------
    statistics : Statistics
        Before the batch, and bound to its columns. Without a row that counts they are returned.
    batch : pyarrow.RecordBatch
    schema : pyarrow.Schema
        Schema of the output.
    before : bool
        Whether the statistics that normalize a row exclude it.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `Statistics.learn`, or the event times do not ascend, or float16 cannot hold a
        result.
    """
    binding, options = statistics.require_binding(), statistics.options
    columns = statistics.extract_rows(batch)
    leaf_schema = binding.leaf_schema(columns, schema)
    gamma, beta = affine_of(options, binding)
    exact = binding.exact
    if binding.spare:
        # The feature that stands for columns that are not known yet has no leaf.
        leaf_schema = leaf_schema.append(pa.field("", pa.float64()))
        exact = np.append(exact, False)
        if gamma is not None and beta is not None:
            gamma, beta = np.append(gamma, 1.0), np.append(beta, 0.0)
    series = Series(options.row_rules, before, gamma, beta, exact, leaf_schema)
    learned, mapped = statistics.learn_rows(batch, columns, series)
    _check_range(mapped, binding, options)
    leaves = mapped.batch
    if not binding.is_settled:  # the batch may lack leaves
        names = {*batch.schema.names}
        kept = [i for i, x in enumerate(binding.leaves) if x.typed and x.path[0] in names]
        binding = Binding(tuple(binding.leaves[i] for i in kept))
        columns = binding.extract(batch)
        leaf_schema = binding.leaf_schema(columns, schema)
        leaves = pa.RecordBatch.from_arrays([leaves.column(i) for i in kept], schema=leaf_schema)
    return learned, binding.rebuild(columns, leaves, schema)


def _check_range(mapped: Transformed, binding: Binding, options: Options) -> None:
    """Refuse finite values that became infinite because float16 ends at 65,504."""
    if options.inf == "propagate":  # the statistics themselves may be infinite
        return
    schema = mapped.batch.schema
    cache = binding.derived.setdefault(Series, SchemaCache())
    narrow = cache.get(schema, "float16", lambda: float16_leaves(binding, schema))
    for index, leaf, features in narrow:
        values = mapped.batch.column(index)
        check_float16(values, mapped.infs[features], leaf, "clip= bounds it, and ")
