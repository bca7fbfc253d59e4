"""Device time on a real GPU, against the profiler's own timeline. PyTorch only, no vLLM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from vllm_codesign.hooks import device_time
from vllm_codesign.hooks.device_time import DeviceClock
from vllm_codesign.recorder import active
from vllm_codesign.recorder.layout import DeviceWork, Kind

pytestmark = pytest.mark.gpu

STEPS = 80
"""With their pauses some two seconds: the reference is taken anew three times."""

PAUSE_S = 0.01
"""Between two pieces of work: they are told apart by it in the profile, and the stream is idle."""

WITHIN_NS = 50_000
COST_NS = 20_000
_GAP_NS = 4_000_000


class Told(NamedTuple):
    """A WORKER_DEVICE record."""

    key: int
    start: int
    end: int
    forward: int
    forward_end: int
    work: int


class Stretch(NamedTuple):
    """One piece of work as the profiler saw it, on the monotonic clock."""

    start: int
    end: int


@pytest.fixture(scope="module")
def torch() -> Any:
    found = pytest.importorskip("torch", reason="needs PyTorch")
    if not found.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch can use (CUDA or ROCm)")
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What the clock records."""
    found: list[Told] = []

    def emit(kind: int, key: int, t0: int, t1: int, a: int, b: int, c: int, s: int) -> None:
        assert kind == Kind.WORKER_DEVICE
        found.append(Told(key, t0, t1, a, b, c))

    monkeypatch.setattr(active, "emit", emit)
    return found


