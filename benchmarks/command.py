"""The command line: measure, print, and write the documentation."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import distributed, measure, online, plot, report
from benchmarks.bars import judge
from benchmarks.filejobs import FILE_JOBS, measure_file_job
from benchmarks.peers import PEERS, limit_threads
from benchmarks.workloads import WORKLOADS


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Run the command line, and return 1 if a bar is missed.

    `root` is the checkout whose documentation is written. By default, it is that of this file, or
    none with ``--only`` or ``--quick``.
    """
    options = _parse(arguments)
    if root is None and not options.only and not options.quick:
        root = Path(__file__).parents[1]
    if options.distributed:
        return distributed.main(root, quick=options.quick)
    if options.online:
        limit_threads(1)
        return online.main(root, rounds=options.rounds, quick=options.quick)
    if root is not None:  # fail now rather than after the measurements
        report.split(root / "README.md")
        report.split(root / "benchmarks/README.md")
    for peer in PEERS:
        if peer.module is None:
            print(f"{peer.name} is missing and not measured: pip install {peer.package}")
    workloads = [w for w in WORKLOADS if not options.only or w.name in options.only]
    jobs = [j for j in FILE_JOBS if not options.only or j.name in options.only]
    if options.quick:
        workloads, jobs = [w.quick() for w in workloads], [j.quick() for j in jobs]
    rounds = 1 if options.quick else options.rounds

    limit_threads(1)
    in_memory, on_files = [], []
    for workload in workloads:
        print(workload.title, file=sys.stderr)
        in_memory.append(measure.measure_workload(workload, rounds))
        gc.collect()
    for job in jobs:
        print(job.title, file=sys.stderr)
        on_files.append(measure_file_job(job, rounds))
    verdicts = judge([*in_memory, *on_files])
    if in_memory:
        print(report.workload_table(in_memory), end="\n\n")
    if on_files:
        print(report.job_table(on_files), end="\n\n")
    print(report.verdict_table(verdicts))

    if root is not None:
        (root / "benchmarks/throughput.svg").write_text(plot.picture(in_memory))
        report.insert(root / "README.md", report.summary([*in_memory, *on_files]))
        tables = report.full(in_memory, on_files, verdicts, rounds)
        report.insert(root / "benchmarks/README.md", tables)
    return 0 if options.quick or all(verdict.holds for verdict in verdicts) else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = [each.name for each in (*WORKLOADS, *FILE_JOBS)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure streambn and its peers, and write throughput.svg and the tables of "
        "README.md and benchmarks/README.md. Exit with 1 if a bar of benchmarks/bars.py is missed.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"measure and print a part, write nothing: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=21, help="default: %(default)s")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check that everything runs: one round on little data, write nothing",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="measure states, Spark and Ray instead, and write their part of benchmarks/README.md",
    )
    parser.add_argument(
        "--online",
        action="store_true",
        help="measure loops of small batches instead, and write their part of benchmarks/README.md",
    )
    return parser.parse_args(arguments)
