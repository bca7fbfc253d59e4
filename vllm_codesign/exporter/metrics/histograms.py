"""Histograms, in the SDK's form but counted here.

A request has some two dozen values, and the SDK takes 9 us for each (`benchmarks/metrics.py`
would say as much for metrics as for all else that the exporter does). What readers get are
its own data points.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
)
from opentelemetry.sdk.metrics.export import Metric as Collected

from vllm_codesign.exporter.metrics.board import Values, attributes_of
from vllm_codesign.model.trace import Span
from vllm_codesign.semconv.metrics import METRICS, Metric

EXEMPLAR_FILTERS = ("trace_based", "always_on", "always_off")

Ids = tuple[int, int]
"""Trace and span that a value is of."""


@dataclass(slots=True)
class _Series:
    """Counts since the start; `low` and `high` since a delta was last taken."""

    counts: list[int]
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")
    low: float = float("inf")
    high: float = float("-inf")
    exemplars: dict[int, tuple[float, int, Ids]] = field(default_factory=dict)
    """The last of each bucket: value, Unix time, whose."""


@dataclass(frozen=True, slots=True)
class _Taken:
    counts: list[int]
    sum: float


_Before = dict[tuple[str, Values], _Taken]


class Histograms:
    """The exporter's loop records; readers collect, from threads of their own."""

    def __init__(self, exemplar_filter: str) -> None:
        self._filter = exemplar_filter
        self._lock = threading.Lock()
        self.started_ns = time.time_ns()
        self._metrics = tuple(m for m in METRICS if m.instrument == "histogram")
        self._series: dict[str, dict[Values, _Series]] = {m.name: {} for m in self._metrics}

    def ids(self, root: Span, kept: bool) -> Ids | None:
        """What exemplars of this request point to, None where it shall have none.

        `kept`: its trace can be looked up somewhere, stored or sent; the trace-based filter goes
        by that, so that no exemplar leads nowhere.
        """
        if self._filter == "always_off" or (self._filter == "trace_based" and not kept):
            return None
        return root.trace_id, root.span_id

    def record(
        self, metric: Metric, value: float, ids: Ids | None, *values: str | int | None
    ) -> None:
        """One value, in the metric's unit; `values` are of its attributes."""
        of = self._series[metric.name]
        series = of.get(values)
        if series is None:
            series = of[values] = _Series([0] * (len(metric.buckets) + 1))
        bucket = bisect_left(metric.buckets, value)
        with self._lock:
            series.counts[bucket] += 1
            series.sum += value
            series.low, series.high = min(series.low, value), max(series.high, value)
            if ids is not None:
                series.exemplars[bucket] = value, time.time_ns(), ids

    def cumulative(self, exemplars_since_ns: int = 0) -> Iterator[Collected]:
        """Everything since the start, with the exemplars that are not older than that."""
        now = time.time_ns()
        for metric in self._metrics:
            points = []
            for values, series in list(self._series[metric.name].items()):
                with self._lock:
                    series.min, series.max = (
                        min(series.min, series.low),
                        max(series.max, series.high),
                    )
                    points.append(
                        _point(
                            *(metric, values, series, exemplars_since_ns),
                            *(self.started_ns, now, list(series.counts), series.sum),
                            *(series.min, series.max),
                        )
                    )
            if points:
                yield _collected(metric, points, AggregationTemporality.CUMULATIVE)

    def deltas(self, before: _Before, since_ns: int) -> Iterator[Collected]:
        """What came since `since_ns`; `before` is the reader's, and kept for its next time."""
        now = time.time_ns()
        for metric in self._metrics:
            points = []
            for values, series in list(self._series[metric.name].items()):
                key = metric.name, values
                with self._lock:
                    last = before.get(key) or _Taken([0] * len(series.counts), 0.0)
                    counts = [a - b for a, b in zip(series.counts, last.counts, strict=True)]
                    if not any(counts):
                        continue
                    points.append(
                        _point(
                            *(metric, values, series, since_ns),
                            *(since_ns, now, counts, series.sum - last.sum),
                            *(series.low, series.high),
                        )
                    )
                    before[key] = _Taken(list(series.counts), series.sum)
                    series.min = min(series.min, series.low)
                    series.max = max(series.max, series.high)
                    series.low, series.high = float("inf"), float("-inf")
            if points:
                yield _collected(metric, points, AggregationTemporality.DELTA)


def _point(
    metric: Metric,
    values: Values,
    series: _Series,
    exemplars_since_ns: int,
    start_ns: int,
    now_ns: int,
    counts: list[int],
    total: float,
    low: float,
    high: float,
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes_of(metric, values),
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=sum(counts),
        sum=total,
        bucket_counts=counts,
        explicit_bounds=metric.buckets,
        min=low,
        max=high,
        exemplars=[
            Exemplar({}, value, at, span_id, trace_id)
            for _, (value, at, (trace_id, span_id)) in sorted(series.exemplars.items())
            if at >= exemplars_since_ns
        ],
    )


def _collected(
    metric: Metric, points: list[HistogramDataPoint], temporality: AggregationTemporality
) -> Collected:
    return Collected(metric.name, metric.brief, metric.unit, Histogram(points, temporality))


class Pushed:
    """Histograms as one pushing reader wants them, time after time."""

    def __init__(self, histograms: Histograms, temporality: AggregationTemporality) -> None:
        self._histograms = histograms
        self._temporality = temporality
        self._before: _Before = {}
        self._since_ns = histograms.started_ns

    def collect(self) -> list[Collected]:
        """What the next push tells."""
        since, self._since_ns = self._since_ns, time.time_ns()
        if self._temporality is AggregationTemporality.DELTA:
            return list(self._histograms.deltas(self._before, since))
        return list(self._histograms.cumulative(exemplars_since_ns=since))
