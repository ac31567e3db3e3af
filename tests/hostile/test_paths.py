"""Objects and files whose names lead elsewhere: no output leaves its folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_stores import put

from streambn.errors import StreamBNError
from streambn.io import Location, locate, scan

Run = Callable[..., Any]

# The key of an object below in/, and what happens: None if it is an input like any other.
KEYS = {
    "sub/../../../pwn.csv": "has . or .. as a name",
    "../pwn.csv": "has . or .. as a name",
    "./a.csv": "has . or .. as a name",
    "a=../../x.csv": "has . or .. as a name",
    "a\\..\\..\\pwn.csv": "has . or .. as a name",
    "/pwn.csv": "has a name without characters",
    "sub//x.csv": "has a name without characters",
    "n" * 256 + ".csv": "a name of 260 bytes",
    "a\\b.csv": None,
    "C:x.csv": None,
    "%2e%2e/x.csv": None,
    "a=..%2F..%2Fx/b.csv": None,
    "x#y?z.csv": None,
    "\x1b[2J.csv": None,
    "n" * 251 + ".csv": None,
}
SERVERS = ["s3", "gs", "memory"]
# Keys that a server of the tests refuses, or that its client changes.
IMPOSSIBLE = {"s3": {"./a.csv", "\x1b[2J.csv", "x#y?z.csv"}}


@pytest.fixture(params=SERVERS)
def bucket(request: pytest.FixtureRequest) -> Location:
    bucket: Location = request.getfixturevalue(request.param)
    bucket.child("in/ok.csv").write_bytes(b"x\n1\n2\n")
    return bucket


@pytest.fixture(autouse=True)
def _outside(jobs_in_a_folder: None) -> None:
    for folder in ("deep/er", "deep"):
        os.makedirs(folder, exist_ok=True)
        Path(folder, "pwn.csv").write_text("precious")


def outside() -> dict[str, bytes]:
    """Return the files that are not in deep/er/out, nor statistics."""
    files = (path for path in Path().rglob("*") if path.is_file())
    return {str(p): p.read_bytes() for p in files if not str(p).startswith("deep/er/out/")}


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        pytest.param(server, key, id=f"{server} {key[-24:]!a}")
        for server in SERVERS
        for key in KEYS
        if key not in IMPOSSIBLE.get(server, ())
    ],
    indirect=["bucket"],
)
def test_a_key_stays_in_the_output_folder_or_is_refused(
    run: Run, bucket: Location, key: str
) -> None:
    problem, before = KEYS[key], outside()
    put(bucket, f"in/{key}", b"x\n3\n")
    job = ["normalize", bucket.child("in").text, "-o", "deep/er/out/", "--json"]
    done = run(*job)
    assert outside() == before
    if problem is None:
        assert done.code == 0, done.lines
        assert Path("deep/er/out", key).is_file()
        return
    assert done.code == 1
    assert problem in done.lines[0]
    assert "Rename it, or name the inputs by a pattern" in done.lines[0]
    assert not Path("deep/er/out").exists()
    if len(key) > 255:  # too long for a local folder only
        return
    assert problem in run("fit", bucket.child("in").text, "-o", "s.json").lines[0]
    done = run(*job, "--on-error", "skip")
    assert done.code == 0, done.lines
    [skipped] = json.loads(done.out)["skipped"]
    assert problem in skipped["why"]
    assert outside() == before
    assert sorted(os.listdir("deep/er/out")) == ["_streambn.manifest", "ok.csv"]
    # The remedy.
    if key.count("/") > 1:
        assert run("fit", bucket.child("in/*.csv").text, "-o", "s.json").code == 0


def test_a_key_that_reads_as_options_of_a_url_is_refused(s3: Location) -> None:
    """The next request, with a signature, would go to a server of the attacker."""
    put(s3, "in/x.csv?endpoint_override=http:evil", b"x\n3\n")
    with pytest.raises(StreamBNError, match="its URL would name another place"):
        scan([s3.child("in").text])


@pytest.mark.parametrize(("server", "content"), [("s3", b""), ("gs", b"x")])
def test_an_object_that_stands_for_a_folder_is_no_input(
    server: str, content: bytes, request: pytest.FixtureRequest
) -> None:
    bucket: Location = request.getfixturevalue(server)
    bucket.child("in/ok.csv").write_bytes(b"x\n1\n2\n")
    put(bucket, "in/sub/", content)
    assert [source.relative for source in scan([bucket.child("in").text])] == ["ok.csv"]


def test_a_file_and_a_folder_of_one_name_are_refused_in_a_local_folder(
    run: Run, s3: Location
) -> None:
    for key in ("in/a.csv", "in/a.csv/b.csv"):
        put(s3, key, b"x\n1\n2\n")
    done = run("normalize", s3.child("in").text, "-o", "deep/er/out/")
    assert done.code == 2
    assert "need a file and a folder of the same name" in done.lines[0]
    assert not Path("deep/er/out").exists()
    done = run("normalize", s3.child("in").text, "-o", s3.child("out/").text)
    assert done.code == 0, done.lines


@pytest.mark.parametrize("name", ["_streambn.manifest", "_streambn.checkpoint"])
def test_an_input_with_the_name_of_a_file_of_the_job_is_refused(run: Run, name: str) -> None:
    Path(name).write_text("x\n1\n2\n")
    done = run("normalize", name, "-o", "out/")
    assert done.code == 2
    assert "would have the name of a file that the job itself writes" in done.lines[0]


def test_links_in_an_output_folder_are_followed(run: Run) -> None:
    """As by cp: who may write to the output folder chose them."""
    Path("in").mkdir()
    Path("in/pwn.csv").write_text("x\n1\n2\n")
    Path("out").mkdir()
    Path("out/pwn.csv").symlink_to(Path("deep/pwn.csv").absolute())
    assert run("normalize", "in", "-o", "out/").code == 0
    assert Path("out/pwn.csv").is_symlink()
    assert Path("deep/pwn.csv").read_text() != "precious"


def test_paths_in_files_of_a_job_are_never_opened(run: Run) -> None:
    """A forged manifest or checkpoint names files, which are compared and nothing else."""
    Path("in").mkdir()
    for name in ("a", "b"):
        Path(f"in/{name}.csv").write_text("x\n1\n2\n")
    assert run("fit", "in", "-o", "s.json").code == 0
    assert run("apply", "s.json", "in", "-o", "deep/er/out/").code == 0
    manifest = Path("deep/er/out/_streambn.manifest")
    lines = []
    for line in manifest.read_bytes().splitlines():
        text = line.partition(b" ")[2].replace(b"b.csv", b"../../pwn.csv")
        lines.append(hashlib.sha256(text).hexdigest()[:32].encode() + b" " + text + b"\n")
    manifest.write_bytes(b"".join(lines))
    before = outside()
    assert run("apply", "s.json", "in", "-o", "deep/er/out/", "--resume").code == 0
    assert outside() == before


NAMES = st.sampled_from(["", ".", "..", "a", "b.csv", "...", "a..b", "\0", "\\", "a\\..", "~"])


@given(st.lists(NAMES, max_size=5).map("/".join) | st.text(max_size=8))
def test_every_child_is_below_its_folder(relative: str) -> None:
    for folder in (locate("/out/here"), locate("s3://bucket/out?region=x"), locate("memory://a/b")):
        try:
            child = folder.child(relative)
        except StreamBNError:
            continue
        below = f"{folder.identity.rstrip('/')}/"
        assert child.identity.startswith(below) or child.identity == below.rstrip("/")
        if folder.local is not None:
            assert os.path.normpath(child.local or "") == (child.local or "").rstrip("/")
        assert child.store == folder.store
