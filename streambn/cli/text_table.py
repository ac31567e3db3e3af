"""Tables of text: for a terminal of any width, and in Markdown.

A table is given by its columns: the first holds names, the one without a heading holds remarks,
and all others hold numbers. rich's tables look alike, but take half a millisecond a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click
from rich.cells import cell_len, set_cell_size

__all__ = ["Cells", "as_code", "layout", "markdown"]

Cells = dict[str, list[str]]  # from the heading of a column to its cells

_GAP = 3  # the spaces between two columns


def layout(cells: Cells, width: int | None, *, plain: bool) -> Iterator[str]:
    """Yield the lines of a table, with styles for a terminal.

    Parameters
    ----------
    cells : dict of str to list of str
    width : int or None
        A wider table is divided into blocks, each with the names. Where even that is too wide,
        names are cut off. None: any width is fine.
    plain : bool
        Whether to draw in ASCII.
    """
    for block in _blocks(cells, width):
        yield ""
        yield from _lines(block, width, plain=plain)


def _width(heading: str, cells: list[str]) -> int:
    return max(map(cell_len, [heading, *cells]))


def _blocks(cells: Cells, width: int | None) -> Iterator[Cells]:
    if width is None:
        yield cells
        return
    (heading, names), *others = cells.items()
    block = {heading: names}
    room = free = width - _width(heading, names)
    for other, column in others:
        needed = _GAP + _width(other, column)
        if needed > free and len(block) > 1:
            yield block
            block, free = {heading: names}, room
        block[other] = column
        free -= needed
    yield block


def _lines(cells: Cells, width: int | None, *, plain: bool) -> Iterator[str]:
    (heading, names), *others = cells.items()
    widths = [_width(*other) for other in others]
    room = _width(heading, names)
    if width is not None:
        room = max(min(room, width - sum(_GAP + w for w in widths)), 1)
    gap = " " * _GAP
    heads = [other.rjust(w) for (other, _), w in zip(others, widths, strict=True)]
    yield click.style(gap.join([_cut(heading, room, plain), *heads]).rstrip(), bold=True)
    yield ("-" if plain else "─") * (room + sum(_GAP + w for w in widths))
    remarks = [other == "" for other, _ in others]
    for name, *row in zip(names, *(column for _, column in others), strict=True):
        line = [_cut(name, room, plain)]
        for cell, w, remark in zip(row, widths, remarks, strict=True):
            line.append(click.style(cell, fg="yellow") if remark and cell else cell.rjust(w))
        yield gap.join(line).rstrip()


def _cut(name: str, room: int, plain: bool) -> str:
    """Cut off or fill up a name to a width."""
    if cell_len(name) <= room or plain:
        return set_cell_size(name, room)
    return f"{set_cell_size(name, room - 1)}…"


def markdown(cells: Cells) -> Iterator[str]:
    """Yield the lines of a table in GitHub's Markdown, aligned for readers of its text."""
    (heading, names), *others = cells.items()
    columns = [(heading, list(map(as_code, names))), *others]
    widths = [max(_width(*column), 3) for column in columns]
    numbers = [i > 0 and bool(name) for i, (name, _) in enumerate(columns)]

    def line(row: Iterable[str]) -> str:
        cells = [
            cell.rjust(width) if number else set_cell_size(cell, width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        return f"| {' | '.join(cells)} |"

    yield line(name for name, _ in columns)
    yield line("-" * (w - n) + ":" * n for w, n in zip(widths, numbers, strict=True))
    yield from map(line, zip(*(cells for _, cells in columns), strict=True))


def as_code(text: str) -> str:
    """Return text as code in Markdown, in which nothing is markup."""
    if not set(text) & set("`|"):
        return f"`{text}`"
    # No parser takes a character reference for markup, not even for the end of a cell.
    escaped = (c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
    return f"<code>{''.join(escaped)}</code>"
