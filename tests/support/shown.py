"""Of which panels it is known what they should show: panel to its series, from the capture."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.captured import Captured, Values, by, counted, integer, mean, quantile
from tests.support.prometheus import labels
from vllm_codesign import semconv as S
from vllm_codesign.semconv import metrics as M
from vllm_codesign.semconv.parts import HOST_PARTS

BEHIND_S = 6.0
"""The device's time is told five seconds late, and once a second."""

Key = tuple[str, str, str]
"""Dashboard, panel, legend."""


def _one(value: float) -> Values:
    return {(): value}


def expected(run: Captured, model: str) -> dict[Key, Values]:
    """Value of each series over the window."""
    return {
        **_requests(run),
        **_latencies(run),
        **_accounting(run, model),
        **_device(run),
        **_phases(run),
        **_scheduler(run),
        **_cache(run),
    }


def _requests(run: Captured) -> dict[Key, Values]:
    ended = len(run.requests)
    outcomes = [root.attributes[S.OUTCOME.key] for root in run.requests]
    tokens = {
        name: sum(integer(root, attribute) for root in run.requests) / run.window_s
        for name, attribute in (("input", S.USAGE_INPUT_TOKENS), ("output", S.USAGE_OUTPUT_TOKENS))
    }
    worst = [root.attributes[S.BOTTLENECK.key] for root in run.completed]
    return {
        ("overview", "Requests", "__auto"): _one(ended / run.window_s),
        ("overview", "Completed", "__auto"): _one(len(run.completed) / ended),
        ("overview", "Requests by how they ended", "{{codesign_outcome}}"): by(
            S.OUTCOME, counted(outcomes, run.window_s)
        ),
        ("overview", "Largest avoidable part", "{{codesign_bottleneck}}"): by(
            S.BOTTLENECK, counted(worst, run.window_s)
        ),
        ("overview", "Tokens", "{{gen_ai_token_type}}"): by(M.TOKEN_TYPE, tokens),
        ("frontend", "Requests and prompts' tokens", "requests"): _one(ended / run.window_s),
        ("frontend", "Requests and prompts' tokens", "prompt tokens"): _one(tokens["input"]),
    }


def _latencies(run: Captured) -> dict[Key, Values]:
    first = run.first_chunks()
    whole = [root.duration_ns / 1e9 for root in run.requests if root.kind == "server"]
    found: dict[Key, Values] = {
        ("overview", "TTFT p95", "__auto"): _one(quantile(0.95, first, M.TTFT_BUCKETS)),
        ("overview", "Duration p95", "__auto"): _one(quantile(0.95, whole, M.REQUEST_BUCKETS)),
    }
    for title, values, bounds in (
        ("Time to first token", first, M.TTFT_BUCKETS),
        ("Request duration", whole, M.REQUEST_BUCKETS),
        ("Time per output token", run.per_token(), M.TPOT_BUCKETS),
    ):
        found["overview", title, "mean"] = _one(mean(values))
        for q in (0.5, 0.95, 0.99):
            found["overview", title, f"p{q * 100:g}"] = _one(quantile(q, values, bounds))
    return found


def _accounting(run: Captured, model: str) -> dict[Key, Values]:
    parts = {part.value: run.part_s(part) for part in S.Part}
    each = {name: seconds / len(run.completed) for name, seconds in parts.items() if seconds}
    host = {name: value for name, value in each.items() if name in HOST_PARTS}
    exposed, hidden = run.host_s(S.HOST_EXPOSED), run.host_s(S.HOST_HIDDEN)
    share = exposed / run.waited_s()
    found: dict[Key, Values] = {
        ("overview", "Host share", "__auto"): _one(share),
        ("host-device", "Host share", "{{gen_ai_request_model}}"): by(
            S.REQUEST_MODEL, {model: share}
        ),
        ("overview", "Where requests spend their time", "{{codesign_part}}"): by(M.PART, each),
        ("host-device", "Exposed host time, by part", "{{codesign_part}}"): by(M.PART, host),
    }
    of_request = "Host time of a request: exposed and hidden"
    for name, seconds in (("exposed", exposed), ("hidden", hidden)):
        found["host-device", of_request, name] = _one(seconds / len(run.completed))
    for part in (S.Part.FRONTEND_CPU, S.Part.FRONTEND_WAIT, S.Part.IPC):
        value = run.part_s(part) / run.waited_s()
        found["frontend", "The frontend's share", part.value] = _one(value)
    return found


def _device(run: Captured) -> dict[Key, Values]:
    engine = run.device(BEHIND_S)
    idle = {cause: ns / 1e9 for cause, ns in engine.idle_ns.items()}
    busy = engine.busy_ns / 1e9
    whole = busy + sum(idle.values())
    shares = {"work": busy / whole} | {cause: s / whole for cause, s in idle.items()}
    nobodys = (S.IdleCause.NO_WORK, S.IdleCause.KV_LOAD)
    exposed = sum(s for cause, s in shares.items() if cause not in (*nobodys, "work"))
    by_cause = by(M.IDLE_CAUSE, shares)
    return {
        ("overview", "Device busy", "__auto"): _one(busy / whole),
        ("overview", "The device's time", "{{codesign_device_cause}}"): by_cause,
        ("host-device", "Busy and idle, by cause", "{{codesign_device_cause}}"): by_cause,
        ("host-device", "Idle although there was work", "{{instance}}"): {
            labels({"instance": "vllm-0"}): exposed
        },
    }


