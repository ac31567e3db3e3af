"""Bytes of statistics from elsewhere: damaged, or forged with the right checksum."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from states import POLICIES, bits, learned

import streambn as sbn
from streambn.accumulators import ExactMoments
from streambn.errors import InvalidValueError, SnapshotError, StreamBNError

_PREFIX: Final = struct.Struct("<8sHI32s")
Parts = tuple[dict[str, Any], dict[str, Any]]


def opened(content: bytes) -> Parts:
    """Return the head and the state as dicts."""
    length = _PREFIX.unpack_from(content)[2]
    rest = content[_PREFIX.size :]
    return msgspec.msgpack.decode(rest[:length]), msgspec.msgpack.decode(rest[length:])


def forge(head: Any, state: Any, version: int = 1) -> bytes:
    """Return bytes with the right checksum."""
    parts = [msgspec.msgpack.encode(head), msgspec.msgpack.encode(state)]
    digest = hashlib.sha256(b"".join(parts)).digest()
    return b"".join([_PREFIX.pack(b"streambn", version, len(parts[0]), digest), *parts])


def small(policy: Any, **options: Any) -> sbn.Normalizer:
    data = {"x": [1.0, None, 2.0, 4.0, None], "t": [1.0, 2.0, 3.0, 4.0, 5.0]}
    return sbn.Normalizer(policy, columns=["x"], **options).update(pa.table(data))


WELFORD, EXACT, BY_ROW = sbn.Welford(), sbn.Exact(), sbn.EMA(alpha=0.5)
RECURSIVE, TIMED = sbn.EMA(alpha=0.5, adjust=False), sbn.EMA(halflife=1.0, time="t")
BLOCKS = sbn.BatchEMA(momentum=0.1, batch_rows=3)


def number(name: str, row: int, value: Any) -> Callable[[Parts], None]:
    """Return a change of the number of the first feature in a row of an array."""

    def change(parts: Parts) -> None:
        array = np.frombuffer(bytearray(parts[1][name]), type(value)).copy()
        array[row] = value
        parts[1][name] = array.tobytes()

    return change


def put(part: int, name: str, value: Any) -> Callable[[Parts], None]:
    return lambda parts: parts[part].__setitem__(name, value)


INT, FLOAT = np.int64, np.float64
# A policy, what is changed, and what the message names.
REFUSED: list[tuple[Any, Callable[[Parts], None], str]] = [
    (WELFORD, put(1, "moments", b""), "moments has 0 bytes, but 1 features have 128"),
    (WELFORD, put(1, "moments", bytes(127)), "moments has 127 bytes"),
    (WELFORD, put(1, "more", 1), "unknown field"),
    (WELFORD, put(1, "moments", 7), "Expected `bytes`"),
    (WELFORD, put(0, "leaves", [[["x"], 2**31 - 1, False, True]]), "2,147,483,647 features have"),
    (WELFORD, put(0, "leaves", [[["x"], 2**31, False, True]]), "leaves[0] has size 2147483648"),
    (WELFORD, put(0, "leaves", [[["x"], 0, False, True]]), "leaves[0] has size 0"),
    (WELFORD, put(0, "leaves", [[["x"], 1, False, False]]), "it must be typed"),
    (WELFORD, put(0, "leaves", [[[], None, False, True]]), "leaves[0] has no name"),
    (WELFORD, put(0, "leaves", [[["x"], None, False, True]] * 2), "moments has 128 bytes"),
    (WELFORD, put(0, "leaves", None), "no columns, but a state"),
    (WELFORD, put(0, "kind", "thawed"), "Invalid enum value"),
    (WELFORD, put(0, "annotated", True), "unknown field"),
    (WELFORD, put(0, "policy", {"kind": "ema"}), "missing required field"),
    (WELFORD, number("moments", 0, INT(-1)), "count[0] is -1, but must be from 0"),
    (WELFORD, number("moments", 14, FLOAT(0.5)), "decay[0] is 0.5, but must be 1"),
    (WELFORD, number("moments", 10, FLOAT("nan")), "mean_hi[0] is nan, but must be finite"),
    (EXACT, put(1, "total_from", 34), "total has limbs from 34 to 35 of 34"),
    (EXACT, put(1, "squares_from", -1), "squares has limbs from -1 to"),
    (EXACT, put(1, "squares_from", 2**63), "squares has limbs from 9223372036854775808"),
    (EXACT, put(1, "total", b"1234567"), "total has 7 bytes"),
    (EXACT, put(1, "total", bytes(8 * 99)), "total has limbs"),
    (EXACT, put(1, "squares", b""), "squares[0] is no sum of squares"),
    (EXACT, number("total", 0, INT(-1)), "total[0] is no sum of 3 values"),
    (EXACT, number("fields", 8, INT(7)), "scale[0] is 7, but must be 0 where decimal is 0"),
    (EXACT, number("fields", 7, INT(2)), "decimal[0] is 2, but must be 0 or 1"),
    (BY_ROW, number("gaps", 1, INT(3)), "gaps[1][0] is 3, but"),
    (BY_ROW, put(1, "gaps", bytes(8)), "gaps has 8 bytes, but 1 features have 16"),
    (RECURSIVE, number("first", 7, FLOAT(3.0)), "first."),
    (TIMED, number("latest", 0, FLOAT(2.0)), "times[0][0] is 5.0, but must be no later"),
    (TIMED, number("latest", 0, FLOAT("nan")), "latest[0][0] is nan"),
    (TIMED, put(1, "zoned", True), "zoned is True, but times are numbers"),
    (TIMED, put(1, "zoned", 1), "Expected `bool | null`"),
    (BLOCKS, put(1, "open_rows", 10**18), "open_rows is 1000000000000000000"),
    (BLOCKS, put(1, "open_rows", True), "Expected `int`"),
    (BLOCKS, number("variances", 15, INT(3)), "variances.exponent[0] is 3, but must be even"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_a_state_that_no_stream_has_is_refused(case: int) -> None:
    policy, change, says = REFUSED[case]
    parts = opened(small(policy).to_bytes())
    assert sbn.from_bytes(forge(*parts)).stats().equals(small(policy).stats())
    change(parts)
    with pytest.raises(SnapshotError) as found:
        sbn.from_bytes(forge(*parts))
    assert str(found.value).startswith("the bytes of the statistics are damaged: ")
    assert says in str(found.value)
    assert len(str(found.value)) < 700


def test_states_belong_to_their_policy() -> None:
    policies = [WELFORD, EXACT, BY_ROW, RECURSIVE, TIMED, BLOCKS]
    parts = [opened(small(policy).to_bytes()) for policy in policies]
    for i, (head, _) in enumerate(parts):
        for j, (_, state) in enumerate(parts):
            content = forge(head, state)
            if i == j:
                assert sbn.from_bytes(content).policy == policies[i]
            else:
                with pytest.raises(SnapshotError, match="are damaged"):
                    sbn.from_bytes(content)


FOREIGN: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": (b"", SnapshotError, "not statistics of streambn"),
    "a file": (b'{"format":"streambn statistics"}', SnapshotError, "not statistics of streambn"),
    "a prefix": (b"streambn", SnapshotError, "requires a buffer of at least"),
    "text": ("streambn", InvalidValueError, "content must be bytes that to_bytes"),
    "nothing": (None, InvalidValueError, "got NoneType"),
    "newer": (forge({}, {}, version=4), SnapshotError, "version 4 of a newer streambn"),
    "no version": (forge({}, {}, version=0), SnapshotError, "do not match their checksum|checksum"),
    "deep": (forge({"kind": [[]]}, {}), SnapshotError, "Expected `str`"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_content_is_refused_in_one_line(name: str) -> None:
    content, kind, says = FOREIGN[name]
    with pytest.raises(kind, match=says) as found:
        sbn.from_bytes(content)
    assert "\n" not in str(found.value)


def test_nested_heads_are_refused() -> None:
    for deep in (b"\x91" * 10**5 + b"\xc0", b"\x81\xa4kind" * 10**5 + b"\xc0"):
        digest = hashlib.sha256(deep).digest()
        content = _PREFIX.pack(b"streambn", 1, len(deep), digest) + deep
        with pytest.raises(SnapshotError):
            sbn.from_bytes(content)


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_a_stream_gives_is_sent_and_read(name: str) -> None:
    @settings(settings.get_profile("few"))
    @given(learned(POLICIES[name]()))
    def law(normalizer: sbn.Normalizer) -> None:
        content = normalizer.to_bytes()
        for given_as in (content, bytearray(content), memoryview(content), pa.py_buffer(content)):
            read = sbn.from_bytes(given_as)
            assert isinstance(read, sbn.Normalizer)
            ours, theirs = read.statistics, normalizer.statistics
            assert bits(ours.state) == bits(theirs.state)
            for part in ("policy", "options", "columns", "binding", "exclude", "left_out"):
                assert getattr(ours, part) == getattr(theirs, part)
        assert read.to_bytes() == content
        if normalizer.statistics.binding is None:
            return
        frozen = sbn.from_bytes(normalizer.freeze().to_bytes())
        assert isinstance(frozen, sbn.FrozenNormalizer)
        assert frozen == normalizer.freeze()
        assert frozen.fingerprint == normalizer.freeze().fingerprint

    law()


@settings.get_profile("many")
@given(
    name=st.sampled_from(sorted(POLICIES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))),
    cut=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_bytes_are_refused(name: str, changes: list[tuple[float, int]], cut: float) -> None:
    data = {"x": [1.0, 2.0, None], "t": [1.0, 2.0, 3.0]}
    if POLICIES[name]().event_time is not None and not POLICIES[name]().event_time.numeric:
        data["t"] = pa.array([1, 2, 3], pa.timestamp("s"))
    good = sbn.Normalizer(POLICIES[name](), columns=["x"]).update(pa.table(data)).to_bytes()
    damaged = bytearray(good)
    for where, value in changes:
        damaged[int(where * len(damaged))] = value
    damaged = damaged[: round(cut * len(damaged))]
    if damaged == good:
        assert sbn.from_bytes(damaged).to_bytes() == good
        return
    with pytest.raises(SnapshotError):
        sbn.from_bytes(damaged)


_NUMBERS: Final = [0, 1, -1, 2, 7, 2**52, 2**61, 2**62, 2**63 - 1, -(2**63)]
_FLOATS: Final = [0.0, -1.0, 0.5, 1e-300, 5e-324, 1e155, 1e300, np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("name", POLICIES)
def test_a_forged_state_is_refused_or_behaves(name: str) -> None:
    """Any number of a state may be anything: it is refused, or works like any other."""
    hostile = [np.int64(x).tobytes() for x in _NUMBERS] + [np.float64(x).tobytes() for x in _FLOATS]

    @settings(settings.get_profile("few"))
    @given(learned(POLICIES[name]()), st.data())
    def law(normalizer: sbn.Normalizer, data: st.DataObject) -> None:
        assume(normalizer.statistics.binding is not None)
        head, state = opened(normalizer.to_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            key = data.draw(st.sampled_from(sorted(state)))
            if not isinstance(state[key], bytes):
                state[key] = data.draw(st.sampled_from([*_NUMBERS, 2**64 - 1, True, False, None]))
            elif len(state[key]) and data.draw(st.integers(0, 9)):
                word = data.draw(st.integers(0, len(state[key]) // 8 - 1))
                new = data.draw(st.sampled_from(hostile) | st.binary(min_size=8, max_size=8))
                state[key] = state[key][: 8 * word] + new + state[key][8 * word + 8 :]
            else:
                state[key] = state[key][:-8] if data.draw(st.booleans()) else state[key] + bytes(8)
        try:
            content = forge(head, state)
            read = sbn.from_bytes(content)
        except (StreamBNError, OverflowError):
            return
        stats = read.stats()
        assert not any(var < 0 for var in stats["var"].to_pylist() if var is not None)
        again = sbn.from_bytes(read.to_bytes()).stats()
        assert repr(again.to_pydict()) == repr(stats.to_pydict())  # also of NaN
        with contextlib.suppress(StreamBNError):
            read.merge(read)

    law()


_PROBE = """
import resource, sys, streambn as sbn
good, *rest = sys.stdin.buffer.read().split(b"#next#")
sbn.from_bytes(good)
used = [line for line in open("/proc/self/status") if line.startswith("VmSize")][0].split()[1]
resource.setrlimit(resource.RLIMIT_AS, 2 * (int(used) * 1024 + (200 << 20),))
for content in rest:
    try:
        sbn.from_bytes(content)
    except sbn.errors.SnapshotError:
        print("refused")
