"""The benchmark's result as a picture: bars of the ratio to a direct connection, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from srcip_e2e.bench.figures import BASELINE, Cell

PANELS = (
    ("connect", "new connections/s"),
    ("request", "requests/s, open connections"),
    ("up", "bulk to the application"),
    ("down", "bulk from the application"),
    ("http-request", "inbound HTTP, requests/s"),
    ("http-connect", "inbound HTTP, new connections/s"),
    ("out-request", "outbound HTTP, requests/s"),
    ("out-connect", "outbound HTTP, new connections/s"),
)
"""Two of a row have the same variants: only the first one names them."""
WIDTH, LEFT, BAR, GAP, HEAD, FOOT = 720, 148, 15, 5, 30, 30
COLUMN_GAP = 34
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600 } .value { font-size: 11px } .note { fill: #656d76; font-size: 11px }
    .bar { fill: #9aa4ae } .ours { fill: #1f7a8c } .axis { stroke: #8c959f; stroke-dasharray: 3 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .note { fill: #8d96a0 }
      .bar { fill: #58616b } .ours { fill: #3fb6c9 } .axis { stroke: #6e7681 }
    }"""


def svg(cells: Mapping[str, Mapping[str, Cell]], note: str) -> str:
    """One panel per figure, two in a row; a bar per variant, a dashed line where a direct connection is."""
    panels = [(title, cells[name]) for name, title in PANELS if name in cells]
    bars = max((len(_shown(panel)) for _, panel in panels), default=0)
    height = HEAD + bars * (BAR + GAP) + 16
    parts = []
    for number, (title, panel) in enumerate(panels):
        left = LEFT if number % 2 == 0 else LEFT + _span() + COLUMN_GAP
        parts += _panel(left, 8 + number // 2 * height, title, panel, labels=number % 2 == 0)
    total = 8 + (len(panels) + 1) // 2 * height + FOOT
    parts.append(f'<text class="note" x="8" y="{total - 12}">{escape(note)}</text>')
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" width="{WIDTH}" height="{total}" '
        f'role="img" aria-label="Ratio to a direct connection">\n  <style>{STYLE}\n  </style>\n  {body}\n</svg>\n'
    )


def _span() -> int:
    """Pixels of one panel; a full bar, ratio 1, leaves room for its number."""
    return (WIDTH - LEFT - COLUMN_GAP - 8) // 2


def _shown(panel: Mapping[str, Cell]) -> Sequence[str]:
    return [name for name in panel if name != BASELINE]


def _panel(left: int, top: int, title: str, panel: Mapping[str, Cell], *, labels: bool) -> list[str]:
    scale = _span() - 36
    names = _shown(panel)
    bottom = top + HEAD + len(names) * (BAR + GAP)
    parts = [f'<text class="title" x="{left}" y="{top + 12}">{escape(title)}</text>']
    parts.append(f'<line class="axis" x1="{left + scale}" x2="{left + scale}" y1="{top + 20}" y2="{bottom}"/>')
    for number, name in enumerate(names):
        y = top + HEAD + number * (BAR + GAP)
        share = min(max(panel[name].ratio, 0.0), 1.1)
        kind = "bar ours" if name.startswith(("srcip", "untrusted")) else "bar"
        width = round(share * scale, 1)
        if labels:
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{width}" height="{BAR}" rx="2"/>')
        parts.append(f'<text class="value" x="{left + width + 4}" y="{y + 12}">{panel[name].ratio:.2f}</text>')
    return parts
