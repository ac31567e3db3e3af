"""What distributed engines share: a job's start, what its tasks learned, and their merge."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
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
    "order_names",
    "read_state",
    "read_states",
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


def order_names(order_by: Any) -> tuple[str, ...]:
    """Return the columns that the argument `order_by` names.

    Raises
    ------
    InvalidValueError
        It is not a name or names.
    """
    names = (order_by,) if isinstance(order_by, str) else order_by
    if (
        not isinstance(names, Sequence)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        raise InvalidValueError(
            f"order_by must be a column's name, or a list of names, got {order_by!r}.",
            argument="order_by",
        )
    return tuple(names)


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
    return sbn.merge(chain([start], read_states(states, engine)))


def read_states(states: Iterable[bytes], engine: str) -> Iterator[sbn.Normalizer]:
    """Yield what tasks learned; the errors are those of `merge_states`."""
    for state in states:
        try:
            learned = sbn.from_bytes(state)
        except SnapshotError as error:
            raise SnapshotError(f"the statistics of a {engine} worker: {error.message}") from error
        assert isinstance(learned, sbn.Normalizer)
        yield learned


@functools.lru_cache(maxsize=8)
def read_state(content: bytes, engine: str) -> sbn.Normalizer | sbn.FrozenNormalizer:
    """Return the normalizer that the driver sent; all tasks of a worker share it.

    Raises
    ------
    SnapshotError
        Driver and worker have different versions of streambn.
    """
    try:
        return sbn.from_bytes(content)
    except SnapshotError as error:
        raise SnapshotError(
            f"on a {engine} worker, which has streambn {sbn.__version__}: {error.message}"
        ) from error


def error_to_json(error: StreamBNError) -> str:
    """Return an error of a task as text for the driver, where `error_from_json` reads it."""
    details = {name: getattr(error, name) for name in ("argument", "column", "source")}
    return json.dumps([type(error).__name__, error.message, details])


def error_from_json(text: str) -> StreamBNError:
    """Return the error that `error_to_json` wrote, of its own kind."""
    kind, message, details = json.loads(text)
    return _KINDS.get(kind, StreamBNError)(message, **details)
