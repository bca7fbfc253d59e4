"""Under which names a trace is sent: the service's, the suffix of each process, the scope's."""

from __future__ import annotations

from enum import StrEnum


class Service(StrEnum):
    """Suffix that a span's process adds to `service.name` (trace viewers colour by it)."""

    API = ""
    ENGINE = "-engine"
    WORKER = "-worker"


DEFAULT_SERVICE_NAME = "vllm"
SCOPE_NAME = "vllm_codesign"
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
"""OpenTelemetry's variable with attributes of everything that a process tells."""
