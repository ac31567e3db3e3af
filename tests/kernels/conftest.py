"""Fixtures for the tests of the kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from producers import assert_all_released

from streambn.kernels import reference


@pytest.fixture(scope="module")
def native():
    """Return the compiled kernels."""
    return pytest.importorskip(
        "streambn.kernels.native",
        reason="the compiled kernels are missing: install streambn where there is a C++ compiler",
        exc_type=ImportError,
    )


@pytest.fixture(scope="module", params=["reference", "native"])
def kernels(request):
    """Return each of the two implementations, whichever is active."""
    return reference if request.param == "reference" else request.getfixturevalue("native")


@pytest.fixture
def threads(native):
    """Give a test the function that sets the number of threads, and restore it afterwards."""
    before = native._threads
    yield native.set_threads
    native.set_threads(before)


SCRIPT = """
import sys
from decimal import Decimal
import numpy as np, pyarrow as pa
from streambn.kernels import BoundColumn, Columns, Layout, Times, native
found = []
{}
np.save(sys.argv[1], np.concatenate(found, axis=-1))
print(native.simd)
"""


@pytest.fixture
def by_instruction_set(native, tmp_path):
    """Return a function that joins the arrays that code appends to `found`, per instruction set."""

    def run(code):
        results, used = {}, set()
        for simd in ("", "baseline", "avx2", "avx512"):
            path = tmp_path / f"{simd}.npy"
            command = [sys.executable, "-c", SCRIPT.format(code), path]
            environment = {**os.environ, "STREAMBN_SIMD": simd}
            used.add(subprocess.check_output(command, env=environment, text=True).strip())
            results[simd] = np.load(path)
        assert {"baseline", native.simd} <= used
        return results

    return run


@pytest.fixture
def check_released():
    """Check after a test that its hand-made producers lost no capsule and no struct."""
    yield
    assert_all_released()
