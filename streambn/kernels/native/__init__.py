"""The kernels in C++: the functions of `streambn.kernels.reference`, with the same accuracy.

A batch crosses the Arrow C data interface in one call. The kernels read it at the speed of
memory and release the interpreter's lock. Their sums are as accurate as those of the reference:
the mean of a chunk enters a double-double merge, short batches are summed to the last bit, and
integers are subtracted as integers. The sources are in ``src`` and compile to the extension
`_core`.

Attributes
----------
simd : str
    The instruction set in use: ``avx512``, ``avx2`` or ``baseline``. Results agree in their first
    hundred bits. The environment variable ``STREAMBN_SIMD`` selects a lower one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn._lazy import lazy_module
from streambn.kernels.exact import ExactSums, unmergeable
from streambn.kernels.flatten import decode_columns
from streambn.kernels.interface import (
    Columns,
    Estimates,
    FeatureTransform,
    Floats,
    Ints,
    Maps,
    Times,
    Transformed,
)
from streambn.kernels.moments import MomentArrays, TallyArrays, empty_moments
from streambn.kernels.native import _core
from streambn.kernels.rational import read_feature
from streambn.kernels.recursion import Recursion, gap_powers
from streambn.kernels.series import Series, SeriesState

reference = lazy_module("streambn.kernels.reference")  # only extreme values need it

__all__ = [
    "RowMaps",
    "RowStatistics",
    "append_block",
    "block_moments",
    "denormalize",
    "empty_moments",
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
    "recursion_weights",
    "set_threads",
    "simd",
    "time_weights",
    "with_first",
]

simd: str = _core.simd
RowMaps = _core.RowMaps
RowStatistics = _core.RowStatistics

_FIELDS = len(MomentArrays.FIELDS)

_threads = 1


def set_threads(count: int) -> None:
    """Use at most `count` threads for a batch. The results do not depend on the number."""
    global _threads  # noqa: PLW0603 - a setting of the process, as in every threaded library
    _threads = min(count, 1 << 16)  # the kernels hold the number in 32 bits


def _open(columns: Columns) -> Any:
    """Return the access of the kernels to the data. Several kernels share one export of a batch."""
    opened = columns.opened
    if opened is None:
        plain = decode_columns(columns) if columns.layout.encoded else columns
        opened = columns.opened = _core.Batch(plain.batch, plain.layout)
    return opened


def block_moments(columns: Columns, decay: float = 1.0, ignore_na: bool = False) -> MomentArrays:
    """See `streambn.kernels.reference.block_moments`."""
    return extend_moments(None, columns, decay, ignore_na)


def extend_moments(
    older: MomentArrays | None, columns: Columns, decay: float = 1.0, ignore_na: bool = False
) -> MomentArrays:
    """See `streambn.kernels.reference.extend_moments`; None: nothing is older."""
    memory = np.empty((_FIELDS, columns.layout.features), np.int64)
    before = None if older is None else older.memory
    opened = _open(columns)
    _core.block_moments(opened, decay, ignore_na, columns.weights, _threads, before, memory)
    return MomentArrays(memory)


def merge_moments(older: MomentArrays, newer: MomentArrays) -> MomentArrays:
    """See `streambn.kernels.reference.merge_moments`."""
    memory = np.empty(older.memory.shape, np.int64)
    _core.merge_moments(older.memory, newer.memory, memory)
    return MomentArrays(memory)


def extend_over_gaps(
    older: MomentArrays, gaps: Ints, columns: Columns, decay: float
) -> tuple[MomentArrays, Ints, list[int]]:
    """See `streambn.kernels.reference.extend_over_gaps`."""
    memory, after = np.empty(older.memory.shape, np.int64), np.empty(gaps.shape, np.int64)
    powers, opened = gap_powers(decay, columns.rows), _open(columns)
    left = _core.extend_over_gaps(
        opened, decay, columns.weights, _threads, powers, older.memory, gaps, memory, after
    )
    return MomentArrays(memory), after, left


def read_moments(moments: MomentArrays, ddof: int) -> Estimates:
    """See `streambn.kernels.reference.read_moments`."""
    floats, defined = _empty_estimates(moments)
    _core.read_moments(moments.memory, ddof, floats, defined)
    return Estimates._make((*floats, defined))


def append_block(
    means: MomentArrays, variances: MomentArrays, block: MomentArrays, decay: float, ddof: int
) -> tuple[MomentArrays, MomentArrays]:
    """See `streambn.kernels.reference.append_block`."""
    memory = np.empty((2, *block.memory.shape), np.int64)
    _core.append_block(means.memory, variances.memory, block.memory, decay, ddof, memory)
    return MomentArrays(memory[0]), MomentArrays(memory[1])


def read_blocks(
    means: MomentArrays,
    variances: MomentArrays,
    new_weight: float,
    prior: tuple[float, float] | None,
) -> Estimates:
    """See `streambn.kernels.reference.read_blocks`."""
    floats, defined = _empty_estimates(means)
    given = prior is not None, *(prior or (0.0, 0.0))
    _core.read_blocks(means.memory, variances.memory, new_weight, *given, floats, defined)
    return Estimates._make((*floats, defined))


def read_exact(sums: ExactSums, ddof: int) -> Estimates:
    """See `streambn.kernels.reference.read_exact`."""
    floats, defined = _empty_estimates(sums)
    for feature in _core.read_exact(sums.memory, ddof, floats, defined):
        floats[:, feature] = read_feature(sums, feature, ddof)
        defined[feature] = sums.count[feature] > 0
    return Estimates._make((*floats, defined))


def _empty_estimates(moments: TallyArrays) -> tuple[Floats, NDArray[np.bool_]]:
    features = moments.memory.shape[1]
    return np.empty((4, features)), np.empty(features, np.bool_)


def with_first(moments: MomentArrays, first: MomentArrays, alpha: float) -> MomentArrays:
    """See `streambn.kernels.reference.with_first`."""
    memory = np.empty(moments.memory.shape, np.int64)
    _core.with_first(moments.memory, first.memory, alpha, memory)
    return MomentArrays(memory)


def maps_of_moments(moments: MomentArrays, ddof: int, exact: NDArray[np.bool_], eps: float) -> Maps:
    """See `streambn.kernels.reference.maps_of_moments`."""
    features = len(exact)
    numbers, flags = np.empty((3, features)), np.empty((2, features), np.bool_)
    _core.maps_of_moments(moments.memory, ddof, exact, eps, numbers, flags)
    return numbers, flags


def maps_of(estimates: Estimates, exact: NDArray[np.bool_], eps: float) -> Maps:
    """See `streambn.kernels.reference.maps_of`."""
    features = len(exact)
    numbers, flags = np.empty((3, features)), np.empty((2, features), np.bool_)
    _core.maps_of(*estimates, exact, eps, numbers, flags)
    return numbers, flags


def exact_sums(columns: Columns) -> ExactSums:
    """See `streambn.kernels.reference.exact_sums`."""
    return extend_exact(None, columns)


def extend_exact(older: ExactSums | None, columns: Columns) -> ExactSums:
    """See `streambn.kernels.reference.extend_exact`; None: nothing is older."""
    memory = np.empty((ExactSums.ROWS, columns.layout.features), np.int64)
    before = None if older is None else older.memory
    feature = _core.exact_sums(_open(columns), _threads, before, memory)
    if feature >= 0 and older is not None:
        raise unmergeable(feature, older, exact_sums(columns))
    return ExactSums(memory)


def merge_exact(older: ExactSums, newer: ExactSums) -> ExactSums:
    """See `streambn.kernels.reference.merge_exact`."""
    memory = np.empty(older.memory.shape, np.int64)
    feature = _core.merge_exact(older.memory, newer.memory, memory)
    if feature >= 0:
        raise unmergeable(feature, older, newer)
    return ExactSums(memory)


def time_weights(
    times: Times, latest: int | float, halflives: float, weights: Floats | None = None
) -> Floats:
    """See `streambn.kernels.reference.time_weights`."""
    out: Floats = np.empty(len(times.ticks))
    _core.time_weights(times.ticks, latest, halflives, weights, _threads, out)
    return out


def recursion_weights(there: NDArray[np.bool_], decay: float, alpha: float) -> Recursion:
    """See `streambn.kernels.reference.recursion_weights`."""
    weights = np.empty(len(there))
    return Recursion(weights, *_core.recursion_weights(there, decay, alpha, weights))


def normalize(columns: Columns, lanes: FeatureTransform, schema: pa.Schema) -> Transformed:
    """See `streambn.kernels.reference.normalize`."""
    mapped = _transform(columns, lanes, schema, False)
    return mapped or reference.normalize(columns, lanes, schema)


def denormalize(columns: Columns, lanes: FeatureTransform, schema: pa.Schema) -> Transformed:
    """See `streambn.kernels.reference.denormalize`."""
    mapped = _transform(columns, lanes, schema, True)
    return mapped or reference.denormalize(columns, lanes, schema)


def map_matrix(
    columns: Columns, lanes: FeatureTransform, inverse: bool, out: NDArray[Any]
) -> tuple[Ints, Ints]:
    """See `streambn.kernels.reference.map_matrix`."""
    counts = np.zeros((2, columns.layout.features), np.int64)
    arguments = _arguments(columns, lanes, inverse, counts)
    if not _core.transform_matrix(*(*arguments, columns.layout, out)):
        nans, infs = reference.map_matrix(columns, lanes, inverse, out)
    else:
        nans, infs = counts
    return nans, infs


def map_series(
    columns: Columns, state: SeriesState, series: Series
) -> tuple[SeriesState, Transformed]:
    """See `streambn.kernels.reference.map_series`."""
    counts = np.zeros((2, columns.layout.features), np.int64)
    first = None if state.first is None else state.first.memory
    before: tuple[Any, ...] = (state.moments.memory, first, state.gaps, state.times)
    after: list[Any] = [None if array is None else np.empty_like(array) for array in before]
    ticks = tick = None
    if series.halflife is not None and columns.times is not None:
        ticks, tick = columns.times.ticks, columns.times.tick
    batch = _core.map_series(
        _open(columns),
        series.rules,
        series.before,
        series.gamma,
        series.beta,
        series.exact,
        columns.weights,
        ticks,
        tick or 0,
        series.halflife or 1.0,
        before,
        tuple(after),
        counts[0],
        counts[1],
        _threads,
        *_output(series.schema),
    )
    moments, first, gaps, at = after
    one = None if first is None else MomentArrays(first)
    return SeriesState(MomentArrays(moments), one, gaps, at), Transformed(batch, counts)


# The last output schema, and what `_output` returns for it. The batches of a stream share one.
_last_output: tuple[pa.Schema, tuple[Any, ...]] | None = None


def _output(schema: pa.Schema) -> tuple[Any, ...]:
    """Return the export of a schema, and the functions that allocate and import an output."""
    global _last_output  # noqa: PLW0603 - a tuple is replaced at once
    last = _last_output
    if last is None or last[0] is not schema:

        def import_batch(address: int) -> pa.RecordBatch:
            return pa.RecordBatch._import_from_c(address, schema)

        output = schema.__arrow_c_schema__(), pa.allocate_buffer, import_batch
        last = _last_output = schema, output
    return last[1]


def _transform(
    columns: Columns, transform: FeatureTransform, schema: pa.Schema, inverse: bool
) -> Transformed | None:
    """Return None if a location or a scale is extreme, because only the reference rescales."""
    counts = np.zeros((2, columns.layout.features), np.int64)
    batch = _core.transform(*_arguments(columns, transform, inverse, counts), *_output(schema))
    return None if batch is None else Transformed(batch, counts)


def _arguments(
    columns: Columns, transform: FeatureTransform, inverse: bool, counts: Ints
) -> tuple[Any, ...]:
    """Return the arguments that `transform` and `transform_matrix` share."""
    clip = math.inf if transform.clip is None or inverse else transform.clip
    affine = transform.gamma, transform.beta
    maps = transform.numbers, transform.flags, *affine, clip
    return _open(columns), *maps, inverse, counts, _threads
