"""Receivers of OTLP metrics, made of OpenTelemetry's protobuf stubs as those of spans are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)


@dataclass
class ReceivedMetrics:
    """Requests in order of arrival, with their headers."""

    requests: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    condition: threading.Condition = field(default_factory=threading.Condition)

    def add(self, request: ExportMetricsServiceRequest, headers: dict[str, str]) -> None:
        with self.condition:
            self.requests.append(request)
            self.headers.append(headers)
            self.condition.notify_all()

    def wait(self, count: int, timeout: float = 10.0) -> list[ExportMetricsServiceRequest]:
        with self.condition:
            if not self.condition.wait_for(lambda: len(self.requests) >= count, timeout):
                raise AssertionError(f"{len(self.requests)} pushes after {timeout} s, not {count}")
            return list(self.requests)


def metrics_of(request: ExportMetricsServiceRequest) -> dict[str, Any]:
    """The metrics of a push by name."""
    return {
        metric.name: metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def resource_of(request: ExportMetricsServiceRequest) -> dict[str, str]:
    (resource,) = request.resource_metrics
    return {pair.key: pair.value.string_value for pair in resource.resource.attributes}


class _Common:
    protocol = ""

    def __init__(self) -> None:
        self.received = ReceivedMetrics()
        self.port = 0
        self.refuse = False
        self.hang = threading.Event()
        self.hang.set()

    @property
    def environ(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": self.protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }

    @property
    def endpoint(self) -> str:
        path = "" if self.protocol == "grpc" else "/v1/metrics"
        return f"http://127.0.0.1:{self.port}{path}"


class GrpcMetricsReceiver(_Common):
    protocol = "grpc"

    def __enter__(self) -> GrpcMetricsReceiver:
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        add_MetricsServiceServicer_to_server(_Servicer(self), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self._server.stop(grace=0).wait(5)


class _Servicer(MetricsServiceServicer):
    def __init__(self, receiver: GrpcMetricsReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        self._receiver.hang.wait(30)
        if self._receiver.refuse:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "traces only")
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        self._receiver.received.add(request, headers)
        return ExportMetricsServiceResponse()


class HttpMetricsReceiver(_Common):
    protocol = "http/protobuf"

    def __enter__(self) -> HttpMetricsReceiver:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(receiver: HttpMetricsReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.hang.wait(30)
            known = self.path == "/v1/metrics" and not receiver.refuse
            if known:
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = ExportMetricsServiceRequest.FromString(body)
                receiver.received.add(request, headers)
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportMetricsServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet: a test's output is its assertions."""

    return Handler
