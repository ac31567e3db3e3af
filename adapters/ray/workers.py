"""Ray's workers: the state that they get, and failures of a job understood."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

import streambn as sbn
from streambn.errors import InvalidValueError, SnapshotError

__all__ = ["job", "read_state", "start_task"]

_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError): (.*streambn.*)")


@contextmanager
def job() -> Iterator[None]:
    """Run a Ray job; workers without streambn become one clear line, other failures stay."""
    try:
        yield
    except RayError as error:
        if missing := _MISSING.search(str(error)):
            raise InvalidValueError(
                f"Ray's workers cannot import streambn ({missing[1].strip()}). Install the "
                "driver's version on every node, or ship it: ray.init(runtime_env={'pip': "
                "['streambn']}).",
                argument="ds",
            ) from error
        raise


def start_task() -> None:
    """Limit the kernels of this worker to the cores of one task, which Ray tells OpenMP.

    The kernels read the variable when they are first used.
    """
    os.environ.setdefault("STREAMBN_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))


@functools.lru_cache(maxsize=8)
def read_state(content: bytes) -> sbn.Normalizer | sbn.FrozenNormalizer:
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
            f"on a Ray worker, which has streambn {sbn.__version__}: {error.message}"
        ) from error
