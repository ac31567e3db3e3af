"""Folders of files: fitted and normalized on Spark, without a DataFrame.

The tasks of Spark read and write the files themselves, through `streambn.jobs`. No value passes
through the JVM: it sees descriptions of pieces, and states.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pyspark.sql import SparkSession

import streambn as sbn
from streambn.io import CsvOptions, Encoding, Source, locate, lock, remove_leftovers, scan
from streambn.jobs import (
    ApplyStatistics,
    Checkpoint,
    Interval,
    Progress,
    ReadOptions,
    Report,
    Skipped,
    WriteOptions,
    apply_job,
    make_plan,
    run_fit,
)

from .._parts import check_frozen, check_normalizer
from .executor import SparkExecutor

__all__ = ["apply_dataset", "fit_dataset"]

_log = logging.getLogger("streambn")
# As the shell's default.
_INTERVAL = Interval(30.0, None)


def fit_dataset(
    spark: SparkSession,
    uri: str | Sequence[str],
    normalizer: sbn.Normalizer,
    *,
    csv: Mapping[str, Any] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    checkpoint: str | None = None,
    resume: bool = False,
) -> sbn.Normalizer:
    """Learn the statistics of files, as ``streambn fit`` does, in tasks of Spark.

    The tasks read Parquet row groups, record batches of Arrow files, and whole files of other
    formats. The driver merges what they learned in the order of the files.

    Parameters
    ----------
    spark : SparkSession
        Of Spark or of Spark Connect.
    uri : str or sequence of str
        Files, folders and globs, as paths or URLs. The driver and all workers must see them by
        the same names.
    normalizer : Normalizer
        Policy, options and columns. If it has seen data, the statistics go on from there. It
        stays as it is.
    csv : mapping, optional
        How to read CSV: ``delimiter``, ``decimal``, ``thousands``, ``null_values``, ``header``,
        ``skip_lines``, ``encoding``, and ``types``, from columns to Arrow types.
    on_error : {"stop", "skip"}
        What to do about damaged input. "skip" leaves out the smallest part that it can, and logs
        it as a warning.
    checkpoint : str, optional
        Path or URL of a file that keeps the statistics so far while the job runs. It is removed
        at the end. Default: none.
    resume : bool
        Whether to go on from the checkpoint, if there is one. A fit of the same inputs in the
        shell or on Spark may have written it.

    Returns
    -------
    Normalizer
        A new one, with the bits that ``streambn fit`` gives. An `EMA` by row whose rows lack
        values, or with ``adjust=False``, agrees with it to rounding.

    Raises
    ------
    SchemaError
        A column is missing or not numeric.
    NotFittedError
        There is no row, or all inputs were skipped.
    InvalidValueError
        An argument is invalid; `BatchEMA` has `batch_rows`; a value is refused; the session is
        stopped, or the Python of the workers lacks streambn.
    StreamBNError, OSError
        An input cannot be read.
    """
    check_normalizer(normalizer)
    executor = SparkExecutor(spark)
    options = _read_options(csv, on_error).for_new_job()
    sources = _scan(uri, options)
    place = None if checkpoint is None else locate(checkpoint)
    saved = Checkpoint(place, _INTERVAL, resume)
    files = [] if place is None else [place]
    with lock(*files):
        if resume:
            remove_leftovers(*files)
        with run_fit(normalizer.statistics, sources, saved, options, _unseen, executor) as fit:
            learned = sbn.Normalizer.from_statistics(fit.state.statistics)
        saved.remove()
    _warn(fit.state.position.skipped)
    return learned


def apply_dataset(
    spark: SparkSession,
    uri: str | Sequence[str],
    frozen: sbn.FrozenNormalizer,
    out: str,
    *,
    dtype: Any = None,
    inverse: bool = False,
    union: bool = False,
    csv: Mapping[str, Any] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    compression: str | None = None,
    row_group_rows: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fsync: bool = False,
    verify: bool = False,
) -> Report:
    """Normalize files into files, as ``streambn apply`` does, in tasks of Spark.

    A task makes an output whole, with the bytes that ``streambn apply`` writes. A folder of many
    files becomes a folder of as many, and keeps the cluster busy; a single output is the work of
    a single task.

    Parameters
    ----------
    spark : SparkSession
        Of Spark or of Spark Connect.
    uri : str or sequence of str
        See `fit_dataset`.
    frozen : FrozenNormalizer
    out : str
        A folder or a file, as a path or a URL. The driver and all workers must see it by the same
        name.
    dtype : data type, optional
        Type of the results: float32 or float64. Default: float32 stays float32, everything else
        becomes float64.
    inverse : bool
        Whether to map normalized values back to the original ones.
    union : bool
        Whether inputs of a single output may lack columns, which are null there.
    csv, on_error
        See `fit_dataset`.
    compression : str, optional
        Compression of Parquet. Default: as in the input.
    row_group_rows : int, optional
        Rows in a Parquet row group. Default: as in the input.
    resume : bool
        Whether to keep the outputs in the folder that an earlier run of the same job completed,
        in the shell or on Spark.
    overwrite : bool
        Whether to replace outputs in the folder that other statistics or options made.
    fsync : bool
        Whether to wait for the disk before an output gets its name.
    verify : bool
        Whether to compare each output with a second computation, and to remove one that differs.

    Returns
    -------
    Report
        With the numbers of rows and files, and the parts of inputs that were left out.

    Raises
    ------
    SchemaError
        A column is missing or not numeric.
    InvalidValueError
        An argument is invalid, the folder holds outputs of other statistics, or the session is
        stopped.
    StreamBNError, OSError
        An input cannot be read, or an output cannot be written.
    """
    check_frozen(frozen)
    executor = SparkExecutor(spark)
    options = _read_options(csv, on_error)._replace(union=union)
    sources = _scan(uri, options)
    report = apply_job(
        ApplyStatistics(frozen, dtype, inverse),
        make_plan(sources, out, skip_damaged=options.skip_damaged),
        options=options,
        write_options=WriteOptions(
            Encoding(compression, row_group_rows), resume, overwrite, fsync, verify
        ),
        display=_unseen,
        executor=executor,
    )
    _warn(report.skipped)
    return report


def _read_options(csv: Mapping[str, Any] | None, on_error: str) -> ReadOptions:
    if on_error not in ("stop", "skip"):
        raise sbn.InvalidValueError(
            f"on_error must be 'stop' or 'skip', got {on_error!r}.", argument="on_error"
        )
    known = CsvOptions._fields
    for name in csv or ():
        if name not in known:
            raise sbn.InvalidValueError(
                f"csv has no option {name!r}; the options are {', '.join(known)}.", argument="csv"
            )
    return ReadOptions(CsvOptions(**(csv or {})).check(), skip_damaged=on_error == "skip")


def _scan(uri: str | Sequence[str], options: ReadOptions) -> list[Source]:
    unusable: list[Skipped] = []

    def skip(error: sbn.StreamBNError) -> None:
        unusable.append(Skipped.of(error.source or "", "", error))

    inputs = [uri] if isinstance(uri, str) else list(uri)
    sources = scan(inputs, skip if options.skip_damaged else None)
    _warn(unusable)
    return sources


def _warn(skipped: Sequence[Skipped]) -> None:
    for file, where, why in skipped:
        _log.warning("skipped %s%s: %s", file, where and f", {where}", why)


def _unseen(progress: Progress) -> contextlib.AbstractContextManager[None]:
    del progress
    return contextlib.nullcontext()
