"""streambn as a scikit-learn transformer: `SklearnNormalizer`.

Needs scikit-learn: ``pip install 'streambn[sklearn]'``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import FrozenNormalizer, Normalizer, Welford
from streambn.errors import InvalidValueError

from ._arrays import (
    Floats,
    append_weights,
    check_not_temporal,
    is_bound_to,
    list_column,
    to_array,
    to_columns,
    to_lists,
    weight_array,
)

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils._set_output import _get_output_config  # the container of set_output
    from sklearn.utils.validation import FLOAT_DTYPES, check_array, check_is_fitted, validate_data

    from ._columns import find_columns, is_frame, put_columns, take_columns
except ImportError as error:
    raise ImportError(
        "streambn.adapters.sklearn needs scikit-learn: pip install 'streambn[sklearn]'"
    ) from error

__all__ = ["SklearnNormalizer"]

# The parameters that `streambn.Normalizer` has too, under the same names.
_OPTIONS = ("eps", "ddof", "clip", "nan", "inf", "min_count")
_VALUES_AT_ONCE = 1 << 20  # a large array is transformed faster in pieces that fit the cache


class SklearnNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardize features by running statistics: StandardScaler with a policy.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted: `streambn.Welford` (the default), `streambn.EMA` by row,
        `streambn.BatchEMA` or `streambn.Exact`. To a `BatchEMA` each call of `fit` or
        `partial_fit` is one batch.
    columns : sequence of str or int, or callable, optional
        Which columns to normalize: names, shell patterns such as ``"sensor_*"``, or positions; or
        for a frame or table a function that takes a `pyarrow.Field` and returns whether to
        normalize the column. All others pass through. Default: all columns. Arrays have no names,
        so only positions choose their columns.
    exclude : sequence of str or int, optional
        Names, patterns and positions of columns that pass through.
    with_mean, with_std : bool
        Whether to subtract the mean, and to divide by the standard deviation.
    eps : float
        Added to the variance before the square root.
    ddof : int
        Delta degrees of freedom of the variance: 0 (population) or 1 (sample).
    clip : float, optional
        Clamp the result to [−clip, clip].
    nan : {"ignore", "raise", "propagate"}
        Whether NaN is skipped, or raises an error, or makes the statistics of its feature NaN. A
        null counts as NaN.
    inf : {"raise", "ignore", "propagate"}
        The same for infinities. With "raise" `transform` refuses them too.
    min_count : int
        Number of values from which a feature has statistics. One with fewer becomes NaN.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of shape (n_features,), or None
        Read from the running statistics on each access. None where StandardScaler has None; NaN
        for a feature without values, or that passes through.
    n_samples_seen_ : int, float, or ndarray of shape (n_features,)
        The number of values, or with sample weights and `streambn.Welford` the sum of their
        weights. An array if it differs between features because some values are missing; it
        holds 0 for a feature that passes through.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only after fitting on a frame or table whose columns have names.

    Notes
    -----
    A batch is learned whole or not at all. Parameters are checked by `fit`, and a change of them
    takes effect at the next `fit`. One thread at a time may fit; others may transform meanwhile.

    float64, float32 and float16 keep their type; all other numbers become float64. Dates and
    durations raise a `SchemaError`.

    A feature of zero variance, within the rounding error of its values, has scale 1.

    Columns that pass through keep their place, and may hold anything, such as text. They keep
    their types in the frames of `set_output`. In an array they take the common type: object if
    some are not numbers. Elsewhere in a model, `sklearn.compose.ColumnTransformer` sends columns
    to different transformers.

    Examples
    --------
    >>> import numpy as np
    >>> from streambn.adapters.sklearn import SklearnNormalizer
    >>> scaler = SklearnNormalizer()
    >>> for day in ([[1.0, 10.0], [2.0, np.nan]], [[6.0, 30.0]]):
    ...     _ = scaler.partial_fit(day)
    >>> scaler.mean_
    array([ 3., 20.])
    >>> scaler.n_samples_seen_
    array([3, 2])
    >>> scaler.transform([[3.0, 40.0]])
    array([[0., 2.]])
    """

    _normalizer: Normalizer  # absent before fit
    _positions: list[int] | None = None  # of the columns to normalize; None: all

    def __init__(
        self,
        policy: Any = None,
        *,
        columns: Any = None,
        exclude: Any = None,
        with_mean: bool = True,
        with_std: bool = True,
        eps: float = 0.0,
        ddof: int = 0,
        clip: float | None = None,
        nan: str = "ignore",
        inf: str = "raise",
        min_count: int = 0,
    ) -> None:
        self.policy = policy
        self.columns = columns
        self.exclude = exclude
        self.with_mean = with_mean
        self.with_std = with_std
        self.eps = eps
        self.ddof = ddof
        self.clip = clip
        self.nan = nan
        self.inf = inf
        self.min_count = min_count

    # ------------------------------------------------------------------------ exchange

    @classmethod
    def from_normalizer(cls, normalizer: Normalizer | FrozenNormalizer) -> Self:
        """Return a fitted estimator with the statistics of a normalizer.

        Parameters
        ----------
        normalizer : Normalizer or FrozenNormalizer
            Of plain columns, whose names become `feature_names_in_`; or of one column of
            fixed-size lists, whose elements become the features. Columns that it leaves alone are
            not features of the estimator. It does not change. `partial_fit` goes on from its
            statistics.

        Raises
        ------
        NotFittedError
            The normalizer has seen no data.
        InvalidValueError
            `normalizer` is not a normalizer, has an affine map or goes by event time, for which
            the estimator has no parameter, or has columns of other kinds.
        """
        if not isinstance(normalizer, Normalizer | FrozenNormalizer):
            raise InvalidValueError(
                "normalizer must be a streambn.Normalizer or FrozenNormalizer, got "
                f"{type(normalizer).__name__}. Read a file with streambn.load(path).",
                argument="normalizer",
            )
        options = normalizer.options
        if options.affine is not None:
            raise InvalidValueError(
                f"the normalizer has affine={dict(options.affine)!r}, for which SklearnNormalizer "
                "has no parameter. Fit it without affine.",
                argument="affine",
            )
        _check_policy(normalizer.policy)
        frozen = normalizer if isinstance(normalizer, FrozenNormalizer) else normalizer.freeze()
        features = frozen.features
        self = cls(
            frozen.policy,
            with_mean=options.center,
            with_std=options.scale,
            **{name: getattr(options, name) for name in _OPTIONS},
        )
        self.n_features_in_ = len(features)
        empty = np.empty((0, len(features)))
        if is_bound_to(frozen, to_columns(empty, features)):
            self.feature_names_in_ = np.array(features, dtype=object)
        elif not is_bound_to(frozen, to_lists(empty, list_column(features))):
            raise InvalidValueError(
                f"the features {features[:5]!r} (of {len(features)}) are neither plain columns nor "
                "the elements of one column of lists. Choose such columns with columns=.",
                argument="normalizer",
            )
        self._normalizer = frozen.thaw()
        return self

    @classmethod
    def from_frozen(cls, frozen: Normalizer | FrozenNormalizer) -> Self:
        """Return `from_normalizer`, the name that replaces this one.

        .. deprecated:: 0.1
        """
        warnings.warn(
            "SklearnNormalizer.from_frozen is deprecated; call from_normalizer, which takes live "
            "and frozen normalizers.",
            DeprecationWarning,
            stacklevel=2,
        )
        return cls.from_normalizer(frozen)

    def to_normalizer(self) -> Normalizer:
        """Return a live `streambn.Normalizer` that goes on from here; this one does not change.

        After fitting on a frame or table it has the columns of that frame. After fitting on
        arrays, which name nothing, it has one column ``x`` of fixed-size lists, one list for each
        row. It has no columns that pass through.

        After sample weights it expects weights in the column that its ``options.weights`` names;
        ``with_weights(None)`` returns a normalizer that goes on without.
        """
        return copy.copy(self._fitted_normalizer())

    # ------------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget all statistics, then learn.

        Parameters
        ----------
        X : array-like, pandas or Polars frame, or pyarrow table, (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), or float, optional
            Weight of each sample, or of every sample, for `streambn.Welford` and for
            `streambn.EMA` with ``adjust=True``. A sample of weight 0 changes nothing; to `Welford`
            one of weight 2 counts as two equal samples.

        Raises
        ------
        InvalidValueError
            ``nan=`` or ``inf=`` refuses a value, a parameter or a weight is out of range, or the
            policy takes no weights.
        SchemaError
            A column holds dates or durations.
        """
        return self._learn(X, sample_weight, None)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn one more batch; parameters and errors are those of `fit`."""
        return self._learn(X, sample_weight, getattr(self, "_normalizer", None))

    def _learn(self, X: Any, sample_weight: Any, normalizer: Normalizer | None) -> Self:
        before = self.__dict__.copy()
        try:
            array = self._validated(X, reset=normalizer is None)
            # A shallow copy of this estimator shares its normalizer, so that one must not change.
            learning = self._new_normalizer() if normalizer is None else copy.copy(normalizer)
            batch = self._as_batch(array, learning)
            if sample_weight is not None or learning.options.weights is not None:
                weights = weight_array(sample_weight, len(array))
                if learning.options.weights is not None or not (weights == 1).all():
                    learning, batch = append_weights(learning, batch, weights)
            self._normalizer = learning.update(batch)
        except BaseException:
            # scikit-learn sets feature names before the normalizer can refuse the data.
            self.__dict__ = before  # at once, because other threads may transform meanwhile
            raise
        return self

    def _new_normalizer(self) -> Normalizer:
        for name in ("with_mean", "with_std"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise InvalidValueError(
                    f"{name} must be True or False, got {value!r}.", argument=name
                )
        _check_policy(self.policy)
        return Normalizer(
            self.policy,
            center=bool(self.with_mean),
            scale=bool(self.with_std),
            **{name: getattr(self, name) for name in _OPTIONS},
        )

    # -------------------------------------------------------------------- transforming

    def transform(self, X: Any) -> Any:
        """Standardize by the current statistics. Never learns.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Or the container that `set_output` chose. NaN and null become NaN, and so do values of
            a feature without statistics.
        """
        check_is_fitted(self)
        out = self._map(self._validated(X, reset=False), Normalizer.transform)
        if self._positions is None:
            return out
        container = _get_output_config("transform", self)["dense"]
        return put_columns(_as_table(X), self._positions, out, container)

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Return data in its original units: the inverse of `transform`, except for clipping."""
        # Normalizer.inverse_transform accepts infinities, which scikit-learn refuses.
        finite = "allow-nan" if self._fitted_normalizer().options.inf == "raise" else False
        checks = {"dtype": FLOAT_DTYPES, "ensure_all_finite": finite, "estimator": self}
        X, positions = _as_table(X), self._positions
        if positions is None:
            X = array = check_array(X, **checks)
        elif not is_frame(X):
            X = check_array(X, dtype=None, ensure_all_finite=False, estimator=self)
        if X.shape[1] != self.n_features_in_:
            raise InvalidValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input.",
                argument="X",
            )
        if positions is None:
            return self._map(array, Normalizer.inverse_transform)
        array = check_array(take_columns(X, positions), **checks)
        out = self._map(array, Normalizer.inverse_transform)
        restored: NDArray[Any] = put_columns(X, positions, out, "default")
        return restored

    def _map(self, array: Floats, method: Callable[[Normalizer, pa.RecordBatch], Any]) -> Floats:
        rows, width = array.shape
        at_once = max(_VALUES_AT_ONCE // width, 1)
        # The copy has the same statistics for all pieces, even if another thread learns.
        normalizer = copy.copy(self._normalizer)
        if rows <= at_once:
            out = to_array(method(normalizer, self._as_batch(array, normalizer)), width)
            # Memory of Arrow may be read-only, but the caller may write to the output.
            return out if out.flags.writeable else out.copy()
        named = hasattr(self, "feature_names_in_")
        out = np.empty((rows, width), array.dtype, order="F" if named else "C")
        for start in range(0, rows, at_once):
            piece = slice(start, start + at_once)
            batch = method(normalizer, self._as_batch(array[piece], normalizer))
            out[piece] = to_array(batch, width)
        return out

    # ---------------------------------------------------------------------- statistics

    @property
    def mean_(self) -> NDArray[np.float64] | None:
        """The mean of each feature; None without centering and scaling."""
        options = self._fitted_normalizer().options
        return self._statistic("mean") if options.center or options.scale else None

    @property
    def var_(self) -> NDArray[np.float64] | None:
        """The variance of each feature; None without scaling."""
        return self._statistic("var") if self._fitted_normalizer().options.scale else None

    @property
    def scale_(self) -> NDArray[np.float64] | None:
        """The divisor of each feature; None without scaling."""
        normalizer = self._fitted_normalizer()
        if not normalizer.options.scale:
            return None
        scale = self._in_place(normalizer.standardizer.scale, np.nan)
        return np.where(np.isnan(self._statistic("mean")), np.nan, scale)

    @property
    def n_samples_seen_(self) -> float | NDArray[Any]:
        """The number of values of each feature, or their weight; one number if all are equal."""
        normalizer = self._fitted_normalizer()
        stats = normalizer.stats()
        weighted = normalizer.options.weights is not None and isinstance(normalizer.policy, Welford)
        # The weight of a feature without values is null.
        seen = np.array(stats["weight"].fill_null(0.0) if weighted else stats["count"])
        first: float = seen[0].item()
        return first if (seen == first).all() else self._in_place(seen, 0)

    def _statistic(self, name: str) -> NDArray[np.float64]:
        return self._in_place(np.array(self._fitted_normalizer().stats()[name]), np.nan)

    def _in_place(self, values: NDArray[Any], other: float) -> NDArray[Any]:
        """Return values of the normalized features in place, with another for all others."""
        if self._positions is None:
            return values
        out = np.full(self.n_features_in_, other, values.dtype)
        out[self._positions] = values
        return out

    def _fitted_normalizer(self) -> Normalizer:
        check_is_fitted(self)
        return self._normalizer

    # -------------------------------------------------------- the host's own interface

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_normalizer")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan != "raise"
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags

    def _validated(self, X: Any, reset: bool) -> Any:
        """Return data as an array of floats, checked by scikit-learn's rules."""
        # Normalizer finds infinities while it reads the data.
        X, checks = _as_table(X), {"dtype": FLOAT_DTYPES, "ensure_all_finite": False}
        if reset:
            self.__dict__.pop("_positions", None)
        if self._positions is None and not (reset and self._chooses):
            check_not_temporal(X)
            if not isinstance(X, pa.Table) or not X.num_columns:
                return validate_data(self, X, reset=reset, **checks)
            validate_data(self, X, reset=reset, skip_check_array=True)
        else:
            X = self._chosen(X, reset)
        if isinstance(X, pa.Table):
            # Stacking columns is five times as fast as Table.__array__. Nulls become NaN.
            X = np.stack([column.to_numpy() for column in X.columns]).T
        return check_array(X, estimator=self, **checks)

    @property
    def _chooses(self) -> bool:
        return self.columns is not None or self.exclude is not None

    def _chosen(self, X: Any, reset: bool) -> Any:
        """Return the columns to normalize. The others may hold anything."""
        if is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
        else:
            X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False)
        if reset:
            names = getattr(self, "feature_names_in_", None)
            self._positions = find_columns(X, names, self.columns, self.exclude)
        assert self._positions is not None
        chosen = take_columns(X, self._positions)
        check_not_temporal(chosen, self._positions)
        return chosen

    def _as_batch(self, array: Floats, normalizer: Normalizer) -> pa.RecordBatch:
        """Return rows as named columns, or without names as one column of lists.

        A row of a C-ordered array has the memory layout of a list, so the array is not copied.
        Learning from it is five times as fast as from columns that are cut out of the rows.
        """
        names = getattr(self, "feature_names_in_", None)
        if names is not None:
            return to_columns(array, names if self._positions is None else names[self._positions])
        return to_lists(array, list_column(normalizer.features))


def _as_table(X: Any) -> Any:
    """Return a record batch, whose column names scikit-learn does not know, as a table."""
    return pa.Table.from_batches([X]) if isinstance(X, pa.RecordBatch) else X


def _check_policy(policy: Any) -> None:
    if getattr(policy, "time", None) is not None:
        raise InvalidValueError(
            f"policy {policy!r} goes by event time, which a matrix of features does not have. Use "
            "streambn.Normalizer, or an EMA by row such as EMA(halflife=10_000).",
            argument="policy",
        )
