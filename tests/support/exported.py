"""What `/metrics` of the exporter says, read by Prometheus' own parser."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from vllm_codesign.semconv.metrics import Metric, prometheus_name

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@dataclass
class Exported:
    """Families by name."""

    families: dict[str, Family]

    def value(self, metric: Metric, suffix: str = "", **labels: str) -> float:
        """Sum over all series that have these labels; 0 where there is none."""
        return sum(self.by_labels(metric, suffix, **labels))

    def by_labels(self, metric: Metric, suffix: str = "", **labels: str) -> list[float]:
        name = prometheus_name(metric)
        family = self.families.get(name.removesuffix("_total"))
        return [
            sample.value
            for sample in (family.samples if family else ())
            if sample.name == name + suffix
            and all(sample.labels.get(key) == value for key, value in labels.items())
        ]

    def by(self, metric: Metric, label: str, suffix: str = "") -> dict[str, float]:
        """Sums by the values of one label."""
        name = prometheus_name(metric)
        found: dict[str, float] = {}
        for sample in self.families[name.removesuffix("_total")].samples:
            if sample.name == name + suffix:
                key = sample.labels.get(label, "")
                found[key] = found.get(key, 0.0) + sample.value
        return found

    def exemplars(self, metric: Metric) -> list[Exemplar]:
        family = self.families[prometheus_name(metric)]
        return [sample.exemplar for sample in family.samples if sample.exemplar is not None]


def read_exported(url: str) -> Exported:
    request = urllib.request.Request(url, headers={"Accept": OPENMETRICS})
    with urllib.request.urlopen(request, timeout=10) as response:
        return parse(response.read().decode())


def parse(text: str) -> Exported:
    return Exported({family.name: family for family in text_string_to_metric_families(text)})
