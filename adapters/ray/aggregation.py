"""Statistics as an aggregation of Ray, for groups."""

from __future__ import annotations

from ray.data.aggregate import AggregateFnV2
from ray.data.block import Block, BlockAccessor

import streambn as sbn
from streambn.errors import InvalidValueError

from .._parts import check_normalizer, merge_states, read_state, without_data
from .blocks import as_arrow
from .workers import start_task

__all__ = ["Statistics"]


class Statistics(AggregateFnV2[bytes, bytes]):
    """Statistics of each group, for ``ds.groupby("k").aggregate(Statistics(normalizer))``.

    The result is a column of bytes, which `streambn.from_bytes` reads. `fit` is faster for a whole
    Dataset: ``ds.aggregate`` holds all its blocks first.

    Parameters
    ----------
    normalizer : Normalizer
        Policy, options and columns. The columns of the group's key are numeric columns like
        others: leave them out with ``exclude=``. Statistics that it has are not part of the
        result.
    name : str
        Name of the column.

    Raises
    ------
    InvalidValueError
        The policy depends on the order of rows, which groups do not keep.
    SnapshotError
        A callable chooses the columns. Name them.

    Notes
    -----
    A missing column, or a value that ``nan="raise"`` or ``inf="raise"`` refuses, fails the job
    that runs the aggregation.

    Examples
    --------
    >>> import streambn as sbn
    >>> norm = sbn.Normalizer(sbn.Exact(), exclude=["shop"])
    >>> groups = ds.groupby("shop").aggregate(Statistics(norm))  # doctest: +SKIP
    >>> {row["shop"]: sbn.from_bytes(row["statistics"]) for row in groups.iter_rows()}
    ... # doctest: +SKIP
    """

    def __init__(self, normalizer: sbn.Normalizer, name: str = "statistics") -> None:
        check_normalizer(normalizer)
        policy = normalizer.policy
        if not policy.commutative or policy.depends_on_batches:
            raise InvalidValueError(
                f"{policy!r} depends on the order of rows, which groups do not keep. Choose "
                "Welford(), Exact() or EMA(..., time=...).",
                argument="policy",
            )
        self._state = without_data(normalizer).to_bytes()
        super().__init__(name, lambda: b"", on=None, ignore_nulls=True)

    def get_target_column(self) -> str:
        """Return no name, but a text.

        Ray would take None for an aggregation that reads no column, such as a count of rows, and
        drop all columns but the key's.
        """
        return ""

    def aggregate_block(self, block: Block) -> bytes | None:
        """Return the statistics of some rows of a group."""
        start_task()
        table = as_arrow(BlockAccessor.for_block(block).to_arrow())
        if not table.num_rows:
            return None
        norm = sbn.Normalizer.from_statistics(read_state(self._state, "Ray").statistics)
        return norm.update(table).to_bytes()

    def combine(self, current_accumulator: bytes, new: bytes) -> bytes:
        """Return the statistics of both."""
        one = sbn.from_bytes(current_accumulator)
        assert isinstance(one, sbn.Normalizer)
        return merge_states(one, [new], "Ray").to_bytes()
