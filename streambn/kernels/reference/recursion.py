"""What the values of one lane weigh in the recursion y = λ·y + α·x."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streambn.kernels.interface import NEGLIGIBLE, Floats
from streambn.kernels.recursion import Recursion, recursion_step

__all__ = ["recursion_weights"]

_TOGETHER = 8192


def recursion_weights(there: NDArray[np.bool_], decay: float, alpha: float) -> Recursion:
    """Weigh the values of one lane as of the last of them.

    Parameters
    ----------
    there : ndarray of bool, shape (rows,)
        Where there is a value.
    decay, alpha : float
        λ and α = 1 − λ.

    Returns
    -------
    Recursion
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
    """Return …, f₂·f₃, f₃, 1: by how much each value is discounted by those behind it."""
    behind = np.zeros(len(fades) + 1)
    behind[-1] = product = 1.0
    # Some at a time and no further than there is something left: the smallest float64 times 0.7
    # is itself, and takes a hundred times as long as any other.
    stop = len(fades)
    while stop > 0 and product >= NEGLIGIBLE:
        start = max(0, stop - _TOGETHER)
        behind[start:stop] = product * np.cumprod(fades[start:stop][::-1])[::-1]
        product, stop = float(behind[start]), start
    behind[behind < NEGLIGIBLE] = 0.0
    return behind
