"""Folders of outputs: a resumed job keeps complete outputs, and never mixes two jobs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import read, write_all_formats, write_as
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
from streambn.jobs.manifest import NAME, Manifest
from streambn.jobs.report import Skipped

Run = Callable[..., Any]
Apply = Callable[..., None]
FailAt = Callable[[int, BaseException], contextlib.AbstractContextManager[None]]
FILE = Path("m") / NAME

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
def inputs(run: Run) -> list[str]:
    """Write files of all formats into data/, and their statistics into stats.json."""
    write_all_formats(table_of, scale=10)
    write_as("data/a.parquet", table_of(500, 1), 90, compression="zstd")
    assert run("fit", "data", "-o", "stats.json", "--columns", "x,y", "-q").code == 0
    return found("data")


@pytest.fixture
def apply(run: Run, inputs: list[str]) -> Apply:
    """Return a function that normalizes data/ into out/, or elsewhere, without a message."""

    def apply(*more: object, out: str = "out/", stats: str = "stats.json") -> None:
        done = run("apply", stats, "data", "-o", out, "-q", *more)
        assert (done.code, done.lines) == (0, [])

    return apply


def refused(done: Any) -> str:
    """Return the message of a job that must not replace the outputs of another one."""
    (line,) = done.lines
    assert done.code == 1
    assert "--overwrite" in line
    return line


def found(folder: str) -> list[str]:
    """Return the paths of all files in a folder except the manifest."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != NAME)
    return sorted(str(path.relative_to(folder)) for path in paths)


def contents(folder: str) -> dict[str, bytes]:
    return {path: (Path(folder) / path).read_bytes() for path in found(folder)}


