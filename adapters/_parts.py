"""What distributed engines share: a job's start, what its tasks learned, and their merge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import streambn as sbn
from streambn.errors import InvalidValueError, SnapshotError, StreamBNError

__all__ = [
    "check_frozen",
    "check_normalizer",
    "error_from_json",
    "error_to_json",
    "merge_states",
    "without_data",
]

# A newer version of streambn may have further errors.
_KINDS = {kind.__name__: kind for kind in StreamBNError.__subclasses__()}


def check_normalizer(normalizer: Any) -> None:
    """Raise an InvalidValueError unless it is a live Normalizer."""
    if not isinstance(normalizer, sbn.Normalizer):
        frozen = isinstance(normalizer, sbn.FrozenNormalizer)
        remedy = " Call thaw() on it first." if frozen else ""
        raise InvalidValueError(
            f"normalizer must be a streambn.Normalizer, got {type(normalizer).__name__}.{remedy}",
            argument="normalizer",
        )


def check_frozen(frozen: Any) -> None:
    """Raise an InvalidValueError unless it is a FrozenNormalizer."""
    if not isinstance(frozen, sbn.FrozenNormalizer):
        live = isinstance(frozen, sbn.Normalizer)
        remedy = " Call freeze() on it first." if live else ""
        raise InvalidValueError(
            f"frozen must be a streambn.FrozenNormalizer, got {type(frozen).__name__}.{remedy}",
            argument="frozen",
        )


def without_data(normalizer: sbn.Normalizer) -> sbn.Normalizer:
    """Return a normalizer with the same policy, options and columns that has seen no row."""
    statistics = normalizer.statistics
    binding = statistics.binding
    if binding is not None:
        statistics = replace(statistics, state=statistics.policy.init(binding.width))
    return sbn.Normalizer.from_statistics(statistics)


def merge_states(start: sbn.Normalizer, states: Iterable[bytes], engine: str) -> sbn.Normalizer:
    """Return the statistics of `start` followed by what tasks learned, in the given order.

    Parameters
    ----------
    start : Normalizer
    states : iterable of bytes
        What `Normalizer.to_bytes` returned. They are read and merged one after the other.
    engine : str
        Name of the engine, for messages.

    Raises
    ------
    SnapshotError
        The workers have another version of streambn.
    MergeError
        See `streambn.merge`.
    """
    return sbn.merge(chain([start], _read(states, engine)))


def _read(states: Iterable[bytes], engine: str) -> Iterator[sbn.Normalizer]:
    for state in states:
        try:
            learned = sbn.from_bytes(state)
        except SnapshotError as error:
            raise SnapshotError(f"the statistics of a {engine} worker: {error.message}") from error
        assert isinstance(learned, sbn.Normalizer)
        yield learned


def error_to_json(error: StreamBNError) -> str:
    """Return an error of a task as text for the driver, where `error_from_json` reads it."""
    details = {name: getattr(error, name) for name in ("argument", "column", "source")}
    return json.dumps([type(error).__name__, error.message, details])


def error_from_json(text: str) -> StreamBNError:
    """Return the error that `error_to_json` wrote, of its own kind."""
    kind, message, details = json.loads(text)
    return _KINDS.get(kind, StreamBNError)(message, **details)
