"""An overview as plain data, for `--json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vllm_codesign.accounting import Fleet
from vllm_codesign.analysis import stats, tables
from vllm_codesign.analysis.accounts import LATENCY, THROUGHPUT, Accounts
from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.recommendations import ceilings

SCHEMA_VERSION = 1


def plain(view: Overview) -> dict[str, Any]:
    """JSON-able; times in ms, shares in percent, an absent figure is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "capture": view.origin,
        "results": str(view.results) if view.results else None,
        "view": tables.VIEW,
        "percentiles": stats.METHOD,
        "lossy": list(view.lossy),
        "notes": list(view.notes),
        "verdicts": [asdict(each) for each in view.verdicts],
        "finding": view.finding,
        "scenarios": [scenario_of(scenario) for scenario in view.tables.scenarios],
        "kv": {
            **asdict(view.kv),
            "calls": {"view": THROUGHPUT, "of": [asdict(each) for each in view.kv_waits]},
        },
        "lmcache": asdict(view.lmcache) if view.lmcache else None,
        "host": asdict(view.host) if view.host else None,
        "run": view.run.model_dump() if view.run else None,
    }


def scenario_of(scenario: tables.Scenario) -> dict[str, Any]:
    """One scenario, without its traces."""
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
        "accounting": _accounts(scenario.accounts) if scenario.accounts else None,
        "recommendations": [
            {
                "tier": each.recommendation.tier,
                "name": each.recommendation.name,
                "expected": each.recommendation.expected,
                "at_most_ms": each.ms,
                "at_most_percent": 100 * each.share,
            }
            for each in ceilings(scenario)
        ],
    }


def _accounts(accounts: Accounts) -> dict[str, Any]:
    stats_of = {
        name: asdict(stat) if stat else None
        for name, stat in (
            ("total", accounts.total),
            ("device", accounts.device),
            ("host_exposed", accounts.exposed),
            ("host_hidden", accounts.hidden),
            ("ttft", accounts.ttft),
            ("ttft_without_host", accounts.ttft_without_host),
        )
    }
    return {
        "view": LATENCY,
        "n": accounts.n,
        "stepwise": accounts.stepwise,
        "parts": {part: asdict(stat) for part, stat in accounts.parts.items()},
        "ttft_parts": {part: asdict(stat) for part, stat in accounts.ttft_parts.items()},
        **stats_of,
        "bottlenecks": accounts.bottlenecks,
        "queued_ms_by_reason": accounts.queued,
        "fleet": fleet_of(accounts.fleet) if accounts.fleet else None,
    }


def fleet_of(fleet: Fleet) -> dict[str, Any]:
    """The throughput view of one server."""
    return {
        "view": THROUGHPUT,
        "window_ns": fleet.end_ns - fleet.start_ns,
        "busy_ns": fleet.busy_ns,
        "idle_ns": fleet.idle_ns,
        "exposed_ns": fleet.exposed_ns,
        "hidden_ns": fleet.hidden_ns,
        "speed_up_without_exposed_host_time": fleet.speed_up if fleet.busy_ns else None,
        "engines": [
            {
                "engine_pid": engine.engine,
                "steps": engine.steps,
                "busy_ns": engine.busy_ns,
                "idle_ns": dict(engine.idle_ns),
                "hidden_ns": engine.hidden_ns,
            }
            for engine in fleet.engines
        ],
    }
