"""Spans and traces, independent of where they were read or where they go.

All times are integer nanoseconds since the Unix epoch; durations are differences of the
host's monotonic clock, so they do not jump when the wall clock is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

AttributeValue = str | bool | int | float | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one instant of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A pointer from a span to a span of another trace."""

    trace_id: int
    span_id: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span.

    `service` is the full `service.name`; `parent_id` is 0 where the span has no parent.
    `trace_id` is 128 bits wide, `span_id` and `parent_id` 64.
    """

    name: str
    service: str
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    kind: Literal["server", "internal"] = "internal"
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    status: Literal["unset", "ok", "error"] = "unset"
    status_message: str = ""
    trace_state: str = ""

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The trace of one HTTP request (or of one engine request without any): root first."""

    root: Span
    children: tuple[Span, ...]

    @property
    def trace_id(self) -> int:
        return self.root.trace_id

    @property
    def spans(self) -> tuple[Span, ...]:
        return (self.root, *self.children)

    def named(self, name: str) -> tuple[Span, ...]:
        """All spans called `name`, in order of their start."""
        return tuple(sorted((s for s in self.children if s.name == name), key=lambda s: s.start_ns))
