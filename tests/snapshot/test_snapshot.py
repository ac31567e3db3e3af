"""Statistics files: bit for bit there and back, and never anything else."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streambn as sbn
from streambn import snapshot
from streambn.snapshot.file import VERSION

POLICIES: dict[str, Any] = {
    "welford": sbn.Welford(),
    "ema": sbn.EMA(alpha=0.3),
    "ema halflife": sbn.EMA(halflife=4, ignore_na=True),
    "ema span": sbn.EMA(span=5, adjust=False),
    "ema com": sbn.EMA(com=2.5),
    "ema time": sbn.EMA(halflife="7d", time="t"),
    "ema time skip": sbn.EMA(halflife="90min", time="t", null_time="skip"),
    "batch-ema": sbn.BatchEMA(momentum=0.1),
    "batch-ema keras": sbn.BatchEMA(decay=0.75, ddof=0, initial=None),
    "batch-ema average": sbn.BatchEMA(momentum=None, initial=(3.0, 2.0)),
    "batch-ema rows": sbn.BatchEMA(momentum=0.5, batch_rows=3),
    "exact": sbn.Exact(),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)

# All of float64: subnormals, the largest, both zeros; and what is missing.
ANY = st.floats(allow_nan=True, allow_infinity=True) | st.none()


def table(rows: list[tuple[Any, Any]]) -> pa.Table:
    """Four lanes: x, pair[0], pair[1] and s.y; and event times, in no order."""
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


def arrays_of(state: Any) -> Iterator[Any]:
    if isinstance(state, tuple):
        for part in state:
            yield from arrays_of(part)
    else:
        yield state.tobytes() if isinstance(state, np.ndarray) else state


def same_state(a: Any, b: Any) -> bool:
    return (
        type(a) is type(b)
        and a._statistics.policy == b._statistics.policy
        and a._statistics.options == b._statistics.options
        and a._statistics.columns == b._statistics.columns
        and a._statistics.binding == b._statistics.binding
        and list(arrays_of(a._statistics.state)) == list(arrays_of(b._statistics.state))
    )


def restored(norm: Any) -> Any:
    """Through the bytes of a file, without the file."""
    frozen = isinstance(norm, sbn.FrozenNormalizer)
    saved = snapshot.decode(snapshot.encode(snapshot.Snapshot(norm._statistics, frozen)))
    assert saved.frozen is frozen
    return type(norm).from_statistics(saved.statistics)


def content(norm: Any = None) -> bytes:
    norm = norm or example()
    return snapshot.encode(
        snapshot.Snapshot(norm._statistics, isinstance(norm, sbn.FrozenNormalizer))
    )


def signed(document: dict[str, Any]) -> bytes:
    """The document as a file with the right checksum, whatever it says."""
    document = {**document, "checksum": ""}
    canonical = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    document["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


# ----------------------------------------------------------------------- there and back


@policies
@given(data=st.data())
def test_a_round_trip_changes_no_bit(policy: Any, data: st.DataObject) -> None:
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
    )
    batches = data.draw(st.lists(st.lists(st.tuples(ANY, ANY), max_size=6), max_size=4))
    for rows in batches:
        norm.update(table(rows))
    loaded = restored(norm)
    assert same_state(loaded, norm)
    if not norm.lanes:
        return
    assert repr(loaded.stats().to_pylist()) == repr(norm.stats().to_pylist())
    frozen = norm.freeze()
    again = restored(frozen)
    assert same_state(again, frozen)
    assert again.fingerprint == frozen.fingerprint
    assert again == frozen
    # And it goes on from where it was.
    more = table(data.draw(st.lists(st.tuples(ANY, ANY), min_size=1, max_size=6)))
    assert repr(loaded.transform(more).to_pylist()) == repr(norm.transform(more).to_pylist())
    assert same_state(loaded.update(more), norm.update(more))


@policies
def test_files_of_live_and_frozen_normalizers_load_as_what_they_were(
    policy: Any, tmp_path: Path
) -> None:
    norm = example(policy, eps=0.25)
    norm.save(tmp_path / "live.json")
    norm.freeze().save(str(tmp_path / "frozen.json"))
    live, frozen = sbn.load(str(tmp_path / "live.json")), sbn.load(tmp_path / "frozen.json")
    assert same_state(live, norm)
    assert same_state(frozen, norm.freeze())
    assert frozen == norm.freeze()
    assert isinstance(live, sbn.Normalizer)
    assert isinstance(frozen, sbn.FrozenNormalizer)


@policies
def test_an_unfitted_normalizer_can_be_saved_too(policy: Any) -> None:
    norm = sbn.Normalizer(policy, columns=["x"], clip=2.0, nan="raise")
    loaded = restored(norm)
    assert same_state(loaded, norm)
    with pytest.raises(sbn.NotFittedError):
        loaded.stats()


def test_large_and_odd_names_counts_and_integers_are_kept() -> None:
    names = ["", " ", "a.b", "x[0]", 'q"uote', "back\\slash", "\n", "\x00", "ünïcödé", "🦆", "</x>"]
    batch = pa.RecordBatch.from_arrays([pa.array([1.0, 4.0])] * len(names), names)
    norm = sbn.Normalizer(affine=dict.fromkeys(names, (2.0, 1.0))).update(batch)
    assert same_state(restored(norm), norm)
    big = sbn.Normalizer().update(pa.table({"x": pa.array([2**64 - 1, 2**64 - 9], pa.uint64())}))
    for _ in range(60):
        big = big.merge(big)
    assert big.stats()["count"].to_pylist() == [2**61]
    assert same_state(restored(big), big)


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
def test_numbers_of_any_kind_in_a_policy_are_saved(policy: Any) -> None:
    norm = example(policy)
    assert same_state(restored(norm), norm)


@pytest.mark.parametrize("ddof", [np.int64(1), 1.0, np.float64(0.0), np.int8(0)])
def test_whatever_ddof_is_accepted_can_be_saved_and_read(ddof: Any) -> None:
    for make in (
        lambda: example(ddof=ddof),
        lambda: example(sbn.BatchEMA(momentum=0.5, ddof=ddof)),
    ):
        try:
            norm = make()
        except sbn.InvalidValueError:
            continue  # refusing it is as good
        assert same_state(restored(norm), norm)


# ------------------------------------------------------------------------ what was before

# Of x = 1.5, null, 4.0, 8.25 and n = 1, 2, 3, 10 with eps=1e-5, as version 1 wrote them.
DATA = pa.table({"x": [1.5, None, 4.0, 8.25], "n": [1, 2, 3, 10]})
HEAD = (
    '{"format":"streambn statistics","version":1,"kind":"frozen","fingerprint":"%s",'
    '"checksum":"%s","body":{"options":{"eps":0.00001,"ddof":0,"center":true,"scale":true,"affine":null,"clip":null,'
    '"nan":"ignore","inf":"raise"},"columns":null,"leaves":[{"path":["x"],"size":null,"exact":false},'
    '{"path":["n"],"size":null,"exact":true}],"policy":'
)
BOOKS = (
    '"count":[3,4],"nulls":[1,0],"nans":[0,0],"pos_infs":[0,0],"neg_infs":[0,0],'
    '"min":[1.5,1.0],"max":[8.25,10.0],'
)
VERSION_1 = {
    "welford": HEAD
    % (
        "dc638de381ae2e542d961012091f52a913ad34e86e9ca4acacf21cb6936aa7bf",
        "955af863e6d9c29a573281b1bb778b9fd0a8f1b05c4cb16d2f129de03824e06f",
    )
    + '{"kind":"welford","state":{'
    + BOOKS
    + '"weight":[3.0,4.0],"pairs":[3.0,6.0],"mean_hi":[4.583333333333333,4.0],"mean_lo":[2.'
    + '9605947323337506e-16,0.0],"m2_hi":[23.291666666666668,50.0],"m2_lo":[-1.184237892933'
    + '5e-15,0.0],"decay":[1.0,1.0],"exponent":[0,0]}}}}',
    "ema": HEAD
    % (
        "e0819efbe4c69a5ad1df06d0958c491acb36cba0180651a716bb299582a61889",
        "aa0badf45a2f453c1a05d8e191d3b469539e8097e0b64a3982cd0e6ea3d77e20",
    )
    + '{"kind":"ema","alpha":0.25,"halflife":null,"span":null,"com":null,"adjust":true,"ign'
    + 'ore_na":false,"state":{"moments":{'
    + BOOKS
    + '"weight":[2.171875,2.734375],"pairs":[1.48828125,2.7099609375],"mean_hi":[5.47122302'
    + '1582734,5.045714285714285],"mean_lo":[-1.7891363850074465e-16,3.4004545211376227e-16'
    + '],"m2_hi":[15.998201438848922,39.806785714285716],"m2_lo":[-6.773159171813902e-16,-2'
    + '.1519294283020175e-15],"decay":[0.31640625,0.31640625],"exponent":[0,0]},"first":nul'
    + "l}}}}",
    "recursion": HEAD
    % (
        "fbc79150646c1acad87742e223efc418c60cc82d11d25aa948e76f94f4d6ed5a",
        "c006b92b442ea2e95ebf1a12dfeceb2a8d0517d126534e294aa469686fab35a5",
    )
    + '{"kind":"ema","alpha":0.25,"halflife":null,"span":null,"com":null,"adjust":false,"ig'
    + 'nore_na":false,"state":{"moments":{'
    + BOOKS
    + '"weight":[2.171875,2.734375],"pairs":[1.48828125,2.7099609375],"mean_hi":[5.47122302'
    + '1582734,5.045714285714285],"mean_lo":[-1.7891363850074465e-16,3.4004545211376227e-16'
    + '],"m2_hi":[15.998201438848922,39.806785714285716],"m2_lo":[-6.773159171813902e-16,-2'
    + '.1519294283020175e-15],"decay":[0.31640625,0.31640625],"exponent":[0,0]},"first":{"c'
    + 'ount":[1,1],"nulls":[0,0],"nans":[0,0],"pos_infs":[0,0],"neg_infs":[0,0],"min":[1.5,'
    + '1.0],"max":[1.5,1.0],"weight":[0.421875,0.421875],"pairs":[0.0,0.0],"mean_hi":[1.5,1'
    + '.0],"mean_lo":[0.0,0.0],"m2_hi":[0.0,0.0],"m2_lo":[0.0,0.0],"decay":[0.31640625,0.31'
    + '640625],"exponent":[0,0]}}}}}',
}


@pytest.mark.parametrize("name", ["welford", "ema"])
def test_a_file_of_version_1_is_read(name: str) -> None:
    policy = {"welford": sbn.Welford(), "ema": sbn.EMA(alpha=0.25)}[name]
    saved = snapshot.decode(VERSION_1[name].encode())
    old, new = (
        sbn.FrozenNormalizer.from_statistics(saved.statistics),
        sbn.Normalizer(policy, eps=1e-5),
    )
    new.update(DATA)
    # Σw², which version 1 had not, follows from what it had.
    for column in new.stats().column_names[1:]:
        expected = new.stats()[column].to_numpy()
        np.testing.assert_allclose(old.stats()[column].to_numpy(), expected, rtol=1e-15)
    assert old.thaw().update(DATA).stats()["count"].to_pylist() == [6, 8]


def test_a_recursion_of_version_1_which_knew_no_gaps_says_so() -> None:
    with pytest.raises(sbn.SnapshotError, match=r"adjust=False, without the gaps.*Fit") as caught:
        snapshot.decode(VERSION_1["recursion"].encode())
    assert DAMAGED not in str(caught.value)


# ------------------------------------------------------------------------- the contents


@policies
def test_a_file_is_json_and_holds_no_derived_value(policy: Any, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    example(policy, eps=0.5).freeze().save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) == {"format", "version", "kind", "fingerprint", "checksum", "body"}
    # The earliest version that can say it: what has no note can be read by older programs.
    version = 4 if policy == sbn.Exact() else 2
    assert (document["format"], document["version"]) == ("streambn statistics", version)

    def keys(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for key, value in part.items():
                yield key
                yield from keys(value)
        elif isinstance(part, list):
            for value in part:
                yield from keys(value)

    derived = {"mean", "var", "std", "variance", "scale_", "spread", "lanes", "column"}
    assert not derived & set(keys(document))
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert "Infinity" not in path.read_text(encoding="utf-8")


def test_a_file_that_was_laid_out_anew_is_the_same_file(tmp_path: Path) -> None:
    """Someone looked at it with a JSON tool: still its content, so still it."""
    norm = example()
    path = tmp_path / "stats.json"
    norm.save(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    assert same_state(sbn.load(path), norm)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    norm = example(affine={"x": (1.0, 2.0), "pair": (2.0, 3.0)})
    other = example(affine={"pair": (2.0, 3.0), "x": (1.0, 2.0)})
    assert content(norm) == content(other) == content(restored(norm))
    assert norm.freeze().fingerprint == other.freeze().fingerprint


def test_the_fingerprint_tells_content_apart_and_nothing_else() -> None:
    norm = example()
    prints = {norm.freeze().fingerprint, example().freeze().fingerprint}
    assert len(prints) == 1
    for other in (example(eps=1e-5), example(eps=1e-6), example(clip=3.0), example(ddof=1),
                  example(sbn.EMA(alpha=0.5)), example(sbn.EMA(alpha=0.25))):  # fmt: skip
        prints.add(other.freeze().fingerprint)
    assert len(prints) == 7
    assert json.loads(content(norm.freeze()))["fingerprint"] == norm.freeze().fingerprint
    assert json.loads(content(norm))["fingerprint"] is None


class Mine(sbn.Welford):
    """A policy of the user's own."""

    __slots__ = ()


