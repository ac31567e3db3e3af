"""A transformer for River's online learners, with statistics that can be frozen."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import streambn as sbn
from streambn.errors import InvalidValueError
from streambn.online.row_normalizer import RowNormalizer

try:
    import narwhals.stable.v2 as nw
    from river import base
except ImportError as error:
    raise ImportError(
        "streambn.adapters.river needs River: pip install 'streambn[river]'"
    ) from error

__all__ = ["RiverNormalizer"]

# Cells of a frame of which a copy is made in passing, if it comes to that.
_SMALL = 100_000

_ONE = 1.0  # the very object that `learn_one` has for a weight that was not given

Missing = Literal["ignore", "raise", "propagate"]


class RiverNormalizer(base.MiniBatchTransformer):
    """Normalize features by their running mean and variance, one by one or in mini-batches.

    A drop-in for `river.preprocessing.StandardScaler`, and with ``policy=EMA(alpha=…,
    adjust=False)`` for `AdaptiveStandardScaler`, right at any offset and with any missing
    value, which can be frozen before deployment.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted: `Welford` (the default), `EMA`, `BatchEMA` or `Exact`. Of a
        `BatchEMA` every `learn_many` is one block and every `learn_one` a block of one, so it
        alone does not learn from many what it learns from one at a time. With
        ``EMA(halflife="7d", time="t")`` a row says under the key ``"t"`` when it happened; that
        is no feature, and passes through.
    eps, ddof, center, scale, affine, clip, nan, inf
        As for `streambn.Normalizer`.
    weights : str, optional
        A key under which rows say what they weigh, in place of the argument `w`; no feature.
    unseen : {"zero", "passthrough", "raise"}
        How the values of a feature come out of which none was learned: as 0.0, as they are,
        or not at all.

    Raises
    ------
    InvalidValueError
        An argument is outside its domain.

    Notes
    -----
    Features come and go. One that a row does not have is missing in it, also before it first
    appeared; with `EMA` that ages it, unless ``ignore_na=True``. None is missing, NaN is skipped
    and counted, an infinity refused, and with it the whole row or frame, which changes nothing.
    What is no number passes through untouched; in a feature that was a number it is an error.
    A variance of zero makes 0.0 of any value, and a transform never learns.

    Examples
    --------
    >>> from streambn.adapters.river import RiverNormalizer
    >>> scaler = RiverNormalizer()
    >>> for x in ({"t": 20.0, "p": 1e9}, {"t": 22.0, "p": 1e9 + 4}):
    ...     scaler.learn_one(x)
    >>> scaler.transform_one({"t": 23.0, "p": 1e9 + 2, "new": 7.0})
    {'t': 2.0, 'p': 0.0, 'new': 0.0}
    >>> scaler.freeze()
    >>> scaler.learn_one({"t": 99.0})
    >>> scaler.transform_one({"t": 23.0})
    {'t': 2.0}
    """

    def __init__(
        self,
        policy: Any = None,
        *,
        eps: float = 0.0,
        ddof: int = 0,
        center: bool = True,
        scale: bool = True,
        affine: Mapping[str, tuple[float, float]] | None = None,
        clip: float | None = None,
        nan: Missing = "ignore",
        inf: Missing = "raise",
        weights: str | None = None,
        unseen: Literal["zero", "passthrough", "raise"] = "zero",
    ) -> None:
        self.policy = policy
        self.eps = eps
        self.ddof = ddof
        self.center = center
        self.scale = scale
        self.affine = affine
        self.clip = clip
        self.nan = nan
        self.inf = inf
        self.weights = weights
        self.unseen = unseen
        self._frozen = False
        self._rows = RowNormalizer(
            policy,
            eps=eps,
            ddof=ddof,
            center=center,
            scale=scale,
            affine=affine,
            clip=clip,
            nan=nan,
            inf=inf,
            weights=weights,
            unseen=unseen,
            constant="zero",
        )

    def _unit_test_skips(self) -> set[str]:
        """Name the checks of River's that do not apply: a `BatchEMA` goes by blocks."""
        blocks = isinstance(self.policy, sbn.BatchEMA)
        return {"check_learn_many_matches_learn_one"} if blocks else set()

    # ------------------------------------------------------------------- one by one

    def learn_one(self, x: dict[Any, Any], w: float = _ONE) -> None:
        """Learn a row, whole or not at all. Frozen, it does nothing.

        Parameters
        ----------
        x : dict
        w : float
            What the row weighs, for `Welford` and for `EMA` with ``adjust=True``. One that weighs
            0 leaves no trace.

        Raises
        ------
        InvalidValueError
            There is a NaN or an infinity that ``nan=`` or ``inf=`` refuses; or `w` is no weight,
            or other than 1 for a policy that has weights of its own.
        SchemaError
            A feature that was a number is something else.
        """
        if self._frozen:
            return
        if w is _ONE:
            self._rows.learn_one(x)
        else:
            self._rows.learn_one(x, w)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return a row normalized by the statistics as they stand.

        Raises
        ------
        InvalidValueError, SchemaError
            As for `learn_one`.
        NotFittedError
            A feature was never seen, and ``unseen="raise"``.
        """
        return self._rows.transform_one(x)

    # ------------------------------------------------------------------- mini-batches

    def learn_many(self, X: Any, w: Any = None) -> None:
        """Learn the rows of a frame, whole or not at all, as `learn_one` would one by one.

        Parameters
        ----------
        X : pandas, Polars or other eager frame, pyarrow Table or RecordBatch
            NaN in pandas' NumPy columns is NaN; what is missing elsewhere is missing.
        w : array-like or float, optional
            What each row weighs, or all of them do.
        """
        if self._frozen:
            return
        rows, names = _to_learn(X)
        if w is not None and np.ndim(w) == 0:
            w = np.full(len(rows), w)
        self._rows.learn_many(rows, names, w)

    def transform_many(self, X: Any) -> Any:
        """Return a frame of the same kind, normalized by the statistics as they stand.

        Floats keep their type, other numbers become float64, each column by itself; columns
        that hold no numbers, and the index of a pandas frame, stay.
        """
        if isinstance(X, pa.RecordBatch):
            return self._rows.transform_many(X)
        if isinstance(X, pa.Table):
            return pa.Table.from_batches([self._rows.transform_many(_one_batch(X))])
        if _is_pandas(X):
            return self._transform_pandas(X)
        frame = _frame(X)
        table = pa.Table.from_batches([self._rows.transform_many(_frame_batch(X))])
        # What holds no numbers need not survive the way through Arrow and back.
        numbers = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        made = nw.from_arrow(table.select(numbers), backend=frame.implementation)
        if len(numbers) == table.num_columns:
            return made.to_native()
        return frame.with_columns(*made.iter_columns()).to_native()

    def _transform_pandas(self, X: Any) -> Any:
        names = _pandas_names(X)
        # Of a frame of integers a column of times or weights stays one.
        apart = self.weights is not None or getattr(self.policy, "time", None) is not None
        matrix = None if apart else _pandas_matrix(X, len(names))
        if matrix is None:
            out = self._rows.transform_many(_pandas_batch(X), names)
            kinds, columns = X.dtypes.tolist(), {}
            for i, array in enumerate(out.columns):
                number = pa.types.is_floating(array.type)
                columns[i] = _in_kind(kinds[i], array) if number else X.iloc[:, i].array
            made = type(X)(columns, index=X.index, copy=False)
            made.columns = X.columns
            return made
        arrays = [pa.array(column, from_pandas=False) for column in matrix.T]
        batch = pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))])
        out = self._rows.transform_many(batch, names)
        normalized = np.empty(matrix.shape, out.column(0).type.to_pandas_dtype(), order="F")
        for i, array in enumerate(out.columns):
            normalized[:, i] = array.to_numpy()
        return type(X)(normalized, index=X.index, columns=X.columns, copy=False)

    # --------------------------------------------------------------------- the statistics

    @property
    def frozen(self) -> bool:
        """Whether `learn_one` and `learn_many` do nothing."""
        return self._frozen

    def freeze(self) -> None:
        """Learn no more, wherever this transformer is: in a pipeline, a union, a grouper."""
        self._frozen = True

    def unfreeze(self) -> None:
        """Go on learning."""
        self._frozen = False

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics, a row a feature; see `streambn.Normalizer.stats`."""
        return self._rows.stats(at)

    @classmethod
    def from_frozen(cls, frozen: sbn.FrozenNormalizer, unseen: Any = "zero") -> Self:
        """Go on, row by row, from statistics that were fitted elsewhere: over files, say.

        Parameters
        ----------
        frozen : FrozenNormalizer
            Of plain columns. Its policy and options become this transformer's.
        unseen : str
            As above.

        Returns
        -------
        RiverNormalizer
            Not frozen.
        """
        if not isinstance(frozen, sbn.FrozenNormalizer):
            raise InvalidValueError(
                f"from_frozen takes a FrozenNormalizer, got {type(frozen).__name__}. Call freeze() "
                "on a Normalizer, or streambn.load(path)."
            )
        options = frozen.options
        affine = None if options.affine is None else dict(options.affine)
        self = cls(
            frozen.policy,
            eps=options.eps,
            ddof=options.ddof,
            center=options.center,
            scale=options.scale,
            affine=affine,
            clip=options.clip,
            nan=options.nan,
            inf=options.inf,
            weights=options.weights,
            unseen=unseen,
        )
        self._rows = RowNormalizer.from_normalizer(frozen, unseen=unseen, constant="zero")
        return self

    def to_normalizer(self) -> sbn.Normalizer:
        """Return a `streambn.Normalizer` that goes on from here; this one stays as it is."""
        return self._rows.to_normalizer()


