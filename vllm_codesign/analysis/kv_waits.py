"""What workers spent in a KV connector's calls: behind a device at work, or with it idle.

Throughput view: any rank at work makes the engine's device busy, whatever step it works on, as in
`accounting.fleet`. Times are sums over ranks. The calls layer by layer are known as sums alone,
so they are told apart and cut by nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vllm_codesign.accounting import Timeline
from vllm_codesign.accounting.sweep import Times
from vllm_codesign.accounting.timeline import Row
from vllm_codesign.model.step import Step


@dataclass(frozen=True, slots=True)
class Waits:
    """All of one kind of calls of one engine; `hidden_ns` and `exposed_ns` are all of them."""

    engine: int
    work: str
    """`load`: `start_load_kv()`; `save`: `wait_for_save()`."""
    calls: int
    hidden_ns: int
    """The engine's device worked meanwhile."""
    exposed_ns: int
    """It did not."""
    layers_ns: int
    """In `wait_for_layer_load()` or `save_kv_layer()`, between the calls above."""

    @property
    def total_ns(self) -> int:
        return self.hidden_ns + self.exposed_ns


@dataclass(slots=True)
class _Calls:
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    layers_ns: int = 0


@dataclass(slots=True)
class GatheredWaits:
    """Taken step by step."""

    _calls: dict[tuple[int, str], _Calls] = field(default_factory=dict)

    def watch(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps, each of them taken on its way."""
        for step in steps:
            self.take(step)
            yield step

    def take(self, step: Step) -> None:
        for rank in step.ranks:
            for call in rank.connector:
                of = self._of(step.engine, call.work)
                of.starts.append(call.start_ns)
                of.ends.append(max(call.end_ns, call.start_ns))
                # Each call carries the sums of both kinds since the one before it.
                self._of(step.engine, "load").layers_ns += call.layer_load_ns
                self._of(step.engine, "save").layers_ns += call.layer_save_ns

    def _of(self, engine: int, work: str) -> _Calls:
        return self._calls.setdefault((engine, work), _Calls())

    def summary(self, engines: Mapping[int, Timeline]) -> tuple[Waits, ...]:
        """By engine and kind; kinds that were never called and took no time are left out."""
        return tuple(
            _waits(engine, work, calls, engines[engine])
            for (engine, work), calls in sorted(self._calls.items())
            if calls.starts or calls.layers_ns
        )


def _waits(engine: int, work: str, calls: _Calls, timeline: Timeline) -> Waits:
    total = hidden = 0
    if calls.starts:
        starts = np.array(calls.starts, dtype=np.int64)
        ends = np.array(calls.ends, dtype=np.int64)
        begun, over = _busy(timeline, int(starts.min()), int(ends.max()))
        total = int((ends - starts).sum())
        hidden = int((_until(begun, over, ends) - _until(begun, over, starts)).sum())
    return Waits(engine, work, len(calls.starts), hidden, total - hidden, calls.layers_ns)


def _busy(timeline: Timeline, start: int, end: int) -> tuple[Times, Times]:
    """The device's work in [start, end) as stretches apart from one another, in order."""
    view = timeline.view(start, end)
    device = view.what == Row.DEVICE
    starts, ends = view.starts[device], view.ends[device]
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    if not len(starts):
        return starts, reach
    fresh = np.concatenate([[True], starts[1:] > reach[:-1]])
    lasts = np.concatenate([np.flatnonzero(fresh)[1:] - 1, [len(starts) - 1]])
    return starts[fresh], reach[lasts]


def _until(starts: Times, ends: Times, at: Times) -> Times:
    """How long the device had worked up to each instant."""
    if not len(starts):
        return np.zeros(len(at), dtype=np.int64)
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(ends - starts)])
    index = starts.searchsorted(at, side="right")
    last = np.maximum(index - 1, 0)
    inside = np.clip(at - starts[last], 0, ends[last] - starts[last])
    found: Times = np.where(index > 0, before[last] + inside, 0)
    return found
