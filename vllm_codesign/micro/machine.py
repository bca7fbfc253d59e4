"""Where the figures were taken: processor, Python, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from vllm_codesign import __version__
from vllm_codesign.hooks.installer import installed_version, vllm_version

_LIBRARIES = ("torch", "transformers", "tokenizers", "pydantic", "lmcache")


def describe() -> dict[str, str]:
    """All of it as text; what is not installed says so."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    versions = {"vllm": vllm_version(), **{name: installed_version(name) for name in _LIBRARIES}}
    return {
        "cpu": field(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown",
        "cores": f"{len(usable) or os.cpu_count()} of {os.cpu_count()}",
        "load": f"{os.getloadavg()[0]:.2f} when it began",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version or "not installed" for name, version in versions.items()},
        "codesign": __version__,
    }


def field(path: Path, name: str) -> str:
    """The first value of that name in one of /proc's tables; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
