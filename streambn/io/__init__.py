"""Where bytes come from and go to: local files, pipes, object stores, file formats.

Readers yield record batches; writers make a file appear whole or not at all.
"""

from streambn.io.locations import Location, Stamp, locate, remove_leftovers
from streambn.io.locks import lock

__all__ = ["Location", "Stamp", "locate", "lock", "remove_leftovers"]
