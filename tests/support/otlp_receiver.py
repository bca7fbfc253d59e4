"""OTLP receivers made of OpenTelemetry's protobuf stubs: none of the code under test is in them.

`GrpcReceiver` and `HttpReceiver` are context managers that listen on a free port of
127.0.0.1 (or on `port`), collect every span they get and can be told to refuse or to hang.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_REMOTE = trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_REMOTE_KNOWN = trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK


Tls = tuple[Path, Path]
"""PEM files of the certificate and its key."""


@dataclass(frozen=True)
class ReceivedEvent:
    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedLink:
    trace_id: int
    span_id: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came over the wire; arrays are tuples, as in `model.trace`."""

    name: str
    service: str
    resource: dict[str, Any]
    scope: tuple[str, str]
    trace_id: int
    span_id: int
    parent_id: int
    parent_is_remote: bool | None
    start_ns: int
    end_ns: int
    kind: str
    status: str
    status_message: str
    trace_state: str
    attributes: dict[str, Any]
    events: tuple[ReceivedEvent, ...]
    links: tuple[ReceivedLink, ...]


@dataclass
class Received:
    """What came in: spans in order of arrival, and the headers and encoding of each batch."""

    spans: list[ReceivedSpan] = field(default_factory=list)
    batches: list[dict[str, str]] = field(default_factory=list)
    condition: threading.Condition = field(default_factory=threading.Condition)

    def add(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        spans = list(decode(request))
        with self.condition:
            self.spans += spans
            self.batches.append(headers)
            self.condition.notify_all()

    def wait(self, count: int, timeout: float = 10.0) -> list[ReceivedSpan]:
        """The spans, once there are `count` of them; AssertionError after `timeout` seconds."""
        with self.condition:
            if not self.condition.wait_for(lambda: len(self.spans) >= count, timeout):
                raise AssertionError(f"{len(self.spans)} spans after {timeout} s, not {count}")
            return list(self.spans)

    def traces(self) -> dict[int, list[ReceivedSpan]]:
        """The spans by trace id."""
        traces: dict[int, list[ReceivedSpan]] = {}
        with self.condition:
            for span in self.spans:
                traces.setdefault(span.trace_id, []).append(span)
        return traces


class _Receiver:
    """What both have in common."""

    protocol = ""

    def __init__(self, tls: Tls | None) -> None:
        self.received = Received()
        self.port = 0
        self.tls = tls
        self.hang_s = 0.0
        """Seconds to sit on each request before it is answered; `release` ends that."""
        self.refuse = False
        """Answer "unavailable" and keep nothing."""
        self.release = threading.Event()

    @property
    def endpoint(self) -> str:
        # A certificate is for a name.
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables that point an OpenTelemetry SDK here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
        }

    def wait_hanging(self) -> None:
        if self.hang_s:
            self.release.wait(self.hang_s)


class GrpcReceiver(_Receiver):
    protocol = "grpc"

    def __init__(self, port: int = 0, tls: Tls | None = None) -> None:
        super().__init__(tls)
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_TraceServiceServicer_to_server(_Servicer(self), self._server)
        if tls is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            certificate, key = tls
            credentials = grpc.ssl_server_credentials(
                [(key.read_bytes(), certificate.read_bytes())]
            )
            self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)

    def __enter__(self) -> GrpcReceiver:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.stop(grace=0).wait(5)


class _Servicer(TraceServiceServicer):
    def __init__(self, receiver: GrpcReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        self._receiver.wait_hanging()
        if self._receiver.refuse:
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to refuse")
        # No `grpc-encoding` here: gRPC undoes the compression and hides its header.
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        self._receiver.received.add(request, headers)
        return ExportTraceServiceResponse()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that hang up, or do not trust the certificate, are what some tests want.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HttpReceiver(_Receiver):
    protocol = "http/protobuf"

    def __init__(self, port: int = 0, tls: Tls | None = None) -> None:
        super().__init__(tls)
        self._server = _QuietServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.block_on_close = False
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> HttpReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _handler(receiver: HttpReceiver) -> type[BaseHTTPRequestHandler]:
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.wait_hanging()
            headers = {key.lower(): value for key, value in self.headers.items()}
            if receiver.refuse:
                self._answer(503, b"")
            elif self.path != "/v1/traces" or headers["content-type"] != "application/x-protobuf":
                self._answer(404, b"")
            else:
                body = decoders[headers.get("content-encoding", "")](body)
                receiver.received.add(ExportTraceServiceRequest.FromString(body), headers)
                self._answer(200, ExportTraceServiceResponse().SerializeToString())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet: a test's output is its assertions."""

    return Handler


class SilentListener:
    """A port that accepts connections and never answers: an endpoint that hangs."""

    def __enter__(self) -> SilentListener:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class CountingRelay:
    """Passes every connection on to `port` and counts the bytes that the clients sent."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.bytes_sent = 0

    def __enter__(self) -> CountingRelay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed by __exit__
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if counted:
                    self.bytes_sent += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side went away: the other one learns it from its own pump
            source.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return when `condition` holds; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s")
        time.sleep(0.01)


def decode(request: ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    """Every span of a request, with the resource and scope it came under."""
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            scope = (scope_spans.scope.name, scope_spans.scope.version)
            for span in scope_spans.spans:
                yield _span(span, resource, scope)


def _span(span: trace_pb2.Span, resource: dict[str, Any], scope: tuple[str, str]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        service=resource["service.name"],
        resource=resource,
        scope=scope,
        trace_id=int.from_bytes(span.trace_id, "big"),
        span_id=int.from_bytes(span.span_id, "big"),
        parent_id=int.from_bytes(span.parent_span_id, "big"),
        parent_is_remote=bool(span.flags & _REMOTE) if span.flags & _REMOTE_KNOWN else None,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        status=trace_pb2.Status.StatusCode.Name(span.status.code)
        .removeprefix("STATUS_CODE_")
        .lower(),
        status_message=span.status.message,
        trace_state=span.trace_state,
        attributes=_attributes(span.attributes),
        events=tuple(
            ReceivedEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events
        ),
        links=tuple(
            ReceivedLink(
                int.from_bytes(link.trace_id, "big"),
                int.from_bytes(link.span_id, "big"),
                _attributes(link.attributes),
            )
            for link in span.links
        ),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    return getattr(value, kind)
