"""A panel without data: why there is none, and what it asks where it is not Prometheus."""

from __future__ import annotations

from docs.pictures import svg
from docs.pictures.panel import Panel
from docs.pictures.svg import Box

_LINE = 15.0
_MARGIN = 24.0
_CODE = 10.0


def draw(panel: Panel, box: Box) -> list[str]:
    """Markup in pixels of the picture."""
    reasons = " ".join(dict.fromkeys(reason for _, reason in panel.missing))
    words = [
        ("", "No data"),
        *(("muted", line) for line in svg.wrapped(reasons, box.width - 40, 12)),
    ]
    room = box.width - 2 * _MARGIN
    code = svg.wrapped(panel.asks, room, _CODE, monospaced=True)
    fits = int((box.height - len(words) * _LINE - 12) / 13)
    if len(code) > fits:
        code = [*code[: fits - 1], "…"]
    middle = box.x + box.width / 2
    y = box.y + (box.height - len(words) * _LINE - len(code) * 13) / 2 + 4
    found = []
    for class_, line in words:
        found.append(svg.text(middle, y, line, size=12, anchor="middle", class_=class_))
        y += _LINE
    y += 6
    for line in code:
        found.append(svg.text(box.x + _MARGIN, y, line, size=_CODE, class_="code"))
        y += 13
    return found
