"""Puts an overview into one HTML file: opens from disk, asks nobody for anything."""

from __future__ import annotations

from typing import Any

from vllm_codesign import __version__
from vllm_codesign.analysis import client, finding, server, stats, tables, verdict
from vllm_codesign.analysis.cure_sheet import cure_sheet
from vllm_codesign.analysis.fleet_sheet import fleet_sheet
from vllm_codesign.analysis.kv_sheets import kv_sheets
from vllm_codesign.analysis.overview import Overview
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.report import bars, colours
from vllm_codesign.report.embedded import embedded
from vllm_codesign.report.environment import compact, environment, utc
from vllm_codesign.report.strip import Strips, strips


def render(view: Overview, scenario: str | None = None, micro: dict[str, Any] | None = None) -> str:
    """The whole page. Everything from the capture is escaped; the script gets it as JSON.

    `scenario`: the one that `view` was narrowed to, if any. `micro`: `micro_page.section` of
    what `codesign micro` found, to be shown as well.
    """
    inside = embedded(view, scenario)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **figures(view),
            inside=inside,
            micro=micro,
            data=compact(inside.data),
            outcomes=sorted({outcome for s in view.tables.scenarios for outcome in s.outcomes}),
        )
    )


def figures(view: Overview) -> dict[str, Any]:
    """What `figures.html.j2` shows: all but the requests themselves."""
    scenarios = view.tables.scenarios
    subject = verdict.subject(view.tables, view.clients)
    return {
        "view": view,
        "run": view.run,
        "scenarios": [{**_scenario(view, s), "subject": s is subject} for s in scenarios],
        "phases": bars.phases(scenarios),
        "parts": bars.parts(bars.accounted(scenarios)),
        "kv": kv_sheets(view.kv, view.kv_waits),
        "view_name": tables.VIEW,
        "method": stats.METHOD,
        "version": __version__,
        "started": utc(view.run.started_ns) if view.run else None,
        "finished": utc(view.run.finished_ns) if view.run and view.run.finished_ns else None,
    }


def _scenario(view: Overview, scenario: tables.Scenario) -> dict[str, Any]:
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
                "colour": colours.PHASES.get(p.key),
                "share": _share(scenario.server[p.key], total),
            }
            for p in server.PHASES
        ],
        "accounts": _accounts(scenario),
        "cures": cure_sheet(scenario, view.clients.get(scenario.name), view.run),
    }


def _accounts(scenario: tables.Scenario) -> dict[str, Any] | None:
    found = scenario.accounts
    if found is None:
        return None
    rows = [
        {
            **_row(part, "", stat),
            "colour": colours.PARTS[part],
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
    over_time: Strips | None = strips(found.fleet) if found.fleet is not None else None
    return {
        "rows": rows,
        "sums": sums,
        "n": found.n,
        "bounds": finding.bounds(found),
        "strips": over_time,
        "fleet": fleet_sheet(found.fleet) if found.fleet is not None else None,
    }


def _row(label: str, brief: str, stat: Stat | None) -> dict[str, Any]:
    cells = ["–"] * 3
    if stat is not None:
        cells = [finding.number(value) for value in (stat.mean, stat.p50, stat.p95)]
    return {"label": label, "brief": brief, "cells": cells, "n": stat.n if stat else 0}


def _share(stat: Stat | None, total: Stat | None) -> float | None:
    return 100 * stat.mean / total.mean if stat and total and total.mean else None
