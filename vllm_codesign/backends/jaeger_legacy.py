"""Jaeger's old query API and the JSON that its page downloads: microseconds, typed tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vllm_codesign.backends.collected import Collected, Found
from vllm_codesign.backends.complete import Wanted
from vllm_codesign.backends.http import Endpoint, NotThisApi, names
from vllm_codesign.backends.otlp_json import WRONG, cause
from vllm_codesign.backends.slices import Slice
from vllm_codesign.backends.values import hexadecimal, integer, real, shown, text, unix_ns
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, Span, SpanEvent, SpanLink

_NS_PER_US = 1_000
_NOT_FOUND = 404
_SCOPE = "otel.scope.name"
_MADE = ("otel.scope.", "otel.status_", "span.kind", "internal.span.format", "w3c.tracestate")
"""Tags that stand for what is no attribute in OTLP."""
_EVENT = "event"


def services(endpoint: Endpoint) -> list[str]:
    """What `/api/services` lists. Raises `NotThisApi` where there is none."""
    answer = endpoint.get("/api/services")
    if "data" not in answer:
        raise NotThisApi(f"{endpoint.url} is not Jaeger: /api/services answers without `data`")
    return names(answer["data"])


@dataclass(frozen=True)
class Legacy:
    """`/api/traces`, which Jaeger's own page used."""

    endpoint: Endpoint
    known: list[str]
    most: int = 500
    least_ns: int = _NS_PER_US

    @property
    def name(self) -> str:
        return f"Jaeger at {self.endpoint.url}"

    def services(self) -> list[str]:
        return self.known

    def trace(self, trace_id: int, into: Collected) -> bool:
        spans = self._spans(f"/api/traces/{trace_id:032x}", {"raw": "true"})
        into.take(spans)
        return bool(spans)

    def find(self, asked: Wanted, most: int, into: Collected) -> Slice:
        parameters: dict[str, str | int] = {
            "service": asked.service,
            "start": asked.since_ns // _NS_PER_US,
            "end": -(-asked.until_ns // _NS_PER_US),
            "limit": most,
            "raw": "true",
        }
        if asked.span is not None:
            parameters["operation"] = asked.span
        spans = self._spans("/api/traces", parameters)
        return Slice(len({found.span.trace_id for found in spans}), lambda: into.take(spans))

    def _spans(self, path: str, asked: Mapping[str, str | int]) -> list[Found]:
        answer = self.endpoint.get(path, asked)
        where = f"{self.endpoint.url}{path}"
        if (said := _error(answer.get("errors"))) is not None:
            raise CodesignError(f"{where} answers with an error: {said}")
        return list(spans_of(answer, where))


def _error(errors: Any) -> str | None:
    """The first that says more than that nothing was found."""
    for error in errors if isinstance(errors, list) else [errors] if errors else []:
        if not isinstance(error, dict):
            return shown(error)
        if error.get("code") != _NOT_FOUND:
            return " ".join(text(str(error.get("msg"))).split())
    return None


def spans_of(document: Mapping[str, Any], where: str) -> Iterator[Found]:
    """The spans under `data`. Raises `CodesignError` where something is not Jaeger's JSON."""
    try:
        for trace in document.get("data") or ():
            processes = trace.get("processes") or {}
            for span in trace.get("spans") or ():
                process = processes[span["processID"]]
                instance = str(_tags(process.get("tags")).get("service.instance.id", ""))
                found = _found(span, text(process.get("serviceName")))
                yield found._replace(instance=instance)
    except WRONG as error:
        raise CodesignError(f"{where} is no JSON of Jaeger's: {cause(error)}") from error


def _found(span: Mapping[str, Any], service: str) -> Found:
    tags = _tags(span.get("tags"))
    trace_id = hexadecimal(span["traceID"], 128)
    start = unix_ns(span["startTime"], _NS_PER_US)
    duration = integer(span["duration"])
    if duration < 0:
        raise ValueError(f"{shown(duration)} is no length of time")
    parent = 0
    links = []
    for reference in span.get("references") or ():
        of = hexadecimal(reference["traceID"], 128), hexadecimal(reference["spanID"], 64)
        if reference["refType"] == "CHILD_OF" and of[0] == trace_id and not parent:
            parent = of[1]
        else:
            # Attributes of links are not in this format.
            links.append(SpanLink(*of))
    status: Literal["ok", "error", "unset"] = "unset"
    if tags.get("otel.status_code") == "OK":
        status = "ok"
    elif tags.get("otel.status_code") == "ERROR":
        status = "error"
    return Found(
        Span(
            name=text(span["operationName"]),
            service=service,
            trace_id=trace_id,
            span_id=hexadecimal(span["spanID"], 64),
            parent_id=parent,
            start_ns=start,
            end_ns=unix_ns(start + duration * _NS_PER_US),
            kind="server" if tags.get("span.kind") == "server" else "internal",
            attributes={
                key: value
                for key, value in tags.items()
                if key != "error" and not key.startswith(_MADE)
            },
            events=tuple(_event(log) for log in span.get("logs") or ()),
            links=tuple(links),
            status=status,
            status_message=str(tags.get("otel.status_description", "")),
            trace_state=str(tags.get("w3c.tracestate", "")),
        ),
        str(tags.get(_SCOPE, "")),
    )


def _event(log: Mapping[str, Any]) -> SpanEvent:
    fields = _tags(log.get("fields"))
    name = str(fields.pop(_EVENT, ""))
    return SpanEvent(name, unix_ns(log["timestamp"], _NS_PER_US), fields)


def _tags(pairs: list[Mapping[str, Any]] | None) -> dict[str, AttributeValue]:
    return {text(pair["key"]): _value(pair) for pair in pairs or ()}


def _value(pair: Mapping[str, Any]) -> AttributeValue:
    """Arrays come as JSON text, and `semconv` knows which keys these are."""
    kind, value = pair.get("type"), pair["value"]
    if kind == "int64":
        return integer(value)
    if kind == "float64":
        return real(value)
    return bool(value) if kind == "bool" else text(str(value))
