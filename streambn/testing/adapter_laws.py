"""What every adapter keeps: inside a host it says what the core says outside."""

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
    """The laws. Subclass it in a test module, set `policy` and tell how the host is used.

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
        With which the adapter and `streambn.Normalizer` are compared.
    depends_on_cuts : bool
        Whether a batch is more to the policy than its rows, as a block is to `BatchEMA`.
    rtol : float
        Allowed difference of normalized values, relative to 1 and to the value; under
        another cut of the rows also to a thousandth of the range in units of σ, because
        a forgetting policy may have come a long way to a small σ.
    max_examples : int, optional
        The number of streams that each law is tried on. By default, a quarter of the examples
        of the Hypothesis profile.
    """

    policy: ClassVar[Policy]
    depends_on_cuts: ClassVar[bool] = False
    rtol: ClassVar[float] = 1e-12

    # ------------------------------------------------------------- to be filled in

    def learned(self, policy: Policy, batches: Batches) -> Any:
        """Return an adapter that has learned the batches, in this order.

        They have the float64 columns ``a`` and ``b``. Empty batches, nulls and NaN are
        among them, and at least one row.
        """
        raise NotImplementedError

    def transformed(self, adapter: Any, batch: pa.RecordBatch) -> dict[str, list[float | None]]:
        """Return what the adapter makes of a batch, by column; it has at least one row."""
        raise NotImplementedError

    def as_host(self, z: float | None, x: float | None, lane: dict[str, Any]) -> float | None:
        """Return how the host writes what the core writes as `z`. The default: the same.

        Parameters
        ----------
        z : float or None
            The value that the core gives; None is a null.
        x : float or None
            The value that it was made of.
        lane : dict
            The column's row of `streambn.Normalizer.stats`.
        """
        del x, lane
        return z

    # ------------------------------------------------------------------ the laws

    @law(st.data())
    def law_the_adapter_says_what_the_core_says(self, data: st.DataObject) -> None:
        """Normalize what was learned, and what was not, as `streambn.Normalizer` does."""
        stream, probe = self._drawn(data)
        adapter, core = self.learned(self.policy, stream), self._core(stream)
        for batch in (*stream, probe):
            self._assert_agree(adapter, core, batch)

    @law(st.data())
    def law_cuts_are_without_effect(self, data: st.DataObject) -> None:
        """Cut the rows into other batches: what is learned is the same."""
        stream, probe = self._drawn(data)
        recut = stream if self.depends_on_cuts else data.draw(cuts(stream))
        adapter, core = self.learned(self.policy, recut), self._core(stream)
        for batch in (*stream, probe):
            self._assert_agree(adapter, core, batch, same_cuts=self.depends_on_cuts)

    @law(st.data())
    def law_transform_never_learns(self, data: st.DataObject) -> None:
        """Change no bit of an answer by asking for others."""
        stream, probe = self._drawn(data)
        adapter = self.learned(self.policy, stream)
        before = self._answers(adapter, probe)
        for batch in stream:
            self._answers(adapter, batch)
        assert repr(self._answers(adapter, probe)) == repr(before)

    @law(st.data())
    def law_a_row_alone_is_normalized_as_among_others(self, data: st.DataObject) -> None:
        """Have one rule for one row and for many."""
        stream, probe = self._drawn(data)
        adapter, core = self.learned(self.policy, stream), self._core(stream)
        for i in range(probe.num_rows):
            self._assert_agree(adapter, core, probe.slice(i, 1))

    # ------------------------------------------------------------------- helpers

    def _drawn(self, data: st.DataObject) -> tuple[list[pa.RecordBatch], pa.RecordBatch]:
        """Draw a stream and a batch that is none of it, neither without rows."""
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
        self, adapter: Any, core: Normalizer, batch: pa.RecordBatch, same_cuts: bool = True
    ) -> None:
        answers = self._answers(adapter, batch)
        expected = core.transform(batch)
        for lane in core.stats().to_pylist():
            name, way = lane["column"], 0.0
            if not same_cuts and lane["count"]:
                way = 1e-3 * (lane["max"] - lane["min"]) / (lane["std"] or 1.0)
            columns = (answers[name], expected[name].to_pylist(), batch[name].to_pylist())
            for said, z, x in zip(*columns, strict=True):
                wanted = self.as_host(z, x, lane)
                if said is None or wanted is None:
                    same = said is wanted
                elif math.isnan(wanted):
                    same = math.isnan(said)
                else:
                    same = abs(said - wanted) <= self.rtol * (1 + abs(wanted) + way)
                assert same, f"column {name!r}: {x} became {said}, not {wanted}"
