"""Jobs that write normalized data: `apply_job`, and `normalize_job`, which fits first."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from streambn import kernels
from streambn._messages import escape_bytes
from streambn.errors import InvalidValueError
from streambn.io import PIPE, Encoding, Location, locate, lock, remove_leftovers
from streambn.jobs.checkpoint import Checkpoint
from streambn.jobs.executors import Executor, check_shareable
from streambn.jobs.fit import configure_process, run_fit, total_size
from streambn.jobs.inputs import needs_of
from streambn.jobs.manifest import NAME, Entry, Manifest
from streambn.jobs.operations import ApplyStatistics, Operation
from streambn.jobs.output_schema import check_types
from streambn.jobs.outputs import write_outputs
from streambn.jobs.plan import Output, Plan, ReadOptions
from streambn.jobs.progress import Display, Progress
from streambn.jobs.report import Report, Skipped
from streambn.jobs.share_outputs import Making, share_outputs, verify
from streambn.jobs.stamps import Learned, Stamps
from streambn.jobs.stream import write_stdout
from streambn.normalizer import Normalizer
from streambn.statistics import Statistics

__all__ = ["WriteOptions", "apply_job", "normalize_job"]


class WriteOptions(NamedTuple):
    """How a job writes its outputs."""

    encoding: Encoding = Encoding()  # of Parquet
    resume: bool = False  # keep outputs in the folder that an earlier run completed
    overwrite: bool = False  # replace outputs in the folder of other statistics or options
    fsync: bool = False  # wait for the disk before an output gets its name
    verify: bool = False  # compare outputs with a second computation, and remove those that differ


def apply_job(
    operation: Operation,
    plan: Plan,
    *,
    options: ReadOptions,
    write_options: WriteOptions,
    display: Display,
    executor: Executor | None = None,
) -> Report:
    """Write the outputs of a plan. Only an `ApplyStatistics` can be resumed or verified.

    The workers of an executor, if there is one, make the outputs, each of them one.

    Raises
    ------
    StreamBNError, OSError
        An input cannot be read or normalized, an output cannot be written or is wrong, or
        another job is writing it; or an executor cannot share the inputs or the output.
    """
    _check_shareable(plan, executor)
    options = options.for_new_job()
    if executor is None:
        configure_process(options.threads)
    with lock(*_manifests(plan)):
        if write_options.resume:
            remove_leftovers(*plan.files)
        return _apply(operation, plan, options, write_options, display, executor)


def normalize_job(
    initial: Statistics,
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    save: str | None = None,
    dtype: Any = None,
    options: ReadOptions,
    write_options: WriteOptions,
    display: Display,
    executor: Executor | None = None,
) -> Report:
    """Learn from the inputs of a plan, then normalize them into its outputs.

    Parameters
    ----------
    initial : Statistics
        Statistics to learn on from.
    plan : Plan
    checkpoint : Checkpoint
        It is removed when all outputs are complete.
    save : str, optional
        Path or URL of a file for the statistics.
    dtype : pyarrow.DataType, optional
        Type of the results, as in `Normalizer.transform`.
    options : ReadOptions
    write_options : WriteOptions
    display : Display
    executor : Executor, optional
        Its workers learn the inputs and make the outputs. Default: this process.

    Raises
    ------
    StreamBNError, OSError
        As for `fit_job` and `apply_job`; or an input cannot be read twice.
    """
    _check_shareable(plan, executor)
    options = options.for_new_job()
    locations = [] if checkpoint.location is None else [checkpoint.location]
    with lock(*locations, *_manifests(plan)):
        if checkpoint.resume:
            statistics_file = [] if save is None else [locate(save)]
            remove_leftovers(*locations, *statistics_file, *plan.files)
        if plan.folder is None and not options.skip_damaged:  # before the inputs are learned
            union = options.union or initial.options.schema == "union"
            check_types(plan.outputs[0], options._replace(union=union))
        with run_fit(initial, plan.sources, checkpoint, options, display, executor) as fit:
            normalizer = Normalizer.from_statistics(fit.state.statistics)
            operation = ApplyStatistics(normalizer.freeze(), dtype)
            stamps = fit.state.position.stamps
            learned = dict(zip((source.path for source in plan.sources), stamps, strict=True))
            report = _apply(operation, plan, options, write_options, display, executor, learned)
            if save is not None:
                normalizer.save(save)
        checkpoint.remove()
    return report


def _check_shareable(plan: Plan, executor: Executor | None) -> None:
    """Refuse a plan that workers cannot share."""
    if executor is None:
        return
    check_shareable(plan.sources)
    if plan.output == PIPE:
        raise InvalidValueError(
            "workers cannot write to standard output. Name a file or a folder.", argument="output"
        )


def _manifests(plan: Plan) -> list[Location]:
    """Return the manifest of a plan, which only one job may write at a time."""
    return [] if plan.folder is None else [plan.folder.child(NAME)]


def _apply(
    operation: Operation,
    plan: Plan,
    options: ReadOptions,
    write_options: WriteOptions,
    display: Display,
    executor: Executor | None = None,
    learned: Learned | None = None,
) -> Report:
    """Write the outputs; `learned` has the stamps that the sources had when they were learned."""
    if operation.statistics.options.schema == "union":
        options = options._replace(union=True)
    if isinstance(operation, ApplyStatistics) and executor is None:
        # Several threads normalize a block each, between reading and encoding it.
        kernels.set_threads(max(1, options.threads // 6))
    sources = plan.sources
    if plan.output == PIPE or not isinstance(operation, ApplyStatistics):
        # Neither what was written to a pipe nor what was learned can be taken back.
        for output in plan.outputs:
            needs = needs_of(output, operation)
            for source in output.sources:
                options.settle([source], needs.passthrough(source, options))
    progress = Progress("applying", len(sources), total_size(sources))
    with display(progress):
        if plan.output == PIPE:
            skipped = write_stdout(operation, plan.outputs[0], options, progress, learned)
            return Report.of(
                plan.output,
                operation.statistics,
                progress,
                skipped,
                kept_text=options.kept_text.values(),
            )
        manifest, complete = _begin(operation, plan, options, write_options, learned is not None)
        earlier = [
            s for output in plan.outputs if output.target in complete for s in output.sources
        ]
        rows = sum(entry.rows for entry in complete.values())
        progress.skip(len(earlier), total_size(earlier) or 0, rows)

        def write(output: Output) -> Any:
            return output.location.open_output(fsync=write_options.fsync)

        def record(output: Output, stamps: Stamps, skipped: Sequence[Skipped]) -> None:
            if manifest is not None:
                paths = [source.identity for source in output.sources]
                manifest.add(
                    output.sources[0].relative,
                    output.location,
                    list(zip(paths, stamps, strict=True)),
                    progress.in_file,
                    skipped,
                    fsync=write_options.fsync,
                )

        def on_complete(output: Output, stamps: Stamps, skipped: Sequence[Skipped]) -> None:
            if write_options.verify:
                verify(output, stamps, operation, options)
            record(output, stamps, skipped)

        rest = [output for output in plan.outputs if output.target not in complete]
        skipped = [part for entry in complete.values() for part in entry.skipped]
        encoding = write_options.encoding
        if executor is None:
            skipped += write_outputs(
                operation, rest, options, encoding, progress, write, on_complete, learned
            )
        else:
            fsync, verified = write_options.fsync, write_options.verify
            making = Making(operation, options, encoding, fsync, verified, learned)
            with contextlib.closing(share_outputs(executor, rest, making)) as made_outputs:
                for output, made in made_outputs:
                    sizes = [stamp.size for stamp in made.stamps or () if stamp is not None]
                    progress.start_file(output.sources[0].name, sum(sizes) if sizes else None)
                    progress.add(made.rows, made.size)
                    if made.stamps is not None:
                        record(output, made.stamps, made.skipped)
                    progress.end_file()
                    skipped += made.skipped
                    for kept in made.kept_text.values():
                        options.kept_text.setdefault(kept.column, kept)
    order = {escape_bytes(source.name): number for number, source in enumerate(sources)}
    skipped.sort(key=lambda part: order[part.file])
    return Report.of(
        plan.output,
        operation.statistics,
        progress,
        skipped,
        resumed=bool(complete),
        kept_text=options.kept_text.values(),
    )


def _begin(
    operation: Operation,
    plan: Plan,
    options: ReadOptions,
    write_options: WriteOptions,
    learned: bool,
) -> tuple[Manifest | None, dict[str, Entry]]:
    """Begin the manifest of a folder; return the entries of complete outputs by target."""
    folder = plan.folder
    complete: dict[str, Entry] = {}
    if folder is None:
        return None, complete
    if not isinstance(operation, ApplyStatistics):
        _check_no_manifest(folder.child(NAME), write_options)
        return None, complete
    encoding = write_options.encoding
    identity = [
        *options.identity,
        f"type {operation.dtype}",
        f"inverse {operation.inverse}",
        f"compression {encoding.compression}",
        f"rows of a row group {encoding.group_rows}",
    ]
    fingerprint = operation.frozen.fingerprint
    sources = plan.sources if learned else ()
    manifest = Manifest(
        folder, fingerprint, identity, overwrite=write_options.overwrite, learned=sources
    )
    for output in plan.outputs if write_options.resume else ():
        entry = manifest.find(output.sources[0].relative, output.location, output.sources)
        if entry is not None:
            complete[output.target] = entry
    manifest.begin(resume=write_options.resume)
    return manifest, complete


def _check_no_manifest(manifest: Location, write_options: WriteOptions) -> None:
    """Refuse to mix outputs of changing statistics with those of frozen ones."""
    if write_options.overwrite:
        manifest.remove()
    elif manifest.exists():
        raise InvalidValueError(
            f"{manifest.label}: this folder holds outputs of frozen statistics. Write to another "
            "folder, or overwrite them.",
            argument="overwrite",
        )
