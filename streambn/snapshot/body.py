"""The body of a statistics file: hyperparameters, columns, policy and state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from streambn._messages import spell
from streambn.arrow import Binding, Leaf
from streambn.errors import SnapshotError
from streambn.options import Options
from streambn.snapshot.base import Stored
from streambn.snapshot.policies import StoredPolicy, store
from streambn.statistics import Statistics, check_affine

__all__ = ["Body", "StoredLeaf", "StoredOptions", "attach_state", "check_leaves", "saved_columns"]

# Columns without a type yet, excluded columns, and unions of columns.
_SELECTION_VERSION: Final = 5
_MIN_COUNT_VERSION: Final = 6
_MAX_SIZE: Final = 2**31 - 1  # of Arrow's fixed-size lists
# Features have names that the file does not list: "emb[0]", "emb[1]" and so on. A file states at
# least 32 characters of each feature, so this is room for names of 256.
_NAMES_PER_BYTE: Final = 8


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
    # None is "fixed": msgspec recognizes a default by its identity, which a pickled text loses.
    schema: Literal["union"] | None = None
    min_count: Annotated[int, msgspec.Meta(ge=0)] = 0

    @classmethod
    def of(cls, options: Options) -> Self:
        """Return the stored form of options."""
        values = {name: getattr(options, name) for name in cls.__struct_fields__}
        values["affine"] = None if options.affine is None else dict(options.affine)
        values["schema"] = None if options.schema == "fixed" else options.schema
        return cls(**values)

    def restore(self) -> Options:
        """Return the options."""
        return Options(**(msgspec.structs.asdict(self) | {"schema": self.schema or "fixed"}))


class StoredLeaf(Stored):
    """The fields of `Leaf`: a column, or a field of a struct."""

    path: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=1, le=_MAX_SIZE)] | None
    exact: bool
    typed: bool = True

    def restore(self) -> Leaf:
        """Return the leaf."""
        return Leaf(self.path, self.size, self.exact, self.typed)


class Body(Stored):
    """All that determines statistics; the fingerprint is its SHA-256."""

    options: StoredOptions
    columns: list[str] | None
    leaves: list[StoredLeaf] | None
    policy: StoredPolicy
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """Return the stored form of statistics.

        Raises
        ------
        SnapshotError
            The policy is not one of streambn's own, or a function is to choose the columns and
            has seen no data.
        """
        columns, binding = saved_columns(statistics), statistics.binding
        leaves = None
        if binding is not None:
            leaves = [StoredLeaf(**leaf._asdict()) for leaf in binding.leaves]
        return cls(
            options=StoredOptions.of(statistics.options),
            columns=None if columns is None else list(columns),
            leaves=leaves,
            policy=store(statistics.policy, statistics.state),
            exclude=statistics.exclude,
        )

    @property
    def since(self) -> int:
        """The lowest format version that can express it."""
        untyped = any(not leaf.typed for leaf in self.leaves or ())
        new = untyped or self.exclude or self.options.schema
        since = max(self.policy.since, _SELECTION_VERSION if new else 0)
        return max(since, _MIN_COUNT_VERSION if self.options.min_count else 0)

    def restore(self, size: int) -> Statistics:
        """Return the statistics.

        Parameters
        ----------
        size : int
            Bytes of the file. Memory is in proportion to it, whatever the file says.

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
            return Statistics(policy, options, columns, exclude=self.exclude)
        union = options.schema == "union"
        leaves = tuple(leaf.restore() for leaf in self.leaves)
        check_leaves(leaves)
        binding = Binding(leaves, union, union)
        unread = Statistics(policy, options, columns, binding, exclude=self.exclude)
        return attach_state(unread, self.policy.restore, size)


def saved_columns(statistics: Statistics) -> tuple[str, ...] | None:
    """Return the columns that the user asked for, as they are saved.

    A saved state holds no code, but the names that the code chose.

    Raises
    ------
    SnapshotError
        A function is to choose the columns and has seen no data.
    """
    columns, binding = statistics.columns, statistics.binding
    if not callable(columns):
        return columns
    if binding is None:
        raise SnapshotError(
            f"{spell('columns')} is a function, which a file cannot hold. Call update(data) "
            "first: the file then holds the names that the function chose.",
            argument="columns",
        )
    return tuple(leaf.name for leaf in binding.leaves)


def attach_state(unread: Statistics, restore: Callable[[int], Any], size: int) -> Statistics:
    """Return statistics with a state that comes from elsewhere, after all checks.

    Parameters
    ----------
    unread : Statistics
        With a binding, whose leaves passed `check_leaves`, and without a state.
    restore : callable
        Returns the state for a number of features.
    size : int
        Bytes of the content that both come from. Memory is in proportion to it, whatever the
        content says.

    Raises
    ------
    StreamBNError
        The parts do not belong together, or a value is out of range.
    """
    binding = unread.require_binding()
    # The state comes first: it has a feature for each that the leaves promise, or is refused.
    state = restore(binding.width)
    if binding.name_characters > _NAMES_PER_BYTE * size:
        raise SnapshotError(
            f"the features have names of {binding.name_characters:,} characters, too many for "
            f"{size:,} bytes"
        )
    if len(set(binding.features)) < len(binding.features):
        raise SnapshotError("a column occurs twice")
    check_affine(unread.options, binding)
    unread.policy.check_state(state)
    return replace(unread, state=state)


def check_leaves(leaves: Iterable[Leaf]) -> None:
    """Raise a SnapshotError unless each leaf has a name and a size that Arrow allows."""
    for i, leaf in enumerate(leaves):
        if not leaf.path:
            raise SnapshotError(f"leaves[{i}] has no name")
        if leaf.size is None:
            continue
        if not 1 <= leaf.size <= _MAX_SIZE:
            raise SnapshotError(f"leaves[{i}] has size {leaf.size}, but at most {_MAX_SIZE:,} fit")
        if not leaf.typed:
            raise SnapshotError(f"leaves[{i}] has size {leaf.size}, so it must be typed")
