"""Every series that may be asked for, with its labels: ours from semconv, vLLM's as recorded."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards import vllm_metrics
from dashboards.promql import groupings, selectors
from vllm_codesign.semconv.metrics import (
    CONSTANT,
    METRICS,
    Metric,
    prometheus_label,
    prometheus_name,
)

SCRAPED = frozenset(("job", "instance"))
"""What Prometheus itself puts on every series."""
_SUFFIXES = ("_bucket", "_sum", "_count")


def series() -> dict[str, frozenset[str]]:
    """Name of a series to its labels."""
    found: dict[str, frozenset[str]] = {"up": SCRAPED}
    for metric in METRICS:
        labels = {prometheus_label(a) for a in (*metric.attributes, *CONSTANT)} | SCRAPED
        found |= _of(prometheus_name(metric), _is_histogram(metric), labels)
    for recorded in vllm_metrics.RECORDED.values():
        labels = set(recorded.labels) | SCRAPED
        found |= _of(recorded.name, recorded.type == "histogram", labels)
    return found


def problems(expression: str, known: dict[str, frozenset[str]]) -> list[str]:
    """One line for each metric and label in a PromQL expression that does not exist."""
    found = []
    for selector in selectors(expression):
        if selector.metric not in known:
            found.append(f"no metric {selector.metric or '(unnamed)'}")
            continue
        labels = {label for label, _, _ in selector.matchers}
        found += _missing(selector.metric, labels, known)
    for grouping in groupings(expression):
        for metric in grouping.metrics:
            if metric in known:
                found += _missing(metric, grouping.labels, known)
    return found


def _missing(metric: str, labels: Iterable[str], known: dict[str, frozenset[str]]) -> list[str]:
    return [f"{metric} has no label {label}" for label in sorted(set(labels) - known[metric])]


def _of(name: str, histogram: bool, labels: set[str]) -> dict[str, frozenset[str]]:
    if not histogram:
        return {name: frozenset(labels)}
    more = {"_bucket": labels | {"le"}}
    return {name + suffix: frozenset(more.get(suffix, labels)) for suffix in _SUFFIXES}


def _is_histogram(metric: Metric) -> bool:
    return metric.instrument == "histogram"
