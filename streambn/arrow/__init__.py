"""Arrow data in and out: which columns are features, and how they are put back together.

It also reads the columns that describe rows, which are sample weights and event times.
"""

from streambn.arrow.binding import Binding, Change, bind
from streambn.arrow.event_times import format_instant, parse_instant, time_array
from streambn.arrow.matrices import Matrix, empty_like
from streambn.arrow.rebuild import update_pandas_metadata
from streambn.arrow.sample_weights import (
    RowSelection,
    parse_weights,
    read_all_rows,
    row_columns,
    select_counted_rows,
    select_rows,
    weight_array,
)
from streambn.arrow.schemas import (
    SchemaCache,
    float_type,
    has_run_ends,
    is_any_list,
    is_encoded,
    numeric_type,
)
from streambn.arrow.selection import (
    Leaf,
    LeftOut,
    Names,
    Selection,
    check_names,
    fields_by_name,
    find_field,
    is_pattern,
)
from streambn.arrow.streams import as_batch, map_batches, map_stream, open_stream
from streambn.arrow.unify import (
    cast_column,
    common_field,
    has_required,
    holds,
    input_type,
    null_in_required,
    nullable_field,
    untyped_field,
)
from streambn.arrow.validation import Validation, Validator, check_validation

__all__ = [
    "Binding",
    "Change",
    "Leaf",
    "LeftOut",
    "Matrix",
    "Names",
    "RowSelection",
    "SchemaCache",
    "Selection",
    "Validation",
    "Validator",
    "as_batch",
    "bind",
    "cast_column",
    "check_names",
    "check_validation",
    "common_field",
    "empty_like",
    "fields_by_name",
    "find_field",
    "float_type",
    "format_instant",
    "has_required",
    "has_run_ends",
    "holds",
    "input_type",
    "is_any_list",
    "is_encoded",
    "is_pattern",
    "map_batches",
    "map_stream",
    "null_in_required",
    "nullable_field",
    "numeric_type",
    "open_stream",
    "parse_instant",
    "parse_weights",
    "read_all_rows",
    "row_columns",
    "select_counted_rows",
    "select_rows",
    "time_array",
    "untyped_field",
    "update_pandas_metadata",
    "weight_array",
]
