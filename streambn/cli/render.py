"""What `show` prints: a table for people, and JSON or CSV for programs."""

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

# The columns of `stats()` for every policy, also before any data was seen.
_COLUMNS = ["column", "count", "nulls", "nans", "infs", "mean", "var", "std", "min", "max"]

# The characters that rich prints between two columns.
_GAP = 3

_Rows = list[dict[str, Any]]
_Loaded = sbn.Normalizer | sbn.FrozenNormalizer


def show(loaded: _Loaded, rows: _Rows, form: str, at: Any = None) -> None:
    """Print statistics on stdout.

    Parameters
    ----------
    loaded : Normalizer or FrozenNormalizer
    rows : list of dict
        The rows of ``loaded.stats(at)``.
    form : {"table", "json", "csv"}
        A table has six digits of each number, JSON and CSV have all.
    at : optional
        The time as of which weights are read.
    """
    if form == "json":
        json.dump(_document(loaded, rows, at), sys.stdout, indent=2, allow_nan=False)
        print()
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, [*_COLUMNS, *_extras(rows)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(loaded, rows, at)


def _extras(rows: _Rows) -> list[str]:
    """Return the names of statistics that only some policies have."""
    return [name for name in (rows[0] if rows else ()) if name not in _COLUMNS]


def _times(loaded: _Loaded, at: Any) -> tuple[float | str | None, float | str | None]:
    """Return the time of the newest row and the time as of which weights are read."""
    policy, state = loaded.policy, loaded.statistics.state
    if policy.event_time is None:
        return None, None
    instants = (
        None if state is None else policy.newest(state),
        None if at is None else parse_instant(at, policy.event_time),
    )
    newest, as_of = (x if x is None else format_instant(x, policy.event_time) for x in instants)
    return newest, as_of


def _row_count(rows: _Rows) -> int:
    """Return the number of rows of data; each row is in one of four counts of a feature."""
    kinds = ("count", "nulls", "nans", "infs")
    return max((sum(row[kind] or 0 for kind in kinds) for row in rows), default=0)


def _document(loaded: _Loaded, rows: _Rows, at: Any) -> dict[str, Any]:
    newest, as_of = _times(loaded, at)
    frozen = loaded if isinstance(loaded, sbn.FrozenNormalizer) else None
    return {
        "state": "live" if frozen is None else "frozen",
        "policy": loaded.policy.describe(),
        "weights": loaded.options.weights,
        "newest": newest,
        "at": as_of,
        "fingerprint": None if frozen is None else frozen.fingerprint,
        "rows": _row_count(rows),
        "columns": [{name: _jsonable(value) for name, value in row.items()} for row in rows],
    }


def _jsonable(value: Any) -> Any:
    """Spell NaN and infinities, which JSON lacks, as most parsers of floats read them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


# --- the table ------------------------------------------------------------------------


def _print_table(loaded: _Loaded, rows: _Rows, at: Any) -> None:
    # Column names are data: "emb[0]" is not markup.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1 << 16  # a pipe has no width
    plain = not console.encoding.lower().startswith("utf")
    mark = "!" if plain else "\N{WARNING SIGN}"
    remarks = _remarks(loaded, rows)
    with console.capture() as captured:
        for line in _heading(loaded, rows, at):
            console.print(line, soft_wrap=True)
        cells = _cells(rows, [remark and f"{mark} {remark}" for remark in remarks])
        for block in _blocks(cells, console.width):
            console.print()
            console.print(_table(block, console.width, plain=plain))
        if any(remarks):
            console.print(f"{mark} {_legend(loaded, remarks)}", style="yellow", soft_wrap=True)
    # rich would handle a broken pipe in its own way.
    sys.stdout.write(captured.get())


def _heading(loaded: _Loaded, rows: _Rows, at: Any) -> Iterator[str]:
    yield f"policy       {loaded.policy.describe()}"
    if loaded.options.weights is not None:
        yield f"weights      column {loaded.options.weights!r}"
    if isinstance(loaded, sbn.FrozenNormalizer):
        yield "state        frozen"
        yield f"fingerprint  {loaded.fingerprint}"
    else:
        yield "state        live, can go on learning"
    yield f"rows         {_row_count(rows):,}"
    for label, time in zip(("newest row", "as of"), _times(loaded, at), strict=True):
        if time is not None:
            yield f"{label:<12} {time}"


def _remarks(loaded: _Loaded, rows: _Rows) -> list[str]:
    """Return what to know about each feature before its statistics are applied."""
    if not rows:
        return []
    constant = loaded.standardizer.constant.tolist()
    return [
        "no values" if not row["count"] else "constant" if flat else ""
        for row, flat in zip(rows, constant, strict=True)
    ]


def _legend(loaded: _Loaded, remarks: list[str]) -> str:
    parts = []
    if "constant" in remarks:
        scale = loaded.standardizer.scale[remarks.index("constant")]
        parts.append(f"constant: its scale is {scale:.6g}")
    if "no values" in remarks:
        parts.append("no values: normalizes to null")
    return "; ".join(parts)


def _cells(rows: _Rows, remarks: list[str]) -> dict[str, list[str]]:
    """Return the columns of the table, from their headings to their cells."""
    # A kind of missing values that never occurred gets no column.
    rare = [kind for kind in ("nans", "infs") if any(row[kind] for row in rows)]
    cells = {"column": [row["column"] for row in rows]}
    for name in ("count", "nulls", *rare):
        cells[name] = [f"{row[name] or 0:,}" for row in rows]
    for name in ("mean", "var", "std", "min", "max", *_extras(rows)):
        cells[name] = ["-" if row[name] is None else f"{row[name]:,.6g}" for row in rows]
    if any(remarks):
        cells[""] = remarks
    return cells


def _width(heading: str, cells: list[str]) -> int:
    return max(map(cell_len, [heading, *cells]))


def _blocks(cells: dict[str, list[str]], width: int) -> list[dict[str, list[str]]]:
    """Divide a table that is too wide into blocks, each with the names of the features."""
    (heading, names), *others = cells.items()
    blocks = [{heading: names}]
    room = free = width - _width(heading, names)
    for other, column in others:
        needed = _GAP + _width(other, column)
        if needed > free and len(blocks[-1]) > 1:
            blocks.append({heading: names})
            free = room
        blocks[-1][other] = column
        free -= needed
    return blocks


def _table(cells: dict[str, list[str]], width: int, *, plain: bool) -> Table:
    """Lay out a block. Where even that is too wide, the names of features are cut off."""
    (heading, names), *others = cells.items()
    room = width - sum(_GAP + _width(*other) for other in others)
    overflow: Literal["crop", "ellipsis"] = "crop" if plain else "ellipsis"
    style = box.ASCII2 if plain else box.SIMPLE_HEAD
    table = Table(box=style, show_edge=False, pad_edge=False)
    table.add_column(heading, no_wrap=True, max_width=max(room, 1), overflow=overflow)
    for other, _ in others:
        if other:
            table.add_column(other, no_wrap=True, justify="right")
        else:  # the remarks
            table.add_column(no_wrap=True, style="yellow")
    for row in zip(names, *(column for _, column in others), strict=True):
        table.add_row(*row)
    return table
