"""SklearnNormalizer passes scikit-learn's own suite, and the laws of every adapter."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from sklearn.utils.estimator_checks import check_estimator

import streambn as sbn
from streambn.adapters.sklearn import SklearnNormalizer
from streambn.testing import AdapterLaws

ESTIMATORS = [
    SklearnNormalizer(),
    *map(SklearnNormalizer, (sbn.Welford(), sbn.EMA(halflife=50), sbn.Exact())),
    SklearnNormalizer(sbn.BatchEMA(momentum=0.1)),
    SklearnNormalizer(sbn.EMA(alpha=0.2, adjust=False), eps=1e-5, ddof=1, clip=3.0),
    SklearnNormalizer(nan="raise"),
    SklearnNormalizer(with_mean=False),
    SklearnNormalizer(with_std=False),
    SklearnNormalizer(columns=[0]),
]
WEIGHTS_REFUSED = {
    f"check_sample_weight{name}": "the policy sets the weights"
    for name in ("s_list", "s_not_overwritten", "_equivalence_on_dense_data")
}
REPEATED_ROWS_DIFFER = {
    "check_sample_weight_equivalence_on_dense_data": "a repeated row ages the others twice"
}


def expected_failures(estimator):
    match estimator.policy:
        case None | sbn.Welford():
            return {}
        case sbn.EMA(adjust=True):
            return REPEATED_ROWS_DIFFER
        case _:
            return WEIGHTS_REFUSED


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_scikit_learns_suite_passes(estimator):
    failing = expected_failures(estimator)
    how = {"expected_failed_checks": failing, "on_fail": "raise", "on_skip": None}
    results = check_estimator(estimator, **how)
    passed = {r["check_name"] for r in results if r["status"] == "passed"}
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == failing.keys()
    # The check for arrays of other libraries runs only if scikit-learn is configured for it.
    skipped = {r["check_name"] for r in results} - passed - failing.keys()
    assert skipped <= {"check_array_api_input"}
    assert len(passed) >= 44


class AcceptsAnyWidth(SklearnNormalizer):
    def _validated(self, X, reset):
        array = np.asarray(X, dtype=np.float64)
        self.n_features_in_ = array.shape[1] if reset else self.n_features_in_
        return array


class LearnsInTransform(SklearnNormalizer):
    def transform(self, X):
        return self.partial_fit(X)._map(self._validated(X, False), sbn.Normalizer.transform)


class SetsParameterInFit(SklearnNormalizer):
    def fit(self, X, y=None):
        self.eps = 1.0
        return super().fit(X, y)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (AcceptsAnyWidth, "check_n_features_in_after_fitting"),
        (LearnsInTransform, "check_methods_subset_invariance"),
        (SetsParameterInFit, "check_dont_overwrite_parameters"),
    ],
)
def test_suite_finds_broken_estimators(broken, check):
    results = check_estimator(broken(), on_fail=None, on_skip=None)
    assert check in {r["check_name"] for r in results if r["status"] == "failed"}


class OnArrays(AdapterLaws):
    policy = sbn.Welford()

    def as_input(self, batch):
        return np.column_stack([batch[name].to_numpy(zero_copy_only=False) for name in "ab"])

    def learned(self, policy, batches):
        scaler = SklearnNormalizer(policy)
        for batch in batches:
            if batch.num_rows:
                scaler.partial_fit(self.as_input(batch))
        return scaler

    def transformed(self, adapter, batch):
        return dict(zip("ab", adapter.transform(self.as_input(batch)).T.tolist(), strict=True))

    def as_host(self, z, x, stats):
        return math.nan if z is None else z


class OnTables(OnArrays):
    def as_input(self, batch):
        return pa.Table.from_batches([batch])


class OnPolars(OnArrays):
    def as_input(self, batch):
        return pl.DataFrame(batch)


CASES = {
    "WelfordOnArrays": (OnArrays, sbn.Welford()),
    "EMAOnArrays": (OnArrays, sbn.EMA(halflife=3)),
    "RecursiveEMAOnArrays": (OnArrays, sbn.EMA(alpha=0.3, adjust=False, ignore_na=True)),
    "BatchEMAOnArrays": (OnArrays, sbn.BatchEMA(momentum=0.1)),
    "WelfordOnTables": (OnTables, sbn.Welford()),
    "EMAOnPolars": (OnPolars, sbn.EMA(span=5)),
}

for _name, (_base, _policy) in CASES.items():
    _how = {"policy": _policy, "depends_on_cuts": isinstance(_policy, sbn.BatchEMA)}
    globals()[f"Test{_name}"] = type(f"Test{_name}", (_base,), _how)


class DropsLastBatch(OnArrays):
    """Drops it unless no row would be left."""

    def learned(self, policy, batches):
        kept = batches[:-1] if any(batch.num_rows for batch in batches[:-1]) else batches
        return super().learned(policy, kept)


class IgnoresBatches(OnArrays):
    """Declares that batches do not matter to a policy by batches."""

    policy = sbn.BatchEMA(momentum=0.1)


class LearnsInTransformed(OnArrays):
    def transformed(self, adapter, batch):
        answers = super().transformed(adapter, batch)
        adapter.partial_fit(self.as_input(batch))
        return answers


class SingleRowsAreZero(OnArrays):
    def transformed(self, adapter, batch):
        if batch.num_rows == 1:
            return {"a": [0.0], "b": [0.0]}
        return super().transformed(adapter, batch)


class KeepsNulls(OnArrays):
    """Does not declare that the host has NaN for null."""

    def as_host(self, z, x, stats):
        return z


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (DropsLastBatch, "adapter_agrees_with_normalizer"),
        (IgnoresBatches, "batches_do_not_matter"),
        (LearnsInTransformed, "transform_never_learns"),
        (SingleRowsAreZero, "single_rows_are_normalized_as_in_batches"),
        (KeepsNulls, "adapter_agrees_with_normalizer"),
    ],
)
def test_laws_find_broken_adapters(broken, law):
    checked = getattr(broken, f"law_{law}")
    # The failure is expected, so Hypothesis need not shrink, store or report it.
    quiet = settings(max_examples=100, deadline=None, database=None, phases=[Phase.generate])
    test = quiet(given(*checked.strategies)(checked))
    with pytest.raises(AssertionError):
        test(broken())
