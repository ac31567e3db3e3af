"""The live normalizer and the frozen one: every rule of behaviour, as a law."""

from __future__ import annotations

import copy
import dataclasses
import html
import math
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

import streambn as sbn
from streambn import snapshot
from streambn.kernels import ExactSums, MomentArrays

INF, NAN = math.inf, math.nan

POLICIES: dict[str, Any] = {
    "welford": sbn.Welford(),
    "ema": sbn.EMA(alpha=0.3),
    "ema halflife": sbn.EMA(halflife=4, ignore_na=True),
    "ema recursive": sbn.EMA(span=5, adjust=False),
    "batch-ema": sbn.BatchEMA(momentum=0.1),
    "batch-ema keras": sbn.BatchEMA(decay=0.75, ddof=0, initial=None),
    "batch-ema average": sbn.BatchEMA(momentum=None),
    "batch-ema rows": sbn.BatchEMA(momentum=0.5, batch_rows=3),
    "exact": sbn.Exact(),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def bits(norm: sbn.Normalizer) -> bytes:
    """The state, to the last bit."""
    return snapshot.encode(snapshot.Snapshot(norm._statistics, frozen=False))


def record(*, schema: pa.Schema | None = None, **columns: Any) -> pa.RecordBatch:
    if schema is not None:
        return pa.RecordBatch.from_arrays([pa.array(c) for c in columns.values()], schema=schema)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c) for c in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def xs(*values: float | None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    return record(x=pa.array(values, kind or pa.float64()))


def fit(*data: Any, **options: Any) -> sbn.Normalizer:
    norm = sbn.Normalizer(**options)
    for batch in data:
        norm.update(batch)
    return norm


def lane(norm: Any, name: str = "x") -> dict[str, Any]:
    [row] = [row for row in norm.stats().to_pylist() if row["column"] == name]
    return row


def column(data: Any, name: str = "x") -> list[Any]:
    whole = data.read_all() if hasattr(data, "read_all") else data
    return whole[name].to_pylist()


def floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([NAN if v is None else v for v in values], float)


def exact(values: Sequence[Any]) -> tuple[Fraction, Fraction]:
    """Mean and population variance, as rationals."""
    numbers = [Fraction(v) for v in values]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return mean, sum(((v - mean) ** 2 for v in numbers), Fraction(0)) / len(numbers)


def same_bits(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return pickle.dumps([*map(repr, a)]) == pickle.dumps([*map(repr, b)])


def close(a: Any, b: Any) -> None:
    """Statistics that agree but for rounding."""
    for one, two in zip(a.stats().to_pylist(), b.stats().to_pylist(), strict=True):
        for name in ("column", "count", "nulls", "nans", "infs", "min", "max"):
            assert one[name] == two[name]
        for name in ("mean", "var", "std"):
            assert floats([one[name]]) == pytest.approx(
                floats([two[name]]), rel=1e-12, abs=1e-12, nan_ok=True
            )


# Modest numbers, whole ones often, so that ties and constants appear.
NUMBER = st.one_of(st.integers(-9, 9).map(float), st.floats(-1e6, 1e6, width=32))
VALUE = st.one_of(st.none(), st.just(NAN), NUMBER, NUMBER)
COLUMN = st.lists(VALUE, max_size=24)


@st.composite
def batches(draw: Any, value: Any = VALUE) -> list[pa.RecordBatch]:
    """Some batches of two columns, with empty ones and all-null ones among them."""
    made = []
    for _ in range(draw(st.integers(0, 5))):
        n = draw(st.sampled_from([0, 1, 2, 3, 7]))
        kind = draw(st.sampled_from(["any", "any", "null"]))
        x = draw(st.lists(st.none() if kind == "null" else value, min_size=n, max_size=n))
        y = draw(st.lists(value, min_size=n, max_size=n))
        made.append(record(x=pa.array(x, pa.float64()), y=pa.array(y, pa.float64())))
    return made


# ----------------------------------------------------------------------- missing values


@policies
def test_nulls_are_skipped_and_counted_and_stay_null(policy: Any) -> None:
    with_nulls = fit(xs(1.0, None, 2.0, None), xs(None, 6.0), policy=policy)
    row = lane(with_nulls)
    assert (row["count"], row["nulls"], row["nans"], row["infs"]) == (3, 3, 0, 0)
    assert (row["min"], row["max"]) == (1.0, 6.0)
    z = column(with_nulls.transform(xs(None, 3.0, None)))
    assert z[0] is z[2] is None
    assert math.isfinite(z[1])


@policies
def test_one_nan_or_null_does_not_poison_the_statistics(policy: Any) -> None:
    row = lane(fit(xs(1.0, NAN, 2.0), xs(NAN), xs(None), xs(6.0, 7.0, 8.0), policy=policy))
    assert (row["count"], row["nans"], row["nulls"]) == (5, 2, 1)
    assert math.isfinite(row["mean"])
    assert math.isfinite(row["var"])


@policies
def test_an_empty_batch_is_a_no_op(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0), xs(4.0), policy=policy)
    before = bits(norm)
    assert bits(norm.update(xs())) == before
    for using in ("running", "before", "batch"):
        assert norm.update_transform(xs(), using=using).num_rows == 0
        assert bits(norm) == before


@pytest.mark.parametrize("method", ["update", "update_transform"])
def test_an_empty_first_batch_leaves_no_trace(method: str) -> None:
    norm = sbn.Normalizer()
    before = bits(norm)
    getattr(norm, method)(xs())
    assert bits(norm) == before
    norm.update(record(other=[1.0]))
    assert norm.features == ("other",)


def test_an_all_null_batch_only_counts() -> None:
    norm = fit(xs(1.0, 2.0, 6.0))
    before = lane(norm)
    norm.update(xs(None, None)).update(record(x=pa.nulls(3)))
    assert lane(norm) == before | {"nulls": 5}


@policies
def test_an_all_null_column_has_no_statistics_and_hurts_none(policy: Any) -> None:
    """Not an error, not zero, not NaN: there is nothing to tell."""
    batch = record(x=[1.0, 2.0], gone=pa.nulls(2, pa.float64()))
    norm = fit(batch, batch, policy=policy)
    row = lane(norm, "gone")
    assert (row["count"], row["nulls"]) == (0, 4)
    assert all(row[name] is None for name in ("mean", "var", "std", "min", "max"))
    out = norm.transform(record(x=[1.0], gone=[7.0]))
    assert column(out, "gone") == [None]
    late = fit(batch, record(x=[1.0], gone=[7.0]), record(x=[1.0], gone=[9.0]), policy=policy)
    assert lane(late, "gone")["count"] == 2


def test_infinity_is_refused_before_anything_changes() -> None:
    norm = fit(xs(1.0, 2.0))
    before = bits(norm)
    for value in (INF, -INF):
        with pytest.raises(sbn.InvalidValueError, match=r"'x' holds infinity.*inf='ignore'"):
            norm.update(xs(3.0, value))
        with pytest.raises(sbn.InvalidValueError, match="'x' holds infinity"):
            norm.transform(xs(value))
        assert bits(norm) == before


class Setting:
    """What `nan=` or `inf=` does to [1, value, 3]."""

    values = pytest.mark.parametrize("value", [NAN, INF, -INF])
    uses = pytest.mark.parametrize("using", ["running", "before", "batch"])


def options_for(value: float, setting: str) -> dict[str, Any]:
    return {"nan": setting} if math.isnan(value) else {"inf": setting}


@policies
@Setting.values
def test_ignored_values_are_counted_and_pass(value: float, policy: Any) -> None:
    options = options_for(value, "ignore")
    norm = fit(xs(1.0, value, 3.0), xs(1.0, 2.0, 6.0), policy=policy, **options)
    row = lane(norm)
    name = "nans" if math.isnan(value) else "infs"
    assert row[name] == 1
    assert row["count"] == 5
    assert (row["min"], row["max"]) == (1.0, 6.0)
    assert math.isfinite(row["mean"])
    assert math.isfinite(row["var"])
    z = column(norm.transform(xs(value, 1.0)))
    assert repr(z[0]) == repr(value)  # NaN stays NaN, and -inf stays -inf
    assert math.isfinite(z[1])


@policies
@Setting.values
def test_refused_values_leave_no_trace(value: float, policy: Any) -> None:
    options = options_for(value, "raise")
    norm = fit(xs(1.0, 2.0), policy=policy, **options)
    before = bits(norm)
    word = "NaN" if math.isnan(value) else "infinity"
    name = next(iter(options))
    message = rf"'x' holds {word} in 2 rows.*{name}='ignore'.*{name}='propagate'"
    bad = record(y=["a", "b", "c"], x=[5.0, value, value])
    for act in (norm.update, norm.transform, norm.update_transform):
        with pytest.raises(sbn.InvalidValueError, match=message):
            act(bad)
        assert bits(norm) == before
    norm.update(xs(None, 5.0))  # a null is not a NaN


@policies
@Setting.values
def test_propagated_values_reach_the_statistics_for_good(value: float, policy: Any) -> None:
    options = options_for(value, "propagate")
    norm = fit(xs(1.0, value, 3.0), record(x=[1.0, 2.0, 6.0]), policy=policy, **options)
    row = lane(norm)
    assert repr(row["mean"]) == repr(value)
    assert math.isnan(row["var"])
    assert math.isnan(row["std"])
    assert row["count"] == 5
    assert math.isnan(column(norm.transform(xs(1.0)))[0])
    loaded = sbn.Normalizer.from_statistics(snapshot.decode(bits(norm)).statistics)
    assert repr(lane(loaded)) == repr(row)


def test_both_infinities_propagate_to_nan() -> None:
    row = lane(fit(xs(1.0, INF, -INF, 3.0), inf="propagate"))
    assert math.isnan(row["mean"])
    assert math.isnan(row["var"])
    assert (row["min"], row["max"], row["infs"]) == (-INF, INF, 2)


def test_propagation_stays_in_its_own_lane() -> None:
    norm = fit(record(x=[1.0, NAN], y=[1.0, 3.0]), nan="propagate")
    assert lane(norm, "y")["mean"] == 2.0
    assert column(norm.transform(record(x=[1.0], y=[3.0])), "y") == [1.0]


@Setting.uses
@pytest.mark.parametrize("nan", ["ignore", "propagate"])
def test_nan_passes_through_every_form_of_update_transform(nan: str, using: str) -> None:
    norm = fit(xs(1.0, 3.0), nan=nan)
    out = column(norm.update_transform(xs(1.0, NAN, None, 3.0), using=using))
    assert math.isnan(out[1])
    assert out[2] is None
    assert math.isnan(out[0]) == (nan == "propagate" and using != "before")


# -------------------------------------------------------------------- whole or not at all


@policies
@pytest.mark.parametrize("bad", [xs(9.0, INF), record(y=[9.0]), record(x=["a"])])
def test_a_table_is_learned_whole_or_not_at_all(policy: Any, bad: pa.RecordBatch) -> None:
    norm = fit(xs(1.0, 2.0), policy=policy)
    before = bits(norm)
    if bad.schema.names == ["x"] and bad.schema.field("x").type == pa.float64():
        table = pa.Table.from_batches([xs(5.0, 6.0), bad])
    else:
        table = pa.Table.from_batches([bad])
    for act in (norm.update, norm.update_transform):
        with pytest.raises((sbn.InvalidValueError, sbn.SchemaError)):
            act(table)
        assert bits(norm) == before


@policies
def test_a_refused_first_table_does_not_bind(policy: Any) -> None:
    norm = sbn.Normalizer(policy)
    before = bits(norm)
    for act in (norm.update, norm.update_transform):
        with pytest.raises(sbn.InvalidValueError):
            act(pa.Table.from_batches([xs(1.0), xs(INF)]))
        assert bits(norm) == before
        assert norm.features == ()
    norm.update(record(other=[1.0]))
    assert norm.features == ("other",)


@policies
def test_of_a_stream_the_batches_before_the_refused_one_are_learned(policy: Any) -> None:
    good, bad = [xs(1.0, 2.0), xs(6.0)], xs(7.0, INF)
    wanted = bits(fit(*good, policy=policy))
    norm = sbn.Normalizer(policy)
    with pytest.raises(sbn.InvalidValueError, match="infinity"):
        norm.update([*good, bad, xs(8.0)])
    assert bits(norm) == wanted
    norm = sbn.Normalizer(policy)
    out = norm.update_transform([*good, bad, xs(8.0)])
    for _ in good:
        out.read_next_batch()
    with pytest.raises(sbn.InvalidValueError, match="infinity"):
        out.read_next_batch()
    assert bits(norm) == wanted


@policies
@settings.get_profile("few")
@given(data=batches(), more=COLUMN)
def test_transform_never_learns_and_never_creates_a_lane(
    policy: Any, data: list[pa.RecordBatch], more: list[float | None]
) -> None:
    norm = fit(xs(1.0, 2.0), *[b.select(["x"]) for b in data], policy=policy)
    before = bits(norm)
    arrays = pa.array(more, pa.float64())
    norm.transform(record(x=arrays, new=arrays))
    norm.inverse_transform(record(new=arrays, x=arrays))
    norm.stats()
    repr(norm)
    assert bits(norm) == before
    assert norm.features == ("x",)


def test_update_returns_itself_and_transform_a_new_batch() -> None:
    norm = sbn.Normalizer()
    batch = xs(1.0, 3.0)
    assert norm.update(batch) is norm
    assert column(norm.transform(batch)) == [-1.0, 1.0]
    assert column(batch) == [1.0, 3.0]


# -------------------------------------------------------------- update_transform by hand


STREAM = [[1.0, 3.0], [5.0], [None, 7.0, 9.0], [4.0, 4.0]]


def by_hand(using: str) -> list[float | None]:
    """Mean and variance anew for each batch, from the list of all values."""
    out: list[float | None] = []
    seen: list[float] = []
    for batch in STREAM:
        own = [v for v in batch if v is not None]
        base = {"running": seen + own, "before": seen, "batch": own}[using]
        seen = seen + own
        for value in batch:
            if value is None or not base:
                out.append(None)
                continue
            mean, var = exact(base)
            out.append(float(Fraction(value) - mean) / (math.sqrt(var) or 1.0))
    return out


@Setting.uses
@pytest.mark.parametrize("kind", ["table", "reader", "generator", "batches one by one"])
def test_update_transform_is_what_one_computes_by_hand(using: str, kind: str) -> None:
    parts = [xs(*values) for values in STREAM]
    norm = sbn.Normalizer()
    data: Any = pa.Table.from_batches(parts)
    if kind == "batches one by one":
        got = [z for part in parts for z in column(norm.update_transform(part, using=using))]
    else:
        if kind == "reader":
            data = data.to_reader()
        elif kind == "generator":
            data = iter(parts)
        out = norm.update_transform(data, using=using)
        assert isinstance(out, pa.Table if kind == "table" else pa.RecordBatchReader)
        got = column(out)
    assert floats(got) == pytest.approx(floats(by_hand(using)), rel=1e-14, abs=1e-15, nan_ok=True)
    assert [v is None for v in got] == [v is None for v in by_hand(using)]
    assert bits(norm) == bits(fit(*parts))


@policies
@settings.get_profile("few")
@given(data=batches())
def test_update_transform_is_update_and_transform(policy: Any, data: list[pa.RecordBatch]) -> None:
    """As two calls, in either order; and what is learned is the same for all three."""
    data = [batch for batch in data if batch.num_rows]
    for using in ("running", "before", "batch"):
        norm, other = sbn.Normalizer(policy), sbn.Normalizer(policy)
        for batch in data:
            out = norm.update_transform(batch, using=using)
            if using == "before" and other.features:
                expected = other.transform(batch)
            other.update(batch)
            if using == "running":
                expected = other.transform(batch)
            if using == "running" or (using == "before" and batch is not data[0]):
                for name in ("x", "y"):
                    assert same_bits(column(out, name), column(expected, name))
        assert bits(norm) == bits(other)


def test_the_first_batch_has_nothing_before_it() -> None:
    norm = sbn.Normalizer()
    assert column(norm.update_transform(xs(1.0, 3.0), using="before")) == [None, None]
    assert column(norm.update_transform(xs(2.0), using="before")) == [0.0]


@pytest.mark.parametrize("using", ["Running", "after", None, 0])
def test_an_unknown_way_of_using_is_refused(using: Any) -> None:
    norm = sbn.Normalizer()
    with pytest.raises(sbn.InvalidValueError, match="using must be 'running', 'before' or 'batch'"):
        norm.update_transform(xs(1.0), using=using)
    assert norm.features == ()


def test_the_training_pass_of_batch_norm() -> None:
    """The batch by its own biased variance; the running one by the unbiased."""
    rng = np.random.default_rng(11)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=0.1), eps=1e-5)
    mean, var = 0.0, 1.0
    for _ in range(7):
        x = rng.normal(3, 2, 16)
        z = column(norm.update_transform(xs(*x), using="batch"))
        assert z == pytest.approx((x - x.mean()) / np.sqrt(x.var() + 1e-5), rel=1e-12)
        mean, var = 0.9 * mean + 0.1 * x.mean(), 0.9 * var + 0.1 * x.var(ddof=1)
    assert lane(norm)["mean"] == pytest.approx(mean, rel=1e-14)
    assert lane(norm)["var"] == pytest.approx(var, rel=1e-14)
    z = column(norm.transform(xs(1.0, 5.0)))
    assert z == pytest.approx([(v - mean) / math.sqrt(var + 1e-5) for v in (1.0, 5.0)], rel=1e-13)


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0, None])
def test_batch_ema_is_torch_s_batch_norm(momentum: float | None) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
    layer = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=momentum), eps=1e-5)
    rng = np.random.default_rng(5)
    kind = pa.list_(pa.float64(), 3)

    def batch(values: np.ndarray) -> pa.RecordBatch:
        return record(e=pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind))

    layer.train()
    for rows in (8, 2, 32):
        values = rng.normal([0, 5, -3], [1, 2, 0.5], (rows, 3))
        z = norm.update_transform(batch(values), using="batch").column(0)
        expected = layer(torch.from_numpy(values)).detach().numpy()
        assert z.flatten().to_numpy() == pytest.approx(expected.ravel(), rel=1e-10, abs=1e-12)
    stats = norm.stats()
    assert stats["mean"].to_pylist() == pytest.approx(layer.running_mean.tolist(), rel=1e-12)
    assert stats["var"].to_pylist() == pytest.approx(layer.running_var.tolist(), rel=1e-12)
    layer.eval()
    values = rng.normal(0, 3, (4, 3))
    z = norm.transform(batch(values)).column(0).flatten().to_numpy()
    expected = layer(torch.from_numpy(values)).detach().numpy()
    assert z == pytest.approx(expected.ravel(), rel=1e-12)


