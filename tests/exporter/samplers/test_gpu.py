"""GPU telemetry on recorded answers of both libraries, and without either."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.exporter.samplers import fake_amdsmi, fake_nvml
from vllm_codesign import semconv
from vllm_codesign.exporter.samplers import gpu_nvml
from vllm_codesign.exporter.samplers.gpu import (
    LIMIT_EVERY_NS,
    Backend,
    Found,
    GpuTelemetry,
    _Device,
    backends,
    expected,
    find,
)
from vllm_codesign.exporter.samplers.gpu_amdsmi import AmdSmi, celsius, power, utilization
from vllm_codesign.exporter.samplers.gpu_nvml import Nvml
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.semconv import Series

SECOND = 1_000_000_000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> fake_nvml.FakeNvml:
    made = fake_nvml.FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def amdsmi(monkeypatch: pytest.MonkeyPatch) -> fake_amdsmi.FakeAmdSmi:
    made = fake_amdsmi.FakeAmdSmi(fake_amdsmi.MI300X, fake_amdsmi.RADEON)
    monkeypatch.setitem(sys.modules, "amdsmi", made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    monkeypatch.setattr(gpu_nvml, "_vllms_copy", lambda: None)


def devices(backend: Backend) -> list[_Device]:
    found = find([backend])
    assert isinstance(found, Found)
    return [_Device(found.backend, gpu) for gpu in found.gpus]


def values(samples: Iterator[Sample]) -> dict[str, float]:
    return {sample.series.name: sample.value for sample in samples}


def test_nvidia_in_the_units_of_the_conventions(nvml: fake_nvml.FakeNvml) -> None:
    whole, slice_ = devices(Nvml())
    samples = list(whole.read(7))
    assert values(iter(samples)) == pytest.approx(
        {
            "hw.gpu.utilization": 0.87,
            "hw.gpu.memory.usage": 6 * 2**30,
            "hw.gpu.memory.limit": 80 * 2**30,
            "hw.power": 612.345,
            "hw.temperature": 58.0,
        }
    )
    assert {sample.at_ns for sample in samples} == {7}
    common = {
        "hw.id": "GPU-3f2c0e5a",
        "hw.name": "NVIDIA H100 80GB HBM3",
        "hw.type": "gpu",
        "hw.vendor": "NVIDIA",
        "codesign.gpu.index": 0,
    }
    for sample in samples:
        task = {"hw.gpu.task": "general"} if sample.series is semconv.GPU_UTILIZATION else {}
        assert sample.attributes == {**common, **task}
        assert set(sample.attributes) == {each.key for each in sample.series.attributes}
    assert values(slice_.read(7)) == {
        "hw.gpu.memory.usage": 6 * 2**30,
        "hw.gpu.memory.limit": 10 * 2**30,
        "hw.temperature": 58.0,
    }
    assert slice_.failure is None, "what is not supported is no failure"


def test_what_is_not_supported_is_asked_for_once(nvml: fake_nvml.FakeNvml) -> None:
    _, slice_ = devices(Nvml())
    for _ in range(3):
        list(slice_.read(0))
    assert nvml.calls.count("power") == 1
    assert nvml.calls.count("temperature") == 3


def test_a_limit_once_a_minute(nvml: fake_nvml.FakeNvml) -> None:
    whole, _ = devices(Nvml())
    seen = [
        "hw.gpu.memory.limit" in values(whole.read(at))
        for at in (0, LIMIT_EVERY_NS - 1, LIMIT_EVERY_NS, LIMIT_EVERY_NS + 1)
    ]
    assert seen == [True, False, True, False]


def test_a_lost_gpu_is_a_failure(nvml: fake_nvml.FakeNvml) -> None:
    whole, _ = devices(Nvml())
    nvml.lost = True
    assert list(whole.read(0)) == []
    assert "GPU is lost" in Nvml().why_not(whole.failure or Exception())


def test_bytes_of_old_releases_are_text(
    nvml: fake_nvml.FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetName", lambda _: b"Tesla T4")
    found = find([Nvml()])
    assert isinstance(found, Found)
    assert found.gpus[0].name == "Tesla T4"


def test_the_recorded_answers_are_those_of_the_real_module() -> None:
    """vLLM's copy of nvidia-ml-py loads without a driver: its shapes are ours."""
    before = set(sys.modules)
    real = gpu_nvml._vllms_copy()
    if real is None:
        pytest.skip("no vLLM with a copy of nvidia-ml-py here")
    assert {"vllm", "torch"} & (set(sys.modules) - before) == set()
    for name in ("c_nvmlMemory_t", "c_nvmlUtilization_t"):
        ours = [field for field, _ in getattr(fake_nvml, name)._fields_]
        assert [field for field, _ in getattr(real, name)._fields_] == ours
    for number, name in ((3, "NotSupported"), (12, "LibraryNotFound"), (15, "GpuIsLost")):
        error = real.NVMLError(number)
        assert type(error).__name__ == f"NVMLError_{name}"
        assert str(error) == str(fake_nvml.NVMLError(number))
    for name in vars(fake_nvml.FakeNvml):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(real, name), name
    assert real.NVML_TEMPERATURE_GPU == fake_nvml.FakeNvml.NVML_TEMPERATURE_GPU


