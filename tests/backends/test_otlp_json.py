"""OTLP JSON is read as each writer bends it: ids, kinds, integers, arrays, what it adds."""

from __future__ import annotations

import json

import pytest

from tests.backends.otlp import document
from tests.backends.recorded import UNICODE, WHOLE, answer
from tests.support import traces
from vllm_codesign.backends import jaeger_legacy, otlp_json
from vllm_codesign.backends.collected import Found
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import Span, SpanEvent, SpanLink

JAEGER_NS, TEMPO_NS = 1_795_436_231_000_000_000, 1_795_436_887_000_000_000
LONG = 2_048


def by_name(found: list[Found]) -> dict[str, Span]:
    return {each.span.name: each.span for each in found}


def test_what_opentelemetry_encodes_comes_back_as_it_was() -> None:
    sent = traces.completed(7 << 120, traces.EPOCH_NS, 12.5, choices=2)
    found = list(otlp_json.spans_of(json.loads(json.dumps(document([sent]))), "here"))
    assert {each.scope for each in found} == {"vllm_codesign"}
    assert sorted((f.span for f in found), key=lambda s: s.span_id) == sorted(
        sent.spans, key=lambda s: s.span_id
    )


@pytest.mark.parametrize(
    ("name", "wrapper", "start"),
    [("jaeger_v3_trace", "result", JAEGER_NS), ("tempo_v2_trace", "trace", TEMPO_NS)],
)
def test_recorded_trace(name: str, wrapper: str, start: int) -> None:
    found = list(otlp_json.spans_of(answer(name)[wrapper], name))
    assert len(found) == 12
    assert {(each.scope, each.span.trace_id) for each in found} == {("vllm_codesign", WHOLE)}
    spans = by_name(found)
    root = spans["POST /v1/chat/completions"]
    assert (root.kind, root.service) == ("server", "vllm")
    assert (root.span_id, root.parent_id) == (0x5EED000000000001, 0x1122334455667788)
    assert (root.start_ns, root.duration_ns) == (start, 812_500_000)
    assert root.attributes["gen_ai.usage.input_tokens"] == 5010
    assert not any(key.startswith("@") for key in root.attributes)
    prefill, decode = spans["prefill"], spans["decode"]
    assert (prefill.kind, prefill.parent_id) == ("internal", root.span_id)
    assert prefill.attributes["codesign.step.ids"] == (77, 78, 79)
    assert prefill.links == (SpanLink(0xC0DE << 112 | 1, 0x5EED00000000000A),)
    assert (prefill.start_ns - start, prefill.end_ns - start) == (120_125_000, 180_000_000)
    assert decode.attributes["codesign.decode.itl_ms"] == (20.0, 19.5, 40.25)
    assert all(isinstance(ms, float) for ms in decode.attributes["codesign.decode.itl_ms"])
    assert decode.events == (
        SpanEvent("preempted", start + 400_000_000, {"codesign.tokens_lost": 5030}),
    )


@pytest.mark.parametrize(
    ("name", "wrapper", "length"),
    [("jaeger_v3_trace_unicode", "result", 3_000), ("tempo_v2_trace_unicode", "trace", LONG)],
)
def test_recorded_values_of_every_kind(name: str, wrapper: str, length: int) -> None:
    (root, *_) = (f.span for f in otlp_json.spans_of(answer(name)[wrapper], name))
    assert root.trace_id == UNICODE
    assert root.attributes["codesign.big"] == 2**53 + 1
    assert root.attributes["codesign.float"] == 0.1
    assert root.attributes["session.id"] == 'sé-世-"quoted"'
    assert root.attributes["codesign.long"] == "x" * length


def test_recorded_search_has_three_requests() -> None:
    found = list(otlp_json.spans_of(answer("jaeger_v3_search")["result"], "search"))
    servers = [each.span for each in found if each.span.kind == "server"]
    assert {span.attributes["codesign.outcome"] for span in servers} == {"completed", "rejected"}
    assert len({span.trace_id for span in servers}) == len(servers) == 3


def test_the_old_api_is_exact_to_the_microsecond() -> None:
    found = list(jaeger_legacy.spans_of(answer("jaeger_legacy_trace"), "legacy"))
    exact = by_name(list(otlp_json.spans_of(answer("jaeger_v3_trace")["result"], "v3")))
    assert by_name(found).keys() == exact.keys()
    for scope, span in ((each.scope, each.span) for each in found):
        same = exact[span.name]
        assert scope == "vllm_codesign"
        assert (span.kind, span.service, span.span_id) == (same.kind, same.service, same.span_id)
        assert span.start_ns == same.start_ns // 1_000 * 1_000
        assert abs(span.end_ns - same.end_ns) < 1_000
        assert span.links == same.links
        assert span.events == same.events
        assert span.status == same.status
        assert set(span.attributes) == set(same.attributes)
    # Its arrays are JSON text; `semconv` types them when they are read from the capture.
    assert by_name(found)["prefill"].attributes["codesign.step.ids"] == "[77,78,79]"


def test_names_and_base64_of_protobufs_own_json() -> None:
    span = {
        "traceId": "q83vASNFZ4mrze8BI0VniQ==",
        "spanId": "Xu0AAAAAAAE=",
        "name": "x",
        "kind": "SPAN_KIND_SERVER",
        "startTimeUnixNano": 5,
        "endTimeUnixNano": "7",
        "status": {"code": "STATUS_CODE_ERROR", "message": "no"},
        "attributes": [
            {"key": "a", "value": {"boolValue": False}},
            {"key": "b", "value": {"arrayValue": {}}},
            {"key": "c", "value": {"doubleValue": "NaN"}},
            {"key": "d", "value": {"kvlistValue": {"values": []}}},
            {"key": "e", "value": {}},
        ],
    }
    ((found, scope, _),) = otlp_json.spans_of(
        {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}, "here"
    )
    assert (found.trace_id, found.span_id, found.parent_id) == (WHOLE, 0x5EED000000000001, 0)
    assert (found.kind, found.status, found.status_message) == ("server", "error", "no")
    assert (found.start_ns, found.end_ns, found.service, scope) == (5, 7, "", "")
    of = found.attributes
    assert (of["a"], of["b"], of["d"], of["e"]) == (False, (), '{"values": []}', "")
    assert of["c"] != of["c"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"traceId": "zz"}, "no OTLP JSON of traces"),
        ({"startTimeUnixNano": "soon"}, "'soon' is no time"),
        ({"spanId": None}, "no OTLP JSON of traces"),
        ({"attributes": [{"value": {}}]}, "lacks 'key'"),
        ({"events": 5}, "not iterable"),
    ],
)
def test_what_is_no_span_is_one_line(change: dict[str, object], cause: str) -> None:
    good = document([traces.ended(1, traces.EPOCH_NS, "failed")])
    good["resourceSpans"][0]["scopeSpans"][0]["spans"][0].update(change)
    with pytest.raises(CodesignError, match=f"^the answer .*{cause}") as error:
        list(otlp_json.spans_of(good, "the answer"))
    assert "\n" not in str(error.value)
