"""Ray's workers: the state that they get, and failures of a job understood."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from streambn.errors import InvalidValueError

__all__ = ["job", "start_task"]

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
