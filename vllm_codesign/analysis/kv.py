"""KV caches: what connectors moved, whose blocks were evicted by whom, what that cost.

Rows of transfers are vLLM's own connectors alone: what one of them has another do is the same
transfer once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vllm_codesign import semconv as S
from vllm_codesign.analysis import server
from vllm_codesign.analysis.intervals import covered_ns
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

NO_SESSION = "(no session)"
_MOST = 10


@dataclass(frozen=True, slots=True)
class Transfer:
    """All loads, or all stores, of one connector."""

    what: str
    connector: str
    tier: str
    requests: int
    tokens: int
    bytes: int
    mean_ms: float | None
    """From the order to its known end, be it after the response; None where none is known. How
    late it may be known is on each span."""
    queued_ms: float | None
    """Of the mean: the request was in the scheduler's waiting queue; the rest of an asynchronous
    load or store is beside its computing, that of another one a worker's call."""
    recomputed: int
    """Tokens that failed loads did not bring."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """One session's allocations took another's cached blocks."""

    by: str
    of: str
    blocks: int
    times: int
    idle_s: float | None
    """Mean time since their owners were freed, over the blocks; None where all still ran."""


@dataclass(frozen=True, slots=True)
class SessionCache:
    """What the caches did for the requests of one session."""

    session: str
    requests: int
    prompt_tokens: int
    hit_hbm: int
    hit_external: int
    computed_again: int
    """Prompt tokens computed although they had been cached once."""
    held_byte_s: float
    """Bytes of blocks found again, times how long they had lain there for nobody."""


@dataclass(frozen=True, slots=True)
class KV:
    """Of a whole capture; sessions and evictions are the largest ten."""

    transfers: tuple[Transfer, ...]
    evictions: tuple[Eviction, ...]
    sessions: tuple[SessionCache, ...]
    computed_again: int
    evicted_blocks: int


@dataclass(slots=True)
class _Moved:
    tier: str = ""
    requests: int = 0
    tokens: int = 0
    bytes: int = 0
    ended: int = 0
    ns: int = 0
    queued_ns: int = 0
    recomputed: int = 0


@dataclass(slots=True)
class _Taken:
    blocks: int = 0
    times: int = 0
    idle_blocks: int = 0
    idle_ns: int = 0


@dataclass(slots=True)
class Gathered:
    """Taken trace by trace."""

    _moved: dict[tuple[str, str], _Moved] = field(default_factory=dict)
    _taken: dict[tuple[str, str], _Taken] = field(default_factory=dict)
    _sessions: dict[str, Counter[str]] = field(default_factory=dict)

    def watch(self, traces: Iterable[RequestTrace]) -> Iterator[RequestTrace]:
        """The same traces, each of them taken on its way."""
        for trace in traces:
            self.take(trace)
            yield trace

    def take(self, trace: RequestTrace) -> None:
        """Add one request."""
        session = str(trace.root.attributes.get(S.SESSION_ID.key) or NO_SESSION)
        for span in trace.children:
            if span.name in (S.KV_LOAD.name, S.KV_STORE.name):
                self._transfer(span, trace)
            elif span.name == S.PREFILL.name:
                self._prefill(session, span)
            for event in span.events:
                if event.name == S.EVENT_EVICTED:
                    self._evicted(session, event.attributes)

    def _transfer(self, span: Span, trace: RequestTrace) -> None:
        connector = str(span.attributes.get(S.KV_CONNECTOR.key, ""))
        duration = span.attributes.get(S.KV_DURATION.key)
        first = S.KV_TOKENS.key in span.attributes
        rest = server.outlived(trace)
        if "/" in connector or not (first or rest):
            return
        moved = self._moved.setdefault((span.name, connector), _Moved())
        moved.tier = str(span.attributes.get(S.KV_TIER.key, ""))
        moved.requests += first
        moved.tokens += _int(span.attributes.get(S.KV_TOKENS.key))
        moved.bytes += _int(span.attributes.get(S.KV_BYTES.key))
        moved.recomputed += _int(span.attributes.get(S.KV_TOKENS_RECOMPUTED.key))
        if not isinstance(duration, int):
            return
        moved.ended += 1
        moved.ns += duration
        engine_request = span.attributes.get(S.REQUEST_ID.key)
        waiting = (
            (queue.start_ns, queue.end_ns)
            for queue in trace.named(S.ENGINE_QUEUE.name)
            if queue.attributes.get(S.REQUEST_ID.key) == engine_request
        )
        moved.queued_ns += covered_ns(waiting, (span.start_ns, span.end_ns))

    def _prefill(self, session: str, span: Span) -> None:
        counts = self._sessions.setdefault(session, Counter())
        of = span.attributes
        hbm, external = (
            _int(of.get(each.key)) for each in (S.KV_TOKENS_HIT_HBM, S.KV_TOKENS_HIT_EXTERNAL)
        )
        counts["requests"] += 1
        counts["prompt"] += _int(of.get(S.PREFILL_COMPUTED.key)) + hbm + external
        counts["hbm"] += hbm
        counts["external"] += external
        counts["again"] += _int(of.get(S.KV_TOKENS_AGAIN.key))
        held = _int(of.get(S.KV_REUSED_BYTES.key)) * _int(of.get(S.KV_REUSED_IDLE.key))
        counts["held"] += held // 1_000_000_000

    def _evicted(self, session: str, of: Mapping[str, AttributeValue]) -> None:
        victim = str(of.get(S.EVICTED_SESSION.key) or NO_SESSION)
        taken = self._taken.setdefault((session, victim), _Taken())
        blocks = _int(of.get(S.EVICTED_BLOCKS.key))
        taken.blocks += blocks
        taken.times += 1
        if S.EVICTED_IDLE.key in of:
            taken.idle_blocks += blocks
            taken.idle_ns += blocks * _int(of.get(S.EVICTED_IDLE.key))

    def summary(self) -> KV:
        """Everything, largest first."""
        evictions = sorted(
            (
                Eviction(
                    by,
                    of,
                    t.blocks,
                    t.times,
                    t.idle_ns / t.idle_blocks / 1e9 if t.idle_blocks else None,
                )
                for (by, of), t in self._taken.items()
            ),
            key=lambda e: (-e.blocks, e.by, e.of),
        )
        sessions = sorted(
            (
                SessionCache(
                    name,
                    c["requests"],
                    c["prompt"],
                    c["hbm"],
                    c["external"],
                    c["again"],
                    float(c["held"]),
                )
                for name, c in self._sessions.items()
            ),
            key=lambda s: (-s.computed_again, -s.prompt_tokens, s.session),
        )
        return KV(
            tuple(
                Transfer(
                    what,
                    connector,
                    m.tier,
                    m.requests,
                    m.tokens,
                    m.bytes,
                    m.ns / m.ended / 1e6 if m.ended else None,
                    m.queued_ns / m.ended / 1e6 if m.ended else None,
                    m.recomputed,
                )
                for (what, connector), m in sorted(self._moved.items())
                if m.requests
            ),
            tuple(evictions[:_MOST]),
            tuple(sessions[:_MOST]),
            sum(s.computed_again for s in sessions),
            sum(e.blocks for e in evictions),
        )


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
