"""Reads a picture of a dashboard back: panels with their texts, lines and cells, in pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from xml.etree import ElementTree

from docs.pictures import svg
from docs.pictures.svg import Box

_SVG = "{http://www.w3.org/2000/svg}"
_MINUTES = re.compile(r"(\d+) min|(\d+):(\d\d)|0")
_SUFFIXES = {
    "": 1.0,
    "ns": 1e-9,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "%": 0.01,
    "K": 1e3,
    "Mil": 1e6,
    "cores": 1.0,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
    "GiB": 1024.0**3,
    **dict.fromkeys(("req/s", "c/s", "ops/s", "W", "°C", "B", "B/s"), 1.0),
    **dict.fromkeys(("K req/s", "K c/s", "K ops/s"), 1e3),
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Text:
    """One line, and the room that it may take."""

    content: str
    x: float
    y: float
    anchor: str
    classes: tuple[str, ...]
    box: Box


@dataclass(frozen=True)
class Scale:
    """What two labels of an axis say: a pixel for each value."""

    value: float
    pixel: float
    each: float

    def at(self, value: float) -> float:
        return self.pixel + (value - self.value) * self.each


@dataclass(frozen=True)
class Panel:
    """One group of the picture."""

    group: ElementTree.Element
    box: Box

    @property
    def texts(self) -> list[Text]:
        return [*texts(self.group)]

    @property
    def title(self) -> str:
        return next(t.content for t in self.texts if "bold" in t.classes)

    @property
    def words(self) -> list[str]:
        """All texts but the title."""
        return [t.content for t in self.texts][1:]

    def lines(self) -> dict[str, list[list[Point]]]:
        """Series by name: the stretches of its line; a point alone is one of one point."""
        return {
            name: [
                *subpaths(self._of(group, "path", "line")),
                *[
                    [(float(c.get("cx", 0)), float(c.get("cy", 0)))]
                    for c in group.iter(f"{_SVG}circle")
                ],
            ]
            for name, group in self._series()
        }

    def areas(self) -> dict[str, list[list[Point]]]:
        """Series by name: the outlines of what is filled."""
        return {name: [*subpaths(self._of(g, "path", "area"))] for name, g in self._series()}

    def marked(self, class_: str) -> list[list[Point]]:
        """All paths of a class that stand in no series: limits, diamonds."""
        return [*subpaths(self._of(self.group, "path", class_))]

    def cells(self) -> list[tuple[Box, float]]:
        """A heatmap's rectangles and how strong they are, those of its key last."""
        return [
            (
                Box(*(float(each.get(key, 0)) for key in ("x", "y", "width", "height"))),
                float(each.get("fill-opacity", 1)),
            )
            for each in self.group.iter(f"{_SVG}rect")
            if each.get("class") == "heat"
        ]

    def value_scale(self, right: bool = False) -> Scale:
        """By the labels of the axis at one side."""
        # The grid's first path has a line for each label of the left axis.
        inner = self.grid()
        edge = inner.right + 5 if right else inner.x - 5
        found = [
            (valued(t.content), t.y - 3.5)
            for t in self.texts
            if abs(t.x - edge) < 0.11 and t.anchor == ("start" if right else "end")
        ]
        return _scale(found)

    def time_scale(self) -> Scale:
        """Pixels for seconds since the first instant."""
        y = self.grid().bottom + 12.5
        found = [
            (seconds(t.content), t.x)
            for t in self.texts
            if abs(t.y - y) < 0.11 and t.anchor == "middle" and _MINUTES.fullmatch(t.content)
        ]
        return _scale(found)

    def grid(self) -> Box:
        """Where values are drawn: that is where the marks of the time axis are."""
        paths = [e.get("d", "") for e in self.group.iter(f"{_SVG}path") if e.get("class") == "grid"]
        points = [point for stretch in _parsed(paths[-1]) for point in stretch]
        across = [point for stretch in _parsed(paths[0]) for point in stretch]
        left, right = min(x for x, _ in across), max(x for x, _ in across)
        top, bottom = min(y for _, y in points), max(y for _, y in points)
        return Box(left, top, right - left, bottom - top)

    def _series(self) -> Iterator[tuple[str, ElementTree.Element]]:
        for group in self.group.iter(f"{_SVG}g"):
            if re.match(r"s\d+", group.get("class", "")):
                yield group.findtext(f"{_SVG}title", ""), group

    @staticmethod
    def _of(group: ElementTree.Element, tag: str, class_: str) -> list[str]:
        return [
            each.get("d", "")
            for each in group.iter(f"{_SVG}{tag}")
            if each.get("class", "").split() == class_.split()
        ]


def panels(picture: str) -> dict[str, Panel]:
    """Panels of a picture by title."""
    root = ElementTree.fromstring(picture)
    found = {}
    for group in root.findall(f"{_SVG}g"):
        rect = group.find(f"{_SVG}rect")
        assert rect is not None
        box = Box(*(float(rect.get(key, 0)) for key in ("x", "y", "width", "height")))
        panel = Panel(group, box)
        assert panel.title not in found, panel.title
        found[panel.title] = panel
    return found


def texts(element: ElementTree.Element) -> Iterator[Text]:
    """All texts in an element."""
    for each in element.iter(f"{_SVG}text"):
        x, y, size = (float(each.get(key, 0)) for key in ("x", "y", "font-size"))
        classes = tuple(each.get("class", "").split())
        content, anchor = each.text or "", each.get("text-anchor", "start")
        wide = svg.width(content, size, "code" in classes, "bold" in classes)
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
        box = Box(left, y - 0.75 * size, wide, 0.95 * size)
        yield Text(content, x, y, anchor, classes, box)


def overlapping(found: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that lie over one another, were the font as wide as DejaVu Sans."""
    return [
        (one.content, other.content)
        for one, other in combinations(found, 2)
        if one.box.x < other.box.right
        and other.box.x < one.box.right
        and one.box.y < other.box.bottom
        and other.box.y < one.box.bottom
    ]


def valued(label: str) -> float:
    """What a label says, in its unit's base."""
    match = re.fullmatch(r"(-?[\d.]+) ?(.*)", label)
    assert match, label
    return float(match[1]) * _SUFFIXES[match[2]]


def seconds(label: str) -> float:
    """What a label of the time axis says."""
    match = _MINUTES.fullmatch(label)
    assert match, label
    minutes, m, s = match.groups()
    return 60.0 * int(minutes or m or 0) + int(s or 0)


def subpaths(commands: list[str]) -> Iterator[list[Point]]:
    for each in commands:
        yield from _parsed(each)


def _parsed(commands: str) -> list[list[Point]]:
    found = []
    for part in commands.replace("z", "").split("M")[1:]:
        pairs = (pair.split(",") for pair in part.split("L"))
        found.append([(float(x), float(y)) for x, y in pairs])
    return found


def _scale(found: list[tuple[float, float]]) -> Scale:
    assert len(found) >= 2, found
    (first, at), (last, until) = min(found), max(found)
    return Scale(first, at, (until - at) / (last - first))
