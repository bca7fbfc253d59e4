"""Panels as Grafana's JSON has them, and nothing of what they ask for.

The shapes are those of Grafana's published schema (`DASHBOARD_SCHEMA`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
TEMPO = {"type": "tempo", "uid": "${tempo}"}
WHEN_BAD = "**When it looks bad:** "
"""Stands in every description, before what to do then."""

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query; `exemplars` asks for those of its series too."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    heatmap: bool = False

    def target(self, ref: str, instant: bool) -> Json:
        found: Json = {
            "refId": ref,
            "datasource": PROMETHEUS,
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "instant": instant,
            "range": not instant,
        }
        if self.exemplars:
            found["exemplar"] = True
        if self.heatmap:
            found |= {"format": "heatmap", "legendFormat": "{{le}}"}
        return found


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """One TraceQL query: traces or spans as a table, or a metric of them."""

    query: str
    table: Literal["traces", "spans"] = "traces"
    limit: int = 20
    metric: bool = False

    def target(self, ref: str, instant: bool) -> Json:
        del instant
        found: Json = {
            "refId": ref,
            "datasource": TEMPO,
            "queryType": "traceql",
            "query": self.query,
            "filters": [],
            "limit": self.limit,
            "tableType": self.table,
        }
        return found | {"metricsQueryType": "range"} if self.metric else found


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: what it shows, what to do when it looks bad, its queries and how it draws.

    `width` is in Grafana's 24 columns. `overrides` go to the panel's field configuration.
    """

    title: str
    shows: str
    when_bad: str
    queries: Sequence[Query | TraceQuery]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    stacked: bool = False
    share: bool = False
    """Of a whole: the axis is from 0 to 1."""
    base: str = "green"
    """The colour below every limit."""
    limits: tuple[tuple[float, str], ...] = ()
    """Value from which on it is drawn in a colour."""
    overrides: Sequence[Json] = field(default_factory=tuple)

    def json(self, number: int, x: int, y: int) -> Json:
        instant = self.kind == "stat"
        source = TEMPO if isinstance(self.queries[0], TraceQuery) else PROMETHEUS
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": f"{self.shows}\n\n{WHEN_BAD}{self.when_bad}",
            "datasource": source,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [q.target(chr(65 + i), instant) for i, q in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self.overrides)},
            "options": _OPTIONS[self.kind](self.unit),
        }

    def _defaults(self) -> Json:
        steps: list[Json] = [{"color": self.base, "value": None}]
        steps += [{"color": colour, "value": value} for value, colour in self.limits]
        found: Json = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
            "thresholds": {"mode": "absolute", "steps": steps},
        }
        if self.kind == "timeseries":
            found["custom"] = _lines(self.stacked, bool(self.limits))
        if self.share:
            found |= {"min": 0, "max": 1}
        return found


def right_axis(name: str, unit: str) -> Json:
    """An override: the series of this name on an axis of its own, at the right."""
    properties = (("custom.axisPlacement", "right"), ("unit", unit), ("custom.fillOpacity", 0))
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }


def _lines(stacked: bool, limited: bool) -> Json:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 10,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limited else "off"},
    }


def _timeseries(_unit: str) -> Json:
    return {
        "legend": {
            "displayMode": "table",
            "placement": "right",
            "showLegend": True,
            "calcs": ["mean", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _stat(_unit: str) -> Json:
    return {
        "graphMode": "none",
        "colorMode": "value",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }


def _heatmap(unit: str) -> Json:
    return {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }


def _table(_unit: str) -> Json:
    return {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}


_OPTIONS = {"timeseries": _timeseries, "stat": _stat, "heatmap": _heatmap, "table": _table}
