"""Bar charts in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

BAR, GAP, LEFT, WIDTH = 22, 8, 190, 860


def bars(rows: Sequence[tuple[str, float, str]], accent: str, *, line: float | None = None) -> str:
    """A bar chart: names, lengths, and what stands beside them. ``line``: a length that is marked."""
    longest = max((value for _, value, _ in rows), default=1)
    scale = (WIDTH - LEFT - 260) / longest
    height = len(rows) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (name, value, told) in enumerate(rows):
        top = GAP + number * (BAR + GAP)
        color = "#d1495b" if name == accent else "#30638e"
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 16}" text-anchor="end" fill="#222222">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{max(value * scale, 1):.1f}" height="{BAR}" fill="{color}"/>',
            f'<text x="{LEFT + value * scale + 8:.1f}" y="{top + 16}" fill="#222222">{escape(told)}</text>',
        ]
    if line is not None:
        at = LEFT + line * scale
        parts.append(
            f'<line x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{height}" stroke="#d1495b" stroke-dasharray="4 3"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
