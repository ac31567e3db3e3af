"""The command `streambn` itself, and what its commands have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

import streambn as sbn
from streambn.errors import InvalidValueError, StreamBNError

__all__ = ["UsageError", "Version", "app", "as_frozen", "as_live", "streambn", "usage"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import pyarrow as pa  # noqa: PLC0415

        from streambn import kernels  # noqa: PLC0415

        print(f"streambn {sbn.__version__}, {kernels.describe()}; pyarrow {pa.__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, help="Print the version and the kernels."
    ),
]


@app.callback()
def streambn(version: Version = False) -> None:
    """Batch normalization's running statistics for any data: fit, freeze, apply.

    Try it: [bold]streambn demo[/bold]
    """


class UsageError(StreamBNError):
    """The command line makes no sense as a whole: exit code 2."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Tell a bad argument from a bad value in the data, which is the same exception."""
    try:
        yield
    except InvalidValueError as error:
        raise UsageError(str(error)) from error


def as_live(loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> sbn.Normalizer:
    """Return statistics that can learn."""
    return loaded.thaw() if isinstance(loaded, sbn.FrozenNormalizer) else loaded


def as_frozen(loaded: sbn.Normalizer | sbn.FrozenNormalizer) -> sbn.FrozenNormalizer:
    """Return statistics that can be applied."""
    return loaded if isinstance(loaded, sbn.FrozenNormalizer) else loaded.freeze()
