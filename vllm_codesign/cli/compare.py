"""`codesign compare`: two runs, what differs beyond noise, and where the time went."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_codesign.analysis.compare import Compared, Comparison, compare
from vllm_codesign.analysis.compare_sheet import (
    bottlenecks,
    compare_sheet,
    plain,
    remarks,
    sentence,
)
from vllm_codesign.analysis.sides import Side, side
from vllm_codesign.cli.narrow_table import narrow_table

_STYLE = {"beyond noise": "bold", "within noise": "dim"}


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--scenario", metavar="NAME", help="Compare this scenario alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(a: Path, b: Path, scenario: str | None, as_json: bool) -> None:
    """Compare two runs, A (before) and B (after), scenario by scenario.

    Each is a folder that `codesign bench` wrote, a results.json, a capture, or the folder of an
    arm (OUT/ARM: all its servers; OUT/ARM/1: one). Every difference is B less A, with an interval,
    and is said to be within noise where it may be nothing. Three servers of each tell how
    servers differ; with fewer, whole batches are drawn again, five or more of each server.

    \b
    codesign compare out/before out/after
    codesign compare out/arms/hbm out/arms/lmcache --scenario conc16_6k
    codesign compare before/results.json after/results.json --json
    """
    with Console(stderr=True).status("reading both sides"):
        found = compare(side(a, scenario), side(b, scenario))
    if as_json:
        click.echo(json.dumps(plain(found), ensure_ascii=False, indent=2))
    else:
        render(found, Console())


def render(found: Comparison, console: Console) -> None:
    """Print everything, what makes the figures doubtful first and what was found last."""
    for line in found.lossy:
        _line(console, f"LOSSY CAPTURE: {line}", "bold red")
    _line(console, f"A {_said(found.a)}")
    _line(console, f"B {_said(found.b)}")
    for line in (*found.notes, *found.of_servers):
        _line(console, f"note: {line}", "yellow")
    for scenario in found.scenarios:
        console.print()
        console.print(compare_table(scenario))
        if (worst := bottlenecks(scenario)) is not None:
            _line(console, worst)
        for line in scenario.notes:
            _line(console, f"{scenario.scenario}: {line}", "red")
    console.print()
    for line in remarks(found):
        _line(console, line)
    console.print()
    for scenario in found.scenarios:
        _line(console, f"{sentence(scenario)}.", "bold")


def compare_table(found: Compared) -> Table:
    """One row per figure; what was said to have changed stands out."""
    sheet = compare_sheet(found)
    made = narrow_table(sheet.title, *sheet.columns)
    made.columns[-1].justify = "left"
    for row in sheet.rows:
        heading = not row[1]
        made.add_row(*map(Text, row), style="italic" if heading else _STYLE.get(row[-1], ""))
    return made


def _said(side: Side) -> str:
    if len(side.servers) > 1:
        return f"{side.name} ({len(side.servers)} servers)"
    view = side.servers[0].view
    if view is None or view.run is None:
        return side.name
    return f"{side.name} (vLLM {view.run.versions.get('vllm', '?')}, level {view.run.level or '?'})"


def _line(console: Console, text: str, style: str = "") -> None:
    # Names come from outside: no markup, no emoji, no highlighting of numbers.
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)
