"""OTLP as JSON: what the Collector's file exporter writes, and what Jaeger and Tempo wrap.

Writers differ in what the format leaves open or they bend: ids are hex (OTLP's own rule) or
base64 (Tempo, protobuf's rule), `kind` and status codes are numbers or names, 64-bit integers
strings or numbers. All of it is read by shape, so nobody has to say who wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from vllm_codesign.backends.collected import Found
from vllm_codesign.backends.values import identifier, integer, real, text, unix_ns
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, Span, SpanEvent, SpanLink

_SERVER = (2, "SPAN_KIND_SERVER")
_STATUS: dict[object, Literal["ok", "error"]] = {
    1: "ok",
    "STATUS_CODE_OK": "ok",
    2: "error",
    "STATUS_CODE_ERROR": "error",
}
_ADDED = "@jaeger@"
"""Prefix of attributes that Jaeger adds when it is asked."""


def spans_of(document: Mapping[str, Any], where: str) -> Iterator[Found]:
    """The spans under `resourceSpans`; `where` names the answer or the file in an error.

    Raises `CodesignError` where something is not OTLP JSON.
    """
    try:
        for of_resource in document.get("resourceSpans") or ():
            resource = _attributes((of_resource.get("resource") or {}).get("attributes"))
            service = str(resource.get("service.name", ""))
            instance = str(resource.get("service.instance.id", ""))
            for of_scope in of_resource.get("scopeSpans") or ():
                scope = text((of_scope.get("scope") or {}).get("name"))
                for span in of_scope.get("spans") or ():
                    yield Found(_span(span, service), scope, instance)
    except WRONG as error:
        raise CodesignError(f"{where} is no OTLP JSON of traces: {cause(error)}") from error


WRONG = (AttributeError, KeyError, TypeError, ValueError, RecursionError)
"""What reading raises where an answer has another shape than it should."""


def cause(error: Exception) -> str:
    """Of one of these, on one line."""
    if isinstance(error, KeyError):
        return f"lacks {error}"
    if isinstance(error, RecursionError):
        return "it is too deep"
    return str(error) if isinstance(error, ValueError) else f"a part has another shape: {error}"


def _span(span: Mapping[str, Any], service: str) -> Span:
    status = span.get("status") or {}
    return Span(
        name=text(span.get("name")),
        service=service,
        trace_id=identifier(span["traceId"], 128),
        span_id=identifier(span["spanId"], 64),
        parent_id=identifier(span.get("parentSpanId") or "0" * 16, 64),
        start_ns=unix_ns(span["startTimeUnixNano"]),
        end_ns=unix_ns(span["endTimeUnixNano"]),
        kind="server" if span.get("kind") in _SERVER else "internal",
        attributes=_attributes(span.get("attributes")),
        events=tuple(
            SpanEvent(
                text(event.get("name")),
                unix_ns(event["timeUnixNano"]),
                _attributes(event.get("attributes")),
            )
            for event in span.get("events") or ()
        ),
        links=tuple(
            SpanLink(
                identifier(link["traceId"], 128),
                identifier(link["spanId"], 64),
                _attributes(link.get("attributes")),
            )
            for link in span.get("links") or ()
        ),
        status=_STATUS.get(status.get("code"), "unset"),
        status_message=text(status.get("message")),
        trace_state=text(span.get("traceState")),
    )


def _attributes(pairs: list[Mapping[str, Any]] | None) -> dict[str, AttributeValue]:
    return {
        text(pair["key"]): _value(pair.get("value") or {})
        for pair in pairs or ()
        if not pair["key"].startswith(_ADDED)
    }


def _value(value: Mapping[str, Any]) -> AttributeValue:
    for kind, content in value.items():
        if kind == "arrayValue":
            # Arrays of ours hold one type; a stranger's may hold several.
            items: Any = tuple(_value(item) for item in content.get("values") or ())
            return items  # type: ignore[no-any-return]
        if (convert := _CONVERT.get(kind)) is not None:
            return convert(content)
        # kvlistValue, bytesValue: no attribute of ours.
        return json.dumps(content)
    return ""


_CONVERT: dict[str, Callable[[Any], AttributeValue]] = {
    "stringValue": text,
    "boolValue": bool,
    "intValue": integer,
    "doubleValue": real,
}
