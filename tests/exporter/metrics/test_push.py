"""Metrics over OTLP, to receivers that are none of ours."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest

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
from vllm_codesign.exporter.metrics.instruments import NO_CONTEXT, Instruments
from vllm_codesign.exporter.metrics.push import CountingExporter, make_reader
from vllm_codesign.semconv import metrics as M

RECEIVERS = [GrpcMetricsReceiver, HttpMetricsReceiver]
Receiver = GrpcMetricsReceiver | HttpMetricsReceiver


def instruments_for(
    environ: dict[str, str], timeout_s: float = 5.0
) -> tuple[Board, Instruments, CountingExporter]:
    chosen, problems = push_settings.read(environ)
    assert problems == []
    assert chosen.push is not None
    reader, counted = make_reader(replace(chosen.push, timeout_s=timeout_s))
    board = Board()
    resource = {"service.name": "vllm", **chosen.resource}
    return board, Instruments(board, [reader], resource, chosen.exemplar_filter), counted


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
        board, instruments, _ = instruments_for(environ)
        board.add(M.POOL_BUSY, 1_500_000_000)
        first, *_ = receiver.received.wait(3, timeout=5)
        instruments.shutdown(5)
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
        board, instruments, _ = instruments_for(environ)
        board.add(M.POOL_BUSY, 1)
        instruments.record(M.STEP_DURATION, 0.1, NO_CONTEXT)
        instruments.shutdown(5)
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
        board, instruments, counted = instruments_for(receiver.environ)
        board.add(M.POOL_BUSY, 1)
        deadline = time.monotonic() + 10
        while counted.failed < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        receiver.refuse = False
        receiver.received.wait(1)
        instruments.shutdown(5)
    # Newer pytest also captures loggers that do not propagate.
    said = [r.getMessage() for r in caplog.records if r.name.startswith("vllm_codesign")]
    assert len(said) == 2, said
    assert said[0].startswith("sending metrics to ")
    assert "OTEL_METRICS_EXPORTER=none" in said[0]
    assert said[1].endswith("works again")


def test_an_endpoint_that_hangs_costs_its_timeout_and_no_more() -> None:
    with GrpcMetricsReceiver() as receiver:
        receiver.hang.clear()
        board, instruments, _ = instruments_for(receiver.environ, timeout_s=1)
        board.add(M.POOL_BUSY, 1)
        begun = time.monotonic()
        instruments.shutdown(2)
        assert time.monotonic() - begun < 5
