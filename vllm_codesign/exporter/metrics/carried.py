"""Pushed counters that go on where the exporter before stood.

To the SDK every counter begins with its process: a cumulative one would come with a new start
and an old count, which is to be read as all of it counted again, and a first delta would be all
that there ever was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from opentelemetry.sdk.metrics.export import AggregationTemporality, NumberDataPoint, Sum
from opentelemetry.sdk.metrics.export import Metric as Collected

from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.semconv.metrics import Metric

_Series = tuple[str, frozenset[tuple[str, object]]]


class Carried:
    """Puts right what one pushing reader collects; `board` holds where the counters stand before
    this exporter has counted anything, `since_ns` is the Unix time from which on they count."""

    def __init__(self, board: Board, metrics: Iterable[Metric], since_ns: int) -> None:
        self._since_ns = since_ns
        self._names = frozenset(metric.name for metric in metrics)
        self._before = {
            _series(metric.name, attributes): value
            for metric in metrics
            for attributes, value in board.read(metric)
        }

    def put_right(self, collected: Collected) -> Collected:
        """The same metric, as one that began with the first exporter; any other as it is."""
        data = collected.data
        if collected.name not in self._names or not isinstance(data, Sum):
            return collected
        if data.aggregation_temporality is AggregationTemporality.DELTA:
            points = [self._delta(collected.name, point) for point in data.data_points]
        else:
            points = [replace(p, start_time_unix_nano=self._since_ns) for p in data.data_points]
        return replace(collected, data=replace(data, data_points=points))

    def _delta(self, name: str, point: NumberDataPoint) -> NumberDataPoint:
        """Less what the exporter before had counted, in the first one."""
        before = self._before.pop(_series(name, point.attributes or {}), 0)
        return replace(point, value=point.value - before)


def _series(name: str, attributes: Mapping[str, object]) -> _Series:
    return name, frozenset(attributes.items())
