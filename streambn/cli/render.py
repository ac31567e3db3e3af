"""What `show` prints: statistics, as a table for people and as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

import streambn as sbn
from streambn.arrow import format_instant, parse_instant

__all__ = ["show"]


# What stats() has of any policy, also where nothing was seen and there are none.
_COLUMNS = ["column", "count", "nulls", "nans", "infs", "mean", "var", "std", "min", "max"]


def show(
    loaded: sbn.Normalizer | sbn.FrozenNormalizer,
    lanes: list[dict[str, Any]],
    form: str,
    at: Any = None,
) -> None:
    """Print statistics on stdout.

    Parameters
    ----------
    loaded : Normalizer or FrozenNormalizer
    lanes : list of dict
        The rows of ``loaded.stats(at)``.
    form : {"table", "json", "csv"}
        For people, or for programs: then numbers are printed in full.
    at : optional
        For ``stats(at=...)``.
    """
    if form == "json":
        json.dump(_document(loaded, lanes, at), sys.stdout, indent=2, allow_nan=False)
        print()
    elif form == "csv":
        names = [*_COLUMNS, *_further(lanes)]
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lanes)
    else:
        _show_table(loaded, lanes, at)


def _further(lanes: list[dict[str, Any]]) -> list[str]:
    """Name the statistics that only some policies have."""
    return [name for name in (lanes[0] if lanes else ()) if name not in _COLUMNS]


def _document(loaded: Any, lanes: list[dict[str, Any]], at: Any) -> dict[str, Any]:
    frozen = isinstance(loaded, sbn.FrozenNormalizer)
    newest, as_of = _times(loaded, at)
    return {
        "state": "frozen" if frozen else "live",
        "policy": loaded.policy.describe(),
        "weights": loaded.options.weights,
        "newest": newest,
        "at": as_of,
        "fingerprint": loaded.fingerprint if frozen else None,
        "rows": _rows_seen(lanes),
        "columns": [{key: _jsonable(value) for key, value in lane.items()} for lane in lanes],
    }


def _times(loaded: Any, at: Any) -> tuple[float | str | None, float | str | None]:
    """Give the time of the newest row and that as of which weights are read, as far as known."""
    time, state = loaded.policy.event_time, loaded.statistics.state
    if time is None:
        return None, None
    pairs = [
        None if state is None else loaded.policy.newest(state),
        None if at is None else parse_instant(at, time),
    ]
    newest, as_of = (None if pair is None else format_instant(pair, time) for pair in pairs)
    return newest, as_of


def _jsonable(value: Any) -> Any:
    """Spell what JSON has no number for in the words that most parsers of floats read."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _rows_seen(lanes: list[dict[str, Any]]) -> int:
    """Count rows: each is in every lane a value, a null, a NaN or an infinity."""
    kinds = ("count", "nulls", "nans", "infs")
    return max((sum(lane[kind] or 0 for kind in kinds) for lane in lanes), default=0)


def _show_table(loaded: Any, lanes: list[dict[str, Any]], at: Any) -> None:
    # Column names are data: "emb[0]" is not markup.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1 << 16  # a pipe has no width
    plain = not console.encoding.lower().startswith("utf")
    with console.capture() as captured:
        for line in _heading(loaded, lanes, at):
            console.print(line, soft_wrap=True)
        for block in _blocks(_cells(lanes, _mark(plain)), console.width):
            console.print()
            console.print(_table(block, console.width, plain=plain))
        if any(map(_remark, lanes)):
            legend = "constant: its scale is 1; no values: normalizes to null"
            console.print(f"{_mark(plain)} {legend}", style="yellow")
    # Not printed by rich, which handles a broken pipe in its own way.
    sys.stdout.write(captured.get())


def _heading(loaded: Any, lanes: list[dict[str, Any]], at: Any) -> Iterator[str]:
    yield f"policy       {loaded.policy.describe()}"
    if loaded.options.weights is not None:
        yield f"weights      column {loaded.options.weights!r}"
    frozen = isinstance(loaded, sbn.FrozenNormalizer)
    yield f"state        {'frozen' if frozen else 'live, can go on learning'}"
    if frozen:
        yield f"fingerprint  {loaded.fingerprint}"
    yield f"rows         {_rows_seen(lanes):,}"
    for label, time in zip(("newest row", "as of"), _times(loaded, at), strict=True):
        if time is not None:
            yield f"{label:<12} {time}"


def _cells(lanes: list[dict[str, Any]], mark: str) -> dict[str, list[str]]:
    """Return the columns of the table, from headings to cells."""
    # A count of missing values that is zero everywhere does not get a column.
    rare = [kind for kind in ("nans", "infs") if any(lane[kind] for lane in lanes)]
    cells = {"column": [lane["column"] for lane in lanes]}
    for name in ("count", "nulls", *rare):
        cells[name] = [f"{lane[name] or 0:,}" for lane in lanes]
    for name in ("mean", "var", "std", "min", "max", *_further(lanes)):
        cells[name] = [_number(lane.get(name)) for lane in lanes]
    remarks = [_remark(lane) for lane in lanes]
    if any(remarks):
        cells[""] = [remark and f"{mark} {remark}" for remark in remarks]
    return cells


# What rich puts between two columns: a separator, and a space on each side of it.
_GAP = 3


def _blocks(cells: dict[str, list[str]], width: int) -> list[dict[str, list[str]]]:
    """Divide a table that is too wide into several, each with the names of the columns."""
    names, *others = cells.items()
    widths = {heading: max(map(cell_len, [heading, *column])) for heading, column in cells.items()}
    blocks, room = [dict([names])], width - widths["column"]
    for heading, column in others:
        needed = widths[heading] + _GAP
        if needed > room and len(blocks[-1]) > 1:
            blocks.append(dict([names]))
            room = width - widths["column"]
        blocks[-1][heading] = column
        room -= needed
    return blocks


def _table(cells: dict[str, list[str]], width: int, *, plain: bool) -> Table:
    """Lay out one block. Only the names of columns are shortened if it is still too wide."""
    values = [max(map(cell_len, [heading, *column])) + _GAP for heading, column in cells.items()]
    style = box.ASCII2 if plain else box.SIMPLE_HEAD
    table = Table(box=style, show_edge=False, pad_edge=False)
    room = max(width - sum(values[1:]), 1)
    overflow: Literal["crop", "ellipsis"] = "crop" if plain else "ellipsis"
    table.add_column("column", no_wrap=True, max_width=room, overflow=overflow)
    for heading in [*cells][1:]:
        remark = heading == ""
        table.add_column(
            heading,
            no_wrap=True,
            justify="left" if remark else "right",
            style="yellow" if remark else None,
        )
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table


def _mark(plain: bool) -> str:
    return "!" if plain else "\N{WARNING SIGN}"


def _remark(lane: dict[str, Any]) -> str:
    """Say what a user should know of a lane before trusting it."""
    if not lane["count"]:
        return "no values"
    mean, std = lane["mean"], lane["std"]
    if mean is None or std is None or not math.isfinite(mean):
        return ""
    # The rule for zero variance: no more than the rounding of the values themselves.
    return "constant" if std <= sys.float_info.epsilon * abs(mean) else ""


def _number(value: float | None) -> str:
    """Write six significant digits, thousands separated."""
    return "-" if value is None else f"{value:,.6g}"
