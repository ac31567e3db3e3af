"""Statistics files: versioned, checksummed, typed JSON. Never pickle, never code.

A file holds the state and the hyperparameters and nothing that follows from them. The
floats are written with the fewest digits that read back to the same bits. The checksum
is the SHA-256 of the file in canonical form with an empty checksum; the fingerprint of a
frozen file is that of its body alone, and so tells statistics apart wherever they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from streambn.accumulators.exact import ExactMoments
from streambn.accumulators.moments import Moments
from streambn.arrow.binding import Binding, Leaf
from streambn.errors import SnapshotError, StreamBNError
from streambn.io.locations import Location, locate
from streambn.kernels import LaneArrays
from streambn.options import Options
from streambn.policies import (
    EMA,
    BatchEMA,
    BatchState,
    Exact,
    Policy,
    RecursiveState,
    TimedState,
    Welford,
)
from streambn.snapshot.exact_sums import StoredSums
from streambn.statistics import Statistics, check_affine

__all__ = ["Saved", "can_hold", "decode", "encode", "fingerprint", "read", "write"]

FORMAT = "streambn statistics"
VERSION = 4
# A file is of the earliest version that can say what it says: since 2 there are Σw², sample
# weights, event times and gaps of a recursion; since 3, notes; since 4, exact sums.
_PLAIN_VERSION = 2
_NOTE_VERSION = 3
_EXACT_VERSION = 4
_NOT_NEGATIVE = (
    *("count", "nulls", "nans", "pos_infs", "neg_infs"),
    *("weight", "pairs", "squares", "m2_hi", "decay"),
)
_INTEGERS = ("count", "nulls", "nans", "pos_infs", "neg_infs", "exponent")


# What a later version added has a default, which is not written: the checksum of an older file
# is that of what it holds.
class _Typed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class _Lanes(_Typed):
    """The fields of LaneArrays; the extremes of a lane without values are null."""

    count: list[int]
    nulls: list[int]
    nans: list[int]
    pos_infs: list[int]
    neg_infs: list[int]
    min: list[float | None]
    max: list[float | None]
    weight: list[float]
    pairs: list[float]
    mean_hi: list[float]
    mean_lo: list[float]
    m2_hi: list[float]
    m2_lo: list[float]
    decay: list[float]
    exponent: list[int]
    squares: list[float] | None = None

    @classmethod
    def of(cls, moments: Moments) -> Self:
        lists: dict[str, Any] = {name: getattr(moments, name).tolist() for name in moments.FIELDS}
        for name in ("min", "max"):
            lists[name] = [v if abs(v) != np.inf else None for v in lists[name]]
        return cls(**lists)

    def moments(self, lanes: int) -> Moments:
        arrays = {}
        for name in LaneArrays.FIELDS:
            values = getattr(self, name)
            if name == "squares" and values is None:
                # Of version 1, in which all values weighed alike but for their age.
                values = [
                    max(w * w - 2 * c, 0.0) for w, c in zip(self.weight, self.pairs, strict=True)
                ]
            if len(values) != lanes:
                raise SnapshotError(f"{name} has {len(values)} entries for {lanes} lanes")
            absent = {"min": np.inf, "max": -np.inf}.get(name)
            filled = [absent if v is None else v for v in values]
            kind = np.int64 if name in _INTEGERS else np.float64
            array = np.array(filled, kind)
            if absent is None and not np.isfinite(array).all():
                raise SnapshotError(f"{name} is beyond the range of float64")
            if name in _NOT_NEGATIVE and (array < 0).any():
                raise SnapshotError(f"{name} is negative")
            arrays[name] = array
        return Moments.sealed(LaneArrays.from_fields(**arrays))


class _OutdatedError(SnapshotError):
    """A file that is whole, and holds too little."""


def _over_lanes(values: Sequence[Sequence[Any]], lanes: int, dtype: Any) -> NDArray[Any]:
    if any(len(row) != lanes for row in values):
        raise SnapshotError(f"an array over lanes has not got {lanes} entries")
    array = np.array(values, dtype)
    if not np.isfinite(array).all():
        raise SnapshotError("a number is beyond the range of float64")
    return array


class _Welford(_Typed, tag="welford", tag_field="kind"):
    state: _Lanes | None

    @classmethod
    def of(cls, policy: Welford, state: Moments | None) -> Self:
        del policy
        return cls(state=None if state is None else _Lanes.of(state))

    def policy(self) -> Welford:
        return Welford()

    def restored(self, lanes: int) -> Moments | None:
        return None if self.state is None else self.state.moments(lanes)


class _EMAParts(_Typed):
    moments: _Lanes
    first: _Lanes | None
    gaps: tuple[list[int], list[int]] | None = None
    times: tuple[list[float], list[float]] | None = None
    latest: tuple[float, float] | None = None


class _EMA(_Typed, tag="ema", tag_field="kind"):
    alpha: float | None
    halflife: float | str | None
    span: float | None
    com: float | None
    adjust: bool
    ignore_na: bool
    state: _EMAParts | None
    time: str | None = None
    # Not "raise": what equals a default and is another object would be written.
    null_time: Literal["skip"] | None = None

    @classmethod
    def of(cls, policy: EMA, state: Any) -> Self:
        rates = {name: getattr(policy, name) for name in ("alpha", "halflife", "span", "com")}
        rates = {k: float(v) if isinstance(v, int) else v for k, v in rates.items()}
        parts = None
        if isinstance(state, Moments):
            parts = _EMAParts(moments=_Lanes.of(state), first=None)
        elif isinstance(state, RecursiveState):
            before, since = state.gaps.tolist()
            parts = _EMAParts(
                moments=_Lanes.of(state.moments), first=_Lanes.of(state.first), gaps=(before, since)
            )
        elif isinstance(state, TimedState):
            high, low = state.times.tolist()
            seen = bool(np.isfinite(state.latest).all())
            parts = _EMAParts(
                moments=_Lanes.of(state.moments),
                first=None,
                times=(high, low),
                latest=tuple(state.latest.tolist()) if seen else None,
            )
        return cls(
            **rates,
            adjust=policy.adjust,
            ignore_na=policy.ignore_na,
            time=policy.time,
            null_time="skip" if policy.null_time == "skip" else None,
            state=parts,
        )

    def policy(self) -> EMA:
        names = ("alpha", "halflife", "span", "com", "adjust", "ignore_na", "time")
        given = {name: getattr(self, name) for name in names}
        return EMA(**given, null_time=self.null_time or "raise")

    def restored(self, lanes: int) -> Any:
        parts = self.state
        if parts is None:
            return None
        if (parts.first is None) != self.adjust:
            raise SnapshotError("the first value is kept with adjust=False, and only then")
        if (parts.times is None) != (self.time is None):
            raise SnapshotError("times are kept by event time, and only then")
        moments = parts.moments.moments(lanes)
        if parts.times is not None:
            times = _over_lanes(parts.times, lanes, np.float64)
            return TimedState(moments, times, np.array(parts.latest or (-np.inf, 0.0)))
        if parts.first is None:
            return moments
        first = parts.first.moments(lanes)
        if parts.gaps is None:
            raise _OutdatedError(
                "is of an EMA with adjust=False that kept no gaps between values, as before the "
                "first release. Fit again."
            )
        gaps = _over_lanes(parts.gaps, lanes, np.int64)
        if (gaps < 0).any():
            raise SnapshotError("a gap is negative")
        return RecursiveState(moments, first, gaps)


class _BatchParts(_Typed):
    means: _Lanes
    variances: _Lanes
    open: _Lanes
    open_rows: int
    blocks: int


class _BatchEMA(_Typed, tag="batch-ema", tag_field="kind", kw_only=True):
    momentum: float | msgspec.UnsetType | None = msgspec.UNSET
    decay: float | msgspec.UnsetType = msgspec.UNSET
    ddof: int
    initial: tuple[float, float] | None
    batch_rows: int | None
    state: _BatchParts | None

    @classmethod
    def of(cls, policy: BatchEMA, state: BatchState | None) -> Self:
        rate: dict[str, Any] = {
            name: None if value is None else float(value) for name, value in policy.rate.items()
        }
        parts = None
        if state is not None:
            parts = _BatchParts(
                means=_Lanes.of(state.means),
                variances=_Lanes.of(state.variances),
                open=_Lanes.of(state.open),
                open_rows=state.open_rows,
                blocks=state.blocks,
            )
        return cls(
            **rate,
            ddof=policy.ddof,
            initial=policy.initial,
            batch_rows=policy.batch_rows,
            state=parts,
        )

    def policy(self) -> BatchEMA:
        rates = {"momentum": self.momentum, "decay": self.decay}
        given: dict[str, Any] = {k: v for k, v in rates.items() if v is not msgspec.UNSET}
        return BatchEMA(**given, ddof=self.ddof, initial=self.initial, batch_rows=self.batch_rows)

    def restored(self, lanes: int) -> BatchState | None:
        if (parts := self.state) is None:
            return None
        return BatchState(
            parts.means.moments(lanes),
            parts.variances.moments(lanes),
            parts.open.moments(lanes),
            parts.open_rows,
            parts.blocks,
        )


class _Exact(_Typed, tag="exact", tag_field="kind"):
    state: StoredSums | None

    @classmethod
    def of(cls, policy: Exact, state: ExactMoments | None) -> Self:
        del policy
        return cls(state=None if state is None else StoredSums.of(state))

    def policy(self) -> Exact:
        return Exact()

    def restored(self, lanes: int) -> ExactMoments | None:
        return None if self.state is None else self.state.totals(lanes)


class _Options(_Typed):
    eps: float
    ddof: int
    center: bool
    scale: bool
    affine: dict[str, tuple[float, float]] | None
    clip: float | None
    nan: Literal["ignore", "raise", "propagate"]
    inf: Literal["ignore", "raise", "propagate"]
    weights: str | None = None


class _Leaf(_Typed):
    path: tuple[str, ...]
    size: int | None
    exact: bool


class _Body(_Typed):
    options: _Options
    columns: list[str] | None
    leaves: list[_Leaf] | None
    policy: _Welford | _EMA | _BatchEMA | _Exact


class _File(_Typed):
    format: str
    version: int
    kind: Literal["normalizer", "frozen"]
    fingerprint: str | None
    checksum: str
    body: _Body
    note: dict[str, Any] | None = None


class _Header(msgspec.Struct):
    """What every version of the format has, and what a foreign file has not."""

    format: str
    version: int


class Saved(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    statistics : Statistics
        The statistics.
    frozen : bool
        Whether they may change no more.
    note : dict, optional
        What somebody wrote beside them, such as a job that is to go on from them; of
        JSON's types. It is no part of the statistics.
    """

    statistics: Statistics
    frozen: bool
    note: dict[str, Any] | None = None


