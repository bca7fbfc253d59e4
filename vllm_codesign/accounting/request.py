"""The latency view: one request's wall time, instant by instant.

At each instant the first part of `semconv.Part` that applies has it. What applies is read
off the request's spans (which say when it was queued, running, tokenized, ...) and off the
timelines of the engines that served it (which say what device and host did just then). Each
of these is a fact about an instant; `decide` says what a set of facts means.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, auto

import numpy as np

from vllm_codesign import semconv as S
from vllm_codesign.accounting.sweep import Pieces, Times, table
from vllm_codesign.accounting.timeline import (
    CAUSES,
    DECODE,
    OTHER,
    PREFILL,
    UNKNOWN,
    Row,
    Timeline,
)
from vllm_codesign.model.step import Accounting
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.semconv import Part


class Fact(IntEnum):
    """What may hold at an instant; numbers are bits of a pattern."""

    # Of the request, from its spans
    FRONTEND_CPU = 0
    FRONTEND_WAIT = auto()
    IPC = auto()
    KV_LOAD = auto()
    # Below level `step`
    IN_QUEUE = auto()
    IN_PREFILL = auto()
    IN_DECODE = auto()
    # Of one engine
    WAITING = auto()
    RUNNING = auto()
    PREEMPTED = auto()
    FULL = auto()
    UNSEEN = auto()
    DEVICE_PREFILL = auto()
    DEVICE_DECODE = auto()
    DEVICE_OTHERS = auto()
    DEVICE_UNKNOWN = auto()
    # The host's work for a step: with this request in it, without, or not known
    MY_PREPARE = auto()
    MY_SCHEDULE = auto()
    MY_UPDATE = auto()
    MY_IPC = auto()
    MY_OUTPUT = auto()
    OTHERS_PREPARE = auto()
    OTHERS_SCHEDULE = auto()
    OTHERS_UPDATE = auto()
    OTHERS_IPC = auto()
    OTHERS_OUTPUT = auto()
    UNKNOWN_PREPARE = auto()
    UNKNOWN_SCHEDULE = auto()
    UNKNOWN_UPDATE = auto()
    UNKNOWN_IPC = auto()
    UNKNOWN_OUTPUT = auto()


# As plain numbers, since an array of an enumeration's members is slow to make.
_WORKED, _WAITED = int(Fact.FRONTEND_CPU), int(Fact.FRONTEND_WAIT)
_TRAVELLED = int(Fact.IPC)
_AWAY = int(Fact.PREEMPTED)
_LOADED = int(Fact.KV_LOAD)
_SIMPLE = {
    S.TEMPLATE_WAIT.name: _WAITED,
    S.TEMPLATE_RENDER.name: _WORKED,
    S.TOKENIZE_WAIT.name: _WAITED,
    S.TOKENIZE_ENCODE.name: _WORKED,
    S.FRONTEND_WAIT.name: _WAITED,
    S.FRONTEND_RUN.name: _WORKED,
    S.KV_LOAD.name: _LOADED,
}
_ENGINE = {
    S.ENGINE_QUEUE.name: (int(Fact.WAITING), int(Fact.IN_QUEUE)),
    S.PREFILL.name: (int(Fact.RUNNING), int(Fact.IN_PREFILL)),
    S.DECODE.name: (int(Fact.RUNNING), int(Fact.IN_DECODE)),
}
_GAPS = {
    Row.PREPARE: Part.GAP_PREPARE,
    Row.SCHEDULE: Part.GAP_SCHEDULE,
    Row.UPDATE: Part.GAP_UPDATE,
    Row.IPC: Part.GAP_IPC,
    Row.OUTPUT: Part.GAP_OUTPUT,
}


def _facts_of_rows() -> Times:
    """The fact that a row stands for, by what it says and what its step is to the request."""
    facts = np.zeros((len(Row), 4), dtype=np.int64)
    facts[Row.DEVICE, [UNKNOWN, OTHER, PREFILL, DECODE]] = (
        Fact.DEVICE_UNKNOWN,
        Fact.DEVICE_OTHERS,
        Fact.DEVICE_PREFILL,
        Fact.DEVICE_DECODE,
    )
    facts[Row.FULL], facts[Row.UNSEEN] = Fact.FULL, Fact.UNSEEN
    for number, cause in enumerate(CAUSES):
        facts[cause] = Fact.MY_PREPARE + number
        facts[cause, OTHER] = Fact.OTHERS_PREPARE + number
        facts[cause, UNKNOWN] = Fact.UNKNOWN_PREPARE + number
    return facts


_FACT_OF = _facts_of_rows()


def decide(pattern: int) -> tuple[Part, bool]:
    """The part of an instant at which these facts hold, and whether the host was at work for
    the request.
    """
    facts = frozenset(fact for fact in Fact if pattern >> fact & 1)
    waiting, running = Fact.WAITING in facts, Fact.RUNNING in facts
    host_work = not facts.isdisjoint(_HOST_WORK)
    if Fact.DEVICE_PREFILL in facts:
        return Part.DEVICE_PREFILL, host_work
    if Fact.DEVICE_DECODE in facts:
        return Part.DEVICE_DECODE, host_work
    if Fact.KV_LOAD in facts:
        return Part.KV_LOAD, host_work
    if waiting or running:
        part = _in_engine(facts, running)
        if part is not None:
            return part, host_work
    for fact, part in _OUTSIDE:
        if fact in facts:
            return part, host_work
    return Part.UNATTRIBUTED, host_work


def _in_engine(facts: frozenset[Fact], running: bool) -> Part | None:
    """Of a request that is queued or admitted and whose own steps the device does not run."""
    unseen = Fact.UNSEEN in facts
    busy = Fact.DEVICE_OTHERS in facts or Fact.DEVICE_UNKNOWN in facts
    if not busy and not unseen:
        return _idle(facts, running)
    if not busy and running:
        return Part.GAP_OTHER
    if (Fact.DEVICE_OTHERS in facts and not unseen) or _lacks_blocks(facts):
        return Part.QUEUE_CAPACITY
    return None


def _lacks_blocks(facts: frozenset[Fact]) -> bool:
    return Fact.WAITING in facts and Fact.FULL in facts


def _idle(facts: frozenset[Fact], running: bool) -> Part | None:
    """Why the device is idle. Which cause it was is settled before whose: so leaving a record
    out cannot promote what it stood before.
    """
    for number, cause in enumerate(CAUSES):
        mine = Fact(Fact.MY_PREPARE + number) in facts
        if mine and running:
            return _GAPS[cause]
        if mine or Fact(Fact.OTHERS_PREPARE + number) in facts:
            if Fact.FULL not in facts:
                return Part.QUEUE_HOST
            # Waiting for blocks is not the host's doing, whatever the host does meanwhile. Who
            # runs and is not known to have been preempted waits for nobody knows what.
            waits = not running or Fact.PREEMPTED in facts
            return Part.QUEUE_CAPACITY if waits else Part.GAP_OTHER
        if Fact(Fact.UNKNOWN_PREPARE + number) in facts:
            break
    if running:
        return Part.GAP_OTHER
    return Part.QUEUE_CAPACITY if _lacks_blocks(facts) else None


_OUTSIDE = (
    (Fact.IN_PREFILL, Part.ENGINE_PREFILL),
    (Fact.IN_DECODE, Part.ENGINE_DECODE),
    (Fact.IN_QUEUE, Part.ENGINE_QUEUE),
    (Fact.IPC, Part.IPC),
    (Fact.FRONTEND_CPU, Part.FRONTEND_CPU),
    (Fact.FRONTEND_WAIT, Part.FRONTEND_WAIT),
)
_HOST_WORK = frozenset(
    (
        # And none of waiting: neither FRONTEND_WAIT and IPC nor MY_IPC, EngineCore's own.
        Fact.FRONTEND_CPU,
        Fact.MY_PREPARE,
        Fact.MY_SCHEDULE,
        Fact.MY_UPDATE,
        Fact.MY_OUTPUT,
    )
)
_NAMES = tuple(part.value for part in Part)
"""By rank: the order of precedence."""
_RANKS = {part: rank for rank, part in enumerate(Part)}
_DEVICE = (_RANKS[Part.DEVICE_PREFILL], _RANKS[Part.DEVICE_DECODE])


@functools.cache
def _decide(pattern: int) -> tuple[int, bool]:
    """`decide`, the part by its rank. Cached: a run has some dozens of patterns."""
    part, host_work = decide(pattern)
    return _RANKS[part], host_work


def account(
    trace: RequestTrace, engines: Mapping[int, Timeline], until_ns: int | None = None
) -> Accounting:
    """The parts of `trace`'s wall time, up to `until_ns` after its start (None: its end).

    `engines` holds timelines by the process id of the EngineCore. A trace that was recorded
    below level `step` is accounted for by its spans alone, with `engine.queue`,
    `engine.prefill` and `engine.decode`.

    Raises ValueError where the root does not say what its start is on the host's clock.
    """
    root = trace.root
    start = root.attributes.get(S.MONOTONIC.key)
    if not isinstance(start, int):
        raise ValueError(f"span {root.span_id:016x} lacks {S.MONOTONIC.key}")
    end = start + (root.duration_ns if until_ns is None else min(root.duration_ns, until_ns))
    common, served, preempted = _of_spans(trace, start - root.start_ns)
    views = [
        _of_engine(engines[pid], start, end, root.span_id, preempted.get(pid, ()))
        if pid in engines
        else _NOTHING
        for pid in served
    ]
    if len(views) <= 1:
        rows = np.concatenate([table([*common, *_first(served)]), *views], axis=1)
        pieces = Pieces(start, end, rows[0], rows[1], rows[2], len(Fact))
        return _sum((_decide(pattern), ns) for pattern, ns in pieces.by_pattern())
    return _on_several(start, end, common, list(served.values()), views)


Rows = list[tuple[int, int, int]]
_NOTHING: Times = np.empty((3, 0), dtype=np.int64)


def _first(served: Mapping[int, Rows]) -> Rows:
    return next(iter(served.values()), [])


def _on_several(
    start: int, end: int, common: Rows, windows: list[Rows], views: list[Times]
) -> Accounting:
    """Engine requests of one root on several engines (data parallelism): at each instant the
    part that comes first on any of them."""
    count = len(Fact)
    tables = [table(common)]
    for number, (window, view) in enumerate(zip(windows, views, strict=True)):
        own = np.concatenate([table(window), view], axis=1)
        own[2] += count * number
        tables.append(own)
    rows = np.concatenate(tables, axis=1)
    cuts = Pieces(start, end, rows[0], rows[1], rows[2] * 0, 1).cuts
    middle = cuts[:-1]
    per_engine = []
    for number in range(len(views)):
        mine = (rows[2] // count == number) | (np.arange(len(rows[2])) < len(common))
        chosen = rows[:, mine]
        pieces = Pieces(start, end, chosen[0], chosen[1], chosen[2] % count, count)
        per_engine.append(pieces.patterns[np.searchsorted(pieces.cuts, middle, side="right") - 1])
    lengths = np.diff(cuts)

    def best(patterns: tuple[int, ...]) -> tuple[int, bool]:
        decided = [_decide(pattern) for pattern in patterns]
        return min(rank for rank, _ in decided), any(work for _, work in decided)

    columns = zip(*(patterns.tolist() for patterns in per_engine), strict=True)
    return _sum((best(found), ns) for found, ns in zip(columns, lengths.tolist(), strict=True))


def _sum(decided: Iterable[tuple[tuple[int, bool], int]]) -> Accounting:
    """Parts come as their ranks: an enumeration's member is slow to hash."""
    parts = [0] * len(_NAMES)
    hidden = 0
    for (rank, host_work), ns in decided:
        parts[rank] += ns
        if host_work and rank in _DEVICE:
            hidden += ns
    return Accounting({_NAMES[rank]: ns for rank, ns in enumerate(parts) if ns}, hidden)


