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
from hypothesis import given, settings
from hypothesis import strategies as st

from streambn.io.atomic import atomic_write


def listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@settings.get_profile("few")
@given(parts=st.lists(st.binary(max_size=100)), old=st.none() | st.binary())
def test_file_appears_when_the_block_ends(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], old: bytes | None
) -> None:
    folder = tmp_path_factory.mktemp("atomic")
    path = folder / "file"
    if old is not None:
        path.write_bytes(old)
    with atomic_write(path) as file:
        for part in parts:
            file.write(part)
            # Until the block ends, readers see the old file.
            assert (path.read_bytes() if path.exists() else None) == old
    assert path.read_bytes() == b"".join(parts)
    assert listing(folder) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_error_in_the_block_keeps_the_old_file(
    error: type[BaseException], old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"new" * 100_000)
            raise error("stop")

    with pytest.raises(error):
        write()
    assert listing(tmp_path) == ([] if old is None else ["file"])
    if old is not None:
        assert path.read_bytes() == old


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_failed_system_call_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"new")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            write()
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["file"]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse the write, as a full disk does."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = textwrap.dedent("""
        import resource, sys
        from streambn.io.atomic import atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with atomic_write(sys.argv[1]) as file:
                file.write(b"n" * 100_000)
        except OSError as error:
            print(error.strerror)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["file"]


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, a power cut leaves either the old file or the new one."""
    path = tmp_path / "file"
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        mode = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(mode.st_mode) else f"content {mode.st_size}")
        fsync(handle)

    def record_replace(source: str, target: Path) -> None:
        assert Path(source).parent == tmp_path  # a rename is atomic within one file system only
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with atomic_write(path) as file:
        file.write(b"12345")
    assert events == ["content 5", "rename", "folder"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_file_has_the_mode_that_open_gives(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "file"):
            pass
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_replaced_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with atomic_write(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_temporary_file_is_private(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file"):
        [name] = listing(tmp_path)
        assert name.startswith(".file.")
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert listing(tmp_path / "there") == ["file"]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "there" / "later")
    with atomic_write(dangling) as file:
        file.write(b"now")
    assert (tmp_path / "there" / "later").read_bytes() == b"now"


def test_folder_is_neither_replaced_nor_created(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with atomic_write(path) as file:
            file.write(b"new")

    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "file")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("as_text", [True, False])
def test_path_may_be_relative_and_a_string(
    as_text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write("file" if as_text else Path("file")) as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_name_may_have_255_bytes(tmp_path: Path) -> None:
    """The name of the temporary file must not be longer."""
    path = tmp_path / ("n" * 250 + ".json")
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == [path.name]


def test_pipe_or_device_is_never_replaced(tmp_path: Path) -> None:
    """As root, a rename to /dev/null would remove it for the whole system."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Writing into the pipe and refusing it are both correct.
        with contextlib.suppress(OSError), atomic_write(pipe) as file:
            file.write(b"new")
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert listing(tmp_path) == ["pipe"]


def test_concurrent_readers_and_writers_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = [bytes([48 + i]) * (1 + 50_000 * i) for i in range(4)]
    path.write_bytes(whole[0])
    done, torn = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            if path.read_bytes() not in whole:
                torn.append("torn")

    def write(content: bytes) -> None:
        for _ in range(20):
            with atomic_write(path) as file:
                file.write(content)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in whole]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    reader.join(60)
    assert torn == []
    assert listing(tmp_path) == ["file"]
