"""Spans as rows of the OpenTelemetry Collector's ClickHouse table `otel_traces`, and back.

Column names, order and value formats are those of the Collector's ClickHouse exporter, so
that a segment loads into that table as it is: attributes are maps of strings, arrays in
them JSON text, ids lower-case hex, and a missing parent is the empty string.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa

from vllm_codesign import __version__, semconv
from vllm_codesign.model.trace import AttributeValue, Span, SpanEvent, SpanLink

_ATTRIBUTES = pa.map_(pa.string(), pa.string())
# Without a time zone: DuckDB reads a zoned column as microseconds and would lose the rest.
# The numbers are UTC, as everywhere in OpenTelemetry.
_TIME = pa.timestamp("ns")

TRACES = pa.schema(
    [
        ("Timestamp", _TIME),
        ("TraceId", pa.string()),
        ("SpanId", pa.string()),
        ("ParentSpanId", pa.string()),
        ("TraceState", pa.string()),
        ("SpanName", pa.string()),
        ("SpanKind", pa.string()),
        ("ServiceName", pa.string()),
        ("ResourceAttributes", _ATTRIBUTES),
        ("ScopeName", pa.string()),
        ("ScopeVersion", pa.string()),
        ("SpanAttributes", _ATTRIBUTES),
        ("Duration", pa.uint64()),
        ("StatusCode", pa.string()),
        ("StatusMessage", pa.string()),
        ("Events.Timestamp", pa.list_(_TIME)),
        ("Events.Name", pa.list_(pa.string())),
        ("Events.Attributes", pa.list_(_ATTRIBUTES)),
        ("Links.TraceId", pa.list_(pa.string())),
        ("Links.SpanId", pa.list_(pa.string())),
        ("Links.TraceState", pa.list_(pa.string())),
        ("Links.Attributes", pa.list_(_ATTRIBUTES)),
    ]
)
"""Columns of `traces/*.parquet`: the Collector's `otel_traces`. `Duration` is nanoseconds."""

SERIES = pa.schema(
    [
        ("time_ns", _TIME),
        ("name", pa.string()),
        ("unit", pa.string()),
        ("value", pa.float64()),
        ("attributes", _ATTRIBUTES),
    ]
)
"""Columns of `series/*.parquet`: one sample a row."""

Pairs = list[tuple[str, str]]

_KIND = {"server": "Server", "internal": "Internal"}
_STATUS = {"unset": "Unset", "ok": "Ok", "error": "Error"}
_KIND_BACK = {text: kind for kind, text in _KIND.items()}
_STATUS_BACK = {text: status for status, text in _STATUS.items()}


def _declared_types() -> dict[str, str]:
    types: dict[str, str] = {}
    for value in vars(semconv).values():
        group = value if isinstance(value, tuple) else (value,)
        types.update({a.key: a.type for a in group if isinstance(a, semconv.Attribute)})
    return types


_TYPES = _declared_types()


