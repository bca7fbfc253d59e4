"""LMCache's own spans, shown with the requests that they were made for.

No trace context reaches LMCache's server, so each of its spans lies in a trace of its own. What
joins them is the request id of vLLM's engine: its `session_id`, our `codesign.request.id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vllm_codesign import semconv as S
from vllm_codesign.analysis.server import outlived
from vllm_codesign.backends.collected import LMCACHE_ID
from vllm_codesign.model.trace import RequestTrace, Span

_NS_PER_MS = 1e6
_LISTED = 20
"""Spans that are listed one by one; more are told as means alone."""


@dataclass(frozen=True, slots=True)
class Kind:
    """All LMCache spans of one name that belong to a request here."""

    name: str
    spans: int
    requests: int
    mean_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class OfRequest:
    """One span of LMCache's and the request it belongs to."""

    trace_id: str
    request_id: str
    name: str
    after_ms: float
    """From the request's start, by the wall clocks of both processes."""
    ms: float


@dataclass(frozen=True, slots=True)
class LMCache:
    """`of` is empty where there are too many to list."""

    kinds: tuple[Kind, ...]
    of: tuple[OfRequest, ...]
    unjoined: int
    """Spans whose request is not among those read."""


@dataclass(slots=True)
class Gathered:
    """Which engine requests are whose, taken trace by trace."""

    spans: tuple[Span, ...]
    _roots: dict[str, Span] = field(default_factory=dict)

    def watch(self, traces: Iterable[RequestTrace]) -> Iterator[RequestTrace]:
        """The same traces, each of them taken on its way."""
        for trace in traces:
            # A store that outlived its response has the id of the same engine request.
            if self.spans and not outlived(trace):
                for span in trace.spans:
                    if request_id := span.attributes.get(S.REQUEST_ID.key):
                        self._roots[str(request_id)] = trace.root
            yield trace

    def summary(self) -> LMCache | None:
        """None where LMCache has no span."""
        if not self.spans:
            return None
        mine = sorted(
            (span for span in self.spans if _request(span) in self._roots),
            key=lambda span: (_request(span), span.start_ns, -span.duration_ns),
        )
        by_name: dict[str, list[Span]] = {}
        for span in mine:
            by_name.setdefault(span.name, []).append(span)
        return LMCache(
            tuple(_kind(name, spans) for name, spans in sorted(by_name.items())),
            tuple(self._listed(span) for span in mine) if len(mine) <= _LISTED else (),
            len(self.spans) - len(mine),
        )

    def _listed(self, span: Span) -> OfRequest:
        root = self._roots[_request(span)]
        return OfRequest(
            f"{root.trace_id:032x}",
            _request(span),
            span.name,
            (span.start_ns - root.start_ns) / _NS_PER_MS,
            span.duration_ns / _NS_PER_MS,
        )


def _request(span: Span) -> str:
    return str(span.attributes.get(LMCACHE_ID, ""))


def _kind(name: str, spans: list[Span]) -> Kind:
    times = [span.duration_ns / _NS_PER_MS for span in spans]
    requests = len({_request(span) for span in spans})
    return Kind(name, len(spans), requests, sum(times) / len(times), max(times))
