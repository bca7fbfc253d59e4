"""The SDK's instruments for what adds up on the board: it asks when a reader collects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

from vllm_codesign import __version__
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.model.trace import AttributeValue
from vllm_codesign.semconv import SCOPE_NAME
from vllm_codesign.semconv.metrics import METRICS, Metric

_NO_CONTEXT = Context()


def provide(
    board: Board, readers: Sequence[MetricReader], resource: Mapping[str, AttributeValue]
) -> MeterProvider:
    """An observable instrument for each counter and gauge of `semconv`, read by `readers`.

    A sum over many requests has no exemplar.
    """
    provider = MeterProvider(
        readers, Resource(resource), AlwaysOffExemplarFilter(), shutdown_on_exit=False
    )
    meter = provider.get_meter(SCOPE_NAME, __version__)
    for metric in METRICS:
        name, unit, brief = metric.name, metric.unit, metric.brief
        if metric.instrument == "counter":
            meter.create_observable_counter(name, [_look(board, metric)], unit, brief)
        elif metric.instrument == "gauge":
            meter.create_observable_gauge(name, [_look(board, metric)], unit, brief)
    return provider


def _look(board: Board, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def look(_: CallbackOptions) -> Iterator[Observation]:
        for attributes, value in board.read(metric):
            yield Observation(value, attributes, _NO_CONTEXT)

    return look
