"""The table of statistics, and representations in consoles and notebooks."""

from __future__ import annotations

import html
from typing import Any

import pyarrow as pa
import pytest
from normalizers import INF, NAN, fit, policies, record, row_of, xs

import streambn as sbn


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
