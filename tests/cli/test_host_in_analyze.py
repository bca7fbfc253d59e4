"""`codesign analyze` shows the host where it was sampled, and says nothing where it was not."""

import json
from pathlib import Path

import pytest

from tests.analysis.test_host import START, everything, request
from vllm_codesign.cli.main import main
from vllm_codesign.store.capture import Capture, RunInfo, create


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    made = create(tmp_path, RunInfo(run_id="r", pid=1, started_ns=START))
    request(made, 10.5, 14.0)
    return made


def test_tables_and_json(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    everything(capture)
    assert main(["analyze", str(capture.path)]) == 0
    shown = capsys.readouterr().out
    assert "0.70/0.90" in shown
    assert "AMD Instinct MI300X" in shown
    assert main(["analyze", str(capture.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["host"]
    assert found["loops"] == [{"pid": 10, "p50_s": 0.002, "max_s": 0.08}]
    assert [process["role"] for process in found["processes"]] == ["engine_core", "api_server"]
    assert found["gpus"][0]["utilization"] == {"mean": 0.6, "max": 1.0}


def test_nothing_was_sampled(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(capture.path)]) == 0
    assert "host (mean" not in capsys.readouterr().out
    assert main(["analyze", str(capture.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["host"] is None
