"""Where bytes come from and go to: local files, pipes, object stores, file formats.

Readers yield record batches; writers make a file appear whole or not at all.
"""

__all__: list[str] = []
