"""One Parquet file rewritten in parallel, row group by row group.

`metadata` reads and writes footers; `rewrite` encodes and assembles column chunks.
"""

__all__: list[str] = []
