"""A capture as a Perfetto trace, read back with Perfetto's own protobuf classes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from tests.accounting.cases import ENGINE, ROOT, STEP_NS, UNIX, in_engine, member, span, step, trace
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.analysis import perfetto
from vllm_codesign.analysis.overview import find
from vllm_codesign.analysis.perfetto import Written
from vllm_codesign.analysis.perfetto_source import Sample, Source
from vllm_codesign.analysis.perfetto_writer import Rows, TraceWriter
from vllm_codesign.analysis.slices import Slices
from vllm_codesign.analysis.torch_profile import Profile
from vllm_codesign.cli import analyze
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.step import DeviceInterval, RankStep, Step
from vllm_codesign.model.trace import RequestTrace, SpanEvent
from vllm_codesign.store.writer import SegmentWriter, SeriesWriter

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


# --- requests ---------------------------------------------------------------------------


def test_slices_are_the_spans_to_the_nanosecond() -> None:
    decode = replace(
        in_engine(S.DECODE.name, 400, 901),
        events=(SpanEvent(S.EVENT_PREEMPTED, UNIX + 500, {}),),
        attributes={
            S.ENGINE_PID.key: ENGINE,
            S.REQUEST_ID.key: "r1",
            S.DECODE_ITL.key: (1, 2, 3),
            S.DECODE_BATCH_MEAN.key: 2.5,
        },
    )
    read = drawn(
        [
            trace(
                100,
                1_000,
                span(S.HTTP_RECEIVE.name, 100, 130),
                span(S.TOKENIZE_WAIT.name, 130, 130),
                span(S.TOKENIZE_ENCODE.name, 130, 200),
                in_engine(S.PREFILL.name, 300, 400),
                in_engine(S.KV_ALLOCATE.name, 310, 320),
                decode,
            )
        ]
    )
    assert read.named(*lane(1)) == [
        ("POST /v1/completions", 100, 1_000),
        (S.HTTP_RECEIVE.name, 100, 130),
        (S.TOKENIZE_ENCODE.name, 130, 200),
        (S.TOKENIZE_WAIT.name, 130, 130),
        (S.PREFILL.name, 300, 400),
        (S.KV_ALLOCATE.name, 310, 320),
        (S.DECODE.name, 400, 901),
    ]
    assert read.pid("API server") == 4711
    assert read.instants == [(lane(1), S.EVENT_PREEMPTED, 500)]
    root, *_, last = read.on(*lane(1))
    assert root.notes["trace_id"] == f"{1:032x}"
    assert root.notes[S.LEVEL.key] == "step"
    assert last.notes == {
        S.ENGINE_PID.key: ENGINE,
        S.REQUEST_ID.key: "r1",
        S.DECODE_BATCH_MEAN.key: 2.5,
    }, "one number for each token is left out"


def test_concurrent_requests_have_lanes() -> None:
    read = drawn(
        [
            request(101, 300, 4),  # in any order
            request(50, 150, 2),
            request(0, 100, 1),
            request(100, 120, 3),  # begins as the first ends: not in its lane
            request(301, 400, 5),
        ]
    )
    assert [s.time for s in read.on(*lane(1))] == [(0, 100), (101, 300), (301, 400)]
    assert [s.time for s in read.on(*lane(2))] == [(50, 150)]
    assert [s.time for s in read.on(*lane(3))] == [(100, 120)]
    ranks = {d.name: d.sibling_order_rank for d in read.descriptors.values() if d.name}
    assert sorted(ranks, key=ranks.__getitem__) == ["requests 1", "requests 2", "requests 3"]


def test_spans_that_overlap_go_a_row_down() -> None:
    read = drawn(
        [
            trace(
                0,
                100,
                in_engine(S.DECODE.name, 20, 60),
                span(S.DETOKENIZE.name, 30, 70),
                span(S.STREAM_SEND.name, 40, 95),
                span(S.ENGINE_RETURN.name, 60, 80),
            )
        ]
    )
    assert read.named(*lane(1))[1:] == [(S.DECODE.name, 20, 60), (S.ENGINE_RETURN.name, 60, 80)]
    assert read.named(*lane(1, 2)) == [(S.DETOKENIZE.name, 30, 70)]
    assert read.named(*lane(1, 3)) == [(S.STREAM_SEND.name, 40, 95)]


def test_work_that_outlives_its_request_keeps_the_lane() -> None:
    outliving = request(0, 100, 1, span(S.DETOKENIZE.name, 90, 150))
    read = drawn([outliving, request(120, 200, 2), request(151, 200, 3)])
    assert [s.start for s in read.on(*lane(1)) if s.name.startswith("POST")] == [0, 151]
    assert [s.start for s in read.on(*lane(2))] == [120]


def test_offline_requests_are_their_engines() -> None:
    offline = trace(0, 50, in_engine(S.PREFILL.name, 10, 20))
    root = replace(offline.root, kind="internal", name=S.ENGINE_REQUEST.name)
    read = drawn([RequestTrace(root, offline.children)])
    assert [s.name for s in read.on("EngineCore", "requests 1")] == [
        S.ENGINE_REQUEST.name,
        S.PREFILL.name,
    ]
    assert read.pid("EngineCore") == ENGINE


def test_several_api_servers_share_a_process() -> None:
    read = drawn([trace(0, 10)], pids={"api_server": (11, 12)})
    assert read.pid("API servers 11, 12") > 1 << 22, "no process has this id"


def test_what_does_not_say_when_it_began_is_left_out() -> None:
    old = request(0, 10, 5)
    old = RequestTrace(replace(old.root, attributes={}), ())
    read, written = drawn_with([old, request(5, 9, 6)])
    assert [s.time for s in read.slices] == [(5, 9)]
    assert (written.requests, written.left_out) == (1, 1)
    with pytest.raises(CodesignError, match="no request here says when it began"):
        drawn([old])


def test_the_input_thread() -> None:
    dispatch = replace(
        span(S.ENGINE_DISPATCH.name, 10, 60),
        attributes={
            S.REQUEST_ID.key: "r1",
            S.DISPATCH_PREPROCESS.key: 7,
            S.DISPATCH_INPUT_QUEUE.key: 20,
        },
    )
    read = drawn([trace(0, 100, dispatch, in_engine(S.PREFILL.name, 70, 80))])
    (piece,) = read.on("EngineCore", "input thread")
    assert (piece.name, *piece.time) == ("preprocess", 33, 40)
    assert piece.notes == {S.REQUEST_ID.key: "r1"}


# --- steps ------------------------------------------------------------------------------


def test_a_step_on_engine_worker_and_device() -> None:
    made = replace(
        step(3, 1_000, blocked_by="no_free_blocks"),
        allocate=(1_002, 1_005),
        tokens=40,
        requests=2,
        waiting=5,
    )
    read = drawn([trace(0, 5_000)], [made])
    main = read.on("EngineCore", "EngineCore main")
    assert [(s.name, *s.time) for s in main] == [
        ("schedule", 1_000, 1_010),
        ("kv.allocate", 1_002, 1_005),
        ("waiting", 1_010, 1_087),
        ("update", 1_087, 1_093),
    ]
    assert main[0].notes == {
        "step": 3,
        "tokens": 40,
        "requests": 2,
        "waiting": 5,
        "blocked_by": "no_free_blocks",
    }
    assert {s.notes["step"] for s in main} == {3}
    assert read.named("worker rank 0", "host rank 0") == [
        ("worker.prepare", 1_015, 1_020),
        ("worker.forward", 1_020, 1_070),
        ("worker.sample", 1_073, 1_083),
    ]
    device = read.on("worker rank 0", "device rank 0")
    assert [(s.name, *s.time) for s in device] == [
        ("model", 1_020, 1_070),
        ("sample", 1_073, 1_083),
    ]
    assert device[0].notes == {"step": 3, "source": "wall"}
    (thread,) = [d.thread for d in read.descriptors.values() if d.HasField("thread")]
    assert (thread.pid, thread.tid) == (ENGINE, ENGINE)
    assert read.pid("worker rank 0") == 5_000


def test_a_device_track_for_each_rank() -> None:
    events = DeviceInterval(1_025, 1_080, "model", "events")
    made = step(1, 1_000, ranks=2)
    first, second = made.ranks
    late = replace(second, device=(events, DeviceInterval(1_085, 1_090, "draft", "events")))
    made = replace(made, ranks=(first, replace(late, forward_device=(1_030, 1_075))))
    read = drawn([trace(0, 5_000)], [made])
    assert read.named("worker rank 0", "device rank 0") == [
        ("model", 1_020, 1_070),
        ("sample", 1_073, 1_083),
    ]
    assert read.named("worker rank 1", "device rank 1") == [
        ("model", 1_025, 1_080),
        ("forward", 1_030, 1_075),
        ("draft", 1_085, 1_090),
    ]
    assert {s.notes["source"] for s in read.on("worker rank 1", "device rank 1")} == {"events"}
    assert read.pid("worker rank 0") == 5_000
    assert read.pid("worker rank 1") > 1 << 22, "not known: no process has this id"


def test_steps_in_any_order_that_meet_at_an_instant() -> None:
    """The next schedule() begins as the last update ends, the device without a pause."""
    made = [step(n, n * STEP_NS) for n in range(50)]
    packed = [
        replace(
            s,
            ranks=(
                RankStep(
                    0,
                    device=(
                        DeviceInterval(s.number * 100, s.number * 100 + 100, "model", "events"),
                    ),
                ),
            ),
        )
        for s in made
    ]
    read = drawn([trace(0, 10_000)], packed[::-1])
    device = read.on("worker rank 0", "device rank 0")
    assert [(s.notes["step"], *s.time) for s in device] == [
        (n, n * 100, n * 100 + 100) for n in range(50)
    ]
    main = read.on("EngineCore", "EngineCore main")
    assert len(main) == 150
    assert {s.track[1] for s in read.slices if s.track[0] == "EngineCore"} == {"EngineCore main"}
    assert {d.name for d in read.descriptors.values()} & {"device rank 0 (2)"} == set()


def test_several_engines_have_workers_of_their_own() -> None:
    other = replace(step(1, 500), engine=99)
    read = drawn([trace(0, 5_000)], [step(1, 1_000), other])
    assert read.named("worker rank 0 of EngineCore 99", "device rank 0")[0] == ("model", 520, 570)
    assert read.named(f"worker rank 0 of EngineCore {ENGINE}", "device rank 0")[0] == (
        "model",
        1_020,
        1_070,
    )
    pids = [d.process.pid for d in read.descriptors.values() if d.HasField("process")]
    assert len(pids) == len(set(pids)) == 5


# --- flows ------------------------------------------------------------------------------


def served(decodes: int) -> list[Step]:
    """Two prefill chunks, then decodes, of a request; another one is in every step."""
    other = member(99, "decode", "not here")
    phases = ["prefill", "prefill", *["decode"] * decodes]
    made = [
        step(n, 1_000 + n * STEP_NS, members=(member(ROOT, phase), other), ranks=2)
        for n, phase in enumerate(phases, 1)
    ]
    # The forward alone begins with the model's interval and ends before it.
    return [
        replace(
            s,
            ranks=tuple(
                replace(r, forward_device=(r.device[0].start_ns, r.device[0].end_ns - 1))
                for r in s.ranks
            ),
        )
        for s in made
    ]


def test_a_flow_from_a_request_to_its_steps() -> None:
    steps = served(decodes=5)
    first_token = steps[1].end_ns
    last_token = steps[-1].end_ns
    read = drawn(
        [
            trace(
                0,
                9_000,
                in_engine(S.PREFILL.name, steps[0].schedule[0], first_token),
                in_engine(S.DECODE.name, first_token, last_token),
            )
        ],
        steps[::-1],
    )
    (flow,) = {flow for s in read.slices for flow in s.flows}
    joined = sorted((s for s in read.slices if s.flows), key=lambda s: s.start)
    assert [(s.track[1], s.name, s.notes.get("step")) for s in joined] == [
        ("requests 1", S.PREFILL.name, None),
        ("device rank 0", "model", 1),
        ("device rank 0", "model", 2),
        ("requests 1", S.DECODE.name, None),
        ("device rank 0", "model", 3),
        ("device rank 0", "model", 7),
    ]
    assert all(s.flows == (flow,) for s in joined)


def test_flows_do_not_grow_with_tokens() -> None:
    def arrows(decodes: int) -> int:
        children = (in_engine(S.PREFILL.name, 1_000, 1_200), in_engine(S.DECODE.name, 1_200, 1_300))
        read = drawn([trace(0, 9_000_000, *children)], served(decodes))
        return sum(len(s.flows) for s in read.slices)

    assert arrows(2) == arrows(500) == 6
    assert arrows(0) == 4


def test_without_device_times_flows_lead_to_schedule() -> None:
    steps = [replace(s, ranks=()) for s in served(decodes=1)]
    read = drawn([trace(0, 9_000, in_engine(S.PREFILL.name, 1_093, 1_300))], steps)
    joined = [(s.name, s.notes.get("step")) for s in read.slices if s.flows]
    assert sorted(joined, key=str) == [
        (S.PREFILL.name, None),
        ("schedule", 1),
        ("schedule", 2),
        ("schedule", 3),
    ]


# --- counters and clocks ------------------------------------------------------------------


def test_counters_of_the_steps() -> None:
    steps = [
        replace(step(n, n * 1_000), running=n, waiting=10 - n, tokens=100 * n) for n in (3, 1, 2)
    ]
    read = drawn([trace(0, 9_000)], steps)
    assert read.counters == {
        ("EngineCore", "requests running"): [(1_010, 1), (2_010, 2), (3_010, 3)],
        ("EngineCore", "requests waiting"): [(1_010, 9), (2_010, 8), (3_010, 7)],
        ("EngineCore", "tokens per step"): [(1_010, 100), (2_010, 200), (3_010, 300)],
    }


def test_counters_of_the_series() -> None:
    samples: list[Sample] = [
        (UNIX + 1_000, "hw.gpu.utilization", "1", 0.25, {"hw.id": "0"}),
        (UNIX + 60_200, "hw.gpu.utilization", "1", 0.5, {"hw.id": "0"}),
        (UNIX + 1_000, "hw.gpu.utilization", "1", 0.75, {"hw.id": "1"}),
        (UNIX + 1_000, "codesign.lag", "s", 3.0, {"process.pid": "4711"}),
        (UNIX + 1_000, "codesign.lag", "s", 4.0, {"process.pid": "31"}),
    ]
    read, written = drawn_with([trace(0, 90_000)], samples=samples)
    assert read.counters == {
        ("hw.gpu.utilization (hw.id=0)",): [(1_000, 0.25), (60_000, 0.5)],
        ("hw.gpu.utilization (hw.id=1)",): [(1_000, 0.75)],
        ("API server", "codesign.lag"): [(1_000, 3.0)],
        ("codesign.lag (process.pid=31)",): [(1_000, 4.0)],
    }
    units = {d.name: d.counter.unit_name for d in read.descriptors.values() if d.counter.unit_name}
    assert units["codesign.lag"] == "s"
    assert written.samples == 5


def test_clock_snapshots_are_the_anchors() -> None:
    read = drawn([trace(2_000, 9_000)])
    assert read.clocks == [{3: monotonic, 1: unix} for monotonic, unix in READINGS]


def test_without_anchors_a_request_tells_the_time() -> None:
    file = io.BytesIO()
    perfetto.write(file, Source(lambda: [trace(2_000, 9_000)]))
    assert Read(file.getvalue()).clocks == [{3: 2_000, 1: UNIX + 2_000}]


# --- torch.profiler -----------------------------------------------------------------------


def profile(*pieces: tuple[int, int, str], kind: str = "device") -> Profile:
    slices = Slices()
    for start, end, name in pieces:
        slices.add(UNIX + start, UNIX + end, name)
    return Profile(Path("rank0.pt.trace.json"), 0, {(kind, 0, 7): slices})


def test_kernels_land_in_their_device_interval() -> None:
    # Unix time runs 200 ns in 59 us faster than the host's clock: READINGS.
    made = step(1, 29_000, model=10_000)
    (interval, _) = made.ranks[0].device
    start, end = interval.start_ns, interval.end_ns

    def unix(monotonic: int) -> int:
        return monotonic + (monotonic - 1_000) * 200 // 59_000

    kernels = profile((unix(start) + 5, unix(start) + 90, "gemm"), (unix(end) - 90, unix(end), "x"))
    read = drawn([trace(0, 90_000)], [made], profiles=[kernels])
    (model,) = [s for s in read.on("worker rank 0", "device rank 0") if s.name == "model"]
    drawn_kernels = read.on("torch.profiler rank 0 (rank0.pt.trace.json)", "stream 7")
    assert [s.name for s in drawn_kernels] == ["gemm", "x"]
    assert all(model.start <= s.start < s.end <= model.end for s in drawn_kernels)
    assert abs(drawn_kernels[0].start - (start + 5)) <= 1
    assert abs(drawn_kernels[1].end - end) <= 1


def test_operators_nest_on_their_thread() -> None:
    operators = profile((5_000, 5_500, "execute"), (5_100, 5_200, "aten::mm"), kind="host")
    read = drawn([trace(0, 9_000)], profiles=[operators])
    assert [s.name for s in read.on("torch.profiler rank 0 (rank0.pt.trace.json)", "thread 7")] == [
        "execute",
        "aten::mm",
    ]


@pytest.mark.parametrize("away_s", [-30, 40_000])
def test_a_profile_of_another_run(away_s: int) -> None:
    at = away_s * 1_000_000_000
    with pytest.raises(CodesignError) as caught:
        drawn([trace(0, 9_000)], profiles=[profile((at, at + 5, "gemm"))])
    assert f"lies {abs(away_s):,} s away from the requests of this capture" in str(caught.value)


# --- rows ---------------------------------------------------------------------------------


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=60))
def test_rows_always_nest(pieces: list[tuple[int, int]]) -> None:
    slices = Slices()
    for start, length in pieces:
        slices.add(start, start + length, "x")
    file = io.BytesIO()
    writer = TraceWriter(file)
    rows = Rows(writer, lambda row: writer.track(0, f"row {row}"))
    for piece in slices:
        rows.add(piece.start, piece.end, piece.name, {})
    rows.finish()
    read = Read(file.getvalue())
    assert sorted(s.time for s in read.slices) == sorted((a, a + n) for a, n in pieces)


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two requests and a step in segments, and some samples."""
    made = []
    for number, found in enumerate(traces.traces()[:2]):
        begun = 1_000 + found.root.start_ns - traces.EPOCH_NS
        attributes = {**found.root.attributes, S.MONOTONIC.key: begun}
        made.append(RequestTrace(replace(found.root, attributes=attributes), found.children))
        assert found.trace_id == traces.trace_id(0, number)
    written = traces.write_capture(tmp_path / "capture", made)
    ids = iter(range(900, 1_000))
    served = replace(
        step(1, 1_000 + 15 * traces.MS, members=(member(request="req-x"),)), engine=ENGINE
    )
    spans = trace_of(
        served, "vllm", 0xFEED, lambda: next(ids), lambda t: t - 1_000 + traces.EPOCH_NS
    )
    writer = SegmentWriter(written.traces)
    writer.add(spans.spans, traces.RESOURCE)
    writer.close()
    series = SeriesWriter(written.series)
    for rank, pid in ((0, 31), (1, 32), (1, 33)):
        attributes = {S.RANK.key: rank, "process.pid": pid}
        series.add(traces.EPOCH_NS, "codesign.worker.steps", "{step}", 7.0, attributes)
    series.close()
    return tmp_path


