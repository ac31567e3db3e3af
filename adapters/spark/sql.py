"""A DataFrame normalized by column expressions, which stay in the JVM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name in Spark's documentation
from pyspark.sql import types as spark

import streambn as sbn

from .._parts import check_frozen
from .schemas import arrow_schema, numbered
from .workers import check_frame

__all__ = ["transform_sql"]

_MOST_DIGITS: Final = 38  # of Spark's decimals
_ANY_LONG: Final = "DECIMAL(20, 0)"


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
    schema = arrow_schema(df.schema)
    standardizer = frozen.standardizer.matching(schema)
    standardizer.output_schema(schema)  # raises if a column is missing or is not numeric
    fields = df.schema.fields
    columns = {i: F.col(f"c{i}") for i in range(len(fields))}
    for leaf, start in standardizer.binding.starts():
        index = schema.names.index(leaf.path[0])
        features = standardizer.parameters.take(range(start, start + leaf.width))
        normalize = _Normalize(leaf.name, frozen.options, features)
        path, kind = leaf.path[1:], fields[index].dataType
        for name in path:
            assert isinstance(kind, spark.StructType)
            kind = kind[name].dataType
        text = normalize.column(".".join([f"c{index}", *map(_quoted, path)]), kind)
        if path:
            columns[index] = columns[index].withField(".".join(map(_quoted, path)), F.expr(text))
        else:
            columns[index] = F.expr(text)
    named = [
        columns[i].alias(field.name, **({"metadata": field.metadata} if field.metadata else {}))
        for i, field in enumerate(fields)
    ]
    return numbered(df).select(*named)


class _Place(NamedTuple):
    """The parameters of one feature as SQL.

    Attributes
    ----------
    base : str or None
        Subtracted from integers and decimals before they are rounded to double.
    hi, lo, scale, inverse, gamma, beta, known : str
        As in ``((x - hi) - lo) / scale * gamma + beta``, with `inverse` the rounded 1/scale.
    """

    base: str | None
    hi: str
    lo: str
    scale: str
    inverse: str
    gamma: str
    beta: str
    known: str


class _Normalize:
    """The map of one leaf as SQL, which Spark takes in a fraction of the time of Column objects."""

    def __init__(self, name: str, options: Any, features: Any) -> None:
        self._name = name
        self._options = options
        self._features = features

    def column(self, x: str, kind: spark.DataType) -> str:
        """Return the normalized value of a number, or of a list of numbers."""
        if not isinstance(kind, spark.ArrayType):
            [place] = self._places(kind)
            return self._number(x, kind, place)
        places = self._places(kind.elementType)
        varying = _Place(*map(_by_index, zip(*places, strict=True)))
        element = self._number("v", kind.elementType, varying)
        failed = self._failed(f"holds a list of another length than {len(places)}.")
        right = f"{x} IS NULL OR size({x}) = {len(places)}"
        return f"CASE WHEN {right} THEN transform({x}, (v, i) -> {element}) ELSE {failed} END"

    def _number(self, x: str, kind: spark.DataType, place: _Place) -> str:
        narrow = isinstance(kind, spark.FloatType)
        y = _offset(x, kind, place.base)
        for location in (place.hi, place.lo):
            if location != _ZERO:
                y = f"({y} - {location})"
        # The kernels multiply by the reciprocal where a narrower output hides the difference.
        if place.scale != _ONE:
            y = f"({y} * {place.inverse})" if narrow else f"({y} / {place.scale})"
        if self._options.clip is not None:
            high, low = _double(self._options.clip), _double(-self._options.clip)
            # Spark takes NaN for larger than any number.
            above = f"CASE WHEN isnan({y}) THEN {y} ELSE {high} END"
            y = f"CASE WHEN {y} > {high} THEN {above} WHEN {y} < {low} THEN {low} ELSE {y} END"
        if self._features.gamma is not None:
            y = f"({y} * {place.gamma} + {place.beta})"
        if narrow:
            y = f"CAST({y} AS FLOAT)"
        if place.known != "true":
            y = f"CASE WHEN {place.known} THEN {y} END"
        return self._checked(x, y) if isinstance(kind, spark.FloatType | spark.DoubleType) else y

    def _checked(self, x: str, y: str) -> str:
        """Return y, or fail the job if x is not finite and the options refuse that."""
        refused = [
            (f"isnan({x})", "nan", "NaN"),
            (f"abs({x}) = {_double(math.inf)}", "inf", "infinity"),
        ]
        for found, option, word in refused:
            if getattr(self._options, option) == "raise":
                failed = self._failed(
                    f"holds {word}. Clean the data, or fit with {option}='ignore' (skip and count) "
                    f"or {option}='propagate'."
                )
                y = f"CASE WHEN {found} THEN {failed} ELSE {y} END"
        return y

    def _failed(self, problem: str) -> str:
        # Which characters a literal must escape depends on the session; digits need none.
        message = f"column {self._name!r} {problem}".encode().hex()
        return f"raise_error(decode(unhex('{message}'), 'UTF-8'))"

    def _places(self, kind: spark.DataType) -> list[_Place]:
        """Return the parameters of each element, in units of the last digit for decimals."""
        f = self._features
        places = []
        for i, known in enumerate(f.known.tolist()):
            hi, lo, scale = (float(a[i]) for a in (f.location_hi, f.location_lo, f.scale))
            base = None
            if isinstance(kind, spark.LongType | spark.DecimalType) and math.isfinite(hi):
                digits = kind.scale if isinstance(kind, spark.DecimalType) else 0
                hi, lo = _times_power(hi, lo, digits)
                scale *= float(10**digits)
                whole = round(hi)
                if isinstance(kind, spark.LongType):
                    whole = max(-(2**63), min(whole, 2**63 - 1024))
                base = f"CAST('{whole}e-{digits}' AS DECIMAL(38, {digits}))"
                if isinstance(kind, spark.LongType):
                    base = f"CAST('{whole}' AS BIGINT)"
                total, error = _two_sum(hi, -float(whole))
                hi, lo = _two_sum(total, error + lo)
            gamma = 1.0 if f.gamma is None else float(f.gamma[i])
            beta = 0.0 if f.beta is None else float(f.beta[i])
            numbers = map(_double, (hi, lo, scale, 1.0 / scale, gamma, beta))
            places.append(_Place._make([base, *numbers, "true" if known else "false"]))
        return places


def _by_index(values: Sequence[str | None]) -> Any:
    """Return the parameter of a list's element `i`."""
    if len(set(values)) == 1:
        return values[0]
    return f"get(array({', '.join(map(str, values))}), i)"


