"""Hypothesis strategies of URLs with credentials, and a file system that takes such URLs."""

from __future__ import annotations

import io
import string
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import strategies as st

__all__ = ["SecretUrl", "secret_urls", "vault"]

# A password should have no other characters as they are, but people paste what they have.
_PLAIN = string.ascii_letters + string.digits + "-._~!$*+,"
_PASSWORDS = st.text(_PLAIN + "@/?#:&= '\"%", min_size=6, max_size=24).filter(
    # What looks like the scheme of a second URL is taken for one.
    lambda text: "::" not in text
)
_HOSTS = st.sampled_from(["host", "example.com", "10.0.0.1", "[::1]", "example.com:8080"])
_PATHS = st.sampled_from(["", "/", "/x.csv", "/a b/ü.csv", "/in/**/*.parquet", "/k=v/x.csv"])
_OPTIONS = st.sampled_from(
    [
        *("secret_key", "secret", "password", "pwd", "sig", "X-Amz-Signature", "access_token"),
        *("X-Amz-Security-Token", "api_key", "apikey", "key", "sas_token", "account_key", "auth"),
        *("AWSAccessKeyId", "code", "s%65cret"),
    ]
)
_SCHEMES = st.sampled_from(
    ["ftp", "sftp", "ssh", "http", "https", "s3", "gs", "webdav", "postgresql", "jdbc:mysql"]
)


class SecretUrl(NamedTuple):
    """A URL, and the secret in it."""

    url: str
    secret: str

    @property
    def spellings(self) -> set[str]:
        """Return the secret as it is, and with its characters decoded."""
        return {self.secret, unquote(self.secret)}


@st.composite
def secret_urls(draw: st.DrawFn) -> SecretUrl:
    """Return URLs with a password or token, which may be encoded or not."""
    scheme, host, path = draw(_SCHEMES), draw(_HOSTS), draw(_PATHS)
    # The start keeps a secret from being a word of the URL or of the message.
    password = f"zQ{draw(_PASSWORDS)}"
    encoded = quote(password, safe="")
    plain = f"zQ{draw(st.text(_PLAIN, min_size=6, max_size=24))}"
    option, endpoint = draw(_OPTIONS), f"http://user:{plain}@{host}"
    shapes = [
        SecretUrl(f"{scheme}://user:{password}@{host}{path}", password),
        SecretUrl(f"{scheme}://user:{encoded}@{host}{path}", encoded),
        SecretUrl(f"{scheme}://{encoded}@{host}{path}", encoded),
        SecretUrl(f"{scheme}://{host}{path}?{option}={encoded}&x=1", encoded),
        SecretUrl(f"{scheme}://{host}{path}?x=1&{option}={password}", password),
        SecretUrl(f"zip://x.csv::{scheme}://:{encoded}@{host}/y.zip", encoded),
        SecretUrl(f"s3://bucket{path}?region=x&endpoint_override={endpoint}", plain),
        SecretUrl(f"{scheme}://{host}{path}#token={encoded}", encoded),
    ]
    return shapes[draw(st.integers(0, len(shapes) - 1))]


class _Broken(io.BytesIO):
    """A file whose server fails after some bytes."""

    def __init__(self, content: bytes, credentials: str) -> None:
        super().__init__(content)
        self._password = credentials.partition(":")[2]

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(f"530 user ada, password {self._password}: connection lost")
        return super().read(size)


def vault() -> Any:
    """Return the class of a file system in memory whose URLs are vault://user:password@host/path.

    Its errors quote the URL and the password, as those of some libraries do.
    """
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec: pip install fsspec")
    memory = pytest.importorskip("fsspec.implementations.memory")

    class Vault(memory.MemoryFileSystem):  # type: ignore[misc,name-defined]
        protocol = "vault"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]
        refused: ClassVar[set[str]] = set()
        broken: ClassVar[set[str]] = set()
        cachable = False

        def __init__(self, host: str = "", user: str = "", password: str = "", **_: Any) -> None:
            super().__init__()
            self.credentials = f"{user}:{password}"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            if "://" in path:
                path = path.rpartition("@")[2].partition("/")[2]
            return f"/{path.strip('/')}"

        @staticmethod
        def _get_kwargs_from_urls(path: str) -> dict[str, str]:
            user, _, host = path.partition("://")[2].rpartition("@")
            return {"user": user.partition(":")[0], "password": unquote(user.partition(":")[2]),
                    "host": host.partition("/")[0]}  # fmt: skip

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            if path in self.refused:
                raise OSError(f"vault://{self.credentials}@host{path}: login by "
                              f"{self.credentials.partition(':')[2]!r} failed")  # fmt: skip
            file = super()._open(path, mode, **options)
            if path in self.broken and mode == "rb":
                return _Broken(file.getvalue(), self.credentials)
            return file

    fsspec.register_implementation("vault", Vault, clobber=True)
    return Vault