def test_amd_in_the_units_of_the_conventions(amdsmi: fake_amdsmi.FakeAmdSmi) -> None:
    instinct, radeon = devices(AmdSmi())
    samples = list(instinct.read(7))
    assert values(iter(samples)) == pytest.approx(
        {
            "hw.gpu.utilization": 0.93,
            "hw.gpu.memory.usage": 41e9,
            "hw.gpu.memory.limit": 206_141_652_992,
            "hw.power": 652.0,
            "hw.temperature": 71.0,
        }
    )
    assert samples[1].attributes == {
        "hw.id": "8eff74a1-0000-1000-80d4-1e0e2c7c5a3f",
        "hw.name": "AMD Instinct MI300X",
        "hw.type": "gpu",
        "hw.vendor": "AMD",
        "codesign.gpu.index": 0,
    }
    samples = list(radeon.read(7))
    assert values(iter(samples)) == {
        "hw.gpu.memory.usage": 1e9,
        "hw.gpu.memory.limit": 8_573_157_376,
        "hw.power": 28.0,
        "hw.temperature": 44.0,
    }
    assert samples[0].attributes["hw.name"] == "AMD GPU"
    assert radeon.failure is None


@pytest.mark.parametrize(
    ("info", "watts"),
    [
        ({"current_socket_power": 652, "average_socket_power": "N/A"}, 652),
        ({"current_socket_power": "N/A", "average_socket_power": 180}, 180),
        ({"socket_power": 700, "current_socket_power": "N/A"}, 700),
        ({"current_socket_power": 0, "average_socket_power": 55}, 55),
        ({"current_socket_power": 0}, 0),
        ({"current_socket_power": 0xFFFFFFFF, "average_socket_power": 180}, 180),
        ({"socket_power": 700_000_000}, None),
        ({"current_socket_power": "N/A"}, None),
        ({}, None),
    ],
)
def test_power_of_every_release(info: Mapping[str, object], watts: float | None) -> None:
    assert power(info) == watts


@pytest.mark.parametrize(
    ("activity", "share"),
    [(0, 0.0), (100, 1.0), ("N/A", None), (65_535, None), (None, None), (True, None)],
)
def test_utilization_that_is_none(activity: object, share: float | None) -> None:
    assert utilization({"gfx_activity": activity}) == share
    assert utilization({}) is None


@pytest.mark.parametrize(
    ("value", "degrees"), [(71, 71.0), (71_000, 71.0), ("N/A", None), (-3, -3.0)]
)
def test_temperature_of_every_release(value: object, degrees: float | None) -> None:
    assert celsius(value) == degrees


def test_without_libraries_the_reasons_say_what_to_install(nothing: None) -> None:
    reasons = find(backends())
    assert reasons == [
        "nvidia-ml-py: not installed (pip install nvidia-ml-py)",
        "amdsmi: not installed (it comes with ROCm: pip install /opt/rocm/share/amd_smi)",
    ]