def test_a_user_s_own_policy_cannot_be_saved(tmp_path: Path) -> None:
    """Its code would have to be in the file; saved as its base it would be another."""
    norm = sbn.Normalizer(Mine()).update(pa.table({"x": [1.0]}))
    path = tmp_path / "stats.json"
    example().save(path)
    before = path.read_bytes()
    for one in (norm, norm.freeze()):
        with pytest.raises(sbn.SnapshotError, match=r"Mine\(\).*no code.*Welford"):
            one.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["stats.json"]


# ------------------------------------------------------------------------------- damage

DAMAGED, FOREIGN, EMPTY, NEWER = "is damaged", "is not a statistics file", "is empty", "newer"


def loads_as(raw: bytes, norm: Any) -> str:
    """Give "same" or the message of the SnapshotError; anything else fails the test."""
    try:
        saved = snapshot.decode(raw, "f.json")
    except sbn.SnapshotError as error:
        message = str(error)
        assert message.startswith("f.json ")
        assert any(word in message for word in (DAMAGED, FOREIGN, EMPTY, NEWER))
        return message
    assert same_state(sbn.Normalizer.from_statistics(saved.statistics), norm)
    return "same"


@policies
def test_a_file_cut_short_is_never_loaded(policy: Any) -> None:
    norm = example(policy)
    raw = content(norm)
    lengths = {*range(130), *range(0, len(raw) - 1, 41), *range(len(raw) - 60, len(raw) - 1)}
    for length in sorted(lengths):
        message = loads_as(raw[:length], norm)
        assert (EMPTY if length == 0 else DAMAGED) in message
    assert loads_as(raw[:-1], norm) == "same"  # all but the line's end


