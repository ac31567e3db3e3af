"""Random series, fits under any cut and merge, exact statistics and certified ones."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn.testing import cuts, exact_moments, merged_in_a_tree

EPSILON = 2.0**-52
SEEDS = st.integers(0, 2**32 - 1)
WIDTH = 3
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# NIST certifies the decimals. These are the correctly rounded values of the float64 data.
NIST = {
    "NumAcc1": ([10000001, 10000003, 10000002], 10000002, 1.0),
    "NumAcc2": ([1.2, *[1.1, 1.3] * 500], 1.2, 0.09999999999999998),
    "NumAcc3": ([1000000.2, *[1000000.1, 1000000.3] * 500], 1000000.2, 0.1000000000349246),
    "NumAcc4": ([10000000.2, *[10000000.1, 10000000.3] * 500], 10000000.2, 0.10000000055879354),
}


def few_examples(test):
    """Decorate a test that draws its data."""
    return settings.get_profile("few")(given(data=st.data())(test))


def row_of(norm, column="x", **how):
    """Return the statistics of one feature as a dict; None where undefined."""
    rows = norm.stats(**how).to_pylist()
    return next(row for row in rows if row["column"] == column)


def maker(policy, **how):
    return lambda: sbn.Normalizer(policy, **how)


def fitted(make, pieces):
    norm = make()
    for piece in pieces:
        norm.update(piece)
    return norm


def merged(data, make, pieces):
    """Fit each piece, and merge them by a random tree that keeps their order."""
    fits = [make().update(piece) for piece in pieces]
    return merged_in_a_tree(data.draw, lambda older, newer: older.merge(newer), fits)


def both_ways(data, make, batch):
    """Cut a batch at random; return one fit of all pieces, and a merge of one fit per piece."""
    pieces = data.draw(cuts([batch]))
    return fitted(make, pieces), merged(data, make, pieces)


def assert_close(got, expected, rtol, unit=0.0):
    """Compare with `rtol` relative to the value or, if larger, to `unit`; None is undefined."""
    if expected is None or math.isnan(expected):
        assert got is None
        return
    assert got is not None
    assert abs(got - expected) <= rtol * max(abs(expected), unit), (got, float(expected))


@st.composite
def gappy_series(draw, max_rows=120, offset=0.0):
    """Draw a series of float64, maybe with ties, with no, some or mostly NaN, or NaN at one end."""
    n = draw(st.integers(1, max_rows))
    kind = draw(st.sampled_from(["none", "some", "most", "leading", "trailing", "both ends"]))
    rng = np.random.default_rng(draw(SEEDS))
    x = rng.normal(size=n)
    if draw(st.sampled_from([False, False, False, True])):
        x = x.round()
    x += offset
    a, b = sorted(rng.integers(0, n + 1, 2).tolist())
    if kind in ("some", "most"):
        x[rng.random(n) < (0.3 if kind == "some" else 0.85)] = np.nan
    if kind in ("leading", "both ends"):
        x[:a] = np.nan
    if kind in ("trailing", "both ends"):
        x[b:] = np.nan
    return x


def batch_of(x, as_null=False):
    """Return one batch with NaN as NaN or as null, which are equivalent."""
    return pa.record_batch({"x": pa.array(x, pa.float64(), from_pandas=as_null)})


def stamps(seconds, kind):
    """Convert whole seconds since 1970 to times of any type."""
    if pa.types.is_date32(kind):
        return pa.array((seconds // 86_400).astype(np.int32)).cast(kind)
    if pa.types.is_date64(kind):
        return pa.array(seconds // 86_400 * 86_400_000).cast(kind)
    return pa.array(seconds * UNITS[kind.unit]).cast(kind)


def exact_ewm(x, weights):
    """Return the exact mean, biased and unbiased variance, and effective count, or None."""
    if not weights:
        return None, None, None, None
    present = x[~np.isnan(x)]
    mean, square = exact_moments(present, weights)
    total, squares = sum(weights), sum(w * w for w in weights)
    pairs = total * total - squares
    unbiased = square * total / pairs if pairs else None
    return mean, square / total, unbiased, total * total / squares


def time_weights(ages, halflife):
    """Return the weights 2**(−age/halflife) to forty digits."""
    with localcontext(prec=40, Emin=-(10**9), Emax=10**9):
        exponents = [-Decimal(age) / Decimal(halflife) for age in ages]
        return [Fraction(Decimal(2) ** exponent) for exponent in exponents]


def vectors(values):
    """Return a batch of vectors, as a column of fixed-size lists."""
    kind = pa.list_(pa.float64(), values.shape[1])
    return pa.record_batch({"e": pa.FixedSizeListArray.from_arrays(values.ravel(), type=kind)})


def matrix(batch):
    return batch["e"].flatten().to_numpy().reshape(-1, WIDTH)
