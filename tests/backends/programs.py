"""Jaeger and the Collector as `make test-backends` has built them, started on loopback."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.otlp_receiver import free_port
from vllm_codesign.bench.server import Server

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILT = ROOT / ".cache" / "backends"
AGENT = ROOT / "deploy" / "collector" / "agent.yaml"
GATEWAY = ROOT / "deploy" / "collector" / "gateway.yaml"
_TIMEOUT_S = 60.0


def built(name: str) -> Path:
    """The program, or a skip that says how to get it."""
    path = BUILT / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"{name} is not built: run `make test-backends`, which needs Go")
    return path


class Jaeger(Server):
    """Jaeger with its memory store; `endpoint` takes OTLP over gRPC."""

    name = "Jaeger"
    health = "/api/v3/services"

    def __init__(self, folder: Path, otlp_port: int = 0) -> None:
        self.otlp_port = otlp_port or free_port()
        query_port = free_port()
        super().__init__(
            (str(built("jaeger")), "--config", str(HERE / "jaeger.yaml")),
            query_port,
            env={
                "OTLP_PORT": str(self.otlp_port),
                "QUERY_PORT": str(query_port),
                "QUERY_GRPC_PORT": str(free_port()),
                # Of itself, to whoever listens on 4317.
                "OTEL_TRACES_SAMPLER": "always_off",
            },
            log_path=folder / "jaeger.log",
            timeout_s=_TIMEOUT_S,
            progress=lambda _: None,
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.otlp_port}"


class Collector(Server):
    """The Collector with one of deploy's files and what a test lays over it."""

    name = "the Collector"
    health = "/"

    def __init__(
        self, folder: Path, name: str, configs: Sequence[str | Path], env: Mapping[str, str]
    ) -> None:
        health_port, self.telemetry_port = free_port(), free_port()
        options = [part for config in configs for part in ("--config", str(config))]
        super().__init__(
            (str(built("otelcol")), *options, *health(health_port)),
            health_port,
            env={
                **env,
                "METRICS_HOST": "127.0.0.1",
                "TELEMETRY_PORT": str(self.telemetry_port),
            },
            log_path=folder / f"{name}.log",
            timeout_s=_TIMEOUT_S,
            progress=lambda _: None,
        )


def health(port: int) -> tuple[str, str]:
    return "--config", f"yaml:extensions::health_check::endpoint: 127.0.0.1:{port}"


def otlp_on(port: int) -> str:
    """Lays another address over the receiver's."""
    return f"yaml:receivers::otlp::protocols::grpc::endpoint: 127.0.0.1:{port}"
