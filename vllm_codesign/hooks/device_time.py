"""When a rank's device worked on a step, by the device's own clock, without waiting for it.

Events with time stamps are put into the stream around the model, the sampler and the
drafter; they cost a launch each and are asked later, with `query()`, whether they have
passed. Nothing here ever synchronizes. The same calls are CUDA's and, in a ROCm build of
torch, HIP's.

Device clock to host clock: a *reference* event is recorded while the stream is idle, so that
it passes at once, and its host time is noted; other events are placed by their distance from
it. It is taken anew whenever the stream is idle and `REFERENCE_NS` have gone by. An event
can neither have passed before it was recorded nor after it was seen to have passed, which
bounds the drift of the two clocks on a device that is never idle.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from typing import Any

from vllm_codesign.recorder import active
from vllm_codesign.recorder.active import clock
from vllm_codesign.recorder.layout import DeviceWork, Kind

REFERENCE_NS = 500_000_000
"""Age at which a reference is replaced. `elapsed_time` is a float of milliseconds with 24
bits: over half a second that is 30 ns; over a minute it would be 4 us."""

TOO_OLD_NS = 10_000_000_000
"""Age at which a reference is replaced by an event that was placed with it, idle or not."""

_SPIN_NS = 20_000
"""How long a new reference may take to pass; the stream was empty, so it is a few us."""

_SWEEP_S = 0.02
"""How often the last steps before a pause are looked after, when no other step does it."""

_MAX_PENDING = 256
"""Intervals not read yet; more means a device that hangs, and they are given up."""

_PROFILERS = (
    "NSYS_PROFILING_SESSION_ID",
    "CUDA_INJECTION64_PATH",
    "ROCP_TOOL_LIBRARIES",
    "ROCPROFILER_REGISTER_ENABLED",
)
"""Variables that Nsight Systems and rocprofv3 set in the processes they run."""


class _Interval:
    """Events of one stretch of one step."""

    __slots__ = ("begun", "begun_at", "ended", "forward", "key", "rank", "work")

    def __init__(self, work: DeviceWork, key: int, rank: int, begun: Any, begun_at: int) -> None:
        self.work = work
        self.key = key
        self.rank = rank
        self.begun = begun
        self.begun_at = begun_at
        self.forward: Any = None
        self.ended: Any = None


class DeviceClock:
    """Events of one rank. `cuda` is `torch.cuda`, or what stands for it in tests."""

    def __init__(self, cuda: Any, rank: int, device: Any = None) -> None:
        self._cuda = cuda
        self._device = device
        self._rank = rank
        self._key = 0
        self._free: list[Any] = []
        self._open: dict[DeviceWork, _Interval] = {}
        self._pending: deque[_Interval] = deque()
        self._reference: Any = None
        self._reference_at = 0
        self._lock = threading.Lock()
        self._waiting = threading.Event()
        self._ranges = any(name in os.environ for name in _PROFILERS)
        self._in_range = False
        self.given_up = 0
        """Intervals whose events never passed."""

    def start_sweeper(self) -> None:
        """A thread for the steps that no later one looks after."""
        threading.Thread(target=self._sweep, name="codesign-device", daemon=True).start()

    def begin_step(self, key: int) -> None:
        """`execute_model` is entered."""
        self._key = key
        self._open.clear()
        # First what has passed: a reference is only taken when nothing waits to be placed.
        self.collect()
        self._refer()
        if self._ranges:
            self._cuda.nvtx.range_push(f"codesign step {key & (1 << 40) - 1}")
            self._in_range = True

    def end_range(self) -> None:
        """The range that profilers show ends with `execute_model`."""
        if self._in_range:
            self._in_range = False
            self._cuda.nvtx.range_pop()

    def begin(self, work: DeviceWork) -> None:
        """The device is about to be given this work."""
        if self._cuda.is_current_stream_capturing():
            return
        event = self._event()
        now = clock()
        event.record()
        self._open[work] = _Interval(work, self._key, self._rank, event, now)

    def forward_ended(self) -> None:
        """All of the forward is launched; more of the model's work follows."""
        interval = self._open.get(DeviceWork.MODEL)
        if interval is not None and not self._cuda.is_current_stream_capturing():
            interval.forward = self._event()
            interval.forward.record()

    def end(self, work: DeviceWork) -> None:
        """All of this work is launched. Nothing where it never began."""
        interval = self._open.pop(work, None)
        if interval is None or self._cuda.is_current_stream_capturing():
            return
        interval.ended = self._event()
        interval.ended.record()
        with self._lock:
            self._pending.append(interval)
            while len(self._pending) > _MAX_PENDING:
                self._pending.popleft()  # its events are dropped, never recorded again
                self.given_up += 1
                active.count_error()
        self._waiting.set()

    def collect(self) -> None:
        """Write down the intervals that have passed, in the order in which they were made."""
        # Whoever holds the lock is at it: the serving thread does not wait for the sweeper.
        if not self._lock.acquire(blocking=False):
            return
        try:
            pending = self._pending
            if self._reference is None:
                # A stream that is never idle: the last event that has passed will do until it
                # is, as exact as a step is long. What it ended is not placed.
                if len(pending) <= _MAX_PENDING // 2:
                    return
                passed = sum(interval.ended.query() for interval in pending)
                if not passed:
                    return
                self._reference, self._reference_at = pending[passed - 1].ended, clock()
                del pending[passed - 1]
            while pending and pending[0].ended.query():
                self._write(pending.popleft(), clock())
            if not pending:
                self._waiting.clear()
        finally:
            self._lock.release()

    def _write(self, interval: _Interval, seen_at: int) -> None:
        begun = self._place(interval.begun, interval.begun_at, seen_at)
        ended = max(self._place(interval.ended, begun, seen_at), begun)
        forward = forward_end = 0
        if interval.forward is not None:
            forward = begun
            forward_end = min(max(self._place(interval.forward, begun, seen_at), begun), ended)
        active.emit(
            Kind.WORKER_DEVICE,
            interval.key,
            begun,
            ended,
            forward,
            forward_end,
            interval.work,
            interval.rank,
        )
        for event in (interval.begun, interval.forward):
            if event is not None:
                self._free.append(event)
        if seen_at - self._reference_at > TOO_OLD_NS:
            self._free.append(self._reference)
            self._reference, self._reference_at = interval.ended, ended
        else:
            self._free.append(interval.ended)

    def _place(self, event: Any, earliest: int, latest: int) -> int:
        """Host time of an event that has passed, between two that are sure."""
        at = self._reference_at + int(self._reference.elapsed_time(event) * 1e6)
        return min(max(at, earliest), latest)

    def _event(self) -> Any:
        return self._free.pop() if self._free else self._cuda.Event(enable_timing=True)

    def _refer(self) -> None:
        """Take the reference anew, if it is due and the stream is idle."""
        now = clock()
        if self._reference is not None and now - self._reference_at < REFERENCE_NS:
            return
        with self._lock:
            # Placed by the reference of their time: none may be left when it changes.
            if self._pending and self._reference is not None:
                return
            if self._cuda.is_current_stream_capturing() or not self._cuda.current_stream().query():
                return
            event = self._event()
            event.record()
            recorded = clock()
            while not event.query():
                if clock() - recorded > _SPIN_NS:
                    return  # the event is dropped: it may not have passed when one is needed
            if self._reference is not None:
                self._free.append(self._reference)
            self._reference, self._reference_at = event, recorded

    def _sweep(self) -> None:
        if self._device is not None:
            # A thread begins on device 0, and its first call would make a context there.
            self._cuda.set_device(self._device)
        while True:
            self._waiting.wait()
            time.sleep(_SWEEP_S)
            try:
                self.collect()
            except Exception:  # noqa: BLE001
                active.count_error()


_clock: DeviceClock | None = None


def device_clock(worker: Any) -> DeviceClock | None:
    """The clock of this worker's device; None on the CPU backend, where wall time stands in."""
    global _clock
    if _clock is None:
        device = getattr(worker, "device", None)
        if getattr(device, "type", "") != "cuda":  # what torch calls a ROCm device too
            return None
        # The worker has imported it, or there would be no such device.
        _clock = DeviceClock(sys.modules["torch"].cuda, worker.rank, device)
        _clock.start_sweeper()
    return _clock


def _forget() -> None:
    global _clock
    _clock = None


os.register_at_fork(after_in_child=_forget)
