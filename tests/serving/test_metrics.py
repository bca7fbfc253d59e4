"""The exporter's `/metrics` against the capture of the same run, and against vLLM's own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.support.exported import Exported
from tests.support.mixed_load import Sent, make_requests, send_all
from tests.support.serving import Serving, Traces, read_all, wait_until, wait_until_closed
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Work, fleet, timelines
from vllm_codesign.exporter.metrics.fleet import BEHIND_NS
from vllm_codesign.semconv import metrics as M
from vllm_codesign.store.reader import read_steps

pytestmark = pytest.mark.vllm

Compared = tuple[Exported, Traces]

NOT_HERE = {
    **{metric.name: "no GPU" for metric in M.HARDWARE},
    **{
        metric.name: "no KV connector"
        for metric in (M.KV_TRANSFER_BYTES, M.KV_TRANSFER_TOKENS, M.KV_TRANSFER_DURATION)
    },
}
"""Metrics without data in this run, and why."""


@pytest.fixture(scope="module")
def compared(mixed: tuple[list[Sent], Traces], serving: Serving) -> Compared:
    """After the mixed load: everything since the server's start, in both."""
    wait_until_closed(serving.session)
    return serving.exported(), read_all(serving.capture)


def test_counts_are_the_captures(compared: Compared) -> None:
    exported, traces = compared
    servers = [t.root for t in traces.all if t.root.kind == "server"]
    assert len(servers) >= 200
    assert exported.value(M.REQUEST_DURATION, "_count") == len(servers)
    outcomes = Counter(str(root.attributes[S.OUTCOME.key]) for root in servers)
    assert exported.by(M.REQUESTS, "codesign_outcome") == outcomes
    phases = Counter(span.name for trace in traces.all for span in trace.children)
    assert exported.by(M.PHASE_DURATION, "codesign_phase", "_count") == phases
    failed = [root for root in servers if S.ERROR_TYPE.key in root.attributes]
    with_type = exported.by(M.REQUEST_DURATION, "error_type", "_count")
    assert sum(n for kind, n in with_type.items() if kind) == len(failed)
    streamed = [
        root
        for root in servers
        if root.attributes.get(S.STREAMING.key)
        and S.RESPONSE_TTFC.key in root.attributes
        and root.attributes.get(S.USAGE_OUTPUT_TOKENS.key)
    ]
    assert exported.value(M.TIME_TO_FIRST_TOKEN, "_count") == len(streamed)


def test_tokens_are_the_captures(compared: Compared) -> None:
    exported, traces = compared
    for kind, attribute in (("input", S.USAGE_INPUT_TOKENS), ("output", S.USAGE_OUTPUT_TOKENS)):
        ours = sum(int(t.root.attributes.get(attribute.key, 0)) for t in traces.all)  # type: ignore[call-overload]
        assert exported.value(M.TOKENS_USED, gen_ai_token_type=kind) == ours > 0


def test_sums_are_the_captures(compared: Compared) -> None:
    exported, traces = compared
    near = {"rel": 1e-3, "abs": 1e-9}
    phases: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for trace in traces.all:
        for span in trace.children:
            phases[span.name] += span.duration_ns
        if trace.root.attributes.get(S.OUTCOME.key) == S.Outcome.COMPLETED.value:
            for part in S.Part:
                ns = trace.root.attributes.get(f"codesign.part.{part.value}_ns", 0)
                parts[part.value] += ns  # type: ignore[assignment,operator]
    sums = exported.by(M.PHASE_DURATION, "codesign_phase", "_sum")
    assert sums == pytest.approx({p: ns / 1e9 for p, ns in phases.items()}, **near)
    shares = exported.by(M.PART_TIME, "codesign_part")
    assert shares == pytest.approx({p: ns / 1e9 for p, ns in parts.items() if ns}, **near)
    total = sum(t.root.duration_ns for t in traces.all if t.root.kind == "server") / 1e9
    assert exported.value(M.REQUEST_DURATION, "_sum") == pytest.approx(total, **near)


def test_steps_are_the_captures(compared: Compared, serving: Serving) -> None:
    exported, _ = compared
    steps = list(read_steps(serving.capture))
    # The engine may have made an empty step since.
    assert exported.value(M.SCHEDULE_DURATION, "_count") == pytest.approx(len(steps), abs=5)
    seconds = sum(step.schedule[1] - step.schedule[0] for step in steps) / 1e9
    assert exported.value(M.SCHEDULE_DURATION, "_sum") == pytest.approx(seconds, rel=1e-2)


def test_the_devices_time_is_that_of_the_captures_fleet(serving: Serving) -> None:
    """Between two quiet moments: both windows begin and end while there is no work."""
    requests = [r for r in make_requests(serving.model, 60, seed=31) if r.abort_after_s is None]
    asyncio.run(send_all(serving.url, requests[:5]))  # from here on there are steps again
    start, before = _quiet(serving)
    asyncio.run(send_all(serving.url, requests[5:]))
    end, after = _quiet(serving)
    work = Work()
    for trace in read_all(serving.capture).all:
        work.take(trace)
    (engine,) = fleet(work, timelines(read_steps(serving.capture)), (start, end)).engines
    grown = {cause: after[cause] - before[cause] for cause in after}
    print(f"grown by {grown}, capture {engine.busy_ns} {engine.idle_ns}")
    assert grown.pop("work") == pytest.approx(engine.busy_ns / 1e9, rel=1e-6)
    assert engine.busy_ns > 0
    # When a window is closed is known to a second or two.
    assert grown.pop("no_work") == pytest.approx(engine.idle_ns["no_work"] / 1e9, abs=3)
    wanted = {cause: engine.idle_ns.get(cause, 0) / 1e9 for cause in grown}
    assert grown == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert sum(ns > 0 for ns in wanted.values()) >= 4


