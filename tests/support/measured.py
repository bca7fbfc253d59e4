"""Metrics without an exporter around them: a board, instruments, and what `/metrics` would say."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.exported import OPENMETRICS, Exported, parse
from vllm_codesign.exporter.metrics.board import Board
from vllm_codesign.exporter.metrics.histograms import Histograms
from vllm_codesign.exporter.metrics.instruments import provide
from vllm_codesign.exporter.metrics.prometheus import PrometheusReader

LABELS = {"service_name": "vllm", "service_instance_id": "run-1", "codesign_arm": "hbm"}


@dataclass
class Measured:
    board: Board
    histograms: Histograms
    reader: PrometheusReader

    def text(self) -> str:
        return self.reader.render(OPENMETRICS)[0].decode()

    def exported(self) -> Exported:
        return parse(self.text())


def measured(exemplar_filter: str = "trace_based") -> Measured:
    board, histograms = Board(), Histograms(exemplar_filter)
    reader = PrometheusReader(LABELS, histograms)
    provide(board, [reader], {"service.name": "vllm"})
    return Measured(board, histograms, reader)
