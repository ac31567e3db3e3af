"""Laws for adapters: an adapter normalizes inside its host as `streambn.Normalizer` outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
from hypothesis import strategies as st

from streambn.normalizer import Normalizer
from streambn.policies import Policy
from streambn.testing.laws import Laws, law
from streambn.testing.strategies import NAMES, batches, cuts

__all__ = ["AdapterLaws"]

Batches = Sequence[pa.RecordBatch]


class AdapterLaws(Laws):
    """Test suite for adapters. Subclass it in a test module, and say how the host is called.

    ::

        class TestMyAdapter(AdapterLaws):
            policy = sbn.EMA(halflife=3)

            def learned(self, policy, batches):
                adapter = MyAdapter(policy)
                for batch in batches:
                    adapter.learn(batch)
                return adapter

            def transformed(self, adapter, batch):
                return adapter.transform(batch).to_pydict()

    Attributes
    ----------
    policy : Policy
        The policy of the adapter and of the `streambn.Normalizer` that it is compared with.
    depends_on_cuts : bool
        Whether the statistics depend on how rows are cut into batches, as for `BatchEMA`.
    rtol : float
        Tolerance of normalized values, relative to 1 + |value|. For rows in other batches it is
        also relative to a thousandth of the range in units of σ, because a policy that forgets
        may have rounded larger values than those that its σ is made of.
    max_examples : int, optional
        The number of streams that each law is tried on. By default, a quarter of the examples
        of the Hypothesis profile.
    """

    policy: ClassVar[Policy]
    depends_on_cuts: ClassVar[bool] = False
    rtol: ClassVar[float] = 1e-12

    # ----------------------------------------------------------------- to be overridden

    def learned(self, policy: Policy, batches: Batches) -> Any:
        """Return an adapter that has learned the batches in the given order.

        They have the float64 columns ``a`` and ``b``, with nulls and NaN. Some may be empty, but
        there is at least one row.
        """
        raise NotImplementedError

    def transformed(self, adapter: Any, batch: pa.RecordBatch) -> dict[str, list[float | None]]:
        """Return the normalized values of a batch by column. The batch has at least one row."""
        raise NotImplementedError

    def as_host(self, z: float | None, x: float | None, stats: dict[str, Any]) -> float | None:
        """Return the value that the host is to give where `streambn.Normalizer` gives `z`.

        The default is `z`.

        Parameters
        ----------
        z : float or None
            The normalized value; None is null.
        x : float or None
            The value in the data.
        stats : dict
            The row of the feature in `streambn.Normalizer.stats`.
        """
        del x, stats
        return z

    # ------------------------------------------------------------------ the laws

    @law(st.data())
    def law_adapter_agrees_with_normalizer(self, data: st.DataObject) -> None:
        """Normalize batches that were learned, and others, as `streambn.Normalizer` does."""
        stream, probe = self._drawn(data)
        adapter, core = self.learned(self.policy, stream), self._core(stream)
        for batch in (*stream, probe):
            self._assert_agree(adapter, core, batch)

    @law(st.data())
    def law_batches_do_not_matter(self, data: st.DataObject) -> None:
        """Learn the same from the same rows in other batches."""
        stream, probe = self._drawn(data)
        recut = stream if self.depends_on_cuts else data.draw(cuts(stream))
        adapter, core = self.learned(self.policy, recut), self._core(stream)
        for batch in (*stream, probe):
            self._assert_agree(adapter, core, batch, same_batches=self.depends_on_cuts)

    @law(st.data())
    def law_transform_never_learns(self, data: st.DataObject) -> None:
        """Give the same bits before and after other batches are transformed."""
        stream, probe = self._drawn(data)
        adapter = self.learned(self.policy, stream)
        before = self._answers(adapter, probe)
        for batch in stream:
            self._answers(adapter, batch)
        assert repr(self._answers(adapter, probe)) == repr(before)

    @law(st.data())
    def law_single_rows_are_normalized_as_in_batches(self, data: st.DataObject) -> None:
        """Follow one rule for one row and for many."""
        stream, probe = self._drawn(data)
        adapter, core = self.learned(self.policy, stream), self._core(stream)
        for i in range(probe.num_rows):
            self._assert_agree(adapter, core, probe.slice(i, 1))

    # ------------------------------------------------------------------- helpers

    def _drawn(self, data: st.DataObject) -> tuple[list[pa.RecordBatch], pa.RecordBatch]:
        """Draw a stream and a batch that is not part of it, both with rows."""
        stream = data.draw(batches().filter(lambda s: any(batch.num_rows for batch in s)))
        [probe] = data.draw(batches(1).filter(lambda s: s[0].num_rows > 0))
        return stream, probe

    def _core(self, stream: Batches) -> Normalizer:
        core = Normalizer(self.policy)
        for batch in stream:
            core.update(batch)
        return core

    def _answers(self, adapter: Any, batch: pa.RecordBatch) -> dict[str, list[float | None]]:
        return self.transformed(adapter, batch) if batch.num_rows else {name: [] for name in NAMES}

    def _assert_agree(
        self, adapter: Any, core: Normalizer, batch: pa.RecordBatch, same_batches: bool = True
    ) -> None:
        answers = self._answers(adapter, batch)
        expected = core.transform(batch)
        for stats in core.stats().to_pylist():
            name, drift = stats["column"], 0.0
            if not same_batches and stats["count"]:
                drift = 1e-3 * (stats["max"] - stats["min"]) / (stats["std"] or 1.0)
            columns = (answers[name], expected[name].to_pylist(), batch[name].to_pylist())
            for got, z, x in zip(*columns, strict=True):
                wanted = self.as_host(z, x, stats)
                if got is None or wanted is None:
                    same = got is wanted
                elif math.isnan(wanted):
                    same = math.isnan(got)
                else:
                    same = abs(got - wanted) <= self.rtol * (1 + abs(wanted) + drift)
                assert same, f"column {name!r}: {x} became {got}, not {wanted}"