def _quiet(serving: Serving) -> tuple[int, dict[str, float]]:
    """An instant without work for seconds before it, and what is accounted for then."""
    wait_until_closed(serving.session)
    time.sleep(BEHIND_NS / 1e9 + 3)
    causes = serving.exported().by(M.DEVICE_TIME, "codesign_device_cause")
    return time.monotonic_ns(), causes


def test_pool_time_is_that_of_the_jobs(compared: Compared) -> None:
    exported, traces = compared
    inside = (S.TEMPLATE_RENDER.name, S.TOKENIZE_ENCODE.name)
    spans = [span for trace in traces.all for span in trace.children if span.name in inside]
    seconds = sum(span.duration_ns for span in spans) / 1e9
    # Jobs of clients that went away run on after their request's end.
    assert exported.value(M.POOL_BUSY) == pytest.approx(seconds, rel=0.05)
    assert exported.value(M.POOL_BUSY) >= seconds * 0.999
    assert exported.value(M.POOL_THREADS) == 1


def test_exemplars_are_requests_of_the_capture(compared: Compared) -> None:
    exported, traces = compared
    roots = {(f"{t.trace_id:032x}", f"{t.root.span_id:016x}") for t in traces.all}
    for metric in (M.REQUEST_DURATION, M.TIME_TO_FIRST_TOKEN, M.PHASE_DURATION):
        found = exported.exemplars(metric)
        assert found, metric.name
        for exemplar in found:
            assert (exemplar.labels["trace_id"], exemplar.labels["span_id"]) in roots


def test_every_metric_has_data_or_a_reason(compared: Compared) -> None:
    exported, _ = compared
    shown = {family for family, of in exported.families.items() if of.samples}
    names = {m.name: M.prometheus_name(m).removesuffix("_total") for m in M.METRICS}
    assert {name for name, shown_as in names.items() if shown_as not in shown} == set(NOT_HERE)
    assert shown <= set(names.values())


def test_gauges_come_to_rest(compared: Compared, serving: Serving) -> None:
    wait_until_closed(serving.session)

    def resting() -> bool:
        now = serving.exported()
        return now.by(M.ENGINE_REQUESTS, "codesign_request_state") == {"running": 0, "waiting": 0}

    wait_until(resting, 10, "no request is in the scheduler")
    now = serving.exported()
    assert now.value(M.SESSIONS) >= 10  # one for each kind of request
    assert now.value(M.RECORDS_DROPPED) == 0
    assert now.value(M.LOSSES, codesign_loss="traces_failed") == 0
    assert now.value(M.LOSSES, codesign_loss="metrics_failed") == 0
    assert now.value(M.EXPORTER_CPU) > 0


def test_totals_are_vllms_own(mixed: tuple[list[Sent], Traces], serving: Serving) -> None:
    """Requests of one prompt and one choice: there both count alike."""
    requests = [
        r
        for r in make_requests(serving.model, 120, seed=23)
        if r.expected is S.Outcome.COMPLETED and r.choices == 1
    ]
    ours, theirs = _loaded(serving, requests)
    assert theirs["vllm:request_success_total"] == len(requests) > 50
    assert ours(M.REQUESTS) == len(requests)
    assert ours(M.REQUEST_DURATION, "_count") == len(requests)
    assert ours(M.TOKENS_USED, gen_ai_token_type="input") == theirs["vllm:prompt_tokens_total"]
    generated = theirs["vllm:generation_tokens_total"]
    assert ours(M.TOKENS_USED, gen_ai_token_type="output") == generated


def test_engine_requests_are_vllms_own(mixed: tuple[list[Sent], Traces], serving: Serving) -> None:
    """vLLM counts each choice and prompt, which we do as well where the engine is meant."""
    requests = [
        r for r in make_requests(serving.model, 120, seed=29) if r.expected is S.Outcome.COMPLETED
    ]
    ours, theirs = _loaded(serving, requests)
    choices = sum(r.choices for r in requests)
    assert theirs["vllm:request_success_total"] == choices > len(requests)
    assert ours(M.PHASE_DURATION, "_count", codesign_phase=S.DECODE.name) == choices
    prompt = sum(
        ours(M.KV_TOKENS, codesign_kv_source=source) for source in ("hbm", "external", "computed")
    )
    assert prompt == theirs["vllm:prompt_tokens_total"]
    waited = ours(M.PHASE_DURATION, "_sum", codesign_phase=S.ENGINE_QUEUE.name)
    queued = theirs["vllm:request_queue_time_seconds_sum"]
    print(f"queue: ours {waited:.6f} s, vLLM's histogram {queued:.6f} s, {choices} choices")
    assert abs(waited - queued) <= 0.01 * queued + 0.0002 * choices
    assert ours(M.QUEUE_TIME) == pytest.approx(waited, rel=1e-6)


def _loaded(serving: Serving, requests: list[Sent]):  # type: ignore[no-untyped-def]
    """Sends them; returns what our and what vLLM's counters grew by."""
    wait_until_closed(serving.session)
    before, theirs_before = serving.exported(), serving.metrics()
    asyncio.run(send_all(serving.url, requests))
    serving.traces([r.trace_id for r in requests])
    wait_until_closed(serving.session)
    after, theirs_after = serving.exported(), serving.metrics()

    def ours(metric: M.Metric, suffix: str = "", **labels: str) -> float:
        return after.value(metric, suffix, **labels) - before.value(metric, suffix, **labels)

    return ours, {n: v - theirs_before.get(n, 0.0) for n, v in theirs_after.items()}
