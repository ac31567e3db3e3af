"""The arithmetic on arrays, the one place where code is optimized for speed.

This package offers the functions of `streambn.kernels.reference` in the active implementation:
``native`` (C++) if it was compiled, else ``reference`` (NumPy). The environment variable
``STREAMBN_KERNELS`` selects one of the two. ``STREAMBN_THREADS`` limits the threads of the
native kernels.

Attributes
----------
active : str
    The name of the implementation in use.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Final

from streambn.errors import InvalidValueError
from streambn.kernels.exact import ExactSums, UnmergeableError, empty_sums
from streambn.kernels.interface import (
    BoundColumn,
    Columns,
    Estimates,
    FeatureTransform,
    Layout,
    Times,
)
from streambn.kernels.moments import MomentArrays, empty_moments
from streambn.kernels.recursion import recursion_step
from streambn.kernels.series import Series, SeriesState

__all__ = [
    "MAX_THREADS",
    "BoundColumn",
    "Columns",
    "Estimates",
    "ExactSums",
    "FeatureTransform",
    "Layout",
    "MomentArrays",
    "RowMaps",
    "RowStatistics",
    "Series",
    "SeriesState",
    "Times",
    "UnmergeableError",
    "active",
    "append_block",
    "block_moments",
    "denormalize",
    "describe",
    "empty_moments",
    "empty_sums",
    "exact_sums",
    "extend_exact",
    "extend_moments",
    "extend_over_gaps",
    "map_matrix",
    "map_series",
    "maps_of",
    "maps_of_moments",
    "merge_exact",
    "merge_moments",
    "normalize",
    "read_blocks",
    "read_exact",
    "read_moments",
    "recursion_step",
    "recursion_weights",
    "set_threads",
    "time_weights",
    "usable_cores",
    "with_first",
]


MAX_THREADS: Final = 4096
_INSTRUCTION_SETS: Final = ("baseline", "avx2", "avx512")


def _is_compiled() -> bool:
    """Return whether any finder knows the extension, without importing it.

    The import is left to the caller, so that a broken extension raises its own error. All finders
    are asked, because an editable install keeps the extension apart from the sources and brings
    its own finder.
    """
    folder = [str(Path(__file__).parent / "native")]
    return any(f.find_spec("streambn.kernels.native._core", folder) for f in sys.meta_path)


def _choose() -> str:
    requested, compiled = os.environ.get("STREAMBN_KERNELS") or "", _is_compiled()
    if requested not in ("", "native", "reference"):
        raise InvalidValueError(
            f"STREAMBN_KERNELS must be 'native' or 'reference', got {requested!r}. Unset the "
            "variable or set it to one of these.",
            argument="STREAMBN_KERNELS",
        )
    if requested == "native" and not compiled:
        raise InvalidValueError(
            "STREAMBN_KERNELS='native' requests the compiled kernels, which this installation does "
            "not have. Reinstall streambn where a C++ compiler (GCC or Clang) is available, or "
            "unset the variable.",
            argument="STREAMBN_KERNELS",
        )
    simd = os.environ.get("STREAMBN_SIMD") or ""
    if simd and simd not in _INSTRUCTION_SETS:
        raise InvalidValueError(
            f"STREAMBN_SIMD must be 'baseline', 'avx2' or 'avx512', got {simd!r}. Unset the "
            "variable or set it to one of these.",
            argument="STREAMBN_SIMD",
        )
    checkout = Path(__file__).parents[2]
    if not (requested or compiled) and (checkout / "pyproject.toml").exists():
        warnings.warn(
            f"streambn is imported from its sources in {checkout}, without the compiled kernels. "
            "It works, but slowly. Run `pip install -e .` there to build them, or set "
            "STREAMBN_KERNELS=reference to choose the NumPy kernels.",
            RuntimeWarning,
            stacklevel=2,
        )
    return requested or ("native" if compiled else "reference")


active: str = _choose()
if active == "native":
    from streambn.kernels import native as _implementation
else:
    from streambn.kernels import reference as _implementation  # type: ignore[no-redef]

RowMaps = _implementation.RowMaps
RowStatistics = _implementation.RowStatistics
append_block = _implementation.append_block
block_moments = _implementation.block_moments
denormalize = _implementation.denormalize
exact_sums = _implementation.exact_sums
extend_exact = _implementation.extend_exact
extend_moments = _implementation.extend_moments
extend_over_gaps = _implementation.extend_over_gaps
map_matrix = _implementation.map_matrix
map_series = _implementation.map_series
maps_of = _implementation.maps_of
maps_of_moments = _implementation.maps_of_moments
merge_exact = _implementation.merge_exact
merge_moments = _implementation.merge_moments
normalize = _implementation.normalize
read_blocks = _implementation.read_blocks
read_exact = _implementation.read_exact
read_moments = _implementation.read_moments
recursion_weights = _implementation.recursion_weights
time_weights = _implementation.time_weights
with_first = _implementation.with_first


def describe() -> str:
    """Return a description of the active kernels, with the reason for the slower ones."""
    if active == "native":
        return f"native kernels ({_implementation.simd})"
    if os.environ.get("STREAMBN_KERNELS"):
        return "reference kernels (NumPy), as STREAMBN_KERNELS requests"
    return (
        "reference kernels (NumPy): no C++ compiler (GCC or Clang) was available when streambn "
        "was installed"
    )


def set_threads(count: int) -> None:
    """Use at most `count` threads for a batch. The results do not depend on the number.

    The reference kernels use one thread.

    Raises
    ------
    InvalidValueError
        The count is not an integer from 1 to `MAX_THREADS`.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_THREADS:
        raise InvalidValueError(
            f"the number of threads must be an integer from 1 to {MAX_THREADS:,}, got {count!r}.",
            argument="count",
        )
    if active == "native":
        _implementation.set_threads(count)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _usable_threads() -> int:
    """Return STREAMBN_THREADS, or the number of usable cores."""
    requested = os.environ.get("STREAMBN_THREADS") or ""
    if not requested:
        return usable_cores()
    # Not int() alone, which takes digits of other scripts, and refuses thousands of digits.
    digits = requested.isascii() and requested.isdigit() and len(requested) <= 9
    count = int(requested) if digits else 0
    if not 1 <= count <= MAX_THREADS:
        raise InvalidValueError(
            f"STREAMBN_THREADS must be an integer from 1 to {MAX_THREADS:,}, got {requested!r}. "
            "Unset the variable to use every core.",
            argument="STREAMBN_THREADS",
        )
    return count


set_threads(_usable_threads())
