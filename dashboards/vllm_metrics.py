"""vLLM's own metrics, as `record_vllm_metrics.py` found them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECORD = Path(__file__).with_name("vllm_metrics.tsv")


@dataclass(frozen=True, slots=True)
class VllmMetric:
    """One metric: its name on `/metrics`, its type there, the labels it was seen with."""

    name: str
    type: str
    labels: frozenset[str]


def read(record: Path = RECORD) -> dict[str, VllmMetric]:
    """Name to metric."""
    found = {}
    for line in record.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, kind, labels = line.split("\t")
        found[name] = VllmMetric(name, kind, frozenset(labels.split(",")) - {""})
    return found


RECORDED = read()
