"""BatchEMA agrees with torch, Keras and exact arithmetic, under any cut and merge."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from parity import (
    EPSILON,
    SEEDS,
    WIDTH,
    assert_close,
    batch_of,
    few_examples,
    fitted,
    gappy_series,
    maker,
    matrix,
    merged,
    row_of,
    vectors,
)

import streambn as sbn
from streambn.errors import MergeError
from streambn.testing import cuts, exact_moments

MOMENTA = [0.1, 0.01, 0.5, 1.0, None]


def epochs_of(data, least=2):
    """Draw epochs of the same rows, each cut into batches of its own."""
    rng = np.random.default_rng(data.draw(SEEDS))
    offset = data.draw(st.sampled_from([0.0, -3.0, 100.0]))
    rows = offset + rng.normal(size=(data.draw(st.integers(least, 60)), WIDTH)) * [1, 0.1, 20]
    for _ in range(data.draw(st.integers(1, 4))):
        start = 0
        while len(rows) - start >= least:
            stop = start + int(rng.integers(least, 20))
            yield rows[start:] if len(rows) - stop < least else rows[start:stop]
            start = len(rows) if len(rows) - stop < least else stop


def batch_norm(momentum=0.1, **how):
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch")
    return torch, torch.nn.BatchNorm1d(WIDTH, momentum=momentum, dtype=torch.float64, **how)


def assert_torch_has(layer, norm):
    stats = norm.stats()
    for name, buffer in (("mean", layer.running_mean), ("var", layer.running_var)):
        for got, expected in zip(stats[name].to_pylist(), buffer.tolist(), strict=True):
            # A few units in the last place, because the sums of torch round.
            assert_close(got, expected, 16 * EPSILON, unit=1)


def assert_normalized(z, expected, values, gamma=1.0):
    """Compare up to the rounding of the batch mean, in units of the deviation."""
    rounding = EPSILON * (1 + gamma * abs(values).max(0) / np.sqrt(values.var(0) + 1e-5))
    assert (abs(z - expected) <= 8 * rounding).all(), (z, expected)


@pytest.mark.parametrize("momentum", MOMENTA, ids=str)
@few_examples
def test_batch_ema_agrees_with_torch(data, momentum):
    torch, layer = batch_norm(momentum)
    rng = np.random.default_rng(data.draw(SEEDS))
    gamma, beta = rng.normal(size=(2, WIDTH))
    affine = None
    if data.draw(st.booleans()):
        layer.weight.data, layer.bias.data = torch.from_numpy(gamma), torch.from_numpy(beta)
        affine = {f"e[{i}]": (gamma[i], beta[i]) for i in range(WIDTH)}
    make = maker(sbn.BatchEMA(momentum=momentum), eps=1e-5, affine=affine)
    norm, blocks = make(), list(epochs_of(data))
    layer.train()
    for values in blocks:
        z = norm.update_transform(vectors(values), using="batch")
        expected = layer(torch.from_numpy(values)).detach().numpy()
        assert_normalized(matrix(z), expected, values, 1 if affine is None else abs(gamma))
    for learned in (norm, merged(data, make, map(vectors, blocks))):
        assert_torch_has(layer, learned)
    layer.eval()
    frozen = norm.freeze()
    for values in (rng.normal(size=(5, WIDTH)), *rng.normal(size=(3, 1, WIDTH))):
        expected = layer(torch.from_numpy(values)).detach().numpy()
        assert_allclose(matrix(frozen.transform(vectors(values))), expected, rtol=1e-14, atol=1e-13)


def test_defaults_agree_with_torch():
    torch, layer = batch_norm()
    assert torch.nn.BatchNorm1d(WIDTH).momentum == 0.1
    assert torch.nn.BatchNorm1d(WIDTH).eps == 1e-5
    policy = sbn.BatchEMA(momentum=0.1)
    assert policy.initial == (layer.running_mean[0].item(), layer.running_var[0].item())
    norm = sbn.Normalizer(policy, eps=1e-5)
    values = np.arange(12.0).reshape(4, WIDTH)
    norm.update(vectors(values))
    layer(torch.from_numpy(values))
    assert_torch_has(layer, norm)


@few_examples
def test_batch_ema_agrees_with_keras(data):
    # Momentum is the weight of the old value in Keras, and the variance is biased.
    decay, eps = 0.99, 1e-3
    mean, var = np.zeros(WIDTH), np.ones(WIDTH)
    norm = sbn.Normalizer(sbn.BatchEMA(decay=decay, ddof=0), eps=eps)
    for values in epochs_of(data, least=1):
        z = matrix(norm.update_transform(vectors(values), using="batch"))
        assert_normalized(z, (values - values.mean(0)) / np.sqrt(values.var(0) + eps), values)
        mean = decay * mean + (1 - decay) * values.mean(0)
        var = decay * var + (1 - decay) * values.var(0)
    stats = norm.stats()
    assert_allclose(stats["mean"].to_numpy(), mean, rtol=2e-14, atol=1e-15)
    assert_allclose(stats["var"].to_numpy(), var, rtol=2e-14)
    values = np.random.default_rng(0).normal(size=(4, WIDTH))
    assert_allclose(
        matrix(norm.freeze().transform(vectors(values))),
        (values - mean) / np.sqrt(var + eps),
        rtol=1e-13,
        atol=1e-14,
    )


def exact_batch_ema(blocks, policy):
    """Return running mean and variance, and the total variance, in exact arithmetic.

    A block without values does nothing; one with too few for a variance moves the mean alone.
    """
    rate = policy.rate
    decay = Fraction(rate["decay"]) if "decay" in rate else None
    if rate.get("momentum") is not None:
        decay = 1 - Fraction(rate["momentum"])
    means, variances = [], []
    for block in blocks:
        present = block[~np.isnan(block)]
        if len(present):
            mean, square = exact_moments(present)
            means.append(mean)
            if len(present) > policy.ddof:
                variances.append(square / (len(present) - policy.ddof))

    def weights(n, prior):
        if not n and (prior is None or decay is None):
            return None
        if decay is None:
            return [Fraction(1, n)] * n
        each = [(1 - decay) * decay**i for i in reversed(range(n))]
        if prior is None:
            return [w / (1 - decay**n) for w in each]
        return [decay**n, *each]

    prior = (None, None) if policy.initial is None or decay is None else policy.initial
    of_means = weights(len(means), prior[0])
    of_variances = weights(len(variances), prior[1])
    if prior[0] is not None:
        means, variances = [Fraction(prior[0]), *means], [Fraction(prior[1]), *variances]
    mean = var = total = None
    if of_means is not None:
        mean = sum(w * b for w, b in zip(of_means, means, strict=True))
        between = sum(w * (b - mean) ** 2 for w, b in zip(of_means, means, strict=True))
        if of_variances is not None:
            var = sum(w * v for w, v in zip(of_variances, variances, strict=True))
            total = var + between
    return mean, var, total


def assert_exact(norm, blocks, unit):
    mean, var, total = exact_batch_ema(blocks, norm.policy)
    got = row_of(norm)
    assert_close(got["mean"], mean, 4 * EPSILON, unit=unit)
    assert_close(got["var"], var, 1e-14)
    assert_close(got["total_var"], total, 1e-14)


@pytest.mark.parametrize("initial", [None, (0.0, 1.0), (5.0, 0.0), (-1e3, 7.0)], ids=str)
@pytest.mark.parametrize("rate", [{"momentum": 0.1}, {"decay": 0.99}, {"momentum": None}], ids=str)
@few_examples
def test_batch_ema_agrees_with_exact_arithmetic(data, rate, initial):
    offset = data.draw(st.sampled_from([0.0, 1e9]))
    blocks = data.draw(st.lists(gappy_series(max_rows=12, offset=offset), min_size=1, max_size=8))
    ddof = data.draw(st.sampled_from([0, 1]))
    make = maker(sbn.BatchEMA(**rate, ddof=ddof, initial=initial))
    batches = list(map(batch_of, blocks))
    seen = any((~np.isnan(block)).any() for block in blocks)
    for norm in (fitted(make, batches), merged(data, make, batches)):
        if seen:
            assert_exact(norm, blocks, unit=1)
        else:
            assert row_of(norm)["mean"] is None


@pytest.mark.parametrize(
    "policy",
    [
        *(sbn.BatchEMA(momentum=momentum) for momentum in (0.1, 1.0, None)),
        *(sbn.BatchEMA(decay=0.99, ddof=0), sbn.BatchEMA(momentum=0.5, initial=(3.0, 7.0))),
    ],
    ids=str,
)
def test_batch_ema_of_many_blocks_agrees_with_exact_arithmetic(policy):
    rng = np.random.default_rng(0)
    blocks = [5 + rng.normal(size=n) for n in rng.integers(2, 40, size=30)] * 3
    assert_exact(fitted(maker(policy), map(batch_of, blocks)), blocks, unit=1)


def test_total_variance_beyond_float64_is_infinite():
    blocks = [[0.0, 0.0, 2.0111711894913896e154], [2.0111711894913896e154]]
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=None, initial=(3.0, 2.0)), ddof=1)
    got = row_of(fitted(lambda: norm, map(batch_of, map(np.array, blocks))))
    assert got["total_var"] == np.inf > got["var"]


def test_total_variance_of_equal_blocks_is_that_of_the_values():
    x = np.random.default_rng(0).normal(size=60) + np.repeat([0.0, 10.0, -3.0], 20)
    norm = sbn.Normalizer(sbn.BatchEMA(momentum=None, ddof=0))
    got = row_of(fitted(lambda: norm, map(batch_of, np.split(x, 3))))
    assert got["total_var"] == pytest.approx(x.var(), rel=1e-14)
    assert got["var"] == pytest.approx(np.mean([part.var() for part in np.split(x, 3)]), rel=1e-14)
    assert got["total_var"] > 10 * got["var"]


@given(data=st.data())
def test_blocks_of_batch_rows_do_not_depend_on_cuts(data):
    rows = data.draw(st.integers(1, 40))
    offset = data.draw(st.sampled_from([0.0, 1e9]))
    x = data.draw(gappy_series(max_rows=200, offset=offset))
    rate = data.draw(st.sampled_from([{"momentum": 0.1}, {"decay": 0.5}, {"momentum": None}]))
    initial = data.draw(st.sampled_from([None, (0.0, 1.0)]))
    make = maker(sbn.BatchEMA(**rate, initial=initial, batch_rows=rows))
    one = fitted(make, [batch_of(x)])
    many = fitted(make, data.draw(cuts([batch_of(x)])))
    full = len(x) // rows
    blocks = np.split(x[: full * rows], full) if full else []
    for norm in (one, many):
        if np.isfinite(x[: full * rows]).any():
            assert_exact(norm, blocks, unit=1)
        else:
            assert row_of(norm)["mean"] is None
    a, b = row_of(one), row_of(many)
    for name in ("count", "nulls", "nans", "infs", "min", "max"):
        assert a[name] == b[name]
    for name in ("mean", "var", "total_var"):
        if a[name] is None:
            assert b[name] is None
        else:
            # One unit in the last place, of the values if the mean is near zero.
            assert_close(b[name], a[name], EPSILON, unit=1 if name == "mean" else 0)


@few_examples
def test_blocks_of_batch_rows_agree_with_torch(data):
    momentum = data.draw(st.sampled_from(MOMENTA))
    rows = data.draw(st.integers(2, 16))
    torch, layer = batch_norm(momentum)
    values = np.random.default_rng(data.draw(SEEDS)).normal(2, 3, (rows * 7 + rows // 2, WIDTH))
    for block in np.split(values[: rows * 7], 7):
        layer(torch.from_numpy(block))
    make = maker(sbn.BatchEMA(momentum=momentum, batch_rows=rows))
    assert_torch_has(layer, fitted(make, data.draw(cuts([vectors(values)]))))


@few_examples
def test_statistics_saved_inside_a_block_continue(data, tmp_path_factory):
    x = data.draw(gappy_series(max_rows=80, offset=1e6))
    at = data.draw(st.integers(0, len(x)))
    policy = sbn.BatchEMA(
        momentum=data.draw(st.sampled_from([0.25, None])),
        initial=data.draw(st.sampled_from([None, (0.0, 1.0)])),
        batch_rows=data.draw(st.integers(2, 30)),
    )
    whole = fitted(maker(policy), [batch_of(x[:at]), batch_of(x[at:])])
    path = tmp_path_factory.mktemp("inside") / "stats.json"
    half = fitted(maker(policy), [batch_of(x[:at])])
    half.save(path)
    loaded = sbn.load(path)
    if at:
        assert loaded.freeze().fingerprint == half.freeze().fingerprint
    assert loaded.update(batch_of(x[at:])).freeze().fingerprint == whole.freeze().fingerprint
    if at:
        thawed = half.freeze().thaw().update(batch_of(x[at:]))
        assert thawed.freeze().fingerprint == whole.freeze().fingerprint


@few_examples
def test_blocks_merge_at_their_ends_or_into_an_open_block(data):
    rows = data.draw(st.integers(2, 9))
    older, newer = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    x = np.random.default_rng(data.draw(SEEDS)).normal(size=older + newer)
    initial = data.draw(st.sampled_from([None, (0.0, 1.0)]))
    make = maker(sbn.BatchEMA(momentum=0.25, batch_rows=rows, initial=initial))
    a, b = (fitted(make, [batch_of(part)]) for part in (x[:older], x[older:]))
    before = a.stats(), b.stats()
    open_rows = older % rows
    if open_rows == 0 or open_rows + newer <= rows:
        both, whole = a.merge(b), fitted(make, [batch_of(x)])
        for name in ("mean", "var", "total_var"):
            assert_close(row_of(both)[name], row_of(whole)[name] or np.nan, 4 * EPSILON, unit=1)
        assert row_of(both)["count"] == older + newer
    else:
        with pytest.raises(MergeError) as error:
            a.merge(b)
        assert f"{open_rows} of batch_rows={rows} rows" in str(error.value)
        assert "multiples of batch_rows" in str(error.value)
    assert (a.stats(), b.stats()) == before
