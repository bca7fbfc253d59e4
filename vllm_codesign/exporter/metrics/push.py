"""Metrics pushed over OTLP: the SDK's periodic reader around its exporter, in its own thread."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from vllm_codesign.exporter.metrics.carried import Carried
from vllm_codesign.exporter.metrics.histograms import Histograms, Pushed
from vllm_codesign.exporter.metrics.push_settings import METRICS_EXPORTER, PushSettings
from vllm_codesign.exporter.otlp_export import grpc_arguments, http_arguments, last_words

log = logging.getLogger(__name__)

_CUMULATIVE, _DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
_KINDS: tuple[type, ...] = (
    *(Counter, UpDownCounter, Histogram),
    *(ObservableCounter, ObservableUpDownCounter, ObservableGauge),
)
_DELTAS: dict[str, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (Counter, Histogram, ObservableCounter),
    "lowmemory": (Counter, Histogram),
}
"""By the preference's name: the instruments of delta temporality, as the specification has it."""


def temporalities(preference: str) -> dict[type, AggregationTemporality]:
    """Of every kind of instrument, so that the SDK reads no variable for it."""
    deltas = _DELTAS[preference]
    return {kind: _DELTA if kind in deltas else _CUMULATIVE for kind in _KINDS}


def make_reader(
    settings: PushSettings, histograms: Histograms, carried: Carried
) -> tuple[PeriodicExportingMetricReader, CountingExporter]:
    """A reader that pushes every `interval_ms`, and what counts for it."""
    preferred = temporalities(settings.temporality)
    inner: MetricExporter
    if settings.exporter == "console":
        inner = ConsoleMetricExporter(out=sys.stdout, preferred_temporality=preferred)
    elif settings.protocol == "grpc":
        inner = GrpcExporter(**grpc_arguments(settings), preferred_temporality=preferred)
    else:
        inner = HttpExporter(**http_arguments(settings), preferred_temporality=preferred)
    pushed = Pushed(histograms, preferred[Histogram])
    exporter = CountingExporter(inner, settings.destination, preferred, pushed, carried)
    reader = PeriodicExportingMetricReader(exporter, settings.interval_ms, settings.timeout_ms)
    return reader, exporter


class CountingExporter(MetricExporter):
    """Completes what is pushed; counts pushes that fail, and says when that begins and ends."""

    def __init__(
        self,
        inner: MetricExporter,
        destination: str,
        preferred: dict[type, AggregationTemporality],
        histograms: Pushed,
        carried: Carried,
    ) -> None:
        super().__init__(preferred_temporality=preferred)
        self._inner = inner
        self._destination = destination
        self._histograms = histograms
        self._carried = carried
        self._failing = False
        self.failed = 0
        """Pushes that the receiver did not take; cumulative ones are made up for by the next."""
        last_words.install()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        last_words.clear()
        result, reason = MetricExportResult.FAILURE, ""
        try:
            result = self._inner.export(self._whole(metrics_data), timeout_millis, **kwargs)
        except Exception as error:  # noqa: BLE001 - costs this push, not the SDK's thread
            reason = f"{type(error).__name__}: {error}"
        if result is MetricExportResult.SUCCESS:
            if self._failing:
                log.warning("sending metrics to %s works again", self._destination)
            self._failing = False
            return result
        self.failed += 1
        if not self._failing:
            log.warning(
                "sending metrics to %s fails; this is logged once (%s=none sends none): %s",
                self._destination,
                METRICS_EXPORTER,
                reason or last_words.take() or "no reason given",
            )
        self._failing = True
        return result

    def _whole(self, data: MetricsData) -> MetricsData:
        """With the histograms beside the SDK's own, of the one resource and scope there is, and
        with counters that are older than this process."""
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        summed = map(self._carried.put_right, scope.metrics)
        scope = replace(scope, metrics=[*summed, *self._histograms.collect()])
        return MetricsData([replace(resource, scope_metrics=[scope])])

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._inner.shutdown(timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)
