"""How long the plugin's import and `register()` take in one process of vLLM's.

Each run is a fresh interpreter that has imported first what vLLM has by then, so that only
what we add is timed: either the standard library's part of it (`bare`), where every target
still waits for its import, or the API server itself (`loaded`), where the targets are there
and are wrapped at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.intervals import Interval, median_interval

_STANDARD = "asyncio, logging, subprocess, inspect, importlib.metadata, json, threading"
_LOADED = "vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.gpu_worker"

_SCRIPT = """\
import os, time
import {imports}
begun = time.perf_counter_ns()
from vllm_codesign import plugin
imported = time.perf_counter_ns()
plugin.register()
ended = time.perf_counter_ns()
assert plugin.installer is not None
print("\\n" + __import__("json").dumps([ended - begun, imported - begun]))
"""


def registration_s(repeats: int, loaded: bool) -> Interval:
    """Seconds of import and `register()` together; the first run warms the disk and is left out."""
    imports = _LOADED if loaded else _STANDARD
    return median_interval([_once(imports) for _ in range(repeats + 1)][1:])


def _once(imports: str) -> float:
    environment = {
        **os.environ,
        "CODESIGN_LEVEL": "step",
        # vLLM must not load the plugin itself, or there is nothing left to time.
        "VLLM_PLUGINS": "",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(imports=imports)],
        cwd=Path(__file__).parents[1],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if process.returncode:
        raise RuntimeError(f"registration: {process.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(process.stdout.strip().splitlines()[-1])[0]) / 1e9
