"""Spans of ours as OTLP JSON, written by OpenTelemetry's own encoder."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from vllm_codesign.exporter.otlp_spans import Resources, readable_spans
from vllm_codesign.model.trace import RequestTrace

_IDS = ("traceId", "spanId", "parentSpanId")


def document(traces: Iterable[RequestTrace]) -> dict[str, Any]:
    """One `ExportTraceServiceRequest` with ids in hex, as OTLP's JSON has them.

    The scope is ours for services called `vllm` and something else for others.
    """
    resources = Resources({"service.instance.id": "host-a"})
    spans = [span for trace in traces for span in readable_spans(trace, resources)]
    found: dict[str, Any] = MessageToDict(encode_spans(spans))
    for of_resource in found["resourceSpans"]:
        service = next(
            pair["value"]["stringValue"]
            for pair in of_resource["resource"]["attributes"]
            if pair["key"] == "service.name"
        )
        for of_scope in of_resource["scopeSpans"]:
            if not service.startswith("vllm"):
                of_scope["scope"]["name"] = "somebody.else"
            for span in of_scope["spans"]:
                _hex(span)
                for link in span.get("links", ()):
                    _hex(link)
    return found


def _hex(holder: dict[str, Any]) -> None:
    for key in _IDS:
        if key in holder:
            holder[key] = base64.b64decode(holder[key]).hex()
