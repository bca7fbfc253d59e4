"""OTLP as JSON: what the Collector's file exporter writes, and what Jaeger and Tempo wrap.

Writers differ in what the format leaves open or they bend: ids are hex (OTLP's own rule) or
base64 (Tempo, protobuf's rule), `kind` and status codes are numbers or names, 64-bit integers
strings or numbers. All of it is read by shape, so nobody has to say who wrote it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from vllm_codesign.backends.collected import Found
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, Span, SpanEvent, SpanLink

_SERVER = (2, "SPAN_KIND_SERVER")
_STATUS: dict[object, Literal["ok", "error"]] = {
    1: "ok",
    "STATUS_CODE_OK": "ok",
    2: "error",
    "STATUS_CODE_ERROR": "error",
}
_WIDTHS = {32, 16}
"""Of ids in hex."""
_ADDED = "@jaeger@"
"""Prefix of attributes that Jaeger adds when it is asked."""


def spans_of(document: Mapping[str, Any], where: str) -> Iterator[Found]:
    """The spans under `resourceSpans`; `where` names the answer or the file in an error.

    Raises `CodesignError` where something is not OTLP JSON.
    """
    try:
        for of_resource in document.get("resourceSpans") or ():
            resource = _attributes(of_resource.get("resource", {}).get("attributes"))
            service = str(resource.get("service.name", ""))
            instance = str(resource.get("service.instance.id", ""))
            for of_scope in of_resource.get("scopeSpans") or ():
                scope = str(of_scope.get("scope", {}).get("name", ""))
                for span in of_scope.get("spans") or ():
                    yield Found(_span(span, service), scope, instance)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cause = f"lacks {error}" if isinstance(error, KeyError) else error
        raise CodesignError(f"{where} is no OTLP JSON of traces: {cause}") from error


def _span(span: Mapping[str, Any], service: str) -> Span:
    status = span.get("status") or {}
    return Span(
        name=span.get("name", ""),
        service=service,
        trace_id=identifier(span["traceId"]),
        span_id=identifier(span["spanId"]),
        parent_id=identifier(span.get("parentSpanId") or "0" * 16),
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        kind="server" if span.get("kind") in _SERVER else "internal",
        attributes=_attributes(span.get("attributes")),
        events=tuple(
            SpanEvent(
                event.get("name", ""),
                int(event["timeUnixNano"]),
                _attributes(event.get("attributes")),
            )
            for event in span.get("events") or ()
        ),
        links=tuple(
            SpanLink(
                identifier(link["traceId"]),
                identifier(link["spanId"]),
                _attributes(link.get("attributes")),
            )
            for link in span.get("links") or ()
        ),
        status=_STATUS.get(status.get("code"), "unset"),
        status_message=status.get("message", ""),
        trace_state=span.get("traceState", ""),
    )


def identifier(text: str) -> int:
    """A trace or span id, in hex or in base64: their lengths differ."""
    if len(text) in _WIDTHS:
        return int(text, 16)
    return int.from_bytes(base64.b64decode(text, validate=True))


def _attributes(pairs: list[Mapping[str, Any]] | None) -> dict[str, AttributeValue]:
    return {
        pair["key"]: _value(pair.get("value") or {})
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
    "stringValue": str,
    "boolValue": bool,
    "intValue": int,
    "doubleValue": float,  # NaN and the infinities come as text
}
