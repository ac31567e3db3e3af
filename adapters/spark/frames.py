"""Statistics of a DataFrame, and a DataFrame normalized by frozen ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame

import streambn as sbn
from streambn.errors import InvalidValueError

from .._parts import check_frozen, check_normalizer, read_state, without_data
from .blocks import learn_blocks
from .fold import PART_TYPE, Part, collect_parts, collect_rows, merge_parts, part_batch
from .order import Order, OrderedRows, arranged
from .schemas import arrow_schema, changed_schema, numbered, with_names
from .workers import check_frame, job, partition_id, start_task, task

__all__ = ["fit", "transform"]

_log = logging.getLogger("streambn")


def fit(
    df: DataFrame, normalizer: sbn.Normalizer, *, order_by: str | Sequence[str] | None = None
) -> sbn.Normalizer:
    """Learn the statistics of a Spark DataFrame.

    Each task learns the rows of its partition, and the driver merges what they learned. No data
    are shuffled, and only the columns that the statistics need are read.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
    normalizer : Normalizer
        Policy, options and columns. If it has seen data, the statistics go on from there. It
        stays as it is.
    order_by : str or sequence of str, optional
        Columns of numbers, dates, times or text that put the rows in order. `EMA` by row and
        `BatchEMA` need them, and other policies do not. The ranges of different partitions must
        not overlap, as after ``df.repartitionByRange("t")``; within a partition the rows may be
        in any order.

    Returns
    -------
    Normalizer
        A new one. Under `Exact` it has the bits, and so the fingerprint, that
        ``normalizer.update`` has after the same rows, however they are partitioned. Under
        `Welford` and `EMA` by event time the two agree to rounding.

    Raises
    ------
    SchemaError
        A column is missing or not numeric. No job has run.
    InvalidValueError
        The policy depends on the order of rows, and `order_by` does not put them in order;
        ``nan=`` or ``inf=`` refuses a value; the session is stopped; or the Python of the workers
        lacks streambn.

    Notes
    -----
    A task that fails and is tried again counts once, as does one that Spark runs twice.

    With 64 features or more, workers merge the states of 64 neighbouring partitions at a time
    before the driver gets them. With `order_by` the driver gets each state, and
    ``spark.driver.maxResultSize`` limits their number.

    For a `BatchEMA` the DataFrame is read twice: first for the sizes of its partitions, which tell
    where blocks begin. Cache it if it takes long to compute.
    """
    check_frame(df)
    check_normalizer(normalizer)
    if df.isStreaming:
        raise InvalidValueError(
            "df is a stream, which has no end. Learn its micro-batches: "
            "df.writeStream.foreachBatch(StreamingFit(normalizer, path)).",
            argument="df",
        )
    order = Order.of(df, order_by)
    _check_order(normalizer, order)
    schema = arrow_schema(df.schema)
    start = sbn.Normalizer.from_statistics(normalizer.statistics.bind(schema))
    wanted = set(start.statistics.columns_to_read(schema))
    # Without a column Spark would not even say how many rows there are.
    indices = [i for i, name in enumerate(schema.names) if name in wanted] or [0]
    names = tuple(schema.names[i] for i in indices)
    state = without_data(start).to_bytes()
    learn = partial(_learn, state, names, order)
    rows = numbered(df)
    if order is not None:
        rows = rows.sortWithinPartitions(*order.numbered)
        indices += [i for i in order.indices if i not in indices]
    rows = rows.select(*[f"c{i}" for i in indices])
    with job():
        if order is None:
            width = start.statistics.require_binding().width
            parts = collect_parts(rows.mapInArrow(learn, PART_TYPE), width)
        elif isinstance(normalizer.policy, sbn.BatchEMA):
            parts = learn_blocks(rows, start, names, order)
        else:
            found = arranged(collect_rows(rows.mapInArrow(learn, order.type)), order)
            parts = [Part(i, row["rows"], row["state"]) for i, row in enumerate(found)]
    # Without a row nothing was learned, not even which columns there are.
    learned = merge_parts(start if parts else normalizer, parts)
    left_out = learned.statistics.left_out[len(normalizer.statistics.left_out) :]
    if left_out:
        _log.info("columns without statistics: %s", ", ".join(map(str, left_out)))
    return learned


def transform(df: DataFrame, frozen: sbn.FrozenNormalizer) -> DataFrame:
    """Normalize a Spark DataFrame by frozen statistics, in Python workers.

    The values have the same bits as those of ``frozen.transform``. All columns pass through the
    workers. `transform_sql` stays in the JVM and takes half the time.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
    frozen : FrozenNormalizer

    Returns
    -------
    pyspark.sql.DataFrame
        A plan, which runs when it is used. The columns are those of `df`, in the same order;
        floats keep their type, and other normalized columns become double.

    Raises
    ------
    SchemaError
        A column is missing or is not numeric.
    InvalidValueError
        `df` is not a DataFrame, or its session is stopped. A value that ``nan="raise"`` or
        ``inf="raise"`` refuses fails the job that runs the plan.
    """
    check_frame(df)
    check_frozen(frozen)
    incoming = arrow_schema(df.schema)
    outgoing = frozen.transform(incoming.empty_table()).schema
    apply = partial(_apply, frozen.to_bytes(), tuple(incoming.names))
    return numbered(df).mapInArrow(apply, changed_schema(df.schema, outgoing))


def _check_order(normalizer: sbn.Normalizer, order: Order | None) -> None:
    policy = normalizer.policy
    if policy.depends_on_batches:
        raise InvalidValueError(
            f"{policy!r} takes each record batch as a block, and Spark cuts batches as it likes. "
            "Choose batch_rows=.",
            argument="batch_rows",
        )
    if not policy.commutative and order is None:
        raise InvalidValueError(
            f"{policy!r} depends on the order of rows, and a Spark DataFrame has none. Name a "
            "column that has it, as order_by='t', after df.repartitionByRange('t').",
            argument="order_by",
        )


def _learn(
    state: bytes, names: tuple[str, ...], order: Order | None, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Learn the batches of a partition in a task, and yield one row unless there are none.

    Parameters
    ----------
    state : bytes
        Of a normalizer without data.
    names : tuple of str
        The true names of the first columns.
    order : Order, optional
        Of the rows, whose columns are among the first or follow them.
    batches : iterable of pyarrow.RecordBatch
        With numbered columns.
    """
    with task():
        norm = sbn.Normalizer.from_statistics(read_state(state, "Spark").statistics)
        rows = OrderedRows(order, batches)
        norm.update(with_names(batch, names) for batch in rows)
        if rows.count:
            yield rows.add_range(part_batch(partition_id(), rows.count, norm.to_bytes()))


def _apply(
    state: bytes, names: tuple[str, ...], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Normalize the batches of a partition in a task."""
    start_task()
    frozen = read_state(state, "Spark")
    for batch in batches:
        out = frozen.transform(with_names(batch, names))
        # Spark does not read a batch in which a name occurs twice.
        yield with_names(out, batch.schema.names)
