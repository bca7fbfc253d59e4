"""Too few blocks, slots and tokens a step: why requests wait, and what preemption does."""

from __future__ import annotations

import asyncio
import importlib.util
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.by_hand import by_hand
from tests.support.checks import check_coverage, check_endings, check_engine_spans, check_nesting
from tests.support.mixed_load import Sent, send_all, text
from tests.support.serving import Traces, serve
from vllm_codesign import semconv as S
from vllm_codesign.analysis.accounts import recorded
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import Span
from vllm_codesign.semconv import Part
from vllm_codesign.store.reader import read_steps

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
    steps: list[Step]

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
            # Some 1,150 tokens each: who heads the queue lacks blocks as long as another runs.
            "head": load(3, 870, 100),
            "blocks": load(8, 300, 700),
        }
        for requests in loads.values():
            asyncio.run(send_all(serving.url, requests, clients=len(requests)))
        traces = serving.traces([r.trace_id for requests in loads.values() for r in requests])
        after = serving.metrics()
        grown = {name: after[name] - before.get(name, 0.0) for name in after}
        steps = sorted(read_steps(serving.capture), key=lambda step: step.number)
        return Run(loads, traces, grown, steps)


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


def test_steps_that_leave_the_head_of_the_queue_say_why(run: Run) -> None:
    """A preempted request heads the queue again: it too lacks blocks, for all its tokens."""
    reasons = Counter(step.blocked_by for step in run.steps if step.blocked_by)
    print("steps by what held the queue's head:", reasons.most_common())
    assert reasons["other"] < 0.02 * reasons.total()
    assert reasons["no_free_blocks"] > reasons.total() / 2


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
    assert events == sum(step.preempted for step in run.steps)
    assert preempted > 0


def test_the_parts_of_every_request_sum_to_its_time(run: Run) -> None:
    servers = [trace for trace in run.traces.all if trace.root.kind == "server"]
    assert len(servers) >= len(run.requests)
    for trace in servers:
        assert sum((recorded(trace) or {}).values()) == trace.root.duration_ns


def test_the_reason_of_the_queue_is_that_of_the_longest_wait(run: Run) -> None:
    for load in run.loads:
        for span in run.spans(load, S.ENGINE_QUEUE.name):
            if times := _reasons([span]):
                assert times[str(span.attributes[S.QUEUE_REASON.key])] == max(times.values())


def test_who_heads_the_queue_without_blocks_says_no_free_blocks(run: Run) -> None:
    """Three requests, of which the blocks hold one: nobody waits for anything else."""
    first, second, third = sorted(
        run.spans("head", S.ENGINE_QUEUE.name), key=lambda span: span.duration_ns
    )
    print(
        "head:", [(s.duration_ns / 1e6, s.attributes[S.QUEUE_REASON.key]) for s in (second, third)]
    )
    assert first.duration_ns < 0.1 * second.duration_ns
    assert second.attributes[S.QUEUE_REASON.key] == "no_free_blocks"
    assert _reasons([second])["no_free_blocks"] > 0.9 * second.duration_ns
    # Behind the second until that was admitted, then at the head itself.
    reasons = _reasons([third])
    assert reasons["no_free_blocks"] + reasons["behind_head"] > 0.95 * third.duration_ns
    assert reasons["no_free_blocks"] > 0.2 * third.duration_ns


@pytest.mark.parametrize("load", ["slots", "head", "blocks"])
def test_waiting_is_capacity_and_host_as_the_steps_say(run: Run, load: str) -> None:
    for sent in run.loads[load]:
        trace = run.traces.one(sent.trace_id)
        parts = recorded(trace) or {}
        hand = by_hand(trace, run.steps)
        assert parts.get(Part.QUEUE_CAPACITY.value, 0) == hand.capacity
        assert parts.get(Part.QUEUE_HOST.value, 0) == hand.host
        for cause, ns in hand.gaps.items():
            assert parts.get(f"device.gap.{cause}", 0) == ns, cause
        assert trace.root.attributes[S.HOST_HIDDEN.key] == hand.hidden


@pytest.mark.parametrize("load", ["head", "blocks"])
def test_waiting_for_blocks_is_the_capacity_s_fault_and_not_the_host_s(run: Run, load: str) -> None:
    """The device is busy or its memory full: no time of the host, whatever it does meanwhile."""
    queued = in_queue = again = host = 0
    for sent in run.loads[load]:
        trace = run.traces.one(sent.trace_id)
        hand = by_hand(trace, run.steps)
        # Its own wait at the head of the queue; behind it others' prefill counts as well.
        lacking = _reasons(trace.named(S.ENGINE_QUEUE.name))["no_free_blocks"]
        assert hand.in_queue >= 0.98 * lacking
        queued, in_queue = queued + hand.waited, in_queue + hand.in_queue
        again += hand.again
        host += hand.host
    print(
        f"{load}: {queued / 1e6:.1f} ms in the queue, {in_queue / 1e6:.1f} ms of it capacity, "
        f"{again / 1e6:.1f} ms more when preempted, {host / 1e6:.1f} ms of the host"
    )
    # The rest: the device idle while the head lacks a slot or tokens of the step.
    assert in_queue >= 0.9 * queued > 0
    assert host < 0.05 * (in_queue + again)
    if load == "blocks":
        assert again > 0


def test_lost_work_is_what_was_computed_twice(run: Run) -> None:
    """Tokens of the steps' members, against prompt and output tokens by vLLM's own count."""
    computed: Counter[int] = Counter()
    for step in run.steps:
        assert step.members is not None
        for member in step.members:
            computed[member.span_id] += member.tokens
    lost = again = 0
    for load in run.loads:
        for sent in run.loads[load]:
            trace = run.traces.one(sent.trace_id)
            spans = (*trace.named(S.PREFILL.name), *trace.named(S.DECODE.name))
            events = [e for s in spans for e in s.events if e.name == S.EVENT_PREEMPTED]
            mine = sum(int(e.attributes[S.EVENT_TOKENS_LOST.key]) for e in events)
            # The last token of an answer is not computed on; cached tokens are not computed.
            cached = sum(
                int(s.attributes[S.KV_TOKENS_HIT_HBM.key]) for s in trace.named(S.PREFILL.name)
            )
            asked, answered = sent.usage["prompt_tokens"], sent.usage["completion_tokens"]
            once = asked + answered - sent.choices - cached
            twice = computed[trace.root.span_id] - once
            assert 0 <= twice <= mine, (load, twice, mine)
            assert (twice > 0) == bool(events)
            lost, again = lost + mine, again + twice
    print(f"{lost} tokens lost to preemption, {again} of them computed again")
    assert again > 0


@pytest.mark.parametrize("name", ["queue", "prefill", "decode"])
def test_phases_sum_to_vllms_own_histograms(run: Run, name: str) -> None:
    span = {"queue": S.ENGINE_QUEUE, "prefill": S.PREFILL, "decode": S.DECODE}[name]
    ours = sum(s.duration_ns / 1e9 for load in run.loads for s in run.spans(load, span.name))
    theirs = run.grown[f"vllm:request_{name}_time_seconds_sum"]
    count = sum(r.choices for r in run.requests)
    print(f"{name}: {count} requests, ours {ours:.6f} s, vLLM's histogram {theirs:.6f} s")
    assert run.grown[f"vllm:request_{name}_time_seconds_count"] == count
    assert abs(ours - theirs) <= 0.01 * theirs + 0.0002 * count