def encode_value(value: AttributeValue) -> str:
    """`value` as the Collector writes it into a map of strings."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple):
        return "[" + ",".join(_encode_json(item) for item in value) + "]"
    return _encode_json(value)


def _text(value: str) -> str:
    # A header may hold bytes that are no UTF-8; one of them must not cost a whole segment.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _encode_json(value: str | bool | int | float) -> str:
    if isinstance(value, str):
        text = json.dumps(_text(value), ensure_ascii=False)
        # Go's encoder, which the Collector uses, escapes these three as well.
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        # Go prints whole doubles without a fraction; beyond 2**53 Python's text is kept.
        return str(int(value)) if abs(value) < 2**53 else repr(value)
    return repr(value)


def decode_value(key: str, text: str) -> AttributeValue:
    """The value behind `text`, typed as `semconv` declares `key`.

    A key that is not declared stays a string, and so does text that does not fit its type:
    a capture may come from another version.
    """
    convert = _CONVERT.get(_TYPES.get(key, "string"))
    if convert is None:
        return text
    try:
        return convert(text)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return text


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _array(item: Callable[[Any], Any]) -> Callable[[str], AttributeValue]:
    def convert(text: str) -> AttributeValue:
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError(text)
        return tuple(item(value) for value in values)

    return convert


_CONVERT: dict[str, Callable[[str], AttributeValue]] = {
    "int": int,
    "double": float,
    "boolean": _boolean,
    "string[]": _array(str),
    "int[]": _array(int),
    "double[]": _array(float),
}


def _pairs(attributes: Mapping[str, AttributeValue]) -> Pairs:
    return [(key, encode_value(value)) for key, value in attributes.items()]


def traces_table(spans: Sequence[tuple[Span, Mapping[str, AttributeValue]]]) -> pa.Table:
    """Spans with the attributes of their resource as a table of schema `TRACES`.

    `service.name` in the resource is that of each span.
    """
    resources: dict[tuple[int, str], Pairs] = {}

    def resource_pairs(resource: Mapping[str, AttributeValue], service: str) -> Pairs:
        key = (id(resource), service)
        if key not in resources:
            resources[key] = _pairs({**resource, "service.name": service})
        return resources[key]

    columns: dict[str, list[Any]] = {
        "Timestamp": [s.start_ns for s, _ in spans],
        "TraceId": [f"{s.trace_id:032x}" for s, _ in spans],
        "SpanId": [f"{s.span_id:016x}" for s, _ in spans],
        "ParentSpanId": [f"{s.parent_id:016x}" if s.parent_id else "" for s, _ in spans],
        "TraceState": [_text(s.trace_state) for s, _ in spans],
        "SpanName": [_text(s.name) for s, _ in spans],
        "SpanKind": [_KIND[s.kind] for s, _ in spans],
        "ServiceName": [s.service for s, _ in spans],
        "ResourceAttributes": [resource_pairs(r, s.service) for s, r in spans],
        "ScopeName": [semconv.SCOPE_NAME] * len(spans),
        "ScopeVersion": [__version__] * len(spans),
        "SpanAttributes": [_pairs(s.attributes) for s, _ in spans],
        # Unsigned in the table; a negative one would be refused with all its neighbours.
        "Duration": [max(0, s.duration_ns) for s, _ in spans],
        "StatusCode": [_STATUS[s.status] for s, _ in spans],
        "StatusMessage": [_text(s.status_message) for s, _ in spans],
        "Events.Timestamp": [[e.time_ns for e in s.events] for s, _ in spans],
        "Events.Name": [[e.name for e in s.events] for s, _ in spans],
        "Events.Attributes": [[_pairs(e.attributes) for e in s.events] for s, _ in spans],
        "Links.TraceId": [[f"{x.trace_id:032x}" for x in s.links] for s, _ in spans],
        "Links.SpanId": [[f"{x.span_id:016x}" for x in s.links] for s, _ in spans],
        "Links.TraceState": [["" for _ in s.links] for s, _ in spans],
        "Links.Attributes": [[_pairs(x.attributes) for x in s.links] for s, _ in spans],
    }
    return pa.table(columns, schema=TRACES)


def series_table(
    samples: Sequence[tuple[int, str, str, float, Mapping[str, AttributeValue]]],
) -> pa.Table:
    """Samples (time in Unix ns, name, unit, value, attributes) as a table of schema `SERIES`."""
    return pa.table(
        {
            "time_ns": [s[0] for s in samples],
            "name": [s[1] for s in samples],
            "unit": [s[2] for s in samples],
            "value": [float(s[3]) for s in samples],
            "attributes": [_pairs(s[4]) for s in samples],
        },
        schema=SERIES,
    )


def _decode_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, AttributeValue]:
    return {key: decode_value(key, text) for key, text in pairs}


def spans_of(batch: pa.RecordBatch | pa.Table) -> Iterator[Span]:
    """The spans in rows of schema `TRACES`, whoever wrote them."""
    columns: dict[str, list[Any]] = {}
    for name in TRACES.names:
        column = batch.column(name)
        # Python's datetime has no nanoseconds: read times as the integers they are.
        if name == "Timestamp":
            column = column.cast(pa.int64())
        elif name == "Events.Timestamp":
            column = column.cast(pa.list_(pa.int64()))
        columns[name] = column.to_pylist()
    for index in range(batch.num_rows):
        row = {name: values[index] for name, values in columns.items()}
        yield _span_of(row)


def _span_of(row: Mapping[str, Any]) -> Span:
    start_ns = row["Timestamp"]
    span = Span(
        name=row["SpanName"],
        service=row["ServiceName"],
        trace_id=int(row["TraceId"], 16),
        span_id=int(row["SpanId"], 16),
        parent_id=int(row["ParentSpanId"] or "0", 16),
        start_ns=start_ns,
        end_ns=start_ns + row["Duration"],
        kind=cast(Any, _KIND_BACK.get(row["SpanKind"], "internal")),
        attributes=_decode_pairs(row["SpanAttributes"]),
        status=cast(Any, _STATUS_BACK.get(row["StatusCode"], "unset")),
        status_message=row["StatusMessage"],
        trace_state=row["TraceState"],
    )
    if not row["Events.Name"] and not row["Links.TraceId"]:
        return span
    return replace(span, events=_events_of(row), links=_links_of(row))


def _events_of(row: Mapping[str, Any]) -> tuple[SpanEvent, ...]:
    columns = (row["Events.Name"], row["Events.Timestamp"], row["Events.Attributes"])
    return tuple(
        SpanEvent(name, time_ns, _decode_pairs(attributes))
        for name, time_ns, attributes in zip(*columns, strict=True)
    )


def _links_of(row: Mapping[str, Any]) -> tuple[SpanLink, ...]:
    columns = (row["Links.TraceId"], row["Links.SpanId"], row["Links.Attributes"])
    return tuple(
        SpanLink(int(trace_id, 16), int(span_id, 16), _decode_pairs(attributes))
        for trace_id, span_id, attributes in zip(*columns, strict=True)
    )