def _phases(run: Captured) -> dict[Key, Values]:
    phases = run.phases()
    means = by(M.PHASE, {name: mean(values) for name, values in phases.items()})
    highs = by(
        M.PHASE,
        {name: quantile(0.95, values, M.PHASE_BUCKETS) for name, values in phases.items()},
    )
    found: dict[Key, Values] = {
        ("host-device", "Phases: mean", "{{codesign_phase}}"): means,
        ("host-device", "Phases: p95", "{{codesign_phase}}"): highs,
    }

    def of(*spans: S.SpanKind) -> Callable[[Values], Values]:
        wanted = {labels({M.prometheus_label(M.PHASE): span.name}) for span in spans}
        return lambda values: {k: v for k, v in values.items() if k in wanted}

    for title, chosen in (
        (
            "Waiting for the pool, and in it",
            of(S.TEMPLATE_WAIT, S.TEMPLATE_RENDER, S.TOKENIZE_WAIT, S.TOKENIZE_ENCODE),
        ),
        ("On the loop: waiting for it, and running", of(S.FRONTEND_WAIT, S.FRONTEND_RUN)),
        ("Receiving", of(S.HTTP_RECEIVE)),
        ("Dispatch", of(S.ENGINE_DISPATCH)),
        ("Return", of(S.ENGINE_RETURN)),
        ("Streaming", of(S.DETOKENIZE, S.STREAM_SEND)),
    ):
        found["frontend", title, "{{codesign_phase}} mean"] = chosen(means)
        found["frontend", title, "{{codesign_phase}} p95"] = chosen(highs)
    admission = of(S.KV_PREFIX_LOOKUP, S.KV_ALLOCATE)(means)
    title = "Lookups and allocations at admission"
    found["scheduler-kv", title, "{{codesign_phase}}"] = admission
    return found


def _scheduler(run: Captured) -> dict[Key, Values]:
    queued = [span.duration_ns / 1e9 for span in run.spans(S.ENGINE_QUEUE.name)]
    reasons = {
        reason.value: sum(integer(s, each) for s in run.spans(S.ENGINE_QUEUE.name)) / 1e9
        for reason, each in zip(S.QueueReason, S.QUEUE_REASON_TIMES, strict=True)
    }
    waits = {name: seconds / run.window_s for name, seconds in reasons.items() if seconds}
    plans = [(step.schedule[1] - step.schedule[0]) / 1e9 for step in run.planned]
    whole = [(s.update[1] - s.schedule[0]) / 1e9 for s in run.planned if s.update is not None]
    requests = [step.requests for step in run.planned]
    page, step, against = (
        "scheduler-kv",
        "Step and schedule()",
        "schedule() against running and waiting",
    )
    return {
        (page, "Queue by reason", "{{codesign_queue_reason}}"): by(M.QUEUE_CAUSE, waits),
        (page, "Time in the queue", "mean"): _one(mean(queued)),
        (page, "Time in the queue", "p95"): _one(quantile(0.95, queued, M.PHASE_BUCKETS)),
        (page, against, "schedule()"): _one(mean(plans)),
        (page, "schedule() for each request in a step", "a request"): _one(
            sum(plans) / sum(requests)
        ),
        (page, step, "step p95"): _one(quantile(0.95, whole, M.STEP_BUCKETS)),
        (page, step, "schedule() p95"): _one(quantile(0.95, plans, M.STEP_BUCKETS)),
        (page, step, "step mean"): _one(mean(whole)),
        (page, "Requests in a step", "requests"): _one(mean(requests)),
        (page, "Requests in a step", "steps/s"): _one(len(run.planned) / run.window_s),
        ("host-device", "Steps, and what runs", "step"): _one(mean(whole)),
    }


def _cache(run: Captured) -> dict[Key, Values]:
    sources = {
        name: float(run.tokens(attribute))
        for name, attribute in (
            ("hbm", S.KV_TOKENS_HIT_HBM),
            ("external", S.KV_TOKENS_HIT_EXTERNAL),
            ("computed", S.PREFILL_COMPUTED),
        )
    }
    again = run.tokens(S.KV_TOKENS_AGAIN) / sum(sources.values())
    blocks = {
        "allocated": run.blocks(S.KV_BLOCKS, S.DECODE_BLOCKS) / run.window_s,
        "evicted": run.blocks(S.KV_BLOCKS_EVICTED, S.DECODE_BLOCKS_EVICTED) / run.window_s,
    }
    sessions = {t.root.attributes.get(S.SESSION_ID.key) for t in run.traces} - {None}
    return {
        ("scheduler-kv", "Prompt tokens by source", "{{codesign_kv_source}}"): by(
            M.TOKEN_SOURCE, {name: value / run.window_s for name, value in sources.items()}
        ),
        ("scheduler-kv", "Computed again", "computed again"): _one(again),
        ("scheduler-kv", "Blocks allocated and evicted", "{{codesign_kv_operation}}"): by(
            M.BLOCK_OPERATION, blocks
        ),
        ("scheduler-kv", "Sessions", "sessions"): _one(len(sessions)),
    }
