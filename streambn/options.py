"""A normalizer's hyperparameters other than policy and columns, validated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np

from streambn._messages import spell
from streambn.errors import InvalidValueError
from streambn.kernels.interface import Ints
from streambn.kernels.rows import MISSING, RowRules
from streambn.policies import is_name

__all__ = ["Missing", "Options", "SchemaRule"]

Missing = Literal["ignore", "raise", "propagate"]
SchemaRule = Literal["fixed", "union"]

_MAX_ROWS: Final = 2**61  # the most rows that a feature may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How values are treated; `streambn.Normalizer` documents each option.

    Raises
    ------
    InvalidValueError
        An option is outside its domain.
    """

    eps: float = 0.0
    ddof: int = 0
    center: bool = True
    scale: bool = True
    affine: Mapping[str, tuple[float, float]] | None = None
    clip: float | None = None
    nan: Missing = "ignore"
    inf: Missing = "raise"
    weights: str | None = None
    schema: SchemaRule = "fixed"
    min_count: int = 0

    def __post_init__(self) -> None:
        if not _is_finite(self.eps) or self.eps < 0:
            raise self._invalid("eps", "a finite number >= 0")
        if isinstance(self.ddof, bool) or self.ddof not in (0, 1):
            raise self._invalid("ddof", "0 (population) or 1 (sample)")
        for name in ("center", "scale"):
            if not isinstance(getattr(self, name), bool):
                raise self._invalid(name, "True or False")
        if self.clip is not None and (not _is_finite(self.clip) or self.clip <= 0):
            raise self._invalid("clip", "a finite number > 0, or None")
        for name in ("nan", "inf"):
            if getattr(self, name) not in ("ignore", "raise", "propagate"):
                raise self._invalid(name, "'ignore', 'raise' or 'propagate'")
        if self.schema not in ("fixed", "union"):
            raise self._invalid("schema", "'fixed' or 'union'")
        if self.weights is not None and not is_name(self.weights):
            raise self._invalid("weights", "the name of a column of sample weights, or None")
        if not _is_count(self.min_count):
            raise self._invalid("min_count", "an integer from 0 to 2**61")
        # Plain Python numbers compare, print and save alike wherever they came from.
        object.__setattr__(self, "eps", float(self.eps))
        object.__setattr__(self, "ddof", int(self.ddof))
        object.__setattr__(self, "min_count", int(self.min_count))
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))
        object.__setattr__(self, "affine", _checked_affine(self.affine))

    def _invalid(self, name: str, domain: str) -> InvalidValueError:
        return InvalidValueError(
            f"{name} must be {domain}, got {getattr(self, name)!r}.", argument=name
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled, but the dict below it can.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["affine"] = None if self.affine is None else dict(self.affine)
        return _unpickle, (values,)

    @property
    def row_rules(self) -> RowRules:
        """The rules for rows that come one by one, without those of a policy."""
        return RowRules(
            decay=1.0,
            ignore_missing=False,
            prior=0.0,
            ddof=self.ddof,
            eps=self.eps,
            clip=math.inf if self.clip is None else self.clip,
            center=self.center,
            scale=self.scale,
            nan=MISSING.index(self.nan),
            inf=MISSING.index(self.inf),
            unseen=0,
            constant=0,
            min_count=self.min_count,
        )

    def check_finite(self, nans: Ints, infs: Ints, features: Sequence[Any]) -> None:
        """Raise if a batch holds values that ``nan="raise"`` or ``inf="raise"`` refuses.

        Parameters
        ----------
        nans, infs : ndarray of int64, shape (features,)
            Numbers of NaN and infinite values in the batch.
        features : sequence
            Names of the features.

        Raises
        ------
        InvalidValueError
            It holds such values.
        """
        # Without a loop, because every batch comes by.
        if self.nan == "raise" and np.count_nonzero(nans):
            raise _refused("nan", "NaN", nans, features)
        if self.inf == "raise" and np.count_nonzero(infs):
            raise _refused("inf", "infinity", infs, features)


def _refused(name: str, word: str, counts: Ints, features: Sequence[Any]) -> InvalidValueError:
    index = int(np.flatnonzero(counts)[0])
    feature = features[index]
    return InvalidValueError(
        f"column {feature!r} holds {word} in {counts[index]} rows. The batch was rejected. Clean "
        f"the data, or choose {spell(name, 'ignore')} (skip and count) or "
        f"{spell(name, 'propagate')}.",
        column=str(feature),
    )


def _unpickle(values: dict[str, Any]) -> Options:
    return Options(**values)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return False


def _is_count(value: object) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64)
    return whole and 0 <= value <= _MAX_ROWS  # type: ignore[operator]


def _checked_affine(affine: object) -> Mapping[str, tuple[float, float]] | None:
    if affine is None:
        return None
    example = 'such as {"price": (1.0, 0.0)}'
    if not isinstance(affine, Mapping):
        raise InvalidValueError(
            f"affine must map column names to pairs (gamma, beta), {example}; got {affine!r}.",
            argument="affine",
        )
    checked = {}
    for name, pair in affine.items():
        try:
            gamma, beta = pair
            valid = isinstance(name, str) and _is_finite(gamma) and _is_finite(beta)
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise InvalidValueError(
                f"affine[{name!r}] must be a pair of finite numbers (gamma, beta), {example}; "
                f"got {pair!r}.",
                argument="affine",
                column=str(name),
            )
        if name and not is_name(name):
            raise InvalidValueError(
                f"affine must map column names to pairs, and {name!r} is not Unicode text, so no "
                "column has this name.",
                argument="affine",
            )
        checked[name] = (float(gamma), float(beta))
    return MappingProxyType(checked) if checked else None
