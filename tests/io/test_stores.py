"""Object stores: whole uploads, bounded memory, one-line errors, and jobs in a bucket."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_process import COMMAND

import streambn as sbn
from streambn._lazy import lazy_module
from streambn.errors import StreamBNError
from streambn.io import Location, locate, stores
from streambn.io.formats import Format, describe_read_errors
from streambn.io.listing import walk
from streambn.io.sources import Source, scan
from streambn.jobs.plan import make_plan

AllFiles = Callable[[Location], list[str]]


@contextlib.contextmanager
def fails(location: Location, message: str) -> Iterator[pytest.ExceptionInfo[StreamBNError]]:
    """Expect an error of one line: the name of the location, and what begins with the message."""
    with pytest.raises(StreamBNError) as error:
        yield error
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{location.text}: {message}")


UNREACHABLE = "the store cannot be reached"


def command(*arguments: str, code: int = 0) -> str:
    """Run a command in a new process; return its output, or the one line of its failure."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code == 0:
        assert done.stderr == ""
        return done.stdout
    (line,) = done.stderr.splitlines()
    return line


# --- uploads --------------------------------------------------------------------------


def test_upload_keeps_a_bounded_number_of_bytes_in_memory(
    s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store slower than the job must not make Arrow keep the whole file."""

    class Stream:
        def __init__(self, stream: pa.NativeFile) -> None:
            self._stream = stream
            self.pending = self.most = 0

        def write(self, data: memoryview) -> None:
            self.pending += data.nbytes
            self.most = max(self.most, self.pending)
            self._stream.write(data)

        def flush(self) -> None:
            self._stream.flush()
            self.pending = 0

        def close(self) -> None:
            self._stream.close()

    class Store:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def open_output_stream(self, key: str) -> Stream:
            streams.append(Stream(real.open_output_stream(key)))
            return streams[-1]

    real = stores.open_store(s3.store)
    streams: list[Stream] = []
    monkeypatch.setattr(stores, "_MAX_PENDING", 12 << 20)
    monkeypatch.setattr(stores, "open_store", lambda _: Store())
    with s3.child("f").open_output(fsync=False) as file:
        for _ in range(8):
            file.write(b"n" * (5 << 20))
    assert 5 << 20 < streams[0].most < 20 << 20
    assert s3.child("f").read_bytes() == b"n" * (40 << 20)


def test_upload_larger_than_s3_can_rename_is_refused(
    s3: Location, all_files: AllFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_S3_COPY_LIMIT", 7_000_000)
    there = s3.child("f.bin")

    with fails(there, "larger than"), there.open_output(fsync=False) as file:
        for _ in range(2):
            file.write(b"n" * 6_000_000)
    assert all_files(s3) == []


@pytest.mark.parametrize("part", [2, 5], ids=["in the middle", "at the end"])
def test_server_that_disappears_during_an_upload_keeps_no_object(
    part: int, s3: Location, relay: Any, all_files: AllFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    there = locate(f"s3://{s3.key}/d/f.bin?endpoint_override={relay.url}")
    with fails(there, UNREACHABLE), there.open_output(fsync=False) as file:
        for number in range(6):
            file.write(b"n" * 6_000_000)
            if number == part:
                relay.cut()
    assert all_files(s3) == []
    assert capfd.readouterr() == ("", "")  # Arrow prints nothing of its own either


# --- errors ---------------------------------------------------------------------------


def test_missing_bucket_is_named_before_and_after_the_job(s3: Location) -> None:
    there = locate("s3://none-of-this-name/a.csv")
    for check in (lambda: make_plan([Source("-")], there.text), lambda: scan([there.text])):
        with fails(there, "there is no bucket 'none-of-this-name'") as error:
            check()
        assert str(error.value).endswith("'none-of-this-name'")
    with fails(there, "there is no such bucket; create it"):
        there.write_bytes(b"x")


def test_anonymous_access_to_a_private_object_is_denied(s3: Location) -> None:
    s3.child("a.csv").write_bytes(b"x\n1\n")
    there = locate(f"{s3.text}/a.csv?anonymous=true")
    with fails(there, "access is denied; check the credentials"):
        there.open_input()


@contextlib.contextmanager
def server_with_one_answer(status: int, body: str) -> Iterator[str]:
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


DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, DENIED, "access is denied; check the credentials (AWS_ACCESS_KEY_ID"),
        (500, "", f"{UNREACHABLE} or does not answer; check the network"),
        (503, "", f"{UNREACHABLE} or does not answer; check the network"),
    ],
)
def test_server_that_refuses_gets_one_line(
    status: int, body: str, expected: str, s3: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)
    with server_with_one_answer(status, body) as server:
        there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override={server}")
        for access in (
            lambda: scan([there.text]),
            lambda: make_plan([Source("-")], there.text),
            lambda: there.write_bytes(b"x"),
            there.remove,
        ):
            with fails(there, expected):
                access()


def test_missing_server_gets_one_line(s3: Location) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override=http://127.0.0.1:{port}")
    with fails(there, UNREACHABLE):
        there.write_bytes(b"x")


def test_silent_server_times_out(s3: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_SILENT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        there = locate(f"s3://{uuid.uuid4().hex}/a.csv?endpoint_override={url}")
        with fails(there, UNREACHABLE):
            there.exists()


def test_server_that_disappears_while_a_file_is_read_gets_one_line(
    s3: Location, relay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)
    s3.child("f").write_bytes(b"n" * 1000)
    there = locate(f"{s3.text}/f?endpoint_override={relay.url}")
    with there.open_input() as file:
        assert file.read(10) == b"n" * 10
        relay.cut()
        with fails(there, UNREACHABLE), describe_read_errors(there.text, Format.CSV):
            file.read(10)


# --- other file systems ---------------------------------------------------------------


def test_url_may_name_the_endpoint(s3_server: str, new_bucket: str) -> None:
    options = f"?endpoint_override={s3_server}&region=eu-west-1"
    folder = locate(f"s3://{new_bucket}/d/{options}")
    folder.child("a/f.csv").write_bytes(b"x\n1\n")
    (source,) = scan([folder.text])
    assert source.path == folder.child("a/f.csv").text
    assert source.path.endswith(f"/d/a/f.csv{options}")
    (source,) = scan([folder.child("**/*.csv").text])
    assert source.relative == "a/f.csv"
    (output,) = make_plan([source], folder.parent.child("out/").text).outputs
    assert output.location == folder.parent.child("out/a/f.csv")


def test_missing_fsspec_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_fsspec_reaches_a_file_system_with_real_folders(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    there = locate(f"local://{tmp_path}/new/sub folder/f.csv")
    for content in (b"x\n1\n", b"x\n2\n"):
        with there.open_output(fsync=False) as file:
            file.write(content)
    assert (tmp_path / "new/sub folder/f.csv").read_bytes() == b"x\n2\n"
    assert [s.relative for s in scan([f"local://{tmp_path}"])] == ["new/sub folder/f.csv"]
    assert there.parent.parent == locate(f"local://{tmp_path}/new")


# --- commands -------------------------------------------------------------------------


def test_commands_take_urls_of_statistics(s3: Location, tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, 2.0, 4.0]})
    data, stats = tmp_path / "t.parquet", s3.child("of today/stats.json").text
    pq.write_table(table, data)
    assert command("fit", str(data), "-o", stats, "-q") == ""
    assert sbn.load(stats).stats().equals(sbn.Normalizer(sbn.Exact()).update(table).stats())
    out = str(tmp_path / "out.parquet")
    command("apply", stats, str(data), "-o", out, "-q")
    there = "s3://none-of-this-name/s.json"
    failed = command("fit", str(data), "-o", there, code=1)
    assert failed == f"streambn: {there}: there is no bucket 'none-of-this-name'"


def test_commands_do_the_same_in_a_bucket_and_a_folder(s3: Location, tmp_path: Path) -> None:
    for year in (2020, 2021):
        table = pa.table({"x": [year + 0.5, None, 1.0], "s": ["a", "b", None]})
        for folder in (s3, locate(str(tmp_path))):
            with folder.child(f"in/year={year}/t.parquet").open_output(fsync=False) as file:
                pq.write_table(table, file, row_group_size=2)
    there, here = s3.text, str(tmp_path)
    for base in (there, here):
        command("fit", f"{base}/in", "-o", f"{base}/s.json", "-q")
        pattern = f"{base}/in/**/*.parquet"
        command("apply", f"{base}/s.json", pattern, "-o", f"{base}/out/", "-q")
    names = [f"out/year={year}/t.parquet" for year in (2020, 2021)]
    for name in ("s.json", *names):
        assert s3.child(name).read_bytes() == (tmp_path / name).read_bytes()
    assert {file.text for file in walk(s3)} == {
        s3.child(name).text for name in ("s.json", *names)
    } | {s3.child(name.replace("out", "in")).text for name in names}
    assert s3.child("out/_streambn.manifest").exists()
    resume = ["-o", f"{there}/out/", "--resume", "--json", "-q"]
    assert json.loads(command("apply", f"{there}/s.json", f"{there}/in", *resume))["resumed"]
    assert f"{there}/nothing" in command("fit", f"{there}/nothing", "-o", "s.json", code=1)


def test_command_whose_store_disappears_ends_in_one_line(
    s3: Location, relay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "t.parquet")
    relay.cut()
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    job = ["normalize", str(tmp_path / "t.parquet"), "-o", f"{s3.text}/out.parquet"]
    assert "cannot be reached" in command(*job, code=1)
