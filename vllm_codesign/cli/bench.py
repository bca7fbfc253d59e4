"""`codesign bench`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.measure import Measurement

from vllm_codesign.analysis.arms import compare, plain
from vllm_codesign.analysis.arms_sheet import remarks
from vllm_codesign.bench import arms_file, results, scenarios, summary
from vllm_codesign.bench.arms import (
    DEFAULT_LMCACHE_GIB,
    DEFAULT_REPEATS,
    ArmsPlan,
    execute_arms,
)
from vllm_codesign.bench.load import Arrival
from vllm_codesign.bench.own_server import OwnServer, execute_with
from vllm_codesign.bench.run import Plan, execute
from vllm_codesign.bench.server import say
from vllm_codesign.cli.arms_table import arms_table
from vllm_codesign.cli.headers import parse_headers
from vllm_codesign.model.bench import ArmsRun, BenchRun, Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.command_line import without_secrets

_TABLE_WIDTH = 132
_NO_LIMIT = 1_000


@click.command(name="bench", short_help="Load a server with scenarios.")
@click.option("--url", help="Server to load, as http://HOST:PORT.")
@click.option("--model", help="Model to serve for the run; server flags after --.")
@click.option(
    "--arm",
    "arms",
    multiple=True,
    metavar="NAME",
    help="With --model: configuration to compare (hbm, lmcache, or of --arms); the first is the "
    "base.",
)
@click.option(
    "--arms",
    "arms_from",
    type=click.Path(path_type=Path),
    help="TOML or JSON file of configurations; without --arm all of them.",
)
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="Only this; repeatable.")
@click.option("--set", "set_name", type=click.Choice(list(scenarios.SETS)), help="Default: quick.")
@click.option("--scenarios", "file", type=click.Path(path_type=Path), help="TOML or JSON file.")
@click.option("--arrival", default="batch", show_default=True, help="batch, closed, poisson:RATE.")
@click.option(
    "--prompts",
    type=click.Choice(["identical", "unique", "shared-prefix"]),
    help="Default: as the scenario says.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 10_000),
    help="Batches per scenario; with --arm: servers of each.",
)
@click.option("--max-tokens", type=click.IntRange(1, 1_000_000), help="Tokens to generate.")
@click.option(
    "--warmup",
    type=click.IntRange(0, 10_000),
    default=1,
    show_default=True,
    help="Requests before each scenario, in no result.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds per request.",
)
@click.option(
    "--lmcache-gib",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_LMCACHE_GIB,
    show_default=True,
    help="Host memory of LMCache's server, arm lmcache.",
)
@click.option("--session-id", metavar="PREFIX", help="Send X-Session-ID: PREFIX-<client>.")
@click.option(
    "--header",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Sent with every request; may be repeated. Where no Authorization is given, the key in "
    "VLLM_API_KEY is sent.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/bench"),
    show_default=True,
    help="Folder for results.json; a run interrupted there goes on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.argument("server_flags", nargs=-1, type=click.UNPROCESSED)
def command(
    url: str | None,
    model: str | None,
    arms: tuple[str, ...],
    arms_from: Path | None,
    names: tuple[str, ...],
    set_name: str | None,
    file: Path | None,
    arrival: str,
    prompts: str | None,
    repeats: int | None,
    max_tokens: int | None,
    warmup: int,
    timeout: float,
    lmcache_gib: float,
    session_id: str | None,
    header: tuple[str, ...],
    out: Path,
    as_json: bool,
    server_flags: tuple[str, ...],
) -> None:
    """Load a vLLM server with scenarios and time every request as the MI300X study did.

    The server runs already (--url), or is started and traced for the run (--model). With --arm
    servers of each configuration are started in turn and compared: hbm is vLLM with its prefix
    cache, lmcache has an LMCache server behind it, --arms FILE has those of your own.

    \b
    Examples:
      codesign bench --url http://127.0.0.1:8000 --set quick
      codesign bench --url http://127.0.0.1:8000 --scenario conc16_32k --prompts unique
      codesign bench --model Qwen/Qwen3-0.6B --set study --out out/study -- --max-model-len 131072
      codesign bench --model Qwen/Qwen3-0.6B --arm hbm --arm lmcache --out out/arms

    \b
    A file for --scenarios has a table for each (repeats, pause_s, prompts, route and stream are
    optional too):
      [[scenario]]
      name = "agents"
      concurrency = 8
      prompt_tokens = 4000
      max_tokens = 100

    \b
    A file for --arms has a table for each (all but the name are optional):
      [[arm]]
      name = "two-threads"
      flags = ["--renderer-num-workers", "2"]
      env = { OMP_NUM_THREADS = "4" }
      python = "other-environment/bin/python"
      cores = { api_server = "0-3", engine_core = "4", worker = "5" }
      nice = { worker = 10 }
      lmcache = false
    """
    if (url is None) == (model is None):
        raise CodesignError("name a server with --url or a model to serve with --model, not both")
    if url is not None and server_flags:
        raise CodesignError(
            f"{without_secrets(server_flags)[0]}: flags after -- are for a server started with "
            "--model; leave them out"
        )
    if session_id is not None and not (session_id.isascii() and session_id.isprintable()):
        raise CodesignError(
            f"--session-id {session_id!r} cannot go into a header: use printable ASCII"
        )
    chosen = arms_file.select(arms, arms_from)
    if chosen and model is None:
        raise CodesignError("--arm starts its own servers: name the model to serve with --model")
    overrides = {"prompts": prompts, "max_tokens": max_tokens}
    if not chosen:
        overrides["repeats"] = repeats
    plan = Plan(
        scenarios=_overridden(scenarios.select(names, set_name, file), overrides),
        arrival=Arrival.parse(arrival),
        warm_up=warmup,
        timeout_s=timeout,
        session=session_id,
        headers=parse_headers(header),
    )
    path = out / results.FILE_NAME
    _end_on_terminate()
    try:
        if url is not None:
            run = asyncio.run(execute(plan, url, path))
        else:
            assert model is not None
            server = OwnServer(model, server_flags)
            if chosen:
                asked = ArmsPlan(server, plan, chosen, repeats or DEFAULT_REPEATS, lmcache_gib)
                _print_arms(execute_arms(asked, out), path, as_json)
                return
            run = execute_with(server, plan, out)
    except KeyboardInterrupt:
        if path.exists():
            say(f"{path} has what is done; the same command goes on from there")
        raise
    except OSError as error:
        if error.filename is None:
            raise
        raise CodesignError(
            f"cannot write {error.filename} ({error.strerror}): name another folder with --out"
        ) from error
    _print(run, path, as_json)
    _fail_if_nothing_worked(run)


def _overridden(
    chosen: tuple[Scenario, ...], overrides: Mapping[str, object]
) -> tuple[Scenario, ...]:
    given = {field: value for field, value in overrides.items() if value is not None}
    return tuple(scenario.model_copy(update=given) for scenario in chosen)


def _end_on_terminate() -> None:
    """Let SIGTERM and SIGHUP unwind like an interrupt, so that a server we started ends too."""

    def end(number: int, _frame: FrameType | None) -> None:
        # make hands a signal on that its group has had already: the second one must not
        # interrupt the server's end.
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, end)


def _print(run: BenchRun, path: Path, as_json: bool) -> None:
    made = summary.summarize(run)
    if as_json:
        document = {
            "results": str(path),
            "url": run.url,
            "model": run.model,
            "arrival": run.arrival,
            "capture": run.capture,
            "scenarios": [dataclasses.asdict(one) for one in made],
        }
        click.echo(json.dumps(document, indent=1))
        return
    console = Console(highlight=False)
    # A pipe counts as 80 columns, and rich would cut the figures to fit.
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(summary.table(made))
    for one in made:
        for reason, count in one.errors.items():
            console.print(f"{one.scenario}: {count} failed: {reason}", markup=False)
    click.echo(f"{path}: {len(run.requests)} requests")


def _print_arms(run: ArmsRun, path: Path, as_json: bool) -> None:
    compared = compare(run, path.parent)
    if as_json:
        document = {
            "results": str(path),
            "model": run.model,
            "arrival": run.arrival,
            "repeats": run.repeats,
            **plain(compared),
        }
        click.echo(json.dumps(document, indent=1))
        return
    for line in compared.lossy:
        click.echo(f"LOSSY CAPTURE: {line}")
    table = arms_table(compared)
    console = Console(highlight=False, width=_NO_LIMIT)
    console.width = Measurement.get(console, console.options, table).maximum
    console.print(table)
    for line in remarks(compared):
        click.echo(line)
    click.echo(f"{path}: {len(run.servers)} servers")


def _fail_if_nothing_worked(run: BenchRun) -> None:
    if any(row.status == "ok" for row in run.requests):
        return
    reason, count = Counter(row.error for row in run.requests).most_common(1)[0]
    raise CodesignError(
        f"all {len(run.requests)} requests failed, {count} of them with {reason!r}: see the "
        "server's log"
    )
