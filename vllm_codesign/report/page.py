"""Puts an overview into one HTML file: opens from disk, asks nobody for anything."""

from __future__ import annotations

from typing import Any

from plotly.offline import get_plotlyjs

from vllm_codesign import __version__
from vllm_codesign.analysis import client, finding, server, stats, tables
from vllm_codesign.analysis.kv_sheets import kv_sheets
from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.report import account_charts, charts
from vllm_codesign.report.environment import environment, utc


def render(view: Overview) -> str:
    """The whole page. Everything from the capture is escaped; scripts get it as JSON."""
    scenarios = [_scenario(index, s) for index, s in enumerate(view.tables.scenarios)]
    figures: dict[str, Any] = {
        request["chart"]: charts.waterfall(
            request["trace"], view.steps.get(request["trace"].root.span_id, ())
        )
        for scenario in scenarios
        for request in scenario["slowest"]
    }
    if (bars := charts.phases(view.tables.scenarios)) is not None:
        figures["phases"] = bars
    if (parts := account_charts.parts(view.tables.scenarios)) is not None:
        figures["parts"] = parts
    for index, found in enumerate(view.tables.scenarios):
        if found.accounts is not None and found.accounts.fleet is not None:
            strip = account_charts.strip(found.accounts.fleet)
            if strip is not None:
                figures[f"strip-{index}"] = strip
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            view=view,
            run=view.run,
            scenarios=scenarios,
            figures=figures,
            kv=kv_sheets(view.kv, view.kv_waits),
            legend=charts.legend(view.tables.scenarios),
            parts_legend=account_charts.legend(view.tables.scenarios),
            idle_legend=account_charts.IDLE_LEGEND,
            plotly=get_plotlyjs(),
            view_name=tables.VIEW,
            method=stats.METHOD,
            version=__version__,
            started=utc(view.run.started_ns) if view.run else None,
            finished=utc(view.run.finished_ns) if view.run and view.run.finished_ns else None,
        )
    )


def _scenario(index: int, scenario: tables.Scenario) -> dict[str, Any]:
    total = scenario.server["total"]
    return {
        "name": scenario.name,
        "outcomes": scenario.outcomes,
        "traces": sum(scenario.outcomes.values()),
        "client_rows": scenario.client_rows,
        "client_errors": scenario.client_errors,
        "errors": sum(scenario.client_errors.values()),
        "untraced": scenario.untraced,
        "client": [_row(c.label, c.brief, scenario.client[c.key]) for c in client.COLUMNS],
        "server": [
            {
                **_row(p.label, p.brief, scenario.server[p.key]),
                "side": p.side,
                "colour": charts.COLOURS.get(p.key),
                "share": _share(scenario.server[p.key], total),
            }
            for p in server.PHASES
        ],
        "index": index,
        "accounts": _accounts(scenario),
        "slowest": [
            {
                "chart": f"waterfall-{index}-{place}",
                "trace": trace,
                "trace_id": f"{trace.trace_id:032x}",
                "name": trace.root.name,
                "duration": finding.ms(trace.root.duration_ns / 1e6),
                "outcome": server.outcome(trace),
            }
            for place, trace in enumerate(scenario.slowest)
        ],
    }


def _accounts(scenario: tables.Scenario) -> dict[str, Any] | None:
    found = scenario.accounts
    if found is None:
        return None
    rows = [
        {
            **_row(part, "", stat),
            "colour": account_charts.PART_COLOURS[part],
            "share": _share(stat, found.total),
        }
        for part, stat in found.parts.items()
    ]
    sums = [
        {**_row(label, brief, stat), "colour": None, "share": _share(stat, found.total)}
        for label, brief, stat in (
            ("host, exposed", "what the request waited for", found.exposed),
            ("host, hidden", "while the device worked for it", found.hidden),
            ("device", "while it worked for this request", found.device),
        )
    ]
    return {"rows": rows, "sums": sums, "n": found.n, "bounds": finding.bounds(found)}


def _row(label: str, brief: str, stat: Stat | None) -> dict[str, Any]:
    cells = ["–"] * 3
    if stat is not None:
        cells = [finding.number(value) for value in (stat.mean, stat.p50, stat.p95)]
    return {"label": label, "brief": brief, "cells": cells, "n": stat.n if stat else 0}


def _share(stat: Stat | None, total: Stat | None) -> float | None:
    return 100 * stat.mean / total.mean if stat and total and total.mean else None
