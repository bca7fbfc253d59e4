"""Time series: lines or stacked bands over time, limits, exemplars, one or two value axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, groupby

from docs.pictures import svg
from docs.pictures.axes import Axis, time_axis, value_axis
from docs.pictures.colours import series_class
from docs.pictures.legend import Legend, Note, diamond
from docs.pictures.panel import Limit, Line, Panel
from docs.pictures.svg import Box
from docs.pictures.units import worded

ROOM_BELOW = 16.0
"""Pixels of the time axis' labels."""
WIDE = 400.0
"""Pixels from which on the legend stands at the right, as the panel asks; else below."""
WHOLE = 900.0
"""Pixels from which on a panel takes a whole line of the grid: the plots of such panels have the
same margins, so that an instant is at the same place in all of them."""
_WHOLE_LABELS, _WHOLE_RIGHT, _WHOLE_LEGEND = 66.0, 40.0, 250.0
_MOST_RIGHT = 0.6
"""Of the panel's width."""
_NOTES = 0.4
"""Of the panel's width: longer notes are wrapped."""
_ROWS_BELOW = 5
_BAND_OPACITY = 0.7
_MOST_FILLED = 2
"""Below more lines than that, areas mix to a colour that is none of theirs."""

Stretch = list[tuple[int, float, float]]
"""Instants without a gap, each with the band's lower and upper value."""


def draw(panel: Panel, box: Box, step_s: float, span_s: float) -> list[str]:
    """Markup in pixels of the picture."""
    stretches = [*_bands(panel)]
    legend = Legend(panel.lines, panel.calculations, tuple(_notes(panel, stretches)))
    plot, beside = _split(legend, box)
    left = _axis(panel, stretches, plot, right=False)
    both = any(line.right for line in panel.lines)
    right = _axis(panel, stretches, plot, right=True) if both else None
    least = (_WHOLE_LABELS, _WHOLE_RIGHT) if box.width >= WHOLE else (0.0, 6.0)
    beside_left = max(least[0], _labels_width(left))
    beside_right = max(least[1], _labels_width(right) if right else 0.0)
    inner = plot.inside(beside_left, 5, beside_right, ROOM_BELOW)
    time = time_axis(span_s, inner.x, inner.right)
    found = frame(inner, left, right, time)
    for index, (line, stretch) in enumerate(zip(panel.lines, stretches, strict=True)):
        axis = right if line.right and right else left
        found += _line(panel, line, index, stretch, axis, time, step_s)
    for limit in _limits(panel, _most(stretches)):
        y = left.at(limit.value)
        line_at = svg.path([(inner.x, y), (inner.right, y)])
        found.append(svg.element("path", d=line_at, class_=f"limit {limit.colour}"))
    found += [diamond(time.at(at), left.at(value)) for at, value in panel.exemplars]
    return found + legend.draw(beside)


def frame(inner: Box, left: Axis, right: Axis | None, time: Axis) -> list[str]:
    """Grid and labels; the grid is that of the left axis."""
    across = [svg.path([(inner.x, left.at(v)), (inner.right, left.at(v))]) for v, _ in left.labels]
    found = [svg.element("path", d="".join(across), class_="grid")]
    for value, label in left.labels:
        y = left.at(value) + 3.5
        found.append(svg.text(inner.x - 5, y, label, anchor="end", class_="muted"))
    if right is not None:
        for value, label in right.labels:
            found.append(svg.text(inner.right + 5, right.at(value) + 3.5, label, class_="muted"))
    return found + time_labels(inner, time)


def time_labels(inner: Box, time: Axis) -> list[str]:
    """Marks and labels below; the last label ends where the plot does."""
    marks = [svg.path([(time.at(t), inner.y), (time.at(t), inner.bottom)]) for t, _ in time.labels]
    found = [svg.element("path", d="".join(marks), class_="grid")]
    for at, label in time.labels:
        x = time.at(at)
        half = svg.width(label) / 2
        anchor, x = ("end", inner.right) if x + half > inner.right else ("middle", x)
        found.append(svg.text(x, inner.bottom + 12.5, label, anchor=anchor, class_="muted"))
    return found


