"""Exact sums of the compiled kernels equal Python's integers in any order and partition."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moment_checks import DIGITS
from native_kernels import core, native, plain_layout

from streambn.errors import MergeError
from streambn.kernels import BoundColumn, Columns, Layout
from streambn.kernels.exact import ExactSums
from streambn.kernels.interface import ABSENT

TOTAL, SQUARES = slice(9, 43), slice(43, 110)
UNIT = 1074  # sums of floats and integers count units of 2**-1074
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
RANGE = 131072  # rows of a thread's task


def limbs(value, words):
    """Return an integer as this many words of 64 bits, in two's complement."""
    assert -(1 << (64 * words - 1)) <= value < 1 << (64 * words - 1)
    octets = value.to_bytes(8 * words, "little", signed=True)
    return np.frombuffer(octets, np.int64)


def memory_of(counts, low, high, total, squares, scale=None):
    """Return the memory of one feature; `total` and `squares` count units."""
    memory = np.zeros(110, np.int64)
    memory[:5] = counts
    memory[5:7] = np.array([low, high], np.float64).view(np.int64)
    memory[7:9] = scale is not None, scale or 0
    memory[TOTAL], memory[SQUARES] = limbs(total, 34), limbs(squares, 67)
    return memory


EMPTY = memory_of([0] * 5, math.inf, -math.inf, 0, 0)


def expected(values, scale=None):
    """Return the memory of a feature of floats or integers, where None is a null."""
    there = [v for v in values if v is not None]
    finite = [v for v in there if math.isfinite(v)]
    nans, *infs = sum(map(math.isnan, there)), there.count(math.inf), there.count(-math.inf)
    counts = [len(finite), len(values) - len(there), nans, *infs]
    if not finite:
        return memory_of(counts, math.inf, -math.inf, 0, 0)
    order = sorted(finite, key=lambda v: (v, math.copysign(1, v)))
    if scale is not None:
        unit = Fraction(10) ** scale
        low, high = (float(order[i] / unit) for i in (0, -1))
        return memory_of(counts, low, high, sum(finite), sum(v * v for v in finite), scale)
    # A float is an integer over a power of two, and so a whole number of units.
    units = [n * (1 << UNIT) // d for n, d in (v.as_integer_ratio() for v in finite)]
    squares = sum(u * u for u in units)
    return memory_of(counts, float(order[0]), float(order[-1]), sum(units), squares)


def feature_memory(sums, feature=0):
    return np.ascontiguousarray(sums.memory[:, feature])


def summed(*arrays):
    return native.exact_sums(Columns.of(*arrays))


def assert_exact(array, values=None, scale=None):
    """Compare the sums of an array with those of its values, bit for bit."""
    values = array.to_pylist() if values is None else values
    got = feature_memory(summed(array))
    assert got.tobytes() == expected(values, scale).tobytes()


seeds = st.integers(0, 2**32 - 1)
# Lengths around the limits of the compiled loops.
sizes = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 511, 512, 513, 1024, 1500]))


@st.composite
def floats64(draw):
    """Draw any mantissas, and exponents from a window around the limits of each method."""
    rng, n = np.random.default_rng(draw(seeds)), draw(sizes)
    width = draw(st.sampled_from([1, 2, 17, 18, 19, 60, 299, 300, 301, 302, 700, 2047]))
    first = draw(st.integers(0, 2047 - width))
    bits = rng.integers(0, 1 << 52, n) | rng.integers(first, first + width, n) << 52
    if draw(st.booleans()):  # few digits
        bits &= ~((1 << draw(st.integers(1, 52))) - 1)
    x = np.where(rng.random(n) < 0.5, -1, 1) * bits.view(np.float64)
    for share, special in ((0.2, [0.0]), (0.2, [-0.0]), (0.1, [math.nan, math.inf, -math.inf])):
        if draw(st.booleans()):
            x[rng.random(n) < share] = rng.choice(special)
    return x


