"""OpenTelemetry's variables for metrics, and what is said of bad ones."""

from __future__ import annotations

import pytest

from vllm_codesign.exporter.metrics.push_settings import MetricSettings, PushSettings, read

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


def pushed(environ: dict[str, str]) -> PushSettings:
    chosen, problems = read(environ)
    assert problems == []
    assert chosen.push is not None
    return chosen.push


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"},
        {**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"},
        {**ENDPOINT, "OTEL_METRICS_EXPORTER": "prometheus"},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_pushed(environ: dict[str, str]) -> None:
    assert read(environ) == (MetricSettings(), [])


def test_the_general_endpoint_is_for_metrics_too() -> None:
    assert pushed(ENDPOINT) == PushSettings(endpoint="http://collector:4317")
    http = {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert pushed(http).endpoint == "http://collector:4317/v1/metrics"


def test_what_is_said_for_metrics_goes_before() -> None:
    own = pushed(
        {
            **ENDPOINT,
            "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://prometheus:9090/api/v1/otlp/v1/metrics",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "c=d",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta",
            "OTEL_METRIC_EXPORT_INTERVAL": "15000",
            "OTEL_METRIC_EXPORT_TIMEOUT": "2000",
        }
    )
    assert own == PushSettings(
        protocol="http/protobuf",
        endpoint="http://prometheus:9090/api/v1/otlp/v1/metrics",
        headers={"c": "d"},
        interval_ms=15_000,
        timeout_ms=2_000,
        temporality="delta",
    )


def test_the_filter_and_the_resource_hold_for_prometheus_alone_too() -> None:
    environ = {
        "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
        "OTEL_RESOURCE_ATTRIBUTES": "codesign.arm=lmcache",
    }
    assert read(environ) == (MetricSettings(None, "always_on", {"codesign.arm": "lmcache"}), [])


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("OTEL_METRICS_EXPORTER", "graphite", "set one of otlp, console, prometheus, none"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "all", "set one of trace_based, always_on, always_off"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "the default is 60000"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "0", "the default is 30000"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "sum",
            "set one of cumulative, delta, lowmemory",
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "set one of grpc, http/protobuf"),
        ("OTEL_RESOURCE_ATTRIBUTES", "arm", "is not KEY=VALUE"),
    ],
)
def test_a_bad_value_is_one_line_with_its_cure(name: str, value: str, cure: str) -> None:
    chosen, problems = read({**ENDPOINT, name: value})
    assert chosen.push is None
    (problem,) = problems
    assert problem.startswith(f"{name}='{value}' ")
    assert cure in problem