@policies
def test_damage_is_always_found(policy: Any) -> None:
    norm = example(policy)
    raw = content(norm)
    rng = random.Random(policy.describe())
    found = 0
    for _ in range(250):
        bad = bytearray(raw)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            at = rng.randrange(len(bad))
            how = rng.choice(["bit", "byte", "drop", "double", "digit", "swap"])
            if how == "bit":
                bad[at] ^= 1 << rng.randrange(8)
            elif how == "byte":
                bad[at] = rng.randrange(256)
            elif how == "drop":
                del bad[at : at + rng.randrange(1, 9)]
            elif how == "double":
                bad[at:at] = bad[at : at + rng.randrange(1, 9)]
            elif how == "digit":
                digits = [i for i, byte in enumerate(bad) if 48 <= byte <= 57]
                bad[rng.choice(digits)] = 48 + rng.randrange(10)
            else:
                other = rng.randrange(len(bad))
                bad[at], bad[other] = bad[other], bad[at]
        if bytes(bad) != raw:
            found += loads_as(bytes(bad), norm) != "same"
    assert found > 200  # a few are blanks, or digits beyond the last bit


def test_every_single_bit_of_the_head_and_of_a_sample_is_guarded() -> None:
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
def test_a_foreign_file_is_told_from_a_damaged_one(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_bytes(raw)
    with pytest.raises(sbn.SnapshotError, match=f"stats.json {FOREIGN}") as caught:
        sbn.load(path)
    assert DAMAGED not in str(caught.value)


def test_parquet_and_arrow_files_are_foreign(tmp_path: Path) -> None:
    data = pa.table({"x": [1.0, 2.0]})
    pq.write_table(data, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), data.schema) as writer:
        writer.write_table(data)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(sbn.SnapshotError, match=f"{name} {FOREIGN}"):
            sbn.load(tmp_path / name)


