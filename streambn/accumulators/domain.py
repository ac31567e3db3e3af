"""The values that accumulators can have, whatever the stream.

The checks here are for states that come from elsewhere, such as a file. Each raises an
InvalidValueError that names the first field and value at fault. They refuse nothing that a stream
can give: relations between rounded numbers have to hold to a thousandth only.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Moments
from streambn.errors import InvalidValueError
from streambn.kernels.interface import Floats, Ints
from streambn.kernels.moments import TallyArrays
from streambn.kernels.rows import MAX_WEIGHT

__all__ = [
    "MAX_ROWS",
    "check_exact",
    "check_moments",
    "check_ranges",
    "check_rows",
    "check_sums",
    "check_tally",
    "require",
    "rounding_of",
]

# Statistics of more rows are refused before a count could leave 64 bits. Counts from elsewhere
# may be twice as large, because single batches are not worth a check: their rows fit into memory.
MAX_ROWS: Final = 2**61

# Squares and variances reach 2**±2148, and weighted means of them less. An exponent of no stream
# beyond that does no harm: the value is infinite or zero, and other checks find it.
_EXPONENTS: Final = 5000
_UNITS: Final = 2.0**450  # values are kept in units in which their squares stay in float64
_LEAST: Final = 1e-290  # products of weights below it lose digits
_MAX_SCALE: Final = 1000  # of decimals
_SLACK_BITS: Final = 50  # minimum and maximum are rounded to float64


def require(valid: NDArray[np.bool_], name: str, values: NDArray[Any], rule: str) -> None:
    """Raise an InvalidValueError for the first of `values` that is not `valid`."""
    if not valid.all():
        i = int(valid.argmin())
        raise InvalidValueError(f"{name}[{i}] is {values[i].item()!r}, but must be {rule}")


def check_rows(tally: TallyArrays, features: Any) -> None:
    """Raise an InvalidValueError if a feature has more than `MAX_ROWS` rows.

    Parameters
    ----------
    tally : TallyArrays
    features : sequence
        Names of the features.
    """
    rows = _rows(tally)
    if (rows > MAX_ROWS).any():
        i = int(rows.argmax())
        raise InvalidValueError(
            f"column {str(features[i])!r} would have {int(rows[i]):,} rows. Statistics hold at "
            "most 2**61, because larger counts could leave 64 bits.",
            column=str(features[i]),
        )


def _rows(tally: TallyArrays) -> Floats:
    rows: Floats = tally.memory[:5].astype(np.float64).sum(axis=0)
    return rows


def check_tally(tally: TallyArrays, where: str = "") -> None:
    """Check counts and extremes.

    ===========================  ===================================================
    counts                       not negative, and of at most 2·`MAX_ROWS` rows
    count = 0                    min = +inf and max = -inf
    count > 0                    min <= max, both finite
    ===========================  ===================================================
    """
    for name in ("count", "nulls", "nans", "pos_infs", "neg_infs"):
        values = getattr(tally, name)
        require(values >= 0, where + name, values, ">= 0")
        require(values < 2 * MAX_ROWS, where + name, values, "less than 2**62")
    rows = _rows(tally)
    require(rows < 2 * MAX_ROWS, f"{where}count", tally.count, "less than 2**62 with the missing")
    some = tally.count > 0
    for name, bound in (("min", np.inf), ("max", -np.inf)):
        values = getattr(tally, name)
        require(
            np.where(some, np.isfinite(values), values == bound),
            where + name,
            values,
            "null where count is 0, and finite elsewhere",
        )
    ordered = ~some | (tally.min <= tally.max)
    require(ordered, f"{where}min", tally.min, f"at most {where}max")


def check_moments(moments: Moments, where: str = "", *, decay: float | None = None) -> None:
    """Check the moments of counted values, with the fields and units of `MomentArrays`.

    ===========================  ===================================================
    tally                        see `check_tally`
    W, C, Q, S                   finite, not negative
    W > 0                        only if count > 0; then W <= count · `MAX_WEIGHT`
    W = 0                        C = Q = S = μ = 0
    C, Q                         2C + Q = W², as the sum of all w_i·w_j
    μ                            from min to max
    S                            √(S/W) <= max − min
    P                            from 0 to 1; 1 if nothing is forgotten
    exponent                     that of a float64 or of its square
    low parts                    negligible beside the high parts
    ===========================  ===================================================

    Parameters
    ----------
    moments : Moments
    where : str
        What comes before the names of the fields in messages.
    decay : float, optional
        P, if it is known.
    """
    check_tally(moments, where)
    check_sums(moments, where, moments.count.astype(np.float64) * MAX_WEIGHT)
    if decay is not None:
        require(moments.decay == decay, f"{where}decay", moments.decay, f"{decay:g}")
    check_ranges(moments, moments, where)


def check_sums(moments: Moments, where: str, most: Floats) -> None:
    """Check the rules of `check_moments` that do not need the tally.

    Parameters
    ----------
    moments : Moments
    where : str
    most : ndarray of float64
        The largest W.
    """
    m = moments
    for name in ("weight", "pairs", "squares", "m2_hi"):
        values = getattr(m, name)
        require((values >= 0) & np.isfinite(values), where + name, values, "finite and >= 0")
    for name in ("mean_hi", "mean_lo", "m2_lo"):
        values = getattr(m, name)
        require(np.isfinite(values), where + name, values, "finite")
    decay = m.decay
    require((decay >= 0) & (decay <= 1), f"{where}decay", decay, "from 0 to 1")
    exponent = m.exponent
    within = (exponent >= -_EXPONENTS) & (exponent <= _EXPONENTS)  # |-2**63| would be -2**63
    require(within, f"{where}exponent", exponent, f"within ±{_EXPONENTS}")
    require(m.weight <= most * 1.001, f"{where}weight", m.weight, "a sum of weights of its count")
    none = m.weight == 0
    for name in ("pairs", "squares", "m2_hi", "m2_lo", "mean_hi", "mean_lo"):
        values = getattr(m, name)
        require(~none | (values == 0), where + name, values, "0 where weight is 0")
    with np.errstate(all="ignore"):
        square = m.weight * m.weight
        apart = np.abs(2 * m.pairs + m.squares - square)
        require(apart <= 1e-3 * square + _LEAST, f"{where}pairs", m.pairs, "(weight² - squares)/2")
        mean = np.abs(m.mean_hi)
        require(mean < _UNITS, f"{where}mean_hi", m.mean_hi, "small in units of 2**exponent")
        require(m.m2_hi < _UNITS**2, f"{where}m2_hi", m.m2_hi, "small in units of 4**exponent")
        for name, high in (("mean", mean), ("m2", m.m2_hi)):
            low = getattr(m, f"{name}_lo")
            small = np.abs(low) <= high * 2.0**-40
            require(small, f"{where}{name}_lo", low, f"negligible beside {name}_hi")


def check_ranges(moments: Moments, tally: TallyArrays, where: str) -> None:
    """Check that mean and deviation lie within the extremes of the values."""
    with np.errstate(all="ignore"):
        some = moments.weight > 0
        require(~some | (tally.count > 0), f"{where}weight", moments.weight, "0 where count is 0")
        low, high = np.where(some, tally.min, 0.0), np.where(some, tally.max, 0.0)
        slack = rounding_of(low, high)
        mean = moments.mean
        within = (mean >= low - slack) & (mean <= high + slack)
        require(~some | within, f"{where}mean_hi", moments.mean_hi, "a mean from min to max")
        std = np.ldexp(np.sqrt(moments.m2_hi / moments.weight), moments.exponent)
        within = std / 2 <= (high / 2 - low / 2) * 1.001 + slack
        require(~some | within, f"{where}m2_hi", moments.m2_hi, "the squares of max - min at most")


def rounding_of(low: Floats, high: Floats) -> Floats:
    """Return a bound on the rounding of values between two extremes."""
    slack: Floats = np.maximum(np.abs(low), np.abs(high)) * 1e-9 + 1e-322
    return slack


def check_exact(sums: ExactMoments, where: str = "") -> None:
    """Check exact sums, with the fields of `ExactMoments`.

    ===========================  ===================================================
    tally                        see `check_tally`
    count = 0                    Σx = Σx² = 0, and no scale
    Σx                           from count·min to count·max
    Σx²                          from (Σx)²/count to count·max(min², max²)
    ===========================  ===================================================
    """
    check_tally(sums, where)
    scale: Ints = sums.scale
    within = (scale >= -_MAX_SCALE) & (scale <= _MAX_SCALE)
    require(within, f"{where}scale", scale, f"within ±{_MAX_SCALE}")
    one = 1 << _SLACK_BITS
    for i, n in enumerate(sums.count.tolist()):
        total, squares = sums.integers(i)
        if n == 0:
            if total or squares or sums.decimal[i]:
                raise InvalidValueError(f"{where}count[{i}] is 0, but there are sums")
            continue
        up, down = sums.unit(i)
        (a, b), (c, d) = (float(x[i]).as_integer_ratio() for x in (sums.min, sums.max))
        if not (
            n * down * (a * one - abs(a)) <= total * up * b * one
            and total * up * d * one <= n * down * (c * one + abs(c))
        ):
            raise InvalidValueError(f"{where}total[{i}] is no sum of {n} values from min to max")
        p, q = max(abs(float(sums.min[i])), abs(float(sums.max[i]))).as_integer_ratio()
        if not (
            total * total <= n * squares
            and squares * (up * q * one) ** 2 <= n * (down * p * (one + 1)) ** 2
        ):
            raise InvalidValueError(
                f"{where}squares[{i}] is no sum of squares of {n} values from min to max with "
                "that total"
            )
