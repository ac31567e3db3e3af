"""The JSON Schema that the package ships describes every file that it reads or writes."""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import normalizers
import pyarrow as pa
import pytest

import streambn as sbn
from streambn.snapshot import Snapshot, decode, encode
from streambn.snapshot.schema import _MEANINGS, json_schema

FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob("files/*.json"))}
SHIPPED = json.loads(
    (importlib.resources.files("streambn.snapshot") / "statistics.schema.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SHIPPED)

POLICIES = {
    **normalizers.POLICIES,
    "ema com": sbn.EMA(com=2.5),
    "ema time": sbn.EMA(halflife="7d", time="t", null_time="skip"),
    "batch-ema average": sbn.BatchEMA(momentum=None, initial=(3.0, 2.0)),
    "batch-ema decay": sbn.BatchEMA(decay=0.9, batch_rows=3),
}
OPTIONS = {
    "defaults": {},
    "all": {
        "columns": ["s", "x", "pair"],
        "eps": 1e-5,
        "ddof": 1,
        "clip": 3.0,
        "affine": {"pair": (2.0, -1.0)},
        "nan": "propagate",
        "inf": "ignore",
        "center": False,
        "scale": False,
        "min_count": 3,
    },
    "union": {"schema": "union", "exclude": ["void", "s*"]},
}


def data() -> pa.Table:
    times = pa.array([0, 3_600_000_000, None, 7_200_000_000], pa.timestamp("us"))
    return pa.table(
        {
            "t": times,
            "x": [1.5, None, float("nan"), 8.25],
            "pair": pa.array([[1, 2], None, [3, 4], [5, 7]], pa.list_(pa.int32(), 2)),
            "s": pa.array([{"y": Decimal("0.1")}] * 4, pa.struct([("y", pa.decimal128(9, 1))])),
            "void": pa.array([None] * 4, pa.float64()),
            "untyped": pa.nulls(4),
            "text": ["a", "b", "c", "d"],
        }
    )


def documents() -> Iterator[pytest.param]:
    for name, path in FILES.items():
        yield pytest.param(json.loads(path.read_bytes()), id=name)
    for name, policy in POLICIES.items():
        for which, options in OPTIONS.items():
            norm = sbn.Normalizer(policy, **options)
            yield pytest.param(document(norm), id=f"{name}-{which}-new")
            norm.update(data())
            yield pytest.param(document(norm, {"rows": 4}), id=f"{name}-{which}-live")
            yield pytest.param(document(norm.freeze()), id=f"{name}-{which}-frozen")


def document(norm: Any, note: dict[str, Any] | None = None) -> dict[str, Any]:
    frozen = isinstance(norm, sbn.FrozenNormalizer)
    return json.loads(encode(Snapshot(norm.statistics, frozen, note)))


DOCUMENTS = [*documents()]


def test_the_shipped_schema_is_that_of_the_structs() -> None:
    jsonschema.Draft202012Validator.check_schema(SHIPPED)
    assert json_schema() == SHIPPED, (
        "write it again: python -m streambn.snapshot.schema > "
        "streambn/snapshot/statistics.schema.json"
    )


def test_every_part_is_described() -> None:
    parts = {"File": SHIPPED, **SHIPPED["$defs"]}
    names = {f"{name}.{key}" for name, part in parts.items() for key in part["properties"]}
    assert {name for name in _MEANINGS if not name.startswith("*")} <= names | parts.keys()
    assert all(part["description"] for part in parts.values())
    assert all("Stored" not in name for name in parts)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_is_valid(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)


def places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all objects, lists and fields of a document, and one of each element."""
    yield path
    items = part.items() if isinstance(part, dict) else ()
    if isinstance(part, list):
        items = list(enumerate(part))[-1:]
    for key, value in items:
        if key not in ("note", "checksum", "fingerprint"):
            yield from places(value, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def loads(document: dict[str, Any]) -> bool:
    """Return whether a document, under the right checksum and fingerprint, can be loaded."""

    def sha256(part: Any) -> str:
        text = json.dumps(part, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    if document.get("fingerprint"):
        document["fingerprint"] = sha256(document.get("body"))
    document["checksum"] = ""
    document["checksum"] = sha256(document)
    try:
        decode(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
    except sbn.SnapshotError:
        return False
    return True


@pytest.mark.parametrize("document", [c for c in DOCUMENTS if c.id in FILES or "-all-live" in c.id])
def test_what_loads_is_valid_and_other_fields_are_not(document: dict[str, Any]) -> None:
    for path in places(document):
        old = at(document, path)
        if isinstance(old, dict) and path[-1:] != ("affine",):
            changed = copy.deepcopy(document)
            at(changed, path)["another"] = None
            assert not VALIDATOR.is_valid(changed), path
        for new in (None, -1, 1, 0.5, "", "text", True, [], {}):
            if path and type(new) is not type(old):
                changed = copy.deepcopy(document)
                at(changed, path[:-1])[path[-1]] = new
                assert not loads(changed) or VALIDATOR.is_valid(changed), (path, new)
    for name in SHIPPED["required"]:
        changed = {key: value for key, value in document.items() if key != name}
        assert not VALIDATOR.is_valid(changed)
