"""Statistics of rows that are dicts, whose features come and go.

`RowNormalizer` learns and transforms one row at a time, or a batch of rows. `Watcher` serves the
newest statistics of a file.
"""

from streambn.online.row_normalizer import RowNormalizer
from streambn.online.watcher import Watcher

__all__ = ["RowNormalizer", "Watcher"]
