"""The plan of a job: how its inputs are read, and which of them go into which output."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import (
    COMPRESSION_SUFFIXES,
    PIPE,
    SUFFIXES,
    CsvOptions,
    DataFile,
    Format,
    KeptText,
    Location,
    Passthrough,
    PassthroughOf,
    Source,
    detect_format,
    identities,
    locate,
    open_source,
    settle_source,
)
from streambn.jobs.manifest import NAME as MANIFEST

__all__ = ["Output", "Plan", "ReadOptions", "check_target", "make_plan"]

_CHECKPOINT = "_streambn.checkpoint"
# Files from which on their mean size, in bytes, chooses the threads.
_MANY, _SMALL_FILE = 64, 1 << 16


class ReadOptions(NamedTuple):
    """How a job reads its inputs."""

    csv: CsvOptions = CsvOptions()
    threads: int = 1
    skip_damaged: bool = False  # whether to leave out damaged parts instead of failing
    union: bool = False  # whether sources of one output may lack columns, which are null there
    # Types of CSV columns by identity, of files whose first rows did not show them. A job has a
    # mapping of its own, and adds to it while it reads.
    settled: MutableMapping[str, Mapping[str, Any]] = MappingProxyType({})  # type: ignore[assignment]
    # The same for columns that pass through, whose types must lose nothing.
    settled_passed: MutableMapping[str, Mapping[str, Any]] = MappingProxyType({})  # type: ignore[assignment]
    # Columns that a job passes through as text, by name.
    kept_text: MutableMapping[str, KeptText] = MappingProxyType({})  # type: ignore[assignment]

    def threads_for(self, files: int, size: int | None) -> int:
        """Return the number of threads for so many files with so many bytes together, if known."""
        # One thread at a time runs Python, and small files leave little else to do. Two threads
        # take a fourth more time for 2,000 files of 20 KB than one.
        small = size is not None and files >= _MANY and size < files * _SMALL_FILE
        return 1 if small else self.threads

    @property
    def identity(self) -> list[str]:
        """The options that the result of a job depends on, as text."""
        types = sorted(f"{column}={kind}" for column, kind in self.csv.types.items())
        on_error = f"on error {'skip' if self.skip_damaged else 'stop'}"
        return [f"csv types {types}", on_error, *self.csv.identity]

    def open(
        self, source: Source, passthrough: PassthroughOf | None = None, **options: Any
    ) -> DataFile:
        """Open a source. `streambn.io.open_source` has the options."""
        passed = self.settled_passed.get(source.identity, {})
        opened = open_source(
            source,
            csv=self.csv,
            settled={**self.settled.get(source.identity, {}), **passed},
            passthrough=passthrough,
            keep_damaged=self.skip_damaged,
            **options,
        )
        for kept in opened.kept_text:
            self.kept_text.setdefault(kept.column, kept)
        return opened

    def for_new_job(self) -> ReadOptions:
        """Return these options with no settled types yet."""
        return self._replace(settled={}, settled_passed={}, kept_text={})

    def settle(self, sources: Iterable[Source], passthrough: Passthrough | None = None) -> None:
        """Read CSV sources for types that all their values fit, unless they are known."""
        known = self.settled if passthrough is None else self.settled_passed
        for source in sources:
            if source.identity not in known:
                known[source.identity] = settle_source(source, self.csv, passthrough)


class Output(NamedTuple):
    """One output: its file, its format, and the sources that go into it."""

    target: str  # path or URL of the file, perhaps with credentials; "-" is standard output
    format: Format
    sources: tuple[Source, ...]  # in order
    mirrored: bool = False  # whether it is the copy of one source in a folder, under the same path
    codec: str | None = None  # compression as a whole: of a copy, that of its source

    @property
    def from_parquet_to_parquet(self) -> bool:
        """Whether it is Parquet, and so is its first source."""
        source = self.sources[0]
        if self.format is not Format.PARQUET or not source.rereadable:
            return False
        # A copy has the format of its source.
        return self.mirrored or detect_format(source.open, source.name)[0] is Format.PARQUET

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "standard output" if self.target == PIPE else self.location.label

    @property
    def location(self) -> Location:
        """Location of the file; there is none for standard output."""
        return locate(self.target)


class Plan(NamedTuple):
    """The outputs of a job."""

    output: str  # as the caller named it
    outputs: tuple[Output, ...]

    @property
    def sources(self) -> list[Source]:
        """The inputs, in order."""
        return [source for output in self.outputs for source in output.sources]

    @property
    def files(self) -> list[Location]:
        """Locations of the files that the job writes."""
        return [output.location for output in self.outputs if output.target != PIPE]

    @property
    def folder(self) -> Location | None:
        """The folder that holds a copy of each input; None if there is a single output."""
        return locate(self.output) if self.outputs[0].mirrored else None

    @property
    def checkpoint(self) -> Location | None:
        """Default location of the checkpoint of a fit before this plan; None for a pipe."""
        if self.output == PIPE:
            return None
        if self.folder is not None:
            return self.folder.child(_CHECKPOINT)
        return locate(self.output).with_suffix(".checkpoint")


def make_plan(
    sources: Sequence[Source],
    out: str,
    *,
    kind: Format | None = None,
    skip_damaged: bool = False,
) -> Plan:
    """Choose the outputs for some sources.

    Parameters
    ----------
    sources : sequence of Source
        The result of `scan`.
    out : str
        ``"-"``: one stream on standard output. A file: one output, in the format of its suffix,
        and compressed if one such as ``.gz`` follows. A folder (it exists, its name ends in a
        slash, or there are several sources and no known suffix): one output for each source,
        with its relative path and format. Paths and URLs.
    kind : Format, optional
        Format of a file or of standard output. Default: that of the suffix, and an Arrow IPC
        stream.
    skip_damaged : bool
        Whether to plan for a source of unknown format too, which is then skipped.

    Raises
    ------
    InvalidValueError
        The suffix is unknown, an output would replace an input, or standard output is a
        terminal.
    """
    if out == PIPE:
        if sys.stdout.isatty():
            raise InvalidValueError(
                "standard output is a terminal. Pipe it into another program, or name a file.",
                argument="output",
            )
        if kind in {Format.PARQUET, Format.IPC_FILE}:
            raise InvalidValueError(
                f"standard output can be a stream, but not {kind.value}. Name a file.",
                argument="format",
            )
        return Plan(out, (Output(PIPE, kind or Format.IPC_STREAM, tuple(sources)),))
    where = locate(out)
    where.check_store()
    named, codec = _format_of(where.name)
    many = len(sources) > 1 or any(source.listed for source in sources)
    if where.ends_in_slash or where.is_folder() or (many and named is None):
        if kind is not None:
            raise InvalidValueError(
                f"{where.label} is a folder, in which each input keeps its format. Name a file.",
                argument="format",
            )
        return Plan(out, tuple(_copies(sources, where, skip_damaged)))
    kind = kind or named
    if kind is None:
        raise InvalidValueError(
            f"{where.label}: the suffix of an output chooses its format and must be one of "
            f"{', '.join(SUFFIXES)}. The name of a folder ends in a slash, and - is "
            "standard output.",
            argument="output",
        )
    if kind is Format.PARQUET and codec is not None:
        raise InvalidValueError(
            f"{where.label}: Parquet is compressed inside. Name a .parquet file, and choose the "
            "codec by --compression.",
            argument="output",
        )
    check_target(where.text, sources)
    return Plan(out, (Output(where.text, kind, tuple(sources), codec=codec),))


def _format_of(name: str) -> tuple[Format | None, str | None]:
    """Return the format that a file's name ends in, and the codec that follows."""
    path = Path(name.lower())
    codec = COMPRESSION_SUFFIXES.get(path.suffix)
    return SUFFIXES.get(Path(path.stem if codec else path).suffix), codec


