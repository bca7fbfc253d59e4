"""What doctor says of GPUs, CPUs and the GIL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vllm_codesign.cli import host_checks
from vllm_codesign.cli.checks import Finding
from vllm_codesign.exporter.samplers.gpu_nvml import Nvml
from vllm_codesign.exporter.samplers.host import HostFacts, format_cpus
from vllm_codesign.hooks import gil
from vllm_codesign.settings import Settings


class Some(Nvml):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.closed = False

    def open(self) -> list[tuple[str, str, Any]]:
        return [(f"GPU-{i}", name, None) for i, name in enumerate(self.names)]

    def close(self) -> None:
        self.closed = True


class Absent(Nvml):
    def open(self) -> list[tuple[str, str, Any]]:
        raise ModuleNotFoundError("No module named 'pynvml'")


def test_gpus_that_will_be_sampled() -> None:
    backend = Some("H100", "H100", "A10")
    assert list(host_checks.gpus([backend])) == [
        Finding("note", "gpu telemetry", "by nvidia-ml-py: 2 x H100, 1 x A10"),
        Finding("warning", "device time", host_checks.UNVERIFIED),
    ]
    assert backend.closed


@pytest.mark.parametrize(("node", "severity"), [("null", "note"), ("nvidiactl", "warning")])
def test_why_there_is_no_telemetry(tmp_path: Path, node: str, severity: str) -> None:
    (tmp_path / node).touch()
    finding, device_time = host_checks.gpus([Absent()], tmp_path)
    assert (finding.severity, finding.text) == (
        severity,
        "none: nvidia-ml-py: not installed (pip install nvidia-ml-py)",
    )
    assert device_time.severity == severity
    assert (device_time.text == host_checks.UNVERIFIED) == (severity == "warning")


def test_cpus_of_this_shell(tmp_path: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    (node,) = [tmp_path / "devices/system/node/node4"]
    node.mkdir(parents=True)
    (node / "cpulist").write_text(f"{mine[0]}\n")
    governor = tmp_path / f"devices/system/cpu/cpu{mine[0]}/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    (finding,) = host_checks.cpus(HostFacts(sys=tmp_path))
    assert finding.text.startswith(
        f"{len(mine)} CPUs ({format_cpus(mine)}) on NUMA node 4; governor powersave ("
    )
    (finding,) = host_checks.cpus(HostFacts(sys=tmp_path / "nothing"))
    assert finding.text == (
        f"{len(mine)} CPUs ({format_cpus(mine)}); governor unknown: this kernel tells of none"
    )


@pytest.mark.parametrize(
    ("asked", "installed", "severity", "text"),
    [
        (False, False, "note", "is not recorded"),
        (True, True, "note", "is recorded"),
        (True, False, "warning", "pip install gilknocker"),
    ],
)
def test_the_gil(
    monkeypatch: pytest.MonkeyPatch, asked: bool, installed: bool, severity: str, text: str
) -> None:
    monkeypatch.setattr(gil, "installed", lambda: installed)
    (finding,) = host_checks.gil(Settings(gil=asked))
    assert finding.severity == severity
    assert text in finding.text
