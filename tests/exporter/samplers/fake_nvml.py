"""nvidia-ml-py's answers, in the shapes of its release 13.615: module, structures, errors.

Recorded from its source: `nvmlDeviceGetMemoryInfo` and `...UtilizationRates` return ctypes
structures, names and UUIDs are str, power is milliwatts, memory bytes, what a device does not
have raises `NVMLError_NotSupported`.
"""

import ctypes
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 12: "NVML Shared Library Not Found", 15: "GPU is lost"}[
            self.value
        ]


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class c_nvmlMemory_t(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class c_nvmlUtilization_t(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


GIB = 1 << 30


class FakeNvml:
    """An H100, and a MIG slice that has neither utilization nor power of its own."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.without_driver = False
        self.lost = False

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.lost:
            raise NVMLError_GpuIsLost(15)

    def nvmlInit(self) -> None:
        if self.without_driver:
            raise NVMLError_LibraryNotFound(12)
        self.calls.append("nvmlInit")

    def nvmlShutdown(self) -> None:
        self.calls.append("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return ctypes.pointer(ctypes.c_int(index))

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return ("GPU-3f2c0e5a", "MIG-77aa")[handle.contents.value]

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return ("NVIDIA H100 80GB HBM3", "NVIDIA H100 MIG 1g.10gb")[handle.contents.value]

    def _only_whole(self, handle: Any) -> None:
        if handle.contents.value:
            raise NVMLError_NotSupported(3)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> c_nvmlUtilization_t:
        self._called("utilization")
        self._only_whole(handle)
        return c_nvmlUtilization_t(gpu=87, memory=41)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> c_nvmlMemory_t:
        self._called("memory")
        total = (80 * GIB, 10 * GIB)[handle.contents.value]
        return c_nvmlMemory_t(total=total, free=total - 6 * GIB, used=6 * GIB)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        self._called("power")
        self._only_whole(handle)
        return 612_345

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        self._called("temperature")
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 58
