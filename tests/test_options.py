"""A normalizer's hyperparameters: every one has a domain, and says so."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn.options import Options

NOT_FINITE = [math.nan, math.inf, -math.inf, "1", None, True, [1.0], 1j, 10**400]

WRONG: list[tuple[str, Any]] = [
    *(("eps", value) for value in (-1e-5, *NOT_FINITE)),
    *(("ddof", value) for value in (2, -1, 0.5, True, False, None, "1", [1])),
    *(("center", value) for value in (1, 0, None, "yes")),
    *(("scale", value) for value in (1, 0, None, "no")),
    *(("clip", value) for value in (0, 0.0, -3, *(v for v in NOT_FINITE if v is not None))),
    *(("nan", value) for value in ("skip", None, True, "IGNORE", 0, ["ignore"])),
    *(("min_count", value) for value in (-1, 2**61 + 1, 0.5, 2.0, True, None, "3", [1])),
    *(("inf", value) for value in ("drop", None, False, "Raise", math.inf)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: f"{v!r:.20}")
def test_invalid_value_is_named_with_its_domain(name: str, value: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match=f"^{name} must be .*, got ") as caught:
        sbn.Normalizer(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "affine",
    [
        [("x", (1.0, 0.0))], "x", 1.0, {"x": 1.0}, {"x": (1.0,)}, {"x": (1.0, 2.0, 3.0)},
        {"x": "ab"}, {"x": None}, {"x": (1.0, None)}, {"x": (math.nan, 0.0)},
        {"x": (1.0, math.inf)}, {1: (1.0, 0.0)}, {"x": (True, False)},
    ],
    ids=repr,
)  # fmt: skip
def test_affine_needs_two_finite_numbers_per_column(affine: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match=r"^affine.*gamma, beta.*such as .*got "):
        sbn.Normalizer(affine=affine)


@pytest.mark.parametrize(
    ("given_", "plain"),
    [
        ({"eps": np.float32(0.5)}, {"eps": 0.5}),
        ({"eps": 1}, {"eps": 1.0}),
        ({"eps": Fraction(1, 4)}, {"eps": 0.25}),
        ({"clip": Decimal("2.5")}, {"clip": 2.5}),
        ({"clip": np.int64(3)}, {"clip": 3.0}),
        ({"ddof": np.int64(1)}, {"ddof": 1}),
        ({"ddof": 1.0}, {"ddof": 1}),
        ({"min_count": np.uint8(3)}, {"min_count": 3}),
        ({"affine": {"x": [2, 3]}}, {"affine": {"x": (2.0, 3.0)}}),
        ({"affine": {"x": np.array([2.0, 3.0])}}, {"affine": {"x": (2.0, 3.0)}}),
        ({"affine": {}}, {"affine": None}),
    ],
    ids=repr,
)
def test_numbers_of_any_kind_become_python_numbers(given_: Any, plain: Any) -> None:
    """Numbers that do not convert are an error."""
    wanted = Options(**plain)
    try:
        got = Options(**given_)
    except sbn.InvalidValueError:
        assert "ddof" in given_
        return
    assert got == wanted
    assert repr(got) == repr(wanted)
    for field in dataclasses.fields(Options):
        assert type(getattr(got, field.name)) is type(getattr(wanted, field.name))


def test_defaults() -> None:
    assert Options() == Options(
        eps=0.0, ddof=0, center=True, scale=True, affine=None, clip=None, nan="ignore", inf="raise"
    )
    assert sbn.Normalizer().options == Options()
    assert sbn.Normalizer().policy == sbn.Welford()


def test_options_are_immutable() -> None:
    source = {"x": (2.0, 3.0)}
    options = sbn.Normalizer(eps=0.5, affine=source).options
    source["x"] = (9.0, 9.0)
    source["y"] = (9.0, 9.0)
    assert dict(options.affine or {}) == {"x": (2.0, 3.0)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.eps = 1.0  # type: ignore[misc]
    with pytest.raises((TypeError, AttributeError)):
        options.affine["x"] = (9.0, 9.0)  # type: ignore[index]
    with pytest.raises((TypeError, AttributeError)):
        options.affine.clear()  # type: ignore[union-attr]


@given(
    eps=st.floats(0, 1e300),
    ddof=st.sampled_from([0, 1]),
    clip=st.none() | st.floats(1e-300, 1e300),
    affine=st.none() | st.dictionaries(st.text(), st.tuples(st.floats(-9, 9), st.floats(-9, 9))),
)
def test_equal_options_are_equal(eps: float, ddof: int, clip: float | None, affine: Any) -> None:
    options = Options(eps=eps, ddof=ddof, clip=clip, affine=affine)
    same = Options(eps=eps, ddof=ddof, clip=clip, affine=affine)
    assert options == same
    for copied in (pickle.loads(pickle.dumps(options)), copy.deepcopy(options)):
        assert copied == options
    assert options != dataclasses.replace(options, ddof=1 - ddof)
    assert options != dataclasses.replace(options, eps=eps + 1 + eps)


@pytest.mark.parametrize("policy", ["welford", 3, sbn.Welford, sbn.EMA, object(), [sbn.Welford()]])
def test_policy_must_be_an_instance_of_a_policy(policy: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match=r"policy must be .*Welford\(\).*got "):
        sbn.Normalizer(policy)


@pytest.mark.parametrize("columns", ["price", [], (), [1], ["x", None], {"x"}, 3, {"x": 1}])
def test_columns_must_be_a_list_of_names(columns: Any) -> None:
    with pytest.raises(sbn.InvalidValueError, match=r"columns must be .*, got "):
        sbn.Normalizer(columns=columns)


def test_missing_affine_column_is_named_with_the_nearest() -> None:
    norm = sbn.Normalizer(affine={"prise": (1.0, 0.0)})
    with pytest.raises(sbn.SchemaError, match=r"affine.*'prise'.*'price'"):
        norm.update(pa.table({"price": [1.0], "volume": [1.0]}))
    assert norm.features == ()
