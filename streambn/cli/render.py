"""What `show` prints: a table for people, also as Markdown, and JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import click
import numpy as np

import streambn as sbn
from streambn._messages import display_name, escape, listed, start_of
from streambn.arrow import format_instant, parse_instant
from streambn.cli.messages import MAX_LEFT_OUT, say
from streambn.cli.text_table import Cells, as_code, layout, markdown
from streambn.kernels.bitmaps import arrow_array
from streambn.policies import format_arguments
from streambn.snapshot import hyperparameters

__all__ = ["FORMS", "View", "show"]

# The columns of `stats()` for every policy, also before any data was seen.
_COLUMNS = ["column", "count", "nulls", "nans", "infs", "mean", "var", "std", "min", "max"]

_LITERALS = {
    *("policy", "options", "weights", "fingerprint", "metadata", "left out"),
}  # code in Markdown
# Characters of metadata that people see: one line of a wide terminal.
_MAX_METADATA = 120

_Loaded = sbn.Normalizer | sbn.FrozenNormalizer
_Row = dict[str, Any]


class View(NamedTuple):
    """What of a statistics file to print.

    Attributes
    ----------
    loaded : Normalizer or FrozenNormalizer
    chosen : sequence of int
        Indices of the features.
    at : object
        The time at which to read weights. None: the time of the newest row.
    limit : int or None
        Number of features that a table and Markdown show at most.
    """

    loaded: _Loaded
    chosen: Sequence[int]
    at: Any = None
    limit: int | None = None

    def rows(self) -> tuple[list[_Row], int]:
        """Return the statistics of the chosen features, and the number of rows of data."""
        if not self.loaded.features:
            return [], 0
        table = self.loaded.stats(self.at)
        tally = self.loaded.statistics.tally
        # Each row of data is in one of four counts of a feature.
        counts = tally.count + tally.nulls + tally.nans + tally.infs
        if len(self.chosen) < table.num_rows:
            table = table.take(arrow_array(np.array(self.chosen, np.int64)))
        return table.to_pylist(), int(counts.max())


def show(view: View, form: str) -> None:
    """Print a view on stdout, in one of `FORMS`."""
    FORMS[form](view)


# --- for programs ---------------------------------------------------------------------


def _print_json(view: View) -> None:
    print(json.dumps(_document(view), indent=2, allow_nan=False))


def _print_csv(view: View) -> None:
    rows, _ = view.rows()
    writer = csv.DictWriter(_Lines(), [*_COLUMNS, *_extras(rows)])
    writer.writeheader()
    writer.writerows(rows)


class _Lines:
    """A file on stdout whose lines end in a line feed alone.

    Python quotes the characters of the line terminator only, and before 3.13 no other line break.
    A name may have both, so the writer must end its lines in both.
    """

    def write(self, line: str) -> None:
        line = line.removesuffix("\r\n")
        if sys.stdout.isatty():  # which would obey the control characters of a name
            line = "\n".join(map(escape, line.split("\n")))
        sys.stdout.write(f"{line}\n")


def _document(view: View) -> dict[str, Any]:
    loaded = view.loaded
    rows, count = view.rows()
    policy, options = loaded.policy, loaded.options
    newest, as_of = _times(loaded, view.at)
    frozen = loaded if isinstance(loaded, sbn.FrozenNormalizer) else None
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    if options.affine is not None:
        given["affine"] = dict(options.affine)
    return {
        "state": "live" if frozen is None else "frozen",
        "policy": hyperparameters(policy) | {"description": policy.describe()},
        "options": given,
        "newest": newest,
        "at": as_of,
        "fingerprint": None if frozen is None else frozen.fingerprint,
        "metadata": loaded.metadata,
        "rows": count,
        "left_out": [column._asdict() for column in loaded.statistics.left_out],
        "columns": [
            {name: _jsonable(value) for name, value in {**row, **more}.items()}
            for row, more in zip(rows, _maps(view), strict=True)
        ],
    }


def _maps(view: View) -> Iterator[_Row]:
    """Yield how each feature is normalized: divided by its scale, times gamma, plus beta."""
    if not view.chosen:
        return
    chosen = np.array(view.chosen, np.int64)
    standardizer = view.loaded.standardizer
    parameters = standardizer.parameters
    ones = np.ones(len(standardizer.scale))
    found = {
        "scale": standardizer.scale,
        "constant": standardizer.constant,
        "gamma": ones if parameters.gamma is None else parameters.gamma,
        "beta": 0.0 * ones if parameters.beta is None else parameters.beta,
    }
    rows = zip(*(values[chosen].tolist() for values in found.values()), strict=True)
    for row, known in zip(rows, parameters.known[chosen].tolist(), strict=True):
        yield dict(zip(found, row, strict=True)) | ({} if known else {"scale": None})


def _jsonable(value: Any) -> Any:
    """Spell NaN and infinities, which JSON lacks, as most parsers of floats read them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


