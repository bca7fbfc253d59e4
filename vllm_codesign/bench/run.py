"""A whole run: scenarios times repeats against one server, kept after every batch.

A batch is one repeat under `batch` arrival; under `closed` and `poisson` it is the whole
scenario, whose requests make one continuous stream. An interrupted run goes on where it
stopped: batches in `results.json` are not made again.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from vllm_codesign import __version__
from vllm_codesign.bench import results
from vllm_codesign.bench.client import Job, Target
from vllm_codesign.bench.load import BATCH, LATE_MS, Arrival, Load, open_load
from vllm_codesign.bench.prompts import PromptSource, calibrate, server_counter
from vllm_codesign.bench.server import say
from vllm_codesign.model.bench import BenchRun, RequestResult, Scenario
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.command_line import without_secrets, without_userinfo

ENV_API_KEY = "VLLM_API_KEY"
"""Where vLLM itself reads the key that it asks for."""

_PROBE_TIMEOUT_S = 30.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask. `warm_up` requests open each scenario and are in no result; `session`
    is a prefix for `X-Session-ID`; `headers` go with every request, and are written nowhere."""

    scenarios: tuple[Scenario, ...]
    arrival: Arrival = BATCH
    warm_up: int = 1
    timeout_s: float = 600.0
    session: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def batches(self, scenario: Scenario) -> list[tuple[int, ...]]:
        """The repeats of each batch."""
        repeats = range(scenario.repeats)
        if self.arrival.kind == "batch":
            return [(repeat,) for repeat in repeats]
        return [tuple(repeats)]

    def pending(self, run: BenchRun | None) -> list[tuple[Scenario, list[tuple[int, ...]]]]:
        """Scenarios with batches that `run` lacks, and those batches."""
        have = {(r.scenario, r.repeat) for r in run.requests} if run else set()
        missing = (
            (scenario, [b for b in self.batches(scenario) if (scenario.name, b[0]) not in have])
            for scenario in self.scenarios
        )
        return [(scenario, batches) for scenario, batches in missing if batches]


def normal_url(url: str) -> str:
    """The server's base URL, without `/v1`; raises CodesignError for what is no URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.netloc)
    except ValueError:  # a bracket without its other half
        good = False
    if not good:
        raise CodesignError(
            f"{without_userinfo(url)!r} is not a URL: write it like http://127.0.0.1:8000"
        )
    return url.rstrip("/").removesuffix("/v1")


async def execute(
    plan: Plan,
    url: str,
    path: Path,
    *,
    server_command: Sequence[str] | None = None,
    progress: Callable[[str], None] = say,
) -> BenchRun:
    """Make all batches that `path` lacks, writing it after each; return the whole run.

    Raises CodesignError when the server cannot be reached, stops answering, cannot take a
    scenario's prompts, or when `path` holds another run.
    """
    url = normal_url(url)
    headers = _with_key(plan.headers, url)
    model, room = await _discover(url, headers)
    _check_room(plan.scenarios, room)
    run = _begin(plan, url, model, path, server_command)
    pending = plan.pending(run)
    if run.requests:
        rest = "going on after them" if pending else "nothing is left to do"
        progress(f"{path}: {len(run.requests)} requests are there, {rest}")
    target = Target(url, model, plan.timeout_s, plan.session, headers)
    async with open_load(target) as load:
        for scenario, batches in pending:
            source = await _source(load, target, scenario, progress)
            await _warm_up(load, plan, scenario, source)
            for number, batch in enumerate(batches):
                if number:
                    await asyncio.sleep(scenario.pause_s)
                jobs = list(_jobs(scenario, batch, source))
                label = f"{scenario.name} {batch[-1] + 1}/{scenario.repeats}"
                async with _ticker(load, f"{label}: {{}} of {len(jobs)} answered", progress):
                    rows = await load.run(jobs, plan.arrival)
                if all(row.http_status is None for row in rows):
                    await _still_there(target, path)
                run = run.model_copy(update={"requests": [*run.requests, *rows]})
                results.write(path, run)
                progress(_line(label, rows, load.late_ms))
    if pending or run.finished_unix_ns is None:
        run = run.model_copy(update={"finished_unix_ns": time.time_ns()})
        results.write(path, run)
    return run


def _with_key(headers: Mapping[str, str], url: str) -> Mapping[str, str]:
    """With the server's key from the environment, where no other credentials are given."""
    in_headers = "authorization" in map(str.lower, headers)
    in_url = "@" in urlsplit(url).netloc
    if in_headers and in_url:
        raise CodesignError(
            f"{without_userinfo(url)} has a user, and --header an Authorization: give one of them"
        )
    key = os.environ.get(ENV_API_KEY)
    if not key or in_headers or in_url:
        return headers
    if not (key.isprintable() and key.isascii()):
        raise CodesignError(
            f"{ENV_API_KEY} cannot go into a header: use printable ASCII, without a line's end"
        )
    return {**headers, "Authorization": f"Bearer {key}"}


