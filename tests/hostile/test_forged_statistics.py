"""Statistics files that someone forged: the checksum is right, and the content is hostile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forgeries import document, exercise, forge, forgeries
from hypothesis import given, settings
from hypothesis import strategies as st
from states import POLICIES, bits, learned

import streambn as sbn
from streambn.cli import main
from streambn.snapshot import Snapshot, decode, encode

Document = dict[str, Any]


def of(policy: sbn.policies.Policy) -> Document:
    """Return the file of small statistics."""
    data = {"x": [1.0, None, 2.0, 4.0, None], "t": [1.0, 2.0, 3.0, 4.0, 5.0]}
    norm = sbn.Normalizer(policy, columns=["x"])
    for _ in range(2):
        norm.update(pa.table(data))
    return document(norm)


def put(value: Any, *path: Any) -> Callable[[Document], None]:
    """Return a change of one place below the policy's state."""

    def change(content: Document) -> None:
        part = content["body"]["policy"]["state"]
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return change


def put_leaf(**fields: Any) -> Callable[[Document], None]:
    return lambda content: content["body"]["leaves"][0].update(fields)


WELFORD, EXACT = sbn.Welford(), sbn.Exact()
BY_ROW, RECURSIVE = sbn.EMA(alpha=0.5), sbn.EMA(alpha=0.5, adjust=False)
TIMED, BLOCKS = sbn.EMA(halflife=1.0, time="t"), sbn.BatchEMA(momentum=0.1, batch_rows=3)


def freeze_nothing(content: Document) -> None:
    content["kind"], content["body"]["leaves"] = "frozen", None
    content["body"]["policy"]["state"] = None


