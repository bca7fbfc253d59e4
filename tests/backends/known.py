"""A run with a known answer: requests of `tests.support.traces`, and steps that served them."""

from __future__ import annotations

from dataclasses import replace

from tests.accounting.cases import member, step
from tests.support import traces
from vllm_codesign import semconv as S
from vllm_codesign.accounting.step_trace import trace_of
from vllm_codesign.model.step import Member
from vllm_codesign.model.trace import RequestTrace, Span

COUNT = 40
STEPS = 60


def requests() -> list[RequestTrace]:
    """40 requests; each says what the host's clock was at its start."""
    return [
        replace(
            t, root=replace(t.root, attributes={**t.root.attributes, S.MONOTONIC.key: _mono(t)})
        )
        for t in traces.traces()
    ]


def _mono(trace: RequestTrace) -> int:
    return trace.root.start_ns - traces.EPOCH_NS


def steps(of: list[RequestTrace]) -> list[RequestTrace]:
    """One a trace, in the time of the requests."""
    made = []
    for number in range(STEPS):
        root = of[number % len(of)].root
        one = replace(
            step(number + 1, _mono(of[number % len(of)]) + number * traces.MS),
            members=(Member(root.trace_id, root.span_id, member().request_id, 1, "decode"),),
        )
        ids = iter(range(number * 100 + 10**9, number * 100 + 10**9 + 99))
        made.append(
            trace_of(one, "vllm", 0xBB << 120 | number + 1, ids.__next__, traces.EPOCH_NS.__add__)
        )
    return made


def lmcache(of: list[RequestTrace]) -> list[RequestTrace]:
    """LMCache's two spans for each engine request, each pair a trace of its own."""
    made = []
    for number, trace in enumerate(of):
        request_id = trace.named(S.PREFILL.name)[0].attributes[S.REQUEST_ID.key]
        start = trace.root.start_ns + 2 * traces.MS

        def span(name: str, ms: int, which: int) -> Span:
            return Span(
                name=name,
                service="unknown_service:python",
                trace_id=0xCC << 120 | number + 1,  # noqa: B023 (called at once)
                span_id=0xCC << 48 | number << 8 | which,  # noqa: B023
                parent_id=0 if which == 1 else 0xCC << 48 | number << 8 | 1,  # noqa: B023
                start_ns=start,  # noqa: B023
                end_ns=start + ms * traces.MS,  # noqa: B023
                attributes={"session_id": request_id},  # noqa: B023
            )

        made.append(RequestTrace(span("request", 8, 1), (span("mp.lookup_prefetch", 3, 2),)))
    return made
