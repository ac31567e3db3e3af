"""Statistics files keep every bit, and a damaged or foreign file is never loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import normalizers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

import streambn as sbn
from streambn.snapshot import Snapshot, decode, encode
from streambn.snapshot.file import VERSION

DAMAGED, FOREIGN, EMPTY, NEWER = "is damaged", "is not a statistics file", "is empty", "newer"

# One file for each policy and format version, named <version>-<policy>.json. Never change them.
FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob("files/*.json"))}

POLICIES = {
    **normalizers.POLICIES,
    "ema com": sbn.EMA(com=2.5),
    "ema time": sbn.EMA(halflife="7d", time="t"),
    "ema time skip": sbn.EMA(halflife="90min", time="t", null_time="skip"),
    "batch-ema average": sbn.BatchEMA(momentum=None, initial=(3.0, 2.0)),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)

# Every float64, the smallest, the largest and both zeros among them; and nulls.
FLOATS = st.floats(allow_nan=True, allow_infinity=True) | st.none()


def table(rows: list[tuple[Any, Any]]) -> pa.Table:
    """Return a table of four features (x, pair[0], pair[1], s.y) and unordered event times."""
    hours = [(7919 * i) % 1009 for i in range(len(rows))]
    return pa.table(
        {
            "t": pa.array([datetime(1969, 12, 1) + timedelta(hours=h) for h in hours]),
            "x": pa.array([x for x, _ in rows], pa.float64()),
            "pair": pa.array([[x, y] for x, y in rows], pa.list_(pa.float64(), 2)),
            "s": pa.array([{"y": y} for _, y in rows], pa.struct([("y", pa.float64())])),
        }
    )


def example(policy: Any = None, **options: Any) -> sbn.Normalizer:
    norm = sbn.Normalizer(policy or sbn.Welford(), **options)
    rng = np.random.default_rng(8)
    for _ in range(4):
        norm.update(table([tuple(pair) for pair in rng.normal(1e6, 3.3, (4, 2)).tolist()]))
    return norm


def bits(state: Any) -> Iterator[Any]:
    """Yield the parts of a state, arrays as bytes."""
    if isinstance(state, tuple):
        for part in state:
            yield from bits(part)
    else:
        yield state.tobytes() if isinstance(state, np.ndarray) else state


def is_same(a: Any, b: Any) -> bool:
    """Return whether two normalizers are of one kind and equal to the last bit."""
    ours, theirs = (
        (type(norm), s.policy, s.options, s.columns, s.binding, *bits(s.state))
        for norm, s in ((a, a.statistics), (b, b.statistics))
    )
    return ours == theirs


def content(norm: Any = None) -> bytes:
    norm = norm or example()
    return encode(Snapshot(norm.statistics, isinstance(norm, sbn.FrozenNormalizer)))


def restored(norm: Any) -> Any:
    """Return a normalizer that went through the bytes of a file."""
    snapshot = decode(content(norm))
    assert snapshot.frozen is isinstance(norm, sbn.FrozenNormalizer)
    return type(norm).from_statistics(snapshot.statistics)


def signed(document: dict[str, Any]) -> bytes:
    """Return a document as a file with the right checksum, whatever its content."""
    unsigned = json.dumps({**document, "checksum": ""}, separators=(",", ":"), ensure_ascii=False)
    checksum = hashlib.sha256(unsigned.encode()).hexdigest()
    return unsigned.replace('"checksum":""', f'"checksum":"{checksum}"').encode()


@policies
@given(data=st.data())
def test_round_trip_keeps_every_bit(policy: Any, data: st.DataObject) -> None:
    missing = data.draw(st.sampled_from(["ignore", "propagate"]))
    norm = sbn.Normalizer(
        policy,
        columns=data.draw(st.sampled_from([None, ["s", "x", "pair"], ["pair"]])),
        eps=data.draw(st.sampled_from([0.0, 1e-5, 0.1, 5e-324])),
        ddof=data.draw(st.sampled_from([0, 1])),
        clip=data.draw(st.sampled_from([None, 3.0, 1e300])),
        affine=data.draw(st.sampled_from([None, {"pair[1]": (0.1, -0.0), "pair": (3.0, 1e-300)}])),
        nan=missing,
        inf=missing,
        center=data.draw(st.booleans()),
        scale=data.draw(st.booleans()),
        min_count=data.draw(st.sampled_from([0, 4, 2**61])),
    )
    batches = data.draw(st.lists(st.lists(st.tuples(FLOATS, FLOATS), max_size=6), max_size=4))
    for rows in batches:
        norm.update(table(rows))
    loaded = restored(norm)
    assert is_same(loaded, norm)
    if norm.statistics.binding is None:
        return
    assert repr(loaded.stats().to_pylist()) == repr(norm.stats().to_pylist())
    frozen = norm.freeze()
    again = restored(frozen)
    assert is_same(again, frozen)
    assert again.fingerprint == frozen.fingerprint
    assert again == frozen
    more = table(data.draw(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=6)))
    assert repr(loaded.transform(more).to_pylist()) == repr(norm.transform(more).to_pylist())
    assert is_same(loaded.update(more), norm.update(more))


@policies
def test_load_returns_the_kind_that_was_saved(policy: Any, tmp_path: Path) -> None:
    norm = example(policy, eps=0.25)
    norm.save(tmp_path / "live.json")
    norm.freeze().save(str(tmp_path / "frozen.json"))
    live, frozen = sbn.load(str(tmp_path / "live.json")), sbn.load(tmp_path / "frozen.json")
    assert isinstance(live, sbn.Normalizer)
    assert isinstance(frozen, sbn.FrozenNormalizer)
    assert is_same(live, norm)
    assert is_same(frozen, norm.freeze())
    assert frozen == norm.freeze()


@policies
def test_unfitted_normalizer_can_be_saved(policy: Any) -> None:
    norm = sbn.Normalizer(policy, columns=["x"], clip=2.0, nan="raise")
    loaded = restored(norm)
    assert is_same(loaded, norm)
    with pytest.raises(sbn.NotFittedError):
        loaded.stats()


def test_unusual_names_and_large_counts_are_kept() -> None:
    names = ["", " ", "a.b", "x[0]", 'q"uote', "back\\slash", "\n", "\x00", "ünïcödé", "🦆", "</x>"]
    batch = pa.RecordBatch.from_arrays([pa.array([1.0, 4.0])] * len(names), names)
    norm = sbn.Normalizer(affine=dict.fromkeys(names, (2.0, 1.0))).update(batch)
    assert is_same(restored(norm), norm)
    big = sbn.Normalizer().update(pa.table({"x": pa.array([2**64 - 1, 2**64 - 9], pa.uint64())}))
    for _ in range(60):
        big = big.merge(big)
    assert big.stats()["count"].to_pylist() == [2**61]
    assert is_same(restored(big), big)


def test_extremes_of_float64_are_kept() -> None:
    top = sys.float_info.max
    for values in ([top, -top], [5e-324, -5e-324], [-0.0, 0.0], [1e-310, top]):
        norm = sbn.Normalizer().update(pa.table({"x": values}))
        assert is_same(restored(norm), norm)


@pytest.mark.parametrize(
    "policy",
    [
        sbn.EMA(halflife=np.float64(3.0)),
        sbn.EMA(span=3),
        sbn.EMA(com=np.int64(3)),
        sbn.BatchEMA(momentum=1),
        sbn.BatchEMA(decay=0, initial=(0, 1)),
        sbn.BatchEMA(momentum=np.float32(0.5), initial=[np.float64(1), 2]),
        sbn.BatchEMA(decay=0.5, batch_rows=7),
    ],
    ids=repr,
)
def test_numbers_of_any_type_in_a_policy_are_saved(policy: Any) -> None:
    norm = example(policy)
    assert is_same(restored(norm), norm)


@pytest.mark.parametrize("ddof", [np.int64(1), 1.0, np.float64(0.0), np.int8(0)])
def test_every_accepted_ddof_is_saved(ddof: Any) -> None:
    for make in (
        lambda: example(ddof=ddof),
        lambda: example(sbn.BatchEMA(momentum=0.5, ddof=ddof)),
    ):
        try:
            norm = make()
        except sbn.InvalidValueError:
            continue  # refusing it is fine too
        assert is_same(restored(norm), norm)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("1-")])
def test_released_files_are_written_byte_for_byte(name: str) -> None:
    raw = FILES[name].read_bytes()
    assert encode(decode(raw)) == raw


@pytest.mark.parametrize("name", ["welford", "ema"])
def test_version_1_has_the_statistics_of_its_data(name: str) -> None:
    policy = {"welford": sbn.Welford(), "ema": sbn.EMA(alpha=0.25)}[name]
    data = pa.table({"x": [1.5, None, 4.0, 8.25], "n": [1, 2, 3, 10]})
    old = sbn.load(FILES[f"1-{name}"])
    assert isinstance(old, sbn.FrozenNormalizer)
    new = sbn.Normalizer(policy, eps=1e-5).update(data)
    # Version 1 has no Σw², which follows from W and C.
    for column in new.stats().column_names[1:]:
        expected = new.stats()[column].to_numpy()
        np.testing.assert_allclose(old.stats()[column].to_numpy(), expected, rtol=1e-15)
    assert old.thaw().update(data).stats()["count"].to_pylist() == [6, 8]


def test_recursion_of_version_1_without_gaps_is_refused() -> None:
    message = assert_refused(FILES["1-recursion"], r"adjust=False, without the gaps.*Fit")
    assert DAMAGED not in message


@policies
def test_file_is_json_without_derived_values(policy: Any, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    norm = example(policy, eps=0.5)
    all_numeric = dataclasses.replace(norm.statistics, left_out=())
    sbn.FrozenNormalizer.from_statistics(all_numeric).save(path)
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    assert set(document) == {"format", "version", "kind", "fingerprint", "checksum", "body"}
    assert document["fingerprint"] == norm.freeze().fingerprint
    # The lowest version that can express the statistics.
    version = 4 if policy == sbn.Exact() else 2 if policy.event_time is None else 5
    assert (document["format"], document["version"]) == ("streambn statistics", version)

    keys = set(re.findall(r'"(\w+)":', text))
    assert {"policy", "state", "count"} <= keys
    assert not {"mean", "var", "std", "variance", "scale_", "spread", "lanes", "column"} & keys
    assert "NaN" not in text
    assert "Infinity" not in text


def test_indented_file_is_still_valid(tmp_path: Path) -> None:
    norm = example()
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(json.loads(content(norm)), indent=2), encoding="utf-8")
    assert is_same(sbn.load(path), norm)


def test_equal_statistics_have_equal_bytes() -> None:
    norm = example(affine={"x": (1.0, 2.0), "pair": (2.0, 3.0)})
    other = example(affine={"pair": (2.0, 3.0), "x": (1.0, 2.0)})
    assert content(norm) == content(other) == content(restored(norm))
    assert norm.freeze().fingerprint == other.freeze().fingerprint


def test_fingerprint_depends_on_statistics_and_options_alone() -> None:
    norm = example()
    prints = {norm.freeze().fingerprint, example().freeze().fingerprint}
    assert len(prints) == 1
    for options in ({"eps": 1e-5}, {"eps": 1e-6}, {"clip": 3.0}, {"ddof": 1}, {"min_count": 1}):
        prints.add(example(**options).freeze().fingerprint)
    for alpha in (0.5, 0.25):
        prints.add(example(sbn.EMA(alpha=alpha)).freeze().fingerprint)
    assert len(prints) == 8
    assert json.loads(content(norm.freeze()))["fingerprint"] == norm.freeze().fingerprint
    assert json.loads(content(norm))["fingerprint"] is None


class CustomPolicy(sbn.Welford):
    """A user's policy. Saved as its base class, it would become another policy."""

    __slots__ = ()


