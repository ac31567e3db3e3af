"""The arithmetic: arrays in, arrays out. The only place where speed is bought.

The functions of `streambn.kernels.reference`, in whichever implementation is active:
``native`` (C++) where it was compiled, else ``reference`` (NumPy). The environment variable
``STREAMBN_KERNELS`` forces one of the two, ``STREAMBN_THREADS`` limits the threads of the
native one.

Attributes
----------
active : str
    The name of the implementation in use.
"""

from __future__ import annotations

import os
from importlib.machinery import PathFinder
from pathlib import Path

from streambn.errors import InvalidValueError
from streambn.kernels.exact import ExactSums, UnmergeableError, empty_sums
from streambn.kernels.interface import BoundColumn, Columns, FeatureTransform, Layout, Times
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.recursion import recursion_step

__all__ = [
    "BoundColumn",
    "Columns",
    "ExactSums",
    "FeatureTransform",
    "Layout",
    "MomentArrays",
    "RowStatistics",
    "Times",
    "UnmergeableError",
    "active",
    "block_moments",
    "denormalize",
    "describe",
    "empty_moments",
    "empty_sums",
    "exact_sums",
    "extend_exact",
    "extend_moments",
    "merge_exact",
    "merge_moments",
    "normalize",
    "recursion_step",
    "recursion_weights",
    "set_threads",
    "time_weights",
]


def _choose() -> str:
    asked = os.environ.get("STREAMBN_KERNELS") or ""
    # Looked for, not imported: where it is there and broken, the import is to say so.
    native = str(Path(__file__).parent / "native")
    compiled = PathFinder.find_spec("streambn.kernels.native._core", [native]) is not None
    if asked not in ("", "native", "reference"):
        raise InvalidValueError(
            f"STREAMBN_KERNELS must be 'native' or 'reference', got {asked!r}. Unset the variable "
            "or set it to one of these."
        )
    if asked == "native" and not compiled:
        raise InvalidValueError(
            "STREAMBN_KERNELS='native' asks for the compiled kernels, which this installation "
            "does not have. Install streambn anew where there is a C++ compiler (GCC or Clang), "
            "or unset the variable."
        )
    return asked or ("native" if compiled else "reference")


active: str = _choose()
if active == "native":
    from streambn.kernels.native import (
        RowStatistics,
        block_moments,
        denormalize,
        exact_sums,
        extend_exact,
        extend_moments,
        merge_exact,
        merge_moments,
        normalize,
        recursion_weights,
        time_weights,
    )
else:
    from streambn.kernels.reference import (  # type: ignore[assignment]
        RowStatistics,
        block_moments,
        denormalize,
        exact_sums,
        extend_exact,
        extend_moments,
        merge_exact,
        merge_moments,
        normalize,
        recursion_weights,
        time_weights,
    )


def describe() -> str:
    """Say in words which kernels are active, and what would bring others."""
    if active == "native":
        from streambn.kernels.native import simd  # noqa: PLC0415

        return f"native kernels ({simd})"
    if os.environ.get("STREAMBN_KERNELS"):
        return "reference kernels (NumPy), as STREAMBN_KERNELS asks"
    return (
        "reference kernels (NumPy): the compiled ones were not built, as there was no C++ "
        "compiler (GCC or Clang) when streambn was installed"
    )


def set_threads(count: int) -> None:
    """Use at most `count` threads for a batch; the results do not depend on it.

    The reference works on one thread.

    Raises
    ------
    InvalidValueError
        The count is no integer >= 1.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidValueError(f"the number of threads must be an integer >= 1, got {count!r}.")
    if active == "native":
        from streambn.kernels import native  # noqa: PLC0415

        native.set_threads(count)


def _usable_threads() -> int:
    """Read STREAMBN_THREADS; without it: the cores that this process may use."""
    asked = os.environ.get("STREAMBN_THREADS") or ""
    if not asked:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not (asked.isascii() and asked.isdigit()) or int(asked) < 1:
        raise InvalidValueError(f"STREAMBN_THREADS must be an integer >= 1, got {asked!r}.")
    return int(asked)


set_threads(_usable_threads())
