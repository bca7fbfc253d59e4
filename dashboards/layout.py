"""A dashboard: rows of panels laid on Grafana's grid, variables, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dashboards.panels import PROMETHEUS, Json, Panel
from dashboards.queries import ARM, INSTANCE
from vllm_codesign.semconv.metrics import EXPORTER_CPU, REQUESTS, prometheus_label, prometheus_name
from vllm_codesign.semconv.spans import REQUEST_MODEL

SCHEMA_VERSION = 42
"""The last of Grafana's classic dashboards, that of Grafana 12.3; a newer one converts it when it
loads, an older one takes what it knows of it."""
COLUMNS = 24
TAG = "codesign"
PREFIX = "codesign-"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, in reading order."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file. `name` is the file's and, with a prefix, the uid."""

    name: str
    title: str
    description: str
    rows: Sequence[Row]
    tempo: bool = False
    more_variables: Sequence[Json] = field(default_factory=tuple)

    @property
    def uid(self) -> str:
        return f"{PREFIX}{self.name}"

    def json(self) -> Json:
        return {
            "uid": self.uid,
            "title": f"vLLM codesign / {self.title}",
            "description": self.description,
            "tags": [TAG, "vllm"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": self._variables()},
            "annotations": {"list": []},
            "links": [_others()],
            "panels": _placed(self.rows),
        }

    def _variables(self) -> list[Json]:
        sources = [_source("prometheus", "Prometheus")]
        if self.tempo:
            sources.append(_source("tempo", "Tempo"))
        model = prometheus_label(REQUEST_MODEL)
        alive = prometheus_name(EXPORTER_CPU)
        return [
            *sources,
            _values("model", "Model", f"label_values({prometheus_name(REQUESTS)}, {model})"),
            _values("instance", "Instance", f"label_values({alive}, {INSTANCE})"),
            _values("arm", "Arm", f"label_values({alive}, {ARM})"),
            *self.more_variables,
        ]


def _placed(rows: Sequence[Row]) -> list[Json]:
    """Left to right, and a new line where a panel does not fit."""
    found: list[Json] = []
    y = 0
    for row in rows:
        position = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": position,
                "panels": [],
            }
        )
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            found.append(panel.json(len(found) + 1, x, y))
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
    return found


def _source(kind: str, label: str) -> Json:
    return {
        "name": kind,
        "label": label,
        "type": "datasource",
        "query": kind,
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "skipUrlSync": False,
    }


def _values(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": PROMETHEUS,
        "definition": query,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "skipUrlSync": False,
    }


def choices(name: str, label: str, values: Sequence[str]) -> Json:
    """A variable with values of its own, one of which is chosen."""
    options = [{"selected": i == 0, "text": v, "value": v} for i, v in enumerate(values)]
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ",".join(values),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": options[0],
        "options": options,
        "skipUrlSync": False,
    }


def _others() -> Json:
    return {
        "title": "vLLM codesign",
        "type": "dashboards",
        "tags": [TAG],
        "icon": "external link",
        "tooltip": "",
        "url": "",
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }
