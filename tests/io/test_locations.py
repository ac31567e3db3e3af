"""Files wherever they live: found, opened, and written whole, here and in a store of S3."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

import streambn as sbn
from streambn._lazy import lazy_module
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import sources as files
from streambn.io import stores
from streambn.io.formats import Format
from streambn.io.locations import Location, Stamp, glob, locate, walk
from streambn.jobs import plan as outputs

TABLE = pa.table({"x": [1.0, 2.0, 4.0], "y": [1, 2, None]})
TREE = (
    "t.parquet",
    "year=2020/city=S%C3%A3o Paulo/b.parquet",
    "year=2020/city=S%C3%A3o Paulo/a.parquet",
    "year=2020/city=12/a[1].csv",
    "year=__HIVE_DEFAULT_PARTITION__/city=12/a.parquet",
    "year=2020/_SUCCESS",
    "year=2020/.a.parquet.crc",
    "_temporary/0/a.parquet",
    ".hidden.parquet",
)


def parquet(table: pa.Table = TABLE) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def everything(bucket_or_folder: Location) -> list[str]:
    """All objects or files below, hidden ones too."""
    if bucket_or_folder.local is not None:
        folder = Path(bucket_or_folder.local)
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    selector = fs.FileSelector(bucket_or_folder.key, recursive=True, allow_not_found=True)
    infos = stores.open_store(bucket_or_folder.store).get_file_info(selector)
    start = len(bucket_or_folder.key.strip("/")) + 1
    return sorted(info.path.strip("/")[start:] for info in infos if info.is_file)


# --- servers --------------------------------------------------------------------------

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until whoever started it ends
server.stop()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Run a server of S3 in a process of its own, and give its URL."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask")):
        pytest.skip("needs a server of S3: pip install 'moto[server]'")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        host, port = server.stdout.readline().split()
        yield f"http://{host}:{port}"
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A fresh bucket, where the environment says that S3 is."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return locate(f"s3://{new_bucket(s3_server)}")


def new_bucket(server: str) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    store = fs.S3FileSystem(
        access_key="tester",
        secret_key="secret",
        endpoint_override=server,
        allow_bucket_creation=True,
    )
    store.create_dir(name)
    return name


@pytest.fixture
def memory() -> Location:
    pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    return locate(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> Location:
    place: Location = request.getfixturevalue(request.param)
    return place


@pytest.fixture(params=["local", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder: on this machine, in S3, and in a file system of fsspec."""
    if request.param == "local":
        return locate(str(tmp_path))
    there: Location = request.getfixturevalue(request.param)
    return there


class Relay:
    """A way to a server that can be cut."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("http://").partition(":")
        self._to = (host, int(port))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._to)
                with self._lock:
                    self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


@pytest.fixture
def relay(s3_server: str) -> Iterator[Relay]:
    relay = Relay(s3_server)
    yield relay
    relay.cut()


@contextlib.contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Serve one answer to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def only_line(error: pytest.ExceptionInfo[StreamBNError], place: Location) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{place.text}: ")
    return text.removeprefix(f"{place.text}: ")


# --- what a text means ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("a/b.csv", "a/b.csv"),
        ("/a/b.csv", "/a/b.csv"),
        ("a%20b?c=1#d", "a%20b?c=1#d"),
        ("://", "://"),
        ("1://x", "1://x"),
        ("file:///a/b.csv", "/a/b.csv"),
        ("FILE://localhost/a/b.csv", "/a/b.csv"),
        ("file:///a%20b/S%C3%A3o%23%3F%25.csv", "/a b/São#?%.csv"),
        ("file:///d/*.csv", "/d/*.csv"),
    ],
)
def test_paths_and_file_urls_are_on_this_machine(text: str, local: str) -> None:
    assert locate(text) == Location(local, local)


def test_a_file_whose_name_looks_like_a_url_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:").mkdir()
    Path("s3:/bucket").write_bytes(b"here")
    assert locate("s3://bucket").read_bytes() == b"here"
    assert locate("s3://other").local is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://bucket", "bucket"),
        ("s3://bucket/", "bucket"),
        ("s3://bucket/a b/c%20d.csv", "bucket/a b/c%20d.csv"),
        ("s3://bucket/a/?endpoint_override=http://127.0.0.1:9000&region=x", "bucket/a"),
        ("s3://bucket/year=202?/*.csv", "bucket/year=202?/*.csv"),
        ("s3://bucket/?ear=2020/*.csv?region=x", "bucket/?ear=2020/*.csv"),
        ("gs://bucket/a?anonymous=true", "bucket/a"),
        ("gcs://bucket/a", "bucket/a"),
    ],
)
def test_urls_of_stores_keep_names_as_they_are(text: str, key: str) -> None:
    there = locate(text)
    assert (there.text, there.local, there.key) == (text, None, key)
    assert pickle.loads(pickle.dumps(there)) == there


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file://elsewhere/a", "must not name another host, got 'elsewhere'"),
        ("s3://", "must name a bucket"),
        ("s3:///a", "must name a bucket"),
        ("s3://buck*/a", "must name a bucket"),
        (
            "s3://bucket/a?region=x&colour=red",
            "no option 'colour'; the options are ",
        ),
        ("s3://key:secret@bucket/a", "must not contain credentials"),
    ],
)
def test_urls_without_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message) as error:
        locate(text)
    assert "secret" not in str(error.value)


NAMES = st.text(st.characters(exclude_characters="/?*[", exclude_categories=["C"]), min_size=1)


@given(base=st.sampled_from(["/a", "a", "s3://b", "s3://b/c?region=x", "gs://b/c/"]),
       name=NAMES.filter(lambda name: name not in {".", ".."}))  # fmt: skip
def test_a_child_is_found_again_by_its_text_and_has_its_folder_for_parent(
    base: str, name: str
) -> None:
    folder = locate(base)
    child = folder.child(name)
    assert child.name == name
    assert locate(child.text) == child
    assert child.parent.identity == folder.identity
    assert child.child("x").parent == child
    assert child.identity.startswith(folder.identity.rstrip("/") + "/")


def test_one_place_has_one_identity_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    Path("d").mkdir()
    Path("link").symlink_to("d")
    for same in (
        ["d/f", "link/f", "./d/../d/f", f"file://{tmp_path}/d/f"],
        ["s3://b/k", "s3://b/k/", "s3://b/k?region=x", "s3://b/k?endpoint_override=127.0.0.1:9000"],
        ["gs://b/k", "gcs://b/k?anonymous=true"],
        ["memory://b/k", "memory:///b/k/"],
    ):
        assert len({locate(text).identity for text in same}) == 1
    other = locate("s3://b/k?endpoint_override=http://127.0.0.1:9001")
    assert other.identity != locate("s3://b/k").identity


def test_local_files_need_nothing_that_stores_need(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from streambn.io.locations import locate\n"
        "from streambn.io.sources import scan\n"
        "from streambn.jobs.plan import plan\n"
        "folder = locate('file://' + sys.argv[1])\n"
        "with folder.child('d/f.csv').open_output(fsync=False) as file:\n"
        "    file.write(b'x\\n1\\n')\n"
        "sources = scan([sys.argv[1]])\n"
        "plan(sources, sys.argv[1] + '.out/')\n"
        "sources[0].open().close(), sources[0].stamp()\n"
        "heavy = {'pyarrow.fs', 'fsspec', 'pyarrow.dataset', 'pyarrow.parquet'}\n"
        "print(len(sources), heavy & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "1 set()\n"


# --- the same everywhere --------------------------------------------------------------


def test_what_is_written_is_there(place: Location) -> None:
    there = place.child("made/for it/f.bin")
    assert not there.exists()
    for content in (b"", b"old", b"n" * 12_000_000):
        with there.open_output(fsync=False) as file:
            for start in range(0, len(content), 5_000_000):
                file.write(memoryview(content)[start : start + 5_000_000])
                assert not there.exists() or there.stamp().size != len(content)
        assert (there.exists(), there.is_file(), there.is_folder()) == (True, True, False)
        assert there.parent.is_folder()
        assert not there.parent.is_file()
        assert there.read_bytes() == content
        assert there.stamp().size == len(content)
    assert there.read_bytes(beginning=b"nn") == content
    assert there.read_bytes(beginning=b"on") == b"nn"
    assert {name for name in everything(place) if not name.endswith("/g")} == {"made/for it/f.bin"}
    there.remove()
    there.remove()  # what is not there needs no removing
    assert not there.exists()


def test_reading_is_by_random_access(place: Location) -> None:
    there = place.child("f.parquet")
    there.write_bytes(b"0123456789")
    with there.open_input() as file:
        file.seek(7)
        assert file.read(2) == b"78"
        assert file.size() == 10
        assert file.read_at(3, 1) == b"123"
    there.write_bytes(parquet())
    with there.open_input() as file:
        assert pq.ParquetFile(file).read(columns=["y"]).equals(TABLE.select(["y"]))


def test_another_content_has_another_stamp(place: Location) -> None:
    there = place.child("f")
    there.write_bytes(b"one")
    first = there.stamp()
    assert there.stamp() == first
    there.write_bytes(b"three")
    assert there.stamp() != first
    assert isinstance(first, Stamp)


@pytest.mark.parametrize("size", [3, 12_000_000])
@pytest.mark.parametrize("failure", [StreamBNError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_a_block_that_raises_leaves_things_as_they_were(
    place: Location, size: int, failure: BaseException
) -> None:
    with place.child("old/f").open_output(fsync=False) as file:
        file.write(b"old")

    def fail(name: str) -> None:
        with place.child(name).open_output(fsync=False) as file:
            file.write(b"n" * size)
            file.write(b"n" * size)
            raise failure

    for name in ("old/f", "new/f"):
        with pytest.raises(type(failure)):
            fail(name)
    assert everything(place) == ["old/f"]
    assert place.child("old/f").read_bytes() == b"old"
    if place.local is not None:
        assert os.listdir(place.local) == ["old"]


def test_names_that_would_be_patterns_are_written_too(place: Location) -> None:
    there = place.child("a[1]*?.csv")
    for content in (b"old", b"new"):
        with there.open_output(fsync=False) as file:
            file.write(content)
    assert everything(place) == ["a[1]*?.csv"]
    assert there.read_bytes() == b"new"


@pytest.fixture
def twins(store: Location, tmp_path: Path) -> tuple[Location, Location]:
    """The same tree on this machine and in a store."""
    here, there = locate(str(tmp_path)), store.child("d")
    for name in TREE:
        for folder in (here, there):
            with folder.child(name).open_output(fsync=False) as file:
                file.write(parquet())
    return here, there


PATTERNS = [
    "**", "*", "*/", "**/", "**/*.parquet", "*/*/?.parquet", "y*", "y*/city=12/*", "**/city=12",
    "**/a*", "year=2020/**", "year=2020/*", "year=202?", "year=202[0-9]/*/[!b]*.parquet",
    "**/.hid*", ".*", "_*", "_temporary/**", "**/_*", "**/.*", "none*", "none/*", "*.parquet/*",
    "year=2020/city=S%C3%A3o Paul?/*", "**/city=*/**", "**/**", "*/_*", "YEAR*",
]  # fmt: skip


def test_walks_and_globs_find_the_same_in_a_store_as_here(
    twins: tuple[Location, Location],
) -> None:
    here, there = twins

    def names(folder: Location, found: list[Location]) -> list[str]:
        return [file.identity.removeprefix(folder.identity + "/") for file in found]

    assert names(there, list(walk(there))) == names(here, list(walk(here)))
    for pattern in PATTERNS:
        base, found = glob(there.child(pattern))
        base_here, found_here = glob(here.child(pattern))
        once = list(dict.fromkeys(names(here, found_here)))
        assert (pattern, names(there, found)) == (pattern, once)
        assert base.identity.removeprefix(there.identity) == (
            base_here.identity.removeprefix(here.identity)
        )
        for file in found:
            assert locate(file.text).identity == file.identity


def test_scanning_is_the_same_in_a_store_as_here(twins: tuple[Location, Location]) -> None:
    here, there = twins
    for inputs in ([""], ["year=2020", "t.parquet"], ["**/*.parquet", ""], ["*"]):
        found, found_here = (
            files.scan([folder.child(name).text for name in inputs]) for folder in (there, here)
        )
        assert [s.relative for s in found] == [s.relative for s in found_here]
        assert [s.keys for s in found] == [s.keys for s in found_here]
        assert [s.listed for s in found] == [s.listed for s in found_here]
        assert [s.root is None for s in found] == [s.root is None for s in found_here]
        assert all(source.rereadable for source in found)
        with found[0].open() as file:
            assert pq.read_table(file).equals(TABLE)
        assert found[0].stamp().size == found_here[0].stamp().size
    both = files.scan([here.text, there.text])
    assert [s.relative for s in both] == [s.relative for s in files.scan([here.text])] * 2


@pytest.mark.parametrize("argument", ["none", "none*", "none/"])
def test_what_means_nothing_in_a_store_is_named(store: Location, argument: str) -> None:
    store.child("a").write_bytes(b"a")
    with pytest.raises(StreamBNError) as error:
        files.scan([store.child(argument).text])
    assert only_line(error, store.child(argument)) in {
        "no such file or folder",
        "no file matches this glob",
    }
    for look in (Location.open_input, Location.read_bytes, Location.stamp):
        with pytest.raises(StreamBNError) as error:
            look(store.child(argument))
        assert only_line(error, store.child(argument)).startswith("no such file")


# --- outputs --------------------------------------------------------------------------


def test_outputs_mirror_partitions_in_a_store(twins: tuple[Location, Location]) -> None:
    here, there = twins
    sources = files.scan([here.text])
    for folder in (there.parent.child("out"), there.parent.child("out/")):
        jobs = outputs.plan(sources, folder.text)
        assert [job.target for job in jobs] == [
            there.parent.child(f"out/{source.relative}").text for source in sources
        ]
        assert {job.format for job in jobs} == {Format.PARQUET}
        for job in jobs:
            assert job.location is not None
            with job.location.open_output(fsync=False) as file:
                pq.write_table(TABLE, file)
    written = files.scan([there.parent.child("out").text])
    assert [s.relative for s in written] == [s.relative for s in sources]
    assert [s.keys for s in written] == [s.keys for s in sources]
    with written[-1].open() as file:
        assert pq.read_table(file).equals(TABLE)


def test_outputs_that_must_not_be_in_a_store(twins: tuple[Location, Location]) -> None:
    here, there = twins
    one = files.scan([there.child("t.parquet").text])
    tree = files.scan([there.text])
    for sources, out, message in (
        (one, "d/t.parquet", "is one of the inputs"),
        (one, "d", "is one of the inputs"),
        (one, "out", "format is told by its suffix"),
        (tree, "d/out/", "lies in the input folder"),
        (tree, "d/t.parquet/", "is a file, but"),
        (files.scan([here.text, there.text]), "out/", "would both be"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            outputs.plan(sources, there.parent.child(out).text)
    (job,) = outputs.plan(one, there.parent.child("out.csv").text)
    assert job.format is Format.CSV
    with pytest.raises(InvalidValueError, match="is one of the inputs"):
        outputs.check_target(there.child("t.parquet").text, one)
    outputs.check_target(there.child("new/stats.json").text, one)


def test_statistics_files_live_there_too(place: Location) -> None:
    there = place.child("stats.json")
    normalizer = sbn.Normalizer().update(TABLE)
    normalizer.save(there.text)
    assert sbn.load(there.text).stats().equals(normalizer.stats())
    frozen = normalizer.freeze()
    frozen.save(there.text)
    assert sbn.load(there.text) == frozen
    assert everything(place) == ["stats.json"]
    there.write_bytes(b"PAR1")
    with pytest.raises(sbn.SnapshotError) as error:
        sbn.load(there.text)
    assert str(error.value).startswith(there.text)


def test_the_command_line_takes_urls_of_statistics(s3: Location, tmp_path: Path) -> None:
    data, stats = tmp_path / "t.parquet", s3.child("of today/stats.json").text
    pq.write_table(TABLE, data)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streambn.cli.main", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    fitted = run("fit", str(data), "-o", stats, "-q")
    assert (fitted.returncode, fitted.stdout, fitted.stderr) == (0, "", "")
    assert sbn.load(stats).stats().equals(sbn.Normalizer().update(TABLE).stats())
    out = str(tmp_path / "out.parquet")
    assert run("apply", stats, str(data), "-o", out, "-q").returncode == 0
    none = run("fit", str(data), "-o", "s3://none-of-this-name/s.json")
    assert none.returncode == 1
    assert none.stderr == (
        "streambn: s3://none-of-this-name/s.json: there is no bucket 'none-of-this-name'\n"
    )


def test_a_local_statistics_file_may_come_through_a_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sbn.Normalizer().update(TABLE).save(tmp_path / "stats.json")
    content = (tmp_path / "stats.json").read_bytes()
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    assert sbn.load(str(fifo)).features
    writer.join()


# --- local writing --------------------------------------------------------------------


@pytest.mark.parametrize("fsync", [True, False])
def test_the_disk_is_waited_for_only_if_asked(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system takes no advice about its files")
    waited: list[int] = []
    advised: list[tuple[int, int]] = []
    really = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (waited.append(handle), really(handle)))
    monkeypatch.setattr(
        os, "posix_fadvise", lambda _, start, length, __: advised.append((start, length))
    )
    there = locate(str(tmp_path / "made/f"))
    with there.open_output(fsync=fsync) as file:
        for _ in range(5):
            file.write(b"n" * 3_000_000)
        assert bool(advised) == fsync  # what is waited for is begun while it is being written
        file.write(b"end")
    assert len(waited) == (2 if fsync else 0)  # the file and its folder
    # Each byte once, in order, and none left out; the last are for the wait.
    assert [start for start, _ in advised] == [
        sum(length for _, length in advised[:n]) for n in range(len(advised))
    ]
    assert there.stamp().size == 15_000_003


# --- what goes wrong ------------------------------------------------------------------


def test_an_endpoint_may_be_named_in_the_url(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    options = f"?endpoint_override={s3_server}&region=eu-west-1"
    folder = locate(f"s3://{new_bucket(s3_server)}/d/{options}")
    folder.child("a/f.csv").write_bytes(b"x\n1\n")
    (source,) = files.scan([folder.text])
    assert source.path == folder.child("a/f.csv").text
    assert source.path.endswith(f"/d/a/f.csv{options}")
    (source,) = files.scan([folder.child("**/*.csv").text])
    assert source.relative == "a/f.csv"
    (job,) = outputs.plan([source], folder.parent.child("out/").text)
    assert job.location == folder.parent.child("out/a/f.csv")


def test_a_bucket_that_is_not_there_is_told_before_and_after(s3: Location) -> None:
    there = locate("s3://none-of-this-name/a.csv")
    with pytest.raises(StreamBNError) as error:
        outputs.plan([files.Source("-")], there.text)
    assert only_line(error, there) == "there is no bucket 'none-of-this-name'"
    with pytest.raises(StreamBNError) as error:
        files.scan([there.text])
    assert only_line(error, there) == "there is no bucket 'none-of-this-name'"
    with pytest.raises(StreamBNError) as error:
        there.write_bytes(b"x")
    assert only_line(error, there).startswith("there is no such bucket; create it")


def test_who_shows_no_credentials_is_denied_what_is_not_public(s3: Location) -> None:
    s3.child("a.csv").write_bytes(b"x\n1\n")
    there = locate(f"{s3.text}/a.csv?anonymous=true")
    with pytest.raises(StreamBNError) as error:
        there.open_input()
    assert only_line(error, there).startswith("access is denied; check the credentials")


DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (403, DENIED, "access is denied; check the credentials (AWS_ACCESS_KEY_ID"),
        (500, "", "the store cannot be reached or does not answer; check the network"),
        (503, "", "the store cannot be reached or does not answer; check the network"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_line(
    status: int, body: str, told: str, s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)
    with answering(status, body) as server:
        there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override={server}")
        for use in (
            lambda: files.scan([there.text]),
            lambda: outputs.plan([files.Source("-")], there.text),
            lambda: there.write_bytes(b"x"),
            there.remove,
        ):
            with pytest.raises(StreamBNError) as error:
                use()
            assert only_line(error, there).startswith(told)


def test_a_server_that_is_not_there_is_told_in_one_line(s3: Location) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override=http://127.0.0.1:{port}")
    with pytest.raises(StreamBNError) as error:
        there.write_bytes(b"x")
    assert only_line(error, there).startswith("the store cannot be reached")


def test_a_server_that_says_nothing_is_given_up(
    s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_SILENT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override={url}")
        with pytest.raises(StreamBNError) as error:
            there.exists()
    assert only_line(error, there).startswith("the store cannot be reached")


@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_a_server_that_goes_away_in_mid_upload_leaves_nothing(
    when: str, s3: Location, relay: Relay, capfd: pytest.CaptureFixture[str]
) -> None:
    bucket = s3.key
    there = locate(f"s3://{bucket}/d/f.bin?endpoint_override={relay.url}")

    def upload() -> None:
        with there.open_output(fsync=False) as file:
            for part in range(6):
                file.write(b"n" * 6_000_000)
                if part == (2 if when == "in the middle" else 5):
                    relay.cut()

    with pytest.raises(StreamBNError) as error:
        upload()
    assert only_line(error, there).startswith("the store cannot be reached")
    del error
    assert everything(s3) == []
    assert capfd.readouterr() == ("", "")  # Arrow says nothing of its own either


def test_a_server_that_goes_away_while_a_file_is_read_is_known_as_that(
    s3: Location, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)
    s3.child("f").write_bytes(b"n" * 1000)
    with locate(f"{s3.text}/f?endpoint_override={relay.url}").open_input() as file:
        assert file.read(10) == b"n" * 10
        relay.cut()
        with pytest.raises(OSError, match="AWS Error") as error:
            file.read(10)
    problem = stores.store_problem(error.value)
    assert problem is not None
    assert problem.startswith("the store cannot be reached")
    assert stores.store_problem(pa.ArrowInvalid("Not a Parquet file")) is None


def test_what_is_under_way_to_a_store_is_bounded(
    s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is slower than the job must not have the whole file kept in memory."""

    class Watched:
        def __init__(self, stream: pa.NativeFile) -> None:
            self._stream = stream
            self.under_way = self.most = 0

        def write(self, data: memoryview) -> None:
            self.under_way += data.nbytes
            self.most = max(self.most, self.under_way)
            self._stream.write(data)

        def flush(self) -> None:
            self._stream.flush()
            self.under_way = 0

        def close(self) -> None:
            self._stream.close()

    class Store:
        def __getattr__(self, name: str) -> object:
            return getattr(really, name)

        def open_output_stream(self, key: str) -> Watched:
            streams.append(Watched(really.open_output_stream(key)))
            return streams[-1]

    really = stores.open_store(s3.store)
    streams: list[Watched] = []
    monkeypatch.setattr(stores, "_MAX_PENDING", 12 << 20)
    monkeypatch.setattr(stores, "open_store", lambda _: Store())
    with s3.child("f").open_output(fsync=False) as file:
        for _ in range(8):
            file.write(b"n" * (5 << 20))
    assert 5 << 20 < streams[0].most < 20 << 20
    assert s3.child("f").read_bytes() == b"n" * (40 << 20)


