"""The body of a statistics file: hyperparameters, columns, policy and state."""

from __future__ import annotations

from typing import Literal, Self

import msgspec

from streambn.arrow import Binding, Leaf
from streambn.errors import SnapshotError
from streambn.options import Options
from streambn.snapshot.base import Stored
from streambn.snapshot.policies import StoredPolicy, store
from streambn.statistics import Statistics, check_affine

__all__ = ["Body", "StoredLeaf", "StoredOptions"]


class StoredOptions(Stored):
    """The fields of `Options`."""

    eps: float
    ddof: int
    center: bool
    scale: bool
    affine: dict[str, tuple[float, float]] | None
    clip: float | None
    nan: Literal["ignore", "raise", "propagate"]
    inf: Literal["ignore", "raise", "propagate"]
    weights: str | None = None

    @classmethod
    def of(cls, options: Options) -> Self:
        """Return the stored form of options."""
        values = {name: getattr(options, name) for name in cls.__struct_fields__}
        values["affine"] = None if options.affine is None else dict(options.affine)
        return cls(**values)

    def restore(self) -> Options:
        """Return the options."""
        return Options(**msgspec.structs.asdict(self))


class StoredLeaf(Stored):
    """The fields of `Leaf`: a column, or a field of a struct."""

    path: tuple[str, ...]
    size: int | None
    exact: bool

    def restore(self) -> Leaf:
        """Return the leaf."""
        if not self.path or (self.size is not None and self.size < 1):
            raise SnapshotError(f"no column has the path {self.path} and the size {self.size}")
        return Leaf(self.path, self.size, self.exact)


class Body(Stored):
    """All that determines statistics; the fingerprint is its SHA-256."""

    options: StoredOptions
    columns: list[str] | None
    leaves: list[StoredLeaf] | None
    policy: StoredPolicy

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """Return the stored form of statistics.

        Raises
        ------
        SnapshotError
            The policy is not one of streambn's own.
        """
        columns, binding = statistics.columns, statistics.binding
        leaves = None
        if binding is not None:
            leaves = [StoredLeaf(path=x.path, size=x.size, exact=x.exact) for x in binding.leaves]
        return cls(
            options=StoredOptions.of(statistics.options),
            columns=None if columns is None else list(columns),
            leaves=leaves,
            policy=store(statistics.policy, statistics.state),
        )

    def restore(self) -> Statistics:
        """Return the statistics.

        Raises
        ------
        StreamBNError
            The parts do not belong together, or a value is out of range.
        """
        options, policy = self.options.restore(), self.policy.policy()
        columns = None if self.columns is None else tuple(self.columns)
        if (self.leaves is None) != (self.policy.state is None):
            raise SnapshotError("leaves and state must both be null or both be set")
        if self.leaves is None:
            return Statistics(policy, options, columns)
        binding = Binding(tuple(leaf.restore() for leaf in self.leaves))
        features = len(binding.features)
        if len(set(binding.features)) < features:
            raise SnapshotError("a column occurs twice")
        check_affine(options, binding)
        return Statistics(policy, options, columns, binding, self.policy.restore(features))
