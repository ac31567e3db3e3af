"""The table of statistics, and representations in consoles and notebooks."""

from __future__ import annotations

import ast
import html
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from normalizers import INF, NAN, fit, policies, record, row_of, xs

import streambn as sbn
from streambn._messages import display_name

# Any name that a schema can have: no lone surrogates.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", " ", " x", "x ", "x", "'x'", '"x"', "a\nb", "a\\nb", "\x00", "\x1b[0m", "\u202e", "\xa0"]
)


def test_stats_has_one_row_per_feature() -> None:
    schema = pa.schema(
        [("column", pa.string()), *((n, pa.int64()) for n in ("count", "nulls", "nans", "infs")),
         *((n, pa.float64()) for n in ("mean", "var", "std", "min", "max"))]
    )  # fmt: skip
    norm = fit(record(x=[1.0, None, NAN, INF, 3.0], y=[1, 2, 3, 4, 5]), inf="ignore")
    for one in (norm, norm.freeze()):
        assert one.stats().schema == schema
        assert row_of(one) == {
            "column": "x", "count": 2, "nulls": 1, "nans": 1, "infs": 1,
            "mean": 2.0, "var": 1.0, "std": 1.0, "min": 1.0, "max": 3.0,
        }  # fmt: skip
        assert row_of(one, "y")["mean"] == 3.0


def test_representation_shows_the_statistics() -> None:
    norm = sbn.Normalizer(sbn.EMA(halflife=1000), eps=1e-5)
    assert repr(norm) == "Normalizer(EMA(halflife=1000), eps=1e-05), no data seen"
    assert "no data seen" in norm._repr_html_()
    norm.update(record(price=[1e9 + k for k in range(1234)], gap=[None, NAN] * 617))
    text = repr(norm)
    assert text.startswith("Normalizer(EMA(halflife=1000), eps=1e-05) of 2 features\n")
    assert "n=1_234" in text
    assert "mean=1000000" in text  # nine digits are kept
    assert "nulls=617" in text
    assert "nans=617" in text
    assert repr(norm.freeze()).startswith("FrozenNormalizer(EMA(halflife=1000)")
    page = norm._repr_html_()
    assert page.count("<tr>") == 3
    for word in ("price", "gap", "1,234", "617", "half-life 1,000 rows"):
        assert word in page


@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_stats_has_the_names_of_the_columns(names: list[str]) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1.0])] * len(names), names)
    column = fit(batch).stats()["column"]
    column.validate(full=True)
    assert column.to_pylist() == names


def test_representation_stays_short() -> None:
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


@given(NAMES)
def test_a_name_is_shown_on_one_line_and_unambiguously(name: str) -> None:
    shown = display_name(name)
    assert shown.isprintable()
    assert shown == shown.strip() != ""
    # A quoted name is a string in Python; no other begins with a quote.
    assert (ast.literal_eval(shown) if shown[0] in "'\"" else shown) == name


@pytest.mark.parametrize(
    "name", ["price", "a.b", "it's", "größe", "漢字", "🦆", "two words", "50 %"]
)
def test_a_readable_name_is_shown_as_it_is(name: str) -> None:
    assert display_name(name) == name


def test_representation_quotes_odd_names() -> None:
    odd = " x\n<b>"
    norm = fit(record(**{odd: [1.0], "y": [2.0]}))
    assert repr(norm).splitlines()[1:] == [
        r"  ' x\n<b>'  n=1  mean=1  std=0",
        "  y  n=1  mean=2  std=0",
    ]
    assert f"<td>{html.escape(repr(odd))}</td>" in norm._repr_html_()


def test_representation_shows_the_beginning_of_affine() -> None:
    pairs = {f"x{i}": (i, 0) for i in range(10_000)}
    assert "affine={'x0': (0.0, 0.0), 'x1': (1.0, 0.0)}" in repr(
        sbn.Normalizer(affine={name: pairs[name] for name in ("x0", "x1")})
    )
    norm = sbn.Normalizer(affine=pairs)
    assert repr(norm).endswith("'x3': (3.0, 0.0), … 9,996 more}), no data seen")


@policies
def test_representation_shows_the_policy(policy: Any) -> None:
    norm = fit(xs(1.0, 2.0, 5.0), xs(None), policy=policy)
    assert repr(policy) in repr(norm)
    assert html.escape(policy.describe()) in norm._repr_html_()


def test_lanes_is_a_deprecated_name_of_features() -> None:
    norm = fit(record(x=[1.0], e=pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))))
    for one in (norm, norm.freeze()):
        assert one.features == ("x", "e[0]", "e[1]")
        with pytest.warns(DeprecationWarning, match="renamed to features"):
            assert one.lanes == one.features
