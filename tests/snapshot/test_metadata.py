"""Metadata are written beside the statistics, belong to exactly these, and read back equal."""

from __future__ import annotations

import copy
import enum
import json
import math
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn

DATA = pa.table({"x": [1.0, 2.0, 6.0]})
METADATA = {"offsets": {"orders-0": 1234}, "tags": ["a", None, True, 0.5], "": -(2**63)}

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
    max_leaves=12,
)


def live() -> sbn.Normalizer:
    return sbn.Normalizer(sbn.Exact()).update(DATA)


def with_metadata(norm: Any = None, metadata: Any = METADATA) -> Any:
    return sbn.from_bytes((norm or live()).to_bytes(metadata=metadata))


def typed(value: Any) -> str:
    """Spell a value with its types: 1, 1.0 and True are equal, and so are dicts in any order."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {typed(value[k])}' for k in sorted(value))}}}"
    return f"[{', '.join(map(typed, value))}]" if isinstance(value, list) else repr(value)


# --- round trips ----------------------------------------------------------------------


@given(metadata=st.dictionaries(TEXT, VALUES))
def test_metadata_read_back_equal(metadata: dict, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "s.json"
    for norm in (live(), live().freeze(), sbn.Normalizer()):
        norm.save(path, metadata=metadata)
        for again in (sbn.load(path), with_metadata(norm, metadata)):
            assert typed(again.metadata) == typed(metadata)
            assert type(again) is type(norm)
            assert again.statistics == norm.statistics
            if again.features:
                assert again.freeze().fingerprint == norm.freeze().fingerprint
                assert again.freeze() == norm.freeze()


def test_metadata_are_under_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    live().save(path, metadata=METADATA)
    path.write_text(path.read_text().replace("1234", "1235"))
    with pytest.raises(sbn.SnapshotError, match="checksum"):
        sbn.load(path)
    content = live().to_bytes(metadata=METADATA)
    with pytest.raises(sbn.SnapshotError, match="checksum"):
        sbn.from_bytes(content.replace(b"1234", b"1235"))


def test_without_metadata_older_programs_can_read_the_statistics(tmp_path: Path) -> None:
    for norm in (live(), live().freeze()):
        assert norm.to_bytes()[8] == 1
        assert norm.to_bytes(metadata={}) == norm.to_bytes()
        assert norm.to_bytes(metadata=METADATA)[8] == 3
        norm.save(tmp_path / "a.json", metadata={})
        norm.save(tmp_path / "b.json")
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_mapping_and_subclasses_are_saved_as_plain_values() -> None:
    class Color(str, enum.Enum):  # noqa: UP042
        RED = "red"

    given = {Color.RED: Color.RED, "int": enum.IntEnum("Int", "ONE").ONE, "float": np.float64(0.5)}
    again = with_metadata(metadata=MappingProxyType(given)).metadata
    assert typed(again) == typed({"red": "red", "int": 1, "float": 0.5})


# --- the statistics that they belong to -------------------------------------------------


@pytest.mark.parametrize(
    "keep",
    [
        lambda norm: norm,
        lambda norm: norm.freeze(),
        lambda norm: norm.freeze().thaw(),
        copy.copy,
        copy.deepcopy,
        lambda norm: pickle.loads(pickle.dumps(norm)),
        lambda norm: pickle.loads(pickle.dumps(norm.freeze())),
        lambda norm: sbn.from_bytes(norm.to_bytes()),
        lambda norm: norm.update(DATA.slice(0, 0)),
        lambda norm: norm.update([]),
    ],
    ids=["load", "freeze", "thaw", "copy", "deepcopy", "pickle", "pickle-frozen", "bytes",
         "no-rows", "no-batches"],
)  # fmt: skip
def test_unchanged_statistics_keep_their_metadata(
    keep: Callable[[Any], Any], tmp_path: Path
) -> None:
    norm = keep(with_metadata())
    assert norm.metadata == METADATA
    norm.save(tmp_path / "s.json")
    assert sbn.load(tmp_path / "s.json").metadata == METADATA


@pytest.mark.parametrize(
    "change",
    [
        lambda norm: norm.update(DATA),
        lambda norm: norm.update(DATA.to_batches()[0]),
        lambda norm: norm.update(DATA.to_reader()),
        lambda norm: (norm.update_transform(DATA), norm)[1],
        lambda norm: (norm.update_transform(DATA.to_reader()).read_all(), norm)[1],
        lambda norm: norm.merge(norm),
        lambda norm: norm.merge(sbn.Normalizer(sbn.Exact())),
        lambda norm: sbn.merge([norm]),
        lambda norm: norm.as_welford(),
    ],
    ids=["table", "batch", "stream", "update_transform", "update_transform-stream",
         "merge", "merge-empty", "merge-one", "as_welford"],
)  # fmt: skip
def test_other_statistics_have_no_metadata(change: Callable[[Any], Any], tmp_path: Path) -> None:
    norm = change(with_metadata())
    assert norm.metadata == norm.freeze().metadata == {}
    norm.save(tmp_path / "s.json")
    assert sbn.load(tmp_path / "s.json").metadata == {}
    assert sbn.from_bytes(norm.to_bytes()).metadata == {}


def test_a_rejected_batch_keeps_the_metadata() -> None:
    norm = with_metadata()
    with pytest.raises(sbn.InvalidValueError, match="infinity"):
        norm.update(pa.table({"x": [math.inf]}))
    assert norm.metadata == METADATA


def test_no_change_of_a_dict_reaches_the_metadata() -> None:
    given = {"offsets": {"orders-0": 1}}
    norm = with_metadata(metadata=given)
    given["offsets"]["orders-0"] = 2
    norm.metadata["offsets"]["orders-0"] = 3
    norm.freeze().metadata["new"] = 4
    assert norm.metadata == norm.freeze().metadata == {"offsets": {"orders-0": 1}}


# --- what is refused --------------------------------------------------------------------


def nested(levels: int) -> dict:
    value: Any = 0
    for _ in range(levels - 1):
        value = [value]
    return {"deep": value}


def cycle() -> dict:
    value: dict = {"a": []}
    value["a"].append(value)
    return value


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([1], "metadata must be a dict, got list"),
        ("x", "metadata must be a dict, got str"),
        ({1: 2}, "metadata has the key 1. Metadata has only text as keys: write str(key)."),
        ({"a": [{None: 2}]}, "metadata['a'][0] has the key None"),
        ({"t": datetime(2026, 1, 1)}, "metadata['t'] is of type datetime.datetime"),
        ({"offsets": [np.int64(1)]}, "metadata['offsets'][0] is of type numpy.int64"),
        ({"x": {"y": (1,)}}, "metadata['x']['y'] is of type tuple"),
        ({"x": {1}}, "metadata['x'] is of type set"),
        ({"x": b""}, "metadata['x'] is of type bytes"),
        ({"x": math.nan}, "metadata['x'] is nan, which JSON lacks"),
        ({"x": [0, -math.inf]}, "metadata['x'][1] is -inf, which JSON lacks"),
        ({"x": np.float64("inf")}, "metadata['x'] is inf"),
        ({"id": 2**64}, "metadata['id'] is an integer beyond 64 bits. Write it as text."),
        ({"id": -(2**63) - 1}, "metadata['id'] is an integer beyond 64 bits"),
        ({"name": "\ud800"}, "metadata['name'] is '\\ud800', which is not Unicode text"),
        ({"\ud800": 1}, "metadata has the key '\\ud800', which is not Unicode text"),
        (cycle(), "metadata['a'][0] contains itself"),
        (nested(101), "metadata['deep'] is nested more than 100 levels deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_json_is_refused_with_its_place(
    metadata: Any, message: str, tmp_path: Path
) -> None:
    norm = with_metadata()
    for write in (lambda **given: norm.save(tmp_path / "s.json", **given), norm.to_bytes):
        with pytest.raises(sbn.InvalidValueError) as caught:
            write(metadata=metadata)
        assert caught.value.message.startswith(message)
        assert caught.value.argument == "metadata"
    assert norm.metadata == METADATA
    assert not [*tmp_path.iterdir()]


def test_a_value_may_stand_in_two_places() -> None:
    shared = {"a": 1}
    assert with_metadata(metadata={"x": shared, "y": [shared]}).metadata["y"] == [shared]
    assert with_metadata(metadata=nested(100)).metadata == nested(100)


# --- the command ------------------------------------------------------------------------


def test_show_prints_the_metadata(
    tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    live().save("none.json")
    live().save("s.json", metadata=METADATA)
    live().freeze().save("long.json", metadata={"offsets": [*range(1000)], "esc": "\x1b[2J"})
    assert "metadata" not in run("show", "none.json").out
    assert f"metadata     {json.dumps(METADATA, sort_keys=True)}\n" in run("show", "s.json").out
    shown = run("show", "s.json", "--format", "markdown").out
    assert '- metadata: `{"": -9223372036854775808, "offsets": {"orders-0": 1234}' in shown
    for name, expected in (("none.json", {}), ("s.json", METADATA)):
        assert json.loads(run("show", name, "--format", "json").out)["metadata"] == expected
    [line] = [line for line in run("show", "long.json").out.splitlines() if "metadata" in line]
    assert len(line) <= 140
    assert line.isprintable()
    assert line.endswith("...")
