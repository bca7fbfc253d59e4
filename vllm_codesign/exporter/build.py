"""Turns the facts of a complete request into spans.

Each end of a span is a stamp that a hook took where the thing happened. A stamp that was
never taken (the request ended earlier, or a record was lost) leaves its span out.
"""

from __future__ import annotations

import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from vllm_codesign import semconv as S
from vllm_codesign.exporter.engine_phases import engine_phases
from vllm_codesign.exporter.facts import EngineFacts, Origin, RootFacts
from vllm_codesign.exporter.frontend_phases import frontend_phases
from vllm_codesign.exporter.kv_phases import Calls, Known
from vllm_codesign.exporter.outcome import finish_reason, outcome_of_engine, outcome_of_root
from vllm_codesign.exporter.phase import Phase
from vllm_codesign.exporter.queueing import HeadTimeline
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span, SpanLink
from vllm_codesign.recorder.layout import ROUTES, Field, Kind
from vllm_codesign.settings import LEVELS

_U64 = (1 << 64) - 1
_KNOWN = 100_000
"""Requests that are remembered by their key."""


def _link(trace_id: int, span_id: int) -> SpanLink:
    return SpanLink(trace_id, span_id, {S.LINK_REASON.key: "outlives the response"})


@dataclass(slots=True)
class Builder:
    """Builds traces; `to_unix` maps the host's monotonic clock to Unix time."""

    service_name: str
    to_unix: Callable[[int], int]
    heads: dict[int, HeadTimeline]
    new_id: Callable[[], int] = field(default=lambda: secrets.randbits(64) or 1)
    calls: Calls = field(default_factory=dict)
    """The workers' calls of KV connectors, by step."""
    _known: OrderedDict[int, Known] = field(default_factory=OrderedDict)
    """Requests by their engine key, for those whose allocations take their blocks."""

    def request(self, root: RootFacts, last_known: int, final: bool = False) -> list[RequestTrace]:
        """The trace of an HTTP request, and those of engine work that outlived it.

        `last_known`: the time up to which records were read; it ends what never ended.
        `final`: nothing more will come, so unfinished engine work is told now.
        """
        begin = root.one.get(Kind.ROOT_BEGIN)
        if begin is None or Kind.ROOT_PARENT not in root.one:
            return []
        start = begin.t0
        ended = root.get(Kind.ROOT_END)
        end = ended.t0 if ended else max(last_known, start)
        root.engines.sort(key=lambda e: e.one[Kind.REQ].t1)
        stub = self.root_stub(root)
        trace_id, span_id = stub.trace_id, stub.span_id
        span = replace(
            stub,
            end_ns=stub.start_ns + end - start,
            attributes=self._root_attributes(root, end) | {S.MONOTONIC.key: start},
            status="error" if outcome_of_root(root) is S.Outcome.FAILED else "unset",
        )
        phases = list(frontend_phases(root, end))
        late: list[tuple[EngineFacts, list[Phase]]] = []
        for engine in root.engines:
            self._know(engine, root.text(Field.SESSION_ID))
        for index, engine in enumerate(root.engines):
            mine, after = _cut(self._phases_of(engine, index, last_known), end)
            phases += mine
            if after and (engine.finished or final):
                late.append((engine, after))  # else it is told when the engine is done
        offset = span.start_ns - start
        children = self._spans(phases, trace_id, span_id, offset)
        link = _link(trace_id, span_id)
        return [
            RequestTrace(span, children),
            *(self._engine_trace(engine, after, (link,), offset) for engine, after in late),
        ]

    def _know(self, engine: EngineFacts, session_id: str) -> None:
        self._known[engine.key] = Known(engine.text(Field.REQUEST_ID), session_id)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def root_stub(self, root: RootFacts) -> Span:
        """The SERVER span of an HTTP request as it is known from the beginning."""
        context = root.one[Kind.ROOT_PARENT]
        start = self.to_unix(root.one[Kind.ROOT_BEGIN].t0)
        return Span(
            name=f"POST {self._route(root)}",
            service=self.service_name,
            trace_id=(context.t0 & _U64) << 64 | (context.t1 & _U64),
            span_id=context.a & _U64,
            parent_id=context.b & _U64,
            start_ns=start,
            end_ns=start,
            kind="server",
            trace_state=root.text(Field.TRACE_STATE),
        )

    def engine_stub(self, trace_id: int, span_id: int) -> Span:
        """The root of an engine request without an HTTP request, likewise."""
        service = self.service_name + S.Service.ENGINE
        return Span(S.ENGINE_REQUEST.name, service, trace_id, span_id, 0, 0, 0)

    def engine(
        self, facts: EngineFacts, origin: Origin | None, last_known: int
    ) -> RequestTrace | None:
        """The trace of an engine request without an open HTTP request; None if it is empty.

        Of one whose response is over, only what came after that: the rest is told already.
        """
        if facts.key not in self._known:
            self._know(facts, "")
        phases = self._phases_of(facts, 0, last_known)
        links: tuple[SpanLink, ...] = ()
        if origin is None and facts.root_key:
            facts.lossy = True  # its HTTP request went with another exporter
        if origin is not None:
            phases = _cut(phases, origin.ended)[1]
            links = (_link(origin.trace_id, origin.span_id),)
        offset = origin.offset if origin is not None else None
        return self._engine_trace(facts, phases, links, offset) if phases else None

    def _phases_of(self, engine: EngineFacts, index: int, last_known: int) -> list[Phase]:
        heads = self.heads.get(engine.engine_pid) or HeadTimeline()
        return engine_phases(engine, index, heads, last_known, self.calls, self._known)

    def _engine_trace(
        self,
        engine: EngineFacts,
        phases: list[Phase],
        links: tuple[SpanLink, ...],
        offset: int | None,
    ) -> RequestTrace:
        start = min(phase.start for phase in phases)
        freed = engine.get(Kind.ENG_FINISHED)
        end = max(*(phase.end for phase in phases), freed.t0 if freed else 0)
        if offset is None:
            offset = self.to_unix(start) - start
        attributes: dict[str, AttributeValue] = {
            S.REQUEST_ID.key: engine.text(Field.REQUEST_ID),
            S.OUTCOME.key: outcome_of_engine(engine).value,
            S.MONOTONIC.key: start,
        }
        if reason := finish_reason(engine):
            attributes[S.RESPONSE_FINISH_REASONS.key] = (reason,)
        if engine.lossy:
            attributes[S.LOSSY.key] = True
        if links:  # the rest of a request that is told already
            trace_id, span_id = secrets.randbits(128) or 1, self.new_id()
        else:
            trace_id, span_id = engine.own_ids()
        span = Span(
            name=S.ENGINE_REQUEST.name,
            service=self.service_name + S.Service.ENGINE,
            trace_id=trace_id,
            span_id=span_id,
            parent_id=0,
            start_ns=start + offset,
            end_ns=end + offset,
            attributes=attributes,
            links=links,
        )
        return RequestTrace(span, self._spans(phases, trace_id, span_id, offset))

    def _spans(
        self, phases: list[Phase], trace_id: int, parent: int, offset: int
    ) -> tuple[Span, ...]:
        return tuple(self._flatten(phases, trace_id, parent, offset))

    def _flatten(
        self, phases: list[Phase], trace_id: int, parent: int, offset: int
    ) -> Iterator[Span]:
        for phase in phases:
            span_id = self.new_id()
            yield Span(
                name=phase.kind.name,
                service=self.service_name + phase.kind.service,
                trace_id=trace_id,
                span_id=span_id,
                parent_id=parent,
                start_ns=phase.start + offset,
                end_ns=phase.end + offset,
                attributes=phase.attributes,
                events=tuple(replace(e, time_ns=e.time_ns + offset) for e in phase.events),
            )
            yield from self._flatten(phase.inside, trace_id, span_id, offset)

    def _route(self, root: RootFacts) -> str:
        return ROUTES[root.one[Kind.ROOT_BEGIN].s][0]

    def _root_attributes(self, root: RootFacts, end: int) -> dict[str, AttributeValue]:
        begin = root.one[Kind.ROOT_BEGIN]
        received, ended = root.get(Kind.ROOT_RECEIVED), root.get(Kind.ROOT_END)
        outcome = outcome_of_root(root)
        path, operation = ROUTES[begin.s]
        attributes: dict[str, AttributeValue] = {
            S.OPERATION_NAME.key: operation,
            S.PROVIDER_NAME.key: "vllm",
            S.HTTP_METHOD.key: "POST",
            S.HTTP_ROUTE.key: path,
            S.OUTCOME.key: outcome.value,
            S.LEVEL.key: LEVELS[begin.c] if begin.c < len(LEVELS) else str(begin.c),
        }
        for key, text in (
            (S.REQUEST_MODEL.key, root.text(Field.MODEL)),
            (S.SESSION_ID.key, root.text(Field.SESSION_ID)),
        ):
            if text:
                attributes[key] = text
        if received is not None:
            attributes[S.HTTP_REQUEST_SIZE.key] = received.a
        if ended is not None and ended.a:
            attributes[S.HTTP_STATUS.key] = ended.a
        if ended is not None and ended.t1:
            attributes[S.RESPONSE_TTFC.key] = (ended.t1 - begin.t0) / 1e9
        attributes.update(_parameters(root))
        attributes.update(_usage(root))
        if outcome in (S.Outcome.FAILED, S.Outcome.REJECTED):
            attributes[S.ERROR_TYPE.key] = _error_type(root)
        if root.lossy:
            attributes[S.LOSSY.key] = True
        return attributes