# -------------------------------------------------------------------- frames, taken apart


def _is_pandas(X: Any) -> bool:
    return type(X).__module__.partition(".")[0] == "pandas" and hasattr(X, "columns")


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """Make one batch of a table: it is refused whole, and a `BatchEMA` has it as one block."""
    batches = table.to_batches()
    if len(batches) > 1:
        batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _frame_batch(X: Any) -> pa.RecordBatch:
    """Make a batch of Polars' frame, or of any other that River takes."""
    frame = _frame(X)
    return _one_batch(pa.table(X) if hasattr(X, "__arrow_c_stream__") else frame.to_arrow())


def _frame(X: Any) -> nw.DataFrame[Any]:
    try:
        return nw.from_native(X, eager_only=True)
    except TypeError as error:
        raise InvalidValueError(
            "X must be a pandas, Polars or other eager frame, a pyarrow Table or a RecordBatch, "
            f"got {type(X).__name__}. collect() a lazy frame; learn_one takes a dict."
        ) from error


def _to_learn(X: Any) -> tuple[pa.RecordBatch | NDArray[Any], Sequence[Hashable] | None]:
    if isinstance(X, pa.RecordBatch):
        return X, None
    if isinstance(X, pa.Table):
        return _one_batch(X), None
    if not _is_pandas(X):
        return _frame_batch(X), None
    names = _pandas_names(X)
    matrix = _pandas_matrix(X, len(names))
    return (_pandas_batch(X) if matrix is None else matrix), names


