"""The arithmetic: arrays in, arrays out. The only place where speed is bought.

The functions of `streambn.kernels.reference`, in whichever implementation is active.
The environment variable ``STREAMBN_KERNELS`` forces one: ``reference`` (NumPy) or
``native`` (compiled).

Attributes
----------
active : str
    The name of the implementation in use.
"""

from __future__ import annotations

import os

from streambn.errors import InvalidValueError
from streambn.kernels.interface import Column, LaneArrays, LaneTransform
from streambn.kernels.reference import (
    block_moments,
    denormalize,
    empty_moments,
    merge_moments,
    normalize,
)

__all__ = [
    "Column",
    "LaneArrays",
    "LaneTransform",
    "active",
    "block_moments",
    "denormalize",
    "empty_moments",
    "merge_moments",
    "normalize",
]

active: str = os.environ.get("STREAMBN_KERNELS") or "reference"
if active != "reference":
    raise InvalidValueError(
        f"STREAMBN_KERNELS={active!r} asks for kernels that this installation does not have; "
        "it has: 'reference'. Unset the variable or set it to that."
    )
