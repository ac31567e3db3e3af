"""Jobs that write data, as the commands run them: which outputs are done, and are they right.

How files are written is for `streambn.jobs.apply`; here that meets manifests and progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streambn import kernels
from streambn._lazy import lazy_module
from streambn.errors import InvalidValueError, StreamBNError
from streambn.io import Location
from streambn.io.sources import PIPE
from streambn.io.writers import Encoding
from streambn.jobs.apply import Stamps, apply_files
from streambn.jobs.inputs import ReadOptions
from streambn.jobs.job import Done, done, total_size
from streambn.jobs.manifest import NAME, Manifest, Outcome
from streambn.jobs.operations import ApplyStatistics, LearnAndApply
from streambn.jobs.plan import Output
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Skipped
from streambn.jobs.stream import write_stdout

verification = lazy_module("streambn.jobs.verify")

__all__ = ["Folder", "apply_job"]


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
    verify: bool = False,
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
    verify : bool
        Whether to compare each output with a second computation. One that differs is removed.
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
            if verify:
                assert isinstance(turns, ApplyStatistics)
                try:
                    verification.verify_output(output, turns, how)
                except StreamBNError:
                    output.location.remove()
                    raise
            if manifest is not None:
                relative = output.sources[0].relative
                inputs = [(s.path, stamp) for s, stamp in zip(output.sources, stamps, strict=True)]
                outcome = Outcome(counted.in_file, skipped)
                manifest.add(relative, output.location, outcome, inputs, durable=fsync)

        def write(output: Output) -> Any:
            return output.location.open_output(fsync=fsync)

        skipped = [entry for outcome in outcomes.values() for entry in outcome.skipped]
        skipped += apply_files(turns, todo, how, encoding, counted, write, finished)
    # Listed as by a run that was not interrupted: in the order of the inputs.
    order = {source.name: number for number, source in enumerate(sources)}
    skipped.sort(key=lambda entry: order[entry.file])
    return done(counted, len(sources), skipped, resumed=len(todo) < len(plan))


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
