"""Too few blocks, slots and tokens a step: why requests wait, and what preemption does."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.checks import check_coverage, check_endings, check_engine_spans, check_nesting
from tests.support.mixed_load import Sent, send_all, text
from tests.support.serving import Traces, serve
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import Span

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

# 28 blocks of 64 tokens hold one request of the longest kind and not two.
FLAGS = (
    *("--max-model-len", "1536", "--block-size", "64", "--num-gpu-blocks-override", "28"),
    *("--max-num-seqs", "4", "--max-num-batched-tokens", "256"),
)


@dataclass
class Run:
    """Loads by what they lack, the traces of all, and vLLM's own counters over all."""

    loads: dict[str, list[Sent]]
    traces: Traces
    grown: dict[str, float]

    @property
    def requests(self) -> list[Sent]:
        return [r for load in self.loads.values() for r in load]

    def spans(self, load: str, name: str) -> list[Span]:
        return [s for r in self.loads[load] for s in self.traces.one(r.trace_id).named(name)]


def _request(model: str, rng: random.Random, words: int, tokens: int, prompts: int = 1) -> Sent:
    body: dict[str, Any] = {
        "model": model,
        "prompt": [text(words, rng) for _ in range(prompts)],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    return Sent(
        "long",
        "/v1/completions",
        body,
        S.Outcome.COMPLETED,
        f"{rng.getrandbits(128) | 1:032x}",
        f"{rng.getrandbits(64) | 1:016x}",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    with serve(tmp_path_factory.mktemp("preemption"), FLAGS) as serving:
        rng = random.Random(5)

        def load(count: int, words: int, tokens: int) -> list[Sent]:
            return [_request(serving.model, rng, words, tokens) for _ in range(count)]

        asyncio.run(send_all(serving.url, load(2, 50, 8)))  # the first step compiles
        before = serving.metrics()
        loads = {
            "slots": load(12, 40, 60),
            # One request, so that its prompts arrive together; the blocks hold all four.
            "budget": [_request(serving.model, rng, 330, 4, prompts=4)],
            "blocks": load(8, 300, 700),
        }
        for requests in loads.values():
            asyncio.run(send_all(serving.url, requests, clients=len(requests)))
        traces = serving.traces([r.trace_id for requests in loads.values() for r in requests])
        after = serving.metrics()
        return Run(loads, traces, {name: after[name] - before.get(name, 0.0) for name in after})


def _reasons(spans: list[Span]) -> Counter[str]:
    """Nanoseconds by reason over all queue spans."""
    total: Counter[str] = Counter()
    for span in spans:
        for key, value in span.attributes.items():
            if key.startswith("codesign.queue.") and key.endswith("_ns"):
                assert isinstance(value, int)
                total[key.removeprefix("codesign.queue.").removesuffix("_ns")] += value
    return total


def test_traces_are_whole_all_the_same(run: Run) -> None:
    assert all(r.status == 200 for r in run.requests)
    check_endings(run.requests, run.traces)
    check_nesting(run.traces)
    check_engine_spans(run.requests, run.traces)
    p50, p5 = check_coverage(run.requests, run.traces)
    print(f"coverage: p50 {p50:.4f}, p5 {p5:.4f}")


def test_reasons_sum_to_the_time_in_the_queue(run: Run) -> None:
    for load in run.loads:
        for span in run.spans(load, S.ENGINE_QUEUE.name):
            assert sum(_reasons([span]).values()) == span.duration_ns


@pytest.mark.parametrize(
    ("load", "reason"),
    [("slots", "no_slot"), ("budget", "token_budget"), ("blocks", "no_free_blocks")],
)
def test_each_shortage_is_named(run: Run, load: str, reason: str) -> None:
    reasons = _reasons(run.spans(load, S.ENGINE_QUEUE.name))
    total = sum(reasons.values())
    print(load, {name: f"{ns / 1e6:.1f} ms" for name, ns in reasons.most_common()})
    assert reasons[reason] > 0, reasons
    # Who is not at the head waits behind it; nothing else is to be told in such a load.
    assert reasons[reason] + reasons["behind_head"] + reasons["preemption"] > 0.8 * total, reasons


def test_preemptions_are_events_and_as_many_as_vllm_counts(run: Run) -> None:
    events = preempted = 0
    for load in run.loads:
        for name in (S.PREFILL.name, S.DECODE.name):
            for span in run.spans(load, name):
                found = [e for e in span.events if e.name == S.EVENT_PREEMPTED]
                assert span.attributes[S.PREEMPTIONS.key] == len(found)
                assert all(span.start_ns <= e.time_ns <= span.end_ns for e in found)
                assert all(e.attributes[S.EVENT_TOKENS_LOST.key] > 0 for e in found)
                events += len(found)
                preempted += name == S.DECODE.name and bool(found)
    print(f"{events} preemptions, {preempted} requests preempted while decoding")
    assert events == run.grown["vllm:num_preemptions_total"] > 0
    assert preempted > 0


@pytest.mark.parametrize("name", ["queue", "prefill", "decode"])
def test_phases_sum_to_vllms_own_histograms(run: Run, name: str) -> None:
    span = {"queue": S.ENGINE_QUEUE, "prefill": S.PREFILL, "decode": S.DECODE}[name]
    ours = sum(s.duration_ns / 1e9 for load in run.loads for s in run.spans(load, span.name))
    theirs = run.grown[f"vllm:request_{name}_time_seconds_sum"]
    count = sum(r.choices for r in run.requests)
    print(f"{name}: {count} requests, ours {ours:.6f} s, vLLM's histogram {theirs:.6f} s")
    assert run.grown[f"vllm:request_{name}_time_seconds_count"] == count
    assert abs(ours - theirs) <= 0.01 * theirs + 0.0002 * count
