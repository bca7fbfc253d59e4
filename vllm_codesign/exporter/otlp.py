"""Finished traces, sent over OTLP by the OpenTelemetry SDK.

Configured by OpenTelemetry's own variables and nothing else (`otlp_settings`). With no
endpoint variable set and `OTEL_TRACES_EXPORTER` unset, nothing is sent, although the
specification's default is `otlp` to localhost: a server that nobody configured must not
knock on port 4317 for the rest of its life and log that nobody answers. Who wants just
that sets `OTEL_TRACES_EXPORTER=otlp`.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from itertools import islice

from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from vllm_codesign.exporter.otlp_export import CountingExporter, make_exporter
from vllm_codesign.exporter.otlp_settings import (
    SUSPICIOUS_TIMEOUT_S,
    OtlpSettings,
    check,
    read,
    service_name,
)
from vllm_codesign.exporter.otlp_spans import (
    KINDS,
    SAMPLED,
    Resources,
    readable_spans,
    trace_state,
)
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.model.trace import AttributeValue, RequestTrace, Span

__all__ = ["Sender", "check", "service_name"]

log = logging.getLogger(__name__)

_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)


class Sender:
    """Hands traces to the SDK's batch processor; no method waits for the network but
    `flush` and `close`, and those no longer than they are told.

    A trace that does not fit into the queue (`OTEL_BSP_MAX_QUEUE_SIZE` spans) is dropped as
    a whole, since one with holes misleads; only one larger than the queue goes in parts.
    """

    def __init__(
        self, settings: OtlpSettings | None, resource_attributes: Mapping[str, AttributeValue]
    ) -> None:
        self._lock = threading.Lock()
        self._flusher: threading.Thread | None = None
        self._processor: BatchSpanProcessor | None = None
        self._closed = False
        self._overflowing = False
        self._accepted = 0
        self._dropped = 0
        self._sampler: sampling.Sampler = sampling.ALWAYS_OFF
        if settings is None:
            self.destination = "nowhere"
            return
        self.destination = settings.destination
        self._sampler = _sampler(settings)
        # What an operator writes into a variable goes before what was found out.
        self._resources = Resources(
            {"service.instance.id": str(uuid.uuid4()), **resource_attributes, **settings.resource}
        )
        try:
            exporter = make_exporter(settings)
        except (OSError, RuntimeError, ValueError) as error:
            raise CodesignError(
                f"no OTLP exporter for {self.destination}: {error}; check OTEL_EXPORTER_OTLP_*"
            ) from error
        self._exporter = CountingExporter(exporter, self.destination)
        self._queue_size = settings.queue_size
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=settings.queue_size,
            schedule_delay_millis=settings.delay_ms,
            max_export_batch_size=settings.batch_size,
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], resource_attributes: Mapping[str, AttributeValue]
    ) -> Sender:
        """A sender as OpenTelemetry's variables want it; `CodesignError` where one is bad.

        `resource_attributes` go on every resource; `service.name` comes from each span, and
        `service.instance.id` is made up where neither they nor the environment have it.
        """
        settings, problems = read(environ)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise CodesignError(f"{problems[0]}{more}")
        if settings is not None and settings.timeout_s >= SUSPICIOUS_TIMEOUT_S:
            log.warning(
                "OTEL_EXPORTER_OTLP_TIMEOUT is %g seconds: OpenTelemetry's Python takes it for "
                "seconds, not milliseconds",
                settings.timeout_s,
            )
        return cls(settings, resource_attributes)

    @property
    def active(self) -> bool:
        """False where nothing is sent: nothing configured, or switched off."""
        return self._processor is not None

    def sampled(self, root: Span, parent_sampled: bool | None) -> bool:
        """Whether the trace of `root` is to be sent: the sampler's answer, to be asked once.

        `parent_sampled` is the flag in the caller's `traceparent`, None where there was none.
        """
        context = Context()
        state = trace_state(root.trace_state)
        if parent_sampled is not None:
            parent = SpanContext(
                root.trace_id,
                root.parent_id,
                is_remote=True,
                trace_flags=SAMPLED if parent_sampled else _UNSAMPLED,
                trace_state=state,
            )
            context = set_span_in_context(NonRecordingSpan(parent), context)
        result = self._sampler.should_sample(
            context, root.trace_id, root.name, kind=KINDS[root.kind], trace_state=state
        )
        return result.decision is sampling.Decision.RECORD_AND_SAMPLE

    def send(self, trace: RequestTrace) -> None:
        """Queue all spans of `trace`; drops them, and counts that, where there is no room."""
        if self._processor is None:
            return
        count = self._admit(len(trace.spans))
        for span in islice(readable_spans(trace, self._resources), count):
            self._processor.on_end(span)

    def _admit(self, wanted: int) -> int:
        """How many of `wanted` spans may be queued now.

        The processor drops by itself when its queue is full, but tells nobody in 1.40. So the
        queue's length is known here instead: what was let in less what was taken out. It errs
        on the safe side for the moment between the processor's taking a batch and exporting it.
        """
        with self._lock:
            queued = self._accepted - self._exporter.taken
            room = 0 if self._closed else self._queue_size - queued
            if wanted <= room:
                admitted = wanted
            else:
                admitted = room if wanted > self._queue_size else 0
            self._accepted += admitted
            self._dropped += wanted - admitted
            starts = admitted < wanted and not self._overflowing and not self._closed
            if queued == 0 or starts:
                self._overflowing = admitted < wanted
        if starts:
            log.warning(
                "the queue to %s is full (%d spans), traces are dropped and counted until it has "
                "drained; raise OTEL_BSP_MAX_QUEUE_SIZE if this comes without an outage",
                self.destination,
                self._queue_size,
            )
        return admitted

    def stats(self) -> dict[str, int]:
        """Spans so far; the four add up to what was given to `send`.

        `sent`: the receiver said yes to their batch (the SDK does not look at partial success).
        `queued`: waiting or on their way. `failed`: their batch was given up after the SDK's
        retries. `dropped`: never left the queue, for want of room or because of `close`.
        """
        if self._processor is None:
            return {"sent": 0, "queued": 0, "dropped": 0, "failed": 0}
        with self._lock:
            sent, failed = self._exporter.sent, self._exporter.failed
            return {
                "sent": sent,
                "queued": self._accepted - sent - failed,
                "dropped": self._dropped,
                "failed": failed,
            }

    def flush(self, timeout: float) -> bool:
        """Send what is queued; True when all of it has left or failed within `timeout` seconds."""
        if self._processor is None:
            return True
        deadline = time.monotonic() + timeout
        target = self._accepted
        while self._settled() < target:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or self._closed:
                return False
            # The SDK's `force_flush` has no timeout and holds a lock while it exports: it gets
            # a thread, and there is never more than one.
            if self._flusher is None or not self._flusher.is_alive():
                self._flusher = _start("codesign-otlp-flush", self._processor.force_flush)
            self._flusher.join(remaining)
        return True

    def _settled(self) -> int:
        return self._exporter.sent + self._exporter.failed

    def close(self, timeout: float) -> bool:
        """Send what is queued and stop; after four fifths of `timeout` give up the rest.

        True when nothing had to be given up. Later calls do nothing.
        """
        with self._lock:
            if self._processor is None or self._closed:
                return True
            self._closed = True
        deadline = time.monotonic() + timeout
        failed_before = self._exporter.failed
        # `shutdown` of the SDK waits up to 30 s for its worker, without asking.
        closer = _start("codesign-otlp-close", self._processor.shutdown)
        closer.join(timeout * 0.8)
        taken = self._exporter.give_up()
        if closer.is_alive():
            # Ends the SDK's waits between retries and, for gRPC, the call that is on its way.
            _start("codesign-otlp-abort", self._exporter.shutdown)
            closer.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = self._accepted - taken
            self._accepted -= left
            self._dropped += left
        stats = self.stats()
        lost = left + stats["queued"] + stats["failed"] - failed_before
        if lost:
            log.warning("%d spans for %s were not sent before the end", lost, self.destination)
        return not lost


def _start(name: str, target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _sampler(settings: OtlpSettings) -> sampling.Sampler:
    """The SDK's own lookup by name is private and reads `os.environ`; its samplers are public."""
    match settings.sampler:
        case "always_on":
            return sampling.ALWAYS_ON
        case "always_off":
            return sampling.ALWAYS_OFF
        case "traceidratio":
            return sampling.TraceIdRatioBased(settings.sampler_ratio)
        case "parentbased_always_off":
            return sampling.DEFAULT_OFF
        case "parentbased_traceidratio":
            return sampling.ParentBasedTraceIdRatio(settings.sampler_ratio)
        case _:
            return sampling.DEFAULT_ON
