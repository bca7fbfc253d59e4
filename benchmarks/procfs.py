"""CPU time of processes from /proc, in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time of each thread of a process, by thread id."""

    threads: dict[int, int]


@dataclass(frozen=True, slots=True)
class CpuUsed:
    """CPU time between two snapshots.

    `exited` counts threads that ended in between: what they used after the first snapshot
    is not in `ns`, since the kernel shows schedstat for living threads only.
    """

    ns: int
    exited: int


def parse_schedstat(text: str) -> int:
    """Time on a CPU: the first of the three fields (proc(5); the others: wait, time slices)."""
    fields = text.split()
    if len(fields) != 3:
        raise ValueError(f"not a schedstat line: {text!r}")
    return int(fields[0])


def cpu_time(pid: int, proc: Path = PROC) -> CpuTime:
    """Snapshot of all threads of `pid`; raises FileNotFoundError where there is no such process."""
    threads = {}
    for task in (proc / str(pid) / "task").iterdir():
        try:
            threads[int(task.name)] = parse_schedstat((task / "schedstat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked: absent, as in the next snapshot
    return CpuTime(threads)


def cpu_used(before: CpuTime, after: CpuTime) -> CpuUsed:
    """What the threads of `after` used since `before`; new threads count in full."""
    used = sum(ns - before.threads.get(tid, 0) for tid, ns in after.threads.items())
    return CpuUsed(used, len(before.threads.keys() - after.threads.keys()))
