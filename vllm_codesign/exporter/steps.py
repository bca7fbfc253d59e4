"""Decides when a step is complete: records in, steps out, in the order of each engine.

Three processes write about a step: EngineCore plans it and takes it back, each worker runs
it, and the device's own times come later still. A step is handed out when its result was
taken back and whatever else is to be expected has had time to arrive.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vllm_codesign.exporter.connector_calls import ConnectorCalls
from vllm_codesign.exporter.facts import EngineFacts, RootFacts
from vllm_codesign.model.step import ConnectorCall, DeviceInterval, Member, RankStep, Step
from vllm_codesign.recorder.layout import (
    DECODING,
    DEVICE_CLOCK,
    REASON_NUMBERS,
    DeviceWork,
    Field,
    Kind,
    KVCall,
)
from vllm_codesign.recorder.reader import Record

SETTLE_NS = 50_000_000
"""After the update: another rank may still be writing its part down."""

DEVICE_NS = 1_000_000_000
"""How long a step waits for device times of ranks that have given some before."""

STUCK_NS = 1_000_000_000
"""A step without a result is handed out this long after a later one of its engine had one."""

GIVE_UP_NS = 60_000_000_000
"""A step without a result is handed out at last: the level was switched off in between."""

STRAY_NS = 10_000_000_000
"""How long workers' records of a step wait for EngineCore's."""

_REMEMBERED = 100_000
"""Requests whose number is known, and those whose root is, at most."""

_TOLD = 8
"""Steps that told their members and may still be referred to: each refers to the last one."""

_NUMBERS = (1 << 40) - 1
_LOW = 0xFFFFFFFF
_U64 = (1 << 64) - 1
_EIGHT = struct.Struct("<8I")

STEP_KINDS = frozenset(
    (
        Kind.STEP,
        Kind.STEP_STATE,
        Kind.STEP_UPDATE,
        Kind.STEP_DECODES,
        Kind.STEP_CHUNKS,
        Kind.WORKER_EXECUTE,
        Kind.WORKER_SAMPLE,
        Kind.WORKER_DEVICE,
        Kind.WORKER_KV,
    )
)

Told = tuple[tuple[int, int, bool], ...]
"""Members as they were told: number of the request, tokens, whether it decodes."""


@dataclass(slots=True)
class _Partial:
    """What is known of a step so far."""

    pid: int = 0
    one: dict[int, Record] = field(default_factory=dict)
    execute: dict[int, Record] = field(default_factory=dict)
    sample: dict[int, Record] = field(default_factory=dict)
    device: dict[int, list[Record]] = field(default_factory=dict)
    pieces: dict[int, Record] = field(default_factory=dict)
    kv: dict[int, list[Record]] = field(default_factory=dict)
    waits_since: int = 0
    """When it was first seen to lack EngineCore's first record."""


