"""The command: measure, print, and write what is to be kept."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import plot, report
from benchmarks.bars import judged
from benchmarks.filejobs import FILE_JOBS, FileJob, FilesMeasured, measured_files
from benchmarks.measure import Measured, available, measured
from benchmarks.peers import PEERS, one_thread
from benchmarks.workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
README, RESULTS, PICTURE = HERE.parent / "README.md", HERE / "results.json", HERE / "throughput.svg"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status: 1 if a bar is missed, or cannot be tried."""
    options = _parser().parse_args(arguments)
    readme = README.read_text()
    if not options.only and not options.no_readme:
        # To fail now rather than minutes later.
        report.replaced(readme, "")
    one_thread()
    for peer in PEERS:
        if peer.module is None:
            print(f"{peer.name} is left out: it is not installed (pip install {peer.package})")

    chosen = [w for w in WORKLOADS if not options.only or w.name in options.only]
    able = [w for w in chosen if any(peer.name == "streambn" for peer in available(w))]
    for workload in chosen:
        if workload not in able:
            print(f"{workload.title} is left out: it is work inside of what is not installed")
    jobs = [j for j in FILE_JOBS if not options.only or j.name in options.only]
    measurements, files = _measured(able, jobs, options.rounds)
    verdicts = judged([*measurements, *files])
    tables = [report.table(measurements)] * bool(measurements)
    tables += [report.file_table(files)] * bool(files)
    print(*tables, report.verdict_table(verdicts), sep="\n\n")

    if not options.only:
        results = report.as_json(measurements, files, verdicts, options.rounds)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        plot.draw(measurements, PICTURE)
        if not options.no_readme:
            part = report.readme_part(measurements, files, options.rounds)
            README.write_text(report.replaced(readme, part))
    return 0 if able == chosen and all(verdict.holds for verdict in verdicts) else 1


def _parser() -> argparse.ArgumentParser:
    names = [each.name for each in (*WORKLOADS, *FILE_JOBS)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure streambn and its peers; write results.json, throughput.svg and the "
        "README's table; exit with 1 if streambn is slower than it has to be.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"measure and print these, write nothing: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=_positive, default=21, help="default: %(default)s")
    parser.add_argument("--no-readme", action="store_true", help="leave the README as it is")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _measured(
    chosen: Sequence[Workload], jobs: Sequence[FileJob], rounds: int
) -> tuple[list[Measured], list[FilesMeasured]]:
    """Measure one after the other, and show on a terminal how far it is."""
    console = Console(stderr=True)
    bar = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        auto_refresh=False,  # a thread that draws would take time from what is measured
    )
    found, files = [], []
    with bar:
        total = len(chosen) * rounds + sum(min(job.rounds, rounds) for job in jobs)
        task = bar.add_task("", total=total)

        def after_round() -> None:
            bar.update(task, advance=1, refresh=True)

        for workload in chosen:
            bar.update(task, description=workload.title, refresh=True)
            found.append(measured(workload, rounds, after_round))
            gc.collect()  # the next one's data takes its place in memory
        for job in jobs:
            bar.update(task, description=job.title, refresh=True)
            files.append(measured_files(job, rounds, after_round))
    return found, files
