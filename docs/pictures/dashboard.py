"""A whole dashboard: its panels on its grid, under its title and variables."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape

from docs.pictures import heatmap, nothing, stat, svg, time_series
from docs.pictures.colours import style
from docs.pictures.panel import Json, Panel, filled, read
from docs.pictures.recording import Recording, load
from docs.pictures.svg import Box
from vllm_codesign.model.errors import CodesignError

FOLDER = Path(__file__).parent
DASHBOARDS = Path(__file__).parents[2] / "dashboards"
WIDTH = 1000.0
"""Pixels: what the text column of the site has."""
_COLUMNS = 24
_UNIT = 30.0
"""Height of one of the grid's rows; Grafana's are higher, and its page is wider."""
_GAP = 8.0
_HEAD = 62.0
_EDGE = 8.0
_TITLE = 12.5


def pictures() -> dict[Path, str]:
    """Each picture's file and text. Raises CodesignError where one cannot be drawn."""
    recording = load()
    return {
        FOLDER / f"{file.stem}.svg": picture(json.loads(file.read_text()), recording)
        for file in sorted(DASHBOARDS.glob("*.json"))
    }


def picture(dashboard: Json, recording: Recording) -> str:
    """The SVG of one dashboard."""
    panels = dashboard["panels"]
    variables = {
        each["name"]: _value(each)
        for each in dashboard["templating"]["list"]
        if each["type"] != "datasource"
    }
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    height = _HEAD + rows * _UNIT + _EDGE
    parts = [
        svg.title(dashboard["title"]),
        svg.element("desc", escape(dashboard["description"])),
        svg.element("style", escape(style())),
        svg.element("rect", width=WIDTH, height=height, class_="page"),
        *_head(dashboard, recording),
    ]
    for panel in panels:
        box = place(panel["gridPos"])
        if panel["type"] == "row":
            heading = filled(panel["title"], variables).replace("`", "")
            parts.append(svg.text(box.x + 2, box.bottom - 7, heading, size=13, class_="bold"))
            continue
        parts.append(_panel(read(panel, recording, variables), box, recording))
    root = svg.element(
        "svg",
        "\n" + "\n".join(parts) + "\n",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {svg.number(WIDTH)} {svg.number(height)}",
        width=WIDTH,
        height=height,
        role="img",
    )
    return f"<!-- Drawn by docs/pictures/dashboard.py; `make docs`. -->\n{root}\n"


def _value(variable: Json) -> str:
    """What a query has in a variable's place then."""
    value = variable["current"]["value"]
    return str(variable["allValue"] if value == ["$__all"] else value)


def _chosen(variable: Json) -> str:
    """What a variable says when the dashboard is opened."""
    text = variable["current"]["text"]
    return ", ".join(text) if isinstance(text, list) else str(text)


def _head(dashboard: Json, recording: Recording) -> list[str]:
    """Title and variables at the left, the run at the right."""
    labels = [
        f"{each['label']}: {_chosen(each)}"
        for each in dashboard["templating"]["list"]
        if each["type"] != "datasource"
    ]
    minutes = recording.span_s / 60
    time = f"{minutes:g} min from {recording.started} UTC, rates over {recording.rate_s:g} s"
    right = WIDTH - _EDGE
    return [
        svg.text(_EDGE, 20, dashboard["title"], size=16, class_="bold"),
        svg.text(_EDGE, 38, " · ".join(labels), size=11.5, class_="muted"),
        svg.text(right, 20, recording.about, anchor="end", class_="muted"),
        svg.text(right, 36, time, anchor="end", class_="muted"),
        svg.text(right, 52, recording.load, anchor="end", class_="muted"),
    ]


def place(position: Json) -> Box:
    """Pixels of a panel, by its place on the grid."""
    column = (WIDTH - 2 * _EDGE + _GAP) / _COLUMNS
    return Box(
        _EDGE + position["x"] * column,
        _HEAD + position["y"] * _UNIT,
        position["w"] * column - _GAP,
        position["h"] * _UNIT - _GAP,
    )


def _panel(panel: Panel, box: Box, recording: Recording) -> str:
    inner = box.inside(10, 24, 10, 7)
    frame = svg.element(
        "rect", x=box.x, y=box.y, width=box.width, height=box.height, rx=3, class_="panel"
    )
    title = svg.shortened(panel.title, box.width - 20, _TITLE * 1.1)
    parts = [
        svg.title(panel.description),
        frame,
        svg.text(box.x + 10, box.y + 17, title, size=_TITLE, class_="bold"),
        *_drawn(panel, inner, recording),
    ]
    return svg.element("g", "\n".join(parts))


def _drawn(panel: Panel, box: Box, recording: Recording) -> list[str]:
    if not panel.lines:
        return nothing.draw(panel, box)
    match panel.kind:
        case "timeseries":
            return time_series.draw(panel, box, recording.step_s, recording.span_s)
        case "heatmap":
            return heatmap.draw(panel, box, recording.step_s, recording.span_s)
        case "stat":
            return stat.draw(panel, box)
    raise CodesignError(
        f"{panel.title}: no picture of a panel of type {panel.kind}; "
        "teach docs/pictures/dashboard.py"
    )
