"""Weights of the rows of a batch by their event time."""

from __future__ import annotations

import numpy as np

from streambn.kernels.interface import NEGLIGIBLE, Floats, Times

__all__ = ["time_weights"]


@np.errstate(all="ignore")
def time_weights(
    times: Times, latest: int | float, halflives: float, weights: Floats | None = None
) -> Floats:
    """Return the weight 2**(−age/halflife) of each row.

    Parameters
    ----------
    times : Times
    latest : int or float
        The tick from which ages are measured: the largest tick, or a later one.
    halflives : float
        Half-lives per tick.
    weights : ndarray of float64, shape (rows,), optional
        Factors by which the weights are multiplied.

    Returns
    -------
    ndarray of float64, shape (rows,)
        0 where the age is more than a thousand half-lives.
    """
    if times.ticks.dtype == np.int64:
        # Unsigned integers, because the difference of two int64 may overflow int64.
        now = np.array(latest, np.int64).view(np.uint64)
        age: Floats = (now - times.ticks.view(np.uint64)).astype(np.float64)
    else:
        age = np.float64(latest) - times.ticks
    aged: Floats = np.exp2(age * -halflives)
    aged[aged < NEGLIGIBLE] = 0.0
    if weights is not None:
        aged *= weights
    return aged
