"""What a panel draws: recorded series with names, units and axes, or why there are none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docs.pictures.recording import Recording, Values
from vllm_codesign.model.errors import CodesignError

Json = dict[str, Any]

NO_TEMPO = "asks Tempo, and none ran beside this run"
_VARIABLE = re.compile(r"\$(\w+)")
_LABEL = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Line:
    """One series as the panel shows it."""

    name: str
    values: Values
    labels: Mapping[str, str]
    unit: str
    right: bool
    """On the axis at the right."""
    fill: float
    """Opacity of the area under it, 0 to 1."""

    @property
    def numbers(self) -> list[float]:
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Limit:
    """From this value on the panel is of this colour."""

    value: float
    colour: str


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard's file, and what was recorded for it."""

    title: str
    description: str
    kind: str
    unit: str
    lines: tuple[Line, ...]
    missing: tuple[tuple[str, str], ...]
    """For each query without data its name, empty where it is the only one, and why."""
    exemplars: tuple[tuple[float, float], ...]
    base: str
    """The colour below the first limit."""
    limits: tuple[Limit, ...]
    fixed: tuple[float | None, float | None]
    """Ends of the axis that the panel asks for."""
    stacked: bool
    limits_drawn: bool
    calculations: tuple[str, ...]
    asks: str
    """The first query's text, where it is not Prometheus that is asked."""


def read(panel: Json, recording: Recording, variables: Mapping[str, str]) -> Panel:
    """Raises CodesignError for what cannot be drawn."""
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    steps = defaults["thresholds"]["steps"]
    title = filled(panel["title"], variables)
    targets = panel["targets"]
    asked = [target for target in targets if "expr" in target]
    lines = tuple(line for target in asked for line in _lines(panel, target, recording))
    several = len(targets) > 1
    return Panel(
        title=title,
        description=panel["description"],
        kind=panel["type"],
        unit=defaults["unit"],
        lines=lines,
        missing=tuple(_missing(panel, recording, several)),
        exemplars=tuple(
            dot
            for target in asked
            if target.get("exemplar")
            for dot in recording.exemplars.get(target["expr"], ())
        ),
        base=steps[0]["color"],
        limits=tuple(Limit(step["value"], step["color"]) for step in steps[1:]),
        fixed=(defaults.get("min"), defaults.get("max")),
        stacked=custom.get("stacking", {}).get("mode") == "normal",
        limits_drawn=custom.get("thresholdsStyle", {}).get("mode", "off") != "off",
        calculations=tuple(panel["options"].get("legend", {}).get("calcs", ())),
        asks="" if asked else filled(targets[0]["query"], variables),
    )


def _missing(panel: Json, recording: Recording, several: bool) -> Iterator[tuple[str, str]]:
    for target in panel["targets"]:
        if "expr" not in target:
            yield "", NO_TEMPO
        elif not _answered(recording, target["expr"]):
            # A legend of labels alone names nothing while there are no series.
            name = " ".join(_LABEL.sub("", target["legendFormat"]).split())
            yield name if several else "", recording.why_empty(target["expr"])


def _answered(recording: Recording, query: str) -> bool:
    found = recording.answers.get(query, ())
    return any(value is not None for series in found for value in series.values)


def _lines(panel: Json, target: Json, recording: Recording) -> Iterator[Line]:
    defaults = panel["fieldConfig"]["defaults"]
    for series in recording.answers.get(target["expr"], ()):
        if all(value is None for value in series.values):
            continue
        name = named(target["legendFormat"], series.labels)
        changed = _overrides(panel, name)
        yield Line(
            name=name,
            values=series.values,
            labels=series.labels,
            unit=changed.get("unit", defaults["unit"]),
            right=changed.get("custom.axisPlacement") == "right",
            fill=changed.get("custom.fillOpacity", defaults.get("custom", {}).get("fillOpacity", 0))
            / 100,
        )


def named(legend: str, labels: Mapping[str, str]) -> str:
    """A series' name: the legend with labels filled in, or all labels where it is automatic."""
    if legend == "__auto":
        return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return _LABEL.sub(lambda match: labels.get(match[1], ""), legend).strip()


def _overrides(panel: Json, name: str) -> dict[str, Any]:
    """What the panel's overrides say of the series of this name."""
    found: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["id"] != "byName":
            raise CodesignError(
                f"{panel['title']}: no picture of an override by {override['matcher']['id']}; "
                "teach docs/pictures/panel.py, or match byName"
            )
        if override["matcher"]["options"] == name:
            found |= {each["id"]: each["value"] for each in override["properties"]}
    return found


def filled(text: str, variables: Mapping[str, str]) -> str:
    """With the dashboard's variables as they are when it is opened."""
    return _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), text)
