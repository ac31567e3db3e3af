"""A Ray cluster of this machine for tests."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

SETTINGS: dict[str, Any] = {
    "address": "local",  # another process of the tests may have one too
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "object_store_memory": 200 << 20,
}


@contextlib.contextmanager
def cluster(**settings: Any) -> Iterator[Any]:
    """Start Ray unless this process has it already, and stop it again."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        # The context of Ray Data sets options of its own that it has deprecated.
        warnings.filterwarnings("ignore", r"`use_\w+` is deprecated", DeprecationWarning)
        data = pytest.importorskip("ray.data", reason="needs ray: pip install 'ray[data]'")
        context = data.DataContext.get_current()
    ray = pytest.importorskip("ray")
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    started = not ray.is_initialized()
    if started:
        # Workers import from the folder in which Ray is started before all others. The root of a
        # checkout has a streambn without adapters.
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            ray.init(**{**SETTINGS, **settings})
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()
