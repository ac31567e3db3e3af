"""The map of a normalizer beside its inverse: whether an output may be of an input.

**How far values may be apart.** With z = (x − mean)/s, y = z·γ + β, and u = 2⁻⁵³:

- y, rounded to its type of unit roundoff v (2⁻⁵³, 2⁻²⁴ or 2⁻¹¹), is off by v·|y|, and mapped
  back by s/|γ| times that. In float32 and float16 this is all that matters.
- Each of the few operations there and back rounds by u of its own result: x − mean and z·s by
  u·|x − mean|, z·γ and z·γ + β by u·|y| or less, which maps back as above, and the last sum by
  u·|x|; so does the conversion of an integer or decimal. Each is allowed for eight times, which
  is more often than it happens.
- Below the normal numbers rounding is by a fixed step, which maps back like any other error.

With the roles of x and y exchanged this holds for the inverse map.

**What cannot come back** is compared where it went: the map is computed from the input and
its result compared with the output. That is so of clipped values, of γ = 0, of what is beyond
the range of float16 or float32 and became infinite, of infinities, and of lanes whose own
statistics are poisoned by ``nan="propagate"`` or ``inf="propagate"``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streambn.kernels import FeatureTransform
from streambn.kernels.interface import Floats

__all__ = ["KINDS", "Apart", "Kind", "Roundtrip"]

_U = 2.0**-53
_TINY = 5e-324
# From here on a subtraction of the location can overflow.
_FAR = 2.0**969
# How many roundings of float64, there and back, are allowed for.
_ROUNDINGS = 8


class Kind(NamedTuple):
    """A float type: its unit roundoff, its smallest and its largest number, and NumPy's type."""

    roundoff: float
    tiny: float
    largest: float
    dtype: Any


KINDS = {
    kind.id: Kind(float(info.eps) / 2, float(info.smallest_subnormal), float(info.max), dtype)
    for kind, dtype in (
        (pa.float16(), np.float16),
        (pa.float32(), np.float32),
        (pa.float64(), np.float64),
    )
    for info in (np.finfo(dtype),)
}


@dataclass(frozen=True)
class Apart:
    """Why values are held to differ: what came back, or what should have gone out."""

    back: Floats
    ahead: Floats
    by_back: NDArray[np.bool_]

    def words(self, at: tuple[int, int]) -> str:
        """Say it, of one value, after "which"."""
        if self.by_back[at]:
            return f"is {float(self.back[at])!r} when mapped back"
        return f"should be {float(self.ahead[at])!r}"


