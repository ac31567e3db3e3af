"""A normalizer's own hyperparameters, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from streambn.errors import InvalidValueError

__all__ = ["Missing", "Options"]

Missing = Literal["ignore", "raise", "propagate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How statistics become a map. The meaning of each is in `streambn.Normalizer`.

    Raises
    ------
    InvalidValueError
        A value is outside its domain; the message says which and what it may be.
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

    def __post_init__(self) -> None:
        def refuse(name: str, domain: str) -> InvalidValueError:
            return InvalidValueError(f"{name} must be {domain}, got {getattr(self, name)!r}.")

        if not _is_finite(self.eps) or self.eps < 0:
            raise refuse("eps", "a finite number >= 0")
        if isinstance(self.ddof, bool) or self.ddof not in (0, 1):
            raise refuse("ddof", "0 (population) or 1 (sample)")
        for name in ("center", "scale"):
            if not isinstance(getattr(self, name), bool):
                raise refuse(name, "True or False")
        if self.clip is not None and (not _is_finite(self.clip) or self.clip <= 0):
            raise refuse("clip", "a finite number > 0, or None")
        for name in ("nan", "inf"):
            if getattr(self, name) not in ("ignore", "raise", "propagate"):
                raise refuse(name, "'ignore', 'raise' or 'propagate'")
        if self.weights is not None and (not isinstance(self.weights, str) or not self.weights):
            raise refuse("weights", "the name of a column of sample weights, or None")
        # Plain Python numbers: they compare, print and save alike wherever they came from.
        object.__setattr__(self, "eps", float(self.eps))
        object.__setattr__(self, "ddof", int(self.ddof))
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))
        object.__setattr__(self, "affine", _checked_affine(self.affine))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view of a dict does not go into a pickle; the dict does.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["affine"] = None if self.affine is None else dict(self.affine)
        return _options, (values,)


def _options(values: dict[str, Any]) -> Options:
    return Options(**values)


def _is_finite(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return False


def _checked_affine(affine: object) -> Mapping[str, tuple[float, float]] | None:
    if affine is None:
        return None
    remedy = 'for example {"price": (1.0, 0.0)}'
    if not isinstance(affine, Mapping):
        raise InvalidValueError(
            f"affine must map column names to (gamma, beta), {remedy}; got {affine!r}."
        )
    checked = {}
    for name, pair in affine.items():
        try:
            gamma, beta = pair
            good = isinstance(name, str) and _is_finite(gamma) and _is_finite(beta)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise InvalidValueError(
                f"affine[{name!r}] must be two finite numbers (gamma, beta), {remedy}; "
                f"got {pair!r}."
            )
        checked[name] = (float(gamma), float(beta))
    return MappingProxyType(checked) if checked else None
