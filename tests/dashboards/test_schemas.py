"""Holding a dashboard against schemas: here small ones, since Grafana's own are not copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")  # vLLM brings it

from dashboards.schemas import faults

_ANY = {"type": "object", "additionalProperties": {}, "description": "Anything."}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """One definition of each kind, as strict as this test needs."""
    variable = _object(query={"oneOf": [{"type": "string"}, _ANY]})
    value = _object(value=_ANY)
    files = {
        "dashboard": {
            "Dashboard": _object(schemaVersion={"type": "integer"}),
            "Panel": _object(title={"type": "string"}, value=value),
            "RowPanel": _object(collapsed={"type": "boolean"}),
            "VariableModel": variable,
        },
        "timeseries": {"Options": _object(legend={"type": "object"})},
        "prometheus": {"Dataquery": {**_object(expr={"type": "string"}), "required": ["expr"]}},
    }
    for name, definitions in files.items():
        text = json.dumps({"$ref": "#/definitions/Nothing", "definitions": definitions})
        (tmp_path / f"{name}.jsonschema.json").write_text(text)
    return tmp_path


def _dashboard() -> dict[str, Any]:
    panel = {
        "title": "Panel",
        "type": "timeseries",
        "value": {"value": "right"},
        "options": {"legend": {}},
        "targets": [{"datasource": {"type": "prometheus"}, "expr": "up"}],
    }
    row = {"title": "Row", "type": "row", "collapsed": False}
    variables = [{"name": "model", "query": "label_values(up, job)"}]
    return {
        "title": "Board",
        "schemaVersion": 42,
        "panels": [row, panel],
        "templating": {"list": variables},
    }


def test_what_is_as_it_should_be(schemas: Path) -> None:
    """Any value may be a string, and be a string at the same time as anything."""
    assert faults(_dashboard(), schemas) == []


def test_each_level_is_held_against_its_own_schema(schemas: Path) -> None:
    dashboard = _dashboard()
    dashboard["schemaVersion"] = "42"
    row, panel = dashboard["panels"]
    row["collapsed"] = "no"
    panel["options"]["legend"] = []
    del panel["targets"][0]["expr"]
    assert faults(dashboard, schemas) == [
        "Board (Dashboard schemaVersion): '42' is not of type 'integer'",
        "Board Row (RowPanel collapsed): 'no' is not of type 'boolean'",
        "Board Panel (Options legend): [] is not of type 'object'",
        "Board Panel (Dataquery ): 'expr' is a required property",
    ]