class Roundtrip:
    """The map of some lanes and its inverse, and how exactly one undoes the other.

    Parameters
    ----------
    lanes : FeatureTransform
        Shape (L,).
    kind : Kind
        The type to which outputs were rounded.
    inverse : bool
        Whether the output is of the inverse map.
    """

    def __init__(self, lanes: FeatureTransform, kind: Kind, inverse: bool) -> None:
        def column(values: Floats) -> Floats:
            return values[:, np.newaxis]

        ones = np.ones(len(lanes.known))
        self.hi, self.lo, self.spread = map(
            column, (lanes.location_hi, lanes.location_lo, lanes.scale)
        )
        self.gamma = column(ones if lanes.gamma is None else lanes.gamma)
        self.beta = column(0 * ones if lanes.beta is None else lanes.beta)
        self.clip = None if inverse else lanes.clip  # the inverse does not clip
        self.kind, self.inverse = kind, inverse
        # There a quarter of everything is mapped, and its result taken fourfold.
        far = np.maximum(np.abs(self.hi), self.spread).max(initial=0.0) > _FAR
        self.part = 0.25 if far else 1.0
        self._affine = lanes.gamma is not None
        with np.errstate(all="ignore"):
            self._finite = np.isfinite(self.hi + self.lo) & np.isfinite(self.spread)
        self._plain = not far and bool((self._finite & (self.gamma != 0)).all())

    def doubtful(
        self, given: Floats, written: Floats, ignored: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Say where it is not plain to see that an output is of an input.

        It takes a sixth of the time of `differ`, which is then for few values only.
        """
        if not self._plain:
            return ~ignored
        few = _ROUNDINGS * _U
        if self.inverse:
            back = self._y(self._z(written))
            slope = np.abs(self.gamma) / self.spread
        else:
            back = written
            if self._affine:
                back = (written - self.beta) / self.gamma
            inside = None if self.clip is None else np.abs(back) < self.clip * (1 - 1e-9)
            back = back * self.spread
            back += self.lo
            back += self.hi
            slope = self.spread / np.abs(self.gamma)
        # Less than the bound that `differ` takes: it leaves terms out.
        bound = np.abs(written)
        bound *= slope * (few + 1.001 * self.kind.roundoff)
        back -= given
        near: NDArray[np.bool_] = np.abs(back, out=back) <= bound
        if not near.all():
            bound += few * np.abs(given)
            near = back <= bound
        near &= np.isfinite(back)  # an infinity is within infinite bounds
        if not self.inverse and inside is not None:
            near &= inside
        return ~(near | ignored)

    def differ(
        self, given: Floats, written: Floats, blur: Floats | float = 0.0
    ) -> tuple[NDArray[np.bool_], Apart]:
        """Say where an output cannot be of an input.

        Parameters
        ----------
        given, written : ndarray of float64, shape (L, n)
        blur : ndarray of float64, shape (L, n), or 0.0
            How large the numbers are that `given` was rounded to or from; 0.0: it was not.
        """
        ahead = self._ahead(given)
        x, y = (written, given) if self.inverse else (given, written)
        z = np.abs(self._z(x))
        if self.inverse:
            # What became infinite stands at the end of its type.
            end = self.kind.largest
            z = _limited(np.abs(self._z(np.clip(x, -end, end))))
        back = self._y(self._z(x)) if self.inverse else self._x(y)
        by_back = self._finite & (self.gamma != 0) & np.isfinite(given) & np.isfinite(written)
        if self.clip is not None:
            # Close to the bound, rounding may have brought a value there.
            by_back &= z < self.clip * (1 - 1e-9)
        to_back, to_ahead = self._tolerances(x, y, z, blur)
        wrong = np.where(
            by_back,
            _beyond(_limited(back), given, to_back),
            ~_same(ahead, written) & ~self._near(ahead, given, written, to_ahead),
        )
        return wrong, Apart(back, ahead, by_back)

    def _near(
        self, ahead: Floats, given: Floats, written: Floats, tolerance: Floats
    ) -> NDArray[np.bool_]:
        """Say where an output is what should have gone out, but for rounding or overflow."""
        largest = self.kind.largest
        # What is finite may have become infinite, at the end of the output's type.
        ends = np.clip(ahead, -largest, largest), np.clip(written, -largest, largest)
        overflown = np.isinf(ahead)
        near = np.where(
            overflown,
            ends[1] * np.sign(ahead) >= 0.999 * largest,
            # Without a bound, as of a lane whose own numbers are not finite, nothing is near.
            np.isfinite(tolerance) & ~_beyond(*ends, tolerance),
        )
        return near & (np.isfinite(given) | ~overflown)

    def _tolerances(
        self, x: Floats, y: Floats, z: Floats, blur: Floats | float
    ) -> tuple[Floats, Floats]:
        """Bound the rounding, there and back and ahead: see the docstring of this module."""
        gamma, kind, few = np.abs(self.gamma), self.kind, _ROUNDINGS * _U
        # Beyond its largest number the output became infinite.
        x, y = np.abs(x), np.abs(y)
        x, y = (
            (np.minimum(x, kind.largest), y) if self.inverse else (x, np.minimum(y, kind.largest))
        )
        # Slightly more than a half: the output was rounded after it was computed.
        rounded = 1.001 * kind.roundoff * (x if self.inverse else y) + kind.tiny
        of_x = few * _limited(z * self.spread) + 4 * _TINY * (1 + self.spread)
        of_z = (of_x + few * np.abs(blur)) / self.spread
        in_clip = z
        if self.clip is not None:
            in_clip = np.minimum(z, self.clip)
            # Of what lies beyond the bound nothing is left; about it, no more than it.
            beyond = (z - of_z > self.clip) | np.isinf(z)
            of_z = np.where(beyond, 0.0, np.fmin(of_z, 2 * self.clip))
        of_y = few * in_clip * gamma + 4 * _TINY * (1 + gamma)
        in_x, in_y = of_x + few * x, of_y + few * y
        if self.inverse:
            slope = gamma / self.spread
            return in_y + slope * (in_x + rounded), in_x + (
                of_y + few * np.abs(blur)
            ) / slope + rounded
        slope = self.spread / gamma
        return in_x + slope * (in_y + rounded), in_y + of_z * gamma + rounded

    def _ahead(self, given: Floats) -> Floats:
        return self._x(given) if self.inverse else self._y(self._z(given))

    def _z(self, x: Floats) -> Floats:
        part = self.part
        return ((x * part - self.hi * part) - self.lo * part) / (self.spread * part)

    def _y(self, z: Floats) -> Floats:
        if self.clip is not None:
            z = np.clip(z, -self.clip, self.clip)
        return z * self.gamma + self.beta

    def _x(self, y: Floats) -> Floats:
        part = self.part
        z = (y - self.beta) / self.gamma
        return ((z * (self.spread * part) + self.lo * part) + self.hi * part) / part


def _same(one: Floats, other: Floats) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (one == other) | (np.isnan(one) & np.isnan(other))
    return same


def _limited(values: Floats) -> Floats:
    """Bring what rounding threw over the end of float64 back to it."""
    return np.clip(values, -sys.float_info.max, sys.float_info.max)


def _beyond(one: Floats, other: Floats, tolerance: Floats) -> NDArray[np.bool_]:
    # Halves, whose difference cannot overflow. A NaN on either side is beyond all bounds.
    apart = np.abs(one / 2 - other / 2)
    beyond: NDArray[np.bool_] = np.isnan(apart) | (apart > tolerance / 2)
    return beyond