def bottleneck(accounting: Accounting) -> str:
    """The largest part that can be avoided; empty where there is none."""
    avoidable = {p: ns for p, ns in accounting.parts.items() if Part(p) in S.AVOIDABLE_PARTS}
    return max(avoidable, key=lambda part: avoidable[part]) if avoidable else ""


def exposed_ns(accounting: Accounting) -> int:
    """Host time that the request waited for."""
    return sum(ns for part, ns in accounting.parts.items() if Part(part) in S.HOST_PARTS)


def _of_engine(
    timeline: Timeline, start: int, end: int, span_id: int, preempted: Sequence[int]
) -> Times:
    """What the engine did in the window, as facts about the request under this root.

    `preempted`: when it was.
    """
    view = timeline.view(start, end)
    if not len(view.what):
        return _NOTHING
    roles = timeline.roles(view, (span_id,))
    rows = np.empty((3, len(view.what)), dtype=np.int64)
    rows[0], rows[1] = view.starts, view.ends
    rows[2] = _FACT_OF[view.what, roles[view.step]]
    if not preempted:
        return rows
    # Until the next step that it is in; to the end where it never came back.
    back = [*view.planned[roles >= PREFILL].tolist(), end]
    waits = table((at, next(b for b in back if b >= min(at, end)), _AWAY) for at in preempted)
    return np.concatenate([rows, waits], axis=1)


