"""Which columns of a schema are features: names, patterns, callables, and what is left out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import streambn as sbn
from streambn.arrow import Selection

NUMBER, SMALL = pa.float32(), pa.int8()
SCHEMA = pa.schema(
    {
        "f": pa.float16(),
        "b": pa.bool_(),
        "d": pa.decimal128(9, 2),
        "t": pa.timestamp("s"),
        "emb": pa.list_(NUMBER, 3),
        "free": pa.list_(NUMBER),
        "s": pa.struct({"u": SMALL, "text": pa.string(), "w": pa.float64()}),
        "a.b": SMALL,
        "none": pa.null(),
        "image": pa.list_(pa.list_(NUMBER, 2), 2),
    }
)


def names(**selection: Any) -> list[str]:
    leaves, _ = Selection(**selection).find(SCHEMA)
    return [leaf.name for leaf in leaves]


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        ({}, ["f", "d", "emb", "s.u", "s.w", "a.b", "none", "image"]),
        ({"columns": ("s", "f")}, ["s.u", "s.w", "f"]),
        ({"columns": ("s.w", "a.b")}, ["s.w", "a.b"]),
        ({"columns": ("free",)}, ["free"]),
        ({"columns": ("?",)}, ["f", "d", "s.u", "s.w"]),
        ({"columns": ("s.*", "f*")}, ["s.u", "s.w", "f"]),
        ({"columns": ("*",), "exclude": ("s", "a.?", "image")}, ["f", "d", "emb", "none"]),
        ({"exclude": ("s.w", "b", "[fd]*")}, ["emb", "s.u", "a.b", "none", "image"]),
        ({"row_columns": ("f", "t")}, ["d", "emb", "s.u", "s.w", "a.b", "none", "image"]),
        ({"columns": lambda f: f.name in "fbd"}, ["f", "d", "none"]),
        ({"columns": ("f", "later"), "union": True}, ["f", "later"]),
        ({"columns": ("later*",), "union": True}, []),
    ],
)
def test_selection(selection: dict[str, Any], found: list[str]) -> None:
    assert names(**selection) == found


def test_what_is_left_out_and_why() -> None:
    _, left_out = Selection(exclude=("b",), row_columns=("t",)).find(SCHEMA)
    assert [each.column for each in left_out] == ["free", "s.text"]
    assert "name it" in left_out[0].reason
    assert left_out[1].reason == "string"
    assert Selection(columns=("f",)).find(SCHEMA)[1] == []  # the user chose


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"columns": ("f", "nope")}, "'nope' is not in the data"),
        ({"columns": ("b",)}, r"'b' is bool.*Remove it from columns=, or cast it"),
        ({"columns": ("s.text",)}, r"'s\.text' is string"),
        ({"columns": ("z*",)}, r"pattern 'z\*' matches no numeric column"),
        ({"columns": ("f", "f")}, "selected twice"),
        ({"columns": ("s", "s.w")}, "selected twice"),
    ],
)
def test_impossible_selections_are_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(sbn.SchemaError, match=message):
        Selection(**selection).find(SCHEMA)


def test_an_excluded_name_must_exist() -> None:
    data = pa.table({"x": [1.0], "label": ["a"]})
    assert sbn.Normalizer(exclude=["label"]).update(data).features == ("x",)
    assert sbn.Normalizer(exclude=["id*"]).update(data).features == ("x",)
    with pytest.raises(sbn.SchemaError, match=r"exclude: column 'labl'.*mean 'label'") as caught:
        sbn.Normalizer(exclude=["labl"]).update(data)
    assert caught.value.argument == "exclude"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"columns": "x"}, "columns"),
        ({"columns": []}, "columns"),
        ({"exclude": "x"}, "exclude"),
        ({"exclude": [1]}, "exclude"),
        ({"columns": ["x", "y"], "exclude": ["y"]}, "exclude"),
        ({"schema": "any"}, "schema"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], argument: str) -> None:
    with pytest.raises(sbn.InvalidValueError, match=argument) as caught:
        sbn.Normalizer(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({}, ["f", "d", "emb", "s", "a.b", "none", "image"]),
        ({"columns": ["s.u", "emb"]}, ["s", "emb"]),
        ({"weights": "f"}, ["d", "emb", "s", "a.b", "none", "image", "f"]),
        ({"schema": "union", "columns": ["d", "later"]}, ["d"]),
    ],
)
def test_learning_reads_only_the_columns_that_it_needs(
    arguments: dict[str, Any], read: list[str]
) -> None:
    statistics = sbn.Normalizer(**arguments).statistics.bind(SCHEMA)
    assert statistics.columns_to_read(SCHEMA) == read
