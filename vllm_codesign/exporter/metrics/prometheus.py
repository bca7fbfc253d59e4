"""What the SDK collects, in Prometheus' formats, with exemplars where the format has them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from opentelemetry.sdk.metrics.export import (
    Histogram,
    HistogramDataPoint,
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.metrics.export import Metric as Collected
from opentelemetry.util.types import Attributes
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.semconv.metrics import METRICS, prometheus_name

_BY_NAME = {metric.name: metric for metric in METRICS}
Labels = dict[str, str]


class PrometheusReader(MetricReader):
    """Always cumulative. `constant` are labels of every series.

    The last exemplar of each bucket stays: who looks second sees it too.
    """

    def __init__(self, constant: Mapping[str, str], histograms: Histograms) -> None:
        super().__init__()
        self._constant = dict(constant)
        self._histograms = histograms
        self._lock = threading.Lock()
        self._data: MetricsData | None = None

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
    ) -> None:
        self._data = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """Nothing is open here."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """Everything as it stands, and its content type, as the `Accept` header wants it."""
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it asks for a version that is none
            encoder, content_type = choose_encoder("")
        return encoder(_Collector(self.families())), content_type

    def families(self) -> list[Family]:
        """Collected now; one caller at a time."""
        with self._lock:
            self._data = None
            self.collect()
            data: MetricsData | None = self._data
            summed = [
                metric
                for resource in (data.resource_metrics if data is not None else ())
                for scope in resource.scope_metrics
                for metric in scope.metrics
            ]
            return [self._family(metric) for metric in (*self._histograms.cumulative(), *summed)]

    def _family(self, collected: Collected) -> Family:
        metric = _BY_NAME[collected.name]
        name = prometheus_name(metric).removesuffix("_total")
        family = Family(name, metric.brief, metric.instrument)
        if isinstance(collected.data, Histogram):
            for point in collected.data.data_points:
                self._histogram(family, point)
            return family
        full = prometheus_name(metric)
        for number in collected.data.data_points:
            family.add_sample(full, self._labels(number.attributes), number.value)  # type: ignore[union-attr]
        return family

    def _histogram(self, family: Family, point: HistogramDataPoint) -> None:
        labels = self._labels(point.attributes)
        exemplars = dict(_exemplars(point))
        bounds = [*map(floatToGoString, point.explicit_bounds), "+Inf"]
        for number, (bound, count) in enumerate(
            zip(bounds, accumulate(point.bucket_counts), strict=True)
        ):
            family.add_sample(
                f"{family.name}_bucket",
                {**labels, "le": bound},
                count,
                exemplar=exemplars.get(number),
            )
        family.add_sample(f"{family.name}_count", labels, point.count)
        family.add_sample(f"{family.name}_sum", labels, point.sum)

    def _labels(self, attributes: Attributes) -> Labels:
        own = {key.replace(".", "_"): str(value) for key, value in (attributes or {}).items()}
        return {**own, **self._constant}


def _exemplars(point: HistogramDataPoint) -> Iterator[tuple[int, Exemplar]]:
    """By bucket."""
    for each in point.exemplars:
        ids = {"trace_id": f"{each.trace_id:032x}", "span_id": f"{each.span_id:016x}"}
        bucket = bisect_left(point.explicit_bounds, each.value)
        yield bucket, Exemplar(ids, each.value, each.time_unix_nano / 1e9)


class _Collector:
    """What the exposition takes for a registry."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families
