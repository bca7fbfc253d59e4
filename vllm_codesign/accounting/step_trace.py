"""A step as a trace, and back: one trace a step, its root linked to the requests in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

from vllm_codesign import semconv as S
from vllm_codesign.model.step import ConnectorCall, DeviceInterval, Member, RankStep, Step, Stretch
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span, SpanLink
from vllm_codesign.semconv import SpanKind

Attributes = dict[str, AttributeValue]


def trace_of(
    step: Step,
    service: str,
    trace_id: int,
    new_id: Callable[[], int],
    to_unix: Callable[[int], int],
) -> RequestTrace:
    """The spans of `step`, root first; `service` is that of the server."""
    start = step.schedule[0]
    offset = to_unix(start) - start
    root_id = new_id()

    def span(kind: SpanKind, stretch: Stretch, parent: int, attributes: Attributes) -> Span:
        return Span(
            name=kind.name,
            service=service + kind.service,
            trace_id=trace_id,
            span_id=new_id(),
            parent_id=parent,
            start_ns=stretch[0] + offset,
            end_ns=max(stretch[1], stretch[0]) + offset,
            attributes=attributes,
        )

    def children() -> Iterator[Span]:
        yield (schedule := span(S.SCHEDULE, step.schedule, root_id, {}))
        if step.allocate is not None:
            counted: Attributes = {S.CALLS.key: step.allocate_calls, S.BUSY.key: step.allocate_ns}
            yield span(S.STEP_ALLOCATE, step.allocate, schedule.span_id, counted)
        waited: Attributes = {S.STEP_WAITED.key: step.waited_ns} if step.update else {}
        taken_back = step.update[0] if step.update is not None else _last(step)
        yield (execute := span(S.EXECUTE, (step.schedule[1], taken_back), root_id, waited))
        for rank in step.ranks:
            for kind, stretch, attributes in (*_rank_spans(rank), *_connector_spans(rank)):
                yield span(kind, stretch, execute.span_id, attributes)
        if step.update is not None:
            yield span(S.UPDATE, step.update, root_id, {})

    below = tuple(children())
    root = Span(
        name=S.STEP.name,
        service=service + S.STEP.service,
        trace_id=trace_id,
        span_id=root_id,
        parent_id=0,
        start_ns=start + offset,
        end_ns=max(span.end_ns for span in below),
        attributes=_root_attributes(step),
        links=tuple(
            SpanLink(
                member.trace_id,
                member.span_id,
                {
                    S.REQUEST_ID.key: member.request_id,
                    S.STEP_TOKENS.key: member.tokens,
                    S.STEP_PHASE.key: member.phase,
                },
            )
            for member in step.members or ()
        ),
    )
    return RequestTrace(root, below)


def _last(step: Step) -> int:
    """The end of a step whose result was never taken back: the last thing known of it."""
    ends = [step.schedule[1]]
    for rank in step.ranks:
        ends += [stretch[1] for stretch in (rank.execute, rank.sample) if stretch is not None]
    return max(ends)


def _root_attributes(step: Step) -> Attributes:
    attributes: Attributes = {
        S.MONOTONIC.key: step.schedule[0],
        S.ENGINE_PID.key: step.engine,
        S.STEP_NUMBER.key: step.number,
        S.STEP_TOKENS.key: step.tokens,
        S.STEP_REQUESTS.key: step.requests,
        S.STEP_MEMBERS_KNOWN.key: step.members is not None,
        S.STEP_WAITING.key: step.waiting,
        S.STEP_RUNNING.key: step.running,
        S.STEP_BEFORE.key: step.before_ns,
    }
    if step.blocked_by:
        attributes[S.STEP_BLOCKED.key] = step.blocked_by
    if step.preempted:
        attributes[S.STEP_PREEMPTED.key] = step.preempted
    if step.drafted:
        attributes[S.STEP_DRAFTED.key] = step.drafted
        attributes[S.STEP_ACCEPTED.key] = step.accepted
    if len(step.ranks) > 1:
        attributes[S.STEP_SKEW.key] = step.skew_ns
    return attributes


def _rank_spans(rank: RankStep) -> Iterator[tuple[SpanKind, Stretch, Attributes]]:
    identity: Attributes = {S.RANK.key: rank.rank}
    if rank.execute is not None:
        prepared = rank.forward[0] if rank.forward is not None else rank.execute[1]
        yield S.WORKER_PREPARE, (rank.execute[0], prepared), identity
    if rank.execute is not None and rank.forward is not None:
        start = rank.forward[0]
        attributes = {**identity, S.EXECUTE_END.key: rank.execute[1] - start}
        attributes |= _device(rank, "model", start)
        if rank.forward_device is not None:
            attributes[S.DEVICE_FORWARD_START.key] = rank.forward_device[0] - start
            attributes[S.DEVICE_FORWARD_END.key] = rank.forward_device[1] - start
        yield S.WORKER_FORWARD, rank.forward, attributes
    if rank.sample is not None:
        start = rank.sample[0]
        attributes = identity | _device(rank, "sample", start)
        draft = next((d for d in rank.device if d.work == "draft"), None)
        if draft is not None:
            attributes[S.DEVICE_SOURCE.key] = draft.source
            attributes[S.DEVICE_DRAFT_START.key] = draft.start_ns - start
            attributes[S.DEVICE_DRAFT_END.key] = draft.end_ns - start
        yield S.WORKER_SAMPLE, rank.sample, attributes


def _connector_spans(rank: RankStep) -> Iterator[tuple[SpanKind, Stretch, Attributes]]:
    for call in rank.connector:
        attributes: Attributes = {S.RANK.key: rank.rank}
        if call.work == "save":
            attributes[S.KV_LAYER_LOAD.key] = call.layer_load_ns
            attributes[S.KV_LAYER_SAVE.key] = call.layer_save_ns
        yield _CALLS[call.work], (call.start_ns, call.end_ns), attributes


_CALLS = {"load": S.WORKER_KV_LOAD, "save": S.WORKER_KV_SAVE}
_WORK_OF: dict[str, Literal["load", "save"]] = {
    S.WORKER_KV_LOAD.name: "load",
    S.WORKER_KV_SAVE.name: "save",
}


def _device(rank: RankStep, work: str, start: int) -> Attributes:
    interval = next((d for d in rank.device if d.work == work), None)
    if interval is None:
        return {}
    return {
        S.DEVICE_SOURCE.key: interval.source,
        S.DEVICE_START.key: interval.start_ns - start,
        S.DEVICE_END.key: interval.end_ns - start,
    }


def step_of(spans: Sequence[Span]) -> Step | None:
    """The step that the spans of one trace tell of; None where its root is not among them."""
    root = next((span for span in spans if span.name == S.STEP.name), None)
    start = root.attributes.get(S.MONOTONIC.key) if root is not None else None
    if root is None or not isinstance(start, int):
        return None
    shift = start - root.start_ns

    def stretch(span: Span) -> Stretch:
        return (span.start_ns + shift, span.end_ns + shift)

    by_name: dict[str, Span] = {span.name: span for span in spans}
    schedule = by_name.get(S.SCHEDULE.name)
    if schedule is None:
        return None
    execute = by_name.get(S.EXECUTE.name)
    update, allocate = by_name.get(S.UPDATE.name), by_name.get(S.STEP_ALLOCATE.name)
    of = root.attributes

    def number(attribute: S.Attribute) -> int:
        value = of.get(attribute.key, 0)
        return value if isinstance(value, int) else 0

    return Step(
        engine=number(S.ENGINE_PID),
        number=number(S.STEP_NUMBER),
        schedule=stretch(schedule),
        before_ns=number(S.STEP_BEFORE),
        update=stretch(update) if update is not None else None,
        waited_ns=_int(execute, S.STEP_WAITED) if execute is not None else 0,
        ranks=tuple(_ranks(spans, shift)),
        members=_members(root) if of.get(S.STEP_MEMBERS_KNOWN.key) is True else None,
        requests=number(S.STEP_REQUESTS),
        tokens=number(S.STEP_TOKENS),
        waiting=number(S.STEP_WAITING),
        running=number(S.STEP_RUNNING),
        blocked_by=str(of.get(S.STEP_BLOCKED.key, "")),
        allocate=stretch(allocate) if allocate is not None else None,
        allocate_ns=_int(allocate, S.BUSY) if allocate is not None else 0,
        allocate_calls=_int(allocate, S.CALLS) if allocate is not None else 0,
        preempted=number(S.STEP_PREEMPTED),
        drafted=number(S.STEP_DRAFTED),
        accepted=number(S.STEP_ACCEPTED),
    )


def _int(span: Span, attribute: S.Attribute) -> int:
    value = span.attributes.get(attribute.key, 0)
    return value if isinstance(value, int) else 0


def _members(root: Span) -> tuple[Member, ...]:
    return tuple(
        Member(
            link.trace_id,
            link.span_id,
            str(link.attributes.get(S.REQUEST_ID.key, "")),
            cast(int, link.attributes.get(S.STEP_TOKENS.key, 0)),
            "decode" if link.attributes.get(S.STEP_PHASE.key) == "decode" else "prefill",
        )
        for link in root.links
    )


def _ranks(spans: Sequence[Span], shift: int) -> Iterator[RankStep]:
    by_rank: dict[int, dict[str, Span]] = {}
    calls: dict[int, list[ConnectorCall]] = {}
    for span in spans:
        rank = span.attributes.get(S.RANK.key)
        if isinstance(rank, int) and (work := _WORK_OF.get(span.name)) is not None:
            at = span.start_ns + shift, span.end_ns + shift
            layers = _int(span, S.KV_LAYER_LOAD), _int(span, S.KV_LAYER_SAVE)
            calls.setdefault(rank, []).append(ConnectorCall(work, *at, *layers))
            by_rank.setdefault(rank, {})
        elif isinstance(rank, int):
            by_rank.setdefault(rank, {})[span.name] = span
    for rank, found in sorted(by_rank.items()):
        prepare = found.get(S.WORKER_PREPARE.name)
        forward, sample = found.get(S.WORKER_FORWARD.name), found.get(S.WORKER_SAMPLE.name)
        execute = None
        if prepare is not None:
            end = prepare.end_ns
            if forward is not None:
                end = forward.start_ns + _int(forward, S.EXECUTE_END)
            execute = (prepare.start_ns + shift, end + shift)
        device = [
            *_intervals(forward, shift, "model", S.DEVICE_START, S.DEVICE_END),
            *_intervals(sample, shift, "sample", S.DEVICE_START, S.DEVICE_END),
            *_intervals(sample, shift, "draft", S.DEVICE_DRAFT_START, S.DEVICE_DRAFT_END),
        ]
        alone = next(
            _intervals(forward, shift, "model", S.DEVICE_FORWARD_START, S.DEVICE_FORWARD_END), None
        )
        yield RankStep(
            rank,
            execute,
            (forward.start_ns + shift, forward.end_ns + shift) if forward is not None else None,
            (sample.start_ns + shift, sample.end_ns + shift) if sample is not None else None,
            (alone.start_ns, alone.end_ns) if alone is not None else None,
            tuple(device),
            tuple(sorted(calls.get(rank, ()), key=lambda call: call.start_ns)),
        )


def _intervals(
    span: Span | None,
    shift: int,
    work: Literal["model", "sample", "draft"],
    starts: S.Attribute,
    ends: S.Attribute,
) -> Iterator[DeviceInterval]:
    if span is None:
        return
    start, end = span.attributes.get(starts.key), span.attributes.get(ends.key)
    if isinstance(start, int) and isinstance(end, int):
        at = span.start_ns + shift
        by_events = span.attributes.get(S.DEVICE_SOURCE.key) == "events"
        yield DeviceInterval(at + start, at + end, work, "events" if by_events else "wall")
