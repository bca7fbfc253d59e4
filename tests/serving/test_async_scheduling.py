"""Async scheduling, the default on GPUs: `schedule()` of one step overlaps the step before.

The CPU platform forces it off whatever the flags say; a plugin of the test's own switches
it on behind the platform's back, which gives a real AsyncScheduler and a batch queue of two.
The tokens themselves are not checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checks import check_coverage, check_engine_spans, check_nesting
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.plugin import ASYNC_ON_CPU, install
from tests.support.serving import Serving, Traces, serve
from vllm_codesign import semconv as S

pytestmark = pytest.mark.full

Mixed = tuple[list[Sent], Traces, dict[str, float], Path]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    folder = tmp_path_factory.mktemp("async")
    path = install(folder / "plugin", {"async_on_cpu": ASYNC_ON_CPU})
    env = {
        "VLLM_PLUGINS": "codesign,async_on_cpu",
        "PYTHONPATH": path,
        "ASYNC_MARK": str(folder / "mark"),
    }
    with serve(folder, env=env) as serving:
        yield (*_load(serving), folder / "mark")


def _load(serving: Serving) -> tuple[list[Sent], Traces, dict[str, float]]:
    requests = [r for r in make_requests(serving.model, 120) if r.expected is S.Outcome.COMPLETED]
    before = serving.metrics()
    asyncio.run(send_all(serving.url, requests))
    traces = serving.traces([r.trace_id for r in requests])
    after = serving.metrics()
    return requests, traces, {name: after[name] - before.get(name, 0.0) for name in after}


def test_it_is_on(mixed: Mixed) -> None:
    assert mixed[3].read_text() == "AsyncScheduler"


def test_spans_are_whole(mixed: Mixed) -> None:
    requests, traces, _, _ = mixed
    check_nesting(traces)
    check_engine_spans(requests, traces)
    print("coverage: p50 {:.4f}, p5 {:.4f}".format(*check_coverage(requests, traces)))


def test_a_short_prompt_is_one_chunk(mixed: Mixed) -> None:
    requests, traces, _, _ = mixed
    chunks = [
        s.attributes[S.PREFILL_CHUNKS.key]
        for r in requests
        for s in traces.one(r.trace_id).named(S.PREFILL.name)
        if r.kind == "prompts"  # at most 80 words
    ]
    assert chunks
    assert set(chunks) == {1}


@pytest.mark.parametrize("name", ["queue", "prefill", "decode"])
def test_phases_sum_to_vllms_own_histograms(mixed: Mixed, name: str) -> None:
    requests, traces, sums, _ = mixed
    span = {"queue": S.ENGINE_QUEUE, "prefill": S.PREFILL, "decode": S.DECODE}[name]
    choices = sum(r.choices for r in requests)
    ours = sum(
        s.duration_ns / 1e9 for r in requests for s in traces.one(r.trace_id).named(span.name)
    )
    theirs = sums[f"vllm:request_{name}_time_seconds_sum"]
    print(f"{name}: {choices} choices, ours {ours:.6f} s, vLLM's histogram {theirs:.6f} s")
    assert sums[f"vllm:request_{name}_time_seconds_count"] == choices
    assert abs(ours - theirs) <= 0.01 * theirs + 0.0002 * choices