def numbers(kind):
    """Return a strategy for values of a NumPy type: any bits, or few of them."""
    if kind == "f8":
        return floats64()
    dtype = np.dtype(kind)

    def make(seed, n, small):
        rng = np.random.default_rng(seed)
        x = np.frombuffer(rng.bytes(n * dtype.itemsize), dtype).copy()
        if dtype.kind == "f":
            return rng.standard_normal(n).astype(dtype) if small else x
        return x >> dtype.type(small) if small else x  # fewer bits, the sign kept

    bits = st.integers(0, 8 * dtype.itemsize - 1)
    return st.builds(make, seeds, sizes, st.booleans() if dtype.kind == "f" else bits)


kinds = st.sampled_from(("f8", "f8", "f8", "f4", "f2", *INTEGERS))
columns = kinds.flatmap(numbers)
masks = st.tuples(seeds, st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]))


def with_nulls(x, mask, slice_from=0):
    """Return a slice of an array with random nulls, and the values of the slice."""
    seed, share = mask
    missing = np.random.default_rng(seed).random(len(x)) < share
    array = pa.array(x, mask=missing, from_pandas=False)
    values = [None if gone else v for gone, v in zip(missing, x.tolist(), strict=True)]
    return array[slice_from:], values[slice_from:]


@settings.get_profile("many")
@given(columns, masks, st.integers(0, 70))
def test_sums_equal_those_of_python_integers(x, mask, slice_from):
    array, values = with_nulls(x, mask, slice_from)
    assert_exact(array, values)


@settings.get_profile("many")
@given(columns, seeds, st.integers(1, 12), st.integers(1, 3))
def test_sums_do_not_depend_on_order_or_partition(x, seed, parts, threads):
    rng = np.random.default_rng(seed)
    whole = feature_memory(summed(pa.array(x, from_pandas=False)))
    shuffled = pa.array(rng.permutation(x), from_pandas=False)
    cuts = sorted(rng.integers(0, len(x), parts - 1, endpoint=True))
    ends = [0, *map(int, cuts), len(x)]
    native.set_threads(threads)
    try:
        pieces = [shuffled[a:b] for a, b in itertools.pairwise(ends)]
        grown = ExactSums(EMPTY.reshape(110, 1).copy())
        for piece in pieces:
            grown = native.extend_exact(grown, Columns.of(piece))
        trees = [summed(piece) for piece in pieces]
    finally:
        native.set_threads(1)
    while len(trees) > 1:
        i = int(rng.integers(len(trees) - 1))
        older, newer = trees[i], trees.pop(int(rng.integers(i + 1, len(trees))))
        pair = (older, newer) if seed % 2 else (newer, older)
        trees[i] = native.merge_exact(*pair)
    assert feature_memory(grown).tobytes() == whole.tobytes()
    assert feature_memory(trees[0]).tobytes() == whole.tobytes()


TINY, HUGE = 5e-324, sys.float_info.max
DIFFICULT_FLOATS = {
    "cancellation": [1e300, 1.0, -1e300, 1e-300],
    "much cancellation": [1e300, 1e-300, 3.0, -1e300, -1e-300, 1e16, -1e16] * 200,
    "one huge among tiny": [TINY] * 700 + [HUGE] + [TINY] * 700,
    "constant": [0.1] * 1300,
    "subnormal": [TINY * k for k in range(-500, 1500)],
    "beyond the largest": [HUGE] * 3000,
    "far below and beyond": [HUGE, -HUGE, HUGE, TINY] * 400,
    "zeros": [0.0, -0.0] * 600,
    "negative zeros": [-0.0] * 600,
    "zero as the minimum": [-0.0, 1.0, 0.0],
    "zero as the maximum": [-0.0, -1.0, -0.0],
    "NaN alone": [math.nan] * 10,
    "NaN among numbers": [math.nan, 1.0, 2.0] * 300,
    "infinities": [math.inf, 1.0, -math.inf, 2.0, math.inf],
    "NaN and values far apart": [math.nan, 1e-200, 1e200, math.inf, 3.0] * 150,
    "NaN and values very far apart": [math.nan, TINY, HUGE, -math.inf] * 150,
    "the last bits": [1 + 2.0**-52, 2.0**-16, 1 - 2.0**-53, -(2.0**-17)] * 128,
    "the edges of the fast range": [2.0**479, 2.0**480 - 2.0**427, 2.0**-428, 2.0**-429, 2.0**480],
}


