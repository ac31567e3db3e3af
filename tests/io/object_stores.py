"""Servers of S3 and Google Cloud Storage in other processes, and objects with any key in them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator

import pytest
from pyarrow import fs

from streambn.io import Location, locate

__all__ = ["gs", "gs_server", "memory", "new_bucket", "put", "s3", "s3_server"]

S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # until the test process closes it
server.stop()
"""
GS_SERVER = """
import http.server, sys
http.server.HTTPServer = http.server.ThreadingHTTPServer  # as a job reads on several threads
from gcp_storage_emulator import server, storage
storage._FileStore._norm = staticmethod(lambda path: path)  # it refuses keys that GCS takes
server = server.create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(*server._api._httpd.server_address, flush=True)
sys.stdin.read()
server.stop()
"""


def run_server(code: str) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", code],
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Run a server of S3 in another process, and return its URL."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask")):
        pytest.skip("needs a server of S3: pip install 'moto[server]'")
    yield from run_server(S3_SERVER)


@pytest.fixture
def new_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a bucket, set the credentials in the environment, and return the bucket's name."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    name = f"bucket-{uuid.uuid4().hex}"
    fs.S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True).create_dir(name)
    return name


@pytest.fixture
def s3(s3_server: str, new_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Return an empty bucket of the server that the environment names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return locate(f"s3://{new_bucket}")


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """Run a server of Google Cloud Storage in another process, and return its URL."""
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        pytest.skip("needs a server of GCS: pip install gcp-storage-emulator")
    yield from run_server(GS_SERVER)


@pytest.fixture
def gs(gs_server: str) -> Location:
    """Return an empty bucket of the server, whose URL names it."""
    name = f"bucket-{uuid.uuid4().hex}"
    _post(f"{gs_server}/storage/v1/b?project=test", "application/json", f'{{"name": "{name}"}}')
    return locate(f"gs://{name}?endpoint_override={gs_server}&anonymous=true")


@pytest.fixture
def memory() -> Location:
    pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    return locate(f"memory://{uuid.uuid4().hex}")


def put(bucket: Location, key: str, content: bytes) -> None:
    """Write an object as an attacker does, with a key that Arrow may refuse."""
    name = bucket.key.strip("/")
    if bucket.store.startswith("s3:"):
        boto3 = pytest.importorskip("boto3")
        boto3.client("s3", region_name="us-east-1").put_object(Bucket=name, Key=key, Body=content)
    elif bucket.store.startswith("gs:"):
        endpoint = urllib.parse.parse_qs(bucket.store.partition("?")[2])["endpoint_override"][0]
        query = urllib.parse.urlencode({"uploadType": "media", "name": key})
        _post(f"{endpoint}/upload/storage/v1/b/{name}/o?{query}", "text/csv", content.decode())
    else:
        pytest.importorskip("fsspec").filesystem("memory").pipe_file(f"/{name}/{key}", content)


def _post(url: str, kind: str, content: str) -> None:
    request = urllib.request.Request(url, content.encode(), {"Content-Type": kind})
    urllib.request.urlopen(request).close()
