"""Moments and transforms of random columns agree with the reference or exact fractions."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import numpy as np
import pyarrow as pa
from moment_checks import CLOSE, DIGITS, assert_moments_agree, mean_and_m2
from native_kernels import (
    F2,
    F4,
    F8,
    assert_outputs_equal,
    native,
    run_transform,
    values_and_validity,
)

from streambn.kernels import BoundColumn, Columns, FeatureTransform, Layout, reference
from streambn.testing import exact_moments

SHORT = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65]
MEDIUM = [127, 129, 511, 512, 513, 1023, 1024, 1025, 1535, 1537, 2000]
LONG = [32767, 32768, 32769, 65541, 131071, 131072, 131073]
INTEGERS = [np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)]
FLOATS = [F2, F4, F8]


class RandomColumn:
    """A random column: its array, its exact values, and the properties that were drawn for it."""

    def __init__(self, rng, rows):
        self.rng, self.rows = rng, rows
        self.size = None if rng.random() < 0.7 else int(rng.integers(1, 21))
        if rows > 65 and self.size:
            self.size = min(self.size, 4) if rows <= 2000 else None
        width = self.size or 1
        self.before, behind = (int(rng.choice([0, 0, 1, 3, 7, 8, 13])) for _ in range(2))
        self.n = n = (self.before + rows + behind) * width
        family = rng.choice(["float", "integer", "decimal"], p=[0.5, 0.3, 0.2])
        self.exact = family != "float"
        self.far = False
        numbers, values = getattr(self, f"_{family}")()
        valid = self._validity(n)
        inner = pa.Array.from_buffers(
            self.kind, n, [None if valid is None else _bitmap(valid), pa.py_buffer(numbers)]
        )
        array, present = inner, np.ones(n, bool) if valid is None else valid
        if self.size:
            above = self._validity(n // width)
            missing = None if above is None else pa.array(~above)
            array = pa.FixedSizeListArray.from_arrays(inner, width, mask=missing)
            if above is not None:
                present = present & np.repeat(above, width)
        self.array = array.slice(self.before, rows)
        shown = slice(self.before * width, (self.before + rows) * width)
        self.values = values[shown].reshape(rows, width)
        self.present = present[shown].reshape(rows, width)

    def __str__(self):
        return f"{self.kind} x {self.size}, {self.rows} rows"

    @property
    def columns(self):
        return Columns(pa.record_batch({"x": self.array}), Layout([BoundColumn((0,), self.size)]))

    def _validity(self, n):
        rng = self.rng
        pattern = rng.choice(["none", "all", "random", "few", "runs", "first", "last"])
        if pattern == "none" or n == 0:
            return None
        if pattern == "random":
            return rng.random(n) < rng.random()
        if pattern == "runs":
            return np.repeat(rng.random(n // 100 + 1) < 0.5, 100)[:n]
        last = slice(-1, None) if rng.random() < 0.5 else slice(-1)
        missing = {"all": slice(None), "few": rng.integers(0, n, 3), "first": 0, "last": last}
        valid = np.ones(n, bool)
        valid[missing[pattern]] = False
        return valid

    def _float(self):
        rng, n = self.rng, self.n
        dtype = FLOATS[rng.choice(3, p=[0.15, 0.25, 0.6])]
        self.kind = pa.from_numpy_dtype(dtype)
        shape = rng.choice(["normal", "two", "sorted", "constant", "wide", "huge", "tiny", "step"])
        x = rng.normal(size=n)
        if shape == "normal":
            x = x + 10.0 ** rng.uniform(-2, 15) * rng.choice([-1, 1])
        elif shape == "two":
            x = rng.choice(rng.normal(rng.choice([0, 1e6]), 1, 2), n)
        elif shape == "sorted":
            x = np.sort(x) + rng.choice([0.0, 1e3])
        elif shape == "constant":
            x = np.full(n, x[0] * 10.0 ** rng.integers(-300, 300) if n else 0.0)
        elif shape == "wide":
            x = x * 10.0 ** rng.integers(-250, 250, n)
        elif shape == "huge":
            x = np.clip(x, -2, 2) / 2 * 1.7e308
        elif shape == "tiny":
            x = np.rint(4 * x) * 5e-324
        else:
            # Two levels, far from each other: no centre suits both.
            x = x * 0.1 + np.where(np.arange(n) < rng.integers(0, n + 1), 0.0, 1e8)
        if rng.random() < 0.3 and n:
            where = rng.integers(0, n, int(rng.integers(1, 2 + n // 4)))
            x[where] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], len(where))
        with np.errstate(all="ignore"):
            x = x.astype(dtype)
        return x, x.astype(np.float64)

    def _draw_integers(self, low, high, octets):
        """Draw Python integers near one number, over the whole range, or at its ends."""
        rng, n = self.rng, self.n
        if self.rows > 65:
            # Columns of this length are compared with the reference alone. It subtracts its
            # base exactly only where a float64 holds the difference.
            low, high = max(low, -(2**52)), min(high, 2**52)
        shape = rng.choice(["near", "near", "anywhere", "ends", "constant"])
        if shape == "anywhere":
            octet_string, reach = rng.bytes(n * octets), high - low + 1
            parts = (octet_string[i : i + octets] for i in range(0, n * octets, octets))
            return [low + int.from_bytes(part) % reach for part in parts]
        if shape == "ends":
            return [low + (high - low) * v // 9 for v in rng.integers(0, 10, n).tolist()]
        middle = (0, low, high, low + (high - low) * int(rng.integers(2**30)) // 2**30)
        middle = middle[rng.integers(4)]
        spread = 0 if shape == "constant" else int(10.0 ** rng.uniform(0, 15))
        near = rng.integers(-spread, spread + 1, n).tolist()
        return [min(max(middle + v, low), high) for v in near]

    def _integer(self):
        dtype = INTEGERS[self.rng.integers(len(INTEGERS))]
        self.kind = pa.from_numpy_dtype(dtype)
        limits = np.iinfo(dtype)
        values = self._draw_integers(int(limits.min), int(limits.max), dtype.itemsize)
        self.far = any(abs(v) > 2**53 for v in values)
        return np.array(values, dtype), np.array(values, object)

    def _decimal(self):
        kind, digits = list(DIGITS.items())[self.rng.integers(4)]
        self.kind = kind(digits, int(self.rng.integers(0, digits + 1)))
        top = 10 ** int(self.rng.integers(1, digits + 1)) - 1
        width = self.kind.byte_width
        values = self._draw_integers(-top, top, width)
        octets = b"".join(v.to_bytes(width, "little", signed=True) for v in values)
        self.far = any(abs(v) > 2**53 for v in values)
        ten = 10**self.kind.scale
        return octets, np.array([Fraction(v, ten) for v in values], object)


def _bitmap(valid):
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def random_columns(seed, count):
    """Yield the number, generator, column and decay of each random case."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        rows = int(rng.choice(LONG if i % 500 == 0 else MEDIUM if i % 15 == 0 else SHORT))
        decay = float(rng.choice([1.0, 1.0, 0.5, 0.999, 0.0]))
        yield i, rng, RandomColumn(rng, rows), decay