# --------------------------------------------------------------------- hyperparameters


@given(
    values=st.lists(NUMBER, min_size=1, max_size=20),
    center=st.booleans(),
    scale=st.booleans(),
    eps=st.sampled_from([0.0, 1e-5, 2.0]),
    ddof=st.sampled_from([0, 1]),
    clip=st.sampled_from([None, 0.5, 2.0]),
    affine=st.sampled_from([None, (2.0, -1.0), (0.0, 3.0), (-0.5, 0.0)]),
)
def test_the_map_is_its_formula(
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
    spread = 1.0
    if scale:
        spread = math.sqrt(var + eps) or 1.0
    if var < (float(mean) * 2e-16) ** 2:
        return  # another law's: what counts as constant
    gamma, beta = affine or (1.0, 0.0)
    expected = []
    for value in values:
        z = (float(Fraction(value) - mean) if center else value) / spread
        z = z if clip is None else min(max(z, -clip), clip)
        expected.append(z * gamma + beta)
    got = column(norm.transform(xs(*values)))
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)
    row = lane(norm)
    if n > ddof:
        assert row["var"] == pytest.approx(var, rel=1e-14)
        assert row["std"] == pytest.approx(math.sqrt(var), rel=1e-14)
    else:
        assert row["var"] is row["std"] is None