async def _discover(url: str, headers: Mapping[str, str]) -> tuple[str, int | None]:
    """The first model that the server offers, and the tokens it has room for if it says so."""
    shown = without_userinfo(url)
    timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{url}/v1/models") as response,
        ):
            if response.status in (401, 403):
                raise CodesignError(
                    f"{shown}/v1/models refuses with status {response.status}: give the server's "
                    f"key in {ENV_API_KEY}, or --header 'Authorization: Bearer ...'"
                )
            if response.status != 200:
                raise CodesignError(
                    f"{shown}/v1/models answers {response.status}: name an OpenAI-compatible "
                    "server with --url"
                )
            answer = await response.json()
        first = answer["data"][0]
        room = first.get("max_model_len")
        return str(first["id"]), room if isinstance(room, int) else None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise CodesignError(
            f"no server answers at {shown} "
            f"({without_userinfo(str(error)) or type(error).__name__}): start it, or name another "
            "with --url"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CodesignError(
            f"{shown}/v1/models lists no model: name an OpenAI-compatible server with --url"
        ) from error


def _check_room(scenarios: Sequence[Scenario], room: int | None) -> None:
    for scenario in scenarios:
        need = scenario.prompt_tokens + scenario.max_tokens
        if room is not None and need > room:
            raise CodesignError(
                f"{scenario.name} needs {need} tokens and the server takes {room}: choose other "
                f"scenarios, or start it with --max-model-len {need} or more"
            )


def _begin(
    plan: Plan, url: str, model: str, path: Path, server_command: Sequence[str] | None
) -> BenchRun:
    command = without_secrets(server_command) if server_command is not None else None
    new = BenchRun(
        tool_version=__version__,
        url=without_userinfo(url),
        model=without_userinfo(model),
        arrival=str(plan.arrival),
        server_command=command,
        started_unix_ns=time.time_ns(),
        scenarios=list(plan.scenarios),
        requests=[],
    )
    old = results.read(path)
    if old is None:
        return new
    results.check_same(path, old, new)
    # The server may have come back on another port.
    return old.model_copy(update={"url": new.url, "server_command": new.server_command})


async def _source(
    load: Load, target: Target, scenario: Scenario, progress: Callable[[str], None]
) -> PromptSource:
    count = server_counter(load.session, target.url, target.model, scenario)
    source = await calibrate(scenario, count)
    if source.counted is None:
        progress(f"{scenario.name}: the server has no /tokenize; prompt lengths are estimated")
    return source


async def _warm_up(load: Load, plan: Plan, scenario: Scenario, source: PromptSource) -> None:
    jobs = [Job(scenario, 0, index, source.warm_up(index)) for index in range(plan.warm_up)]
    await load.run(jobs, Arrival("closed"))  # never more at once than measured


def _jobs(scenario: Scenario, batch: Sequence[int], source: PromptSource) -> Iterator[Job]:
    for repeat in batch:
        for index in range(scenario.concurrency):
            yield Job(scenario, repeat, index, source.prompt(repeat, index))


async def _still_there(target: Target, path: Path) -> None:
    """Raise when a batch without a single answer was the server's end."""
    try:
        await _discover(target.url, target.headers)
    except CodesignError as error:
        raise CodesignError(
            f"the server at {without_userinfo(target.url)} stopped answering: start it again; the "
            f"same command goes on after what {path} has"
        ) from error


@asynccontextmanager
async def _ticker(
    load: Load, template: str, progress: Callable[[str], None]
) -> AsyncIterator[None]:
    """Say now and then how far a long batch has come."""

    async def tick() -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            line = template.format(load.answered)
            progress(f"  {line}, {time.monotonic() - begun:.0f} s")

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def _line(label: str, rows: Sequence[RequestResult], late_ms: float) -> str:
    totals = [row.total_ms for row in rows if row.status == "ok" and row.total_ms is not None]
    errors = [row.error for row in rows if row.status == "error"]
    line = f"{label}: {len(totals)} ok"
    if totals:
        line += f", median {statistics.median(totals):,.0f} ms"
    if errors:
        line += f", {len(errors)} failed ({errors[0]})"
    if late_ms > LATE_MS:
        # Its own lateness is in the times it reports: whoever reads them should know.
        line += f"; this client was up to {late_ms:.0f} ms late, the machine is short of CPU"
    return line
