"""What the kernel says of vLLM's threads: CPU time, waiting for a CPU, context switches.

From /proc, once a second. Every process has a row of sums. Threads have rows of their own
where they matter: the BUSIEST of a process, and of these only those that ran or waited for
more than MIN_SHARE of the interval. A server with 200 threads writes a handful of rows.

The sums are over the threads that live at both looks: what a thread did between its last
look and its end is lost, at most a second of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vllm_codesign import semconv
from vllm_codesign.exporter.samplers.sampler import Process, Sample
from vllm_codesign.model.trace import AttributeValue

logger = logging.getLogger(__name__)

BUSIEST = 5
MIN_SHARE = 0.05
_S = 1e-9


class Scheduled(NamedTuple):
    """`/proc/PID/task/TID/schedstat`: both since the thread's start."""

    ran_ns: int
    waited_ns: int
    """Runnable, and another had the CPU."""


class Switches(NamedTuple):
    """Of `/proc/PID/task/TID/status`: context switches since the thread's start."""

    voluntary: int
    involuntary: int


class Unreadable(ValueError):
    """A file of /proc is not what it should be."""


def parse_schedstat(text: str) -> Scheduled:
    """Raises `Unreadable`."""
    numbers = text.split()
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise Unreadable(f"schedstat: {text[:80]!r}")
    return Scheduled(int(numbers[0]), int(numbers[1]))


def parse_status(text: str) -> tuple[str, Switches]:
    """Name and context switches of a thread. Raises `Unreadable`."""
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        return values["Name"].strip(), Switches(
            int(values["voluntary_ctxt_switches"]), int(values["nonvoluntary_ctxt_switches"])
        )
    except (KeyError, ValueError) as error:
        raise Unreadable(f"status: {text[:80]!r}") from error


@dataclass(slots=True)
class _Thread:
    scheduled: Scheduled
    switches: Switches | None
    name: str = ""


@dataclass(slots=True)
class _Process:
    at_ns: int
    threads: dict[int, _Thread] = field(default_factory=dict)


class _Load(NamedTuple):
    """Of one thread over one interval."""

    tid: int
    name: str
    ran_ns: int
    waited_ns: int
    voluntary: int
    involuntary: int


class Threads:
    """Of the processes that it is told of, each from its second sample on.

    `proc` is /proc, or a folder like it.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[int, _Process] = {}
        self._said = False
        self.processes: Iterable[Process] = ()
        """Whom to look at in the next sample."""

    def forget(self) -> None:
        """Begin anew: the next sample counts from itself on."""
        self._known.clear()

    def sample(self, now_ns: int) -> Iterator[Sample]:
        known, self._known = self._known, {}
        for process in self.processes:
            before = known.get(process.pid)
            after = self._look(process.pid, now_ns, before)
            if after is None:
                continue
            self._known[process.pid] = after
            if before is not None and now_ns > before.at_ns:
                yield from _samples(process, _loads(before, after), now_ns, now_ns - before.at_ns)

    def _look(self, pid: int, now_ns: int, before: _Process | None) -> _Process | None:
        """All threads of a process; None where it is gone."""
        folder = f"{self._proc}/{pid}/task"
        try:
            tids = [int(name) for name in os.listdir(folder)]
        except OSError:  # it has ended, which is no error
            return None
        found = _Process(now_ns)
        for tid in tids:
            last = before.threads.get(tid) if before is not None else None
            thread = self._thread(f"{folder}/{tid}", last)
            if thread is not None:
                found.threads[tid] = thread
        return found

    def _thread(self, folder: str, last: _Thread | None) -> _Thread | None:
        """One thread; None where it is gone or says nothing that can be read."""
        try:
            scheduled = parse_schedstat(_read(f"{folder}/schedstat"))
            if last is not None and scheduled == last.scheduled:
                return last  # it has not run, so it has not been switched either
            name, switches = parse_status(_read(f"{folder}/status"))
        except FileNotFoundError as error:
            # Ended since the listing; or this kernel has no schedstat, which is worth a word.
            if os.path.isdir(folder):
                self._say(error)
            return None
        except ProcessLookupError:
            return None
        except (OSError, Unreadable) as error:
            self._say(error)
            return None
        return _Thread(scheduled, switches, name)

    def _say(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            logger.warning("codesign: threads cannot be sampled, or not all: %s", error)


def _read(path: str) -> str:
    """A small file of /proc; without a file object, since there are two for every thread."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 8192).decode("utf-8", "replace")
    finally:
        os.close(file)


def _loads(before: _Process, after: _Process) -> list[_Load]:
    loads = []
    nothing = _Thread(Scheduled(0, 0), Switches(0, 0))
    for tid, now in after.threads.items():
        then = before.threads.get(tid, nothing)  # one that was not there began in between
        if now.scheduled.ran_ns < then.scheduled.ran_ns:
            then = nothing  # its number was given to a new thread
        new, old = now.switches or Switches(0, 0), then.switches or Switches(0, 0)
        loads.append(
            _Load(
                tid,
                now.name,
                now.scheduled.ran_ns - then.scheduled.ran_ns,
                max(0, now.scheduled.waited_ns - then.scheduled.waited_ns),
                max(0, new.voluntary - old.voluntary),
                max(0, new.involuntary - old.involuntary),
            )
        )
    return loads


_PROCESS = (
    semconv.PROCESS_CPU,
    semconv.PROCESS_RUN_QUEUE_WAIT,
    semconv.PROCESS_CONTEXT_SWITCHES,
)
_THREAD = (semconv.THREAD_CPU, semconv.THREAD_RUN_QUEUE_WAIT, semconv.THREAD_CONTEXT_SWITCHES)


def _samples(
    process: Process, loads: list[_Load], now_ns: int, interval_ns: int
) -> Iterator[Sample]:
    who: dict[str, AttributeValue] = {semconv.PROCESS_PID.key: process.pid}
    if process.role:
        who[semconv.PROCESS_ROLE.key] = process.role
    total = _Load(
        0,
        "",
        sum(load.ran_ns for load in loads),
        sum(load.waited_ns for load in loads),
        sum(load.voluntary for load in loads),
        sum(load.involuntary for load in loads),
    )
    yield from _rows(_PROCESS, total, now_ns, interval_ns, who)
    for load in busiest(loads, interval_ns):
        thread = {**who, semconv.THREAD_ID.key: load.tid, semconv.THREAD_NAME.key: load.name}
        yield from _rows(_THREAD, load, now_ns, interval_ns, thread)


def busiest(loads: list[_Load], interval_ns: int) -> list[_Load]:
    """The threads that get rows of their own, the busiest first."""
    matter = [x for x in loads if x.ran_ns + x.waited_ns > MIN_SHARE * interval_ns]
    return sorted(matter, key=lambda x: x.ran_ns + x.waited_ns, reverse=True)[:BUSIEST]


def _rows(
    series: tuple[semconv.Series, semconv.Series, semconv.Series],
    load: _Load,
    now_ns: int,
    interval_ns: int,
    who: dict[str, AttributeValue],
) -> Iterator[Sample]:
    cpu, wait, switches = series
    yield Sample(now_ns, cpu, load.ran_ns / interval_ns, who)
    yield Sample(now_ns, wait, load.waited_ns / interval_ns, who)
    for kind, count in (("voluntary", load.voluntary), ("involuntary", load.involuntary)):
        attributes = {**who, semconv.CONTEXT_SWITCH_TYPE.key: kind}
        yield Sample(now_ns, switches, count / (interval_ns * _S), attributes)