def _offset(x: str, kind: spark.DataType, base: str | None) -> str:
    """Return the difference of a value and its base as a double, rounded once.

    Decimals are counted in units of their last digit.
    """
    if base is None:
        return x if isinstance(kind, spark.DoubleType) else f"CAST({x} AS DOUBLE)"
    if isinstance(kind, spark.LongType):
        wide = f"CAST({x} AS {_ANY_LONG}) - CAST({base} AS {_ANY_LONG})"
        return f"coalesce(CAST(try_subtract({x}, {base}) AS DOUBLE), CAST({wide} AS DOUBLE))"
    assert isinstance(kind, spark.DecimalType)
    unit = _double(float(10**kind.scale))
    if kind.precision < _MOST_DIGITS:
        own = f"DECIMAL({kind.precision}, {kind.scale})"
        return f"rint(CAST({x} - CAST({base} AS {own}) AS DOUBLE) * {unit})"
    # The difference of such decimals has more digits than Spark holds.
    rounded = f"CAST({x} AS DOUBLE) - CAST({base} AS DOUBLE)"
    if kind.scale < _MOST_DIGITS:
        shorter = f"DECIMAL({_MOST_DIGITS - 1}, {kind.scale})"
        exact = f"try_cast({x} AS {shorter}) - try_cast({base} AS {shorter})"
        rounded = f"coalesce(CAST({exact} AS DOUBLE), {rounded})"
    return f"rint(({rounded}) * {unit})"


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _double(value: float) -> str:
    """Return a literal that reads back to the same bits."""
    return f"({value!r}D)" if math.isfinite(value) else f"CAST('{value!r}' AS DOUBLE)"


_ZERO: Final = _double(0.0)
_ONE: Final = _double(1.0)


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
