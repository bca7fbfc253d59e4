"""A request's device, gap and queue time from steps and spans alone, to hold the accounting to.

The definitions are those of docs/accounting.md, written a second time as arithmetic on unions of
instants. For requests of one choice on one engine, none of whose steps' records is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.support.intervals import Stretch, both, length, minus, union
from vllm_codesign import semconv as S
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace, Span

CAUSES = ("prepare", "schedule", "update", "ipc", "output")


@dataclass(frozen=True)
class ByHand:
    """Nanoseconds of one request."""

    gaps: dict[str, int]
    """It runs, the device is idle, the host works for it: by the first cause that applies.
    `other` where none does, or one does for others while blocks lack and it was not preempted."""
    in_queue: int
    """Of `capacity`: in its `engine.queue`, while the device worked or blocks lacked."""
    again: int
    """Of `capacity`: admitted, and the device worked for others only, or preempted and blocks
    lacked."""
    host: int
    """Of `queue.host`."""
    hidden: int
    """The host worked for it while its device did."""
    waited: int

    @property
    def capacity(self) -> int:
        return self.in_queue + self.again


def whole(step: Step) -> bool:
    """Whether every record of the step is there."""
    return (
        step.update is not None
        and step.members is not None
        and bool(step.ranks)
        and all(
            rank.execute and rank.forward and {"model", "sample"} <= {d.work for d in rank.device}
            for rank in step.ranks
        )
    )


def monotonic(trace: RequestTrace, span: Span) -> Stretch:
    """When a span was, by the host's clock."""
    start = trace.root.attributes[S.MONOTONIC.key]
    assert isinstance(start, int)
    shift = start - trace.root.start_ns
    return span.start_ns + shift, span.end_ns + shift


def device_of(steps: Sequence[Step]) -> list[Stretch]:
    return union((d.start_ns, d.end_ns) for s in steps for r in s.ranks for d in r.device)


def without_blocks(steps: Sequence[Step]) -> list[Stretch]:
    """From a `schedule()` that left the queue's head for want of blocks to the end of the next."""
    reasons = (S.QueueReason.NO_FREE_BLOCKS.value, S.QueueReason.PREEMPTION.value)
    return union(
        (step.schedule[1], later.schedule[1])
        for step, later in pairwise(steps)
        if step.blocked_by in reasons
    )


def _host(steps: Sequence[Step]) -> dict[str, list[Stretch]]:
    """What the host did for these steps, by cause."""
    ranks = [rank for step in steps for rank in step.ranks]
    updates = [(step.update, step.waited_ns) for step in steps if step.update]
    return {
        "prepare": union((r.execute[0], r.forward[0]) for r in ranks if r.execute and r.forward),
        "schedule": union(step.schedule for step in steps),
        "update": union(update for update, _ in updates),
        "ipc": union((update[0] - waited, update[0]) for update, waited in updates),
        "output": union((s.schedule[0] - s.before_ns, s.schedule[0]) for s in steps),
    }


def _frontend(trace: RequestTrace) -> list[Stretch]:
    """When the API server worked for it."""

    def number(span: Span, attribute: S.Attribute) -> int:
        value = span.attributes[attribute.key]
        assert isinstance(value, int)
        return value

    found = []
    for span in trace.children:
        start, end = monotonic(trace, span)
        if span.name in (S.TEMPLATE_RENDER.name, S.TOKENIZE_ENCODE.name, S.FRONTEND_RUN.name):
            found.append((start, end))
        elif span.name == S.HTTP_RECEIVE.name:
            found.append((start + number(span, S.RECEIVE_BODY), end))
        elif span.name == S.ENGINE_DISPATCH.name:
            found.append((start, start + number(span, S.DISPATCH_CLIENT)))
        elif span.name == S.ENGINE_RETURN.name:
            at = start + number(span, S.RETURN_TRANSIT) + number(span, S.RETURN_OUTPUT_QUEUE)
            found.append((at, at + number(span, S.RETURN_PROCESS)))
    return union(found)


def _preempted(trace: RequestTrace, ours: Sequence[Step]) -> list[Stretch]:
    """From each preemption to the next `schedule()` of a step with the request in it."""
    end = monotonic(trace, trace.root)[1]
    shift = end - trace.root.end_ns
    found = []
    for event in (e for span in trace.children for e in span.events):
        if event.name == S.EVENT_PREEMPTED:
            at = event.time_ns + shift
            found.append(
                (at, min((s.schedule[0] for s in ours if s.schedule[0] >= at), default=end))
            )
    return union(found)


def by_hand(trace: RequestTrace, steps: Sequence[Step]) -> ByHand:
    """The request's figures; `steps` are all of its engine's, in order."""
    window = [monotonic(trace, trace.root)]
    begin, end = window[0]
    low = next((i for i, s in enumerate(steps) if s.end_ns > begin), len(steps))
    high = next((i for i, s in enumerate(steps) if s.schedule[0] - s.before_ns >= end), len(steps))
    # One step more on either side: the queue's head may have lacked blocks since the one before.
    near = steps[max(low - 1, 0) : high + 1]
    assert all(map(whole, near)), "records are missing"
    ours = [s for s in near if trace.root.span_id in {m.span_id for m in s.members or ()}]
    others = [s for s in near if s.number not in {step.number for step in ours}]

    def spans(*names: str) -> list[Stretch]:
        found = union(monotonic(trace, span) for span in trace.children if span.name in names)
        return both(found, window)

    queue = spans(S.ENGINE_QUEUE.name)
    running = spans(S.PREFILL.name, S.DECODE.name)
    own, busy, full = device_of(ours), device_of(near), without_blocks(near)
    mine, theirs = _host(ours), _host(others)
    away = both(_preempted(trace, ours), full)
    again = length(both(running, minus(busy, own)))
    gaps, other, host = {}, 0, 0
    idle = minus(running, busy)
    for cause in CAUSES:
        gaps[cause] = length(both(idle, mine[cause]))
        foreign = minus(both(idle, theirs[cause]), mine[cause])
        again += length(both(foreign, away))
        other += length(minus(both(foreign, full), away))
        host += length(minus(foreign, full))
        idle = minus(minus(idle, mine[cause]), theirs[cause])
    gaps["other"] = other + length(idle)
    done = union(i for kind in (mine, theirs) for found in kind.values() for i in found)
    host += length(both(minus(minus(queue, busy), full), done))
    work = union(i for cause in CAUSES if cause != "ipc" for i in mine[cause])
    return ByHand(
        gaps=gaps,
        in_queue=length(both(queue, union([*busy, *full]))),
        again=again,
        host=host,
        hidden=length(both(both(own, window), union([*work, *_frontend(trace)]))),
        waited=length(queue),
    )
