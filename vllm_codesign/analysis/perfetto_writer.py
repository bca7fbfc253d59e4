"""Packets of a Perfetto trace: tracks, slices, counters, flows, clocks.

One sequence of packets, written as they come, so memory does not grow with the trace; names
are interned. All times are nanoseconds of the host's monotonic clock, which the clock
snapshots declare to be the clock of the trace: its relation to Perfetto's usual one (boot
time) is not known, and a packet whose clock cannot be related is dropped when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from vllm_codesign.model.errors import CodesignError

Note = str | bool | int | float

REALTIME, MONOTONIC = 1, 3
"""Of Perfetto's built-in clocks."""
_SEQUENCE = 1
_CLEARED, _NEEDS_STATE = 1, 2
_INT64 = 1 << 63


class TraceWriter:
    """Writes one trace into `file`, which stays the caller's to close."""

    def __init__(self, file: IO[bytes]) -> None:
        self._builder: Any = StreamingTraceProtoBuilder(file)
        self._names: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._uuid = 0
        self._flags = _CLEARED | _NEEDS_STATE
        self.slices = self.samples = 0

    def _packet(self, at: int | None = None) -> Any:
        if at is not None and not 0 <= at < _INT64:
            raise CodesignError(
                f"{at:,} ns is no time of the host's clock: a span or a step here is damaged, or "
                "not of vllm-codesign"
            )
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.sequence_flags = self._flags
        self._flags = _NEEDS_STATE
        if at is not None:
            packet.timestamp = at
            packet.timestamp_clock_id = MONOTONIC
        return packet

    def clocks(self, readings: Iterable[tuple[int, int]]) -> None:
        """Readings of both clocks, (monotonic, Unix); before anything that has a time."""
        for monotonic, unix in readings:
            packet = self._packet()
            snapshot = packet.clock_snapshot
            snapshot.primary_trace_clock = MONOTONIC
            for clock, time in ((MONOTONIC, monotonic), (REALTIME, unix)):
                snapshot.clocks.add(clock_id=clock, timestamp=time)
            self._builder.write_packet(packet)

    def _descriptor(self) -> tuple[Any, Any]:
        packet = self._packet()
        self._uuid += 1
        packet.track_descriptor.uuid = self._uuid
        return packet, packet.track_descriptor

    def process(self, pid: int, name: str) -> int:
        """A process; pids are unique in a trace. Like the next three it returns the track's id."""
        packet, descriptor = self._descriptor()
        descriptor.process.pid = pid
        descriptor.process.process_name = name
        descriptor.child_ordering = pb.TrackDescriptor.ChildTracksOrdering.EXPLICIT
        self._builder.write_packet(packet)
        return self._uuid

    def thread(self, pid: int, tid: int, name: str) -> int:
        packet, descriptor = self._descriptor()
        descriptor.thread.pid, descriptor.thread.tid = pid, tid
        descriptor.thread.thread_name = name
        self._builder.write_packet(packet)
        return self._uuid

    def track(self, parent: int, name: str, rank: int = 0) -> int:
        """A track of its own under `parent` (0: under none); `rank` orders those of one parent."""
        packet, descriptor = self._descriptor()
        descriptor.name = name
        if parent:
            descriptor.parent_uuid = parent
        descriptor.sibling_order_rank = rank
        self._builder.write_packet(packet)
        return self._uuid

    def counter(self, parent: int, name: str, unit: str) -> int:
        packet, descriptor = self._descriptor()
        descriptor.name = name
        if parent:
            descriptor.parent_uuid = parent
        descriptor.counter.unit_name = unit
        self._builder.write_packet(packet)
        return self._uuid

    def _event(self, kind: int, track: int, at: int) -> tuple[Any, Any]:
        packet = self._packet(at)
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet, packet.track_event

    def _named(
        self, kind: int, track: int, at: int, name: str, notes: Mapping[str, Note]
    ) -> tuple[Any, Any]:
        packet, event = self._event(kind, track, at)
        event.name_iid = _interned(self._names, name, packet.interned_data.event_names)
        for key, value in notes.items():
            entries = packet.interned_data.debug_annotation_names
            _set(event.debug_annotations.add(name_iid=_interned(self._keys, key, entries)), value)
        return packet, event

    def begin(
        self, track: int, at: int, name: str, notes: Mapping[str, Note], flows: Sequence[int] = ()
    ) -> None:
        """A slice begins. Slices that share a flow are joined by arrows, in order of time."""
        packet, event = self._named(pb.TrackEvent.TYPE_SLICE_BEGIN, track, at, name, notes)
        if flows:
            event.flow_ids.extend(flows)
        self._builder.write_packet(packet)
        self.slices += 1

    def end(self, track: int, at: int) -> None:
        """The slice that began last on `track` ends."""
        packet, _ = self._event(pb.TrackEvent.TYPE_SLICE_END, track, at)
        self._builder.write_packet(packet)

    def instant(self, track: int, at: int, name: str, notes: Mapping[str, Note]) -> None:
        packet, _ = self._named(pb.TrackEvent.TYPE_INSTANT, track, at, name, notes)
        self._builder.write_packet(packet)

    def sample(self, counter: int, at: int, value: int | float) -> None:
        """The value of a counter from `at` on."""
        packet, event = self._event(pb.TrackEvent.TYPE_COUNTER, counter, at)
        if isinstance(value, int):
            event.counter_value = value
        else:
            event.double_counter_value = value
        self._builder.write_packet(packet)
        self.samples += 1