_POLICIES: dict[type, type[_Welford] | type[_EMA] | type[_BatchEMA] | type[_Exact]] = {
    Welford: _Welford,
    EMA: _EMA,
    BatchEMA: _BatchEMA,
    Exact: _Exact,
}


def can_hold(policy: Policy) -> bool:
    """Say whether a file can hold a policy: one of streambn's own."""
    return type(policy) in _POLICIES


def encode(saved: Saved) -> bytes:
    """Return the bytes of a statistics file.

    Raises
    ------
    SnapshotError
        The policy is none of streambn's own.
    """
    body = _body(saved.statistics)
    version = _PLAIN_VERSION if saved.note is None else _NOTE_VERSION
    file = _File(
        format=FORMAT,
        version=_EXACT_VERSION if isinstance(body.policy, _Exact) else version,
        kind="frozen" if saved.frozen else "normalizer",
        fingerprint=_sha256(body) if saved.frozen else None,
        checksum="",
        body=body,
        note=saved.note,
    )
    file = msgspec.structs.replace(file, checksum=_sha256(file))
    return msgspec.json.encode(file, order="deterministic") + b"\n"


def fingerprint(fitted: Statistics) -> str:
    """Return the SHA-256, in hexadecimal, of statistics and hyperparameters."""
    return _sha256(_body(fitted))