def test_without_drivers_the_reasons_are_one_line_each(
    nvml: fake_nvml.FakeNvml, amdsmi: fake_amdsmi.FakeAmdSmi
) -> None:
    nvml.without_driver = amdsmi.without_driver = True
    assert find(backends()) == [
        "nvidia-ml-py: NVMLError_LibraryNotFound: NVML Shared Library Not Found",
        "amdsmi: AmdSmiLibraryException: Error code: 34 | AMDSMI_STATUS_DRIVER_NOT_LOADED - "
        "Driver not loaded",
    ]


def test_a_library_without_gpus_gives_way_to_the_next(
    amdsmi: fake_amdsmi.FakeAmdSmi,
    nvml: fake_nvml.FakeNvml,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: 0)
    found = find(backends())
    assert isinstance(found, Found)
    assert found.backend.library == "amdsmi"
    assert nvml.calls[-1] == "nvmlShutdown"


def test_a_gpu_is_expected_where_its_driver_has_a_node(tmp_path: Path) -> None:
    assert not expected(backends(), tmp_path)
    (tmp_path / "kfd").touch()
    assert expected(backends(), tmp_path)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_thread_samples_until_it_is_closed(nvml: fake_nvml.FakeNvml) -> None:
    telemetry = GpuTelemetry(period_s=0.01)
    telemetry.start()
    taken: list[Sample] = []
    until(lambda: taken.extend(telemetry.sample(0)) or len(taken) > 30)  # type: ignore[func-returns-value]
    telemetry.close()
    assert nvml.calls[-1] == "nvmlShutdown"
    times = [s.at_ns for s in taken if s.series is semconv.HW_POWER]
    assert times == sorted(times)
    assert len(set(times)) == len(times) > 2
    assert [t.name for t in threading.enumerate()].count("codesign-gpu") == 0


def test_nothing_is_read_while_it_is_not_wanted(nvml: fake_nvml.FakeNvml) -> None:
    wanted: list[int] = []
    telemetry = GpuTelemetry(wanted=lambda: bool(wanted), period_s=0.005)
    telemetry.start()
    until(lambda: "nvmlInit" in nvml.calls)
    time.sleep(0.05)
    assert "power" not in nvml.calls
    wanted.append(1)
    until(lambda: "power" in nvml.calls)
    telemetry.close()


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if "telemetry" in r.getMessage()]


@pytest.mark.parametrize(("node", "level"), [("nvidiactl", "WARNING"), ("null", "INFO")])
def test_no_telemetry_is_one_line(
    nothing: None, caplog: pytest.LogCaptureFixture, tmp_path: Path, node: str, level: str
) -> None:
    (tmp_path / node).touch()
    caplog.set_level(logging.INFO)
    telemetry = GpuTelemetry(dev=tmp_path)
    telemetry.start()
    until(lambda: bool(said(caplog)))
    telemetry.close()
    ((got, line),) = said(caplog)
    assert got == level
    assert "pip install nvidia-ml-py" in line
    assert list(telemetry.sample(0)) == []


def test_a_gpu_that_is_lost_is_said_once_and_given_up(
    nvml: fake_nvml.FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.lost = True
    telemetry = GpuTelemetry(period_s=0.001)
    telemetry.start()
    until(lambda: "nvmlShutdown" in nvml.calls)
    telemetry.close()
    assert [line for _, line in said(caplog)] == [
        "codesign: some GPU telemetry is missing: nvidia-ml-py: NVMLError_GpuIsLost: GPU is lost",
        "codesign: no more GPU telemetry: no GPU answers",
    ]


def test_a_broken_library_ends_the_telemetry_alone(
    amdsmi: fake_amdsmi.FakeAmdSmi, nothing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(AmdSmi):
        def open(self) -> list[tuple[str, str, Any]]:
            return [("id", "name", None)]

        def figures(self, handle: Any) -> Mapping[Series, Callable[[], float | None]]:
            raise KeyError("amdsmi_wrapper")

        def close(self) -> None:
            raise OSError("gone")

    telemetry = GpuTelemetry(candidates=lambda: [Broken()])
    telemetry.start()
    until(lambda: bool(said(caplog)))
    telemetry.close()
    assert said(caplog) == [
        ("WARNING", "codesign: no more GPU telemetry: KeyError: 'amdsmi_wrapper'")
    ]
