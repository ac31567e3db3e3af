"""The values that accumulators can have, whatever the stream.

The checks here are for states that come from elsewhere, such as a file. Each raises an
InvalidValueError that names the first field and value at fault. They refuse nothing that a stream
can give: relations between rounded numbers have to hold to a thousandth only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Moments
from streambn.errors import InvalidValueError
from streambn.kernels.interface import Floats
from streambn.kernels.moments import MomentArrays, TallyArrays
from streambn.kernels.rows import MAX_WEIGHT

__all__ = [
    "MAX_ROWS",
    "check_exact",
    "check_moments",
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
_NO_EXTREMES: Final = np.array([[np.inf], [-np.inf]])
_SUM_NAMES: Final = MomentArrays.FIELDS[7:15]
_SUMS: Final = slice(7, 15)  # the rows of the fields from `weight` to `decay`
_MAX_SCALE: Final = 1000  # of decimals
_MARGIN: Final = 1e-12  # over a hundred times the rounding of sums to float64
_SLACK_BITS: Final = 50  # minimum and maximum are rounded to float64


class _Rule(NamedTuple):
    """A rule for values, of shape (features,), or (names, features) for several fields at once."""

    valid: NDArray[np.bool_]
    names: tuple[str, ...]
    values: NDArray[Any]
    says: str


def require(valid: NDArray[np.bool_], name: str, values: NDArray[Any], rule: str) -> None:
    """Raise an InvalidValueError for the first of `values` that is not `valid`."""
    if not valid.all():
        i = int(valid.argmin())
        raise InvalidValueError(f"{name}[{i}] is {values[i].item()!r}, but must be {rule}")


def _enforce(where: str, rules: Iterator[_Rule]) -> None:
    """Raise an InvalidValueError for the first rule that a feature breaks.

    All rules are evaluated before any is tested, in one reduction: a hundred features take a
    third of the time of one test for each rule and field.
    """
    with np.errstate(all="ignore"):  # a forged value may be anything
        found = [*rules]
    if np.concatenate([rule.valid for rule in found], axis=None).all():
        return
    for valid, names, values, says in found:
        features = values.shape[-1]
        rows = zip(valid.reshape(-1, features), names, values.reshape(-1, features), strict=True)
        for kept, name, row in rows:
            require(kept, where + name, row, says)


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
    _enforce(where, _tally_rules(tally))


def _tally_rules(tally: TallyArrays) -> Iterator[_Rule]:
    counts, extremes = tally.memory[:5], tally.memory[5:7].view(np.float64)
    within = (counts >= 0) & (counts < 2 * MAX_ROWS)
    yield _Rule(
        within, ("count", "nulls", "nans", "pos_infs", "neg_infs"), counts, "from 0 to 2**62"
    )
    few = _rows(tally) < 2 * MAX_ROWS
    yield _Rule(few, ("count",), counts[0], "less than 2**62 with the missing")
    none = counts[0] == 0
    valid = np.where(none, extremes == _NO_EXTREMES, np.isfinite(extremes))
    says = "null where count is 0, and finite elsewhere"
    yield _Rule(valid, ("min", "max"), extremes, says)
    yield _Rule(none | (extremes[0] <= extremes[1]), ("min",), extremes[0], "at most max")


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
    most = moments.count.astype(np.float64) * MAX_WEIGHT
    rules = (_tally_rules(moments), _sum_rules(moments, most, decay), _range_rules(moments))
    _enforce(where, chain.from_iterable(rules))


def check_sums(moments: Moments, where: str, most: Floats) -> None:
    """Check the rules of `check_moments` that do not need the tally.

    Parameters
    ----------
    moments : Moments
    where : str
    most : ndarray of float64
        The largest W.
    """
    _enforce(where, _sum_rules(moments, most))


def _sum_rules(moments: Moments, most: Floats, known_decay: float | None = None) -> Iterator[_Rule]:
    sums = moments.memory[_SUMS].view(np.float64)
    weight, pairs, squares, mean_hi, mean_lo, m2_hi, m2_lo, decay = sums
    yield _Rule(np.isfinite(sums), _SUM_NAMES, sums, "finite")
    yield _Rule(
        (weight >= 0) & (weight <= most * 1.001),
        ("weight",),
        weight,
        "a sum of weights of its count",
    )
    for name, values in (("pairs", pairs), ("squares", squares), ("m2_hi", m2_hi)):
        yield _Rule(values >= 0, (name,), values, ">= 0")
    if known_decay is None:
        yield _Rule((decay >= 0) & (decay <= 1), ("decay",), decay, "from 0 to 1")
    else:
        yield _Rule(decay == known_decay, ("decay",), decay, f"{known_decay:g}")
    near = np.abs(moments.exponent.astype(np.float64)) <= _EXPONENTS
    yield _Rule(near, ("exponent",), moments.exponent, f"within ±{_EXPONENTS}")
    rest = sums[1:7]
    yield _Rule((weight != 0) | (rest == 0), _SUM_NAMES[1:7], rest, "0 where weight is 0")
    square = weight * weight
    whole = np.abs(2 * pairs + squares - square) <= 1e-3 * square + _LEAST
    yield _Rule(whole, ("pairs",), pairs, "(weight² - squares)/2")
    mean = np.abs(mean_hi)
    yield _Rule(mean < _UNITS, ("mean_hi",), mean_hi, "small in units of 2**exponent")
    yield _Rule(m2_hi < _UNITS**2, ("m2_hi",), m2_hi, "small in units of 4**exponent")
    for name, high, low in (("mean", mean, mean_lo), ("m2", m2_hi, m2_lo)):
        small = np.abs(low) <= high * 2.0**-40
        yield _Rule(small, (f"{name}_lo",), low, f"negligible beside {name}_hi")


def _range_rules(moments: Moments) -> Iterator[_Rule]:
    """Yield that mean and deviation lie within the extremes of the values."""
    weight, mean, m2 = moments.weight, moments.mean, moments.m2_hi
    some = weight > 0
    yield _Rule(~some | (moments.count > 0), ("weight",), weight, "0 where count is 0")
    low, high = np.where(some, moments.min, 0.0), np.where(some, moments.max, 0.0)
    slack = rounding_of(low, high)
    within = ~some | ((mean >= low - slack) & (mean <= high + slack))
    yield _Rule(within, ("mean_hi",), moments.mean_hi, "a mean from min to max")
    # Half of each, because a difference may be beyond float64.
    half = np.ldexp(np.sqrt(m2 / weight), moments.exponent) / 2
    within = ~some | (half <= (high / 2 - low / 2) * 1.001 + slack)
    yield _Rule(within, ("m2_hi",), m2, "the squares of max - min at most")


def rounding_of(low: Floats, high: Floats) -> Floats:
    """Return a bound on the rounding of values between two extremes."""
    slack: Floats = np.maximum(np.abs(low), np.abs(high)) * 1e-9 + 1e-322
    return slack


def check_exact(sums: ExactMoments, where: str = "") -> None:
    """Check exact sums, with the fields of `ExactMoments`.

    ===========================  ===================================================
    tally                        see `check_tally`
    count = 0                    Σx = Σx² = 0, and no scale
    scale                        0 unless the unit is decimal
    Σx                           from count·min to count·max
    Σx²                          from (Σx)²/count to count·max(min², max²)
    ===========================  ===================================================
    """
    _enforce(where, chain(_tally_rules(sums), _unit_rules(sums)))
    sure, undecided = _judge_rounded(sums)
    # Exact integers decide what rounded sums leave open.
    for i in np.flatnonzero(~sure & ~undecided).tolist():
        _check_integers(sums, i, where)
    near = np.flatnonzero(undecided).tolist()
    if not near:
        return
    counts = sums.count[near].tolist()
    for i, n, (total, squares) in zip(near, counts, sums.integers_of(near), strict=True):
        if total * total > n * squares:
            raise _no_squares(where, i, n)


def _unit_rules(sums: ExactMoments) -> Iterator[_Rule]:
    scale, decimal = sums.scale, sums.decimal
    within = (scale >= -_MAX_SCALE) & (scale <= _MAX_SCALE)
    yield _Rule(within, ("scale",), scale, f"within ±{_MAX_SCALE}")
    yield _Rule((decimal == 0) | (decimal == 1), ("decimal",), decimal, "0 or 1")
    yield _Rule((decimal == 1) | (scale == 0), ("scale",), scale, "0 where decimal is 0")


def _judge_rounded(sums: ExactMoments) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where sums keep the rules, and where they do if their variance is not negative.

    The sums are rounded to float64, and the rules for `min` and `max` have to hold to 1e-12.
    """
    with np.errstate(all="ignore"):
        total, squares = sums.approximate_sums()
        n = sums.count.astype(np.float64)
        low, high = sums.min, sums.max
        largest = np.maximum(np.abs(low), np.abs(high))
        slack = _MARGIN * largest
        mean, root = total / n, np.sqrt(squares / n)
        within = (mean >= low - slack) & (mean <= high + slack) & (root <= largest + slack)
        # Below, digits of the sums may be lost.
        within &= (squares > _LEAST) & (squares < np.inf)
        apart = np.abs(mean) <= root * (1 - _MARGIN)
    return within & apart, within & ~apart


def _check_integers(sums: ExactMoments, i: int, where: str) -> None:
    one = 1 << _SLACK_BITS
    n = int(sums.count[i])
    total, squares = sums.integers(i)
    if n == 0:
        if total or squares or sums.decimal[i]:
            raise InvalidValueError(f"{where}count[{i}] is 0, but there are sums")
        return
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
        raise _no_squares(where, i, n)


def _no_squares(where: str, i: int, n: int) -> InvalidValueError:
    return InvalidValueError(
        f"{where}squares[{i}] is no sum of squares of {n} values from min to max with that total"
    )
