"""Device time from events, on a device whose clock and progress the test decides."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_codesign.hooks import device_time
from vllm_codesign.hooks.device_time import (
    _MAX_PENDING,
    _PROFILERS,
    REFERENCE_NS,
    TOO_OLD_NS,
    DeviceClock,
    device_clock,
)
from vllm_codesign.recorder.layout import DeviceWork, Kind
from vllm_codesign.recorder.reader import Record

MODEL, SAMPLE, DRAFT = DeviceWork.MODEL, DeviceWork.SAMPLE, DeviceWork.DRAFT
US = 1_000
MS = 1_000_000


class Event:
    """Passes when the device has come to it; its time is the device's own."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.recorded = 0
        self.passes_at: int | None = None
        """Host time; None until it is recorded, or while the device hangs."""
        self.unread = False

    def record(self) -> None:
        assert not self.cuda.capturing, "recorded while a graph is captured"
        assert not self.unread, "recorded again before it was read"
        self.recorded += 1
        self.unread = True
        self.passes_at = self.cuda.reach()

    def query(self) -> bool:
        self.cuda.queries += 1
        passed = self.passes_at is not None and self.passes_at <= self.cuda.now
        self.unread &= not passed
        return passed

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds, as the device's clock has them."""
        assert self.passes_at is not None
        assert end.passes_at is not None
        assert end.passes_at <= self.cuda.now, "asked before it has passed"
        end.unread = False
        return (self.cuda.device(end.passes_at) - self.cuda.device(self.passes_at)) / 1e6

    def synchronize(self) -> None:
        raise AssertionError("synchronized")


class Cuda:
    """`torch.cuda`, with a stream that works on what it is given one after the other."""

    def __init__(self) -> None:
        self.now = 10**12
        self.busy_until = self.now
        self.offset, self.drift = -(10**11), 0.0
        self.launch_ns = 0
        self.capturing = self.hangs = False
        self.queries = 0
        self.events: list[Event] = []
        self.ranges: list[str | None] = []
        self.nvtx = SimpleNamespace(
            range_push=self.ranges.append, range_pop=lambda: self.ranges.append(None)
        )

    def device(self, at: int) -> float:
        """The device's clock at this host time."""
        return (at + self.offset) * (1 + self.drift)

    def clock(self) -> int:
        """The host's clock; looking at it takes time."""
        self.now += 100
        return self.now

    def work(self, ns: int) -> None:
        """Launch a kernel of this length."""
        self.busy_until = max(self.busy_until, self.now) + ns

    def reach(self) -> int | None:
        self.now += self.launch_ns
        return None if self.hangs else max(self.busy_until, self.now)

    def Event(self, enable_timing: bool = False) -> Event:
        assert enable_timing
        self.events.append(Event(self))
        return self.events[-1]

    def current_stream(self) -> Any:
        return SimpleNamespace(query=lambda: self.busy_until <= self.now, synchronize=self._never)

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def _never(self, *_: Any) -> None:
        raise AssertionError("synchronized")

    synchronize = _never


class Server:
    """Gives the device steps, as the worker's hooks tell of them."""

    def __init__(self, cuda: Cuda, clock: DeviceClock, recording: Any) -> None:
        self.cuda, self.clock, self.recording = cuda, clock, recording
        self.key = 0
        self.truth: dict[tuple[int, int], tuple[int, int]] = {}

    def step(self, forward: int = 5 * MS, rest: int = MS, sample: int = MS, draft: int = 0) -> None:
        self.key += 1
        clock, cuda = self.clock, self.cuda
        clock.begin_step(self.key)
        begun = max(cuda.busy_until, cuda.now)
        clock.begin(MODEL)
        cuda.work(forward)
        clock.forward_ended()
        cuda.work(rest)
        clock.end(MODEL)
        clock.end_range()
        self.truth[self.key, MODEL] = (begun, cuda.busy_until)
        begun = max(cuda.busy_until, cuda.now)
        clock.begin(SAMPLE)
        cuda.work(sample)
        if draft:
            drafts = cuda.busy_until
            clock.begin(DRAFT)
            cuda.work(draft)
            clock.end(DRAFT)
            self.truth[self.key, DRAFT] = (drafts, cuda.busy_until)
        clock.end(SAMPLE)
        self.truth[self.key, SAMPLE] = (begun, cuda.busy_until)
        clock.collect()

    def wait(self, more: int = 0) -> None:
        """Until the device has done all that it was given, and longer."""
        self.cuda.now = max(self.cuda.now, self.cuda.busy_until) + more

    def told(self) -> list[Record]:
        return [r for r in self.recording.take() if r.kind == Kind.WORKER_DEVICE]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(device_time, "clock", made.clock)
    for name in _PROFILERS:
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def server(cuda: Cuda, recording: Any) -> Server:
    return Server(cuda, DeviceClock(cuda, 2), recording)


def errors(server: Server, records: list[Record]) -> list[int]:
    return [
        max(abs(r.t0 - true[0]), abs(r.t1 - true[1]))
        for r in records
        for true in [server.truth[r.key, r.c]]
    ]