def identities(folder: str) -> dict[str, tuple[int, int]]:
    """Return values that change when a file is written again with the same content."""
    stats = {path: (Path(folder) / path).stat() for path in found(folder)}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> FailAt:
    """Return a context that raises an error once so many outputs have their final names."""

    @contextlib.contextmanager
    def fail_at(count: int, error: BaseException) -> Iterator[None]:
        real, renamed = os.replace, itertools.count()

        def replace(temporary: Path, target: Path) -> None:
            if target.name != NAME and next(renamed) >= count:
                raise error
            real(temporary, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            yield

    return fail_at


# --- outputs --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out/", "out.parquet", "out.arrow", "out.arrows", "out.csv"])
@pytest.mark.parametrize(
    "more", [[], ["--compression", "gzip"], ["--row-group-rows", 70], ["--fsync"]], ids=str
)
def test_outputs_do_not_depend_on_the_threads(
    target: str, more: list[object], apply: Apply, inputs: list[str]
) -> None:
    made = []
    for threads in (1, 2, 7):
        apply("--threads", threads, *more, out=target)
        folder = target.endswith("/")
        made.append(contents("out") if folder else {target: Path(target).read_bytes()})
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == (len(inputs) if target == "out/" else 1)


def test_folder_holds_what_transform_returns(apply: Apply, inputs: list[str]) -> None:
    apply(out="out")
    assert found("out") == inputs
    frozen = sbn.load("stats.json").freeze()
    for path in inputs:
        expected, out = frozen.transform(read(f"data/{path}")), read(f"out/{path}")
        if ".csv" not in path:
            assert out.equals(expected), path
        else:
            assert out["x"].to_pylist() == expected["x"].to_pylist(), path


def test_format_is_detected_once_for_parquet_and_twice_for_streams(
    apply: Apply, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sniffed: list[str] = []
    real = reading.sniff

    def sniff(head: bytes, name: str) -> Any:
        sniffed.append(name.removeprefix("data/"))
        return real(head, name)

    monkeypatch.setattr(reading, "sniff", sniff)
    apply()
    # The blocks of a Parquet file rely on the plan.
    expected = {path: 1 if path.endswith(".parquet") else 2 for path in inputs}
    assert {path: sniffed.count(path) for path in inputs} == expected


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_compression(codec: str, apply: Apply) -> None:
    for target in ("out/", "out.parquet"):
        apply("--compression", codec, out=target)
    expected = {"none": "UNCOMPRESSED"}.get(codec, codec.upper())
    for path in ("out/a.parquet", "out/more/g.parquet", "out.parquet"):
        group = pq.read_metadata(path).row_group(0)
        used = {group.column(i).compression for i in range(group.num_columns)}
        assert used == {expected}
    apply(out="plain/")
    assert pq.read_table("out/a.parquet").equals(pq.read_table("plain/a.parquet"))


@pytest.mark.parametrize("rows", [1, 7, 90, 10_000])
def test_row_group_rows(rows: int, run: Run, inputs: list[str]) -> None:
    apply = ["apply", "stats.json", "data/a.parquet", "-o"]
    assert run(*apply, "out.parquet", "--row-group-rows", rows, "-q").lines == []
    assert run(*apply, "plain.parquet", "-q").code == 0
    metadata = pq.read_metadata("out.parquet")
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert counts == [rows] * (500 // rows) + [500 % rows] * (500 % rows > 0)
    assert pq.read_table("out.parquet").equals(pq.read_table("plain.parquet"))
    assert pq.read_metadata("plain.parquet").num_row_groups == 6


@pytest.mark.parametrize("fsync", [True, False])
def test_only_fsync_waits_for_the_disk(
    fsync: bool, apply: Apply, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def counted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", counted)
    apply(*["--fsync"] * fsync)
    nodes = {(Path("out") / path).stat().st_ino for path in [*inputs, NAME]}
    assert nodes & set(synced) == (nodes if fsync else set())


# --- resume ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("threads", [1, 3])
def test_resume_makes_only_the_rest(
    error: BaseException, threads: int, run: Run, apply: Apply, inputs: list[str], fail_at: FailAt
) -> None:
    apply(out="whole/")
    expected = contents("whole")
    job = ["apply", "stats.json", "data", "-o", "out/", "--threads", threads, "-q", "--json"]
    for count in range(len(inputs)):
        with fail_at(count, error):
            done = run(*job)
            assert done.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
            assert len(done.lines) == isinstance(error, OSError)
        before = identities("out")
        assert len(before) == count  # no temporary file is left
        done = run(*job, "--resume")
        assert done.lines == []
        report = json.loads(done.out)
        assert report["resumed"] == (count > 0)
        assert (report["rows"], report["files"]) == (1910, len(inputs))
        after = identities("out")
        assert {path: after[path] for path in before} == before
        assert contents("out") == expected
        again = run(*job, "--resume")
        assert (again.lines, identities("out")) == ([], after)
        assert json.loads(again.out)["rows"] == 1910
        for path in found("out"):
            (Path("out") / path).unlink()
        (Path("out") / NAME).unlink()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("job", ["apply", "normalize"])
def test_resume_reports_what_earlier_runs_skipped(
    job: str, threads: int, run: Run, inputs: list[str], fail_at: FailAt
) -> None:
    for path in ("data/a.parquet", "data/more/g.parquet"):
        damaged = bytearray(Path(path).read_bytes())
        for group in (1, 4):
            chunk = pq.read_metadata(path).row_group(group).column(0)
            at = chunk.dictionary_page_offset or chunk.data_page_offset
            damaged[at : at + 8] = bytes(8)  # the page header
        Path(path).write_bytes(damaged)
    Path("data/c.arrow").write_bytes(b"")  # has no output
    begin = {"apply": ["apply", "stats.json"], "normalize": ["normalize", "--columns", "x,y"]}[job]
    args = [*begin, "data", "-o", "out/", "--on-error", "skip", "--threads", threads, "-q"]
    whole = run(*args, "--json")
    skipped = json.loads(whole.out)["skipped"]
    names = [entry["file"] for entry in skipped]
    assert names == ["data/a.parquet"] * 2 + ["data/c.arrow"] + ["data/more/g.parquet"] * 2
    assert len(whole.lines) == len(skipped)
    for count in range(len(inputs) - 1):
        with fail_at(count, KeyboardInterrupt()):
            assert run(*args, "--overwrite").code == 130
        for _ in range(2):  # the second time, all outputs are complete
            done = run(*args, "--resume", "--json")
            assert done.lines == whole.lines
            assert json.loads(done.out)["skipped"] == skipped


def test_without_resume_every_output_is_made_again(apply: Apply) -> None:
    apply()
    before, made = identities("out"), contents("out")
    apply()
    assert contents("out") == made
    assert not set(before.items()) & set(identities("out").items())


def test_changed_and_missing_files_are_made_again(apply: Apply) -> None:
    apply()
    before = identities("out")
    pq.write_table(table_of(80, 9), "data/a.parquet")  # a changed input
    Path("out/c.arrow").unlink()  # a missing output
    Path("out/d.csv").write_bytes(b"x")  # a replaced output
    content = bytearray(Path("out/more/g.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    Path("out/more/g.parquet").write_bytes(content)  # an output with a changed byte
    pq.write_table(table_of(20), "data/new.parquet")  # a new input
    Path("data/e.arrows").unlink()  # a removed input
    apply("--resume")
    after = identities("out")
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {"a.parquet", "c.arrow", "d.csv", "more/g.parquet", "new.parquet"}
    assert pq.read_metadata("out/a.parquet").num_rows == 80
    apply(out="whole/")
    made = contents("out")
    del made["e.arrows"]  # the output of a removed input stays
    assert made == contents("whole")


def test_input_that_changes_during_the_job_is_made_again(
    run: Run, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its output was made ahead of its turn, from the old input.
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
def test_other_options_need_overwrite(more: list[object], run: Run, apply: Apply) -> None:
    apply()
    before = identities("out")
    for resume in ([], ["--resume"]):
        done = run("apply", "stats.json", "data", "-o", "out/", *more, *resume)
        assert "outputs of other options" in refused(done)
        assert identities("out") == before
    apply(*more, "--overwrite")
    assert set(identities("out")) == set(before)
    assert not set(before.items()) & set(identities("out").items())
    apply(*more, "--resume")


def test_other_statistics_need_overwrite(run: Run, apply: Apply) -> None:
    apply()
    before = contents("out")
    assert run("fit", "data/a.parquet", "-o", "other.json", "--columns", "x", "-q").code == 0
    for resume in ([], ["--resume"]):
        done = run("apply", "other.json", "data", "-o", "out/", *resume)
        assert "outputs of other statistics" in refused(done)
        assert contents("out") == before
    apply("--overwrite", stats="other.json")
    apply(stats="other.json", out="whole/")
    assert contents("out") == contents("whole")


def test_online_job_does_not_mix_its_outputs_with_others(
    run: Run, apply: Apply, inputs: list[str]
) -> None:
    apply()
    before = contents("out")
    online = ["normalize", "--online", "data", "-o", "out/", "-q"]
    refused(run(*online))
    assert contents("out") == before
    assert run(*online, "--overwrite").code == 0
    assert sorted(contents("out")) == sorted(inputs)


def test_interrupted_overwrite_does_not_mix_outputs(
    run: Run, apply: Apply, fail_at: FailAt
) -> None:
    apply()
    float64 = ["--dtype", "float64"]
    with fail_at(2, KeyboardInterrupt()):
        job = ["apply", "stats.json", "data", "-o", "out/", "-q", *float64, "--overwrite"]
        assert run(*job).code == 130
    apply(*float64, "--resume")
    apply(*float64, out="whole/")
    assert contents("out") == contents("whole")


def test_resume_removes_temporary_files_of_a_killed_run(apply: Apply, inputs: list[str]) -> None:
    apply()
    Path("out/d.csv").unlink()
    Path("out/.d.csv.abcd1234.tmp").write_text("temporary")
    Path("out/.mine.tmp").write_text("not ours")
    apply("--resume")
    assert found("out") == sorted([*inputs, ".mine.tmp"])


def test_manifest_is_no_input(apply: Apply, inputs: list[str]) -> None:
    apply()
    assert [source.relative for source in files.scan(["out"])] == inputs


# --- Manifest -------------------------------------------------------------------------

TEXTS = st.text(min_size=1).filter(str.isprintable)
SKIPPED = st.lists(st.builds(Skipped, TEXTS, TEXTS, TEXTS))
OUTPUTS = st.dictionaries(TEXTS, st.tuples(st.integers(0, 9), SKIPPED), max_size=6)


def manifest(*, overwrite: bool = False, fingerprint: str = "f", options: Any = ("o",)) -> Manifest:
    Path("m").mkdir(exist_ok=True)
    return Manifest(locate("m"), fingerprint, list(options), overwrite=overwrite)


def started() -> Manifest:
    FILE.unlink(missing_ok=True)
    made = manifest()
    made.begin(resume=False)
    return made


def it() -> tuple[list[Source], list[Any]]:
    """Write a file that stands for inputs and outputs; return it as sources and as inputs."""
    if not Path("it").exists():
        Path("it").write_bytes(b"123")
    sources = files.scan(["it"])
    return sources, [(source.path, source.stamp()) for source in sources]


def find(read: Manifest, name: str) -> tuple[int, list[Skipped]] | None:
    entry = read.find(name, locate("it"), it()[0])
    return None if entry is None else (entry.rows, entry.skipped)


def fill(made: Manifest, outputs: Any, *, fsync: bool = True) -> None:
    for name, (rows, skipped) in outputs:
        made.add(name, locate("it"), it()[1], rows, skipped, fsync=fsync)


@settings.get_profile("few")
@given(outputs=OUTPUTS, fsync=st.booleans(), cut=st.integers(0, 200))
def test_entries_survive_a_cut(outputs: dict[str, Any], fsync: bool, cut: int) -> None:
    made = started()
    fill(made, outputs.items(), fsync=fsync)
    if not outputs:
        assert not FILE.exists()
        return
    whole = FILE.read_bytes()
    head = whole.index(b"\n") + 1
    short = whole[: max(head, len(whole) - cut)]
    FILE.write_bytes(short)
    read = manifest()
    read.begin(resume=True)
    kept = short.count(b"\n") - 1
    for number, (name, expected) in enumerate(outputs.items()):
        assert find(read, name) == (expected if number < kept else None)
    fill(read, list(outputs.items())[kept:], fsync=fsync)
    assert FILE.read_bytes() == whole


@settings.get_profile("few")
@given(data=st.data())
def test_changed_byte_is_found(data: st.DataObject) -> None:
    made = started()
    fill(made, [(name, (1, [])) for name in "abc"])
    content = bytearray(FILE.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    FILE.write_bytes(content)
    if bytes(content[:at]).count(b"\n") < 3:
        with pytest.raises(StreamBNError, match=NAME) as caught:
            manifest()
        assert caught.value.argument == "overwrite"
        manifest(overwrite=True).begin(resume=False)
        assert find(manifest(), "a") is None
    else:  # a damaged last line is ignored
        assert [find(manifest(), name) for name in "abc"] == [(1, []), (1, []), None]


def test_entry_without_fsync_counts_until_the_machine_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = started()
    fill(made, [("cached", (1, []))], fsync=False)
    fill(made, [("on disk", (1, []))], fsync=True)
    assert find(manifest(), "cached")
    monkeypatch.setattr(manifests, "_boot_id", lambda: "another")
    assert find(manifest(), "cached") is None
    assert find(manifest(), "on disk")


@pytest.mark.parametrize("other", [{"fingerprint": "g"}, {"options": []}])
def test_other_job_is_refused(other: dict[str, Any]) -> None:
    made = started()
    fill(made, [("a", (1, []))])
    with pytest.raises(InvalidValueError, match=r"other (statistics|options)") as caught:
        manifest(**other)
    assert caught.value.argument == "overwrite"
    manifest(**other, overwrite=True).begin(resume=False)
    manifest(**other)


def written_by_version(version: int) -> bytes:
    """Return a manifest of output "a" as a version wrote it; version 1 had no `skipped`."""
    head = {"format": "streambn manifest", "version": version, "fingerprint": "f", "options": ["o"]}
    stamp = list(it()[0][0].stamp())
    entry = {"output": "a", "stamp": stamp, "rows": 3, "inputs": [["it", stamp]], "boot": None}
    texts = [json.dumps(line).encode() for line in (head, entry)]
    return b"".join(manifests._checksum(text) + b" " + text + b"\n" for text in texts)


def test_manifest_of_version_1_is_continued_and_a_later_one_is_refused() -> None:
    Path("m").mkdir()
    FILE.write_bytes(written_by_version(1))
    old = manifest()
    assert find(old, "a") == (3, [])
    old.begin(resume=True)
    damage = [Skipped("it", "in row group 1", "damaged")]
    fill(old, [("b", (2, damage))])
    assert b'"version":2' in FILE.read_bytes().splitlines()[0]
    assert [find(manifest(), name) for name in "ab"] == [(3, []), (2, damage)]
    FILE.write_bytes(written_by_version(3))
    with pytest.raises(StreamBNError, match="another version of streambn"):
        manifest()


def test_plan_of_a_folder() -> None:
    write_as("data/a.parquet", table_of(3))
    (output,) = plans.make_plan(files.scan(["data"]), "out/").outputs
    assert (output.mirrored, output.target) == (True, "out/a.parquet")
