"""A dashboard against Grafana's published JSON schemas, panel by panel and query by query."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from jsonschema import Draft7Validator

from dashboards.panels import Json

# How the published schemas render CUE's `_`, any value: an override's value is often a string.
_ANY = {"type": "object", "additionalProperties": {}}


def faults(dashboard: Json, folder: Path) -> list[str]:
    """One line for each place where it is not as the schemas in `folder` say."""
    found = list(_against(folder, "dashboard", "Dashboard", dashboard, ""))
    for panel in dashboard["panels"]:
        where = f" {panel['title']}"
        if panel["type"] == "row":
            found += _against(folder, "dashboard", "RowPanel", panel, where)
            continue
        found += _against(folder, "dashboard", "Panel", panel, where)
        found += _against(folder, panel["type"], "Options", panel["options"], where)
        for target in panel["targets"]:
            query = target["datasource"]["type"]
            found += _against(folder, query, "Dataquery", target, where)
    for variable in dashboard["templating"]["list"]:
        found += _against(folder, "dashboard", "VariableModel", variable, f" ${variable['name']}")
    return [f"{dashboard['title']}{line}" for line in found]


def _against(folder: Path, name: str, kind: str, instance: Json, where: str) -> Iterator[str]:
    text = (folder / f"{name}.jsonschema.json").read_text()
    schema = json.loads(text, object_hook=_any)
    schema["$ref"] = f"#/definitions/{kind}"
    for error in Draft7Validator(schema).iter_errors(instance):
        place = "/".join(map(str, error.absolute_path))
        yield f"{where} ({kind} {place}): {error.message[:200]}"


def _any(read: Json) -> Json:
    if {k: v for k, v in read.items() if k != "description"} == _ANY:
        return {}
    # Any value or a string: with `_` as it is meant, both hold.
    return {("anyOf" if k == "oneOf" else k): v for k, v in read.items()}
