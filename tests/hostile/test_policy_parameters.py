"""Parameters of policies at the ends of their domains: what is saved, loads to the same bits."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn.errors import InvalidValueError
from streambn.snapshot import Snapshot, decode, encode

_POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False) | st.sampled_from(
    [5e-324, 1e-310, 1e-150, 1e150, 1e300, 1.7e308, 2**53 + 1, 10**17 + 1, 10**300, 1]
)
_SHARE = st.floats(0, 1, exclude_min=True) | st.sampled_from([5e-324, 1 - 2**-53, 1e-17, 1])
_RATES: dict[str, Any] = {
    "alpha": _SHARE,
    "halflife": _POSITIVE,
    "span": _POSITIVE.map(lambda x: max(x, 1)),
    "com": _POSITIVE | st.just(0),
}
_DURATIONS = st.sampled_from(
    ["1ns", "0.1us", "1h30min", "P7D", "9" * 18 + "w", "9" * 30 + "w", timedelta.max]
) | st.timedeltas(timedelta(microseconds=1))
_MOMENTUMS = _SHARE | st.none()
_DECAYS = st.floats(0, 1, exclude_max=True) | st.sampled_from([5e-324, 1 - 2**-53, 0])


@st.composite
def _policies(draw: st.DrawFn) -> sbn.policies.Policy:
    kind = draw(st.sampled_from(["rate", "rate", "time", "momentum", "decay"]))
    if kind == "time":
        return sbn.EMA(halflife=draw(_POSITIVE | _DURATIONS), time="t")
    if kind == "rate":
        name = draw(st.sampled_from(sorted(_RATES)))
        flags = {"adjust": draw(st.booleans()), "ignore_na": draw(st.booleans())}
        return sbn.EMA(**{name: draw(_RATES[name])}, **flags)
    rows = draw(st.sampled_from([None, 1, 7, 2**61]))
    values = {"momentum": _MOMENTUMS, "decay": _DECAYS}[kind]
    return sbn.BatchEMA(**{kind: draw(values)}, batch_rows=rows)


@st.composite
def _normalizers(draw: st.DrawFn) -> sbn.Normalizer | None:
    try:
        policy = draw(_policies())
    except InvalidValueError:  # too slow, or too long
        return None
    data: dict[str, Any] = {"x": [1.0, None, 4.0, 2.0], "y": [0.0, 1e308, -1e308, 5e-324]}
    time = policy.event_time
    if time is not None:
        data["t"] = pa.array([1, 2, 3, 5]).cast(pa.float64() if time.numeric else pa.timestamp("s"))
    norm = sbn.Normalizer(policy, columns=["x", "y"])
    for rows in draw(st.sampled_from([[4], [1, 3], [2, 2]])):
        norm.update(pa.table(data).slice(0, rows))
    return norm


@given(_normalizers())
def test_parameters_are_saved_to_the_bit(norm: sbn.Normalizer | None) -> None:
    if norm is None:
        return
    content = encode(Snapshot(norm.statistics, frozen=False))
    loaded = sbn.Normalizer.from_statistics(decode(content).statistics)
    assert loaded.policy == norm.policy
    assert loaded.policy.row_rule == norm.policy.row_rule
    assert encode(Snapshot(loaded.statistics, frozen=False)) == content
    assert loaded.stats().equals(norm.stats())
    for row in norm.stats().to_pylist():
        for name, value in row.items():
            if isinstance(value, float) and name not in ("var", "total_var"):
                assert math.isfinite(value), (name, row)


@pytest.mark.parametrize(
    ("made", "argument"),
    [
        (lambda: sbn.EMA(halflife=1e300, adjust=False), "halflife"),
        (lambda: sbn.EMA(alpha=5e-324, adjust=False), "alpha"),
        (lambda: sbn.EMA(com=10**200, adjust=False), "com"),
        (lambda: sbn.EMA(halflife="9" * 30 + "w", time="t"), "halflife"),
        (lambda: sbn.BatchEMA(momentum=0.1, batch_rows=2**64), "batch_rows"),
        (lambda: sbn.BatchEMA(momentum=0.1, batch_rows=10**4000), "batch_rows"),
    ],
)
def test_a_parameter_that_cannot_be_kept_is_refused(made: Any, argument: str) -> None:
    with pytest.raises(InvalidValueError) as found:
        made()
    assert found.value.argument == argument
    assert len(str(found.value)) < 300
