"""The map and its inverse: options, constant columns, single rows."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normalizers import (
    COLUMN,
    INF,
    NAN,
    NUMBER,
    batches,
    column,
    exact,
    fit,
    policies,
    record,
    row_of,
    same_bits,
    xs,
)

import streambn as sbn


@given(
    values=st.lists(NUMBER, min_size=1, max_size=20),
    center=st.booleans(),
    scale=st.booleans(),
    eps=st.sampled_from([0.0, 1e-5, 2.0]),
    ddof=st.sampled_from([0, 1]),
    clip=st.sampled_from([None, 0.5, 2.0]),
    affine=st.sampled_from([None, (2.0, -1.0), (0.0, 3.0), (-0.5, 0.0)]),
)
def test_transform_follows_its_formula(
    values: list[float], center: bool, scale: bool, eps: float, ddof: int,
    clip: float | None, affine: tuple[float, float] | None,
) -> None:  # fmt: skip
    norm = fit(
        xs(*values), center=center, scale=scale, eps=eps, ddof=ddof, clip=clip,
        affine=None if affine is None else {"x": affine},
    )  # fmt: skip
    mean, var = exact(values)
    n = len(values)
    var = float(var * n / (n - ddof)) if n > ddof else 0.0
    spread = (math.sqrt(var + eps) if scale else 1.0) or 1.0
    if var < (float(mean) * 2e-16) ** 2:
        return  # a constant, which another test covers
    gamma, beta = affine or (1.0, 0.0)
    expected = []
    for value in values:
        z = (float(Fraction(value) - mean) if center else value) / spread
        z = z if clip is None else min(max(z, -clip), clip)
        expected.append(z * gamma + beta)
    got = column(norm.transform(xs(*values)))
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)
    row = row_of(norm)
    if n > ddof:
        assert row["var"] == pytest.approx(var, rel=1e-14)
        assert row["std"] == pytest.approx(math.sqrt(var), rel=1e-14)
    else:
        assert row["var"] is row["std"] is None


def test_clip_comes_before_gamma_and_beta_and_keeps_nan_and_null() -> None:
    norm = fit(xs(-1.0, 1.0), clip=2.0, affine={"x": (10.0, 1.0)})
    assert column(norm.transform(xs(-9.0, 0.5, 9.0))) == [-19.0, 6.0, 21.0]
    norm = fit(xs(-1.0, 1.0), clip=2.0, inf="ignore")
    out = column(norm.transform(xs(NAN, None, INF, -INF)))
    assert math.isnan(out[0])
    assert out[1:] == [None, 2.0, -2.0]


def test_affine_names_columns_elements_and_fields() -> None:
    pair = pa.list_(pa.float64(), 2)
    batch = record(
        x=[-1.0, 1.0],
        e=pa.array([[-1.0, -1.0], [1.0, 1.0]], pair),
        s=pa.array([{"f": -1.0}, {"f": 1.0}]),
    )
    # The element comes first, so that the order of the dictionary does not decide.
    affine = {"e[1]": (5.0, 0.0), "e": (2.0, 1.0), "s.f": (3.0, 0.0)}
    out = fit(batch, affine=affine).transform(batch)
    assert column(out) == [-1.0, 1.0]
    assert column(out, "e") == [[-1.0, -5.0], [3.0, 5.0]]
    assert column(out, "s") == [{"f": -3.0}, {"f": 3.0}]


@pytest.mark.parametrize("names", [("e", "e[0]"), ("e[0]", "e")])
def test_affine_of_an_element_overrides_that_of_its_list(names: tuple[str, str]) -> None:
    batch = record(e=pa.array([[-1.0], [1.0]], pa.list_(pa.float64(), 1)))
    pairs = {"e": (2.0, 0.0), "e[0]": (5.0, 0.0)}
    out = fit(batch, affine={name: pairs[name] for name in names}).transform(batch)
    assert column(out, "e") == [[-5.0], [5.0]]


@pytest.mark.parametrize("ddof", [0, 1])
def test_ddof_applies_to_stats_and_transform(ddof: int) -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    norm = fit(xs(*values), ddof=ddof)
    assert row_of(norm)["var"] == pytest.approx(np.var(values, ddof=ddof), rel=1e-15)
    z = (np.array(values) - 4) / np.std(values, ddof=ddof)
    assert column(norm.transform(xs(*values))) == pytest.approx(z, rel=1e-15)


@policies
@settings.get_profile("few")
@given(
    value=st.one_of(NUMBER, st.floats(allow_nan=False, allow_infinity=False)),
    n=st.integers(1, 60),
)
def test_constant_has_variance_zero_and_normalizes_to_zero(
    policy: Any, value: float, n: int
) -> None:
    norm = sbn.Normalizer(policy)
    for start in range(0, n, 7):
        norm.update(xs(*[value] * min(7, n - start)))
    row = row_of(norm)
    if isinstance(policy, sbn.BatchEMA) and None not in (policy.initial, policy.momentum):
        return  # the initial 0 and 1 are part of the average
    if row["mean"] is None:
        assert policy.batch_rows is not None
        assert n < policy.batch_rows
        return
    assert row["mean"] == value
    assert row["var"] in (0.0, None)
    if abs(value) < 1e300:
        out = column(norm.transform(xs(value, value + 2.0 * abs(value) + 1.0)))
        assert out[0] == 0.0
        assert out[1] == pytest.approx(2.0 * abs(value) + 1.0, rel=1e-15)


@pytest.mark.parametrize("offset", [0.1, 1e8, -1e15, 3e300])
def test_rounding_noise_counts_as_constant(offset: float) -> None:
    """The last bit of a computed constant may vary."""
    flicker = float(np.nextafter(offset, INF))
    values = [offset] * 1000 + [flicker]
    z = column(fit(xs(*values)).transform(xs(offset, flicker)))
    assert max(map(abs, z)) <= 2 * abs(flicker - offset)
    # A rule that asks for a variance of exactly zero gives 31 standard deviations here.
    assert 1.0 / np.std([0.0] * 1000 + [1.0]) > 30


def test_small_true_variance_is_not_constant() -> None:
    values = np.tile([1e12 - 1.0, 1e12 + 1.0], 20_000)
    z = column(fit(record(x=values)).transform(xs(1e12 - 1.0, 1e12 + 1.0)))
    assert z == pytest.approx([-1.0, 1.0], abs=1e-12)
    integers = pa.array([10**18 - 1, 10**18 + 1])
    z = column(fit(record(x=integers)).transform(record(x=integers)))
    assert z == [-1.0, 1.0]


@policies
@settings.get_profile("few")
@given(data=batches(), values=COLUMN, kind=st.sampled_from([pa.float64(), pa.float32()]))
def test_single_rows_give_the_same_bits_as_a_batch(
    policy: Any, data: list[pa.RecordBatch], values: list[float | None], kind: pa.DataType
) -> None:
    norm = fit(record(x=[1.0, 1.0], y=[2.0, 5.0]), *data, policy=policy)
    many = record(x=pa.array(values, kind), y=pa.array(values[::-1], kind))
    whole = norm.transform(many)
    for name in ("x", "y"):
        single = [column(norm.transform(many.slice(i, 1)), name)[0] for i in range(many.num_rows)]
        assert same_bits(single, column(whole, name))


def test_single_rows_give_the_same_bits_as_a_large_batch() -> None:
    values = np.random.default_rng(3).normal(1e6, 3, 120_000)
    norm = fit(record(x=values))
    z = norm.transform(record(x=values))["x"].to_numpy()
    for i in [0, 1, 49_151, 49_152, 65_535, 65_536, 98_304, 119_999]:
        assert column(norm.transform(xs(values[i]))) == [z[i]]


def test_feature_without_values_normalizes_to_null() -> None:
    norm = fit(record(x=[1.0, 3.0], y=[None, NAN]))
    out = norm.transform(record(x=[1.0, 3.0], y=[5.0, 6.0]))
    assert column(out, "y") == [None, None]
    assert column(out) == [-1.0, 1.0]
    out.validate(full=True)


def test_timestamps_are_never_averaged() -> None:
    times = pa.array([1, None, 3], pa.timestamp("ns"))
    batch = record(t=times, x=[1.0, 2.0, 3.0])
    norm = fit(batch)
    assert norm.features == ("x",)
    assert norm.transform(batch)["t"].equals(times)
    with pytest.raises(sbn.SchemaError, match=r"'t' is timestamp.*not numeric"):
        fit(batch, columns=["t"])


@given(
    values=st.lists(NUMBER, min_size=1, max_size=20),
    offset=st.sampled_from([0.0, 1e8, -1e15]),
    options=st.sampled_from(
        [{}, {"center": False}, {"scale": False}, {"eps": 0.5}, {"ddof": 1},
         {"affine": {"x": (-3.0, 7.0)}}]
    ),
)  # fmt: skip
def test_inverse_transform_undoes_transform(
    values: list[float], offset: float, options: dict[str, Any]
) -> None:
    values = [v + offset for v in values]
    norm = fit(xs(*values), **options)
    there = norm.transform(xs(*values, None, NAN))
    back = column(norm.inverse_transform(there))
    assert back[-2] is None
    assert math.isnan(back[-1])
    # The affine shift of 7 standard deviations is rounded with z.
    size = max(map(abs, values)) + 10 * (row_of(norm)["std"] or 1.0)
    for value, got in zip(values, back, strict=False):
        assert abs(got - value) <= 3e-16 * size


@pytest.mark.parametrize(
    "values",
    [
        [1e15, 1e15 + 1, 1e15 + 3],
        [1.7e308, 1.0e308, -1.5e308],
        [-1.7e308, 1.7e308, 1.7e308, 1.7e308],
        [1e-310, 3e-310, 2e-300],
        [5.0, 5.0],
    ],
)
def test_inverse_transform_at_the_ends_of_the_range(values: list[float]) -> None:
    norm = fit(xs(*values))
    back = column(norm.inverse_transform(norm.transform(xs(*values))))
    assert back == pytest.approx(values, rel=1e-15, abs=max(map(abs, values)) * 4e-16)


def test_inverse_transform_in_float32() -> None:
    values = np.random.default_rng(1).normal(50, 3, 1000).astype(np.float32)
    norm = fit(record(x=values))
    out = norm.inverse_transform(norm.transform(record(x=values)))
    assert out.schema.field("x").type == pa.float32()
    assert out["x"].to_numpy() == pytest.approx(values, rel=1.2e-7)
    wide = norm.inverse_transform(norm.transform(record(x=values), dtype="float64"))
    assert wide["x"].to_numpy() == pytest.approx(values.astype(float), rel=3e-16)


def test_inverse_transform_of_integers_and_decimals_is_float64() -> None:
    data = record(x=pa.array([1, 2, 9]), d=pa.array([Decimal("0.1"), Decimal("0.2"), None]))
    norm = fit(data)
    out = norm.inverse_transform(norm.transform(data))
    assert out.schema.types == [pa.float64(), pa.float64()]
    assert column(out) == pytest.approx([1.0, 2.0, 9.0], rel=1e-15)
    assert column(out, "d")[:2] == pytest.approx([0.1, 0.2], rel=1e-15)


def test_gamma_of_zero_has_no_inverse() -> None:
    norm = fit(record(x=[1.0], y=[2.0]), affine={"y": (0.0, 5.0)})
    assert column(norm.transform(record(x=[1.0], y=[9.0])), "y") == [5.0]
    with pytest.raises(sbn.InvalidValueError, match=r"'y'.*gamma of 0"):
        norm.inverse_transform(record(x=[0.0], y=[5.0]))


def test_inverse_of_clipped_values_stays_clipped() -> None:
    norm = fit(xs(-1.0, 1.0), clip=2.0)
    assert column(norm.inverse_transform(norm.transform(xs(9.0, 0.5)))) == [2.0, 0.5]
