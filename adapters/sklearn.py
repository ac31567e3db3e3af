"""streambn as a scikit-learn transformer: `SklearnNormalizer`.

Needs scikit-learn: ``pip install 'streambn[sklearn]'``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn import FrozenNormalizer, Normalizer, Welford
from streambn.errors import InvalidValueError, SchemaError

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import FLOAT_DTYPES, check_array, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "streambn.adapters.sklearn needs scikit-learn: pip install 'streambn[sklearn]'"
    ) from error

__all__ = ["SklearnNormalizer"]

_Array = NDArray[np.floating[Any]]

_COLUMN = "x"  # of lists, where the features have no names
_VALUES = 1 << 20  # normalized at a time: large arrays come out faster so than whole
_EPSILON = float(np.finfo(np.float64).eps)


class SklearnNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Standardize features by running statistics: StandardScaler with a policy.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted: `streambn.Welford` (the default), `streambn.EMA` by row,
        `streambn.BatchEMA`, to which one call of `fit` or `partial_fit` is one batch, or
        `streambn.Exact`.
    with_mean, with_std : bool
        Whether to subtract the mean, and to divide by the standard deviation.
    eps : float
        Added to the variance before the square root.
    ddof : int
        Taken off the count in the variance: 0 (population) or 1 (sample).
    clip : float, optional
        Clamp the result to [−clip, clip].
    nan : {"ignore", "raise", "propagate"}
        What a NaN does, and a null, which is a NaN to NumPy: it is skipped, or refused,
        or makes its feature's statistics NaN.
    inf : {"raise", "ignore", "propagate"}
        What an infinity does, likewise; "raise" holds for `transform` too.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of shape (n_features,), or None
        Read anew from the running statistics each time; None in the cases in which they
        are None in StandardScaler, NaN where a feature has no value yet.
    n_samples_seen_ : int, float, or ndarray of shape (n_features,)
        Values counted; an array where features differ, that is, where some are missing. Once
        there were sample weights, the sum of those of all values, with `streambn.Welford`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when fitted on a frame or table whose columns have names.

    Notes
    -----
    A batch is learned whole or, if it is refused, not at all. Parameters are checked by
    `fit`; those that change afterwards hold from the next `fit` on.

    float64, float32 and float16 keep their type; all else becomes float64. Dates and
    durations are refused rather than averaged. A feature of zero variance, within the
    rounding of its values, has the scale 1.

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

    _normalizer: Normalizer  # all that was learned; not there before fit

    def __init__(
        self,
        policy: Any = None,
        *,
        with_mean: bool = True,
        with_std: bool = True,
        eps: float = 0.0,
        ddof: int = 0,
        clip: float | None = None,
        nan: str = "ignore",
        inf: str = "raise",
    ) -> None:
        self.policy = policy
        self.with_mean = with_mean
        self.with_std = with_std
        self.eps = eps
        self.ddof = ddof
        self.clip = clip
        self.nan = nan
        self.inf = inf

    @classmethod
    def from_frozen(cls, frozen: FrozenNormalizer) -> Self:
        """Make a fitted estimator of statistics that were kept elsewhere.

        Parameters
        ----------
        frozen : FrozenNormalizer
            Of plain columns, whose names become `feature_names_in_`, or of one column of
            fixed-size lists, whose elements become the features. `partial_fit` goes on
            from there; `frozen` stays as it is.

        Raises
        ------
        InvalidValueError
            It has an affine map, which this estimator has not, or columns of other kinds.
        """
        if not isinstance(frozen, FrozenNormalizer):
            raise InvalidValueError(f"freeze() it first: this is a {type(frozen).__name__}.")
        options, lanes = frozen.options, frozen.features
        if options.affine is not None:
            raise InvalidValueError(
                f"the normalizer has affine={dict(options.affine)!r}, for which SklearnNormalizer "
                "has no parameter. Fit it without."
            )
        _refuse_event_time(frozen.policy)
        self = cls(
            frozen.policy,
            with_mean=options.center,
            with_std=options.scale,
            eps=options.eps,
            ddof=options.ddof,
            clip=options.clip,
            nan=options.nan,
            inf=options.inf,
        )
        self.n_features_in_ = len(lanes)
        nothing = np.empty((0, len(lanes)))
        if _takes(frozen, _columns(nothing, lanes)):
            self.feature_names_in_ = np.array(lanes, dtype=object)
        elif not _takes(frozen, _lists(nothing, _list_name(lanes))):
            raise InvalidValueError(
                f"the lanes {lanes[:5]!r} (of {len(lanes)}) are neither plain columns nor the "
                "elements of one column of lists. Fit with columns= that are."
            )
        self._normalizer = frozen.thaw()
        return self

    def to_normalizer(self) -> Normalizer:
        """Return a live `streambn.Normalizer` that goes on from here, apart from this one.

        Fitted on a frame or table, its columns bear the names of the features, and it
        fits files with those columns. Fitted on arrays, which name nothing, it has one
        column ``x`` of fixed-size lists, the rows: no public way leads from the elements
        of a list to columns. Fit on a frame to have names.

        Once there were sample weights, it takes them from the column that its
        ``options.weights`` names; ``with_weights(None)`` has it go on without.
        """
        return copy.copy(self._statistics())

    # ------------------------------------------------------------------- learning

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget everything, then learn.

        Parameters
        ----------
        X : array-like, pandas or Polars frame, or pyarrow table, (n_samples, n_features)
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), or float, optional
            What each sample weighs: 0 as if it were not there, 2 as if it were there twice, to
            `streambn.Welford`. `streambn.EMA` with ``adjust=True`` heeds it too, others refuse it.
        """
        return self._learn(X, sample_weight, None)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Learn one more batch; the arguments are those of `fit`."""
        return self._learn(X, sample_weight, getattr(self, "_normalizer", None))

    def _learn(self, X: Any, sample_weight: Any, normalizer: Normalizer | None) -> Self:
        before = self.__dict__.copy()
        try:
            array = self._checked(X, reset=normalizer is None)
            # A copy: whoever copied this estimator holds the same normalizer.
            learning = self._new() if normalizer is None else copy.copy(normalizer)
            batch = self._batch(array, learning)
            if sample_weight is not None or learning.options.weights is not None:
                weights = _weights(sample_weight, len(array))
                if learning.options.weights is not None or not (weights == 1).all():
                    learning, batch = _weighed(learning, batch, weights)
            self._normalizer = learning.update(batch)
        except BaseException:
            # scikit-learn's validation sets names before the data can be refused.
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _new(self) -> Normalizer:
        for name in ("with_mean", "with_std"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise InvalidValueError(
                    f"{name} must be True or False, got {getattr(self, name)!r}."
                )
        _refuse_event_time(self.policy)
        return Normalizer(
            self.policy,
            eps=self.eps,
            ddof=self.ddof,
            center=bool(self.with_mean),
            scale=bool(self.with_std),
            clip=self.clip,
            nan=self.nan,  # type: ignore[arg-type]
            inf=self.inf,  # type: ignore[arg-type]
        )

    # ----------------------------------------------------------------- normalizing

    def transform(self, X: Any) -> Any:
        """Standardize by the statistics as they stand. Never learns.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Or what `set_output` asks for. NaN stays NaN, a null becomes NaN, and so does
            a feature that was never seen.
        """
        check_is_fitted(self)
        return self._mapped(self._checked(X, reset=False), Normalizer.transform)

    def inverse_transform(self, X: Any) -> _Array:
        """Undo `transform`, except that what was clipped stays clipped."""
        # The core does not look for infinities on the way back, as scikit-learn does.
        finite = "allow-nan" if self._statistics().options.inf == "raise" else False
        array = check_array(X, dtype=FLOAT_DTYPES, ensure_all_finite=finite, estimator=self)
        if array.shape[1] != self.n_features_in_:
            raise InvalidValueError(
                f"X has {array.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self._mapped(array, Normalizer.inverse_transform)

    def _mapped(self, array: _Array, how: Callable[[Normalizer, pa.RecordBatch], Any]) -> _Array:
        n, width = array.shape
        at_once = max(_VALUES // width, 1)
        if n <= at_once:
            # What Arrow gives back may be read-only; the output is its user's to write.
            out = _rows(how(self._normalizer, self._batch(array, self._normalizer)), width)
            return out if out.flags.writeable else out.copy()
        # A copy sees one state in all pieces, whatever another thread learns meanwhile.
        normalizer = copy.copy(self._normalizer)
        named = hasattr(self, "feature_names_in_")
        out = np.empty((n, width), array.dtype, order="F" if named else "C")
        for start in range(0, n, at_once):
            rows = slice(start, start + at_once)
            out[rows] = _rows(how(normalizer, self._batch(array[rows], normalizer)), width)
        return out

    # -------------------------------------------------------------------- reading

    @property
    def mean_(self) -> NDArray[np.float64] | None:
        """The means; None if there is neither centering nor scaling."""
        options = self._statistics().options
        return self._read("mean") if options.center or options.scale else None

    @property
    def var_(self) -> NDArray[np.float64] | None:
        """The variances; None without scaling."""
        return self._read("var") if self._statistics().options.scale else None

    @property
    def scale_(self) -> NDArray[np.float64] | None:
        """What the features are divided by; None without scaling."""
        options = self._statistics().options
        if not options.scale:
            return None
        mean, std = self._read("mean"), self._read("std")
        # The core's rule: a deviation within the rounding of the values is none.
        varies = std > _EPSILON * np.abs(mean)
        # A hypotenuse: the variance itself may be beyond float64 where its root is not.
        wide = np.hypot(np.where(varies, std, 0.0), np.sqrt(options.eps))
        wide[~varies & (options.eps == 0)] = 1.0
        wide[~np.isfinite(mean)] = np.nan
        return wide

    @property
    def n_samples_seen_(self) -> float | NDArray[Any]:
        """Values counted, or their weights: one number if it is the same for all features."""
        normalizer = self._statistics()
        stats = normalizer.stats()
        weighed = normalizer.options.weights is not None and isinstance(normalizer.policy, Welford)
        # Of a feature without any value the weight is null.
        seen = np.array(stats["weight"].fill_null(0.0) if weighed else stats["count"])
        one: float = seen[0].item()
        return one if (seen == one).all() else seen

    def _read(self, name: str) -> NDArray[np.float64]:
        return np.array(self._statistics().stats()[name])

    def _statistics(self) -> Normalizer:
        check_is_fitted(self)
        return self._normalizer

    # ------------------------------------------------------------ on the host's terms

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_normalizer")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nan != "raise"
        tags.transformer_tags.preserves_dtype = ["float64", "float32", "float16"]
        return tags

    def _checked(self, X: Any, reset: bool) -> Any:
        """Check data by scikit-learn's rules and return it as an array of floats."""
        # The core looks for infinities in passing.
        how = {"dtype": FLOAT_DTYPES, "ensure_all_finite": False}
        if isinstance(X, pa.RecordBatch):  # to scikit-learn it has no names
            X = pa.Table.from_batches([X])
        _refuse_times(X)
        if not isinstance(X, pa.Table) or not X.num_columns:
            return validate_data(self, X, reset=reset, **how)
        validate_data(self, X, reset=reset, skip_check_array=True)
        # Five times as fast as the table makes an array of itself; nulls become NaN.
        stacked = np.stack([column.to_numpy() for column in X.columns]).T
        return check_array(stacked, estimator=self, **how)

    def _batch(self, array: _Array, normalizer: Normalizer) -> pa.RecordBatch:
        """Lay rows out for the core: columns if they have names, else one column of lists.

        A list is what a row of a C-ordered array is, so the array goes in without a copy:
        it learns five times as fast as from columns cut out of the rows.
        """
        names = getattr(self, "feature_names_in_", None)
        if names is not None:
            return _columns(array, names)
        return _lists(array, _list_name(normalizer.features))


