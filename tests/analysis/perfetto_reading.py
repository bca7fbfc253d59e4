"""Draws a Perfetto trace and reads it back with Perfetto's own protobuf classes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from tests.accounting.cases import ENGINE, ROOT, UNIX, trace
from vllm_codesign.analysis import perfetto
from vllm_codesign.analysis.perfetto import Written
from vllm_codesign.analysis.perfetto_source import Sample, Source
from vllm_codesign.analysis.torch_profile import Profile
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import RequestTrace

READINGS = ((1_000, UNIX + 1_000), (60_000, UNIX + 60_200))
PIDS = {"api_server": (4711,), "engine_core": (ENGINE,), "worker": (5000,)}


@dataclass(frozen=True)
class Drawn:
    """One slice as it is read back; `track` are the names from the process down."""

    track: tuple[str, ...]
    name: str
    start: int
    end: int
    notes: dict[str, Any] = field(hash=False)
    flows: tuple[int, ...]

    @property
    def time(self) -> tuple[int, int]:
        return self.start, self.end


class Read:
    """What a reader makes of the packets; fails where a slice does not end or nest."""

    def __init__(self, data: bytes) -> None:
        self.packets = list(pb.Trace.FromString(data).packet)
        names: dict[int, str] = {}
        keys: dict[int, str] = {}
        self.descriptors: dict[int, Any] = {}
        self.counters: dict[tuple[str, ...], list[tuple[int, float]]] = {}
        self.instants: list[tuple[tuple[str, ...], str, int]] = []
        self.told: dict[tuple[tuple[str, ...], int], dict[str, Any]] = {}
        self.clocks: list[dict[int, int]] = []
        events: dict[int, list[tuple[int, Any]]] = {}
        for packet in self.packets:
            assert packet.trusted_packet_sequence_id == 1
            names |= {entry.iid: entry.name for entry in packet.interned_data.event_names}
            keys |= {e.iid: e.name for e in packet.interned_data.debug_annotation_names}
            if packet.HasField("clock_snapshot"):
                assert packet.clock_snapshot.primary_trace_clock == 3
                assert not events, "clocks come before what they place"
                self.clocks.append({c.clock_id: c.timestamp for c in packet.clock_snapshot.clocks})
            if packet.HasField("track_descriptor"):
                assert packet.track_descriptor.uuid not in self.descriptors
                self.descriptors[packet.track_descriptor.uuid] = packet.track_descriptor
            if packet.HasField("track_event"):
                assert packet.timestamp_clock_id == 3, "the host's monotonic clock"
                track = packet.track_event.track_uuid
                assert track in self.descriptors, "a track is described before it is used"
                events.setdefault(track, []).append((packet.timestamp, packet.track_event))
        self.slices: list[Drawn] = []
        for track, found in events.items():
            # As Perfetto reads: by time, and what has the same time in the file's order.
            self._track(track, sorted(found, key=lambda pair: pair[0]), names, keys)

    def path(self, uuid: int) -> tuple[str, ...]:
        descriptor = self.descriptors[uuid]
        if descriptor.HasField("process"):
            return (descriptor.process.process_name,)
        if descriptor.HasField("thread"):
            (parent,) = [
                d.process.process_name
                for d in self.descriptors.values()
                if d.HasField("process") and d.process.pid == descriptor.thread.pid
            ]
            return (parent, descriptor.thread.thread_name)
        above = self.path(descriptor.parent_uuid) if descriptor.parent_uuid else ()
        return (*above, descriptor.name)

    def _track(
        self, uuid: int, events: list[tuple[int, Any]], names: dict[int, str], keys: dict[int, str]
    ) -> None:
        path = self.path(uuid)
        stack: list[tuple[int, Any]] = []
        for at, event in events:
            if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
                stack.append((at, event))
            elif event.type == pb.TrackEvent.TYPE_SLICE_END:
                start, begun = stack.pop()  # fails where nothing has begun
                notes = {keys[a.name_iid]: _value(a) for a in begun.debug_annotations}
                flows = tuple(begun.flow_ids)
                self.slices.append(Drawn(path, names[begun.name_iid], start, at, notes, flows))
            elif event.type == pb.TrackEvent.TYPE_INSTANT:
                self.instants.append((path, names[event.name_iid], at))
                notes = {keys[a.name_iid]: _value(a) for a in event.debug_annotations}
                self.told[path, at] = notes
            else:
                assert event.type == pb.TrackEvent.TYPE_COUNTER
                whole = event.HasField("counter_value")
                value = event.counter_value if whole else event.double_counter_value
                self.counters.setdefault(path, []).append((at, value))
        assert not stack, f"{path}: slices without an end"

    def on(self, *track: str) -> list[Drawn]:
        """Slices of one track, in order of start, the longer first."""
        return sorted((s for s in self.slices if s.track == track), key=lambda s: (s.start, -s.end))

    def named(self, *track: str) -> list[tuple[str, int, int]]:
        return [(s.name, s.start, s.end) for s in self.on(*track)]

    def pid(self, name: str) -> int:
        (pid,) = [
            d.process.pid
            for d in self.descriptors.values()
            if d.HasField("process") and d.process.process_name == name
        ]
        return int(pid)


def _value(annotation: Any) -> Any:
    return getattr(annotation, annotation.WhichOneof("value"))


def drawn(
    requests: Sequence[RequestTrace],
    steps: Iterable[Step] = (),
    samples: Iterable[Sample] = (),
    profiles: Sequence[Profile] = (),
    pids: dict[str, tuple[int, ...]] | None = None,
) -> Read:
    return drawn_with(requests, steps, samples, profiles, pids)[0]


def drawn_with(
    requests: Sequence[RequestTrace],
    steps: Iterable[Step] = (),
    samples: Iterable[Sample] = (),
    profiles: Sequence[Profile] = (),
    pids: dict[str, tuple[int, ...]] | None = None,
) -> tuple[Read, Written]:
    file = io.BytesIO()
    source = Source(
        lambda: requests, steps, samples, READINGS, PIDS if pids is None else pids, {0: 5_000}
    )
    written = perfetto.write(file, source, profiles)
    read = Read(file.getvalue())
    assert len(read.slices) == written.slices
    return read, written


def request(start: int, end: int, root: int = ROOT, *children: Any) -> RequestTrace:
    """A request of its own trace and root."""
    found = trace(start, end, *children)
    return RequestTrace(replace(found.root, trace_id=root, span_id=root), found.children)


def lane(number: int, row: int = 1) -> tuple[str, str]:
    return "API server", f"requests {number}" + (f" ({row})" if row > 1 else "")
