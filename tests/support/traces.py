"""A capture with a known answer: fixed ids, fixed clock, 40 requests of two scenarios.

`single` has 20 requests, one at a time, without any wait. `conc4` has 5 batches of 4, sent
at once to a tokenizer pool of one thread: request k of a batch waits k encodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vllm_codesign import semconv
from vllm_codesign.model.bench import BenchRun, RequestResult, Scenario
from vllm_codesign.model.trace import RequestTrace, Span, SpanEvent
from vllm_codesign.store.capture import Capture, ClockAnchor, HookRow, RunInfo, create
from vllm_codesign.store.writer import SegmentWriter, SeriesWriter

EPOCH_NS = 1_760_000_000_123_456_789
MS = 1_000_000
RESOURCE = {"service.instance.id": "host-4711", "host.name": "gpu-01"}
RECEIVE, RENDER, ENCODE, DISPATCH, QUEUE, PREFILL, RETURN = 1, 2, 10, 1, 0.04, 40, 0.5
ITL_MS, TOKENS = 5, 21


def trace_id(scenario: int, number: int) -> int:
    return (0xA0 + scenario) << 120 | (number + 1)


class Builder:
    """Adds spans of one trace one after the other, in milliseconds from the root's start."""

    def __init__(self, trace: int, start_ns: int) -> None:
        self.trace = trace
        self.start_ns = start_ns
        self.spans: list[Span] = []

    def at(self, ms: float) -> int:
        return self.start_ns + round(ms * MS)

    def add(self, name: str, start: float, end: float, service: str = "", **more: object) -> Span:
        span = Span(
            name=name,
            service=semconv.DEFAULT_SERVICE_NAME + service,
            trace_id=self.trace,
            span_id=(self.trace & 0xFFFF) << 16 | (self.trace >> 120) << 32 | len(self.spans) + 2,
            parent_id=(self.trace & 0xFFFF) << 16 | (self.trace >> 120) << 32 | 1,
            start_ns=self.at(start),
            end_ns=self.at(end),
            **more,
        )
        self.spans.append(span)
        return span

    def finish(self, end: float, parent_id: int = 0, outcome: str = "completed") -> RequestTrace:
        status = {"completed": 200, "rejected": 400}.get(outcome)
        attributes = {
            semconv.OPERATION_NAME.key: "chat",
            semconv.REQUEST_MODEL.key: "tiny",
            semconv.HTTP_METHOD.key: "POST",
            semconv.HTTP_ROUTE.key: "/v1/chat/completions",
            semconv.OUTCOME.key: outcome,
            semconv.STREAMING.key: True,
        }
        if status is not None:
            attributes[semconv.HTTP_STATUS.key] = status
        root = Span(
            name="POST /v1/chat/completions",
            service=semconv.DEFAULT_SERVICE_NAME,
            trace_id=self.trace,
            span_id=(self.trace & 0xFFFF) << 16 | (self.trace >> 120) << 32 | 1,
            parent_id=parent_id,
            start_ns=self.start_ns,
            end_ns=self.at(end),
            kind="server",
            attributes=attributes,
            status="unset" if outcome == "completed" else "error",
        )
        return RequestTrace(root, tuple(sorted(self.spans, key=lambda s: (s.start_ns, s.span_id))))


def completed(trace: int, start_ns: int, wait_ms: float, choices: int = 1) -> RequestTrace:
    """One completed streaming request that waits `wait_ms` for the tokenizer."""
    builder = Builder(trace, start_ns)
    now = 0.0

    def phase(kind: semconv.SpanKind, length: float, service: str = "", **more: object) -> None:
        nonlocal now
        builder.add(kind.name, now, now + length, service, **more)
        now += length

    pool = {semconv.POOL_SIZE.key: 1, semconv.POOL_AHEAD.key: round(wait_ms / ENCODE)}
    phase(semconv.HTTP_RECEIVE, RECEIVE, attributes={semconv.HTTP_REQUEST_SIZE.key: 51_200})
    phase(semconv.TEMPLATE_WAIT, 0, attributes=pool)
    phase(semconv.TEMPLATE_RENDER, RENDER)
    phase(semconv.TOKENIZE_WAIT, wait_ms, attributes=pool)
    phase(semconv.TOKENIZE_ENCODE, ENCODE, attributes={semconv.TOKENS.key: 2_500})
    handed = now
    for index in range(choices):
        # Each choice is an engine request of its own; they run beside one another.
        now = handed
        which = {semconv.REQUEST_ID.key: f"req-{trace:x}-{index}"}
        which[semconv.REQUEST_INDEX.key] = index
        phase(semconv.ENGINE_DISPATCH, DISPATCH, attributes=which)
        phase(semconv.ENGINE_QUEUE, QUEUE, "-engine", attributes=which)
        admitted = now
        builder.add(semconv.KV_PREFIX_LOOKUP.name, admitted, admitted + 0.02, "-engine")
        builder.add(semconv.KV_ALLOCATE.name, admitted + 0.02, admitted + 0.05, "-engine")
        phase(semconv.PREFILL, PREFILL, "-engine", attributes=which)
        itl = (ITL_MS * 1000,) * (TOKENS - 1)
        preempted = SpanEvent(
            semconv.EVENT_PREEMPTED, builder.at(now + 1), {semconv.EVENT_TOKENS_LOST.key: 16}
        )
        phase(
            semconv.DECODE,
            ITL_MS * (TOKENS - 1),
            "-engine",
            attributes={**which, semconv.DECODE_ITL.key: itl, semconv.DECODE_BATCH_MEAN.key: 4.0},
            events=(preempted,) if index else (),
        )
        phase(semconv.ENGINE_RETURN, RETURN, attributes=which)
        busy = {semconv.CALLS.key: TOKENS, semconv.BUSY.key: 2 * MS}
        builder.add(semconv.DETOKENIZE.name, admitted + PREFILL, now, attributes={**which, **busy})
    builder.add(
        semconv.STREAM_SEND.name,
        handed,
        now + 0.5,
        attributes={semconv.CALLS.key: TOKENS + 2, semconv.BUSY.key: 3 * MS},
    )
    return builder.finish(now + 0.5)