def test_json_that_is_no_object_is_not_called_no_json() -> None:
    for raw in (b"[1, 2, 3]", b"null"):
        with pytest.raises(sbn.SnapshotError, match=FOREIGN) as caught:
            snapshot.decode(raw)
        assert "it is not JSON." not in str(caught.value)


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_bytes(b"")
    with pytest.raises(sbn.SnapshotError, match=r"stats\.json is empty"):
        sbn.load(tmp_path / "stats.json")


def test_a_file_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sbn.load(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError):
        sbn.load(tmp_path)


def test_a_huge_foreign_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(1 << 42)  # sparse: reading it would not end well
    with pytest.raises(sbn.SnapshotError, match=FOREIGN):
        sbn.load(path)


def test_a_file_of_a_newer_version_says_so() -> None:
    document = json.loads(content())
    for extra in ({}, {"new": {"things": 1}}):
        newer = VERSION + 1
        raw = signed({**document, **extra, "version": newer})
        with pytest.raises(
            sbn.SnapshotError, match=rf"version {newer}.*newer streambn.*Upgrade"
        ) as caught:
            snapshot.decode(raw)
        assert DAMAGED not in str(caught.value)


@pytest.mark.parametrize("nesting", [b"[", b'{"a":', b'{"format":{"a":['])
def test_deep_nesting_does_not_overflow_the_stack(nesting: bytes) -> None:
    for raw in (b'{"a":' + nesting * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        with pytest.raises(sbn.SnapshotError):
            snapshot.decode(raw)


def test_the_helper_signs_as_the_library_does() -> None:
    norm = example()
    assert loads_as(signed(json.loads(content(norm))), norm) == "same"


@pytest.mark.parametrize("checksum", ["", "0" * 64, "a", "é", None, 3])
def test_a_wrong_checksum_is_damage(checksum: Any) -> None:
    document = {**json.loads(content()), "checksum": checksum}
    with pytest.raises(sbn.SnapshotError, match=DAMAGED):
        snapshot.decode(json.dumps(document).encode())


def _moments(document: Any) -> dict[str, list[Any]]:
    lanes: dict[str, list[Any]] = document["body"]["policy"]["state"]
    return lanes


Tamper = Callable[[Any], Any]
TAMPERED: dict[str, Tamper] = {
    "a value too few": lambda d: _moments(d)["mean_hi"].pop(),
    "a value too many": lambda d: _moments(d)["count"].append(1),
    "no values": lambda d: _moments(d).update(m2_hi=[]),
    "a null where a number belongs": lambda d: _moments(d).update(weight=[None] * 4),
    "a number as text": lambda d: _moments(d)["weight"].__setitem__(0, "1.0"),
    "a fraction of a count": lambda d: _moments(d)["count"].__setitem__(0, 1.5),
    "a count beyond 64 bits": lambda d: _moments(d)["count"].__setitem__(0, 2**63),
    "a count below zero": lambda d: _moments(d)["count"].__setitem__(0, -1),
    "a weight below zero": lambda d: _moments(d)["weight"].__setitem__(0, -1.0),
    "squares below zero": lambda d: _moments(d)["m2_hi"].__setitem__(0, -1.0),
    "a field is missing": lambda d: _moments(d).pop("decay"),
    "a field is new": lambda d: _moments(d).update(surprise=[1.0]),
    "a leaf too few": lambda d: d["body"]["leaves"].pop(),
    "no leaves": lambda d: d["body"].update(leaves=None),
    "no state": lambda d: d["body"]["policy"].update(state=None),
    "a list of no elements": lambda d: d["body"]["leaves"][1].update(size=0),
    "a list of less than nothing": lambda d: d["body"]["leaves"][1].update(size=-2),
    "a leaf without a name": lambda d: d["body"]["leaves"][0].update(path=[]),
    "one leaf twice": lambda d: d["body"]["leaves"].__setitem__(2, d["body"]["leaves"][0]),
    "an unknown policy": lambda d: d["body"]["policy"].update(kind="median"),
    "an unknown kind": lambda d: d.update(kind="thawed"),
    "eps below zero": lambda d: d["body"]["options"].update(eps=-1.0),
    "a third ddof": lambda d: d["body"]["options"].update(ddof=2),
    "a word for a flag": lambda d: d["body"]["options"].update(center="yes"),
    "an unknown setting": lambda d: d["body"]["options"].update(nan="average"),
    "an affine of three": lambda d: d["body"]["options"].update(affine={"x": [1.0, 2.0, 3.0]}),
    "an affine of nothing": lambda d: d["body"]["options"].update(affine={"zz": [1.0, 2.0]}),
    "a body of text": lambda d: d.update(body="x"),
    "version 0": lambda d: d.update(version=0),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_right_checksum_over_nonsense_is_still_damage(name: str) -> None:
    document = json.loads(content())
    TAMPERED[name](document)
    with pytest.raises(sbn.SnapshotError, match=DAMAGED):
        snapshot.decode(signed(document))


def _sums(document: Any) -> Any:
    return document["body"]["policy"]["state"]


TAMPERED_SUMS: dict[str, Tamper] = {
    "no integer": lambda d: _sums(d)["total"].__setitem__(0, "one"),
    "no hexadecimal": lambda d: _sums(d)["total"].__setitem__(0, "1.8p0"),
    "an even integer": lambda d: _sums(d)["total"].__setitem__(0, "2p0"),
    "zero in another way": lambda d: _sums(d)["total"].__setitem__(0, "0p1"),
    "a zero in front": lambda d: _sums(d)["total"].__setitem__(0, "03p0"),
    "capitals": lambda d: _sums(d)["squares"].__setitem__(0, "FFp0"),
    "digits of another script": lambda d: _sums(d)["total"].__setitem__(0, "1p\u0661"),
    "a sum below the smallest unit": lambda d: _sums(d)["total"].__setitem__(0, "1p-1075"),
    "a sum beyond the largest": lambda d: _sums(d)["squares"].__setitem__(0, "1p2200"),
    "an exponent of many digits": lambda d: _sums(d)["total"].__setitem__(0, "1p99999999"),
    "squares below zero": lambda d: _sums(d)["squares"].__setitem__(0, "-1p0"),
    "squares too small for the sum": lambda d: _sums(d)["squares"].__setitem__(0, "1p-9"),
    "a sum of no values": lambda d: _sums(d)["count"].__setitem__(0, 0),
    "a negative count": lambda d: _sums(d)["nulls"].__setitem__(0, -1),
    "values without extremes": lambda d: _sums(d)["min"].__setitem__(0, None),
    "a minimum above the maximum": lambda d: _sums(d)["min"].__setitem__(0, 1e9),
    "a lane too few": lambda d: _sums(d)["scale"].pop(),
    "a scale beyond 64 bits": lambda d: _sums(d)["scale"].__setitem__(0, 2**64),
    "a scale of a million digits": lambda d: _sums(d)["scale"].__setitem__(0, 10**6),
    "a field is new": lambda d: _sums(d).update(surprise=[]),
}


@pytest.mark.parametrize("name", TAMPERED_SUMS)
def test_sums_of_no_data_are_damage(name: str) -> None:
    document = json.loads(content(example(sbn.Exact())))
    TAMPERED_SUMS[name](document)
    with pytest.raises(sbn.SnapshotError, match=DAMAGED):
        snapshot.decode(signed(document))


def test_exact_sums_are_written_in_the_only_way_there_is() -> None:
    rows: dict[str, Any] = {
        "x": [1.0, 2.0], "tiny": [5e-324, 0.0], "none": pa.nulls(2, pa.float64()),
        "big": [-1e300, 1.0], "i": [2**62, -1], "d": [Decimal("0.25"), Decimal("-1.75")],
    }  # fmt: skip
    norm = sbn.Normalizer(sbn.Exact()).update(pa.table(rows))
    state = _sums(json.loads(content(norm)))
    assert state["total"][:3] == ["3p0", "1p-1074", "0p0"]
    assert state["squares"][:3] == ["5p0", "1p-2148", "0p0"]
    assert (state["total"][5], state["scale"]) == ("-4bp1", [None] * 5 + [2])  # -150 hundredths
    assert same_state(restored(norm), norm)
    assert restored(norm)._statistics.state == norm._statistics.state


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        (sbn.EMA(alpha=0.5), {"alpha": 1.5}),
        (sbn.EMA(alpha=0.5), {"alpha": None}),
        (sbn.EMA(alpha=0.5), {"span": 3.0}),
        (sbn.EMA(alpha=0.5), {"adjust": False}),
        (sbn.BatchEMA(momentum=0.5), {"momentum": 7.0}),
        (sbn.BatchEMA(momentum=0.5), {"decay": 0.5}),
        (sbn.BatchEMA(momentum=0.5), {"initial": [0.0, -1.0]}),
        (sbn.BatchEMA(momentum=0.5), {"batch_rows": 0}),
        (sbn.BatchEMA(momentum=0.5), {"ddof": 3}),
    ],
    ids=repr,
)
def test_a_policy_outside_its_domain_is_damage(policy: Any, change: dict[str, Any]) -> None:
    document = json.loads(content(example(policy)))
    document["body"]["policy"].update(change)
    with pytest.raises(sbn.SnapshotError, match=DAMAGED):
        snapshot.decode(signed(document))