class Load:
    """Steps of a model that is three matrix products, and of a sampler that is a sort."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.weight = torch.randn(2048, 2048, device="cuda", dtype=torch.float16) / 64
        self.batch = torch.randn(2048, 2048, device="cuda", dtype=torch.float16)
        self.logits = torch.randn(256, 32_000, device="cuda")
        for _ in range(3):  # libraries are loaded and memory is allocated
            self.model()
            self.sample()
        torch.cuda.synchronize()

    def model(self) -> None:
        x = self.batch
        for _ in range(3):
            x = x @ self.weight

    def sample(self) -> None:
        self.torch.sort(self.logits, dim=-1)

    def behind(self) -> None:
        """Keep the stream busy meanwhile: what is launched now begins when this ends, so that
        how long a launch takes is no part of the comparison."""
        self.torch.cuda._sleep(2_000_000)


def run_step(clock: DeviceClock, load: Load, key: int) -> None:
    clock.begin_step(key)
    load.behind()
    clock.begin(DeviceWork.MODEL)
    load.model()
    clock.forward_ended()
    clock.end(DeviceWork.MODEL)
    clock.end_range()
    time.sleep(PAUSE_S)
    load.behind()
    clock.begin(DeviceWork.SAMPLE)
    load.sample()
    clock.end(DeviceWork.SAMPLE)
    clock.collect()
    time.sleep(PAUSE_S)


def unix_minus_monotonic() -> int:
    """The offset of the two clocks, from the reading with the least time in between."""
    readings = []
    for _ in range(100):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, unix - (before + after) // 2))
    return min(readings)[1]


class Profile(NamedTuple):
    stretches: list[Stretch]
    """Pieces of work in order: model, sample, model, sample, …"""
    calls: list[str]
    """What the host called of CUDA or HIP between the first step and the last."""


def profiled(torch: Any, run: Callable[[], None]) -> Profile:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        time.sleep(0.1)
        began = time.monotonic_ns()
        run()
        ended = time.monotonic_ns()
        offset = unix_minus_monotonic()
    kernels, calls = [], []
    for event in profile.profiler.kineto_results.events():
        start = event.start_ns() - offset
        if not began <= start <= ended:
            continue  # the profiler itself waits for the device at its end
        if event.device_type() == torch.autograd.DeviceType.CPU:
            calls.append(event.name())
        elif not any(word in event.name().lower() for word in ("spin", "memset", "memcpy")):
            kernels.append(Stretch(start, start + event.duration_ns()))
    kernels.sort()
    stretches = [kernels[0]]
    for before, kernel in pairwise(kernels):
        if kernel.start - before.end > _GAP_NS:
            stretches.append(kernel)
        else:
            stretches[-1] = Stretch(stretches[-1].start, max(stretches[-1].end, kernel.end))
    return Profile(stretches, calls)


@pytest.fixture
def load(torch: Any) -> Load:
    return Load(torch)


@pytest.fixture
def clock(torch: Any, load: Load) -> Iterator[DeviceClock]:
    yield DeviceClock(torch.cuda, 0)
    torch.cuda.synchronize()


def test_intervals_are_where_the_profiler_sees_the_kernels(
    torch: Any, load: Load, clock: DeviceClock, told: list[Told]
) -> None:
    references = set()

    def run() -> None:
        for key in range(1, STEPS + 1):
            run_step(clock, load, key)
            references.add(clock._reference_at)

    profile = profiled(torch, run)
    assert len(references) >= 3
    assert [(t.key, t.work) for t in told] == [
        (key, work) for key in range(1, STEPS + 1) for work in (DeviceWork.MODEL, DeviceWork.SAMPLE)
    ]
    assert len(profile.stretches) == len(told)
    pairs = list(zip(told, profile.stretches, strict=True))
    assert max(abs(t.start - seen.start) for t, seen in pairs) <= WITHIN_NS
    assert max(abs(t.end - seen.end) for t, seen in pairs) <= WITHIN_NS
    for t, seen in pairs:
        if t.work == DeviceWork.MODEL:
            assert t.forward == t.start
            assert abs(t.forward_end - seen.end) <= WITHIN_NS


def test_nothing_synchronizes(torch: Any, load: Load, clock: DeviceClock, told: list[Told]) -> None:
    def run() -> None:
        for key in range(1, 21):
            run_step(clock, load, key)

    profile = profiled(torch, run)
    assert any("LaunchKernel" in name for name in profile.calls), "the host's calls are seen"
    assert any("EventRecord" in name for name in profile.calls)
    assert [name for name in profile.calls if "ynchronize" in name] == []
    assert told


def test_a_step_costs_the_host_little(
    torch: Any, load: Load, clock: DeviceClock, told: list[Told]
) -> None:
    """The same launches with and without events around them, by turns."""
    small = torch.zeros(1024, device="cuda")

    def bare(key: int) -> None:
        small.add_(1)
        small.mul_(1)

    def timed(key: int) -> None:
        clock.begin_step(key)
        clock.begin(DeviceWork.MODEL)
        small.add_(1)
        clock.forward_ended()
        clock.end(DeviceWork.MODEL)
        clock.begin(DeviceWork.SAMPLE)
        small.mul_(1)
        clock.end(DeviceWork.SAMPLE)
        clock.collect()

    spent: dict[Callable[[int], None], list[int]] = {bare: [], timed: []}
    for key in range(1, 2_001):
        for step in (bare, timed):
            before = time.perf_counter_ns()
            step(key)
            spent[step].append(time.perf_counter_ns() - before)
        time.sleep(0.0002)  # as in serving, the device is done with a step before the next
    # The first steps make the pool.
    added = statistics.median(spent[timed][100:]) - statistics.median(spent[bare][100:])
    print(f"a step costs the host {added / 1e3:.1f} us more")
    assert 0 < added <= COST_NS
    assert len(told) >= 3_900


def test_a_graph_can_be_captured_with_the_hooks_in_it(
    torch: Any, load: Load, clock: DeviceClock, told: list[Told]
) -> None:
    x = torch.zeros(16, device="cuda")
    clock.begin_step(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        clock.begin(DeviceWork.MODEL)
        x.add_(1)
        clock.forward_ended()
        clock.end(DeviceWork.MODEL)
    clock.begin_step(2)
    clock.begin(DeviceWork.MODEL)
    for _ in range(5):
        graph.replay()
    clock.forward_ended()
    clock.end(DeviceWork.MODEL)
    torch.cuda.synchronize()
    clock.collect()
    assert x.tolist() == [5.0] * 16
    assert [t.key for t in told] == [2], "the capture is no work of the device"


def test_the_sweeper_tells_of_the_last_step(
    torch: Any, load: Load, clock: DeviceClock, told: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_time, "_SWEEP_S", 0.005)
    clock.start_sweeper()
    clock.begin_step(1)
    clock.begin(DeviceWork.MODEL)
    load.model()
    clock.end(DeviceWork.MODEL)
    deadline = time.monotonic() + 5
    while not told and time.monotonic() < deadline:
        time.sleep(0.005)
    assert [t.key for t in told] == [1]