def _columns(array: _Array, names: Any) -> pa.RecordBatch:
    # The columns of an F-ordered array, as most frames give, are not copied.
    return pa.RecordBatch.from_arrays([pa.array(x) for x in array.T], names=list(names))


def _lists(array: _Array, name: str) -> pa.RecordBatch:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.RecordBatch.from_arrays([rows], names=[name])


def _rows(batch: pa.RecordBatch, width: int) -> _Array:
    """Make an array of what `_columns` or `_lists` made of one, nulls as NaN."""
    out: _Array
    if pa.types.is_fixed_size_list(batch.schema.types[0]):
        out = batch.column(0).values.to_numpy(zero_copy_only=False).reshape(-1, width)
    else:
        out = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
    return out


def _list_name(lanes: tuple[str, ...]) -> str:
    """Give the name of the column of lists to which the lanes belong."""
    return lanes[0].rpartition("[")[0] if lanes else _COLUMN


def _takes(frozen: FrozenNormalizer, rows: pa.RecordBatch) -> bool:
    """Say whether a normalizer is bound to such columns."""
    try:
        frozen.transform(rows)
    except SchemaError:
        return False
    return True


def _weights(sample_weight: Any, samples: int) -> NDArray[np.float64]:
    """Return what each sample weighs; which numbers are weights, the core knows."""
    if sample_weight is None:
        return np.ones(samples)
    try:
        weights: NDArray[np.float64] = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"sample_weight must hold numbers >= 0, got {sample_weight!r:.60}."
        ) from error
    if weights.ndim == 0:
        weights = np.full(samples, weights)
    if weights.shape != (samples,):
        raise InvalidValueError(
            f"sample_weight has the shape {weights.shape}, and there are {samples} samples. Give "
            f"one number a sample: the shape ({samples},)."
        )
    if not weights.any():
        raise InvalidValueError(
            "sample_weight holds nothing but zeros, so there is nothing to learn. Give at least "
            "one sample a weight above zero."
        )
    return weights


