"""Captures of any size with everything in them that the tables look at, always the same for a seed.

Each server is simulated step by step: a pool of one tokenizer thread, a queue, batches of 16, one
or two ranks. Requests come in waves, are completed, aborted, rejected or fail, have one or two
choices, load and store KV, evict one another's blocks, outlive their response. Spans and parts are
made by the package's own functions, as the exporter makes them. Some rows come twice, as after an
exporter's restart.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from vllm_codesign import semconv as S
from vllm_codesign.accounting import Timeline, account
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.exporter.accountant import accounting_attributes
from vllm_codesign.model.step import ConnectorCall, DeviceInterval, Member, RankStep, Step
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span, SpanEvent, SpanLink
from vllm_codesign.store import schema

EPOCH_NS = 1_760_000_000_000_000_000
US = 1_000
BATCH = 16
SEGMENT_ROWS = 50_000
SPANS_A_REQUEST = 24
"""Of its own and of the steps that serve it, about."""
SCENARIOS = ("steady", "burst")


@dataclass
class _Request:
    """One HTTP request on its way; times on its host's clock."""

    trace_id: int
    span_id: int
    begin: int
    outcome: str
    choices: int
    scenario: str
    session: str
    spans: list[tuple[S.SpanKind, int, int, dict[str, AttributeValue], tuple[SpanEvent, ...]]]
    end: int = 0
    first_chunk: int = 0


@dataclass
class _EngineRequest:
    """One of its choices in the engine."""

    of: _Request
    name: str
    index: int
    queued: int
    loads: bool
    chunks: int
    steps_left: int
    admitted: int = 0
    first: int = 0
    last: int = 0
    left: int = 0


@dataclass
class Many:
    """What `generate` made: spans by the resource they came with, and what a client knew."""

    spans: list[tuple[Span, dict[str, AttributeValue]]] = field(default_factory=list)
    scenario_of: dict[int, str] = field(default_factory=dict)
    """By trace id; requests of no client are missing."""
    requests: int = 0


class _Server:
    def __init__(self, number: int, rng: random.Random) -> None:
        self.rng = rng
        self.engine = 4_000 + number
        self.ranks = 1 + number % 2
        self.source = "events" if number % 2 else "wall"
        self.base = (number + 1) * 3_600_000_000_000
        self.shift = EPOCH_NS - self.base + number * 1_234_567
        self.timeline = Timeline(self.engine)
        self.resource: dict[str, AttributeValue] = {
            "service.instance.id": f"server-{number}",
            "host.name": f"gpu-{number:02}",
        }

    def us(self, low: int, high: int) -> int:
        return self.rng.randint(low * US, high * US)

    def ids(self) -> int:
        return self.rng.getrandbits(63) | 1


