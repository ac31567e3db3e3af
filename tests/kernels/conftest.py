"""Fixtures for the tests of the kernels."""

from __future__ import annotations

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
def check_released():
    """Check after a test that its hand-made producers lost no capsule and no struct."""
    yield
    assert_all_released()
