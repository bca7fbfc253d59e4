"""OpenTelemetry's own variables for metrics, read through the same room as those for traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_codesign.exporter.metrics.histograms import EXEMPLAR_FILTERS
from vllm_codesign.exporter.otlp_variables import Destination, Reader

METRICS_EXPORTER = "OTEL_METRICS_EXPORTER"
EXEMPLAR_FILTER = "OTEL_METRICS_EXEMPLAR_FILTER"
INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
TIMEOUT = "OTEL_METRIC_EXPORT_TIMEOUT"

EXPORTERS = ("otlp", "console", "prometheus", "none")
"""`prometheus` pushes nothing: the endpoint for it is CODESIGN_METRICS_PORT's."""
TEMPORALITIES = ("cumulative", "delta", "lowmemory")


@dataclass(frozen=True, slots=True)
class PushSettings(Destination):
    """Where metrics are pushed to, and how."""

    interval_ms: int = 60_000
    timeout_ms: int = 30_000
    temporality: str = "cumulative"


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """`push` is None where nothing is pushed."""

    push: PushSettings | None = None
    exemplar_filter: str = "trace_based"
    resource: Mapping[str, str] = field(default_factory=dict)


def check(environ: Mapping[str, str]) -> list[str]:
    """Everything in `environ` that keeps metrics from being pushed as it says."""
    return read(environ)[1]


def read(environ: Mapping[str, str]) -> tuple[MetricSettings, list[str]]:
    """The settings, with nothing pushed where a value is bad, and one line for each of those."""
    reader = Reader(environ, "metrics")
    exporter = reader.sends(METRICS_EXPORTER, EXPORTERS)
    exemplar_filter = reader.choice(EXEMPLAR_FILTER, EXEMPLAR_FILTERS, "trace_based")
    if exporter in ("none", "prometheus"):
        resource = reader.resource_attributes()
        return MetricSettings(None, exemplar_filter, resource), reader.problems
    push = PushSettings(
        **reader.destination("console" if exporter == "console" else "otlp"),
        interval_ms=reader.positive_int(INTERVAL, 60_000),
        timeout_ms=reader.positive_int(TIMEOUT, 30_000),
        temporality=reader.otlp_choice("TEMPORALITY_PREFERENCE", TEMPORALITIES, "cumulative"),
    )
    return (
        MetricSettings(None if reader.problems else push, exemplar_filter, push.resource),
        reader.problems,
    )