def test_a_frozen_file_with_another_s_fingerprint_is_damage() -> None:
    document = json.loads(content(example().freeze()))
    document["fingerprint"] = "0" * 64
    with pytest.raises(sbn.SnapshotError, match=DAMAGED):
        snapshot.decode(signed(document))


def test_no_code_is_ever_run(tmp_path: Path) -> None:
    """A pickle under the name of a statistics file is only foreign."""
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "stats.json"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(sbn.SnapshotError, match=FOREIGN):
        sbn.load(path)
    assert not (tmp_path / "sprung").exists()


# ------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_save_that_fails_leaves_the_old_file(
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


def test_a_new_file_has_ordinary_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    (tmp_path / "plain").touch()
    example().save(path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    example().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        example().save(tmp_path / "none" / "stats.json")
    with pytest.raises(IsADirectoryError):
        example().save(tmp_path)
    assert os.listdir(tmp_path) == []


SAVING = textwrap.dedent("""
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


def test_a_process_killed_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    widths = set()
    rng = random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.08))
            for _ in range(20):  # a reader beside the writer
                widths.add(len(sbn.load(path).lanes))
            process.send_signal(signal.SIGKILL)
        widths.add(len(sbn.load(path).lanes))
    assert widths <= {1, 400}
    assert len(widths) == 2  # it was indeed replaced all the time
    example().save(path)
    assert same_state(sbn.load(path), example())


def test_the_extremes_of_float64_are_kept() -> None:
    top = sys.float_info.max
    for values in ([top, -top], [5e-324, -5e-324], [-0.0, 0.0], [1e-310, top]):
        norm = sbn.Normalizer().update(pa.table({"x": values}))
        assert same_state(restored(norm), norm)
        assert [math.copysign(1, v) for v in norm.stats()["min"].to_pylist()] == [
            math.copysign(1, v) for v in restored(norm).stats()["min"].to_pylist()
        ]