@pytest.mark.parametrize("values", DIFFICULT_FLOATS.values(), ids=DIFFICULT_FLOATS)
def test_difficult_floats_are_summed_exactly(values):
    assert_exact(pa.array(values, pa.float64(), from_pandas=False))
    assert_exact(pa.array(values[::-1], pa.float64(), from_pandas=False))


@pytest.mark.parametrize("kind", INTEGERS)
def test_extreme_integers_are_summed_exactly(kind):
    ends = np.iinfo(kind)
    constants = [2**bits + d for bits in (25, 26, 27, 31, 32, 33) for d in (-1, 0, 1)]
    constants += [-value for value in constants]
    for values in (
        [ends.min] * 1100,
        [ends.max] * 1100,
        [ends.min, ends.max, 0, 1] * 300,
        *([value] * 1024 for value in constants if ends.min <= value <= ends.max),
    ):
        assert_exact(pa.array(np.array(values, kind)))


@pytest.mark.parametrize("kind", ["f4", "f2"])
def test_extreme_short_floats_are_summed_exactly(kind):
    ends = np.finfo(kind)
    least = float(ends.smallest_subnormal)
    for values in (
        [ends.max] * 1100,
        [least] * 1100,
        [ends.max, -ends.max, least] * 400,
        [ends.max, 1, least, np.nan, np.inf] * 250,
    ):
        array = np.array(values, kind)
        assert_exact(pa.array(array, from_pandas=False), array.astype("f8").tolist())


DECIMALS = [
    (kind(digits, scale), digits, scale)
    for kind, digits in DIGITS.items()
    for scale in (0, 2, digits, -3)
]


@pytest.mark.parametrize(("kind", "digits", "scale"), DECIMALS, ids=str)
@settings.get_profile("few")
@given(seeds, st.integers(0, 600), st.integers(0, 76), st.booleans())
@example(0, 600, 76, False)
def test_decimals_are_summed_exactly(kind, digits, scale, seed, n, length, mixed):
    rng = np.random.default_rng(seed)
    bound = 10 ** min(length, digits) - 1
    raw = [int.from_bytes(rng.bytes(40), "little") % (2 * bound + 1) - bound for _ in range(n)]
    if mixed:
        raw = [r if rng.random() < 0.5 else r % 1000 for r in raw]
    there = rng.random(n) < 0.8
    octets = b"".join(r.to_bytes(kind.byte_width, "little", signed=True) for r in raw)
    bitmap = np.packbits(there, bitorder="little").tobytes()
    array = pa.Array.from_buffers(kind, n, [pa.py_buffer(bitmap), pa.py_buffer(octets)])
    raw = [r if present else None for r, present in zip(raw, there, strict=True)]
    assert_exact(array, raw, scale)
    assert_exact(array[3:], raw[3:], scale)


def test_sums_of_lists_structs_and_absent_columns():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((900, 5))
    x[rng.random(x.shape) < 0.05] = math.nan
    missing, gone = rng.random(x.shape) < 0.2, rng.random(900) < 0.2
    items = pa.array(x.reshape(-1), mask=missing.reshape(-1), from_pandas=False)
    lists = pa.FixedSizeListArray.from_arrays(items, 5, mask=pa.array(gone))
    y = rng.integers(-9, 9, 900)
    struct = pa.StructArray.from_arrays([pa.array(y), lists], ["y", "v"], mask=pa.array(gone[::-1]))
    batch = pa.RecordBatch.from_arrays([struct], names=["s"])[11:]
    places = [((0, 1), 5), ((ABSENT,), None), ((0, 0), None), ((ABSENT,), 2)]
    layout = Layout([BoundColumn(*place) for place in places], batch.schema)
    got = native.exact_sums(Columns(batch, layout))
    outer = gone[::-1]
    for feature in range(5):
        values = [
            None if outer[i] or gone[i] or missing[i, feature] else float(x[i, feature])
            for i in range(11, 900)
        ]
        assert feature_memory(got, feature).tobytes() == expected(values).tobytes()
    values = [None if outer[i] else int(y[i]) for i in range(11, 900)]
    assert feature_memory(got, 6).tobytes() == expected(values).tobytes()
    for feature in (5, 7, 8):
        assert feature_memory(got, feature).tobytes() == expected([None] * 889).tobytes()


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", *INTEGERS])
def test_wide_lists_and_matrices_have_the_same_sums(kind):
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((700, 70)) * 50).astype("i1").astype(kind)
    listing = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 70)
    one = native.exact_sums(Columns.of(listing)).memory
    rows = native.exact_sums(Columns(x, Layout([BoundColumn((0,), 70)]))).memory
    columns = np.asfortranarray(x)
    each = native.exact_sums(Columns(columns, plain_layout(70))).memory
    assert one.tobytes() == rows.tobytes() == each.tobytes()
    for feature in range(70):
        assert one[:, feature].tobytes() == expected(x[:, feature].tolist()).tobytes()


