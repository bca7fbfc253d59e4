"""The phases of one engine request, from its dispatch to its return."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_codesign import semconv as S
from vllm_codesign.exporter import kv_phases
from vllm_codesign.exporter.facts import EngineFacts
from vllm_codesign.exporter.phase import Phase
from vllm_codesign.exporter.queueing import HeadTimeline, split
from vllm_codesign.model.trace import AttributeValue, SpanEvent
from vllm_codesign.recorder.layout import Field, Kind
from vllm_codesign.recorder.reader import Record

Attributes = dict[str, AttributeValue]
_LOW = 0xFFFFFFFF


def engine_phases(
    engine: EngineFacts,
    index: int,
    heads: HeadTimeline,
    last_known: int,
    calls: kv_phases.Calls,
    known: Mapping[int, kv_phases.Known],
) -> list[Phase]:
    """Top-level phases in order of time; `last_known` ends what never ended.

    `calls`: the workers' calls of KV connectors, by step. `known`: requests by their key, those
    that are over too.
    """
    identity: Attributes = {
        S.REQUEST_ID.key: engine.text(Field.REQUEST_ID),
        S.REQUEST_INDEX.key: index,
    }
    in_engine = {**identity, S.ENGINE_PID.key: engine.engine_pid} if engine.engine_pid else identity
    phases: list[Phase] = []
    queued = engine.get(Kind.ENG_QUEUED)
    scheduled = next(iter(engine.all(Kind.ENG_SCHEDULED)), None)
    out = engine.get(Kind.REQ_OUT)
    freed = engine.get(Kind.ENG_FINISHED)
    gone = freed.t0 if freed else last_known
    if (dispatch := _dispatch(engine, identity)) is not None:
        phases.append(dispatch)
    # A token without an admission: its record was lost, and with it the end of the queue.
    unknown = scheduled is None and out is not None and out.t0
    if queued is not None and not unknown:
        left = scheduled.t0 if scheduled else gone
        times = split(queued.t0, left, engine.key, heads, engine.all(Kind.ENG_DEFERRED))
        attributes = dict(in_engine)
        if times:
            attributes[S.QUEUE_REASON.key] = max(times, key=lambda name: times[name])
        attributes.update({f"codesign.queue.{name}_ns": ns for name, ns in times.items()})
        phases.append(Phase(S.ENGINE_QUEUE, queued.t0, max(left, queued.t0), attributes))
    if scheduled is not None:
        first = out.t0 if out and out.t0 else gone
        end = max(first, scheduled.t0)
        phases.append(_prefill(engine, in_engine, scheduled.t0, end, known))
    if out is not None and out.t0:
        phases.append(_decode(engine, in_engine, out.t0, out.t1, known))
        if (returned := _return(engine, identity, out.t1)) is not None:
            phases.append(returned)
    for call in (
        *_lookup_and_blocks(engine, identity),
        *kv_phases.lookups(engine, identity),
        *kv_phases.loads(engine, in_engine, calls, gone),
    ):
        # An asynchronous load has its lookup and itself in the queue, others in the prefill.
        around = next((p for p in phases if p.kind in _AROUND and _holds(p, call)), None)
        (around.inside if around is not None else phases).append(call)
    phases += kv_phases.stores(engine, in_engine, calls, last_known)
    detokenize = engine.get(Kind.REQ_DETOKENIZE)
    if detokenize is not None:
        attributes = {
            **identity,
            S.CALLS.key: detokenize.c,
            S.BUSY.key: detokenize.a,
            S.FIRST_CALL.key: detokenize.b,
        }
        if out is not None:
            attributes[S.TOKENS.key] = out.b
        phases.append(Phase(S.DETOKENIZE, detokenize.t0, detokenize.t1, attributes))
    return phases


def _dispatch(engine: EngineFacts, identity: Attributes) -> Phase | None:
    request = engine.get(Kind.REQ)
    if request is None:
        return None
    attributes: Attributes = {
        **identity,
        S.DISPATCH_REGISTER.key: request.t1 - request.t0,
        S.DISPATCH_PROCESS.key: request.b,
    }
    sent, preprocessed = engine.get(Kind.REQ_SEND), engine.get(Kind.ENG_PREPROCESS)
    queued = engine.get(Kind.ENG_QUEUED)
    end = request.t1
    if sent is not None:
        attributes[S.DISPATCH_CLIENT.key] = sent.t0 - request.t0
        attributes[S.DISPATCH_SERIALIZE.key] = sent.t1 - sent.t0
        end = sent.t1
    if preprocessed is not None:
        if sent is not None:
            # The engine may have it before send() has returned.
            attributes[S.DISPATCH_TRANSIT.key] = max(preprocessed.t0 - sent.t1, 0)
        attributes[S.DISPATCH_PREPROCESS.key] = preprocessed.t1 - preprocessed.t0
        if queued is not None:
            attributes[S.DISPATCH_INPUT_QUEUE.key] = max(queued.t0 - preprocessed.t1, 0)
    if queued is not None:
        end = queued.t0
    return Phase(S.ENGINE_DISPATCH, request.t0, max(end, request.t0), attributes)


_AROUND = (S.ENGINE_QUEUE, S.PREFILL)


def _holds(phase: Phase, call: Phase) -> bool:
    return phase.start <= call.start and call.end <= phase.end


def _prefill(
    engine: EngineFacts,
    in_engine: Attributes,
    start: int,
    end: int,
    known: Mapping[int, kv_phases.Known],
) -> Phase:
    admitted = engine.all(Kind.ENG_SCHEDULED)[0]
    request, freed = engine.get(Kind.REQ), engine.get(Kind.ENG_FINISHED)
    # What had failed before is not in the admission's figure; a synchronous load fails later.
    preempted = next((r.t0 for r in engine.all(Kind.ENG_PREEMPTED) if r.t0 >= admitted.t1), None)
    lost = kv_phases.failed_tokens(engine, admitted.t1, preempted)
    external = max(admitted.b - lost, 0)
    attributes: Attributes = {
        **in_engine,
        S.KV_TOKENS_HIT_HBM.key: admitted.a,
        S.KV_TOKENS_HIT_EXTERNAL.key: external,
    }
    if request is not None:
        attributes[S.PREFILL_COMPUTED.key] = max(request.c - admitted.a - external, 0)
    if freed is not None:
        attributes[S.PREFILL_CHUNKS.key] = freed.t1
    attributes |= kv_phases.cache(engine) | kv_phases.other_half(engine)
    events = _preemptions(engine, start, end)
    attributes[S.PREEMPTIONS.key] = len(events)
    events = _first(events, kv_phases.evictions(engine, start, end, known))
    return Phase(S.PREFILL, start, end, attributes, [], events)


def _first(*kinds: tuple[SpanEvent, ...]) -> tuple[SpanEvent, ...]:
    """In order of time, as many as a span may have."""
    found = sorted((event for events in kinds for event in events), key=lambda e: e.time_ns)
    return tuple(found[: S.MAX_EVENTS])


def _lookup_and_blocks(engine: EngineFacts, identity: Attributes) -> list[Phase]:
    """The prefix cache's lookup and the allocation that admitted it."""
    found = []
    if (lookup := engine.get(Kind.ENG_LOOKUP)) is not None:
        found.append(
            Phase(
                S.KV_PREFIX_LOOKUP,
                lookup.t0,
                lookup.t1,
                {
                    **identity,
                    S.KV_TOKENS_ASKED.key: lookup.a >> 32,
                    S.KV_TOKENS_HIT_HBM.key: lookup.a & _LOW,
                    S.TRIES.key: lookup.c,
                    S.TRIES_DURATION.key: lookup.b,
                    **_in_all_tries(engine, lookup),
                },
            )
        )
    if (allocate := engine.get(Kind.ENG_ALLOCATE)) is not None:
        found.append(
            Phase(
                S.KV_ALLOCATE,
                allocate.t0,
                allocate.t1,
                {
                    **identity,
                    S.KV_BLOCKS.key: allocate.a >> 32,
                    S.KV_BLOCKS_EVICTED.key: allocate.a & _LOW,
                    S.TRIES.key: allocate.c,
                    S.TRIES_DURATION.key: allocate.b,
                },
            )
        )
    return found