def test_custom_policy_cannot_be_saved(tmp_path: Path) -> None:
    norm = sbn.Normalizer(CustomPolicy()).update(pa.table({"x": [1.0]}))
    path = tmp_path / "stats.json"
    example().save(path)
    before = path.read_bytes()
    for one in (norm, norm.freeze()):
        with pytest.raises(sbn.SnapshotError, match=r"CustomPolicy\(\).*no code.*Welford"):
            one.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["stats.json"]


def assert_refused(source: bytes | Path, match: str | None = None) -> str:
    """Check that the bytes or the path of a file are refused, and return the message."""
    with pytest.raises(sbn.SnapshotError, match=match) as caught:
        decode(source) if isinstance(source, bytes) else sbn.load(source)
    return str(caught.value)


def loads_as(raw: bytes, norm: Any) -> str:
    """Return "same", or the message of the SnapshotError; any other outcome fails the test."""
    try:
        snapshot = decode(raw, "f.json")
    except sbn.SnapshotError as error:
        message = str(error)
        assert message.startswith("f.json ")
        assert any(word in message for word in (DAMAGED, FOREIGN, EMPTY, NEWER))
        return message
    assert is_same(sbn.Normalizer.from_statistics(snapshot.statistics), norm)
    return "same"


@policies
def test_truncated_file_is_never_loaded(policy: Any) -> None:
    norm = example(policy)
    raw = content(norm)
    lengths = {*range(130), *range(0, len(raw) - 1, 41), *range(len(raw) - 60, len(raw) - 1)}
    for length in sorted(lengths):
        message = loads_as(raw[:length], norm)
        assert (EMPTY if length == 0 else DAMAGED) in message
    assert loads_as(raw[:-1], norm) == "same"  # without the final line feed


