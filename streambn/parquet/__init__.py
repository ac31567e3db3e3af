"""One Parquet file rewritten in parallel, row group by row group.

`metadata` reads and writes footers; `rewrite` encodes and assembles column chunks.
"""

from streambn.parquet.rewrite import Assembly, Block, ParquetSource, encoded, paths_of

__all__ = ["Assembly", "Block", "ParquetSource", "encoded", "paths_of"]
