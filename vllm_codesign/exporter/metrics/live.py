"""What the exporter's loop calls. Whatever fails here costs figures, never a trace."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Concatenate, ParamSpec

from opentelemetry.sdk.metrics.export import MetricReader

from vllm_codesign.accounting import Timeline
from vllm_codesign.exporter import otlp_settings
from vllm_codesign.exporter.assemble import Assembler
from vllm_codesign.exporter.build import Builder
from vllm_codesign.exporter.metrics import push_settings, queue
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.carried import Carried
from vllm_codesign.exporter.metrics.endpoint import Endpoint
from vllm_codesign.exporter.metrics.fleet import BEHIND_NS, LiveFleet
from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.exporter.metrics.instruments import provide
from vllm_codesign.exporter.metrics.losses import CARRIED_ON, Losses
from vllm_codesign.exporter.metrics.open_work import OpenWork
from vllm_codesign.exporter.metrics.pools import Pools
from vllm_codesign.exporter.metrics.prometheus import PrometheusReader
from vllm_codesign.exporter.metrics.push import CountingExporter, make_reader
from vllm_codesign.exporter.metrics.push_settings import MetricSettings
from vllm_codesign.exporter.metrics.requests import RequestMetrics
from vllm_codesign.exporter.metrics.sampled import Sampled
from vllm_codesign.exporter.metrics.sessions import Sessions
from vllm_codesign.exporter.metrics.steps import StepMetrics
from vllm_codesign.exporter.samplers.sampler import Sample
from vllm_codesign.exporter.tally import Before
from vllm_codesign.model.step import Step
from vllm_codesign.model.trace import AttributeValue, RequestTrace
from vllm_codesign.recorder.reader import Record
from vllm_codesign.semconv import metrics as M
from vllm_codesign.settings import ENV_METRICS_PORT, Settings

logger = logging.getLogger(__name__)

TRY_AGAIN_S = 10.0
"""A taken port may be that of a server which is about to end."""
BY_STEPS = 2
"""The level from which on there are steps."""

_P = ParamSpec("_P")


def _harmless(
    method: Callable[Concatenate[Metrics, _P], None],
) -> Callable[Concatenate[Metrics, _P], None]:
    """Swallow what it raises; the first time with its cause."""

    @functools.wraps(method)
    def guarded(self: Metrics, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            if not self.failed:
                logger.exception("codesign: metrics are not whole; this is logged once")
            self.failed += 1

    return guarded


class Metrics:
    """All metrics of one exporter, its endpoint and its pushing."""

    def __init__(
        self,
        settings: Settings,
        chosen: MetricSettings,
        resource: Mapping[str, AttributeValue],
        assembler: Assembler,
        builder: Builder,
        before: Before,
    ) -> None:
        self.failed = 0
        self._settings = settings
        self._assembler = assembler
        self._resource = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            **resource,
            **chosen.resource,
            M.SERVICE_NAME.key: builder.service_name,
        }
        constant = {a.key.replace(".", "_"): str(self._resource.get(a.key, "")) for a in M.CONSTANT}
        histograms = Histograms(chosen.exemplar_filter)
        self._board = Board()
        self._losses = Losses(self._board, before)
        carried = Carried(self._board, CARRIED_ON, before.since_ns)
        readers: list[MetricReader] = []
        self._pushed: CountingExporter | None = None
        if chosen.push is not None:
            try:
                pushing, self._pushed = make_reader(chosen.push, histograms, carried)
            except (OSError, RuntimeError, ValueError) as error:
                logger.error(
                    "codesign: no metrics are sent over OTLP (%s): check OTEL_EXPORTER_OTLP_*",
                    error,
                )
            else:
                readers.append(pushing)
        self._prometheus: PrometheusReader | None = None
        if settings.metrics_port:
            self._prometheus = PrometheusReader(constant, histograms)
            readers.append(self._prometheus)
        self._provider = provide(self._board, readers, self._resource)
        self._requests = RequestMetrics(self._board, histograms)
        self._steps = StepMetrics(histograms)
        self._fleet = LiveFleet(self._board)
        self._open = OpenWork(assembler, builder)
        self._pools = Pools(self._board)
        self._sampled = Sampled(self._board)
        self._sessions = Sessions(self._board)
        self._by_kind: dict[int, Callable[[int, Record], None]] = {
            **dict.fromkeys(Pools.KINDS, self._pools.take),
            **dict.fromkeys(self._requests.cache.KINDS, self._requests.cache.learn),
        }
        self.kinds = frozenset(self._by_kind)
        """Of the records that `take` wants."""
        self._lag_ns = 0
        self._read_until = 0
        self.endpoint: Endpoint | None = None
        self._listen_at = 0.0
        self._refused = False
        self.listen()

    @_harmless
    def listen(self) -> None:
        """Serve `/metrics`; a port that is taken is said once and tried again."""
        if self._prometheus is None or self.endpoint is not None:
            return
        if time.monotonic() < self._listen_at:
            return
        host, port = self._settings.metrics_host, self._settings.metrics_port
        try:
            self.endpoint = Endpoint(host, port, self.render)
        except (OSError, TypeError, ValueError) as error:
            self._listen_at = time.monotonic() + TRY_AGAIN_S
            if not self._refused:
                logger.warning(
                    "codesign: no metrics on %s:%d (%s); set %s to another port, or to 0 for "
                    "none; it is tried again every %d s",
                    host,
                    port,
                    getattr(error, "strerror", None) or error,
                    ENV_METRICS_PORT,
                    TRY_AGAIN_S,
                )
            self._refused = True
            return
        if self._refused:
            logger.warning("codesign: metrics are on %s now", self.endpoint.url)

    def render(self, accept: str) -> tuple[bytes, str]:
        """What `/metrics` answers now, and its content type."""
        assert self._prometheus is not None
        return self._prometheus.render(accept)

    @_harmless
    def take(self, pid: int, record: Record) -> None:
        """A record of one of `kinds`."""
        self._by_kind[record.kind](pid, record)

    @_harmless
    def read(self, read_until: int, taken: int) -> None:
        """A round of reading began at `read_until` and found so many records.

        The oldest of them may have come right after the round before.
        """
        if taken and self._read_until:
            self._lag_ns = max(self._lag_ns, read_until - self._read_until)
        self._read_until = read_until

    @_harmless
    def step(self, step: Step) -> None:
        """A step, before or after it is stored."""
        self._steps.take(step)
        self._fleet.begin(step)

    @_harmless
    def request(self, trace: RequestTrace, kept: bool) -> None:
        """A trace that is complete; `kept`: it is stored or sent."""
        self._requests.take(trace, kept)
        self._fleet.take(trace)
        self._sessions.take(trace, self._read_until)

    @property
    def failures(self) -> int:
        """What could not be counted, and pushes that failed."""
        return self.failed + (self._pushed.failed if self._pushed is not None else 0)

    @property
    def needs_steps_since(self) -> int:
        """Steps that were over before this may be forgotten."""
        return self._fleet.needs_since

    @_harmless
    def samples(self, now_ns: int, samples: Iterable[Sample], running: list[int]) -> None:
        """One round of all samplers."""
        for sample in samples:
            self._sampled.take(sample)
        self._sampled.show(now_ns, running)

    @_harmless
    def look(
        self,
        level: int,
        gone: frozenset[int],
        counters: Mapping[str, int],
        drops: Mapping[str, int],
    ) -> None:
        """Once a second: what is open, what was lost, how far behind this process is."""
        self.listen()
        self._pools.look(gone)
        self._sessions.look(self._read_until)
        queue.count(self._board, self._assembler.engines.values(), gone)
        self._losses.show(drops, counters)
        self._board.put(M.EXPORTER_LAG, self._lag_ns * 1e-9)
        self._lag_ns = 0
        if level < BY_STEPS:
            self._fleet.pause()

    @_harmless
    def close_windows(self, timelines: Mapping[int, Timeline], gone: frozenset[int]) -> None:
        """Account for the devices' time up to some seconds ago."""
        until = min(self._read_until - BEHIND_NS, self._assembler.steps.told_until())
        self._fleet.close(until, timelines, self._open.before, gone)

    @_harmless
    def close_last_window(self, timelines: Mapping[int, Timeline], gone: frozenset[int]) -> None:
        """Nothing more will come: account for all of it."""
        self._fleet.close(self._read_until, timelines, self._open.before, gone)

    def close(self, timeout_s: float) -> None:
        """Push what there is and end; after so many seconds, whatever the receiver does."""
        if self.endpoint is not None:
            self.endpoint.close()
        closer = threading.Thread(
            target=self._provider.shutdown,
            args=(timeout_s * 1000,),
            name="codesign-metrics-close",
            daemon=True,
        )
        closer.start()
        closer.join(timeout_s)


def make(
    environ: Mapping[str, str],
    settings: Settings,
    resource: Mapping[str, AttributeValue],
    assembler: Assembler,
    builder: Builder,
    before: Before,
) -> Metrics | None:
    """Metrics as the settings and OpenTelemetry's variables want them; None for none.

    `before`: where the counters of losses stood when the exporter before this one ended.
    """
    chosen, problems = push_settings.read(environ)
    told = otlp_settings.check(environ)  # of variables that hold for traces as well
    for problem in (each for each in problems if each not in told):
        logger.error("codesign: no metrics are sent over OTLP: %s", problem)
    if chosen.push is None and not settings.metrics_port:
        return None
    return Metrics(settings, chosen, resource, assembler, builder, before)
