"""Where bytes come from and go to: local files, pipes, object stores, file formats.

Readers yield record batches; writers make a file appear whole or not at all.
"""

from streambn.io.csv_dialect import CsvOptions
from streambn.io.csv_passthrough import KeptText, Passthrough, PassthroughOf, lossless_text
from streambn.io.csv_reader import InferenceError
from streambn.io.csv_types import NumberHint, first_text, number_hint, parse_text, type_named
from streambn.io.formats import (
    COMPRESSION_SUFFIXES,
    SUFFIXES,
    Format,
    after_row,
    describe_read_errors,
    located,
)
from streambn.io.joins import Joined, join_none, join_small
from streambn.io.json_raw import RawJson
from streambn.io.json_writer import json_values
from streambn.io.locations import Location, Stamp, identities, locate, remove_leftovers
from streambn.io.locks import lock
from streambn.io.pieces import Damaged, DataFile, Opener, Piece
from streambn.io.prefetch import prefetch
from streambn.io.readers import (
    detect_format,
    validated,
)
from streambn.io.row_groups import open_parquet, read_row_groups
from streambn.io.sources import (
    PIPE,
    Source,
    open_reader,
    open_source,
    original_path,
    scan,
    settle_source,
    unicode_text,
)
from streambn.io.value_sizes import (
    fixed_size,
    has_fixed_size,
    is_text,
    leaf_types,
    row_size,
    value_size,
)
from streambn.io.writers import Encoding, OutputBuffer, parquet_writer, write_batches

__all__ = [
    "COMPRESSION_SUFFIXES",
    "PIPE",
    "SUFFIXES",
    "CsvOptions",
    "Damaged",
    "DataFile",
    "Encoding",
    "Format",
    "InferenceError",
    "Joined",
    "KeptText",
    "Location",
    "NumberHint",
    "Opener",
    "OutputBuffer",
    "Passthrough",
    "PassthroughOf",
    "Piece",
    "RawJson",
    "Source",
    "Stamp",
    "after_row",
    "describe_read_errors",
    "detect_format",
    "first_text",
    "fixed_size",
    "has_fixed_size",
    "identities",
    "is_text",
    "join_none",
    "join_small",
    "json_values",
    "leaf_types",
    "locate",
    "located",
    "lock",
    "lossless_text",
    "number_hint",
    "open_parquet",
    "open_reader",
    "open_source",
    "original_path",
    "parquet_writer",
    "parse_text",
    "prefetch",
    "read_row_groups",
    "remove_leftovers",
    "row_size",
    "scan",
    "settle_source",
    "type_named",
    "unicode_text",
    "validated",
    "value_size",
    "write_batches",
]
