"""What both implementations of `RowStatistics` go by: the rules, and what is a number.

`RowStatistics` keeps statistics of features, which come and go, over a stream of rows that are
dicts. The two functions here are given to it. They are functions of a module, as the garbage
collector does not look through what an object of the extension refers to.
"""

from __future__ import annotations

import math
import numbers
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np

from streambn.errors import InvalidValueError, NotFittedError, SchemaError

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

# Products of two weights, and of one with a square, are to stay inside float64.
MAX_WEIGHT: Final = 1e30
# The heaviest row of a batch weighs no less, or nothing.
MIN_WEIGHT = 1e-30

# Digits enough for the difference of a decimal and the float64 next to it.
_EXACT = Context(prec=1100)


class RowRules(NamedTuple):
    """Hyperparameters of `RowStatistics`, in the order in which it takes them.

    Attributes
    ----------
    decay : float
        The factor by which a row discounts those before it.
    ignore_missing : bool
        Whether a missing value does not age the others.
    prior : float
        What a feature's first value weighs, where the later ones weigh 1 and all together
        always as much, 1/α: the recursion of ``EMA(adjust=False)``. 0: it is as any other.
    ddof : int
    eps, clip : float
        A clip of infinity clips nothing.
    center, scale : bool
    nan, inf : int
        Places in `MISSING`.
    unseen : int
        An index into `UNSEEN`.
    constant : int
        An index into `CONSTANT`. It applies where eps is 0: with an eps, a constant feature
        is divided by √eps.
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


def number(value: Any, key: Any) -> tuple[float, float, bool] | tuple[()] | None:
    """Make of a feature's value hi + lo, and say whether it was exact: no float.

    Returns
    -------
    (float, float, bool), () or None
        () where the value is missing, None where it is no number: it is a text, say.

    Raises
    ------
    InvalidValueError
        It lies beyond float64.
    """
    kind = type(value)
    if kind is float:  # as most are
        return value, 0.0, False
    if value is None or kind.__name__ == "NAType":  # pandas' missing value
        return ()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, np.floating | float):
        high = float(value)
        # A longdouble has more digits.
        return high, float(value - kind(high)) if math.isfinite(high) else 0.0, False
    if isinstance(value, Decimal):
        if not value.is_finite():
            return float(value) if not value.is_snan() else math.nan, 0.0, False
        high = _float64(value, key)
        return high, float(_EXACT.subtract(value, Decimal(high))), True
    if isinstance(value, numbers.Rational | np.integer):
        whole = int(value) if isinstance(value, np.integer) else value
        high = _float64(whole, key)
        # Fractions, as the difference of an integer and a float would be rounded twice.
        return high, float(Fraction(whole) - Fraction(high)), True
    return None


def weight_of(value: Any, key: Any = None) -> float:
    """Return what a row weighs, as something says or, with a key, what it has under that.

    Raises
    ------
    InvalidValueError
        It is no number from 0 to `MAX_WEIGHT`.
    """
    try:
        found = number(value, "weight")
    except InvalidValueError:  # beyond float64
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
            f"feature {key!r} holds a number that lies beyond float64: {_shown(value)}. Scale it, "
            "or leave it out of the row."
        )
    return high


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"about 2**{value.bit_length()}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(why: str, key: Any, value: Any) -> NoReturn:
    """Raise the error for a value that a row must not have."""
    if why == "other":
        raise SchemaError(
            f"feature {key!r} is no longer numeric: it is {_shown(value)}. All that came with it "
            "was refused. Convert it to a number, or leave it out."
        )
    if why == "unseen":
        raise NotFittedError(
            f"feature {key!r} was never seen, so it has no statistics. Learn it first, or choose "
            "unseen='zero' or unseen='passthrough'."
        )
    if why == "row":
        raise InvalidValueError(
            f"a row must be a dict of features, got {type(value).__name__}: {_shown(value)}."
        )
    if why == "weight":
        under = "" if key is None else f" under {key!r}"
        raise InvalidValueError(
            f"weight{under} must be a number from 0, for a row without effect, to {MAX_WEIGHT:g}, "
            f"got {_shown(value)}. The row was refused whole."
        )
    if why == "recursion":
        raise InvalidValueError(
            f"weight must be 1, got {_shown(value)}: the recursion of adjust=False has weights of "
            "its own. The row was refused whole. Use adjust=True, or leave weight out."
        )
    word = "NaN" if why == "nan" else "infinity"
    raise InvalidValueError(
        f"feature {key!r} holds {word}: {value!r}. The row was refused whole. Clean it, or choose "
        f"{why}='ignore' (skip and count) or {why}='propagate'."
    )