def test_encoded_columns_are_decoded():
    assert_exact(pa.array([1.5, None, 1.5, 2.5]).dictionary_encode())


def test_sums_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(9)
    x = rng.standard_normal(5 * RANGE + 77)
    x[::1000] *= 1e250
    x[::777] = math.nan
    array = pa.array(x, mask=rng.random(len(x)) < 0.01, from_pandas=False)
    one = summed(array).memory
    for count in (2, 5):
        threads(count)
        assert summed(array).memory.tobytes() == one.tobytes()
    parts = (summed(array[start : start + 4099]) for start in range(0, len(x), 4099))
    assert functools.reduce(native.merge_exact, parts).memory.tobytes() == one.tobytes()


SIMD_SCRIPT = """
rng = np.random.default_rng(10)
for kind in ("f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
    for n in (5, 600):
        x = np.frombuffer(rng.bytes(n * np.dtype(kind).itemsize), kind)
        small = rng.integers(0, 99, n)
        for y in (x, small.astype(kind), (10.0 ** rng.uniform(-4, 1, n)).astype(kind)):
            found.append(native.exact_sums(Columns.of(pa.array(y, from_pandas=False))).memory)
for decades in (1, 30, 200):
    x = rng.standard_normal(3000) * 10.0 ** rng.uniform(-decades, decades, 3000)
    found.append(native.exact_sums(Columns.of(pa.array(x))).memory)
"""


def test_instruction_sets_give_the_same_sums(by_instruction_set):
    found = by_instruction_set(SIMD_SCRIPT)
    assert found["baseline"].shape == (110, 11 * 2 * 3 + 3)
    for other in found.values():
        np.testing.assert_array_equal(other, found["baseline"])


def sums_of(*arguments, **keywords):
    return ExactSums(memory_of(*arguments, **keywords).reshape(110, 1).copy())


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_near_their_limit_have_room_for_more(sign):
    # The sums of 2**63 values close to the largest float64.
    count, unit = 2**62, int(HUGE) << UNIT
    total, squares = sign * (2**2161 - 1), 2**4259 - 1
    older = sums_of([count, 0, 0, 0, 0], -HUGE, HUGE, total, squares)
    got = native.extend_exact(older, Columns.of(pa.array([sign * HUGE] * 3000)))
    sums = total + 3000 * sign * unit, squares + 3000 * unit**2
    want = memory_of([count + 3000, 0, 0, 0, 0], -HUGE, HUGE, *sums)
    assert feature_memory(got).tobytes() == want.tobytes()
    twice = native.merge_exact(older, sums_of([5, 1, 2, 3, 4], 0.0, 1.0, total, squares))
    want = memory_of([count + 5, 1, 2, 3, 4], -HUGE, HUGE, 2 * total, 2 * squares)
    assert feature_memory(twice).tobytes() == want.tobytes()