def _copies(sources: Sequence[Source], folder: Location, skip_damaged: bool) -> list[Output]:
    """Plan a copy of each source in a folder."""
    if folder.is_file():
        raise InvalidValueError(
            f"{folder.label} is a file, but these inputs need a folder as their output.",
            argument="output",
        )
    inputs = _identities(sources)
    _check_outside(folder, sources)
    _check_names(folder, sources)
    targets = [folder.child(source.relative) for source in sources]
    for target in targets[:1]:  # the others are much like it
        target.check_writable()
    outputs: dict[str, Output] = {}
    for source, target, identity in zip(sources, targets, identities(targets), strict=True):
        _check_replaceable(target, identity, inputs)
        if target.text in outputs:
            first = outputs[target.text].sources[0]
            raise InvalidValueError(
                f"{first.name} and {source.name} have the same output, {target.label}.",
                argument="output",
            )
        kind, codec = Format.IPC_STREAM, None
        if source.rereadable:
            try:
                kind, codec = detect_format(source.open, source.name)
            except (StreamBNError, OSError):
                if not skip_damaged:
                    raise
        outputs[target.text] = Output(target.text, kind, (source,), mirrored=True, codec=codec)
    return list(outputs.values())


def _check_names(folder: Location, sources: Sequence[Source]) -> None:
    """Refuse outputs that cannot be in one folder, before the first one is written."""
    if own := next((s for s in sources if s.relative in {MANIFEST, _CHECKPOINT}), None):
        raise InvalidValueError(
            f"{own.name}: its output would have the name of a file that the job itself writes. "
            "Rename it.",
            argument="output",
        )
    if folder.local is None:  # a store may hold an object and a folder of the same name
        return
    names = {source.relative: source for source in sources}
    for source in sources:
        parent = os.path.dirname(source.relative)
        while parent:
            if parent in names:
                raise InvalidValueError(
                    f"{names[parent].name} and {source.name} need a file and a folder of the same "
                    "name as their outputs. Write to a store, or apply to them one by one.",
                    argument="output",
                )
            parent = os.path.dirname(parent)


