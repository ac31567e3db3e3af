"""Statistics of a Dataset, and a Dataset normalized by frozen ones."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
from ray.data import Dataset

import streambn as sbn
from streambn.errors import InvalidValueError

from .._parts import (
    check_frozen,
    check_normalizer,
    error_from_json,
    merge_states,
    read_state,
    without_data,
)
from .blocks import as_arrow, as_ray, check_dataset, schema_of
from .order import Order
from .rows import Sizes, learn, measure, sizes_of
from .workers import job, start_task

__all__ = ["apply", "fit", "map_blocks", "transform"]

_Part = dict[str, Any]


def fit(
    ds: Dataset, normalizer: sbn.Normalizer, *, order_by: str | Sequence[str] | None = None
) -> sbn.Normalizer:
    """Learn the statistics of a Ray Dataset.

    Each task learns a block, and the driver merges what the tasks learned. Nothing is shuffled or
    held, and only the columns that the statistics need are read.

    Parameters
    ----------
    ds : ray.data.Dataset
    normalizer : Normalizer
        Policy, options and columns. If it has seen data, the statistics go on from there. It
        stays as it is.
    order_by : str or sequence of str, optional
        Columns of numbers, dates, times or text that put the rows in order. `EMA` by row and
        `BatchEMA` need them, and other policies do not. The ranges of different blocks must not
        overlap, as after ``ds.sort("t")``; within a block the rows may be in any order. No two
        rows may have the same values.

    Returns
    -------
    Normalizer
        A new one. Under `Exact` it has the bits, and so the fingerprint, that
        ``normalizer.update`` has after the same rows, however they are divided into blocks. Under
        `Welford` and `EMA` by event time the two agree to rounding.

    Raises
    ------
    SchemaError
        A column is missing or not numeric.
    InvalidValueError
        The policy depends on the order of rows, and `order_by` does not put them in order;
        ``nan=`` or ``inf=`` refuses a value; or the workers lack streambn.
    MergeError
        Blocks do not belong together, as decimals and floats under `Exact`.

    Notes
    -----
    The Dataset's schema is read first, to find the columns. Ray may run the first tasks of a plan
    for it. A block whose task is tried again counts once. For a `BatchEMA` the Dataset is read
    twice: first for the sizes of its blocks, which tell where those of the policy begin. Call
    ``ds.materialize()`` before if it takes long to compute.
    """
    check_dataset(ds)
    check_normalizer(normalizer)
    order = Order.of(order_by)
    _check_order(normalizer, order)
    with job():
        schema = schema_of(ds, run=True)
    if schema is None:
        return sbn.Normalizer.from_statistics(normalizer.statistics)
    start = sbn.Normalizer.from_statistics(normalizer.statistics.bind(schema))
    if order is not None:
        order.check_schema(schema)
    wanted = start.statistics.columns_to_read(schema)
    wanted = list(dict.fromkeys([*wanted, *(order.names if order is not None else ())]))
    # By the rule "union" a later block may have columns that the first one lacks.
    if normalizer.options.schema == "fixed" and set(wanted) < set(schema.names):
        ds = ds.select_columns(wanted)
    with job():
        sizes = None if order is None else _sizes(ds, start, order)
        task = functools.partial(learn, without_data(start).to_bytes(), order, sizes)
        parts = _parts(map_blocks(ds, task))
        first = next(parts, None)
        if first is None:  # nothing was learned, not even which columns there are
            return sbn.Normalizer.from_statistics(normalizer.statistics)
        return merge_states(start, _states(chain([first], parts), normalizer.policy, order), "Ray")


def transform(ds: Dataset, frozen: sbn.FrozenNormalizer) -> Dataset:
    """Normalize a Ray Dataset by frozen statistics.

    Parameters
    ----------
    ds : ray.data.Dataset
    frozen : FrozenNormalizer

    Returns
    -------
    ray.data.Dataset
        A plan, which runs when it is used. The values have the same bits as those of
        ``frozen.transform``. Floats keep their type, other normalized columns become float64, and
        the rest of the columns is unchanged.

    Raises
    ------
    SchemaError
        A column is missing or is not numeric. If the schema of `ds` is not known before it runs,
        the job that runs the plan fails instead.
    InvalidValueError
        `ds` is not a Dataset. A value that ``nan="raise"`` or ``inf="raise"`` refuses fails the
        job that runs the plan.

    Notes
    -----
    Blocks of Arrow are read without a copy, and blocks of pandas become Arrow. Ray sends the
    statistics to each node once.
    """
    check_dataset(ds)
    check_frozen(frozen)
    schema = schema_of(ds, run=False)
    if schema is not None:
        frozen.transform(schema.empty_table())
    return map_blocks(ds, functools.partial(apply, frozen.to_bytes()))


def map_blocks(ds: Dataset, function: Any, **options: Any) -> Dataset:
    """Return a Dataset of what a function returns for each block, as an Arrow table."""
    return ds.map_batches(
        function,
        batch_format="pyarrow",
        batch_size=None,  # whole blocks; Ray would cut them, or join blocks of different types
        zero_copy_batch=True,
        **options,
    )


def apply(state: bytes, table: pa.Table) -> pa.Table:
    """Normalize a block in a task."""
    start_task()
    if not table.num_columns:  # how Ray writes a block without rows
        return table
    return as_ray(read_state(state, "Ray").transform(as_arrow(table)), table.schema)


def _check_order(normalizer: sbn.Normalizer, order: Order | None) -> None:
    policy = normalizer.policy
    if policy.depends_on_batches:
        raise InvalidValueError(
            f"{policy!r} takes each record batch as a block, and Ray cuts blocks as it likes. "
            "Choose batch_rows=.",
            argument="batch_rows",
        )
    if not policy.commutative and order is None:
        raise InvalidValueError(
            f"{policy!r} depends on the order of rows, and the blocks of a Dataset have none. Name "
            "a column that has it, as order_by='t', after ds.sort('t').",
            argument="order_by",
        )


def _sizes(ds: Dataset, start: sbn.Normalizer, order: Order) -> Sizes | None:
    """Return the sizes of the blocks if the policy has blocks of its own, which they may cut."""
    policy: Any = start.policy
    if getattr(policy, "batch_rows", None) is None:
        return None
    keys = ds.select_columns(list(order.names))
    measured = order.arranged(list(_parts(map_blocks(keys, functools.partial(measure, order)))))
    return sizes_of(measured, order, policy.batch_rows, start.statistics.state.open_rows)


def _states(parts: Iterable[_Part], policy: Any, order: Order | None) -> Iterable[bytes]:
    """Return what tasks learned, in an order that does not depend on which one ends first."""
    if order is not None:
        return (part["state"] for part in order.arranged(list(parts)))
    states = (part["state"] for part in parts)
    # Exact sums are the same in any order, so each is merged as it comes. Others are arranged by
    # their bytes.
    return states if policy.exact else sorted(states)


def _parts(learned: Dataset) -> Iterator[_Part]:
    """Run the tasks, and yield what each learned.

    Raises
    ------
    StreamBNError
        That of a task.
    """
    for table in learned.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        for row in table.to_pylist():
            if row.get("error") is not None:
                raise error_from_json(row["error"])
            yield row
