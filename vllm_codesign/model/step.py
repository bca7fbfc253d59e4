"""One step of an engine: one batch, planned, run on the device and taken back.

All times are nanoseconds of the host's monotonic clock, which is the same for all processes
of a host: what happened in EngineCore and on each worker can be compared as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Stretch = tuple[int, int]
"""From, to."""


@dataclass(frozen=True, slots=True)
class DeviceInterval:
    """The device of one rank worked on a step.

    `source` says what was measured: `events` are time stamps of the device's own stream,
    mapped to the host's clock; `wall` is the host's time over the same stretch (CPU backend).
    """

    start_ns: int
    end_ns: int
    work: Literal["model", "sample", "draft"]
    source: Literal["events", "wall"]


@dataclass(frozen=True, slots=True)
class ConnectorCall:
    """A call of the KV connector on a worker: it starts the step's loads, or ends its saves.

    `layer_load_ns` and `layer_save_ns`, of a save: time in its calls layer by layer in the step.
    """

    work: Literal["load", "save"]
    start_ns: int
    end_ns: int
    layer_load_ns: int = 0
    layer_save_ns: int = 0


@dataclass(frozen=True, slots=True)
class RankStep:
    """What one worker did for a step; a stretch is None where its record is missing."""

    rank: int
    execute: Stretch | None = None
    """`execute_model`."""
    forward: Stretch | None = None
    """The model's forward call within it: on a GPU the time it takes to launch it."""
    sample: Stretch | None = None
    """`sample_tokens`."""
    forward_device: Stretch | None = None
    """The forward alone, on the device."""
    device: tuple[DeviceInterval, ...] = ()
    connector: tuple[ConnectorCall, ...] = ()
    """In order of time."""


@dataclass(frozen=True, slots=True)
class Member:
    """One engine request in a step.

    `trace_id` and `span_id` name the root of the request's trace: the SERVER span of its HTTP
    request, or its `engine.request` span where there was none.
    """

    trace_id: int
    span_id: int
    request_id: str
    tokens: int
    phase: Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step.

    `engine` is the process id of its EngineCore, `number` counts that process's steps from 1.
    `members` is None where it is not known which requests were in it; requests that came in
    while tracing was off count in `requests` alone.
    """

    engine: int
    number: int
    schedule: Stretch
    before_ns: int = 0
    """Since EngineCore last ended a `schedule()` or an `update_from_output()`."""
    update: Stretch | None = None
    waited_ns: int = 0
    """The same before `update`: how long it did nothing but wait for the result."""
    ranks: tuple[RankStep, ...] = ()
    members: tuple[Member, ...] | None = None
    requests: int = 0
    tokens: int = 0
    waiting: int = 0
    running: int = 0
    blocked_by: str = ""
    """Why the head of the waiting queue was left there; empty where none waited."""
    allocate: Stretch | None = None
    """First to last block allocation within `schedule`."""
    allocate_ns: int = 0
    allocate_calls: int = 0
    preempted: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def end_ns(self) -> int:
        """When EngineCore had dealt with its result, as far as that is known."""
        return self.update[1] if self.update is not None else self.schedule[1]

    @property
    def skew_ns(self) -> int:
        """How much later the last rank's forward ended than the first's."""
        ends = [(r.forward_device or r.forward) for r in self.ranks]
        known = [end[1] for end in ends if end is not None]
        return max(known) - min(known) if known else 0


@dataclass(frozen=True, slots=True)
class Accounting:
    """One request's wall time, cut into parts that sum to it exactly.

    `parts` maps names of `semconv.Part` to nanoseconds, zeros left out. `hidden_ns` is host
    work for this request that overlapped with the device working for it.
    """

    parts: dict[str, int] = field(default_factory=dict)
    hidden_ns: int = 0

    @property
    def total_ns(self) -> int:
        return sum(self.parts.values())