def test_intervals_are_the_devices_own(server: Server) -> None:
    server.step(draft=2 * MS)
    server.wait()
    server.clock.collect()
    model, draft, sample = server.told()
    assert [(r.key, r.c, r.s) for r in (model, draft, sample)] == [
        (1, MODEL, 2),
        (1, DRAFT, 2),
        (1, SAMPLE, 2),
    ]
    assert max(errors(server, [model, draft, sample])) <= 1 * US
    assert model.a == model.t0
    assert model.b - model.a == pytest.approx(5 * MS, abs=1 * US)
    assert model.t1 - model.t0 == pytest.approx(6 * MS, abs=1 * US)
    assert (sample.a, sample.b, draft.a) == (0, 0, 0)
    assert sample.t0 <= draft.t0 < draft.t1 <= sample.t1


def test_nothing_is_told_before_it_has_passed(server: Server) -> None:
    server.step()
    assert server.told() == []
    server.cuda.now = server.truth[1, MODEL][1] + 1
    server.clock.collect()
    assert [r.c for r in server.told()] == [MODEL]
    server.wait(1)
    server.clock.collect()
    assert [r.c for r in server.told()] == [SAMPLE]


@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6])
def test_mapping_follows_a_drifting_clock(server: Server, drift: float) -> None:
    """50 ppm is more than a device's crystal is off: 25 us in the half second of a reference."""
    server.cuda.drift = drift
    records = []
    for _ in range(400):
        server.step()
        server.wait(20 * MS)
        records += server.told()
    assert len(records) >= 798
    bound = int(abs(drift) * (REFERENCE_NS + 40 * MS)) + 2 * US
    assert max(errors(server, records)) <= bound


def test_a_device_that_is_never_idle_is_followed_by_its_own_events(server: Server) -> None:
    """The first reference is from before; then every `TOO_OLD_NS` an event takes its place."""
    server.cuda.drift = 10e-6
    records = []
    for _ in range(6_000):
        server.step(forward=4 * MS, rest=0, sample=MS)
        server.cuda.now = max(server.cuda.now, server.truth[server.key, MODEL][1] - MS)
        records += server.told()
    assert server.cuda.now > 10**12 + 2 * TOO_OLD_NS
    assert len(records) > 11_000
    # What the drift adds up to since the beginning, and no more: nothing corrects it but
    # that an event cannot have passed before it was recorded nor after it was seen.
    assert max(errors(server, records)) <= 10e-6 * (server.cuda.now - 10**12) + 2 * US
    taken_anew = server.clock._reference_at
    assert taken_anew > server.cuda.now - TOO_OLD_NS - 20 * MS


def test_no_interval_lies_outside_what_the_host_knows(server: Server) -> None:
    server.cuda.drift = 0.5  # a clock that is no clock
    for _ in range(50):
        server.step()
        before = server.cuda.now
        server.wait(5 * MS)
        server.clock.collect()
        for record in server.told():
            assert record.t0 <= record.t1 <= server.cuda.now
            assert record.t0 >= min(before, server.truth[record.key, record.c][0]) - MS
            if record.a:
                assert record.t0 <= record.a <= record.b <= record.t1


def test_the_reference_is_taken_only_when_the_stream_is_idle(server: Server) -> None:
    server.cuda.work(50 * MS)
    server.step()
    assert server.clock._reference is None
    server.step()
    assert server.clock._reference is None
    assert server.told() == []
    server.wait()
    server.step()
    assert server.clock._reference is not None
    server.wait()
    server.clock.collect()
    records = server.told()
    assert [(r.key, r.c) for r in records] == [
        (key, work) for key in (1, 2, 3) for work in (MODEL, SAMPLE)
    ], "what waited for a reference is told by the first one"
    assert max(errors(server, records)) <= 2 * US


