"""Statistics of rows that are dicts, whose features come and go.

`RowNormalizer` learns and transforms one row at a time, or a batch of rows.
"""

__all__: list[str] = []
