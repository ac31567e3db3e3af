"""RowMaps: both implementations give the same bits, and never change."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambn.errors import SchemaError
from streambn.kernels import reference
from streambn.kernels.rows import MISSING, number, refuse

ANY = st.floats() | st.floats(-9, 9, width=16)
SCALE = st.floats(1e-308, 1.7e308, allow_nan=False) | st.sampled_from([1.0, 2.0**970, 5e-324])
VALUE = ANY | st.integers(-(2**80), 2**80) | st.none() | st.fractions()


def row_maps(kernels, names, maps, may_lack=False, nan="ignore", inf="ignore"):
    rules = may_lack, MISSING.index(nan), MISSING.index(inf)
    return kernels.RowMaps(list(names), *maps, *rules, number, refuse)


def plain(count, **fields):
    """Return the arrays of maps, in the order of the arguments of RowMaps."""
    arrays = {
        "location_hi": np.zeros(count), "location_lo": np.zeros(count), "scale": np.ones(count),
        "gamma": None, "beta": None, "clip": math.inf, "known": np.ones(count, np.bool_),
    }  # fmt: skip
    return tuple((arrays | fields).values())


def bits(row):
    return {
        k: struct.pack("d", y) if isinstance(y, float) and not math.isnan(y) else repr(y)
        for k, y in row.items()
    }


@given(
    hi=st.lists(ANY, min_size=2, max_size=2),
    lo=st.lists(st.floats(-1e-9, 1e-9), min_size=2, max_size=2),
    scale=st.lists(SCALE, min_size=2, max_size=2),
    affine=st.none() | st.tuples(st.floats(-9, 9).filter(bool), st.floats(-9, 9)),
    clip=st.just(math.inf) | st.floats(1e-300, 1e300),
    values=st.lists(VALUE, min_size=2, max_size=2),
)
def test_both_kernels_give_the_same_bits(native, hi, lo, scale, affine, clip, values):
    gamma, beta = (None, None) if affine is None else (np.full(2, x) for x in affine)
    maps = plain(
        2, location_hi=np.array(hi), location_lo=np.array(lo), scale=np.array(scale), clip=clip,
        gamma=gamma, beta=beta, known=np.array([True, values[0] != 0]),
    )  # fmt: skip
    row = dict(zip("ab", values, strict=True))
    with np.errstate(all="ignore"):
        mine, other = (row_maps(kernels, "ab", maps) for kernels in (reference, native))
        for method in ("transform", "inverse"):
            assert bits(getattr(mine, method)(row)) == bits(getattr(other, method)(row))


def test_names_are_unique_texts_and_rules_have_a_domain(kernels):
    with pytest.raises(ValueError, match="twice"):
        row_maps(kernels, "aa", plain(2))


def test_extension_refuses_arrays_that_do_not_fit(native):
    for maps in (plain(1), plain(2, gamma=np.ones(1), beta=np.ones(2)), plain(2, known=np.ones(2))):
        with pytest.raises(ValueError, match="instead of"):
            row_maps(native, "ab", maps)
    with pytest.raises(ValueError, match="not text"):
        row_maps(native, ["a", "\ud800"], plain(2))
    with pytest.raises(ValueError, match="domain"):
        native.RowMaps(["a"], *plain(1), False, 3, 0, number, refuse)


def test_row_without_features_passes(kernels):
    assert row_maps(kernels, "", plain(0)).transform({"x": "y"}) == {"x": "y"}


class ChangesTheRow(Fraction):
    """A number that changes a row while it is converted to a float."""

    row: ClassVar[dict[str, object]] = {}

    def __float__(self):
        self.row.clear()
        return super().__float__()


def test_row_may_change_while_it_is_read(kernels):
    names = [f"x{i}" for i in range(20)]
    maps = row_maps(kernels, names, plain(20))
    row = dict.fromkeys(names, 1.5) | {"x3": ChangesTheRow(5, 2), "x7": ChangesTheRow(1, 2)}
    ChangesTheRow.row = row
    expected = dict.fromkeys(names, 1.5) | {"x3": 2.5, "x7": 0.5}
    assert maps.transform(row) == expected
    assert row == {}


def test_a_refused_row_changes_nothing(kernels):
    maps, row = row_maps(kernels, "ab", plain(2)), {"a": 1.0, "b": "text"}
    for _ in range(2):
        with pytest.raises(SchemaError):
            maps.transform(row)
    assert row == {"a": 1.0, "b": "text"}
    assert maps.transform({"a": 1.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}
