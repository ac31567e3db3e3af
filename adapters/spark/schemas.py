"""The Arrow schema of a DataFrame, and names that Spark resolves without doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import types as spark

__all__ = ["arrow_schema", "arrow_type", "changed_schema", "numbered", "with_names"]

_PLAIN: Final = {
    spark.NullType: pa.null(),
    spark.BooleanType: pa.bool_(),
    spark.ByteType: pa.int8(),
    spark.ShortType: pa.int16(),
    spark.IntegerType: pa.int32(),
    spark.LongType: pa.int64(),
    spark.FloatType: pa.float32(),
    spark.DoubleType: pa.float64(),
    spark.StringType: pa.string(),
    spark.BinaryType: pa.binary(),
    spark.DateType: pa.date32(),
    spark.TimestampType: pa.timestamp("us", "UTC"),
    spark.TimestampNTZType: pa.timestamp("us"),
    spark.DayTimeIntervalType: pa.duration("us"),
}


def arrow_schema(schema: spark.StructType) -> pa.Schema:
    """Return the Arrow schema of the batches that Spark makes of a DataFrame.

    A type that Arrow lacks, such as variant, becomes an opaque one, which is not numeric.
    """
    return pa.schema([_arrow_field(field.name, field.dataType, field.nullable) for field in schema])


def _arrow_field(name: str, kind: spark.DataType, nullable: bool) -> pa.Field:
    return pa.field(name, arrow_type(kind), nullable)


def arrow_type(kind: spark.DataType) -> pa.DataType:
    """Return the Arrow type of a Spark type."""
    match kind:
        case spark.DecimalType():
            return pa.decimal128(kind.precision, kind.scale)
        case spark.ArrayType():
            return pa.list_(_arrow_field("element", kind.elementType, kind.containsNull))
        case spark.StructType():
            return pa.struct(arrow_schema(kind))
        case spark.MapType():
            key = _arrow_field("key", kind.keyType, False)
            return pa.map_(key, _arrow_field("value", kind.valueType, kind.valueContainsNull))
    for base, plain in _PLAIN.items():
        if type(kind) is base:
            return plain
    return pa.opaque(pa.null(), kind.simpleString(), "spark")


def numbered(df: DataFrame) -> DataFrame:
    """Return the DataFrame with its columns named c0, c1, and so on.

    Spark resolves names without regard to case, reads dots as fields of structs, and refuses a
    name that occurs twice. Numbers have none of these.
    """
    return df.toDF(*[f"c{i}" for i in range(len(df.columns))])


def with_names(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return the first columns of a batch by their true names."""
    fields = [batch.schema.field(i).with_name(name) for i, name in enumerate(names)]
    return pa.RecordBatch.from_arrays(batch.columns[: len(names)], schema=pa.schema(fields))


def changed_schema(schema: spark.StructType, changed: pa.Schema) -> spark.StructType:
    """Return a schema with the float types and the nullability of an Arrow schema."""
    pairs = zip(schema, changed, strict=True)
    return spark.StructType([_changed_field(field, new) for field, new in pairs])


def _changed_field(field: spark.StructField, new: pa.Field) -> spark.StructField:
    kind = _changed_type(field.dataType, new.type)
    return spark.StructField(field.name, kind, new.nullable, field.metadata)


def _changed_type(kind: spark.DataType, new: pa.DataType) -> spark.DataType:
    match kind:
        case spark.StructType():
            return spark.StructType(list(map(_changed_field, kind, new)))
        case spark.ArrayType():
            nullable = new.value_field.nullable
            return spark.ArrayType(_changed_type(kind.elementType, new.value_type), nullable)
    if pa.types.is_float64(new):
        return spark.DoubleType()
    return spark.FloatType() if pa.types.is_float32(new) else kind