def test_sum_past_its_limit_raises():
    one = [1, 0, 0, 0, 0]
    full = sums_of(one, 0.0, 0.0, 2**2175 - 1, 0)
    with pytest.raises(MergeError, match="feature 0"):
        native.extend_exact(full, Columns.of(pa.array([TINY])))
    assert feature_memory(native.extend_exact(full, Columns.of(pa.array([0.0]))))[0] == 2
    with pytest.raises(MergeError):
        native.merge_exact(full, full)
    with pytest.raises(MergeError):
        native.merge_exact(*[sums_of(one, 0.0, 0.0, 0, 2**4287 - 1)] * 2)
    decimals = sums_of(one, 1.0, 1.0, 2**2100, 1, scale=0)
    for scale in (40, 2**62):
        finer = sums_of(one, 1.0, 1.0, 1, 1, scale=scale)
        for pair in ((decimals, finer), (finer, decimals)):
            with pytest.raises(MergeError):
                native.merge_exact(*pair)
    coarse, fine = (sums_of(one, 0.0, 0.0, 0, 0, scale=s) for s in (-(2**63), 2**63 - 1))
    assert feature_memory(native.merge_exact(coarse, fine))[8] == 2**63 - 1


def decimals(*values, kind=None):
    return summed(pa.array([Decimal(v) for v in values], kind or pa.decimal128(30, 2)))


def merged(*parts):
    """Merge two sums, and check that their order does not matter."""
    both = native.merge_exact(*parts)
    assert native.merge_exact(*parts[::-1]).memory.tobytes() == both.memory.tobytes()
    return feature_memory(both)


def test_merged_decimals_take_the_larger_scale():
    a = decimals("1.25", "-3.00")
    b = decimals("0.12345", "7", kind=pa.decimal256(60, 5))
    assert merged(a, b).tobytes() == expected([125000, -300000, 12345, 700000], 5).tobytes()
    coarse = decimals("12000", kind=pa.decimal128(9, -3))
    assert merged(a, coarse).tobytes() == expected([125, -300, 1200000], 2).tobytes()


def test_decimals_merge_only_with_floats_of_whole_sums():
    a = decimals("1.25")
    for values in ([3.0, -8.0, 2.0**60], [0.5, 0.5, 0.5, -0.5], np.array([-7, 8])):
        got = merged(a, summed(pa.array(values)))
        total = Fraction(5, 4) + sum(map(Fraction, map(float, values)))
        squares = Fraction(25, 16) + sum(Fraction(float(v)) ** 2 for v in values)
        assert got[7:9].tolist() == [1, 2]
        assert got[TOTAL].tobytes() == limbs(int(total * 100), 34).tobytes()
        assert got[SQUARES].tobytes() == limbs(int(squares * 10000), 67).tobytes()
    for values in ([0.5], [0.5, 0.5], [TINY], [2.0**0.5, -(2.0**0.5)]):
        floats = summed(pa.array(values))
        for pair in ((a, floats), (floats, a)):
            with pytest.raises(MergeError, match="feature 0"):
                native.merge_exact(*pair)
        with pytest.raises(MergeError):
            native.extend_exact(floats, Columns.of(pa.array([Decimal("1.25")])))


def test_empty_sums_merge_with_any_type():
    a = decimals("1.25")
    for nothing in (pa.array([], pa.float64()), pa.array([None, math.nan], pa.float64())):
        got = merged(a, summed(nothing))
        assert got[5:].tobytes() == feature_memory(a)[5:].tobytes()
    assert_exact(pa.array([None, None], pa.decimal128(9, 2)))


def test_unfit_arrays_raise():
    columns = Columns.of(pa.array([1.0, 2.0]))
    batch, layout = columns.batch, columns.layout
    good = np.zeros((110, 1), np.int64)
    read_only = good.copy()
    read_only.flags.writeable = False
    unfit = [np.zeros(shape, np.int64) for shape in ((109, 1), (110, 2))]
    unfit += [np.zeros((110, 1)), np.zeros((110, 1), np.int32)]
    for older, out in (*((None, out) for out in unfit), *((older, good) for older in unfit)):
        with pytest.raises(ValueError, match="instead of"):
            core.exact_sums(core.Batch(batch, layout), 1, older, out)
    for out in (read_only, np.zeros((110, 2), np.int64)[:, :1]):
        with pytest.raises((ValueError, BufferError)):
            core.exact_sums(core.Batch(batch, layout), 1, None, out)
    for arrays in ((good[:9], good, good), (good, good[:9], good), (good, good, good[:9])):
        with pytest.raises(ValueError, match="instead of"):
            core.merge_exact(*arrays)
    assert (good == 0).all()
