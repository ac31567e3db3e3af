"""River's own checks of RiverNormalizer: alone, in pipelines and in a union."""

from __future__ import annotations

import random
from collections import Counter

import pandas as pd
import pytest
from river import base, checks, linear_model, preprocessing

import streambn as sbn
from streambn.adapters.river import RiverNormalizer

POLICIES = {
    "default": None,
    "Welford": sbn.Welford(),
    "EMA": sbn.EMA(halflife=20),
    "EMARecursive": sbn.EMA(alpha=0.1, adjust=False),
    "BatchEMA": sbn.BatchEMA(momentum=0.1),
    "Exact": sbn.Exact(),
}
MANY_MATCHES_ONE = "check_learn_many_matches_learn_one"


class Doubled(base.MiniBatchTransformer):
    """The second transformer of a union, which outputs features of other names."""

    def transform_one(self, x):
        return {f"{name}_doubled": 2 * value for name, value in x.items()}

    def transform_many(self, X):
        return (2 * X).add_suffix("_doubled")


SHAPES = {
    "alone": lambda scaler: scaler,
    "classifier": lambda scaler: scaler | linear_model.LogisticRegression(),
    "regressor": lambda scaler: scaler | linear_model.LinearRegression(),
    "union": lambda scaler: scaler + Doubled(),
}


def checks_of(shape, scaler):
    model = SHAPES[shape](scaler)
    # A union does not ask its parts which checks to skip.
    skipped = scaler._unit_test_skips() | model._unit_test_skips()
    return [check for check in checks.yield_checks(model) if check.__name__ not in skipped]


def cases():
    for shape in SHAPES:
        for name, policy in POLICIES.items():
            scaler = RiverNormalizer(policy)
            seen = Counter()
            for check in checks_of(shape, scaler):
                seen[check.__name__] += 1  # some checks run once for each dataset
                label = f"{shape}-{name}-{check.__name__.removeprefix('check_')}"
                yield pytest.param(shape, policy, check, id=f"{label}-{seen[check.__name__]}")


@pytest.mark.parametrize(("shape", "policy", "check"), list(cases()))
def test_river_check_passes(shape, policy, check):
    random.seed(42)  # the checks shuffle and drop features at random
    check(SHAPES[shape](RiverNormalizer(policy)).clone())


@pytest.mark.parametrize("name", POLICIES)
def test_only_batch_ema_skips_a_check(name):
    # One block of many rows differs from many blocks of one row.
    expected = {MANY_MATCHES_ONE} if name == "BatchEMA" else set()
    assert RiverNormalizer(POLICIES[name])._unit_test_skips() == expected


def test_no_check_is_lost():
    """A check may be lost with a version of River, or with a base class."""
    of_transformers = {
        *("check_bounded_memory_growth", "check_pickling", "check_clone_is_independent"),
        *("check_emerging_features", "check_disappearing_features"),
        *("check_radically_disappearing_features", "check_shuffle_features_no_impact"),
        *("check_get_params_matches_signature", "check_no_state_aliasing_with_input"),
        *("check_predict_one_before_any_learn", "check_predict_one_pure", "check_learn_one"),
        *("check_transform_one", "check_transform_many_matches_transform_one", MANY_MATCHES_ONE),
    }
    for shape in ("alone", "union"):
        names = [c.__name__ for c in checks_of(shape, RiverNormalizer())]
        assert of_transformers <= set(names)
        # River runs the same checks on its own scaler.
        own = SHAPES[shape](preprocessing.StandardScaler())
        assert names == [c.__name__ for c in checks.yield_checks(own)]
    for shape, many in (
        ("classifier", "check_predict_proba_many_matches_predict_proba_one"),
        ("regressor", "check_predict_many_matches_predict_one"),
    ):
        own = SHAPES[shape](preprocessing.StandardScaler())
        names = {c.__name__ for c in checks_of(shape, RiverNormalizer())}
        assert many in names
        assert names == {c.__name__ for c in checks.yield_checks(own)} - {MANY_MATCHES_ONE}


class MutatesTransformedRow(RiverNormalizer):
    def transform_one(self, x):
        out = super().transform_one(x)
        x.update(out)
        return out


class MutatesLearnedRow(RiverNormalizer):
    def learn_one(self, x):
        super().learn_one(x)
        x.clear()


class IgnoresFrames(RiverNormalizer):
    def learn_many(self, X):
        pass


class LearnsLastRowTwice(RiverNormalizer):
    """Only the mean of a changing stream shows it."""

    def learn_many(self, X):
        super().learn_many(X)
        super().learn_many(X.tail(1))


class TransformsFramesDifferently(RiverNormalizer):
    def transform_many(self, X):
        return super().transform_many(X) + 1e-3


class KeepsRow(RiverNormalizer):
    def learn_one(self, x):
        super().learn_one(x)
        self.last = x


class GrowsWithRows(RiverNormalizer):
    def learn_one(self, x):
        super().learn_one(x)
        # The growth accelerates: River allows three times the growth of the first half.
        rows = self.__dict__.setdefault("rows", [])
        rows.append(bytes(len(rows) ** 2 // 100))


class NeedsEveryFeature(RiverNormalizer):
    def transform_one(self, x):
        out = super().transform_one(x)
        known = self.__dict__.setdefault("known", set())
        if known - x.keys():
            raise KeyError(known - x.keys())
        known.update(x)
        return out


class DependsOnOrder(RiverNormalizer):
    def transform_one(self, x):
        return {name: i + value for i, (name, value) in enumerate(super().transform_one(x).items())}


BROKEN = [
    (MutatesTransformedRow, "check_predict_one_pure"),
    (MutatesLearnedRow, "check_learn_one"),
    (IgnoresFrames, MANY_MATCHES_ONE),
    (LearnsLastRowTwice, MANY_MATCHES_ONE),
    (TransformsFramesDifferently, "check_transform_many_matches_transform_one"),
    (KeepsRow, "check_no_state_aliasing_with_input"),
    (GrowsWithRows, "check_bounded_memory_growth"),
    (NeedsEveryFeature, "check_disappearing_features"),
    (DependsOnOrder, "check_shuffle_features_no_impact"),
]


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("shape", ["alone", "union"])
def test_check_finds_broken_normalizer(shape, broken, name):
    random.seed(42)
    [check] = [c for c in checks_of(shape, broken()) if c.__name__ == name]
    with pytest.raises((AssertionError, KeyError)):
        check(SHAPES[shape](broken()).clone())


def test_union_transforms_frames():
    # River's check accepts an AttributeError, which would hide that the union cannot.
    union = SHAPES["union"](RiverNormalizer())
    union.learn_many(pd.DataFrame({"a": [1.0, 3.0]}))
    out = union.transform_many(pd.DataFrame({"a": [3.0]}))
    assert out.to_dict("list") == {"a": [1.0], "a_doubled": [6.0]}
