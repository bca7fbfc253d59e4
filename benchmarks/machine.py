"""What the figures were taken on, and how quiet it was."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import vllm_codesign
from vllm_codesign.hooks.installer import vllm_version
from vllm_codesign.micro.machine import field

ROOT = Path(__file__).parents[1]


def describe() -> dict[str, Any]:
    """Machine and versions."""
    return {
        "cpu": field(Path("/proc/cpuinfo"), "model name"),
        "cores": os.cpu_count(),
        "memory": field(Path("/proc/meminfo"), "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "vllm": vllm_version(),
        "torch": metadata.version("torch"),
        "codesign": vllm_codesign.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    process = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return process.stdout.strip()


def cpu_ticks(text: str) -> dict[str, int]:
    """The `cpu` line of /proc/stat: ticks of all cores since boot, by what they did (proc(5))."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    first = text.splitlines()[0].split()
    if first[0] != "cpu":
        raise ValueError(f"not /proc/stat: {first[0]!r}")
    return dict(zip(names, map(int, first[1 : 1 + len(names)]), strict=True))


def now() -> dict[str, Any]:
    """Load average and tick counts at this moment."""
    return {
        "load_average": os.getloadavg(),
        "ticks": cpu_ticks(Path("/proc/stat").read_text()),
    }


def steal_share(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Part of all ticks in between that the hypervisor gave to others."""
    spent = {name: after["ticks"][name] - count for name, count in before["ticks"].items()}
    return spent["steal"] / max(sum(spent.values()), 1)
