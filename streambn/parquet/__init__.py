"""The rewrite of one Parquet file on several threads.

`metadata` reads and writes footers, and `rewrite` reads, encodes and assembles blocks of columns.
"""

from streambn.parquet.rewrite import (
    Assembler,
    Block,
    ExpansionError,
    ParquetSource,
    Run,
    RunWriter,
    column_paths,
    encode_block,
)

__all__ = [
    "Assembler",
    "Block",
    "ExpansionError",
    "ParquetSource",
    "Run",
    "RunWriter",
    "column_paths",
    "encode_block",
]
