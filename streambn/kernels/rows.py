"""Rules and number conversion shared by both implementations of `RowStatistics`.

`RowStatistics` keeps statistics of features that come and go, over rows that are dicts. It calls
`number` and `refuse`. They are functions of a module because the garbage collector cannot follow
the references of an object of the extension.
"""

from __future__ import annotations

import math
import numbers
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np

from streambn._messages import start_of
from streambn.errors import InvalidValueError, NotFittedError, SchemaError
from streambn.kernels.recursion import counts_gaps

__all__ = [
    "CONSTANT",
    "MAX_WEIGHT",
    "MIN_WEIGHT",
    "MISSING",
    "UNSEEN",
    "RowRules",
    "number",
    "refuse",
    "weight_of",
]

# The extension receives each of these choices as its index.
MISSING = ("ignore", "raise", "propagate")  # for a NaN or an infinity
UNSEEN = ("zero", "passthrough", "raise")  # for a value of a feature without statistics
CONSTANT = ("unit", "zero")  # for a feature of zero variance: unit scale, or output 0

# Within these bounds the product of two weights, or of a weight and a square, stays in float64.
MAX_WEIGHT: Final = 1e30
MIN_WEIGHT: Final = 1e-30  # for the heaviest row of a batch

# Enough digits for the difference of a decimal and the nearest float64.
_EXACT = Context(prec=1100)


class RowRules(NamedTuple):
    """Hyperparameters of `RowStatistics`, in the order of its arguments.

    Attributes
    ----------
    decay : float
        The factor by which a row discounts the rows before it.
    ignore_missing : bool
        Whether a missing value discounts nothing.
    prior : float
        0 if a feature's first value counts like any other. 1/α for the recursion of
        ``EMA(adjust=False)``, in which the first value weighs 1/α and every later one 1.
    ddof : int
    eps, clip : float
        A clip of infinity clips nothing.
    center, scale : bool
    nan, inf : int
        Indices into `MISSING`.
    unseen : int
        An index into `UNSEEN`.
    constant : int
        An index into `CONSTANT`. It applies where eps is 0: with an eps, a constant feature
        is divided by √eps.
    min_count : int
        A feature with fewer values has no map yet.
    """

    decay: float
    ignore_missing: bool
    prior: float
    ddof: int
    eps: float
    clip: float
    center: bool
    scale: bool
    nan: int
    inf: int
    unseen: int
    constant: int
    min_count: int = 0

    @property
    def counts_gaps(self) -> bool:
        """Whether rows without a value are counted."""
        return counts_gaps(self.decay, self.ignore_missing, self.prior)


def number(value: Any, key: Any) -> tuple[float, float, bool] | tuple[()] | None:
    """Return a value as an unevaluated sum of two floats, and whether it is exact.

    Parameters
    ----------
    value : object
    key : object
        The feature, for the error message.

    Returns
    -------
    (float, float, bool), () or None
        The two floats, and whether the value is an integer, decimal or fraction; () for a missing
        value; None for a value that is not a number.

    Raises
    ------
    InvalidValueError
        The value is beyond the range of float64.
    """
    kind = type(value)
    if kind is float:  # the common case first
        return value, 0.0, False
    if value is None or kind.__name__ == "NAType":  # pandas' missing value
        return ()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, np.floating | float):
        high = float(value)
        # A longdouble has more digits than a float.
        return high, float(value - kind(high)) if math.isfinite(high) else 0.0, False
    if isinstance(value, Decimal):
        if not value.is_finite():
            return float(value) if not value.is_snan() else math.nan, 0.0, False
        high = _float64(value, key)
        return high, float(_EXACT.subtract(value, Decimal(high))), True
    if isinstance(value, numbers.Rational | np.integer):
        whole = int(value) if isinstance(value, np.integer) else value
        high = _float64(whole, key)
        # Fractions, because the difference of an int and a float would be rounded.
        return high, float(Fraction(whole) - Fraction(high)), True
    return None


def weight_of(value: Any, key: Any = None) -> float:
    """Return the weight of a row as a float.

    Parameters
    ----------
    value : object
    key : object, optional
        The key of the row that holds the weight, for the error message.

    Raises
    ------
    InvalidValueError
        The weight is not a number from 0 to `MAX_WEIGHT`.
    """
    try:
        found = number(value, "weight")
    except InvalidValueError:  # it is beyond float64
        found = None
    if not found or not 0 <= found[0] <= MAX_WEIGHT:
        refuse("weight", key, value)
    return found[0]


def _float64(value: Any, key: Any) -> float:
    try:
        high = float(value)
    except OverflowError:
        high = math.inf
    if math.isinf(high):
        raise InvalidValueError(
            f"feature {key!r} holds {_shown(value)}, which is beyond the range of float64. Scale "
            "it, or leave it out of the row.",
            column=str(key),
        )
    return high


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"about 2**{value.bit_length()}"
    return start_of(text)


def refuse(why: str, key: Any, value: Any) -> NoReturn:
    """Raise the error for a value that a row must not have.

    Parameters
    ----------
    why : {"other", "text", "missing", "unseen", "few", "row", "weight", "recursion", "nan", "inf"}
    key : object
        The feature, or the key of the weight.
    value : object
        The value under the key; the row if the key is missing.
    """
    if why == "missing":
        raise SchemaError.missing(key, map(str, value), "None stands for a missing value.")
    if why == "text":
        raise SchemaError(
            f"feature {key!r} is not a number: it is {_shown(value)}. Convert it to a number, or "
            "to None for a missing value.",
            column=str(key),
        )
    if why == "other":
        raise SchemaError(
            f"feature {key!r} is no longer numeric: it is {_shown(value)}. The row or batch was "
            "rejected. Convert it to a number, or leave it out.",
            column=str(key),
        )
    if why == "unseen":
        raise NotFittedError(
            f"feature {key!r} has no statistics. Learn it first, or choose unseen='zero' or "
            "unseen='passthrough'.",
            argument="unseen",
            column=str(key),
        )
    if why == "few":
        raise NotFittedError(
            f"feature {key!r} has fewer values than min_count asks for. Learn more of them first, "
            "or choose unseen='zero' or unseen='passthrough'.",
            argument="unseen",
            column=str(key),
        )
    if why == "row":
        raise InvalidValueError(
            f"a row must be a dict of features, got {type(value).__name__}: {_shown(value)}."
        )
    if why == "weight":
        under = "" if key is None else f" under {key!r}"
        raise InvalidValueError(
            f"weight{under} must be a number from 0 to {MAX_WEIGHT:g}, got {_shown(value)}. The "
            "row was rejected.",
            argument="weight" if key is None else None,
            column=None if key is None else str(key),
        )
    if why == "recursion":
        raise InvalidValueError(
            f"weight must be 1, got {_shown(value)}: an EMA with adjust=False sets the weights "
            "itself. The row was rejected. Choose adjust=True, or omit the weight.",
            argument="weight",
        )
    word = "NaN" if why == "nan" else "infinity"
    raise InvalidValueError(
        f"feature {key!r} holds {word}. The row was rejected. Remove it, or choose {why}='ignore' "
        f"(skip and count it) or {why}='propagate'.",
        column=str(key),
    )