@policies
def test_random_damage_is_found(policy: Any) -> None:
    norm = example(policy)
    raw = content(norm)
    rng = random.Random(policy.describe())
    found = 0
    for _ in range(250):
        bad = bytearray(raw)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            at = rng.randrange(len(bad))
            how = rng.choice(["bit", "byte", "drop", "double", "digit", "swap"])
            end, other = at + rng.randrange(1, 9), rng.randrange(len(bad))
            if how == "bit":
                bad[at] ^= 1 << rng.randrange(8)
            elif how == "byte":
                bad[at] = rng.randrange(256)
            elif how == "drop":
                del bad[at:end]
            elif how == "double":
                bad[at:at] = bad[at:end]
            elif how == "digit":
                digits = [i for i, byte in enumerate(bad) if 48 <= byte <= 57]
                bad[rng.choice(digits)] = 48 + rng.randrange(10)
            else:
                bad[at], bad[other] = bad[other], bad[at]
        if bytes(bad) != raw:
            found += loads_as(bytes(bad), norm) != "same"
    assert found > 200  # a few changes hit white space, or digits beyond the last bit


def test_damage_at_every_byte_is_found() -> None:
    norm = sbn.Normalizer().update(pa.table({"x": [1.5, 2.25]}))
    raw = content(norm)
    for at in range(len(raw) - 1):
        bad = bytearray(raw)
        bad[at] ^= 1 << (at % 8)
        loads_as(bytes(bad), norm)