def test_the_command_exports_a_capture(capture: Path) -> None:
    out = capture / "new" / "x.pftrace"
    arguments = [str(capture), "--export", "perfetto", str(out), "--json"]
    result = CliRunner().invoke(analyze.command, arguments, catch_exceptions=False)
    read = Read(out.read_bytes())
    roots = [s for s in read.on(*lane(1)) if s.name.startswith("POST")]
    assert [s.start for s in roots] == [1_000, 1_000 + 1_000 * traces.MS]
    assert read.pid("API server") == 4711, "of run.json"
    assert read.named("worker rank 0", "device rank 0")[0][0] == "model"
    assert read.counters["hw.gpu.utilization (hw.id=0)",] == [(1_000, 0.5)]
    assert read.pid("worker rank 0") == 31, "of the series"
    rank = f"({S.RANK.key}=0)"
    assert read.counters["worker rank 0", f"codesign.worker.steps {rank}"] == [(1_000, 7.0)]
    assert read.clocks == [{3: 1_000, 1: traces.EPOCH_NS}]
    assert json.loads(result.stdout) == {
        "trace": str(out),
        "bytes": out.stat().st_size,
        "requests": 2,
        "left_out": 0,
        "steps": 1,
        "slices": len(read.slices),
        "samples": 7,
        "lossy": [],
    }
    assert "Open it in https://ui.perfetto.dev" in result.stderr
    assert [path.name for path in out.parent.iterdir()] == ["x.pftrace"]