def test_clip_comes_before_gamma_and_beta() -> None:
    norm = fit(xs(-1.0, 1.0), clip=2.0, affine={"x": (10.0, 1.0)})
    assert column(norm.transform(xs(-9.0, 0.5, 9.0))) == [-19.0, 6.0, 21.0]


def test_clip_leaves_nan_and_null() -> None:
    norm = fit(xs(-1.0, 1.0), clip=2.0, inf="ignore")
    out = column(norm.transform(xs(NAN, None, INF, -INF)))
    assert math.isnan(out[0])
    assert out[1:] == [None, 2.0, -2.0]


def test_affine_speaks_of_columns_elements_and_fields() -> None:
    pair = pa.list_(pa.float64(), 2)
    batch = record(
        x=[-1.0, 1.0],
        e=pa.array([[-1.0, -1.0], [1.0, 1.0]], pair),
        s=pa.array([{"f": -1.0}, {"f": 1.0}]),
    )
    # The element first in the dictionary, so that order alone does not decide.
    affine = {"e[1]": (5.0, 0.0), "e": (2.0, 1.0), "s.f": (3.0, 0.0)}
    out = fit(batch, affine=affine).transform(batch)
    assert column(out) == [-1.0, 1.0]
    assert column(out, "e") == [[-1.0, -5.0], [3.0, 5.0]]
    assert column(out, "s") == [{"f": -3.0}, {"f": 3.0}]


