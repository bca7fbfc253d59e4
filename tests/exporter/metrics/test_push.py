"""Metrics over OTLP, to receivers that are none of ours."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from tests.exporter.records import SPAN, TRACE
from tests.support.otlp_metrics_receiver import (
    GrpcMetricsReceiver,
    HttpMetricsReceiver,
    metrics_of,
    resource_of,
)
from tests.support.push_metrics import push
from vllm_codesign.exporter.metrics import push_settings
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.carried import Carried
from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.exporter.metrics.instruments import provide
from vllm_codesign.exporter.metrics.push import CountingExporter, make_reader
from vllm_codesign.semconv import metrics as M

RECEIVERS = [GrpcMetricsReceiver, HttpMetricsReceiver]
Receiver = GrpcMetricsReceiver | HttpMetricsReceiver


@dataclass
class Pushing:
    board: Board
    histograms: Histograms
    provider: MeterProvider
    counted: CountingExporter


def pushing(environ: dict[str, str], timeout_s: float = 5.0) -> Pushing:
    chosen, problems = push_settings.read(environ)
    assert problems == []
    assert chosen.push is not None
    histograms, board = Histograms(chosen.exemplar_filter), Board()
    settings = replace(chosen.push, timeout_s=timeout_s)
    reader, counted = make_reader(settings, histograms, Carried(board, (), 0))
    provider = provide(board, [reader], {"service.name": "vllm"})
    return Pushing(board, histograms, provider, counted)


@pytest.mark.parametrize("kind", RECEIVERS)
def test_figures_and_exemplars_arrive(kind: type[Receiver]) -> None:
    with kind() as receiver:
        said = push(receiver.endpoint, receiver.protocol)
        (request,) = receiver.received.wait(1)
    found = metrics_of(request)
    assert resource_of(request) == {"service.name": "vllm", "codesign.arm": "pushed"}
    histogram = found[M.REQUEST_DURATION.name].histogram
    assert found[M.REQUEST_DURATION.name].unit == "s"
    assert histogram.aggregation_temporality == 2, "cumulative"
    (point,) = histogram.data_points
    assert (point.count, point.sum) == (1, said["sum"])
    assert tuple(point.explicit_bounds) == M.REQUEST_BUCKETS
    (exemplar,) = point.exemplars
    ids = int.from_bytes(exemplar.trace_id, "big"), int.from_bytes(exemplar.span_id, "big")
    assert ids == (TRACE, SPAN)
    assert exemplar.as_double == point.sum
    tokens = found[M.TOKENS_USED.name].sum
    assert tokens.is_monotonic
    assert sorted(point.as_int for point in tokens.data_points) == [4, 64]


@pytest.mark.parametrize("kind", RECEIVERS)
def test_headers_and_interval_are_the_variables(kind: type[Receiver]) -> None:
    with kind() as receiver:
        environ = {**receiver.environ, "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-team=gpu"}
        made = pushing(environ)
        made.board.add(M.POOL_BUSY, 1_500_000_000)
        first, *_ = receiver.received.wait(3, timeout=5)
        made.provider.shutdown(5_000)
    (point,) = metrics_of(first)[M.POOL_BUSY.name].sum.data_points
    assert point.as_double == 1.5
    assert {headers["x-team"] for headers in receiver.received.headers} == {"gpu"}


@pytest.mark.parametrize(
    ("preference", "counter", "histogram"),
    [("cumulative", 2, 2), ("delta", 1, 1), ("lowmemory", 2, 1)],
)
def test_temporality_is_as_preferred(preference: str, counter: int, histogram: int) -> None:
    with GrpcMetricsReceiver() as receiver:
        name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        environ = {**receiver.environ, name: preference, "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        made = pushing(environ)
        made.board.add(M.POOL_BUSY, 1)
        made.histograms.record(M.STEP_DURATION, 0.1, None)
        made.provider.shutdown(5_000)
        (request,) = receiver.received.wait(1)
    found = metrics_of(request)
    assert found[M.POOL_BUSY.name].sum.aggregation_temporality == counter
    assert found[M.STEP_DURATION.name].histogram.aggregation_temporality == histogram


@pytest.mark.parametrize("kind", RECEIVERS)
def test_a_receiver_of_traces_only_is_said_once(
    kind: type[Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    with kind() as receiver, caplog.at_level(logging.WARNING):
        receiver.refuse = True
        made = pushing(receiver.environ)
        made.board.add(M.POOL_BUSY, 1)
        deadline = time.monotonic() + 10
        while made.counted.failed < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        receiver.refuse = False
        receiver.received.wait(1)
        made.provider.shutdown(5_000)
    # Newer pytest also captures loggers that do not propagate.
    said = [r.getMessage() for r in caplog.records if r.name.startswith("vllm_codesign")]
    assert len(said) == 2, said
    assert said[0].startswith("sending metrics to ")
    assert "OTEL_METRICS_EXPORTER=none" in said[0]
    assert said[1].endswith("works again")


def test_an_endpoint_that_hangs_costs_its_timeout_and_no_more() -> None:
    with GrpcMetricsReceiver() as receiver:
        receiver.hang.clear()
        made = pushing(receiver.environ, timeout_s=1)
        made.board.add(M.POOL_BUSY, 1)
        begun = time.monotonic()
        made.provider.shutdown(2_000)
        assert time.monotonic() - begun < 5


def test_deltas_tell_each_value_once_with_its_exemplar() -> None:
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    with GrpcMetricsReceiver() as receiver:
        environ = {**receiver.environ, name: "delta", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        made = pushing(environ)
        made.board.add(M.POOL_BUSY, 1)
        for value in (0.25, 0.75, None):
            if value is not None:
                made.histograms.record(M.PHASE_DURATION, value, (7, 8), "m", "decode")
            made.provider.force_flush()
        pushes = [metrics_of(request) for request in receiver.received.wait(3)]
        made.provider.shutdown(5_000)
    assert M.PHASE_DURATION.name not in pushes[2], "nothing came"
    (first,), (second,) = (p[M.PHASE_DURATION.name].histogram.data_points for p in pushes[:2])
    told = [(p.count, p.sum, p.min, p.max) for p in (first, second)]
    assert told == [(1, 0.25, 0.25, 0.25), (1, 0.75, 0.75, 0.75)]
    assert [[e.as_double for e in p.exemplars] for p in (first, second)] == [[0.25], [0.75]]
    assert second.start_time_unix_nano > first.start_time_unix_nano


def test_cumulative_pushes_tell_an_exemplar_once() -> None:
    with GrpcMetricsReceiver() as receiver:
        made = pushing({**receiver.environ, "OTEL_METRIC_EXPORT_INTERVAL": "3600000"})
        made.board.add(M.POOL_BUSY, 1)
        made.histograms.record(M.STEP_REQUESTS, 3, (7, 8))
        for _ in range(2):
            made.provider.force_flush()
        first, second = receiver.received.wait(2)[:2]
        made.provider.shutdown(5_000)
    for request, exemplars in ((first, 1), (second, 0)):
        (point,) = metrics_of(request)[M.STEP_REQUESTS.name].histogram.data_points
        assert (point.count, point.sum, len(point.exemplars)) == (1, 3.0, exemplars)