def caller_sampled(root: RootFacts) -> bool | None:
    """The sampled flag of the caller's `traceparent`; None where it sent none."""
    context = root.one[Kind.ROOT_PARENT]
    return bool(context.c & 1) if context.s else None


def _error_type(root: RootFacts) -> str:
    ended = root.get(Kind.ROOT_END)
    if ended is None:
        return "server_died"
    if name := root.text(Field.ERROR_TYPE):
        return name
    if ended.a >= 400:
        return str(ended.a)
    return "engine" if root.engines else "stream"


def _parameters(root: RootFacts) -> dict[str, AttributeValue]:
    record = root.get(Kind.ROOT_PARAMS)
    if record is None:
        return {}
    attributes: dict[str, AttributeValue] = {S.STREAMING.key: bool(record.s & 1)}
    if record.t0 >= 0:
        attributes[S.REQUEST_MAX_TOKENS.key] = record.t0
    if record.t1 != 1:
        attributes[S.REQUEST_CHOICE_COUNT.key] = record.t1
    for key, bits in ((S.REQUEST_TEMPERATURE.key, record.a), (S.REQUEST_TOP_P.key, record.b)):
        if bits != -1:
            attributes[key] = struct.unpack("<d", struct.pack("<q", bits))[0]
    return attributes


