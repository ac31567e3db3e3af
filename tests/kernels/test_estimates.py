"""Mean, variance and scale are read from a state with the same bits by both implementations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.kernels import Columns, empty_moments, empty_sums, reference

EXTREMES = [0.0, 5e-324, 2.0**-1022, 1e-310, 1e-160, 1e160, 1.7e308, -1.7e308]
VALUES = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-9, 9, width=16)
    | st.sampled_from(EXTREMES)
    | st.floats(-3, 3).map(lambda x: 1e9 + x)
).map(lambda x: x + 0.0)  # the sign of a zero in minimum and maximum is not defined
# A constant column with one value beside it, or any values; null where a column is shorter.
COLUMN = st.lists(VALUES, max_size=6) | st.builds(
    lambda x, n, last: [x] * n + last, VALUES, st.integers(1, 5), st.lists(VALUES, max_size=1)
)
BATCH = st.lists(COLUMN, min_size=1, max_size=8)
EPS = st.just(0.0) | st.floats(5e-324, 1e300)
DDOF = st.sampled_from([0, 1])
DECAY = st.sampled_from([1.0, 0.9, 0.5, 1e-200, 0.0])


def columns(batch, decimal=()):
    rows = max(map(len, batch))
    padded = (values + [None] * (rows - len(values)) for values in batch)
    return Columns.of(*[pa.array(values, pa.float64()) for values in padded])


def bits(found):
    """Return the bits of arrays or of moments. One NaN is like another."""
    arrays = [getattr(array, "memory", array) for array in found]
    nans = [np.isnan(array) for array in arrays]
    return [
        np.where(nan, 0, a).tobytes() + nan.tobytes() for nan, a in zip(nans, arrays, strict=True)
    ]


def assert_same(native, function, *arguments):
    ours = getattr(native, function)(*arguments)
    assert bits(ours) == bits(getattr(reference, function)(*arguments))
    return ours


@given(batch=BATCH, ddof=DDOF, decay=DECAY, eps=EPS, exact=st.booleans())
def test_moments_and_their_maps(native, batch, ddof, decay, eps, exact):
    moments = reference.block_moments(columns(batch), decay)
    estimates = assert_same(native, "read_moments", moments, ddof)
    flags = np.full(len(batch), exact)
    maps = assert_same(native, "maps_of", estimates, flags, eps)
    assert bits(assert_same(native, "maps_of_moments", moments, ddof, flags, eps)) == bits(maps)


@given(batch=BATCH, first=st.data(), decay=DECAY, alpha=st.floats(1e-9, 1))
def test_recursion_with_its_first_value(native, batch, first, decay, alpha):
    values = first.draw(st.lists(VALUES, min_size=len(batch), max_size=len(batch)))
    older = reference.block_moments(columns([[value] for value in values]))
    moments = reference.block_moments(columns(batch), decay)
    ours = native.with_first(moments, older, alpha)
    assert bits([ours]) == bits([reference.with_first(moments, older, alpha)])


@given(
    blocks=st.lists(st.lists(COLUMN, min_size=3, max_size=3), min_size=1, max_size=4),
    decay=st.sampled_from([0.9, 0.0, 1.0]),
    ddof=DDOF,
    prior=st.none() | st.tuples(VALUES, VALUES.map(abs)),
)
def test_averages_over_blocks(native, blocks, decay, ddof, prior):
    means = variances = empty_moments(3)
    for batch in blocks:
        if not any(batch):
            continue
        block = reference.block_moments(columns(batch))
        means, variances = assert_same(native, "append_block", means, variances, block, decay, ddof)
    assert_same(native, "read_blocks", means, variances, 1.0 - decay, prior)


@given(batch=BATCH, doublings=st.integers(0, 50), ddof=DDOF)
def test_exact_sums(native, batch, doublings, ddof):
    sums = reference.exact_sums(columns(batch))
    for _ in range(doublings):
        sums = reference.merge_exact(sums, sums)
    assert_same(native, "read_exact", sums, ddof)


def test_exact_sums_of_decimals(native):
    decimals = pa.array(["0.1", "-7.25", None]).cast(pa.decimal128(10, 2))
    both = Columns.of(decimals, pa.array([0.1, -7.25, None]))
    for ddof in (0, 1):
        assert_same(native, "read_exact", reference.exact_sums(both), ddof)


def test_states_without_features(native):
    none = np.ones(0, bool)
    assert_same(native, "maps_of_moments", empty_moments(0), 0, none, 0.0)
    assert_same(native, "read_exact", empty_sums(0), 0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("read_moments", [(16, 2), 0, (4, 2), bool]),
        ("read_blocks", [(16, 2), (16, 2), 0.5, True, 0.0, 1.0, (4, 2), bool]),
        ("maps_of_moments", [(16, 2), 0, bool, 0.0, (3, 2), (2, 2)]),
        ("read_exact", [(110, 2), 0, (4, 2), bool]),
    ],
)
def test_arrays_of_another_size_raise(native, function, arguments):
    def made(argument, width):
        if argument is bool:
            return np.zeros(width, bool)
        if not isinstance(argument, tuple):
            return argument
        kind = np.int64 if argument[0] > 9 else bool if argument[0] == 2 else np.float64
        return np.zeros((argument[0], width), kind)

    call = getattr(native._core, function)
    call(*(made(argument, 2) for argument in arguments))
    for at, argument in enumerate(arguments):
        if isinstance(argument, tuple) or argument is bool:
            wrong = [made(each, 3 if i == at else 2) for i, each in enumerate(arguments)]
            with pytest.raises(ValueError, match="items instead of"):
                call(*wrong)
