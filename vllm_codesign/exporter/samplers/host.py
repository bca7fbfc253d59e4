"""Where vLLM's processes may run: affinity, NUMA nodes, cpufreq governors. For `run.json`.

These hardly ever change, so they are facts of the run and no series: looked up when a process
appears and once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from vllm_codesign.exporter.samplers.sampler import Process
from vllm_codesign.store.capture import CpuFacts, ProcessCpus

logger = logging.getLogger(__name__)

LOOK_AGAIN_NS = 60_000_000_000
_CPU = "devices/system/cpu"
_NODE = "devices/system/node"


def parse_cpus(text: str) -> frozenset[int]:
    """A kernel's list of numbers, `0-3,8,10-11`. Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if not part.strip():
            continue
        first, dash, last = part.partition("-")
        begin, end = int(first), int(last) if dash else int(first)
        if begin < 0 or end < begin or end - begin > 1 << 16:
            raise ValueError(f"no list of CPUs: {text[:80]!r}")
        found.update(range(begin, end + 1))
    return frozenset(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """The reverse of `parse_cpus`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


def parse_allowed(status: str) -> frozenset[int]:
    """`Cpus_allowed_list` of a /proc status file. Raises ValueError."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return parse_cpus(value)
    raise ValueError("no Cpus_allowed_list")


class HostFacts:
    """`proc` and `sys` are /proc and /sys, or folders like them."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._proc = proc
        self._sys = sys
        self._facts: CpuFacts | None = None
        self._of: tuple[Process, ...] = ()
        self._looked_ns = 0
        self._said = False

    def look(self, now_ns: int, processes: Iterable[Process]) -> CpuFacts:
        """The facts, looked up again where they are due."""
        wanted = tuple(processes)
        due = now_ns - self._looked_ns > LOOK_AGAIN_NS
        if self._facts is None or due or wanted != self._of:
            self._of, self._looked_ns = wanted, now_ns
            self._facts = self._look(wanted)
        return self._facts

    def _look(self, processes: tuple[Process, ...]) -> CpuFacts:
        nodes = self.nodes()
        before = {known.pid: known for known in self._facts.processes} if self._facts else {}
        for process in processes:
            # One that is gone keeps what was known of it.
            if cpus := self.allowed(process.pid):
                before[process.pid] = ProcessCpus(
                    pid=process.pid,
                    role=process.role,
                    cpus=format_cpus(cpus),
                    cpu_count=len(cpus),
                    numa_nodes=sorted(n for n, members in nodes.items() if members & cpus),
                )
        return CpuFacts(
            numa_nodes={str(node): format_cpus(cpus) for node, cpus in sorted(nodes.items())},
            governors={name: format_cpus(cpus) for name, cpus in sorted(self.governors().items())},
            processes=list(before.values()),
        )

    def allowed(self, pid: int) -> frozenset[int]:
        """CPUs that any thread of `pid` may run on; empty where it is gone.

        vLLM's CPU worker pins its threads one by one: no thread speaks for the others.
        """
        found: set[int] = set()
        for path in self._list(self._proc / str(pid) / "task", "*/status"):
            try:
                found |= parse_allowed(path.read_text(errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended
            except (OSError, ValueError) as error:
                self._say(path, error)
        return frozenset(found)

    def nodes(self) -> dict[int, frozenset[int]]:
        """CPUs by NUMA node; empty where the kernel tells of none."""
        return {
            int(path.parent.name.removeprefix("node")): cpus
            for path, cpus in self._read(self._list(self._sys / _NODE, "node[0-9]*/cpulist"))
        }

    def governors(self) -> dict[str, frozenset[int]]:
        """CPUs by cpufreq governor; empty where nobody governs (most virtual machines)."""
        found: dict[str, set[int]] = {}
        for path in self._list(self._sys / _CPU, "cpu[0-9]*/cpufreq/scaling_governor"):
            try:
                name = path.read_text().strip()
            except OSError as error:  # a CPU that is offline has none
                self._say(path, error)
                continue
            number = path.parent.parent.name.removeprefix("cpu")
            if name and number.isdecimal():
                found.setdefault(name, set()).add(int(number))
        return {name: frozenset(cpus) for name, cpus in found.items()}

    def _list(self, folder: Path, pattern: str) -> list[Path]:
        try:
            return sorted(folder.glob(pattern))
        except OSError:  # a process that ends while it is listed
            return []

    def _read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, frozenset[int]]]:
        for path in paths:
            try:
                yield path, parse_cpus(path.read_text())
            except (OSError, ValueError) as error:
                self._say(path, error)

    def _say(self, path: Path, error: Exception) -> None:
        if not self._said:
            self._said = True
            logger.warning("codesign: facts of the host are not whole: %s: %s", path, error)
