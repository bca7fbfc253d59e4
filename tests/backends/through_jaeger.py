"""Real runs through a real Jaeger, and `codesign analyze` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from vllm_codesign.analysis.sources import opened
from vllm_codesign.backends.query import Query
from vllm_codesign.store.reader import read_traces

STORED_S = 30.0
"""The exporter's batches and Jaeger's memory."""


def ids(source: str) -> set[int]:
    """Of the requests that have arrived."""
    with opened(source, Query()) as found:
        return {trace.trace_id for trace in read_traces(found.capture)}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "vllm_codesign.cli.main", "analyze", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def as_json(*arguments: str) -> dict[str, Any]:
    done = analyze(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
