"""What all stored structs share."""

from __future__ import annotations

import msgspec

from streambn.errors import SnapshotError

__all__ = ["OutdatedError", "Stored"]


class Stored(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Part of a statistics file, whose fields and their order are the format.

    A field that a later version added has a default, and a default is not written. An older
    file therefore decodes to a struct that encodes to the same bytes, as its checksum requires.
    """


class OutdatedError(SnapshotError):
    """The file is intact, but its version recorded less than is needed."""
