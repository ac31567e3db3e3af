"""The kernels in NumPy: the readable specification, the fallback, and the oracle of the tests.

Every reduction sums differences from a centre within the data. The formula Σx² − (Σx)²/n is
never used, because at mean/σ = 1e8 it loses every digit. The data is read in blocks that stay in
the cache during several passes.
"""

from streambn.kernels.moments import empty_moments
from streambn.kernels.reference.averages import append_block, read_blocks
from streambn.kernels.reference.blocks import block_moments, extend_moments
from streambn.kernels.reference.estimates import (
    maps_of,
    maps_of_moments,
    read_moments,
    with_first,
)
from streambn.kernels.reference.exact import exact_sums, extend_exact, merge_exact, read_exact
from streambn.kernels.reference.gaps import extend_over_gaps
from streambn.kernels.reference.merge import merge_moments
from streambn.kernels.reference.recursion import recursion_weights
from streambn.kernels.reference.row_maps import RowMaps
from streambn.kernels.reference.rows import RowStatistics
from streambn.kernels.reference.series import map_series
from streambn.kernels.reference.times import time_weights
from streambn.kernels.reference.transforms import denormalize, map_matrix, normalize

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
    "time_weights",
    "with_first",
]