# --- for people -----------------------------------------------------------------------


def _print_table(view: View) -> None:
    terminal = sys.stdout.isatty()
    # A pipe has no width.
    width = shutil.get_terminal_size().columns if terminal or "COLUMNS" in os.environ else None
    page = _Page.of(view)
    lines = [f"{label:<12} {value}" for label, value in page.heading]
    lines += layout(page.cells, width, plain=not _is_unicode())
    lines += [click.style(line, fg="yellow") for line in page.legend]
    if page.more:
        lines += ["", page.more]
    text = "\n".join(lines)
    if terminal and sys.stdin.isatty() and len(lines) >= shutil.get_terminal_size().lines:
        click.echo_via_pager(text, color=_color())
    else:
        _print_text(text, page.more)


def _print_markdown(view: View) -> None:
    page = _Page.of(view)
    lines = [
        f"- {label}: {as_code(value) if label in _LITERALS else value}"
        for label, value in page.heading
    ]
    lines += ["", *markdown(page.cells)]
    for line in (*page.legend, page.more):
        lines += ["", line] if line else []
    _print_text("\n".join(lines), page.more)


def _print_text(text: str, more: str) -> None:
    click.echo(text, color=_color())
    if more and not sys.stdout.isatty():
        say(more)  # the reader of a pipe may be grep


FORMS = {
    "table": _print_table,
    "markdown": _print_markdown,
    "json": _print_json,
    "csv": _print_csv,
}


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"


def _is_unicode() -> bool:
    return _encoding().lower().startswith("utf")


def _name(name: str) -> str:
    """Return the name of a feature in the characters that stdout has."""
    shown = display_name(name)
    try:
        shown.encode(_encoding())
    except UnicodeEncodeError:
        return ascii(name)
    return shown


def _color() -> bool | None:
    """Return whether to print colors; None: on a terminal."""
    return False if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" else None


class _Page(NamedTuple):
    """What people read, before it is laid out."""

    heading: list[tuple[str, str]]
    cells: Cells
    legend: list[str]
    more: str  # about the features that are not shown

    @classmethod
    def of(cls, view: View) -> _Page:
        mark = "\N{WARNING SIGN}" if _is_unicode() else "!"
        chosen = view.chosen[: view.limit]
        rows, count = view._replace(chosen=chosen).rows()
        remarks = _remarks(view)
        shown = remarks[: len(chosen)]
        return cls(
            # A policy of the user's own may describe itself in any characters.
            [(label, escape(value)) for label, value in _heading(view, count)],
            _cells(rows, [remark and f"{mark} {remark}" for remark in shown]),
            [f"{mark} {line}" for line in _legend(view, shown)],
            _more(remarks[len(chosen) :]),
        )


