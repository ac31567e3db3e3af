"""Jobs that write data, as the commands run them: which outputs are done, and are they right.

How files are written is for `streambn.jobs.apply`; here that meets manifests and progress.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streambn import kernels
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io.formats import Format
from streambn.io.locations import Location, writing
from streambn.io.sources import PIPE, Source, open_reader, open_source
from streambn.io.writers import Encoding
from streambn.jobs.apply import Stamps, apply_files
from streambn.jobs.inputs import ReadOptions
from streambn.jobs.job import Done, done, total_size
from streambn.jobs.manifest import NAME, Manifest, Outcome
from streambn.jobs.operations import ApplyStatistics, LearnAndApply
from streambn.jobs.plan import Output
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Skipped
from streambn.jobs.stream import keys_of, write_stdout

__all__ = ["Folder", "apply_job", "verified"]


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


def apply_job(
    turns: ApplyStatistics | LearnAndApply,
    plan: Sequence[Output],
    how: ReadOptions,
    encoding: Encoding,
    display: Display,
    *,
    folder: Folder | None = None,
    fsync: bool = False,
    check: Callable[[Output], None] | None = None,
) -> Done:
    """Write the outputs of a plan.

    Parameters
    ----------
    turns : ApplyStatistics or LearnAndApply
        What is done to the inputs.
    plan : sequence of Output
    how : ReadOptions
    encoding : Encoding
    display : Display
    folder : Folder, optional
        Into which the outputs go; None: it is one output, a file or standard output.
    fsync : bool
        Whether to wait for the disk before an output gets its name.
    check : callable, optional
        Raises if an output is not what it should be, which is then removed.
    """
    sources = [source for output in plan for source in output.sources]
    if isinstance(turns, ApplyStatistics):
        # As many threads turn a block each, between reading and encoding it.
        kernels.set_threads(max(1, how.threads // 6))
    counted = Progress("applying", len(sources), total_size(sources))
    with display(counted):
        if plan[0].target == PIPE:
            skipped = write_stdout(turns, plan[0], how, counted)
            return done(counted, len(sources), skipped, resumed=False)
        manifest = None
        todo = list(plan)
        outcomes: dict[str, Outcome] = {}
        if folder is not None and isinstance(turns, LearnAndApply):
            _check_no_manifest(folder)
        elif folder is not None and isinstance(turns, ApplyStatistics):
            manifest, outcomes = _begun(folder, turns.frozen.fingerprint, plan)
            todo = [output for output in plan if output.target not in outcomes]
            earlier = [s for output in plan if output.target in outcomes for s in output.sources]
            rows = sum(outcome.rows for outcome in outcomes.values())
            counted.skip_done(len(earlier), total_size(earlier) or 0, rows)

        def finished(output: Output, stamps: Stamps, skipped: Sequence[Skipped]) -> None:
            if check is not None:
                try:
                    check(output)
                except StreamBNError:
                    output.location.remove()
                    raise
            if manifest is not None:
                relative = output.sources[0].relative
                inputs = [(s.path, stamp) for s, stamp in zip(output.sources, stamps, strict=True)]
                outcome = Outcome(counted.in_file, skipped)
                manifest.add(relative, output.location, outcome, inputs, durable=fsync)

        def write(output: Output) -> Any:
            return writing(output.location, fsync=fsync)

        skipped = [entry for outcome in outcomes.values() for entry in outcome.skipped]
        skipped += apply_files(turns, todo, how, encoding, counted, write, finished)
    # Listed as by a run that was not interrupted: in the order of the inputs.
    order = {source.name: number for number, source in enumerate(sources)}
    skipped.sort(key=lambda entry: order[entry.file])
    return done(counted, len(sources), skipped, resumed=len(todo) < len(plan))


def verified(turning: ApplyStatistics, how: ReadOptions) -> Callable[[Output], None]:
    """Give what reads an output back, and compares it with its inputs: see `verify`."""
    from streambn.jobs.verify import text_types, verify  # noqa: PLC0415  (only if it is asked for)

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


def _check_no_manifest(folder: Folder) -> None:
    """Refuse to mix outputs of statistics that change with those that a manifest speaks of."""
    manifest = folder.location.child(NAME)
    if folder.overwrite:
        manifest.remove()
    elif manifest.exists():
        raise InvalidValueError(
            f"{manifest.text}: this folder holds outputs of frozen statistics, which are not mixed "
            "with others: write to another folder, or begin anew with --overwrite"
        )


def _begun(
    folder: Folder, fingerprint: str, plan: Sequence[Output]
) -> tuple[Manifest, dict[str, Outcome]]:
    """Begin or go on with a folder: its manifest, and what came of the outputs that are done."""
    manifest = Manifest(folder.location, fingerprint, folder.options, fresh=folder.overwrite)
    outcomes: dict[str, Outcome] = {}
    for output in plan if folder.resume else ():
        outcome = manifest.done(output.sources[0].relative, output.location, output.sources)
        if outcome is not None:
            outcomes[output.target] = outcome
    manifest.begin(resume=folder.resume)
    return manifest, outcomes
