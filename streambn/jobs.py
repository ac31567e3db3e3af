"""File jobs as the commands run them: safe to stop, and told of while they run.

How files are learned from and written is for `streambn.filefit` and `streambn.fileapply`;
here these meet checkpoints, manifests and progress.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from streambn import checkpoints
from streambn.checkpoints import Interval, Keeper, Place, Reached
from streambn.errors import InvalidValueError, NotFittedError, StreamBNError
from streambn.fileapply import Stamps, apply_files
from streambn.filefit import Learn, fit_files
from streambn.files import PIPE, Source, open_reader, open_source
from streambn.fitted import Fitted
from streambn.formats import Format
from streambn.inputs import Reading
from streambn.locations import Location, writing
from streambn.manifests import Manifest
from streambn.outputs import Output
from streambn.progress import Progress, Skipped, progress
from streambn.streaming import keys_of, write_stdout
from streambn.turning import Learning, Turning
from streambn.writing import Encoding

__all__ = [
    "Done",
    "Folder",
    "Showing",
    "apply_job",
    "check_resumable",
    "fit_job",
    "kept",
    "use_threads",
    "verified",
]


class Showing(NamedTuple):
    """How progress is shown: see `streambn.progress.progress`."""

    form: str
    quiet: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that outputs go to, each under its input's relative path.

    Attributes
    ----------
    location : Location
    options : list of str
        What the outputs depend on, besides the statistics.
    resume : bool
        Whether those that are done are left as they are.
    overwrite : bool
        Whether those of other statistics or options may be replaced.
    """

    location: Location
    options: list[str]
    resume: bool = False
    overwrite: bool = False


class Done(NamedTuple):
    """What a job did: counts, and what was left out."""

    rows: int
    bytes: int
    seconds: float
    files: int
    skipped: Sequence[Skipped]
    resumed: bool


def use_threads(count: int) -> None:
    """Let Arrow and the kernels use so many threads."""
    import pyarrow as pa  # noqa: PLC0415

    from streambn import kernels  # noqa: PLC0415

    pa.set_cpu_count(count)
    kernels.set_threads(count)


@contextlib.contextmanager
def kept(
    location: Location | None,
    sources: Sequence[Source],
    begun: Fitted,
    options: Sequence[str],
    interval: Interval,
    *,
    resume: bool,
) -> Iterator[tuple[Reached, Keeper]]:
    """Keep a checkpoint while a job runs that begins with a fit.

    Parameters
    ----------
    location : Location or None
        Of the checkpoint. None: there is none.
    sources : sequence of Source
        What is fitted.
    begun : Fitted
        What the fit begins with.
    options : sequence of str
        What else its result depends on.
    interval : Interval
    resume : bool
        Whether to go on from a checkpoint that is there.

    Yields
    ------
    (Reached, Keeper)
        Where to begin, and whom to tell what was reached.
    """
    reached = None
    if resume and location is not None:
        reached = checkpoints.read(location, sources, begun, options)
    with checkpoints.keeping(location, sources, begun, options, interval) as keeper:
        yield reached or Reached(begun, Place()), keeper


def fit_job(
    start: Reached,
    sources: Sequence[Source],
    names: Sequence[str] | None,
    how: Reading,
    showing: Showing,
    keeper: Keeper,
    learn: Learn = Fitted.learned,
) -> tuple[Reached, Done]:
    """Learn from files, from where an earlier run was stopped if it was.

    Raises
    ------
    NotFittedError
        All that there was had to be skipped.
    """
    with progress("fitting", len(sources), _total(sources), **showing._asdict()) as counted:
        end = fit_files(start, sources, names, how, counted, keeper.reach, learn)
    keeper.reach(end)
    if end.place.skipped and end.fitted.binding is None:
        raise NotFittedError("nothing is left to learn: all inputs were skipped")
    resumed = start.place.rows > 0
    return end, _done(counted, len(sources), end.place.skipped, resumed=resumed)


