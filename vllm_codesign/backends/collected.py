"""What a back end has handed over so far.

Our spans go to a folder that reads like any capture, so that whatever reads a capture reads
them too, in the same order and with the same types, and a long run does not have to fit into
memory. They are told from others by the instrumentation scope: a caller's SERVER span in the
same trace is no request of this server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vllm_codesign import semconv
from vllm_codesign.model.trace import Span
from vllm_codesign.semconv import Service
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.writer import SegmentWriter

LMCACHE_REQUEST = "session_id"
"""Attribute of LMCache's spans: vLLM's request id, our `codesign.request.id`."""
_LMCACHE_NAMES = ("request", "mp.")


class Found(NamedTuple):
    """A span as a back end has it, and the name of the scope that made it."""

    span: Span
    scope: str


@dataclass
class Collected:
    """Spans of ours in `capture`, LMCache's beside them, of others their number."""

    capture: Capture
    roots: dict[int, int] = field(default_factory=dict)
    """Start of the first request of each trace that has one."""
    services: set[str] = field(default_factory=set)
    """`service.name` of the servers of these requests."""
    first_ns: int = 0
    last_ns: int = 0
    """Of the requests; 0 before there is one."""
    spans: int = 0
    of_steps: int = 0
    """Roots of steps among the spans."""
    foreign: Counter[str] = field(default_factory=Counter)
    """Spans of others by service."""
    lmcache: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know about this back end's answer."""

    def __post_init__(self) -> None:
        self._writer = SegmentWriter(self.capture.traces)
        self._seen: set[int] = set()

    def take(self, spans: Iterable[Found]) -> int:
        """Keep what is ours; the number of traces among all these spans, known ones too."""
        traces = set()
        for span, scope in spans:
            traces.add(span.trace_id)
            # Searches overlap.
            if (known := span.trace_id << 64 | span.span_id) in self._seen:
                continue
            self._seen.add(known)
            if scope == semconv.SCOPE_NAME:
                self._keep(span)
            elif is_lmcache(span):
                self.lmcache.append(span)
            else:
                self.foreign[span.service or "(no service.name)"] += 1
        return len(traces)

    def _keep(self, span: Span) -> None:
        self._writer.add((span,), {})
        self.spans += 1
        if span.kind == "server" or span.name == semconv.ENGINE_REQUEST.name:
            known = self.roots.get(span.trace_id, span.start_ns)
            self.roots[span.trace_id] = min(known, span.start_ns)
            self.services.add(span.service.removesuffix(Service.ENGINE))
            self.first_ns = min(self.first_ns or span.start_ns, span.start_ns)
            self.last_ns = max(self.last_ns, span.end_ns)
        elif span.name == semconv.STEP.name:
            self.of_steps += 1

    def note(self, line: str) -> None:
        """Say it once."""
        if line not in self.notes:
            self.notes.append(line)

    def close(self) -> None:
        """All that was taken can be read."""
        self._writer.close()


def is_lmcache(span: Span) -> bool:
    """Whether LMCache's server made this span for a request of vLLM."""
    named = span.name == _LMCACHE_NAMES[0] or span.name.startswith(_LMCACHE_NAMES[1])
    return named and bool(span.attributes.get(LMCACHE_REQUEST))


def collected_in(folder: Path) -> Collected:
    """An empty one whose spans will lie in `folder`."""
    capture = Capture(folder)
    capture.traces.mkdir(parents=True)
    capture.series.mkdir()
    return Collected(capture)