def ended(trace: int, start_ns: int, outcome: str) -> RequestTrace:
    """A request that was rejected, aborted or failed after its tokens were counted."""
    builder = Builder(trace, start_ns)
    builder.add(semconv.HTTP_RECEIVE.name, 0, RECEIVE)
    builder.add(semconv.TOKENIZE_ENCODE.name, RECEIVE, RECEIVE + ENCODE)
    return builder.finish(RECEIVE + ENCODE + 1, outcome=outcome)


def traces() -> list[RequestTrace]:
    """The 40 requests, `single` first."""
    found = [completed(trace_id(0, k), EPOCH_NS + k * 1_000 * MS, 0) for k in range(20)]
    start_ns = EPOCH_NS + 60_000 * MS
    for k in range(20):
        batch, index = divmod(k, 4)
        found.append(
            completed(trace_id(1, k), start_ns + batch * 1_000 * MS, wait_ms=ENCODE * index)
        )
    return found


def bench_run(requests: Iterable[RequestTrace] | None = None) -> BenchRun:
    """What the client of `traces()` saw; 2 ms of every request are spent outside the server."""
    rows = []
    for number, trace in enumerate(traces() if requests is None else requests):
        scenario, k = divmod(number, 20)
        encoded = trace.named(semconv.TOKENIZE_ENCODE.name)[0].end_ns
        prefilled = trace.named(semconv.PREFILL.name)[0].end_ns
        last = trace.named(semconv.DECODE.name)[0].end_ns
        to_headers = (encoded - trace.root.start_ns) / MS + 2
        rows.append(
            RequestResult(
                scenario=("single", "conc4")[scenario],
                repeat=k // (1, 4)[scenario],
                index=k % (1, 4)[scenario],
                trace_id=f"{trace.trace_id:032x}",
                start_unix_ns=trace.root.start_ns - MS,
                status="ok",
                http_status=200,
                prompt_tokens=2_500,
                completion_tokens=TOKENS,
                serialize_ms=0.1,
                http_overhead_ms=to_headers,
                prefill_ms=(prefilled - encoded) / MS,
                decode_ms=(last - prefilled) / MS,
                parse_ms=0.2,
                ttft_ms=to_headers + (prefilled - encoded) / MS,
                total_ms=0.1 + to_headers + (last - encoded) / MS,
            )
        )
    return BenchRun(
        tool_version="0.1.0",
        url="http://127.0.0.1:8000",
        model="tiny",
        started_unix_ns=EPOCH_NS,
        finished_unix_ns=EPOCH_NS + 120_000 * MS,
        scenarios=[
            Scenario(name="single", concurrency=1, prompt_tokens=2_500, repeats=20),
            Scenario(name="conc4", concurrency=4, prompt_tokens=2_500, repeats=5),
        ],
        requests=rows,
    )


def run_info(**changes: object) -> RunInfo:
    run = RunInfo(
        run_id="run-1",
        pid=4711,
        host="gpu-01",
        started_ns=EPOCH_NS,
        finished_ns=EPOCH_NS + 120_000 * MS,
        versions={"codesign": "0.1.0", "vllm": "0.32.0", "torch": "2.13.0", "python": "3.11.9"},
        level="request",
        settings={"level": "request", "ring_bytes": 1 << 20},
        hooks=[
            HookRow(
                process="APIServer",
                pid=4711,
                role="api_server",
                row="output_processor.add_request",
                target="vllm.v1.engine.output_processor:OutputProcessor.add_request",
                status="installed",
            )
        ],
        anchors=[ClockAnchor(monotonic_ns=1_000, unix_ns=EPOCH_NS)],
        drops={},
        complete=True,
    )
    return run.model_copy(update=changes)


def write_capture(
    store: Path, requests: Iterable[RequestTrace] | None = None, run: RunInfo | None = None
) -> Capture:
    """The capture of `requests` (default: `traces()`), closed in two segments."""
    capture = create(store, run or run_info())
    writer = SegmentWriter(capture.traces)
    found = list(traces() if requests is None else requests)
    for half in (found[: len(found) // 2], found[len(found) // 2 :]):
        for trace in half:
            writer.add(trace.spans, RESOURCE)
        writer.close()
    series = SeriesWriter(capture.series)
    series.add(EPOCH_NS, "hw.gpu.utilization", "1", 0.5, {"hw.id": "0"})
    series.close()
    return capture