@pytest.mark.parametrize(
    "raw",
    [
        b"PAR1" + b"\x00" * 200, b"ARROW1\x00\x00", b"\x80\x04\x95pickle", b"\x00", b"\xff\xfe{",
        b"hello, world", b"<html></html>", b"a,b\n1,2\n", b"[1, 2, 3]", b'"text"', b"null", b"12",
        b"{}", b'{"a": 1}', b'{"format": 3, "version": 1}', b'{"format": "x"}',
        b'{"format": "other statistics", "version": 1}', b'{"version": 1}',
        b'{"format": "streambn statistics", "version": "1"}', b'{"mean": [1.0], "std": [2.0]}',
    ],
)  # fmt: skip
def test_foreign_file_is_not_called_damaged(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_bytes(raw)
    message = assert_refused(path, f"stats.json {FOREIGN}")
    assert DAMAGED not in message
    assert "not a JSON object" in message or raw not in (b"[1, 2, 3]", b"null")


def test_parquet_and_arrow_files_are_foreign(tmp_path: Path) -> None:
    data = pa.table({"x": [1.0, 2.0]})
    for name, write in (("a.parquet", pq.write_table), ("a.arrow", feather.write_feather)):
        write(data, tmp_path / name)
        assert_refused(tmp_path / name, f"{name} {FOREIGN}")


def test_empty_file_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "stats.json").touch()
    assert_refused(tmp_path / "stats.json", r"stats\.json is empty")


def test_huge_foreign_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(1 << 42)  # sparse, and too large for the memory
    assert_refused(path, FOREIGN)


@pytest.mark.parametrize("extra", [{}, {"new": {"things": 1}}])
def test_file_of_a_newer_version_asks_for_an_upgrade(extra: dict[str, Any]) -> None:
    newer = VERSION + 1
    raw = signed({**json.loads(content()), **extra, "version": newer})
    message = assert_refused(raw, rf"version {newer}.*newer streambn.*Upgrade")
    assert DAMAGED not in message


