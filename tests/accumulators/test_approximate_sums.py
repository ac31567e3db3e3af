"""Exact sums rounded to float64, by which most states are checked."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streambn.accumulators import ExactMoments, Moments

_TOTAL = st.integers(0, 34 * 64 - 2).flatmap(lambda bits: st.integers(-(2**bits), 2**bits))
_SQUARES = st.integers(0, 67 * 64 - 2).flatmap(lambda bits: st.integers(0, 2**bits))
_EDGE = st.integers(0, 33).map(lambda limb: 2 ** (64 * limb))
_SUMS = st.tuples(_TOTAL | _EDGE | _EDGE.map(lambda x: -x) | _EDGE.map(lambda x: x - 1), _SQUARES)


@given(sums=st.lists(_SUMS, min_size=1, max_size=4), scale=st.none() | st.integers(-9, 60))
def test_rounded_sums_are_near_the_exact_ones(
    sums: list[tuple[int, int]], scale: int | None
) -> None:
    tally = Moments.empty(len(sums))
    exact = ExactMoments.from_integers(tally, [scale] * len(sums), sums)
    found = exact.approximate_sums()
    for power, rounded in enumerate(found, 1):
        for feature, value in enumerate(rounded.tolist()):
            up, down = (x**power for x in exact.unit(feature))
            try:
                true = sums[feature][power - 1] * up / down
            except OverflowError:
                continue
            if math.isfinite(value) and abs(true) > 1e-290:
                assert abs(value - true) <= 1e-14 * abs(true)


def test_ordinary_sums_are_finite() -> None:
    unit = 1 << ExactMoments.UNIT_BITS
    sums = [(-7 * unit, 50 * unit**2), (0, 0), (1 << 900, 1 << 1900)]
    exact = ExactMoments.from_integers(Moments.empty(3), [None] * 3, sums)
    total, squares = exact.approximate_sums()
    assert total.tolist()[:2] == [-7.0, 0.0]
    assert squares.tolist()[:2] == [50.0, 0.0]
    assert np.isfinite([total, squares]).all()
