"""A DataFrame normalized by column expressions, which stay in the JVM."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name in Spark's documentation
from pyspark.sql import types as spark

import streambn as sbn

from .._parts import check_frozen
from .schemas import arrow_schema, numbered
from .workers import check_frame

__all__ = ["transform_sql"]

_MOST_DIGITS: Final = 38  # of Spark's decimals
_ANY_LONG: Final = spark.DecimalType(20, 0)


def transform_sql(df: DataFrame, frozen: sbn.FrozenNormalizer) -> DataFrame:
    """Normalize a Spark DataFrame by frozen statistics, in expressions that stay in the JVM.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
    frozen : FrozenNormalizer
        With any options.

    Returns
    -------
    pyspark.sql.DataFrame
        A plan, which runs when it is used. Names, order, types and metadata of the columns are
        those of `transform`, but Spark declares each normalized column nullable.

    Raises
    ------
    SchemaError, InvalidValueError
        As for `transform`. A value that ``nan="raise"`` or ``inf="raise"`` refuses, or a list of
        another length, fails the job that runs the plan.

    Notes
    -----
    The values are those of `transform` to the last bit for floats and integers, and for decimals
    that are less than 2**50 units of their last digit from the mean. Beyond that, and for decimals
    of 38 digits, they may differ in the last bits.
    """
    check_frame(df)
    check_frozen(frozen)
    rows = numbered(df)
    columns = {i: F.col(f"c{i}") for i in range(len(df.columns))}
    schema = arrow_schema(df.schema)
    standardizer = frozen.standardizer.matching(schema)
    standardizer.output_schema(schema)  # raises if a column is missing or is not numeric
    features = standardizer.parameters
    for leaf, start in standardizer.binding.starts():
        index = df.columns.index(leaf.path[0])
        where = range(start, start + leaf.width)
        normalize = _Normalize(leaf.name, frozen.options, features.take(where))
        columns[index] = _replaced(
            columns[index], df.schema.fields[index].dataType, leaf.path[1:], leaf.size, normalize
        )
    fields = df.schema.fields
    return rows.select(
        *[columns[i].alias(field.name, metadata=field.metadata) for i, field in enumerate(fields)]
    )


def _replaced(
    column: Column,
    kind: spark.DataType,
    path: tuple[str, ...],
    size: int | None,
    normalize: _Normalize,
) -> Column:
    """Return a column normalized, or with one field of its structs normalized."""
    if path:
        value = column
        for name in path:
            assert isinstance(kind, spark.StructType)
            value, kind = value.getField(name), kind[name].dataType
        quoted = ".".join(f"`{name.replace('`', '``')}`" for name in path)
        return column.withField(quoted, normalize.number(value, kind))
    if size is None:
        return normalize.number(column, kind)
    assert isinstance(kind, spark.ArrayType)
    return normalize.vector(column, kind.elementType, size)


class _Place(NamedTuple):
    """The parameters of one feature; a column for elements of a list, whose index varies.

    Attributes
    ----------
    base : int, Decimal, Column or None
        Subtracted from integers and decimals before they are rounded to double.
    hi, lo, scale, inverse, gamma, beta : float or Column
        As in ``((x − hi) − lo) / scale · gamma + beta``, with `inverse` the rounded 1/scale.
    known : bool or Column
    """

    base: Any
    hi: Any
    lo: Any
    scale: Any
    inverse: Any
    gamma: Any
    beta: Any
    known: Any


class _Normalize:
    """The map of one leaf as expressions."""

    def __init__(self, name: str, options: Any, features: Any) -> None:
        self._name = name
        self._options = options
        self._features = features

    def number(self, x: Column, kind: spark.DataType) -> Column:
        """Return the normalized value of a number."""
        [place] = self._places(kind)
        return self._map(x, kind, place)

    def vector(self, x: Column, kind: spark.DataType, size: int) -> Column:
        """Return the normalized elements of a list."""
        parameters = [_by_index(values) for values in zip(*self._places(kind), strict=True)]

        def element(value: Column, index: Column) -> Column:
            return self._map(value, kind, _Place(*[at(index) for at in parameters]))

        message = F.lit(f"column {self._name!r} holds a list of another length than {size}.")
        right = x.isNull() | (F.size(x) == size)
        return F.when(right, F.transform(x, element)).otherwise(F.raise_error(message))

    def _map(self, x: Column, kind: spark.DataType, place: _Place) -> Column:
        narrow = isinstance(kind, spark.FloatType)
        y = _minus(_minus(_offset(x, kind, place.base), place.hi), place.lo)
        # The kernels multiply by the reciprocal where a narrower output hides the difference.
        if not _is(place.scale, 1.0):
            y = y * place.inverse if narrow else y / place.scale
        if (clip := self._options.clip) is not None:
            # Spark takes NaN for larger than any number.
            above = F.when(F.isnan(y), y).otherwise(clip)
            y = F.when(y > clip, above).when(y < -clip, -clip).otherwise(y)
        if self._features.gamma is not None:
            y = y * place.gamma + place.beta
        if narrow:
            y = y.cast(spark.FloatType())
        if not _is(place.known, True):
            y = F.when(F.lit(place.known), y)
        return self._checked(x, y) if isinstance(kind, spark.FloatType | spark.DoubleType) else y

    def _checked(self, x: Column, y: Column) -> Column:
        """Return y, or fail the job if x is not finite and the options refuse that."""
        refused = [
            (F.isnan(x), "nan", "NaN"),
            (F.abs(x) == math.inf, "inf", "infinity"),
        ]
        for found, option, word in refused:
            if getattr(self._options, option) == "raise":
                message = (
                    f"column {self._name!r} holds {word}. Clean the data, or fit with "
                    f"{option}='ignore' (skip and count) or {option}='propagate'."
                )
                y = F.when(found, F.raise_error(F.lit(message))).otherwise(y)
        return y

    def _places(self, kind: spark.DataType) -> list[_Place]:
        """Return the parameters of each element, in units of the last digit for decimals."""
        f = self._features
        places = []
        for i, known in enumerate(f.known.tolist()):
            hi, lo, scale = (float(a[i]) for a in (f.location_hi, f.location_lo, f.scale))
            base: int | Decimal | None = None
            if isinstance(kind, spark.LongType | spark.DecimalType) and math.isfinite(hi):
                digits = kind.scale if isinstance(kind, spark.DecimalType) else 0
                hi, lo = _times_power(hi, lo, digits)
                scale *= float(10**digits)
                whole = round(hi)
                if isinstance(kind, spark.LongType):
                    base = whole = max(-(2**63), min(whole, 2**63 - 1024))
                else:
                    base = Decimal(f"{whole}e-{digits}")
                sum_, error = _two_sum(hi, -float(whole))
                hi, lo = _two_sum(sum_, error + lo)
            gamma = 1.0 if f.gamma is None else float(f.gamma[i])
            beta = 0.0 if f.beta is None else float(f.beta[i])
            places.append(_Place(base, hi, lo, scale, 1.0 / scale, gamma, beta, known))
        return places


def _by_index(values: Sequence[Any]) -> Callable[[Column], Any]:
    """Return a function from the index of a list's element to its parameter."""
    if all(value == values[0] for value in values):
        return lambda _: values[0]
    array = F.array(*map(F.lit, values))
    return lambda index: F.get(array, index)


