"""What `codesign doctor` says of the host: GPU telemetry, CPUs, and looking for the GIL."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from vllm_codesign.cli.checks import Finding
from vllm_codesign.exporter.samplers.gpu import Backend, Found, backends, expected, find
from vllm_codesign.exporter.samplers.host import HostFacts, format_cpus
from vllm_codesign.hooks import gil as gil_hook
from vllm_codesign.settings import Settings

UNVERIFIED = (
    "GPU device time unverified: tests/gpu/test_device_time.py has not been run on a GPU of any "
    "kind; everything else of a trace does not depend on it"
)


def gpus(candidates: list[Backend] | None = None, dev: Path = Path("/dev")) -> Iterator[Finding]:
    """Whether the exporter will find GPUs to sample, or why not."""
    candidates = backends() if candidates is None else candidates
    found = find(candidates)
    if isinstance(found, Found):
        names = Counter(gpu.name for gpu in found.gpus)
        listed = ", ".join(f"{count} x {name}" for name, count in names.items())
        yield Finding("note", "gpu telemetry", f"by {found.backend.library}: {listed}")
        yield Finding("warning", "device time", UNVERIFIED)
        found.backend.close()
    else:
        # Where there is no GPU there is nothing to miss.
        severity: Literal["warning", "note"] = "warning" if expected(candidates, dev) else "note"
        yield Finding(severity, "gpu telemetry", f"none: {'; '.join(found)}")
        if severity == "warning":
            yield Finding("warning", "device time", UNVERIFIED)
        else:
            yield Finding("note", "device time", "wall time of the same stretches: there is no GPU")


def cpus(facts: HostFacts | None = None) -> Iterator[Finding]:
    """Where a server that is started from this shell may run."""
    facts = HostFacts() if facts is None else facts
    allowed = frozenset(os.sched_getaffinity(0))
    nodes = [str(node) for node, members in sorted(facts.nodes().items()) if members & allowed]
    governors = sorted(name for name, governed in facts.governors().items() if governed & allowed)
    text = f"{len(allowed)} CPUs ({format_cpus(allowed)})"
    if nodes:
        text += f" on NUMA node{'s' if len(nodes) > 1 else ''} {', '.join(nodes)}"
    text += f"; governor {', '.join(governors) or 'unknown: this kernel tells of none'}"
    if "powersave" in governors:
        text += " (with intel_pstate or amd_pstate active that is usual; else it costs speed)"
    yield Finding("note", "cpu", text)


def gil(settings: Settings) -> Iterator[Finding]:
    """Whether contention for the GIL is recorded."""
    if not settings.gil:
        yield Finding("note", "gil", "contention is not recorded (CODESIGN_GIL=1 does)")
    elif gil_hook.installed():
        yield Finding("note", "gil", "contention is recorded; a busy Python loop pays up to 4 %")
    else:
        yield Finding("warning", "gil", gil_hook.MISSING)
