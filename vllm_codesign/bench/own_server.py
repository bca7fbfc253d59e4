"""A run against a server that we start, traced into a capture beside the results."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_codesign import settings
from vllm_codesign.bench import results
from vllm_codesign.bench.placement import Roles, place_roles
from vllm_codesign.bench.run import Plan, execute
from vllm_codesign.bench.server import VllmServer, say
from vllm_codesign.model.bench import BenchRun
from vllm_codesign.recorder.command_line import without_secrets
from vllm_codesign.store.capture import Capture, captures

CAPTURE_STORE = "capture-store"
_DRAIN_S = 15.0
"""The exporter closes its segments within 5 s of the server's end; a busy machine is slower."""


@dataclass(frozen=True, slots=True)
class OwnServer:
    """What to serve and with which flags; `start_timeout_s` until it must be healthy.

    `env` is added to the environment, whatever that says.
    """

    model: str
    flags: tuple[str, ...] = ()
    python: str = sys.executable
    start_timeout_s: float = 900.0
    env: Mapping[str, str] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)
    """Set for its processes once the server is up."""


def execute_with(
    server: OwnServer, plan: Plan, out: Path, progress: Callable[[str], None] = say
) -> BenchRun:
    """Start the server, make the run, stop the server, note its capture; return the run.

    Where the environment does not say otherwise the server is traced, into
    `out/capture-store`. A run that is complete already starts no server.
    """
    path = out / results.FILE_NAME
    defaults = {
        "VLLM_PLUGINS": "codesign",
        settings.ENV_STORE: str((out / CAPTURE_STORE).absolute()),
    }
    environment = {**defaults, **os.environ}
    store = settings.load(environment)[0].store
    before = {capture.path for capture in captures(store)} if store else set()
    resumed = results.read(path)
    vllm = VllmServer(
        server.model,
        flags=server.flags,
        env={name: environment[name] for name in defaults} | dict(server.env),
        python=server.python,
        log_path=out / "server.log",
        timeout_s=server.start_timeout_s,
        progress=progress,
    )
    if resumed is not None:
        _check_before_start(path, resumed, plan, vllm)
        if resumed.requests and not plan.pending(resumed):
            progress(f"{path} is complete: nothing to do")
            return resumed
    try:
        with vllm:
            if server.roles.asked:
                pids = place_roles(vllm.pid, server.roles)
                progress(f"processes: {_roles_line(server.roles, pids)}")
            run = asyncio.run(
                execute(plan, vllm.url, path, server_command=vllm.command, progress=progress)
            )
    finally:
        # Also of a run that was interrupted: what it has is worth reading.
        if store is not None:
            _note_capture(path, store, before, resumed, progress)
    return results.read(path) or run


def _roles_line(roles: Roles, pids: Mapping[str, list[int]]) -> str:
    said = []
    for role in roles.asked:
        line = f"{role} {pids[role]}"
        if role in roles.cores:
            line += f" on {','.join(map(str, sorted(roles.cores[role])))}"
        if role in roles.nice:
            line += f" at nice {roles.nice[role]}"
        said.append(line)
    return ", ".join(said)


def _check_before_start(path: Path, old: BenchRun, plan: Plan, vllm: VllmServer) -> None:
    """Refuse a folder of another run now, and not after a minute's start."""
    asked = old.model_copy(
        update={
            "scenarios": list(plan.scenarios),
            "arrival": str(plan.arrival),
            "server_command": without_secrets(vllm.command),
            "url": vllm.url,
        }
    )
    results.check_same(path, old, asked)


def _note_capture(
    path: Path,
    store: Path,
    before: set[Path],
    resumed: BenchRun | None,
    progress: Callable[[str], None],
) -> None:
    new = [capture for capture in captures(store) if capture.path not in before]
    run = results.read(path)
    if run is None or not new:
        return
    if len(new) > 1 or (resumed is not None and resumed.requests):
        progress(f"the run is spread over several captures in {store}: analyze them one by one")
        results.write(path, run.model_copy(update={"capture": None}))
        return
    if not _drained(new[0]):
        progress(f"{new[0].path} is not complete yet: its exporter is still writing, or has died")
    results.write(path, run.model_copy(update={"capture": str(new[0].path)}))


def _drained(capture: Capture) -> bool:
    """Wait until the exporter has written all that the server recorded."""
    deadline = time.monotonic() + _DRAIN_S
    while time.monotonic() < deadline:
        if capture.run_file.exists() and capture.load().complete:
            return True
        time.sleep(0.1)
    return False
