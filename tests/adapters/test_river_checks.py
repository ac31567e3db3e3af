"""River's own checks of RiverNormalizer: alone, in a pipeline and in a union, each one a test."""

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
MANY_IS_ONE_BY_ONE = "check_learn_many_matches_learn_one"


class Doubled(base.MiniBatchTransformer):
    """What stands beside the normalizer in a union: other features, in rows and in frames."""

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


def skips(shape, scaler):
    """Checks to leave out: the scaler's, which a union does not ask for, and a pipeline's last."""
    return scaler._unit_test_skips() | SHAPES[shape](scaler)._unit_test_skips()


def checks_of(shape, scaler):
    model = SHAPES[shape](scaler)
    return [c for c in checks.yield_checks(model) if c.__name__ not in skips(shape, scaler)]


def cases():
    for shape in SHAPES:
        for name, policy in POLICIES.items():
            scaler = RiverNormalizer(policy)
            seen = Counter()
            for check in checks_of(shape, scaler):
                seen[check.__name__] += 1  # some come once for every dataset
                label = f"{shape}-{name}-{check.__name__.removeprefix('check_')}"
                yield pytest.param(shape, policy, check, id=f"{label}-{seen[check.__name__]}")


@pytest.mark.parametrize(("shape", "policy", "check"), list(cases()))
def test_river_finds_nothing_wrong(shape, policy, check):
    random.seed(42)  # the checks shuffle and drop features
    check(SHAPES[shape](RiverNormalizer(policy)).clone())


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_left_out_is_what_blocks_make_different(name):
    # A block of many rows is not as many blocks of one.
    expected = {MANY_IS_ONE_BY_ONE} if name == "BatchEMA" else set()
    assert RiverNormalizer(POLICIES[name])._unit_test_skips() == expected


def test_every_check_is_there():
    """So that a check which River, or a base class that is lost, takes away is missed."""
    of_transformers = {
        "check_bounded_memory_growth",
        "check_clone_is_independent",
        "check_disappearing_features",
        "check_emerging_features",
        "check_get_params_matches_signature",
        "check_learn_one",
        "check_no_state_aliasing_with_input",
        "check_pickling",
        "check_predict_one_before_any_learn",
        "check_predict_one_pure",
        "check_radically_disappearing_features",
        "check_shuffle_features_no_impact",
        "check_transform_one",
        "check_transform_many_matches_transform_one",
        MANY_IS_ONE_BY_ONE,
    }
    for shape in ("alone", "union"):
        names = [c.__name__ for c in checks_of(shape, RiverNormalizer())]
        assert of_transformers <= set(names)
        # All that River asks of a scaler of its own.
        own = SHAPES[shape](preprocessing.StandardScaler())
        assert names == [c.__name__ for c in checks.yield_checks(own)]
    for shape, many in (
        ("classifier", "check_predict_proba_many_matches_predict_proba_one"),
        ("regressor", "check_predict_many_matches_predict_one"),
    ):
        own = SHAPES[shape](preprocessing.StandardScaler())
        names = {c.__name__ for c in checks_of(shape, RiverNormalizer())}
        assert many in names
        assert names == {c.__name__ for c in checks.yield_checks(own)} - {MANY_IS_ONE_BY_ONE}


# ------------------------------------------------- what is wrong is found by its check


class MutatesWhatItTransforms(RiverNormalizer):
    """Wrong."""

    def transform_one(self, x):
        out = super().transform_one(x)
        x.update(out)
        return out


class MutatesWhatItLearns(RiverNormalizer):
    """Wrong."""

    def learn_one(self, x):
        super().learn_one(x)
        x.clear()


class LearnsNoFrames(RiverNormalizer):
    """Wrong."""

    def learn_many(self, X):
        pass


class LearnsFramesTwice(RiverNormalizer):
    """Wrong, and only the mean of a stream that changes tells."""

    def learn_many(self, X):
        super().learn_many(X)
        super().learn_many(X.tail(1))


class TransformsFramesAnotherWay(RiverNormalizer):
    """Wrong."""

    def transform_many(self, X):
        return super().transform_many(X) + 1e-3


class KeepsTheRow(RiverNormalizer):
    """Wrong."""

    def learn_one(self, x):
        super().learn_one(x)
        self.last = x


class GrowsAndGrows(RiverNormalizer):
    """Wrong."""

    def learn_one(self, x):
        super().learn_one(x)
        # More and more of it: River allows three times the growth of the first half.
        rows = self.__dict__.setdefault("rows", [])
        rows.append(bytes(len(rows) ** 2 // 100))


class NeedsEveryFeature(RiverNormalizer):
    """Wrong."""

    def transform_one(self, x):
        out = super().transform_one(x)
        known = self.__dict__.setdefault("known", set())
        if known - x.keys():
            raise KeyError(known - x.keys())
        known.update(x)
        return out


class GoesByPosition(RiverNormalizer):
    """Wrong."""

    def transform_one(self, x):
        return {name: i + value for i, (name, value) in enumerate(super().transform_one(x).items())}


WRONG = [
    (MutatesWhatItTransforms, "check_predict_one_pure"),
    (MutatesWhatItLearns, "check_learn_one"),
    (LearnsNoFrames, MANY_IS_ONE_BY_ONE),
    (LearnsFramesTwice, MANY_IS_ONE_BY_ONE),
    (TransformsFramesAnotherWay, "check_transform_many_matches_transform_one"),
    (KeepsTheRow, "check_no_state_aliasing_with_input"),
    (GrowsAndGrows, "check_bounded_memory_growth"),
    (NeedsEveryFeature, "check_disappearing_features"),
    (GoesByPosition, "check_shuffle_features_no_impact"),
]


@pytest.mark.parametrize(("wrong", "name"), WRONG, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("shape", ["alone", "union"])
def test_what_is_wrong_is_found_by_its_check(shape, wrong, name):
    random.seed(42)
    [check] = [c for c in checks_of(shape, wrong()) if c.__name__ == name]
    with pytest.raises((AssertionError, KeyError)):
        check(SHAPES[shape](wrong()).clone())


def test_the_union_of_the_checks_does_transform_frames():
    # River's check lets an AttributeError pass: this one is not to be passed by that.
    union = SHAPES["union"](RiverNormalizer())
    union.learn_many(pd.DataFrame({"a": [1.0, 3.0]}))
    out = union.transform_many(pd.DataFrame({"a": [3.0]}))
    assert out.to_dict("list") == {"a": [1.0], "a_doubled": [6.0]}
