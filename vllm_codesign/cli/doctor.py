"""`codesign doctor`: what would work here, found out without a server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_codesign import settings
from vllm_codesign.cli import checks, host_checks
from vllm_codesign.cli import level as level_command
from vllm_codesign.cli.checks import Finding
from vllm_codesign.cli.live import servers
from vllm_codesign.hooks.installer import import_targets, vllm_version
from vllm_codesign.hooks.resolve import imported, resolve
from vllm_codesign.hooks.table import Outcome, Status
from vllm_codesign.plugin import TABLES

_TABLE_WIDTH = 160
_FINE = (Status.INSTALLED, Status.VERSION_SKIPPED)
_STYLES = {
    Status.INSTALLED: "green",
    Status.VERSION_SKIPPED: "dim",
    Status.MISSING: "red",
    Status.SIGNATURE_CHANGED: "red",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check hooks, settings and environment without starting a server.

    Every hook is looked up in the installed vLLM, and none is put in place. `installed`
    means that it would be; `version_skipped` that this vLLM has another way to do it.
    Exits with 1 when a hook that the request trace needs cannot be installed, vLLM is not
    there, a setting is bad, or a folder cannot be used.

    \b
    codesign doctor
    codesign doctor --json | jq '.findings[] | select(.severity == "error")'
    """
    chosen, problems = settings.load()
    found = servers(chosen.shm)
    outcomes = hooks()
    findings = [
        *(Finding("error", "settings", problem) for problem in problems),
        *checks.plugin(chosen),
        *hook_findings(outcomes),
        *checks.otlp(os.environ),
        *checks.metrics(chosen, os.environ),
        *checks.store(chosen.store),
        *checks.shared_memory(chosen),
        *checks.limits(chosen),
        *host_checks.gpus(),
        *host_checks.cpus(),
        *host_checks.gil(chosen),
        *checks.live(found),
    ]
    ok = not any(finding.severity == "error" for finding in findings)
    if as_json:
        document = {
            "ok": ok,
            "versions": checks.versions(),
            "level": chosen.level,
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "hooks": [outcome.as_dict() for outcome in outcomes],
            "servers": [server.plain() for server in found],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        console = Console(highlight=False)
        # Targets are long, and half a target is of no use: the terminal may wrap.
        console.width = max(console.width, _TABLE_WIDTH)
        _versions(console)
        if outcomes:
            console.print(_hooks(outcomes))
            console.print()
        if found:
            console.print(level_command.table(found))
            console.print()
        _findings(findings, console)
    ctx.exit(0 if ok else 1)


def hooks() -> list[Outcome]:
    """The fate of every row in the installed vLLM; nothing where there is none."""
    version = vllm_version()
    if not version:
        return []
    if sys.stderr.isatty():
        click.echo(f"importing vLLM {version} ...", err=True)
    with _silence():
        failures = import_targets(hook for table in TABLES for hook in table.HOOKS)
    outcomes = [
        resolve(table.TABLE, hook, imported, version) for table in TABLES for hook in table.HOOKS
    ]
    for outcome in outcomes:
        if outcome.status is Status.INSTALLED:
            continue
        for module in {target.partition(":")[0] for target in outcome.hook.targets}:
            if module in failures:
                outcome.detail = f"{module} cannot be imported: {failures[module]}"
    return outcomes


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No output at all, not even of C libraries: importing vLLM's modules is noisy."""
    disabled = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        try:
            for stream, _ in saved:
                os.dup2(nowhere.fileno(), stream)
            logging.disable(logging.CRITICAL)
            warnings.simplefilter("ignore")
            yield
        finally:
            logging.disable(disabled)
            for stream, copy in saved:
                os.dup2(copy, stream)
                os.close(copy)


def hook_findings(outcomes: list[Outcome]) -> Iterator[Finding]:
    """One line for each row that would be lacking."""
    for outcome in outcomes:
        if outcome.status in _FINE:
            continue
        hook = outcome.hook
        what = f"{outcome.target or hook.targets[0]}: {outcome.status.value}, {outcome.detail}"
        if hook.required:
            cure = "use a supported vLLM or report this; requests would not be traced whole"
            yield Finding("error", f"hook {hook.id}", f"{what}; {cure}")
        else:
            yield Finding("warning", f"hook {hook.id}", f"{what}; its figures will be absent")


def _versions(console: Console) -> None:
    words = [f"{name} {version or 'not installed'}" for name, version in checks.versions().items()]
    console.print(Text(", ".join(words)), soft_wrap=True)
    console.print()


def _hooks(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("process", "hook", "status", "needed", "target"):
        table.add_column(name, no_wrap=True)
    for outcome in outcomes:
        fine = outcome.status in _FINE
        what = outcome.target if fine else f"{outcome.target} {outcome.detail}".strip()
        table.add_row(
            outcome.table,
            outcome.hook.id,
            Text(outcome.status.value, _STYLES.get(outcome.status, "")),
            "yes" if outcome.hook.required else "no",
            Text(what or "-"),
        )
    return table


def _findings(findings: list[Finding], console: Console) -> None:
    order = ("note", "warning", "error")
    styles = {"note": "dim", "warning": "yellow", "error": "bold red"}
    for finding in sorted(findings, key=lambda f: order.index(f.severity)):
        text = Text(f"{finding.severity}: {finding.subject}: {finding.text}")
        text.stylize(styles[finding.severity], 0, len(finding.severity))
        console.print(text, soft_wrap=True)
    count = sum(finding.severity == "error" for finding in findings)
    if count:
        console.print(f"{count} error{'s' if count > 1 else ''}")
    else:
        console.print("nothing stands in the way")