def _in_all_tries(engine: EngineFacts, lookup: Record) -> Attributes:
    tried = engine.get(Kind.ENG_TRIED)
    if tried is not None:
        asked, hit = tried.a, tried.b
    elif lookup.c == 1:
        asked, hit = lookup.a >> 32, lookup.a & _LOW
    else:
        return {}  # its record was lost
    return {S.TRIES_TOKENS_ASKED.key: asked, S.TRIES_TOKENS_HIT.key: hit}


def _decode(
    engine: EngineFacts,
    identity: Attributes,
    start: int,
    end: int,
    known: Mapping[int, kv_phases.Known],
) -> Phase:
    out, freed = engine.one[Kind.REQ_OUT], engine.get(Kind.ENG_FINISHED)
    events = _preemptions(engine, start, end)
    attributes: Attributes = {
        **identity,
        S.TOKENS.key: out.b,
        S.PREEMPTIONS.key: len(events),
        S.DECODE_ITL.key: engine.intervals_us(),
    }
    if freed is not None:
        attributes[S.DECODE_STEPS.key] = freed.a
        if freed.a:
            attributes[S.DECODE_BATCH_MEAN.key] = round(freed.b / freed.a, 3)
    if (kv := engine.get(Kind.ENG_DECODE_KV)) is not None:
        attributes[S.DECODE_ALLOCATE_DURATION.key] = kv.t0
        attributes[S.DECODE_ALLOCATE_CALLS.key] = kv.t1
        attributes[S.DECODE_BLOCKS.key] = kv.a
        attributes[S.DECODE_BLOCKS_EVICTED.key] = kv.b
    events = _first(events, kv_phases.evictions(engine, start, end, known))
    return Phase(S.DECODE, start, end, attributes, [], events)


def _preemptions(engine: EngineFacts, start: int, end: int) -> tuple[SpanEvent, ...]:
    return tuple(
        SpanEvent(S.EVENT_PREEMPTED, record.t0, {S.EVENT_TOKENS_LOST.key: record.a})
        for record in engine.all(Kind.ENG_PREEMPTED)
        if start <= record.t0 < end
    )[: S.MAX_EVENTS]


def _return(engine: EngineFacts, identity: Attributes, left: int) -> Phase | None:
    """From the last output's stamp to processed. An aborted request has none."""
    record = engine.get(Kind.REQ_RETURN)
    if record is None:
        return None
    return Phase(
        S.ENGINE_RETURN,
        left,
        max(record.a, left),
        {
            **identity,
            S.RETURN_TRANSIT.key: max(record.t0 - left, 0),
            S.RETURN_OUTPUT_QUEUE.key: max(record.t1 - record.t0, 0),
            S.RETURN_PROCESS.key: record.a - record.t1,
            S.RETURN_COUNT.key: record.c,
            S.RETURN_TOTAL.key: record.b,
        },
    )
