"""`Exact` rounds correctly, and gives the same bits for any order and any cut."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import pickle
import statistics
import struct
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parity import NIST

import streambn as sbn
from streambn import kernels
from streambn.accumulators import ExactMoments
from streambn.errors import InvalidValueError, MergeError, SchemaError
from streambn.kernels import BoundColumn, Columns, Layout, UnmergeableError, reference
from streambn.testing import PolicyLaws, merged_in_a_tree

INF, NAN = math.inf, math.nan
LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324
NAMES = ("exact_sums", "extend_exact", "merge_exact")


@pytest.fixture(params=["reference", "native"], scope="module", autouse=True)
def implementation(request):
    """Test both implementations, whichever is active."""
    module = reference
    if request.param == "native":
        absent = "the compiled kernels are not there: install streambn where there is a compiler"
        module = pytest.importorskip("streambn.kernels.native", reason=absent, exc_type=ImportError)
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(kernels, name, getattr(module, name))
        yield request.param


class TestExactLaws(PolicyLaws):
    policy = sbn.Exact()
    rtol = 0.0


def nearest(value):
    """Return the float64 nearest to a rational; Python divides integers with one rounding."""
    try:
        return float(value)
    except OverflowError:
        return INF if value > 0 else -INF


def is_nearest_root(root, square):
    """Return whether a float64 is nearest to the root of a rational."""
    below, above = math.nextafter(root, -INF), math.nextafter(root, INF)
    low = (Fraction(below) + Fraction(root)) / 2 if math.isfinite(root) else 0
    if math.isfinite(above):
        high = (Fraction(root) + Fraction(above)) / 2
    else:  # values that round to infinity begin half a unit above the largest float64
        high = Fraction(LARGEST) + Fraction(2) ** 970
    if root == INF:
        return square >= high**2
    low = max(low, 0)
    if square in (low**2, high**2):  # a tie rounds to even
        return struct.pack("<d", root)[0] % 2 == 0
    return low**2 <= square <= high**2


def assert_correct(totals, values, feature=0):
    """Compare every statistic of a feature with the exact value, to the last bit."""
    exact = [Fraction(value) for value in values]
    n, total = len(exact), sum(exact, Fraction(0))
    square = sum((x * x for x in exact), Fraction(0))
    for ddof in (0, 1):
        reading = totals.read(ddof)
        hi, lo, var, std = (float(field[feature]) for field in reading[:4])
        assert bool(reading.defined[feature]) == bool(n)
        if n <= ddof:
            assert np.isnan([var, std]).all()
            continue
        mean = total / n
        assert hi == nearest(mean)
        assert hi + lo == hi
        if math.isfinite(hi):
            slack = abs(Fraction(lo)) / 2**52 + Fraction(SMALLEST)
            assert abs(Fraction(lo) - (mean - Fraction(hi))) <= slack
        spread = (square - total * mean) / (n - ddof)
        assert var == nearest(spread)
        assert math.copysign(1, var) == 1
        assert is_nearest_root(std, spread)


def totals(*arrays):
    return ExactMoments.of(Columns.of(*arrays))


def floats(values):
    return pa.array(values, pa.float64(), from_pandas=False)


def fit(*batches, **options):
    norm = sbn.Normalizer(sbn.Exact(), **options)
    for batch in batches:
        norm.update(batch if isinstance(batch, pa.Table) else pa.table({"x": batch}))
    return norm


def row_of(*batches, **options):
    """Return the statistics of the only feature."""
    [row] = fit(*batches, **options).stats().to_pylist()
    return row


def of_bits(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


# All finite float64 with equal probability, and numbers that people use.
finite = st.integers(0, 2**64 - 1).map(of_bits).filter(math.isfinite) | st.floats(
    allow_nan=False, allow_infinity=False
)
near = st.tuples(
    st.sampled_from([0.0, 1.0, -1e9, 1e15, 1e300, 1e-300, SMALLEST]), st.floats(-4, 4)
).map(lambda pair: pair[0] + pair[1])


@settings.get_profile("many")
@given(st.lists(finite, max_size=9) | st.lists(near, max_size=9))
@example([LARGEST, LARGEST])
@example([LARGEST, -LARGEST])
@example([SMALLEST, 0.0])
@example([SMALLEST, -SMALLEST, SMALLEST])
@example([2.0**-538, -(2.0**-538)])  # the variance is the smallest float64
@example([1.5 * 2.0**-538, 0.0])
@example([1.0, 1.0 + 2**-52])  # the mean is a tie
@example([1.0 + 2**-52, 1.0 + 2**-51])
@example([SMALLEST, 2 * SMALLEST])
def test_statistics_are_the_nearest_float64(values):
    assert_correct(totals(floats(values)), values)


@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=12))
def test_statistics_agree_with_the_standard_library(values):
    row = row_of(floats(values))
    # Fractions, because the module is slower with floats.
    assert row["mean"] == nearest(statistics.mean(map(Fraction, values)))
    assert row["var"] == nearest(statistics.pvariance(map(Fraction, values)))
    assert row["std"] == statistics.pstdev(values)
    assert row_of(floats(values), ddof=1)["std"] == statistics.stdev(values)


@given(st.data())
def test_cuts_order_and_merges_keep_every_byte(data):
    value = st.none() | st.sampled_from([NAN, INF, -INF]) | finite
    values = data.draw(st.lists(value, max_size=16))
    state = totals(floats(values))
    assert_correct(state, [v for v in values if v is not None and math.isfinite(v)])
    shuffled = data.draw(st.permutations(values))
    edges = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    pieces = [floats(shuffled[a:b]) for a, b in itertools.pairwise([0, *edges, len(shuffled)])]
    merged = merged_in_a_tree(data.draw, ExactMoments.merge, [totals(piece) for piece in pieces])
    extended = ExactMoments.empty(1)
    for piece in pieces:
        extended = extended.extend(Columns.of(piece))
    assert state.memory.tobytes() == merged.memory.tobytes() == extended.memory.tobytes()


LONG = {
    "normal": np.random.default_rng(0).normal(size=200_001),
    "at an offset": 1e15 + np.random.default_rng(1).normal(size=200_001),
    "of every size": np.ldexp(
        np.random.default_rng(2).normal(size=50_001),
        np.random.default_rng(3).integers(-1060, 1000, 50_001),
    ),
    "subnormal": np.random.default_rng(4).integers(-(2**52), 2**52, 50_001) * SMALLEST,
    "the largest": np.full(100_003, LARGEST),
    "one among many": np.append(np.full(100_000, 1e-300), 1e300),
}


@pytest.mark.parametrize("name", LONG)
def test_number_of_threads_does_not_matter(name, implementation):
    x = LONG[name]
    whole = totals(pa.array(x))
    shuffled = np.random.default_rng(5).permutation(x)
    parts = [totals(pa.array(part)) for part in np.array_split(shuffled, 7)]
    assert functools.reduce(ExactMoments.merge, parts, ExactMoments.empty(1)) == whole
    assert_correct(whole, x.tolist())
    if implementation == "native":
        native = importlib.import_module("streambn.kernels.native")
        before = native._threads
        try:
            native.set_threads(1 if before > 1 else 3)
            assert totals(pa.array(x)) == whole
        finally:
            native.set_threads(before)


def test_cancellation_loses_no_digits():
    row = row_of(floats([1e300, 1.0, -1e300]), floats([1e-300]))
    assert row["mean"] == 0.25
    assert row_of(floats([1e16, 1.0, -1e16]))["mean"] == 1 / 3
    assert sum([1e16, 1.0, -1e16]) == 0.0  # a plain sum depends on the order


def test_sums_and_squares_may_exceed_float64():
    row = row_of(floats([LARGEST, LARGEST, 1.0]))
    assert row["mean"] == nearest(2 * Fraction(LARGEST) / 3)
    assert row["var"] == INF
    assert math.isfinite(row["std"])
    # The sample deviation of ±max is √2·max, beyond float64.
    assert row_of(floats([LARGEST, -LARGEST]), ddof=1)["std"] == INF
    assert row_of(floats([LARGEST, -LARGEST]))["std"] == LARGEST


def test_variance_just_below_the_largest_float64_is_finite():
    x = math.sqrt(LARGEST)
    x = x if Fraction(x) ** 2 < Fraction(LARGEST) + Fraction(2) ** 970 else math.nextafter(x, 0)
    assert row_of(floats([x, -x]))["var"] == nearest(Fraction(x) ** 2)
    assert row_of(floats([2 * x, -2 * x]))["var"] == INF


def test_smallest_numbers_are_rounded_once():
    assert row_of(floats([3 * SMALLEST, 0.0]))["std"] == 2 * SMALLEST
    # 1.5 is a tie, and 2 is even.
    assert row_of(floats([SMALLEST, 2 * SMALLEST]))["mean"] == 2 * SMALLEST
    assert row_of(floats([SMALLEST, 0.0]))["mean"] == 0.0


@pytest.mark.parametrize("constant", [0.1, -0.0, SMALLEST, LARGEST, 1e15 + 0.3, 7])
def test_constant_has_no_variance(constant):
    norm = fit(floats([constant] * 1001), floats([constant] * 3))
    row = norm.stats().to_pylist()[0]
    assert (row["mean"], row["var"], row["std"], row["count"]) == (constant, 0.0, 0.0, 1004)
    assert norm.transform(pa.table({"x": floats([constant])}))["x"].to_pylist() == [0.0]


def test_extremes_do_not_depend_on_the_order_of_zeros():
    states = [totals(floats(zeros)) for zeros in ([0.0, -0.0], [-0.0, 0.0])]
    assert states[0] == states[1] == totals(floats([0.0])).merge(totals(floats([-0.0])))
    assert [math.copysign(1, x[0]) for x in (states[0].min, states[0].max)] == [-1, 1]


@pytest.mark.parametrize("name", NIST)
def test_nist_certified_values_in_binary_and_decimal(name):
    values, mean, deviation = NIST[name]
    row = row_of(pa.array(values), ddof=1)
    assert (row["mean"], row["std"]) == (mean, deviation)
    written = pa.array([Decimal(str(value)) for value in values], pa.decimal128(20, 1))
    row = row_of(written[:400], written[400:], ddof=1)
    certified = (1.0, 1.0) if name == "NumAcc1" else (0.1, 0.01)
    assert (row["mean"], row["std"], row["var"]) == (mean, *certified)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["u", ""])
def test_integers_keep_all_digits(sign, bits):
    kind = f"{sign}int{bits}"
    low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = [low, high, high, low + 1, high - 1, (low + high) // 2, low]
    state = totals(pa.array(values, kind))
    assert_correct(state, values)
    assert (state.min[0], state.max[0], state.decimal[0]) == (float(low), float(high), 0)
    with_nulls = pa.array([None, *values, None], kind).slice(0, len(values) + 1)
    assert_correct(totals(with_nulls), values)
    assert totals(with_nulls).nulls[0] == 1


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_narrow_floats_have_the_same_sums(kind):
    values = np.random.default_rng(0).normal(size=100).astype(kind)
    values[:3] = NAN, INF, np.finfo(kind).smallest_subnormal
    wide = totals(pa.array(values.astype(np.float64), from_pandas=False))
    assert totals(pa.array(values, from_pandas=False)) == wide


def test_integers_and_floats_share_a_unit():
    assert totals(pa.array([1, 2, 3])) == totals(floats([1.0, 2.0, 3.0]))


DECIMALS = [
    *(pa.decimal128(38, scale) for scale in (0, 10, 38)),
    *(pa.decimal256(76, 3), pa.decimal256(76, 76), pa.decimal128(5, -3)),
    *([pa.decimal32(9, 2), pa.decimal64(18, 4)] if hasattr(pa, "decimal32") else []),
]


@pytest.mark.parametrize("kind", DECIMALS, ids=str)
def test_decimals_are_exact_in_their_scale(kind):
    digits = 10**kind.precision - 1
    scale = Fraction(10) ** kind.scale
    whole = [digits, -digits, 0, 1, -1, digits // 3, -(digits // 7)]
    array = pa.array([*(_decimal(w, kind.scale) for w in whole), None], kind)
    state = totals(array)
    assert_correct(state, [w / scale for w in whole])
    assert (state.decimal[0], state.scale[0], state.nulls[0]) == (1, kind.scale, 1)
    assert state.min[0] == nearest(-digits / scale)
    assert totals(array[:3]).merge(totals(array[3:])) == state


def _decimal(whole, scale):
    """Return a decimal of any number of digits, without arithmetic that would round it."""
    sign, digits = int(whole < 0), tuple(map(int, str(abs(whole))))
    return Decimal((sign, digits, -scale))


def test_decimals_of_two_scales_use_the_finer_one():
    coarse = totals(pa.array([Decimal("1.5"), Decimal("2.5")]))
    fine = totals(pa.array([Decimal("0.125")]))
    for merged in (coarse.merge(fine), fine.merge(coarse)):
        assert_correct(merged, [Decimal("1.5"), Decimal("2.5"), Decimal("0.125")])
        assert merged.scale[0] == 3
    assert coarse.merge(fine) == fine.merge(coarse)
    thousands = totals(pa.array([Decimal("7E+3")], pa.decimal128(5, -3)))
    assert thousands.scale[0] == -3
    assert_correct(thousands.merge(coarse), [7000, Decimal("1.5"), Decimal("2.5")])
    assert_correct(totals(pa.array([5])).merge(thousands), [7000, 5])


def test_integral_floats_and_decimals_merge():
    whole, decimal = totals(floats([3.0, -1e20])), totals(pa.array([Decimal("0.1")]))
    for merged in (whole.merge(decimal), decimal.merge(whole)):
        assert_correct(merged, [3, -(10**20), Decimal("0.1")])
    assert whole.merge(decimal) == decimal.merge(whole)
    # A batch without values has no unit.
    nothing = totals(pa.nulls(2, pa.decimal128(9, 4)))
    assert (nothing.decimal[0], nothing.scale[0]) == (0, 0)
    half = totals(floats([0.5]))
    assert_correct(half.merge(nothing), [0.5])
    assert half.merge(nothing) == nothing.merge(half)


def test_columns_in_lists_structs_encodings_and_matrices():
    x = np.random.default_rng(0).normal(size=(40, 3))
    plain = totals(*(pa.array(x[:, i].copy()) for i in range(3)))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 3)
    assert totals(lists) == plain
    assert totals(pa.array(x[:, 0].copy()).dictionary_encode()) == plain.take([0])
    runs = pa.RunEndEncodedArray.from_arrays(np.arange(1, 41, dtype=np.int32), x[:, 0].copy())
    assert totals(runs) == plain.take([0])
    matrix = np.asfortranarray(x)
    layout = Layout([BoundColumn((i,), None) for i in range(3)])
    assert ExactMoments.of(Columns(matrix, layout)) == plain
    absent = Layout([BoundColumn((0,), None), BoundColumn((-1,), None)])
    state = ExactMoments.of(Columns(matrix, absent))
    assert state.take([0]) == plain.take([0])
    assert (state.count[1], state.nulls[1]) == (0, 40)
    struct_ = pa.StructArray.from_arrays(
        [pa.array(x[:, 0].copy())], ["y"], mask=pa.array([i % 2 == 0 for i in range(40)])
    )
    norm = fit(pa.table({"s": struct_}))
    assert norm.features == ("s.y",)
    assert norm.stats()["mean"].to_pylist() == [nearest(sum(map(Fraction, x[1::2, 0])) / 20)]
    assert norm.stats()["nulls"].to_pylist() == [20]


@given(data=st.data())
def test_implementations_give_the_same_bytes(data, implementation):
    if implementation == "reference":
        return  # nothing to compare with
    rows = data.draw(st.integers(0, 70))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**64, 3 * rows, dtype=np.uint64)
    missing = rng.random(3 * rows) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    decimals = [_decimal(int(b) ** 2 * (-1) ** int(b % 2), 5) for b in bits.tolist()]
    anything = pa.array(bits.view(np.float64), mask=missing, from_pandas=False)
    arrays = [
        anything.slice(rows, rows),
        pa.FixedSizeListArray.from_arrays(anything, 3),
        pa.array(bits.view(np.int64), mask=missing).slice(3, rows)[:rows],
        pa.array(bits, mask=missing)[:rows],
        pa.array(bits.astype(np.uint32).view(np.float32), mask=missing, from_pandas=False)[:rows],
        pa.array(bits.astype(np.int8), mask=missing)[:rows],
        pa.array(np.where(missing, None, decimals), pa.decimal256(76, 5))[rows : 2 * rows],
    ]
    arrays = [array.slice(0, min(map(len, arrays))) for array in arrays]
    state = totals(*arrays)
    assert state.memory.tobytes() == reference.exact_sums(Columns.of(*arrays)).memory.tobytes()
    again = state.extend(Columns.of(*arrays)).memory.tobytes()
    assert again == reference.merge_exact(state, state).memory.tobytes()
    assert again == state.merge(state).memory.tobytes()


def test_value_under_a_null_is_never_read():
    data = pa.py_buffer(np.array([1.0, NAN, 1e300, 2.0]))
    valid = pa.py_buffer(np.packbits([1, 0, 0, 1], bitorder="little"))
    array = pa.Array.from_buffers(pa.float64(), 4, [valid, data])
    state = totals(array)
    assert_correct(state, [1.0, 2.0])
    assert (state.nulls[0], state.nans[0], state.max[0]) == (2, 0, 2.0)


def test_nan_and_infinity_are_counted_and_skipped():
    state = totals(floats([NAN, INF, 2.0, -INF, None, INF]))
    found = [int(getattr(state, n)[0]) for n in ("count", "nulls", "nans", "pos_infs", "neg_infs")]
    assert found == [1, 1, 1, 2, 1]
    assert_correct(state, [2.0])
    row = row_of(floats([1.0, NAN]), nan="propagate")
    assert math.isnan(row["mean"])


def test_batch_in_another_unit_is_rejected():
    norm = fit(pa.array([Decimal("1.1"), Decimal("2.2")]))
    before = norm.stats(), pickle.dumps(norm)
    with pytest.raises(SchemaError, match=r"'x' holds values from 0\.1 to 0\.7 on one side.*Cast"):
        norm.update(pa.table({"x": [0.1, 0.7]}))
    assert (norm.stats(), pickle.dumps(norm)) == before
    norm = fit(floats([0.5, 0.5]))
    with pytest.raises(SchemaError, match=r"'x' holds 0\.5 on one side and decimals of scale 1 "):
        norm.update(pa.table({"x": pa.array([Decimal("1.1")])}))
    assert norm.stats()["count"].to_pylist() == [2]


def test_statistics_in_two_units_do_not_merge():
    decimal = fit(pa.table({"a": [1.5], "x": pa.array([Decimal("1.1")])}))
    binary = fit(pa.table({"a": [1.5], "x": [0.25]}))
    for pair in ((decimal, binary), (binary, decimal)):
        message = r"column 'x' holds 0\.25.*Cast the column to one type"
        with pytest.raises(MergeError, match=message):
            pair[0].merge(pair[1])


def test_sums_of_too_many_digits_are_an_error():
    huge = totals(floats([LARGEST]))
    fine = totals(pa.array([_decimal(1, 76)], pa.decimal256(76, 76)))
    assert_correct(huge.merge(totals(pa.array([Decimal("0.1")]))), [LARGEST, Decimal("0.1")])
    tiny = ExactMoments.of(Columns.of(pa.array([_decimal(1, 400)], pa.decimal256(76, 400))))
    with pytest.raises(UnmergeableError, match=r"decimals of scale 400.*too many digits"):
        huge.merge(tiny)
    assert_correct(huge.merge(fine), [LARGEST, Fraction(1, 10**76)])


def test_sample_weights_are_not_supported():
    with pytest.raises(InvalidValueError, match=r"weights='w' has no meaning for Exact\(\)"):
        sbn.Normalizer(sbn.Exact(), weights="w")
    with pytest.raises(InvalidValueError, match="Exact"):
        fit(floats([1.0])).with_weights("w")


def test_shuffled_stream_has_the_same_fingerprint(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({"x": rng.normal(size=999), "i": rng.integers(-(2**62), 2**62, 999)})
    frozen = fit(table).freeze()
    shuffled = table.take(pa.array(rng.permutation(999)))
    parts = [fit(shuffled.slice(start, 100)) for start in range(0, 999, 100)]
    merged = parts[3]
    for part in (*parts[:3], *parts[4:]):
        merged = part.merge(merged)
    assert merged.freeze().fingerprint == frozen.fingerprint
    for norm, name in ((fit(table), "a"), (merged, "b")):
        norm.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert merged.transform(table).equals(frozen.transform(table))


def test_thawed_copy_continues_to_the_same_bits():
    whole = fit(floats([0.1, 0.2, 0.3, 1e300]))
    thawed = fit(floats([0.3, 1e300])).freeze().thaw()
    thawed.update(pa.table({"x": [0.2, 0.1]}))
    assert thawed.freeze() == whole.freeze()
    assert pickle.loads(pickle.dumps(thawed)).freeze() == whole.freeze()


def test_batch_is_normalized_by_its_exact_statistics():
    x = 1e15 + np.random.default_rng(0).normal(size=1000)
    table = pa.table({"x": x})
    by_itself = fit(floats([7.0])).update_transform(table, using="batch")
    assert by_itself.equals(fit(table).transform(table))


def test_equal_states_compare_equal():
    one, two = totals(floats([0.1])), totals(floats([0.2]))
    assert one == totals(floats([0.1]))
    assert one != two
    assert one != "another kind"
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(ValueError, match="read-only"):
        one.memory[0] = 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    assert sbn.Exact() == sbn.Exact()
    assert repr(sbn.Exact()) == "Exact()"
    assert sbn.Exact().describe().startswith("Exact: ")