@pytest.mark.parametrize("nesting", [b"[", b'{"a":', b'{"format":{"a":['])
def test_deep_nesting_does_not_overflow_the_stack(nesting: bytes) -> None:
    for raw in (b'{"a":' + nesting * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        assert_refused(raw)


def test_signed_writes_the_checksum_of_the_library() -> None:
    norm = example()
    assert loads_as(signed(json.loads(content(norm))), norm) == "same"


@pytest.mark.parametrize("checksum", ["", "0" * 64, "a", "é", None, 3])
def test_wrong_checksum_is_damage(checksum: Any) -> None:
    document = {**json.loads(content()), "checksum": checksum}
    assert_refused(json.dumps(document).encode(), DAMAGED)


def test_fingerprint_of_other_statistics_is_damage() -> None:
    document = json.loads(content(example().freeze()))
    document["fingerprint"] = "0" * 64
    assert_refused(signed(document), DAMAGED)


def stored_policy(document: Any) -> Any:
    return document["body"]["policy"]


def stored_state(document: Any) -> Any:
    return stored_policy(document)["state"]


Change = Callable[[Any], Any]


def first(field: str, value: Any) -> Change:
    """Return a change of the first value of a field of a state."""
    return lambda state: state[field].__setitem__(0, value)


STATE_CHANGES: dict[str, Change] = {
    "a value too few": lambda s: s["mean_hi"].pop(),
    "a value too many": lambda s: s["count"].append(1),
    "no values": lambda s: s.update(m2_hi=[]),
    "null for a number": lambda s: s.update(weight=[None] * 4),
    "text for a number": first("weight", "1.0"),
    "fractional count": first("count", 1.5),
    "count beyond 64 bits": first("count", 2**63),
    "negative count": first("count", -1),
    "negative weight": first("weight", -1.0),
    "negative squares": first("m2_hi", -1.0),
    "missing field": lambda s: s.pop("decay"),
    "unknown field": lambda s: s.update(surprise=[1.0]),
}
SUM_CHANGES: dict[str, Change] = {
    "not an integer": first("total", "one"),
    "not hexadecimal": first("total", "1.8p0"),
    "even integer": first("total", "2p0"),
    "zero with an exponent": first("total", "0p1"),
    "leading zero": first("total", "03p0"),
    "capitals": first("squares", "FFp0"),
    "digits of another script": first("total", "1p\u0661"),
    "below the smallest unit": first("total", "1p-1075"),
    "beyond the largest sum": first("squares", "1p2200"),
    "exponent of many digits": first("total", "1p99999999"),
    "negative squares": first("squares", "-1p0"),
    "squares too small for the sum": first("squares", "1p-9"),
    "sum without values": first("count", 0),
    "negative count": first("nulls", -1),
    "values without a minimum": first("min", None),
    "minimum above the maximum": first("min", 1e9),
    "a feature too few": lambda s: s["scale"].pop(),
    "scale beyond 64 bits": first("scale", 2**64),
    "scale of a million digits": first("scale", 10**6),
    "unknown field": lambda s: s.update(surprise=[]),
}
BODY_CHANGES: dict[str, Change] = {
    "a leaf too few": lambda b: b["leaves"].pop(),
    "no leaves": lambda b: b.update(leaves=None),
    "no state": lambda b: b["policy"].update(state=None),
    "list of size 0": lambda b: b["leaves"][1].update(size=0),
    "list of negative size": lambda b: b["leaves"][1].update(size=-2),
    "leaf without a name": lambda b: b["leaves"][0].update(path=[]),
    "the same leaf twice": lambda b: b["leaves"].__setitem__(2, b["leaves"][0]),
    "unknown policy": lambda b: b["policy"].update(kind="median"),
    "negative eps": lambda b: b["options"].update(eps=-1.0),
    "ddof=2": lambda b: b["options"].update(ddof=2),
    "text for a flag": lambda b: b["options"].update(center="yes"),
    "unknown choice": lambda b: b["options"].update(nan="average"),
    "three numbers in affine": lambda b: b["options"].update(affine={"x": [1.0, 2.0, 3.0]}),
    "unknown column in affine": lambda b: b["options"].update(affine={"zz": [1.0, 2.0]}),
}
FILE_CHANGES: dict[str, Change] = {
    "unknown kind": lambda d: d.update(kind="thawed"),
    "text for the body": lambda d: d.update(body="x"),
    "version 0": lambda d: d.update(version=0),
}
EMA, BATCH_EMA = sbn.EMA(alpha=0.5), sbn.BatchEMA(momentum=0.5)
POLICY_CHANGES = [
    *((EMA, change) for change in ({"alpha": 1.5}, {"alpha": None}, {"span": 3.0})),
    (EMA, {"adjust": False}),
    *((BATCH_EMA, change) for change in ({"momentum": 7.0}, {"decay": 0.5}, {"ddof": 3})),
    *((BATCH_EMA, change) for change in ({"initial": [0.0, -1.0]}, {"batch_rows": 0})),
]
IMPOSSIBLE = [
    pytest.param(policy, part, change, id=f"{policy!r} {name}")
    for policy, part, changes in (
        (sbn.Welford(), stored_state, STATE_CHANGES),
        (sbn.Exact(), stored_state, SUM_CHANGES),
        (sbn.Welford(), lambda document: document["body"], BODY_CHANGES),
        (sbn.Welford(), lambda document: document, FILE_CHANGES),
    )
    for name, change in changes.items()
] + [
    pytest.param(policy, stored_policy, lambda p, new=new: p.update(new), id=f"{policy!r} {new}")
    for policy, new in POLICY_CHANGES
]


@pytest.mark.parametrize(("policy", "part", "change"), IMPOSSIBLE)
def test_impossible_content_with_a_right_checksum_is_damage(
    policy: Any, part: Change, change: Change
) -> None:
    document = json.loads(content(example(policy)))
    change(part(document))
    assert_refused(signed(document), DAMAGED)


def test_exact_sums_have_one_canonical_text() -> None:
    columns: dict[str, Any] = {
        "x": [1.0, 2.0], "tiny": [5e-324, 0.0], "none": pa.nulls(2, pa.float64()),
        "big": [-1e300, 1.0], "i": [2**62, -1], "d": [Decimal("0.25"), Decimal("-1.75")],
    }  # fmt: skip
    norm = sbn.Normalizer(sbn.Exact()).update(pa.table(columns))
    state = stored_state(json.loads(content(norm)))
    assert state["total"][:3] == ["3p0", "1p-1074", "0p0"]
    assert state["squares"][:3] == ["5p0", "1p-2148", "0p0"]
    assert (state["total"][5], state["scale"]) == ("-4bp1", [None] * 5 + [2])  # -150 hundredths
    assert is_same(restored(norm), norm)
    assert restored(norm).statistics.state == norm.statistics.state


def test_pickle_is_foreign_and_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "stats.json"
    path.write_bytes(pickle.dumps(Trap()))
    assert_refused(path, FOREIGN)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_failed_save_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stats.json"
    example().save(path)
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    for norm in (example(eps=0.5), example().freeze()):
        with pytest.raises(OSError, match="No space left"):
            norm.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["stats.json"]


def test_new_file_has_default_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    (tmp_path / "plain").touch()
    example().save(path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    example().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_missing_file_or_folder_raises_the_system_error(tmp_path: Path) -> None:
    for act in (sbn.load, example().save):
        with pytest.raises(FileNotFoundError):
            act(tmp_path / "none" / "stats.json")
        with pytest.raises(IsADirectoryError):
            act(tmp_path)
    with pytest.raises(FileNotFoundError):
        sbn.load(tmp_path / "none.json")
    assert os.listdir(tmp_path) == []


SAVE_REPEATEDLY = textwrap.dedent("""
    import sys
    import pyarrow as pa
    import streambn as sbn

    norms = []
    for n in (1, 400):
        columns = {f"c{i}": [float(i), float(n)] for i in range(n)}
        norms.append(sbn.Normalizer().update(pa.table(columns)))
    norms[0].save(sys.argv[1])
    print("ready", flush=True)
    while True:
        for norm in norms:
            norm.save(sys.argv[1])
""")


def test_process_killed_while_saving_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    widths = set()
    rng = random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_REPEATEDLY, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.08))
            for _ in range(20):  # read while the process writes
                widths.add(sbn.load(path).stats().num_rows)
            process.send_signal(signal.SIGKILL)
        widths.add(sbn.load(path).stats().num_rows)
    assert widths == {1, 400}  # both were seen, so the file was indeed being replaced
    example().save(path)
    assert is_same(sbn.load(path), example())


def test_a_file_holds_the_names_that_a_callable_chose(tmp_path: Path) -> None:
    norm = sbn.Normalizer(columns=lambda field: field.name != "id")
    with pytest.raises(sbn.SnapshotError, match="function") as caught:
        norm.save(tmp_path / "s.json")
    assert caught.value.argument == "columns"
    assert not (tmp_path / "s.json").exists()
    data = pa.table({"id": [1.0], "x": [2.0]})
    norm.update(data).save(tmp_path / "s.json")
    again = sbn.load(tmp_path / "s.json")
    assert again.statistics.columns == ("x",)
    assert again.update(data).stats().equals(norm.update(data).stats())