@contextlib.contextmanager
def described(note):
    """Add a note to a failed assertion."""
    try:
        yield
    except AssertionError as error:
        error.add_note(note)
        raise


def finite_values(column, feature):
    """Return the values of a feature, and which of them are present and finite."""
    values, present = column.values[:, feature], column.present[:, feature]
    if column.exact:
        return values, present
    return values, present & np.isfinite(values)


def assert_extremes(column, got):
    """Check that minimum and maximum are those of the values, rounded once."""
    for feature in range(column.values.shape[1]):
        values, usable = finite_values(column, feature)
        some = values[usable]
        if not len(some):
            assert (got.min[feature], got.max[feature]) == (np.inf, -np.inf)
            continue
        for ours, exact in ((got.min[feature], min(some)), (got.max[feature], max(some))):
            if not pa.types.is_decimal(column.kind):
                assert ours == float(exact)
                continue
            # Rounded to nearest, up to ties that 106 bits cannot decide.
            half = Fraction(np.spacing(abs(ours))) / 2
            assert abs(Fraction(ours) - exact) <= half * (1 + Fraction(1, 2**40))


def assert_moments_near_exact(column, got, decay, ignore_na):
    """Compare mean, sum of squares and the sums of weights with exact fractions."""
    close = Fraction(CLOSE)
    for feature in range(min(column.values.shape[1], 3 if column.rows <= 9 else 1)):
        values, usable = finite_values(column, feature)
        if not usable.any():
            assert got.weight[feature] == got.m2_hi[feature] == 0
            continue
        behind = np.cumsum(usable[::-1])[::-1] - usable
        ages = (behind if ignore_na else np.arange(len(usable))[::-1])[usable]
        weights = [Fraction(decay) ** int(age - ages[-1]) for age in ages]
        mean, m2 = exact_moments(list(values[usable]), weights)
        # Rows after the last value fade all sums, but the weight never below its minimum.
        weight = sum(weights)
        faded = Fraction(decay) ** int(ages[-1])
        faded = faded if ages[-1] == 0 else max(faded, min(1, Fraction(1, 2**400) / weight))
        squares = sum(w * w for w in weights)
        pairs = (weight**2 - squares) / 2
        got_mean, got_m2 = mean_and_m2(got, feature)
        assert abs(got_m2 - m2 * faded) <= close * m2 * faded
        # Numbers below 2**-1000 of the largest value may vanish in its units.
        slack = abs(mean) / 2**95 + Fraction(np.abs(values[usable]).max()) / 2**1000
        apart = max(abs(got_mean - mean) - slack, 0)
        if pa.types.is_decimal(column.kind) and column.kind.bit_width > 64:
            # A batch has one base, which may be a forgotten value far from the rest.
            apart = max(apart - (max(values[usable]) - min(values[usable])) / 2**53, 0)
        assert apart**2 * weight <= close**2 * m2
        assert abs(Fraction(got.weight[feature]) - weight * faded) <= close * weight * faded
        # A product of two weights may be below the least float64.
        for ours, products in ((got.pairs[feature], pairs), (got.squares[feature], squares)):
            slack = close * products * faded**2 + Fraction(1, 2**1074)
            assert abs(Fraction(ours) - products * faded**2) <= slack