# The names of the last frame's columns, as Arrow has them and as a list, which takes longer to
# make than to see that they are the same: the frames of a stream have one set of them.
_last_names: tuple[pa.ChunkedArray, list[Hashable]] | None = None


def _pandas_names(X: Any) -> list[Hashable]:
    global _last_names  # noqa: PLW0603 - a tuple is replaced at once
    columns = X.columns
    plain = columns.nlevels == 1
    in_arrow = getattr(columns.array, "__arrow_array__", None) if plain else None
    if in_arrow is None:
        names: list[Hashable] = columns.tolist()
        return names
    texts, last = in_arrow(), _last_names
    if last is None or not texts.equals(last[0]):
        last = _last_names = texts, columns.tolist()
    return last[1]


def _pandas_matrix(X: Any, width: int) -> NDArray[Any] | None:
    """Return the memory of a frame that has numbers of one type only.

    To make fifty arrays of it would take longer than to reduce them.
    """
    if len(X) * width > _SMALL:
        kinds = X.dtypes.to_numpy()
        if not (isinstance(kinds[0], np.dtype) and (kinds == kinds[0]).all()):
            return None
        matrix = X.to_numpy()
    else:
        # The dtypes of a frame take longer than to see whether it gives its memory or a copy.
        matrix = X.to_numpy()
        if not np.may_share_memory(matrix, X.to_numpy()):
            return None
    return np.asfortranarray(matrix) if matrix.size and matrix.dtype.kind in "fiu" else None


def _pandas_batch(X: Any) -> pa.RecordBatch:
    arrays = [_pandas_array(X.iloc[:, i]) for i in range(X.shape[1])]
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(X), pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))])


def _pandas_array(column: Any) -> pa.Array:
    """Make an Arrow array in which NaN is NaN, where pandas does not write it for a null."""
    numpy_backed = isinstance(column.dtype, np.dtype)
    if not numpy_backed or column.dtype.kind not in "fiuO":
        array = pa.array(column, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    values = column.to_numpy()
    if column.dtype.kind != "O":
        return pa.array(values, from_pandas=False)
    values = [None if type(value).__name__ == "NAType" else value for value in values]
    if not any(isinstance(value, bool | np.bool_) for value in values):  # to Arrow some are 1.0
        try:
            return pa.array(values, from_pandas=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            if all(value is None or isinstance(value, Real | Decimal) for value in values):
                return pa.array(
                    [None if v is None else float(v) for v in values], from_pandas=False
                )
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _in_kind(kind: Any, array: pa.Array) -> Any:
    """Give floats back in the kind of column that they came from."""
    if isinstance(kind, np.dtype):
        return array.to_numpy(zero_copy_only=False)
    if type(kind).__name__ == "ArrowDtype":
        return array.to_pandas(types_mapper=type(kind))
    import pandas as pd  # noqa: PLC0415 - it is loaded: the frame is one of its own

    return pd.array(array.to_pylist(), dtype=f"Float{array.type.bit_width}")