"""


def test_bytes_are_read_in_bounded_memory() -> None:
    contents = [small(WELFORD).to_bytes()]
    for policy, change, _ in REFUSED:
        parts = opened(small(policy).to_bytes())
        change(parts)
        contents.append(forge(*parts))
    vectors = pa.array([[0.0] * 200], pa.list_(pa.float32(), 200))
    head, state = opened(sbn.Normalizer().update(pa.table({"v": vectors})).to_bytes())
    head["leaves"][0][0] = ["v" * 10**6]
    contents.append(forge(head, state))
    command = [sys.executable, "-c", _PROBE]
    done = subprocess.run(
        command, input=b"#next#".join(contents), capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [b"refused"] * (len(contents) - 1)


@given(
    values=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    offset=st.sampled_from([0, 10**6, 2**50]),
    less=st.sampled_from([1, 2, 2**40, 2**1000, 2**2000]),
)
def test_exact_sums_never_have_a_negative_variance(
    values: list[int], offset: int, less: int
) -> None:
    data = pa.table({"x": pa.array([value + offset for value in values], pa.float64())})
    sums = sbn.Normalizer(EXACT).update(data).statistics.state
    total, squares = sums.integers(0)
    least = -(-total * total // len(values))  # the smallest Σx² of these n and Σx
    for forged in (least - less, least, least + 1, squares):
        state = ExactMoments.from_integers(sums.tally, [None], [(total, forged)])
        if forged < least:
            with pytest.raises(InvalidValueError, match="no sum of squares"):
                EXACT.check_state(state)
        else:
            EXACT.check_state(state)
            assert EXACT.read(state, 0).var[0] >= 0
