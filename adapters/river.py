"""streambn as a River transformer: `RiverNormalizer`, whose statistics can be frozen.

Needs River: ``pip install 'streambn[river]'``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

import streambn as sbn
from streambn.errors import InvalidValueError

try:
    from river import base

    from ._frames import map_frame, rows_of
except ImportError as error:
    raise ImportError(
        "streambn.adapters.river needs River: pip install 'streambn[river]'"
    ) from error

__all__ = ["RiverNormalizer", "freeze", "unfreeze"]

Missing = Literal["ignore", "raise", "propagate"]
Unseen = Literal["zero", "passthrough", "raise"]

# The parameters that `streambn.Normalizer` has too, besides the policy.
_OPTIONS: tuple[str, ...] = ("eps", "ddof", "center", "scale", "affine", "clip", "nan", "inf")
_OPTIONS += ("weights", "min_count")


class RiverNormalizer(base.MiniBatchTransformer):
    """Normalize features by their running mean and variance, row by row or in mini-batches.

    It replaces `river.preprocessing.StandardScaler`, and with
    ``policy=EMA(alpha=..., adjust=False)`` also `AdaptiveStandardScaler`. Unlike those it keeps
    its precision at any offset, handles missing values, and can be frozen, saved and loaded.

    Parameters
    ----------
    policy : Policy, optional
        How the past is weighted: `Welford` (the default), `EMA`, `BatchEMA` or `Exact`. To a
        `BatchEMA` each `learn_many` is one block and each `learn_one` is a block of one row, so
        the two differ. With ``EMA(halflife="7d", time="t")`` the value under the key ``"t"`` is
        the event time of a row; it is not a feature and passes through.
    columns, exclude : sequence of str, optional
        Names and shell patterns of the features, and of keys that are not features. All other
        keys pass through. Default: every key is a feature.
    eps, ddof, center, scale, affine, clip, nan, inf
        As for `streambn.Normalizer`.
    weights : str, optional
        Key of the sample weight in each row, in place of the argument `w`. It is not a feature
        and passes through.
    min_count : int
        Number of values from which a feature has statistics.
    unseen : {"zero", "passthrough", "raise"}
        Output for values of a feature without statistics: 0.0, the value itself, or a
        `NotFittedError`.

    Raises
    ------
    InvalidValueError
        An argument is out of range.

    Notes
    -----
    Features may come and go. A feature that a row lacks is missing in that row, also in the rows
    before it first appeared. With an `EMA` a missing value ages the others, unless
    ``ignore_na=True``.

    A row or frame is learned whole or not at all. Transforming never learns. Threads may share a
    transformer, as `streambn.RowNormalizer` says.

    Differences from River's scalers:

    * Booleans, strings, dates and all other values that are not numbers pass through. River's
      scalers treat True as 1. A feature that was a number and is one no longer raises a
      `SchemaError`.
    * None is a missing value and stays None. NaN is skipped and counted, and stays NaN. An
      infinity raises an `InvalidValueError`.
    * A feature of zero variance becomes 0.0 whatever the value, in rows and in frames. That is
      River's rule for rows; `streambn.Normalizer` divides by 1 instead. With an `eps` both
      divide by √eps.
    * The statistics are read with `stats`, not from attributes such as ``means`` and ``vars``.

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
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        eps: float = 0.0,
        ddof: int = 0,
        center: bool = True,
        scale: bool = True,
        affine: Mapping[str, tuple[float, float]] | None = None,
        clip: float | None = None,
        nan: Missing = "ignore",
        inf: Missing = "raise",
        weights: str | None = None,
        min_count: int = 0,
        unseen: Unseen = "zero",
    ) -> None:
        self.policy = policy
        self.columns = columns
        self.exclude = exclude
        self.eps = eps
        self.ddof = ddof
        self.center = center
        self.scale = scale
        self.affine = affine
        self.clip = clip
        self.nan = nan
        self.inf = inf
        self.weights = weights
        self.min_count = min_count
        self.unseen = unseen
        self.reset()

    def reset(self) -> None:
        """Forget all statistics. The parameters stay, and the transformer is not frozen."""
        self._frozen = False
        options = {name: getattr(self, name) for name in _OPTIONS}
        self._rows = sbn.RowNormalizer(
            self.policy,
            self.columns,
            exclude=self.exclude,
            unseen=self.unseen,
            constant="zero",
            **options,
        )

    def _unit_test_skips(self) -> set[str]:
        """Return the names of River's checks that do not apply: a `BatchEMA` learns by blocks."""
        by_blocks = isinstance(self.policy, sbn.BatchEMA)
        return {"check_learn_many_matches_learn_one"} if by_blocks else set()

    # ---------------------------------------------------------------------------- rows

    def learn_one(self, x: dict[Any, Any], w: float = 1.0) -> None:
        """Learn one row, unless frozen.

        Parameters
        ----------
        x : dict
        w : float
            Weight of the row, for `Welford` and for `EMA` with ``adjust=True``. A row of weight
            0 changes nothing.

        Raises
        ------
        InvalidValueError
            ``nan=`` or ``inf=`` refuses a value, or `w` is not a weight, or the policy sets the
            weights and `w` is not 1.
        SchemaError
            A feature that was a number is one no longer.
        """
        if not self._frozen:
            self._rows.learn_one(x, w)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return a row normalized by the current statistics.

        Raises
        ------
        InvalidValueError, SchemaError
            As for `learn_one`.
        NotFittedError
            A feature has no statistics, and ``unseen="raise"``.
        """
        return self._rows.transform_one(x)

    # -------------------------------------------------------------------- mini-batches

    def learn_many(self, X: Any, w: Any = None) -> None:
        """Learn the rows of a frame, unless frozen.

        Parameters
        ----------
        X : pandas, Polars or other eager frame, pyarrow Table or RecordBatch
            A NaN in a NumPy column of pandas is NaN, not missing.
        w : array-like of shape (rows,), or float, optional
            Weight of each row, or of every row.

        Raises
        ------
        InvalidValueError, SchemaError
            As for `learn_one`.
        """
        if self._frozen:
            return
        rows, names = rows_of(X)
        if w is not None and np.ndim(w) == 0:
            w = np.full(len(rows), w)
        self._rows.learn_many(rows, names, w)

    def transform_many(self, X: Any) -> Any:
        """Return a frame of the same kind, normalized by the current statistics.

        Floats keep their type, each column by itself; other numbers become float64. Columns
        without numbers and the index of a pandas frame stay.

        Raises
        ------
        InvalidValueError, SchemaError, NotFittedError
            As for `transform_one`.
        """
        # The column of weights or of times passes through, unlike the features beside it.
        others = (self.columns, self.exclude, self.weights, getattr(self.policy, "time", None))
        all_features = all(other is None for other in others)
        return map_frame(X, self._rows.transform_many, all_features=all_features)

    # ------------------------------------------------------------------------ freezing

    @property
    def frozen(self) -> bool:
        """Whether `learn_one` and `learn_many` do nothing."""
        return self._frozen

    def freeze(self) -> None:
        """Stop learning, wherever this transformer stands in a model.

        The function `freeze` does it for all normalizers of a model.
        """
        self._frozen = True

    def unfreeze(self) -> None:
        """Learn again."""
        self._frozen = False

    # ---------------------------------------------------------------------- statistics

    def stats(self, at: Any = None) -> pa.Table:
        """Return the statistics, one row for each feature; see `streambn.Normalizer.stats`."""
        return self._rows.stats(at)

    @classmethod
    def from_normalizer(
        cls, normalizer: sbn.Normalizer | sbn.FrozenNormalizer, unseen: Unseen = "zero"
    ) -> Self:
        """Return a transformer that goes on from statistics fitted elsewhere, as over files.

        Parameters
        ----------
        normalizer : Normalizer or FrozenNormalizer
            Of plain columns. The transformer takes over its policy and options; it does not
            change itself.
        unseen : {"zero", "passthrough", "raise"}
            As for the class.

        Returns
        -------
        RiverNormalizer
            Not frozen.

        Raises
        ------
        InvalidValueError
            `normalizer` is not a normalizer.
        SchemaError
            A column is a list or part of a struct.
        """
        if not isinstance(normalizer, sbn.Normalizer | sbn.FrozenNormalizer):
            raise InvalidValueError(
                "normalizer must be a streambn.Normalizer or FrozenNormalizer, got "
                f"{type(normalizer).__name__}. Read a file with streambn.load(path).",
                argument="normalizer",
            )
        options: dict[str, Any] = {name: getattr(normalizer.options, name) for name in _OPTIONS}
        if options["affine"] is not None:
            options["affine"] = dict(options["affine"])
        rows = sbn.RowNormalizer.from_normalizer(normalizer, unseen=unseen, constant="zero")
        columns = None if rows.columns is None else list(rows.columns)
        exclude = list(rows.exclude) or None
        self = cls(normalizer.policy, columns=columns, exclude=exclude, unseen=unseen, **options)
        self._rows = rows
        return self

    @classmethod
    def from_frozen(
        cls, frozen: sbn.Normalizer | sbn.FrozenNormalizer, unseen: Unseen = "zero"
    ) -> Self:
        """Return `from_normalizer`, the name that replaces this one.

        .. deprecated:: 0.1
        """
        warnings.warn(
            "RiverNormalizer.from_frozen is deprecated; call from_normalizer, which takes live and "
            "frozen normalizers.",
            DeprecationWarning,
            stacklevel=2,
        )
        return cls.from_normalizer(frozen, unseen)

    def to_normalizer(self) -> sbn.Normalizer:
        """Return a live `streambn.Normalizer` that goes on from here; this one does not change.

        Raises
        ------
        SchemaError
            Two features have the same name as text.
        """
        return self._rows.to_normalizer()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to a file, which `load` and `streambn.load` read.

        A frozen transformer writes a frozen file. The file holds all parameters but `unseen`.

        Raises
        ------
        InvalidValueError
            The name of a feature is not a string.
        NotFittedError
            The transformer is frozen and has learned nothing.
        OSError, SnapshotError
            As for `streambn.Normalizer.save`.
        """
        for name in self._rows.features:
            if not isinstance(name, str):
                raise InvalidValueError(
                    f"feature {name!r} cannot be saved: in a statistics file names are strings. "
                    "Rename the feature, or pickle the transformer."
                )
        normalizer = self.to_normalizer()
        (normalizer.freeze() if self._frozen else normalizer).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], unseen: Unseen = "zero") -> Self:
        """Return a transformer with the statistics of a file, frozen if the file is.

        Parameters
        ----------
        path : str or path-like
            A file of `save`, `streambn.Normalizer.save` or ``streambn fit``.
        unseen : {"zero", "passthrough", "raise"}
            As for the class; files do not hold it.

        Raises
        ------
        OSError, SnapshotError
            As for `streambn.load`.
        SchemaError
            As for `from_normalizer`.
        """
        normalizer = sbn.load(path)
        self = cls.from_normalizer(normalizer, unseen)
        self._frozen = isinstance(normalizer, sbn.FrozenNormalizer)
        return self


