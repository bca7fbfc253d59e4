"""`codesign doctor` on the classes of KV connectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_codesign.cli import checks, connector_checks, doctor
from vllm_codesign.cli.main import main


class KVConnectorBase_V1:  # its name is what marks the base
    def wait_for_save(self) -> None: ...


class Sound(KVConnectorBase_V1):
    def update_state_after_alloc(
        self, request: Any, blocks: Any, num_external_tokens: int
    ) -> None: ...


class Changed(KVConnectorBase_V1):
    def update_state_after_alloc(self, request: Any, tokens: int) -> None: ...


def find(name: str) -> type:
    if name == "Gone":
        raise ImportError("no module named gone\nand more")
    return {"Sound": Sound, "Changed": Changed}[name]


@pytest.fixture(autouse=True)
def sound(shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESIGN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VLLM_PLUGINS", "codesign")
    for module in (doctor, checks):
        monkeypatch.setattr(module, "vllm_version", lambda: "0.32.0+cpu")
    monkeypatch.setattr(doctor, "TABLES", ())
    monkeypatch.setattr(connector_checks, "find", find)
    monkeypatch.setattr(connector_checks, "USUAL", ("Sound", "Gone"))


def diagnose(capsys: pytest.CaptureFixture[str], *named: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *(f"--connector={name}" for name in named)])
    return code, json.loads(capsys.readouterr().out)


def told(document: dict[str, Any], severity: str) -> list[str]:
    about = ("connector ", "hook ")
    found = (f for f in document["findings"] if f["subject"].startswith(about))
    return [f"{f['subject']}: {f['text']}" for f in found if f["severity"] == severity]


def test_the_methods_of_installed_connectors_are_rows(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnose(capsys)
    assert code == 0
    assert [(row["id"], row["status"]) for row in document["hooks"]] == [
        ("kv_connector.Sound.update_state_after_alloc", "installed")
    ]
    assert told(document, "note") == [
        "connector Gone: cannot be imported: ImportError: no module named gone; "
        "nothing of it would be traced"
    ]


def test_one_that_is_asked_for_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, document = diagnose(capsys, "Gone")
    assert code == 1
    (line,) = told(document, "error")
    assert line.startswith("connector Gone: cannot be imported: ImportError: no module named gone")


def test_a_changed_signature_of_one_that_is_asked_for_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document = diagnose(capsys, "Changed", "Sound")
    assert code == 1
    (line,) = told(document, "error")
    assert "hook kv_connector.Changed.update_state_after_alloc" in line
    assert "no parameter num_external_tokens in (self, request, tokens)" in line
    monkeypatch.setattr(connector_checks, "USUAL", ("Changed",))
    code, document = diagnose(capsys)
    assert (code, len(told(document, "warning"))) == (0, 1)
