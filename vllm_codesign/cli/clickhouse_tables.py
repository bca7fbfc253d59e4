"""`codesign analyze --from clickhouse:URL`: the same tables, by SQL that ClickHouse runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from vllm_codesign.analysis import plain as plain_data
from vllm_codesign.analysis import stats, tables
from vllm_codesign.analysis.batches import by_batch
from vllm_codesign.analysis.finding import bounds
from vllm_codesign.analysis.fleet_sheet import fleet_sheet
from vllm_codesign.analysis.overview import load_results
from vllm_codesign.analysis.sql.decomposition import Decomposition, decompose
from vllm_codesign.analysis.sql.engines import InClickHouse, client_rows
from vllm_codesign.analysis.sql.query import EVER_NS, Parameters
from vllm_codesign.backends.query import Query
from vllm_codesign.cli import analyze
from vllm_codesign.cli.kv_table import kv_table, sheet_table
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.clickhouse.client import Client
from vllm_codesign.store.clickhouse.table import check
from vllm_codesign.store.clickhouse.target import Target, parse


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked, and what came back."""

    target: Target
    results: Path | None
    asked: Parameters
    found: Decomposition


def ask(
    source: str,
    query: Query,
    results: Path | None,
    scenario: str | None,
    batches: bool,
) -> Answer:
    """Run the queries there. Raises `CodesignError` with one line that names cause and cure."""
    target = parse(source)
    others = (query.trace_id, query.lmcache_service, query.instance, query.headers or None)
    if any(each is not None for each in others):
        raise CodesignError(
            "clickhouse: --trace, --header, --instance and --lmcache-service are for Jaeger and "
            "Tempo; narrow with --since, --until and --service"
        )
    asked = Parameters(
        since=query.since_ns if query.since_ns is not None else 0,
        until=query.until_ns if query.until_ns is not None else EVER_NS,
        service=query.service or "",
    )
    if batches and results is None:
        raise CodesignError(
            "batches are known from the client alone: name its results.json with --results"
        )
    bench = load_results(results) if results is not None else None
    if bench is not None and batches:
        bench = by_batch(bench)
    client = Client(target)
    check(client)
    found = decompose(InClickHouse(client, client_rows(bench)), asked, bench)
    if scenario is not None:
        found = replace(found, tables=tables.only(found.tables, scenario))
    return Answer(target, results, asked, found)


def render(answer: Answer, console: Console) -> None:
    """Print everything, what makes the figures doubtful first."""
    found = answer.found
    for lossy in found.lossy:
        _line(console, f"LOSSY: {lossy}", "bold red")
    _line(console, f"spans   {answer.target}")
    if answer.results is not None:
        _line(console, f"client  {answer.results}")
    for note in found.notes:
        _line(console, f"note: {note}", "yellow")
    _line(
        console,
        f"View: {tables.VIEW}. Times in ms; {stats.METHOD}; completed requests only. "
        "queue, prefill and decode are the engine's.",
    )
    for scenario in found.tables.scenarios:
        console.print()
        _line(console, scenario.name, "bold", end=" ")
        _line(console, analyze.counts(scenario))
        analyze.scenario_tables(scenario, console)
        _fleets(found, scenario, console)
    console.print(kv_table(found.kv))
    console.print()
    _line(console, found.finding, "bold")


def _fleets(found: Decomposition, scenario: tables.Scenario, console: Console) -> None:
    """Of several servers: each by itself, for their clocks are their hosts'."""
    fleets = found.fleets.get(scenario.name, ())
    accounts = scenario.accounts
    if accounts is None or not accounts.stepwise or len(fleets) < 2:
        return
    for instance, fleet in fleets:
        _line(console, f"server {instance}")
        console.print(sheet_table(fleet_sheet(fleet)))
        for bound in bounds(replace(accounts, ttft=None, fleet=fleet)):
            _line(console, bound)


def _line(console: Console, text: str, style: str = "", end: str = "\n") -> None:
    # Names come from outside: no markup, no emoji, no highlighting of numbers.
    console.print(Text(text, style=style), end=end, soft_wrap=not console.is_terminal)


def plain(answer: Answer) -> dict[str, Any]:
    """JSON-able, as of `codesign analyze --json`; `fleets` are by scenario and server."""
    found = answer.found
    return {
        "schema_version": plain_data.SCHEMA_VERSION,
        "spans": str(answer.target),
        "since_ns": answer.asked.since,
        "until_ns": answer.asked.until,
        "results": str(answer.results) if answer.results else None,
        "view": tables.VIEW,
        "percentiles": stats.METHOD,
        "lossy": list(found.lossy),
        "notes": list(found.notes),
        "finding": found.finding,
        "scenarios": [plain_data.scenario_of(scenario) for scenario in found.tables.scenarios],
        "fleets": {
            scenario: {instance: plain_data.fleet_of(fleet) for instance, fleet in fleets}
            for scenario, fleets in found.fleets.items()
        },
        "kv": asdict(found.kv),
    }
