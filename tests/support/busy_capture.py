"""A busy server's capture of any size: requests, steps and the client's results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.accounting.cases import ENGINE, member, step
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, account, timelines
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.model.bench import BenchRun, RequestResult, Scenario
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.writer import SegmentWriter

SPACE_NS = 40 * traces.MS
"""Between the beginnings of two requests."""


def request(number: int) -> RequestTrace:
    """Request `number` of a busy server: eight at a time, waits of their own, some that fail."""
    start_ns = traces.EPOCH_NS + number * SPACE_NS
    trace_id = traces.trace_id(3, number)
    if number % 50 == 49:
        made = traces.ended(trace_id, start_ns, "failed" if number % 100 == 99 else "aborted")
    else:
        made = traces.completed(trace_id, start_ns, wait_ms=(number * 7) % 100)
    root = made.root
    decode = made.named(S.DECODE.name)
    known = {
        S.MONOTONIC.key: root.start_ns - traces.EPOCH_NS + 1_000,
        S.LEVEL.key: "step",
        S.SESSION_ID.key: f"agent-{number % 17}",
    }
    if decode:
        known[S.RESPONSE_TTFC.key] = (decode[0].start_ns - root.start_ns) / 1e9
    root = replace(root, attributes={**root.attributes, **known})
    engine = {S.ENGINE_PID.key: ENGINE}
    children = tuple(
        replace(span, attributes={**span.attributes, **engine})
        if span.service.endswith("-engine")
        else span
        for span in made.children
    )
    return RequestTrace(root, children)


def steps(requests: list[RequestTrace]) -> Iterator[Step]:
    """One every 5 ms, each with the requests that are decoded just then."""
    running = [
        (t, span)
        for t in requests
        for span in t.children
        if span.name in (S.PREFILL.name, S.DECODE.name)
    ]
    running.sort(key=lambda pair: pair[1].start_ns)
    end_ns = max(span.end_ns for _, span in running)
    first = 0
    now = running[0][1].start_ns
    for number in itertools.count(1):
        if now >= end_ns:
            return
        while running[first][1].end_ns < now:
            first += 1
        members = []
        for t, span in running[first:]:
            if span.start_ns > now:
                break
            if span.end_ns > now:
                request_id = str(span.attributes[S.REQUEST_ID.key])
                members.append(member(t.root.span_id, span.name, request_id))
        at = now - traces.EPOCH_NS + 1_000
        yield step(
            number,
            at,
            schedule=200_000,
            reach=50_000,
            prepare=300_000,
            model=3_500_000,
            between=50_000,
            sample=200_000,
            back=50_000,
            update=100_000,
            members=tuple(members),
        )
        now += 5 * traces.MS


def accounted(trace: RequestTrace, engines: dict[int, Timeline]) -> RequestTrace:
    """With the parts on its root, as the exporter writes them."""
    found = account(trace, engines)
    parts = {f"codesign.part.{part}_ns": ns for part, ns in found.parts.items()}
    root = replace(trace.root, attributes={**trace.root.attributes, **parts})
    return RequestTrace(root, trace.children)


def write(store: Path, requests: list[RequestTrace]) -> Capture:
    capture = traces.write_capture(store, requests, traces.run_info(level="step"))
    writer = SegmentWriter(capture.traces)
    ids = itertools.count(1 << 40)
    for each in steps(requests):
        made = trace_of(
            each,
            "vllm",
            next(ids) << 8,
            lambda: next(ids),
            lambda t: t - 1_000 + traces.EPOCH_NS,
        )
        writer.add(made.spans, traces.RESOURCE)
    writer.close()
    return capture


def bench(requests: list[RequestTrace]) -> BenchRun:
    """Its client: a thousand requests of 16 at a time."""
    return BenchRun(
        tool_version="0.1.0",
        url="http://127.0.0.1:8000",
        model="tiny",
        started_unix_ns=traces.EPOCH_NS,
        scenarios=[Scenario(name="conc16", concurrency=16, prompt_tokens=2_500, repeats=63)],
        requests=[
            RequestResult(
                scenario="conc16",
                repeat=k // 16,
                index=k % 16,
                trace_id=f"{t.trace_id:032x}",
                start_unix_ns=t.root.start_ns,
                status="ok" if t.root.status == "unset" else "error",
                error=None if t.root.status == "unset" else "connection closed",
                http_status=200,
                serialize_ms=0.1,
                http_overhead_ms=13.0 + (k * 7) % 100,
                prefill_ms=41.0,
                decode_ms=100.0,
                total_ms=154.1 + (k * 7) % 100,
            )
            for k, t in enumerate(requests)
        ],
    )


def requests(count: int) -> list[RequestTrace]:
    """The first so many, accounted for."""
    made = [request(number) for number in range(count)]
    engines = timelines(steps(made))
    return [accounted(trace, engines) for trace in made]


def demo(folder: Path, made: list[RequestTrace]) -> Path:
    """The folder of a run: a capture and the client's results."""
    write(folder / "capture", made)
    (folder / "results.json").write_text(bench(made).model_dump_json())
    return folder
