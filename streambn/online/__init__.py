"""Statistics of rows that are dicts, whose features come and go.

`RowNormalizer` learns and transforms one row at a time, or a batch of rows.
"""

from streambn.online.row_normalizer import RowNormalizer

__all__ = ["RowNormalizer"]