def _of_spans(
    trace: RequestTrace, shift: int
) -> tuple[Rows, dict[int, Rows], dict[int, list[int]]]:
    """Facts from the request's spans: its own, and by engine when it was there, and when it was
    preempted."""
    # A timeline without steps, where none were recorded: its time stays unexplained.
    stepwise = trace.root.attributes.get(S.LEVEL.key, "step") == "step"
    common: Rows = []
    served: dict[int, Rows] = {}
    preempted: dict[int, list[int]] = {}
    for span in trace.children:
        name, start, end = span.name, span.start_ns + shift, span.end_ns + shift
        if (fact := _SIMPLE.get(name)) is not None:
            common.append((start, end, fact))
        elif (facts := _ENGINE.get(name)) is not None:
            pid = span.attributes.get(S.ENGINE_PID.key)
            if stepwise and isinstance(pid, int):
                served.setdefault(pid, []).append((start, end, facts[0]))
                for event in span.events:
                    if event.name == S.EVENT_PREEMPTED:
                        preempted.setdefault(pid, []).append(event.time_ns + shift)
            else:
                common.append((start, end, facts[1]))
        elif (compose := _COMPOSED.get(name)) is not None:
            common += compose(span, start, end)
        # Nothing of aggregates over the stream.
    return common, served, preempted


