"""A heatmap: a histogram's buckets over time, the more in a bucket the stronger its colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from docs.pictures import svg
from docs.pictures.axes import time_axis
from docs.pictures.legend import diamond
from docs.pictures.panel import Panel
from docs.pictures.recording import Values
from docs.pictures.svg import Box
from docs.pictures.time_series import ROOM_BELOW, time_labels
from docs.pictures.units import worded

LEAST_OPACITY = 0.15
_EXPONENT = 0.5
"""As the panels' colours have it: few requests are told from none."""
_LEAST_DRAWN = 1e-9
_KEY = 18.0
_KEY_STEPS = 5


@dataclass(frozen=True)
class Row:
    """One bucket."""

    low: float
    high: float
    counts: Values


def rows(panel: Panel) -> list[Row]:
    """Buckets from the lowest; Prometheus' are cumulative, and these are not."""
    found = sorted(panel.lines, key=lambda line: float(line.labels["le"]))
    rows = []
    low, below = 0.0, tuple[float | None, ...]()
    for line in found:
        counts = [
            None if value is None else max(0.0, value - (before or 0.0))
            for value, before in zip(line.values, below or (0.0,) * len(line.values), strict=True)
        ]
        high = float(line.labels["le"])
        rows.append(Row(low, high, tuple(counts)))
        low, below = high, tuple(line.values)
    return _trimmed(rows)


def _trimmed(rows: list[Row]) -> list[Row]:
    """Without empty buckets at both ends, but with one beyond what is drawn."""
    used = [n for n, row in enumerate(rows) if any(_drawn(count) for count in row.counts)]
    if not used:
        return rows
    return rows[max(0, used[0] - 1) : used[-1] + 2]


def _drawn(count: float | None) -> bool:
    return count is not None and count > _LEAST_DRAWN


def opacity(count: float, most: float) -> float:
    """How strong the colour of a cell is."""
    return LEAST_OPACITY + (1 - LEAST_OPACITY) * float((count / most) ** _EXPONENT)


def draw(panel: Panel, box: Box, step_s: float, span_s: float) -> list[str]:
    """Markup in pixels of the picture."""
    found_rows = rows(panel)
    labels = [bound(row, panel.unit) for row in found_rows]
    left = max(map(svg.width, labels)) + 7
    inner = box.inside(left, 3, 6, ROOM_BELOW + _KEY)
    time = time_axis(span_s, inner.x, inner.right)
    height = inner.height / len(found_rows)
    most = max((c for row in found_rows for c in row.counts if c is not None), default=0.0)
    found = time_labels(inner, time)
    wide = time.at(step_s) - time.at(0.0)
    every = math.ceil((svg.SIZE + 1.5) / height)
    for number, (row, label) in enumerate(zip(found_rows, labels, strict=True)):
        top = inner.bottom - (number + 1) * height
        if number % every == 0:
            y = top + height / 2 + 3.5
            found.append(svg.text(inner.x - 5, y, label, anchor="end", class_="muted"))
        for instant, count in enumerate(row.counts):
            if count is None or not _drawn(count):
                continue
            # A rate at an instant is of the time before it.
            x = max(inner.x, time.at(instant * step_s) - wide)
            found.append(
                svg.element(
                    "rect",
                    x=x,
                    y=top + 0.5,
                    width=max(0.5, time.at(instant * step_s) - x - 1),
                    height=max(0.5, height - 1),
                    class_="heat",
                    fill_opacity=f"{opacity(count, most):.2f}",
                )
            )
    found += [
        diamond(time.at(at), inner.bottom - (place(found_rows, value) * height))
        for at, value in panel.exemplars
    ]
    return found + _key(Box(inner.x, box.bottom - _KEY, inner.width, _KEY), most, panel)


def place(found: Sequence[Row], value: float) -> float:
    """Rows from the bottom at which a value lies, by its share of its bucket."""
    for number, row in enumerate(found):
        if value <= row.high:
            if math.isinf(row.high):
                return number + 0.5
            return number + max(0.0, value - row.low) / (row.high - row.low)
    return float(len(found))


def bound(row: Row, unit: str) -> str:
    """The label of a bucket."""
    if math.isinf(row.high):
        return f"> {worded(row.low, unit)}"
    return f"≤ {worded(row.high, unit)}"


def _key(box: Box, most: float, panel: Panel) -> list[str]:
    """What the colours mean, and the dots."""
    y = box.bottom - 3
    found = [svg.text(box.x, y, "0", class_="muted")]
    x = box.x + 12
    for step in range(1, _KEY_STEPS + 1):
        strength = f"{opacity(step * most / _KEY_STEPS, most or 1.0):.2f}"
        found.append(
            svg.element(
                "rect", x=x, y=y - 8, width=14, height=8, class_="heat", fill_opacity=strength
            )
        )
        x += 14
    words = f"{worded(most, 'short')} requests in a bucket"
    found.append(svg.text(x + 5, y, words, class_="muted"))
    if panel.exemplars:
        x += 5 + svg.width(words) + 14
        found.append(diamond(x, y - 4))
        found.append(svg.text(x + 8, y, "a request, with its trace", class_="muted"))
    return found