# A policy, what is changed in its file, and what the message names.
REFUSED: list[tuple[sbn.policies.Policy, Callable[[Document], None], str]] = [
    # Sizes that the file does not have.
    (WELFORD, put_leaf(size=10**8), "count has 1 entries for 100000000 features"),
    (WELFORD, put_leaf(size=2**31), "<= 2147483647 - at `$.body.leaves[0].size`"),
    (WELFORD, put_leaf(size=0), ">= 1 - at `$.body.leaves[0].size`"),
    (WELFORD, put_leaf(path=[]), "length >= 1 - at `$.body.leaves[0].path`"),
    (WELFORD, put_leaf(typed=False, size=1), "leaves[0] has size 1, so it must be typed"),
    (WELFORD, freeze_nothing, "it is frozen, but no data was seen"),
    (WELFORD, put([], "count"), "count has 0 entries for 1 features"),
    # Integers.
    (WELFORD, put([-1], "count"), "count[0] is -1, but must be from 0 to 2**62"),
    (WELFORD, put([2**62], "nulls"), "nulls[0] is 4611686018427387904"),
    (WELFORD, put([2**64], "nulls"), "nulls[0] has 66 bits"),
    (WELFORD, put([10**4000], "nulls"), "nulls[0] has 13,289 bits"),
    (WELFORD, put([2**63 - 1], "exponent"), "exponent[0] is 9223372036854775807"),
    (WELFORD, put([-(2**63)], "exponent"), "exponent[0] is -9223372036854775808"),
    # Extremes, weights and moments.
    (WELFORD, put([9.0], "min"), "min[0] is 9.0, but must be at most max"),
    (WELFORD, put([None], "min"), "min[0] is inf, but must be null where count is 0"),
    (WELFORD, put([0], "count"), "min[0] is 1.0, but must be null where count is 0"),
    (WELFORD, put([-4.0], "weight"), "weight[0] is -4.0"),
    (WELFORD, put([1e300], "weight"), "weight[0] is 1e+300"),
    (WELFORD, put([0.0], "weight"), "pairs[0] is 15.0, but must be 0 where weight is 0"),
    (WELFORD, put([7.0], "decay"), "decay[0] is 7.0, but must be 1"),
    (WELFORD, put([0.5], "decay"), "decay[0] is 0.5, but must be 1"),
    (WELFORD, put([99.0], "squares"), "pairs[0] is 15.0, but must be (weight² - squares)/2"),
    (WELFORD, put([1e99], "mean_hi"), "mean_hi[0] is 1e+99, but must be a mean from min to max"),
    (WELFORD, put([1e300], "mean_hi"), "mean_hi[0] is 1e+300"),
    (WELFORD, put([1.0], "mean_lo"), "mean_lo[0] is 1.0"),
    (WELFORD, put([-1.0], "m2_hi"), "m2_hi[0] is -1.0"),
    (WELFORD, put([1e9], "m2_hi"), "m2_hi[0] is 1000000000.0"),
    (WELFORD, put([1.0], "m2_lo"), "m2_lo[0] is 1.0"),
    # Exact sums.
    (EXACT, put(["f" * 20_000_001 + "p0"], "total"), "total[0] is 'ffffffffff"),
    (EXACT, put(["f" * 20_000_001 + "p0"], "squares"), "squares[0] is 'ffffffffff"),
    (EXACT, put(["1p9999"], "squares"), "too big"),
    (EXACT, put(["ffp0"], "total"), "total[0] is no sum of 6 values from min to max"),
    (EXACT, put(["1p0"], "squares"), "squares[0] is no sum of squares of 6 values"),
    (EXACT, put(["ffffp0"], "squares"), "squares[0] is no sum of squares of 6 values"),
    (EXACT, put([10**6], "scale"), "scale[0] is 1000000, but must be within ±1000"),
    # An EMA by row.
    (BY_ROW, put([[2**63 - 1], [0]], "gaps"), "gaps[0][0] is 9223372036854775807"),
    (BY_ROW, put([[0], [-1]], "gaps"), "gaps[1][0] is -1"),
    (BY_ROW, put([[0], [2**63]], "gaps"), "gaps[0] has 65 bits"),
    (BY_ROW, put([1.5], "moments", "decay"), "moments.decay[0] is 1.5"),
    (RECURSIVE, put([0], "first", "count"), "first.min[0] is 1.0"),
    (RECURSIVE, put([5.0], "first", "weight"), "first."),
    (RECURSIVE, put([0.5], "moments", "decay"), "moments.weight[0]"),
    (RECURSIVE, put(None, "first"), "a first value must be stored"),
    # An EMA by event time.
    (TIMED, put([[9.0], [0.0]], "times"), "times[0][0] is 9.0, but must be no later than latest"),
    (TIMED, put([[4.0], [1.0]], "times"), "times[1][0] is 1.0, but must be negligible"),
    (TIMED, put(None, "latest"), "moments.count[0] is 6, but must be 0 where latest is null"),
    (TIMED, put(True, "zoned"), "zoned is True, but times are numbers"),
    # Blocks.
    (BLOCKS, put(10**18, "open_rows"), "open_rows is 1000000000000000000"),
    (BLOCKS, put(-1, "open_rows"), ">= 0 - at `$.body.policy.state.open_rows`"),
    (BLOCKS, put(2**63, "blocks"), "at `$.body.policy.state.blocks`"),
    (BLOCKS, put(2, "open_rows"), "must be of open_rows=2 rows"),
    (BLOCKS, put(0, "blocks"), "variances.weight[0]"),
    (BLOCKS, put([3], "variances", "exponent"), "variances.exponent[0] is 3, but must be even"),
    (BLOCKS, put([1e30], "variances", "mean_hi"), "variances.mean_hi[0] is 1e+30"),
    (BLOCKS, put([0.5], "means", "decay"), "means.weight[0]"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_a_state_that_no_stream_has_is_refused(case: int) -> None:
    policy, change, says = REFUSED[case]
    content = of(policy)
    change(content)
    with pytest.raises(sbn.errors.SnapshotError) as found:
        decode(forge(content), "s.json")
    assert str(found.value).startswith("s.json is damaged: ")
    assert says in str(found.value)


BEGINNING = b'{"format":"streambn statistics","version":5,'
BYTES: dict[str, bytes] = {
    "nested": BEGINNING + b'"note":{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}}",
    "nested objects": BEGINNING + b'"note":' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}",
    "unfinished": BEGINNING + b"[" * 10**6,
    "a huge integer": BEGINNING + b'"note":{"a":' + b"9" * 10**7 + b"}}",
    "a huge number": BEGINNING + b'"note":{"a":1.' + b"9" * 10**7 + b"e999999999}}",
    "a huge text": BEGINNING + b'"kind":"' + b"x" * 10**7 + b'"}',
    "a huge format": b'{"format":"' + b"x" * 10**7 + b'","version":5}',
    "not UTF-8": BEGINNING + b'"kind":"\xff"}',
    "half a pair": BEGINNING + b'"kind":"\\ud800"}',
    "NaN": BEGINNING + b'"note":{"a":NaN}}',
    "one field twice": BEGINNING + b'"version":99}',
    "a huge version": b'{"format":"streambn statistics","version":' + b"9" * 4000 + b"}",
}


def test_hostile_json_is_refused_in_one_line() -> None:
    for name, content in BYTES.items():
        for cut in (len(content), len(content) // 2):
            with pytest.raises(sbn.errors.SnapshotError) as found:
                decode(content[:cut], name)
            assert len(str(found.value)) < 700, name
            assert "\n" not in str(found.value), name


def test_names_of_features_take_memory_in_proportion_to_the_file() -> None:
    kind = pa.list_(pa.float32(), 200)
    norm = sbn.Normalizer(columns=["v"]).update(pa.table({"v": pa.array([[0.0] * 200], kind)}))
    content = document(norm)
    content["body"]["leaves"][0]["path"] = ["v" * 10**6]
    with pytest.raises(sbn.errors.SnapshotError, match="names of 200,000,200 characters, too many"):
        decode(forge(content))


_PROBE = """
import glob, resource, sys, streambn as sbn
sbn.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, 2 * (int(sys.argv[2]) + int(
    [line for line in open("/proc/self/status") if line.startswith("VmSize")][0].split()[1]
) * 1024,))
for path in sys.argv[3:]:
    try:
        sbn.load(path)
    except sbn.errors.SnapshotError:
        print("refused")
    else:
        print("loaded")
"""


def test_files_are_read_in_bounded_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_bytes(forge(of(WELFORD)))
    files = dict(BYTES)
    for i, (policy, change, _) in enumerate(REFUSED):
        content = of(policy)
        change(content)
        files[f"{i}"] = forge(content)
    # Numbers of two bytes are the most expensive ones; what they take is in proportion.
    zeros = document(sbn.Normalizer(columns=["x"]).update(pa.table({"x": [0.0]})))
    state = zeros["body"]["policy"]["state"]
    state.update({name: values * 10**5 for name, values in state.items()})
    files["zeros"] = forge(zeros)
    paths = [tmp_path / f"{i}.json" for i in range(len(files))]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", _PROBE, tmp_path / "good.json", str(400 << 20), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["refused"] * len(files)


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_a_stream_gives_is_saved_and_loaded(name: str) -> None:
    @settings(settings.get_profile("few"))
    @given(learned(POLICIES[name]()))
    def law(normalizer: sbn.Normalizer) -> None:
        content = encode(Snapshot(normalizer.statistics, frozen=False))
        loaded = decode(content).statistics
        assert bits(loaded.state) == bits(normalizer.statistics.state)
        assert encode(Snapshot(loaded, frozen=False)) == content
        assert exercise(content)

    law()


@pytest.mark.parametrize("name", POLICIES)
def test_a_forged_file_is_refused_or_behaves(name: str) -> None:
    @settings(settings.get_profile("few"))
    @given(forgeries(learned(POLICIES[name]())))
    def law(content: bytes) -> None:
        exercise(content)

    law()


def test_what_is_accepted_is_shown_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path_factory.mktemp("shown") / "s.json"
    any_policy = st.sampled_from(sorted(POLICIES)).flatmap(lambda name: learned(POLICIES[name]()))

    @settings(settings.get_profile("few"))
    @given(forgeries(any_policy) | any_policy.map(document).map(forge))
    def law(content: bytes) -> None:
        path.write_bytes(content)
        for shape in ("table", "json", "csv", "markdown"):
            code = main.run(["show", str(path), "--format", shape])
            shown = capsys.readouterr()
            assert code in (0, 5), shown.err
            assert (code, bool(shown.out), bool(shown.err)) in ((0, True, False), (5, False, True))
            assert len(shown.err.splitlines()) <= 1

    law()
