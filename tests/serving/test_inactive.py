"""Installed and not wanted, or wanted with bad settings: nothing happens, or what is right does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import (
    assert_answered,
    exporters_below,
    outcomes,
    said,
    send,
    sessions_of,
)
from tests.support.serving import FLAGS, SHM, Serving, serve, tiny_model, wait_until
from vllm_codesign.bench.server import VllmServer

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
)

LOOK = """
import json, os, sys, types
from vllm.plugins import load_general_plugins
load_general_plugins()
import vllm.v1.core.sched.scheduler, fastapi.applications, fastapi.routing

def ours(owner):
    functions = [v for v in list(vars(owner).values()) if isinstance(v, types.FunctionType)]
    return [f.__name__ for f in functions if "__codesign__" in vars(f)]

patched = []
for name, module in list(sys.modules.items()):
    if name.split(".")[0] in ("vllm", "fastapi", "uvicorn", "starlette"):
        patched += ours(module)
        for value in list(vars(module).values()):
            if isinstance(value, type):
                patched += ours(value)
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
print(json.dumps({"patched": sorted(set(patched)), "children": children,
                  "session": os.environ.get("CODESIGN_SESSION")}))
"""
"""Loads the plugins as vLLM does, imports what they patch, and looks at what was patched."""


def environment(**changes: str | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CODESIGN_")}
    env.pop("VLLM_PLUGINS", None)
    return env | {name: value for name, value in changes.items() if value is not None}


def look(tmp_path: Path, **changes: str | None) -> dict[str, object]:
    shm = tmp_path / "shm"
    shm.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=environment(CODESIGN_SHM=str(shm), CODESIGN_STORE=str(tmp_path / "store"), **changes),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    assert list(shm.iterdir()) == []
    assert not (tmp_path / "store").exists()
    assert found["children"] == []
    assert found["session"] is None
    return found


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize(
    "changes",
    [{"VLLM_PLUGINS": "other"}, {"VLLM_PLUGINS": "codesign", "CODESIGN_LEVEL": "off"}],
    ids=["other", "off"],
)
def test_not_asked_for_means_nothing_is_patched(tmp_path: Path, changes: dict[str, str]) -> None:
    assert look(tmp_path, **changes)["patched"] == []


@needs_vllm
@pytest.mark.vllm
def test_loading_the_plugin_patches_and_starts_nothing(tmp_path: Path) -> None:
    patched = look(tmp_path, VLLM_PLUGINS="codesign")["patched"]
    assert isinstance(patched, list)
    assert {"schedule", "__call__", "run_endpoint_function"} <= set(patched)


@needs_vllm
@pytest.mark.vllm
def test_a_command_that_serves_nothing_starts_nothing(tmp_path: Path) -> None:
    shm, store = tmp_path / "shm", tmp_path / "store"
    shm.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", "--help"],
        env=environment(VLLM_PLUGINS="codesign", CODESIGN_STORE=str(store), CODESIGN_SHM=str(shm)),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert not store.exists()
    assert list(shm.iterdir()) == []
    assert "codesign:" not in done.stderr


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "env", [{"VLLM_PLUGINS": "other"}, {"CODESIGN_LEVEL": "off"}], ids=["other", "off"]
)
def test_a_server_that_does_not_want_us_is_left_alone(tmp_path: Path, env: dict[str, str]) -> None:
    with serve(tmp_path, env=env) as serving:
        assert_answered(send(serving, 3))
        assert exporters_below(serving.server.pid) == []
        assert sessions_of(SHM, serving.server.pid) == []
    assert not serving.store.exists()
    assert "codesign: " not in (tmp_path / "server.log").read_text()


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_bad_settings_warn_once_each_and_an_unset_vllm_plugins_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    env = {
        "CODESIGN_STORE": str(tmp_path / "store"),
        "CODESIGN_LEVEL": "loud",
        "CODESIGN_RING_BYTES": "7",
        "CODESIGN_METRICS_PORT": "no-port",
        "OTEL_TRACES_SAMPLER": "sometimes",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    log = tmp_path / "server.log"
    model = str(tiny_model())
    with VllmServer(model, flags=FLAGS, env=env, log_path=log) as server:
        serving = Serving(server, tmp_path / "store", model)
        calls = send(serving, 3)
        assert_answered(calls)
        traces = serving.traces([call.trace_id for call in calls])
        assert outcomes(calls, traces) == {"completed": len(calls)}
        folder = serving.session.folder
        (line,) = said(log, "INFO")
        assert "VLLM_PLUGINS is not set" in line
        assert "CODESIGN_LEVEL=off switches it off" in line
        warnings = said(log)
        for name in ("CODESIGN_LEVEL", "CODESIGN_RING_BYTES", "CODESIGN_METRICS_PORT"):
            assert len([w for w in warnings if f"{name}=" in w]) == 1, warnings
        assert len(warnings) == 3
        exporter = [line for line in log.read_text().splitlines() if "OTEL_" in line]
        print("\n".join(exporter))
        assert len([w for w in exporter if "OTEL_TRACES_SAMPLER" in w]) == 1
        assert len([w for w in exporter if "OTEL_EXPORTER_OTLP_PROTOCOL" in w]) == 1
    wait_until(lambda: not folder.exists(), 5, "the session's end")