@pytest.mark.parametrize("names", [("e", "e[0]"), ("e[0]", "e")])
def test_an_element_s_own_affine_goes_before_that_of_its_list(names: tuple[str, str]) -> None:
    batch = record(e=pa.array([[-1.0], [1.0]], pa.list_(pa.float64(), 1)))
    pairs = {"e": (2.0, 0.0), "e[0]": (5.0, 0.0)}
    out = fit(batch, affine={name: pairs[name] for name in names}).transform(batch)
    assert column(out, "e") == [[-5.0], [5.0]]


@pytest.mark.parametrize("ddof", [0, 1])
def test_ddof_is_in_stats_and_in_the_map(ddof: int) -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    norm = fit(xs(*values), ddof=ddof)
    assert lane(norm)["var"] == pytest.approx(np.var(values, ddof=ddof), rel=1e-15)
    z = (np.array(values) - 4) / np.std(values, ddof=ddof)
    assert column(norm.transform(xs(*values))) == pytest.approx(z, rel=1e-15)


def test_eps_stands_under_the_root() -> None:
    norm = fit(xs(-1.0, 1.0), eps=3.0)
    assert column(norm.transform(xs(4.0))) == [2.0]
    assert lane(norm)["var"] == 1.0  # and in no statistic


# ------------------------------------------------------------------------ zero variance


@policies
@settings.get_profile("few")
@given(
    value=st.one_of(NUMBER, st.floats(allow_nan=False, allow_infinity=False)),
    n=st.integers(1, 60),
)
def test_a_constant_has_variance_zero_and_normalizes_to_zero(
    policy: Any, value: float, n: int
) -> None:
    norm = sbn.Normalizer(policy)
    for start in range(0, n, 7):
        norm.update(xs(*[value] * min(7, n - start)))
    row = lane(norm)
    if isinstance(policy, sbn.BatchEMA) and None not in (policy.initial, policy.momentum):
        return  # the initial 0 and 1 are still in it
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
def test_noise_of_rounding_counts_as_constant(offset: float) -> None:
    """A constant that was computed: the last bit flickers. Dividing by that is absurd."""
    flicker = float(np.nextafter(offset, INF))
    values = [offset] * 1000 + [flicker]
    z = column(fit(xs(*values)).transform(xs(offset, flicker)))
    assert max(map(abs, z)) <= 2 * abs(flicker - offset)
    # Rejected: "constant" only at exactly zero. It makes 31 deviations of the last bit.
    assert 1.0 / np.std([0.0] * 1000 + [1.0]) > 30


def test_a_small_true_variance_is_not_taken_for_constant() -> None:
    values = np.tile([1e12 - 1.0, 1e12 + 1.0], 20_000)
    z = column(fit(record(x=values)).transform(xs(1e12 - 1.0, 1e12 + 1.0)))
    assert z == pytest.approx([-1.0, 1.0], abs=1e-12)
    integers = pa.array([10**18 - 1, 10**18 + 1])
    z = column(fit(record(x=integers)).transform(record(x=integers)))
    assert z == [-1.0, 1.0]


@policies
@settings.get_profile("few")
@given(data=batches(), values=COLUMN, kind=st.sampled_from([pa.float64(), pa.float32()]))
def test_one_row_or_many_gives_the_same_bits(
    policy: Any, data: list[pa.RecordBatch], values: list[float | None], kind: pa.DataType
) -> None:
    norm = fit(record(x=[1.0, 1.0], y=[2.0, 5.0]), *data, policy=policy)
    many = record(x=pa.array(values, kind), y=pa.array(values[::-1], kind))
    whole = norm.transform(many)
    for name in ("x", "y"):
        single = [column(norm.transform(many.slice(i, 1)), name)[0] for i in range(many.num_rows)]
        assert same_bits(single, column(whole, name))


def test_one_row_or_very_many_gives_the_same_bits() -> None:
    values = np.random.default_rng(3).normal(1e6, 3, 120_000)
    norm = fit(record(x=values))
    z = norm.transform(record(x=values))["x"].to_numpy()
    for i in [0, 1, 49_151, 49_152, 65_535, 65_536, 98_304, 119_999]:
        assert column(norm.transform(xs(values[i]))) == [z[i]]


def test_a_lane_never_seen_normalizes_to_null() -> None:
    norm = fit(record(x=[1.0, 3.0], y=[None, NAN]))
    out = norm.transform(record(x=[1.0, 3.0], y=[5.0, 6.0]))
    assert column(out, "y") == [None, None]
    assert column(out) == [-1.0, 1.0]
    out.validate(full=True)


# ----------------------------------------------------------------------------- inverse


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
    # The affine shift is 7 standard deviations: so much of z is rounded with it.
    size = max(map(abs, values)) + 10 * (lane(norm)["std"] or 1.0)
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


def test_a_gamma_of_zero_cannot_be_undone() -> None:
    norm = fit(record(x=[1.0], y=[2.0]), affine={"y": (0.0, 5.0)})
    assert column(norm.transform(record(x=[1.0], y=[9.0])), "y") == [5.0]
    with pytest.raises(sbn.InvalidValueError, match=r"'y'.*gamma of 0"):
        norm.inverse_transform(record(x=[0.0], y=[5.0]))


