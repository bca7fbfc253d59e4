"""Which cores the processes of a server run on, and who goes first there.

EngineCore and the workers wait by calling `sched_yield` in a loop for up to a second
(`SpinCondition` in vLLM's shm_broadcast). Where processes outnumber cores, a process that
has work then at times waits for all of that second: whole slots stand still, at any level of
tracing and without it, the more often the more processes have something to do. So those that
spin get cores of their own, and whoever serves HTTP the others. Where there are none to give
away, niceness says who goes first.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_codesign import settings
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.recorder.session import Session, sessions

PROC = Path("/proc")
SPINNING = ("engine_core", "worker")
EXPORTER = "exporter"
ROLES = ("api_server", "engine_core", "worker", EXPORTER)
_FOUND_S = 20.0
"""A server is healthy before its exporter has said that it runs."""


def split(available: set[int], workers: set[int]) -> tuple[set[int], set[int]] | None:
    """(cores for what spins, cores for the rest); None where there is only one core.

    `workers`: the cores that vLLM has bound its worker to, which it keeps where others remain.
    """
    spinning = available & workers
    if not spinning or spinning == available:
        spinning = set(sorted(available)[: len(available) // 2])
    rest = available - spinning
    return (spinning, rest) if spinning and rest else None


def place(pids: Mapping[str, int], others: tuple[int, ...]) -> dict[str, list[int]]:
    """Pin the server's processes, by role, and `others`; returns the cores of each role.

    Empty where there is only one core to run on.
    """
    cores = split(os.sched_getaffinity(0), os.sched_getaffinity(pids["worker"]))
    if cores is None:
        return {}
    spinning, rest = cores
    placed = {}
    for role, pid in pids.items():
        mine = spinning if role in SPINNING else rest
        pin(pid, mine)
        placed[role] = sorted(mine)
    for pid in others:
        pin(pid, rest)
    return placed


def pin(pid: int, cores: set[int], proc: Path = PROC) -> None:
    """All threads of `pid` onto `cores`; threads that they make later inherit it."""
    _each_thread(pid, lambda thread: os.sched_setaffinity(thread, cores), proc)


def renice(pid: int, nice: int, proc: Path = PROC) -> None:
    """All threads of `pid`, for which Linux keeps niceness; new ones inherit their maker's."""
    _each_thread(pid, lambda thread: os.setpriority(os.PRIO_PROCESS, thread, nice), proc)


def _each_thread(pid: int, change: Callable[[int], None], proc: Path) -> None:
    for task in (proc / str(pid) / "task").iterdir():
        try:
            change(int(task.name))
        except ProcessLookupError:
            continue  # it ended while we looked


def parse_cores(text: str) -> set[int]:
    """`0-3,8` as a set of cores, as the kernel writes it. Raises ValueError."""
    cores: set[int] = set()
    for each in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", each)
        if found is None:
            raise ValueError(f"{text!r} is no list of cores such as 0-3,8")
        numbers = range(int(found[1]), int(found[2] or found[1]) + 1)
        if not numbers:
            raise ValueError(f"{each!r} begins after its end")
        cores.update(numbers)
    return cores


def by_role(session: Session) -> dict[str, list[int]]:
    """Pids of a server's processes, by what vLLM runs in them; one may have several roles."""
    found: dict[str, list[int]] = {}
    for path in sorted(session.folder.glob("process-*.hooks.json")):
        said = json.loads(path.read_text())
        for role in said["roles"]:
            found.setdefault(role, []).append(said["pid"])
    if session.exporter[0]:
        found[EXPORTER] = [session.exporter[0]]
    return found


@dataclass(frozen=True, slots=True)
class Roles:
    """What is asked for the processes of a server, by their role."""

    cores: Mapping[str, set[int]] = field(default_factory=dict)
    nice: Mapping[str, int] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """The roles that something is asked for."""
        return sorted({*self.cores, *self.nice})


def place_roles(owner_pid: int, roles: Roles) -> dict[str, list[int]]:
    """Place the processes of the server that `owner_pid` began; returns their pids by role.

    Raises CodesignError where a role has no process that we know of, its cores are not there, or
    the kernel does not allow it.
    """
    missing = roles.asked
    deadline = time.monotonic() + _FOUND_S
    while missing and time.monotonic() < deadline:
        pids = next((by_role(each) for each in _owned(owner_pid)), {})
        missing = [role for role in roles.asked if role not in pids]
        if not missing:
            for role, wanted in roles.cores.items():
                _pin_all(role, pids[role], wanted)
            for role, nice in roles.nice.items():
                _renice_all(role, pids[role], nice)
            return {role: pids[role] for role in roles.asked}
        time.sleep(0.2)
    raise CodesignError(
        f"cores, nice: no process with the role {missing[0]} was found in server {owner_pid}; "
        "roles are known of servers with the plugin only: leave VLLM_PLUGINS unset or name "
        "codesign in it"
    )


def _owned(owner_pid: int) -> Iterator[Session]:
    for session in sessions(settings.load()[0].shm):
        if session.owner[0] == owner_pid:
            yield session


def _pin_all(role: str, pids: list[int], wanted: set[int]) -> None:
    for pid in pids:
        try:
            pin(pid, wanted)
        except OSError as error:
            raise CodesignError(
                f"cores: {role} cannot run on {sorted(wanted)} ({error.strerror}): this process "
                f"may use {sorted(os.sched_getaffinity(0))}"
            ) from error


def _renice_all(role: str, pids: list[int], nice: int) -> None:
    for pid in pids:
        try:
            renice(pid, nice)
        except PermissionError as error:
            raise CodesignError(
                f"nice: {role} cannot be set to {nice} ({error.strerror}): it has more already, "
                "or is another user's"
            ) from error
        except OSError as error:
            raise CodesignError(
                f"nice: {role} cannot be set to {nice} ({error.strerror}): has the server ended?"
            ) from error