def freeze(model: base.Base) -> None:
    """Freeze every `RiverNormalizer` in a model: in pipelines, unions, groupers and ensembles.

    In a `river.compose.Grouper` it freezes the scaler of each group, and the prototype that the
    grouper copies for new groups. A group that appears later gets a frozen copy of the prototype.

    Examples
    --------
    >>> from river import compose, linear_model
    >>> from streambn.adapters.river import RiverNormalizer, freeze
    >>> scalers = compose.Grouper(RiverNormalizer(), by="shop")
    >>> model = scalers | compose.Discard("shop") | linear_model.LinearRegression()
    >>> model.learn_one({"shop": "Oulu", "price": 9.0}, 1.0)
    >>> freeze(model)
    >>> scalers.transformers["Oulu"].frozen
    True
    """
    for normalizer in _normalizers(model, set()):
        normalizer.freeze()


def unfreeze(model: base.Base) -> None:
    """Let every `RiverNormalizer` in a model learn again; see `freeze`."""
    for normalizer in _normalizers(model, set()):
        normalizer.unfreeze()


def _normalizers(part: Any, visited: set[int]) -> Iterator[RiverNormalizer]:
    """Yield the normalizers among a part of a model and all that it consists of."""
    if id(part) in visited:
        return
    visited.add(id(part))
    # To isinstance, a pipeline is an instance of the class of its last step.
    if issubclass(type(part), RiverNormalizer):
        yield part
        return
    if isinstance(part, base.Base):
        part = vars(part)
    if isinstance(part, Mapping):
        part = part.values()
    elif not isinstance(part, list | tuple):
        return
    for each in part:
        yield from _normalizers(each, visited)