def _receive(span: Span, start: int, end: int) -> Rows:
    body = _length(span, S.RECEIVE_BODY)
    if body is None:
        return []
    return [(start, start + body, _WAITED), (start + body, end, _WORKED)]


def _dispatch(span: Span, start: int, end: int) -> Rows:
    client = _length(span, S.DISPATCH_CLIENT)
    if client is not None:
        return [(start, start + client, _WORKED), (start + client, end, _TRAVELLED)]
    register = _length(span, S.DISPATCH_REGISTER)
    return [] if register is None else [(start, start + register, _WORKED)]


def _return(span: Span, start: int, end: int) -> Rows:
    rows: Rows = []
    at = start
    for attribute, fact in (
        (S.RETURN_TRANSIT, _TRAVELLED),
        (S.RETURN_OUTPUT_QUEUE, _WAITED),
        (S.RETURN_PROCESS, _WORKED),
    ):
        length = _length(span, attribute)
        if length is not None:
            rows.append((at, at + length, fact))
            at += length
    return rows


_COMPOSED = {
    S.HTTP_RECEIVE.name: _receive,
    S.ENGINE_DISPATCH.name: _dispatch,
    S.ENGINE_RETURN.name: _return,
}
"""Spans that hold several facts, one after the other."""


def _length(span: Span, attribute: S.Attribute) -> int | None:
    value = span.attributes.get(attribute.key)
    return value if isinstance(value, int) else None
