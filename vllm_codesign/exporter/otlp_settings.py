"""OpenTelemetry's own variables for traces, read as its Python SDK reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vllm_codesign.exporter.otlp_variables import (
    DEFAULT_GRPC_ENDPOINT,
    SERVICE_NAME,
    SUSPICIOUS_TIMEOUT_S,
    Destination,
    Reader,
)
from vllm_codesign.semconv import DEFAULT_SERVICE_NAME

__all__ = [
    "DEFAULT_GRPC_ENDPOINT",
    "SUSPICIOUS_TIMEOUT_S",
    "OtlpSettings",
    "check",
    "read",
    "service_name",
]

TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"
SAMPLER = "OTEL_TRACES_SAMPLER"
SAMPLER_ARG = "OTEL_TRACES_SAMPLER_ARG"
BSP_QUEUE_SIZE = "OTEL_BSP_MAX_QUEUE_SIZE"
BSP_BATCH_SIZE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
BSP_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
BSP_TIMEOUT = "OTEL_BSP_EXPORT_TIMEOUT"

EXPORTERS = ("otlp", "console", "none")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


@dataclass(frozen=True, slots=True)
class OtlpSettings(Destination):
    """Where spans go, and which of them. Only made where they go somewhere."""

    sampler: str = "parentbased_always_on"
    sampler_ratio: float = 1.0
    queue_size: int = 2048
    batch_size: int = 512
    delay_ms: int = 5000


def service_name(environ: Mapping[str, str]) -> str:
    """`service.name` of the server: its variable, else the resource attribute, else `vllm`."""
    if name := environ.get(SERVICE_NAME, "").strip():
        return name
    attributes = Reader(environ).resource_attributes()
    return attributes.get("service.name") or DEFAULT_SERVICE_NAME


def check(environ: Mapping[str, str]) -> list[str]:
    """Everything in `environ` that keeps spans from being sent; reads files, asks no network."""
    return read(environ)[1]


def read(environ: Mapping[str, str]) -> tuple[OtlpSettings | None, list[str]]:
    """The settings, None where nothing is to be sent, and one line for each bad value."""
    reader = Reader(environ)
    exporter = reader.sends(TRACES_EXPORTER, EXPORTERS)
    if exporter == "none":
        return None, reader.problems
    settings = _settings(reader, "console" if exporter == "console" else "otlp")
    return settings, reader.problems


def _settings(reader: Reader, exporter: Literal["otlp", "console"]) -> OtlpSettings:
    destination = reader.destination(exporter)
    sampler = reader.choice(SAMPLER, SAMPLERS, "parentbased_always_on")
    queue_size = reader.positive_int(BSP_QUEUE_SIZE, 2048)
    reader.positive_int(BSP_TIMEOUT, 30000)
    return OtlpSettings(
        **destination,
        sampler=sampler,
        sampler_ratio=_ratio(reader) if sampler.endswith("traceidratio") else 1.0,
        queue_size=queue_size,
        batch_size=_batch_size(reader, queue_size),
        delay_ms=reader.positive_int(BSP_DELAY, 5000),
    )


def _ratio(reader: Reader) -> float:
    value = reader.get(SAMPLER_ARG)
    if not value:
        return 1.0
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        reader.bad(SAMPLER_ARG, value, "is not a number from 0 to 1; the default is 1")
        return 1.0
    return ratio


def _batch_size(reader: Reader, queue_size: int) -> int:
    if not reader.get(BSP_BATCH_SIZE):
        return min(512, queue_size)
    size = reader.positive_int(BSP_BATCH_SIZE, min(512, queue_size))
    if size > queue_size:
        reader.bad(BSP_BATCH_SIZE, str(size), f"is above {BSP_QUEUE_SIZE}={queue_size}; lower it")
        return queue_size
    return size
