"""The laws of policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from streambn.accumulators import Estimates, Moments
from streambn.arrow import Selection, bind, read_all_rows, select_counted_rows
from streambn.errors import InvalidValueError
from streambn.kernels import Columns, Series
from streambn.options import Options
from streambn.policies import Policy
from streambn.testing.laws import Laws, law
from streambn.testing.strategies import (
    NAMES,
    WEIGHTS,
    batches,
    cuts,
    event_times,
    merged_in_a_tree,
)

__all__ = ["PolicyLaws"]


class PolicyLaws(Laws):
    """Laws for policies. Subclass it in a test module and set `policy`.

    A policy with an `event_time` gets event times in random order. A policy that `takes_weights`
    gets sample weights in some streams.

    Attributes
    ----------
    policy : Policy
        The policy to test.
    depends_on_cuts : bool
        Whether the division into batches affects the statistics, as for `BatchEMA`.
    block_rows : int
        Rows in a block, for a policy that cuts the stream into blocks of its own. Null rows count,
        and merges happen at the ends of blocks.
    extent : float
        Largest distance between event times, in seconds or in the unit of plain numbers. Choose a
        few half-lives.
    rtol : float
        Largest relative difference between two ways to the same statistics, for standard
        deviations, and for means in units of σ plus a thousandth of the range. 0: equal bits.
    max_examples : int, optional
        The number of streams that each law is tried on. By default, a quarter of the examples
        of the Hypothesis profile.
    """

    policy: ClassVar[Policy]
    depends_on_cuts: ClassVar[bool] = False
    block_rows: ClassVar[int] = 1
    extent: ClassVar[float] = 100.0
    rtol: ClassVar[float] = 1e-12

    # ------------------------------------------------------------------ the laws

    @law(st.data())
    def law_empty_state_is_the_identity(self, data: st.DataObject) -> None:
        """Check that a merge with the empty state, on either side, keeps every bit."""
        state = self._learned(self._stream(data))
        empty = self.policy.init(len(NAMES))
        self._assert_same(self.policy.merge(empty, state), state)
        self._assert_same(self.policy.merge(state, empty), state)

    @law(st.data())
    def law_merge_is_associative(self, data: st.DataObject) -> None:
        """Check that (a·b)·c equals a·(b·c)."""
        a, b, c = (self._learned(self._stream(data, 2)) for _ in range(3))
        left = self.policy.merge(self.policy.merge(a, b), c)
        right = self.policy.merge(a, self.policy.merge(b, c))
        self._assert_close(left, right)

    @law(st.data())
    def law_merge_equals_learning_both_streams(self, data: st.DataObject) -> None:
        """Check that the merge of two states equals the state of both streams."""
        one, two = self._stream(data), self._stream(data)
        merged = self.policy.merge(self._learned(one), self._learned(two))
        self._assert_close(merged, self._learned([*one, *two]))

    @law(st.data())
    def law_cuts_and_merges_do_not_matter(self, data: st.DataObject) -> None:
        """Check that a stream in parts, merged in order, equals the whole stream."""
        stream = self._stream(data)
        recut = stream if self.depends_on_cuts else data.draw(cuts(stream))
        if self.block_rows > 1:
            merged = self._learned(recut)
        else:
            pieces = [self._learned([batch]) for batch in recut]
            merged = merged_in_a_tree(data.draw, self.policy.merge, pieces)
        self._assert_close(merged, self._learned(stream))

    @law(st.data())
    def law_commutative_merge_ignores_the_order(self, data: st.DataObject) -> None:
        """Check that a commutative merge ignores the order, as counts always do."""
        a, b = (self._learned(self._stream(data)) for _ in range(2))
        if self.policy.commutative:
            self._assert_close(self.policy.merge(a, b), self.policy.merge(b, a))
        else:
            tallies = [self.policy.tally(self.policy.merge(*pair)) for pair in ((a, b), (b, a))]
            np.testing.assert_array_equal(tallies[0].count, tallies[1].count)

    @law(st.data())
    def law_commutative_parts_merge_in_any_order(self, data: st.DataObject) -> None:
        """Check that shuffled parts, merged by a random tree, equal the whole stream."""
        if not self.policy.commutative:
            return
        stream = self._stream(data)
        pieces = stream if self.depends_on_cuts else data.draw(cuts(stream))
        shuffled = data.draw(st.permutations(pieces))
        states = [self._learned([batch]) for batch in shuffled]
        merged = merged_in_a_tree(data.draw, self.policy.merge, states)
        self._assert_close(merged, self._learned(stream))

    @law(st.data())
    def law_weights_of_one_change_nothing(self, data: st.DataObject) -> None:
        """Check that sample weights of 1 equal no weights."""
        if not self.policy.takes_weights:
            return
        stream = [batch.select(self._names()) for batch in self._stream(data)]
        ones = [batch.append_column(WEIGHTS, pa.array(np.ones(batch.num_rows))) for batch in stream]
        self._assert_close(self._learned(ones), self._learned(stream))

    @law(st.data())
    def law_empty_and_null_batches_change_nothing(self, data: st.DataObject) -> None:
        """Check that an empty batch keeps every bit, and nulls change only their count."""
        stream = self._stream(data)
        state = self._learned(stream)
        empty = stream[0].slice(0, 0)
        self._assert_same(self.policy.update(state, self._columns(empty)), state)
        if self.block_rows > 1:
            return
        nulls = self._batch(data, pa.nulls(3, pa.float64()))
        after = self.policy.update(state, self._columns(nulls))
        self._assert_close(after, state, counts=False)
        assert (self.policy.tally(after).nulls == self.policy.tally(state).nulls + 3).all()

    @law(st.data())
    def law_states_never_change(self, data: st.DataObject) -> None:
        """Check that `update`, `merge` and `read` do not change their arguments."""
        stream = self._stream(data)
        state = self._learned(stream)
        before = self._fields(state)
        self.policy.update(state, self._columns(stream[0]))
        self.policy.merge(state, self._learned(stream))
        self.policy.read(state, 1)
        for now, then in zip(self._fields(state), before, strict=True):
            np.testing.assert_array_equal(now, then)

    @law(st.data())
    def law_variance_is_never_negative_and_std_is_its_root(self, data: st.DataObject) -> None:
        """Check that the variance is never negative, and the standard deviation is its root."""
        state = self._learned(self._stream(data))
        for ddof in (0, 1):
            reading = self.policy.read(state, ddof)
            known = ~np.isnan(reading.var)
            assert (reading.var[known] >= 0).all()
            np.testing.assert_allclose(reading.std[known], np.sqrt(reading.var[known]), rtol=1e-15)

    @law(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e300, 1e300), st.data())
    def law_constant_has_itself_as_mean_and_no_variance(
        self, rows: list[int], constant: float, data: st.DataObject
    ) -> None:
        """Check that a constant has itself as mean and variance 0, after any merges."""
        states = [
            self._learned([self._batch(data, pa.array([constant] * n * self.block_rows))])
            for n in rows
        ]
        state = states[0]
        for newer in states[1:]:
            state = self.policy.merge(state, newer)
        # Only a prior, such as `initial` of BatchEMA, moves the statistics.
        reading = self.policy.read(state, 0)
        if not getattr(self.policy, "initial", None):
            mean = reading.mean_hi[reading.defined]
            np.testing.assert_array_equal(mean, constant)
            known = reading.defined & ~np.isnan(reading.var)
            np.testing.assert_array_equal(reading.var[known], 0.0)

    @law(st.data())
    def law_features_are_independent(self, data: st.DataObject) -> None:
        """Check that a feature depends neither on its position nor on other features."""
        stream = self._stream(data)
        both = self._learned(stream)
        for of, check in (
            ([1, 0], self._assert_same),
            # Kernels may add the values of a column in another order if others have nulls.
            ([0], self._assert_close),
            ([1], self._assert_close),
        ):
            names = [NAMES[feature] for feature in of]
            state = self.policy.init(len(of))
            for batch in stream:
                state = self.policy.update(state, self._columns(batch, names))
            check(self.policy.take(both, of), state)

    @law(st.data(), st.booleans())
    def law_rows_are_mapped_by_the_statistics_as_of_each(
        self, data: st.DataObject, before: bool
    ) -> None:
        """Check that a row is normalized by what `read` gives before it or after it."""
        if not self._maps_rows():
            return
        stream = self._in_time_order(self._stream(data, 2))
        mapped = self._map_rows(stream, before)[1]
        state, rows = self.policy.init(len(NAMES)), 0
        for batch in stream:
            for row in range(batch.num_rows):
                one = batch.slice(row, 1)
                after = self.policy.update(state, self._columns(one))
                self._assert_mapped(one, state if before else after, mapped.slice(rows, 1))
                state, rows = after, rows + 1

    @law(st.data(), st.booleans())
    def law_rows_are_mapped_alike_in_any_cut(self, data: st.DataObject, before: bool) -> None:
        """Check that cuts show neither in mapped rows nor in the state, which is that of `update`.

        All bits are equal, unless the policy is `exact`: only its state is.
        """
        if not self._maps_rows():
            return
        stream = self._in_time_order(self._stream(data))
        state, mapped = self._map_rows(stream, before)
        again, remapped = self._map_rows(data.draw(cuts(stream)), before)
        self._assert_same(state, again)
        self._assert_close(state, self._learned(stream))
        for one, other in zip(mapped.columns, remapped.columns, strict=True):
            valid = one.is_valid().to_numpy()
            np.testing.assert_array_equal(valid, other.is_valid().to_numpy())
            found, expected = (side.to_numpy()[valid] for side in (one, other))
            if self.policy.exact:
                np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)
            else:
                np.testing.assert_array_equal(found, expected)

    # ------------------------------------------------------------------- helpers

    def _maps_rows(self) -> bool:
        try:
            self.policy.check_by_row()
        except InvalidValueError:
            return False
        return True

    def _in_time_order(self, stream: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Return a stream in batches of the same sizes, in the order of its event times."""
        time = self.policy.event_time
        if time is None:
            return stream
        rows = pa.Table.from_batches(stream)
        ordered = rows.take(np.argsort(rows[time.column].to_numpy(), kind="stable"))
        ends = np.cumsum([batch.num_rows for batch in stream]).tolist()
        return [
            pa.record_batch(
                [column.combine_chunks() for column in ordered.slice(start, end - start).columns],
                schema=ordered.schema,
            )
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _map_rows(self, stream: Sequence[pa.RecordBatch], before: bool) -> tuple[Any, pa.Table]:
        """Return the state after a stream, and its rows as they are mapped."""
        schema = pa.schema({name: pa.float64() for name in NAMES})
        series = Series(
            Options().row_rules, before, None, None, np.zeros(len(NAMES), np.bool_), schema
        )
        state, mapped = self.policy.init(len(NAMES)), []
        for batch in stream:
            weights = WEIGHTS if WEIGHTS in batch.schema.names else None
            newest = self.policy.newest(state)
            rows = read_all_rows(batch, weights, self.policy.event_time, newest)
            columns = bind(batch.schema, Selection(NAMES))[0].extract(batch)
            state, out = self.policy.map_series(
                state, columns.with_rows(rows.weights, rows.times), series
            )
            mapped.append(out.batch)
        return state, pa.Table.from_batches(mapped, schema)

    def _assert_mapped(self, row: pa.RecordBatch, state: Any, mapped: pa.Table) -> None:
        reading = self.policy.read(state, 0)
        for i, name in enumerate(NAMES):
            value, found = row[name][0].as_py(), mapped[name][0].as_py()
            if value is None or not reading.defined[i]:
                assert found is None
                continue
            mean, std = reading.mean_hi[i], reading.std[i]
            rounding = 2.0**-52 * abs(mean)
            if rounding / 2 < std < 2 * rounding:
                continue  # either side of the bound for a constant
            scale = std if std > rounding else 1.0
            expected = ((value - mean) - reading.mean_lo[i]) / scale
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)

    def _learned(self, stream: Sequence[pa.RecordBatch]) -> Any:
        state = self.policy.init(len(NAMES))
        for batch in stream:
            state = self.policy.update(state, self._columns(batch))
        return state

    def _columns(self, batch: pa.RecordBatch, names: Sequence[str] = NAMES) -> Columns:
        """Return the columns of a batch with its weights and event times."""
        weights = WEIGHTS if WEIGHTS in batch.schema.names else None
        batch, selection = select_counted_rows(batch, names, weights, self.policy.event_time)
        columns = bind(batch.schema, Selection(tuple(names)))[0].extract(batch)
        return Columns(columns.batch, columns.layout, selection.weights, selection.times)

    def _names(self) -> list[str]:
        """Return the names of the columns of each batch."""
        time = self.policy.event_time
        return [*NAMES] if time is None else [*NAMES, time.column]

    def _batch(self, data: st.DataObject, values: pa.Array) -> pa.RecordBatch:
        """Return a batch with the same values in all columns, at random times."""
        arrays, time = [values] * len(NAMES), self.policy.event_time
        if time is not None:
            kind = pa.float64() if time.numeric else pa.timestamp("us")
            arrays.append(data.draw(event_times(len(values), kind, self.extent)))
        return pa.record_batch(arrays, names=self._names())

    def _stream(self, data: st.DataObject, max_batches: int = 5) -> list[pa.RecordBatch]:
        """Draw a stream that ends at the end of a block."""
        stream = data.draw(
            batches(
                max_batches,
                time=self.policy.event_time,
                extent=self.extent,
                weighted=self.policy.takes_weights,
            )
        )
        surplus = sum(batch.num_rows for batch in stream) % self.block_rows
        for i in range(len(stream) - 1, -1, -1):
            keep = max(stream[i].num_rows - surplus, 0)
            surplus -= stream[i].num_rows - keep
            stream[i] = stream[i].slice(0, keep)
        return stream

    def _fields(self, state: Any) -> list[Any]:
        tally = self.policy.tally(state)
        counts = [getattr(tally, n).copy() for n in ("count", "nulls", "nans", "min", "max")]
        return [*counts, *(np.array(f) for ddof in (0, 1) for f in self.policy.read(state, ddof))]

    def _assert_same(self, one: Any, other: Any) -> None:
        for a, b in zip(self._fields(one), self._fields(other), strict=True):
            np.testing.assert_array_equal(a, b)

    def _assert_close(self, one: Any, other: Any, counts: bool = True) -> None:
        if counts:
            for a, b in zip(self._fields(one)[:5], self._fields(other)[:5], strict=True):
                np.testing.assert_array_equal(a, b)
        for ddof in (0, 1):
            a, b = self.policy.read(one, ddof), self.policy.read(other, ddof)
            if self.rtol == 0:
                assert [field.tobytes() for field in a] == [field.tobytes() for field in b]
                continue
            np.testing.assert_array_equal(a.defined, b.defined)
            np.testing.assert_array_equal(np.isnan(a.var), np.isnan(b.var))
            np.testing.assert_array_less(self._distance(a, b, self.policy.tally(one)), self.rtol)
            np.testing.assert_allclose(a.std, b.std, rtol=self.rtol, atol=0)

    def _distance(self, a: Estimates, b: Estimates, tally: Moments) -> Any:
        """Return the difference of means in units of σ plus a thousandth of the range.

        The range counts because a policy that forgets may have moved far before σ became small.
        """
        difference = np.abs((a.mean_hi - b.mean_hi) + (a.mean_lo - b.mean_lo))
        # A prior mean, such as `initial` of BatchEMA, belongs to the range.
        prior = (getattr(self.policy, "initial", None) or (None,))[0]
        low = tally.min if prior is None else np.minimum(tally.min, prior)
        high = tally.max if prior is None else np.maximum(tally.max, prior)
        extent = np.where(tally.count > 0, high - low, 0.0)
        unit = np.nan_to_num(b.std) + 1e-3 * extent
        return difference / np.where(unit > 0, unit, 1.0)
