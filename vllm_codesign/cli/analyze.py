"""`codesign analyze`: where the time went, in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis import client, server, stats, tables
from vllm_codesign.analysis.accounts import LATENCY, Accounts
from vllm_codesign.analysis.batches import by_batch
from vllm_codesign.analysis.cure_sheet import cure_sheet
from vllm_codesign.analysis.finding import bounds, number
from vllm_codesign.analysis.fleet_sheet import fleet_sheet
from vllm_codesign.analysis.overview import Overview, find, overview
from vllm_codesign.analysis.plain import plain
from vllm_codesign.analysis.recommendations import SOURCE, ceilings_sheet
from vllm_codesign.analysis.stats import Stat
from vllm_codesign.cli.host_table import host_table
from vllm_codesign.cli.kv_table import kv_table, sheet_table
from vllm_codesign.cli.lmcache_table import lmcache_table
from vllm_codesign.cli.source_options import Asked, source_options
from vllm_codesign.semconv import HOST_PARTS, Part
from vllm_codesign.store.capture import Capture

_GAP = 2
_CURES = 3
"""Causes named below a scenario; the report has them all, with what each can remove at most."""
_STYLE = {"host": "dark_orange", "engine": "dodger_blue1", "busy": "dim", "sum": ""}


@click.command("analyze")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="results.json of `codesign bench`. Default: the one beside the capture, if any.",
)
@click.option("--scenario", metavar="NAME", help="Show this scenario alone.")
@click.option("--batches", is_flag=True, help="Show each batch of a scenario by itself.")
@click.option(
    "--recommendations",
    is_flag=True,
    help="Show what each of the MI300X study's recommendations could gain at most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--export",
    "export_to",
    type=(click.Choice(["perfetto"]), click.Path(path_type=Path, dir_okay=False)),
    metavar="perfetto FILE",
    help="Write the whole capture as a trace for ui.perfetto.dev instead of printing tables.",
)
@click.option(
    "--torch-profile",
    "profiles",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --export: what torch.profiler wrote during this run; once for each rank.",
)
@source_options
def command(
    capture: Path | None,
    results: Path | None,
    scenario: str | None,
    batches: bool,
    recommendations: bool,
    as_json: bool,
    export_to: tuple[str, Path] | None,
    profiles: tuple[Path, ...],
    asked: Asked,
) -> None:
    """Print where the time of the requests in CAPTURE went.

    CAPTURE is the folder of a capture, a store (its newest capture is taken) or a demo
    folder; without it the newest capture of the configured store is taken. Beside the
    server's truth stand the client's figures, where results.json is there to join. With --from
    the traces are read back from where OTLP took them.

    \b
    codesign analyze
    codesign analyze out/demo --scenario conc16
    codesign analyze out/demo --batches
    codesign analyze out/demo --recommendations
    codesign analyze --json | jq .finding
    codesign analyze out/demo --export perfetto demo.pftrace
    codesign analyze --from jaeger:http://127.0.0.1:16686 --since 10m
    codesign analyze --from tempo:http://127.0.0.1:3200 --trace 4bf92f3577b34da6a3ce929d0e0e4736
    codesign analyze --from clickhouse:http://default@127.0.0.1:8123/otel --since 1h
    """
    progress = Console(stderr=True)
    if profiles and export_to is None:
        raise click.UsageError("--torch-profile goes with --export perfetto FILE")
    if asked.in_clickhouse:
        if capture is not None or export_to is not None:
            raise click.UsageError("ClickHouse answers by itself: no CAPTURE, no --export")
        if recommendations:
            raise click.UsageError("--recommendations goes with a capture, jaeger, tempo or a file")
        _ask_clickhouse(asked, results, scenario, batches, as_json, progress)
        return
    with asked.opened(capture, progress) as source:
        if export_to is not None:
            chosen = source.capture if source is not None else find(capture, results)
            export(chosen, export_to[1], profiles, as_json, progress)
            return
        with progress.status("reading the capture"):
            split = by_batch if batches else None
            view = overview(capture, results, scenario, split=split, source=source)
    if as_json:
        click.echo(json.dumps(plain(view), ensure_ascii=False, indent=2))
    elif recommendations:
        render_ceilings(view, Console())
    else:
        render(view, Console())


def export(
    capture: Capture, out: Path, profiles: Sequence[Path], as_json: bool, progress: Console
) -> None:
    """Write the trace and say what is in it and how to open it."""
    # Its protobuf classes take a while to load, and nothing else needs them.
    from vllm_codesign.analysis import perfetto

    with progress.status(f"writing {out}"):
        written = perfetto.export(capture, out, profiles)
    for line in written.lossy:
        _line(progress, f"LOSSY CAPTURE: {line}", "bold red")
    size = out.stat().st_size
    if as_json:
        click.echo(json.dumps({"trace": str(out), "bytes": size, **asdict(written)}))
    left_out = f" ({written.left_out:,} left out)" if written.left_out else ""
    _line(
        progress,
        f"{out}: {size / 1e6:,.1f} MB, {written.requests:,} requests{left_out}, "
        f"{written.steps:,} steps, {written.slices:,} slices, {written.samples:,} samples. "
        "Open it in https://ui.perfetto.dev: the file stays on your machine.",
    )


def _ask_clickhouse(
    asked: Asked,
    results: Path | None,
    scenario: str | None,
    batches: bool,
    as_json: bool,
    progress: Console,
) -> None:
    """The same tables, made where the spans are."""
    from vllm_codesign.cli import clickhouse_tables

    assert asked.text is not None
    with progress.status("asking ClickHouse"):
        answer = clickhouse_tables.ask(asked.text, asked.query, results, scenario, batches)
    if as_json:
        click.echo(json.dumps(clickhouse_tables.plain(answer), ensure_ascii=False, indent=2))
    else:
        clickhouse_tables.render(answer, Console())


def render(view: Overview, console: Console) -> None:
    """Print everything, what makes the figures doubtful first."""
    for line in view.lossy:
        _line(console, f"LOSSY CAPTURE: {line}", "bold red")
    _line(console, f"capture {view.origin}{_versions(view)}")
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
        scenario_tables(scenario, console)
        sheet = cure_sheet(scenario, view.clients.get(scenario.name), view.run)
        for row in sheet.rows[:_CURES] if sheet is not None else ():
            _line(console, f"{row[5]} % {row[0]}: {row[2]}")
    console.print(kv_table(view.kv, view.kv_waits))
    console.print(lmcache_table(view.lmcache))
    console.print(host_table(view.host))
    console.print()
    for verdict in view.verdicts:
        _line(console, verdict.sentence, "bold")
    _line(console, view.finding, "bold")


def render_ceilings(view: Overview, console: Console) -> None:
    """Print what each recommendation could gain at most, scenario by scenario."""
    for line in view.lossy:
        _line(console, f"LOSSY CAPTURE: {line}", "bold red")
    _line(console, f"capture {view.origin}{_versions(view)}")
    for scenario in view.tables.scenarios:
        console.print()
        _line(console, scenario.name, "bold", end=" ")
        _line(console, counts(scenario))
        sheet = ceilings_sheet(scenario)
        if sheet is None:
            _line(console, "no steps were recorded: set CODESIGN_LEVEL=step for ceilings", "yellow")
            continue
        console.print(sheet_table(sheet))
    console.print()
    _line(console, f"Expectations: {SOURCE}.")


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


def scenario_tables(scenario: tables.Scenario, console: Console) -> None:
    """What clients and server say of one scenario, and where its time went."""
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
    if scenario.accounts is not None:
        console.print()
        _accounts(scenario, scenario.accounts, console)
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


def _accounts(scenario: tables.Scenario, found: Accounts, console: Console) -> None:
    table = _table(f"accounting ({LATENCY})")
    table.add_column("%", justify="right", no_wrap=True)
    if found.ttft is not None:
        table.add_column("to 1st\ntoken", justify="right", no_wrap=True)
    for part, stat in found.parts.items():
        table.add_row(
            part,
            *_cells(stat),
            _percent(stat.mean, found.total.mean),
            *_before_first(found, found.ttft_parts.get(part)),
            style=_side(part),
        )
    table.add_row(
        "total", *_cells(found.total), "100.0", *_before_first(found, found.ttft), style="bold"
    )
    table.add_row("host, exposed", *_cells(found.exposed), _of(found.exposed, found))
    table.add_row("host, hidden", *_cells(found.hidden), _of(found.hidden, found), style="dim")
    console.print(table)
    _line(console, "; ".join(_shares(scenario, found)))
    if not found.stepwise:
        _line(console, "Recorded below level `step`: no device time, engine.* stands for it.")
    if found.fleet is not None:
        console.print(sheet_table(fleet_sheet(found.fleet)))
        for line in bounds(found):
            _line(console, line)


def _before_first(found: Accounts, stat: Stat | None) -> tuple[str, ...]:
    """Mean up to the first chunk of the response, where responses came in chunks."""
    if found.ttft is None:
        return ()
    return ("–" if stat is None else number(stat.mean),)


def _shares(scenario: tables.Scenario, found: Accounts) -> list[str]:
    """The study's split beside ours."""
    lines = [
        f"of {found.n} requests: device {_of(found.device, found)} %, host exposed "
        f"{_of(found.exposed, found)} %, hidden {_of(found.hidden, found)} %"
    ]
    cpu, gpu = scenario.client["cpu_percent"], scenario.client["gpu_percent"]
    if cpu is not None and gpu is not None:
        lines.append(f"the study's stopwatch says CPU {cpu.mean:.1f} %, GPU {gpu.mean:.1f} %")
    if found.bottlenecks:
        worst = ", ".join(f"{part} ({count})" for part, count in found.bottlenecks.items())
        lines.append(f"largest avoidable part: {worst}")
    if found.queued:
        why = ", ".join(f"{reason} {number(ms)}" for reason, ms in found.queued.items())
        lines.append(f"in the scheduler's queue, mean ms by reason: {why}")
    return lines


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


def _of(stat: Stat, found: Accounts) -> str:
    return _percent(stat.mean, found.total.mean)


def _side(part: str) -> str:
    if part.startswith("device.gap") or Part(part) in HOST_PARTS:
        return _STYLE["host"]
    return "" if Part(part) is Part.UNATTRIBUTED else _STYLE["engine"]


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