def generate(spans: int, seed: int = 7, servers: int = 2) -> Many:
    """About `spans` spans on so many servers."""
    made = Many()
    for number in range(servers):
        server = _Server(number, random.Random(seed * 1_000 + number))
        for trace in _serve(server, spans // servers // SPANS_A_REQUEST, made):
            made.spans += [(span, server.resource) for span in trace.spans]
    return made


def write(made: Many, folder: Path) -> list[Path]:
    """As segments in `folder`; every 500th row stands in two of them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, start in enumerate(range(0, len(made.spans), SEGMENT_ROWS)):
        rows = made.spans[start : start + SEGMENT_ROWS] + made.spans[start : start + 500_000 : 500]
        files.append(folder / f"{number:06}-20251009T085320Z.parquet")
        pq.write_table(schema.traces_table(rows), files[-1], compression="zstd")
    return files


def _serve(server: _Server, count: int, made: Many) -> Iterator[RequestTrace]:
    requests, queue = _frontends(server, count)
    yield from _engine(server, queue)
    for request in requests:
        made.requests += 1
        if request.scenario:
            made.scenario_of[request.trace_id] = request.scenario
        trace = _trace(server, request)
        if trace.root.attributes[S.OUTCOME.key] != S.Outcome.FAILED or server.rng.random() < 0.5:
            # The others are of an older version, which wrote no parts.
            found = account(trace, {server.engine: server.timeline})
            attributes = {**trace.root.attributes, **accounting_attributes(found)}
            trace = replace(trace, root=replace(trace.root, attributes=attributes))
        yield trace
        if server.rng.random() < 0.01:
            yield _outlived(server, request)


def _frontends(server: _Server, count: int) -> tuple[list[_Request], deque[_EngineRequest]]:
    """Requests in order of their beginning, through a tokenizer pool of one thread."""
    rng, now, free = server.rng, server.base, server.base
    requests: list[_Request] = []
    queue: list[_EngineRequest] = []
    for number in range(count):
        wave = number // 64 % 4 == 3
        now += server.us(0, 300) if wave else server.us(2_000, 9_000)
        outcome = rng.choices(list(S.Outcome), (95, 2, 2, 1))[0]
        shared = requests and rng.random() < 0.005
        request = _Request(
            requests[-1].trace_id if shared else rng.getrandbits(127) | 1,
            server.ids(),
            now,
            outcome.value,
            2 if rng.random() < 0.03 else 1,
            "" if rng.random() < 0.2 or shared else SCENARIOS[wave],
            f"session-{rng.randint(0, 40)}" if rng.random() < 0.9 else "",
            [],
        )
        requests.append(request)
        at = _phase(request, S.HTTP_RECEIVE, now, server.us(200, 900), body=True)
        if outcome is S.Outcome.REJECTED:
            request.end = at + server.us(20, 90)
            continue
        at = _phase(request, S.TEMPLATE_WAIT, at, max(0, free - at))
        at = _phase(request, S.TEMPLATE_RENDER, at, server.us(30, 400))
        at = _phase(request, S.TOKENIZE_WAIT, at, server.us(0, 60))
        at = free = _phase(request, S.TOKENIZE_ENCODE, at, server.us(300, 1_500))
        at = _phase(request, S.FRONTEND_WAIT, at, server.us(0, 2_000))
        at = _phase(request, S.FRONTEND_RUN, at, server.us(50, 500))
        for index in range(request.choices):
            queued = _phase(request, S.ENGINE_DISPATCH, at, server.us(200, 4_000), client=True)
            chunks, decoded = rng.choice((1, 1, 2)), rng.randint(2, 14)
            queue.append(
                _EngineRequest(
                    request,
                    f"{request.span_id:x}-{index}",
                    index,
                    queued,
                    rng.random() < 0.1,
                    chunks,
                    chunks + decoded,
                )
            )
    return requests, deque(sorted(queue, key=lambda each: each.queued))


def _phase(
    request: _Request,
    kind: S.SpanKind,
    at: int,
    length: int,
    body: bool = False,
    client: bool = False,
) -> int:
    attributes: dict[str, AttributeValue] = {}
    if body:
        attributes[S.RECEIVE_BODY.key] = length // 3
    if client:
        attributes[S.DISPATCH_CLIENT.key] = length // 4
    request.spans.append((kind, at, at + length, attributes, ()))
    return at + length


def _engine(server: _Server, queue: deque[_EngineRequest]) -> Iterator[RequestTrace]:
    """Serve the queue, step by step; each step's trace."""
    rng, number, at, before = server.rng, 0, server.base, 0
    running: list[_EngineRequest] = []
    while queue or running:
        if not running and queue[0].queued > at:
            at, before = queue[0].queued, min(before, 50 * US)
        number += 1
        admitted = []
        while queue and queue[0].queued <= at and len(running) < BATCH:
            one = queue.popleft()
            one.admitted = at
            admitted.append(one)
            running.append(one)
        step = _step(server, number, at, before, running, len(queue))
        server.timeline.add(step)
        yield trace_of(
            step, S.DEFAULT_SERVICE_NAME, rng.getrandbits(127) | 1, server.ids,
            lambda ns: ns + server.shift,
        )  # fmt: skip
        assert step.update is not None
        for one in running:
            one.steps_left -= 1
            if one.chunks:
                one.chunks -= 1
                one.first = one.last = step.update[1] - 50 * US
            else:
                one.last = step.update[1] - 50 * US
            if not one.steps_left:
                _finish(server, one)
        running = [one for one in running if one.steps_left]
        before = server.us(0, 200)
        at = step.update[1] + before


def _step(
    server: _Server, number: int, at: int, before: int, running: list[_EngineRequest], waiting: int
) -> Step:
    rng = server.rng
    planned = at + server.us(100, 900)
    ranks, taken = [], planned
    for rank in range(server.ranks):
        entered = planned + server.us(50, 500)
        forward = entered + server.us(100, 900)
        launched = forward + server.us(1_000, 7_000)
        sample = launched + server.us(10, 300)
        sampled = sample + server.us(100, 1_000)
        calls = ()
        if server.source == "wall":
            load = forward + (launched - forward) // 5
            save = forward + (launched - forward) // 2
            calls = (
                ConnectorCall("load", load, load + server.us(0, 400)),
                ConnectorCall("save", save, save + server.us(0, 400), 10, 20),
            )
        device = [
            DeviceInterval(forward, launched, "model", server.source),
            DeviceInterval(sample, sampled, "sample", server.source),
        ]
        if rng.random() < 0.3:
            drafted = sampled - 20 * US
            device.append(
                DeviceInterval(drafted, sampled + server.us(0, 500), "draft", server.source)
            )
        if rng.random() < 0.01:
            device.pop(0)  # a record was lost
        ranks.append(
            RankStep(
                rank, (entered, launched), (forward, launched), (sample, sampled), None,
                tuple(device), calls,
            )
        )  # fmt: skip
        taken = max(taken, sampled + server.us(50, 400))
    return Step(
        engine=server.engine,
        number=number,
        schedule=(at, planned),
        before_ns=before,
        update=(taken, taken + server.us(200, 900)),
        waited_ns=max(0, taken - planned - server.us(0, 300)),
        ranks=tuple(ranks),
        members=tuple(
            Member(
                one.of.trace_id, one.of.span_id, one.name, 1, "prefill" if one.chunks else "decode"
            )
            for one in running
        ),
        requests=len(running),
        tokens=len(running),
        waiting=waiting,
        running=len(running),
        blocked_by="no_free_blocks" if waiting and len(running) == BATCH else "",
        allocate=(at + 20 * US, at + 60 * US),
        allocate_ns=30 * US,
        allocate_calls=len(running),
    )


def _finish(server: _Server, one: _EngineRequest) -> None:
    """The engine's spans of a choice, and what comes after its last token."""
    rng, request = server.rng, one.of
    identity: dict[str, AttributeValue] = {
        S.REQUEST_ID.key: one.name,
        S.REQUEST_INDEX.key: one.index,
    }
    engine = {**identity, S.ENGINE_PID.key: server.engine}
    waited = one.admitted - one.queued
    reasons = {f"codesign.queue.{r}_ns": waited // 2 for r in rng.sample(["no_slot", "kv_load"], 2)}
    request.spans.append((S.ENGINE_QUEUE, one.queued, one.admitted, {**engine, **reasons}, ()))
    tokens = rng.randint(200, 4_000)
    prefill: dict[str, AttributeValue] = {
        **engine,
        S.PREFILL_COMPUTED.key: tokens,
        S.KV_TOKENS_HIT_HBM.key: 16 * rng.randint(0, 60),
        S.KV_TOKENS_HIT_EXTERNAL.key: 256 if one.loads else 0,
        S.KV_TOKENS_AGAIN.key: 16 * rng.randint(0, 3),
        S.KV_REUSED_BYTES.key: rng.randint(0, 1 << 30),
        S.KV_REUSED_IDLE.key: rng.randint(0, 90_000_000_000),
    }
    events = tuple(_evicted(server, one.admitted + US) for _ in range(rng.randint(0, 2)))
    request.spans.append((S.PREFILL, one.admitted, one.first, prefill, events))
    request.spans.append((S.DECODE, one.first, one.last, engine, events[:1]))
    moved = {**engine, S.KV_CONNECTOR.key: "OffloadingConnector", S.KV_TIER.key: "host"}
    if one.loads:
        load = {**moved, S.KV_TOKENS.key: 256, S.KV_BYTES.key: 256 * 2_048}
        start, until = one.queued + waited // 4, one.queued + waited // 2 + server.us(0, 3_000)
        if rng.random() < 0.9:  # of the others nobody told the end
            load[S.KV_DURATION.key] = until - start
        load[S.KV_ASYNCHRONOUS.key] = rng.random() < 0.5
        request.spans.append((S.KV_LOAD, start, until, load, ()))
    if rng.random() < 0.2:
        store = {**moved, S.KV_TOKENS.key: tokens, S.KV_BYTES.key: tokens * 2_048}
        if rng.random() < 0.5:  # the others go on after the response
            store[S.KV_DURATION.key] = one.last - one.first
        request.spans.append((S.KV_STORE, one.first, one.last, store, ()))
    back = one.last + server.us(50, 900)
    transit = {S.RETURN_TRANSIT.key: (back - one.last) // 3, S.RETURN_OUTPUT_QUEUE.key: 7 * US}
    request.spans.append((S.ENGINE_RETURN, one.last, back, {**identity, **transit}, ()))
    busy = {**identity, S.CALLS.key: 9, S.BUSY.key: server.us(20, 300)}
    request.spans.append((S.DETOKENIZE, one.first, back, busy, ()))
    request.first_chunk = request.first_chunk or one.first + server.us(100, 900)
    if back >= request.end:
        request.end = back + server.us(30, 300)


def _evicted(server: _Server, at: int) -> SpanEvent:
    rng = server.rng
    of: dict[str, AttributeValue] = {S.EVICTED_BLOCKS.key: rng.randint(1, 90)}
    if rng.random() < 0.8:
        of[S.EVICTED_IDLE.key] = rng.randint(0, 600_000_000_000)
    if rng.random() < 0.8:
        of[S.EVICTED_SESSION.key] = f"session-{rng.randint(0, 40)}"
    return SpanEvent(S.EVENT_EVICTED, at + server.shift, of)


def _trace(server: _Server, request: _Request) -> RequestTrace:
    attributes: dict[str, AttributeValue] = {
        S.OUTCOME.key: request.outcome,
        S.LEVEL.key: "step",
        S.MONOTONIC.key: request.begin,
    }
    if request.session:
        attributes[S.SESSION_ID.key] = request.session
    if request.first_chunk:
        attributes[S.RESPONSE_TTFC.key] = (request.first_chunk - request.begin) / 1e9
        busy: dict[str, AttributeValue] = {S.CALLS.key: 9, S.BUSY.key: server.us(30, 200)}
        request.spans.append((S.STREAM_SEND, request.first_chunk, request.end, busy, ()))
    root = Span(
        "POST /v1/chat/completions", S.DEFAULT_SERVICE_NAME, request.trace_id, request.span_id, 0,
        request.begin + server.shift, request.end + server.shift, "server", attributes,
    )  # fmt: skip
    return RequestTrace(root, _children(server, request.trace_id, request.span_id, request.spans))


def _children(server: _Server, trace_id: int, parent: int, spans: list) -> tuple[Span, ...]:  # type: ignore[type-arg]
    """As the exporter nests them: a load that lies within the queue or the prefill is its child."""
    made: list[Span] = []
    for kind, start, end, attributes, events in spans:
        around = parent
        if kind is S.KV_LOAD:
            holder = next(
                (
                    m for m in made
                    if m.name in (S.ENGINE_QUEUE.name, S.PREFILL.name)
                    and m.start_ns <= start + server.shift and end + server.shift <= m.end_ns
                    and m.attributes[S.REQUEST_ID.key] == attributes[S.REQUEST_ID.key]
                ),
                None,
            )  # fmt: skip
            around = holder.span_id if holder is not None else parent
        made.append(
            Span(
                kind.name, S.DEFAULT_SERVICE_NAME + kind.service, trace_id, server.ids(), around,
                start + server.shift, end + server.shift, "internal", attributes, events,
            )
        )  # fmt: skip
    return tuple(made)


def _outlived(server: _Server, request: _Request) -> RequestTrace:
    """The rest of a store that went on after the response: it has the end, not the tokens."""
    trace_id, span_id = server.rng.getrandbits(127) | 1, server.ids()
    until = request.end + server.us(500, 5_000)
    moved: dict[str, AttributeValue] = {
        S.KV_CONNECTOR.key: "OffloadingConnector",
        S.KV_TIER.key: "host",
        S.KV_DURATION.key: until - request.begin,
        S.ENGINE_PID.key: server.engine,
    }
    root = Span(
        S.ENGINE_REQUEST.name, S.DEFAULT_SERVICE_NAME + "-engine", trace_id, span_id, 0,
        request.end + server.shift, until + server.shift, "internal",
        {S.OUTCOME.key: "completed", S.MONOTONIC.key: request.end},
        links=(SpanLink(request.trace_id, request.span_id, {}),),
    )  # fmt: skip
    store = [(S.KV_STORE, request.end, until, moved, ())]
    return RequestTrace(root, _children(server, trace_id, span_id, store))
