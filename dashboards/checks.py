"""What must hold of every dashboard, whoever wrote its JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from dashboards.known import problems, series
from dashboards.layout import COLUMNS, SCHEMA_VERSION
from dashboards.panels import WHEN_BAD, Json
from dashboards.promql import groupings, selectors
from vllm_codesign import semconv

_LABEL = re.compile(r"\{\{(\w+)\}\}")
_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
_SPAN_ATTRIBUTE = re.compile(r"\bspan\.([a-z_.]+)")
_HIDING = re.compile(r"\bor\s+(?:on\(\)\s+)?vector\(")
_ATTRIBUTES = frozenset(
    attribute.key for span in (*semconv.SPANS, *semconv.STEP_SPANS) for attribute in span.attributes
)
_PANEL_KEYS = frozenset(
    ("id", "type", "title", "description", "gridPos", "targets", "fieldConfig", "options")
)
_PLACEHOLDERS = frozenset(("prometheus", "tempo"))


def check(dashboard: Json) -> list[str]:
    """One line for each thing that is wrong."""
    found = [f"{dashboard.get('title')}: {line}" for line in _whole(dashboard)]
    for panel in _drawn(dashboard):
        found += [f"{dashboard['title']} / {panel.get('title')}: {x}" for x in _panel(panel)]
    return found


def _whole(dashboard: Json) -> Iterator[str]:
    """Structure: what Grafana needs to load it, the variables, the grid."""
    if dashboard.get("schemaVersion") != SCHEMA_VERSION:
        yield f"schemaVersion is {dashboard.get('schemaVersion')}, not {SCHEMA_VERSION}"
    if not 8 <= len(dashboard.get("uid", "")) <= 40:
        yield "its uid is not of 8 to 40 characters"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    if len(set(numbers)) != len(numbers):
        yield "two panels have the same id"
    names = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    for name in ("model", "instance", "arm"):
        variable = names.get(name, {})
        if not (variable.get("multi") and variable.get("includeAll")):
            yield f"the variable {name} takes no several values, or not all"
        if variable.get("allValue") != ".*":
            yield f"all of the variable {name} is {variable.get('allValue')!r}, not '.*'"
    for variable in names.values():
        if variable["type"] == "query":
            yield from _variable(variable)
    used = set(re.findall(r"\$\{?([a-z]\w*)", str(dashboard["panels"])))
    yield from (f"no variable {name}" for name in sorted(used - set(names)))
    yield from _overlaps(dashboard["panels"])


def _variable(variable: Json) -> Iterator[str]:
    match = _VALUES.fullmatch(variable["query"])
    if match is None:
        yield f"the variable {variable['name']} asks for no label's values"
        return
    metric, label = match.groups()
    known = series()
    if label not in known.get(metric, ()):
        yield f"the variable {variable['name']} asks for {label} of {metric}, which has none"


def _overlaps(panels: list[Json]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{panel['title']} goes beyond column {COLUMNS}"
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    yield f"{panel['title']} lies over {other}"
                    return


def _drawn(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def _panel(panel: Json) -> Iterator[str]:
    yield from (f"has no {key}" for key in sorted(_PANEL_KEYS - set(panel)))
    shows, _, advice = panel.get("description", "").partition(WHEN_BAD)
    if not shows.strip() or not advice.strip():
        yield "its description does not say what it shows and what to do when it looks bad"
    if not panel.get("targets"):
        yield "asks for nothing"
    colours = [s["color"] for s in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    for one, other in pairwise(colours):
        if one == other:
            yield f"a threshold changes nothing: {one} before and after it"
    references = [target["refId"] for target in panel.get("targets", ())]
    if len(set(references)) != len(references):
        yield "two targets have the same refId"
    for target in panel.get("targets", ()):
        kind = target["datasource"]["type"]
        if target["datasource"]["uid"] != f"${{{kind}}}" or kind not in _PLACEHOLDERS:
            yield f"its data source is {target['datasource']}, not a variable"
        yield from _promql(target) if kind == "prometheus" else _traceql(target)


def _promql(target: Json) -> Iterator[str]:
    expression = target["expr"]
    yield from problems(expression, series())
    if _HIDING.search(expression):
        yield "`or vector(...)` hides a metric that is missing"
    for selector in selectors(expression):
        for label, sign, value in selector.matchers:
            if value.startswith("$") and sign != "=~":
                yield f"{label} is matched with {sign}: several values want =~"
        if not any(value == "$instance" for _, _, value in selector.matchers):
            yield f"{selector.metric} is not of the chosen instances"
    kept = {label for grouping in groupings(expression) for label in grouping.labels}
    bare = "by (" not in expression and "sum(" not in expression
    for label in _LABEL.findall(target["legendFormat"]):
        if label not in kept and not (bare and label in _labels(expression)):
            yield f"its legend asks for {label}, which the expression does not keep"


def _labels(expression: str) -> frozenset[str]:
    known = series()
    return frozenset().union(*(known.get(s.metric, frozenset()) for s in selectors(expression)))


def _traceql(target: Json) -> Iterator[str]:
    if target.get("queryType") != "traceql" or not target.get("query"):
        yield "asks Tempo for no TraceQL"
        return
    for key in _SPAN_ATTRIBUTE.findall(target["query"]):
        if key not in _ATTRIBUTES:
            yield f"no span has the attribute {key}"