class StepAssembler:
    """Steps in the making. `take` records, then ask `complete`."""

    def __init__(self, engines: Mapping[int, EngineFacts], roots: Mapping[int, RootFacts]) -> None:
        """`engines` and `roots`: requests in the making, by key; they are only looked at."""
        self._engines = engines
        self._roots = roots
        self._partial: dict[int, OrderedDict[int, _Partial]] = {}
        """By engine, in the order of the steps' numbers."""
        self._early: dict[int, _Partial] = {}
        """What workers wrote before EngineCore's records of the same step were read."""
        self._numbers: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._identity: OrderedDict[int, tuple[int, int, str]] = OrderedDict()
        self.root_keys: OrderedDict[int, int] = OrderedDict()
        """By the span id of a root that some step has linked to: the root's key."""
        self._told: dict[int, OrderedDict[int, Told | None]] = {}
        self._device_ranks: dict[int, set[int]] = {}
        self._handed: dict[int, int] = {}
        """By engine, the key of the step that was handed out last."""
        self.calls = ConnectorCalls()
        self.lost = 0
        """Steps of which EngineCore's first record never came: gaps in the numbers."""
        self.late = 0
        """Records of steps that were handed out before."""

    def take(self, pid: int, record: Record) -> None:
        """One record of process `pid`: of a step, or `ENG_QUEUED`."""
        kind, key = record.kind, record.key
        if kind == Kind.ENG_QUEUED:
            self._numbers[pid, record.t1] = key
            while len(self._numbers) > _REMEMBERED:
                self._numbers.popitem(last=False)
            return
        if not key:
            return
        if key <= self._handed.get(key >> 40, 0):
            self.late += 1
            return
        if kind == Kind.STEP:
            step = self._early.pop(key, None) or _Partial()
            step.pid = pid
            self._partial.setdefault(pid, OrderedDict())[key] = step
        else:
            steps = self._partial.get(key >> 40)
            found = steps.get(key) if steps is not None else None
            step = found if found is not None else self._early.setdefault(key, _Partial())
        if kind == Kind.WORKER_EXECUTE:
            rank = record.s & ~DEVICE_CLOCK
            step.execute[rank] = record
            if rank != record.s:
                self._device_ranks.setdefault(key >> 40, set()).add(rank)
        elif kind == Kind.WORKER_SAMPLE:
            step.sample[record.s] = record
        elif kind == Kind.WORKER_DEVICE:
            step.device.setdefault(record.s, []).append(record)
            self._device_ranks.setdefault(key >> 40, set()).add(record.s)
        elif kind == Kind.WORKER_KV:
            step.kv.setdefault(record.s, []).append(record)
            self.calls.add(key, record)
        elif kind in (Kind.STEP_DECODES, Kind.STEP_CHUNKS):
            step.pieces[record.c] = record
        else:
            step.one[kind] = record

    def open_since(self) -> int:
        """When the first step was begun that is not handed out; far in the future if none."""
        begins = [
            next(iter(steps.values())).one[Kind.STEP].t0
            for steps in self._partial.values()
            if steps
        ]
        return min(begins, default=1 << 62)

    def told_until(self) -> int:
        """Up to when everything is told of every engine's steps; far in the future if all is."""
        begins = (
            planned.t0 - planned.b
            for steps in self._partial.values()
            for planned in (step.one[Kind.STEP] for step in steps.values())
        )
        return min(begins, default=1 << 62)

    def complete(
        self, read_until: int, final: bool = False, gone: Collection[int] = ()
    ) -> Iterator[Step]:
        """Steps that are complete, given that all records up to `read_until` were taken.

        `gone`: processes that have ended; no result comes from those.
        """
        for pid, steps in self._partial.items():
            while steps:
                key, step = next(iter(steps.items()))
                if not final and not self._ready(pid, step, read_until, pid in gone):
                    break
                del steps[key]
                last = self._handed.get(pid)
                if last is not None:
                    self.lost += key - last - 1
                self._handed[pid] = key
                yield self._build(pid, key, step)
        self._drop_strays(read_until)

    def _ready(self, pid: int, step: _Partial, read_until: int, gone: bool) -> bool:
        update = step.one.get(Kind.STEP_UPDATE)
        if update is None:
            # Only of later steps: the one before may have had its result long ago.
            latest = max(
                (
                    s.one[Kind.STEP_UPDATE].t1
                    for s in self._partial[pid].values()
                    if Kind.STEP_UPDATE in s.one
                ),
                default=0,
            )
            if latest and read_until - latest > STUCK_NS:
                return True
            quiet = read_until - step.one[Kind.STEP].t1
            return quiet > (SETTLE_NS if gone else GIVE_UP_NS)
        waited = read_until - update.t1
        if waited < SETTLE_NS:
            return False
        expected = self._device_ranks.get(pid, set()) & set(step.execute)
        return waited > DEVICE_NS or all(rank in step.device for rank in expected)

    def _drop_strays(self, read_until: int) -> None:
        """What workers wrote of steps whose first record was lost."""
        for key, step in list(self._early.items()):
            step.waits_since = step.waits_since or read_until
            overtaken = key <= self._handed.get(key >> 40, 0)
            if overtaken or read_until - step.waits_since > STRAY_NS:
                del self._early[key]

    def _build(self, pid: int, key: int, step: _Partial) -> Step:
        planned, state = step.one[Kind.STEP], step.one.get(Kind.STEP_STATE)
        update = step.one.get(Kind.STEP_UPDATE)
        told = self._members_told(pid, key, step, state)
        reason = planned.s
        allocate = (state.t0, state.t1) if state and state.t0 else None
        return Step(
            engine=pid,
            number=key & _NUMBERS,
            schedule=(planned.t0, planned.t1),
            before_ns=planned.b,
            update=(update.t0, update.t1) if update is not None else None,
            waited_ns=update.b if update is not None else 0,
            ranks=tuple(self._ranks(step)),
            members=self._identified(pid, told) if told is not None else None,
            requests=planned.a & _LOW,
            tokens=planned.a >> 32,
            waiting=state.s if state else 0,
            running=state.a >> 32 if state else 0,
            blocked_by=REASON_NUMBERS[reason - 1] if reason else "",
            allocate=allocate,
            allocate_ns=state.a & _LOW if state and allocate else 0,
            allocate_calls=planned.c if allocate else 0,
            preempted=state.c >> 16 if state else 0,
            drafted=update.a >> 32 if update else 0,
            accepted=update.a & _LOW if update else 0,
        )

    def _ranks(self, step: _Partial) -> Iterator[RankStep]:
        for rank in sorted({*step.execute, *step.sample, *step.device}):
            execute, sample = step.execute.get(rank), step.sample.get(rank)
            forward = (execute.a, execute.b) if execute and execute.a and execute.b else None
            # Of each work the last, and only where the worker's own record is there: device
            # times stand on its spans, so a capture must not lack what we know here.
            recorded = {
                r.c: r
                for r in step.device.get(rank, [])
                if (forward if r.c == DeviceWork.MODEL else sample) is not None
            }
            if rank in step.device or (execute is not None and execute.s & DEVICE_CLOCK):
                # What is late or lost stays unknown: host time is no stand-in for it.
                device = tuple(
                    DeviceInterval(r.t0, r.t1, _WORK[work], "events")
                    for work, r in sorted(recorded.items())
                )
                model = recorded.get(DeviceWork.MODEL)
                alone = (model.a, model.b) if model is not None and model.a else None
            else:
                device, alone = _wall(execute, forward, sample), forward
            yield RankStep(
                rank,
                (execute.t0, execute.t1) if execute else None,
                forward,
                (sample.t0, sample.t1) if sample else None,
                alone,
                device,
                tuple(
                    ConnectorCall(_CALLS[r.c & 0xFF], r.t0, r.t1, r.a, r.b)
                    for r in step.kv.get(rank, [])
                ),
            )

    def _members_told(
        self, pid: int, key: int, step: _Partial, state: Record | None
    ) -> Told | None:
        """The members of this step, as it or the step it refers to told them."""
        if state is None:
            return None
        told = self._told.setdefault(pid, OrderedDict())
        # Keys are unsigned and travel in a signed field; pids keep them small.
        if state.b == key:
            told[key] = _decode(step.pieces, state.c & 0xFFFF)
            while len(told) > _TOLD:
                told.popitem(last=False)
        return told.get(state.b)

    def _identified(self, pid: int, told: Told) -> tuple[Member, ...]:
        members = []
        for number, tokens, decodes in told:
            key = self._numbers.get((pid, number))
            identity = self._identify(key) if key is not None else None
            if identity is not None:
                trace_id, span_id, request_id = identity
                members.append(
                    Member(
                        trace_id, span_id, request_id, tokens, "decode" if decodes else "prefill"
                    )
                )
        return tuple(members)

    def _identify(self, key: int) -> tuple[int, int, str] | None:
        """The root of an engine request's trace, and its id; None while that is not known."""
        known = self._identity.get(key)
        if known is not None:
            return known
        engine = self._engines.get(key)
        request = engine.get(Kind.REQ) if engine is not None else None
        if engine is None or request is None:
            return None
        if engine.root_key:
            root = self._roots.get(engine.root_key)
            context = root.get(Kind.ROOT_PARENT) if root is not None else None
            if context is None:
                return None
            ids = ((context.t0 & _U64) << 64 | (context.t1 & _U64), context.a & _U64)
            self.root_keys[ids[1]] = engine.root_key
            while len(self.root_keys) > _REMEMBERED:
                self.root_keys.popitem(last=False)
        else:
            ids = engine.own_ids()
        identity = self._identity[key] = (*ids, engine.text(Field.REQUEST_ID))
        while len(self._identity) > _REMEMBERED:
            self._identity.popitem(last=False)
        return identity


