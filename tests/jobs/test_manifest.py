"""Folders of outputs: what is done stays, what is not is made, and nothing is mixed."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streambn as sbn
from streambn import InvalidValueError, StreamBNError
from streambn.io import locate
from streambn.io import readers as reading
from streambn.io import sources as files
from streambn.io.sources import Source
from streambn.jobs import manifest as manifests
from streambn.jobs import plan as plans
from streambn.jobs.manifest import NAME, Manifest, Outcome
from streambn.jobs.report import Skipped

pytestmark = pytest.mark.usefixtures("jobs_in_a_folder")


def table_of(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": rng.normal(size=rows),
            "y": rng.normal(1e6, 3, size=rows).astype("f4"),
            "s": pa.array([f"t{i % 7}" for i in range(rows)], pa.string()),
        }
    )


@pytest.fixture
def inputs(run: Callable[..., Any]) -> list[str]:
    """Files of all formats in data/, in folders too, and stats.json of them."""
    Path("data/more").mkdir(parents=True)
    pq.write_table(table_of(500, 1), "data/a.parquet", row_group_size=90, compression="zstd")
    pq.write_table(table_of(0), "data/b.parquet")
    with pa.ipc.new_file("data/c.arrow", table_of(0).schema) as writer:
        writer.write_table(table_of(300, 2), max_chunksize=120)
    pa.csv.write_csv(table_of(300, 3), "data/d.csv")
    with pa.ipc.new_stream("data/e.arrows", table_of(0).schema) as writer:
        writer.write_table(table_of(300, 4), max_chunksize=120)
    sink = io.BytesIO()
    pa.csv.write_csv(table_of(300, 5), sink)
    Path("data/more/f.csv.gz").write_bytes(gzip.compress(sink.getvalue()))
    pq.write_table(table_of(210, 6), "data/more/g.parquet", row_group_size=30)
    assert run("fit", "data", "-o", "stats.json", "--columns", "x,y", "-q").code == 0
    return found("data")


def found(folder: str) -> list[str]:
    """Name the files in a folder, but for the manifest."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != NAME)
    return sorted(str(path.relative_to(folder)) for path in paths)


def contents(folder: str) -> dict[str, bytes]:
    return {path: (Path(folder) / path).read_bytes() for path in found(folder)}


def identities(folder: str) -> dict[str, tuple[int, int]]:
    """Tell files apart that were written anew though they are the same."""
    stats = {path: (Path(folder) / path).stat() for path in found(folder)}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def fail_at(monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException) -> None:
    """Raise an error once `count` outputs have been renamed to their final names."""
    real = os.replace
    left = [count]

    def replace(temporary: Path, target: Path) -> None:
        if target.name != NAME:
            if left[0] == 0:
                raise error
            left[0] -= 1
        real(temporary, target)

    monkeypatch.setattr(os, "replace", replace)


# --- outputs --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out/", "out.parquet", "out.arrow", "out.arrows", "out.csv"])
@pytest.mark.parametrize(
    "more", [[], ["--compression", "gzip"], ["--row-group-rows", 70], ["--fsync"]], ids=str
)
def test_outputs_do_not_depend_on_the_threads(
    target: str, more: list[object], run: Callable[..., Any], inputs: list[str]
) -> None:
    made = []
    for threads in (1, 2, 7):
        done = run("apply", "stats.json", "data", "-o", target, "--threads", threads, *more, "-q")
        assert done.lines == []
        folder = target.endswith("/")
        made.append(contents("out") if folder else {target: Path(target).read_bytes()})
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == (len(inputs) if target == "out/" else 1)


def test_a_folder_has_what_transform_gives(run: Callable[..., Any], inputs: list[str]) -> None:
    assert run("apply", "stats.json", "data", "-o", "out", "-q").code == 0
    assert found("out") == inputs
    frozen = sbn.load("stats.json").freeze()
    for path in inputs:
        data, out = (
            files.open_reader(Source(f"{folder}/{path}")).read_all() for folder in ("data", "out")
        )
        if ".csv" not in path:
            assert out.equals(frozen.transform(data)), path
        else:
            assert out["x"].to_pylist() == frozen.transform(data)["x"].to_pylist(), path


