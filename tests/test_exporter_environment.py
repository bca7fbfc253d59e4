"""What the exporter is started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_SCRIPT = """
import json, os
from vllm_codesign import settings
os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = "http://vllm:4317"
os.environ["CODESIGN_SESSION"] = "/dev/shm/codesign-1-2"
print(json.dumps(settings.exporter_environment()))
"""


def _environment(**given: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")} | given
    output = subprocess.check_output([sys.executable, "-c", _SCRIPT], env=env, text=True)
    found: dict[str, str] = json.loads(output)
    return found


def test_an_endpoint_that_vllm_sets_in_its_own_process_is_not_the_exporters() -> None:
    found = _environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://user:4317")
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://user:4317"
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" not in found
    assert found["CODESIGN_SESSION"] == "/dev/shm/codesign-1-2"


def test_an_endpoint_that_the_user_set_is() -> None:
    found = _environment(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://user:4317")
    assert found["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://user:4317"
