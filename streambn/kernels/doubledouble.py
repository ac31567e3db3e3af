"""Double-double arithmetic: a number is an unevaluated sum hi + lo of two float64.

A pair has about 106 bits, and |lo| <= ulp(hi)/2. The functions take arrays, element by element,
or plain floats. The error-free transformations are Knuth's two-sum and Dekker's product
(T. J. Dekker, 1971, "A floating-point technique for extending the available precision").
Arguments must stay below 2**990, because the splitting overflows beyond it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from streambn.kernels.interface import Floats

__all__ = ["Pair", "add", "divide", "multiply", "scale", "two_product", "two_sum", "wide"]

Pair = tuple[Floats, Floats]
_N = TypeVar("_N", float, Floats)

_SPLITTER = 134217729.0  # 2**27 + 1 splits 53 bits into 26 + 26


def two_sum(a: _N, b: _N) -> tuple[_N, _N]:
    """Return the rounded sum s of a and b, and its error e: s + e == a + b exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _split(a: _N) -> tuple[_N, _N]:
    t = _SPLITTER * a
    high = t - (t - a)
    return high, a - high


def two_product(a: _N, b: _N) -> tuple[_N, _N]:
    """Return the rounded product p of a and b, and its error e: p + e == a * b exactly."""
    p = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def add(a: tuple[_N, _N], b: tuple[_N, _N]) -> tuple[_N, _N]:
    """Return a + b, with a relative error below 2**-104 where the signs agree."""
    s, e = two_sum(a[0], b[0])
    return two_sum(s, e + (a[1] + b[1]))


def scale(a: tuple[_N, _N], b: _N) -> tuple[_N, _N]:
    """Return a * b for a plain b."""
    p, e = two_product(a[0], b)
    return two_sum(p, e + a[1] * b)


def multiply(a: tuple[_N, _N], b: tuple[_N, _N]) -> tuple[_N, _N]:
    """Return a * b, with a relative error below 2**-102."""
    p, e = two_product(a[0], b[0])
    return two_sum(p, e + (a[0] * b[1] + a[1] * b[0]))


def wide(a: Floats) -> Pair:
    """Return a plain number as a pair."""
    return a, np.zeros_like(a)


def divide(a: tuple[_N, _N], b: tuple[_N, _N]) -> tuple[_N, _N]:
    """Return a / b: one quotient, corrected once by the exact remainder."""
    q = a[0] / b[0]
    p, e = two_product(q, b[0])
    remainder = ((a[0] - p) - e) + (a[1] - q * b[1])
    return two_sum(q, remainder / b[0])