def _split(legend: Legend, box: Box) -> tuple[Box, Box]:
    """Plot and legend."""
    if box.width >= WIDE:
        wanted = max(legend.width(), min(legend.notes_width(), _NOTES * box.width))
        if legend.height(wanted, 99) > box.height:
            wanted = wanted * 2 + 20
        least = _WHOLE_LEGEND if box.width >= WHOLE else 120.0
        wanted = min(max(wanted, least), box.width * _MOST_RIGHT)
        plot = Box(box.x, box.y, box.width - wanted - 16, box.height)
        return plot, Box(box.right - wanted, box.y, wanted, box.height)
    height = legend.height(box.width, _ROWS_BELOW)
    plot = Box(box.x, box.y, box.width, box.height - height - 3)
    return plot, Box(box.x, plot.bottom + 3, box.width, height)


def _axis(panel: Panel, stretches: Sequence[list[Stretch]], plot: Box, right: bool) -> Axis:
    """The axis at one side, of all that is drawn against it."""
    of_it = [line.right == right for line in panel.lines]
    values = [
        upper for found in compress(stretches, of_it) for each in found for _, _, upper in each
    ]
    if not right:
        values += [value for _, value in panel.exemplars]
        values += [limit.value for limit in _limits(panel, _most(stretches))]
    unit = next((line.unit for line in compress(panel.lines, of_it)), panel.unit)
    fixed = panel.fixed if not right else (None, None)
    return value_axis(values, unit, plot.bottom - ROOM_BELOW, plot.y + 5, fixed)


def _labels_width(axis: Axis) -> float:
    return max(svg.width(label) for _, label in axis.labels) + 6


def _bands(panel: Panel) -> Iterator[list[Stretch]]:
    """For each line its stretches without a gap; stacked ones lie on those before them."""
    below: dict[int, float] = {}
    for line in panel.lines:
        present = [(n, value) for n, value in enumerate(line.values) if value is not None]
        stacked = panel.stacked and not line.right
        bands = [(n, below.get(n, 0.0) if stacked else 0.0, value) for n, value in present]
        whole = [(n, lower, lower + value) for n, lower, value in bands]
        if stacked:
            below |= {n: upper for n, _, upper in whole}
        yield [
            [band for _, band in group]
            for _, group in groupby(enumerate(whole), key=lambda each: each[0] - each[1][0])
        ]


def _line(
    panel: Panel,
    line: Line,
    index: int,
    stretches: Sequence[Stretch],
    axis: Axis,
    time: Axis,
    step_s: float,
) -> list[str]:
    areas, edges, alone = [], [], []
    for stretch in stretches:
        upper = [(time.at(n * step_s), axis.at(value)) for n, _, value in stretch]
        lower = [(time.at(n * step_s), axis.at(value)) for n, value, _ in stretch]
        if len(stretch) == 1:
            alone.append(upper[0])
            continue
        areas.append(svg.path([*upper, *reversed(lower)], close=True))
        edges.append(svg.path(upper))
    opacity = line.fill if len(panel.lines) <= _MOST_FILLED else 0.0
    if panel.stacked and not line.right:
        opacity = _BAND_OPACITY
    found = []
    if areas and opacity:
        found.append(
            svg.element("path", d="".join(areas), class_="area", fill_opacity=f"{opacity:g}")
        )
    if edges:
        found.append(svg.element("path", d="".join(edges), class_="line"))
    found += [svg.element("circle", cx=x, cy=y, r=1.5, class_="area") for x, y in alone]
    title = svg.title(line.name)
    return [svg.element("g", title + "".join(found), class_=series_class(index))]


def _most(stretches: Iterable[Iterable[Stretch]]) -> float:
    return max((upper for found in stretches for s in found for _, _, upper in s), default=0.0)


def _limits(panel: Panel, most: float) -> list[Limit]:
    """Those that are drawn: one far above all values would press these flat."""
    if not panel.limits_drawn:
        return []
    top = panel.fixed[1] if panel.fixed[1] is not None else 2 * most
    return [limit for limit in panel.limits if limit.value <= top or most == 0]


def _notes(panel: Panel, stretches: Sequence[list[Stretch]]) -> Iterator[Note]:
    drawn = _limits(panel, _most(stretches))
    for limit in panel.limits if panel.limits_drawn else ():
        beyond = "" if limit in drawn else ", beyond this axis"
        yield Note(f"{limit.colour} from {worded(limit.value, panel.unit)}{beyond}", limit.colour)
    if panel.exemplars:
        yield Note("a request, with its trace", "dot")
    for name, reason in panel.missing:
        yield Note(f"{name}: {reason}" if name else reason)
