"""The server under test: started with the plugin, its processes found, its level switched."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.procfs import CpuTime, CpuUsed, cpu_time, cpu_used
from vllm_codesign import settings as settings_module
from vllm_codesign.bench.placement import by_role
from vllm_codesign.bench.server import VllmServer
from vllm_codesign.recorder.session import Session, sessions

FLAGS = ("--enforce-eager", "--max-model-len", "8192", "--max-num-seqs", "64")
LEVELS = {name: number for number, name in enumerate(settings_module.LEVELS)}
ROLES = ("api_server", "engine_core", "worker")
_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Traced:
    """A running server's session and the pids of its processes by role."""

    session: Session
    pids: dict[str, int]

    def set_level(self, name: str) -> None:
        self.session.level = LEVELS[name]

    def cpu(self) -> dict[str, CpuTime]:
        """CPU time of each process by role, and of the exporter."""
        pids = {**self.pids, "exporter": self.session.exporter[0]}
        return {role: cpu_time(pid) for role, pid in pids.items()}


def used(before: dict[str, CpuTime], after: dict[str, CpuTime]) -> dict[str, CpuUsed]:
    return {role: cpu_used(before[role], after[role]) for role in before}


def server(
    model: Path,
    out: Path,
    name: str,
    plugins: str,
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> VllmServer:
    """A server with a store of its own, so that nobody's captures are touched."""
    return VllmServer(
        model,
        flags=[*FLAGS, "--served-model-name", "tiny", *flags],
        env={
            "VLLM_PLUGINS": plugins,
            "CODESIGN_LEVEL": "request",
            "CODESIGN_STORE": str(out / "store"),
            "CODESIGN_METRICS_PORT": "0",
            **(env or {}),
        },
        log_path=out / f"{name}.log",
    )


def traced(owner_pid: int) -> Traced:
    """The session that `owner_pid` owns, once every role records and the exporter runs."""
    settings, _ = settings_module.load()
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for session in sessions(settings.shm):
            if session.owner[0] == owner_pid and session.exporter[0]:
                # One of each: these benchmarks serve with one API server and one worker.
                pids = {role: each[0] for role, each in by_role(session).items()}
                if set(ROLES) <= pids.keys():
                    return Traced(session, {role: pids[role] for role in ROLES})
        time.sleep(0.2)
    raise RuntimeError(f"no complete session of server {owner_pid} in {settings.shm}")
