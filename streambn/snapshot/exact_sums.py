"""Exact sums as a statistics file holds them: typed, short, and written in one way only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import numpy as np

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Moments
from streambn.errors import SnapshotError

__all__ = ["StoredSums"]

# A decimal has at most 76 digits; with points further away than this nobody has met any, and a
# damaged file is not to ask for a number of a million digits.
_FARTHEST = 1000
_COUNTS = ("count", "nulls", "nans", "pos_infs", "neg_infs")
_SPELLED = re.compile(r"(-?[0-9a-f]+)p(-?[0-9]{1,4})", re.ASCII)


class StoredSums(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of `ExactMoments`, lists over lanes.

    An integer is ``"<m>p<e>"``: m·2**e, with m odd and in hexadecimal, or ``"0p0"``. Where the
    scale is null that is the sum itself, so that of 1.0 and 2.0 is ``"3p0"``; else it is in
    units of ``10**-scale``, and of squares in those squared. The extremes of a lane without
    values are null.
    """

    count: list[int]
    nulls: list[int]
    nans: list[int]
    pos_infs: list[int]
    neg_infs: list[int]
    min: list[float | None]
    max: list[float | None]
    scale: list[int | None]
    total: list[str]
    squares: list[str]

    @classmethod
    def of(cls, totals: ExactMoments) -> Self:
        """Write down."""
        counts = totals.count.tolist()
        extremes: dict[str, Any] = {
            name: [x if n else None for x, n in zip(values.tolist(), counts, strict=True)]
            for name, values in (("min", totals.min), ("max", totals.max))
        }
        decimal = totals.decimal.tolist()
        scales = [s if d else None for s, d in zip(totals.scale.tolist(), decimal, strict=True)]
        units = [0 if d else totals.UNIT_BITS for d in decimal]
        sums = [totals.integers(lane) for lane in range(len(counts))]
        return cls(
            **{name: getattr(totals, name).tolist() for name in _COUNTS},
            **extremes,
            scale=scales,
            total=[_spelled(x, -unit) for (x, _), unit in zip(sums, units, strict=True)],
            squares=[_spelled(x, -2 * unit) for (_, x), unit in zip(sums, units, strict=True)],
        )

    def totals(self, lanes: int) -> ExactMoments:
        """Read what `of` wrote.

        Raises
        ------
        SnapshotError
            No data has such sums.
        OverflowError
            A number is too large.
        """
        for name in self.__struct_fields__:
            if len(getattr(self, name)) != lanes:
                raise SnapshotError(f"{name} has not got {lanes} entries, one a lane")
        books = Moments.empty(lanes).replace(
            **{name: np.array(getattr(self, name), np.int64) for name in _COUNTS},
            min=np.array([np.inf if x is None else x for x in self.min]),
            max=np.array([-np.inf if x is None else x for x in self.max]),
        )
        return ExactMoments.from_integers(Moments.sealed(books), self.scale, list(self._sums()))

    def _sums(self) -> Iterator[tuple[int, int]]:
        for lane, count in enumerate(self.count):
            unit = ExactMoments.UNIT_BITS if self.scale[lane] is None else 0
            total = _integer(self.total[lane], -unit)
            squares = _integer(self.squares[lane], -2 * unit)
            low, high, empty = self.min[lane], self.max[lane], count == 0
            if any(getattr(self, name)[lane] < 0 for name in _COUNTS):
                raise SnapshotError("a count is negative")
            if (low is None) != empty or (high is None) != empty:
                raise SnapshotError("min and max are those of values, and only of those")
            if low is not None and high is not None and not low <= high:
                raise SnapshotError("min is greater than max")
            if abs(self.scale[lane] or 0) > _FARTHEST:
                raise SnapshotError(f"a scale is beyond ±{_FARTHEST}")
            if empty and (squares or self.scale[lane] is not None):
                raise SnapshotError("there are sums of no values")
            # Cauchy and Schwarz: else the variance would be negative.
            if squares * count < total * total:
                raise SnapshotError("no values have such sums")
            yield total, squares


def _spelled(value: int, exponent: int) -> str:
    """Write down value·2**exponent."""
    if value == 0:
        return "0p0"
    zeros = (value & -value).bit_length() - 1
    return f"{value >> zeros:x}p{exponent + zeros}"


def _integer(text: str, exponent: int) -> int:
    """Read an integer in units of 2**exponent."""
    found = _SPELLED.fullmatch(text)
    value, power = (int(found[1], 16), int(found[2])) if found else (0, 0)
    integer = value << max(power - exponent, 0) if value else 0
    if _spelled(integer, exponent) != text:
        raise SnapshotError(f"{text[:40]!r} is no sum as it would be written")
    return integer
