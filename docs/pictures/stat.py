"""A single figure, in the colour of the limit that it has passed."""

from __future__ import annotations

from docs.pictures import svg
from docs.pictures.panel import Panel
from docs.pictures.svg import Box
from docs.pictures.units import worded
from vllm_codesign.model.errors import CodesignError

_SIZE = 30.0


def draw(panel: Panel, box: Box) -> list[str]:
    """Markup in pixels of the picture. Raises CodesignError for several figures."""
    if len(panel.lines) != 1:
        raise CodesignError(
            f"{panel.title}: no picture of {len(panel.lines)} figures in one panel; sum them in "
            "its query, or teach docs/pictures/stat.py"
        )
    value = panel.lines[0].numbers[-1]
    words = worded(value, panel.unit)
    size = min(_SIZE, _SIZE * 0.9 * box.width / svg.width(words, _SIZE, bold=True))
    x, y = box.x + box.width / 2, box.y + box.height / 2 + size * 0.3
    colour = f"{colour_of(panel, value)} bold"
    return [svg.text(x, y, words, size=size, anchor="middle", class_=colour)]


def colour_of(panel: Panel, value: float) -> str:
    """Of the highest limit that the value reaches."""
    passed = [limit.colour for limit in panel.limits if value >= limit.value]
    return passed[-1] if passed else panel.base
