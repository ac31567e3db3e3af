"""Representations of a normalizer for consoles and notebooks."""

from __future__ import annotations

from streambn._lazy import lazy_module
from streambn._messages import display_name
from streambn.policies import format_arguments
from streambn.statistics import Statistics

html = lazy_module("html")

__all__ = ["as_html", "as_text"]

_MAX_ROWS = 8  # stats() shows all features


def as_text(name: str, statistics: Statistics) -> str:
    """Return one line about the normalizer and one about each of its first features."""
    arguments = [repr(statistics.policy), *format_arguments(statistics.options)]
    head = f"{name}({', '.join(arguments)})"
    if statistics.binding is None:
        return f"{head}, no data seen"
    count = len(statistics.features)
    origin = ", rounded from Exact()" if statistics.rounded else ""
    lines = [f"{head} of {count:,} {'feature' if count == 1 else 'features'}{origin}"]
    for row in statistics.stats().slice(0, _MAX_ROWS).to_pylist():
        facts = [f"n={row['count']:_}"]
        facts += [f"{key}={row[key]:_}" for key in ("nulls", "nans", "infs") if row[key]]
        # More digits for the mean, because those of 1e9 + 0.5 matter as well.
        formats = {"mean": ".12g", "std": ".7g"}
        facts += [f"{key}={row[key]:{f}}" for key, f in formats.items() if row[key] is not None]
        lines.append("  ".join([f"  {display_name(row['column'])}", *facts]))
    if count > _MAX_ROWS:
        lines.append(f"  … and {count - _MAX_ROWS:,} more")
    unknown = _unknown(statistics)
    lines += [f"  {unknown}"] if unknown else []
    return "\n".join(lines)


def as_html(name: str, statistics: Statistics) -> str:
    """Return the same as an HTML table."""
    head = f"<b>{name}</b>: {html.escape(statistics.policy.describe())}"
    if statistics.rounded:
        head += ", rounded from Exact()"
    if statistics.binding is None:
        return f"<p>{head}, no data seen</p>"
    table = statistics.stats().slice(0, _MAX_ROWS)
    rows, names = table.to_pylist(), table.column_names
    for row in rows:
        row["column"] = display_name(row["column"])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row[key]))}</td>" for key in names) + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{key}</th>" for key in names)
    more = len(statistics.features) - _MAX_ROWS
    tail = f"<p>… and {more:,} more features</p>" if more > 0 else ""
    unknown = _unknown(statistics)
    tail += f"<p>{unknown}</p>" if unknown else ""
    # Browsers would join several spaces, which the name of a column may have.
    shown = f'<table style="white-space: pre"><tr>{heads}</tr>{body}</table>'
    return f"<p>{head}</p>{shown}{tail}"


def _unknown(statistics: Statistics) -> str:
    """Return how many features have fewer values than ``min_count=``; "" if none has."""
    count = int((~statistics.known).sum()) if statistics.options.min_count else 0
    if not count:
        return ""
    they = "feature is not known yet: it" if count == 1 else "features are not known yet: each"
    return f"{count:,} {they} has fewer than min_count={statistics.options.min_count} values"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
