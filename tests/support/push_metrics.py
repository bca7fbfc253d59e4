"""Pushes one fixed request's metrics to a receiver: for tests against a real Collector.

    python -m tests.support.push_metrics ENDPOINT [grpc|http/protobuf]

Prints what must arrive, as JSON: `name`, `count` and `sum` of each histogram, and the ids of
their exemplars.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from tests.exporter.records import SPAN, TRACE, api_records, engine_records, the_trace
from vllm_codesign.exporter.metrics import push_settings
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.carried import Carried
from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.exporter.metrics.instruments import provide
from vllm_codesign.exporter.metrics.push import make_reader
from vllm_codesign.exporter.metrics.requests import RequestMetrics
from vllm_codesign.semconv import metrics as M


def push(endpoint: str, protocol: str) -> dict[str, object]:
    """Push and return what must arrive; AssertionError where the receiver did not take it."""
    environ = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": protocol,
        "OTEL_RESOURCE_ATTRIBUTES": "codesign.arm=pushed",
    }
    chosen, problems = push_settings.read(environ)
    assert not problems, problems
    assert chosen.push is not None
    histograms = Histograms(chosen.exemplar_filter)
    board = Board()
    every_hour = replace(chosen.push, interval_ms=3_600_000)
    reader, counted = make_reader(every_hour, histograms, Carried(board, (), 0))
    resource = {"service.name": "vllm", **chosen.resource}
    provider = provide(board, [reader], resource)
    trace = the_trace(api_records(), engine_records())
    RequestMetrics(board, histograms).take(trace, kept=True)
    provider.shutdown(10_000)
    assert counted.failed == 0, f"{endpoint} did not take the metrics"
    return {
        "name": M.REQUEST_DURATION.name,
        "count": 1,
        "sum": trace.root.duration_ns / 1e9,
        "trace_id": f"{TRACE:032x}",
        "span_id": f"{SPAN:016x}",
    }


if __name__ == "__main__":
    print(json.dumps(push(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "grpc")))
