"""Folders that are local, in S3, and in a file system of fsspec."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_stores import gs, gs_server, memory, new_bucket, s3, s3_server

from streambn.io import Location, locate

__all__ = ["gs", "gs_server", "memory", "new_bucket", "s3", "s3_server"]


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> Location:
    folder: Location = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Return an empty folder: local, in S3, and in a file system of fsspec."""
    if request.param == "local":
        return locate(str(tmp_path))
    folder: Location = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def all_files() -> Callable[[Location], list[str]]:
    """Return the relative paths of all files below a folder, hidden ones too."""

    def all_files(folder: Location) -> list[str]:
        if folder.local is None:
            return ["/".join(names) for names in folder.list_files()]
        local = Path(folder.local)
        return sorted(str(p.relative_to(local)) for p in local.rglob("*") if p.is_file())

    return all_files


class Relay:
    """A TCP relay to a server, which can be cut."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
                with self._lock:
                    self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


@pytest.fixture
def relay(s3_server: str) -> Iterator[Relay]:
    relay = Relay(s3_server)
    yield relay
    relay.cut()