def test_the_format_of_an_input_is_told_when_planned_and_when_read_as_a_stream(
    run: Callable[..., Any], inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    real = reading.sniff

    def sniff(head: bytes, name: str) -> Any:
        told.append(name.removeprefix("data/"))
        return real(head, name)

    monkeypatch.setattr(reading, "sniff", sniff)
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    # Blocks of Parquet are read as what the plan says that they are.
    expected = {path: 1 if path.endswith(".parquet") else 2 for path in inputs}
    assert {path: told.count(path) for path in inputs} == expected


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_compression(codec: str, run: Callable[..., Any], inputs: list[str]) -> None:
    for target in ("out/", "out.parquet"):
        apply = ["apply", "stats.json", "data", "-o", target, "--compression", codec, "-q"]
        assert run(*apply).lines == []
    expected = {"none": "UNCOMPRESSED"}.get(codec, codec.upper())
    for path in ("out/a.parquet", "out/more/g.parquet", "out.parquet"):
        group = pq.read_metadata(path).row_group(0)
        used = {group.column(i).compression for i in range(group.num_columns)}
        assert used == {expected}
    plain = Path("plain")
    assert run("apply", "stats.json", "data", "-o", plain, "-q").code == 0
    assert pq.read_table("out/a.parquet").equals(pq.read_table("plain/a.parquet"))


@pytest.mark.parametrize("rows", [1, 7, 90, 10_000])
def test_rows_of_a_row_group(rows: int, run: Callable[..., Any], inputs: list[str]) -> None:
    apply = ["apply", "stats.json", "data/a.parquet", "-o"]
    assert run(*apply, "out.parquet", "--row-group-rows", rows, "-q").lines == []
    assert run(*apply, "plain.parquet", "-q").code == 0
    metadata = pq.read_metadata("out.parquet")
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert counts == [rows] * (500 // rows) + [500 % rows] * (500 % rows > 0)
    assert pq.read_table("out.parquet").equals(pq.read_table("plain.parquet"))
    assert pq.read_metadata("plain.parquet").num_row_groups == 6


@pytest.mark.parametrize(
    "more", [["--row-group-rows", 0], ["--compression", "rar"], ["--threads", 0]], ids=str
)
def test_options_that_make_no_sense(
    more: list[object], run: Callable[..., Any], inputs: list[str]
) -> None:
    done = run("apply", "stats.json", "data", "-o", "out/", *more)
    assert (done.code, len(done.lines)) == (2, 1)
    assert not Path("out").exists()


@pytest.mark.parametrize("fsync", [True, False])
def test_only_fsync_waits_for_the_disk(
    fsync: bool,
    run: Callable[..., Any],
    inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[int] = []
    real = os.fsync

    def counted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", counted)
    more = ["--fsync"] if fsync else []
    assert run("apply", "stats.json", "data", "-o", "out/", *more, "-q").code == 0
    nodes = {(Path("out") / path).stat().st_ino for path in [*inputs, NAME]}
    assert nodes & set(synced) == (nodes if fsync else set())


# --- going on -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("threads", [1, 3])
def test_only_the_rest_is_made(
    error: BaseException,
    threads: int,
    run: Callable[..., Any],
    inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run("apply", "stats.json", "data", "-o", "whole/", "-q").code == 0
    expected = contents("whole")
    apply = ["apply", "stats.json", "data", "-o", "out/", "--threads", threads, "-q", "--json"]
    for count in range(len(inputs)):
        with monkeypatch.context() as patch:
            fail_at(patch, count, error)
            done = run(*apply)
            assert done.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
            assert len(done.lines) == isinstance(error, OSError)
        before = identities("out")
        assert len(before) == count  # and nothing hidden
        done = run(*apply, "--resume")
        assert done.lines == []
        report = json.loads(done.out)
        assert report["resumed"] == (count > 0)
        assert (report["rows"], report["files"]) == (1910, len(inputs))
        after = identities("out")
        assert {path: after[path] for path in before} == before
        assert contents("out") == expected
        again = run(*apply, "--resume")
        assert (again.lines, identities("out")) == ([], after)
        assert json.loads(again.out)["rows"] == 1910
        for path in found("out"):
            (Path("out") / path).unlink()
        (Path("out") / NAME).unlink()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("job", ["apply", "normalize"])
def test_what_an_earlier_run_left_out_is_told_too(
    job: str,
    threads: int,
    run: Callable[..., Any],
    inputs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in ("data/a.parquet", "data/more/g.parquet"):
        damaged = bytearray(Path(path).read_bytes())
        for group in (1, 4):
            chunk = pq.read_metadata(path).row_group(group).column(0)
            at = chunk.dictionary_page_offset or chunk.data_page_offset
            damaged[at : at + 8] = bytes(8)  # the header of a page
        Path(path).write_bytes(damaged)
    Path("data/c.arrow").write_bytes(b"")  # of which nothing is left, so that it has no output
    begin = {"apply": ["apply", "stats.json"], "normalize": ["normalize", "--columns", "x,y"]}[job]
    args = [*begin, "data", "-o", "out/", "--on-error", "skip", "--threads", threads, "-q"]
    whole = run(*args, "--json")
    told = json.loads(whole.out)["skipped"]
    names = [entry["file"] for entry in told]
    assert names == ["data/a.parquet"] * 2 + ["data/c.arrow"] + ["data/more/g.parquet"] * 2
    assert len(whole.lines) == len(told)
    for count in range(len(inputs) - 1):
        with monkeypatch.context() as patch:
            fail_at(patch, count, KeyboardInterrupt())
            assert run(*args, "--overwrite").code == 130
        for _ in range(2):  # and again when there is nothing left to be done
            done = run(*args, "--resume", "--json")
            assert done.lines == whole.lines
            assert json.loads(done.out)["skipped"] == told


def test_without_resume_all_is_made_again(run: Callable[..., Any], inputs: list[str]) -> None:
    apply = ["apply", "stats.json", "data", "-o", "out/", "-q"]
    assert run(*apply).code == 0
    before, made = identities("out"), contents("out")
    assert run(*apply).lines == []
    assert contents("out") == made
    assert not set(before.items()) & set(identities("out").items())


def test_what_changed_or_went_away_is_made_again(
    run: Callable[..., Any], inputs: list[str]
) -> None:
    apply = ["apply", "stats.json", "data", "-o", "out/", "-q"]
    assert run(*apply).code == 0
    before = identities("out")
    pq.write_table(table_of(80, 9), "data/a.parquet")  # an input that changed
    Path("out/c.arrow").unlink()  # an output that went away
    Path("out/d.csv").write_bytes(b"x")  # one that was replaced
    pq.write_table(table_of(20), "data/new.parquet")  # an input that came
    Path("data/e.arrows").unlink()  # one that went
    assert run(*apply, "--resume").lines == []
    after = identities("out")
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {"a.parquet", "c.arrow", "d.csv", "new.parquet"}
    assert pq.read_metadata("out/a.parquet").num_rows == 80
    assert run("apply", "stats.json", "data", "-o", "whole/", "-q").code == 0
    made = contents("out")
    del made["e.arrows"]  # what is no input any more is left alone
    assert made == contents("whole")


def test_an_input_that_changes_while_others_are_written_is_not_taken_for_done(
    run: Callable[..., Any], inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its bytes were made, ahead of their turn, of what it was before.
    real = os.replace
    changed = []

    def replace(temporary: Path, target: Path) -> None:
        real(temporary, target)
        if not changed:
            changed.append(True)
            pq.write_table(table_of(77, 9), "data/more/g.parquet")

    monkeypatch.setattr(os, "replace", replace)
    for threads in (1, 3):
        changed.clear()
        done = run("apply", "stats.json", "data", "-o", "out/", "--threads", threads, "-q")
        if done.code:
            assert "more/g.parquet changed" in done.lines[0]
        assert run("apply", "stats.json", "data", "-o", "out/", "--resume", "-q").code == 0
        assert pq.read_metadata("out/more/g.parquet").num_rows == 77


@pytest.mark.parametrize(
    "more",
    [["--dtype", "float32"], ["--compression", "gzip"], ["--row-group-rows", 9],
     ["--on-error", "skip"], ["--csv-type", "x=double"], ["--inverse"]],
    ids=lambda more: more[0],
)  # fmt: skip
def test_other_options_are_refused_unless_overwritten(
    more: list[object], run: Callable[..., Any], inputs: list[str]
) -> None:
    apply = ["apply", "stats.json", "data", "-o", "out/"]
    assert run(*apply, "-q").code == 0
    before = identities("out")
    for resume in ([], ["--resume"]):
        done = run(*apply, *more, *resume)
        (line,) = done.lines
        assert done.code == 1
        assert "outputs of other options" in line
        assert "--overwrite" in line
        assert identities("out") == before
    assert run(*apply, *more, "--overwrite", "-q").lines == []
    assert set(identities("out")) == set(before)
    assert not set(before.items()) & set(identities("out").items())
    assert run(*apply, *more, "--resume", "-q").lines == []


def test_other_statistics_are_refused_unless_overwritten(
    run: Callable[..., Any], inputs: list[str]
) -> None:
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    before = contents("out")
    assert run("fit", "data/a.parquet", "-o", "other.json", "--columns", "x", "-q").code == 0
    for resume in ([], ["--resume"]):
        done = run("apply", "other.json", "data", "-o", "out/", *resume)
        (line,) = done.lines
        assert done.code == 1
        assert "outputs of other statistics" in line
        assert contents("out") == before
    assert run("apply", "other.json", "data", "-o", "out/", "--overwrite", "-q").lines == []
    assert run("apply", "other.json", "data", "-o", "whole/", "-q").lines == []
    assert contents("out") == contents("whole")


def test_overwrite_that_was_stopped_does_not_mix(
    run: Callable[..., Any], inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    apply = ["apply", "stats.json", "data", "-o", "out/", "--dtype", "float64", "-q"]
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        assert run(*apply, "--overwrite").code == 130
    assert run(*apply, "--resume").lines == []
    assert run(*apply[:-4], "whole/", *apply[-3:]).lines == []
    assert contents("out") == contents("whole")


def test_a_run_that_was_killed_leaves_hidden_files_that_resume_removes(
    run: Callable[..., Any], inputs: list[str]
) -> None:
    apply = ["apply", "stats.json", "data", "-o", "out/", "-q"]
    assert run(*apply).code == 0
    Path("out/d.csv").unlink()
    Path("out/.d.csv.abcd1234.tmp").write_text("left")
    Path("out/.mine.tmp").write_text("not ours")
    assert run(*apply, "--resume").lines == []
    assert found("out") == sorted([*inputs, ".mine.tmp"])


def test_the_manifest_is_no_input(run: Callable[..., Any], inputs: list[str]) -> None:
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    assert [source.relative for source in files.scan(["out"])] == inputs


# --- the room itself ------------------------------------------------------------------

TEXTS = st.text(min_size=1).filter(str.isprintable)
OUTCOMES = st.builds(Outcome, st.integers(0, 9), st.lists(st.builds(Skipped, TEXTS, TEXTS, TEXTS)))
OUTPUTS = st.dictionaries(TEXTS, OUTCOMES, max_size=6)


def manifest(*, fresh: bool = False, fingerprint: str = "f", options: Any = ("o",)) -> Manifest:
    return Manifest(locate("m"), fingerprint, list(options), fresh=fresh)


@settings.get_profile("few")
@given(outputs=OUTPUTS, durable=st.booleans(), cut=st.integers(0, 200))
def test_a_round_trip_whatever_is_cut_off(
    outputs: dict[str, Outcome], durable: bool, cut: int
) -> None:
    Path("m").mkdir(exist_ok=True)
    (Path("m") / NAME).unlink(missing_ok=True)
    Path("it").write_bytes(b"123")
    sources = files.scan(["it"])
    inputs = [(source.path, source.stamp()) for source in sources]
    made = manifest()
    made.begin(resume=False)
    for name, outcome in outputs.items():
        made.add(name, locate("it"), outcome, inputs, durable=durable)
    if not outputs:
        assert not (Path("m") / NAME).exists()
        return
    whole = (Path("m") / NAME).read_bytes()
    head = whole.index(b"\n") + 1
    short = whole[: max(head, len(whole) - cut)]
    (Path("m") / NAME).write_bytes(short)
    read = manifest()
    read.begin(resume=True)
    done = {name: read.done(name, locate("it"), sources) for name in outputs}
    kept = short.count(b"\n") - 1
    assert done == {
        name: outcome if i < kept else None for i, (name, outcome) in enumerate(outputs.items())
    }
    for name, outcome in list(outputs.items())[kept:]:
        read.add(name, locate("it"), outcome, inputs, durable=durable)
    assert (Path("m") / NAME).read_bytes() == whole


@settings.get_profile("few")
@given(data=st.data())
def test_a_changed_byte_is_never_believed(data: st.DataObject) -> None:
    Path("m").mkdir(exist_ok=True)
    (Path("m") / NAME).unlink(missing_ok=True)
    Path("it").write_bytes(b"123")
    sources = files.scan(["it"])
    made = manifest()
    made.begin(resume=False)
    for name in "abc":
        inputs = [(source.path, source.stamp()) for source in sources]
        made.add(name, locate("it"), Outcome(1), inputs, durable=True)
    content = bytearray((Path("m") / NAME).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (Path("m") / NAME).write_bytes(content)
    line = bytes(content[:at]).count(b"\n")
    if line < 3:
        with pytest.raises(StreamBNError, match=rf"{NAME}.*--overwrite"):
            manifest()
        manifest(fresh=True).begin(resume=False)
        assert manifest().done("a", locate("it"), sources) is None
    else:  # at the end, as if it had been cut off
        read = manifest()
        done = [read.done(name, locate("it"), sources) for name in "abc"]
        assert [outcome and outcome.rows for outcome in done] == [1, 1, None]


def test_what_is_only_on_its_way_to_the_disk_counts_until_the_machine_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("m").mkdir()
    Path("it").write_bytes(b"123")
    sources = files.scan(["it"])
    inputs = [(source.path, source.stamp()) for source in sources]
    made = manifest()
    made.begin(resume=False)
    made.add("soon", locate("it"), Outcome(1), inputs, durable=False)
    made.add("there", locate("it"), Outcome(1), inputs, durable=True)
    assert manifest().done("soon", locate("it"), sources)
    monkeypatch.setattr(manifests, "_boot", lambda: "another")
    assert manifest().done("soon", locate("it"), sources) is None
    assert manifest().done("there", locate("it"), sources)


@pytest.mark.parametrize("other", [{"fingerprint": "g"}, {"options": []}])
def test_another_job_is_refused(other: dict[str, Any]) -> None:
    Path("m").mkdir()
    Path("it").touch()
    made = manifest()
    made.begin(resume=False)
    made.add("a", locate("it"), Outcome(1), [], durable=True)
    with pytest.raises(InvalidValueError, match=r"other (statistics|options)"):
        manifest(**other)
    manifest(**other, fresh=True).begin(resume=False)
    manifest(**other)


def written_by_version(version: int) -> bytes:
    """Give a manifest of "it" as that version wrote it: the first did not know of `skipped`."""
    (source,) = files.scan(["it"])
    head = {"format": "streambn manifest", "version": version, "fingerprint": "f", "options": ["o"]}
    stamp = list(source.stamp())
    done = {"output": "a", "stamp": stamp, "rows": 3, "inputs": [["it", stamp]], "boot": None}
    texts = [json.dumps(line).encode() for line in (head, done)]
    return b"".join(manifests._check(text) + b" " + text + b"\n" for text in texts)


def test_a_manifest_of_the_first_version_is_gone_on_with() -> None:
    Path("m").mkdir()
    Path("it").write_bytes(b"123")
    sources = files.scan(["it"])
    (Path("m") / NAME).write_bytes(written_by_version(1))
    old = manifest()
    assert old.done("a", locate("it"), sources) == Outcome(3, [])
    old.begin(resume=True)
    inputs = [(source.path, source.stamp()) for source in sources]
    damage = [Skipped("it", "in row group 1", "damaged")]
    old.add("b", locate("it"), Outcome(2, damage), inputs, durable=True)
    assert b'"version":2' in (Path("m") / NAME).read_bytes().splitlines()[0]
    assert manifest().done("a", locate("it"), sources) == Outcome(3, [])
    assert manifest().done("b", locate("it"), sources) == Outcome(2, damage)


def test_a_manifest_of_a_later_version_is_refused() -> None:
    Path("m").mkdir()
    Path("it").write_bytes(b"123")
    (Path("m") / NAME).write_bytes(written_by_version(3))
    with pytest.raises(StreamBNError, match="another version of streambn: with --overwrite"):
        manifest()


def test_a_plan_writes_each_output_once() -> None:
    Path("data").mkdir()
    pq.write_table(table_of(3), "data/a.parquet")
    (output,) = plans.plan(files.scan(["data"]), "out/")
    assert (output.mirrored, output.target) == (True, "out/a.parquet")


def test_an_online_job_does_not_mix_its_outputs_with_others(
    run: Callable[..., Any], inputs: list[str]
) -> None:
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    before = contents("out")
    refused = run("normalize", "--online", "data", "-o", "out/", "-q")
    assert (refused.code, len(refused.lines)) == (1, 1)
    assert "--overwrite" in refused.lines[0]
    assert contents("out") == before
    assert run("normalize", "--online", "data", "-o", "out/", "-q", "--overwrite").code == 0
    assert sorted(contents("out")) == sorted(inputs)


def test_an_output_that_was_replaced_is_made_again(
    run: Callable[..., Any], inputs: list[str]
) -> None:
    assert run("apply", "stats.json", "data", "-o", "out/", "-q").code == 0
    before = contents("out")
    replaced = Path("out") / inputs[0]
    content = bytearray(replaced.read_bytes())
    content[len(content) // 2] ^= 1
    replaced.write_bytes(content)
    assert run("apply", "stats.json", "data", "-o", "out/", "-q", "--resume").code == 0
    assert {path: contents("out")[path] for path in inputs} == {
        path: before[path] for path in inputs
    }
