"""Our forward intervals against vLLM's own torch profiler, step by step."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.request
from pathlib import Path
from statistics import median

import pytest

from tests.support.mixed_load import make_requests, send_all
from tests.support.serving import serve, wait_until
from vllm_codesign.store.reader import read_steps

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SCOPE = "gpu_model_runner: forward"


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=120) as answer:
        assert answer.status == 200


def _forwards(folder: Path) -> list[tuple[int, int]]:
    """(start, length) of every forward in the workers' traces, Unix nanoseconds."""
    found = []
    for path in folder.rglob("*.json*"):
        raw = path.read_bytes()
        profile = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        base = profile.get("baseTimeNanoseconds", 0)
        found += [
            (base + round(event["ts"] * 1e3), round(event["dur"] * 1e3))
            for event in profile["traceEvents"]
            if event.get("name") == SCOPE and event.get("ph") == "X"
        ]
    return sorted(found)


def test_forward_intervals_are_those_of_the_torch_profiler(tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    config = {
        "profiler": "torch",
        "torch_profiler_dir": str(folder),
        "torch_profiler_with_stack": False,
    }
    env = {"VLLM_CUSTOM_SCOPES_FOR_PROFILING": "1"}
    with serve(tmp_path, ["--profiler-config", json.dumps(config)], env=env) as serving:
        requests = [r for r in make_requests(serving.model, 80, seed=9) if r.kind == "stream"]
        asyncio.run(send_all(serving.url, requests[:4], clients=4))
        _post(f"{serving.url}/start_profile")
        asyncio.run(send_all(serving.url, requests[4:20], clients=4))
        _post(f"{serving.url}/stop_profile")
        wait_until(lambda: bool(_forwards(folder)), 60, "the profiler's trace")
        serving.traces([r.trace_id for r in requests[:20]])
        steps = list(read_steps(serving.capture))
        run = serving.capture.load()
    theirs = _forwards(folder)
    anchor = run.anchors[-1]
    offset = anchor.unix_ns - anchor.monotonic_ns
    ours = sorted(
        (rank.forward[0] + offset, rank.forward[1] - rank.forward[0])
        for step in steps
        for rank in step.ranks
        if rank.forward is not None
    )
    pairs = []
    for start, length in theirs:
        inside = [o for o in ours if start - 50_000 <= o[0] and sum(o) <= start + length + 50_000]
        assert len(inside) == 1, (start, length, inside)
        pairs.append((inside[0][1], length))
    mine, scope = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    each = median(abs(a - b) / b for a, b in pairs)
    print(
        f"{len(pairs)} forwards: ours {mine / 1e6:.3f} ms, the profiler's {scope / 1e6:.3f} ms "
        f"({100 * (mine / scope - 1):+.2f} %), median difference {100 * each:.2f} %"
    )
    assert len(pairs) > 50
    assert abs(mine / scope - 1) <= 0.03
    assert each <= 0.03
