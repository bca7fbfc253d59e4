"""Who a process is, beyond a pid that may be reused."""

from __future__ import annotations

import os
from pathlib import Path


def start_ticks(pid: int) -> int:
    """Clock ticks from boot to the start of `pid` (field 22 of /proc/PID/stat); 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command name may hold spaces and brackets: count from the last bracket.
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def parent(pid: int) -> int:
    """Pid of the parent of `pid`; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def alive(pid: int, ticks: int) -> bool:
    """Whether the process that had `pid` and started at `ticks` still runs.

    A zombie counts as gone: it records nothing any more.
    """
    if pid <= 0 or start_ticks(pid) != ticks:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def pid_namespace() -> int:
    """Number of this process's pid namespace: pids of another one say nothing here. 0: unknown."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def identity() -> tuple[int, int]:
    """Pid and start of this process."""
    return os.getpid(), start_ticks(os.getpid())
