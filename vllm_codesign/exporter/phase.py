"""A stretch of a request's time on its way to becoming a span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vllm_codesign.model.trace import AttributeValue, SpanEvent
from vllm_codesign.semconv import SpanKind


@dataclass(frozen=True, slots=True)
class Phase:
    """Times are of the host's monotonic clock, in nanoseconds."""

    kind: SpanKind
    start: int
    end: int
    attributes: Mapping[str, AttributeValue]
    inside: list[Phase] = field(default_factory=list)
    events: tuple[SpanEvent, ...] = ()

    def until(self, cut: int) -> Phase:
        """The part before `cut`."""
        return replace(
            self,
            end=cut,
            inside=[p if p.end <= cut else p.until(cut) for p in self.inside if p.start < cut],
            events=tuple(e for e in self.events if e.time_ns <= cut),
        )

    def since(self, cut: int) -> Phase:
        """The part from `cut` on. What was counted over the whole stays with the first part."""
        keep = {k: v for k, v in self.attributes.items() if k.startswith("codesign.request.")}
        return replace(
            self,
            start=cut,
            attributes=keep,
            inside=[p if p.start >= cut else p.since(cut) for p in self.inside if p.end > cut],
            events=tuple(e for e in self.events if e.time_ns > cut),
        )
