"""Frozen statistics as a preprocessor of Ray."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
from ray.data import Dataset
from ray.data.block import BlockAccessor
from ray.data.preprocessor import Preprocessor

import streambn as sbn

from .._parts import check_frozen
from .blocks import check_dataset
from .datasets import apply, map_blocks, transform

__all__ = ["preprocessor"]


def preprocessor(frozen: sbn.FrozenNormalizer) -> Preprocessor:
    """Return frozen statistics as a ``ray.data.preprocessor.Preprocessor``, which is fitted.

    It fits wherever Ray takes one: ``transform(ds)``, ``transform_batch(batch)``, and checkpoints
    of Ray Train. Ray pickles preprocessors; this one's pickle holds the bytes of
    ``frozen.to_bytes()`` and nothing else of streambn's.

    Parameters
    ----------
    frozen : FrozenNormalizer

    Returns
    -------
    ray.data.preprocessor.Preprocessor
        Its attribute ``frozen`` holds the normalizer.
    """
    check_frozen(frozen)
    return _Preprocessor(frozen)


class _Preprocessor(Preprocessor):
    """See `preprocessor`."""

    _is_fittable = False

    def __init__(self, frozen: sbn.FrozenNormalizer) -> None:
        super().__init__()
        self.frozen = frozen

    def __reduce__(self) -> tuple[Callable[[bytes], Preprocessor], tuple[bytes]]:
        return _from_bytes, (self.frozen.to_bytes(),)

    def _transform(self, ds: Dataset, batch_size: int | None = None, **options: Any) -> Dataset:
        # Ray's other options are resources. A block is not cut: its rows do not depend on others.
        del batch_size
        given = {name: value for name, value in options.items() if value is not None}
        if not given:
            return transform(ds, self.frozen)
        check_dataset(ds)
        return map_blocks(ds, functools.partial(apply, self.frozen.to_bytes()), **given)

    def _transform_batch(self, data: Any) -> Any:
        if isinstance(data, pd.DataFrame | pa.Table):
            return self.frozen.transform(data)
        block = BlockAccessor.batch_to_block(data)
        table = apply(self.frozen.to_bytes(), BlockAccessor.for_block(block).to_arrow())
        return BlockAccessor.for_block(table).to_batch_format("numpy")

    def get_input_columns(self) -> list[str]:
        """Return the names of the columns that it normalizes."""
        return self.frozen.statistics.require_binding().columns

    def get_output_columns(self) -> list[str]:
        """Return the names of the columns that it normalizes."""
        return self.get_input_columns()

    def __repr__(self) -> str:
        return f"preprocessor({self.frozen!r})"


def _from_bytes(content: bytes) -> Preprocessor:
    frozen = sbn.from_bytes(content)
    check_frozen(frozen)
    assert isinstance(frozen, sbn.FrozenNormalizer)
    return _Preprocessor(frozen)
