"""An overview as plain data, for `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vllm_codesign.analysis import stats, tables
from vllm_codesign.analysis.overview import Overview

SCHEMA_VERSION = 1


def plain(view: Overview) -> dict[str, Any]:
    """JSON-able; times in ms, shares in percent, an absent figure is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "capture": str(view.capture.path),
        "results": str(view.results) if view.results else None,
        "view": tables.VIEW,
        "percentiles": stats.METHOD,
        "lossy": list(view.lossy),
        "notes": list(view.notes),
        "finding": view.finding,
        "scenarios": [_scenario(scenario) for scenario in view.tables.scenarios],
        "run": view.run.model_dump() if view.run else None,
    }


def _scenario(scenario: tables.Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "streaming": scenario.streaming,
        "client_rows": scenario.client_rows,
        "client_errors": scenario.client_errors,
        "untraced": scenario.untraced,
        "outcomes": scenario.outcomes,
        "client": {key: asdict(stat) if stat else None for key, stat in scenario.client.items()},
        "server": {key: asdict(stat) if stat else None for key, stat in scenario.server.items()},
        "slowest": [f"{trace.trace_id:032x}" for trace in scenario.slowest],
    }