def test_what_was_clipped_stays_clipped() -> None:
    norm = fit(xs(-1.0, 1.0), clip=2.0)
    assert column(norm.inverse_transform(norm.transform(xs(9.0, 0.5)))) == [2.0, 0.5]


# ------------------------------------------------------------------------------ numbers


@given(data=batches(NUMBER))
def test_welford_is_the_exact_mean_and_variance(data: list[pa.RecordBatch]) -> None:
    values = [v for batch in data for v in batch["y"].to_pylist()]
    if not values:
        return
    row = lane(fit(*data), "y")
    mean, var = exact(values)
    assert row["count"] == len(values)
    assert abs(Fraction(row["mean"]) - mean) <= 3e-16 * (abs(mean) + math.sqrt(var))
    assert row["var"] == pytest.approx(float(var), rel=1e-14, abs=0)
    assert row["std"] == pytest.approx(math.sqrt(var), rel=1e-14, abs=0)


@pytest.mark.parametrize("ratio", [1e8, 1e12, 1e15])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_no_digit_is_lost_at_a_large_offset(ratio: float, rows: int) -> None:
    values = ratio + np.random.default_rng(2).normal(0, 1, 3000)
    norm = sbn.Normalizer()
    for start in range(0, 3000, rows):
        norm.update(record(x=values[start : start + rows]))
    mean, var = exact(values.tolist())
    assert lane(norm)["mean"] == float(mean)
    assert lane(norm)["var"] == pytest.approx(float(var), rel=1e-14, abs=0)
    one_pass = float(np.mean(values**2) - np.mean(values) ** 2)  # rejected
    assert abs(one_pass - float(var)) > 0.1 * float(var) or ratio == 1e8
    assert abs(one_pass - float(var)) > 1e-3 * float(var)


def test_integers_decimals_and_unsigned_integers_are_exact() -> None:
    for array in (
        pa.array([2**53 + 1, 2**53 + 3, 2**53 + 5], pa.int64()),
        pa.array([2**64 - 5, 2**64 - 3, 2**64 - 1], pa.uint64()),
        pa.array([Decimal(10**20 + k) for k in (1, 3, 5)], pa.decimal128(25, 0)),
    ):
        norm = sbn.Normalizer()
        for i in range(3):
            norm.update(record(x=array.slice(i, 1)))
        for learned in (norm, fit(record(x=array))):
            assert lane(learned)["var"] == pytest.approx(8 / 3, rel=1e-14)
            z = column(learned.transform(record(x=array)))
            assert z == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-11)


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1.7e308 / 3, 1e-300])
def test_neither_overflow_nor_underflow_inside(scale: float) -> None:
    values = [1.0 * scale, 2.0 * scale, 3.0 * scale]
    one, batchwise = fit(xs(*values)), fit(*[xs(v) for v in values])
    for norm in (one, batchwise):
        row = lane(norm)
        assert row["mean"] == pytest.approx(2.0 * scale, rel=1e-15)
        assert row["std"] == pytest.approx(math.sqrt(2 / 3) * scale, rel=1e-15)
        z = column(norm.transform(xs(*values)))
        assert z == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)], abs=1e-15)
    with np.errstate(all="ignore"):
        assert np.std(values) in (0.0, INF)  # the plain formula


@policies
@pytest.mark.parametrize("power", [-1000, -500, 500, 1010, 1020])
@settings.get_profile("few")
@given(
    parts=st.lists(
        st.lists(st.none() | st.floats(-8, 8, width=16).map(lambda v: v + 0.5), max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_the_unit_does_not_matter(policy: Any, power: int, parts: list[list[float | None]]) -> None:
    """Data times a power of two: mean and deviation times the same, up to the range's ends."""
    unit = 2.0**power
    norm, scaled = sbn.Normalizer(policy), sbn.Normalizer(policy)
    for part in parts:
        norm.update(xs(*part))
        scaled.update(xs(*(None if v is None else v * unit for v in part)))
    if not norm.features:
        return
    row, other = lane(norm), lane(scaled)
    has_prior = isinstance(policy, sbn.BatchEMA) and None not in (policy.initial, policy.momentum)
    for name in ("mean", "min", "max") if has_prior else ("mean", "std", "min", "max"):
        assert (other[name] is None) == (row[name] is None)
        if row[name] is not None:
            assert other[name] / unit == pytest.approx(row[name], rel=1e-14, abs=1e-14)


def test_the_largest_numbers_have_a_mean() -> None:
    top = sys.float_info.max
    assert lane(fit(xs(top, top)))["mean"] == top
    assert lane(fit(xs(top), xs(top), xs(top)))["mean"] == top
    row = lane(fit(xs(top, -top)))
    assert (row["mean"], row["std"]) == (0.0, top)
    assert row["var"] == INF  # it is: only its root can be told
    assert column(fit(xs(top, -top)).transform(xs(top, -top))) == [1.0, -1.0]


def test_large_counts_are_not_multiplied_in_64_bits() -> None:
    norm = fit(xs(1.0, 3.0))
    for _ in range(33):
        norm = norm.merge(norm)
    row = lane(norm)
    assert (row["count"], row["mean"], row["var"]) == (2**34, 2.0, 1.0)


def test_timestamps_are_never_averaged() -> None:
    times = pa.array([1, None, 3], pa.timestamp("ns"))
    batch = record(t=times, x=[1.0, 2.0, 3.0])
    norm = fit(batch)
    assert norm.features == ("x",)
    assert norm.transform(batch)["t"].equals(times)
    with pytest.raises(sbn.SchemaError, match=r"'t' is timestamp.*not numeric"):
        fit(batch, columns=["t"])


@settings.get_profile("few")
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), cuts=st.integers(1, 5))
def test_it_agrees_with_scikit_learn(seed: int, n: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal([0, 100, 5], [1, 20, 0], (n, 3))
    X[rng.random((n, 3)) < 0.1] = NAN
    names = ["a", "b", "c"]
    peer, norm = StandardScaler(), sbn.Normalizer()
    for part in np.array_split(X, cuts):
        part[:1] = [0.0, 100.0, 5.0]  # scikit-learn warns of a column without a value
        if len(part):
            peer.partial_fit(part)
            norm.update(record(**dict(zip(names, map(pa.array, part.T), strict=True))))
    stats = norm.stats()
    assert stats["count"].to_pylist() == np.broadcast_to(peer.n_samples_seen_, 3).tolist()
    assert stats["mean"].to_pylist() == pytest.approx(peer.mean_.tolist(), rel=1e-12, abs=1e-12)
    assert stats["var"].to_pylist() == pytest.approx(peer.var_.tolist(), rel=1e-10, abs=1e-12)
    out = norm.transform(record(**dict(zip(names, map(pa.array, X.T), strict=True))))
    got = np.column_stack([out[name].to_numpy() for name in names])
    assert got == pytest.approx(peer.transform(X), rel=1e-9, abs=1e-9, nan_ok=True)


@settings.get_profile("few")
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 300), ddof=st.sampled_from([0, 1]))
def test_it_agrees_with_numpy(seed: int, n: int, ddof: int) -> None:
    x = np.random.default_rng(seed).normal(3, 7, n)
    row = lane(fit(record(x=x), ddof=ddof))
    assert row["mean"] == pytest.approx(x.mean(), rel=1e-13, abs=1e-13)
    assert row["var"] == pytest.approx(x.var(ddof=ddof), rel=1e-13)
    assert (row["min"], row["max"]) == (x.min(), x.max())


