"""Spans keep their values and types on the way into the table and back."""

import pyarrow as pa
import pytest

from tests.support import traces
from vllm_codesign import semconv
from vllm_codesign.model.trace import Span, SpanEvent, SpanLink
from vllm_codesign.store import schema

# Columns, order and types of the Collector's ClickHouse table, as ClickHouse names them.
OTEL_TRACES = {
    "Timestamp": "DateTime64(9)",
    "TraceId": "String",
    "SpanId": "String",
    "ParentSpanId": "String",
    "TraceState": "String",
    "SpanName": "String",
    "SpanKind": "String",
    "ServiceName": "String",
    "ResourceAttributes": "Map(String, String)",
    "ScopeName": "String",
    "ScopeVersion": "String",
    "SpanAttributes": "Map(String, String)",
    "Duration": "UInt64",
    "StatusCode": "String",
    "StatusMessage": "String",
    "Events.Timestamp": "Array(DateTime64(9))",
    "Events.Name": "Array(String)",
    "Events.Attributes": "Array(Map(String, String))",
    "Links.TraceId": "Array(String)",
    "Links.SpanId": "Array(String)",
    "Links.TraceState": "Array(String)",
    "Links.Attributes": "Array(Map(String, String))",
}


def as_clickhouse(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"Array({as_clickhouse(kind.value_type)})"
    if pa.types.is_map(kind):
        return f"Map({as_clickhouse(kind.key_type)}, {as_clickhouse(kind.item_type)})"
    return {"timestamp[ns]": "DateTime64(9)", "string": "String", "uint64": "UInt64"}[str(kind)]


def span(**changes: object) -> Span:
    given = {
        "name": "prefill",
        "service": "vllm-engine",
        "trace_id": 0x0ABC,
        "span_id": 0x0F,
        "parent_id": 0,
        "start_ns": traces.EPOCH_NS,
        "end_ns": traces.EPOCH_NS + 7,
    }
    return Span(**{**given, **changes})


def round_trip(one: Span) -> Span:
    (back,) = schema.spans_of(schema.traces_table([(one, traces.RESOURCE)]))
    return back


def test_columns_are_those_of_the_collector() -> None:
    found = {field.name: as_clickhouse(field.type) for field in schema.TRACES}
    assert list(found.items()) == list(OTEL_TRACES.items())


def test_values_are_formatted_as_the_collector_does() -> None:
    one = span(
        kind="server",
        parent_id=0xBEEF,
        status="error",
        attributes={
            semconv.STREAMING.key: True,
            semconv.TOKENS.key: 12,
            semconv.DECODE_BATCH_MEAN.key: 4.0,
            semconv.REQUEST_TEMPERATURE.key: 0.7,
            semconv.DECODE_ITL.key: (5_000, 4_900),
            semconv.RESPONSE_FINISH_REASONS.key: ("stop", "a<b"),
        },
    )
    table = schema.traces_table([(one, {"service.instance.id": "i"}), (span(), {})])
    assert table["TraceId"].to_pylist()[0] == "0" * 29 + "abc"
    assert table["SpanId"].to_pylist()[0] == "000000000000000f"
    assert table["ParentSpanId"].to_pylist() == ["000000000000beef", ""]
    assert table["SpanKind"].to_pylist() == ["Server", "Internal"]
    assert table["StatusCode"].to_pylist() == ["Error", "Unset"]
    assert table["Duration"].to_pylist() == [7, 7]
    assert table["ResourceAttributes"].to_pylist()[0] == [
        ("service.instance.id", "i"),
        ("service.name", "vllm-engine"),
    ]
    assert dict(table["SpanAttributes"].to_pylist()[0]) == {
        "codesign.streaming": "true",
        "codesign.tokens": "12",
        "codesign.decode.batch.mean": "4",
        "gen_ai.request.temperature": "0.7",
        "codesign.decode.itl_us": "[5000,4900]",
        "gen_ai.response.finish_reasons": '["stop","a\\u003cb"]',
    }


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (semconv.REQUEST_MODEL, "tiny"),
        (semconv.REQUEST_MODEL, '模型 – « é » 🚀 "quoted" \n line'),
        (semconv.REQUEST_MODEL, ""),
        (semconv.REQUEST_MODEL, "12"),
        (semconv.STREAMING, True),
        (semconv.STREAMING, False),
        (semconv.TOKENS, 2**62),
        (semconv.TOKENS, -1),
        (semconv.REQUEST_TOP_P, 1.0),
        (semconv.REQUEST_TOP_P, 0.1 + 0.2),
        (semconv.REQUEST_TOP_P, 1e300),
        (semconv.REQUEST_TOP_P, float("inf")),
        (semconv.RESPONSE_FINISH_REASONS, ()),
        (semconv.RESPONSE_FINISH_REASONS, ("stop", 'ärger, "x" <&>', "")),
        (semconv.DECODE_ITL, ()),
        (semconv.DECODE_ITL, (1, 2, 3)),
    ],
)
def test_attribute_comes_back_with_value_and_type(
    attribute: semconv.Attribute, value: object
) -> None:
    back = round_trip(span(attributes={attribute.key: value})).attributes[attribute.key]
    assert back == value
    assert type(back) is type(value)


def test_events_links_and_state_come_back() -> None:
    one = span(
        attributes={},
        events=(
            SpanEvent(semconv.EVENT_PREEMPTED, traces.EPOCH_NS + 3, {"codesign.tokens.lost": 16}),
            SpanEvent("other", traces.EPOCH_NS + 4),
        ),
        links=(SpanLink(2**127, 2**63, {semconv.LINK_REASON.key: "background"}),),
        trace_state="a=1",
        status="error",
        status_message="zu lang – too long",
    )
    assert round_trip(one) == one


def test_every_span_of_the_synthetic_traces_comes_back() -> None:
    spans = [s for trace in traces.traces() for s in trace.spans]
    table = schema.traces_table([(s, traces.RESOURCE) for s in spans])
    assert list(schema.spans_of(table)) == spans


def test_what_does_not_fit_its_type_stays_text() -> None:
    assert schema.decode_value(semconv.TOKENS.key, "many") == "many"
    assert schema.decode_value(semconv.STREAMING.key, "yes") == "yes"
    assert schema.decode_value(semconv.DECODE_ITL.key, '{"a":1}') == '{"a":1}'
    assert schema.decode_value("some.other", "12") == "12"


def test_a_value_that_is_no_text_does_not_cost_the_segment() -> None:
    back = round_trip(span(attributes={semconv.SESSION_ID.key: "a\udcff"}))
    assert back.attributes[semconv.SESSION_ID.key] == "a?"


def test_a_negative_duration_does_not_cost_the_segment() -> None:
    assert round_trip(span(end_ns=traces.EPOCH_NS - 5)).duration_ns == 0
