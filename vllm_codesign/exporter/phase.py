"""A stretch of a request's time on its way to becoming a span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vllm_codesign import semconv as S
from vllm_codesign.model.trace import AttributeValue, SpanEvent
from vllm_codesign.semconv import SpanKind

_OF_THE_END = frozenset((S.KV_DURATION.key, S.KV_RESOLUTION.key, S.KV_REPORT.key))
_OF_BOTH = frozenset((S.KV_CONNECTOR.key, S.KV_TIER.key))


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
            attributes={k: v for k, v in self.attributes.items() if k not in _OF_THE_END},
            inside=[p if p.end <= cut else p.until(cut) for p in self.inside if p.start < cut],
            events=tuple(e for e in self.events if e.time_ns <= cut),
        )

    def since(self, cut: int) -> Phase:
        """The part from `cut` on. What was counted over the whole stays with the first part, what
        is said of the end goes with it."""
        keep = {
            k: v
            for k, v in self.attributes.items()
            if k.startswith("codesign.request.") or k in _OF_THE_END or k in _OF_BOTH
        }
        return replace(
            self,
            start=cut,
            attributes=keep,
            inside=[p if p.start >= cut else p.since(cut) for p in self.inside if p.end > cut],
            events=tuple(e for e in self.events if e.time_ns > cut),
        )
