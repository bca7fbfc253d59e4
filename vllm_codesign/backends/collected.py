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
from vllm_codesign.backends.values import LENGTHS, shown
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import Span
from vllm_codesign.semconv import Service
from vllm_codesign.store.capture import Capture
from vllm_codesign.store.writer import SegmentWriter

LMCACHE_ID = "session_id"
"""Attribute of LMCache's spans: vLLM's request id, our `codesign.request.id`."""
LMCACHE_ROOT = "request"
"""Their root; below it are spans whose names begin with `mp.`."""


class Found(NamedTuple):
    """A span as a back end has it, and the name of the scope that made it."""

    span: Span
    scope: str
    instance: str = ""
    """`service.instance.id`: which run of which server it is of."""


@dataclass
class Collected:
    """Spans of ours in `capture`, LMCache's beside them, of others their number."""

    capture: Capture
    roots: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Start and end of each trace's requests."""
    services: set[str] = field(default_factory=set)
    """`service.name` of the servers of these requests."""
    instance: str | None = None
    """The server that is asked for; None for whichever there is."""
    instances: set[str] = field(default_factory=set)
    """Servers of these requests."""
    since_ns: int | None = None
    """Requests that began before were not asked for: there were too many."""
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

    def take(self, spans: Iterable[Found]) -> None:
        """Keep what is ours and new."""
        for span, scope, instance in spans:
            if scope == semconv.SCOPE_NAME and self.instance not in (None, instance):
                continue
            # Searches overlap.
            if (known := span.trace_id << 64 | span.span_id) in self._seen:
                continue
            self._seen.add(known)
            if scope == semconv.SCOPE_NAME:
                self._keep(span, instance)
            elif is_lmcache(span):
                self.lmcache.append(span)
            else:
                self.foreign[span.service or "(no service.name)"] += 1

    def _keep(self, span: Span, instance: str) -> None:
        _check(span)
        self._writer.add((span,), {})
        self.spans += 1
        if span.kind == "server" or span.name == semconv.ENGINE_REQUEST.name:
            start, end = self.roots.get(span.trace_id, (span.start_ns, span.end_ns))
            self.roots[span.trace_id] = min(start, span.start_ns), max(end, span.end_ns)
            self.instances.add(instance)
            self.services.add(span.service.removesuffix(Service.ENGINE))
        elif span.name == semconv.STEP.name:
            self.of_steps += 1

    def keep_newest(self, limit: int) -> bool:
        """Mean the newest `limit` requests alone; False where there are no more."""
        if len(self.roots) <= limit:
            return False
        self.since_ns = sorted(start for start, _ in self.roots.values())[-limit]
        return True

    def window(self) -> tuple[int, int]:
        """From the first to the end of the last request that is meant."""
        meant = [at for at in self.roots.values() if at[0] >= (self.since_ns or 0)]
        return min(start for start, _ in meant), max(end for _, end in meant)

    def note(self, line: str) -> None:
        """Say it once."""
        if line not in self.notes:
            self.notes.append(line)

    def close(self) -> None:
        """All that was taken can be read."""
        self._writer.close()


_LENGTHS = frozenset(
    each.key
    for value in vars(semconv).values()
    for each in (value if isinstance(value, tuple) else (value,))
    if isinstance(each, semconv.Attribute) and each.type == "int" and each.unit == "ns"
)


_SMALL = {semconv.ENGINE_PID.key, semconv.RANK.key}


def _check(span: Span) -> None:
    """Raise `CodesignError` where a span of ours has times that no run can have had: what is made
    of them adds and subtracts them."""
    wrong = "ends before it begins" if span.end_ns < span.start_ns else ""
    for key in _SMALL & span.attributes.keys():
        value = span.attributes[key]
        if isinstance(value, int) and not 0 <= value < 1 << 31:
            wrong = f"says {key} = {shown(value)}, which is none"
    for key in _LENGTHS & span.attributes.keys():
        value = span.attributes[key]
        if isinstance(value, int) and not -LENGTHS < value < LENGTHS:
            wrong = f"says {key} = {shown(value)}, which is no length of time"
    if wrong:
        raise CodesignError(
            f"span {span.span_id:016x} of trace {span.trace_id:032x} {wrong}: it is damaged, or "
            "not of vllm-codesign; leave it out with --since, --until or --trace"
        )


def is_lmcache(span: Span) -> bool:
    """Whether LMCache's server made this span for a request of vLLM."""
    named = span.name == LMCACHE_ROOT or span.name.startswith("mp.")
    return named and bool(span.attributes.get(LMCACHE_ID))


def collected_in(folder: Path) -> Collected:
    """An empty one whose spans will lie in `folder`."""
    capture = Capture(folder)
    capture.traces.mkdir(parents=True)
    capture.series.mkdir()
    return Collected(capture)
