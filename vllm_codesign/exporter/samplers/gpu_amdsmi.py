"""AMD's GPUs, by amdsmi, the Python package that comes with ROCm."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from vllm_codesign import semconv
from vllm_codesign.semconv import Series

_PERCENT = 0.01
_UNSUPPORTED = frozenset((2, 3))
"""AMDSMI_STATUS_NOT_SUPPORTED, AMDSMI_STATUS_NOT_YET_IMPLEMENTED."""
_POWER = ("current_socket_power", "average_socket_power", "socket_power")
"""In W. MI300 has the first, MI200 and Radeon the second; the third is ROCm 7's for all."""
_MAX_W = 10_000
_MAX_CELSIUS = 1_000


class AmdSmi:
    """Answers in the units of amdsmi: percent, bytes, watts, degrees Celsius.

    A field that a device does not have is "N/A", or all ones where a release forgets that.
    """

    library = "amdsmi"
    vendor = "AMD"
    device = "kfd"

    def __init__(self) -> None:
        self._smi: Any = None

    def open(self) -> list[tuple[str, str, Any]]:
        smi = self._smi = importlib.import_module("amdsmi")
        smi.amdsmi_init()
        return [
            (smi.amdsmi_get_gpu_device_uuid(handle), self._name(handle), handle)
            for handle in smi.amdsmi_get_processor_handles()
        ]

    def _name(self, handle: Any) -> str:
        name = self._smi.amdsmi_get_gpu_asic_info(handle).get("market_name", "N/A")
        return "AMD GPU" if name == "N/A" else str(name)

    def figures(self, handle: Any) -> Mapping[Series, Callable[[], float | None]]:
        smi = self._smi
        vram = smi.AmdSmiMemoryType.VRAM
        return {
            semconv.GPU_UTILIZATION: lambda: utilization(smi.amdsmi_get_gpu_activity(handle)),
            semconv.GPU_MEMORY_USAGE: lambda: float(smi.amdsmi_get_gpu_memory_usage(handle, vram)),
            semconv.GPU_MEMORY_LIMIT: lambda: float(smi.amdsmi_get_gpu_memory_total(handle, vram)),
            semconv.HW_POWER: lambda: power(smi.amdsmi_get_power_info(handle)),
            semconv.HW_TEMPERATURE: lambda: self._temperature(handle),
        }

    def _temperature(self, handle: Any) -> float | None:
        smi, sensor = self._smi, self._smi.AmdSmiTemperatureType
        current = smi.AmdSmiTemperatureMetric.CURRENT
        try:
            value = smi.amdsmi_get_temp_metric(handle, sensor.HOTSPOT, current)
        except smi.AmdSmiLibraryException as error:
            # The boards of data centres have no EDGE, some others no HOTSPOT.
            if not self.unsupported(error):
                raise
            value = smi.amdsmi_get_temp_metric(handle, sensor.EDGE, current)
        return celsius(value)

    def why_not(self, error: Exception) -> str:
        if isinstance(error, ModuleNotFoundError):
            return "not installed (it comes with ROCm: pip install /opt/rocm/share/amd_smi)"
        # The library's own text has line breaks and tabs.
        return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def unsupported(self, error: Exception) -> bool:
        return (
            isinstance(error, self._smi.AmdSmiLibraryException)
            and error.get_error_code() in _UNSUPPORTED
        )

    def close(self) -> None:
        self._smi.amdsmi_shut_down()


def _number(value: object) -> float | None:
    """The number, where it is one: not "N/A"."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def utilization(activity: Mapping[str, object]) -> float | None:
    """Of `amdsmi_get_gpu_activity`, 0 to 1."""
    percent = _number(activity.get("gfx_activity"))
    return percent * _PERCENT if percent is not None and 0 <= percent <= 100 else None


def power(info: Mapping[str, object]) -> float | None:
    """Of `amdsmi_get_power_info`, in W: the first field that says more than 0."""
    found = [watts for name in _POWER if (watts := _number(info.get(name))) is not None]
    sound = [watts for watts in found if 0 <= watts < _MAX_W]
    return next((watts for watts in sound if watts), sound[0] if sound else None)


def celsius(value: object) -> float | None:
    """Of `amdsmi_get_temp_metric`: degrees, in the first releases thousandths of them."""
    degrees = _number(value)
    if degrees is None:
        return None
    return degrees / 1000 if degrees > _MAX_CELSIUS else degrees