def apply_job(
    turns: Turning | Learning,
    plan: Sequence[Output],
    how: Reading,
    encoding: Encoding,
    showing: Showing,
    *,
    folder: Folder | None = None,
    fsync: bool = False,
    check: Callable[[Output], None] | None = None,
) -> Done:
    """Write the outputs of a plan.

    Parameters
    ----------
    turns : Turning or Learning
        What is done to the inputs.
    plan : sequence of Output
    how : Reading
    encoding : Encoding
    showing : Showing
    folder : Folder, optional
        Into which the outputs go; None: it is one output, a file or standard output.
    fsync : bool
        Whether to wait for the disk before an output gets its name.
    check : callable, optional
        Raises if an output is not what it should be, which is then removed.
    """
    sources = [source for output in plan for source in output.sources]
    with progress("applying", len(sources), _total(sources), **showing._asdict()) as counted:
        if plan[0].target == PIPE:
            skipped = write_stdout(turns, plan[0], how, counted)
            return _done(counted, len(sources), skipped, resumed=False)
        manifest = None
        todo = list(plan)
        if folder is not None and isinstance(turns, Turning):
            manifest, rows = _begun(folder, turns.frozen.fingerprint, plan)
            todo = [output for output in plan if output.target not in rows]
            earlier = [s for output in plan if output.target in rows for s in output.sources]
            counted.skip_done(len(earlier), _total(earlier) or 0, sum(rows.values()))

        def finished(output: Output, size: int, stamps: Stamps) -> None:
            if check is not None:
                try:
                    check(output)
                except StreamBNError:
                    output.location.remove()
                    raise
            if manifest is not None:
                relative = output.sources[0].relative
                inputs = [(s.path, stamp) for s, stamp in zip(output.sources, stamps, strict=True)]
                manifest.add(relative, size, counted.in_file, inputs, durable=fsync)

        def write(output: Output) -> Any:
            return writing(output.location, fsync=fsync)

        skipped = apply_files(turns, todo, how, encoding, counted, write, finished)
    return _done(counted, len(sources), skipped, resumed=len(todo) < len(plan))


def verified(turning: Turning, how: Reading) -> Callable[[Output], None]:
    """Give what reads an output back, and compares it with its inputs: see `verify`."""
    from streambn.verify import text_types, verify  # noqa: PLC0415  (only if it is asked for)

    def check(output: Output) -> None:
        def batches(source: Source) -> Iterator[Any]:
            keys = keys_of(output, source, turning)
            yield from open_reader(source, keys=keys, csv_types=how.csv_types)

        inputs = itertools.chain.from_iterable(map(batches, output.sources))
        text = output.format is Format.CSV
        types = {}
        if text:
            first = open_source(output.sources[0], csv_types=how.csv_types)
            types = text_types(turning.frozen, first.schema)
        written = open_reader(Source(output.target), csv_types=types)
        verify(
            turning.frozen,
            inputs,
            written,
            name=output.target,
            inverse=turning.inverse,
            dtype=turning.dtype,
            text=text,
        )

    return check


def _begun(
    folder: Folder, fingerprint: str, plan: Sequence[Output]
) -> tuple[Manifest, dict[str, int]]:
    """Begin or go on with a folder: its manifest, and the rows of the outputs that are done."""
    manifest = Manifest(folder.location, fingerprint, folder.options, fresh=folder.overwrite)
    done: dict[str, int] = {}
    for output in plan if folder.resume else ():
        rows = manifest.rows(output.sources[0].relative, output.location, output.sources)
        if rows is None:
            output.location.remove_leftovers()
        else:
            done[output.target] = rows
    manifest.begin(resume=folder.resume)
    return manifest, done


def _done(counted: Progress, files: int, skipped: Sequence[Skipped], *, resumed: bool) -> Done:
    return Done(counted.rows, counted.bytes, counted.seconds, files, skipped, resumed)


def _total(sources: Sequence[Source]) -> int | None:
    """Add up the sizes of files; None: one is a pipe, or far away, where asking takes long."""
    if any(source.distant or not source.rereadable for source in sources):
        return None
    with contextlib.suppress(OSError):
        return sum(source.stamp().size for source in sources)
    return None


def check_resumable(sources: Sequence[Source]) -> None:
    """Refuse to go on with a job that reads a pipe among other inputs."""
    pipes = [source.name for source in sources if not source.rereadable]
    if pipes and len(sources) > 1:
        raise InvalidValueError(
            f"--resume: {pipes[0]} cannot be read again, so that nobody knows what of it is in the "
            "statistics: give it as the only input"
        )
