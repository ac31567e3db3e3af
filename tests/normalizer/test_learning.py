"""Learning: whole tables, streams up to the rejected batch, and update_transform."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from normalizers import (
    COLUMN,
    INF,
    assert_refused,
    batches,
    bits,
    column,
    each_using,
    exact,
    fit,
    floats,
    policies,
    record,
    row_of,
    same_bits,
    xs,
)

import streambn as sbn


@policies
@pytest.mark.parametrize("bad", [xs(9.0, INF), record(y=[9.0]), record(x=["a"])])
def test_table_is_learned_whole_or_not_at_all(policy: Any, bad: pa.RecordBatch) -> None:
    norm = fit(xs(1.0, 2.0), policy=policy)
    good = [xs(5.0, 6.0)] if bad.schema == xs().schema else []
    table = pa.Table.from_batches([*good, bad])
    errors = (sbn.InvalidValueError, sbn.SchemaError)
    assert_refused(norm, table, errors, acts=["update", "update_transform"])


@policies
def test_rejected_first_table_does_not_bind(policy: Any) -> None:
    norm = sbn.Normalizer(policy)
    table = pa.Table.from_batches([xs(1.0), xs(INF)])
    for act in ("update", "update_transform"):
        assert_refused(norm, table, sbn.InvalidValueError, acts=[act])
        assert norm.features == ()
    norm.update(record(other=[1.0]))
    assert norm.features == ("other",)


@policies
def test_batches_of_a_stream_before_the_rejected_one_stay_learned(policy: Any) -> None:
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
def test_transform_never_learns_and_never_adds_a_feature(
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


def test_update_returns_the_normalizer_and_transform_a_new_batch() -> None:
    norm = sbn.Normalizer()
    batch = xs(1.0, 3.0)
    assert norm.update(batch) is norm
    assert column(norm.transform(batch)) == [-1.0, 1.0]
    assert column(batch) == [1.0, 3.0]


STREAM = [[1.0, 3.0], [5.0], [None, 7.0, 9.0], [4.0, 4.0]]


def by_hand(using: str) -> list[float | None]:
    """Normalize `STREAM` by statistics computed anew for each batch."""
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


@each_using
@pytest.mark.parametrize("kind", ["table", "reader", "generator", "batches one by one"])
def test_update_transform_equals_computation_by_hand(using: str, kind: str) -> None:
    parts = [xs(*values) for values in STREAM]
    norm = sbn.Normalizer()
    table = pa.Table.from_batches(parts)
    if kind == "batches one by one":
        got = [z for part in parts for z in column(norm.update_transform(part, using=using))]
    else:
        data = {"table": table, "reader": table.to_reader(), "generator": iter(parts)}[kind]
        out = norm.update_transform(data, using=using)
        assert isinstance(out, pa.Table if kind == "table" else pa.RecordBatchReader)
        got = column(out)
    assert floats(got) == pytest.approx(floats(by_hand(using)), rel=1e-14, abs=1e-15, nan_ok=True)
    assert [v is None for v in got] == [v is None for v in by_hand(using)]
    assert bits(norm) == bits(fit(*parts))


@policies
@settings.get_profile("few")
@given(data=batches())
def test_update_transform_equals_update_and_transform(
    policy: Any, data: list[pa.RecordBatch]
) -> None:
    """The three values of `using` learn the same."""
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


@pytest.mark.parametrize("using", ["Running", "after", None, 0])
def test_unknown_value_of_using_is_an_error(using: Any) -> None:
    norm = sbn.Normalizer()
    with pytest.raises(sbn.InvalidValueError, match="using must be 'running', 'before' or 'batch'"):
        norm.update_transform(xs(1.0), using=using)
    assert norm.features == ()


def test_training_pass_of_batch_normalization() -> None:
    """A batch is normalized by its biased variance; the running variance is unbiased."""
    rng = np.random.default_rng(11)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=0.1), eps=1e-5)
    mean, var = 0.0, 1.0
    for _ in range(7):
        x = rng.normal(3, 2, 16)
        z = column(norm.update_transform(xs(*x), using="batch"))
        assert z == pytest.approx((x - x.mean()) / np.sqrt(x.var() + 1e-5), rel=1e-12)
        mean, var = 0.9 * mean + 0.1 * x.mean(), 0.9 * var + 0.1 * x.var(ddof=1)
    assert row_of(norm)["mean"] == pytest.approx(mean, rel=1e-14)
    assert row_of(norm)["var"] == pytest.approx(var, rel=1e-14)
    z = column(norm.transform(xs(1.0, 5.0)))
    assert z == pytest.approx([(v - mean) / math.sqrt(var + 1e-5) for v in (1.0, 5.0)], rel=1e-13)


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0, None])
def test_batch_ema_agrees_with_torch(momentum: float | None) -> None:
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


def test_with_weights_switches_sample_weights_on_and_off() -> None:
    norm = fit(xs(1.0, 3.0))
    weighted = norm.with_weights("w")
    weighted.update(pa.table({"x": [8.0, 9.0], "w": [2, 0]}))
    stats = weighted.stats().to_pylist()[0]
    assert (stats["count"], stats["mean"], stats["weight"]) == (3, 5.0, 4.0)
    plain = weighted.with_weights(None).update(xs(0.0))
    assert (plain.stats()["mean"][0].as_py(), plain.features) == (4.0, ("x",))
    assert plain.stats()["weight"].to_pylist() == [5.0]  # the weights were not all 1
    assert norm.stats()["count"].to_pylist() == [2]
    assert weighted.stats()["count"].to_pylist() == [3]
    with pytest.raises(sbn.InvalidValueError, match="weights must be the name"):
        norm.with_weights(3)  # type: ignore[arg-type]
    with pytest.raises(sbn.InvalidValueError, match="weights='w' has no meaning for BatchEMA"):
        sbn.Normalizer(sbn.BatchEMA(momentum=0.1)).with_weights("w")


def test_statistics_before_any_data_are_an_error() -> None:
    norm = sbn.Normalizer()
    for act in (
        norm.stats,
        norm.freeze,
        lambda: norm.transform(xs(1.0)),
        lambda: norm.inverse_transform(xs(1.0)),
        lambda: norm.update(xs()).stats(),
        lambda: norm.transform(pa.table(xs(1.0)).to_reader()),  # at once, not when it is read
    ):
        with pytest.raises(sbn.NotFittedError, match=r"no data was seen.*update"):
            act()
    assert norm.features == ()
