"""Credentials in URLs: no message, report or stored file may contain them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from streambn._lazy import lazy_module

# `streambn --help` takes less time without it.
urls = lazy_module("urllib.parse")

__all__ = ["conceal", "redact", "redact_url", "remember", "safe_cause"]

_HIDDEN = "***"
# Patterns are compiled when they are needed: `streambn --help` needs none.
# A URL in a text. A path that was normalized keeps one slash of two.
_URL = r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]+:/+[^\s'\"<>`]+"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.:-]+:/+"
# The next URL of a chain such as zip://x.csv::https://host/y.zip.
_NEXT = r"::(?=[A-Za-z][A-Za-z0-9+.:-]+:/)"
_AUTHORITY_END = rf"[/?#]|{_NEXT}"
# An authority that is a host and a port, and not a user and the start of a password.
_HOST_AND_PORT = r"(localhost|[0-9]+(\.[0-9]+){3}|\[[0-9A-Fa-f:.]*\])(:[0-9]*)?"
# As in abfs://container@account.dfs.core.windows.net/path.
_CONTAINER_SCHEMES = {"abfs", "abfss", "wasb", "wasbs"}
# Parts of the names of options that hold a secret.
_SECRET_NAME = (
    "(?i)"
    r"pass|pwd|secret|token|key|sig|cred|auth|session|sas|jwt|code|user|login|account"
)
# Options of streambn's own URLs, which hold none, except the URL of an endpoint with a user.
_OPEN_NAMES = {"endpoint_override", "region", "scheme", "anonymous"}
# Longer values of other options may be secrets.
_MAX_OPEN_VALUE = 20
# Shorter secrets are not looked for in the messages of other libraries, which contain such letters
# anyway.
_MIN_SECRET = 4
# Shorter ones are not hidden in texts about other things.
_MIN_REMEMBERED = 6
# The credentials of the URLs that were opened, the longest first.
_remembered: tuple[str, ...] = ()


def redact(text: str) -> str:
    """Return a text in which the credentials of all URLs are hidden.

    A URL in a text ends at a space or a quotation mark. `redact_url` takes one URL with all of its
    characters.

    Examples
    --------
    >>> redact("cannot open ftp://ada:s3cret@host/x.csv")
    'cannot open ftp://***@host/x.csv'
    >>> redact("https://host/x.csv?format=csv&sig=AbC")
    'https://host/x.csv?format=csv&sig=***'
    """
    if ":/" in text:
        text = re.sub(_URL, lambda url: redact_url(url[0]), text)
    for secret in _remembered:
        text = text.replace(secret, _HIDDEN)
    return text


def remember(url: str) -> None:
    """Hide the credentials of this URL in every text from now on.

    Another library may name a password in an error long after it opened the URL, and on any
    thread.
    """
    global _remembered  # noqa: PLW0603
    secrets = {secret for secret in _spelled(url) if len(secret) >= _MIN_REMEMBERED}
    if not secrets.issubset(_remembered):
        _remembered = tuple(sorted({*_remembered, *secrets}, key=len, reverse=True))


def redact_url(url: str) -> str:
    """Return a path or URL in which the credentials are hidden."""
    if ":/" not in url:
        return url
    parts, end = [], 0
    for start, stop in _credentials(url):
        parts += [url[end:start], _HIDDEN]
        end = stop
    return "".join([*parts, url[end:]])


def conceal(text: str, url: str) -> str:
    """Return a message of another library about a URL, with the credentials of the URL hidden.

    The message may quote the URL, a part of it, or its parts decoded.
    """
    text = text.replace(url, redact_url(url)) if url else text
    for secret in sorted(_spelled(url), key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, _HIDDEN)
    return redact(text)


def _spelled(url: str) -> set[str]:
    """Return the credentials in a URL, as they are and decoded."""
    return {spelling for part in _secrets(url) for spelling in (part, urls.unquote(part))}


def _secrets(url: str) -> Iterator[str]:
    """Yield the credentials in a URL, whole and in parts."""
    for start, stop in _credentials(url):
        hidden = url[start:stop]
        for part in (hidden, hidden.rpartition("@")[0]):
            yield part
            yield part.partition(":")[2]  # after the user
        for option in re.split("[?&#;]", hidden):
            yield option
            yield option.partition("=")[2]
        yield from _secrets(urls.unquote(hidden))  # of the URL of an endpoint


def safe_cause(error: BaseException, url: str = "") -> BaseException | None:
    """Return an error for the traceback of another one; None if its text holds credentials."""
    text = str(error)
    return error if conceal(text, url) == text else None


def _credentials(url: str) -> Iterator[tuple[int, int]]:
    """Yield where the credentials in a URL start and end."""
    begin = 0
    while (scheme := re.compile(_SCHEME).match(url, begin)) is not None:
        start, stop = scheme.end(), len(url)
        # The colon of a password may look like a chain.
        following = None if ":" in _authority(url, start) else re.compile(_NEXT).search(url, start)
        if following is not None:
            stop = following.start()
        options = list(_secret_options(url, start, stop))
        place = _has_place(
            scheme[0].rstrip(":/").rpartition(":")[2].lower(), _authority(url, start)
        )
        user_end = -1 if place else _end_of_user(url, start, stop)
        if any(option < user_end for option, _ in options):  # which of both is not certain
            yield start, stop
        else:
            if user_end >= 0:
                yield start, user_end
            yield from options
        if following is None:
            return
        begin = following.end()


def _has_place(scheme: str, authority: str) -> bool:
    """Return whether the part before the ``@`` names a place: a container, or a repository."""
    return scheme == "github" or (scheme in _CONTAINER_SCHEMES and ":" not in authority)


def _authority(url: str, start: int) -> str:
    """Return the host, with the user, the password and the port if they are there."""
    end = re.compile(_AUTHORITY_END).search(url, start)
    return url[start : end.start() if end else len(url)]


def _end_of_user(url: str, start: int, stop: int) -> int:
    """Return the index of the ``@`` after the user and password; -1 if there is none.

    A password may hold ``@``, ``/`` and ``?`` although they should be encoded, so it reaches to
    the last ``@``. That hides more than needed where the path has one too.
    """
    authority = _authority(url, start)
    if ":" in authority and not re.fullmatch(_HOST_AND_PORT, authority):
        return url.rfind("@", start, stop)
    return url.rfind("@", start, start + len(authority))


def _secret_options(url: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield where the values of options with secrets are; what follows one may belong to it."""
    for option in re.finditer(r"(?<=[?&#;])([^?&#;=/]+)=([^?&#;]*)", url[:stop]):
        name, value = urls.unquote(option[1]), urls.unquote(option[2])
        if option.start() < start:
            continue
        if name in _OPEN_NAMES:
            if "@" in value:
                yield option.span(2)
        elif re.search(_SECRET_NAME, name) or len(value) > _MAX_OPEN_VALUE:
            yield option.start(2), stop
            return
