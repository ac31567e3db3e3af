"""Atomic writes: a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streambn.io.atomic import atomic_write

FILE = Path("file")
# The examples of a test share its folder.
FEW = settings(
    settings.get_profile("few"), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str | Path, content: bytes = b"new", error: BaseException | None = None) -> None:
    with atomic_write(path) as file:
        file.write(content)
        if error is not None:
            raise error


def listing(folder: Path = Path()) -> list[str]:
    return sorted(os.listdir(folder))


@FEW
@given(parts=st.lists(st.binary(max_size=100)), old=st.none() | st.binary())
def test_file_appears_when_the_block_ends(parts: list[bytes], old: bytes | None) -> None:
    FILE.unlink(missing_ok=True)
    if old is not None:
        FILE.write_bytes(old)
    with atomic_write(FILE) as file:
        for part in parts:
            file.write(part)
            # Until the block ends, readers see the old file.
            assert (FILE.read_bytes() if FILE.exists() else None) == old
    assert FILE.read_bytes() == b"".join(parts)
    assert listing() == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [[], [b"old"]])
def test_error_in_the_block_keeps_the_old_file(
    error: type[BaseException], old: list[bytes]
) -> None:
    for content in old:
        FILE.write_bytes(content)
    with pytest.raises(error):
        write(FILE, b"new" * 100_000, error("stop"))
    assert [Path(name).read_bytes() for name in listing()] == old


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_failed_system_call_keeps_the_old_file(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FILE.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            write(FILE)
    assert FILE.read_bytes() == b"old"
    assert listing() == ["file"]


def test_full_disk_keeps_the_old_file() -> None:
    """A limit on the size of files makes the system refuse the write, as a full disk does."""
    FILE.write_bytes(b"old")
    program = textwrap.dedent("""
        import resource, sys
        from streambn.io.atomic import atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with atomic_write("file") as file:
                file.write(b"n" * 100_000)
        except OSError as error:
            print(error.strerror)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert FILE.read_bytes() == b"old"
    assert listing() == ["file"]


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this order, a power cut leaves either the old file or the new one."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        mode = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(mode.st_mode) else f"content {mode.st_size}")
        fsync(handle)

    def record_replace(source: str, target: Path) -> None:
        assert (
            Path(source).parent.resolve() == Path.cwd()
        )  # a rename is atomic within one file system only
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write(FILE, b"12345")
    assert events == ["content 5", "rename", "folder"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_file_has_the_mode_that_open_gives(mask: int) -> None:
    before = os.umask(mask)
    try:
        write(FILE)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(FILE.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_replaced_file_keeps_its_mode(mode: int) -> None:
    FILE.touch()
    FILE.chmod(mode)
    write(FILE)
    assert stat.S_IMODE(FILE.stat().st_mode) == mode


def test_temporary_file_is_private() -> None:
    with atomic_write(FILE):
        [name] = listing()
        assert name.startswith(".file.")
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


def test_symbolic_link_is_followed() -> None:
    Path("there").mkdir()
    Path("there/file").write_bytes(b"old")
    for target in ("there/file", "there/later"):  # the second link dangles
        link = Path(f"link to {Path(target).name}")
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert Path(target).read_bytes() == b"new"
    assert listing(Path("there")) == ["file", "later"]


def test_folder_is_neither_replaced_nor_created(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    with pytest.raises(FileNotFoundError):
        write(Path("none/file"))
    assert listing() == []


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("absolute", [True, False])
def test_path_may_be_relative_and_a_string(kind: type, absolute: bool, tmp_path: Path) -> None:
    write(kind(tmp_path / "file" if absolute else "file"))
    assert FILE.read_bytes() == b"new"


def test_name_may_have_255_bytes() -> None:
    """The name of the temporary file must not be longer."""
    path = Path("n" * 250 + ".json")
    write(path)
    assert path.read_bytes() == b"new"
    assert listing() == [path.name]


def test_pipe_or_device_is_never_replaced() -> None:
    """As root, a rename to /dev/null would remove it for the whole system."""
    pipe = Path("pipe")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Writing into the pipe and refusing it are both correct.
        with contextlib.suppress(OSError):
            write(pipe)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert listing() == ["pipe"]


def test_concurrent_readers_and_writers_see_whole_files() -> None:
    whole = [bytes([48 + i]) * (1 + 50_000 * i) for i in range(4)]
    FILE.write_bytes(whole[0])
    done, torn = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            if FILE.read_bytes() not in whole:
                torn.append("torn")

    def write_often(content: bytes) -> None:
        for _ in range(20):
            write(FILE, content)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write_often, args=(content,)) for content in whole]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    reader.join(60)
    assert torn == []
    assert listing() == ["file"]
