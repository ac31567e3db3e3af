"""The compiled part; see src/module.cpp."""

from typing import Any

simd: str

class Batch:
    def __init__(self, batch: Any, layout: Any, /) -> None: ...

def block_moments(
    batch: Batch,
    decay: float,
    ignore_missing: bool,
    weights: Any,
    threads: int,
    older: Any,
    out: Any,
    /,
) -> None: ...
def extend_over_gaps(
    batch: Batch,
    decay: float,
    weights: Any,
    threads: int,
    powers: Any,
    older: Any,
    older_gaps: Any,
    out: Any,
    out_gaps: Any,
    /,
) -> list[int]: ...  # the features left to the caller
def recursion_weights(there: Any, decay: float, alpha: float, out: Any, /) -> Any: ...
def merge_moments(older: Any, newer: Any, out: Any, /) -> None: ...
def read_moments(moments: Any, ddof: int, out: Any, defined: Any, /) -> None: ...
def append_block(
    means: Any, variances: Any, block: Any, decay: float, ddof: int, out: Any, /
) -> None: ...
def read_blocks(
    means: Any,
    variances: Any,
    new_weight: float,
    has_prior: bool,
    prior_mean: float,
    prior_var: float,
    out: Any,
    defined: Any,
    /,
) -> None: ...
def with_first(moments: Any, first: Any, alpha: float, out: Any, /) -> None: ...
def maps_of_moments(
    moments: Any, ddof: int, exact: Any, eps: float, numbers: Any, flags: Any, /
) -> None: ...
def maps_of(
    mean_hi: Any,
    mean_lo: Any,
    var: Any,
    std: Any,
    defined: Any,
    exact: Any,
    eps: float,
    numbers: Any,
    flags: Any,
    /,
) -> None: ...
def exact_sums(
    batch: Batch, threads: int, older: Any, out: Any, /
) -> int: ...  # the lane that cannot be merged, or -1
def read_exact(
    sums: Any, ddof: int, out: Any, defined: Any, /
) -> list[int]: ...  # the features left to the caller
def merge_exact(older: Any, newer: Any, out: Any, /) -> int: ...  # likewise
def time_weights(
    ticks: Any, latest: int | float, halflives: float, weights: Any, threads: int, out: Any, /
) -> None: ...
def map_series(
    batch: Batch,
    rules: tuple[Any, ...],
    before: bool,
    gamma: Any,
    beta: Any,
    exact: Any,
    weights: Any,
    ticks: Any,
    tick: int,
    halflife: float,
    older: tuple[Any, ...],
    after: tuple[Any, ...],
    nans: Any,
    infs: Any,
    threads: int,
    schema: Any,
    allocate: Any,
    import_batch: Any,
    /,
) -> Any: ...
def transform(
    batch: Batch,
    numbers: Any,
    flags: Any,
    gamma: Any,
    beta: Any,
    clip: float,
    inverse: bool,
    counts: Any,
    threads: int,
    schema: Any,
    allocate: Any,
    import_batch: Any,
    /,
) -> object: ...
def transform_matrix(
    matrix: Batch,
    numbers: Any,
    flags: Any,
    gamma: Any,
    beta: Any,
    clip: float,
    inverse: bool,
    counts: Any,
    threads: int,
    layout: Any,
    out: Any,
    /,
) -> bool: ...

class RowMaps:
    def __init__(self, names: list[Any], /, *arguments: Any) -> None: ...
    def transform(self, row: Any, /) -> dict[Any, Any]: ...
    def inverse(self, row: Any, /) -> dict[Any, Any]: ...

class RowStatistics:
    rows: int
    def __init__(self, *arguments: Any) -> None: ...
    def __len__(self) -> int: ...
    def keys(self) -> list[Any]: ...
    def exact(self) -> list[bool]: ...
    def index(self, key: Any, /) -> int: ...
    def learn(self, row: Any, weight: Any = ...) -> None: ...
    def transform(self, row: Any, /) -> dict[Any, Any]: ...
    def store(self, moments: Any, first: Any, gaps: Any, rows: Any, /) -> None: ...
    def update(
        self,
        fresh: list[Any],
        exact: list[bool],
        before: int,
        rows: int,
        moments: Any,
        first: Any,
        gaps: Any,
        rows_of_lanes: Any,
        /,
    ) -> bool: ...
    def set_maps(self, *arrays: Any) -> None: ...