def _weighed(
    normalizer: Normalizer, batch: pa.RecordBatch, weights: NDArray[np.float64]
) -> tuple[Normalizer, pa.RecordBatch]:
    """Put the weights beside the features, and have the normalizer find them there."""
    name = normalizer.options.weights or "sample_weight"
    while name in batch.schema.names:  # a feature
        name += "_"
    if name != normalizer.options.weights:
        normalizer = normalizer.with_weights(name)
    columns, names = [*batch.columns, pa.array(weights)], [*batch.schema.names, name]
    return normalizer, pa.RecordBatch.from_arrays(columns, names=names)


def _refuse_event_time(policy: Any) -> None:
    if getattr(policy, "time", None) is not None:
        raise InvalidValueError(
            f"{policy!r} goes by event time, which a matrix of features has not. Take "
            "streambn.Normalizer, or an EMA that counts rows, such as EMA(halflife=10_000)."
        )


def _refuse_times(X: Any) -> None:
    """Refuse dates and durations, of which scikit-learn would average the integers."""
    if isinstance(X, pa.Table):
        kinds = X.schema.types
    elif hasattr(X, "__arrow_c_stream__"):  # a frame
        kinds = list(getattr(X, "dtypes", []))
    else:
        kinds = [getattr(X, "dtype", None)]
    for i, kind in enumerate(kinds):
        if _is_temporal(kind):
            raise SchemaError(
                f"column {i} of X is {kind}, which is not numeric. Leave it out, or make it a "
                "number of units of your choice first."
            )


def _is_temporal(kind: Any) -> bool:
    if isinstance(kind, pa.DataType):
        return bool(pa.types.is_temporal(kind))
    polars = getattr(kind, "is_temporal", None)
    return bool(polars()) if polars else getattr(kind, "kind", "") in {"M", "m"}