# ------------------------------------------------------------------------------- merge


def halves_that_fit(policy: Any, data: list[pa.RecordBatch], cut: int) -> bool:
    """Blocks of fixed length can only be joined at the edge of a block."""
    rows = getattr(policy, "batch_rows", None)
    return rows is None or sum(b.num_rows for b in data[:cut]) % rows == 0


@policies
@given(data=batches(), cut=st.integers(0, 5), permute=st.booleans())
def test_merging_two_parts_is_learning_the_whole(
    policy: Any, data: list[pa.RecordBatch], cut: int, permute: bool
) -> None:
    cut = min(cut, len(data))
    if not halves_that_fit(policy, data, cut):
        return
    whole = fit(*data, policy=policy)
    older = fit(*data[:cut], policy=policy)
    newer = fit(*[b.select(["y", "x"]) if permute else b for b in data[cut:]], policy=policy)
    before = bits(older), bits(newer)
    merged = older.merge(newer)
    assert (bits(older), bits(newer)) == before  # both stay as they are
    if not whole.features:
        assert merged.features == ()
        return
    stats = {r["column"]: r for r in merged.stats().to_pylist()}
    for row in whole.stats().to_pylist():
        other = stats[row["column"]]
        for name in ("count", "nulls", "nans", "infs", "min", "max"):
            assert row[name] == other[name]
        for name in ("mean", "var", "std"):
            assert floats([other[name]]) == pytest.approx(
                floats([row[name]]), rel=1e-9, abs=1e-12, nan_ok=True
            )


@policies
def test_an_empty_normalizer_is_the_identity_of_merge(policy: Any) -> None:
    some = fit(xs(1.0, 2.0, 6.0), policy=policy)
    empty = sbn.Normalizer(policy)
    assert bits(some.merge(empty)) == bits(some)
    assert bits(empty.merge(some)) == bits(some)
    assert empty.merge(empty).features == ()
    bound = fit(xs(None, None, None), policy=policy)
    for merged in (some.merge(bound), bound.merge(some)):
        assert lane(merged)["count"] == 3


@given(data=batches(NUMBER), order=st.randoms(use_true_random=False))
def test_the_between_shard_term_is_not_forgotten(
    data: list[pa.RecordBatch], order: random.Random
) -> None:
    """Any order, any tree of merges: the statistics are those of all the values."""
    values = [v for batch in data for v in batch["y"].to_pylist()]
    if not values:
        return
    shards = [fit(batch) for batch in data]
    order.shuffle(shards)
    while len(shards) > 1:
        at = order.randrange(len(shards) - 1)
        shards[at : at + 2] = [shards[at].merge(shards[at + 1])]
    mean, var = exact(values)
    row = lane(shards[0], "y")
    assert row["count"] == len(values)
    assert row["var"] == pytest.approx(float(var), rel=1e-13, abs=0)
    assert abs(Fraction(row["mean"]) - mean) <= 3e-16 * (abs(mean) + math.sqrt(var))


@pytest.mark.parametrize(
    ("older", "newer", "message"),
    [
        (fit(xs(1.0)), fit(xs(1.0), policy=sbn.EMA(alpha=0.5)), "policy.*differ"),
        (
            fit(xs(1.0), policy=sbn.EMA(alpha=0.5)),
            fit(xs(1.0), policy=sbn.EMA(alpha=0.4)),
            r"policy.*alpha=0\.5.*alpha=0\.4",
        ),
        (fit(xs(1.0)), fit(xs(1.0), eps=0.5), "options.*differ"),
        (fit(xs(1.0)), fit(xs(1.0), ddof=1), "options.*differ"),
        (fit(xs(1.0)), fit(record(y=[1.0])), "'x' is only in the older"),
        (fit(xs(1.0)), fit(record(x=[1.0], y=[1.0])), "'y' is only in the newer"),
        (
            fit(xs(1.0)),
            fit(record(x=pa.array([[1.0]], pa.list_(pa.float64(), 1)))),
            "'x' is only in the older",
        ),
        (
            fit(xs(1.0), policy=sbn.BatchEMA(momentum=0.5, batch_rows=2)),
            fit(xs(1.0, 2.0, 3.0), policy=sbn.BatchEMA(momentum=0.5, batch_rows=2)),
            "batch_rows=2",
        ),
    ],
)
def test_what_does_not_belong_together_is_not_merged(
    older: sbn.Normalizer, newer: sbn.Normalizer, message: str
) -> None:
    before = bits(older), bits(newer)
    with pytest.raises(sbn.MergeError, match=message):
        older.merge(newer)
    assert (bits(older), bits(newer)) == before


@pytest.mark.parametrize("other", [None, {}, 3, fit(xs(1.0)).freeze()])
def test_only_a_live_normalizer_is_merged(other: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match="merge takes a Normalizer") as caught:
        fit(xs(1.0)).merge(other)
    assert ("thaw()" in str(caught.value)) == isinstance(other, sbn.FrozenNormalizer)


# -------------------------------------------------------------------------- not fitted


def test_before_any_data_there_are_no_statistics() -> None:
    norm = sbn.Normalizer()
    for act in (
        norm.stats,
        norm.freeze,
        lambda: norm.transform(xs(1.0)),
        lambda: norm.inverse_transform(xs(1.0)),
        lambda: norm.update(xs()).stats(),
    ):
        with pytest.raises(sbn.NotFittedError, match="no data was seen"):
            act()
    assert norm.features == ()


def test_a_lazy_transform_without_statistics_is_refused_at_once() -> None:
    with pytest.raises(sbn.NotFittedError, match="update"):
        sbn.Normalizer().transform(pa.Table.from_batches([xs(1.0)]).to_reader())


# ------------------------------------------------------------------------------ frozen