def _offset(x: Column, kind: spark.DataType, base: Any) -> Column:
    """Return the difference of a value and its base as a double, rounded once.

    Decimals are counted in units of their last digit.
    """
    double = spark.DoubleType()
    if base is None:
        return x.cast(double)
    base = F.lit(base)
    if isinstance(kind, spark.LongType):
        base = base.cast(kind)
        wide = x.cast(_ANY_LONG) - base.cast(_ANY_LONG)
        return F.coalesce(F.try_subtract(x, base).cast(double), wide.cast(double))
    assert isinstance(kind, spark.DecimalType)
    unit = float(10**kind.scale)
    if kind.precision < _MOST_DIGITS:
        return F.rint((x - base.cast(kind)).cast(double) * unit)
    # The difference of such decimals has more digits than Spark holds.
    rounded = x.cast(double) - base.cast(double)
    if kind.scale < _MOST_DIGITS:
        shorter = spark.DecimalType(_MOST_DIGITS - 1, kind.scale)
        exact = x.try_cast(shorter) - base.try_cast(shorter)
        rounded = F.coalesce(exact.cast(double), rounded)
    return F.rint(rounded * unit)


def _minus(x: Column, location: Any) -> Column:
    return x if _is(location, 0.0) else x - location


def _is(parameter: Any, value: Any) -> bool:
    """Return whether a parameter is this constant, rather than another one or a column."""
    return not isinstance(parameter, Column) and bool(parameter == value)


# Double-double arithmetic as in the kernels, so that the bits agree. Fractions tell the errors.


def _two_sum(a: float, b: float) -> tuple[float, float]:
    total = a + b
    return total, float(Fraction(a) + Fraction(b) - Fraction(total))


def _times_power(hi: float, lo: float, digits: int) -> tuple[float, float]:
    """Return (hi + lo)·10**digits."""
    power = 10**digits
    factor = float(power)
    product = hi * factor
    error = float(Fraction(hi) * Fraction(factor) - Fraction(product))
    rest = float(power - int(factor))
    return _two_sum(product, error + (hi * rest + lo * factor))
