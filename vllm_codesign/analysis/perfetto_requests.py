"""The tracks of the requests, each in the first lane that is free when it begins.

Requests are read twice, since how many ran at once must be known before the first is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from vllm_codesign import semconv as S
from vllm_codesign.analysis.host_clock import ClockReading
from vllm_codesign.analysis.perfetto_processes import Processes
from vllm_codesign.analysis.perfetto_steps import StepTracks
from vllm_codesign.analysis.perfetto_writer import Note, Rows, TraceWriter, lines
from vllm_codesign.analysis.slices import Slices
from vllm_codesign.model.trace import AttributeValue, RequestTrace


@dataclass
class Plan:
    """What the first reading of the requests found; lanes by the roots' span ids."""

    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Process (0: API server), start, end, root."""
    lanes: dict[int, int] = field(default_factory=dict)
    engines: dict[str, int] = field(default_factory=dict)
    """Which EngineCore had an engine request."""
    reading: ClockReading | None = None
    left_out: int = 0

    def take(self, trace: RequestTrace) -> None:
        shift = _shift(trace)
        if shift is None:
            self.left_out += 1
            return
        root = trace.root
        self.reading = self.reading or (root.start_ns + shift, root.start_ns)
        for span in trace.children:
            engine = span.attributes.get(S.ENGINE_PID.key)
            if isinstance(engine, int):
                self.engines[str(span.attributes.get(S.REQUEST_ID.key, ""))] = engine
        start = min(span.start_ns for span in trace.spans) + shift
        end = max(span.end_ns for span in trace.spans) + shift
        self.spans.append((_home(trace), start, end, root.span_id))

    def pack(self) -> None:
        """Each request gets the first lane of its process that is free when it begins."""
        busy: dict[int, list[tuple[int, int]]] = {}
        free: dict[int, list[int]] = {}
        count: dict[int, int] = {}
        for home, start, end, root in sorted(self.spans):
            running, idle = busy.setdefault(home, []), free.setdefault(home, [])
            # Not where one ends at that very instant: its end may be written later.
            while running and running[0][0] < start:
                heappush(idle, heappop(running)[1])
            if idle:
                lane = heappop(idle)
            else:
                lane = count[home] = count.get(home, 0) + 1
            heappush(running, (end, lane))
            self.lanes[root] = lane

    @property
    def window(self) -> tuple[int, int]:
        return min(s[1] for s in self.spans), max(s[2] for s in self.spans)


def _shift(trace: RequestTrace) -> int | None:
    """From the spans' Unix times to the host's clock."""
    start = trace.root.attributes.get(S.MONOTONIC.key)
    return start - trace.root.start_ns if isinstance(start, int) else None


def _home(trace: RequestTrace) -> int:
    """The EngineCore of a request that came over no HTTP; 0: the API server."""
    if trace.root.kind == "server":
        return 0
    engines = (span.attributes.get(S.ENGINE_PID.key) for span in trace.spans)
    return next((pid for pid in engines if isinstance(pid, int)), 0)


def write_requests(
    writer: TraceWriter,
    processes: Processes,
    requests: Iterable[RequestTrace],
    plan: Plan,
    steps: StepTracks,
) -> None:
    rows: dict[tuple[int, int], list[int]] = {}
    inputs: dict[int, Slices] = {}
    ids: list[str] = []
    evictions: dict[int, list[tuple[int, dict[str, Note]]]] = {}
    for trace in requests:
        shift = _shift(trace)
        lane = plan.lanes.get(trace.root.span_id)
        if shift is None or lane is None:
            continue  # left out and counted; or it came in since
        home = _home(trace)
        tracks = rows.setdefault((home, lane), [])

        def row(number: int, home: int = home, lane: int = lane, t: list[int] = tracks) -> int:
            while len(t) <= number:
                pid = processes.engine(home) if home else processes.api_server()
                beside = f" ({len(t) + 1})" if t else ""
                track = writer.track(
                    processes.tracks[pid], f"requests {lane}{beside}", 100 * lane + len(t)
                )
                t.append(track)
            return t[number]

        _request(writer, Rows(writer, row), trace, shift, steps)
        for engine, request_id, start, end in _preprocessing(trace, shift, plan):
            inputs.setdefault(engine, Slices()).add(start, end, "preprocess", len(ids))
            ids.append(request_id)
        for engine, at, told in _evictions(trace, shift, plan):
            evictions.setdefault(engine, []).append((at, told))
    _write_evictions(writer, processes, evictions)
    for engine, slices in sorted(inputs.items()):
        pid = processes.engine(engine)
        pieces = Rows(writer, lines(writer, processes.tracks[pid], "input thread", 20))
        for piece in slices:
            notes: dict[str, Note] = {S.REQUEST_ID.key: ids[piece.key]}
            pieces.add(piece.start, piece.end, piece.name, notes)
        pieces.finish()


def _request(
    writer: TraceWriter, rows: Rows, trace: RequestTrace, shift: int, steps: StepTracks
) -> None:
    spans = sorted(trace.spans, key=lambda s: (s.start_ns, -s.end_ns, s is not trace.root))
    for span in spans:
        notes = _plain(span.attributes)
        if span is trace.root:
            notes["trace_id"] = f"{span.trace_id:032x}"
        flows = steps.flows_of(span)
        track = rows.add(span.start_ns + shift, span.end_ns + shift, span.name, notes, flows)
        for event in span.events:
            told = _plain(event.attributes)
            writer.instant(track, event.time_ns + shift, event.name, told)
    rows.finish()


def _evictions(
    trace: RequestTrace, shift: int, plan: Plan
) -> Iterator[tuple[int, int, dict[str, Note]]]:
    """Who took whose cached blocks, when, and in which EngineCore."""
    for span in trace.children:
        request_id = str(span.attributes.get(S.REQUEST_ID.key, ""))
        engine = span.attributes.get(S.ENGINE_PID.key, plan.engines.get(request_id))
        for event in span.events:
            if event.name != S.EVENT_EVICTED or not isinstance(engine, int):
                continue
            by: dict[str, Note] = {S.REQUEST_ID.key: request_id}
            if session := trace.root.attributes.get(S.SESSION_ID.key):
                by[S.SESSION_ID.key] = str(session)
            yield engine, event.time_ns + shift, by | _plain(event.attributes)


def _write_evictions(
    writer: TraceWriter,
    processes: Processes,
    evictions: Mapping[int, list[tuple[int, dict[str, Note]]]],
) -> None:
    for engine, found in sorted(evictions.items()):
        track = writer.track(processes.tracks[processes.engine(engine)], "KV evictions", 30)
        for at, notes in sorted(found, key=lambda each: each[0]):
            writer.instant(track, at, S.EVENT_EVICTED, notes)


def _plain(attributes: Mapping[str, AttributeValue]) -> dict[str, Note]:
    """Lists of numbers are left out: one for each token would be most of the file."""
    found: dict[str, Note] = {}
    for key, value in attributes.items():
        if not isinstance(value, tuple):
            found[key] = value
        elif value and isinstance(value[0], str):
            found[key] = ", ".join(map(str, value))
    return found


def _preprocessing(
    trace: RequestTrace, shift: int, plan: Plan
) -> Iterator[tuple[int, str, int, int]]:
    """What EngineCore's input thread did for each engine request."""
    for span in trace.named(S.ENGINE_DISPATCH.name):
        took = span.attributes.get(S.DISPATCH_PREPROCESS.key)
        queued = span.attributes.get(S.DISPATCH_INPUT_QUEUE.key)
        request_id = str(span.attributes.get(S.REQUEST_ID.key, ""))
        engine = plan.engines.get(request_id)
        if isinstance(took, int) and isinstance(queued, int) and engine is not None:
            end = span.end_ns + shift - queued
            yield engine, request_id, end - took, end
