"""How a normalizer shows itself in a console and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streambn.policies import format_arguments
from streambn.statistics import Statistics

__all__ = ["as_html", "as_text"]

_SHOWN = 8  # lanes; a representation is a glance, stats() is the whole


def as_text(kind: str, fitted: Statistics) -> str:
    """Return a line on the normalizer and one on each of its first lanes."""
    head = f"{kind}({', '.join([repr(fitted.policy), *format_arguments(fitted.options)])})"
    if fitted.binding is None:
        return f"{head}, nothing seen yet"
    features = len(fitted.features)
    lines = [f"{head} of {features:,} {'feature' if features == 1 else 'features'}"]
    for row in _rows(fitted):
        facts = [f"n={row['count']:_}"]
        facts += [f"{name}={row[name]:_}" for name in ("nulls", "nans", "infs") if row[name]]
        digits = {"mean": ".12g", "std": ".7g"}  # of a mean at 1e9 one wants the last ones too
        facts += [f"{k}={row[k]:{f}}" for k, f in digits.items() if row[k] is not None]
        lines.append("  ".join([f"  {row['column']}", *facts]))
    if features > _SHOWN:
        lines.append(f"  … and {features - _SHOWN:,} more")
    return "\n".join(lines)


def as_html(kind: str, fitted: Statistics) -> str:
    """Return the same as an HTML table."""
    import html  # noqa: PLC0415 - only for notebooks

    head = f"<b>{kind}</b>: {html.escape(fitted.policy.describe())}"
    if fitted.binding is None:
        return f"<p>{head}, nothing seen yet</p>"
    rows = list(_rows(fitted))
    names = list(rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row[name]))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{name}</th>" for name in names)
    more = len(fitted.features) - _SHOWN
    tail = f"<p>… and {more:,} more features</p>" if more > 0 else ""
    return f"<p>{head}</p><table><tr>{heads}</tr>{body}</table>{tail}"


def _rows(fitted: Statistics) -> Iterator[dict[str, Any]]:
    yield from fitted.stats().slice(0, _SHOWN).to_pylist()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.7g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
