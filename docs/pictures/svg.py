"""SVG as text, and how wide a text can be: the reader's font is not known when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

SIZE = 10.5
"""Pixels of the text of axes and legends."""

# Thousandths of the size in DejaVu Sans, which is as wide as any usual sans-serif.
_WIDTHS = {
    **dict.fromkeys("ijl'", 278),
    **dict.fromkeys(" .,", 318),
    **dict.fromkeys("IJ", 295),
    **dict.fromkeys(":;/\\|-", 360),
    **dict.fromkeys("ftr()[]", 412),
    **dict.fromkeys('csz_*`"!?', 550),
    **dict.fromkeys("kvxyL", 592),
    **dict.fromkeys("AEFPSTYZVKBXaeo", 686),
    **dict.fromkeys("CDGHNOQRUw&=+<>~", 838),
    **dict.fromkeys("mMW%@…≤", 1000),
}
_OTHER = 640
_MONOSPACED = 602


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels from the picture's upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def inside(self, left: float, top: float, right: float, bottom: float) -> Box:
        """What is left of it without so much at each side."""
        return Box(
            self.x + left, self.y + top, self.width - left - right, self.height - top - bottom
        )


def width(text: str, size: float = SIZE, monospaced: bool = False, bold: bool = False) -> float:
    """Pixels that a text takes at most."""
    if monospaced:
        return len(text) * _MONOSPACED * size / 1000
    return sum(_WIDTHS.get(each, _OTHER) for each in text) * size / 1000 * (1.1 if bold else 1.0)


def shortened(text: str, room: float, size: float = SIZE) -> str:
    """As much of a text as there is room for."""
    # Room that was added up from the widths of texts may lack the last bit of a float.
    if width(text, size) <= room + 0.01:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


def wrapped(text: str, room: float, size: float = SIZE, monospaced: bool = False) -> list[str]:
    """Lines of a text, broken between words; a word longer than a line, within."""
    lines: list[str] = []
    line = ""
    for whole in text.split():
        word = whole
        longer = f"{line} {word}" if line else word
        if width(longer, size, monospaced) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        while width(word, size, monospaced) > room:
            fits = max(n for n in range(1, len(word)) if width(word[:n], size, monospaced) <= room)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def number(value: float) -> str:
    """A coordinate: to a tenth of a pixel."""
    found = f"{value:.1f}"
    return found.removesuffix(".0") if found != "-0.0" else "0"


def element(name: str, content: str = "", **attributes: float | str) -> str:
    """`class_` is `class`, and other underscores are hyphens. `content` is markup."""
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}="
        f"{quoteattr(value) if isinstance(value, str) else quoteattr(number(value))}"
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: float = SIZE,
    anchor: str = "start",
    class_: str = "",
) -> str:
    """One line, `y` its baseline; `anchor` is `start`, `middle` or `end` at `x`."""
    more = {"text_anchor": anchor} if anchor != "start" else {}
    more |= {"class_": class_} if class_ else {}
    return element("text", escape(content), x=x, y=y, font_size=size, **more)


def title(content: str) -> str:
    """What is said when the pointer rests on it, where the picture is opened by itself."""
    return element("title", escape(content))


def path(points: Sequence[tuple[float, float]], close: bool = False) -> str:
    """Commands of a line through these points."""
    joined = "L".join(f"{number(x)},{number(y)}" for x, y in points)
    return f"M{joined}{'z' if close else ''}"
