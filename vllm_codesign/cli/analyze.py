"""`codesign analyze`: where the time went, in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis import client, server, stats, tables
from vllm_codesign.analysis.finding import number
from vllm_codesign.analysis.overview import Overview, overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.analysis.stats import Stat

_GAP = 2
_STYLE = {"host": "dark_orange", "engine": "dodger_blue1", "busy": "dim", "sum": ""}


@click.command("analyze")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="results.json of `codesign bench`. Default: the one beside the capture, if any.",
)
@click.option("--scenario", metavar="NAME", help="Show this scenario alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(
    capture: Path | None, results: Path | None, scenario: str | None, as_json: bool
) -> None:
    """Print where the time of the requests in CAPTURE went.

    CAPTURE is the folder of a capture, a store (its newest capture is taken) or a demo
    folder; without it the newest capture of the configured store is taken. Beside the
    server's truth stand the client's figures, where results.json is there to join.

    \b
    codesign analyze
    codesign analyze out/demo --scenario conc16
    codesign analyze --json | jq .finding
    """
    progress = Console(stderr=True)
    with progress.status("reading the capture"):
        view = overview(capture, results, scenario)
    if as_json:
        click.echo(json.dumps(plain(view), ensure_ascii=False, indent=2))
    else:
        render(view, Console())


def render(view: Overview, console: Console) -> None:
    """Print everything, what makes the figures doubtful first."""
    for line in view.lossy:
        _line(console, f"LOSSY CAPTURE: {line}", "bold red")
    _line(console, f"capture {view.capture.path}{_versions(view)}")
    if view.results is not None:
        _line(console, f"client  {view.results}")
    for line in view.notes:
        _line(console, f"note: {line}", "yellow")
    _line(
        console,
        f"View: {tables.VIEW}. Times in ms; {stats.METHOD}; completed requests only. "
        "queue, prefill and decode are the engine's.",
    )
    for scenario in view.tables.scenarios:
        console.print()
        _line(console, scenario.name, "bold", end=" ")
        _line(console, counts(scenario))
        _scenario(scenario, console)
    console.print()
    _line(console, view.finding, "bold")


def _line(console: Console, text: str, style: str = "", end: str = "\n") -> None:
    # Names come from outside: no markup, no emoji, no highlighting of numbers.
    console.print(Text(text, style=style), end=end, soft_wrap=not console.is_terminal)


def _versions(view: Overview) -> str:
    if view.run is None:
        return ""
    vllm = view.run.versions.get("vllm", "?")
    return f" (vLLM {vllm}, level {view.run.level or '?'}, host {view.run.host})"


def counts(scenario: tables.Scenario) -> str:
    """How many requests there were and how they ended."""
    traced = sum(scenario.outcomes.values())
    ended = ", ".join(f"{count} {outcome}" for outcome, count in scenario.outcomes.items())
    text = f"{traced} traces ({ended})" if traced else "no trace"
    if scenario.client_rows:
        errors = sum(scenario.client_errors.values())
        text += (
            f"; client: {scenario.client_rows} requests, {errors} errors, "
            f"{scenario.untraced} without a trace"
        )
    return text


def _scenario(scenario: tables.Scenario, console: Console) -> None:
    parts: list[RenderableType] = []
    if scenario.client_rows:
        parts.append(_client_table(scenario))
    if scenario.outcomes:
        parts.append(_server_table(scenario))
    widths = [Measurement.get(console, console.options, part).maximum for part in parts]
    if sum(widths) + _GAP * (len(parts) - 1) <= console.width:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_row(*parts)
        console.print(grid)
    else:
        console.print(Group(*(Padding(part, (0, 0, 1, 0)) for part in parts[:-1]), *parts[-1:]))
    for error, count in scenario.client_errors.items():
        _line(console, f"client error, {count} x: {error}", "red")


def _client_table(scenario: tables.Scenario) -> Table:
    table = _table("client (the study's columns)")
    table.add_column("n", justify="right", no_wrap=True)
    for column in client.COLUMNS:
        stat = scenario.client[column.key]
        table.add_row(column.label, *_cells(stat), str(stat.n if stat else 0))
    return table


def _server_table(scenario: tables.Scenario) -> Table:
    table = _table("server (from inside)")
    table.add_column("%", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    total = scenario.server["total"]
    for phase in server.PHASES:
        stat = scenario.server[phase.key]
        share = f"{100 * stat.mean / total.mean:.1f}" if stat and total and total.mean else "–"
        table.add_row(
            phase.label, *_cells(stat), share, str(stat.n if stat else 0), style=_STYLE[phase.side]
        )
    return table


def _table(title: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), title=Text(title, "italic"), title_justify="left")
    table.add_column("")
    for name in ("mean", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(stat: Stat | None) -> tuple[str, str, str]:
    if stat is None:
        return "–", "–", "–"
    return number(stat.mean), number(stat.p50), number(stat.p95)
