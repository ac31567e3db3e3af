"""Arrow data in and out: which columns are features, and how they are put back together.

It also reads the columns that describe rows, which are sample weights and event times.
"""

from streambn.arrow.binding import Binding, Leaf, bind
from streambn.arrow.event_times import format_instant, parse_instant, time_array
from streambn.arrow.sample_weights import (
    RowSelection,
    parse_weights,
    row_columns,
    select_counted_rows,
    select_rows,
    weight_array,
)
from streambn.arrow.schemas import SchemaCache, float_type, is_encoded, numeric_type
from streambn.arrow.streams import map_batches, map_stream, open_stream

__all__ = [
    "Binding",
    "Leaf",
    "RowSelection",
    "SchemaCache",
    "bind",
    "float_type",
    "format_instant",
    "is_encoded",
    "map_batches",
    "map_stream",
    "numeric_type",
    "open_stream",
    "parse_instant",
    "parse_weights",
    "row_columns",
    "select_counted_rows",
    "select_rows",
    "time_array",
    "weight_array",
]
