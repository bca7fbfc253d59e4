"""amdsmi's answers, in the shapes of ROCm 6.2 to 7: dictionaries with "N/A" in them.

Recorded from its Python interface: `amdsmi_get_gpu_activity` and `amdsmi_get_power_info` put
"N/A" where the driver gave all ones, memory is bytes, temperature whole degrees, and what a
board does not have raises `AmdSmiLibraryException` with AMDSMI_STATUS_NOT_SUPPORTED.
"""

from enum import IntEnum
from typing import Any

NOT_SUPPORTED, DRM_ERROR, DRIVER_NOT_LOADED = 2, 6, 34


class AmdSmiException(Exception):
    pass


class AmdSmiLibraryException(AmdSmiException):
    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = abs(err_code)

    def __str__(self) -> str:
        names = {
            2: "AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported",
            6: "AMDSMI_STATUS_DRM_ERROR - Error when called libdrm",
            34: "AMDSMI_STATUS_DRIVER_NOT_LOADED - Driver not loaded",
        }
        return f"Error code:\n\t{self.err_code} | {names[self.err_code]}"

    def get_error_code(self) -> int:
        return self.err_code


class _MemoryType(IntEnum):
    VRAM = 0
    VIS_VRAM = 1
    GTT = 2


class _TemperatureType(IntEnum):
    EDGE = 0
    HOTSPOT = 1
    VRAM = 2


class _TemperatureMetric(IntEnum):
    CURRENT = 0


MI300X: dict[str, Any] = {
    "uuid": "8eff74a1-0000-1000-80d4-1e0e2c7c5a3f",
    "asic": {"market_name": "AMD Instinct MI300X", "vendor_id": "0x1002", "oam_id": 3},
    "activity": {"gfx_activity": 93, "umc_activity": 21, "mm_activity": "N/A"},
    "power": {
        "current_socket_power": 652,
        "average_socket_power": "N/A",
        "gfx_voltage": "N/A",
        "soc_voltage": "N/A",
        "mem_voltage": "N/A",
        "power_limit": 750_000_000,
    },
    "used": 41_000_000_000,
    "total": 206_141_652_992,
    "temperatures": {_TemperatureType.HOTSPOT: 71},
}
RADEON: dict[str, Any] = {
    "uuid": "6fff7480-0000-1000-8022-aa",
    "asic": {"market_name": "N/A", "vendor_id": "0x1002", "oam_id": "N/A"},
    "activity": {"gfx_activity": "N/A", "umc_activity": "N/A", "mm_activity": "N/A"},
    "power": {"current_socket_power": "N/A", "average_socket_power": 28, "power_limit": 190},
    "used": 1_000_000_000,
    "total": 8_573_157_376,
    "temperatures": {_TemperatureType.EDGE: 44},
}


class FakeAmdSmi:
    AmdSmiException = AmdSmiException
    AmdSmiLibraryException = AmdSmiLibraryException
    AmdSmiMemoryType = _MemoryType
    AmdSmiTemperatureType = _TemperatureType
    AmdSmiTemperatureMetric = _TemperatureMetric

    def __init__(self, *boards: dict[str, Any]) -> None:
        self.boards = boards
        self.without_driver = False
        self.ended = False

    def amdsmi_init(self) -> None:
        if self.without_driver:
            raise AmdSmiLibraryException(DRIVER_NOT_LOADED)

    def amdsmi_shut_down(self) -> None:
        self.ended = True

    def amdsmi_get_processor_handles(self) -> list[dict[str, Any]]:
        return list(self.boards)

    def amdsmi_get_gpu_device_uuid(self, handle: dict[str, Any]) -> str:
        return str(handle["uuid"])

    def amdsmi_get_gpu_asic_info(self, handle: dict[str, Any]) -> dict[str, Any]:
        return dict(handle["asic"])

    def amdsmi_get_gpu_activity(self, handle: dict[str, Any]) -> dict[str, Any]:
        return dict(handle["activity"])

    def amdsmi_get_power_info(self, handle: dict[str, Any]) -> dict[str, Any]:
        return dict(handle["power"])

    def amdsmi_get_gpu_memory_usage(self, handle: dict[str, Any], mem_type: _MemoryType) -> int:
        assert mem_type is _MemoryType.VRAM
        return int(handle["used"])

    def amdsmi_get_gpu_memory_total(self, handle: dict[str, Any], mem_type: _MemoryType) -> int:
        assert mem_type is _MemoryType.VRAM
        return int(handle["total"])

    def amdsmi_get_temp_metric(
        self, handle: dict[str, Any], sensor: _TemperatureType, metric: _TemperatureMetric
    ) -> int:
        assert metric is _TemperatureMetric.CURRENT
        if sensor not in handle["temperatures"]:
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        return int(handle["temperatures"][sensor])