def test_a_device_that_is_never_idle_gets_a_reference_all_the_same(server: Server) -> None:
    server.cuda.work(50 * MS)
    records = []
    for _ in range(300):
        server.step()
        # Asynchronous scheduling: the next step is given while this one's sampler runs.
        server.cuda.now = max(server.cuda.now, server.cuda.busy_until - MS // 2)
        records += server.told()
    assert len(records) > 400
    assert server.clock.given_up == 0
    # As exact as the look at which the event was first seen to have passed.
    assert max(errors(server, records)) <= 8 * MS


def test_the_sweeper_stays_on_its_rank_s_device(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over(Exception):
        pass

    def stop() -> None:
        raise Over

    chosen: list[object] = []
    monkeypatch.setattr(cuda, "set_device", chosen.append, raising=False)
    clock = DeviceClock(cuda, 3, "cuda:3")
    monkeypatch.setattr(clock._waiting, "wait", stop)
    with pytest.raises(Over):
        clock._sweep()
    assert chosen == ["cuda:3"]


def test_the_reference_is_taken_anew_when_it_is_due_and_the_stream_idle(server: Server) -> None:
    taken = []
    for _ in range(300):
        server.step()
        server.wait(3 * MS)
        if server.clock._reference_at not in taken:
            taken.append(server.clock._reference_at)
    gaps = [b - a for a, b in pairwise(taken)]
    assert len(taken) == pytest.approx(300 * 10 * MS / REFERENCE_NS, abs=1)
    assert all(REFERENCE_NS <= gap <= REFERENCE_NS + 12 * MS for gap in gaps)


def test_a_reference_that_does_not_pass_is_given_up(server: Server) -> None:
    server.cuda.hangs = True
    began = server.cuda.now
    server.clock.begin_step(1)
    assert server.clock._reference is None
    assert server.cuda.now - began <= 30 * US
    assert server.clock._free == [], "it may pass any time: it must not be used again"


def test_nothing_is_recorded_while_a_graph_is_captured(server: Server) -> None:
    server.step()
    server.wait()
    server.cuda.capturing = True
    server.step(draft=MS)
    server.cuda.capturing = False
    server.wait()
    server.step()
    server.wait()
    server.clock.collect()
    assert [r.key for r in server.told()] == [1, 1, 3, 3]


def test_a_capture_that_begins_within_an_interval_ends_it(server: Server) -> None:
    server.clock.begin_step(1)
    server.clock.begin(MODEL)
    server.cuda.capturing = True
    server.clock.forward_ended()
    server.clock.end(MODEL)
    server.cuda.capturing = False
    server.wait()
    server.clock.collect()
    assert server.told() == []


def test_an_interval_left_open_is_forgotten(server: Server) -> None:
    """The forward raised: the next step begins without its end."""
    server.clock.begin_step(1)
    server.clock.begin(MODEL)
    server.clock.begin_step(2)
    server.clock.end(MODEL)
    server.wait()
    server.clock.collect()
    assert server.told() == []


def test_events_are_pooled(server: Server) -> None:
    for _ in range(2_000):
        server.step(draft=MS)
        server.wait(MS)
    assert len(server.cuda.events) <= 20
    assert sum(event.recorded for event in server.cuda.events) > 2_000 * 7


def test_a_hung_device_is_given_up_and_counted(server: Server) -> None:
    server.step()
    server.wait()
    server.clock.collect()
    server.told()
    server.cuda.hangs = True
    for _ in range(_MAX_PENDING):
        server.step()
    assert server.clock.given_up == _MAX_PENDING
    assert len(server.clock._pending) == _MAX_PENDING
    assert server.recording.ring.errors == _MAX_PENDING
    assert server.told() == []
    asked = server.cuda.queries
    server.clock.collect()
    assert server.cuda.queries == asked + 1, "only the first is asked for"


def test_a_step_asks_little(server: Server) -> None:
    """Five events and two looks a step; the reference is not due."""
    server.step()
    server.wait()
    server.step()
    server.wait()
    events = sum(event.recorded for event in server.cuda.events)
    asked = server.cuda.queries
    server.step()
    assert sum(event.recorded for event in server.cuda.events) == events + 5
    assert server.cuda.queries - asked <= 3


def test_the_sweeper_tells_of_the_last_steps_before_a_pause(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_time, "_SWEEP_S", 0.001)
    server.step()
    server.wait()
    server.clock.start_sweeper()
    records: list[Record] = []
    for _ in range(2_000):
        records += server.told()
        if len(records) == 2:
            break
        threading.Event().wait(0.001)
    assert [r.c for r in records] == [MODEL, SAMPLE]
    assert not server.clock._waiting.is_set(), "it sleeps until there is more"


def test_the_serving_thread_does_not_wait_for_the_sweeper(server: Server) -> None:
    server.step()
    server.wait()
    with server.clock._lock:
        server.clock.collect()
    assert server.told() == []
    server.clock.collect()
    assert len(server.told()) == 2


@pytest.mark.parametrize("name", _PROFILERS)
def test_ranges_only_where_a_profiler_looks(
    cuda: Cuda, recording: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Server(cuda, DeviceClock(cuda, 0), recording).step()
    assert cuda.ranges == []
    monkeypatch.setenv(name, "1")
    clock = DeviceClock(cuda, 0)
    clock.begin_step(4321 << 40 | 17)
    assert cuda.ranges == ["codesign step 17"]
    clock.end_range()
    clock.end_range()
    assert cuda.ranges == ["codesign step 17", None]


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_time, "_clock", None)


def test_the_cpu_has_no_device_clock(no_clock: None) -> None:
    assert device_clock(SimpleNamespace(device=SimpleNamespace(type="cpu"), rank=0)) is None
    assert device_clock(SimpleNamespace(rank=0)) is None
    assert device_time._clock is None


def test_one_clock_a_process_through_torchs_own_module(
    cuda: Cuda, no_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ROCm build of torch calls its devices `cuda` too."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(DeviceClock, "start_sweeper", lambda clock: None)
    worker = SimpleNamespace(device=SimpleNamespace(type="cuda"), rank=7)
    clock = device_clock(worker)
    assert clock is not None
    assert clock._rank == 7
    assert device_clock(worker) is clock
