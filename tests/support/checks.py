"""What must hold of any set of traces, whatever the topology."""

from __future__ import annotations

from collections import Counter
from statistics import quantiles

from tests.support.mixed_load import Sent
from tests.support.serving import Traces
from vllm_codesign import semconv as S
from vllm_codesign.model.trace import RequestTrace, Span

AGGREGATES = {kind.name for kind in S.SPANS if kind.aggregate}
ENGINE_SPANS = (S.ENGINE_DISPATCH, S.ENGINE_QUEUE, S.PREFILL, S.DECODE, S.ENGINE_RETURN)


NOTICED_WITHIN_NS = 500_000_000
"""A server short of CPU may hand over its last tokens before it looks at the socket."""


def check_endings(requests: list[Sent], traces: Traces) -> None:
    """One trace a request, with the right outcome, under the caller's span."""
    wrong = []
    for sent in requests:
        root = traces.one(sent.trace_id).root
        outcome = root.attributes[S.OUTCOME.key]
        if outcome not in _right_outcomes(root, sent):
            left_s = (sent.left_at_ns - root.start_ns) / 1e9 if sent.left_at_ns else None
            times = f"server {root.duration_ns / 1e9:.3f} s, client left after {left_s} s"
            wrong.append((sent.kind, sent.expected.value, outcome, times, dict(root.attributes)))
        assert f"{root.parent_id:016x}" == sent.parent_id
        assert root.kind == "server"
        assert root.name == f"POST {sent.path}"
        assert root.attributes[S.SESSION_ID.key] == f"session-{sent.kind}"
        if sent.status is not None and sent.expected is not S.Outcome.ABORTED:
            assert root.attributes[S.HTTP_STATUS.key] == sent.status
    assert not wrong, f"{len(wrong)} wrong outcomes: {wrong[:5]}"


def _right_outcomes(root: Span, sent: Sent) -> set[S.Outcome]:
    """What the client means to see; a response that was over before it hung up is completed.

    A client short of CPU hangs up later than it means to, by its own clock.
    """
    if sent.expected is not S.Outcome.ABORTED:
        return {sent.expected}
    if not sent.left_at_ns:
        return {S.Outcome.COMPLETED}
    if root.end_ns <= sent.left_at_ns + NOTICED_WITHIN_NS and _sent_whole(root, sent):
        return {S.Outcome.COMPLETED, S.Outcome.ABORTED}
    return {S.Outcome.ABORTED}


def _sent_whole(root: Span, sent: Sent) -> bool:
    return root.attributes.get(S.USAGE_OUTPUT_TOKENS.key) == sent.body["max_tokens"]


def check_nesting(traces: Traces) -> None:
    """Every span lies inside its parent, and every parent but the caller's exists."""
    for trace in traces.all:
        spans = {span.span_id: span for span in trace.spans}
        assert len(spans) == len(trace.spans), "span ids repeat"
        for span in trace.children:
            assert span.end_ns >= span.start_ns, (span.name, trace.root.attributes)
            parent = spans[span.parent_id]
            assert parent.start_ns <= span.start_ns, (span.name, parent.name, span, parent)
            assert span.end_ns <= parent.end_ns, (span.name, parent.name, span, parent)


def check_engine_spans(requests: list[Sent], traces: Traces) -> None:
    """One set of engine spans per engine request of every completed request."""
    for sent in requests:
        if sent.expected is not S.Outcome.COMPLETED:
            continue
        trace = traces.one(sent.trace_id)
        counts = Counter(span.name for span in trace.children)
        for kind in (*ENGINE_SPANS, S.KV_PREFIX_LOOKUP, S.KV_ALLOCATE):
            assert counts[kind.name] == sent.choices, (sent.kind, kind.name, counts)
        indexes = [s.attributes[S.REQUEST_INDEX.key] for s in trace.named(S.PREFILL.name)]
        assert sorted(indexes) == list(range(sent.choices))
        if sent.usage:
            prompt = sent.usage.get("prompt_tokens", sent.usage.get("input_tokens"))
            generated = sent.usage.get("completion_tokens", sent.usage.get("output_tokens"))
            assert trace.root.attributes[S.USAGE_INPUT_TOKENS.key] == prompt, sent.kind
            assert trace.root.attributes[S.USAGE_OUTPUT_TOKENS.key] == generated, sent.kind


def coverage(trace: RequestTrace) -> float:
    """Share of the root's duration under its direct children, aggregates left out."""
    root = trace.root
    intervals = sorted(
        (span.start_ns, span.end_ns)
        for span in trace.children
        if span.parent_id == root.span_id and span.name not in AGGREGATES
    )
    covered, reached = 0, root.start_ns
    for start, end in intervals:
        begin = max(start, reached)
        if end > begin:
            covered += end - begin
            reached = end
    return covered / root.duration_ns


def check_coverage(requests: list[Sent], traces: Traces) -> tuple[float, float]:
    """98 % at p50 and 95 % at p5 over completed requests; returns (p50, p5)."""
    shares = [
        coverage(traces.one(sent.trace_id))
        for sent in requests
        if sent.expected is S.Outcome.COMPLETED
    ]
    cuts = quantiles(shares, n=100, method="inclusive")
    p50, p5 = cuts[49], cuts[4]
    assert p50 >= 0.98, f"p50 {p50:.4f}, p5 {p5:.4f}, worst {min(shares):.4f}"
    assert p5 >= 0.95, f"p50 {p50:.4f}, p5 {p5:.4f}, worst {min(shares):.4f}"
    return p50, p5
