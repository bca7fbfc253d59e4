"""Which core each process runs on while figure (c) is taken.

EngineCore and the workers wait by calling `sched_yield` in a loop for up to a second
(`SpinCondition` in vLLM's shm_broadcast). Where processes outnumber cores, a process that
has work then at times waits for all of that second: whole slots stand still, at any level of
tracing and without it, the more often the more processes have something to do. So those that
spin get cores of their own, and whoever serves HTTP the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")
SPINNING = ("engine_core", "worker")


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
    for task in (proc / str(pid) / "task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # it ended while we looked
