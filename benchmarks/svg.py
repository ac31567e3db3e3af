"""Pieces of SVG pictures that read well on white and on black."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

# Mid-tones, on no background.
INK, FAINT = "#6e7781", "#6e778150"


def document(width: int, height: int, title: str, lines: Iterable[str]) -> str:
    """Return a picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{INK}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *lines, "</svg>"]) + "\n"


def text(x: float, y: float, content: str, attributes: str = "") -> str:
    """Return a text at a point."""
    space = " " if attributes else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{space}{attributes}>{escape(content)}</text>'


def rule(path: str, colour: str = FAINT) -> str:
    """Return a thin line along a path."""
    return f'<path d="{path}" stroke="{colour}" stroke-width="0.6"/>'
