"""Rows that are dicts, whose features come and go, and loops over streams.

`RowNormalizer` learns and transforms one row at a time, or a batch of rows. `Checkpointer` keeps
the statistics of a loop and their place in its stream. `Watcher` serves the newest statistics of a
file.
"""

from streambn.online.checkpointer import Checkpointer
from streambn.online.row_normalizer import RowNormalizer
from streambn.online.watcher import Watcher

__all__ = ["Checkpointer", "RowNormalizer", "Watcher"]
