"""Checkpoints and manifests that someone forged: the checksums are right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
from forgeries import HOSTILE, forge, places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streambn.statistics import Statistics

Run = Callable[..., Any]
FIT = ("fit", "a.csv", "b.csv", "-o", "s.json", "--checkpoint", "c.json", "--quiet")
APPLY = ("apply", "s.json", "a.csv", "b.csv", "-o", "out", "--quiet")
# What the shell prints instead of the message of an error that nobody foresaw.
UNFORESEEN = ("Traceback", "IndexError", "KeyError", "TypeError", "OverflowError", "Recursion")


def check(done: Any) -> None:
    """Check that a command ended well, or with one line that is meant for people."""
    text = "\n".join(done.lines)
    assert done.code in (0, 1, 2, 3, 5), text
    assert not any(name in text for name in UNFORESEEN), text
    assert len(text) < 5000, text  # a path may have 4,096 characters
    assert (done.code == 0) == (not text), text


@pytest.fixture
def checkpoint(jobs_in_a_folder: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the checkpoint of a fit that was interrupted after the first of two files."""
    for name in ("a.csv", "b.csv"):
        pa.csv.write_csv(pa.table({"x": [1.0, 2.0, 4.0]}), name)
    learn, learned = Statistics.learn, []

    def interrupted(statistics: Statistics, batch: Any) -> Statistics:
        if learned:
            raise KeyboardInterrupt
        learned.append(batch)
        return learn(statistics, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Statistics, "learn", interrupted)
        assert run(*FIT, "--threads", 1).code
    found: dict[str, Any] = json.loads(Path("c.json").read_text())
    assert found["note"]["files"] == 1
    return found


@st.composite
def forged(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy of a document with one or two hostile values."""
    copy: dict[str, Any] = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        found = places(copy)
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        holder[key] = draw(st.sampled_from([*HOSTILE, [holder[key]], [holder[key]] * 2]))
    return copy


def test_a_forged_checkpoint_is_refused_or_resumed(checkpoint: dict[str, Any], run: Run) -> None:
    @settings(settings.get_profile("few"), suppress_health_check=list(HealthCheck))
    @given(st.data())
    def law(data: st.DataObject) -> None:
        Path("s.json").unlink(missing_ok=True)
        note = data.draw(forged(checkpoint["note"]))
        Path("c.json").write_bytes(forge({**checkpoint, "note": note}))
        check(run(*FIT, "--resume", "--threads", 1))

    law()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("files", 2, "the inputs are in another order"),
        ("files", 10**18, "the inputs are in another order"),
        ("rows", 2**63, "at `$.rows`"),
        ("files", -1, ">= 0 - at `$.files`"),
        ("parts", 2**63, "at `$.parts`"),
        ("types", {"a.csv": {"x": "int1024"}}, "it names a type that does not exist"),
        ("job", "", "is the checkpoint of a job with other options"),
    ],
)
def test_a_position_that_no_job_reaches_is_refused(
    field: str, value: Any, says: str, checkpoint: dict[str, Any], run: Run
) -> None:
    note = {**checkpoint["note"], field: value}
    Path("c.json").write_bytes(forge({**checkpoint, "note": note}))
    done = run(*FIT, "--resume")
    check(done)
    assert says in done.lines[0]
    assert not Path("s.json").exists()


def test_statistics_of_another_policy_are_refused(checkpoint: dict[str, Any], run: Run) -> None:
    assert run("fit", "a.csv", "-o", "other.json", "--policy", "ema", "--alpha", 0.5).code == 0
    other = json.loads(Path("other.json").read_text())
    Path("c.json").write_bytes(forge({**other, "note": checkpoint["note"]}))
    done = run(*FIT, "--resume")
    check(done)
    assert "its statistics are those of EMA(alpha=0.5)" in done.lines[0]


def test_a_forged_manifest_is_refused_or_resumed(checkpoint: dict[str, Any], run: Run) -> None:
    assert run(*FIT, "--resume").code == 0
    assert run(*APPLY).code == 0
    manifest = Path("out/_streambn.manifest")
    lines = [json.loads(line.partition(b" ")[2]) for line in manifest.read_bytes().splitlines()]
    assert len(lines) == 3

    def write(documents: list[bytes]) -> None:
        texts = (hashlib.sha256(text).hexdigest()[:32].encode() + b" " + text for text in documents)
        manifest.write_bytes(b"".join(text + b"\n" for text in texts))

    @settings(settings.get_profile("few"), suppress_health_check=list(HealthCheck))
    @given(st.data())
    def law(data: st.DataObject) -> None:
        i = data.draw(st.integers(0, 2))
        written = [*lines[:i], data.draw(forged(lines[i])), *lines[i + 1 :]]
        write([json.dumps(line, default=str).encode() for line in written])
        check(run(*APPLY, "--resume", "--threads", 1))

    law()
    for hostile in (b"\xff", b'{"output":"\xff"}', b"[" * 10**6, b'{"rows":' + b"9" * 10**6 + b"}"):
        write([json.dumps(lines[0]).encode(), hostile, hostile])
        done = run(*APPLY, "--resume")
        check(done)
        assert "is damaged in line 2" in done.lines[0]
