"""`codesign level`: what live servers record, shown and switched."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_codesign import settings
from vllm_codesign.cli.live import Server, age, servers
from vllm_codesign.model.errors import CodesignError


@click.command("level")
@click.argument("level", required=False, type=click.Choice(settings.LEVELS))
@click.option("--pid", type=int, help="Only the server that this process belongs to.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(level: str | None, pid: int | None, as_json: bool) -> None:
    """List your live servers, or switch what they record while they run.

    With LEVEL every live server of yours is switched, or the one that --pid belongs to
    (any of its processes will do). `off` leaves the hooks in place, dormant. It takes
    effect at once; a request that is in flight keeps what was recorded of it.

    A server that was started with CODESIGN_LEVEL=off has nothing patched and no session:
    it is not listed and cannot be switched on. Start it with `request` or `step` and
    switch it to `off` instead.

    \b
    codesign level
    codesign level step
    codesign level off --pid 4711
    """
    chosen, _ = settings.load()
    found = servers(chosen.shm)
    if pid is not None:
        found = [server for server in found if server.has(pid)]
        if not found:
            raise CodesignError(
                f"process {pid} belongs to no live server of yours that is traced; "
                "`codesign level` lists those"
            )
    if level is not None:
        if not found:
            raise CodesignError(
                f"no live server of yours under {chosen.shm}: start one with "
                "VLLM_PLUGINS=codesign vllm serve ... (CODESIGN_LEVEL must not be off)"
            )
        for server in found:
            server.session.level = settings.LEVELS.index(level)
    if as_json:
        click.echo(json.dumps([server.plain() for server in found], indent=2))
    elif found:
        Console().print(table(found))
    else:
        click.echo(f"no live server of yours under {chosen.shm}")


def table(found: list[Server]) -> Table:
    """One row a server."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("pid", "started", "level", "model", "exporter", "lost"):
        made.add_column(name, no_wrap=name != "model")
    for server in found:
        made.add_row(
            str(server.pid),
            age(server.started_ns),
            Text(server.level, "dim" if server.level == "off" else "bold"),
            Text(server.what),
            str(server.exporter) if server.exporter else Text("none", "red"),
            Text(_lost(server), "red" if server.lost or server.session.requests_lost else ""),
        )
    return made


def _lost(server: Server) -> str:
    requests = server.session.requests_lost
    parts = [f"{server.lost} records"] if server.lost else []
    parts += [f"{requests} requests"] if requests else []
    return ", ".join(parts) or "nothing"