@policies
def test_a_frozen_normalizer_does_not_move(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0, 6.0), policy=policy)
    frozen = norm.freeze()
    probe = xs(1.0, 4.0, None)
    before, stats, print_ = column(frozen.transform(probe)), frozen.stats(), frozen.fingerprint
    assert before == column(norm.transform(probe))
    norm.update(xs(100.0, 200.0, 300.0))
    thawed = frozen.thaw().update(xs(-5.0, -6.0, -9.0))
    assert column(frozen.transform(probe)) == before
    assert frozen.stats().equals(stats)
    assert frozen.fingerprint == print_
    assert column(norm.transform(probe)) != before
    assert column(thawed.transform(probe)) != before
    assert bits(frozen.thaw()) == bits(fit(xs(1.0, 2.0, 6.0), policy=policy))


def test_a_frozen_normalizer_has_no_way_to_learn() -> None:
    frozen = fit(xs(1.0, 3.0), affine={"x": (2.0, 0.0)}).freeze()
    for name in ("update", "update_transform", "merge"):
        assert not hasattr(frozen, name)
    before = column(frozen.transform(xs(1.0))), frozen.fingerprint
    for name in ("options", "policy", "lanes", "fingerprint", "_statistics", "anything"):
        with pytest.raises(AttributeError, match=f"cannot change: '{name}'"):
            setattr(frozen, name, 1)
        with pytest.raises(AttributeError, match=f"cannot change: '{name}'"):
            delattr(frozen, name)
    with pytest.raises((TypeError, AttributeError)):
        frozen.options.affine["x"] = (9.0, 9.0)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.options.eps = 9.0
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        frozen._statistics.state = None  # type: ignore[misc]
    assert (column(frozen.transform(xs(1.0))), frozen.fingerprint) == before
    with pytest.raises(sbn.InvalidValueError, match=r"freeze\(\)"):
        sbn.FrozenNormalizer()


@policies
def test_the_arrays_of_a_state_are_read_only(policy: Any) -> None:
    norm = fit(xs(1.0, 3.0), policy=policy)
    for one in (norm, copy.deepcopy(norm), pickle.loads(pickle.dumps(norm)),
                sbn.Normalizer.from_statistics(snapshot.decode(bits(norm)).statistics)):  # fmt: skip
        arrays = [*_arrays(one._statistics.state)]
        assert arrays
        assert not any(array.flags.writeable for array in arrays)


def _arrays(state: Any) -> Iterator[np.ndarray]:
    if isinstance(state, MomentArrays):
        yield from (state.memory, *state)
    elif isinstance(state, ExactSums):
        yield from (state.memory, state.count, state.max, state.total, state.squares)
    elif isinstance(state, tuple):
        for part in state:
            yield from _arrays(part)


def test_equality_hash_and_fingerprint() -> None:
    one, same = fit(xs(1.0), xs(3.0)).freeze(), fit(xs(1.0), xs(3.0)).freeze()
    assert one == same
    assert hash(one) == hash(same)
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 64
    assert int(one.fingerprint, 16)
    assert {one: "cached"}[same] == "cached"
    assert one != "something else"
    others = [
        fit(xs(1.0), xs(3.0), eps=1e-5),
        fit(xs(1.0), xs(3.0), ddof=1),
        fit(xs(1.0), xs(3.0), clip=3.0),
        fit(xs(1.0), xs(3.0), affine={"x": (1.0, 1.0)}),
        fit(xs(1.0), xs(3.0), nan="raise"),
        fit(xs(1.0), xs(3.0), policy=sbn.EMA(alpha=0.5)),
        fit(xs(1.0), xs(math.nextafter(3.0, 4.0))),
        fit(xs(1.0), xs(3.0), xs(None)),
        fit(record(y=[1.0]), record(y=[3.0])),
    ]
    prints = [norm.freeze().fingerprint for norm in others]
    assert len({one.fingerprint, *prints}) == 1 + len(others)
    assert all(norm.freeze() != one for norm in others)


def test_the_fingerprint_travels_in_the_metadata_of_the_output() -> None:
    frozen = fit(xs(1.0, 3.0)).freeze()
    metadata = {"source": "sensor", "streambn.fingerprint": "old"}
    schema = pa.schema([pa.field("x", pa.float64())], metadata)
    batch = record(x=[1.0], schema=schema)
    wanted = {b"source": b"sensor", b"streambn.fingerprint": frozen.fingerprint.encode()}
    assert frozen.transform(batch).schema.metadata == wanted
    table = pa.Table.from_batches([batch])
    assert frozen.transform(table).schema.metadata == wanted
    assert frozen.transform(table.to_reader()).schema.metadata == wanted
    assert fit(batch).transform(xs(1.0)).schema.metadata is None


class Halving(sbn.Welford):
    """A user's own policy, of which a file could hold no code."""

    __slots__ = ()

    def describe(self) -> str:
        return "<half>"


def test_a_user_s_own_policy_works_frozen_too() -> None:
    norm = fit(xs(1.0, 3.0), policy=Halving())
    assert column(norm.transform(xs(3.0))) == [1.0]
    frozen = norm.freeze()
    assert column(frozen.transform(xs(3.0))) == [1.0]
    assert column(frozen.thaw().update(xs(2.0)).transform(xs(2.0))) == [0.0]
    assert "Halving" in repr(frozen)
    assert "&lt;half&gt;" in frozen._repr_html_()


# ---------------------------------------------------------------------- copies, threads


@policies
@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda o, p=p: pickle.loads(pickle.dumps(o, p)) for p in range(2, 6)),
    ],
    ids=["copy", "deepcopy", *(f"pickle {p}" for p in range(2, 6))],
)
def test_copies_are_equal_and_independent(policy: Any, copied: Callable[[Any], Any]) -> None:
    data = [record(x=[1.0, None, 3.0], y=[NAN, 2.0, 8.0]), record(y=[1.0], x=[5.0])]
    norm = fit(*data, policy=policy, eps=0.5, affine={"x": (2.0, 1.0)})
    other = copied(norm)
    assert type(other) is sbn.Normalizer
    assert bits(other) == bits(norm)
    before = bits(norm)
    other.update(data[0])
    assert bits(norm) == before
    assert bits(other) == bits(norm.update(data[0]))
    frozen = norm.freeze()
    twin = copied(frozen)
    assert type(twin) is sbn.FrozenNormalizer
    assert twin == frozen
    assert hash(twin) == hash(frozen)
    assert same_bits(column(twin.transform(data[0])), column(frozen.transform(data[0])))
    with pytest.raises(AttributeError):
        twin.anything = 1


def test_an_unfitted_normalizer_can_be_copied_too() -> None:
    norm = sbn.Normalizer(sbn.EMA(alpha=0.5), columns=["x"], eps=0.25)
    other = pickle.loads(pickle.dumps(norm))
    assert bits(other.update(xs(1.0))) == bits(norm.update(xs(1.0)))


