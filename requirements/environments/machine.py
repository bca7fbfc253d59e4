"""Checks before anything is downloaded: whatever would only fail after gigabytes."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shutil
import sys
from pathlib import Path

from .programs import SetupError

# Measured: 3.1 GB with the CPU build of torch, 6.2 GB (0.32.0) and 7.9 GB (0.19.0) with the
# CUDA build that PyPI offers; the rest is room for what uv unpacks on the way.
GIB = 1 << 30
ROOM_CPU = 4 * GIB
ROOM_CUDA = 9 * GIB
ROOM_PINS = 1 * GIB


def check_machine(*, vllm: bool) -> None:
    """Raise for whatever would only fail later, after gigabytes."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"{sys.executable} has no `venv` and `ensurepip` modules;"
            " on Debian and Ubuntu: apt-get install python3-venv"
        )
    if not vllm:
        return
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(
            "vLLM's CPU wheel is pinned for x86-64 Linux, this is"
            f" {platform.machine()} {platform.system()}; the plugin alone installs anywhere:"
            " pip install vllm-codesign"
        )
    flags = Path("/proc/cpuinfo").read_text()
    if " avx2" not in flags:
        raise SetupError("vLLM's CPU wheel needs a processor with AVX2, this one has none")
    for library, package in (("libnuma.so.1", "libnuma1"), ("libstdc++.so.6", "libstdc++6")):
        try:
            ctypes.CDLL(library)
        except OSError:
            raise SetupError(
                f"vLLM's CPU wheel needs {library}; on Debian and Ubuntu: apt-get install {package}"
            ) from None


def check_room(folder: Path, needed: int, what: str) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SetupError(
            f"{folder} has {free / GIB:.1f} GiB free, {what} takes {needed / GIB:.0f} GiB;"
            " make room, or put the checkout on a larger disk"
        )
