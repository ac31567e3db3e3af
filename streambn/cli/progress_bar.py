"""A progress bar on a terminal, drawn by rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich import progress as rich
from rich.console import Console
from rich.table import Column
from rich.text import Text

from streambn._messages import escape
from streambn.cli.messages import plural
from streambn.jobs import Progress

__all__ = ["progress_bar"]


class _FileName(rich.ProgressColumn):
    """The name of the current file, as much of it as the other columns leave room for."""

    def render(self, task: rich.Task) -> Text:
        return Text(task.fields["name"], no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def progress_bar(progress: Progress, clock: Callable[[], float]) -> Iterator[None]:
    """Show a bar on stderr while the block runs, and remove it at the end."""
    fixed = Column(no_wrap=True)
    bar = rich.Progress(
        rich.TextColumn("{task.description}", table_column=fixed),
        rich.BarColumn(20),
        rich.TextColumn("{task.fields[files]}", table_column=fixed),
        rich.TimeRemainingColumn(table_column=fixed),
        rich.TransferSpeedColumn(table_column=fixed),
        rich.TextColumn("{task.fields[rows]}", table_column=fixed),
        _FileName(),
        console=Console(stderr=True),
        get_time=clock,
        transient=True,
        redirect_stdout=False,  # stdout may be a pipe that carries the output
        redirect_stderr=False,
    )

    def fields() -> dict[str, Any]:
        return {
            "files": f"{progress.files_done:,} of {plural(progress.files, 'file')}",
            "rows": plural(progress.rows, "row"),
            "name": escape(progress.name or ""),
        }

    task = bar.add_task(progress.verb, total=progress.total_bytes, **fields())
    skipped = progress.skipped

    def update(_: Progress) -> None:
        nonlocal skipped
        if progress.skipped != skipped:  # what an earlier run did is not part of the speed
            skipped = progress.skipped
            bar.reset(task, total=progress.total_bytes, completed=int(skipped.bytes))
        bar.update(task, completed=progress.bytes, **fields())

    progress.on_change = update
    try:
        with bar:
            yield
    finally:
        progress.on_change = None
