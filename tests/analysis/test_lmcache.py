"""LMCache's spans find the request they were made for."""

from __future__ import annotations

from tests.backends import known
from vllm_codesign import semconv as S
from vllm_codesign.analysis.lmcache import Gathered, LMCache
from vllm_codesign.model.trace import RequestTrace, Span, SpanLink


def joined(spans: list[RequestTrace], traces: list[RequestTrace]) -> LMCache | None:
    gathered = Gathered(tuple(span for trace in spans for span in trace.spans))
    assert list(gathered.watch(traces)) == traces
    return gathered.summary()


def test_nothing_without_a_span_of_lmcaches() -> None:
    assert joined([], known.requests()) is None


def test_means_by_kind_and_each_span_with_its_request() -> None:
    requests = known.requests()
    found = joined(known.lmcache(requests[:3]), requests)
    assert found is not None
    assert [(k.name, k.spans, k.requests, k.mean_ms, k.max_ms) for k in found.kinds] == [
        ("mp.lookup_prefetch", 3, 3, 3.0, 3.0),
        ("request", 3, 3, 8.0, 8.0),
    ]
    assert [(of.trace_id, of.name) for of in found.of] == [
        (f"{request.trace_id:032x}", name)
        for request in requests[:3]
        for name in ("request", "mp.lookup_prefetch")
    ]
    assert found.unjoined == 0


def test_too_many_are_told_as_means_alone() -> None:
    requests = known.requests()
    found = joined(known.lmcache(requests), requests)
    assert found is not None
    assert (found.of, found.kinds[0].spans) == ((), known.COUNT)


def test_a_store_that_outlived_the_response_is_not_the_request() -> None:
    request = known.requests()[0]
    request_id = request.named(S.PREFILL.name)[0].attributes[S.REQUEST_ID.key]
    link = SpanLink(request.trace_id, request.root.span_id)
    after = Span(
        *(
            S.ENGINE_REQUEST.name,
            "vllm-engine",
            1,
            2,
            0,
            request.root.start_ns,
            request.root.end_ns,
        ),
        attributes={S.REQUEST_ID.key: request_id},
        links=(link,),
    )
    outlived = RequestTrace(after, ())
    for order in ([outlived, request], [request, outlived]):
        found = joined(known.lmcache([request]), order)
        assert found is not None
        assert {of.trace_id for of in found.of} == {f"{request.trace_id:032x}"}


def test_spans_of_requests_that_are_not_here_are_counted() -> None:
    requests = known.requests()
    (lost,) = known.lmcache(requests[:1])
    found = joined([lost], requests[1:])
    assert found == LMCache((), (), 2)
