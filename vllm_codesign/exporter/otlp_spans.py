"""Our spans as the OpenTelemetry SDK's, ready for one of its exporters.

`ReadableSpan` is built directly, which the SDK's documentation advises against: a `Tracer`
makes ids and times of its own, asks the sampler once per span, and takes 75 us for each.
The constructor is public, and the same from 1.40 to the newest that the tests run with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as SDK_VERSION
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from vllm_codesign import __version__
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span
from vllm_codesign.semconv import SCOPE_NAME

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
SCOPE = InstrumentationScope(SCOPE_NAME, __version__)
KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}
_UNSET = Status(StatusCode.UNSET)
_NO_STATE = TraceState()


class ServiceResource(Resource):
    """A resource that is hashed once: the encoder hashes it for every span, as JSON (3.5 us)."""

    def __init__(self, attributes: Mapping[str, AttributeValue]) -> None:
        super().__init__(attributes)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    # A class with a `__hash__` of its own must repeat this, or read as if it were forgotten.
    __eq__ = Resource.__eq__


class Resources:
    """The resource of each service, made when its first span comes."""

    def __init__(self, common: Mapping[str, AttributeValue]) -> None:
        self._common = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": SDK_VERSION,
            **common,
        }
        self._by_service: dict[str, ServiceResource] = {}

    def of(self, service: str) -> ServiceResource:
        resource = self._by_service.get(service)
        if resource is None:
            resource = ServiceResource({**self._common, "service.name": service})
            self._by_service[service] = resource
        return resource


def readable_spans(trace: RequestTrace, resources: Resources) -> Iterator[ReadableSpan]:
    """The spans of `trace`, root first. A parent outside the trace is the caller's: remote."""
    contexts = {span.span_id: _context(span) for span in trace.spans}
    for span in trace.spans:
        parent = None
        if span.parent_id:
            parent = contexts.get(span.parent_id) or SpanContext(
                span.trace_id, span.parent_id, is_remote=True, trace_flags=SAMPLED
            )
        yield ReadableSpan(
            name=span.name,
            context=contexts[span.span_id],
            parent=parent,
            resource=resources.of(span.service),
            attributes=span.attributes,
            events=[Event(e.name, e.attributes, e.time_ns) for e in span.events],
            links=[_link(link.trace_id, link.span_id, link.attributes) for link in span.links],
            kind=KINDS[span.kind],
            status=_status(span),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=SCOPE,
        )


def trace_state(header: str) -> TraceState:
    """The caller's `tracestate`; empty where it is malformed, as the W3C demands."""
    return TraceState.from_header([header]) if header else _NO_STATE


def _context(span: Span) -> SpanContext:
    return SpanContext(
        span.trace_id,
        span.span_id,
        is_remote=False,
        trace_flags=SAMPLED,
        trace_state=trace_state(span.trace_state),
    )


def _link(trace_id: int, span_id: int, attributes: Mapping[str, AttributeValue]) -> Link:
    context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=SAMPLED)
    return Link(context, attributes)


def _status(span: Span) -> Status:
    if span.status == "unset":
        return _UNSET
    if span.status == "ok":
        return Status(StatusCode.OK)
    # The SDK warns about a description on any other status, and drops it.
    return Status(StatusCode.ERROR, span.status_message or None)
