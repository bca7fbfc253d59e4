"""Sums and latest values, by metric and attributes.

The exporter's loop writes, the SDK's readers look from their threads. Adding here takes a
tenth of what the SDK takes for it; the SDK asks when somebody collects.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_codesign.semconv.metrics import METRICS, Metric

Values = tuple[str | int | None, ...]
"""Of a metric's attributes, in their order; None leaves one out."""

_IN_NS = ("s", "By.s")


class Board:
    """Counters whose unit holds seconds take nanoseconds: integers add up exactly."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Values, float]] = {metric.name: {} for metric in METRICS}

    def add(self, metric: Metric, amount: int, *values: str | int | None) -> None:
        """To a counter."""
        of = self._values[metric.name]
        of[values] = of.get(values, 0) + amount

    def put(self, metric: Metric, value: float, *values: str | int | None) -> None:
        """A gauge's value, in its unit; or what a counter that is kept elsewhere stands at."""
        self._values[metric.name][values] = value

    def put_all(self, metric: Metric, values: dict[Values, float]) -> None:
        """All series of a gauge: those that are not named are gone."""
        self._values[metric.name] = values

    def read(self, metric: Metric) -> Iterator[tuple[dict[str, str | int], float]]:
        """Attributes and value of each series, in the metric's unit."""
        in_ns = metric.instrument == "counter" and metric.unit in _IN_NS
        # A copy in one go, which no other thread can come between.
        for values, value in list(self._values[metric.name].items()):
            yield attributes_of(metric, values), value / 1e9 if in_ns else value


def attributes_of(metric: Metric, values: Values) -> dict[str, str | int]:
    """The attributes that have a value, by their keys."""
    return {
        attribute.key: value
        for attribute, value in zip(metric.attributes, values, strict=True)
        if value is not None
    }
