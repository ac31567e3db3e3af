"""Weights of the values of one feature in the recursion y = λ·y + α·x."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels.interface import NEGLIGIBLE, Floats
from streambn.kernels.recursion import Recursion, recursion_step

__all__ = ["recursion_weights"]

_CHUNK = 8192  # rows multiplied in one call


def recursion_weights(there: NDArray[np.bool_], decay: float, alpha: float) -> Recursion:
    """Return the weights of the values of one feature, as of the last value.

    Parameters
    ----------
    there : ndarray of bool, shape (rows,)
        True where the feature has a value.
    decay, alpha : float
        λ and α = 1 − λ.
    """
    at = np.flatnonzero(there)
    weights = np.zeros(len(there))
    if len(at) == 0:
        return Recursion(weights, 1.0, len(there), 0)
    weight, fades = recursion_step(np.diff(at), decay, alpha)
    behind = _products_behind(fades)
    weights[at[1:]] = weight * behind[1:]
    return Recursion(weights, float(behind[0]), int(at[0]), int(len(there) - 1 - at[-1]))


def _products_behind(fades: Floats) -> Floats:
    """Return …, f₂·f₃, f₃, 1: the factor by which later values discount each value."""
    behind = np.zeros(len(fades) + 1)
    behind[-1] = product = 1.0
    # The loop stops once the product is negligible. The smallest float64 times 0.7 rounds to
    # itself, and that product takes a hundred times as long as a normal one.
    stop = len(fades)
    while stop > 0 and product >= NEGLIGIBLE:
        start = max(0, stop - _CHUNK)
        behind[start:stop] = product * np.cumprod(fades[start:stop][::-1])[::-1]
        product, stop = float(behind[start]), start
    behind[behind < NEGLIGIBLE] = 0.0
    return behind
