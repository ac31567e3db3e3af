"""Hypothesis strategies for statistics: those of extreme streams, and forged ones."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

import streambn as sbn

__all__ = ["POLICIES", "bits", "learned"]

_TIME: Final = "t"
_WEIGHT: Final = "w"

# Of each form of state, with parameters at the ends of their domains.
POLICIES: Final[dict[str, Callable[[], sbn.policies.Policy]]] = {
    "welford": sbn.Welford,
    "exact": sbn.Exact,
    "adjusted": lambda: sbn.EMA(halflife=3),
    "adjusted, without gaps": lambda: sbn.EMA(alpha=0.3, ignore_na=True),
    "adjusted, all forgotten": lambda: sbn.EMA(alpha=1),
    "adjusted, nothing forgotten": lambda: sbn.EMA(alpha=1e-300),
    "recursive": lambda: sbn.EMA(span=9, adjust=False),
    "recursive, without gaps": lambda: sbn.EMA(com=1, adjust=False, ignore_na=True),
    "recursive, all forgotten": lambda: sbn.EMA(alpha=1, adjust=False),
    "recursive, slow": lambda: sbn.EMA(halflife=1e12, adjust=False),
    "timed": lambda: sbn.EMA(halflife="90s", time=_TIME),
    "timed by numbers": lambda: sbn.EMA(halflife=1e-3, time=_TIME),
    "blocks": lambda: sbn.BatchEMA(momentum=0.1),
    "cumulative blocks": lambda: sbn.BatchEMA(momentum=None, ddof=0),
    "blocks of rows": lambda: sbn.BatchEMA(decay=0.5, batch_rows=3, initial=None),
    "last block": lambda: sbn.BatchEMA(decay=0, batch_rows=2, initial=(1e300, 1e308)),
}

_ORDINARY: Final = [0.0, -0.0, 1.0, -1.0, 3.0, 1e9, 1e9 + 1]
_TINY: Final = [5e-324, -1e-310, 2.3e-308, 1e-200, 1e-121]
_HUGE: Final = [1e121, -1e160, 1e200, 1e308, -1.7e308]
_MISSING: Final = [None, None, float("nan"), float("inf"), float("-inf")]
_EXTREME: Final = [*_ORDINARY, *_TINY, *_HUGE, *_MISSING]
_WEIGHTS: Final = [0.0, 1.0, 1.0, 0.5, 1e-30, 1e-8, 1e30, 1e-300, 5e-324]
_TIMES: Final = [0, 1, 2, 60, 3600, 10**6, -(10**6), 9 * 10**9, -9 * 10**9]
_NUMBERS: Final = [0.0, 1.0, 1e-3, 2e-3, -1e-300, 1e300, -1.7e308]


@st.composite
def _values(draw: st.DrawFn, rows: int) -> pa.Array:
    kind = draw(st.sampled_from(["extreme", "extreme", "ordinary", "null", "ints"]))
    if kind == "null":
        return pa.nulls(rows, pa.float64())
    if kind == "ordinary":
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        offset = draw(st.sampled_from([0.0, 1e9, -1e15, 1e100]))
        return pa.array(offset + rng.normal(size=rows))
    if kind == "ints":
        whole = st.sampled_from([None, 0, 1, -1, 2**53 + 1, 2**53 + 3, 2**62])
        return pa.array(draw(st.lists(whole, min_size=rows, max_size=rows)), pa.int64()).cast(
            pa.float64(), safe=False
        )
    extreme = st.lists(st.sampled_from(_EXTREME), min_size=rows, max_size=rows)
    return pa.array(draw(extreme), pa.float64())


@st.composite
def _batch(draw: st.DrawFn, policy: sbn.policies.Policy, weighted: bool, union: bool) -> Any:
    rows = draw(st.integers(0, 9))
    columns = {"a": draw(_values(rows)), "b": draw(_values(rows))}
    columns["v"] = pa.FixedSizeListArray.from_arrays(draw(_values(2 * rows)), 2)
    if draw(st.booleans()):
        columns["i"] = pa.array(
            [draw(st.sampled_from([None, 1, -(2**63), 2**63 - 1])) for _ in range(rows)], pa.int64()
        )
    else:
        columns["i"] = pa.array([None, 7][:rows] + [2**40] * (rows - 2), pa.int64())
    cents = st.sampled_from([None, Decimal("0.10"), Decimal("-99999999.99")])
    columns["d"] = pa.array([draw(cents) for _ in range(rows)], pa.decimal128(10, 2))
    if union:
        absent = draw(st.sets(st.sampled_from(sorted(columns))))
        columns = {name: values for name, values in columns.items() if name not in absent}
    if weighted:
        weights = draw(st.lists(st.sampled_from(_WEIGHTS), min_size=rows, max_size=rows))
        if any(weights) and max(weights) < 1e-30:  # such a batch is refused
            weights[0] = 1.0
        columns[_WEIGHT] = pa.array(weights, pa.float64())
    if policy.event_time is not None:
        pool, kind = (
            (_NUMBERS, pa.float64()) if policy.event_time.numeric else (_TIMES, pa.timestamp("s"))
        )
        times = draw(st.lists(st.sampled_from(pool), min_size=rows, max_size=rows))
        columns[_TIME] = pa.array(times, kind)
    return pa.record_batch(columns)


@st.composite
def learned(draw: st.DrawFn, policy: sbn.policies.Policy) -> sbn.Normalizer:
    """Draw what a policy makes of extreme streams: updated, merged, with columns that come and go.

    The normalizer has seen data, but perhaps no rows.
    """
    weighted = policy.takes_weights and draw(st.booleans())
    union = draw(st.booleans())
    options = {
        "inf": draw(st.sampled_from(["ignore", "propagate"])),
        "nan": draw(st.sampled_from(["ignore", "propagate"])),
        "schema": "union" if union else "fixed",
        "weights": _WEIGHT if weighted else None,
    }
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        part = sbn.Normalizer(policy, **options)
        for _ in range(draw(st.integers(1, 4))):
            part.update(draw(_batch(policy, weighted, union)))
        parts.append(part)
    whole = parts[0]
    for part in parts[1:]:
        try:
            whole = whole.merge(part)
        except sbn.errors.MergeError:  # inside a block of rows
            whole = part
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 40]))):
        try:
            whole = whole.merge(whole)
        except sbn.errors.MergeError:
            break
    return whole


def bits(state: Any) -> Any:
    """Return a state as values that are equal if and only if its bits are."""
    if isinstance(state, tuple):
        return tuple(map(bits, state))
    memory = getattr(state, "memory", state)
    return memory.tobytes() if isinstance(memory, np.ndarray) else memory
