"""Two sessions that evict each other, against the same ones with room for both."""

from __future__ import annotations

import importlib.util
import json
import random
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import analyze
from tests.support.serving import Traces, serve
from vllm_codesign import semconv as S
from vllm_codesign.analysis import kv
from vllm_codesign.model.trace import RequestTrace

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make setup`"
    ),
]
TURNS = 3
BLOCK = 128


@dataclass
class Run:
    """Turns of two sessions, one after the other's, and what vLLM says it computed."""

    traces: Traces
    ids: list[tuple[str, str]]
    """Session and trace id of each request."""
    computed: float
    report: str

    def each(self) -> list[tuple[str, RequestTrace]]:
        return [(session, self.traces.one(trace_id)) for session, trace_id in self.ids]


def _run(folder: Path, blocks: int) -> Run:
    rng = random.Random(3)
    flags = ["--num-gpu-blocks-override", str(blocks), "--max-model-len", "6000"]
    with serve(folder, flags) as serving:
        prompts = {name: [rng.randrange(300, 30_000) for _ in range(5010)] for name in ("a", "b")}
        before, ids = serving.metrics(), []
        for _turn in range(TURNS):
            for session, prompt in prompts.items():
                trace_id = f"{rng.getrandbits(128) | 1:032x}"
                ids.append((session, trace_id))
                body = {"model": serving.model, "prompt": prompt, "max_tokens": 8}
                request = urllib.request.Request(
                    f"{serving.url}/v1/completions",
                    json.dumps(body | {"ignore_eos": True}).encode(),
                    {
                        "Content-Type": "application/json",
                        "X-Session-ID": session,
                        "traceparent": f"00-{trace_id}-{rng.getrandbits(64) | 1:016x}-01",
                    },
                )
                with urllib.request.urlopen(request, timeout=100) as response:
                    assert response.status == 200
        after = serving.metrics()
        traces = serving.traces([trace_id for _, trace_id in ids])
        names = ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total")
        asked, cached = (after[name] - before.get(name, 0.0) for name in names)
        return Run(traces, ids, asked - cached, analyze(serving.capture.path))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(tmp_path_factory.mktemp("crowded"), 60)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(tmp_path_factory.mktemp("roomy"), 120)


def _gathered(run: Run) -> kv.KV:
    found = kv.Gathered()
    for _, trace in run.each():
        found.take(trace)
    return found.summary()


def test_tokens_computed_again_are_the_difference(crowded: Run, roomy: Run) -> None:
    again = _gathered(crowded).computed_again
    print(f"computed {crowded.computed:.0f} and {roomy.computed:.0f}, again {again}")
    assert again == crowded.computed - roomy.computed > 0
    assert _gathered(roomy).computed_again == 0


def test_who_evicted_whom(crowded: Run, roomy: Run) -> None:
    found = {(e.by, e.of): e for e in _gathered(crowded).evictions}
    # A prompt of 40 blocks in a pool of 59: each turn takes the other's, and some of its own.
    assert {("a", "b"), ("b", "a")} <= set(found)
    assert set(found) <= {(by, of) for by in "ab" for of in "ab"}
    counted = sum(
        int(str(span.attributes.get(S.KV_BLOCKS_EVICTED.key, 0)))
        + int(str(span.attributes.get(S.DECODE_BLOCKS_EVICTED.key, 0)))
        for _, trace in crowded.each()
        for span in trace.children
    )
    assert sum(e.blocks for e in found.values()) == counted
    assert _gathered(roomy).evictions == ()


def test_what_lay_idle_was_found_again(roomy: Run) -> None:
    """From the end of a session's turn to its next one's admission."""
    last: dict[str, RequestTrace] = {}
    for session, trace in roomy.each():
        (prefill,) = trace.named(S.PREFILL.name)
        if session in last:
            idle = prefill.attributes[S.KV_REUSED_IDLE.key]
            assert isinstance(idle, int)
            gap = prefill.start_ns - last[session].root.end_ns
            # The scheduler frees a request some ms before its response has ended.
            assert gap <= idle <= gap + 200_000_000
        last[session] = trace


def test_the_report_says_so(crowded: Run) -> None:
    report = " ".join(crowded.report.split())  # titles are folded in a narrow terminal
    again = _gathered(crowded).computed_again
    assert "who evicted whom" in report
    assert f"({again:,} computed again after an eviction)" in report
