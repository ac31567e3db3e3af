"""What the rows of a batch weigh by the time at which they happened."""

from __future__ import annotations

import numpy as np

from streambn.kernels.interface import NEGLIGIBLE, Floats, Times

__all__ = ["time_weights"]


@np.errstate(all="ignore")
def time_weights(
    times: Times, latest: int | float, halflives: float, weights: Floats | None = None
) -> Floats:
    """Weights 2**(−age/halflife) of rows, the ages as of the latest.

    Parameters
    ----------
    times : Times
    latest : int or float
        The largest of the ticks, or a later one.
    halflives : float
        In a tick.
    weights : ndarray of float64, shape (rows,), optional
        Factors.

    Returns
    -------
    ndarray of float64, shape (rows,)
        0 where the age is more than a thousand half-lives.
    """
    if times.ticks.dtype == np.int64:
        # Modulo 2**64, where the difference of any two is.
        now = np.array(latest, np.int64).view(np.uint64)
        age: Floats = (now - times.ticks.view(np.uint64)).astype(np.float64)
    else:
        age = np.float64(latest) - times.ticks
    aged: Floats = np.exp2(age * -halflives)
    aged[aged < NEGLIGIBLE] = 0.0
    if weights is not None:
        aged *= weights
    return aged
