"""Exact sums as a statistics file holds them: equal sums have equal text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np

from streambn.accumulators import ExactMoments, Moments
from streambn.errors import SnapshotError
from streambn.snapshot.moments import COUNTS, StoredTally

__all__ = ["StoredExactMoments"]

# Decimals of Arrow have at most 76 digits. The bound keeps a damaged file from asking for an
# integer of a million digits.
_MAX_SCALE: Final = 1000
_SUM: Final = re.compile(r"(-?[0-9a-f]+)p(-?[0-9]{1,4})", re.ASCII)


class StoredExactMoments(StoredTally):
    """The fields of `ExactMoments`, each a list over features.

    `total` and `squares` hold Σx and Σx². The text ``"<m>p<e>"`` stands for m·2**e, where m is
    an odd hexadecimal integer; zero is ``"0p0"``. Where `scale` is null, that is the sum itself:
    ``"3p0"`` is the sum of 1.0 and 2.0. Otherwise it counts units of 10**-scale in `total` and of
    10**(-2·scale) in `squares`.
    """

    scale: list[int | None]
    total: list[str]
    squares: list[str]

    @classmethod
    def of(cls, moments: ExactMoments) -> Self:
        """Return the stored form of exact sums."""
        counts = moments.count.tolist()
        extremes: dict[str, Any] = {
            name: [x if n else None for x, n in zip(values.tolist(), counts, strict=True)]
            for name, values in (("min", moments.min), ("max", moments.max))
        }
        decimal = moments.decimal.tolist()
        scales = [s if d else None for s, d in zip(moments.scale.tolist(), decimal, strict=True)]
        units = [0 if d else moments.UNIT_BITS for d in decimal]
        sums = [moments.integers(feature) for feature in range(len(counts))]
        return cls(
            **{name: getattr(moments, name).tolist() for name in COUNTS},
            **extremes,
            scale=scales,
            total=[_text(x, -unit) for (x, _), unit in zip(sums, units, strict=True)],
            squares=[_text(x, -2 * unit) for (_, x), unit in zip(sums, units, strict=True)],
        )

    def restore(self, features: int) -> ExactMoments:
        """Return the exact sums.

        Raises
        ------
        SnapshotError
            A list does not have one entry for each feature, or no data has such sums.
        OverflowError
            A number is too large for its field.
        """
        self.check_lengths(features)
        counts = {name: np.array(getattr(self, name), np.int64) for name in COUNTS}
        tally = Moments.empty(features).replace(**counts, **self.restore_extremes())
        return ExactMoments.from_integers(Moments.sealed(tally), self.scale, list(self._sums()))

    def _sums(self) -> Iterator[tuple[int, int]]:
        """Yield Σx and Σx² of each feature, after a check that some data has them."""
        for i, count in enumerate(self.count):
            unit = ExactMoments.UNIT_BITS if self.scale[i] is None else 0
            total = _integer(self.total[i], -unit)
            squares = _integer(self.squares[i], -2 * unit)
            low, high, empty = self.min[i], self.max[i], count == 0
            if any(getattr(self, name)[i] < 0 for name in COUNTS):
                raise SnapshotError("a count is negative")
            if (low is None) != empty or (high is None) != empty:
                raise SnapshotError("min and max must be null where count is 0, and only there")
            if low is not None and high is not None and not low <= high:
                raise SnapshotError("min is greater than max")
            if abs(self.scale[i] or 0) > _MAX_SCALE:
                raise SnapshotError(f"a scale is beyond ±{_MAX_SCALE}")
            if empty and (squares or self.scale[i] is not None):
                raise SnapshotError("count is 0, but there are sums")
            # By the Cauchy–Schwarz inequality the variance would be negative.
            if squares * count < total * total:
                raise SnapshotError("total and squares are the sums of no data")
            yield total, squares


def _text(value: int, exponent: int) -> str:
    """Return the text of value·2**exponent."""
    if value == 0:
        return "0p0"
    zeros = (value & -value).bit_length() - 1
    return f"{value >> zeros:x}p{exponent + zeros}"


def _integer(text: str, exponent: int) -> int:
    """Return the integer that `_text` wrote, in units of 2**exponent."""
    found = _SUM.fullmatch(text)
    value, power = (int(found[1], 16), int(found[2])) if found else (0, 0)
    integer = value << max(power - exponent, 0) if value else 0
    if _text(integer, exponent) != text:
        raise SnapshotError(f"{text[:40]!r} is not a sum in canonical form")
    return integer