def _heading(view: View, rows: int) -> Iterator[tuple[str, str]]:
    loaded = view.loaded
    yield "policy", loaded.policy.describe()
    # Sample weights have a line of their own.
    options = [text for text in format_arguments(loaded.options) if not text.startswith("weights=")]
    if options:
        yield "options", ", ".join(options)
    if loaded.options.weights is not None:
        yield "weights", f"column {loaded.options.weights!r}"
    if isinstance(loaded, sbn.FrozenNormalizer):
        yield "state", "frozen"
        yield "fingerprint", loaded.fingerprint
    else:
        yield "state", "live, can go on learning"
    if loaded.metadata:
        yield "metadata", start_of(json.dumps(loaded.metadata, ensure_ascii=False), _MAX_METADATA)
    yield "rows", f"{rows:,}"
    for label, time in zip(("newest row", "as of"), _times(loaded, view.at), strict=True):
        if time is not None:
            yield label, str(time)
    left_out = loaded.statistics.left_out
    if left_out:
        yield "left out", listed(map(str, left_out), MAX_LEFT_OUT)


def _times(loaded: _Loaded, at: Any) -> tuple[float | str | None, float | str | None]:
    """Return the time of the newest row, and the time at which weights are read."""
    policy, state = loaded.policy, loaded.statistics.state
    if policy.event_time is None:
        return None, None
    instants = (
        None if state is None else policy.newest(state),
        None if at is None else parse_instant(at, policy.event_time),
    )
    newest, as_of = (x if x is None else format_instant(x, policy.event_time) for x in instants)
    return newest, as_of


def _remarks(view: View) -> list[str]:
    """Return what to know about each chosen feature before its statistics are applied."""
    if not view.chosen:
        return []
    chosen = list(view.chosen)
    statistics = view.loaded.statistics
    constant = view.loaded.standardizer.constant[chosen].tolist()
    counts, known = statistics.tally.count[chosen].tolist(), statistics.known[chosen].tolist()
    least = statistics.options.min_count
    return [
        _remark(count, flat, least > 0 and not is_known)
        for count, flat, is_known in zip(counts, constant, known, strict=True)
    ]


def _remark(count: int, constant: bool, unknown: bool) -> str:
    if not count:
        return "no values"
    return "few values" if unknown else "constant" if constant else ""


def _legend(view: View, remarks: list[str]) -> list[str]:
    parts = []
    if "constant" in remarks:
        scale = view.loaded.standardizer.scale[view.chosen[remarks.index("constant")]]
        parts.append(f"constant: its scale is {scale:.6g}")
    if "few values" in remarks:
        least = view.loaded.options.min_count
        parts.append(f"few values: normalizes to null until there are {least:,}")
    if "no values" in remarks:
        parts.append("no values: normalizes to null")
    return ["; ".join(parts)] if parts else []


def _more(remarks: list[str]) -> str:
    """Return a line about the features that are not shown, given their remarks."""
    if not remarks:
        return ""
    counts = Counter(remarks)
    odd = {
        "constant": "constant",
        "few values": "with too few values",
        "no values": "without values",
    }
    facts = "".join(f", {counts[x]:,} of them {word}" for x, word in odd.items() if counts[x])
    noun = "feature" if len(remarks) == 1 else "features"
    return (
        f"{len(remarks):,} more {noun}{facts}: see all with --all, some with "
        "--columns 'NAME,PATTERN*'."
    )


def _extras(rows: list[_Row]) -> list[str]:
    """Return the names of statistics that only some policies and options have."""
    return [name for name in (rows[0] if rows else ()) if name not in _COLUMNS]


def _cells(rows: list[_Row], remarks: list[str]) -> Cells:
    """Return the columns of the table, from their headings to their cells."""
    # A kind of missing values that never occurred gets no column.
    rare = [kind for kind in ("nans", "infs") if any(row[kind] for row in rows)]
    cells = {"column": [_name(row["column"]) for row in rows]}
    for name in ("count", "nulls", *rare):
        cells[name] = [f"{row[name] or 0:,}" for row in rows]
    # A remark tells which features are not known yet.
    extras = [name for name in _extras(rows) if name != "known"]
    for name in ("mean", "var", "std", "min", "max", *extras):
        cells[name] = ["-" if row[name] is None else f"{row[name]:,.6g}" for row in rows]
    if any(remarks):
        cells[""] = remarks
    return cells
