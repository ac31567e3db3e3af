"""Credentials in URLs: nothing that is shown or stored holds them."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from urls import SecretUrl, secret_urls, vault

from streambn import _credentials
from streambn._credentials import conceal, redact, redact_url
from streambn._messages import shown
from streambn.errors import StreamBNError
from streambn.io import Source, locate, scan

Run = Callable[..., Any]
PASSWORD = "s3cret/w@rd"


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    """Keep the secrets of these tests from being hidden in the messages of others."""
    yield
    _credentials._remembered = ()


@given(secret_urls())
@example(SecretUrl("ftp://user:12/345678@host/x.csv", "12/345678"))
@example(SecretUrl("s3://AKIA:abc/de+fgh@bucket/x.csv", "abc/de+fgh"))
@example(SecretUrl("ftp://user:p?a=b@h:c@host/x.csv", "p?a=b@h:c"))
@example(SecretUrl("https:/user:secret@host/x.csv", "secret"))
def test_no_url_is_shown_with_its_secret(case: SecretUrl) -> None:
    url = case.url
    texts = [
        redact_url(url),
        repr(Source(url)),
        Source(url).name,
        Source(url).identity,
        conceal(f"cannot open {url!r}: {url}", url),
        *(conceal(f"530 login by {secret!r} failed", url) for secret in case.spellings),
    ]
    if not set(url) & set(" '\"<>`"):  # where a URL in a text ends
        texts += [redact(f"cannot open '{url}'"), shown(f"{url}: no such file")]
        texts += [str(StreamBNError(f"{url} is damaged")), str(StreamBNError("", source=url))]
    for text in texts:
        assert not [secret for secret in case.spellings if secret in text]


@given(secret_urls())
def test_no_error_of_a_location_shows_the_secret(case: SecretUrl) -> None:
    try:
        text = repr(locate(case.url))
    except StreamBNError as error:
        text = "".join(traceback.format_exception(error, chain=True)).partition("Traceback")[2]
        text = "".join(line for line in text.splitlines(True) if not line.startswith("  "))
    assert not [secret for secret in case.spellings if secret in text]


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/year=20?0/a@b.csv",
        "s3://bucket/x.csv?region=eu-west-1&endpoint_override=http://127.0.0.1:9000",
        "https://host/a@b.csv?format=csv&version=3",
        "http://localhost:8080/a@b.csv",
        "abfss://container@account.dfs.core.windows.net/a.csv",
        "github://owner:repository@main/a.csv",
        "data/a@b.csv",
        "C:/Users/a@b.csv",
        "12:30:05 https://host/x",
    ],
)
def test_a_url_without_credentials_is_shown_whole(url: str) -> None:
    assert redact_url(url) == redact(url) == url


def test_arrow_stores_refuse_credentials_in_a_url() -> None:
    for url in ("s3://AK:SK@bucket/x", "s3://AK:S/K@bucket/x", "gs://token@bucket/x"):
        with pytest.raises(StreamBNError, match="must not contain credentials") as error:
            locate(url)
        assert "SK" not in str(error.value)
        assert "token" not in str(error.value)


def test_jobs_neither_show_nor_store_a_password(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = vault()
    files.store.clear()
    seen = []

    def job(*arguments: str, code: int = 0) -> Any:
        done = run(*arguments, "--json")
        seen.extend([done.out, *done.lines])
        assert done.code == code, done.lines
        return json.loads(done.out)

    base = f"vault://ada:{quote(PASSWORD, safe='')}@host"
    for name, text in {"a": "x\n1\n2\n", "b": "x\n1\n5\n", "c": "x\n1\n?\n"}.items():
        files().pipe_file(f"/in/{name}.csv", text.encode())
    fit = ["fit", f"{base}/in", "-o", f"{base}/s.json", "--csv-type", "x=double"]
    job(*fit, "--checkpoint-every", "1", code=1)
    assert files().exists("/s.json.checkpoint")
    seen.append(files().cat("/s.json.checkpoint").decode())
    files().pipe_file("/in/c.csv", b"x\n1\n3\n")
    # Another user resumes the job.
    assert job(*(part.replace("ada", "bob") for part in fit), "--resume")["resumed"]
    apply = ["apply", f"{base}/s.json", f"{base}/in", "-o", f"{base}/out/"]
    assert job(*apply)["output"] == "vault://***@host/out/"
    assert job(*apply, "--resume")["resumed"]
    assert job(*(part.replace("ada", "bob") for part in apply), "--resume")["resumed"]
    files().pipe_file("/in/d.parquet", b"PAR1 damaged")
    skipped = job("normalize", f"{base}/in", "-o", "out.csv", "--on-error", "skip")["skipped"]
    assert [part["file"] for part in skipped] == ["vault://***@host/in/d.parquet"]
    files.refused.add("/in/a.csv")
    failed = job("fit", f"{base}/in", "-o", "t.json", code=1)["error"]
    assert failed.startswith("vault://***@host/in/a.csv: vault://***@host/in/a.csv: login by ")
    assert failed.endswith("login by '***' failed")
    files.refused.clear()
    files.broken.add("/in/b.csv")
    failed = job("fit", f"{base}/in/b.csv", "-o", "t.json", code=1)["error"]
    assert "530 user ada, password ***: connection lost" in failed
    files.broken.clear()
    job("fit", f"{base}/none", "-o", "t.json", code=1)
    job("fit", f"{base}/in", "-o", f"{base}/in/a.csv", code=2)
    job("apply", f"{base}/in/a.csv", f"{base}/in", "-o", "out/", code=5)
    with pytest.raises(StreamBNError):
        scan([f"{base}/none*"])
    for path, file in files.store.items():
        seen.append(f"{path} {file.getvalue()!r}")
    seen += [f"{path} {path.read_bytes()!r}" for path in Path().rglob("*") if path.is_file()]
    assert len(seen) > 20
    assert not [text for text in seen if PASSWORD in text or "w@rd" in text or "s3cret" in text]


def test_a_password_with_a_slash_in_a_store_of_arrow_is_not_shown(run: Run) -> None:
    done = run("fit", "s3://AK:S/ECRET@bucket/x.csv", "-o", os.devnull)
    assert done.code == 1
    assert "ECRET" not in "".join(done.lines)