def _identities(sources: Sequence[Source]) -> set[str]:
    return set(identities(where for s in sources if (where := s.location) is not None))


def _check_outside(target: Location, sources: Sequence[Source]) -> None:
    """Refuse a target in a folder that was listed: the next run would read it as an input."""
    inner = target.identity.rstrip("/") + "/"
    for root in sorted({source.root for source in sources if source.root is not None}):
        folder = locate(root)
        if inner.startswith(folder.identity.rstrip("/") + "/"):
            raise InvalidValueError(
                f"{target.label} is in the input folder {folder.label}, and the next run would "
                "read it as an input. Choose an output outside of that folder.",
                argument="output",
            )


def _check_replaceable(target: Location, identity: str, inputs: Collection[str]) -> None:
    """Refuse a target that is an input, or that exists and is not a file."""
    if identity in inputs:
        raise InvalidValueError(
            f"{target.label} is one of the inputs. Choose another output.", argument="output"
        )
    # A store may hold an object and a folder of the same name.
    if target.local is not None and target.exists() and not target.is_file():
        raise InvalidValueError(
            f"{target.label} exists and is not a regular file.", argument="output"
        )


def check_target(target: str, sources: Sequence[Source] = ()) -> None:
    """Refuse a file that a job cannot or must not write, before the job begins.

    Parameters
    ----------
    target : str
        Path or URL of the file. A local folder must exist.
    sources : sequence of Source
        Inputs, which must not be replaced.

    Raises
    ------
    InvalidValueError
        The target cannot or must not be written.
    StreamBNError
        The store of the target cannot be reached.
    OSError
        The target may not be written.
    """
    if target == PIPE:
        raise InvalidValueError(
            "statistics go to a file, not to standard output. Name one.", argument="output"
        )
    where = locate(target)
    where.check_store()
    _check_outside(where, sources)
    _check_replaceable(where, where.identity, _identities(sources))
    if where.local is not None and not os.path.isdir(os.path.dirname(where.identity)):
        folder = os.path.dirname(target)
        raise InvalidValueError(
            f"{where.label}: the folder {folder} does not exist.", argument="output"
        )
    where.check_writable()
