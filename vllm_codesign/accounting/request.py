"""The latency view: one request's wall time, instant by instant.

At each instant the first part of `semconv.Part` that applies has it. What applies is read
off the request's spans (which say when it was queued, running, tokenized, ...) and off the
timelines of the engines that served it (which say what device and host did just then).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vllm_codesign import semconv as S
from vllm_codesign.accounting.sweep import Intervals, Mask, Sweep
from vllm_codesign.accounting.timeline import (
    CAUSES,
    DECODE,
    OTHER,
    PREFILL,
    UNKNOWN,
    Row,
    Timeline,
    View,
)
from vllm_codesign.model.step import Accounting, Stretch
from vllm_codesign.model.trace import RequestTrace, Span
from vllm_codesign.semconv import Part

_ORDER = tuple(Part)
_RANK = {part: rank for rank, part in enumerate(_ORDER)}
_GAPS = {
    Row.PREPARE: Part.GAP_PREPARE,
    Row.SCHEDULE: Part.GAP_SCHEDULE,
    Row.UPDATE: Part.GAP_UPDATE,
    Row.IPC: Part.GAP_IPC,
    Row.OUTPUT: Part.GAP_OUTPUT,
}
_SIMPLE = {
    S.TEMPLATE_WAIT.name: Part.FRONTEND_WAIT,
    S.TEMPLATE_RENDER.name: Part.FRONTEND_CPU,
    S.TOKENIZE_WAIT.name: Part.FRONTEND_WAIT,
    S.TOKENIZE_ENCODE.name: Part.FRONTEND_CPU,
    S.FRONTEND_WAIT.name: Part.FRONTEND_WAIT,
    S.FRONTEND_RUN.name: Part.FRONTEND_CPU,
}
_ENGINE = {
    S.ENGINE_QUEUE.name: Part.ENGINE_QUEUE,
    S.PREFILL.name: Part.ENGINE_PREFILL,
    S.DECODE.name: Part.ENGINE_DECODE,
}


@dataclass(slots=True)
class _Windows:
    """When a request was in an engine: waiting, and admitted."""

    waiting: list[Stretch] = field(default_factory=list)
    running: list[Stretch] = field(default_factory=list)


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
    shift = start - root.start_ns
    # A timeline without steps, where none were recorded: its time stays unexplained.
    stepwise = root.attributes.get(S.LEVEL.key, "step") == "step"
    parts: dict[Part, list[Stretch]] = {}
    windows: dict[int, _Windows] = {}
    for span in trace.children:
        if span.name in _ENGINE:
            _place_engine_span(span, shift, stepwise, parts, windows)
        else:
            for part, stretch in _frontend(span, shift):
                parts.setdefault(part, []).append(stretch)
    sets = {part: Intervals.of(found).within(start, end) for part, found in parts.items()}
    views = {
        pid: _EngineView(engines.get(pid) or Timeline(pid), start, end, (root.span_id,), found)
        for pid, found in windows.items()
    }
    sweep = Sweep(start, end, [*sets.values(), *(s for v in views.values() for s in v.sets)])
    label = np.full(len(sweep.lengths), _RANK[Part.UNATTRIBUTED], dtype=np.int8)
    host = np.zeros(len(sweep.lengths), dtype=np.bool_)
    for part, intervals in sets.items():
        covered = sweep.covered(intervals)
        _put(label, covered, part)
        if part in S.HOST_PARTS:
            host |= covered
    for view in views.values():
        host |= view.label(sweep, label)
    lengths = np.zeros(len(_ORDER), dtype=np.int64)
    np.add.at(lengths, label, sweep.lengths)
    device = (label == _RANK[Part.DEVICE_PREFILL]) | (label == _RANK[Part.DEVICE_DECODE])
    return Accounting(
        {part.value: int(ns) for part, ns in zip(_ORDER, lengths, strict=True) if ns},
        sweep.total(device & host),
    )


def bottleneck(accounting: Accounting) -> str:
    """The largest part that can be avoided; empty where there is none."""
    avoidable = {p: ns for p, ns in accounting.parts.items() if Part(p) in S.AVOIDABLE_PARTS}
    return max(avoidable, key=lambda part: avoidable[part]) if avoidable else ""


def exposed_ns(accounting: Accounting) -> int:
    """Host time that the request waited for."""
    return sum(ns for part, ns in accounting.parts.items() if Part(part) in S.HOST_PARTS)


def _put(label: np.ndarray, mask: Mask, part: Part) -> None:  # type: ignore[type-arg]
    """Give the pieces under `mask` to `part`, where nothing before it in order has them."""
    rank = _RANK[part]
    label[mask & (label > rank)] = rank


def _place_engine_span(
    span: Span,
    shift: int,
    stepwise: bool,
    parts: dict[Part, list[Stretch]],
    windows: dict[int, _Windows],
) -> None:
    stretch = (span.start_ns + shift, span.end_ns + shift)
    pid = span.attributes.get(S.ENGINE_PID.key)
    if not stepwise or not isinstance(pid, int):
        parts.setdefault(_ENGINE[span.name], []).append(stretch)
        return
    window = windows.setdefault(pid, _Windows())
    (window.waiting if span.name == S.ENGINE_QUEUE.name else window.running).append(stretch)


def _frontend(span: Span, shift: int) -> Iterator[tuple[Part, Stretch]]:
    """What a span of the API server contributes; nothing for aggregates over the stream."""
    start, end = span.start_ns + shift, span.end_ns + shift
    part = _SIMPLE.get(span.name)
    if part is not None:
        yield part, (start, end)
    elif span.name == S.HTTP_RECEIVE.name:
        body = _offset(span, S.RECEIVE_BODY)
        if body is not None:
            yield Part.FRONTEND_WAIT, (start, start + body)
            yield Part.FRONTEND_CPU, (start + body, end)
    elif span.name == S.ENGINE_DISPATCH.name:
        client, register = _offset(span, S.DISPATCH_CLIENT), _offset(span, S.DISPATCH_REGISTER)
        if client is not None:
            yield Part.FRONTEND_CPU, (start, start + client)
            yield Part.IPC, (start + client, end)
        elif register is not None:
            yield Part.FRONTEND_CPU, (start, start + register)
    elif span.name == S.ENGINE_RETURN.name:
        at = start
        for attribute, where in (
            (S.RETURN_TRANSIT, Part.IPC),
            (S.RETURN_OUTPUT_QUEUE, Part.FRONTEND_WAIT),
            (S.RETURN_PROCESS, Part.FRONTEND_CPU),
        ):
            length = _offset(span, attribute)
            if length is not None:
                yield where, (at, at + length)
                at += length


def _offset(span: Span, attribute: S.Attribute) -> int | None:
    value = span.attributes.get(attribute.key)
    return value if isinstance(value, int) else None


class _EngineView:
    """One engine's timeline as a request sees it."""

    def __init__(
        self,
        timeline: Timeline,
        start: int,
        end: int,
        span_ids: Collection[int],
        windows: _Windows,
    ) -> None:
        view: View = timeline.view(start, end)
        roles = timeline.roles(start, end, span_ids)
        # A row may belong to the step just after the window's last: then its role is unknown.
        role = roles[np.clip(view.step, 0, len(roles) - 1)] if len(roles) else view.step * 0
        self._device = {
            part: view.intervals.where((view.what == Row.DEVICE) & (role == wanted)).within(
                start, end
            )
            for part, wanted in (
                (Part.DEVICE_PREFILL, PREFILL),
                (Part.DEVICE_DECODE, DECODE),
                (Part.QUEUE_CAPACITY, OTHER),
                (Part.UNATTRIBUTED, UNKNOWN),
            )
        }
        known = {
            "mine": (role == PREFILL) | (role == DECODE),
            "others": role == OTHER,
            "nobody's": role == UNKNOWN,
        }
        self._evidence = {
            (cause, whose): view.intervals.where((view.what == cause) & mask).within(start, end)
            for cause in CAUSES
            for whose, mask in known.items()
        }
        self._unseen = view.intervals.where(view.what == Row.UNSEEN).within(start, end)
        self._full = view.intervals.where(view.what == Row.FULL).within(start, end)
        self._waiting = Intervals.of(windows.waiting).within(start, end)
        self._running = Intervals.of(windows.running).within(start, end)

    @property
    def sets(self) -> list[Intervals]:
        """All that the window is to be cut at."""
        return [
            *self._device.values(),
            *self._evidence.values(),
            self._full,
            self._unseen,
            self._waiting,
            self._running,
        ]

    def label(self, sweep: Sweep, label: np.ndarray) -> Mask:  # type: ignore[type-arg]
        """Lower `label` where this engine gives a piece to an earlier part.

        Returns where EngineCore or a worker did something for this request.
        """
        waiting, running = sweep.covered(self._waiting), sweep.covered(self._running)
        inside = waiting | running
        device = {part: sweep.covered(found) for part, found in self._device.items()}
        for part in (Part.DEVICE_PREFILL, Part.DEVICE_DECODE):
            _put(label, device[part], part)
        busy = np.logical_or.reduce(list(device.values()))
        seen = ~sweep.covered(self._unseen)
        idle = inside & ~busy & seen
        work = np.zeros(len(label), dtype=np.bool_)
        # Which cause it was is settled before whose: leaving a record out cannot promote
        # what it stood before.
        unexplained = idle
        for cause in CAUSES:
            mine, others, nobodys = (
                sweep.covered(self._evidence[cause, whose])
                for whose in ("mine", "others", "nobody's")
            )
            if cause is not Row.IPC:  # that is waiting
                work |= mine
            _put(label, unexplained & running & mine, _GAPS[cause])
            _put(label, unexplained & (mine | others), Part.QUEUE_HOST)
            unexplained = unexplained & ~(mine | others | nobodys)
            _put(label, idle & running & nobodys & ~(mine | others), Part.GAP_OTHER)
        _put(label, running & ~busy & (unexplained | ~seen), Part.GAP_OTHER)
        _put(label, inside & seen & device[Part.QUEUE_CAPACITY], Part.QUEUE_CAPACITY)
        _put(label, waiting & sweep.covered(self._full), Part.QUEUE_CAPACITY)
        return work & inside