def test_readers_see_one_whole_state_while_a_writer_learns() -> None:
    """y is x all along, so whatever state a reader meets, both come out the same."""
    rng = np.random.default_rng(4)
    parts = [rng.normal(i, 1 + i, 64) for i in range(400)]
    norm = fit(record(x=parts[0], y=parts[0]))
    probe = record(x=np.arange(50.0), y=np.arange(50.0))
    done, problems, reads = threading.Event(), [], []

    def read() -> None:
        n = 0
        while not done.is_set() or n < 3:
            out = norm.transform(probe)
            if not out["x"].equals(out["y"]):
                problems.append("transform")
            mean, count = norm.stats()["mean"].to_pylist(), norm.stats()["count"].to_pylist()
            if mean[0] != mean[1] or count[0] != count[1] or count[0] % 64:
                problems.append("stats")
            frozen = norm.freeze()
            if frozen.transform(probe) != frozen.transform(probe):
                problems.append("freeze")
            n += 1
        reads.append(n)

    threads = [threading.Thread(target=read) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for i, part in enumerate(parts[1:]):
            batch = record(x=part, y=part)
            norm.update_transform(batch) if i % 3 == 0 else norm.update(batch)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval)
    assert problems == []
    assert len(reads) == 4
    assert bits(norm) == bits(fit(*[record(x=p, y=p) for p in parts]))


def test_writers_do_not_lose_each_other_s_batches() -> None:
    norm = fit(xs(0.0))
    barrier = threading.Barrier(4)

    def write() -> None:
        barrier.wait(60)
        for i in range(50):
            norm.update(xs(1.0)) if i % 2 else norm.update_transform(xs(1.0))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lane(norm)["count"] == 201


def test_a_table_that_is_half_learned_is_seen_by_no_reader() -> None:
    """Nor one that is going to be refused."""
    seen = set()

    class Watching(sbn.Welford):
        __slots__ = ()

        def update(self, state: Any, columns: Any) -> Any:
            seen.add(lane(norm)["count"])
            return super().update(state, columns)

    norm = sbn.Normalizer(Watching())
    norm._statistics = dataclasses.replace(fit(xs(0.0))._statistics, policy=Watching())
    table = pa.Table.from_batches([xs(1.0), xs(2.0), xs(3.0)])
    norm.update(table)
    assert seen == {1}
    seen.clear()
    norm.update_transform(table)
    assert seen == {4}


# -------------------------------------------------------------------------------- shown


def test_stats_is_a_table_of_one_row_a_lane() -> None:
    schema = pa.schema(
        [("column", pa.string()), *((n, pa.int64()) for n in ("count", "nulls", "nans", "infs")),
         *((n, pa.float64()) for n in ("mean", "var", "std", "min", "max"))]
    )  # fmt: skip
    norm = fit(record(x=[1.0, None, NAN, INF, 3.0], y=[1, 2, 3, 4, 5]), inf="ignore")
    for one in (norm, norm.freeze()):
        assert one.stats().schema == schema
        assert lane(one) == {
            "column": "x", "count": 2, "nulls": 1, "nans": 1, "infs": 1,
            "mean": 2.0, "var": 1.0, "std": 1.0, "min": 1.0, "max": 3.0,
        }  # fmt: skip
        assert lane(one, "y")["mean"] == 3.0


def test_a_representation_tells_what_there_is() -> None:
    norm = sbn.Normalizer(sbn.EMA(halflife=1000), eps=1e-5)
    assert repr(norm) == "Normalizer(EMA(halflife=1000), eps=1e-05), nothing seen yet"
    assert "nothing seen yet" in norm._repr_html_()
    norm.update(record(price=[1e9 + k for k in range(1234)], gap=[None, NAN] * 617))
    text = repr(norm)
    assert text.startswith("Normalizer(EMA(halflife=1000), eps=1e-05) of 2 features\n")
    assert "n=1_234" in text
    assert "mean=1000000" in text  # nine digits are not rounded away
    assert "nulls=617" in text
    assert "nans=617" in text
    assert repr(norm.freeze()).startswith("FrozenNormalizer(EMA(halflife=1000)")
    page = norm._repr_html_()
    assert page.count("<tr>") == 3
    for word in ("price", "gap", "1,234", "617", "half-life 1,000 rows"):
        assert word in page


def test_a_representation_stays_a_glance() -> None:
    width = 5000
    kind = pa.list_(pa.float64(), width)
    norm = fit(record(e=pa.array([range(width)], kind)))
    assert "of 5,000 features" in repr(norm)
    assert "and 4,992 more" in repr(norm)
    assert "and 4,992 more" in norm._repr_html_()
    assert len(repr(norm).splitlines()) < 12


def test_names_are_escaped_in_html() -> None:
    name = "<script>alert('x')</script> & co"
    page = fit(record(**{name: [1.0]}))._repr_html_()
    assert "<script>" not in page
    assert html.escape(name) in page


def test_what_was_fitted_without_weights_goes_on_with_them_and_without_again() -> None:
    norm = fit(xs(1.0, 3.0))
    weighed = norm.with_weights("w")
    weighed.update(pa.table({"x": [8.0, 9.0], "w": [2, 0]}))
    stats = weighed.stats().to_pylist()[0]
    assert (stats["count"], stats["mean"], stats["weight"]) == (3, 5.0, 4.0)
    plain = weighed.with_weights(None).update(xs(0.0))
    assert (plain.stats()["mean"][0].as_py(), plain.features) == (4.0, ("x",))
    assert plain.stats()["weight"].to_pylist() == [5.0]  # of a sum that is not the count
    assert norm.stats()["count"].to_pylist() == [2]
    assert weighed.stats()["count"].to_pylist() == [3]
    with pytest.raises(sbn.errors.InvalidValueError, match="weights must be the name"):
        norm.with_weights(3)  # type: ignore[arg-type]
    with pytest.raises(sbn.errors.InvalidValueError, match="weights='w' has no meaning for BatchE"):
        sbn.Normalizer(sbn.BatchEMA(momentum=0.1)).with_weights("w")


@policies
def test_every_policy_shows_itself(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0, 5.0), xs(None), policy=policy)
    assert repr(policy) in repr(norm)
    assert html.escape(policy.describe()) in norm._repr_html_()


def test_a_fingerprint_is_only_on_what_its_statistics_made() -> None:
    key = b"streambn.fingerprint"
    frozen = fit(xs(1.0, 3.0)).freeze()
    labelled = frozen.transform(xs(2.0))
    assert labelled.schema.metadata == {key: frozen.fingerprint.encode()}
    assert not frozen.inverse_transform(labelled).schema.metadata
    live = fit(xs(5.0, 9.0))
    assert not live.transform(labelled).schema.metadata
    other = labelled.replace_schema_metadata({b"k": b"v", key: b"stale"})
    assert live.transform(other).schema.metadata == {b"k": b"v"}
