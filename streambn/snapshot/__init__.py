"""Statistics as bytes: versioned, checksummed, typed JSON.

Nothing here runs code from a file or reads a file; callers bring the bytes.
"""

__all__: list[str] = []
