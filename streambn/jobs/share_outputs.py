"""Outputs made by the workers of an executor, each as a job without workers makes it.

A worker makes an output whole: it appears under its name in one step, and a worker that makes it
once more replaces it by the same bytes. The job records the outputs in their order.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from streambn._lazy import lazy_module
from streambn.errors import StreamBNError
from streambn.io import Encoding, KeptText, remove_leftovers
from streambn.jobs.executors import Executor, group, map_in_order, share_bytes
from streambn.jobs.operations import ApplyStatistics, Operation
from streambn.jobs.outputs import write_outputs
from streambn.jobs.plan import Output, ReadOptions
from streambn.jobs.progress import Progress
from streambn.jobs.report import Skipped
from streambn.jobs.stamps import Learned, Stamps, read_stamps

# Most jobs do not verify, and the reference kernels take time to import.
verification = lazy_module("streambn.jobs.verify")

__all__ = ["MadeOutput", "Making", "share_outputs", "verify"]


class Making(NamedTuple):
    """How outputs are made.

    Attributes
    ----------
    operation : Operation
    options : ReadOptions
    encoding : Encoding
        Of Parquet.
    fsync : bool
        Whether to wait for the disk before an output gets its name.
    verify : bool
        Whether to compare each output with a second computation.
    learned : mapping or None
        See `write_outputs`.
    """

    operation: Operation
    options: ReadOptions
    encoding: Encoding
    fsync: bool
    verify: bool
    learned: Learned | None


class MadeOutput(NamedTuple):
    """An output that a worker made, or why it did not.

    Attributes
    ----------
    stamps : tuple of Stamp or None
        Of its sources, from before they were read; None: all of them were skipped, and there is no
        output.
    rows, size : int
        Input that was read.
    skipped : sequence of Skipped
    kept_text : mapping of str to KeptText
    error : Exception or None
    """

    stamps: Stamps | None = None
    rows: int = 0
    size: int = 0
    skipped: Sequence[Skipped] = ()
    kept_text: Mapping[str, KeptText] = {}
    error: StreamBNError | OSError | None = None


def share_outputs(
    executor: Executor, outputs: Sequence[Output], making: Making
) -> Generator[tuple[Output, MadeOutput], None, None]:
    """Let an executor make outputs, and yield them in order.

    Raises
    ------
    StreamBNError, OSError
        An output cannot be made, or this machine does not see it. Temporary files of outputs in
        progress are removed.
    """
    sources = [source for output in outputs for source in output.sources]
    stamps = zip(sources, read_stamps(sources), strict=True)
    sizes = {source.path: 0 if stamp is None else stamp.size for source, stamp in stamps}
    costs = [sum(sizes[source.path] for source in output.sources) for output in outputs]
    shares = group(zip(outputs, costs, strict=True), share_bytes(sum(costs)))
    make = functools.partial(_make_share, making)
    try:
        with contextlib.closing(map_in_order(executor, make, shares)) as made_shares:
            for share, results in made_shares:
                for output, made in zip(share, results, strict=False):
                    _check(output, made)
                    yield output, made
    except BaseException:
        remove_leftovers(*(output.location for output in outputs))
        raise


def _check(output: Output, made: MadeOutput) -> None:
    """Raise the error of a worker, which names the reason if it may lie in the worker."""
    error = made.error
    if isinstance(error, FileNotFoundError | PermissionError):
        reason = error.strerror or str(error)
        where = "" if error.filename is None else f"{error.filename}: "
        raise StreamBNError(
            f"a worker cannot make it: {where}{reason}. Inputs and outputs need the same paths on "
            "this machine and on all workers, and the same permissions.",
            source=output.name,
        )
    if error is not None:
        raise error
    if made.stamps is not None and not output.location.exists():
        raise StreamBNError(
            "a worker wrote it, and this machine does not find it. Write to a folder that this "
            "machine and all workers see by the same path.",
            source=output.name,
        )


def _make_share(making: Making, outputs: Sequence[Output]) -> list[MadeOutput]:
    """Make outputs on a worker, up to the first one that cannot be made."""
    results: list[MadeOutput] = []
    for output in outputs:
        results.append(_make(making, output))
        if results[-1].error is not None:
            break
    return results


def _make(making: Making, output: Output) -> MadeOutput:
    options = making.options._replace(
        threads=1,  # an executor has as many workers as there are cores
        settled={**making.options.settled},
        settled_passed={**making.options.settled_passed},
        kept_text={},
    )
    progress = Progress("applying", len(output.sources))
    complete: list[Stamps] = []

    def on_complete(output: Output, stamps: Stamps, skipped: Sequence[Skipped]) -> None:
        del skipped
        if making.verify:
            verify(output, stamps, making.operation, options)
        complete.append(stamps)

    try:
        skipped = write_outputs(
            making.operation,
            [output],
            options,
            making.encoding,
            progress,
            lambda output: output.location.open_output(fsync=making.fsync),
            on_complete,
            making.learned,
        )
    except (StreamBNError, OSError) as error:
        return MadeOutput(error=error)
    stamps = complete[0] if complete else None
    return MadeOutput(stamps, progress.rows, progress.bytes, skipped, options.kept_text)


def verify(output: Output, stamps: Stamps, operation: Operation, options: ReadOptions) -> None:
    """Compare an output with a second computation, and remove it if it differs.

    Raises
    ------
    StreamBNError
        It differs.
    """
    if not isinstance(operation, ApplyStatistics):
        return
    try:
        verification.verify_output(output, operation, options)
    except StreamBNError:
        output.location.remove()
        for source, stamp in zip(output.sources, stamps, strict=True):
            source.check_unchanged(stamp)  # or the output would take the blame
        raise
