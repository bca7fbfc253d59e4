"""The SDK's exporter, made from our settings, counted, and logged once per outage."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from vllm_codesign.exporter.otlp_settings import OtlpSettings
from vllm_codesign.exporter.otlp_variables import Destination

log = logging.getLogger(__name__)

MAX_REASON = 500


def make_exporter(settings: OtlpSettings) -> SpanExporter:
    """The SDK's exporter. Every argument is given, so that it reads no variable by itself,
    but those of OpenTelemetry's credential providers, which have no argument."""
    if settings.exporter == "console":
        # Its default was bound when the SDK was imported, before anybody redirected.
        return ConsoleSpanExporter(out=sys.stdout)
    if settings.protocol == "grpc":
        return GrpcExporter(**grpc_arguments(settings))
    return HttpExporter(**http_arguments(settings))


def grpc_arguments(settings: Destination) -> dict[str, Any]:
    """Every argument of the SDK's gRPC exporters that says where to and how."""
    return {
        "endpoint": settings.endpoint,
        "insecure": settings.insecure,
        "credentials": _grpc_credentials(settings),
        "headers": dict(settings.headers),
        "timeout": settings.timeout_s,
        "compression": {
            "none": grpc.Compression.NoCompression,
            "gzip": grpc.Compression.Gzip,
        }[settings.compression],
    }


def http_arguments(settings: Destination) -> dict[str, Any]:
    """The same of its HTTP exporters."""
    return {
        "endpoint": settings.endpoint,
        "certificate_file": settings.certificate,
        "client_certificate_file": settings.client_certificate,
        "client_key_file": settings.client_key,
        "headers": dict(settings.headers),
        "timeout": settings.timeout_s,
        "compression": HttpCompression(settings.compression),
        # None where not needed: a session given here displaces a credential provider's.
        "session": _OwnCertificateSession() if settings.certificate else None,
    }


class _OwnCertificateSession(requests.Session):
    """Keeps to the certificate it was given: plain requests, as newer SDKs use it, prefers
    `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`, which many machines set for other purposes."""

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        own = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, own, cert)


def _grpc_credentials(settings: Destination) -> grpc.ChannelCredentials | None:
    if settings.certificate is None and settings.client_certificate is None:
        return None  # the exporter takes the system's certificates where it needs any
    return grpc.ssl_channel_credentials(
        root_certificates=_read(settings.certificate),
        private_key=_read(settings.client_key),
        certificate_chain=_read(settings.client_certificate),
    )


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


class LastWords(logging.Handler):
    """Keeps what the SDK's exporters log while they export, per thread, and prints nothing.

    They log every batch that fails and every retry, and their return value says only that
    it failed: the log record is the one place where the reason stands. Over HTTP it stands
    in the first one (the try), and the last says only that time is up.
    """

    LOGGERS = ("opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.exporter.otlp.proto.http")

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def install(self) -> None:
        for name in self.LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate = False
            if self not in logger.handlers:
                logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        self._local.last = text
        self._local.first = getattr(self._local, "first", "") or text

    def clear(self) -> None:
        self._local.first = self._local.last = ""

    def take(self) -> str:
        first, last = self._local.first, self._local.last
        return (last if first == last else f"{last} First: {first}")[:MAX_REASON]


last_words = LastWords()


class CountingExporter(SpanExporter):
    """Counts what another exporter got through, and logs when that stops and when it resumes."""

    def __init__(self, inner: SpanExporter, destination: str) -> None:
        self._inner = inner
        self._destination = destination
        self._lock = threading.Lock()
        self._given_up = False
        self._shut = False
        self._lost = 0
        self.taken = 0
        """Spans that left the processor's queue."""
        self.sent = 0
        self.failed = 0
        last_words.install()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            if self._given_up:  # `Sender.close` has counted these already
                return SpanExportResult.FAILURE
            self.taken += len(spans)
        last_words.clear()
        result, reason = SpanExportResult.FAILURE, ""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - costs this batch, not the SDK's thread
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON]
        if result is SpanExportResult.SUCCESS:
            self._succeeded(len(spans))
        else:
            self._failed(len(spans), reason or last_words.take() or "no reason given")
        return result

    def _succeeded(self, count: int) -> None:
        with self._lock:
            self.sent += count
            lost, self._lost = self._lost, 0
        if lost:
            log.warning("sending spans to %s works again; %d were lost", self._destination, lost)

    def _failed(self, count: int, reason: str) -> None:
        with self._lock:
            first = self._lost == 0
            self.failed += count
            self._lost += count
        if first and not self._given_up:
            log.warning(
                "sending spans to %s fails, each batch is retried and then lost; "
                "this is logged once: %s",
                self._destination,
                reason,
            )

    def give_up(self) -> int:
        """Take no further batch; the number of spans taken until now is final."""
        with self._lock:
            self._given_up = True
            return self.taken

    def shutdown(self) -> None:
        with self._lock:  # the SDK's exporters complain about a second call
            if self._shut:
                return
            self._shut = True
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)