def test_what_s3_cannot_rename_is_refused_under_way(
    s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_S3_COPY_LIMIT", 7_000_000)
    there = s3.child("f.bin")

    def upload() -> None:
        with there.open_output(fsync=False) as file:
            for _ in range(2):
                file.write(b"n" * 6_000_000)

    with pytest.raises(StreamBNError) as error:
        upload()
    assert only_line(error, there).startswith("larger than")
    assert everything(s3) == []


def test_protocols_that_fsspec_does_not_reach_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    with pytest.raises(StreamBNError, match=r"^nosuch://a: fsspec knows no protocol 'nosuch'$"):
        locate("nosuch://a")
    fsspec.register_implementation(
        "absent", "no_such_package.FileSystem", clobber=True, errtxt="Install absentfs to see it"
    )
    with pytest.raises(StreamBNError, match=r"^absent://a: Install absentfs to see it$"):
        locate("absent://a")
    monkeypatch.setattr(stores, "fsspec", lazy_module("fsspec.core"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StreamBNError, match=r"^memory://a: .*: pip install fsspec$"):
        locate("memory://a")


def test_a_file_system_with_real_folders_is_reached_through_fsspec(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    there = locate(f"local://{tmp_path}/made/for it/f.csv")
    for content in (b"x\n1\n", b"x\n2\n"):
        with there.open_output(fsync=False) as file:
            file.write(content)
    assert (tmp_path / "made/for it/f.csv").read_bytes() == b"x\n2\n"
    assert [s.relative for s in files.scan([f"local://{tmp_path}"])] == ["made/for it/f.csv"]
    assert there.parent.parent == locate(f"local://{tmp_path}/made")


# --- whole jobs -----------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streambn.cli.main", *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


def test_jobs_read_and_write_a_bucket_as_they_do_a_folder(s3: Location, tmp_path: Path) -> None:
    for year in (2020, 2021):
        table = pa.table({"x": [year + 0.5, None, 1.0], "s": ["a", "b", None]})
        for place in (s3, locate(str(tmp_path))):
            with place.child(f"in/year={year}/t.parquet").open_output(fsync=False) as file:
                pq.write_table(table, file, row_group_size=2)
    there, here = s3.text, str(tmp_path)
    for base in (there, here):
        done = run("fit", f"{base}/in", "-o", f"{base}/s.json", "-q")
        assert (done.returncode, done.stderr) == (0, "")
        done = run("apply", f"{base}/s.json", f"{base}/in/**/*.parquet", "-o", f"{base}/out/", "-q")
        assert (done.returncode, done.stderr) == (0, "")
    names = [f"out/year={year}/t.parquet" for year in (2020, 2021)]
    for name in ("s.json", *names):
        assert s3.child(name).read_bytes() == (tmp_path / name).read_bytes()
    listed = {place.text for place in walk(s3)}
    assert listed == {s3.child(name).text for name in ("s.json", *names)} | {
        s3.child(name.replace("out", "in")).text for name in names
    }
    assert s3.child("out/_streambn.manifest").exists()
    again = run(
        "apply", f"{there}/s.json", f"{there}/in", "-o", f"{there}/out/", "--resume", "--json"
    )
    assert json.loads(again.stdout)["resumed"]
    wrong = run("fit", f"{there}/nothing", "-o", "s.json")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert f"{there}/nothing" in wrong.stderr


def test_a_job_whose_store_goes_away_ends_in_one_line(
    s3: Location, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "t.parquet")
    relay.cut()
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    done = run("normalize", str(tmp_path / "t.parquet"), "-o", f"{s3.text}/out.parquet")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be reached" in done.stderr