_CALLS: Mapping[int, Literal["load", "save"]] = {
    KVCall.START_LOAD: "load",
    KVCall.WAIT_FOR_SAVE: "save",
}
_WORK: Mapping[int, Literal["model", "sample", "draft"]] = {
    DeviceWork.MODEL: "model",
    DeviceWork.SAMPLE: "sample",
    DeviceWork.DRAFT: "draft",
}


def _wall(
    execute: Record | None, forward: tuple[int, int] | None, sample: Record | None
) -> tuple[DeviceInterval, ...]:
    """CPU backend: the device is at work from the forward to the end of `execute_model`, which
    computes the logits, and while it samples."""
    found = []
    if execute is not None and forward is not None:
        found.append(DeviceInterval(forward[0], execute.t1, "model", "wall"))
    if sample is not None:
        found.append(DeviceInterval(sample.t0, sample.t1, "sample", "wall"))
    return tuple(found)


def _decode(pieces: Mapping[int, Record], expected: int) -> Told | None:
    """None where a piece is missing."""
    if len(pieces) != expected:
        return None
    members: list[tuple[int, int, bool]] = []
    for _, record in sorted(pieces.items()):
        numbers = _EIGHT.unpack(record.payload)
        if record.kind == Kind.STEP_DECODES:
            members += [(number, 1, True) for number in numbers[: record.s]]
        else:
            for number, tokens in zip(numbers[0 : 2 * record.s : 2], numbers[1::2], strict=False):
                members.append((number, tokens & DECODING - 1, bool(tokens & DECODING)))
    return tuple(members)
