"""Statistics files whose fields are forged and whose checksum is right, and their use."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

import streambn as sbn
from streambn.snapshot import Snapshot, decode, encode
from streambn.snapshot.file import StoredFile

__all__ = ["HOSTILE", "document", "exercise", "forge", "forgeries", "places"]

_INTS: Final = [-(2**63), -1, 0, 1, 2, 7, 400, 2201, 2**31, 2**53 + 1, 10**18]
_LARGE: Final = [2**61, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**4000]
_FLOATS: Final = [-1.0, -0.0, 0.0, 5e-324, 1e-300, 0.5, 1.0, 1.5, 7.0, 1e30, 1e155, 1e300, 1.7e308]
_BEYOND: Final = [math.nan, math.inf, -math.inf, None]
_TEXTS: Final = [
    "",
    "a",
    "x",
    "a.b",
    "v[0]",
    "*",
    "\x1b[2J",
    "é" * 999,
    "0p0",
    "1p0",
    "-1p0",
    "2p0",
]
_SUMS: Final = ["1p9999", "1p-9999", "f" * 1072 + "p0", "f" * 4000 + "p0", "1e9d", "1p00", "P1D"]
_OTHERS: Final = [True, False, [], {}, [[]], [None], {"": 0}]
HOSTILE: Final = [*_INTS, *_LARGE, *_FLOATS, *_BEYOND, *_TEXTS, *_SUMS, *_OTHERS]


def document(normalizer: sbn.Normalizer, *, frozen: bool = False) -> dict[str, Any]:
    """Return the statistics file of a normalizer as dicts and lists."""
    content: dict[str, Any] = json.loads(encode(Snapshot(normalizer.statistics, frozen)))
    return content


def forge(content: dict[str, Any]) -> bytes:
    """Return the bytes of a statistics file with the right checksum, if its types are right."""
    try:
        file = msgspec.convert(content, StoredFile)
        if file.kind == "frozen":
            file = msgspec.structs.replace(file, fingerprint=_sha256(file.body))
        file = msgspec.structs.replace(file, checksum="")
        return _canonical(msgspec.structs.replace(file, checksum=_sha256(file)))
    except (msgspec.MsgspecError, ValueError):  # it will not be read as far as its checksum
        return json.dumps(content, default=str).encode()


def _canonical(part: Any) -> bytes:
    return msgspec.json.encode(part, order="deterministic")


def _sha256(part: Any) -> str:
    return hashlib.sha256(_canonical(part)).hexdigest()


def places(part: Any) -> list[tuple[Any, Any]]:
    """Return each value below a part, as what holds it and its key or index."""
    keys = part.keys() if isinstance(part, dict) else range(len(part))
    found = [(part, key) for key in keys]
    for key in keys:
        if isinstance(part[key], dict | list):
            found += places(part[key])
    return found


@st.composite
def forgeries(draw: st.DrawFn, normalizers: st.SearchStrategy[sbn.Normalizer]) -> bytes:
    """Draw a statistics file some of whose fields are hostile: other values, lengths and orders."""
    content = document(draw(normalizers), frozen=draw(st.booleans()))
    policy = content["body"]["policy"]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        root = draw(st.sampled_from([content, policy, policy]))
        found = [place for place in places(root) if place[1] not in ("checksum", "format")]
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        old = holder[key]
        if isinstance(old, list) and draw(st.integers(0, 9)):
            holder[key] = _changed(draw, old)
        elif draw(st.integers(0, 9)) == 0:
            other, where = found[draw(st.integers(0, len(found) - 1))]
            if not isinstance(old, dict) and not isinstance(other[where], dict):
                holder[key], other[where] = other[where], old
        elif isinstance(old, str):
            holder[key] = draw(st.sampled_from([*_TEXTS, *_SUMS, old + old, None]))
        elif isinstance(old, float):
            other_values = [-old, old * 2, old / 2, old + 1e-9, *_FLOATS, *_BEYOND, 2**63]
            holder[key] = draw(st.sampled_from(other_values))
        elif isinstance(old, int) and not isinstance(old, bool):
            holder[key] = draw(st.sampled_from([-old, old + 1, *_INTS, *_LARGE]))
        else:
            holder[key] = draw(st.sampled_from(HOSTILE))
    return forge(content)


def _changed(draw: st.DrawFn, old: list[Any]) -> list[Any]:
    """Return a list with other entries, or with more or fewer."""
    if not old:
        return draw(st.sampled_from([[0], [0.0], [""], [None], [[]], [["a", "b"]]]))
    i = draw(st.integers(0, len(old) - 1))
    value = draw(st.sampled_from(HOSTILE))
    return draw(
        st.sampled_from(
            [
                [],
                old[:-1],
                old[::-1],
                [*old, old[i]],
                [*old, value],
                [old[i]] * len(old),
                [value] * len(old),
                [*old[:i], value, *old[i + 1 :]],
                old * 300,
            ]
        )
    )


# ------------------------------------------------------------------------------------ use


def exercise(content: bytes) -> bool:
    """Read a statistics file and use what it holds; return whether it was accepted.

    Raises
    ------
    Exception
        The file is read, and then misbehaves; or it is refused otherwise than by a SnapshotError.
    """
    try:
        saved = decode(content, "forged")
    except sbn.errors.SnapshotError as error:
        if len(str(error)) > 1000:
            raise AssertionError("the message is too long") from error
        return False
    statistics = saved.statistics
    # What was read is written to the same bits.
    again = encode(saved)
    assert encode(decode(again)) == again
    live = sbn.Normalizer.from_statistics(statistics)
    if statistics.binding is None:
        return True
    _check_numbers(live.stats(), live.options)
    repr(live)
    live.freeze()._repr_html_()
    batch = _batch_for(live)
    _exercise_rows(live)
    try:
        out = live.transform(batch)
        out.validate(full=True)
        live.inverse_transform(out)
        _check_numbers(live.merge(live).stats(), live.options)
        live.update(batch)
        _check_numbers(live.stats(), live.options)
        after = encode(Snapshot(live.statistics, frozen=False))
    except sbn.errors.StreamBNError:  # such as a batch whose times lie before 1970, in other units
        return True
    assert encode(decode(after)) == after
    return True


def _exercise_rows(normalizer: sbn.Normalizer) -> None:
    try:
        rows = sbn.RowNormalizer.from_normalizer(normalizer)
    except sbn.errors.SchemaError:  # lists and structs are no features of rows
        return
    row: dict[str, Any] = dict.fromkeys(normalizer.features, 1.0)
    time = normalizer.policy.event_time
    if time is not None:
        row[time.column] = 5.0 if time.numeric else np.datetime64("2026-01-01")
    if normalizer.options.weights is not None:
        row[normalizer.options.weights] = 0.5
    try:
        rows.transform_one(row)
        rows.learn_one(row)
        _check_numbers(rows.stats(), rows.options)
    except sbn.errors.StreamBNError:
        return


def _check_numbers(stats: pa.Table, options: Any) -> None:
    for row in stats.to_pylist():
        poisoned = (row["nans"] and options.nan == "propagate") or (
            row["infs"] and options.inf == "propagate"
        )
        for name, value in row.items():
            if isinstance(value, float) and not poisoned:
                # Squares of numbers beyond 1e154 leave float64, their roots do not.
                finite = math.isfinite(value) or (name in ("var", "total_var") and value > 0)
                if name == "std":  # up to √2 times half the range, for two values
                    finite = finite or (value > 0 and row["max"] / 2 - row["min"] / 2 > 1.2e308)
                assert finite, f"{name} of {row['column']!r} is {value}"
        if row["count"] and not poisoned:
            assert row["min"] is not None, row
            assert row["max"] is not None, row


def _batch_for(normalizer: sbn.Normalizer) -> pa.RecordBatch:
    """Return two rows that have the columns of a normalizer, as far as a schema can."""
    columns: dict[str, pa.Array] = {}
    binding = normalizer.statistics.require_binding()
    for leaf in binding.leaves:
        values: pa.Array = pa.array(np.arange(2.0 * (leaf.size or 1)))
        if leaf.size is not None:
            values = pa.FixedSizeListArray.from_arrays(values, leaf.size)
        for name in reversed(leaf.path[1:]):
            values = pa.StructArray.from_arrays([values], [name])
        columns[leaf.path[0]] = values
    event_time = normalizer.policy.event_time
    if event_time is not None:
        kind = pa.float64() if event_time.numeric else pa.timestamp("s")
        columns[event_time.column] = pa.array([5, 6]).cast(kind)
    if normalizer.options.weights is not None:
        columns[normalizer.options.weights] = pa.array([1.0, 0.5])
    return pa.record_batch(columns)
