"""A panel's legend: a table of names and of what was calculated of each series, and notes below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from docs.pictures import svg
from docs.pictures.colours import series_class
from docs.pictures.panel import Line
from docs.pictures.svg import Box
from docs.pictures.units import worded

ROW = 13.0
_SWATCH = 13.0
_GAP = 9.0
_CALCULATED: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "max": max,
    "min": min,
    "lastNotNull": lambda numbers: numbers[-1],
}
"""By Grafana's names; a name that is not here is a KeyError, and a column of it can be added."""


@dataclass(frozen=True)
class Note:
    """A line below the table; `marker` is the class of a dash before it, or `dot` for a diamond."""

    text: str
    marker: str = ""


@dataclass(frozen=True)
class Legend:
    """The lines of a panel, ready to be laid out: their positions decide their colours."""

    lines: tuple[Line, ...]
    calculations: tuple[str, ...]
    notes: tuple[Note, ...]

    def cells(self, line: Line) -> list[str]:
        """What stands in its row."""
        name = f"{line.name} (right)" if line.right else line.name
        numbers = line.numbers
        return [name, *(worded(_CALCULATED[c](numbers), line.unit) for c in self.calculations)]

    def widths(self) -> list[float]:
        """Pixels of each column of cells."""
        rows = [["", *self.calculations], *(self.cells(line) for line in self.lines)]
        return [max(map(svg.width, column)) for column in zip(*rows, strict=True)]

    def width(self) -> float:
        """Pixels of the table as one column of series."""
        return _SWATCH + sum(self.widths()) + _GAP * len(self.calculations)

    def notes_width(self) -> float:
        """Pixels of the longest note, unwrapped."""
        return max((_SWATCH + svg.width(note.text) for note in self.notes), default=0.0)

    def height(self, width: float, most: int) -> float:
        """Pixels of table and notes if each column of series has `most` rows at most."""
        columns = self.columns(width)
        rows = min(most, math.ceil(len(self.lines) / columns))
        return (rows + 1 + len(self._notes(width))) * ROW

    def columns(self, width: float) -> int:
        """How many series stand side by side."""
        return max(1, min(len(self.lines), int((width + 2 * _GAP) / (self.width() + 2 * _GAP))))

    def draw(self, box: Box) -> list[str]:
        """Where not all fit, the largest are there, and how many are not."""
        notes = self._notes(box.width)
        rows = max(1, int(box.height / ROW) - len(notes) - 1)
        columns = self.columns(box.width)
        if columns * rows >= len(self.lines):
            # Side by side only where one column does not hold them, or all in one row less.
            columns = min(columns, math.ceil(len(self.lines) / rows))
            rows = math.ceil(len(self.lines) / columns)
            shown, left_out = [*enumerate(self.lines)], 0
        else:
            by_size = sorted(enumerate(self.lines), key=lambda each: -max(each[1].numbers))
            kept = by_size[: columns * rows - 1]
            shown, left_out = sorted(kept, key=lambda each: each[0]), len(self.lines) - len(kept)
            most = max(max(line.numbers) for _, line in by_size[len(kept) :])
        found = []
        room = min(self.width(), box.width)
        pitch = room + 2 * _GAP
        for column in range(columns):
            part = shown[column * rows : (column + 1) * rows]
            if part:
                found += self._column(part, Box(box.x + column * pitch, box.y, room, box.height))
        y = box.y + ROW * (rows + 1)
        if left_out:
            unit = self.lines[0].unit
            last = box.x + (columns - 1) * pitch + _SWATCH
            words = f"and {left_out} more, {worded(most, unit)} at most"
            words = svg.shortened(words, box.right - last)
            found.append(svg.text(last, y - 3, words, class_="muted"))
        return found + self._drawn(notes, box.x, y)

    def _column(self, part: Sequence[tuple[int, Line]], box: Box) -> list[str]:
        name, *rest = self.widths()
        name = min(name, box.width - _SWATCH - sum(rest) - _GAP * len(rest))
        begin = box.x + _SWATCH + name
        right = [begin + sum(w + _GAP for w in rest[: n + 1]) for n in range(len(rest))]
        y = box.y + ROW - 3
        found = [
            svg.text(x, y, head, anchor="end", class_="muted")
            for x, head in zip(right, self.calculations, strict=True)
        ]
        for index, line in part:
            y += ROW
            first, *others = self.cells(line)
            dash = svg.path([(box.x, y - 4), (box.x + 9, y - 4)])
            found.append(svg.element("path", d=dash, class_=f"swatch {series_class(index)}"))
            found.append(svg.text(box.x + _SWATCH, y, svg.shortened(first, name)))
            found += [
                svg.text(x, y, cell, anchor="end") for x, cell in zip(right, others, strict=True)
            ]
        return found

    def _notes(self, width: float) -> list[Note]:
        return [
            Note(line, note.marker if first else "")
            for note in self.notes
            for first, line in _numbered(svg.wrapped(note.text, width - _SWATCH + 0.01))
        ]

    @staticmethod
    def _drawn(notes: Sequence[Note], x: float, y: float) -> list[str]:
        found = []
        for note in notes:
            y += ROW
            middle = y - 7
            if note.marker == "dot":
                found.append(diamond(x + 4.5, middle))
            elif note.marker:
                dash = svg.path([(x, middle), (x + 10, middle)])
                found.append(svg.element("path", d=dash, class_=f"limit {note.marker}"))
            found.append(svg.text(x + _SWATCH, y - 3, note.text, class_="muted"))
        return found


def diamond(x: float, y: float) -> str:
    """The mark of an exemplar."""
    corners = [(x, y - 3.2), (x + 3.2, y), (x, y + 3.2), (x - 3.2, y)]
    return svg.element("path", d=svg.path(corners, close=True), class_="dot")


def _numbered(lines: Sequence[str]) -> list[tuple[bool, str]]:
    return [(index == 0, line) for index, line in enumerate(lines)]
