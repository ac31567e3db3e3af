"""Exact sums as a statistics file holds them: equal sums have equal text."""

from __future__ import annotations

import re
from typing import Any, Final, Self

import numpy as np

from streambn.accumulators import ExactMoments, Moments
from streambn.errors import SnapshotError
from streambn.snapshot.moments import COUNTS, StoredTally, restore_array

__all__ = ["StoredExactMoments"]

# A sum has at most 67 limbs of 64 bits. The time to read digits grows with the square of their
# number, so a longer text is refused unread.
_SUM: Final = re.compile(r"(-?[0-9a-f]{1,1072})p(-?[0-9]{1,4})", re.ASCII)


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
            A list does not have one entry for each feature, or a text is not a sum.
        OverflowError
            A number is too large for its field.
        """
        self.check_lengths(features)
        counts = {name: restore_array(name, getattr(self, name), np.int64) for name in COUNTS}
        tally = Moments.empty(features).replace(**counts, **self.restore_extremes())
        units = [ExactMoments.UNIT_BITS if scale is None else 0 for scale in self.scale]
        sums = [
            (
                _integer(f"total[{i}]", self.total[i], -unit),
                _integer(f"squares[{i}]", self.squares[i], -2 * unit),
            )
            for i, unit in enumerate(units)
        ]
        return ExactMoments.from_integers(Moments.sealed(tally), self.scale, sums)


def _text(value: int, exponent: int) -> str:
    """Return the text of value·2**exponent."""
    if value == 0:
        return "0p0"
    zeros = (value & -value).bit_length() - 1
    return f"{value >> zeros:x}p{exponent + zeros}"


def _integer(name: str, text: str, exponent: int) -> int:
    """Return the integer that `_text` wrote, in units of 2**exponent."""
    found = _SUM.fullmatch(text)
    value, power = (int(found[1], 16), int(found[2])) if found else (0, 0)
    integer = value << max(power - exponent, 0) if value else 0
    if _text(integer, exponent) != text:
        raise SnapshotError(f"{name} is {text[:40]!r}, which is not a sum in canonical form")
    return integer
