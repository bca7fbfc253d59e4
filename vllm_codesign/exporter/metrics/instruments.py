"""The SDK's instruments: observable ones over the board, and histograms, which it aggregates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from vllm_codesign import __version__
from vllm_codesign.exporter.metrics.board import Board, Values, attributes_of
from vllm_codesign.model.trace import AttributeValue, Span
from vllm_codesign.semconv import SCOPE_NAME
from vllm_codesign.semconv.metrics import METRICS, Metric

NO_CONTEXT = Context()
"""Of what no single request did."""

_FILTERS: Mapping[str, Callable[[], ExemplarFilter]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}
EXEMPLAR_FILTERS = tuple(_FILTERS)


def context_of(root: Span, kept: bool) -> Context:
    """The request's context. Its flag says whether its trace can be looked up anywhere: stored
    or sent, which is what the trace-based filter goes by. So no exemplar leads nowhere."""
    flags = TraceFlags(TraceFlags.SAMPLED if kept else TraceFlags.DEFAULT)
    span = SpanContext(root.trace_id, root.span_id, is_remote=False, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), NO_CONTEXT)


class Instruments:
    """One instrument for each metric of `semconv`, read by `readers`."""

    def __init__(
        self,
        board: Board,
        readers: Sequence[MetricReader],
        resource: Mapping[str, AttributeValue],
        exemplar_filter: str,
    ) -> None:
        self._provider = MeterProvider(
            readers,
            Resource(resource),
            _FILTERS[exemplar_filter](),
            shutdown_on_exit=False,
            views=[_buckets(m) for m in METRICS if m.instrument == "histogram"],
        )
        meter = self._provider.get_meter(SCOPE_NAME, __version__)
        self._histograms: dict[str, Histogram] = {}
        self._attributes: dict[tuple[str, Values], dict[str, str | int]] = {}
        for metric in METRICS:
            name, unit, brief = metric.name, metric.unit, metric.brief
            if metric.instrument == "histogram":
                self._histograms[name] = meter.create_histogram(name, unit, brief)
            elif metric.instrument == "counter":
                meter.create_observable_counter(name, [_look(board, metric)], unit, brief)
            else:
                meter.create_observable_gauge(name, [_look(board, metric)], unit, brief)

    def record(
        self, metric: Metric, value: float, context: Context, *values: str | int | None
    ) -> None:
        """One value of a histogram, in its unit."""
        key = metric.name, values
        attributes = self._attributes.get(key)
        if attributes is None:
            attributes = self._attributes[key] = attributes_of(metric, values)
        self._histograms[metric.name].record(value, attributes, context)

    def shutdown(self, timeout_s: float) -> None:
        """Have every reader send what it has; may take that long."""
        self._provider.shutdown(timeout_s * 1000)


def _buckets(metric: Metric) -> View:
    return View(
        instrument_name=metric.name,
        aggregation=ExplicitBucketHistogramAggregation(metric.buckets),
    )


def _look(board: Board, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def look(_: CallbackOptions) -> Iterator[Observation]:
        for attributes, value in board.read(metric):
            yield Observation(value, attributes, NO_CONTEXT)

    return look