def _interned(known: dict[str, int], text: str, entries: Any) -> int:
    """The number of `text`; the first packet that uses it says what it stands for."""
    found = known.get(text)
    if found is None:
        found = known[text] = len(known) + 1
        entries.add(iid=found, name=text)
    return found


def _set(annotation: Any, value: Note) -> None:
    if isinstance(value, bool):
        annotation.bool_value = value
    elif isinstance(value, int) and -_INT64 <= value < _INT64:
        annotation.int_value = value
    elif isinstance(value, float):
        annotation.double_value = value
    else:
        annotation.string_value = str(value)


class Rows:
    """Writes slices so that those of one row nest; one that overlaps another goes a row down.

    `add` them in order of start, the longer first; `finish` when there are no more. `row(n)`
    is the track of the n-th row and is asked for a row once it is used.
    """

    def __init__(self, writer: TraceWriter, row: Callable[[int], int]) -> None:
        self._writer = writer
        self._row = row
        self._open: list[list[int]] = []
        self._tracks: list[int] = []

    def add(
        self,
        start: int,
        end: int,
        name: str,
        notes: Mapping[str, Note],
        flows: Sequence[int] = (),
    ) -> int:
        """The track it went to. A slice that would end before its start has no length."""
        end = max(start, end)
        number = self._place(start, end)
        self._writer.begin(self._tracks[number], start, name, notes, flows)
        self._open[number].append(end)
        return self._tracks[number]

    def _place(self, start: int, end: int) -> int:
        for number, ends in enumerate(self._open):
            self._close(number, start)
            if not ends or ends[-1] >= end:
                return number
        self._open.append([])
        self._tracks.append(self._row(len(self._tracks)))
        return len(self._open) - 1

    def _close(self, number: int, until: int) -> None:
        # An end is written before a begin of the same instant: readers keep their order.
        ends = self._open[number]
        while ends and ends[-1] <= until:
            self._writer.end(self._tracks[number], ends.pop())

    def finish(self) -> None:
        for number, ends in enumerate(self._open):
            while ends:
                self._writer.end(self._tracks[number], ends.pop())


def lines(writer: TraceWriter, parent: int, name: str, rank: int) -> Callable[[int], int]:
    """Tracks for rows of one name; a second one is needed where slices overlap."""
    return lambda row: writer.track(parent, f"{name} ({row + 1})" if row else name, rank + row)