def _usage(root: RootFacts) -> dict[str, AttributeValue]:
    """Tokens and finish reasons, from the engine requests."""
    if not root.engines:
        return {}
    prompt = generated = cached = 0
    reasons: list[str] = []
    for engine in root.engines:
        request = engine.one[Kind.REQ]
        out = engine.get(Kind.REQ_OUT)
        generated += out.b if out else 0
        if request.s == 0:  # choices of one prompt share it: count it once
            prompt += request.c
            scheduled = engine.all(Kind.ENG_SCHEDULED)
            cached += scheduled[0].a + scheduled[0].b if scheduled else 0
        if reason := finish_reason(engine):
            reasons.append(reason)
    attributes: dict[str, AttributeValue] = {
        S.USAGE_INPUT_TOKENS.key: prompt,
        S.USAGE_OUTPUT_TOKENS.key: generated,
        S.USAGE_CACHE_READ.key: cached,
    }
    if reasons:
        attributes[S.RESPONSE_FINISH_REASONS.key] = tuple(reasons)
    return attributes


def _cut(phases: list[Phase], end: int) -> tuple[list[Phase], list[Phase]]:
    """What happened up to `end`, and what after it; a phase across it falls into two."""
    before, after = [], []
    for phase in phases:
        if phase.end <= end:
            before.append(phase)
        elif phase.start >= end:
            after.append(phase)
        else:
            before.append(phase.until(end))
            after.append(phase.since(end))
    return before, after