def write(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a statistics file, here or where a URL leads: whole, or not at all."""
    _located(path).write_bytes(encode(saved))


def read(path: str | os.PathLike[str]) -> Saved:
    """Read a statistics file, from here or from where a URL leads.

    Raises
    ------
    SnapshotError
        The file is damaged, foreign or too new; the message says which.
    OSError
        It cannot be read here.
    StreamBNError
        It cannot be read from a store.
    """
    where = _located(path)
    # A foreign file may be of any size: one that cannot be JSON is not read.
    return decode(where.read_bytes(beginning=b"{"), where.text)


def _located(path: str | os.PathLike[str]) -> Location:
    """Give the place of a file; a path object is never a URL."""
    text = os.fspath(path)
    return locate(text) if isinstance(path, str) else Location(text, text)


def decode(content: bytes, name: str = "the statistics") -> Saved:
    """Return what the bytes of a statistics file hold; see `read`."""
    if not content:
        raise SnapshotError(f"{name} is empty; a statistics file is not.")
    header = _header(content, name)
    if header.version < 1:
        raise SnapshotError(f"{name} is damaged: there is no format version {header.version}.")
    if header.version > VERSION:
        raise SnapshotError(
            f"{name} is of format version {header.version}, from a newer streambn; this one reads "
            f"up to version {VERSION}. Upgrade streambn."
        )
    try:
        file = msgspec.json.decode(content, type=_File)
        unsigned = msgspec.structs.replace(file, checksum="")
        if _sha256(unsigned) != file.checksum:
            problem = "its content does not match its checksum"
        elif file.fingerprint != (_sha256(file.body) if file.kind == "frozen" else None):
            problem = "its fingerprint is not that of its statistics"
        else:
            return Saved(_fitted(file.body), file.kind == "frozen", file.note)
    except _OutdatedError as error:
        raise SnapshotError(f"{name} {error}") from error
    except (msgspec.MsgspecError, StreamBNError, OverflowError, UnicodeDecodeError) as error:
        problem = str(error)
    raise SnapshotError(f"{name} is damaged: {problem}. Restore it from a copy, or fit again.")


def _header(content: bytes, name: str) -> _Header:
    foreign = f"{name} is not a statistics file of streambn"
    if not content.startswith(b"{"):
        raise SnapshotError(f"{foreign}: it is no JSON object.")
    try:
        header = msgspec.json.decode(content, type=_Header)
    except msgspec.ValidationError as error:
        raise SnapshotError(f"{foreign}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(
            f"{name} is damaged: it begins like JSON and does not go on so ({error}). "
            "Restore it from a copy, or fit again."
        ) from error
    if header.format != FORMAT:
        raise SnapshotError(f"{foreign}: its format is {header.format!r}.")
    return header


def _sha256(content: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _body(fitted: Statistics) -> _Body:
    known = _POLICIES.get(type(fitted.policy))
    if known is None:
        names = ", ".join(policy.__name__ for policy in _POLICIES)
        raise SnapshotError(
            f"the policy {fitted.policy!r} cannot be saved: a file holds no code, so only "
            f"{names} can."
        )
    options, binding = fitted.options, fitted.binding
    return _Body(
        options=_Options(
            **{
                name: getattr(options, name)
                for name in _Options.__struct_fields__
                if name != "affine"
            },
            affine=None if options.affine is None else dict(options.affine),
        ),
        columns=None if fitted.columns is None else list(fitted.columns),
        leaves=None
        if binding is None
        else [_Leaf(path=x.path, size=x.size, exact=x.exact) for x in binding.leaves],
        policy=known.of(fitted.policy, fitted.state),  # type: ignore[arg-type]
    )


def _fitted(body: _Body) -> Statistics:
    options = Options(**msgspec.structs.asdict(body.options))
    columns = None if body.columns is None else tuple(body.columns)
    policy: Policy = body.policy.policy()
    if (body.leaves is None) != (body.policy.state is None):
        raise SnapshotError("columns and state belong together")
    if body.leaves is None:
        return Statistics(policy, options, columns)
    for leaf in body.leaves:
        if not leaf.path or (leaf.size is not None and leaf.size < 1):
            raise SnapshotError(f"there is no column {leaf.path} of size {leaf.size}")
    binding = Binding(tuple(Leaf(x.path, x.size, x.exact) for x in body.leaves))
    if len(set(binding.lanes)) < len(binding.lanes):
        raise SnapshotError("a column is there twice")
    check_affine(options, binding)
    return Statistics(policy, options, columns, binding, body.policy.restored(len(binding.lanes)))