def test_what_is_missing_is_said(capture: Path) -> None:
    run = find(capture)
    run.update(lambda info: info.model_copy(update={"drops": {"worker": 1_200}}))
    torn = run.traces / "torn.parquet"
    torn.write_bytes(b"PAR1 no more")
    out = capture / "x.pftrace"
    arguments = [str(capture), "--export", "perfetto", str(out)]
    result = CliRunner().invoke(analyze.command, arguments, catch_exceptions=False)
    said = result.stderr.replace("\n", " ")
    assert "LOSSY CAPTURE: 1,200 records were lost" in said
    assert said.count(f"LOSSY CAPTURE: {torn} left out") == 1
    assert Read(out.read_bytes()).slices, "the rest is there"


def test_nothing_is_left_where_it_fails(capture: Path) -> None:
    out = capture / "x.pftrace"
    out.write_text("before")
    arguments = [str(capture), "--export", "perfetto", str(out), "--torch-profile"]
    bad = capture / "bad.json"
    bad.write_text(
        '{"baseTimeNanoseconds": 1, "traceEvents": [{"ph": "X", "cat": "kernel", '
        '"name": "k", "pid": 0, "tid": 0, "ts": 1.5, "dur": 1}]}'
    )
    result = CliRunner().invoke(analyze.command, [*arguments, str(bad)])
    assert isinstance(result.exception, CodesignError)
    assert "away from the requests of this capture" in str(result.exception)
    result = CliRunner().invoke(analyze.command, [*arguments, str(capture / "none.json")])
    assert str(result.exception).startswith(f"cannot read {capture / 'none.json'}")
    assert out.read_text() == "before"
    assert not [path for path in capture.iterdir() if path.name.endswith(".tmp")]


def test_a_place_that_cannot_be_written(capture: Path) -> None:
    (capture / "file").write_text("")
    arguments = [str(capture), "--export", "perfetto", str(capture / "file" / "x")]
    result = CliRunner().invoke(analyze.command, arguments)
    assert str(result.exception).startswith(f"cannot write {capture / 'file' / 'x'}: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--torch-profile", "x.json"], "--torch-profile goes with --export perfetto FILE"),
        (["--export", "chrome", "x"], "is not 'perfetto'"),
    ],
)
def test_wrong_usage(capture: Path, arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(analyze.command, [str(capture), *arguments])
    assert result.exit_code == 2
    assert text in result.output