def test_moments_agree_with_the_reference_or_with_fractions(long):
    exactly, arrays = 0, 10_000 if long else 1_500
    for i, rng, column, decay in random_columns(1, arrays):
        ignore_na = bool(rng.integers(2)) and decay != 1
        got = native.block_moments(column.columns, decay, ignore_na)
        few = column.rows <= 65
        with described(f"array {i}: {column}, decay {decay}"):
            assert_extremes(column, got)
            if not column.far or not few:
                assert_moments_agree(got, reference.block_moments(column.columns, decay, ignore_na))
            if few and (column.far or (column.rows <= 9 and i % 4 == 0)):
                exactly += 1
                assert_moments_near_exact(column, got, decay, ignore_na)
    assert exactly > arrays / 5


def random_transform(rng, column, m):
    """Return a transform with roughly the mean and deviation of the column."""
    width = column.size or 1
    with np.errstate(all="ignore"):
        hi = np.ldexp(m.mean_hi, m.exponent)
        spread = np.ldexp(np.sqrt(m.m2_hi / np.maximum(m.weight, 1)), m.exponent)
        low = np.where(np.abs(hi) < 1e300, np.ldexp(m.mean_lo, m.exponent), 0.0)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    affine = rng.random() < 0.3
    return FeatureTransform.of(
        hi, low, spread,
        rng.uniform(0.5, 2, width) if affine else None,
        rng.normal(size=width) if affine else None,
        float(rng.choice([1e-3, 0.5, 3.0])) if rng.random() < 0.3 else None,
        np.ones(width, bool) if rng.random() < 0.7 else rng.random(width) < 0.5,
    )  # fmt: skip


def assert_outputs_close(a, b, slack):
    """Check that outputs differ by at most `slack`, plus one ulp of a type below float64."""
    (ours, valid), (theirs, expected) = values_and_validity(a), values_and_validity(b)
    np.testing.assert_array_equal(valid, expected)
    assert a.null_count == len(a) - valid.sum()
    assert not ours[~valid].any()
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(all="ignore"):
        unit = 0.0 if ours.dtype == F8 else np.spacing(np.maximum(np.abs(ours), np.abs(theirs)))
        apart = np.abs(ours.astype(F8) - theirs.astype(F8))
    assert (same | (apart <= unit + slack)).all()


def test_transforms_agree_with_the_reference(long):
    for i, rng, column, _ in random_columns(2, 2000 if long else 500):
        moments = native.block_moments(column.columns)
        transform = random_transform(rng, column, moments)
        dtype = FLOATS[rng.integers(3)]
        # Both kernels read floats unchanged, but subtract different bases from types wider
        # than 53 bits. Each of the few steps that follow rounds a number no larger than the
        # distance of a value from the other kernel's base, or than a value.
        slack = backward = 0.0
        with np.errstate(all="ignore"):
            if pa.types.is_decimal(column.kind) or column.kind in (pa.int64(), pa.uint64()):
                low = np.where(moments.count > 0, moments.min, 0.0)
                high = np.where(moments.count > 0, moments.max, 0.0)
                reach = np.maximum(high - transform.location_hi, transform.location_hi - low)
                gamma = 1.0 if transform.gamma is None else transform.gamma
                largest = np.maximum(-low, high)
                # A base is a float64, so that it is off by up to 2**-53 of the values.
                reach = reach + largest * 2.0**-53
                slack = np.max(8 * 2.0**-53 * gamma * (reach / transform.scale + 1))
                backward = np.max(16 * 2.0**-53 * (largest + 9) * transform.scale * 2)
        with described(f"array {i}: {column}, to {dtype}"):
            for name, bound in (("normalize", slack), ("denormalize", backward)):
                ours, theirs = (
                    run_transform(getattr(kernels, name), column.columns, transform, [dtype])
                    for kernels in (native, reference)
                )
                if bound == 0 and (name == "denormalize" or dtype != F4):
                    assert_outputs_equal(ours.arrays[0], theirs.arrays[0])
                assert_outputs_close(ours.arrays[0], theirs.arrays[0], bound)
                np.testing.assert_array_equal(ours.nans, theirs.nans)
                np.testing.assert_array_equal(ours.infs, theirs.infs)
