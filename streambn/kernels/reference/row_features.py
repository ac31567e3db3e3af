"""One feature of a stream of rows: its moments and its map, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from streambn.kernels.moments import MomentArrays, empty_moments

__all__ = ["LARGEST", "SMALLEST", "Feature", "FeatureMap", "flush", "single"]

LARGEST, SMALLEST = 2.0**400, 2.0**-400  # squares of values between them are normal numbers
_OVERFLOW = 2.0**969  # beyond this a difference may overflow


@dataclass(slots=True)
class FeatureMap:
    """The map y = clip((x − location) / scale)·gamma + beta of one feature."""

    high: float = 0.0
    low: float = 0.0
    scale: float = 1.0
    gamma: float = 1.0
    beta: float = 0.0
    known: bool = True

    def __call__(self, high: float, low: float, clip: float) -> float:
        """Return the normalized value of high + low."""
        location, rest, scale = self.high, self.low, self.scale
        if abs(location) > _OVERFLOW or scale > _OVERFLOW:
            high, low, location, rest = high / 4, low / 4, location / 4, rest / 4
            scale /= 4
        y = (((high - location) + low) - rest) / scale
        # Comparisons with NaN are false, so a NaN stays NaN.
        y = clip if y > clip else -clip if y < -clip else y
        return y * self.gamma + self.beta


class Feature:
    """One feature: the fields of `MomentArrays` as plain numbers."""

    count: int
    nulls: int
    nans: int
    pos_infs: int
    neg_infs: int
    min: float
    max: float
    weight: float
    pairs: float
    squares: float
    mean_hi: float
    mean_lo: float
    m2_hi: float
    m2_lo: float
    decay: float
    exponent: int

    def __init__(self, gamma: float = 1.0, beta: float = 0.0) -> None:
        self.gamma, self.beta = gamma, beta
        self.rows = 0  # rows of the stream that the moments include
        self.exact = True  # only integers and decimals were seen
        self.map: FeatureMap | None = None  # the map of the current moments, once it was needed
        # With a prior: the first value. The moments include it only in counts and extremes.
        self.first: Feature | None = None
        # The rows without a value before the first value and since the last, if they count.
        self.before = self.since = 0
        self.set(empty_moments(1))

    def set(self, moments: MomentArrays, feature: int = 0) -> None:
        """Set the moments to those of one feature of arrays."""
        for name, values in zip(MomentArrays.FIELDS, moments, strict=True):
            setattr(self, name, values[feature].item())

    def arrays(self) -> MomentArrays:
        """Return the moments as arrays of one feature."""
        return MomentArrays.from_fields(
            **{
                name: np.array([getattr(self, name)], empty.dtype)
                for name, empty in zip(MomentArrays.FIELDS, empty_moments(1), strict=True)
            }
        )


def flush(weight: float) -> float:
    """Return 0 for a weight that is too small to count.

    Without this, repeated discounts would stop at the smallest float64: 0.7 times it rounds to
    itself.
    """
    return weight if weight >= 2.0**-1000 else 0.0


def single(x: tuple[float, float], weight: float, decay: float) -> Feature:
    """Return the moments of one value."""
    feature = Feature()
    feature.count, feature.decay = 1, decay
    feature.weight, feature.squares = weight, weight * weight
    feature.min = feature.max = x[0]
    size = abs(x[0])
    if size:
        feature.exponent = 0 if SMALLEST <= size <= LARGEST else math.frexp(size)[1]
    by = -feature.exponent if size else 0
    feature.mean_hi, feature.mean_lo = math.ldexp(x[0], by), math.ldexp(x[1], by)
    return feature
