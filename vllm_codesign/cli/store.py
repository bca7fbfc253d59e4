"""`codesign store`: what is in the local store, and loading it into ClickHouse."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from vllm_codesign import settings
from vllm_codesign.analysis.overview import find
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.capture import Capture, captures
from vllm_codesign.store.clickhouse.client import Client
from vllm_codesign.store.clickhouse.push import Pushed
from vllm_codesign.store.clickhouse.push import push as push_capture
from vllm_codesign.store.clickhouse.table import DAYS, create, ddl
from vllm_codesign.store.clickhouse.target import PREFIX, parse


@click.group("store")
def command() -> None:
    """List captures of the local store, or load one into ClickHouse."""


@command.command("push")
@click.argument("target", metavar="clickhouse:URL")
@click.argument("capture", required=False, type=click.Path(path_type=Path))
@click.option("--create", "make", is_flag=True, help="Make database and table, if missing.")
@click.option(
    "--days",
    type=click.IntRange(1, 3_650),
    default=DAYS,
    show_default=True,
    help="With --create: how long the table keeps rows.",
)
@click.option("--ddl", "show_ddl", is_flag=True, help="Print what --create would make, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def push(
    target: str, capture: Path | None, make: bool, days: int, show_ddl: bool, as_json: bool
) -> None:
    """Load the closed segments of CAPTURE into a table of the Collector's ClickHouse exporter.

    CAPTURE is found as `codesign analyze` finds it. Nothing is made unless --create is there. A
    segment that is in the table is not sent again, so a push that broke off is simply repeated. The
    password comes from the URL or from CLICKHOUSE_PASSWORD.

    \b
    codesign store push clickhouse:http://default@localhost:8123/otel --create
    codesign store push clickhouse:http://default@localhost:8123/otel out/demo
    """
    if not target.startswith(PREFIX):
        raise click.UsageError(f"want {PREFIX}URL, as {PREFIX}http://default@localhost:8123/otel")
    where = parse(target)
    if show_ddl:
        click.echo(ddl(where.table, days) + ";")
        return
    chosen = find(capture)
    client = Client(where)
    if make:
        create(client, days)
    done = _with_progress(chosen, client)
    for left_out in done.left_out:
        click.echo(left_out, err=True)
    if as_json:
        click.echo(json.dumps({"capture": str(chosen.path), "table": str(where), **asdict(done)}))
        return
    already = f", {done.present:,} were there already" if done.present else ""
    click.echo(
        f"{where}: {done.rows:,} spans in {done.segments:,} segments of {chosen.path}{already}"
    )


def _with_progress(capture: Capture, client: Client) -> Pushed:
    columns = (TextColumn("segments"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("segments", total=None)
        return push_capture(
            capture,
            client,
            lambda done, of: progress.update(task, completed=done, total=of),
        )


@command.command("list")
@click.argument("store", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(store: Path | None, as_json: bool) -> None:
    """List the captures of STORE, oldest first; without it those of the configured store.

    \b
    codesign store list
    codesign store list out/demo/capture-store
    """
    folder = store or settings.load()[0].store
    if folder is None:
        raise CodesignError("CODESIGN_STORE is empty: name the folder of a store")
    rows = [_facts(capture) for capture in captures(folder)]
    if not rows:
        raise CodesignError(f"no capture in {folder}: name the folder of a store")
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("capture", "state", "segments", "MB"):
        table.add_column(column, justify="right" if column in ("segments", "MB") else "left")
    for row in rows:
        size = f"{int(row['bytes']) / 1e6:,.1f}"
        table.add_row(*map(Text, (str(row["path"]), str(row["state"]), str(row["segments"]), size)))
    console = Console()
    # A path broken into lines cannot be copied.
    console.print(table, soft_wrap=True)


def _facts(capture: Capture) -> dict[str, str | int]:
    sizes = []
    for folder in (capture.traces, capture.series):
        for file in folder.glob("[!.]*.parquet"):
            try:
                sizes.append(file.stat().st_size)
            except FileNotFoundError:
                continue  # retention took it since the listing
    return {
        "path": str(capture.path),
        "state": "live" if capture.is_live() else "closed",
        "segments": len(sizes),
        "bytes": sum(sizes),
    }
