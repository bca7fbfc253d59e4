"""NVIDIA's GPUs, by nvidia-ml-py (module `pynvml`)."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_codesign import semconv
from vllm_codesign.semconv import Series

_PERCENT = 0.01
_MILLI = 0.001


class Nvml:
    """Answers in the units of NVML: percent, bytes, milliwatts, degrees Celsius."""

    library = "nvidia-ml-py"
    vendor = "NVIDIA"
    device = "nvidiactl"

    def __init__(self) -> None:
        self._nvml: Any = None

    def open(self) -> list[tuple[str, str, Any]]:
        nvml = self._nvml = load()
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [
            (_text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle)), handle)
            for handle in handles
        ]

    def figures(self, handle: Any) -> Mapping[Series, Callable[[], float | None]]:
        nvml = self._nvml
        sensor = nvml.NVML_TEMPERATURE_GPU
        return {
            semconv.GPU_UTILIZATION: lambda: (
                nvml.nvmlDeviceGetUtilizationRates(handle).gpu * _PERCENT
            ),
            semconv.GPU_MEMORY_USAGE: lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used),
            semconv.GPU_MEMORY_LIMIT: lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            semconv.HW_POWER: lambda: nvml.nvmlDeviceGetPowerUsage(handle) * _MILLI,
            semconv.HW_TEMPERATURE: lambda: float(nvml.nvmlDeviceGetTemperature(handle, sensor)),
        }

    def why_not(self, error: Exception) -> str:
        if isinstance(error, ImportError):
            return "not installed (pip install nvidia-ml-py)"
        return f"{type(error).__name__}: {error}"

    def unsupported(self, error: Exception) -> bool:
        return isinstance(error, self._nvml.NVMLError_NotSupported)

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def load() -> Any:
    """`pynvml`, or the copy of it that vLLM brings. Raises ImportError."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        copy = _vllms_copy()
        if copy is None:
            raise
        return copy


def _vllms_copy() -> Any:
    """vLLM's `third_party/pynvml.py`, by its path: importing vLLM here would import torch."""
    vllm = importlib.util.find_spec("vllm")
    for folder in (vllm.submodule_search_locations or ()) if vllm is not None else ():
        path = Path(folder) / "third_party" / "pynvml.py"
        spec = importlib.util.spec_from_file_location("codesign_pynvml", path)
        if path.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # it looks itself up to make its error classes
            spec.loader.exec_module(module)
            return module
    return None


def _text(value: str | bytes) -> str:
    # Bytes in releases before 11.5.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
